"""A model as a checkpoint has it: for evaluation and export, without the training around it."""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import keras

from runner import code
from runner.checkpoint.manifest import Reference
from runner.checkpoint.reading import Restored, read_checkpoint
from runner.errors import OtherModelError, TrainingError
from runner.spec import JobSpec
from runner.store.base import Store
from runner.training import frames, numerics
from runner.training.data.sources import source_of
from runner.training.logs import Logs
from runner.training.parts import Parts
from runner.training.program import Program
from runner.training.programs import make
from runner.training.state import reach
from runner.training.state.attributes import Attributes
from runner.training.state.observers import Observers
from runner.training.state.variables import Variables
from runner.training.trainer import make_callbacks

if TYPE_CHECKING:
    from runner.checkpoint.plain import Array


def restored_program(
    store: Store, spec: JobSpec, reference: Mapping[str, Any]
) -> tuple[Program, list[str]]:
    """Make the spec's program, with a checkpoint's weights, statistics and Python state.

    The random generators are as the program leaves them, and no callback is called.

    Returns:
        The program, and in words in which this process differs from the checkpoint's.

    Raises:
        CheckpointError: missing or damaged.
        OtherModelError: another model's.
    """
    restored = read_checkpoint(store, Reference.from_json(reference))
    saved = restored.numerics
    threads = saved.get("threads")
    numerics.apply(
        threads=threads if isinstance(threads, int) else spec.training.threads,
        deterministic=spec.training.deterministic,
    )
    program = make(spec, training=False)
    callbacks = [*make_callbacks(spec), *program.callbacks]
    # as the program gave them
    observers = Observers(callbacks, warn=_ignore, extra=reach.program_parts(program.model))
    _restore(program, restored)
    observers.restore_objects(restored.python, restored.tensors)
    roots = [(type(one).__name__, one) for one in callbacks]
    parts = Variables(program.model, roots=roots).parts
    Attributes(parts, set(), _ignore).restore(restored.python.get("attributes") or {})
    known = {key: saved[key] for key in saved if key not in numerics.OF_A_TRAINING}
    differences = numerics.differences(known, numerics.fingerprint())
    was, now = saved.get("code", "none"), code.identity() or "none"
    return program, [*differences, *([f"code {was} -> {now}"] if was != now else [])]


def _restore(program: Program, restored: Restored) -> None:
    """Give the model what a checkpoint holds of it."""
    model = program.model
    variables = Variables(model)
    saved = variables.named(restored.tensors)
    tensors = _group("model/", saved)
    names = [name for name in variables.names if name.startswith("model/")]
    if not program.fit or (model.built and len(names) == len(tensors)):
        _assign(model, tensors)
        if program.fit and model.optimizer is not None:  # what is exported can be trained on
            model.optimizer.build(model.trainable_variables)
            with suppress(OtherModelError):  # a callback has frozen a layer: it begins anew
                _assign(model.optimizer, _group("optimizer/", restored.tensors))
        return
    # some of its variables come with fit: it is begun, and left before the first step
    restoring = _Restoring(model, restored)
    try:
        model.fit(**program.fit, callbacks=restoring, verbose=0)
    except _Left:
        return
    raise TrainingError("fit ended before it had begun.")


class _Left(Exception):  # noqa: N818 - it is no error
    """The state is restored."""


class _Restoring(keras.callbacks.CallbackList):  # type: ignore[misc]
    """Restores a model as soon as its fit has begun, and leaves that fit."""

    def __init__(self, model: Any, restored: Restored) -> None:
        super().__init__(model=model)
        self._restored = restored

    def on_train_begin(self, logs: Logs = None) -> None:  # noqa: ARG002 - Keras's signature
        fit = frames.fit_in_progress(self)
        parts = Parts(self._model, fit, roots=[], ours=[self], warn=_ignore)
        try:
            parts.prepare(self._restored, source_of(self._model, fit, warn=_ignore))
            state = parts.state_of(self._restored)
            parts.variables.check(state, _ignore)
            parts.variables.assign(state)
        finally:
            parts.release()
        raise _Left


def _ignore(text: str) -> None:
    """What of a callback's state is not there is needed by no evaluation."""


def _group(prefix: str, tensors: "Mapping[str, Array]") -> "Mapping[str, Array]":
    return {name: array for name, array in tensors.items() if name.startswith(prefix)}


def _assign(owner: Any, tensors: "Mapping[str, Array]") -> None:
    """Set a model's or an optimizer's variables from the tensors of its group, in its order."""
    saved = [tensors[name] for name in sorted(tensors)]
    shapes = [list(array.shape) for array in saved]
    expected = [list(variable.shape) for variable in owner.variables]
    if shapes != expected:
        raise OtherModelError(
            f"the checkpoint holds {len(shapes)} variables of a model, and this one has"
            f" {len(expected)}, or others of other shapes: it is another model's."
        )
    for array, variable in zip(saved, owner.variables, strict=True):
        variable.assign(array)
