"""Where in the data a training stands, for every kind of data that fit takes.

Batches can be sought exactly. Arrays in memory, of whatever kind, get an order of their own that
a resume repeats. A tf.data pipeline that gives the same batches in every process is skipped
through. For anything else we say once, clearly, what can't be vouched for, and resume at an
epoch's beginning. Likewise for validation data that may be others in each pass.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from runner.errors import TrainingError
from runner.training import backends, private
from runner.training.data.arrays import FitArrays
from runner.training.data.batches import Batches, Ordered
from runner.training.frames import Fit

Warn = Callable[[str], None]


class Source(Protocol):
    """The training data of one fit."""

    mid_epoch: bool  #: a position within an epoch can be found again

    @property
    def examples(self) -> int | None:
        """Examples of an epoch, where they are ours to count; their order depends on no batch."""
        return None

    @property
    def batch_size(self) -> int | None:
        """Examples of a full step, likewise."""
        return None

    def seek(self, epoch: int, step: int) -> None:
        """Let the epoch that begins now begin at this step."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what of the data decides over bits, and is cheap to know."""

    def variables(self) -> list[Any]:
        """Return the variables that decide over the batches, always in the same order."""
        return []

    def to_json(self) -> Any:
        """Return what a resume has to know."""
        return None

    def from_json(self, saved: Any) -> None:  # noqa: ARG002 - most need nothing
        """Take over what was saved, before the first seek."""
        return


def of_batches(batches: Ordered) -> Source:
    """Return the source for our own data."""
    return _Seekable(batches)


def source_of(model: Any, fit: Fit, *, warn: Warn) -> Source:
    """Return the source for the data that fit was given."""
    adapter = fit.epoch_iterator.data_adapter
    if isinstance(adapter, Batches):
        if fit.class_weight is not None:
            raise TrainingError(
                "fit(class_weight=...) has no effect on Batches: give class_weight to Batches."
            )
        return of_batches(adapter)
    if isinstance(adapter, private.ArrayDataAdapter):
        reason = _keras_s_own_order(fit)
        return _EpochsOnly("arrays", reason, warn) if reason else _arrays(model, fit)
    if isinstance(adapter, private.TFDatasetAdapter):
        reason = _doubt(fit)
        if reason is None:
            return _Skipped(model, fit, warn)
        return _EpochsOnly("tf.data pipeline", reason, warn, variables=_captured(fit.x))
    return _EpochsOnly(_kind(adapter), "only its own code knows where it stands", warn)


def _keras_s_own_order(fit: Fit) -> str | None:
    """Return why arrays are left in the order that Keras gives them; None if they are not."""
    if fit.shuffle not in (True, False, None):
        return f"shuffle={fit.shuffle!r} is an order of Keras's own; use True or False"
    steps, whole = fit.epoch_iterator.steps_per_epoch, fit.epoch_iterator.data_adapter.num_batches
    if steps and steps < whole:
        return (
            f"with steps_per_epoch={steps} an epoch ends within the arrays, which are {whole} "
            "steps; leave it out"
        )
    return None


def check_validation(fit: Fit, *, warn: Warn) -> list[Any]:
    """Say once why a validation may have other results after a resume.

    Returns:
        The variables that decide over the validation data.
    """
    data = fit.validation
    reason = _validation_doubt(data)
    if reason:
        warn(
            f"a validation after a resume is not exact: the data ({_name(data)}) may be others in "
            f"each pass, {reason}. So may be what callbacks decide by it. Give arrays, or "
            "runner.Batches with shuffle=False."
        )
    return _captured(data) if private.is_tf_dataset(data) else []


def _validation_doubt(data: Any) -> str | None:
    if isinstance(data, Batches):
        return "in another order" if data.shuffle else None
    if private.can_convert_arrays((data,)):
        return None
    if not private.is_tf_dataset(data):
        return "since only its own code decides over them"
    from runner.training.data import pipelines

    if not hasattr(data, "_inputs"):
        return "it is distributed already"
    late = pipelines.stale(data, one_iterator=False) if pipelines.captured(data) else None
    return _pipeline_doubt(data) or late


def _captured(dataset: Any) -> list[Any]:
    """Return the variables that a pipeline reads, where the backend can save them."""
    if backends.name() != "tensorflow" or not hasattr(dataset, "_inputs"):
        return []
    from runner.training.data import pipelines

    return pipelines.captured(dataset)


def _doubt(fit: Fit) -> str | None:
    if not hasattr(fit.x, "_inputs"):
        return "it is distributed already"
    if fit.epoch_iterator.steps_per_epoch and int(fit.x.cardinality()) != _ENDLESS:
        return "with steps_per_epoch it must be endless: add .repeat() at its end"
    return _pipeline_doubt(fit.x)


def _pipeline_doubt(dataset: Any) -> str | None:
    from runner.training.data import pipelines

    read = pipelines.captured(dataset)
    if read and backends.name() != "tensorflow":
        names = ", ".join(variable.name for variable in read)
        return f"it reads variables ({names}), which only the TensorFlow backend saves"
    return pipelines.doubt(dataset)


_ENDLESS = -1  #: tf.data.INFINITE_CARDINALITY


def _kind(adapter: Any) -> str:
    return type(adapter).__name__.removesuffix("DataAdapter").removesuffix("Adapter")


def _name(data: Any) -> str:
    return "tf.data pipeline" if private.is_tf_dataset(data) else type(data).__name__


class _Seekable(Source):
    """Our own data."""

    mid_epoch = True

    def __init__(self, batches: Ordered) -> None:
        self._batches = batches

    @property
    def examples(self) -> int:
        return self._batches.examples * self._batches.repeat

    @property
    def batch_size(self) -> int:
        return self._batches.batch_size

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
    adapter = fit.epoch_iterator.data_adapter
    batches = FitArrays(adapter, seed=_seed(), shuffle=bool(fit.shuffle))
    backends.current().replace_data(model, fit, batches)
    return _Arrays(batches)


def _seed() -> int:
    """The seed that the program gave to Keras, else a new one; without drawing from any."""
    seed = private.get_random_seed()
    return int(seed) if seed is not None else int.from_bytes(os.urandom(4))


class _Skipped(Source):
    """A tf.data pipeline that repeats itself: its beginning is skipped after a resume.

    With `steps_per_epoch` one pass goes on through all epochs. Then what was taken of it is
    counted from the epoch that the training began with, in whichever attempt that was, and with
    the steps that each attempt's epochs had.
    """

    mid_epoch = True

    def __init__(self, model: Any, fit: Fit, warn: Warn) -> None:
        from runner.training.data import pipelines

        self._replace = partial(backends.current().replace_dataset, model, fit)
        self._fit = fit
        self._whole = fit.epoch_iterator.data_adapter.get_tf_dataset()
        self._order = pipelines.order(self._whole)
        self._skipping = False
        self._first = True
        self._steps = fit.epoch_iterator.steps_per_epoch or 0  # 0: each epoch is a pass
        self._counted = {"epoch": fit.initial_epoch, "taken": 0, "steps": self._steps}
        self._read = _Read(self._whole, warn, one_iterator=bool(self._steps))

    def seek(self, epoch: int, step: int) -> None:
        if self._skipping:  # the epoch after the first: from its beginning
            self._replace(self._whole)
            self._skipping = False
        if self._first:
            step += self._count_up_to(epoch)
        self._first = False
        if step:
            self._replace(self._whole.skip(step))
            self._skipping = True

    def _count_up_to(self, epoch: int) -> int:
        counted = self._counted
        taken = counted["taken"] + (epoch - counted["epoch"]) * counted["steps"]
        self._counted = {"epoch": epoch, "taken": taken, "steps": self._steps}
        return taken

    def fingerprint(self) -> dict[str, Any]:
        steps = f"tf.data pipeline of {self._fit.steps or 'unknown many'} steps"
        return {"data": ", ".join(filter(None, [steps, self._order]))}

    def variables(self) -> list[Any]:
        return self._read.variables

    def to_json(self) -> Any:
        self._read.look()
        return self._counted if self._steps else None

    def from_json(self, saved: Any) -> None:
        if saved and self._steps:
            self._counted = {name: int(saved[name]) for name in self._counted}


class _Read:
    """The variables that a pipeline reads, and whether their change can be repeated."""

    def __init__(self, dataset: Any, warn: Warn, *, one_iterator: bool) -> None:
        from runner.training.data import pipelines

        self.variables = pipelines.captured(dataset)
        self._warn = warn
        self._reason = (
            pipelines.stale(dataset, one_iterator=one_iterator) if self.variables else None
        )
        self._first = self._values() if self._reason else []

    def _values(self) -> list[Any]:
        return [variable.numpy() for variable in self.variables]

    def look(self) -> None:
        """Say once which variable has changed, where that is not seen the same after a resume."""
        if self._reason is None:
            return
        for variable, before, now in zip(self.variables, self._first, self._values(), strict=True):
            if not np.array_equal(before, now):
                self._warn(
                    f"the data (tf.data pipeline) read {variable.name}, which has changed, and "
                    f"{self._reason}: a resume is not exact."
                )
                self._reason = None
                return


class _EpochsOnly(Source):
    """Data whose place within an epoch, or whose order, nobody can find again."""

    mid_epoch = False

    def __init__(
        self, kind: str, reason: str, warn: Warn, *, variables: Sequence[Any] = ()
    ) -> None:
        self._kind = kind
        self._variables = list(variables)
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

    def variables(self) -> list[Any]:
        return self._variables
