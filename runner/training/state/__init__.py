"""The state of a training: how it is found, captured, restored, and what of it can't be saved."""
