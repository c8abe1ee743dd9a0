"""`ratchet doctor`."""
