"""Data are read where they lie: a file, a bucket as the store is read, or any fsspec URL.

What is said about a store of the same place (settings file, RUNNER_STORAGE_OPTIONS) holds for data
there too, and a bucket that does not answer is waited for as long.
"""

import mmap
from pathlib import Path
from typing import Any

from runner.errors import DataError, StoreError
from runner.store.base import is_key
from runner.store.filesystem import open_store
from runner.store.schemes import HONEST
from runner.store.settings import settings_for

MAX_BYTES = 1 << 40  #: of one file
_WITHOUT_OPTIONS = frozenset({"file", "local", "http", "https", "memory", "data", "github"})


class Mapped(mmap.mmap):
    """A file mapped into memory, which can also be read like a file."""

    def seekable(self) -> bool:
        """Whether it can be sought in; Python's own has this from 3.13 on."""
        return True


def read(path: str, *, field: str = "data.path") -> bytes:
    """Return a file's bytes, as `view` does, in memory of this process."""
    found = view(path, field=field)
    return found if isinstance(found, bytes) else bytes(found)


def view(path: str, *, field: str = "data.path") -> bytes | Mapped:
    """Return a file's bytes; those of a file on this machine are mapped and not read.

    Args:
        path: a local one, or an fsspec URL.
        field: of the spec, named in errors.

    Raises:
        DataError: there is no such file, or it can't be opened.
        StoreError: its bucket does not answer for now, or refuses.
    """
    scheme, _, _ = path.partition("://")
    folder, _, name = path.rpartition("/")
    try:
        if "://" not in path and "::" not in path:
            return _mapped(Path(path).expanduser())
        if scheme.lower() in HONEST and "::" not in path and is_key(name):
            data = open_store(folder, single_writer=True).read(name, max_bytes=MAX_BYTES)
            if data is None:
                raise FileNotFoundError(path)
            return data
        import fsspec

        with fsspec.open(path, "rb", **options(path)) as file:
            content: bytes = file.read()
            return content
    except StoreError:
        raise
    except FileNotFoundError:
        msg = f"{path}: no such file. Mend {field}, or copy the file there."
        raise DataError(msg) from None
    except (IsADirectoryError, PermissionError) as error:
        msg = f"{path} cannot be read: {error.strerror or error}. Mend {field} or its access."
        raise DataError(msg) from None
    except (ImportError, ValueError, TypeError) as error:  # a scheme without its package, or none
        msg = f"{path}: {error}. Mend {field}."
        raise DataError(msg) from None
    except OSError as error:
        msg = f"{path} could not be read just now: {error}. Try again."
        raise StoreError(msg) from error


def _mapped(path: Path) -> bytes | Mapped:
    with path.open("rb") as file:
        try:
            return Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):  # it is empty, or of a kind that can't be mapped
            return file.read()


def options(url: str) -> dict[str, Any]:
    """Return what the client of a URL is opened with: as for a store there."""
    scheme = url.partition("://")[0].rpartition("::")[2].lower()
    if "://" not in url or scheme in _WITHOUT_OPTIONS:
        return {}
    found = settings_for(url.rpartition("::")[2]).storage_options
    return {scheme: found} if "::" in url and found else found
