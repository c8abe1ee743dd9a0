"""The ways to get pairs."""
