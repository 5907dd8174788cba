"""Racers on one key, in several processes, each of them also a reader."""

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

from runner.store.base import Created, Store
from runner.store.filesystem import open_store

PROCESSES, THREADS = 4, 8
FILL = "x" * 20_000  # long enough for a torn write to show


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one racer was told, and what it then read."""

    round: int
    racer: int
    said: Created
    read: int | None  #: the racer whose record was there; None: no whole record


def race(url: str, environment: dict[str, str], rounds: int) -> list[Attempt]:
    """Let 32 threads in 4 processes create the same key, in each of `rounds` rounds."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES * THREADS)
    with ProcessPoolExecutor(
        PROCESSES, mp_context=context, initializer=_remember, initargs=(barrier, environment)
    ) as pool:
        parts = [pool.submit(_process, url, n, rounds) for n in range(PROCESSES)]
        return [attempt for part in parts for attempt in part.result()]


def race_in_threads(store: Store, rounds: int) -> list[Attempt]:
    """Let 32 threads of this process race."""
    return _threads([store] * THREADS * PROCESSES, Barrier(THREADS * PROCESSES), 0, rounds)


_barrier: Any = None


def _remember(barrier: Any, environment: dict[str, str]) -> None:
    global _barrier
    _barrier = barrier
    os.environ.update(environment)


def _process(url: str, number: int, rounds: int) -> list[Attempt]:
    stores = [open_store(url)] * THREADS
    stores[0].read("warm-up")
    return _threads(stores, _barrier, number * THREADS, rounds)


def _threads(stores: Sequence[Store], barrier: Any, first: int, rounds: int) -> list[Attempt]:
    def racer(number: int) -> list[Attempt]:
        return [_attempt(stores[number], barrier, r, first + number) for r in range(rounds)]

    with ThreadPoolExecutor(len(stores)) as pool:
        return [attempt for part in pool.map(racer, range(len(stores))) for attempt in part]


def _attempt(store: Store, barrier: Any, round_number: int, racer: int) -> Attempt:
    key = f"race/{round_number:06d}.json"
    record = json.dumps({"racer": racer, "fill": FILL}).encode()
    barrier.wait(60)
    said = store.create(key, record)
    return Attempt(round=round_number, racer=racer, said=said, read=_whole(store.read(key)))


def _whole(data: bytes | None) -> int | None:
    try:
        record = json.loads(data or b"")
        return int(record["racer"]) if record["fill"] == FILL else None
    except ValueError:
        return None
