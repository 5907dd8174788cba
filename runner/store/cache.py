"""What is read from afar, or put together of many files, is then on this machine's disk.

An entry is a folder of arrays that only grow, and a journal that says how far they are good: who
is cut off goes on there, and the next attempt on this machine reads nothing anew. An entry's key
holds the versions of the files that it is made of; its journal has hashes, which are compared when
a file was touched since, and what is damaged is read anew. Those that were not used for longest
make room for others; a process that has one mapped keeps its bytes, as POSIX promises.
"""

import errno
import fcntl
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import blake3
import numpy as np
from numpy.typing import NDArray

from runner.errors import DataAwayError, DataError
from runner.store.ahead import ahead
from runner.store.places import DataPlace, Mapped, is_url, mapped, version_of
from runner.store.receiving import receiving

Piece = TypeVar("Piece")
Arrays = dict[str, NDArray[Any]]
Info = Mapping[str, Any]

FOLDER_VARIABLE = "RUNNER_CACHE"  #: another folder for it
LIMIT_VARIABLE = "RUNNER_CACHE_MB"  #: that it may hold at most, in millions of bytes
FIX = f"Make room, set {LIMIT_VARIABLE} higher, or {FOLDER_VARIABLE} to a folder on a larger disk."
OTHER = f"Set {FOLDER_VARIABLE} to a folder that this user can write."
SHARE = 0.8  #: of the disk that is free or the cache's, without a limit
RANGE = 8 << 20  #: bytes of one request
_AT_ONCE = 4  #: requests for one file
_SAVED_BYTES = 32 << 20  #: appended, after which the journal is written
_SAVED_SECONDS = 2.0
_HASHED_BYTES = 8 << 20  #: at a time
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
_LOOK_SECONDS = 0.5  #: between looks at an entry that another process fills


def view(place: DataPlace, name: str = "", info: Info | None = None) -> bytes | Mapped:
    """Return the bytes of a file; read from afar, they lie in the cache from then on.

    Where nothing tells whether the file has changed, they are read into memory each time.

    Args:
        place: the file, or a folder.
        name: of the file in the folder.
        info: as the place describes the file, if it was asked already.

    Raises:
        DataAwayError: the place does not answer for now, or the disk is full.
    """
    if place.is_here:
        return place.view(name)
    info = place.info(name) if info is None else info
    if not version_of({name: info}):
        return place.view(name)
    entry, size = _of_file(place, name, info), int(info["size"])
    with receiving(size) as received, entry.locked():
        if not entry.complete:
            entry.make_room(size)
            ranges = [(at, min(at + RANGE, size)) for at in range(0, size, RANGE)]
            received.add(sum(end - begin for begin, end in ranges[: len(entry)]), new=False)
            read, threads = _Ranges(place, name, size), _AT_ONCE if place.has_ranges else 1
            with closing(entry.fill(ranges, read, threads=threads)) as done:
                for begin, end in done:
                    received.add(end - begin)
        return mapped(entry.folder / "content") if size else b""


class _Ranges:
    """Reads ranges of a file; of a server that knows no ranges, all of it, once."""

    def __init__(self, place: DataPlace, name: str, size: int) -> None:
        self._place, self._name, self._size = place, name, size
        self._whole = b""

    def __call__(self, one: tuple[int, int]) -> Arrays:
        begin, end = one
        content = self._whole[begin:end]
        if not content:
            content = self._place.read(self._name, *(() if end - begin == self._size else one))
            if len(content) == self._size > end - begin:
                self._whole, content = content, content[begin:end]
        if len(content) != end - begin:
            msg = f"{self._place.path}: {len(content)} of {end - begin} bytes from {begin}."
            raise DataAwayError(msg)
        return {"content": np.frombuffer(content, np.uint8)}


def discard(place: DataPlace, name: str, info: Info) -> None:
    """Remove what `view` keeps of a file."""
    entry = _of_file(place, name, info)
    with entry.locked():
        entry.remove()


def _of_file(place: DataPlace, name: str, info: Info) -> "_Entry":
    return _Entry(f"file {place.path} {name} {version_of({name: info})}")


def arrays(
    key: str,
    pieces: Sequence[Piece],
    read: Callable[[Piece], Arrays],
    *,
    needs: int,
    bytes_of: Callable[[Piece], int],
    threads: int,
    is_good: Callable[[], bool] = lambda: True,
    taken: Callable[[Piece], None] | None = None,
) -> Arrays:
    """Return arrays that are put together of pieces; from the cache, as far as they are there.

    Args:
        key: says of which versions of which files they are made, and how.
        pieces: of them, in order.
        read: makes arrays of a piece, to be appended to those of their names; in threads.
        needs: bytes on the disk, as far as that is known.
        bytes_of: that are read for a piece, which are shown.
        threads: that read.
        is_good: whether what was read is sound; if not, the end is not kept.
        taken: is called once a piece will not be read again.

    Raises:
        DataAwayError: the disk is full, or the cache too small; says what to set.
        DataError: arrays of one name do not fit together.
    """
    entry = _Entry(key)
    with receiving(sum(map(bytes_of, pieces))) as received, entry.locked():
        if not entry.complete:
            done = sum(map(bytes_of, pieces[: len(entry)]))
            received.reach(done, new=False)
            entry.make_room(needs)
            filled = entry.fill(
                pieces, read, threads=threads, is_good=is_good, saved=taken is not None
            )
            with closing(filled):
                for piece in filled:
                    done += bytes_of(piece)
                    received.reach(done)
                    if taken:
                        taken(piece)
        return entry.arrays()


class _Entry:
    """A folder of arrays."""

    def __init__(self, key: str) -> None:
        self._root = _root()
        self.folder = self._root / blake3.blake3(key.encode()).hexdigest(length=16)
        self._journal = _new_journal()
        self._hashers: dict[str, Any] = {}  # of the arrays, since they were saved
        self._room = math.inf  # bytes that there is room for

    def __len__(self) -> int:
        return int(self._journal["pieces"])

    @property
    def complete(self) -> bool:
        """Whether all pieces are there."""
        return bool(self._journal["complete"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Have it alone: another process that fills it is waited for."""
        with ExitStack() as stack:
            with self._usable():
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                file = stack.enter_context(self.folder.with_suffix(".lock").open("a"))
            while not _lock(file.fileno()):
                time.sleep(_LOOK_SECONDS)
                with receiving(0) as received:
                    received.add(0)
            with self._usable():
                self._open()
            with self._usable(_FULL):
                yield

    @contextmanager
    def _usable(self, errors: Collection[int] = ()) -> Iterator[None]:
        """Name the folder and what to set where these errors, or all, say that it can't be used."""
        try:
            yield
        except OSError as error:
            if errors and error.errno not in errors:
                raise
            fix = FIX if error.errno in (errno.ENOSPC, errno.EDQUOT) else OTHER
            msg = f"the data can't be kept in {self._root}: {error.strerror}. {fix}"
            raise DataAwayError(msg) from error

    def _open(self) -> None:
        """Read the journal, and drop what it does not know of."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        try:
            journal = json.loads(self._file("journal.json").read_bytes())
            touched = [name for name, known in journal["arrays"].items() if self._cut(name, known)]
            for name in touched:
                self._compare(name, journal["arrays"][name])
            self._journal = journal
            if touched:
                self._save()
            os.utime(self.folder)  # it was used now
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.remove()
            self.folder.mkdir(mode=0o700)

    def _cut(self, name: str, known: Mapping[str, Any]) -> bool:
        """Remove what was written after the journal; return whether the file was touched since."""
        size, found = _size_of(known), self._file(name).stat()
        if found.st_size > size:
            os.truncate(self._file(name), size)
        return found.st_size != size or found.st_mtime_ns != known["time"]

    def _compare(self, name: str, known: Mapping[str, Any]) -> None:
        """Raise ValueError where a file is not what was saved."""
        begin, size = 0, _size_of(known)
        with receiving(0) as received, self._file(name).open("rb") as file:
            for end, expected in known["hashes"]:
                hasher = blake3.blake3()
                for at in range(begin, end, _HASHED_BYTES):
                    hasher.update(file.read(min(_HASHED_BYTES, end - at)))
                    received.add(0)
                if hasher.hexdigest() != expected:
                    raise ValueError(f"{name} was damaged")
                begin = end
        if begin != size:
            raise ValueError(f"{name} has bytes without a hash")

    def fill(
        self,
        pieces: Sequence[Piece],
        read: Callable[[Piece], Arrays],
        *,
        threads: int,
        is_good: Callable[[], bool] = lambda: True,
        saved: bool = False,
    ) -> Generator[Piece, None, None]:
        """Append what is read of the pieces that are missing, and yield them; see `arrays`.

        The journal is written now and then; before each piece is yielded if it is to be `saved`.
        """
        missing, unsaved, saved_at = pieces[len(self) :], 0, time.monotonic()
        with closing(ahead(read, missing, threads)) as ready:
            for piece, found in zip(missing, ready, strict=True):
                self._expect(sum(array.nbytes for array in found.values()))
                for name, array in found.items():
                    self._append(name, array, piece)
                    unsaved += array.nbytes
                self._journal["pieces"] += 1
                late = unsaved > _SAVED_BYTES or time.monotonic() - saved_at > _SAVED_SECONDS
                if (saved or late) and is_good():
                    self._save()
                    unsaved, saved_at = 0, time.monotonic()
                yield piece
        if is_good():
            self._journal["complete"] = True
            self._save()

    def _expect(self, count: int) -> None:
        """Make room for more bytes: what was compressed takes more than was said."""
        needs = count + sum(map(_size_of, self._journal["arrays"].values()))
        if needs > self._room:
            self.make_room(needs)

    def _append(self, name: str, array: NDArray[Any], piece: object) -> None:
        new = {"dtype": array.dtype.str, "shape": [0, *array.shape[1:]], "hashes": []}
        known = self._journal["arrays"].setdefault(name, new)
        dtype, shape = known["dtype"], known["shape"]
        if dtype != array.dtype.str or tuple(shape[1:]) != array.shape[1:]:
            before = f"{np.dtype(dtype)} of {tuple(shape[1:])}"
            key = name.partition("_")[0]  # as a shard has it: x of x_train
            msg = f"{piece}: {key} has {array.dtype} of {array.shape[1:]} beside {before} before:"
            raise DataError(f"{msg} all must be of one kind and shape.")
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        self._hashers.setdefault(name, blake3.blake3()).update(content)
        with self._file(name).open("ab") as file:
            file.write(content)
        shape[0] += len(array)

    def _save(self) -> None:
        """Write the journal, after what it speaks of."""
        for name, known in self._journal["arrays"].items():
            with self._file(name).open("rb") as file:
                os.fsync(file.fileno())
                known["time"] = os.fstat(file.fileno()).st_mtime_ns
            if hasher := self._hashers.pop(name, None):
                known["hashes"].append([_size_of(known), hasher.hexdigest()])
        new = self._file("journal.new")
        new.write_text(json.dumps(self._journal), encoding="utf-8")
        new.replace(self._file("journal.json"))

    def arrays(self) -> Arrays:
        """Return the arrays, mapped and not read."""
        return {
            name: np.memmap(self._file(name), one["dtype"], mode="r", shape=tuple(one["shape"]))
            if _size_of(one)
            else np.empty(one["shape"], one["dtype"])
            for name, one in self._journal["arrays"].items()
        }

    def make_room(self, needs: int) -> None:
        """Remove what was not used for longest until so many bytes fit in."""
        self._room = needs
        others = [one for one in self._root.iterdir() if one.is_dir() and one != self.folder]
        others.sort(key=_used_at)
        sizes = {one: _bytes_in(one) for one in others}
        needs -= (mine := _bytes_in(self.folder))
        while (most := self._most(mine + sum(sizes.values()))) < needs and others:
            oldest = others.pop(0)
            other = _Entry("")
            other.folder = oldest
            with oldest.with_suffix(".lock").open("a") as file:
                if _lock(file.fileno()):
                    other.remove()
                    del sizes[oldest]
        if most < needs:
            msg = f"the data need {needs / 1e6:,.1f} MB more on the disk of {self._root}"
            raise DataAwayError(f"{msg}, where they may take {max(most, 0) / 1e6:,.1f} MB. {FIX}")

    def _most(self, used: int) -> float:
        """Return how many bytes more there may be."""
        free = shutil.disk_usage(self._root).free
        limit = _limit_bytes()
        return min(free, limit - used) if limit else SHARE * (free + used) - used

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._journal, self._hashers = _new_journal(), {}

    def _file(self, name: str) -> Path:
        return self.folder / name


def _new_journal() -> dict[str, Any]:
    """Of an entry where nothing is: an array has its dtype, shape, hashes to their ends, time."""
    return {"pieces": 0, "complete": False, "arrays": {}}


def _size_of(known: Mapping[str, Any]) -> int:
    """Return the bytes of an array that a journal tells of."""
    return int(math.prod(known["shape"]) * np.dtype(known["dtype"]).itemsize)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _bytes_in(folder: Path) -> int:
    with suppress(FileNotFoundError):  # another process writes, or makes room too
        return sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    return 0


def _used_at(folder: Path) -> float:
    with suppress(FileNotFoundError):
        return folder.stat().st_mtime
    return 0.0


def _root() -> Path:
    """Return the cache's folder; where the user has none that can be written, a temporary one."""
    if given := os.environ.get(FOLDER_VARIABLE):
        with suppress(RuntimeError):  # ~nobody
            if not is_url(given):
                return Path(given).expanduser()
        msg = f"{FOLDER_VARIABLE}: received {given!r}; expected a folder of this machine."
        raise DataAwayError(msg)
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runner"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    except (OSError, RuntimeError):  # no home
        pass
    root = Path(tempfile.gettempdir()) / f"runner-cache-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.lstat().st_uid != os.getuid():  # anybody could have made it, and filled it
        raise DataAwayError(f"{root} is somebody else's. Set {FOLDER_VARIABLE} to a folder.")
    return root


def _limit_bytes() -> float | None:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = float(text) if text else None
    except ValueError:
        limit = 0.0
    if limit is not None and not 0 < limit < math.inf:
        msg = f"{LIMIT_VARIABLE}: received {text!r}; expected millions of bytes, such as 20000."
        raise DataAwayError(msg)
    return limit and limit * 1e6
