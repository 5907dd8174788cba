"""Where in the data a training stands, for every kind of data that fit takes.

Batches can be sought exactly. Arrays in memory become `Batches`, in an order of their own that
a resume repeats. A tf.data pipeline that gives the same batches in every process is skipped
through. For anything else we say once, clearly, what can't be vouched for, and resume at an
epoch's beginning.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import keras
import numpy as np

from runner.errors import TrainingError
from runner.training import backends, private
from runner.training.data import Batches
from runner.training.private import Fit


class Source(Protocol):
    """The training data of one fit."""

    mid_epoch: bool  #: a position within an epoch can be found again

    def seek(self, epoch: int, step: int) -> None:
        """Let the epoch that begins now begin at this step."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what of the data decides over bits, and is cheap to know."""

    def to_json(self) -> Any:
        """Return what a resume has to know."""

    def from_json(self, saved: Any) -> None:
        """Take over what was saved, before the first seek."""


def source_of(model: Any, fit: Fit, *, warn: Callable[[str], None]) -> Source:
    """Return the source for the data that fit was given."""
    adapter = fit.epoch_iterator.data_adapter
    if isinstance(adapter, Batches):
        if fit.class_weight is not None:
            raise TrainingError(
                "fit(class_weight=...) has no effect on Batches: give class_weight to Batches."
            )
        return _Seekable(adapter)
    if isinstance(adapter, private.ArrayDataAdapter) and _is_simple(fit):
        return _arrays(model, fit)
    if isinstance(adapter, private.TFDatasetAdapter):
        reason = _doubt(fit)
        if reason is None:
            return _Skipped(model, fit)
        return _EpochsOnly("tf.data pipeline", reason, warn)
    return _EpochsOnly(_kind(adapter), "only its own code knows where it stands", warn)


def _is_simple(fit: Fit) -> bool:
    return not fit.steps_per_epoch and fit.shuffle in (True, False, None)


def _doubt(fit: Fit) -> str | None:
    if not hasattr(fit.x, "_inputs"):
        return "it is distributed already"
    if fit.steps_per_epoch and fit.epoch_iterator.data_adapter.num_batches is not None:
        return "with steps_per_epoch it must be endless: add .repeat()"
    return backends.current().doubt(fit.x)


def _kind(adapter: Any) -> str:
    return type(adapter).__name__.removesuffix("DataAdapter").removesuffix("Adapter")


class _Seekable:
    """Our own data."""

    mid_epoch = True

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def seek(self, epoch: int, step: int) -> None:
        self._batches.seek(epoch, step)

    def fingerprint(self) -> dict[str, Any]:
        batches = self._batches
        order = f"seed {batches.seed}" if batches.shuffle else "in order"
        amount = f"{batches.examples} examples x {batches.repeat}"
        return {
            "data": f"{amount}, batches of {batches.batch_size}, {order}",
            "data_content": batches.content(),
        }

    def to_json(self) -> Any:
        return None

    def from_json(self, saved: Any) -> None:
        pass


class _Arrays(_Seekable):
    """Arrays that fit was given, put in our own order; its seed travels in the checkpoints."""

    def fingerprint(self) -> dict[str, Any]:
        batches = self._batches
        order = "shuffled" if batches.shuffle else "in order"
        return {
            "data": f"{batches.examples} examples, batches of {batches.batch_size}, {order}",
            "data_content": batches.content(),
        }

    def to_json(self) -> Any:
        return {"seed": self._batches.seed}

    def from_json(self, saved: Any) -> None:
        if saved:
            self._batches.seed = int(saved["seed"])


def _arrays(model: Any, fit: Fit) -> Source:
    def plain(array: Any) -> Any:
        array = np.asarray(array)
        return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array

    batches = Batches(
        keras.tree.map_structure(plain, fit.x),
        None if fit.y is None else keras.tree.map_structure(plain, fit.y),
        batch_size=fit.batch_size or 32,
        seed=_seed(),
        shuffle=bool(fit.shuffle),
        sample_weight=None
        if fit.sample_weight is None
        else keras.tree.map_structure(plain, fit.sample_weight),
        class_weight=fit.class_weight,
    )
    backends.current().replace_data(model, fit, batches)
    return _Arrays(batches)


def _seed() -> int:
    """The seed that the program gave to Keras, else a new one; without drawing from any."""
    seed = private.get_random_seed()
    return int(seed) if seed is not None else int.from_bytes(os.urandom(4))


class _Skipped:
    """A tf.data pipeline that repeats itself: its beginning is skipped after a resume."""

    mid_epoch = True

    def __init__(self, model: Any, fit: Fit) -> None:
        from runner.training import pipelines
        from runner.training.backends.tensorflow import replace_dataset

        self._replace = partial(replace_dataset, model, fit)
        self._fit = fit
        self._whole = fit.epoch_iterator.data_adapter.get_tf_dataset()
        self._order = pipelines.order(self._whole)
        self._skipping = False
        self._first = True

    def seek(self, epoch: int, step: int) -> None:
        if self._skipping:  # the epoch after the first: from its beginning
            self._replace(self._whole)
            self._skipping = False
        steps = step
        if self._first and self._fit.steps_per_epoch:  # one iterator goes on through all epochs
            steps += (epoch - self._fit.initial_epoch) * self._fit.steps_per_epoch
        self._first = False
        if steps:
            self._replace(self._whole.skip(steps))
            self._skipping = True

    def fingerprint(self) -> dict[str, Any]:
        steps = f"tf.data pipeline of {self._fit.steps or 'unknown many'} steps"
        return {"data": ", ".join(filter(None, [steps, self._order]))}

    def to_json(self) -> Any:
        return None

    def from_json(self, saved: Any) -> None:
        pass


class _EpochsOnly:
    """Data whose place within an epoch, or whose order, nobody can find again."""

    mid_epoch = False

    def __init__(self, kind: str, reason: str, warn: Callable[[str], None]) -> None:
        self._kind = kind
        warn(
            f"a resume with this data ({kind}) is not exact: {reason}. It begins at the last "
            "saved end of an epoch. Use runner.Batches to resume at any step, bit for bit."
        )

    def seek(self, epoch: int, step: int) -> None:
        if step:
            raise TrainingError(
                f"the checkpoint is within epoch {epoch}, and this data ({self._kind}) can't be "
                f"sought to step {step}. Give the data in the form in which it was saved."
            )

    def fingerprint(self) -> dict[str, Any]:
        return {"data": self._kind}

    def to_json(self) -> Any:
        return None

    def from_json(self, saved: Any) -> None:
        pass
