"""The ledger, told to MLflow."""
