"""What several commands share: the store's option, opening it, words beside the results."""

import argparse
import errno
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path

from runner import code as own_code
from runner import environment
from runner.errors import SpecError, StoreRefusedError
from runner.queue.queue import Queue
from runner.store.base import Store
from runner.store.filesystem import FileStore, open_store
from runner.store.settings import mask

DEFAULT_LEASE_SECONDS = 60.0
STDERR = 2  #: its file descriptor
_named: dict[str, str] = {}  # store and code that the command line names, to be repeated in others


def add_store_option(parser: argparse.ArgumentParser) -> None:
    """`--store URL`, as every command that looks into a bucket has it."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="bucket or folder of the jobs, such as gs://bucket/runs (default: $RUNNER_STORE,"
        " else a folder among your user data)",
    )


def add_code_option(parser: argparse.ArgumentParser) -> None:
    """`--code DIR`, as every command that trains, evaluates or checks a spec has it."""
    parser.add_argument(
        "--code",
        metavar="DIR",
        help="folder of your own programs/, models/ and datasets/ (default: $RUNNER_CODE)",
    )


def say(text: str) -> None:
    """A line for the user, beside the results."""
    to_stderr(f"{text}\n")


def command(*words: str) -> str:
    """Return a command to be typed next: `'runner resume cats'`.

    It repeats the store and the code that this command was given, but no password.
    """
    store, code = _named.get("store", ""), _named.get("code", "")
    if code and words[0] in ("resume", "work") and "--code" not in words:
        words = (*words, "--code", code)
    named = ["--store", store] if store and mask(store) == store else []
    return f"'{shlex.join(['runner', *words, *named])}'"


def use_code(folder: str) -> None:
    """Let this process find the user's code in a folder.

    Raises:
        SpecError: it is no folder.
    """
    own_code.use(folder)
    _named["code"] = folder


def to_stderr(text: str) -> None:
    """Write to standard error. Where its reader is gone, nobody is left to read it.

    A terminal that was closed, a pipe that broke or a full disk must not end the work.
    """
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError as error:
        if error.errno in (errno.EIO, errno.EPIPE):
            with suppress(OSError):  # what is left in its buffer must go somewhere at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)


def open_queue(options: argparse.Namespace, *, quiet: bool = False) -> tuple[Queue, Store]:
    """The store that the options or the environment name, and its queue.

    Raises:
        StoreError: it cannot be opened.
        SpecError: a setting in the environment is no number.
    """
    url = store_url(options)
    _named["store"] = options.store or ""
    try:
        store = open_store(url)
    except RuntimeError as error:  # ~nobody
        raise StoreRefusedError(f"the store {url!r} cannot be a folder: {error}") from None
    if not quiet:
        say(f"store: {store.url}")
    return Queue(store, lease_seconds=lease_seconds()), store


def not_there(store: Store) -> str:
    """Return a sentence where the store's folder is not there yet, else ""."""
    missing = isinstance(store, FileStore) and not store.is_there
    return f"no jobs: {store.url} is not there yet" if missing else ""


def store_url(options: argparse.Namespace) -> str:
    """The store that is meant, as it was given: it may hold a password.

    Raises:
        SpecError: it is empty, or there is no place for the default one.
    """
    named: str = os.environ.get("RUNNER_STORE") or "" if options.store is None else options.store
    if not named.strip() and (named or options.store is not None):
        what = "RUNNER_STORE" if options.store is None else "--store"
        msg = f"{what} received {named!r}; expected a folder or a URL such as gs://bucket/runs"
        raise SpecError(msg)
    try:
        return named or str(default_store())
    except RuntimeError:
        msg = "this user has no home folder for the jobs: name a store with --store or RUNNER_STORE"
        raise SpecError(msg) from None


def default_store() -> Path:
    """The folder that holds the jobs where no store is named."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "runner"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "runner"


def lease_seconds() -> float:
    """How long a silent worker keeps its job; `RUNNER_LEASE_SECONDS` changes it."""
    return environment.seconds("RUNNER_LEASE_SECONDS") or DEFAULT_LEASE_SECONDS


def write_file(path: Path, data: bytes) -> None:
    """Write beside and rename, so that no reader gets half a file.

    Raises:
        SpecError: nothing can be written under this name.
        OSError: the disk is full or broken.
    """
    try:
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        part.replace(path)
    except ValueError as error:  # no name at all
        raise SpecError(f"{str(path)!r} names no file to write: {error}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO):
            raise
        msg = f"{path} cannot be written: {error.strerror}. Choose another place."
        raise SpecError(msg) from None
