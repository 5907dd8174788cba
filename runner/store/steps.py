"""What a protocol asks of a store, and how it is driven.

Protocols are generators: they yield what they want from the store and are sent the reply. So the
very text that runs on buckets (`run`) also runs in the tests' simulator, which loses and delays
replies.
"""

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import random
from typing import Any, TypeVar

from runner.errors import StoreError
from runner.store.base import MAX_RECORD, Store

T = TypeVar("T")
AT_ONCE = 16  #: deletions under way together


@dataclass(frozen=True)
class Create:
    """Create `key` if absent; the reply is a `Created`."""

    key: str
    data: bytes


@dataclass(frozen=True)
class Read:
    """Read a record; the reply is its bytes or None."""

    key: str


@dataclass(frozen=True)
class ReadMany:
    """Read many records; the reply is a list of bytes, None or StoreError."""

    keys: Sequence[str]


@dataclass(frozen=True)
class List:
    """List a folder; the reply is a list of keys."""

    prefix: str


@dataclass(frozen=True)
class Folders:
    """List the folders in a folder; the reply is a list of names."""

    prefix: str


@dataclass(frozen=True)
class Put:
    """Write `key`; the reply is None."""

    key: str
    data: bytes


@dataclass(frozen=True)
class Delete:
    """Remove keys, in any order; the reply is None."""

    keys: Sequence[str]


@dataclass(frozen=True)
class Age:
    """Ask for the age of `key` by the store's own clock; the reply is seconds or None."""

    key: str


@dataclass(frozen=True)
class Pause:
    """Wait a little before trying for the `attempt`-th time; the reply is None."""

    attempt: int


def boot_clock() -> float:
    """Return seconds since boot, sleep of the machine included where the system counts it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


Operation = Create | Read | ReadMany | List | Folders | Put | Delete | Age | Pause
Steps = Generator[Operation, Any, T]  #: a protocol: yields operations, returns a T


def run(store: Store, steps: Steps[T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Drive a protocol on a store. The store's errors arrive inside it, where it yielded."""
    try:
        operation = next(steps)
        while True:
            try:
                reply = perform(store, operation, sleep=sleep)
            except StoreError as error:
                operation = steps.throw(error)
            else:
                operation = steps.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result


def perform(store: Store, operation: Operation, *, sleep: Callable[[float], None]) -> object:
    """Do one operation and return its reply."""
    match operation:
        case Create(key, data):
            return store.create(key, data)
        case Read(key):
            return store.read(key, max_bytes=MAX_RECORD)
        case ReadMany(keys):
            return store.read_many(keys, max_bytes=MAX_RECORD)
        case List(prefix):
            return store.list(prefix)
        case Folders(prefix):
            return store.folders(prefix)
        case Put(key, data):
            store.put(key, data)
        case Delete(keys):
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(store.delete, keys))
        case Age(key):
            return store.age(key)
        case Pause(attempt):
            sleep(random() * min(10.0, 0.1 * 2.0**attempt))
    return None
