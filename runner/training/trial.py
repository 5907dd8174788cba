"""One step of a program before its job is stored: what can't train is told while somebody looks."""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from runner import code
from runner.errors import MissingHereError, RunnerError, SpecError
from runner.registry import nearest
from runner.spec import JobSpec
from runner.training import numerics
from runner.training.program import Program
from runner.training.programs import make

_EMPTY = 'its data are empty: fit={"x": ...} has no example.'


def try_out(spec: JobSpec, *, source: str) -> str:
    """Make a spec's program, and run one step of its fit, its validation and its evaluation.

    Nothing is stored, and no callback is called.

    Returns:
        What was seen, in a sentence.

    Raises:
        SpecError: it can't be trained; names the line of the program.
        MissingHereError: this machine lacks what it needs.
    """
    numerics.apply(threads=spec.training.threads, deterministic=spec.training.deterministic)
    with _naming(source), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of data that is longer than a step
        program = make(spec)
        metrics = _one_step(program)
        _check_monitors(spec, program, metrics)
        if isinstance(program.evaluate, Mapping):
            program.model.evaluate(**{**program.evaluate, "steps": 1, "verbose": 0})
    model = program.model
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    first = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return (
        f"{sum(math.prod(weight.shape) for weight in model.weights):,} parameters, "
        f"{trainable:,} of them trainable; one step: {first}"
    )


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Let an error name the spec and the line of the user's own code."""
    try:
        yield
    except MissingHereError:
        raise
    except RunnerError as error:
        raise SpecError(f"{source}: {error}") from error
    except Exception as error:  # the user's own code raises anything
        line = code.where(error)
        lines = re.sub(r"\x1b\[\d+m", "", str(error)).splitlines()
        text = " ".join(line.strip() for line in lines if line.strip())[:300]
        msg = f"{source}: one step of it can't be trained: {type(error).__name__}: {text}"
        raise SpecError(msg + (f" ({line})" if line else "")) from error


def _one_step(program: Program) -> dict[str, float]:
    """Return the metrics of a step and of a validation step, as an epoch's logs have them."""
    shapes = [getattr(one, "shape", ()) for one in keras.tree.flatten(program.fit["x"])]
    if any(shape[:1] == (0,) for shape in shapes):
        raise SpecError(_EMPTY)
    arguments = {**program.fit, "steps_per_epoch": 1, "epochs": 1, "verbose": 0}
    if arguments.get("validation_data") is not None or arguments.get("validation_split"):
        arguments |= {"validation_steps": 1, "validation_freq": 1}
    found: Mapping[str, Sequence[Any]] = program.model.fit(**arguments).history
    if not found:
        raise SpecError(_EMPTY)
    return {name: float(values[-1]) for name, values in found.items()}


def _check_monitors(spec: JobSpec, program: Program, metrics: Mapping[str, float]) -> None:
    own = [one for one in program.callbacks if not type(one).__module__.startswith("keras.")]
    for field, monitor in spec.monitors.items() if not own else ():  # they may add metrics
        if monitor not in metrics:
            hint = nearest(monitor, metrics)
            known = ", ".join(metrics)
            raise SpecError(f"{field}: received {monitor!r}; this training has {known}.{hint}")
