"""The running `fit`, taken over when it begins; afterwards all is as it was."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.manifest import Position, Reference
from runner.checkpoint.reading import Restored
from runner.training import private
from runner.training.capture import Capture
from runner.training.data.sources import check_validation, source_of
from runner.training.hooks import HOOKS, Hooks
from runner.training.logs import Logs
from runner.training.loop import Loop
from runner.training.parts import Parts
from runner.training.saving import Saving
from runner.training.settings import Settings
from runner.training.state import reach
from runner.training.state.observers import Observers

Opened = tuple[Checkpointer, Restored | None]


class Takeover:
    """One callback list under our care, from the moment that fit makes it.

    A list of an `evaluate` begins no training, and keeps its own hooks.

    Args:
        callbacks: the list that fit works with.
        ours: the callback in it that is not anybody's state.
        open_checkpoints: gives the checkpointer and what it restored, once fit has begun.
        settings: see there.
    """

    def __init__(
        self, callbacks: Any, ours: Any, open_checkpoints: Callable[[], Opened], settings: Settings
    ) -> None:
        self._hooks = Hooks(callbacks, ours, on_error=self._release)
        self._open = open_checkpoints
        self._settings = settings
        self._parts: Parts | None = None
        self.loop: Loop | None = None  #: None before fit begins, and in one that is passed over
        self._hooks.replace("on_train_begin", self._begin)

    def _begin(self, logs: Logs = None) -> None:
        private.self_test()
        callbacks, others = self._hooks.callbacks, self._hooks.others
        model, warn, settings = callbacks.model, self._settings.warn, self._settings
        fit = private.fit_in_progress(callbacks)
        # as the program gave them
        observers = Observers(others, warn=warn, extra=reach.program_parts(model))
        self._hooks.call("on_train_begin", logs)
        observers.begin()
        source = source_of(model, fit, warn=warn)
        data = {"data": source.variables(), "validation data": check_validation(fit, warn=warn)}
        checkpointer, restored = self._open()
        if restored is not None and self._belongs_to_a_later_fit(restored, model, fit):
            self._hooks.replace("on_train_end", self._end)
            return
        roots = [*((type(other).__name__, other) for other in others), *data.items()]
        ours = [self._hooks.ours, callbacks]
        self._parts = parts = Parts(model, fit, roots=roots, ours=ours, warn=warn)
        parts.prepare(restored, source)
        if settings.recorder is not None:
            settings.recorder.begin(model, fit, others)
        capture = Capture(self._hooks, parts, observers, source, settings, fit)
        parts.begin(observers.covered())
        position = replace(settings.start, epoch=fit.initial_epoch)
        notes: list[str] = []
        if restored is not None:
            position, notes = capture.begin(restored)
        saving = Saving(checkpointer, parts, capture, settings, fit, position)
        self.loop = loop = Loop(self._hooks, parts, capture, saving, settings, fit)
        for note in notes:
            saving.note(note)
        if restored is not None:
            loop.resume(restored)
        for name in HOOKS:
            self._hooks.replace(name, getattr(loop, name))
        self._hooks.replace("on_train_end", self._end)  # calls the loop's, then lets go
        saving.report("train", None, force=True)

    def _belongs_to_a_later_fit(self, restored: Restored, model: Any, fit: Any) -> bool:
        """Pass over a fit that had ended before the kill: several use one folder in turn."""
        number = int(restored.python.get("fit", 0))
        if number <= self._settings.number:
            return False
        private.set_first_epoch(model, max(fit.epochs, 1))
        self._settings.warn(
            f"this fit is passed over: the checkpoint is of this program's fit {number + 1} "
            f"with this folder, and this is fit {self._settings.number + 1}. The model stays "
            "as it is until then. Give each fit a backup folder of its own."
        )
        return True

    def _end(self, logs: Logs = None) -> None:
        private.set_first_epoch(self._hooks.callbacks.model, None)
        if self.loop is not None:
            self.loop.on_train_end(logs)
        else:
            self._hooks.call("on_train_end", logs)
        self._release()

    def _release(self) -> None:
        """Let everything be as it was, however fit is left."""
        self._hooks.undo()
        private.set_first_epoch(self._hooks.callbacks.model, None)
        if self.loop is not None:
            self.loop.release()
        if self._parts is not None:
            self._parts.release()
        self._settings.release()

    # ------------------------------------------------------------------ what is known

    @property
    def final(self) -> Reference | None:
        """The state after the training, committed."""
        return self.loop.final if self.loop is not None else None

    @property
    def position(self) -> Position:
        """Where the training stands."""
        return self.loop.saving.position if self.loop is not None else self._settings.start

    @property
    def history(self) -> dict[str, list[Any]]:
        """Every metric of every epoch."""
        loop = self.loop
        return loop.capture.history() if loop is not None else dict(self._settings.history)

    @property
    def epoch_times(self) -> list[float]:
        """When each epoch ended."""
        loop = self.loop
        return list((loop.capture if loop is not None else self._settings).epoch_times)

    @property
    def blocked_seconds(self) -> list[float]:
        """How long each checkpoint kept the training waiting."""
        return list(self.loop.saving.blocked_seconds) if self.loop is not None else []
