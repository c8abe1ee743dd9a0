"""What a run has in it, found again by round, verdict, problem, pair and checkpoint: samples with their verdicts,
problems that flipped, why a pair exists, what a checkpoint comes from."""
