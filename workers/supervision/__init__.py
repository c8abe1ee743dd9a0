"""Watching workers: how long they are without progress, and why one was lost."""
