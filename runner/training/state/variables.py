"""The whole numeric state of a training, by reference: weights, slots, metrics, seeds.

A snapshot costs some microseconds a variable. On TensorFlow it reads each variable's current
tensor without copying: a variable is written in place only while nobody else holds its buffer,
so the tensors stay as they are while the training continues. On JAX it is one copy on the device.

Names are `group/index/path`. Paths repeat (two layers may have one name) and Keras numbers
unnamed layers through the life of a process, so the index decides and the numbers are left
out: the same model has the same names in a fresh process and in the third cell of a notebook.

What stands in none of Keras's lists (a second optimizer, the average model of a callback, the
state of a stateful RNN, a generator in a closure) is named `more/` and the way to it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from runner.checkpoint.plain import Array
from runner.errors import OtherModelError
from runner.training import backends
from runner.training.private import global_seed_generator, seed_in_use
from runner.training.state import reach

_SHOWN = 2  #: differences named in an error
MORE = "more/"  #: before the names of variables that stand in none of Keras's lists
#: groups whose variables may come and go; "hidden" is what generators in closures were once
_LOOSE = (MORE, "hidden/", "random/")


class Variables:
    """All variables that a training step or a callback may change, in a fixed order.

    Args:
        model: compiled, and with everything built (`Backend.prepare`).
        roots: names and objects that the training works with besides the model: its callbacks.
        captured: names and variables of traced functions, wherever they come from.
        ours: objects that are nobody's state.
        seeded: whether Keras's global seed was in use when the checkpoint was written.
    """

    def __init__(
        self,
        model: Any,
        *,
        roots: Iterable[reach.Found] = (),
        captured: Iterable[reach.Found] = (),
        ours: Iterable[Any] = (),
        seeded: bool = False,
    ) -> None:
        self._backend = backends.current()
        self._variables: list[tuple[str, Any]] = []
        self._seen: set[int] = set()
        self._replicas: dict[str, list[str]] = {}  # by name without them: "@0", "@1", or ""
        self._sums: set[str] = set()  # of what their replicas hold: metrics
        if seeded:
            global_seed_generator()
        for group, variables in _groups(model):
            for index, variable in enumerate(variables):
                name = f"{group}/{index:05d}/{stable(_path(variable))}"
                self._add(name, variable)
        found = list(
            reach.walk([("model", model), *roots], leaf=self._backend.is_variable, known=ours)
        )
        #: models, layers, optimizers, metrics and losses on the way to them
        self.parts = [one for one in found if reach.is_part(one[1])]
        for path, value in (*found, *captured):
            if self._backend.is_variable(value):
                self._add(f"{MORE}{path}", value)
        #: the variables' names, in order
        self.names = [name for name, _ in self._variables]
        self.reader: Any = self._backend.reader(model, [part for _, part in self._variables])

    def _add(self, name: str, variable: Any) -> None:
        """Take a variable, each of its parts once."""
        for replica, part in self._backend.parts(variable):
            if id(part) not in self._seen:
                self._seen.add(id(part))
                self._variables.append((f"{name}{replica}", part))
                one, suffix = split_replica(f"{name}{replica}")
                self._replicas.setdefault(one, []).append(suffix)
                if getattr(variable, "aggregation", None) == "sum":
                    self._sums.add(one)

    def is_same(self, other: "Variables") -> bool:
        """Whether the other holds the very same variables, by the same names."""
        mine, theirs = ([(n, id(part)) for n, part in v._variables] for v in (self, other))
        return mine == theirs

    def snapshot(self) -> list[tuple[str, Any]]:
        """Return every variable's current tensor; nothing that the training does changes it."""
        return list(zip(self.names, self.reader.read(), strict=True))

    def assign(self, tensors: Mapping[str, Array], *, but: Iterable[str] = ()) -> None:
        """Set every variable that the tensors hold, `but` some. Call `check` first."""
        left = frozenset(but)
        self._backend.assign(
            [
                (part, tensors[name].astype(self._backend.kind(part)[0], copy=False))
                for name, part in self._variables
                if name in tensors and name not in left
            ]
        )

    @property
    def complete(self) -> bool:
        """Whether Keras's global seed is among them, if it is in use by now."""
        parts = [part for seed in seed_in_use() for _, part in self._backend.parts(seed)]
        return all(id(part) in self._seen for part in parts)

    def named(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Return a checkpoint's tensors by the names of now, and for the devices of now.

        A model that `load_model` built has the same variables in the same order, but Keras leaves
        the model's own name out of their paths.
        """
        mine = {_place(one): one for one in self._replicas if _is_strict(one)}
        saved: dict[str, dict[str, Array]] = {}
        for name, array in tensors.items():
            one, replica = split_replica(name)
            here = mine.get(_place(one), one)
            saved.setdefault(here if _same_path(one, here) else one, {})[replica] = array
        found: dict[str, Array] = {}
        for one, arrays in saved.items():
            replicas = self._replicas.get(one) or list(arrays)
            if {*replicas} != {*arrays}:
                arrays = _spread(arrays, replicas, is_sum=one in self._sums)
            found |= {f"{one}{replica}": array for replica, array in arrays.items()}
        return found

    def lacks(self, tensors: Mapping[str, Array]) -> bool:
        """Whether a checkpoint holds variables that are not there."""
        return not tensors.keys() <= set(self.names)

    def check(self, tensors: Mapping[str, Array], warn: Callable[[str], None]) -> None:
        """Compare a checkpoint with the model.

        Args:
            tensors: of the checkpoint.
            warn: called for each variable in none of Keras's lists that has come or gone.

        Raises:
            OtherModelError: they don't belong together; the text names where they differ.
        """
        mine = {name: self._backend.kind(part) for name, part in self._variables}
        saved = {name: (array.dtype.name, tuple(array.shape)) for name, array in tensors.items()}
        lacking, foreign = sorted(mine.keys() - saved.keys()), sorted(saved.keys() - mine.keys())
        problems = [
            *_missing(lacking, "is not in the checkpoint", "it is", warn),
            *_missing(foreign, "is not in the model", "what takes its place is", warn),
        ]
        for name, kind in mine.items():
            if saved.get(name, kind) != kind and not _same_numbers(tensors[name], kind):
                words = f"{_words(saved[name])} in the checkpoint, {_words(kind)} in the model"
                problems.append(f"{name} is {words}")
        if problems:
            shown = "; ".join(problems[:_SHOWN])
            more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            error = OtherModelError(
                f"the checkpoint belongs to another model or optimizer: {shown}{more}. Build and "
                "compile the same as before."
            )
            # read in a traceback; of a job the sentence alone is told
            error.add_note("Or begin a new training, with another backup_dir.")
            raise error


def _groups(model: Any) -> list[tuple[str, Sequence[Any]]]:
    optimizer = getattr(model, "optimizer", None)
    return [
        ("model", model.variables),  # weights, BN statistics, every tracked SeedGenerator
        ("optimizer", optimizer.variables if optimizer is not None else []),
        ("metric", model.metrics_variables),
        ("random", seed_in_use()),
    ]


def split_replica(name: str) -> tuple[str, str]:
    """Return a name without its replica, and the replica.

    >>> split_replica("model/00000/dense/kernel@1"), split_replica("model/00000/dense/kernel")
    (('model/00000/dense/kernel', '@1'), ('model/00000/dense/kernel', ''))
    """
    one, at, number = name.rpartition("@")
    return (one, at + number) if at and number.isdecimal() else (name, "")


def _spread(arrays: Mapping[str, Array], here: Sequence[str], *, is_sum: bool) -> dict[str, Array]:
    """Return what each of the replicas of now begins with.

    Of a sum, the first takes all. Else each takes its own, those that are new the first one's:
    that is what Keras saves of such a model.
    """
    saved = [arrays[one] for one in sorted(arrays, key=lambda one: int(one[1:] or 0))]
    if is_sum:
        total = saved[0] + sum(saved[1:], np.zeros_like(saved[0]))
        return {one: np.zeros_like(total) if n else total for n, one in enumerate(here)}
    return {one: saved[n if n < len(saved) else 0] for n, one in enumerate(here)}


def _place(name: str) -> str:
    """Return group and index of a variable's name."""
    return "/".join(name.split("/")[:2])


def _same_path(one: str, other: str) -> bool:
    """Whether two paths differ by nothing but a model's name before them.

    >>> _same_path("model/00000/sequential/dense/kernel", "model/00000/dense/kernel")
    True
    >>> _same_path("optimizer/00002/adam/my_dense_bias", "optimizer/00002/adam/dense_bias")
    True
    """
    first, second = (name.split("/")[2:] for name in (one, other))
    if first[:1] == second[:1]:
        first, second = first[1:], second[1:]
    a, b = "_".join(first), "_".join(second)
    return a == b or a.endswith(f"_{b}") or b.endswith(f"_{a}")


def _is_strict(name: str) -> bool:
    return not name.startswith(_LOOSE)


def _missing(
    names: Sequence[str], where: str, instead: str, warn: Callable[[str], None]
) -> list[str]:
    """Return problems of variables that one side lacks; warn of those that may come and go."""
    for name in names:
        if not _is_strict(name):
            warn(
                f"{name.partition('/')[2]} {where}: {instead} as the program makes it. Make it "
                "before fit, in every run alike, and a resume is exact."
            )
    return [f"{name} {where}" for name in names if _is_strict(name)]


def _path(variable: Any) -> str:
    return getattr(variable, "path", None) or str(variable.name)


def stable(path: str) -> str:
    """Return a path without the numbers that Keras gives unnamed layers."""
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
