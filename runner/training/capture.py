"""One moment of a training as a checkpoint holds it, and back."""

from typing import Any

import keras

from runner.checkpoint.ledger import Snapshot
from runner.checkpoint.manifest import Position
from runner.checkpoint.plain import decode
from runner.checkpoint.reading import Restored
from runner.training import numerics, private
from runner.training.changes import (
    RATE,
    description,
    keeps_rate,
    leave_rate,
    left_rate,
    place,
)
from runner.training.changes import differences as program_differences
from runner.training.data.passes import Source
from runner.training.fit import Hooks
from runner.training.logs import Logs, finite, plain_logs
from runner.training.parts import Parts
from runner.training.settings import Settings
from runner.training.state.observers import Observers
from runner.training.state.variables import split_replica


class Capture:
    """Takes snapshots of a training, and applies what was restored.

    Args:
        hooks: of the running fit.
        parts: what the training consists of, prepared.
        observers: the state of its callbacks.
        source: of its batches.
        settings: see there.
        fit: the running one.
    """

    def __init__(
        self,
        hooks: Hooks,
        parts: Parts,
        observers: Observers,
        source: Source,
        settings: Settings,
        fit: Any,
    ) -> None:
        self._callbacks = hooks.callbacks
        self._parts = parts
        self._observers = observers
        self.source = source
        self._settings = settings
        self._history = next(
            (c for c in hooks.others if isinstance(c, keras.callbacks.History)),
            keras.callbacks.History(),
        )
        self._before = dict(settings.history)
        self.epoch_times: list[float] = list(settings.epoch_times)  #: when each ended
        self._numerics = {**numerics.fingerprint(parts.model), **source.fingerprint()}
        self._program = description(parts.model, fit, source)
        self._program |= left_rate(parts.model.optimizer, self._program)

    def snapshot(self, position: Position, logs: Logs, notes: tuple[str, ...]) -> Snapshot:
        """Return the state of now; nothing that the training does changes it."""
        private.flush(self._callbacks)  # the others' state is to be of this step
        tensors = self._parts.variables.snapshot()
        python, arrays = self._observers.capture()
        python |= {
            "logs": plain_logs(logs),
            "source": self.source.to_json(position),
            "fit": self._settings.number,
            "attributes": self._parts.attributes.capture(),
            "baked": self._parts.tracing.baked,
            "tracing": self._parts.tracing.to_json(),
            "program": self._program,
            "best": self._settings.best.to_json() if self._settings.best else None,
            "history_before": dict(self._before),
            "epoch_times": list(self.epoch_times),
        }
        return Snapshot(
            tensors=[*tensors, *arrays],
            python=python,
            position=position,
            history=self.history(),
            numerics=self._numerics,
            notes=notes,
        )

    def history(self) -> dict[str, list[float | None]]:
        """Return every metric of every epoch, those of the fits before this one included."""
        here = {k: [finite(v) for v in vs] for k, vs in self._history.history.items()}
        names = dict.fromkeys([*self._before, *here])
        return {k: [*self._before.get(k, ()), *here.get(k, ())] for k in names}

    def record(self, position: Position, *, restored: bool = False) -> None:
        """Write the step down, if the drill has asked for that."""
        if self._settings.recorder is not None:
            snapshot = self._parts.variables.snapshot()
            self._settings.recorder.record(position, snapshot, restored=restored)

    def leave(self) -> None:
        """Take note of what this fit, which is interrupted, leaves to the next of this process."""
        if self._observers is not None:  # an exception may pass several hooks on its way
            self._observers.leave()
            leave_rate(self._parts.model.optimizer, self._program)

    def release(self) -> None:
        """Hold the callbacks no longer."""
        self._observers = None  # type: ignore[assignment]

    # ------------------------------------------------------------------ resuming

    def begin(self, restored: Restored) -> tuple[Position, list[str]]:
        """Check that a checkpoint belongs to this program.

        Returns:
            Where it is to be resumed, and in words what has changed since.

        Raises:
            OtherModelError: it is of another model or optimizer.
        """
        self._parts.variables.check(self._parts.state_of(restored), self._settings.warn)
        self.source.from_json(restored.python.get("source"))
        program = restored.python.get("program") or {}
        position, moved = place(restored.position, program, self._program)
        notes = []
        saved, current = dict(restored.numerics), dict(self._numerics)
        was, now = (one.pop("code", "none") for one in (saved, current))
        if was != now:
            notes.append(f"continued on different code: {was} -> {now}")
        if changed := numerics.differences(saved, current):
            notes.append(f"continued on different numerics: {'; '.join(changed)}")
        others = program_differences(program, self._program)
        if RATE in program and not self._keeps_rate(restored):
            others = [text for text in others if not text.startswith(RATE)]
        if others:
            notes.append(f"continued with other settings: {'; '.join(others)}")
        return position, list(filter(None, [*notes, moved]))

    def apply(self, restored: Restored, position: Position) -> None:
        """Set everything to what a checkpoint holds."""
        but = self._rate_names if self._keeps_rate(restored) else []
        self._parts.variables.assign(self._parts.state_of(restored), but=but)
        self._observers.restore(restored.python, restored.tensors)
        attributes = restored.python.get("attributes") or {}
        self._parts.attributes.restore(attributes)
        self._parts.tracing.resume(attributes)
        self._before = dict(restored.python.get("history_before") or {})
        self.epoch_times = list(restored.python.get("epoch_times") or [])
        if self._settings.best is not None:
            self._settings.best.from_json(restored.python.get("best"))
        self.record(position, restored=True)

    @property
    def _rate_names(self) -> list[str]:
        """The optimizer's rate, on each replica."""
        names = [name for name in self._parts.variables.names if name.startswith("optimizer/")]
        return [name for name in names if split_replica(name)[0].endswith("/learning_rate")]

    def _keeps_rate(self, restored: Restored) -> bool:
        """Whether the program's learning rate counts: the training had left it as it was given."""
        saved = self._parts.state_of(restored).get(next(iter(self._rate_names), ""))
        program = restored.python.get("program") or {}
        return saved is not None and keeps_rate(program, self._program, saved)


def saved_logs(restored: Restored) -> dict[str, Any]:
    """Return the logs of the step after which a checkpoint was taken."""
    logs: dict[str, Any] = decode(restored.python["logs"], restored.tensors.__getitem__)
    return logs
