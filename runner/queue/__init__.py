"""Which worker runs which job: the protocol over a store, and nothing of training."""
