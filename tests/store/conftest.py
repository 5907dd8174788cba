"""Every kind of store there is, empty, and as others see it.

`RUNNER_TEST_STORE=gs://bucket/folder pytest tests/store` runs the same suite on a real bucket
instead (credentials by the client's own chain or RUNNER_STORAGE_OPTIONS); what it wrote is left
below that folder.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import pytest

from runner.store.base import Store
from runner.store.filesystem import open_store
from tests.store.memory import MemoryStore
from tests.store.servers import Server, serving

REAL_STORE = os.environ.get("RUNNER_TEST_STORE")
BACKENDS = ["url"] if REAL_STORE else ["memory", "file", "s3", "gcs"]
SHARED = [kind for kind in BACKENDS if kind != "memory"]  # can be opened by several processes


@dataclass(frozen=True, kw_only=True)
class Place:
    """An empty store, which any process can open."""

    url: str
    environment: dict[str, str] = field(default_factory=dict)

    def open(self) -> Store:
        """Return a store of its own at this place."""
        options = self.environment.get("RUNNER_STORAGE_OPTIONS")
        return open_store(self.url, storage_options=json.loads(options) if options else None)


class InMemory(Place):
    """The tests' own store."""

    def open(self) -> Store:
        return MemoryStore(self.url.removeprefix("memory://"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    with serving("s3") as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[Server]:
    with serving("gcs") as server:
        yield server


@pytest.fixture
def place_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Place]:
    def make(kind: str) -> Place:
        name = f"test-{token_hex(6)}"
        if kind == "url":
            return Place(url=f"{REAL_STORE}/{name}")
        if kind == "memory":
            return InMemory(url=f"memory://{name}")
        if kind == "file":
            return Place(url=str(tmp_path / name))
        server: Server = request.getfixturevalue(f"{kind}_server")
        return Place(url=server.url(name), environment=server.environment())

    return make


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, place_of: Callable[[str], Place]) -> Store:
    """An empty store of every kind."""
    return place_of(request.param).open()


@pytest.fixture(params=SHARED)
def place(request: pytest.FixtureRequest, place_of: Callable[[str], Place]) -> Place:
    """An empty place of every kind that processes can share."""
    return place_of(request.param)
