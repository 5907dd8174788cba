"""Asking workers to finish their step, save, release their job, and claim no more.

A request is an object with a fresh nonce. A worker remembers what lay there when it began: only
what comes after that is meant for it, whatever any clock says, so that nobody has to clean up
before new workers start.
"""

import re
from collections.abc import Mapping
from secrets import token_hex
from typing import Any

from runner.errors import StoreError
from runner.store.base import Store
from runner.store.log import encode, parse

EVERYONE = "workers/drain.json"


def name_of(owner: Mapping[str, Any]) -> str:
    """Return how people call a worker: `host:pid`."""
    return f"{str(owner.get('host', '?'))[:64]}:{str(owner.get('pid', '?'))[:20]}"


def key_of(worker: str) -> str:
    """Return where requests to one worker lie."""
    return f"workers/drain-{file_of(worker)}.json"


def file_of(worker: str) -> str:
    """Return a worker's name as a part of keys."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", worker)[:100]


def request(store: Store, worker: str = "") -> None:
    """Ask one worker, or all that work now; each obeys within one heartbeat."""
    store.put(key_of(worker) if worker else EVERYONE, encode({"nonce": token_hex(12)}))


class Drain:
    """The requests that a worker listens to."""

    def __init__(self, store: Store, worker: str) -> None:
        self._store = store
        self._keys = (EVERYONE, key_of(worker))
        self._first = self._look()

    def requested(self) -> bool:
        """Whether someone asked since this worker began. Raises StoreError."""
        return any(
            found and found != first for found, first in zip(self._look(), self._first, strict=True)
        )

    def _look(self) -> list[str]:
        nonces = []
        for found in self._store.read_many(self._keys):
            if isinstance(found, StoreError):
                raise found
            nonces.append(_nonce(found))
        return nonces


def _nonce(data: bytes | None) -> str:
    try:
        return "" if data is None else str(parse(data, "drain").get("nonce", ""))
    except StoreError:
        return ""  # whatever lies there, it is no request
