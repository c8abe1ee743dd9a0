"""Ratchet works here: everything heavy, everything that may touch an accelerator."""
