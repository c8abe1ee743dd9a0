"""The mathematics of training: packs of trees, log-probabilities, losses, one update. Imports torch and numpy alone."""
