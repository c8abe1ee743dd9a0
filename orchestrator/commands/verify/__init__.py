"""`ratchet verify`."""
