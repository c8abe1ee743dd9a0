"""Ratchet decides here: the loop, the ledger, the job file. No torch, no vLLM, no DeepSpeed."""

__version__ = "0.1.0"
