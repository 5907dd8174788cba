"""A store in this process's memory, honest like the others, with faults on request.

A hook sees every operation before it happens
and may raise (for instance `Killed`, as a machine's death between two calls), or return a
`Fault` that says how the operation goes wrong.
"""

import time
from collections.abc import Callable, Sequence
from enum import Enum
from threading import RLock

from runner.errors import NotFoundError, StoreError
from runner.store.base import (
    MAX_READ,
    MAX_RECORD,
    Buffer,
    Created,
    check_key,
    check_prefix,
    check_record,
    pieces,
    read_or_error,
    too_large,
)


class Killed(BaseException):
    """The process died here. Not an Exception, so that nothing tidies up after it."""


class Fault(Enum):
    """How an operation goes wrong."""

    NOT_DONE = "not done"  #: nothing happened, and the caller can't know
    REPLY_LOST = "reply lost"  #: it happened, and the caller can't know
    SAYS_EXISTS = "says exists"  #: a create that happened; the client's own resend found it
    STALE = "stale"  #: a listing without its newest key


Hook = Callable[[int, str, str], Fault | None]  #: number of the operation, its name, key


class MemoryStore:
    """Bytes under keys in memory.

    >>> store = MemoryStore()
    >>> store.create("a/b", b"first"), store.create("a/b", b"second")
    (<Created.YES: 'yes'>, <Created.EXISTS: 'exists'>)
    >>> store.read("a/b")
    b'first'
    """

    def __init__(
        self,
        name: str = "",
        *,
        clock: Callable[[], float] | None = time.time,
        hook: Hook | None = None,
    ) -> None:
        self.url = f"memory://{name}"
        self.single_writer = False
        self.hook = hook  #: may be set at any time
        self.operations = 0  #: how many were asked for
        self._clock = clock  # None: a store without times
        self._objects: dict[str, tuple[bytes, float, int]] = {}
        self._writes = 0
        self._lock = RLock()

    def copy(self) -> "MemoryStore":
        """Return an independent store with the same objects and no hook."""
        twin = MemoryStore(clock=self._clock)
        twin.url, twin._objects, twin._writes = self.url, dict(self._objects), self._writes
        return twin

    def read(self, key: str, *, max_bytes: int = MAX_READ) -> bytes | None:
        self._enter("read", check_key(key))
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            return None
        if len(found[0]) > max_bytes:
            raise too_large(key, len(found[0]), max_bytes)
        return found[0]

    def read_many(
        self, keys: Sequence[str], *, max_bytes: int = MAX_RECORD
    ) -> list[bytes | StoreError | None]:
        return [read_or_error(self, key, max_bytes) for key in map(check_key, keys)]

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self._enter("read_range", check_key(key))
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise NotFoundError(f"{key} is not in {self.url}.")
        data = found[0][start : start + length]
        if len(data) < length:
            raise StoreError(
                f"{key} ends after {len(found[0])} bytes: {length} from {start} asked."
            )
        return data

    def create(self, key: str, data: bytes) -> Created:
        data = check_record(data)
        fault = self._fault("create", check_key(key))
        if fault is Fault.NOT_DONE:
            return Created.UNKNOWN
        with self._lock:
            if key in self._objects:
                return Created.UNKNOWN if fault is Fault.REPLY_LOST else Created.EXISTS
            self._write(key, data)
        if fault is Fault.REPLY_LOST:
            return Created.UNKNOWN
        return Created.EXISTS if fault is Fault.SAYS_EXISTS else Created.YES

    def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        whole = b"".join(pieces(data))
        fault = self._fault("put", check_key(key))
        if fault is not Fault.NOT_DONE:
            with self._lock:
                self._write(key, whole)
        if fault in (Fault.NOT_DONE, Fault.REPLY_LOST):
            raise StoreError(f"put of {key}: no reply.")

    def duplicate(self, key: str, to: str) -> None:
        fault = self._fault("duplicate", check_key(key))
        if fault is not Fault.NOT_DONE:
            with self._lock:
                if key not in self._objects:
                    raise NotFoundError(f"{key} is not in {self.url}.")
                self._write(check_key(to), self._objects[key][0])
        if fault in (Fault.NOT_DONE, Fault.REPLY_LOST):
            raise StoreError(f"copy of {key}: no reply.")

    def sizes(self, prefix: str) -> dict[str, int]:
        self._enter("sizes", check_prefix(prefix))
        with self._lock:
            return {k: len(kept[0]) for k, kept in self._objects.items() if k.startswith(prefix)}

    def folders(self, prefix: str) -> list[str]:
        self._enter("folders", check_prefix(prefix))
        with self._lock:
            below = [key[len(prefix) :] for key in self._objects if key.startswith(prefix)]
        return sorted({name.split("/", 1)[0] for name in below if "/" in name})

    def size(self, key: str) -> int | None:
        self._enter("size", check_key(key))
        with self._lock:
            found = self._objects.get(key)
        return None if found is None else len(found[0])

    def delete(self, key: str) -> None:
        fault = self._fault("delete", check_key(key))
        if fault is not Fault.NOT_DONE:
            with self._lock:
                self._objects.pop(key, None)
        if fault in (Fault.NOT_DONE, Fault.REPLY_LOST):
            raise StoreError(f"delete of {key}: no reply.")

    def age(self, key: str) -> float | None:
        self._enter("age", check_key(key))
        with self._lock:
            found = self._objects.get(key)
        if found is None or self._clock is None:
            return None
        return max(0.0, self._clock() - found[1])

    def _write(self, key: str, data: bytes) -> None:
        self._writes += 1
        self._objects[key] = (data, self._clock() if self._clock else 0.0, self._writes)

    def _fault(self, operation: str, key: str) -> Fault | None:
        with self._lock:
            self.operations += 1
            number = self.operations
        return self.hook(number, operation, key) if self.hook else None

    def _enter(self, operation: str, key: str) -> None:
        if self._fault(operation, key) in (Fault.NOT_DONE, Fault.REPLY_LOST):
            raise StoreError(f"{operation} of {key}: no reply.")

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        fault = self._fault("list", check_prefix(prefix))
        if fault in (Fault.NOT_DONE, Fault.REPLY_LOST):
            raise StoreError(f"listing of {prefix}: no reply.")
        with self._lock:
            found = {key: kept[2] for key, kept in self._objects.items() if key.startswith(prefix)}
        if fault is Fault.STALE and found:
            del found[max(found, key=lambda key: found[key])]
        return sorted(key for key in found if key > after)
