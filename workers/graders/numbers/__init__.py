"""Numbers as people write them: figures, words, units, remarks."""
