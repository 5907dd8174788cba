"""What counts of a job's checkpoints, and how one comes to count. Knows no threads.

Order of writing: packs, manifest, commit. A death before the commit leaves garbage that no
record refers to, never half a checkpoint; only after the commit is anything deleted, and only
what no kept checkpoint uses. The commit is an append to the job's log by the lease's owner, so
a worker that lost its lease can write nothing that counts.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runner.checkpoint.collection import unreferenced
from runner.checkpoint.manifest import Manifest, Position, Reference, name_of, used_packs
from runner.checkpoint.packs import as_bytes, hash_bytes
from runner.checkpoint.plain import Array
from runner.checkpoint.reading import Restored, read_manifest, restore
from runner.checkpoint.writing import PackWriter
from runner.commit import Commit
from runner.errors import CheckpointError, SpecError, StoreError
from runner.store.base import Store

logger = logging.getLogger(__name__)


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
    time: Mapping[str, float] = field(default_factory=dict)  #: of the attempt, by cause: seconds


class Ledger:
    """The checkpoints of one job under one lease: writes, keeps, collects and restores them.

    Args:
        store: where to.
        prefix: the job's folder, "jobs/cats"; "" for a store of its own.
        token: of the lease; part of every name, so that no two owners write the same.
        commit: appends to the job's log, so that a checkpoint counts. LeaseLostError: none will.
        checkpoints: references from the job's log, newest first.
        best: reference of the best checkpoint so far.
        keep: how many of the newest checkpoints stay, besides the best one.
        warn: gets what people should know (a damaged checkpoint was passed over).
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        token: int,
        commit: Callable[[Commit], object],
        checkpoints: Sequence[Mapping[str, Any]] = (),
        best: Mapping[str, Any] | None = None,
        keep: int = 2,
        warn: Callable[[str], None] = logger.warning,
    ) -> None:
        if keep < 1:
            raise SpecError(f"keep {keep} checkpoints: at least 1 is needed to resume.")
        self._store = store
        self._folder = f"{prefix}/" if prefix else ""
        self._token = token
        self._commit = commit
        self._keep = keep
        self._warn = warn
        self._references = [Reference.from_json(data) for data in checkpoints]
        self.best = Reference.from_json(best) if best else None  #: the best that counts
        self._manifests: dict[str, Manifest] = {}
        self._superseded: set[str] = set()  # manifests that counted before the last commit
        self._garbage: list[str] = []
        self._collected = False
        self._notes: tuple[str, ...] = ()  # of snapshots that are not committed yet
        self.bytes_written = 0  #: by this object, packs and manifests

    @property
    def newest(self) -> Reference | None:
        """The newest checkpoint that counts."""
        return next(iter(self._references), None)

    @property
    def _kept(self) -> list[Reference]:
        """All that count: the newest first, and the best."""
        best = [self.best] if self.best and self.best not in self._references else []
        return [*self._references, *best]

    # ------------------------------------------------------------------ writing

    def write(self, snapshot: Snapshot, *, best: bool, given_up: Callable[[], bool]) -> Manifest:
        """Write a checkpoint and make it count.

        Args:
            snapshot: the state; unless it is a best one, its tensors are freed as they travel.
            best: mark it as the best so far.
            given_up: asked before the commit whether it may still count.

        Raises:
            CheckpointError: it was given up.
            LeaseLostError, StoreError: as the store and the commit say.
        """
        self._notes = tuple(dict.fromkeys([*self._notes, *snapshot.notes]))
        manifest = self._write_packs(snapshot, again=best)
        data = manifest.to_bytes()
        step = manifest.position.global_step
        key = f"{self._folder}checkpoints/t{self._token}-s{step}-{name_of(data)}.json"
        self._store.put(key, data)
        self.bytes_written += len(data)
        if given_up():  # the job may have been released
            raise CheckpointError("the checkpoint was given up: there was no time left for it.")
        reference = manifest.reference(key)
        references = [reference, *self._references][: self._keep]
        now_best = reference if best else self.best
        self._commit(
            Commit(
                step=reference.step,
                epoch=reference.epoch,
                checkpoints=[kept.to_json() for kept in references],
                best=now_best.to_json() if now_best else None,
                notes=self._notes,
                metrics={name: values[-1] for name, values in snapshot.history.items() if values},
                time=snapshot.time or None,
            )
        )
        self._notes = ()
        self._superseded |= {reference.manifest for reference in self._kept}
        self._references, self.best = references, now_best
        self._manifests[key] = manifest
        return manifest

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
        while tensors:  # each reference is dropped as soon as its bytes have travelled
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

    # ------------------------------------------------------------------ collecting

    def collect(self) -> None:
        """Delete what no checkpoint that counts refers to any more."""
        kept = {reference.manifest for reference in self._kept}
        dropped, self._superseded = self._superseded - kept, set()
        old = [self._manifests.pop(key) for key in dropped if key in self._manifests]
        all_known = kept <= self._manifests.keys()  # else something in use might look unused
        used = kept | used_packs(self._manifests.values())
        if all_known:
            self._garbage += sorted(used_packs(old) - used)
        self._garbage += sorted(dropped)
        try:
            self._delete_garbage()
            if all_known and not self._collected and self._token > 1:
                self._collected = True  # once an attempt, what earlier ones left behind
                found = unreferenced(self._store, self._folder, token=self._token, used=used)
                self._garbage += found
                self._delete_garbage()
        except StoreError as error:
            logger.warning("garbage could not be deleted yet: %s", error)

    def _delete_garbage(self) -> None:
        while self._garbage:
            self._store.delete(self._garbage[0])
            del self._garbage[0]

    def begin_with(self, reference: Mapping[str, Any]) -> None:
        """Let what a training begins with be garbage once a checkpoint of its own counts.

        Raises:
            CheckpointError: its manifest can't be read.
        """
        key = Reference.from_json(reference).manifest
        self._manifests[key] = read_manifest(self._store, key)
        self._superseded.add(key)

    def _kept_manifests(self) -> list[Manifest]:
        """The manifests of all checkpoints that count, as far as they can be read."""
        for key in {reference.manifest for reference in self._kept} - self._manifests.keys():
            try:
                self._manifests[key] = read_manifest(self._store, key)
            except CheckpointError as error:
                self._warn(f"nothing is taken over from a damaged checkpoint: {error}")
        return [self._manifests[r.manifest] for r in self._kept if r.manifest in self._manifests]

    # ------------------------------------------------------------------ restoring

    def restore(self) -> Restored | None:
        """Return the newest checkpoint that verifies, or None where none was ever committed.

        One that is damaged is named through `warn`, forgotten, and the one before it is used.

        Raises:
            CheckpointError: there are checkpoints, and none verifies.
            StoreError: the bucket does not answer.
        """
        kept = self._kept
        restored = restore(self._store, kept, self._warn)
        if restored is not None:  # the damaged ones are left out of the next commit
            damaged = kept[: kept.index(restored.reference)]
            whole = [one for one in self._references if one not in damaged]
            self._references = whole or [restored.reference]
        return restored
