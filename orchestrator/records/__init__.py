"""What crosses the boundary between driver and workers: rows, figures, and how both write a gold answer."""
