"""What a job trains, built before it is stored: what can't train is told while somebody looks."""

import math
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from runner import code, quiet, registry
from runner.datasets.arrays import Dataset
from runner.errors import (
    MissingHereError,
    NotFoundError,
    RunnerError,
    SpecError,
    TrainingError,
)
from runner.evaluation.measure import measure
from runner.registry import nearest
from runner.spec import JobSpec
from runner.training import numerics
from runner.training.build import build, compile_phase
from runner.training.check import (
    check_fit,
    load_data,
    memory_needed,
    memory_words,
    naming,
    obtaining,
    short_of_memory,
)
from runner.training.host import Alone
from runner.training.program import Program
from runner.training.programs import make

_NOT_EVALUATED = "after one step, it can't be evaluated"
_EMPTY = "its data are empty: {} has no example."


@quiet.aside()
def build_report(spec: JobSpec, *, source: str) -> str:
    """Build the network with the spec's data, or try a program; say how large they are.

    Raises:
        SpecError: data, network or optimizer don't fit.
    """
    if short := short_of_memory(spec.model_dump()):
        return f"{spec.name}: not built: {short}"
    if spec.program is not None:
        return f"{spec.name}: {_try_out(spec, source=source)}"
    dataset = load_data(spec)
    try:
        check_fit(spec, dataset)
        assembled = build(spec, dataset)
        compile_phase(assembled, spec, spec.training.phases[0] if spec.training.phases else None)
    except SpecError as error:
        msg = f"{source}: {error}"
        raise type(error)(msg) from None
    except (Exception, SystemExit) as error:  # a network of the user's own may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        msg = f"{source}: model {spec.model.name!r} can't be built: {type(error).__name__}: {error}"
        raise SpecError(f"{msg} ({where})") from error
    model = assembled.model
    # the weights, and what Adam keeps of each
    needed = memory_needed(spec.model_dump()) + 12 * model.count_params()
    lines = [
        _counts(dataset),
        _sizes(model),
        memory_words(needed),
        *filter(None, [assembled.doubt]),
    ]
    return "\n".join(f"{spec.name}: {line}" for line in lines)


def _counts(dataset: Dataset) -> str:
    """Say how many images each class has, and what lies there and is not read."""
    parts = [np.bincount(y, minlength=dataset.classes) for y in (dataset.y_train, dataset.y_test)]
    each = ", ".join(
        f"{name} {train} + {test}".replace(" ", "\N{NO-BREAK SPACE}")
        for name, train, test in zip(dataset.class_names, *parts, strict=True)
    )
    size = " x ".join(map(str, dataset.image_shape))
    left_out = f"\nleft out: {dataset.left_out}" if dataset.left_out else ""
    return (
        f"{len(dataset.y_train):,} training + {len(dataset.y_test):,} test images of {size}:\n"
        f"{textwrap.fill(each, 100)}{left_out}".replace("\N{NO-BREAK SPACE}", " ")
    )


def _try_out(spec: JobSpec, *, source: str) -> str:
    """Make a spec's program, run one step of its fit and its validation, and its evaluation.

    Nothing is stored, and no callback is called.

    Returns:
        What was seen, in a sentence.

    Raises:
        SpecError: it can't be trained; names the line of the program.
        MissingHereError: this machine lacks what it needs.
    """
    numerics.apply(threads=spec.training.threads, deterministic=spec.training.deterministic)
    with code.undone():
        warnings.simplefilter("ignore")  # of data that is longer than a step
        of = partial(_place, spec)
        with naming(source, "one step of it can't be trained", of), obtaining():
            program = make(spec)
            _check_data("fit", program.fit)
            if isinstance(program.evaluate, Mapping):
                _check_data("evaluate", program.evaluate)
            metrics = _one_step(program)
        with naming(source, _NOT_EVALUATED), obtaining():
            _check_monitors(spec, program, metrics)
            doubt = _evaluate(spec, program)
    first = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return f"{_sizes(program.model)}; one step: {first}{doubt}"


def _place(spec: JobSpec) -> str:
    """Return where the program is defined, in brackets; "" where it is not the user's own."""
    try:
        return code.of_function(spec.program and registry.get("programs", spec.program.name))
    except NotFoundError:
        return ""


def _sizes(model: keras.Model) -> str:
    """Say how many parameters a model has."""
    every, trainable = (
        sum(math.prod(weight.shape) for weight in weights)
        for weights in (model.weights, model.trainable_weights)
    )
    return f"{every:,} parameters, {trainable:,} of them trainable"


def _check_data(name: str, arguments: Mapping[str, Any]) -> None:
    for key in ("x", "validation_data"):
        shapes = [getattr(one, "shape", ()) for one in keras.tree.flatten(arguments.get(key))]
        if any(shape[:1] == (0,) for shape in shapes):
            raise SpecError(_EMPTY.format(f'{name}={{"{key}": ...}}'))


def _one_step(program: Program) -> dict[str, float]:
    """Return the metrics of a step and of a validation step, as an epoch's logs have them."""
    arguments = {**program.fit, "steps_per_epoch": 1, "epochs": 1, "verbose": 0}
    if arguments.get("validation_data") is not None or arguments.get("validation_split"):
        arguments |= {"validation_steps": 1, "validation_freq": 1}
    found: Mapping[str, Sequence[Any]] = program.model.fit(**arguments).history
    if not found:
        raise SpecError(_EMPTY.format('fit={"x": ...}'))
    for name, values in found.items():
        if np.ndim(values[-1]):
            raise SpecError(f"the metric {name!r} gives {np.size(values[-1])} numbers, not one.")
    return {name: float(values[-1]) for name, values in found.items()}


def _evaluate(spec: JobSpec, program: Program) -> str:
    """Evaluate as the job will: a function as it is, `model.evaluate` on one batch.

    Returns:
        What could not be evaluated and may be once it is trained, for the end of a sentence.
    """
    if spec.evaluation is None or program.evaluate is None:
        return ""
    function: Any = program.evaluate
    if isinstance(function, Mapping):
        program.evaluate = {**function, "steps": 1}
        function = spec.program and registry.get("programs", spec.program.name)
    try:
        measure(program, Alone())
    except (Exception, SystemExit) as error:
        if _own_callbacks(program):  # what it needs, they may set
            return f"; its evaluation fails before it is trained: {code.words(error)}"
        if isinstance(error, MissingHereError) or code.where(error):
            raise
        words = str(error) if isinstance(error, TrainingError) else code.words(error)
        prefix = "" if isinstance(error, RunnerError) else f"{_NOT_EVALUATED}: "
        raise SpecError(f"{prefix}{words}{code.of_function(function)}") from error
    return ""


def _own_callbacks(program: Program) -> list[Any]:
    """Return those with code of the user's, which may set whatever they like."""
    holders = keras.callbacks.LambdaCallback, keras.callbacks.CallbackList
    return [
        one
        for one in program.callbacks
        if isinstance(one, holders) or not type(one).__module__.startswith("keras.")
    ]


def _check_monitors(spec: JobSpec, program: Program, metrics: Mapping[str, float]) -> None:
    own = _own_callbacks(program)
    if own:  # they may add metrics
        return
    place = _place(spec)
    asked = [(field, monitor, "") for field, monitor in spec.monitors.items()]
    asked += [(f"callbacks: {name}", monitor, place) for name, monitor in _monitored(program)]
    for field, monitor, where in asked:
        if monitor not in metrics:
            hint, known = nearest(monitor, metrics), ", ".join(metrics)
            raise SpecError(
                f"{field}: received {monitor!r}; this training has {known}.{hint}{where}"
            )


def _monitored(program: Program) -> Iterator[tuple[str, str]]:
    """Yield what Keras's own callbacks watch: they tell of a mistake after an epoch, or warn."""
    for one in program.callbacks:
        monitor = getattr(one, "monitor", None)
        added = str(monitor).startswith("learning_rate")  # by others of Keras's
        if isinstance(monitor, str) and getattr(one, "save_best_only", True) and not added:
            yield type(one).__name__, monitor
