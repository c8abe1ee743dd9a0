"""Ratchet decides here: the loop, the ledger, the job file. No torch, no engine, no DeepSpeed."""

__version__ = "0.1.0"
