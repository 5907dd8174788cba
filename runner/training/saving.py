"""When a checkpoint is due, and what happens while the bucket is slow or away."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.ledger import Snapshot
from runner.checkpoint.manifest import Position, Reference
from runner.checkpoint.policy import Since, fits
from runner.errors import PreemptedError, StoreError, StoreRefusedError
from runner.training.capture import Capture
from runner.training.logs import Logs, numbers
from runner.training.parts import Parts
from runner.training.progress import Progress
from runner.training.settings import Settings

#: of the time that a checkpoint is written in the background, what steps take longer by (measured
#: on two cores; a machine with more of them loses less)
WRITER_SHARE = 0.25
PAUSE_SECONDS = 0.5  #: between two looks whether the bucket is back
PROGRESS_SECONDS = 0.5  #: between two looks at the metrics: each look waits for the device


class Saving:
    """Where a training stands, and what of it is saved.

    Args:
        checkpointer: writes in the background.
        parts: what the training consists of.
        capture: takes snapshots.
        settings: see there.
        fit: the running one.
        position: where the training stands now.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        parts: Parts,
        capture: Capture,
        settings: Settings,
        fit: Any,
        position: Position,
    ) -> None:
        self.checkpointer = checkpointer
        self._parts = parts
        self._capture = capture
        self._settings = settings
        self._fit = fit
        self.position = position
        self.logs: Logs = None  #: of the last step
        self.first_ended_at = 0.0  #: when this process's first step ended; 0: it has not
        self.blocked_seconds: list[float] = []  #: what each checkpoint kept the training waiting
        self._saved, self._saved_at = position, time.monotonic()
        self._wanted = False  # a checkpoint was asked for
        self._audits = 4  # checkpoints at which to look for what is in none
        self._audited = 0  # the epoch of the last one
        self._notes = list(settings.notes)
        self._reported_at = 0.0

    def note(self, text: str) -> None:
        """Say it, now and in the record of the next checkpoint."""
        self._notes.append(text)
        self._settings.warn(text)

    # ------------------------------------------------------------------ after a step

    def after_step(self, *, epoch_end: bool = False, best: bool = False) -> None:
        """Save what is due, and stop if that was asked for.

        Raises:
            PreemptedError: it was; the newest state is saved as far as the time allowed.
            StoreError, LeaseLostError: as the checkpointer says.
        """
        self._capture.record(self.position)
        self.checkpointer.check()
        vouched = self._vouched(epoch_end=epoch_end)
        if vouched and self.checkpointer.overdue:
            self._pause(best=best)
        self._stop_if_asked((lambda: self.save(best=best, wait=True)) if vouched else None)
        self._wanted |= self._settings.host.take_save_request()
        due = self.checkpointer.behind or self._settings.every.due(self._since(epoch_end))
        if (best and not self._parts.exchanged) or (vouched and (due or self._wanted)):
            self.save(best=best)

    def _vouched(self, *, epoch_end: bool = False) -> bool:
        """Whether a fresh program could take up the state of now."""
        return (epoch_end or self._capture.source.mid_epoch) and not self.exchanged()

    def _stop_if_asked(self, save: Callable[[], object] | None) -> None:
        if reason := self._settings.host.should_stop():
            if save is not None and self._fits():
                save()
            raise self._preempted(reason)

    def exchanged(self) -> bool:
        """Say once what a callback has exchanged: a fresh program could not take its state back."""
        known = bool(self._parts.exchanged)
        exchanged = self._parts.look()
        if exchanged and not known:
            saved = self.checkpointer.last_committed
            self._settings.warn(
                f"a callback has exchanged {', '.join(exchanged)} in mid-training. No later "
                "state can be saved, since the program does not build it: a resume goes back to "
                f"step {saved.step if saved else 0} and comes here again, exactly. Train in "
                "several fits, each with a backup folder of its own, to lose less."
            )
        return bool(exchanged)

    def _fits(self) -> bool:
        """Whether the newest state can be saved in the time left; else wait for what is begun."""
        left = self._settings.host.seconds_left
        expected = self.checkpointer.expected_seconds
        if fits(expected_seconds=expected, left_seconds=left):
            return True
        self._settings.warn(
            f"the newest state is not saved: that takes about {expected:.0f} s,"
            f" and {max(left or 0.0, 0.0):.0f} s are left"
        )
        with contextlib.suppress(StoreError):  # it is released all the same
            self.checkpointer.wait(max(left or 0.0, 0.0))
        return False

    def _pause(self, *, best: bool) -> None:
        """Wait for a bucket that is away or slow, so that no more work than agreed is at stake."""
        step = self.position.global_step
        self._settings.warn(f"paused at step {step}: {self.checkpointer.overdue}")
        with self._settings.host.spent.during("bucket"):
            while self.checkpointer.overdue and not self._settings.host.should_stop():
                if not self.checkpointer.busy:
                    self.save(best=best)
                time.sleep(PAUSE_SECONDS)
                self.checkpointer.check()
                self.report("train", self.logs)
        self._settings.warn(f"resumed at step {step}")

    def _since(self, epoch_end: bool) -> Since:
        return Since(
            steps=self.position.global_step - self._saved.global_step,
            epochs=self.position.epoch - self._saved.epoch,
            seconds=time.monotonic() - self._saved_at,
            epoch_end=epoch_end,
            cost_seconds=self._cost_seconds,
        )

    @property
    def _cost_seconds(self) -> float:
        """What the last checkpoint cost the training: its stall, and its writer's share."""
        blocked = self.blocked_seconds[-1] if self.blocked_seconds else 0.0
        return blocked + WRITER_SHARE * self.checkpointer.write_seconds

    def _preempted(self, reason: str | None) -> PreemptedError:
        saved = self.checkpointer.last_committed
        step = saved.step if saved else 0
        return PreemptedError(f"stopped ({reason or 'no time left'}); saved at step {step}.")

    # ------------------------------------------------------------------ in a validation

    def hold(self) -> Snapshot | None:
        """Return the state before a validation, if a stop within it can save that."""
        return self._snapshot() if self._vouched() else None

    def after_validation_step(self, before: Snapshot | None) -> None:
        """Stop at once if that was asked for; the validation is repeated after the resume.

        Raises:
            PreemptedError, StoreError, LeaseLostError: as `after_step`.
        """
        self.checkpointer.check()
        self._stop_if_asked(None if before is None else lambda: self._save_before(before))

    def _save_before(self, snapshot: Snapshot) -> None:
        self.checkpointer.save(snapshot, wait=True, seconds=self._settings.host.seconds_left)

    # ------------------------------------------------------------------ saving

    def _snapshot(self) -> Snapshot:
        snapshot = self._capture.snapshot(self.position, self.logs, tuple(self._notes))
        snapshot.time = self._settings.host.spent.reading()
        return snapshot

    def save(self, *, best: bool = False, wait: bool = False) -> None:
        """Save the state of now, unless an earlier one is still being written.

        Raises:
            PreemptedError: with `wait`, where it was not committed in the time left.
        """
        if self.checkpointer.busy and not (best or wait):
            return  # it stays due, and is taken a step later
        with self._settings.host.spent.during("save"):
            self._save(best=best, wait=wait)

    def _save(self, *, best: bool, wait: bool) -> None:
        started = time.perf_counter()
        self._audit()
        snapshot = self._snapshot()
        left = self._settings.host.seconds_left
        taken = self.checkpointer.save(snapshot, best=best, wait=wait, seconds=left)
        if wait and not taken:  # what is committed too late must not count as the end of a fit
            raise self._preempted(self._settings.host.should_stop())
        if not wait:
            self.blocked_seconds.append(time.perf_counter() - started)
        if taken:
            self._saved, self._saved_at = self.position, time.monotonic()
            self._wanted = False
            self._notes = []

    def _audit(self) -> None:
        """Look for what is in no checkpoint: twice after the first step, once in two more epochs.

        Later, `Parts.look` does so now and then.
        """
        if not self.first_ended_at or not self._audits:
            return
        if self._audits > 2 or self.position.epoch > self._audited:
            self._audits -= 1
            self._audited = self.position.epoch
            self._parts.look_for_new()

    def save_last(self) -> Reference | None:
        """Commit the final state, however long the bucket is away: nothing else is left to do."""
        while True:
            try:
                self.save(wait=True)
                return self.checkpointer.last_committed
            except StoreRefusedError:
                raise
            except StoreError as error:
                if not self._settings.waits or self._settings.host.should_stop():
                    raise
                self._settings.warn(f"the training has ended, its last state is unsaved: {error}")
                with self._settings.host.spent.during("bucket"):
                    time.sleep(PAUSE_SECONDS)

    # ------------------------------------------------------------------ for people

    @property
    def unsaved_seconds(self) -> float:
        """Seconds of training that would be repeated if the machine died now."""
        saved = self.checkpointer.last_committed
        if saved is None or saved.step == self.position.global_step:
            return 0.0
        # what came before the first step, importing and tracing, is no training that could be lost
        trained = time.monotonic() - self.first_ended_at
        return min(self.checkpointer.unsaved_seconds, trained)

    def report(
        self, stage: str, logs: Logs, *, validation_steps: int = 0, force: bool = False
    ) -> None:
        """Report how far it is, now and then."""
        now = time.monotonic()
        due = force or now - self._reported_at >= PROGRESS_SECONDS
        if not (due and self._settings.reports):
            return
        self._reported_at = now
        validating = stage == "validate"
        prefix = "val_" if validating else ""
        self._settings.host.progressed(
            Progress(
                stage=stage,
                epoch=self.position.epoch,
                epochs=self._fit.epochs,
                step=validation_steps if validating else self.position.step,
                steps=0 if validating else self._fit.steps or 0,
                global_step=self.position.global_step,
                batch_size=self._capture.source.batch_size or 0,
                metrics={f"{prefix}{k}": v for k, v in numbers(logs).items()},
                interval=self._settings.every.describe(self._cost_seconds),
                unsaved_seconds=self.unsaved_seconds,
            )
        )
