"""The page of a report in the store itself: a bucket's URL or a folder shows it without a server.

It is for people: overwritten, and nothing depends on it. What the worker of a job writes while it
trains has no pictures by matplotlib: that page takes milliseconds. See `Collector` for what it
costs to read.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runner.queue.lease import Lease
from runner.queue.queue import Queue, utc_now
from runner.report.collect import Collector
from runner.report.page import Page, render
from runner.store.base import Store

logger = logging.getLogger(__name__)

PAGE = "index.html"
PAUSE_SECONDS = 60.0  #: between two pages of a job, at least
QUIET_SECONDS = 600.0  #: a page is rewritten so often where nothing is committed
LOOK_SECONDS = 0.5  #: between two looks for a commit, which ask the store nothing
END_SECONDS = 10.0  #: that the end of an attempt waits for its last page
CLOSED = "a worker looks for none, runner report does"


def folder(job_id: str | None) -> str:
    """Return where the page of a job lies, or that of all jobs."""
    return f"jobs/{job_id}/report" if job_id else "report"


def publish(store: Store, job_id: str | None, page: Page) -> str:
    """Write a page and its pictures, the page last; its key."""
    for name, png in page.pictures.items():
        store.put(f"{folder(job_id)}/{name}", png)
    key = f"{folder(job_id)}/{PAGE}"
    store.put(key, page.html.encode(errors="replace"))
    return key


class LivePage:
    """Rewrites the page of a job that this process has a lease of, in a thread of its own.

    At the first record that it sees, then at commits, at most once in PAUSE_SECONDS, and at the
    end of the attempt. What goes wrong is logged once and ends no training.
    """

    def __init__(self, lease: Lease, store: Store) -> None:
        self._lease = lease
        self._queue = Queue(store)
        self._collector = Collector(self._queue)
        self._closing = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Write the last page; waits no longer than a moment for a bucket that hangs."""
        self._closing.set()
        self._thread.join(timeout=END_SECONDS)

    def _run(self) -> None:
        shown = -1
        while not self._closing.is_set():
            shown = self._lease.job.number
            self._write()
            self._closing.wait(PAUSE_SECONDS)
            waited = PAUSE_SECONDS
            while self._lease.job.number == shown and waited < QUIET_SECONDS:
                if self._closing.wait(LOOK_SECONDS):
                    break
                waited += LOOK_SECONDS
        self._write()

    def _write(self) -> None:
        try:
            job = self._queue.find(self._lease.job.id)
            if job is None or job.token != self._lease.token:
                return  # removed, or another worker's, who writes its page
            report = self._collector.own(job, now=utc_now())
            page = render(report, live=True, drawn=job.ended, closed=CLOSED)
            publish(self._queue.store, job.id, page)
        except Exception as error:  # noqa: BLE001 - a page is worth no training
            if not self._failed:
                logger.warning("the page could not be written: %s: %s", type(error).__name__, error)
            self._failed = True


@contextmanager
def publishing(lease: Lease, store: Store) -> Iterator[None]:
    """Keep the page of a job within this."""
    page = LivePage(lease, store)
    page.start()
    try:
        yield
    finally:
        page.close()
