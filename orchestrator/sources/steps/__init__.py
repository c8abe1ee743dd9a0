"""Pairs of single reasoning steps (Step-DPO, arXiv 2406.18629)."""
