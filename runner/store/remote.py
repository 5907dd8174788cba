"""A bucket is a store: conditional creates on the wire, no caches, faults waited out.

Creates are sent as one request with the condition "only if absent" (`ifGenerationMatch=0`,
`If-None-Match: *`) and never resent here: what is not a plain success or a plain "exists" is
UNKNOWN, and the log reads it back. fsspec's caches are off: with them an object that exists
was "not found".
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any, TypeVar

from runner.errors import NotFoundError, StoreError, StoreRefusedError
from runner.store import patience
from runner.store.base import (
    MAX_READ,
    MAX_RECORD,
    Buffer,
    Created,
    check_key,
    check_prefix,
    check_record,
    is_key,
    pieces,
    read_or_error,
    too_large,
)
from runner.store.clients import has_bucket, make_client, modified_at, shown_as
from runner.store.schemes import PACKAGES, split
from runner.store.settings import mask
from runner.store.steps import boot_clock

T = TypeVar("T")
logger = logging.getLogger(__name__)

_RANGED = 32 << 20  # up to here one ranged request reads it all; above, the client splits it
_STREAMED = 64 << 20  # from here on an object is written in parts, without joining its pieces
_PART = 32 << 20
_PART_TRIES = 5
_AT_ONCE = 64  # small reads under way together
_CLOCK_SECONDS = 300.0  # how long one look at the store's clock is good for


class FsspecStore:
    """Bytes under keys in a bucket, by any fsspec URL such as gs://bucket/folder."""

    def __init__(
        self,
        url: str,
        *,
        storage_options: dict[str, Any] | None = None,
        single_writer: bool = False,
        patience_seconds: float = patience.PATIENCE_SECONDS,
    ) -> None:
        self.url = mask(url.rstrip("/"))
        self.single_writer = single_writer
        self.patience_seconds = patience_seconds
        self._location = url.rstrip("/")
        self._scheme, _ = split(url)
        self._options = dict(storage_options or {})
        self._client: tuple[int, Any, str] | None = None
        self._reached = False  # the bucket is there: an absent object is just absent
        self._trust = patience.Trust()
        self._clock: tuple[float, float] | None = None  # the store's time, at our time
        self._clock_lock = threading.Lock()  # one of many askers writes the object

    def read(self, key: str, *, max_bytes: int = MAX_READ) -> bytes | None:  # noqa: D102
        path = self._path(key)
        if max_bytes > _RANGED:
            size = self.size(key)
            if size is None:
                return None
            if size > max_bytes:
                raise too_large(key, size, max_bytes)
            return self._ask("read", key, lambda: bytes(self._fs.cat_file(path)))
        data = self._ask("read", key, lambda: self._read(path, 0, max_bytes + 1))
        if data is not None and len(data) > max_bytes:
            raise too_large(key, len(data), max_bytes)
        return data

    def _read(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, fewer where the object ends before."""
        try:
            return bytes(self._fs.cat_file(path, start=start, end=end))
        except Exception as error:
            if patience.status_of(error) == 416 or "InvalidRange" in str(error):
                return b""  # it begins beyond the end
            raise

    def read_many(  # noqa: D102
        self, keys: Sequence[str], *, max_bytes: int = MAX_RECORD
    ) -> list[bytes | StoreError | None]:
        if not keys:
            return []
        paths = [self._path(key) for key in keys]
        replies: Sequence[Any] = self._patiently(  # absent objects are told apart one by one
            f"read of {len(keys)} objects, the first",
            keys[0],
            lambda: self._fs.cat_ranges(
                paths, 0, max_bytes + 1, batch_size=_AT_ONCE, on_error="return"
            ),
        )
        each = zip(keys, replies, strict=True)
        return [self._reply(key, reply, max_bytes) for key, reply in each]

    def _reply(self, key: str, reply: object, max_bytes: int) -> bytes | StoreError | None:
        if isinstance(reply, FileNotFoundError) and self._reached:
            return None
        if isinstance(reply, bytes) and len(reply) <= max_bytes:
            self._reached = True
            self._trust.worked(_kind("read", key))
            return reply
        return read_or_error(self, key, max_bytes)

    def read_range(self, key: str, start: int, length: int) -> bytes:  # noqa: D102
        path = self._path(key)
        if length == 0:
            return b""
        data = self._ask("read", key, lambda: self._read(path, start, start + length))
        if data is None:
            raise NotFoundError(f"{key} is not in {self.url}.")
        if len(data) != length:
            raise StoreError(f"{self.url}/{key}: {len(data)} of {length} bytes from {start}.")
        return data

    def create(self, key: str, data: bytes) -> Created:  # noqa: D102
        data, path, kind = check_record(data), self._path(key), _kind("create", key)
        try:
            self._fs.pipe_file(path, data, mode="create")
        except Exception as error:  # clients raise anything
            if isinstance(error, FileExistsError) or patience.status_of(error) == 412:
                self._trust.worked(kind)
                return Created.EXISTS
            fix = patience.fix_for(error)
            passes = patience.status_of(error) == 409 or (
                patience.is_access(error) and self._trust.is_blip(kind)
            )
            if fix is not None and not passes:
                raise patience.refused(f"create of {key} in {self.url}", error, fix) from error
            logger.warning("create of %s: no clear reply (%s)", key, patience.brief(error))
            return Created.UNKNOWN
        self._reached = True
        self._trust.worked(kind)
        return Created.YES

    def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:  # noqa: D102
        path, views = self._path(key), pieces(data)
        small = sum(view.nbytes for view in views) < _STREAMED
        whole = b"".join(views) if small else b""

        def work() -> bool:
            if small:
                self._fs.pipe_file(path, whole, **shown_as(self._scheme, key))
            else:
                self._stream(path, views)
            return True

        if self._ask("put", key, work) is None:
            raise self._no_bucket(f"put of {key} in {self.url}")

    def _stream(self, path: str, views: Sequence[memoryview]) -> None:
        client, _ = make_client(self._location, self._options, tries=_PART_TRIES)
        file = client.open(path, "wb", block_size=_PART)
        try:
            for view in views:
                for start in range(0, len(view), _PART):
                    file.write(view[start : start + _PART])
            file.close()
        except BaseException:
            file.closed = True  # else its __del__ would finish the object as it is
            with contextlib.suppress(Exception):
                file.discard()
            raise

    def duplicate(self, key: str, to: str) -> None:  # noqa: D102
        source, path = self._path(key), self._path(to)

        def work() -> bool:
            self._fs.cp_file(source, path)
            return True

        if self._ask("copy", key, work) is None:
            raise NotFoundError(f"{key} is not in {self.url}.")

    def folders(self, prefix: str) -> list[str]:  # noqa: D102
        path = self._folder(prefix)
        entries = self._listed(prefix, lambda: self._fs.ls(path, detail=True))
        names = [e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if _is_folder(e)]
        return sorted(name for name in set(names) if is_key(name))

    def size(self, key: str) -> int | None:  # noqa: D102
        info = self._info(key)
        return None if info is None else int(info["size"])

    def delete(self, key: str) -> None:  # noqa: D102
        path = self._path(key)
        self._ask("delete", key, lambda: self._fs.rm_file(path))

    def age(self, key: str) -> float | None:  # noqa: D102
        written = modified_at(self._info(key) or {})
        if written is None:
            return None
        try:
            now = self._now()
        except StoreRefusedError:
            return None  # for someone who may only look, the store has no clock
        return None if now is None else max(0.0, now - written)

    def clock_ahead(self) -> float | None:
        """Return the seconds by which the store's clock is ahead of this machine's, or None."""
        there = self._now()
        return None if there is None else there - time.time()

    def _now(self) -> float | None:
        """Return the store's time or less: when it last wrote for us, and what passed since."""
        with self._clock_lock:
            here = boot_clock()
            if self._clock is None or not 0 <= here - self._clock[1] < _CLOCK_SECONDS:
                key = f"clock/{token_hex(8)}.json"
                self.put(key, b"{}\n")
                here = boot_clock()
                there = modified_at(self._info(key) or {})
                self.delete(key)
                if there is None:
                    return None
                self._clock = (there, here)
            return self._clock[0] + here - self._clock[1]

    def sizes(self, prefix: str) -> dict[str, int]:  # noqa: D102
        path, root = self._folder(prefix), f"{self._root}/"
        found = self._listed(prefix, lambda: self._fs.find(path, detail=True)) or {}
        keys = {name.lstrip("/").removeprefix(root): int(found[name]["size"]) for name in found}
        return {key: size for key, size in keys.items() if key.startswith(prefix) and is_key(key)}

    def list(self, prefix: str, *, after: str = "") -> list[str]:  # noqa: D102
        path, root = self._folder(prefix), f"{self._root}/"
        found = self._listed(prefix, lambda: self._fs.find(path))
        keys = [name.lstrip("/").removeprefix(root) for name in found]
        return sorted(k for k in keys if k.startswith(prefix) and k > after and is_key(k))

    def _listed(self, prefix: str, work: Callable[[], Any]) -> Any:
        def fresh() -> Any:
            self._fs.invalidate_cache()
            return work()

        found = self._ask("listing", prefix or "the store", fresh)
        if not found:
            self._require_bucket()
        return found or []

    def ignores_conditions(self) -> str:
        """Return why this bucket is known to take every create; "" if nothing is known."""
        if PACKAGES.get(self._scheme) != "gcsfs":
            return ""
        bucket = self._root.split("/", 1)[0]
        try:
            info = self._fs.info(bucket)
        except Exception as error:  # noqa: BLE001  (it takes a permission workers may not have)
            logger.debug("looking at bucket %s: %s", bucket, patience.brief(error))
            return ""
        zonal = info.get("locationType") == "zone"
        return "zonal buckets ignore the condition of a create" if zonal else ""

    def _info(self, key: str) -> dict[str, Any] | None:
        path = self._path(key)
        info: dict[str, Any] | None = self._ask("stat", key, lambda: self._fs.info(path))
        return None if info is None or _is_folder(info) else info

    def _ask(self, doing: str, key: str, work: Callable[[], T]) -> T | None:
        """Return `work()`, transient faults waited out; None where there is no such object."""
        try:
            found = self._patiently(doing, key, work)
        except FileNotFoundError:
            self._require_bucket()
            return None
        self._reached = self._reached or found != []  # a bucket that is absent lists nothing
        return found

    def _require_bucket(self) -> None:
        """Tell an absent object from an absent bucket, once."""
        if self._reached:
            return
        bucket = self._root.split("/", 1)[0]

        def work() -> bool:
            self._fs.invalidate_cache()
            return has_bucket(self._fs, self._scheme, bucket)

        if not self._patiently("stat", f"bucket {bucket}", work):
            raise self._no_bucket(f"opening {self.url}")
        self._reached = True

    def _no_bucket(self, doing: str) -> StoreRefusedError:
        missing = FileNotFoundError(self._root.split("/", 1)[0])
        return patience.refused(doing, missing, patience.fix_for(missing) or "")

    def _patiently(self, doing: str, key: str, work: Callable[[], T]) -> T:
        kind = _kind(doing, key)
        try:
            found = patience.patiently(
                f"{doing} of {key} in {self.url}",
                work,
                patience_seconds=self.patience_seconds,
                reached=self._reached,
                is_blip=lambda: self._trust.is_blip(kind),
            )
        except FileNotFoundError:
            self._trust.worked(kind)
            raise
        self._trust.worked(kind)
        return found

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _folder(self, prefix: str) -> str:
        return f"{self._root}/{check_prefix(prefix)}".rstrip("/")

    @property
    def _fs(self) -> Any:
        return self._made()[1]

    @property
    def _root(self) -> str:
        return self._made()[2]

    def _made(self) -> tuple[int, Any, str]:
        """Return the client, made anew after a fork: its threads stay in the parent."""
        if self._client is None or self._client[0] != os.getpid():
            client, root = make_client(self._location, self._options)
            self._client = (os.getpid(), client, root.strip("/"))
        return self._client


def _kind(doing: str, key: str) -> str:
    """Return what permissions are about: a put of jobs/cats/head.json is a "put of jobs"."""
    return f"{doing} of {key.partition('/')[0]}"


def _is_folder(info: dict[str, Any]) -> bool:
    return info.get("type") == "directory"
