"""Steps without what Keras and its backend do again at every one of them.

The same graph computes the same bits; only the way to it is shorter. Of MyInception's step that
is 1.8 ms under TensorFlow, which looks its graph up by all captured variables, and more than that
under JAX, where Keras wraps each array of the state for its book of layers and variables.
Only `Loop` knows this module; without it everything is the same, and slower.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CellType


class Shortcuts:
    """Puts shorter ways into the functions with which Keras trains and tests, and takes them out.

    Keras's functions stay as they are: what is exchanged is what they call, in their closures.
    """

    def __init__(self) -> None:
        self._taken: list[tuple[CellType, Any]] = []

    def take(self, function: Any) -> None:
        """Shorten a model's `train_function` or `test_function`, if it is Keras's own."""
        if not str(getattr(function, "__module__", "")).startswith("keras."):
            return
        for cell in getattr(function, "__closure__", None) or ():
            shorter = shortcut(cell.cell_contents)
            if shorter is not None:
                self._taken.append((cell, cell.cell_contents))
                cell.cell_contents = shorter

    def undo(self) -> None:
        """Let everything be as it was."""
        while self._taken:
            cell, original = self._taken.pop()
            cell.cell_contents = original


def shortcut(called: Any) -> Callable[..., Any] | None:
    """Return what does the same with less work, for what a step calls; None if nothing does."""
    tensorflow, jax = sys.modules.get("tensorflow"), sys.modules.get("jax")
    if tensorflow and isinstance(called, tensorflow.types.experimental.PolymorphicFunction):
        return Direct(called, tensorflow) if _takes(called.python_function, 1) else None
    if jax and isinstance(called, jax.stages.Wrapped):
        return _with_plain_state(called) if _takes(called, 2) else None
    return None


def _takes(function: Any, count: int) -> bool:
    """Check that Keras calls it as these shortcuts are called; else all stays as it is."""
    return len(inspect.signature(function).parameters) == count


class Direct:
    """A traced function of an iterator that looks its graph up once, not at every call.

    Args:
        function: a `tf.function`. A call unlike the one before, or without an iterator, goes
            through it.
        tensorflow: the module.
    """

    def __init__(self, function: Any, tensorflow: Any) -> None:
        self._function = function
        self._tensorflow = tensorflow
        self._spec: Any = None  #: of the iterator of the last call
        self._graph: Any = None

    def __call__(self, iterator: Any) -> Any:
        """Call the function."""
        tf = self._tensorflow
        if not isinstance(iterator, tf.data.Iterator) or tf.config.functions_run_eagerly():
            return self._function(iterator)
        spec = iterator.element_spec
        if spec != self._spec:  # it is traced by this call, if need be
            self._spec, self._graph = spec, None
            return self._function(iterator)
        if self._graph is None:
            self._graph = self._function.get_concrete_function(iterator)
        return self._graph(iterator)

    def __getattr__(self, name: str) -> Any:
        """Be the function in all else."""
        return getattr(self._function, name)


class Untracked(Sequence[Any]):
    """Arrays that Keras does not look through.

    Between two steps fit makes the state an attribute of the model, and in attributes of its
    own types Keras looks for layers and variables: one array after the other, at every step.
    """

    def __init__(self, arrays: Sequence[Any]) -> None:
        self.arrays = arrays

    def __getitem__(self, place: Any) -> Any:
        return self.arrays[place]

    def __len__(self) -> int:
        return len(self.arrays)


def _with_plain_state(called: Any) -> Callable[[Any, Any], Any]:
    """Return a compiled step of JAX's whose state costs fit no time."""

    def step(state: Any, data: Any) -> Any:
        plain = tuple(part.arrays if isinstance(part, Untracked) else part for part in state)
        logs, state = called(plain, data)
        return logs, tuple(Untracked(part) if isinstance(part, list) else part for part in state)

    return step
