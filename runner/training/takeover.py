"""The running `fit` of somebody else, taken over when it begins; afterwards all is as it was.

A callback in the list runs before the History that fit adds and sees one epoch less. So the
list's own hooks are replaced, for one fit: each of ours calls the original (all other callbacks)
where it sees fit. A checkpoint therefore holds the others' final state.
"""

from collections.abc import Callable
from typing import Any

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.reading import Restored
from runner.training import frames
from runner.training.data.sources import open_source
from runner.training.fit import Hooks
from runner.training.logs import Logs
from runner.training.loop import Loop, Opened
from runner.training.settings import Settings

_HOOKS = (
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


class ReplacedHooks(Hooks):
    """Replaces the hooks of a callback list until `undo`.

    Args:
        callbacks: the list that fit works with.
        ours: the callback in it that is not anybody's state.
        on_error: called when a replaced hook raises: fit is left by that exception.
    """

    def __init__(self, callbacks: Any, ours: Any, *, on_error: Callable[[], None]) -> None:
        super().__init__(callbacks, ours)
        self._on_error = on_error
        self._originals: dict[str, Callable[..., None]] = {}

    def replace(self, name: str, hook: Callable[..., None]) -> None:
        """Let the list call another hook of that name."""
        self._originals.setdefault(name, getattr(self.callbacks, name))
        setattr(self.callbacks, name, self._guarded(hook))

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


class Takeover:
    """One callback list under our care, from the moment that fit makes it.

    A list of an `evaluate` begins no training, and keeps its own hooks.

    Args:
        callbacks: the list that fit works with.
        ours: the callback in it that is not anybody's state.
        open_checkpoints: gives the checkpointer and what it restored, once fit has begun.
        release: called when the fit is over, however it ended.
        settings: see there.
    """

    def __init__(
        self,
        callbacks: Any,
        ours: Any,
        open_checkpoints: Callable[[], tuple[Checkpointer, Restored | None]],
        release: Callable[[], None],
        settings: Settings,
    ) -> None:
        self._hooks = ReplacedHooks(callbacks, ours, on_error=self._leave)
        self._open_checkpoints = open_checkpoints
        self._release_checkpoints = release
        self._settings = settings
        self.loop: Loop | None = None  #: None before fit begins
        self._hooks.replace("on_train_begin", self._begin)

    def _begin(self, logs: Logs = None) -> None:
        frames.self_test()
        callbacks = self._hooks.callbacks
        fit = frames.fit_in_progress(callbacks)
        self.loop = loop = Loop(self._hooks, fit.model, fit, self._settings, self._open)
        loop.on_train_begin(logs)
        for name in _HOOKS if loop.begun else ():
            self._hooks.replace(name, getattr(loop, name))
        self._hooks.replace("on_train_end", self._end)  # calls the loop's, then releases

    def _open(self, fit: frames.Fit) -> Opened | None:
        warn = self._settings.warn
        source, variables = open_source(fit, warn=warn)
        checkpointer, restored = self._open_checkpoints()
        number = int(restored.python.get("fit", 0)) if restored is not None else 0
        if self._settings.number == 1 and number < 1:
            warn(
                "this is the second fit of this program with this folder. After a kill, those "
                "before the one that was killed are passed over, with an empty History. Give each "
                "fit a backup folder of its own, with delete_checkpoint=False, to have that too."
            )
        if number > self._settings.number:  # several fits use one folder in turn
            fit.begin_at(max(fit.epochs, 1))
            warn(
                f"this fit is passed over: the checkpoint is of this program's fit {number + 1} "
                f"with this folder, and this is fit {self._settings.number + 1}. The model stays "
                "as it is until then. Give each fit a backup folder of its own."
            )
            return None
        return Opened(
            source=source, checkpointer=checkpointer, restored=restored, variables=variables
        )

    def _end(self, logs: Logs = None) -> None:
        if self.loop is not None and self.loop.begun:
            self.loop.on_train_end(logs)
        else:
            self._hooks.call("on_train_end", logs)
        self._release()

    def _leave(self) -> None:
        try:
            if self.loop is not None and self.loop.begun:
                self.loop.capture.leave()
        finally:  # also where Ctrl-C comes once more
            self._release()

    def _release(self) -> None:
        """Let everything be as it was, however fit is left."""
        self._hooks.undo()
        if self.loop is not None:
            self.loop.release()
        self._release_checkpoints()
