"""What the program says of a training, now and when its checkpoint was written.

Arguments are the program's: a resume takes them as they are now, and says what is another. What
steps have changed is the checkpoint's. The learning rate is both: where nothing had changed it
before the kill, the program's new one counts.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from runner.checkpoint.manifest import Position

_NOT_SAID = frozenset({"name", "built_config", "build_config", "registered_name", "module"})
RATE = "optimizer.learning_rate"


def description(model: Any, fit: Any, source: Any) -> dict[str, Any]:
    """Return the arguments of compile and fit that decide over a training, as plain values."""
    found: dict[str, Any] = {}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        found["optimizer"] = type(optimizer).__name__
        _take(found, "optimizer", _config(optimizer))
    for part in ("loss", "metrics"):
        given = (getattr(model, "_compile_config", None) or _Nothing).config.get(part)
        found[part] = _name(given)
    found["steps"] = fit.steps
    found["examples"], found["batch_size"] = source.examples, source.batch_size
    return found


def place(
    position: Position, saved: Mapping[str, Any], current: Mapping[str, Any]
) -> tuple[Position, str]:
    """Return where a fit with other batches or other data takes up, and what to say about it.

    Other batches of the same examples: at the batch that holds the next example. Other data: at
    the epoch's beginning, since its order is another one.

    >>> was = {"steps": 6, "examples": 96, "batch_size": 16}
    >>> position, said = place(Position(step=5), was, was | {"steps": 3, "batch_size": 32})
    >>> position.step
    2
    """
    step, steps = position.step, current.get("steps")
    same = all(saved.get(key, now) == now for key, now in current.items() if key in _DATA)
    if not step or (same and (steps is None or step <= steps)):
        return position, ""
    old, new = saved.get("batch_size"), current.get("batch_size")
    if steps and old and new and saved.get("examples") == current.get("examples"):
        ended = step == saved.get("steps")
        step = steps if ended else min(step * old, current["examples"]) // new
        said = f"the batches are of {new} examples now, not {old}: "
        where = f"epoch {position.epoch + 1} goes on after {step} of {steps} steps"
        return replace(position, step=step), said + where
    said = f"the data's epochs are others now: epoch {position.epoch + 1} begins again"
    return replace(position, step=0, stop=False), said


_DATA = ("steps", "examples", "batch_size")


class _Nothing:
    config: Mapping[str, Any] = {}


def _config(part: Any) -> Mapping[str, Any]:
    try:
        config: Mapping[str, Any] = part.get_config()
    except Exception:  # noqa: BLE001 - the user's own code; only what is said depends on it
        return {}
    return config


def _take(found: dict[str, Any], prefix: str, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key in _NOT_SAID:
            continue
        if isinstance(value, Mapping):
            _take(found, f"{prefix}.{key}", value)
        elif isinstance(value, str | bool | int | float) or value is None:
            found[f"{prefix}.{key}"] = value


def _name(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {str(key): _name(value) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return [_name(value) for value in given]
    if given is None or isinstance(given, str):
        return given
    return getattr(given, "__name__", None) or type(given).__name__


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return in words what is another now: ["optimizer.clipnorm None -> 1.0"].

    >>> differences({"steps": 6, "rate": 0.009999999776482582}, {"steps": 3, "rate": 0.1})
    ['steps 6 -> 3', 'rate 0.01 -> 0.1']
    """
    return [
        f"{key} {_as_written(saved[key])} -> {_as_written(current[key])}"
        for key in saved
        if key in current and saved[key] != current[key]
    ]


def _as_written(value: Any) -> Any:
    """Return 0.01 for what a float32 makes of it."""
    return f"{value:.7g}" if isinstance(value, float) else value


def keeps_rate(saved: Mapping[str, Any], current: Mapping[str, Any], value: Any) -> bool:
    """Whether the program's learning rate of now counts: it is another, and training left it.

    Args:
        saved: the description in the checkpoint.
        current: the description now.
        value: the learning rate of the checkpoint.
    """
    given, now = saved.get(RATE), current.get(RATE)
    if not isinstance(given, float) or not isinstance(now, float) or given == now:
        return False
    return bool(np.float32(given) == np.float32(value))


#: by an optimizer's id: its learning rate as given and as the last interrupted fit left it
_left: dict[int, tuple[Any, Any]] = {}


def leave_rate(optimizer: Any, program: Mapping[str, Any]) -> None:
    """Take note of the learning rate of a fit that is interrupted: nobody gave it."""
    _left.clear()
    if optimizer is not None:
        now: dict[str, Any] = {}
        _take(now, "optimizer", _config(optimizer))
        _left[id(optimizer)] = (program.get(RATE), now.get(RATE))


def left_rate(optimizer: Any, program: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the program gave where the learning rate is as an interrupted fit left it."""
    given, left = _left.get(id(optimizer), (None, None))
    return {RATE: given} if given is not None and program.get(RATE) == left else {}


class Structure:
    """The objects that a checkpoint's state belongs to: a callback may exchange them.

    Args:
        model: in training.
    """

    def __init__(self, model: Any) -> None:
        self._parts = _parts(model)

    def changes(self, model: Any) -> list[str]:
        """Return in words what is not the object any more that it was."""
        now = _parts(model)
        return [name for name, part in self._parts.items() if now[name] is not part]


def _parts(model: Any) -> dict[str, Any]:
    optimizer = getattr(model, "optimizer", None)
    rate = getattr(optimizer, "_learning_rate", None)
    return {
        "the optimizer": optimizer,
        "the learning rate's schedule": rate,
        "the loss": getattr(model, "_compile_loss", None),
        "the metrics": getattr(model, "_compile_metrics", None),
        "the training step": model.train_function,
        "steps_per_execution": model.steps_per_execution,
        "run_eagerly": model.run_eagerly,
    }
