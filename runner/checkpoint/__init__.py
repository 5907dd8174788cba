"""A whole training state, saved and found again."""
