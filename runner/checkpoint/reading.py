"""Reading a checkpoint back, believing nothing: every byte is checked against its hash.

What is wrong is said by name (which object, which tensor), as a CheckpointError; a bucket that
does not answer is a StoreError and says nothing about the checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
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


def restore(
    store: Store, references: Sequence[Reference], warn: Callable[[str], None]
) -> Restored | None:
    """Return the first of these checkpoints that verifies, or None where there are none.

    Those that are damaged are named through `warn`.

    Raises:
        CheckpointError: there are some, and none verifies.
        StoreError: the bucket does not answer.
    """
    problems = []
    for reference in references:
        try:
            restored = read_checkpoint(store, reference)
        except CheckpointError as error:
            problems.append(f"step {reference.step}: {error}")
            continue
        for problem in problems:
            warn(
                f"a damaged checkpoint was passed over, the one of step {reference.step} "
                f"is used: {problem}"
            )
        return restored
    if not problems:
        return None
    raise CheckpointError(
        f"none of the {len(problems)} checkpoints of this training can be read: "
        + "; ".join(problem.removesuffix(".") for problem in problems)
        + ". (What is large and never changes, such as frozen layers, lies there once, for all "
        "of them.) Nothing was changed. Bring the missing objects back, or begin anew under "
        "another name."
    )


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
    for last in (False, True):  # the wire may lie once; the bucket lies twice
        try:
            return _read_places(store, pack, places)
        except NotFoundError as error:
            raise CheckpointError(f"{pack.key} is missing.") from error
        except CheckpointError as error:
            if last:
                raise CheckpointError(f"{pack.key}: {error}") from error
    raise AssertionError


def _read_places(store: Store, pack: Pack, places: Mapping[str, Place]) -> dict[str, Array]:
    size = store.size(pack.key)
    if size != pack.bytes:
        wrong = "missing" if size is None else f"damaged: {size} bytes, expected {pack.bytes}"
        raise CheckpointError(f"the pack is {wrong}.")
    distinct = {place.offset: place.length for place in places.values()}
    whole: memoryview | None = None
    if sum(distinct.values()) >= WHOLE_SHARE * pack.bytes:
        found = store.read(pack.key, max_bytes=pack.bytes)
        if found is None or len(found) != pack.bytes:
            raise CheckpointError("the pack was changed while it was read.")
        whole = memoryview(found)

    def part(offset: int, length: int) -> memoryview:
        if whole is not None:
            return whole[offset : offset + length]
        return memoryview(store.read_range(pack.key, offset, length) if length else b"")

    header = bytes(part(0, packs.header_length(bytes(part(0, 8)), pack.bytes)))
    if packs.hash_bytes(header) != pack.header:
        raise CheckpointError("the pack's header is damaged.")
    entries = packs.parse(header, pack.bytes)
    return {name: _tensor(name, place, entries, part) for name, place in places.items()}


def _tensor(
    name: str,
    place: Place,
    entries: Mapping[str, packs.Entry],
    part: Callable[[int, int], memoryview],
) -> Array:
    if entries.get(place.name) != (place.dtype, place.shape, place.offset, place.length):
        raise CheckpointError(f"the tensor {name} is not where the manifest says.")
    data = part(place.offset, place.length)
    if packs.hash_bytes(data) != place.hash:
        raise CheckpointError(f"the tensor {name} is damaged.")
    return packs.array_from(data, place.dtype, place.shape)
