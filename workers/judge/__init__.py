"""A model behind an endpoint that is asked for verdicts, and its cache."""
