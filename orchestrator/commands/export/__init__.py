"""`ratchet export`: what a run has made, taken away: a checkpoint with its model card, or its pairs as a data set."""
