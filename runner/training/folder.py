"""A training's own folder, for use without a queue: its log says which checkpoints count.

The log is the same as a job's. Whoever opens the folder claims it with the next record, so a
second program on the same folder takes over, and the first one learns so at its next commit.
"""

import atexit
import logging
from secrets import token_hex
from typing import Any
from weakref import WeakValueDictionary

from msgspec import Struct, convert

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.collection import is_own
from runner.checkpoint.ledger import Ledger
from runner.checkpoint.manifest import Reference
from runner.checkpoint.reading import Restored
from runner.commit import Commit
from runner.errors import (
    CheckpointError,
    DamagedRecordError,
    LeaseLostError,
    NotFoundError,
)
from runner.store import log
from runner.store.appending import append, settle
from runner.store.filesystem import FileStore, open_store
from runner.store.steps import Steps, run
from runner.store.thinning import Thinning

logger = logging.getLogger(__name__)

BASE = "training"
MOMENT = 10.0  #: seconds that a fit waits at its end for what is being written

_open: WeakValueDictionary[str, Checkpointer] = WeakValueDictionary()


@atexit.register
def _finish_all() -> None:
    """Let what a failed fit was writing be finished, before the process ends."""
    for url in list(_open):
        _finish(url)


def _finish(url: str) -> None:
    checkpointer = _open.pop(url, None)
    if checkpointer is not None:
        checkpointer.close()


class Folder:
    """Opens the checkpoints of one folder or bucket URL."""

    def __init__(
        self, url: str, *, keep: int = 2, storage_options: dict[str, Any] | None = None
    ) -> None:
        self._store = open_store(url, storage_options=storage_options)
        self._keep = keep
        self._checkpointer: Checkpointer | None = None
        self._commit: _Commit | None = None

    @property
    def checkpointer(self) -> Checkpointer | None:
        """The one that is in use."""
        return self._checkpointer

    def open(self) -> tuple[Checkpointer, Restored | None]:
        """Claim the folder, and return its checkpointer and newest checkpoint."""
        self.close()
        _finish(self._store.url)  # an earlier fit of this process may still be writing
        record = self._claim()
        self._commit = _Commit(self._store, record)
        ledger = Ledger(
            self._store,
            BASE,
            token=int(record["token"]),
            commit=self._commit,
            checkpoints=record["checkpoints"],
            best=record["best"],
            keep=self._keep,
        )
        self._checkpointer = Checkpointer(ledger)
        _open[self._store.url] = self._checkpointer
        return self._checkpointer, self._checkpointer.restore()

    def close(self) -> None:
        """Finish what is being written."""
        if self._checkpointer is not None:
            self._checkpointer.close()

    def release(self) -> None:
        """Finish what is being written: now if it takes a moment, else in the background."""
        if self._checkpointer is None:
            return
        try:
            if not self._checkpointer.wait(MOMENT):
                return
        except Exception as error:  # noqa: BLE001 - another may be on its way, of the fit
            logger.warning("the last checkpoint was not written: %s", error)
        self.close()

    def delete(self) -> None:
        """Remove everything, after the training has ended.

        First the log says that nothing counts any more, and its last record goes last: whoever
        is killed in between leaves an empty folder, not a damaged one.
        """
        self.close()
        if self._commit is not None:
            self._commit(Commit(step=0, epoch=0))
        prefix = f"{BASE}/"
        keys = [key for key in self._store.list(prefix) if is_own(key.removeprefix(prefix))]
        for key in sorted(keys, key=lambda key: (key.startswith(f"{BASE}/log/"), key)):
            self._store.delete(key)
        if isinstance(self._store, FileStore):
            inner = [f"{BASE}/{name}" for name in ("checkpoints", "log", "packs")]
            self._store.close_down([*inner, BASE, ""])

    def _claim(self) -> log.Record:
        damaged = 0

        def claim(record: log.Record) -> log.Record:
            nonlocal damaged
            damaged = _sound(record).get("damaged", 0)  # each may have been a claim
            token = record["token"] + 1 + damaged
            return {**record, "kind": "claim", "token": token, "damaged": 0}

        first = {"number": 0, "nonce": token_hex(8), "token": 1, "checkpoints": [], "best": None}
        try:
            if run(self._store, log.head(BASE)) is None:
                winner = run(self._store, settle(BASE, {**first, "previous": ""}, None))
                if winner["nonce"] == first["nonce"]:
                    return winner
            record = run(self._store, append(BASE, claim, lambda: token_hex(8)))
        except DamagedRecordError as error:
            raise CheckpointError(
                f"{error} No record before it is whole. Nothing was changed: bring that object "
                "back from a copy of the folder, or give this training another folder."
            ) from error
        if damaged:
            logger.warning(
                "%s is damaged. The record before it is used: the training goes on from step %s.",
                log.slot(BASE, record["number"] - 1),
                record.get("step", 0),
            )
        return record


class _Record(Struct):
    """What is read from a record, whatever else it holds."""

    token: int
    checkpoints: list[Reference]
    best: Reference | None


def _sound(record: log.Record) -> log.Record:
    """Return the record if it has what is read from it."""
    try:
        convert(record, _Record)
    except ValueError as error:
        key = log.slot(BASE, record["number"])
        raise DamagedRecordError(f"{key} is not a training's record: {error}.") from error
    return record


class _Commit:
    """Appends to the folder's log, while nobody else has claimed it."""

    def __init__(self, store: Any, record: log.Record) -> None:
        self._store = store
        self._record = record
        self._claim = (record["number"], record["nonce"])
        self._thinning = Thinning(BASE, self._claim)

    def __call__(self, commit: Commit) -> None:
        run(self._store, self._append(commit))

    def _append(self, commit: Commit) -> Steps[None]:
        token = self._record["token"]

        def change(record: log.Record) -> log.Record:
            if _sound(record)["token"] != token:
                raise LeaseLostError(
                    f"another program has taken over {self._store.url}: this one saves no more."
                )
            return {**record, **commit.changes(), "kind": log.COMMIT}

        try:
            self._record = yield from append(
                BASE, change, lambda: token_hex(8), known=self._record, claim=self._claim
            )
        except NotFoundError as error:
            raise LeaseLostError(
                f"{self._store.url} was removed: nothing more is saved."
            ) from error
        yield from self._thinning.committed(self._record["number"])
