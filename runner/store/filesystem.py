"""A folder is a store: whole objects, exclusive creates, and what was answered is on the disk.

fsspec's own exclusive create on local files checks and then writes: of 300 races 46 had two
winners, and readers saw empty files. Here a record is written beside its place, synced, and
then linked to its name: the link fails if the name is taken, and the name shows all or nothing.
This module needs nothing but the standard library, so that `status` starts at once.
"""

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from secrets import token_hex
from stat import S_ISDIR, S_ISREG
from typing import Any
from urllib.parse import unquote

from runner.errors import NotFoundError, OneObjectError, StoreError, StoreRefusedError
from runner.store.base import (
    MAX_READ,
    MAX_RECORD,
    Buffer,
    Created,
    Store,
    check_key,
    check_prefix,
    check_record,
    is_key,
    pieces,
    read_or_error,
    too_large,
)
from runner.store.disk import linked_or_copied, read_exactly, sync_folder, write_all

_TEMPORARY = ".tmp-"  # no key starts with a dot: never listed, never confused
_LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{16}(\.d)?")  # a temporary file or folder of ours
_WHOLE = ".whole"  # the record inside a folder, where there are no hard links
_NO_LINKS_HERE = ".no-hard-links"  # in the root: some records are folders that hold _WHOLE
_STALE_SECONDS = 3600.0  # a temporary file this old belongs to a process that died
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_FIX = {
    errno.ENOSPC: "The disk is full: make room, then run it again.",
    errno.EDQUOT: "The disk quota is used up: make room, then run it again.",
    errno.EROFS: "It is mounted read-only: mount it writable or choose another place.",
    errno.EACCES: "This user may not do that: fix the permissions or choose another place.",
    errno.EPERM: "This user may not do that: fix the permissions or choose another place.",
    errno.ENOENT: "A folder can't be made there: choose another place.",
    errno.ENOTDIR: "A file is in the way of a folder: choose another place.",
    errno.EFBIG: "It is larger than a file may be: raise `ulimit -f` or choose another place.",
    errno.ENAMETOOLONG: "The path is too long for this disk: choose a shorter --store.",
}


def open_store(
    url: str,
    *,
    storage_options: dict[str, Any] | None = None,
    single_writer: bool | None = None,
) -> Store:
    """Return the store at a URL, or at a plain path.

    `storage_options` go to the bucket's client; without them, RUNNER_STORAGE_OPTIONS (JSON)
    and the settings file say what they are (see `settings.py`). Raises StoreRefusedError for a
    place that can't create exclusively, unless `single_writer` promises that one process at a
    time uses it.

    >>> open_store("/tmp/quick").url
    'file:///tmp/quick'
    """
    from runner.store.schemes import check_folder, check_url, split
    from runner.store.settings import settings_for

    check_url(url)
    scheme, rest = split(url)
    settings = settings_for(f"{scheme}://{rest}" if "://" in url else url)
    alone = settings.single_writer if single_writer is None else single_writer
    if scheme not in ("file", "local"):
        from runner.store.remote import FsspecStore

        options = settings.storage_options if storage_options is None else storage_options
        return FsspecStore(f"{scheme}://{rest}", storage_options=options, single_writer=alone)
    path = _folder_of(rest) if "://" in url else _absolute(url)
    there = next(one for one in (path, *path.parents) if os.path.lexists(one))
    if not os.path.isdir(there):  # noqa: PTH112  (EACCES)
        raise StoreRefusedError(f"{there} is no folder: name a folder, or one that may be made.")
    check_folder(path, single_writer=alone)
    return FileStore(path, single_writer=alone)


def _folder_of(rest: str) -> Path:
    """Return the folder of a file:// URL: as `FileStore.url` writes it, or as it is meant."""
    literal = _absolute(rest)
    return literal if os.path.lexists(literal) else _absolute(unquote(rest))


def _absolute(text: str) -> Path:
    return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100  (links stay)


class FileStore:
    """Bytes under keys in a folder, which is made when first written to.

    Safe for any number of processes on one machine, and for several machines on a network
    file system with honest hard links (NFS, Lustre, GPFS).
    """

    def __init__(self, path: str | Path, *, single_writer: bool = False) -> None:
        self._root = Path(os.path.abspath(path))  # noqa: PTH100  (resolve() would follow links)
        self.url = self._root.as_uri()
        self.single_writer = single_writer
        self._swept: set[str] = set()
        self._links = True

    @property
    def is_there(self) -> bool:
        """Whether the folder has been made."""
        with self._explained("look", ""):
            return self._root.is_dir()

    def read(self, key: str, *, max_bytes: int = MAX_READ) -> bytes | None:  # noqa: D102
        path = self._path(key)
        with self._explained("read", key), _opened(path) as found:
            if found is None:
                return None
            file, size = found[0], found[1].st_size
            if size > max_bytes:
                raise too_large(key, size, max_bytes)
            return read_exactly(file, size)

    def read_many(  # noqa: D102
        self, keys: Sequence[str], *, max_bytes: int = MAX_RECORD
    ) -> list[bytes | StoreError | None]:
        return [read_or_error(self, key, max_bytes) for key in map(check_key, keys)]

    def read_range(self, key: str, start: int, length: int) -> bytes:  # noqa: D102
        path = self._path(key)
        with self._explained("read", key), _opened(path) as found:
            if found is None:
                raise NotFoundError(f"{key} is not in {self.url}.")
            os.lseek(found[0], start, os.SEEK_SET)
            data = read_exactly(found[0], length)
        if len(data) < length:
            raise StoreError(f"{self.url}/{key} is too short: no {length} bytes from {start}.")
        return data

    def create(self, key: str, data: bytes) -> Created:  # noqa: D102
        data, path = check_record(data), self._path(key)
        with self._explained("create", key):
            if os.path.lexists(path):
                return Created.EXISTS
            self._make_folder(path.parent)
            with self._temporary(path.parent, [memoryview(data)]) as written:
                if not self._place(written, path):
                    return Created.EXISTS
            sync_folder(path.parent)
        return Created.YES

    def _place(self, written: Path, path: Path) -> bool:
        """Give the written file its name if that is free; whether it was."""
        if self._links:
            try:
                os.link(written, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._links = False
            else:
                return True
        return self._place_in_folder(written, path)

    def _place_in_folder(self, written: Path, path: Path) -> bool:
        """Without hard links: a folder that holds the record can't be renamed onto another.

        (O_EXCL would show a half-written record, and leave one if its writer dies.)
        """
        (self._root / _NO_LINKS_HERE).touch()
        folder = written.with_name(f"{written.name}.d")
        folder.mkdir()
        inside = folder / _WHOLE
        try:
            written.rename(inside)
            sync_folder(folder)
            folder.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                inside.unlink()
                folder.rmdir()
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise
        return True

    def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:  # noqa: D102
        path = self._path(key)
        with self._explained("put", key):
            self._make_folder(path.parent)
            with self._temporary(path.parent, pieces(data)) as written:
                self._sweep(path.parent, written)
                written.replace(path / _WHOLE if (path / _WHOLE).exists() else path)
            sync_folder(path.parent)

    def duplicate(self, key: str, to: str) -> None:  # noqa: D102
        source, path = self._path(key), self._path(to)
        with self._explained("copy", key):
            if not source.is_file():
                raise NotFoundError(f"{key} is not in {self.url}.")
            self._make_folder(path.parent)
            with self._temporary(path.parent, []) as written:
                linked_or_copied(source, written)
                written.replace(path)
            sync_folder(path.parent)

    def folders(self, prefix: str) -> list[str]:  # noqa: D102
        check_prefix(prefix)
        with self._explained("list", prefix):
            entries, mixed = _entries(self._below(prefix)), self._has_record_folders()
            return sorted(e.name for e in entries if is_key(e.name) and _is_folder(e, mixed))

    def size(self, key: str) -> int | None:  # noqa: D102
        found = self._status(key)
        return None if found is None else found.st_size

    def delete(self, key: str) -> None:  # noqa: D102
        path = self._path(key)
        with self._explained("delete", key):
            try:
                path.unlink()
            except (IsADirectoryError, PermissionError):
                if not (path / _WHOLE).exists():
                    raise
                (path / _WHOLE).unlink()
                path.rmdir()
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise

    def age(self, key: str) -> float | None:  # noqa: D102
        found = self._status(key)
        if found is None:
            return None
        try:
            with self._explained("age", key), self._temporary(self._root, []) as now:
                return max(0.0, now.stat().st_mtime - found.st_mtime)  # the file server's clock
        except StoreRefusedError:
            return None  # for someone who may only look, the store has no clock

    def clock_ahead(self) -> float | None:
        """Return the seconds by which the file server's clock is ahead of this machine's."""
        with self._explained("clock", ""), self._temporary(self._root, []) as now:
            return now.stat().st_mtime - time.time()

    def _has_record_folders(self) -> bool:
        return (self._root / _NO_LINKS_HERE).exists()

    def _path(self, key: str) -> Path:
        """Return where an object lies; no link leads there, for it might lead anywhere."""
        return self._below(check_key(key))

    def _below(self, name: str) -> Path:
        path = self._root
        with self._explained("read", name):
            for part in name.strip("/").split("/") if name else ():
                path /= part
                if path.is_symlink():
                    raise OneObjectError(
                        f"{path} is a symbolic link, and a store follows none: put what it leads "
                        "to in its place, or remove it."
                    )
        return path

    def _status(self, key: str) -> os.stat_result | None:
        path = self._path(key)
        with self._explained("read", key), _opened(path) as found:
            return None if found is None else found[1]

    @contextlib.contextmanager
    def _explained(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            what = f"{doing} of {key} in" if key else f"{doing} at"
            text = f"{what} {self.url} failed: {error.strerror or error}."
            fix = _FIX.get(error.errno or 0)
            if fix and doing == "read" and "/" in key.strip("/"):  # its folder's permissions, say
                raise OneObjectError(f"{text} {fix}") from error
            if fix:
                raise StoreRefusedError(f"{text} {fix}") from error
            raise StoreError(text) from error

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, so that they too are there after a power cut."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            sync_folder(folder.parent)

    @contextlib.contextmanager
    def _temporary(self, folder: Path, data: Sequence[memoryview]) -> Iterator[Path]:
        """Yield a synced file with the data; it is removed unless it was renamed meanwhile."""
        path = folder / f"{_TEMPORARY}{token_hex(8)}"
        try:
            with path.open("xb", buffering=0) as file:
                write_all(file.fileno(), data)
                if data:
                    os.fsync(file.fileno())
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _sweep(self, folder: Path, fresh: Path) -> None:
        """Remove what killed processes left, once for each folder."""
        if str(folder) in self._swept:
            return
        self._swept.add(str(folder))
        _remove_leftovers(folder, before=fresh.stat().st_mtime - _STALE_SECONDS)

    def close_down(self, folders: Sequence[str]) -> None:
        """Remove what killed processes left in these folders, and those that are empty then."""
        for name in folders:
            with contextlib.suppress(OSError):  # someone keeps other files in it
                folder = self._below(name)
                _remove_leftovers(folder)
                if not name and [e.name for e in _entries(folder)] == [_NO_LINKS_HERE]:
                    (folder / _NO_LINKS_HERE).unlink()
                folder.rmdir()

    def sizes(self, prefix: str) -> dict[str, int]:  # noqa: D102
        return {key: self.size(key) or 0 for key in self.list(prefix)}

    def close_down_below(self, name: str) -> None:
        """Remove a folder and those in it, as far as they are empty."""
        for inner in self.folders(f"{name}/"):
            self.close_down_below(f"{name}/{inner}")
        self.close_down([name])

    def list(self, prefix: str, *, after: str = "") -> list[str]:  # noqa: D102
        check_prefix(prefix)
        with self._explained("list", prefix):
            found = _walk(self._below(prefix), prefix, self._has_record_folders())
            return sorted(key for key in found if key > after and is_key(key))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, os.stat_result] | None]:
    """Yield a descriptor of the object and its status, or None where it is absent."""
    found = _open(str(path))
    try:
        yield found
    finally:
        if found is not None:
            os.close(found[0])


def _open(path: str) -> tuple[int, os.stat_result] | None:
    try:
        # a pipe would wait, a link might have come after the look at it
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    status = os.fstat(file)
    if S_ISREG(status.st_mode):
        return file, status
    os.close(file)
    if not S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return _open(f"{path}/{_WHOLE}")


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise


def _remove_leftovers(folder: Path, *, before: float = float("inf")) -> None:
    """Remove temporary files of ours that were written before a time, in seconds."""
    for entry in _entries(folder):
        if not _LEFTOVER.fullmatch(entry.name):
            continue
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_mtime >= before:
                continue
            if entry.is_dir(follow_symlinks=False):
                (Path(entry.path) / _WHOLE).unlink(missing_ok=True)
                Path(entry.path).rmdir()
            else:
                Path(entry.path).unlink()


def _is_folder(entry: os.DirEntry[str], mixed: bool) -> bool:
    whole = f"{entry.path}/{_WHOLE}"
    return entry.is_dir(follow_symlinks=False) and not (mixed and os.path.lexists(whole))


def _walk(folder: Path | str, prefix: str, mixed: bool) -> Iterator[str]:
    """Yield the keys below a folder. Links are passed over: they lead elsewhere."""
    for entry in _entries(folder):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if _is_folder(entry, mixed):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", mixed)
        else:
            yield f"{prefix}{entry.name}"
