"""A thread of a worker that brings trackers up to date, and never keeps the worker from anything.

It reads only what is committed, so no tracker sees an epoch that may be repeated otherwise. How
far a mirror is, the tracker itself tells. That it is whole, an object in the store says for each
job that nobody is to work on: whichever worker finds none makes up for what is missing.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from runner.errors import CheckpointError
from runner.mirrors import mlflow, wandb
from runner.mirrors.copies import Copy, copy_of, is_settled, lacks, write_model, write_report
from runner.queue.job import Job
from runner.queue.queue import Queue
from runner.store.settings import mask

logger = logging.getLogger(__name__)

MIRRORS: dict[str, Callable[[Copy, Mapping[str, Path]], str]] = {
    "mlflow": mlflow.mirror,
    "wandb": wandb.mirror,
}
LAST_SECONDS = 30.0  #: for what is not mirrored when a worker ends by itself
AGAIN_SECONDS, MOST_AGAIN = 2.0, 60.0  #: between tries while a tracker is away


def marker(job: Job, tracker: str) -> str:
    """Return the key of the object that says that a job is mirrored whole, as it is now."""
    return f"jobs/{job.id}/mirrored/{tracker}-{job.number:012d}.json"


class Mirroring:
    """Mirrors jobs in the background; a job without trackers costs nothing.

    Args:
        queue: whose jobs.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._wake = threading.Condition()
        self._pending: dict[str, Job] = {}
        self._seen: dict[str, tuple[int, int]] = {}  # epochs, and the record of a settled job
        self._said: set[str] = set()
        self._closing = self._exporting = False
        self._until = 0.0  # a worker that ends waits so long, and while a model is exported
        self._thread: threading.Thread | None = None

    def see(self, jobs: Iterable[Job]) -> None:
        """Take what is known of jobs now; returns at once."""
        for job in jobs:
            if not job.trackers or not self._usable(job):
                continue
            sign = (job.epoch, job.number if is_settled(job) else 0)
            with self._wake:
                if self._seen.get(job.id) == sign:
                    continue
                self._seen[job.id] = sign
                self._pending[job.id] = job
                self._wake.notify_all()
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
                    self._thread.start()

    def close(self, is_stopped: Callable[[], bool]) -> None:
        """Let what is pending be tried once more, for some seconds or until a stop is asked for."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._until = time.monotonic() + LAST_SECONDS
        while self._thread is not None and self._thread.is_alive():
            if is_stopped() or (time.monotonic() > self._until and not self._exporting):
                return  # the thread ends with the process
            self._thread.join(0.1)

    def _usable(self, job: Job) -> list[str]:
        """The trackers of a job that this process can reach; the others are said once."""
        found = []
        for tracker in filter(MIRRORS.__contains__, job.trackers):
            if why := lacks(tracker):
                self._say_once(f"{why}; {job.id} is trained all the same")
            else:
                found.append(tracker)
        return found

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        pause = AGAIN_SECONDS
        while (job := self._next()) is not None:
            began = time.monotonic()
            try:
                self._mirror(job)
                pause = AGAIN_SECONDS
            except CheckpointError as error:
                self._failed(job, error, said=is_settled(job))  # else a newer one has come
            except Exception as error:  # noqa: BLE001 - a tracker's failures are of any kind
                self._failed(job, error, said=True)
                self._wait(pause)
                pause = min(MOST_AGAIN, 2 * pause)
            else:
                self._wait(2 * (time.monotonic() - began))  # a third of the time at most

    def _next(self) -> Job | None:
        with self._wake:
            self._wake.wait_for(lambda: self._pending or self._closing)
            job_id = next(iter(self._pending), None)
            return None if job_id is None else self._pending.pop(job_id)

    def _wait(self, seconds: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._closing, timeout=seconds)

    def _failed(self, job: Job, error: Exception, *, said: bool) -> None:
        if said:
            kind = type(error).__name__
            text = f"{job.id} could not be mirrored, nothing is lost: {kind}: {mask(str(error))}"
            logger.warning("%s", text[:300])
        with self._wake:
            if not self._closing:
                self._pending.setdefault(job.id, job)

    def _mirror(self, job: Job) -> None:
        """Bring a job's trackers up to date."""
        store, settled = self._queue.store, is_settled(job)
        left = [
            tracker
            for tracker in self._usable(job)
            if not (settled and store.size(marker(job, tracker)) is not None)
        ]
        if not left:
            return
        copy = copy_of(self._queue, job)
        with tempfile.TemporaryDirectory() as folder:
            if copy.spec.get("log_model"):
                for tracker in left:  # one that is away fails before a model is exported
                    MIRRORS[tracker](copy, {})
            artifacts, lacking = self._artifacts(copy, Path(folder))
            for tracker in left:
                if differs := MIRRORS[tracker](copy, artifacts):
                    self._say_once(f"{job.id}: {tracker} keeps what it has: {differs}")
                if settled and not lacking and self._is_still(job):
                    store.create(marker(job, tracker), b"{}\n")

    def _artifacts(self, copy: Copy, folder: Path) -> tuple[dict[str, Path], bool]:
        """Write what an ended job leaves, by name; whether another worker has to do the rest."""
        job, found = copy.job, dict[str, Path]()
        if not job.ended:
            return found, False
        found["report"] = folder / "report"
        write_report(self._queue, job, found["report"])
        if job.final is None or not copy.spec.get("log_model"):
            return found, False
        self._exporting = True
        try:
            why = write_model(self._queue, job, folder / "model")
        finally:
            self._until, self._exporting = time.monotonic() + LAST_SECONDS, False
        if why:
            self._say_once(f"{job.id}: its model is left to another worker to export: {why}")
            return found, True
        return {**found, "model": folder / "model"}, False

    def _is_still(self, job: Job) -> bool:
        now = self._queue.find(job.id)
        return now is not None and now.nonce == job.nonce
