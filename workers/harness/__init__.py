"""Tasks of lm-evaluation-harness: in a process of their own, which asks the run's engines for what they need."""
