"""A round, step by step: sampling, verdicts, pairs, training, evaluation, the gate."""
