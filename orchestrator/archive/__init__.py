"""A run's archive: a copy of what is committed at any address that fsspec knows, sent while the run goes on, and
fetched on a machine that never saw it. It is a view of the ledger, and nothing is decided by it."""
