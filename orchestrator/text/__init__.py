"""Text as it is shown, and the one place that prints."""
