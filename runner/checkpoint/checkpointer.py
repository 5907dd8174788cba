"""Checkpoints that count all at once or not at all, written while the training goes on.

Order of writing: packs, manifest, commit. A death before the commit leaves garbage that no
record refers to, never half a checkpoint; only after the commit is anything deleted, and only
what no kept checkpoint uses. The commit is an append to the job's log by the lease's owner, so
a worker that lost its lease can write nothing that counts.

Memory: a snapshot refers to the training's own buffers; while it is written, TensorFlow puts new
values into new buffers, so at most one extra copy of the state exists. On JAX it is that copy, made
on the device and let go tensor by tensor; a validation holds another until it ends. While a write
is under way a further snapshot is refused (and taken a step later), not queued: where the bucket is
slower than the interval, the interval stretches. Only a best checkpoint may wait, and the final
one.

While the bucket is away, a plain write that failed is given up for one of the newest state; a
best one is owed: nothing is committed before it, so that no state remembers a best that is
nowhere. `overdue` says when too much is unsaved for going on.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from runner.checkpoint.collection import unreferenced
from runner.checkpoint.manifest import Manifest, Position, Reference, name_of, used_packs
from runner.checkpoint.packs import as_bytes, hash_bytes
from runner.checkpoint.plain import Array
from runner.checkpoint.reading import Restored, read_checkpoint, read_manifest
from runner.checkpoint.writing import PackWriter
from runner.errors import (
    CheckpointError,
    LeaseLostError,
    SpecError,
    StoreError,
    StoreRefusedError,
)
from runner.store.base import Store

logger = logging.getLogger(__name__)

__all__ = ["Checkpointer", "Commit", "Position", "Reference", "Restored", "Snapshot"]


class Commit(Protocol):
    """Makes a checkpoint count: one append to the job's log. LeaseLostError: it never will."""

    def __call__(
        self,
        *,
        step: int,
        epoch: int,
        checkpoints: Sequence[Mapping[str, Any]],
        best: Mapping[str, Any] | None,
        notes: Sequence[str] = (),
        metrics: Mapping[str, Any] | None = None,
    ) -> object:
        """Append the record."""


def as_array(value: Any) -> Array:
    """Return a host array of a tensor, without copying where the tensor is on the host."""
    return np.asarray(value)


@dataclass(kw_only=True)
class Snapshot:
    """One moment of a training, held by reference until it is written."""

    tensors: Sequence[tuple[str, Any]]  #: name and anything that `to_host` turns into an array
    python: Any  #: JSON, see `plain`
    position: Position
    history: Mapping[str, Any] = field(default_factory=dict)  #: for people: finite floats or None
    numerics: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()  #: said once, with the commit
    to_host: Callable[[Any], Array] = as_array
    taken_at: float = field(default_factory=time.monotonic)


@dataclass
class _Request:
    snapshot: Snapshot
    best: bool
    done: threading.Event = field(default_factory=threading.Event)


class Checkpointer:
    """Saves, keeps and restores the checkpoints of one job under one lease.

    Args:
        store: where to.
        prefix: the job's folder, "jobs/cats"; "" for a store of its own.
        token: of the lease; part of every name, so that no two owners write the same.
        commit: makes a checkpoint count.
        checkpoints: references from the job's log, newest first.
        best: reference of the best checkpoint so far.
        keep: how many of the newest checkpoints stay, besides the best one.
        patience_seconds: while the bucket fails in ways that pass, nothing is raised, and
            `overdue` once this much work is unsaved; 0: a failure surfaces at the next call.
        warn: told what people should know (a damaged checkpoint was passed over).
        on_committed: gets what counts now, in the background; what it raises ends the write.

    Example:
        >>> from runner.store.memory import MemoryStore
        >>> saver = Checkpointer(MemoryStore(), "jobs/a", token=1, commit=lambda **record: None)
        >>> state = [("weights", np.ones(3))]
        >>> saver.save(Snapshot(tensors=state, python={}, position=Position()), wait=True)
        True
        >>> saver.restore().tensors["weights"]
        array([1., 1., 1.])
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        token: int,
        commit: Commit,
        checkpoints: Sequence[Mapping[str, Any]] = (),
        best: Mapping[str, Any] | None = None,
        keep: int = 2,
        patience_seconds: float = 0.0,
        warn: Callable[[str], None] = logger.warning,
        on_committed: Callable[[Manifest], None] = lambda _: None,
    ) -> None:
        if keep < 1:
            raise SpecError(f"keep {keep} checkpoints: at least 1 is needed to resume.")
        self._store = store
        self._folder = f"{prefix}/" if prefix else ""
        self._token = token
        self._commit = commit
        self._keep = keep
        self._patience = patience_seconds
        self._warn = warn
        self._on_committed = on_committed
        self._references = [Reference.from_json(data) for data in checkpoints]
        self._best = Reference.from_json(best) if best else None
        self._manifests: dict[str, Manifest] = {}
        self._garbage: list[str] = []
        self._collected = False
        self._wake = threading.Condition()
        self._waiting: _Request | None = None
        self._writing: _Request | None = None
        self._error: BaseException | None = None
        self._owed: _Request | None = None  # a best that failed: nothing is committed before it
        self._unsaid: tuple[str, ...] = ()  # notes of snapshots that were not committed
        self._closed = False
        self._thread: threading.Thread | None = None
        self._saved_until = time.monotonic()  # the moment up to which work is committed
        self._began_at = 0.0  # the write under way
        self._given_up = False  # nothing is committed any more
        self.write_seconds = 0.0  #: what the last write took, in the background
        self.bytes_written = 0  #: by this object, packs and manifests

    # ------------------------------------------------------------------ what is known

    @property
    def last_committed(self) -> Reference | None:
        """The newest checkpoint that counts."""
        with self._wake:
            return self._references[0] if self._references else None

    @property
    def best(self) -> Reference | None:
        """The best checkpoint that counts."""
        return self._best

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
            error = self._error
            if error is None or self._is_patient(error):
                return
            if not isinstance(error, LeaseLostError):
                self._error = None  # said once; the next save tries again
        raise error

    def _is_patient(self, error: BaseException) -> bool:
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
        """Seconds until a checkpoint that is begun now is committed, as earlier ones tell."""
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
        request = _Request(snapshot, best)
        taken = True
        with self._wake:
            if self._closed:
                raise CheckpointError("the checkpointer is closed: nothing can be saved.")
            if self._writing is not None and not (best or wait):
                return False
            if self._owed is not None and not (best or wait):
                request, taken = self._owed, False  # first this one, so that one copy is held
            if wait and not self._wake.wait_for(lambda: self._waiting is None, seconds):
                return False
            if self._writing is None:
                self._writing = request
            else:
                self._waiting = request  # a waiting best gives way to a better one
            self._start()
            self._wake.notify_all()
        return self.wait(seconds) if wait else taken

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until everything is committed, or for so many seconds; whether it is.

        Raises:
            LeaseLostError, StoreError: as `save`.
        """
        with self._wake:
            if not self._wake.wait_for(lambda: self._writing is None, seconds):
                return False
            error = self._error
            if error is not None and not isinstance(error, LeaseLostError):
                self._error = None
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

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (request := self._next()) is not None:
            error: BaseException | None = None
            started = self._began_at = time.monotonic()
            try:
                owed = self._owed
                if owed is not None and owed is not request and not request.best:
                    self._write(owed)
                self._write(request)
            except BaseException as caught:  # noqa: BLE001 - it is raised where the training sees it
                error = caught
                self._unsaid = tuple(dict.fromkeys([*self._unsaid, *request.snapshot.notes]))
                if request.best and self._is_patient(caught):
                    self._owed = request
                if self._is_patient(caught):
                    self._warn(f"a checkpoint could not be written yet: {caught}")
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
            while self._writing is None and not self._closed:
                self._wake.wait()
            return self._writing

    # ------------------------------------------------------------------ in the background

    def _write(self, request: _Request) -> None:
        snapshot = request.snapshot
        manifest = self._write_packs(snapshot, again=request.best)
        data = manifest.to_bytes()
        step = manifest.position.global_step
        key = f"{self._folder}checkpoints/t{self._token}-s{step}-{name_of(data)}.json"
        self._store.put(key, data)
        self.bytes_written += len(data)
        if self._given_up:  # the job may have been let go
            raise CheckpointError("the checkpoint was given up: there was no time left for it.")
        reference = manifest.reference(key)
        references = [reference, *self._references][: self._keep]
        best = reference if request.best else self._best
        self._commit(
            step=reference.step,
            epoch=reference.epoch,
            checkpoints=[kept.to_json() for kept in references],
            best=best.to_json() if best else None,
            notes=tuple(dict.fromkeys([*self._unsaid, *snapshot.notes])),
            metrics={name: values[-1] for name, values in snapshot.history.items() if values},
        )
        self._unsaid = ()
        self._owed = None
        self._committed(key, manifest, references, best, snapshot.taken_at)
        self._on_committed(manifest)

    def _write_packs(self, snapshot: Snapshot, *, again: bool) -> Manifest:
        writer = PackWriter(
            self._store,
            f"{self._folder}packs/t{self._token}-",
            self._kept_manifests(),
            apart=self._keep > 1,  # else there is none to fall back to
        )
        stored: dict[str, Any] = {}  # tensors that lie in a kept pack already
        tensors = list(reversed(snapshot.tensors))
        if not again:
            snapshot.tensors = ()
        while tensors:  # each reference is let go as soon as its bytes have travelled
            name, value = tensors.pop()
            array = snapshot.to_host(value)
            if not writer.add(name, array, hash_bytes(as_bytes(array))):
                stored[name] = value
            del value, array
        places, packs = writer.finish(lambda name: snapshot.to_host(stored[name]))
        self.bytes_written += writer.bytes_written
        return Manifest(
            tensors=places,
            packs=packs,
            position=snapshot.position,
            python=snapshot.python,
            history=snapshot.history,
            numerics=snapshot.numerics,
            nonce=os.urandom(8).hex(),
        )

    def _committed(
        self,
        key: str,
        manifest: Manifest,
        references: list[Reference],
        best: Reference | None,
        taken_at: float,
    ) -> None:
        before = [*self._references, *([self._best] if self._best else [])]
        with self._wake:
            self._references, self._best = references, best
            self._saved_until = taken_at
        self._manifests[key] = manifest
        kept = {kept.manifest for kept in references} | ({best.manifest} if best else set())
        dropped = {reference.manifest for reference in before} - kept
        used = used_packs(self._manifests[key] for key in kept if key in self._manifests)
        all_known = all(key in self._manifests for key in kept)
        for name in sorted(dropped):
            old = self._manifests.pop(name, None)
            if old is not None and all_known:
                self._garbage += [pack.key for pack in old.packs if pack.key not in used]
            self._garbage.append(name)
        if all_known:
            self._collect_once(kept)
        self._delete_garbage()

    def _collect_once(self, kept: set[str]) -> None:
        """Once an attempt, look for what attempts before this one left behind."""
        if self._collected or self._token <= 1:
            return
        self._collected = True
        try:
            self._garbage += unreferenced(
                self._store,
                self._folder,
                token=self._token,
                manifests=[self._manifests[key] for key in kept],
                keys=kept,
            )
        except StoreError as error:
            logger.warning("leftovers could not be looked for: %s", error)

    def _delete_garbage(self) -> None:
        garbage, self._garbage = self._garbage, []
        for index, key in enumerate(garbage):
            try:
                self._store.delete(key)
            except StoreError as error:
                self._garbage = garbage[index:]  # after the next commit again
                logger.warning("%s could not be deleted yet: %s", key, error)
                return

    def _kept_manifests(self) -> list[Manifest]:
        """The manifests of all checkpoints that count, as far as they can be read."""
        references = [*self._references, *([self._best] if self._best else [])]
        for key in {reference.manifest for reference in references} - self._manifests.keys():
            try:
                self._manifests[key] = read_manifest(self._store, key)
            except CheckpointError as error:
                self._warn(f"nothing is taken over from a damaged checkpoint: {error}")
        return [self._manifests[r.manifest] for r in references if r.manifest in self._manifests]

    # ------------------------------------------------------------------ restoring

    def restore(self) -> Restored | None:
        """Return the newest checkpoint that verifies, or None where none was ever committed.

        One that is damaged is named through `warn`, forgotten, and the one before it is used.

        Raises:
            CheckpointError: there are checkpoints, and none verifies.
            StoreError: the bucket does not answer.
        """
        candidates = list(self._references)
        if self._best is not None and self._best not in candidates:
            candidates.append(self._best)
        problems = []
        for reference in candidates:
            try:
                restored = read_checkpoint(self._store, reference)
            except CheckpointError as error:
                problems.append(f"step {reference.step}: {error}")
                continue
            for problem in problems:
                self._warn(
                    f"a damaged checkpoint was passed over, the one of step {reference.step} "
                    f"is used: {problem}"
                )
            self._forget_newer(reference)
            return restored
        if not candidates:
            return None
        raise CheckpointError(
            f"none of the {len(candidates)} checkpoints of this training can be read: "
            + "; ".join(problems)
            + ". (What is large and never changes, such as frozen layers, lies there once, for all "
            "of them.) Nothing was changed. Bring the missing objects back, or begin anew under "
            "another name."
        )

    def _forget_newer(self, reference: Reference) -> None:
        """Leave the damaged checkpoints out of the next commit."""
        if reference in self._references:
            self._references = self._references[self._references.index(reference) :]
        else:
            self._references = [reference]
