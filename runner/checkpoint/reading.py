"""Reading a checkpoint back, believing nothing: every byte is checked against its hash.

What is wrong is said by name (which object, which tensor), as a CheckpointError; a bucket that
does not answer is a StoreError and says nothing about the checkpoint.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from runner.checkpoint import packs
from runner.checkpoint.manifest import Manifest, Pack, Place, Position, Reference
from runner.checkpoint.plain import Array
from runner.errors import CheckpointError, NotFoundError
from runner.store.base import Store

MAX_MANIFEST = 256 * 1024 * 1024  #: bytes
WHOLE_SHARE = 0.7  #: from this used share of a pack on, it is read whole in one request
READERS = 4  #: packs read at once


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A checkpoint that was read back whole and verified."""

    tensors: Mapping[str, Array]  #: read-only views of the bytes that were read
    python: Any  #: JSON, see `plain`
    position: Position
    history: Mapping[str, Any]
    numerics: Mapping[str, Any]
    reference: Reference


def read_manifest(store: Store, key: str) -> Manifest:
    """Return a manifest.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    data = store.read(key, max_bytes=MAX_MANIFEST)
    if data is None:
        raise CheckpointError(f"{key} is missing.")
    return Manifest.from_bytes(key, data)


def read_checkpoint(store: Store, reference: Reference) -> Restored:
    """Return a whole checkpoint.

    Raises:
        CheckpointError: a piece is missing or damaged; says which.
    """
    manifest = read_manifest(store, reference.manifest)
    wanted: dict[int, dict[str, Place]] = {}
    for name, place in manifest.tensors.items():
        wanted.setdefault(place.pack, {})[name] = place
    tensors: dict[str, Array] = {}
    with ThreadPoolExecutor(READERS, thread_name_prefix="checkpoint-read") as pool:
        jobs = [pool.submit(_read_pack, store, manifest.packs[i], wanted[i]) for i in wanted]
        for job in jobs:
            tensors.update(job.result())
    return Restored(
        tensors={name: tensors[name] for name in manifest.tensors},
        python=manifest.python,
        position=manifest.position,
        history=manifest.history,
        numerics=manifest.numerics,
        reference=reference,
    )


def _read_pack(store: Store, pack: Pack, places: Mapping[str, Place]) -> dict[str, Array]:
    try:
        return _read_places(store, pack, places)
    except CheckpointError:
        return _read_places(store, pack, places)  # the wire may lie once; the bucket lies twice
    except NotFoundError as error:
        raise CheckpointError(f"{pack.key} is missing.") from error


def _read_places(store: Store, pack: Pack, places: Mapping[str, Place]) -> dict[str, Array]:
    distinct = {place.offset: place.length for place in places.values()}
    whole = sum(distinct.values()) >= WHOLE_SHARE * pack.bytes
    source = _Whole(store, pack) if whole else _Ranges(store, pack)
    entries = source.entries()
    return {name: _tensor(name, place, pack, entries, source) for name, place in places.items()}


class _Ranges:
    """A pack of which only some tensors are needed."""

    def __init__(self, store: Store, pack: Pack) -> None:
        self.pack = pack
        self.store = store
        size = store.size(pack.key)
        if size is None:
            raise CheckpointError(f"{pack.key} is missing.")
        if size != pack.bytes:
            raise CheckpointError(f"{pack.key} has {size} bytes, expected {pack.bytes}.")

    def entries(self) -> dict[str, packs.Entry]:
        """Return what the pack's own header says."""
        start = bytes(self.bytes_of(0, 8))
        length = _located(self.pack, packs.header_length, start, self.pack.bytes)
        return _entries(self.pack, bytes(self.bytes_of(0, length)))

    def bytes_of(self, offset: int, length: int) -> memoryview:
        """Return a part of the pack."""
        return memoryview(self.store.read_range(self.pack.key, offset, length) if length else b"")


class _Whole(_Ranges):
    """A pack that is read in one request."""

    def __init__(self, store: Store, pack: Pack) -> None:
        super().__init__(store, pack)
        data = store.read(pack.key, max_bytes=pack.bytes)
        if data is None or len(data) != pack.bytes:
            raise CheckpointError(f"{pack.key} was changed while it was read.")
        self.data = memoryview(data)

    def bytes_of(self, offset: int, length: int) -> memoryview:
        return self.data[offset : offset + length]


def _entries(pack: Pack, header: bytes) -> dict[str, packs.Entry]:
    if packs.hash_bytes(header) != pack.header:
        raise CheckpointError(f"{pack.key}: its header is damaged.")
    return _located(pack, packs.parse, header, pack.bytes)  # type: ignore[no-any-return]


def _located(pack: Pack, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except CheckpointError as error:
        raise CheckpointError(f"{pack.key}: {error}") from error


def _tensor(
    name: str, place: Place, pack: Pack, entries: Mapping[str, packs.Entry], source: _Ranges
) -> Array:
    entry = entries.get(place.name)
    if entry != packs.Entry(place.dtype, place.shape, place.offset, place.length):
        raise CheckpointError(f"{pack.key}: {name} is not where the manifest says.")
    data = source.bytes_of(place.offset, place.length)
    if packs.hash_bytes(data) != place.hash:
        raise CheckpointError(f"{pack.key}: the tensor {name} is damaged.")
    return packs.array_from(data, place.dtype, place.shape)
