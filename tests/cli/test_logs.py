"""The logs of attempts, from any machine."""

import time

import pytest

from runner.cli import logs
from runner.cli.main import main
from runner.engine.attempt import HEAD_BYTES, LEFT_OUT, TAIL_BYTES, AttemptLog, log_key
from runner.queue.queue import Queue
from tests.cli.conftest import GONE


def test_logs_follow_from_the_bucket_while_another_machine_trains(
    queue: Queue, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line once, over two attempts, until the job ends."""
    first = queue.claim(queue.submit("cats", {"seed": 1}), GONE)
    log = AttemptLog(queue.store, "cats", first.token)
    log.write("line 1")
    log.flush()
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            log.write("line 2")
            log.flush()
        elif looks == 2:
            first.release("notice")
            log.write("line 3")
            log.flush()
            second = queue.claim(queue.job("cats"), GONE)
            other = AttemptLog(queue.store, "cats", second.token)
            other.write("line 4")
            other.flush()
            second.fail("x")

    monkeypatch.setattr(time, "sleep", sleep)
    assert main(["logs", "cats", "-f"]) == 0
    out = capsys.readouterr().out
    assert [line.split(" ", 1)[1] for line in out.splitlines()] == [
        f"line {n}" for n in range(1, 5)
    ]
    assert looks == 2 + 1, "a last look: its last words follow its last record"


def test_an_attempts_log_is_bounded_and_followed_past_what_was_left_out(queue: Queue) -> None:
    """Beginning and end are kept; a follower sees no line twice."""
    log = AttemptLog(queue.store, "cats", 1)
    key = log_key("cats", 1)
    stream = logs.Stream(queue.store)
    said: list[str] = []
    for number in range(9_000):
        log.write(f"line {number:06d} {'x' * 40}")
        if number % 300 == 0:
            log.flush()
            data = queue.store.read(key) or b""
            before = stream.printed.get(key, logs._Printed())
            said += logs.new_part(data, before).decode().splitlines()
            stream.printed[key] = logs._Printed(len(data), data[-400:])
    log.flush()
    data = queue.store.read(key) or b""
    assert len(data) <= HEAD_BYTES + TAIL_BYTES + len(LEFT_OUT)
    assert b"line 000000" in data
    assert b"line 008999" in data
    assert LEFT_OUT in data
    numbers = [int(line.split()[2]) for line in said]
    assert numbers == list(range(8_701)), "each line once, in order"
    behind = logs.new_part(data, logs._Printed(100, b"something that is gone"))
    assert behind.startswith(LEFT_OUT)
    assert behind.endswith(data[-100:])
