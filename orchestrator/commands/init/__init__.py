"""`ratchet init`: from one's own data and model to a job file that can be run."""
