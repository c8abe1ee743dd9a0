"""What a run is and has done, read from its ledger and files."""
