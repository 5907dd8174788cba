"""Images of the user's own in many npz files, at any path or fsspec URL: more than memory holds.

The names of the files, or of the folders that they lie in, begin with `train` or `test`. Each has
`x`, uint8 images, and `y`, their classes as whole numbers; the first may have `class_names`. Each
is read once, in the order of the names, and put behind the one before it in this machine's cache.
"""

import fnmatch
from collections.abc import Mapping
from itertools import chain
from typing import Any

from runner.datasets import npz
from runner.datasets.arrays import Dataset, check_file, checked
from runner.errors import DataError, SpecError
from runner.store import cache, places
from runner.store.places import version_of

KEYS = ("x", "y")  #: what a shard is made of
PARTS = ("train", "test")


def load(*, path: str | None = None) -> Dataset:
    """Read all shards below a folder, but those that are in the cache.

    Args:
        path: Folder or URL.

    Raises:
        SpecError: no path was given.
        MissingHereError: this machine has no such folder.
        DataError: no shards, or some that are damaged or do not fit together: named.
        DataAwayError: the bucket failed for now, or this machine's disk is too small.
    """
    if path is None:
        msg = "the dataset 'shards' needs data.path: a folder or URL with train*.npz and test*.npz."
        raise SpecError(msg)
    place = places.folder_at(path)
    details = place.details()
    shards = _shards(path, details)
    sizes = {name: int(details[name]["size"]) for name in shards}
    named: dict[str, Any] = {}  # the classes, by the first shard

    def read(name: str) -> cache.Arrays:
        content = cache.view(place, name, details[name])
        arrays = npz.unpacked(f"{place.path}/{name}", content, KEYS)
        if name == shards[0] and "class_names" in arrays:
            named["class_names"] = arrays["class_names"]
        classes = npz.names_in(f"{place.path}/{name}", named)
        if arrays["x"].size or arrays["y"].size:  # one may be empty, as long as not all are
            check_file(f"{place.path}/{name}", arrays["x"], arrays["y"], classes)
        part = next(part for part in PARTS if name.startswith(part))
        own = named if name == shards[0] else {}
        return {f"{key}_{part}": arrays[key] for key in KEYS} | own

    def taken(name: str) -> None:
        if not place.is_here:
            cache.discard(place, name, details[name])

    arrays: dict[str, Any] = cache.arrays(
        f"shards {version_of({name: details[name] for name in shards})}",
        shards,
        read,
        needs=sum(sizes.values()) + max(sizes.values()),
        bytes_of=sizes.__getitem__,
        threads=1,
        taken=taken,
    )
    return checked(place.path, arrays, class_names=npz.names_in(place.path, arrays))


def _shards(path: str, details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the shards: those of the training part first."""
    seen = sorted(name for name in details if not any(part[:1] == "." for part in name.split("/")))
    parts = {f"{part}*.npz": fnmatch.filter(seen, f"{part}*.npz") for part in PARTS}
    if not all(parts.values()):
        has = " and ".join(f"{len(names)} {pattern}" for pattern, names in parts.items())
        raise DataError(f"{path} has {has}; expected at least one of each. Fix data.path.")
    shards = [*chain(*parts.values())]
    if not version_of({name: details[name] for name in shards}):
        msg = f"{path}: nothing tells there whether a file has changed. Use a bucket or a folder."
        raise DataError(msg)
    return shards
