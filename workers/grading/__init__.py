"""Grading beside the engines: an actor with a pool of processes that can be killed."""
