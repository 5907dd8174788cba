"""Data in a bucket are read as a store there is: the same options, the same words."""

import http.server
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar

import numpy as np
import pytest
from fsspec.config import conf
from PIL import Image

import runner
from runner import code
from runner.datasets import folder, npz
from runner.errors import DataAwayError, DataError, SpecError, StoreError
from runner.queue.queue import Queue
from runner.spec import parse
from runner.store import clients, places
from runner.store.filesystem import open_store
from runner.training.check import load_data
from runner.training.programs import make
from tests.harness import REPOSITORY
from tests.store.conftest import Place
from tests.store.servers.proxy import Proxy, Request, answer, first

READS = """
import fsspec, keras, runner

def program(*, path: str = "", other: str = ""):
    with fsspec.open(path or other) as file:
        found = file.read().decode()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return runner.Program(model=model, fit={"x": None}, classes=[found])
"""


def content(start: int = 0) -> bytes:
    x = np.arange(start, start + 4 * 64).astype("uint8").reshape(4, 8, 8, 1)
    y = np.arange(4) % 2
    file = io.BytesIO()
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return file.getvalue()


@pytest.fixture(params=["s3", "gcs"])
def bucket(
    request: pytest.FixtureRequest,
    place_of: Callable[[str], Place],
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    place = place_of(request.param)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    return place


def test_data_lie_beside_their_store(bucket: Place) -> None:
    bucket.open().put("data/x.npz", content())
    assert npz.load(path=f"{bucket.url}/data/x.npz").x_train.shape == (4, 8, 8, 1)


@pytest.mark.slow
def test_a_function_is_submitted_to_a_bucket(
    bucket: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data lie there too. Again changes nothing, and another job has another name."""
    bucket.open().put("data/x.bin", b"data")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/reads.py").write_text(
        READS.replace('"x": None', '"x": keras.ops.ones((4, 1)), "y": keras.ops.ones((4, 1))')
    )
    monkeypatch.setenv("RUNNER_STORE", bucket.url)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RUNNER_CODE", str(tmp_path))
    program = code.load(tmp_path / "programs/reads.py").program
    path = f"{bucket.url}/data/x.bin"
    for _ in range(2):
        assert runner.submit(program, name="reads", path=path, seed=3) == "reads"
    (job,) = Queue(bucket.open()).jobs()
    spec = Queue(bucket.open()).spec("reads")
    assert (job.id, job.number, spec["seed"], spec["program"]["path"]) == ("reads", 0, 3, path)
    with pytest.raises(SpecError, match="reads"):
        runner.submit(program, name="reads", path=path, seed=4)


@pytest.mark.parametrize("field", ["path", "arguments"])
def test_a_program_opens_its_data_as_its_store_is_opened(
    bucket: Place, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fsspec; the options of one job's bucket are not the next one's."""
    url = f"{bucket.url}/data/x.bin"
    bucket.open().put("data/x.bin", b"data")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/reads.py").write_text(READS)
    monkeypatch.setenv("RUNNER_CODE", str(tmp_path))
    given: dict[str, Any] = {"path": url} if field == "path" else {"arguments": {"other": url}}
    spec = {"name": "reads", "program": {"name": "reads", **given}, "training": {"epochs": 1}}
    assert make(parse(spec, source="the test")).classes == ["data"]
    make(parse({"name": "next", "data": {"name": "digits"}}, source="the test"))
    assert not {"s3", "gs"} & {scheme for scheme, options in conf.items() if options}


def test_data_that_are_not_there_are_said(bucket: Place) -> None:
    bucket.open().put("data/y.npz", content())
    with pytest.raises(DataError, match="no such file"):
        npz.load(path=f"{bucket.url}/data/x.npz")


def test_wrong_options_are_said_as_of_a_store(
    place_of: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By clients that know their options: that of Google's storage takes any."""
    monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", json.dumps({"no_such_option": 1}))
    with pytest.raises(StoreError, match="storage_options"):
        npz.load(path=f"{place_of('s3').url}/data/x.npz")


# ---------------------------------------------------------------------- patience, and its end


class Web(http.server.BaseHTTPRequestHandler):
    """A web server that answers as its test says, and then with the file."""

    answers: ClassVar[list[int]] = []
    redirect = ""
    file = content()

    def do_GET(self) -> None:
        status = self.answers.pop(0) if self.answers else 200
        if not status:
            time.sleep(3.0)
        body = b"" if status != 200 else self.file
        self.send_response(status or 500)
        if status == 302:
            self.send_header("Location", self.redirect)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    Web.answers = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/x.npz"
        server.shutdown()


def test_a_web_server_that_is_away_for_a_moment_is_waited_for(web: str) -> None:
    Web.answers = [503, 500, 502]
    assert npz.load(path=web).x_train.shape == (4, 8, 8, 1)


def test_one_that_stays_away_is_no_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(DataAwayError, match="Cannot connect"):
        npz.load(path="http://127.0.0.1:1/x.npz")


@pytest.mark.parametrize("status", [401, 403])
def test_one_that_refuses_is_not_asked_again(web: str, status: int) -> None:
    """But for its size, in two ways, and for its bytes."""
    Web.answers = [status] * 9
    with pytest.raises(DataAwayError, match=rf"its server refuses it \({status}\)"):
        npz.load(path=web)
    assert len(Web.answers) == 6


def test_one_that_has_no_such_file_says_so(web: str) -> None:
    Web.answers = [404] * 3
    with pytest.raises(DataError, match="no such file"):
        npz.load(path=web)


class Listing(http.server.SimpleHTTPRequestHandler):
    """A web server that lists its folders, but one."""

    status = 0

    def do_GET(self) -> None:
        if self.path.endswith("/dog/"):
            self.send_error(self.status)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "told"), [(403, r"its server refuses it \(403\)"), (503, r"could not be read|503")]
)
def test_a_web_folder_that_is_not_listed_is_no_empty_one(
    status: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However deep it lies: its pictures would be missing without a word."""
    for place in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.png").write_bytes(picture())
    monkeypatch.setattr(places, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(Listing, "status", status)
    handler = partial(Listing, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(DataAwayError, match=told):
            folder.load(path=f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()


def test_a_silent_one_ends_with_a_timeout(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_SILENT_SECONDS", 0.3)
    monkeypatch.setattr(places, "PATIENCE_SECONDS", 0.5)
    Web.answers = [0] * 50
    with pytest.raises(DataAwayError, match=r"(?i)timeout"):
        npz.load(path=web)


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "evil.example"])
def test_no_redirect_leads_to_what_the_cloud_tells_its_machine(
    web: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may lead there too: each address is looked at when it is gone to."""
    there = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda h, *a, **k: [there] if "evil" in h else real(h, *a, **k)
    )
    Web.answers, Web.redirect = [302] * 3, f"http://{host}/latest/meta-data"
    with pytest.raises(DataAwayError, match="address of this machine's cloud or link"):
        npz.load(path=web)


@pytest.fixture(params=["s3", "gcs"])
def proxied(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Proxy, str]]:
    """A bucket with data in it, behind a proxy."""
    server = request.getfixturevalue(f"{request.param}_server")
    folder = f"data-{token_hex(4)}"
    server.store(folder).put("x.npz", content())
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"):
        server.store(folder).put(name, picture())
    with Proxy(server.port) as proxy:
        options = json.dumps(server.through(proxy.port))
        monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", options)
        yield proxy, server.url(folder)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(file, "png")
    return file.getvalue()


def test_a_folder_of_pictures_in_a_bucket_is_waited_for_too(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    proxy.rule = first(1, answer(503))
    assert folder.load(path=url, image_size=8).x_train.shape == (2, 8, 8, 3)
    assert proxy.faults


def test_nothing_but_one_line_is_said_of_it(
    proxied: tuple[Proxy, str],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gcsfs prints a traceback for each request that fails."""
    logging.getLogger("gcsfs").setLevel(logging.NOTSET)
    proxy, url = proxied
    monkeypatch.setattr(places, "PATIENCE_SECONDS", 0.5)
    proxy.rule = lambda _request: answer(503)
    with pytest.raises(DataAwayError, match="on end"):
        npz.load(path=f"{url}/x.npz")
    proxy.rule = lambda _request: answer(403)
    with pytest.raises(DataAwayError, match="Log in again"):
        folder.load(path=url)
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_a_sweep_reads_its_data_once(proxied: tuple[Proxy, str]) -> None:
    """And once more when they have changed."""
    proxy, url = proxied
    spec = {"name": "x", "data": {"name": "npz", "path": f"{url}/x.npz"}, "model": {"name": "mlp"}}
    for seed in range(3):
        load_data(parse({**spec, "name": f"x-{seed}", "seed": seed}, source="x"))
    reads = [r for r in proxy.seen if r.method == "GET" and is_content(r)]
    assert len(reads) == 1
    open_store(url).put("x.npz", content(start=1))
    assert load_data(parse(spec, source="x")).x_train.flat[0] == 1


def is_content(request: Request) -> bool:
    return (
        "x.npz" in request.path
        and "prefix=" not in request.path
        and ("/storage/" not in request.path or "alt=media" in request.path)
    )
