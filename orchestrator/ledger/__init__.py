"""What a run has done: the ledger, what it commits, fingerprints, and `step`, the mechanism behind resume."""
