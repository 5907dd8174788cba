"""Where in the data a training stands, for every kind of data that fit takes.

Batches can be sought exactly. Arrays in memory, of whatever kind, and the batches of a PyDataset
get an order of their own that a resume repeats. grain's iterators say where they stand. A tf.data
pipeline that gives the same batches in every process is skipped through. For anything else a
warning names once what may differ, and a resume begins at an epoch's beginning. Likewise for
validation data that may be others in each pass.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from runner.checkpoint.manifest import Position
from runner.errors import TrainingError
from runner.training import backends, private
from runner.training.data import python
from runner.training.data.arrays import FitArrays
from runner.training.data.batches import Batches, Ordered
from runner.training.data.passes import Indexed, Iterated, Passes, Source, seed
from runner.training.fit import Fit
from runner.training.frames import Fit as FitOfFrames

Warn = Callable[[str], None]

_ENDLESS = -1  #: tf.data.INFINITE_CARDINALITY
_NOT_ENDLESS = "with steps_per_epoch it must be endless: add .repeat() at its end"


def open_source(fit: Any, *, warn: Warn) -> tuple[Source, dict[str, list[Any]]]:
    """Return the source of a fit, ours or found in the frames, and what decides over its data."""
    if isinstance(fit, Fit):
        return _of_batches(fit.batches), {}
    source = source_of(fit.model, fit, warn=warn)
    validation = check_validation(fit, warn=warn)
    return source, {"data": source.variables(), "validation data": validation}


def _of_batches(batches: Ordered) -> Source:
    amount = f"{batches.examples} examples x {batches.repeat}"
    return _Seekable(batches, amount, f"seed {batches.seed}")


def source_of(model: Any, fit: FitOfFrames, *, warn: Warn) -> Source:
    """Return the source for the data that fit was given."""
    adapter = fit.epoch_iterator.data_adapter
    if isinstance(adapter, Batches):
        if fit.class_weight is not None:
            raise TrainingError(
                "fit(class_weight=...) has no effect on Batches: give class_weight to Batches."
            )
        return _of_batches(adapter)
    exact: Callable[[], Source]
    if isinstance(adapter, private.ArrayDataAdapter):
        kind, reason, exact = "arrays", _order_of_keras(fit), partial(_Arrays, model, fit)
    elif isinstance(adapter, private.TFDatasetAdapter):
        return _of_pipeline(model, fit, warn)
    elif isinstance(adapter, private.PyDatasetAdapter):
        kind, exact = type(fit.x).__name__, partial(Indexed, fit)
        reason = _order_of_keras(fit) or _hooks_doubt(adapter) or _random_doubt(fit.x)
    elif isinstance(adapter, private.GrainDatasetAdapter):
        kind, reason, exact = "grain", _random_doubt(fit.x), partial(Iterated, model, fit, warn)
    else:
        kind = type(adapter).__name__.removesuffix("DataAdapter").removesuffix("Adapter")
        return _EpochsOnly(kind, "only its own code knows where it stands", _remedy(model), warn)
    return _EpochsOnly(kind, reason, "", warn) if reason else exact()


def _of_pipeline(model: Any, fit: FitOfFrames, warn: Warn) -> Source:
    reason = _pipeline_doubt(fit.x)
    if not reason and fit.epoch_iterator.steps_per_epoch:
        endless = int(fit.x.cardinality()) == _ENDLESS
        reason = None if endless else _NOT_ENDLESS
    elif not reason:
        reason = _reshuffling_doubt(fit)
    if not reason:
        return _Skipped(model, fit, warn)
    remedy, variables = _remedy(model), _captured(fit.x)
    return _EpochsOnly("tf.data pipeline", reason, remedy, warn, variables=variables)


def stateful(fit: Any) -> dict[str, Any]:
    """Return the data of a fit that change between epochs, by name: their attributes are state."""
    given = {"data": getattr(fit, "x", None), "validation data": getattr(fit, "validation", None)}
    return {name: data for name, data in given.items() if python.changes(data)}


def _hooks_doubt(adapter: Any) -> str | None:
    """Return why the hooks of a PyDataset change it while its batches are read already."""
    data = adapter.py_dataset
    if data.num_batches is None and python.changes(data):
        return (
            "its batches are read ahead, through the end of an epoch, while its on_epoch_begin or "
            "on_epoch_end may change them; let their index alone decide over them"
        )
    if adapter.enqueuer is not None and python.changes(data, "on_epoch_begin"):
        return "its workers read while its on_epoch_begin runs; do that in on_epoch_end"
    return None


def _remedy(model: Any) -> str:
    """Return what else this model's fit takes that is resumed at any step."""
    if type(model).fit is keras.Model.fit:
        return "Give runner.Batches, or a PyDataset, to resume at any step, bit for bit."
    return (  # such as a task of KerasHub: it prepares what it is given, and refuses Batches
        "Give it arrays, a grain.MapDataset, or a tf.data pipeline whose shuffle has a seed, to "
        "resume at any step, bit for bit."
    )


def _random_doubt(data: Any) -> str | None:
    if not python.is_random(data):
        return None
    return (
        "its first batch is another when it is drawn again, or draws from a generator that goes "
        "on; let each item draw from np.random.default_rng([seed, epoch, index]) of its own"
    )


def _order_of_keras(fit: FitOfFrames) -> str | None:
    """Return why data are left in the order that Keras gives them; None if they are not."""
    if fit.shuffle not in (True, False, None):
        return f"shuffle={fit.shuffle!r} is an order of Keras's own; use True or False"
    steps, whole = fit.epoch_iterator.steps_per_epoch, fit.epoch_iterator.data_adapter.num_batches
    if steps and whole and steps < whole:
        return (
            f"with steps_per_epoch={steps} an epoch ends within the data, which are {whole} "
            "steps; leave it out"
        )
    return None


def check_validation(fit: FitOfFrames, *, warn: Warn) -> list[Any]:
    """Warn once why a validation may have other results after a resume.

    Returns:
        The variables that decide over the validation data.
    """
    data = fit.validation
    is_pipeline = private.is_tf_dataset(data)
    if reason := _validation_doubt(data):
        name = "tf.data pipeline" if is_pipeline else type(data).__name__
        warn(
            f"a validation after a resume is not exact: the data ({name}) may be others in "
            f"each pass, {reason}. So may be what callbacks decide by it. Give arrays, or "
            "runner.Batches with shuffle=False."
        )
    return _captured(data) if is_pipeline else []


def _validation_doubt(data: Any) -> str | None:
    if isinstance(data, Batches):
        return "in another order" if data.shuffle else None
    if private.can_convert_arrays((data,)):
        return None
    if private.is_python_data(data):
        return _random_doubt(data)
    if not private.is_tf_dataset(data):
        return "since only its own code decides over them"
    if not _is_distributed(data) and _pipelines().reshuffles(data):
        return "in another order"
    return _pipeline_doubt(data) or _pipelines().stale(data, one_iterator=False)


# ---------------------------------------------------------------------- tf.data


def _pipelines() -> Any:
    """Return the module for pipelines, which needs TensorFlow."""
    from runner.training.data import pipelines

    return pipelines


def _is_distributed(dataset: Any) -> bool:
    return not hasattr(dataset, "_inputs")


def _captured(dataset: Any) -> list[Any]:
    """Return the variables that a pipeline reads, where the backend can save them."""
    if backends.name() != "tensorflow" or _is_distributed(dataset):
        return []
    found: list[Any] = _pipelines().captured(dataset)
    return found


def _pipeline_doubt(dataset: Any) -> str | None:
    if _is_distributed(dataset):
        return "it is distributed already"
    if backends.name() != "tensorflow" and (read := _pipelines().captured(dataset)):
        names = ", ".join(variable.name for variable in read)
        return f"it reads variables ({names}), which only the TensorFlow backend saves"
    reason: str | None = _pipelines().doubt(dataset)
    return reason


def _reshuffling_doubt(fit: FitOfFrames) -> str | None:
    """Return why a pipeline's passes have orders that are not known from their number."""
    reason: str | None = _pipelines().late(fit.x)
    running = fit.dataset()
    if not reason and running is not None and _is_distributed(running):
        reason = "it reshuffles, and is spread over several devices" * _pipelines().reshuffles(
            fit.x
        )
    return reason or None


# ---------------------------------------------------------------------- kinds of sources


class _Seekable(Source):
    """Our own data.

    Args:
        batches: in an order that can be sought.
        amount: how much there is, in words.
        order: in which order, if it is shuffled.
    """

    def __init__(self, batches: Ordered, amount: str, order: str) -> None:
        self._batches = batches
        self._words = amount, order if batches.shuffle else "in order"
        self.examples = batches.examples * batches.repeat
        self.batch_size = batches.batch_size

    def seek(self, epoch: int, step: int) -> None:
        self._batches.seek(epoch, step)

    def fingerprint(self) -> dict[str, Any]:
        amount, order = self._words
        return {
            "data": f"{amount}, batches of {self.batch_size}, {order}",
            "data_content": self._batches.content(),
        }


class _Arrays(_Seekable):
    """Arrays that fit was given, put in our own order; its seed travels in the checkpoints."""

    def __init__(self, model: Any, fit: FitOfFrames) -> None:
        adapter = fit.epoch_iterator.data_adapter
        batches = FitArrays(adapter, seed=seed(), shuffle=bool(fit.shuffle))
        super().__init__(batches, f"{batches.examples} examples", "shuffled")
        backends.current().replace_data(model, fit, batches)

    def to_json(self, position: Position) -> Any:  # noqa: ARG002 - the seed is all
        return {"seed": self._batches.seed}

    def from_json(self, saved: Any) -> None:
        if saved:
            self._batches.seed = int(saved["seed"])


class _Skipped(Passes):
    """A tf.data pipeline that repeats itself: its beginning is skipped after a resume.

    Where it shuffles anew in each pass, as many are begun first as there were before.
    """

    def __init__(self, model: Any, fit: FitOfFrames, warn: Warn) -> None:
        super().__init__(fit)
        self._replace = partial(backends.current().replace_dataset, model, fit)
        self._fit = fit
        self._whole = fit.epoch_iterator.data_adapter.get_tf_dataset()
        self._skipping = False
        self._read = _Read(self._whole, warn, one_iterator=bool(self._steps))
        self._begun = self._before = 0  # passes: all, and those before the epoch that runs
        self._counts = not self._steps and _pipelines().reshuffles(self._whole)
        if self._counts:
            iterator = fit.epoch_iterator
            original = iterator._get_iterator
            iterator._get_iterator = lambda: self._noted(original())

    def _noted(self, batches: Any) -> Any:
        if isinstance(batches, Iterator):  # on JAX, a pass begins with its first batch
            return self._noting(batches)
        self._begun += 1
        return batches

    def _noting(self, batches: Iterator[Any]) -> Iterator[Any]:
        self._begun += 1
        yield from batches

    def seek(self, epoch: int, step: int) -> None:
        self._before = self._begun
        if self._counts and step == self._fit.steps and backends.name() != "tensorflow":
            iter(self._whole)  # no step is left that would begin the pass
            self._begun += 1
        step = self._start(epoch, step)
        if step or self._skipping:  # the epoch after the first: from its beginning
            self._replace(self._whole.skip(step) if step else self._whole)
        self._skipping = bool(step)

    def fingerprint(self) -> dict[str, Any]:
        steps = f"tf.data pipeline of {self._fit.steps or 'unknown many'} steps"
        return {"data": ", ".join(filter(None, [steps, _pipelines().order(self._whole)]))}

    def variables(self) -> list[Any]:
        return self._read.variables

    def to_json(self, position: Position) -> Any:
        self._read.look()
        if self._counts:
            return {"passes": self._before if position.step else self._begun}
        return super().to_json(position)

    def from_json(self, saved: Any) -> None:
        super().from_json(saved)
        while self._counts and self._begun < int((saved or {}).get("passes", 0)):
            iter(self._whole)
            self._begun += 1


class _Read:
    """The variables that a pipeline reads, and whether their change can be repeated."""

    def __init__(self, dataset: Any, warn: Warn, *, one_iterator: bool) -> None:
        self.variables: list[Any] = _pipelines().captured(dataset)
        self._warn = warn
        self._reason = _pipelines().stale(dataset, one_iterator=one_iterator)
        self._first = self._values()

    def _values(self) -> list[Any]:
        return [variable.numpy() for variable in self.variables] if self._reason else []

    def look(self) -> None:
        """Warn once which variable has changed, where that is not seen the same after a resume."""
        pairs = zip(self._first, self._values(), strict=True)
        changed = [i for i, (one, other) in enumerate(pairs) if not np.array_equal(one, other)]
        if changed:
            self._warn(
                f"the data (tf.data pipeline) read {self.variables[changed[0]].name}, which has "
                f"changed, and {self._reason}: a resume is not exact."
            )
            self._first, self._reason = [], None


class _EpochsOnly(Source):
    """Data whose place within an epoch, or whose order, nobody can find again."""

    mid_epoch = False

    def __init__(
        self, kind: str, reason: str, remedy: str, warn: Warn, *, variables: Sequence[Any] = ()
    ) -> None:
        self._kind = kind
        self._variables = list(variables)
        warn(
            f"a resume with this data ({kind}) is not exact: {reason}. It begins at the last "
            f"saved end of an epoch. {remedy}".rstrip()
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
