"""Texts to tokens and back: prompts, preference data, where tokens end, and what it all will look like."""
