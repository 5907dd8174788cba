"""A bucket that answers late, twice, wrongly or not at all loses nothing and convinces nobody."""

import contextlib
import gc
import logging
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex
from threading import Thread

import pytest

from runner.commit import Commit
from runner.errors import StoreError, StoreRefusedError
from runner.queue.queue import Queue
from runner.store import log, patience
from runner.store.appending import settle
from runner.store.base import Created
from runner.store.filesystem import FileStore
from runner.store.remote import FsspecStore
from runner.store.steps import run
from tests.store.conftest import REAL_STORE
from tests.store.servers import Server
from tests.store.servers.proxy import (
    CUT,
    LOSE,
    RESET,
    Fault,
    Proxy,
    Request,
    answer,
    answer_after,
    first,
    sometimes,
    stall,
)

pytestmark = pytest.mark.skipif(bool(REAL_STORE), reason="the proxy speaks to test servers only")


@pytest.fixture(params=["s3", "gcs"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as running:
        yield running


@pytest.fixture
def store(server: Server, proxy: Proxy) -> FsspecStore:
    """A store behind the proxy that has reached its bucket."""
    made = server.store(f"faults-{token_hex(4)}", port=proxy.port, patience_seconds=20.0)
    made.put("ready", b"1")
    return made


Use = Callable[[FsspecStore], object]


TRANSIENT = {
    "503 before": answer(503, b"<Error><Code>SlowDown</Code></Error>"),
    "500 before": answer(500),
    "429 before": answer(429),
    "503 after": answer_after(503),
    "500 after": answer_after(500),
    "lost": LOSE,
    "reset": RESET,
    "cut": CUT,
}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_transient_faults_are_waited_out(
    store: FsspecStore, proxy: Proxy, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first request of every kind to every object fails once."""
    store.put("there", b"before")
    caplog.set_level(logging.WARNING)
    proxy.rule = first(1, TRANSIENT[fault])
    store.put("blob", b"x" * 1000)
    assert store.read("blob") == b"x" * 1000
    assert store.read("blob", max_bytes=2000) == b"x" * 1000
    assert store.read("absent") is None
    assert store.read_range("blob", 10, 5) == b"xxxxx"
    assert store.size("blob") == 1000
    assert store.list("") == ["blob", "ready", "there"]
    assert store.read_many(["blob", "absent"]) == [b"x" * 1000, None]
    store.delete("blob")
    assert store.read("blob") is None
    assert proxy.faults[TRANSIENT[fault]] > 3


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_create_is_never_misread(store: FsspecStore, proxy: Proxy, fault: str) -> None:
    """What is not a clear answer is UNKNOWN or EXISTS, and the log finds out whose it is."""
    proxy.rule = first(1, TRANSIENT[fault], creates=True)
    record = {"number": 0, "nonce": "mine", "previous": ""}
    theirs = {"number": 0, "nonce": "theirs", "previous": ""}
    assert run(store, settle("job", record, None)) == record
    assert run(store, settle("job", theirs, None)) == record
    assert run(store, log.head("job")) == record


def test_a_stalled_request_ends(
    server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcsfs has no timeout of its own: a stalled request hung for more than 330 s."""
    from runner.store import clients

    monkeypatch.setattr(clients, "_SILENT_SECONDS", 1.0)
    store = server.store(f"stall-{token_hex(4)}", port=proxy.port, patience_seconds=20.0)
    store.put("a", b"1")
    proxy.rule = first(1, stall(5.0), method="GET")
    started = time.monotonic()
    assert store.read("a") == b"1"
    assert time.monotonic() - started < 15


def test_what_is_retried_is_said_and_patience_ends(
    server: Server, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    store = server.store(f"away-{token_hex(4)}", port=proxy.port, patience_seconds=1.0)
    store.put("a", b"1")
    proxy.rule = lambda _request: answer(503)
    caplog.set_level(logging.WARNING)
    started = time.monotonic()
    with pytest.raises(StoreError, match="failed for 1 s on end") as raised:
        store.put("b", b"2")
    assert time.monotonic() - started < 8, "the bound is none"
    assert not isinstance(raised.value, StoreRefusedError)
    assert f"put of b in {server.url('away')}" in caplog.text
    assert "trying again in" in caplog.text


REFUSED_S3 = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"


USES = pytest.mark.parametrize(
    "use",
    [
        lambda store: store.read("a"),
        lambda store: store.put("a", b"1"),
        lambda store: store.create("a", b"1"),
        lambda store: store.list("x/"),
        lambda store: store.folders("x/"),
        lambda store: store.size("a"),
        lambda store: store.delete("a"),
        lambda store: store.read_range("a", 0, 1),
    ],
    ids=["read", "put", "create", "list", "folders", "size", "delete", "read_range"],
)


@pytest.mark.parametrize("status", [401, 403])
@USES
def test_refused_credentials_stop_at_once(
    store: FsspecStore, proxy: Proxy, status: int, use: Use
) -> None:
    proxy.rule = lambda _request: answer(status, REFUSED_S3)
    started = time.monotonic()
    with pytest.raises(StoreRefusedError, match="Log in again"):
        use(store)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.read("a"),
        lambda store: store.read("a", max_bytes=10),
        lambda store: store.put("a", b"1"),
        lambda store: run(store, settle("a", {"number": 0, "nonce": "n"}, None)),
        lambda store: store.list("jobs/"),
        lambda store: store.folders("jobs/"),
    ],
    ids=["read", "read small", "put", "settle", "list", "folders"],
)
def test_a_missing_bucket_is_not_an_empty_one(server: Server, use: Use) -> None:
    url = server.url("runs").replace("//bucket", "//no-such-bucket")
    with pytest.raises(StoreRefusedError, match="no such bucket"):
        use(FsspecStore(url, storage_options=server.options, patience_seconds=5.0))


def test_objects_of_a_missing_bucket_are_not_absent(server: Server) -> None:
    url = server.url("runs").replace("//bucket", "//no-such-bucket")
    store = FsspecStore(url, storage_options=server.options, patience_seconds=5.0)
    for _ in range(2):
        assert [type(one) for one in store.read_many(["a", "b"])] == [StoreRefusedError] * 2


@pytest.mark.parametrize("fault", [answer(500), answer(503), RESET], ids=["500", "503", "reset"])
def test_a_bucket_behind_a_bad_line_is_not_missing(
    server: Server, proxy: Proxy, fault: Fault
) -> None:
    """The clients' own `exists` says no at any fault: a user would make the bucket again."""
    proxy.rule = first(1, fault)
    store = server.store(f"bad-{token_hex(4)}", port=proxy.port, patience_seconds=20.0)
    assert store.read("nothing") is None
    again = server.store(f"bad-{token_hex(4)}", port=proxy.port, patience_seconds=20.0)
    assert again.list("jobs/") == []


@pytest.mark.parametrize("status", [401, 403])
@USES
def test_a_blip_of_refused_credentials_is_waited_for(
    store: FsspecStore, proxy: Proxy, status: int, use: Use
) -> None:
    """They worked before, so that they are likely to work again."""
    store.put("x/b", b"1")
    for _ in range(2):
        store.put("a", b"1")
        use(store)
    store.put("a", b"1")
    blip = iter([answer(status, REFUSED_S3)])
    proxy.rule = lambda _request: next(blip, None)
    assert use(store) in (None, 1, b"1", ["x/b"], [], Created.UNKNOWN)
    assert proxy.faults


def test_credentials_that_stay_refused_stop_the_work(
    store: FsspecStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_BLIP_SECONDS", 1.0)
    queue = Queue(store)
    queue.submit("cats", {"seed": 1})
    proxy.rule = lambda _request: answer(403, REFUSED_S3)
    with pytest.raises(StoreRefusedError, match="Log in again"):
        queue.submit("dogs", {"seed": 1})
    with pytest.raises(StoreRefusedError, match="Log in again"):
        queue.job("cats")


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:1", "http://host.invalid:9000", "https://127.0.0.1:{port}"]
)
def test_an_endpoint_that_is_wrong_is_told_in_seconds(
    server: Server, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed port, an unknown host, no TLS there: patience is for servers that once answered."""
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.5)
    options = {**server.options, "endpoint_url": endpoint.format(port=server.port)}
    store = FsspecStore(server.url("runs"), storage_options=options, patience_seconds=600.0)
    with pytest.raises(StoreError, match="endpoint_url"):
        store.read("a")


@pytest.mark.parametrize("status", [400, 405, 501])
def test_an_endpoint_that_is_no_store_is_told_in_seconds(
    server: Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.5)
    with Proxy(server.port, lambda _request: answer(status, b"<html>Hello")) as other:
        store = server.store("runs", port=other.port, patience_seconds=600.0)
        with pytest.raises(StoreError, match="endpoint_url"):
            store.read("a")


def test_a_port_that_never_answers_is_told_at_the_first_try(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.1)
    monkeypatch.setattr("runner.store.clients._SILENT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = server.store("runs", port=silent.getsockname()[1], patience_seconds=600.0)
        with pytest.raises(StoreError, match="endpoint_url"):
            store.list("jobs/")


def test_a_web_server_is_not_taken_for_an_s3_server_without_the_bucket(tmp_path: Path) -> None:
    """It says 404 to everything; an S3 server says of which kind."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        Thread(target=web.serve_forever, daemon=True).start()
        options = {"endpoint_url": f"http://127.0.0.1:{web.server_port}", "key": "a", "secret": "b"}
        store = FsspecStore("s3://bucket/runs", storage_options=options)
        with pytest.raises(StoreRefusedError, match="not as an S3 server does: fix endpoint_url"):
            store.list("jobs/")
        web.shutdown()


def test_a_server_that_is_not_there_is_waited_for(server: Server) -> None:
    store = server.store("runs", port=1, patience_seconds=1.0)
    with pytest.raises(StoreError, match="on end"):
        store.list("jobs/")


def is_part(request: Request) -> bool:
    return "partNumber=" in request.path or "upload_id=" in request.path


def test_large_uploads_survive_faults(store: FsspecStore, proxy: Proxy) -> None:
    """Parts that fail or whose replies are lost are sent again; the object is whole or absent."""
    pieces = [b"a" * (40 << 20), b"b" * (30 << 20)]
    parts = first(1, answer(503))
    proxy.rule = lambda request: parts(request) if is_part(request) else None
    store.put("large", pieces)
    assert store.size("large") == 70 << 20
    assert store.read_range("large", (40 << 20) - 1, 2) == b"ab"


def test_an_upload_that_breaks_off_leaves_nothing(store: FsspecStore, proxy: Proxy) -> None:
    store.patience_seconds = 0.5
    proxy.rule = lambda request: answer(403) if is_part(request) else None
    with pytest.raises(StoreError):
        store.put("large", [b"a" * (40 << 20), b"b" * (30 << 20)])
    proxy.rule = lambda _request: None
    assert store.read("large") is None
    assert store.list("") == ["ready"]


def test_a_whole_job_over_a_bad_line(server: Server, proxy: Proxy) -> None:
    """10 % of all requests fail one way or another, and every tenth reply to a create is lost."""
    bad = sometimes(1, 0.1, RESET, answer(503), answer_after(503), LOSE, CUT)
    lost = sometimes(2, 0.1, LOSE)
    proxy.rule = lambda request: bad(request) or (lost(request) if request.creates else None)
    store = server.store(f"line-{token_hex(4)}", port=proxy.port)
    queue = Queue(store)
    job = queue.submit("cats", {"seed": 1})
    for token in (1, 2):
        lease = queue.claim(job, {"host": "here"})
        assert lease.token == token
        for step in range(1, 6):
            with contextlib.suppress(StoreError):
                lease.renew(step=step)
            lease.commit(Commit(step=step, epoch=0, checkpoints=[{"step": step}]))
        job = lease.finish(final={"step": 5}, evaluation=None)
    commits = [
        log.decode(store.read(key) or b"", key)["kind"] for key in store.list("jobs/cats/log/")
    ]
    attempt = ["claim", *["commit"] * 5, "finish"]
    assert commits == ["submit", *attempt, *attempt]
    assert proxy.faults


# Folders


def test_a_full_disk_stops_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on file sizes stands in for the disk's end, at every byte of a record."""
    store = FileStore(tmp_path)
    store.put("there", b"before")

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", full)
    try:
        for use in (
            lambda: store.put("there", b"after"),
            lambda: store.create("new", b"record\n"),
        ):
            with pytest.raises(StoreRefusedError, match="The disk is full: make room"):
                use()
    finally:
        patch.undo()
    assert store.list("") == ["there"]
    assert store.read("there") == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_file_size_limit_shows_no_part_of_an_object(tmp_path: Path) -> None:
    """The kernel itself cuts the write short here."""
    store = FileStore(tmp_path)
    store.put("there", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError):
            store.put("there", b"x" * 5000)
        with pytest.raises(StoreError):
            store.create("new", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.list("") == ["there"]
    assert store.read("there") == b"before"


@pytest.fixture
def _no_finalizers() -> Iterator[None]:
    """Else one of another test's may run where the stack is at its end, and raise there."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_finalizers")
def test_a_damaged_record_is_an_error_and_not_an_absent_job(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    queue = Queue(store)
    queue.submit("cats", {"seed": 1})
    queue.submit("dogs", {"seed": 1})
    store.put("jobs/cats/head.json", b"{not json")
    assert queue.job("cats").number == 0
    for data in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"number":0,"nonce":"x","id":3}'):
        store.put("jobs/cats/log/000000000000.json", data)
        with pytest.raises(StoreError):
            queue.job("cats")
        errors: dict[str, StoreError] = {}
        assert [job.id for job in queue.jobs(errors.__setitem__)] == ["dogs"]
        assert list(errors) == ["cats"]


def test_a_huge_record_is_not_read(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    Queue(store).submit("cats", {"seed": 1})
    store.put("jobs/cats/log/000000000001.json", b" " * (2 << 20))
    with pytest.raises(StoreError, match="at most 1048576 make sense"):
        Queue(store).job("cats")
