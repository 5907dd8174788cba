"""`Program`: what one training consists of. Every job is one, and the engine knows nothing else."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.errors import SpecError
from runner.mistakes import kind_of
from runner.registry import nearest
from runner.specparts import Phase

if TYPE_CHECKING:
    import keras

#: arguments of fit that are not the program's
_DECIDED = {
    "epochs": "the spec says it: training.epochs",
    "callbacks": "give them to Program(callbacks=[...])",
    "verbose": "runner shows the progress",
    "initial_epoch": "a resume decides it",
    "return_dict": "runner needs the names",
}


@dataclass(kw_only=True)
class Program:
    """A training: a compiled model, and what its `fit` and `evaluate` are called with.

    Args:
        model: a Keras model, compiled.
        fit: keyword arguments of `model.fit`, as they are: x, y, batch_size, validation_data,
            class_weight, steps_per_epoch. With `runner.Batches` as data a resume is exact at any
            step. How many epochs there are, the spec says.
        callbacks: Keras callbacks; their state is saved with the model's.
        evaluate: keyword arguments of `model.evaluate`; or a function that is given the model and
            returns numbers and arrays by name. None: the job ends with the training.
        classes: their names, where the model tells classes apart: then the evaluation has the
            confusion matrix, the accuracy of each class and the calibration too. A function returns
            "probabilities" (examples x classes) and "labels" for it.

    Raises:
        SpecError: one of them can't be used; says which and how to mend it.
    """

    model: "keras.Model"
    fit: Mapping[str, Any]
    callbacks: "Sequence[keras.callbacks.Callback]" = ()
    evaluate: Mapping[str, Any] | Callable[["keras.Model"], Mapping[str, Any]] | None = None
    classes: Sequence[str] = ()

    def __post_init__(self) -> None:
        import keras

        if not isinstance(self.model, keras.Model):
            raise SpecError(f"Program(model=...) received {kind_of(self.model)}; expected a model.")
        if not getattr(self.model, "compiled", False):
            raise SpecError("Program(model=...) is not compiled: call model.compile(...) before.")
        _check_arguments("fit", self.fit, self.model)
        if self.evaluate is not None and not callable(self.evaluate):
            _check_arguments("evaluate", self.evaluate, self.model)
        for name in ("callbacks", "classes"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise SpecError(f"Program({name}=...) received {kind_of(given)}; expected a list.")
        for callback in self.callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise SpecError(
                    f"Program(callbacks=...) holds {kind_of(callback)}; expected Keras callbacks."
                )
        self.classes = list(map(str, self.classes))

    def load_first_weights(self) -> list[str]:
        """Load what a new job begins with beside the program; return what to record about it."""
        return []

    def begin_phase(self, phase: Phase | None) -> None:
        """Make the model ready for a phase of the training."""


def _check_arguments(name: str, given: Any, model: "keras.Model") -> None:
    import keras

    if not isinstance(given, Mapping):
        raise SpecError(f"Program({name}=...) received {kind_of(given)}; expected a mapping.")
    # a model's own method may name some, and pass the others on to Keras's
    methods = getattr(model, name), getattr(keras.Model, name)
    known = {key for one in methods for key in inspect.signature(one).parameters}
    known -= {"self", "kwargs"}
    if "x" not in given:
        raise SpecError(f'Program({name}=...) has no "x", the data.')
    for key in given:
        if "steps" in str(key) and given[key] == 0:
            raise SpecError(f'Program({name}=...) has "{key}" 0; expected at least 1.')
        if key in _DECIDED:
            raise SpecError(f'Program({name}=...) has "{key}": leave it out, {_DECIDED[key]}.')
        if key not in known:
            hint = nearest(str(key), known)
            raise SpecError(f'Program({name}=...) has "{key}", which model.{name} lacks.{hint}')
