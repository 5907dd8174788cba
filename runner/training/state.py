"""The whole numeric state of a training, by reference: weights, slots, metrics, seeds.

A snapshot costs some microseconds a variable: it reads each variable's current tensor without
copying. TensorFlow writes a variable in place only while nobody else holds its buffer, so the
tensors stay as they are while the training goes on.

Names are `group/index/path`. Paths repeat (two layers may have one name) and Keras numbers
unnamed layers through the life of a process, so the index decides and the numbers are left
out: the same model has the same names in a fresh process and in the third cell of a notebook.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from runner.checkpoint.plain import Array
from runner.errors import CheckpointError
from runner.training.hidden import hidden_generators
from runner.training.private import global_seed_generator
from runner.training.reading import Reader

_SHOWN = 4  #: differences named in an error


class Variables:
    """All variables that a training step may change, in a fixed order.

    Args:
        model: compiled, and with everything built (`private.build_everything`).
    """

    def __init__(self, model: Any) -> None:
        self._variables: list[tuple[str, Any]] = []
        seen: set[int] = set()
        for group, variables in _groups(model):
            for index, variable in enumerate(variables):
                for replica, part in _components(variable):
                    if id(part) not in seen:
                        seen.add(id(part))
                        name = f"{group}/{index:05d}/{_stable(_path(variable))}{replica}"
                        self._variables.append((name, part))
        self._reader = Reader([variable for _, variable in self._variables])

    @property
    def names(self) -> list[str]:
        """The variables' names, in order."""
        return [name for name, _ in self._variables]

    @property
    def handles(self) -> list[Any]:
        """The variables' resource handles, in order."""
        return self._reader.handles

    def snapshot(self) -> list[tuple[str, Any]]:
        """Return every variable's current tensor, held by reference."""
        return list(zip(self.names, self._reader.read(), strict=True))

    def assign(self, tensors: Mapping[str, Array]) -> None:
        """Set every variable. Call `check` first."""
        for name, variable in self._variables:
            variable.assign(tensors[name])

    def check(self, tensors: Mapping[str, Array]) -> None:
        """Compare a checkpoint with the model.

        Raises:
            CheckpointError: they don't belong together; says where they differ.
        """
        mine = {name: _kind(variable) for name, variable in self._variables}
        saved = {name: (array.dtype.name, tuple(array.shape)) for name, array in tensors.items()}
        lacking = [f"{name} is not in the checkpoint" for name in mine.keys() - saved.keys()]
        foreign = [f"{name} is not in the model" for name in saved.keys() - mine.keys()]
        other = [
            f"{name} is {_words(saved[name])} in the checkpoint, {_words(kind)} in the model"
            for name, kind in mine.items()
            if name in saved and saved[name] != kind
        ]
        problems = sorted(lacking) + sorted(foreign) + other
        if problems:
            shown = "; ".join(problems[:_SHOWN])
            more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise CheckpointError(
                f"the checkpoint belongs to another model or optimizer: {shown}{more}. Build and "
                "compile the same as before, or give this training another place."
            )


def _groups(model: Any) -> list[tuple[str, Sequence[Any]]]:
    optimizer = getattr(model, "optimizer", None)
    return [
        ("model", model.variables),  # weights, BN statistics, every tracked SeedGenerator
        ("optimizer", optimizer.variables if optimizer is not None else []),
        ("metric", model.metrics_variables),
        ("random", [global_seed_generator().state]),
        ("hidden", hidden_generators(model)),
    ]


def _components(variable: Any) -> list[tuple[str, Any]]:
    """A variable's TensorFlow variables: one, or one a replica under a strategy."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    values = getattr(value, "values", None)
    if values is None or callable(values):
        return [("", value)]
    return [(f"@{replica}", part) for replica, part in enumerate(values)]


def _path(variable: Any) -> str:
    return getattr(variable, "path", None) or str(variable.name)


def _stable(path: str) -> str:
    return re.sub(r"_\d+(?=[_/]|$)", "", path.split(":")[0])


def _kind(variable: Any) -> tuple[str, tuple[int, ...]]:
    return np.dtype(variable.dtype.as_numpy_dtype).name, tuple(variable.shape)


def _words(kind: tuple[str, tuple[int, ...]]) -> str:
    return f"{kind[0]}{list(kind[1])}"
