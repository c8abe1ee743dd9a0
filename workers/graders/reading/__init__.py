"""What the graders share: one spelling, and the options of multiple choice."""
