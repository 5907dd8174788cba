"""`runner serve` shows one page to this machine, and nothing else to anybody."""

import http.client
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import QUICKSTART, Process, Runner


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    runner = Runner(tmp_path_factory.mktemp("serve") / "store")
    runner.ok("submit", str(QUICKSTART), "--detach")
    return runner


@pytest.fixture(scope="module")
def port(runner: Runner) -> Iterator[int]:
    process = runner.start("serve", "--port", "0")
    yield _port(process)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 0, err
    assert "Traceback" not in err


def _port(process: Process) -> int:
    assert isinstance(process, subprocess.Popen)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), line
    return int(line.strip().rstrip("/").rpartition(":")[2])


def ask(
    port: int, path: str = "/", method: str = "GET", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body, response.headers


def test_readers_that_go_away_are_no_news(port: int) -> None:
    """That nothing is said shows when the server of this module ends: no traceback."""
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            reset = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert ask(port)[0] == 200


def test_the_page_is_served_and_follows_the_store(runner: Runner, port: int) -> None:
    status, body, headers = ask(port)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert 'id="run-quickstart"' in body
    assert 'http-equiv="refresh"' in body
    assert headers["Cache-Control"] == "no-store"
    head = ask(port, method="HEAD")
    assert (head[0], head[1], head[2]["Content-Length"]) == (200, "", str(len(body.encode())))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(port: int, method: str) -> None:
    assert ask(port, method=method)[0] == 501


@pytest.mark.parametrize(
    "path", ["/store.json", "/jobs/", "/../../etc/passwd", "/%2e%2e/x", "//etc/passwd", "/a?b", "*"]
)
def test_there_is_one_page_and_no_file(port: int, path: str) -> None:
    status, body, _ = ask(port, path)
    assert (status, body) == (404, "there is one page: /\n")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil", "[:"]
)
def test_a_foreign_name_is_refused(port: int, host: str) -> None:
    """A name that leads here is another site's, whose page would read this one."""
    status, body, _ = ask(port, Host=host)
    assert (status, "run-quickstart" in body) == (421, False)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:99", "[::1]:8642", "LOCALHOST:1"])
def test_names_of_this_machine_are_accepted(port: int, host: str) -> None:
    assert ask(port, Host=host)[0] == 200


def test_a_port_that_is_taken_is_said_in_a_sentence(runner: Runner, port: int) -> None:
    done = runner.run("serve", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--port {port} can't be listened on" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_hosts_are_warned_of(runner: Runner) -> None:
    process = runner.start("serve", "--port", "0", "--host", "0.0.0.0")
    assert isinstance(process, subprocess.Popen)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://0.0.0.0:")
    process.send_signal(signal.SIGINT)
    assert "there is no password" in process.communicate(timeout=60)[1]


def test_a_job_that_is_not_there(runner: Runner) -> None:
    done = runner.run("serve", "nobody", "--port", "0")
    assert (done.returncode, "there is no job 'nobody'" in done.stderr) == (3, True)


def test_publish_writes_into_the_store(runner: Runner, tmp_path: Path) -> None:
    """A page of all jobs, or one beside each job; removed with it, and counted."""
    page = runner.store / "report/index.html"
    assert runner.ok("report", "--publish").strip() == page.as_uri()
    assert 'id="run-quickstart"' in page.read_text()
    own = runner.store / "jobs/quickstart/report/index.html"
    assert runner.ok("report", "quickstart", "--publish").strip() == own.as_uri()
    assert own.stat().st_size == page.stat().st_size or own.exists()
    other = Runner(tmp_path / "store")
    other.ok("submit", str(QUICKSTART), "--detach")
    other.ok("report", "quickstart", "--publish")
    assert "RESULTS" in other.ok("du")
    other.ok("remove", "quickstart", "--yes")
    assert not (other.store / "jobs/quickstart").exists()
