"""The models that a job names: found, checked, fingerprinted."""
