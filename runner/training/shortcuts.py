"""Steps without what Keras and its backend do again at every one of them.

The same graph computes the same bits; only the way to it is shorter. Of MyInception's step that
is 1.8 ms under TensorFlow, which looks its graph up by all captured variables, and more than that
under JAX, where Keras wraps each array of the state for its book of layers and variables.
"""

from typing import TYPE_CHECKING, Any

from runner.training import backends

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
            shorter = backends.current().shortcut(cell.cell_contents)
            if shorter is not None:
                self._taken.append((cell, cell.cell_contents))
                cell.cell_contents = shorter

    def undo(self) -> None:
        """Let everything be as it was."""
        while self._taken:
            cell, original = self._taken.pop()
            cell.cell_contents = original
