"""The data of a training: batches in an order that can be sought, and where a training stands."""

from runner.training.data.batches import Batches, Held

__all__ = ["Batches", "Held"]
