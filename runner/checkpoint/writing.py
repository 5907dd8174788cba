"""Writing a checkpoint's packs: only bytes that no kept checkpoint has already travel.

A tensor is known by its dtype, shape and hash. What a kept checkpoint stores is referred to,
not written again; what is new goes into packs of bounded size, each written before the next is
begun, so that host memory is bounded too. A pack of which little is still used is given up:
its rest is rewritten once, into a pack of its own, and then stays there.

Two checkpoints in a row share no small pack: what both hold lies in two, and they take turns.
So one damaged bit costs one checkpoint, not all; of large packs a second copy costs too much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from runner.checkpoint import packs
from runner.checkpoint.manifest import Manifest, Pack, Place
from runner.checkpoint.plain import Array
from runner.store.base import Store

PACK_BYTES = 256 * 1024 * 1024  #: a pack is closed once it holds this much
SMALL_BYTES = 1024 * 1024  #: of a pack that two checkpoints in a row do not share
LEAST_USED = 0.5  #: share of a pack's bytes below which its rest is rewritten

Content = tuple[str, tuple[int, ...], str]  #: dtype, shape, hash


@dataclass
class _Open:
    """A pack that is being filled."""

    arrays: list[tuple[str, Array, str]] = field(default_factory=list)  #: name, array, hash
    bytes: int = 0

    def add(self, name: str, array: Array, digest: str) -> None:
        self.arrays.append((name, array, digest))
        self.bytes += array.nbytes


class PackWriter:
    """Writes the tensors of one checkpoint.

    Args:
        store: where to.
        folder: key of the packs' folder with the beginning of their names, "jobs/x/packs/t3-".
        kept: manifests of the checkpoints whose packs may be referred to, the newest first.
        apart: let the newest of them and this one share no small pack.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        kept: Sequence[Manifest],
        *,
        apart: bool = False,
    ) -> None:
        self._store = store
        self._folder = folder
        newest = kept[0].packs if kept and apart else ()
        self._left = {pack.key for pack in newest if pack.bytes < SMALL_BYTES}
        self._known: dict[Content, tuple[Pack, Place]] = {}
        for manifest in kept:
            for place in manifest.tensors.values():
                pack = manifest.packs[place.pack]
                if pack.key not in self._left:
                    self._known.setdefault(place.content, (pack, place))
        self._written: dict[Content, tuple[Pack, Place]] = {}
        self._queued: set[Content] = set()
        self._contents: dict[str, Content] = {}
        self._open = _Open()
        self.bytes_written = 0

    def add(self, name: str, array: Array, digest: str) -> bool:
        """Take up one tensor; writes a pack when enough has come together.

        Args:
            name: of the tensor.
            array: its values.
            digest: their hash.

        Returns:
            Whether its bytes travel now. If not, `finish` may ask for the array again.
        """
        content = (array.dtype.name, array.shape, digest)
        self._contents[name] = content
        if content in self._known or content in self._queued:
            return False
        self._queued.add(content)
        self._open.add(name, array, digest)
        if self._open.bytes >= PACK_BYTES:
            self._flush()
        return True

    def finish(self, array_of: Callable[[str], Array]) -> tuple[dict[str, Place], tuple[Pack, ...]]:
        """Write the rest.

        Args:
            array_of: returns the array of a tensor once more, for those that are rewritten.

        Returns:
            The places of all tensors, and the packs they lie in.
        """
        self._flush()
        for name in self._given_up():
            content = self._contents[name]
            if content not in self._queued:
                self._queued.add(content)
                self._open.add(name, array_of(name), content[2])
        self._flush()
        return self._places()

    def _given_up(self) -> list[str]:
        used: dict[Pack, dict[Content, int]] = {}
        for content in self._contents.values():
            if content not in self._written:
                pack, place = self._known[content]
                used.setdefault(pack, {})[content] = place.length
        lost = {
            pack
            for pack, contents in used.items()
            if sum(contents.values()) < LEAST_USED * pack.bytes
        }
        return [
            name
            for name, content in self._contents.items()
            if content not in self._written and self._known[content][0] in lost
        ]

    def _flush(self) -> None:
        if not self._open.arrays:
            return
        # the widest dtypes first, so that every tensor lies aligned
        arrays = sorted(self._open.arrays, key=lambda item: (-item[1].dtype.itemsize, item[0]))
        self._open = _Open()
        header, entries = packs.build([(name, array) for name, array, _ in arrays])
        content_name = blake3(header)
        for _, _, digest in arrays:
            content_name.update(digest.encode())
        size = len(header) + sum(array.nbytes for _, array, _ in arrays)
        key = f"{self._folder}{content_name.hexdigest()[:32]}"
        copy = "-copy" if f"{key}.safetensors" in self._left else ""
        pack = Pack(f"{key}{copy}.safetensors", size, packs.hash_bytes(header))
        self._store.put(pack.key, [header, *(packs.as_bytes(array) for _, array, _ in arrays)])
        self.bytes_written += size
        for name, _, digest in arrays:
            entry = entries[name]
            place = Place(entry.dtype, entry.shape, digest, 0, name, entry.offset, entry.length)
            self._written[place.content] = (pack, place)

    def _places(self) -> tuple[dict[str, Place], tuple[Pack, ...]]:
        index: dict[Pack, int] = {}
        places = {}
        for name, content in self._contents.items():
            pack, place = self._written.get(content) or self._known[content]
            number = index.setdefault(pack, len(index))
            if place.pack != number:
                place = place._replace(pack=number)
            places[name] = place
        return places, tuple(index)
