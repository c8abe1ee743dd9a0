"""`ratchet compare`."""
