"""Of two workers at once, one owns the job; the other says so and goes, and changes nothing."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from runner.queue.job import State
from tests.harness import QUICKSTART, Runner, kill, sets, wait_until

SHORT_LEASE = {"RUNNER_LEASE_SECONDS": "4"}
LONG = {
    "model": {"name": "mlp"},
    "training.epochs": 2000,
    "training.early_stopping": None,
    "checkpoint.every": "2 steps",
}


def test_the_second_worker_says_who_owns_the_job_and_goes(tmp_path: Path) -> None:
    """Exit 4, not finished yet; the first one notices nothing."""
    runner = Runner(tmp_path, warm=True)
    first = runner.start("submit", str(QUICKSTART), *sets(LONG))
    try:
        wait_until(lambda: _step(runner) > 0, first)
        for command in (["resume", "quickstart"], ["resume"]):
            second = runner.run(*command)
            assert second.returncode == 4, second.stderr
            assert "running on" in second.stderr
        assert first.poll() is None
        job = runner.job("quickstart")
        assert job is not None
        assert (job.token, job.state) == (1, State.RUNNING)
    finally:
        kill(first)


def test_a_frozen_worker_that_thaws_changes_nothing(tmp_path: Path) -> None:
    """SIGSTOP, replaced after its lease expired, SIGCONT: it stops by itself."""
    runner = Runner(tmp_path, SHORT_LEASE, warm=True)
    frozen = runner.start("submit", str(QUICKSTART), *sets(LONG))
    wait_until(lambda: _step(runner) >= 4, frozen)
    os.kill(frozen.pid, signal.SIGSTOP)
    time.sleep(5)  # until the lease has expired
    second = runner.start("resume", "quickstart")
    try:
        assert wait_until(lambda: _committed_by(runner, token=2), second)
        os.kill(frozen.pid, signal.SIGCONT)
        _, err = frozen.communicate(timeout=180)
        assert frozen.returncode in (0, 4), err
        assert "no longer this worker's" in err
        assert "Traceback" not in err
        tokens = [record["token"] for record in _records(tmp_path / "jobs" / "quickstart" / "log")]
        assert tokens == sorted(tokens), "a record of the frozen worker came after its successor's"
        assert second.poll() is None
    finally:
        kill(second)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_releases_and_says_run_me_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    """75 for SIGTERM, 130 for Ctrl-C; nothing of the training is lost, and it is no failure."""
    runner = Runner(tmp_path, warm=True)
    worker = runner.start("submit", str(QUICKSTART), *sets({**LONG, "checkpoint.every": "1h"}))
    wait_until(lambda: _beaten_step(runner) > 3, worker)
    worker.send_signal(number)
    _, err = worker.communicate(timeout=180)
    assert worker.returncode == (130 if number == signal.SIGINT else 75), err
    job = runner.job("quickstart")
    assert job is not None
    assert (job.state, job.preemptions, job.failures) == (State.QUEUED, 1, 0)
    assert job.step > 3
    assert f"saved at step {job.step}" in job.reason


def test_asked_to_stop_before_the_claim(tmp_path: Path) -> None:
    """While TensorFlow is imported nothing is claimed yet: it goes at once, exit 75."""
    runner = Runner(tmp_path)
    worker = runner.start("submit", str(QUICKSTART))
    wait_until(lambda: list(tmp_path.glob("workers/seen/*.json")) != [], worker)
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=180)
    assert worker.returncode == 75, err
    assert "SIGTERM: stopping" in err
    assert "Traceback" not in err
    job = runner.job("quickstart")
    assert job is not None
    assert (job.state, job.attempts) == (State.QUEUED, 0)
    assert list(tmp_path.glob("workers/seen/*.json")) == [], "it is no worker any more"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_asked_to_stop_before_the_first_step(tmp_path: Path, seconds: float) -> None:
    """While the graph is built: released at once, exit 75. The first step may just have ended."""
    runner = Runner(tmp_path)
    worker = runner.start("submit", str(QUICKSTART))
    wait_until(lambda: _token(runner) == 1, worker)
    time.sleep(seconds)
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=180)
    assert worker.returncode == 75, err
    assert "SIGTERM: releasing the job" in err, "it went on until it was asked, half a minute later"
    assert "Traceback" not in err
    job = runner.job("quickstart")
    assert job is not None
    assert job.state is State.QUEUED
    assert ("nothing is lost" if job.step == 0 else "saved at step 1.") in err


def _step(runner: Runner) -> int:
    job = runner.job("quickstart")
    return job.step if job is not None else 0


def _committed_by(runner: Runner, token: int) -> bool:
    job = runner.job("quickstart")
    return job is not None and job.token == token and job.kind == "commit"


def _token(runner: Runner) -> int:
    job = runner.job("quickstart")
    return job.token if job is not None else 0


def _beaten_step(runner: Runner) -> int:
    queue = runner.queue()
    job = runner.job("quickstart")
    beat = queue.heartbeat(job) if job is not None and job.state is State.RUNNING else None
    return beat.step if beat is not None else 0


def _records(folder: Path) -> list[dict[str, int]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
