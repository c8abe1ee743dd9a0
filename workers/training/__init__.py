"""Training on a group of DeepSpeed ranks: the driver's side, a rank, saved states, exports."""
