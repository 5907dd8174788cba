"""A fit that somebody else has called, found in the frames above a callback.

Only the drop-in needs this. `self_test` reports at the start, not after hours, if a version of
Keras works differently.
"""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import keras

from runner.errors import TrainingError
from runner.training import private

_LOCALS = ("callbacks", "epoch_iterator", "epochs", "x", "y", "sample_weight", "class_weight")
_DEPTH = 12  # frames between one of our hooks and fit: some for wrappers of the user's


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a running `model.fit` works with; see `fit.Fit`."""

    model: Any
    callbacks: Any  #: its list
    epoch_iterator: Any  #: yields (first step, last step, data); holds the data adapter
    epochs: int
    initial_epoch: int
    x: Any
    y: Any
    sample_weight: Any
    class_weight: Any
    batch_size: int | None
    shuffle: Any
    steps_per_epoch: int | None
    validation: Any = None  #: what it is validated on: arrays, or anything else that fit takes

    @property
    def steps(self) -> int | None:
        """Steps of an epoch, or None where nobody knows yet."""
        steps: int | None = self.epoch_iterator.num_batches
        return steps

    def dataset(self) -> Any:
        """Return the tf.data pipeline that it iterates over, if it is one."""
        return _dataset(self.epoch_iterator)

    def validation_dataset(self) -> Any:
        """Return the one of the validation that is running."""
        return _dataset(_evaluation())

    def validation_is_plain(self) -> bool:
        """Return whether its data are arrays or a pipeline: no Python code gives a batch."""
        adapter = getattr(_evaluation(), "data_adapter", None)
        plain = (private.ArrayDataAdapter, private.TFDatasetAdapter)
        return isinstance(adapter, plain) or type(adapter).__module__.startswith("runner.")

    def begin_at(self, epoch: int | None) -> None:
        """Let it begin at this epoch (counted from 0); None: as its arguments say."""
        self.model._initial_epoch = None if epoch is None else _Epoch(epoch)

    def is_calling(self) -> bool:
        """Return whether it is what calls our caller."""
        return sys._getframe(2).f_locals.get("callbacks") is self.callbacks


class _Epoch(int):
    """Counts for fit, which takes `_initial_epoch or initial_epoch`, also if it is the first."""

    def __bool__(self) -> bool:
        return True


def _dataset(epoch_iterator: Any) -> Any:
    return getattr(epoch_iterator, "_distributed_dataset", None)


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def callback_list_above(callback: Any) -> Any:
    """Return the keras CallbackList that is calling into `callback` right now, or None."""
    for frame in _frames():
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList) and callback in owner.callbacks:
            return owner
    return None


def fit_in_progress(callbacks: Any) -> Fit:
    """Return what the `fit` that is calling this callback list works with.

    Raises:
        TrainingError: no `fit` is calling.
    """
    for frame in _frames():
        names = frame.f_locals
        if frame.f_code.co_name != "fit" or names.get("callbacks") is not callbacks:
            continue
        if all(name in names for name in _LOCALS):
            same = ("epoch_iterator", "x", "y", "sample_weight", "class_weight")
            return Fit(
                model=names["self"],
                callbacks=callbacks,
                epochs=int(names["epochs"]),
                initial_epoch=int(names.get("initial_epoch") or 0),
                batch_size=names.get("batch_size"),
                shuffle=names.get("shuffle"),
                steps_per_epoch=names.get("steps_per_epoch"),
                validation=names.get("val_x"),
                **{name: names[name] for name in same},
            )
    raise TrainingError(
        "BackupAndRestore found no keras model.fit above it. It works with the fit of Keras's own "
        "models; a fit of your own must call Keras's (override train_step instead)."
    )


def _evaluation() -> Any:
    """Return the data of the `evaluate` that is calling into a callback list right now, or None."""
    for frame in _frames():
        if frame.f_code.co_name == "evaluate" and "epoch_iterator" in frame.f_locals:
            return frame.f_locals["epoch_iterator"]
    return None


def _code_of_fit() -> CodeType | None:
    """Return Keras's own fit, also where a library has put a function around it."""
    for frame in _frames():
        module = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name == "fit" and module.startswith("keras.src.backend."):
            return frame.f_code
    return getattr(inspect.unwrap(keras.Model.fit), "__code__", None)


def self_test() -> None:
    """Check that this Keras's fit has what this module looks for.

    Raises:
        TrainingError: it has not; says what is missing.
    """
    code = _code_of_fit()
    names = (*code.co_varnames, *code.co_cellvars, *code.co_names) if code else ()
    known = (*_LOCALS, "_initial_epoch")
    private.refuse([f"'{name}' in Model.fit" for name in known if name not in names])
