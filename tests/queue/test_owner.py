"""Only a process that is certainly gone is called gone."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from runner.queue.owner import is_alive, is_stopped, this_process


def test_this_process_is_alive() -> None:
    assert is_alive(this_process()) is True


def test_a_process_that_ended_is_gone() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_alive({**this_process(), "pid": ended.pid}) is False


def test_a_zombie_is_gone() -> None:
    program = "import json, runner.queue.owner as o; print(json.dumps(o.this_process()))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    owner = json.loads(process.stdout.read())
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(owner) is False
    process.wait()


def test_a_process_that_is_stopped_is_told_on_its_machine() -> None:
    """It lives and does nothing."""
    program = "import json, runner.queue.owner as o; print(json.dumps(o.this_process())); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        owner = json.loads(process.stdout.readline())
        assert not is_stopped(owner)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert (is_stopped(owner), is_alive(owner)) == (True, True)
        assert not is_stopped({**owner, "host": "elsewhere"}), "nobody can tell from here"
        process.kill()


def test_another_process_with_the_same_number_is_not_the_owner() -> None:
    assert is_alive({**this_process(), "started": "12345"}) is False


@pytest.mark.parametrize(
    "other",
    [
        {"host": "elsewhere"},
        {"boot": "another boot"},
        {"pid_namespace": "pid:[1]"},
        {"boot": ""},
        {"boot": None},
        {"pid": "1"},
        {"pid": -1},
        {"pid": True},
        {"started": ""},
        {"started": None},
    ],
)
def test_from_elsewhere_nothing_can_be_told(other: dict[str, Any]) -> None:
    assert is_alive({**this_process(), **other}) is None


def test_no_owner_is_no_answer() -> None:
    assert is_alive(None) is None
    assert is_alive({}) is None
