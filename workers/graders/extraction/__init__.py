"""Where in a completion the answer is, and what of the text there."""
