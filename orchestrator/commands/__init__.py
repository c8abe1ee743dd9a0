"""The commands beside `run` and `resume`, each in a file or a room of its own."""
