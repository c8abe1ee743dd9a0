"""Reward models: texts in, numbers out, shard by shard, in processes that are replaced when they die or hang."""
