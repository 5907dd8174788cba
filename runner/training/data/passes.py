"""Sources of training data whose epochs are passes: the place in one is counted, or saved.

PyDatasets and grain's data are here, which have means of their own to be sought by.
"""

import os
from collections.abc import Callable
from typing import Any

from runner.checkpoint.manifest import Position
from runner.checkpoint.plain import NotPlainError, decode_leaf, encode_leaf
from runner.training import backends, private
from runner.training.data import python
from runner.training.frames import Fit


class Source:
    """The training data of one fit."""

    mid_epoch = True  #: a position within an epoch can be found again
    #: examples of an epoch and of a full step, where they are ours to count; their order depends
    #: on no batch
    examples: int | None = None
    batch_size: int | None = None

    def seek(self, epoch: int, step: int) -> None:
        """Let the epoch that begins now begin at this step."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """Return what of the data decides over bits, and is cheap to know."""
        raise NotImplementedError

    def variables(self) -> list[Any]:
        """Return the variables that decide over the batches, always in the same order."""
        return []

    def to_json(self, position: Position) -> Any:  # noqa: ARG002 - for those that it matters to
        """Return what a resume at this position has to know."""
        return None

    def from_json(self, saved: Any) -> None:
        """Take over what was saved, before the first seek."""


def seed() -> int:
    """Return the seed that the program gave to Keras, else a new one, without drawing from any."""
    given = private.get_random_seed()
    return int(given) if given is not None else int.from_bytes(os.urandom(4))


class Passes(Source):
    """Data of which each epoch is a pass, or with `steps_per_epoch` all epochs are one.

    What was taken of the one pass is counted from the epoch that the training began with, in
    whichever attempt that was, and with the steps that each attempt's epochs had.
    """

    def __init__(self, fit: Fit, *, one_pass: bool = True) -> None:
        self._steps = fit.epoch_iterator.steps_per_epoch or 0 if one_pass else 0  #: of one pass
        self._counted = {"epoch": fit.initial_epoch, "taken": 0, "steps": self._steps}
        self._first = True

    def _start(self, epoch: int, step: int) -> int:
        """Return at which batch of a pass an epoch begins, if a new pass begins with it."""
        first, self._first = self._first, False
        if first:
            counted = self._counted
            taken = counted["taken"] + (epoch - counted["epoch"]) * counted["steps"]
            self._counted = {"epoch": epoch, "taken": taken, "steps": self._steps}
            step += taken
        return step

    def _taken(self, position: Position) -> int:
        """Return how many batches of the running pass were taken at a position."""
        counted = self._counted
        past = position.epoch - counted["epoch"]
        return counted["taken"] + past * counted["steps"] + position.step

    def to_json(self, position: Position) -> Any:  # noqa: ARG002 - for those that it matters to
        """Return how the batches of the one pass are counted."""
        return self._counted if self._steps else None

    def from_json(self, saved: Any) -> None:
        """Count on."""
        self._first = True  # whatever was read to build the model
        if saved and self._steps and self._counted.keys() <= saved.keys():
            self._counted = {name: int(saved[name]) for name in self._counted}


class Indexed(Passes):
    """A PyDataset: its batches have numbers, so each place is reached at once."""

    def __init__(self, fit: Fit) -> None:
        adapter, self._data = fit.epoch_iterator.data_adapter, fit.x
        super().__init__(fit, one_pass=self._data.num_batches is None)
        self._batches = python.InOrder(self._data, seed=seed(), shuffle=bool(fit.shuffle))
        private.exchange(adapter, self._batches)

    def seek(self, epoch: int, step: int) -> None:
        """Let the dataset's next pass begin there, if one begins."""
        first = self._first
        start = self._start(epoch, step)
        if first or not self._steps:
            self._batches.seek(epoch, start, begun=step > 0)

    def fingerprint(self) -> dict[str, Any]:
        """Return what there is, and in which order."""
        count, shuffled = self._data.num_batches, self._batches.shuffle
        order = "shuffled" if count is not None and shuffled else "in order"
        kind, amount = type(self._data).__name__, "endless" if count is None else f"{count} batches"
        return {"data": f"{kind}, {amount}, {order}"}

    def to_json(self, position: Position) -> Any:
        """Return the seed of the order as well."""
        return {"seed": self._batches.seed} | (super().to_json(position) or {})

    def from_json(self, saved: Any) -> None:
        """Go on in the same order."""
        super().from_json(saved)
        self._batches.seed = int((saved or {}).get("seed", self._batches.seed))


class Iterated(Passes):
    """grain's data: its iterator's own state is saved, and set."""

    def __init__(self, model: Any, fit: Fit, warn: Callable[[str], None]) -> None:
        super().__init__(fit)
        adapter = fit.epoch_iterator.data_adapter
        self._kind = type(fit.x).__name__
        self._followed = python.Followed(fit.x, warn, needed=fit.epochs * self._steps)
        adapter._dataset = self._followed.dataset()
        backends.current().replace_data(model, fit, adapter)
        self._saved: Any = None

    def seek(self, epoch: int, step: int) -> None:
        """Let the next iterator begin there."""
        if self._steps and not self._first:
            return  # the pass goes on
        saved, self._saved = self._saved, None
        taken = self._start(epoch, step)
        state = saved["state"] if saved and saved["at"] == taken else None
        self._followed.seek(taken, state)

    def fingerprint(self) -> dict[str, Any]:
        """Return the kind of the data."""
        return {"data": f"grain {self._kind}"}

    def to_json(self, position: Position) -> Any:
        """Return the iterator's state after the batches that were taken."""
        taken = self._taken(position)
        try:
            state = encode_leaf(self._followed.state(taken), "") if taken else None
        except NotPlainError:  # the batches before it are read again
            state = None
        return {"at": taken, "state": state} | (super().to_json(position) or {})

    def from_json(self, saved: Any) -> None:
        """Hold the state for the first iterator."""
        super().from_json(saved)
        if saved and saved.get("state") is not None:
            self._saved = {"at": int(saved["at"]), "state": decode_leaf(saved["state"])}
