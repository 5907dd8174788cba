"""The hooks of a running fit's callback list: our part comes after all other callbacks'.

A callback in the list runs before the History that fit adds and sees one epoch less. So the
list's own hooks are replaced, for one fit: each of ours calls the original (all other callbacks)
where it sees fit. A checkpoint therefore holds the others' final state.
"""

from collections.abc import Callable
from typing import Any

HOOKS = (
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_test_end",
)


class Hooks:
    """Replaces the hooks of a callback list until `undo`.

    Args:
        callbacks: the list that fit works with.
        ours: the callback in it that is not anybody's state.
        on_error: called when a replaced hook raises: fit is left by that exception.
    """

    def __init__(self, callbacks: Any, ours: Any, *, on_error: Callable[[], None]) -> None:
        self.callbacks = callbacks
        self.ours = ours
        self._on_error = on_error
        self._originals: dict[str, Callable[..., None]] = {}

    def replace(self, name: str, hook: Callable[..., None]) -> None:
        """Let the list call another hook of that name."""
        self._originals.setdefault(name, getattr(self.callbacks, name))
        setattr(self.callbacks, name, self._guarded(hook))

    @property
    def others(self) -> list[Any]:
        """All callbacks but ours."""
        return [c for c in self.callbacks.callbacks if c is not self.ours]

    def call(self, name: str, *args: Any) -> None:
        """Call a hook of all other callbacks."""
        self._originals[name](*args)

    def undo(self) -> None:
        """Give the list its own hooks back."""
        for name, original in self._originals.items():
            setattr(self.callbacks, name, original)

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            try:
                hook(*args, **kwargs)
            except BaseException:
                self._on_error()
                raise

        return call
