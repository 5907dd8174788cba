"""Data are read where they lie: a file, a bucket as the store is read, or any fsspec URL.

What is said about a store of the same place (settings file, RUNNER_STORAGE_OPTIONS) holds for data
there too, and a bucket or a server that does not answer is waited for as long.
"""

import errno
import hashlib
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from runner.errors import DataAwayError, DataError, MissingHereError, StoreError
from runner.store.clients import make_client, modified_at
from runner.store.patience import PATIENCE_SECONDS, patiently, status_of
from runner.store.schemes import HONEST, LOCAL, WEB, split
from runner.store.settings import mask, settings_for

T = TypeVar("T")

_MOST_LINKS = 8  #: to folders, followed within each other


class Mapped(mmap.mmap):
    """A file mapped into memory, which can also be read like a file."""

    def seekable(self) -> bool:
        """Whether it can be sought in; Python's own has this from 3.13 on."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:  # type: ignore[override]
        """Move to a place and return it; OSError outside the file, as files raise it."""
        try:
            super().seek(offset, whence)  # type: ignore[arg-type]
        except ValueError as error:
            raise OSError(str(error)) from None
        return self.tell()


def version(path: str) -> str:
    """Return what changes whenever the files at a bucket's URL do; "" where nothing tells."""
    return version_of(DataPlace(path).details()) if split(path)[0] in HONEST else ""


def version_of(details: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what changes whenever files do that are described so; "" where nothing tells."""
    tags = []
    for name, one in sorted(details.items()):
        tag, at = one.get("ETag") or one.get("etag"), modified_at(one) or one.get("Last-Modified")
        if one.get("size") is None or not (tag or at):
            return ""
        tags.append((name, one["size"], tag, at))
    return hashlib.sha256(repr(tags).encode()).hexdigest()


class DataPlace:
    """A file, or a folder of files.

    Args:
        path: a local one, or an fsspec URL.
        field: of the spec, named in errors.

    Raises:
        MissingHereError: this machine has no such file, may not read it, or lacks a package.
        DataError: there is no such object, or it can't be opened.
        DataAwayError: its bucket or server does not answer for now, or refuses.
    """

    def __init__(self, path: str, *, field: str = "data.path") -> None:
        self.path = mask(path)
        self._field = field
        self._scheme, _ = split(path)
        try:
            if "::" in path:
                raise ValueError("chained URLs are not opened")
            _check(self._scheme)
        except ValueError as error:
            raise self._explained(error) from None
        self._files, self._root = self._ask("opening", lambda: _opened(path, self._scheme))

    def names(self) -> list[str]:
        """Return the names of all files below the folder, relative to it, sorted."""
        return sorted(self.details())

    def read(self, name: str = "", begin: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of the file, or of one of the folder's; or those of a range."""
        path = self._path_of(name)
        content: bytes = self._ask(
            "read", lambda: self._files.cat_file(path, start=begin, end=end), name
        )
        return content

    def view(self, name: str = "") -> bytes | Mapped:
        """Return the bytes of the file; of one on this machine they are mapped, not read."""
        if self.is_here:
            return self._ask("read", lambda: mapped(Path(self._path_of(name))), name)
        return self.read(name)

    @property
    def has_ranges(self) -> bool:
        """Whether part of a file can be read for sure; a web server may send all of it."""
        return self._scheme not in WEB

    @property
    def is_here(self) -> bool:
        """Whether it lies on this machine's disk, or looks so."""
        return self._scheme in ("file", "local")

    def info(self, name: str = "") -> dict[str, Any]:
        """Return a file as the client describes it; {} where a web server does not tell."""
        path = self._path_of(name)
        if self._scheme in WEB:  # some refuse such questions: what is wrong, reading it will say
            with suppress(Exception):
                return dict(self._files.info(path))
            return {}
        return dict(self._ask("a look", lambda: self._files.info(path), name))

    def _path_of(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def details(self) -> dict[str, dict[str, Any]]:
        """Return the file, named "", or all of the folder's, as the client describes them."""
        found: dict[str, dict[str, Any]] = self._ask("listing", self._listed)
        return {
            name.removeprefix(self._root).lstrip("/"): one
            for name, one in found.items()
            if one.get("type") != "other"  # a pipe would be waited for
        }

    def _listed(self) -> dict[str, dict[str, Any]]:
        """A bucket lists all at once; where folders are opened, one that fails is no empty one.

        fsspec's own `find` leaves those out that lie deeper, whatever `on_error` says.
        """
        if self._scheme in HONEST or self._scheme == "memory":
            return dict(self._files.find(self._root, detail=True))
        found = {one["name"]: one for one in self._below(self._root, _MOST_LINKS)}
        return found or ({self._root: {}} if self._files.isfile(self._root) else {})

    def _below(self, folder: str, links: int) -> Iterator[dict[str, Any]]:
        try:
            entries = self._files.ls(folder, detail=True)
        except PermissionError:
            name = Path(folder).name
            if folder == self._root or not (name == "lost+found" or name.startswith(".")):
                raise
            return  # of the disk that is mounted here, or hidden
        for one in entries:
            name = one["name"].rstrip("/")
            is_link = one.get("islink") or one["type"] == "link"
            found = self._behind(one) if is_link else one
            if found["type"] != "directory":
                yield found
            elif name != folder.rstrip("/"):
                if is_link and not links:
                    raise ValueError(f"links to folders lead in a circle ({Path(name).name})")
                yield from self._below(name, links - is_link)

    def _behind(self, link: dict[str, Any]) -> dict[str, Any]:
        """Describe a link as what it leads to; as a link where that is nothing."""
        try:
            return {**self._files.info(link["name"]), "name": link["name"]}
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            return {**link, "type": "link"}

    def _ask(self, doing: str, work: Callable[[], T], name: str = "") -> T:
        try:
            if self._scheme in LOCAL:
                return work()
            doing = f"{doing} of {self.path}"
            return patiently(doing, lambda: self._of_web(work), patience_seconds=PATIENCE_SECONDS)
        except (OSError, ImportError, ValueError) as error:
            raise self._explained(error, name) from error

    def _explained(self, error: Exception, name: str = "") -> Exception:
        """Return what an error means for a job: wrong everywhere, missing here, or away for now."""
        of_machine, path = self._scheme in LOCAL, f"{self.path}/{name}" if name else self.path
        match error:
            case FileNotFoundError():
                text = f": no such file. Fix {self._field}, or copy the file there."
            case StoreError():
                return DataAwayError(str(error))
            case IsADirectoryError() | NotADirectoryError() | PermissionError():
                of_machine = isinstance(error, PermissionError)
                path = error.filename if self.is_here and error.filename else path
                why = error.strerror or error
                text = f" cannot be read: {why}. Fix {self._field} or its access."
            case ImportError():  # a scheme without its package
                return MissingHereError(f"{self.path}: {error}.")
            case ValueError():  # a scheme that nobody knows, a path that is none
                return DataError(f"{self.path}: {error}. Fix {self._field}.")
            case _:
                return DataAwayError(f"{path} could not be read just now: {error}. Try again.")
        return (MissingHereError if of_machine else DataError)(f"{path}{text}")

    def _of_web(self, work: Callable[[], T]) -> T:
        """Do it; a web server that refuses is no bucket to log in to."""
        try:
            return work()
        except Exception as error:
            status = status_of(error)
            if self._scheme in WEB and status in (401, 403):
                msg = f"{self.path}: its server refuses it ({status}). Fix {self._field}, or ask"
                raise DataAwayError(f"{msg} for access.") from error
            raise


def folder_at(path: str) -> DataPlace:
    """Return the place of a folder or URL.

    Raises:
        MissingHereError: this machine has no such folder.
    """
    if here(path) is None:
        raise MissingHereError(f"{path}: no such folder. Fix data.path, or copy the folder there.")
    return DataPlace(path)


def _check(scheme: str) -> None:
    """Raise ValueError where nobody knows such a scheme."""
    if scheme not in HONEST:
        from fsspec import get_filesystem_class

        with suppress(ImportError):  # its package can be installed, as will be said
            get_filesystem_class(scheme)


def lacks_client(path: str) -> str:
    """Return that this machine has no package that opens a URL, and which; "" if it has."""
    from fsspec import get_filesystem_class

    scheme, _ = split(path)
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        return f"{scheme}:// needs a package that is not installed here ({error})"
    except ValueError:  # nobody knows such a scheme
        pass
    return ""


def tell_fsspec(urls: Iterable[Any]) -> None:
    """Let fsspec itself, and pandas with it, open these URLs with the options of their buckets.

    Until the next call: a program may open its data later than it is called. What is no URL of a
    bucket is passed over; of two places with one scheme the first counts.
    """
    from fsspec.config import conf

    while _told:
        scheme, own = _told.popitem()
        conf[scheme] = own
    for url in urls:
        scheme = split(url)[0] if isinstance(url, str) else ""
        if scheme in HONEST - _told.keys() and (options := settings_for(url).storage_options):
            _told[scheme] = conf.get(scheme, {})
            conf[scheme] = {**_told[scheme], **options}


_told: dict[str, Any] = {}  #: scheme -> what fsspec's own configuration says of it


def mapped(path: Path) -> bytes | Mapped:
    """Return a file's bytes, mapped; read where it can't be mapped."""
    with path.open("rb") as file:
        try:
            return Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):  # it is empty, or of a kind that can't be mapped
            return file.read()


def _opened(path: str, scheme: str) -> tuple[Any, str]:
    plain = scheme in WEB | LOCAL
    return make_client(path, {} if plain else settings_for(path).storage_options)


def here(path: str, given: str | None = None) -> str | None:
    """Return where this machine has what a spec names; None where it has not.

    Args:
        path: a local one, or a URL, which is the same everywhere.
        given: a relative path that stands for the same file in another machine's working folder.
    """
    if is_url(path):
        return path
    for one in (path, given or path):
        with suppress(OSError, ValueError, RuntimeError):  # no access, too long a path, ~nobody
            if Path(one).expanduser().exists():
                return one
    return None


def is_url(path: str) -> bool:
    """Whether a path is read through fsspec, the same from everywhere."""
    return "://" in path or "::" in path
