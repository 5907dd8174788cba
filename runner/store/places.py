"""Data are read where they lie: a file, a bucket as the store is read, or any fsspec URL.

What is said about a store of the same place (settings file, RUNNER_STORAGE_OPTIONS) holds for data
there too, and a bucket that does not answer is waited for as long.
"""

from pathlib import Path
from typing import Any

from runner.errors import DataError, MissingHereError, StoreError
from runner.store.base import is_key
from runner.store.filesystem import open_store
from runner.store.schemes import HONEST
from runner.store.settings import settings_for

MAX_BYTES = 1 << 40  #: of one file
_WITHOUT_OPTIONS = frozenset({"file", "local", "http", "https", "memory", "data", "github"})


def read(path: str, *, field: str = "data.path") -> bytes:
    """Return a file's bytes.

    Args:
        path: a local one, or an fsspec URL.
        field: of the spec, named in errors.

    Raises:
        MissingHereError: this machine has no such file, may not read it, or lacks a package.
        DataError: there is no such object, or it can't be opened.
        StoreError: its bucket does not answer for now, or refuses.
    """
    scheme, _, _ = path.partition("://")
    folder, _, name = path.rpartition("/")
    try:
        if not is_url(path):
            return Path(path).expanduser().read_bytes()
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
        raise (MissingHereError if not is_url(path) else DataError)(msg) from None
    except (IsADirectoryError, PermissionError) as error:
        msg = f"{path} cannot be read: {error.strerror or error}. Mend {field} or its access."
        its_own = isinstance(error, IsADirectoryError)
        raise (DataError if its_own else MissingHereError)(msg) from None
    except ImportError as error:  # a scheme without its package
        msg = f"{path}: {error}."
        raise MissingHereError(msg) from None
    except (ValueError, TypeError) as error:
        msg = f"{path}: {error}. Mend {field}."
        raise DataError(msg) from None
    except OSError as error:
        msg = f"{path} could not be read just now: {error}. Try again."
        raise StoreError(msg) from error


def here(path: str, given: str | None = None) -> str | None:
    """Return where this machine has what a spec names; None where it has not.

    Args:
        path: a local one, or a URL, which is the same everywhere.
        given: a relative path that stands for the same file in another machine's working folder.
    """
    if is_url(path):
        return path
    for one in (path, given or path):
        try:
            if Path(one).expanduser().exists():
                return one
        except (OSError, ValueError, RuntimeError):  # no access, longer than a path can be, ~nobody
            continue
    return None


def is_url(path: str) -> bool:
    """Whether a path is read through fsspec, the same from everywhere."""
    return "://" in path or "::" in path


def options(url: str) -> dict[str, Any]:
    """Return what the client of a URL is opened with: as for a store there."""
    scheme = url.partition("://")[0].rpartition("::")[2].lower()
    if "://" not in url or scheme in _WITHOUT_OPTIONS:
        return {}
    found = settings_for(url.rpartition("::")[2]).storage_options
    return {scheme: found} if "::" in url and found else found
