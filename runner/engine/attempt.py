"""What one attempt leaves behind besides its checkpoints: a heartbeat and a log.

The heartbeat runs in a thread of its own, so that a long step, a trace or a
validation does not look like a dead worker. It also reads the next number of the
job's log: a takeover or a cancel shows within one beat. While the bucket is away
the training goes on; what it may not do is decided by tokens, not by heartbeats.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from runner.engine.pace import Vigil
from runner.errors import LeaseLostError, StoreError
from runner.queue.lease import Lease
from runner.queue.texts import decimal
from runner.store.base import Store
from runner.training.progress import Progress

logger = logging.getLogger(__name__)

HEAD_BYTES = 64 * 1024  #: kept of an attempt's log from its beginning
TAIL_BYTES = 192 * 1024  #: and from its end
KEPT_ATTEMPTS = 50  #: at least so many keep their log, traceback and heartbeat
JOIN_SECONDS = 2.0  #: for a beat under way when an attempt ends
LEFT_OUT = b"[... lines left out ...]\n"
#: of a progress, in a heartbeat: for people
_DETAILS = (
    "stage", "epochs", "step", "steps", "batch_size", "steps_per_second", "interval", "eta_seconds"
)  # fmt: skip


class AttemptLog:
    """Lines of one attempt, mirrored to `jobs/<id>/logs/<token>.log`, bounded in size."""

    def __init__(self, store: Store, job_id: str, token: int) -> None:
        self._store = store
        self._key = log_key(job_id, token)
        self._lock = threading.Lock()
        self._head = bytearray()
        self._tail = bytearray()
        self._cut = False
        self._dirty = False
        self._epoch: int | None = None  # as last reported

    def write(self, text: str) -> None:
        """Append a line, stamped with the time in UTC."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        data = "".join(f"{stamp} {line}\n" for line in text.splitlines() or [""]).encode()
        with self._lock:
            self._dirty = True
            if not self._tail and len(self._head) + len(data) <= HEAD_BYTES:
                self._head += data
                return
            self._tail += data
            if len(self._tail) > TAIL_BYTES:
                keep = self._tail.find(b"\n", len(self._tail) - TAIL_BYTES // 2) + 1
                del self._tail[:keep]
                self._cut = True

    def progressed(self, progress: Progress) -> None:
        """Note where a training begins, and the metrics of each epoch that has ended."""
        if progress.stage != "train":
            return
        if self._epoch is None:
            self.write(f"training begins at step {progress.global_step}")
        elif progress.epoch > self._epoch:
            metrics = "  ".join(
                f"{name} {decimal(value)}" for name, value in progress.metrics.items()
            )
            self.write(f"epoch {progress.epoch}/{progress.epochs}: {metrics}")
        self._epoch = progress.epoch

    def flush(self) -> None:
        """Bring the bucket up to date, if there is news."""
        with self._lock:
            if not self._dirty:
                return
            gap = LEFT_OUT if self._cut else b""
            data = bytes(self._head + gap + self._tail)
            self._dirty = False
        try:
            self._store.put(self._key, data)
        except StoreError:
            self._dirty = True
            raise


def log_key(job_id: str, token: int) -> str:
    """Where the log of the attempt with this token lies."""
    return f"jobs/{job_id}/logs/{token:06d}.log"


def trace_key(job_id: str, token: int) -> str:
    """Where the traceback of the attempt with this token lies."""
    return f"jobs/{job_id}/failures/{token:06d}.txt"


def remove_old(store: Store, job_id: str, token: int) -> None:
    """Remove what attempts long ago left for people, once in `KEPT_ATTEMPTS` attempts."""
    if token % KEPT_ATTEMPTS:
        return
    for folder in ("logs", "failures", "lease"):
        for key in store.list(f"jobs/{job_id}/{folder}/"):
            number = key.rpartition("/")[2].partition(".")[0]
            if number.isdecimal() and int(number) <= token - KEPT_ATTEMPTS:
                store.delete(key)


def _warn(text: str, *values: object) -> None:
    with suppress(Exception):  # whoever is told may fail too: a terminal that was closed
        logger.warning(text, *values)


class Heartbeat:
    """Renews a lease until it is closed; knows when the lease is lost.

    Args:
        lease: what is renewed.
        log: flushed at each beat.
        interval_seconds: between beats; several fit into the lease's duration.
        on_beat: called after each, in its thread; may raise StoreError.
        on_lost: called once when the lease is lost, in its thread.
        stalled_seconds: of silence after which `on_stalled` is called; None: never.
        on_stalled: called once, in its thread.
    """

    def __init__(
        self,
        lease: Lease,
        log: AttemptLog,
        *,
        interval_seconds: float,
        on_beat: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        stalled_seconds: float | None = None,
        on_stalled: Callable[[], None] = lambda: None,
    ) -> None:
        self._lease = lease
        self._log = log
        self._interval = interval_seconds
        self._on_beat = on_beat
        self._on_lost = on_lost
        self._stalled_seconds = stalled_seconds
        self._on_stalled = on_stalled
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.lost: LeaseLostError | None = None
        self._progress = Progress(stage="start")
        self._vigil = Vigil()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        # one that hangs in a bucket that hangs must not cost the time for the release
        self._thread.join(timeout=JOIN_SECONDS)

    def moved(self, progress: Progress) -> None:
        """Take what the next beat reports."""
        self._progress = progress
        self._vigil.moved(progress)

    def check(self) -> None:
        """Raise what the heartbeat found out.

        Raises:
            LeaseLostError: the job belongs to another worker, or was cancelled.
        """
        if self.lost is not None:
            raise self.lost

    def _run(self) -> None:
        while True:
            away = False
            try:
                if self.lost is None:
                    self._beat()
                    self._on_beat()
            except LeaseLostError as error:
                self.lost = error
                self._on_lost()
            except StoreError as error:
                away = True  # the training may be waiting for the bucket as well
                _warn("the heartbeat could not be written, trying again: %s", error)
            except Exception as error:  # noqa: BLE001 - without beats the job is another's soon
                _warn("a heartbeat went wrong, trying again: %s: %s", type(error).__name__, error)
            if self._closing.wait(self._interval):
                return
            self._vigil.beat(self._interval, excused=away)
            limit = self._stalled_seconds
            if limit is not None and self._vigil.silent_seconds > limit:
                self._on_stalled()
                return

    def _beat(self) -> None:
        progress = self._progress
        details: dict[str, Any] = {name: getattr(progress, name) for name in _DETAILS}
        if self._vigil.stalled:
            details["stalled_seconds"] = round(self._vigil.silent_seconds)
        self._lease.renew(
            step=progress.global_step,
            epoch=progress.epoch,
            metrics=progress.metrics,
            unsaved_seconds=progress.unsaved_seconds or 0.0,
            details=details,
        )
        self._log.flush()
