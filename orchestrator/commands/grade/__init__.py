"""`ratchet grade`."""
