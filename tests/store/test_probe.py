"""A store that ignores the condition of a create is convicted; an honest one is not."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from runner.errors import StoreRefusedError
from runner.queue.queue import Queue
from runner.store.base import Created, Store
from runner.store.filesystem import FileStore
from runner.store.probe import MARKER, probe
from tests.store.conftest import REAL_STORE
from tests.store.memory import Fault, MemoryStore
from tests.store.servers import Server, serving
from tests.store.servers import proxy as wire
from tests.store.servers.proxy import Proxy


@pytest.fixture(scope="module", params=["s3", "gcs"])
def dishonest(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that does not know the condition, as rclone's and s3rver's do not."""
    if REAL_STORE:
        pytest.skip("test servers only")
    with serving(request.param, "--dishonest") as server:
        yield server


def test_an_honest_store_is_not_convicted(store: Store) -> None:
    verdict = probe(store)
    assert verdict.findings == ()
    assert [key for key in store.list("") if key != MARKER] == []


def test_a_server_that_ignores_the_condition_is_convicted(dishonest: Server) -> None:
    verdict = probe(dishonest.store(f"probe-{token_hex(4)}"))
    assert not verdict.honest
    assert "several racers were told that they had created one object" in verdict.findings
    assert "a latecomer's create replaced the object" in verdict.findings


def test_such_a_store_is_refused_at_its_first_use(dishonest: Server) -> None:
    store = dishonest.store(f"probe-{token_hex(4)}")
    with pytest.raises(StoreRefusedError, match="can't be shared"):
        Queue(store).submit("cats", {"seed": 1})
    assert store.list("") == []


def test_such_a_store_serves_a_single_writer(dishonest: Server) -> None:
    store = dishonest.store(f"probe-{token_hex(4)}", single_writer=True)
    assert Queue(store).submit("cats", {"seed": 1}).number == 0


def test_an_honest_bucket_is_probed_once(s3_server: Server) -> None:
    store = s3_server.store(f"probe-{token_hex(4)}")
    queue = Queue(store)
    queue.submit("cats", {"seed": 1})
    assert store.list("") == [
        "jobs/cats/head.json",
        "jobs/cats/log/000000000000.json",
        MARKER,
    ]


class Forgetful(FileStore):
    """Checks, then writes: as fsspec does on local files."""

    def create(self, key: str, data: bytes) -> Created:
        if self.read(key) is not None:
            return Created.EXISTS
        self.put(key, data)
        return Created.YES


def test_check_then_write_is_convicted(tmp_path: Path) -> None:
    verdict = probe(Forgetful(tmp_path), rounds=60)
    assert "several racers were told that they had created one object" in verdict.findings


def test_lost_replies_convict_nobody() -> None:
    """A create that says "exists" to its own winner is a client's resend, not a dishonest store."""
    store = MemoryStore(hook=lambda n, op, key: Fault.SAYS_EXISTS if op == "create" else None)
    assert probe(store).honest
    store.hook = lambda n, op, key: Fault.REPLY_LOST if op == "create" and n % 3 == 0 else None
    assert probe(store).honest


def test_a_zonal_bucket_is_known_to_ignore_conditions(gcs_server: Server) -> None:
    """The emulator knows no zones: its answer about the bucket is replaced."""

    def rule(request: wire.Request) -> wire.Fault | None:
        about_the_bucket = request.path.split("?")[0].endswith("/b/bucket")
        return (
            wire.answer(200, b'{"name": "bucket", "locationType": "zone"}')
            if about_the_bucket
            else None
        )

    with Proxy(gcs_server.port, rule) as proxy:
        verdict = probe(gcs_server.store(f"probe-{token_hex(4)}", port=proxy.port))
    assert verdict.findings == ("zonal buckets ignore the condition of a create",)
