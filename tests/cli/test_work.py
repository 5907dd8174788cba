"""What `work` says of jobs that it takes or leaves, and how it is stopped."""

import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.cli import doctor, working
from runner.cli.main import main
from runner.engine import session
from runner.queue import presence
from runner.queue.job import Stage, State
from runner.queue.owner import this_process
from runner.queue.queue import Queue
from tests.cli.conftest import GONE, Run
from tests.harness import REPOSITORY


def test_a_stopped_worker_promises_no_checkpoint_that_is_not_there(queue: Queue) -> None:
    job = queue.submit("cats", {"seed": 1})
    assert working.what_resume_does(job) == "begins it again: nothing of it was saved yet"
    saved = replace(job, checkpoints=({"step": 3},))
    assert working.what_resume_does(saved) == "goes on from the last checkpoint"
    assert working.what_resume_does(replace(saved, stage=Stage.EVALUATE)) == "evaluates it again"
    done = replace(saved, state=State.SUCCEEDED)
    assert working.what_resume_does(done) == "works on what is left"


def test_work_until_empty_and_its_mistakes(queue: Queue, run: Run) -> None:
    """An empty queue is done; another worker's job is not finished yet."""
    assert run("work", "--until-empty")[0] == 0
    queue.claim(queue.submit("cats", {"seed": 1}), this_process()).renew()
    code, _, said = run("work", "--until-empty")
    assert code == 4, said
    assert "running on" in said
    code, _, said = run("work", "--max-duration", "soon")
    assert (code, "--max-duration received 'soon'; expected a duration" in said) == (2, True)
    code, _, said = run("work", "--drain", "nobody")
    assert (code, "host:pid" in said) == (2, True)
    queue.store.put("jobs/broken/log/000000000000.json", b"garbage")
    code, _, said = run("work", "--drain", "lab:1")
    assert (code, "is lab:1." in said, "runner status --workers" in said) == (3, True, True)


def test_a_job_that_waits_in_vain_is_held_and_not_done(queue: Queue, run: Run) -> None:
    queue.submit("cats", {"seed": 1})
    queue.submit("next", {"seed": 1, "after": ["cats"]})
    queue.cancel("cats")
    code, _, said = run("work", "--until-empty")
    assert (code, "next: held" in said) == (4, True), said


@pytest.mark.parametrize("command", [["work", "--until-empty"], ["resume"], ["resume", "cats"]])
def test_every_command_that_works_knows_the_hosts_limit(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    queue.submit("cats", {"seed": 1})
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260101")
    monkeypatch.setattr(session, "container_age", lambda: 12 * 3600.0 - 30)
    code, _, said = run(*command)
    assert (code, "Colab's 12 hours: 2" in said) == (75, True), said
    assert "cats: not begun" in said


def test_work_with_too_little_time_begins_nothing_and_says_run_me_again(
    queue: Queue, run: Run
) -> None:
    queue.submit("cats", {"seed": 1})
    for options in (["--until-empty", "--max-duration", "30s"], ["--max-duration", "3s"]):
        code, _, said = run("work", *options)
        assert code == 75, said
        assert "cats: not begun" in said
        assert "not finished: cats" in said
    assert queue.job("cats").number == 0


def test_work_without_time_says_nothing_of_jobs_that_it_never_saw(queue: Queue, run: Run) -> None:
    queue.claim(queue.submit("cats", {"seed": 1}), GONE).fail("x")
    for seconds in ("2s", "60s"):
        code, _, said = run("work", "--until-empty", "--max-duration", seconds)
        assert code == 0, said


def test_what_does_not_fit_this_machine_is_not_to_be_run_here_again(queue: Queue, run: Run) -> None:
    """75 would have a scheduler start it for ever."""
    queue.submit("cats", {"seed": 1, "requirements": {"labels": ["lab"]}})
    code, _, said = run("work", "--until-empty", "--max-duration", "1h")
    assert (code, "left for another machine" in said) == (4, True), said


def test_a_store_that_is_not_there_is_said_and_stays_away(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for command in (["work", "--until-empty"], ["resume"], ["work", "--drain"]):
        code, _, said = run(*command, "--store", str(missing))
        assert (code, f"no jobs: {missing.as_uri()} is not there yet" in said) == (0, True), said
        assert not missing.exists()


def test_a_drain_says_where_nobody_works(queue: Queue, run: Run) -> None:
    queue.submit("cats", {"seed": 1})
    assert "no worker works here now" in run("work", "--drain")[2]
    queue.claim(queue.job("cats"), this_process()).renew()
    assert "asked all workers to drain" in run("work", "--drain")[2]


def test_doctor_says_of_how_many_jobs_it_looked_at_the_first(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        queue.submit(name, {"name": name})
    for most, words in ((2, "of the first 2 of 3 jobs to be done"), (3, "of 3 jobs to be done")):
        monkeypatch.setattr(doctor, "MOST_JOBS", most)
        (finding,) = doctor._memory(queue)
        assert finding.text.startswith(words)


def until_it_works(queue: Queue) -> None:
    """Wait until a worker has looked at the queue: what is asked from now on is meant for it."""
    end = time.monotonic() + 60
    while not presence.everyone(queue.store) and time.monotonic() < end:
        time.sleep(0.1)


@pytest.mark.slow
def test_an_idle_worker_obeys_a_drain_from_another_machine(queue: Queue) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "runner", "work"], stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )  # fmt: skip
    until_it_works(queue)
    assert main(["work", "--drain"]) == 0
    _, said = worker.communicate(timeout=60)
    assert worker.returncode == 0, said
    assert "drained: it takes no more" in said


def test_an_idle_worker_that_is_stopped_has_nothing_to_save(queue: Queue) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "runner", "work"], stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )  # fmt: skip
    until_it_works(queue)
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=60)
    assert worker.returncode == 75, said
    assert said.splitlines()[1:] == ["SIGTERM: stopping; once more to leave at once"]


COUNTS_ON_A_TERMINAL = """
import sys, time
from runner.cli.main import main
from runner.engine import running
from tests.engine.counting import Counting

running.run_stage = Counting(10**6, lambda job, step: time.sleep(0.05))
sys.exit(main(["work"]))
"""


def test_cancelling_is_said_once(queue: Queue, run: Run) -> None:
    """By the worker: what the user wished, and nothing of a lease."""
    queue.submit("cats", {"name": "cats", "seed": 1})
    code = COUNTS_ON_A_TERMINAL.replace('["work"]', '["resume", "cats"]')
    worker = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env={**os.environ, "RUNNER_LEASE_SECONDS": "3"},
    )  # fmt: skip
    end = time.monotonic() + 60
    while queue.job("cats").step < 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert run("cancel", "cats")[0] == 0
    said = worker.communicate(timeout=60)[1]
    assert worker.returncode == 5
    assert [line for line in said.splitlines() if "cancelled" in line] == [
        "cats: cancelled by its user"
    ]
    assert "no longer" not in said


def test_light_commands_stay_light(tmp_path: Path) -> None:
    """`work --drain` and the verbs are called on laptops without TensorFlow."""
    heavy: dict[str, Any] = {}
    for command in (["work", "--drain"], ["priority", "x", "1"], ["evaluate", "x"]):
        code = (
            "import sys\nfrom runner.cli.main import main\n"
            f"try: main({[*command, '--store', str(tmp_path)]!r})\nexcept SystemExit: pass\n"
            "print(sorted({'tensorflow', 'keras', 'pydantic', 'numpy'} & sys.modules.keys()))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        heavy[command[0]] = done.stdout.splitlines()[-1]
    assert set(heavy.values()) == {"[]"}, heavy


@pytest.mark.slow
def test_closing_the_terminal_saves_and_lets_go(queue: Queue) -> None:
    """SIGHUP comes when nothing can be written there any more: that fails no job."""
    queue.submit("cats", {"name": "cats", "seed": 1, "retries": 2})
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPOSITORY)
        os.execv(sys.executable, [sys.executable, "-c", COUNTS_ON_A_TERMINAL])
    end = time.monotonic() + 60
    while queue.job("cats").step < 3 and time.monotonic() < end:
        time.sleep(0.05)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    job = queue.job("cats")
    assert (job.state, job.failures, job.preemptions, job.failure) == (State.QUEUED, 0, 1, None)
    assert "SIGHUP" in job.reason
    assert code == 75
