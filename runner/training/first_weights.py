"""The weights that a new training begins with, of another job or in a file, as far as they fit."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from runner.checkpoint.manifest import Reference
from runner.checkpoint.reading import read_checkpoint
from runner.errors import SpecError
from runner.models._pretrained import Pretrained
from runner.spec import JobSpec
from runner.specparts import From
from runner.store import places
from runner.training.state.variables import stable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras

    from runner.checkpoint.plain import Array
    from runner.training.trainer import Past

_SHOWN = 5


def load_given(model: "keras.Model", spec: JobSpec, past: "Past") -> list[str]:
    """Give the model the weights that its spec takes `from` elsewhere; they become checkpoint 0.

    Returns:
        What to record: whose they are, and which of the model's begin anew.

    Raises:
        SpecError: none fits, or the model has no variables before its fit.
        CheckpointError, DataError: they can't be read.
    """
    part = spec.from_
    if part is None or (part.path is None and past.weights is None):
        return []
    if not model.built:
        msg = "from: the weights can't be given to a model that is built in its first step:"
        raise SpecError(f"{msg} begin it with a keras.Input, or call model.build().")
    if part.path is not None:
        return [_load_file(model, part, part.path)]
    restored = read_checkpoint(past.store, Reference.from_json(past.weights or {}))
    lacking = _assign(model, restored.tensors, f"from: {part.job}")
    said = f"began with the weights of {part.job} at step {restored.reference.step}"
    more = f", and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    return [f"{said}, but for {', '.join(lacking[:_SHOWN])}{more}" if lacking else said]


def _load_file(model: "keras.Model", part: From, path: str) -> str:
    where = places.here(path, part.given) or path
    found = Pretrained(model, where, None, dict, field="from.path")()
    return f"began with {', '.join(f'{key} {value}' for key, value in found.items())}"


def _assign(model: "keras.Model", tensors: "Mapping[str, Array]", source: str) -> list[str]:
    """Set the variables that have the same path and shape in a checkpoint; return the others.

    Of those with one path the first takes the first, and so on.
    """
    saved: defaultdict[str, list[Any]] = defaultdict(list)
    for name, array in sorted(tensors.items()):
        group, _, path = name.split("/", 2)
        if group == "model":
            saved[path].append(array)
    lacking, taken = [], 0
    for variable in model.weights:  # without the seeds, which are this job's own
        path = stable(variable.path)
        found = saved[path].pop(0) if saved[path] else None
        if found is None or found.shape != tuple(variable.shape):
            lacking.append(path)
            continue
        variable.assign(found)
        taken += 1
    if not taken:
        raise SpecError(f"{source} has no weights that fit this model: {', '.join(lacking[:5])}.")
    return lacking
