"""What the verbs do to jobs from any machine, and what they say of mistakes."""

import os
import time
from pathlib import Path

import pytest

from runner.cli import common
from runner.queue.job import State
from runner.queue.queue import Queue
from tests.cli.conftest import GONE, Run
from tests.harness import QUICKSTART


def test_release_is_unhold_by_its_former_name(queue: Queue, run: Run) -> None:
    queue.submit("cats", {"seed": 1})
    for verb in ("unhold", "release"):
        queue.hold("cats")
        code, _, said = run(verb, "cats")
        assert (code, "cats: queued" in said) == (0, True)
    assert "unhold" in run("--help")[1]


def test_verbs_change_jobs_from_any_machine(queue: Queue, run: Run) -> None:
    queue.submit("cats", {"seed": 1, "evaluation": {}})
    assert run("priority", "cats", "7")[2].endswith("cats: queued, priority 7\n")
    assert run("hold", "cats")[2].endswith("held; 'runner unhold cats' lets it be taken up again\n")
    assert run("hold", "cats")[0] == 0  # it is already
    assert "resume; 'runner unhold cats' lets it be taken up" in run("resume", "cats")[2]
    assert run("unhold", "cats")[2].endswith("queued; 'runner resume cats' works on it here\n")
    assert "cancelled; 'runner retry cats' queues it again" in run("cancel", "cats")[2]
    assert run("retry", "cats")[2].endswith("queued; 'runner resume cats' works on it here\n")
    assert queue.job("cats").priority == 7
    assert run("priority", "cats", "-3")[0] == 0
    code, _, said = run("priority", "cats", "high")
    assert (code, "expected a number such as 5" in said) == (2, True)
    lease = queue.claim(queue.job("cats"), GONE)
    assert "its worker saves and holds it at its next heartbeat" in run("hold", "cats")[2]
    assert run("hold", "cats")[0] == 0
    assert "cats: running; it continues" in run("unhold", "cats")[2]
    lease.finish(final={"step": 1})
    queue.claim(queue.job("cats"), GONE).finish(evaluation={"top_1": 1.0})
    words = run("evaluate", "cats")[2]
    assert "cats: queued (evaluate); 'runner resume cats' works on it here" in words
    job = queue.job("cats")
    assert (job.state.value, job.stage.value) == ("queued", "evaluate")
    assert run("evaluate", "cats")[0] == 2
    for _ in range(2):
        code, _, words = run("cancel", "cats")
        assert (code, queue.job("cats").state) == (0, State.SUCCEEDED)
        assert "cats: succeeded; its new evaluation is cancelled, its results stay" in words


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_ended_badly_is_said_with_what_continues_it(
    queue: Queue, run: Run, state: str
) -> None:
    run("submit", str(QUICKSTART), "--detach")
    if state == "failed":
        queue.claim(queue.job("quickstart"), GONE).fail("its fault")
    else:
        queue.cancel("quickstart")
    said = run("submit", str(QUICKSTART), "--detach")[2]
    assert f"already there, {state}; 'runner retry quickstart' queues it again" in said, said


def test_commands_that_are_suggested_repeat_the_store_that_was_named(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    queue.submit("cats", {"seed": 1})
    named = ("--store", str(tmp_path))
    assert f"'runner unhold cats --store {tmp_path}'" in run("hold", "cats", *named)[2]
    assert f"'runner resume cats --store {tmp_path}'" in run("unhold", "cats", *named)[2]
    assert f"'runner resume cats --store {tmp_path}'" in run("status", "cats", *named)[1]
    assert "'runner resume cats' starts one" in run("status", "cats")[1]


def test_a_password_in_the_name_of_a_store_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "_named", {"store": "s3://ann:geheim@bucket/runs"})
    assert common.command("resume", "cats") == "'runner resume cats'"


def test_where_a_name_is_wrong_no_job_is_touched(queue: Queue, run: Run) -> None:
    """All wrong ones are named: what was typed is not what was meant."""
    queue.submit("cats", {"seed": 1})
    queue.submit("dogs", {"seed": 1})
    for verb in (["cancel"], ["remove", "--yes"]):
        code, _, said = run(*verb, "cats", "cast", "dogs", "dgos")
        assert (code, "no job 'cast'" in said, "no job 'dgos'" in said) == (3, True, True), said
    assert {job.state for job in queue.jobs()} == {State.QUEUED}


def test_what_cannot_be_done_is_said_in_plain_words(queue: Queue, run: Run) -> None:
    queue.submit("cats", {"seed": 1})
    queue.claim(queue.job("cats"), GONE).finish(final={"step": 1}, evaluate=False)
    said = run("retry", "cats")[2]
    words = "cats can't be retried: it has succeeded. Only failed or cancelled jobs can be."
    assert words in said, said


def test_a_file_that_is_here_is_nothing_to_wait_for(queue: Queue, run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.npz").touch()
    queue.submit("cats", {"data": {"name": "npz", "path": str(tmp_path / "x.npz")}})
    said = run("status", "cats")[1]
    assert ("waits for   a machine" in said, "waits for   a worker" in said) == (False, True), said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("logs", "boom", "nan"), ("usage: runner logs", "too many arguments: nan")),
        (("status", "--sate", "lost"), ("usage: runner status", "Did you mean '--state'?")),
        (("status", "--sate=lost"), ("usage: runner status", "Did you mean '--state'?")),
        (("status", "--state", "runing"), ("usage: runner status", "Did you mean 'running'?")),
        (("notebook", "colba"), ("usage: runner notebook", "Did you mean 'colab'?")),
        (("status", "-q"), ("usage: runner status", "no option '-q'.\n")),
        (("logs", "x", "--attempt"), ("usage: runner logs", "no option '--attempt'.\n")),
        (
            ("extend", "boom", "--epochs", "3", "--name", "more"),
            ("usage: runner extend", "Did you mean '--set name=...'?"),
        ),
        (("--verison",), ("usage: runner ", "Did you mean '--version'?")),
    ],
)
def test_a_mistyped_option_is_shown_the_nearest_and_its_commands_usage(
    run: Run, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    code, _, said = run(*arguments)
    assert (code, [word for word in words if word not in said]) == (2, []), said


def test_doctor_says_that_it_made_the_store(run: Run, tmp_path: Path) -> None:
    """A mistyped store is no good one."""
    missing = str(tmp_path / "missing")
    words = "was not there; it is made now, and empty"
    assert [words in run("doctor", "--store", missing)[1] for _ in range(2)] == [True, False]


def test_one_unreadable_job_keeps_no_verb_from_the_others(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    queue.submit("cats", {"seed": 1})
    queue.submit("dogs", {"seed": 1})
    (tmp_path / "jobs/cats/log/000000000000.json").write_text("garbage")
    (tmp_path / "jobs/cats/head.json").unlink(missing_ok=True)
    code, _, said = run("cancel", "cats", "dogs")
    assert (code, "cats" in said) == (6, True), said
    assert queue.job("dogs").state is State.CANCELLED


def test_a_job_whose_spec_is_damaged_is_not_queued_again(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    """Nobody could work on it; a cancel takes it out of the way."""
    for name in ("held", "failed", "done", "queued"):
        queue.submit(name, {"name": name, "evaluation": {}})
    queue.hold("held")
    queue.claim(queue.job("failed"), GONE).fail("x")
    queue.claim(queue.job("done"), GONE).finish(final={"step": 1})
    queue.claim(queue.job("done"), GONE).finish(evaluation={"top_1": 1.0})
    for name in ("held", "failed", "done", "queued"):
        os.truncate(tmp_path / f"jobs/{name}/log/000000000000.json", 100)
    code, _, shown = run("status", "held")
    sentence = next(line for line in shown.splitlines() if "cannot be read" in line)
    assert code == 6
    verbs = ("unhold", "held"), ("retry", "failed"), ("evaluate", "done"), ("hold", "queued")
    for verb, name in verbs:
        before = queue.job(name).number
        code, _, said = run(verb, name)
        assert (code, sentence.replace("held", name, 1)[:30] in said) == (6, True), said
        assert queue.job(name).number == before
    assert sentence in run("unhold", "held")[2]
    code, _, said = run("cancel", "held")
    assert (code, "cancelled for good: its spec cannot be read" in said) == (0, True), said


def test_a_priority_starts_no_wait_anew(queue: Queue, tmp_path: Path) -> None:
    lease = queue.claim(queue.submit("cats", {"seed": 1}), GONE)
    failed = lease.fail("x", retries=1, backoff_seconds=100.0)
    record = tmp_path / f"jobs/cats/log/{failed.number:012d}.json"
    os.utime(record, (time.time() - 60, time.time() - 60))
    for priority in (3, 4):
        queue.prioritize("cats", priority)
    expires = queue.availability(queue.job("cats")).expires_in
    assert expires is not None
    assert 20 < expires <= 40


def test_a_job_without_an_evaluation_is_not_queued_for_one(queue: Queue, run: Run) -> None:
    queue.claim(queue.submit("cats", {"evaluation": None}), GONE).finish(
        final={"step": 1}, evaluate=False
    )
    code, _, said = run("evaluate", "cats")
    assert (code, "its spec has no evaluation" in said) == (2, True)
    assert queue.job("cats").state.value == "succeeded"
