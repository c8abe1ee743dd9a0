"""Sampling with a pool of engines: dispatch, the engines' places, whose prompt takes one down, a shard."""
