"""A thread that writes checkpoints in the background, one at a time, while the training runs.

It has patience with a bucket that is away, and knows no jobs: what counts is the ledger's matter.

Memory: a snapshot refers to the training's own buffers; while it is written, TensorFlow puts new
values into new buffers, so at most one extra copy of the state exists. On JAX it is that copy, made
on the device and freed tensor by tensor; a validation holds another until it ends. While a write
is under way a further snapshot is refused (and taken a step later), not queued: where the bucket is
slower than the interval, the interval stretches. Only a best checkpoint may wait, and the final
one.

While the bucket is away, a plain write that failed is given up for one of the newest state. A best
one stays pending, and nothing is committed before it: else a later state would remember a best
checkpoint that does not exist. `overdue` says when too much is unsaved to continue.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from runner.checkpoint.ledger import Ledger, Snapshot
from runner.checkpoint.manifest import Manifest, Reference
from runner.checkpoint.reading import Restored
from runner.errors import CheckpointError, LeaseLostError, StoreError, StoreRefusedError

logger = logging.getLogger(__name__)


@dataclass
class _Request:
    snapshot: Snapshot
    best: bool


class Checkpointer:
    """A thread that writes the checkpoints of one job.

    Args:
        ledger: of the job, under its lease.
        patience_seconds: while the bucket fails in ways that pass, nothing is raised, and
            `overdue` once this much work is unsaved; 0: a failure surfaces at the next call.
        warn: gets what people should know (the bucket is away).
        on_committed: gets what counts now, in the background; what it raises ends the write.

    Example:
        >>> import numpy as np
        >>> from runner.checkpoint.manifest import Position
        >>> from runner.store.filesystem import open_store
        >>> store = open_store("/tmp/jobs")
        >>> ledger = Ledger(store, "jobs/a", token=1, commit=lambda _: None)
        >>> saver = Checkpointer(ledger)
        >>> state = [("weights", np.ones(3))]
        >>> saver.save(Snapshot(tensors=state, python={}, position=Position()), wait=True)
        True
        >>> saver.ledger.restore().tensors["weights"]
        array([1., 1., 1.])
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        patience_seconds: float = 0.0,
        warn: Callable[[str], None] = logger.warning,
        on_committed: Callable[[Manifest], None] = lambda _: None,
    ) -> None:
        self.ledger = ledger
        self._patience = patience_seconds
        self._warn = warn
        self._on_committed = on_committed
        self._wake = threading.Condition()
        self._waiting: _Request | None = None
        self._writing: _Request | None = None
        self._error: BaseException | None = None
        self._pending: _Request | None = None  # a best that failed: nothing is committed before it
        self._closed = False
        self._thread: threading.Thread | None = None
        self._saved_until = time.monotonic()  # the moment up to which work is committed
        self._began_at = 0.0  # the write under way
        self._given_up = False  # nothing is committed any more
        self.write_seconds = 0.0  #: what the last write took, in the background

    # ------------------------------------------------------------------ what is known

    @property
    def last_committed(self) -> Reference | None:
        """The newest checkpoint that counts."""
        return self.ledger.newest

    def restore(self) -> Restored | None:
        """Return the newest checkpoint that verifies; see `Ledger.restore`."""
        return self.ledger.restore()

    @property
    def unsaved_seconds(self) -> float:
        """Seconds of work that a death right now would repeat."""
        return time.monotonic() - self._saved_until

    @property
    def overdue(self) -> str | None:
        """Why the training has to wait: too much of it is unsaved, and the bucket fails or lags."""
        unsaved = self.unsaved_seconds
        with self._wake:
            if not 0 < self._patience <= unsaved or not (self._writing or self._error):
                return None
            why = str(self._error) if self._error else "a checkpoint is still being written"
        return f"{unsaved:.0f} s of training are unsaved: {why}"

    @property
    def behind(self) -> bool:
        """Whether the last write failed, so that the next is due at once."""
        with self._wake:
            return self._error is not None and self._writing is None

    def check(self) -> None:
        """Raise what went wrong in the background since the last call, if anything did."""
        with self._wake:
            error = None if self._is_patient(self._error) else self._taken_error()
        if error is not None:
            raise error

    def _taken_error(self) -> BaseException | None:
        error = self._error
        if not isinstance(error, LeaseLostError):
            self._error = None  # raised once; the next save tries again
        return error

    def _is_patient(self, error: BaseException | None) -> bool:
        transient = isinstance(error, StoreError) and not isinstance(error, StoreRefusedError)
        return transient and self._patience > 0

    # ------------------------------------------------------------------ saving

    @property
    def busy(self) -> bool:
        """Whether a plain `save` would be refused now."""
        with self._wake:
            return self._writing is not None

    @property
    def expected_seconds(self) -> float:
        """Seconds until a checkpoint that is begun now is committed, judged by the last one."""
        with self._wake:
            ahead = 0.0
            if self._writing is not None:
                ahead = max(0.0, self.write_seconds - (time.monotonic() - self._began_at))
            if self._waiting is not None:
                ahead += self.write_seconds
            return ahead + self.write_seconds

    def save(
        self,
        snapshot: Snapshot,
        *,
        best: bool = False,
        wait: bool = False,
        seconds: float | None = None,
    ) -> bool:
        """Write a checkpoint in the background.

        Args:
            snapshot: the state; its tensors must not change (hold references or copies).
            best: mark it as the best so far; it is written for sure, after one under way.
            wait: return only when it is committed.
            seconds: wait no longer than this; it may be committed later.

        Returns:
            False if it was refused because another comes first: try again a step later. With
            `wait`: if it is not committed in time.

        Raises:
            LeaseLostError: the job has another owner; nothing more is written.
            StoreError: an earlier write failed, or this one with `wait`.
        """
        self.check()
        urgent = best or wait
        with self._wake:
            if self._closed:
                raise CheckpointError("the checkpointer is closed: nothing can be saved.")
            if self._writing is not None and not urgent:
                return False
            if wait and not self._wake.wait_for(lambda: self._waiting is None, seconds):
                return False
            pending = None if urgent else self._pending  # it goes first, so that one copy is held
            self._waiting = pending or _Request(snapshot, best)  # one that waits gives way
            if self._writing is None:
                self._writing, self._waiting = self._waiting, None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
                self._thread.start()
            self._wake.notify_all()
        return self.wait(seconds) if wait else pending is None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until everything is committed, or for so many seconds; whether it is.

        Raises:
            LeaseLostError, StoreError: as `save`.
        """
        with self._wake:
            if not self._wake.wait_for(lambda: self._writing is None, seconds):
                return False
            error = self._taken_error()
        if error is not None:
            raise error
        return True

    def close(self, seconds: float | None = None) -> None:
        """Finish what is under way and end the thread; errors are only logged.

        Args:
            seconds: give up what is not committed by then; None: however long it takes.
        """
        with self._wake:
            self._closed = True
            self._wake.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(None if seconds is None else max(0.0, seconds))
            self._given_up = thread.is_alive()
            if self._given_up:
                logger.warning("no time is left for the checkpoint under way: it is given up")
        if self._error is not None:
            logger.warning("the last checkpoint was not written: %s", self._error)

    def _run(self) -> None:
        while (request := self._next()) is not None:
            started = self._began_at = time.monotonic()
            error = self._tried(request)
            with self._wake:
                self.write_seconds = time.monotonic() - started
                self._error = error
                if isinstance(error, LeaseLostError):
                    self._waiting = None
                self._writing, self._waiting = self._waiting, None
                self._wake.notify_all()
            del request

    def _next(self) -> _Request | None:
        with self._wake:
            self._wake.wait_for(lambda: self._writing is not None or self._closed)
            return self._writing

    def _tried(self, request: _Request) -> BaseException | None:
        try:
            if self._pending is not None and not request.best:
                self._write(self._pending)
            self._write(request)
        except BaseException as error:  # noqa: BLE001 - it is raised where the training sees it
            if self._is_patient(error):
                self._pending = request if request.best else self._pending
                self._warn(f"a checkpoint could not be written yet: {error}")
            return error
        return None

    def _write(self, request: _Request) -> None:
        snapshot = request.snapshot
        manifest = self.ledger.write(snapshot, best=request.best, given_up=lambda: self._given_up)
        self._pending = None
        with self._wake:
            self._saved_until = snapshot.taken_at
        self.ledger.collect()
        self._on_committed(manifest)
