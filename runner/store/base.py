"""A store keeps bytes under keys, and creates a key exactly once, whoever races for it.

Everything above (the log, the queue, the checkpoints) rests on `Store.create`: of all
callers that create one key, one is told YES, and no reader ever sees a part of the record.
Keys are checked here and nowhere else, so that no name can leave the store's root.
"""

import re
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from runner.errors import StoreError

Buffer = bytes | bytearray | memoryview

MAX_READ = 1 << 30  #: bytes; what one `read` may take into memory unless told otherwise
MAX_RECORD = 1 << 20  #: bytes; records are small, so that one request carries them

_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(f"{_SEGMENT}(?:/{_SEGMENT})*")
_MAX_KEY = 900  # S3 and GCS allow 1,024 bytes, and the bucket's own prefix comes before ours


class Created(Enum):
    """What the store says about a create."""

    YES = "yes"  #: absent before, whole now, and ours
    EXISTS = "exists"  #: something is there: perhaps ours, whose reply was lost. Read it back
    UNKNOWN = "unknown"  #: no honest answer came: read it back


class Store(Protocol):
    """Bytes under keys.

    Transient faults are waited out inside; what is raised is `StoreError` (try later) or
    `StoreRefusedError` (someone has to fix it). All methods may be called from many threads.
    """

    url: str  #: for people: passwords and tokens are masked
    single_writer: bool  #: the user promised that one process at a time writes here

    def read(self, key: str, *, max_bytes: int = MAX_READ) -> bytes | None:
        """Return the bytes, None where the key is absent. More than `max_bytes`: StoreError."""

    def read_many(
        self, keys: Sequence[str], *, max_bytes: int = MAX_RECORD
    ) -> list[bytes | StoreError | None]:
        """Read many small records, at once where the backend can.

        One that can't be read is returned as its error, so that it spoils no other.
        """

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start`; absent: NotFoundError, short: StoreError."""

    def create(self, key: str, data: bytes) -> Created:
        """Write at most MAX_RECORD bytes if nothing is there, whole or not at all."""

    def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        """Write or overwrite, whole or not at all. A sequence counts as its pieces joined."""

    def duplicate(self, key: str, to: str) -> None:
        """Give an object that never changes a second name, without its bytes travelling.

        Whole or not at all, and each name can be deleted by itself. Absent: NotFoundError.
        """

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below a folder, sorted."""

    def size(self, key: str) -> int | None:
        """Return the bytes of the object, or None where it is absent."""

    def delete(self, key: str) -> None:
        """Remove the key; absent is fine."""

    def age(self, key: str) -> float | None:
        """Return the seconds since the last write, by the store's own clock.

        None where the key is absent or the store keeps no such times. Never too large by more
        than the store's own resolution (a second).
        """

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the bytes of each object below a folder, by key; one listing."""

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        """Return all keys below a folder ("" or ending in "/") that sort after `after`, sorted."""


def check_key(key: str) -> str:
    """Return the key, or raise StoreError where it could mean anything but a name in the store."""
    if isinstance(key, str) and is_key(key):
        return key
    raise StoreError(
        f"{key!r} is not a key. Keys are names of letters, digits, '.', '_' and '-', "
        f"joined by '/', none starting with '.', at most {_MAX_KEY} characters in all."
    )


def check_prefix(prefix: str) -> str:
    """Return a folder prefix: "" for the root, or a key followed by "/"."""
    if prefix == "":
        return prefix
    if not prefix.endswith("/"):
        raise StoreError(f"{prefix!r} is not a folder: end it with '/'.")
    check_key(prefix[:-1])
    return prefix


def check_record(data: bytes) -> bytes:
    """Return the data of a create, or raise StoreError where one request can't carry it."""
    if 0 < len(data) <= MAX_RECORD:
        return bytes(data)
    raise StoreError(
        f"a record of {len(data)} bytes: only 1 to {MAX_RECORD} bytes can be created exclusively. "
        "Give bigger data a unique name and put it."
    )


def is_key(name: str) -> bool:
    """Whether a name found in the store is one of ours (temporary files and strays are not)."""
    return len(name) <= _MAX_KEY and _KEY.fullmatch(name) is not None


def read_or_error(store: Store, key: str, max_bytes: int) -> bytes | StoreError | None:
    """Return what a store reads under a key, or its error: one of many spoils no other."""
    try:
        return store.read(key, max_bytes=max_bytes)
    except StoreError as error:
        return error


def pieces(data: Buffer | Sequence[Buffer]) -> list[memoryview]:
    """Return the data as flat byte views, without a copy."""
    buffers = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    return [memoryview(buffer).cast("B") for buffer in buffers]


def too_large(key: str, size: int, max_bytes: int) -> StoreError:
    """Return the error for an object that is larger than its reader can use."""
    return StoreError(
        f"{key} holds {size} bytes, and at most {max_bytes} make sense there: whose is it?"
    )
