"""The whole numeric state of a training, by reference: weights, slots, metrics, seeds.

A snapshot costs some microseconds a variable. On TensorFlow it reads each variable's current
tensor without copying: a variable is written in place only while nobody else holds its buffer,
so the tensors stay as they are while the training goes on. On JAX it is one copy on the device.

Names are `group/index/path`. Paths repeat (two layers may have one name) and Keras numbers
unnamed layers through the life of a process, so the index decides and the numbers are left
out: the same model has the same names in a fresh process and in the third cell of a notebook.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from runner.checkpoint.plain import Array
from runner.errors import CheckpointError
from runner.training import backends
from runner.training.hidden import hidden_generators
from runner.training.private import global_seed_generator

_SHOWN = 4  #: differences named in an error


class Variables:
    """All variables that a training step may change, in a fixed order.

    Args:
        model: compiled, and with everything built (`Backend.build_everything`).
    """

    def __init__(self, model: Any) -> None:
        self._backend = backends.current()
        self._variables: list[tuple[str, Any]] = []
        #: names of weights that no step trains: of frozen layers, and statistics of the others
        self.still: set[str] = set()
        seen: set[int] = set()
        for group, variables in _groups(model):
            for index, variable in enumerate(variables):
                for replica, part in self._backend.parts(variable):
                    if id(part) not in seen:
                        seen.add(id(part))
                        name = f"{group}/{index:05d}/{_stable(_path(variable))}{replica}"
                        self._variables.append((name, part))
                        if group == "model" and not getattr(variable, "trainable", True):
                            self.still.add(name)
        self.reader: Any = self._backend.reader(model, [part for _, part in self._variables])

    @property
    def names(self) -> list[str]:
        """The variables' names, in order."""
        return [name for name, _ in self._variables]

    def snapshot(self) -> list[tuple[str, Any]]:
        """Return every variable's current tensor; nothing that the training does changes it."""
        return list(zip(self.names, self.reader.read(), strict=True))

    def assign(self, tensors: Mapping[str, Array]) -> None:
        """Set every variable. Call `check` first."""
        self._backend.assign(
            [
                (part, tensors[name].astype(self._backend.kind(part)[0], copy=False))
                for name, part in self._variables
            ]
        )

    def check(self, tensors: Mapping[str, Array]) -> None:
        """Compare a checkpoint with the model.

        Raises:
            CheckpointError: they don't belong together; says where they differ.
        """
        mine = {name: self._backend.kind(part) for name, part in self._variables}
        saved = {name: (array.dtype.name, tuple(array.shape)) for name, array in tensors.items()}
        lacking = [f"{name} is not in the checkpoint" for name in mine.keys() - saved.keys()]
        foreign = [f"{name} is not in the model" for name in saved.keys() - mine.keys()]
        other = [
            f"{name} is {_words(saved[name])} in the checkpoint, {_words(kind)} in the model"
            for name, kind in mine.items()
            if name in saved and saved[name] != kind and not _same_numbers(tensors[name], kind)
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


def _path(variable: Any) -> str:
    return getattr(variable, "path", None) or str(variable.name)


def _stable(path: str) -> str:
    return re.sub(r"_\d+(?=[_/]|$)", "", path.split(":")[0])


def _same_numbers(array: Array, kind: backends.Kind) -> bool:
    """Whether a counter or seed keeps its value: JAX's are 32 bits wide, TensorFlow's 64."""
    dtype, shape = kind
    if tuple(array.shape) != shape or array.dtype.kind not in "iu" or "int" not in dtype:
        return False
    return bool((array.astype(dtype).astype(array.dtype) == array).all()) and bool(
        (array >= 0).all()
    )


def _words(kind: tuple[str, tuple[int, ...]]) -> str:
    return f"{kind[0]}{list(kind[1])}"
