"""`ratchet fork`."""
