"""What `status`, `logs`, `work` and the verbs say of a queue with many workers, and do to it."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.cli import common, doctor, live, logs, status, submit, working
from runner.cli.main import main
from runner.cli.render import wrapped
from runner.cli.submit import in_order
from runner.cli.words import ended
from runner.commit import Commit
from runner.engine import session
from runner.engine.attempt import HEAD_BYTES, LEFT_OUT, TAIL_BYTES, AttemptLog, log_key, trace_key
from runner.engine.identity import Identity
from runner.engine.preemption import SIGNALS
from runner.engine.requirements import Looking
from runner.errors import DamagedRecordError, SpecError, StoreError
from runner.queue import drain, presence
from runner.queue.job import Failure, Job, Stage, State
from runner.queue.owner import this_process
from runner.queue.presence import Presence
from runner.queue.queue import Queue
from runner.queue.view import View
from runner.spec import JobSpec
from runner.store.filesystem import open_store
from tests.harness import QUICKSTART, REPOSITORY

GONE = {"host": "elsewhere", "pid": 7}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.setenv("RUNNER_STORE", str(tmp_path))
    return Queue(open_store(str(tmp_path)))


@pytest.fixture
def run(queue: Queue, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def row(text: str, job: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(job))


# ---------------------------------------------------------------------- status


def test_status_has_a_column_for_everything(queue: Queue, run: Run) -> None:
    lease = queue.claim(queue.submit("cats", {"seed": 1}), this_process())
    lease.renew(
        step=30, epoch=2, unsaved_seconds=12.0,
        metrics={"loss": 0.5, "top_1": 0.25, "val_loss": 0.75, "val_top_1": 0.125},
        details={"stage": "train", "eta_seconds": 300.0},
    )  # fmt: skip
    _, table, _ = run("status")
    assert table.splitlines()[0].split() == [
        *("ID", "STATUS", "PROGRESS", "METRIC", "TRY", "WORKER", "SEEN", "UNSAVED", "ETA"),
    ]
    me = drain.name_of(this_process())
    cells = row(table, "cats")
    metrics = "loss 0.5000  val_top_1 0.1250"  # two at most
    for words in ("running", "epoch 2 step 30", metrics, " 1 ", me, "s ago", "12s", "m"):
        assert words in cells, words
    assert "val_loss" not in cells
    assert cells.rstrip()[-1] in "ms"
    document = json.loads(run("status", "cats", "--json")[1])
    assert 200 < document["eta_seconds"] <= 300


@pytest.mark.parametrize(
    ("details", "epoch"),
    [({"stage": "train", "step": 9}, 3), ({"stage": "validate"}, 3), ({"stage": "train"}, 2)],
)
def test_status_counts_epochs_as_the_worker_does(
    queue: Queue, run: Run, details: dict[str, Any], epoch: int
) -> None:
    """Within an epoch its number; between two of them how many are done."""
    lease = queue.claim(queue.submit("cats", {"seed": 1}), this_process())
    lease.renew(step=30, epoch=2, metrics={}, details=details)
    assert f"epoch {epoch} step 30" in row(run("status")[1], "cats")


def test_compare_has_the_jobs_in_their_order_and_each_field_once(queue: Queue, run: Run) -> None:
    queue.submit("first", {"name": "first", "program": {"name": "p", "arguments": {}}})
    queue.submit("next", {"name": "next", "program": {"name": "p", "arguments": {"units": 2}}})
    out = run("compare", "next", "first")[1].splitlines()
    assert out[0].split() == ["next", "first"]
    assert [line.split() for line in out if "arguments" in line] == [
        ["program.arguments.units", "2"]
    ]


def test_five_guesses_at_no_more_classes_are_not_told(queue: Queue, run: Run) -> None:
    for classes in (5, 6):
        name = f"of-{classes}"
        queue.claim(queue.submit(name, {"seed": 1}), GONE).finish(final={"step": 1})
        found = {"top_1": 0.5, "top_5": 1.0, "classes": classes}
        queue.claim(queue.job(name), GONE).finish(evaluation=found)
        assert ("top_5" in row(run("status")[1], name)) == (classes == 6)
        assert ("test top_5" in run("status", name)[1]) == (classes == 6)
        assert json.loads(run("status", name, "--json")[1])["evaluation"] == found


def test_what_brings_forward_the_job_that_one_waits_for_is_said(queue: Queue, run: Run) -> None:
    queue.submit("wide", {"seed": 1})
    queue.submit("last", {"seed": 1, "after": ["wide"]})
    queue.hold("wide")
    status = run("status", "last")[1]
    assert "queued, after wide (held)" in status
    assert "waits for   wide (held; 'runner unhold wide' queues it)" in status, status
    queue.cancel("wide")
    assert "wide (cancelled; 'runner retry wide' queues it)" in run("status", "last")[1]


def test_a_pattern_is_no_name(run: Run) -> None:
    code, _, said = run("status", "wide-*")
    assert (code, "given as --match 'wide-*'" in said) == (2, True), said


def test_status_shows_what_the_evaluation_found_whatever_its_names(queue: Queue, run: Run) -> None:
    """What the job monitors comes first; whole numbers are results, sizes are none."""
    spec = {"seed": 1, "checkpoint": {"best": {"monitor": "val_mae"}}}
    lease = queue.claim(queue.submit("houses", spec), this_process())
    found = {"loss": 9.0, "mae": 2.5, "outliers": 3, "parameters": 2561, "json": "x.json"}
    lease.finish(evaluation=found, evaluate=False)
    assert "test mae 2.5000  loss 9.0000" in row(run("status")[1], "houses")
    lines = [line.split() for line in run("status", "houses")[1].splitlines() if "  test" in line]
    assert lines[1:] == [
        ["test", "loss", "9.0000"],
        ["test", "mae", "2.5000"],
        ["test", "outliers", "3"],
    ]
    assert ended(queue.job("houses")) == (
        "houses: succeeded: test mae 2.5000, loss 9.0000, outliers 3"
    )


def test_a_lost_worker_is_never_shown_as_running(queue: Queue, run: Run) -> None:
    """It reads lost, since when, and that the job can be resumed; nothing of its pace counts."""
    queue.lease_seconds = 1.0
    lease = queue.claim(queue.submit("cats", {"seed": 1}), GONE)
    lease.renew(step=3, details={"eta_seconds": 300.0, "stalled_seconds": 99})
    time.sleep(2.1)
    cells = row(run("status")[1], "cats")
    assert "lost 2s, can be resumed" in cells
    assert "running" not in cells
    assert "elsewhere" not in cells
    assert json.loads(run("status", "cats", "--json")[1])["eta_seconds"] is None
    detail = run("status", "cats")[1]
    assert ("1 death," in detail, "waits for" in detail) == (True, False), detail


def test_nobody_speaks_of_the_living_worker_of_a_lost_job(queue: Queue, run: Run) -> None:
    """Whoever would take it over holds it; `hold`, `unhold` and `status JOB` say so alike."""
    lease = queue.claim(queue.submit("mine", {"seed": 1}), {**this_process(), "started": "1"})
    lease.renew(step=3)
    assert "takes it over" in run("status", "mine")[1]
    said = run("hold", "mine")[2]
    next_one = "the next one holds it instead of taking it over"
    assert ("mine: lost, to be held" in said, next_one in said) == (True, True), said
    assert next_one in run("status", "mine")[1]
    said = run("unhold", "mine")[2]
    assert "mine: lost; its worker is gone: 'runner resume mine' takes it over here" in said, said
    queue.claim(queue.submit("theirs", {"seed": 1}), this_process()).renew(step=3)
    queue.hold("theirs")
    assert "its worker saves and holds it at its next heartbeat" in run("status", "theirs")[1]


def test_a_job_whose_data_are_read_says_how_much_is_there(queue: Queue, run: Run) -> None:
    """The time left is the data's, and not shown as the training's."""
    lease = queue.claim(queue.submit("cats", {"seed": 1}), this_process())
    details = {"stage": "reading data", "step": 12, "steps": 400, "eta_seconds": 5.0}
    lease.renew(step=0, details=details)
    assert "reading data 12/400 MB" in row(run("status")[1], "cats")
    assert json.loads(run("status", "cats", "--json")[1])["eta_seconds"] is None


def test_a_hanging_training_reads_stalled(queue: Queue, run: Run) -> None:
    lease = queue.claim(queue.submit("cats", {"seed": 1}), this_process())
    lease.renew(step=3, details={"stalled_seconds": 130, "eta_seconds": 5.0})
    assert "stalled 2m10s" in row(run("status")[1], "cats")
    document = json.loads(run("status", "cats", "--json")[1])
    assert (document["state"], document["stalled_seconds"]) == ("stalled", 130)


def test_status_says_why_a_job_waits(queue: Queue, run: Run) -> None:
    queue.submit("next", {"after": ["cats"], "priority": 4})
    failing = queue.claim(queue.submit("cats", {"seed": 1}), GONE)
    queue.store.put(trace_key("cats", 1), b"Traceback\n  File x\n\x1b[31mMemoryError: \n")
    failing.fail("MemoryError: ", retries=2, kind=Failure.OUT_OF_MEMORY, trace=trace_key("cats", 1))
    queue.claim(queue.submit("held", {"seed": 1}), this_process()).renew()
    queue.hold("held")
    table = run("status")[1]
    assert "queued, after cats" in row(table, "next")
    assert "queued, retry 1" in row(table, "cats")
    assert "running, to be held" in row(table, "held")
    detail = run("status", "cats")[1]
    assert "newest failure: out of memory after step 0" in detail
    assert "      File x\n" in detail
    assert "\x1b" not in detail
    assert "priority    4" in run("status", "next")[1]
    document = json.loads(run("status", "next", "--json")[1])
    assert (document["priority"], document["after"]) == (4, ["cats"])


def test_status_of_a_job_names_all_that_it_waits_for(queue: Queue, run: Run) -> None:
    """Other jobs, a machine with what it needs, its next try; what a budget has left."""
    queue.submit("first", {"name": "first"})
    spec: dict[str, Any] = {
        "name": "next",
        "after": ["first", "nowhere"],
        "requirements": {"gpu_memory_gb": 40.0, "labels": ["lab"]},
        "budget": {"gpu_hours": 10.0},
        "data": {"name": "npz", "path": "/nowhere/x.npz"},
    }
    queue.submit("next", spec)
    presence.tell(
        queue.store,
        Presence(
            owner={"host": "lab-2", "pid": 7},
            sent_at=datetime.now(UTC),
            left={"next": "left for another machine: it has no /nowhere/x.npz"},
        ),
    )
    detail = run("status", "next")[1]
    for words in (
        "budget      0 of 10 GPU hours spent, 10 left",
        "waits for   first (queued)",
        "waits for   nowhere, which is not there",
        "waits for   a machine with a GPU of 40 GB",
        "waits for   a machine labelled lab",
        "waits for   a machine with /nowhere/x.npz: this one has not",
        "waits for   another machine than lab-2:7: it has no /nowhere/x.npz",
    ):
        assert words in detail
    assert "waits for   a worker" not in detail  # others are to be done first
    lease = queue.claim(queue.job("first"), GONE)
    assert "waits for" not in run("status", "first")[1]
    lease.fail("MemoryError", retries=2, backoff_seconds=50.0)
    assert re.search(r"waits for   its next try, in [45]\d s", run("status", "first")[1])


def test_a_worker_that_leaves_a_job_is_not_one_that_it_waits_for(queue: Queue, run: Run) -> None:
    queue.submit("cats", {"requirements": {"labels": ["lab"]}})
    lefts: tuple[dict[str, str], ...] = ({"cats": "left: no label"}, {})
    for pid, left in enumerate(lefts, 7):
        owner = {"host": "here", "pid": pid}
        presence.tell(queue.store, Presence(owner=owner, sent_at=datetime.now(UTC), left=left))
        said = run("status", "cats")[1]
        assert ("a worker: 2 in runner status --workers" in said) == (pid == 8), said


def test_why_a_worker_left_a_job_is_known_after_its_end(queue: Queue, run: Run) -> None:
    """The worker itself is listed no more. Of two that ended for one reason the last is named."""
    queue.submit("cats", {"name": "cats", "requirements": {"labels": ["lab"]}})
    for pid in (7, 8):
        me = Identity(queue.store, {"host": "elsewhere", "pid": pid}, Looking())
        me.tell({"cats": "left for another machine: it is without a label"})
        me.leave()
    said = run("status", "cats")[1]
    assert re.search(r"another machine than elsewhere:8, which ended \ds ago: it is without", said)
    assert "elsewhere:7" not in said
    assert "a worker: none is here, 'runner resume cats" in said
    assert "no workers" in run("status", "--workers")[2]


def test_a_small_budget_is_not_rounded_to_nothing(queue: Queue, run: Run) -> None:
    for hours, words in ((0.003, "0.003 hours spent, 0.003"), (1234.5, "1234.5 hours spent, 1230")):
        name = f"job-{hours}"
        queue.submit(name, {"budget": {"hours": hours}})
        assert f"budget      0 of {words} left" in run("status", name)[1]


def test_the_headline_is_broken_between_words(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit("drill-a8df0d06-undisturbed", {"seed": 1})
    assert (
        "last record 0s ago, 0 attempts at the training, 0 pre"
        in (run("status", "drill-a8df0d06-undisturbed")[1])
    )
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    lines = wrapped("drill-a8df0d06-undisturbed: " + "0 preemptions, " * 9).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.endswith(("0", "preemptions,")) for line in lines)


def test_the_table_says_why_a_job_is_held(queue: Queue, run: Run) -> None:
    for name, reason in (
        ("mine", "held by its user"),
        ("spent", "its budget of 10 GPU hours is spent; 'runner unhold spent' gives it more"),
        ("vain", "it is to come after cats, which is failed; 'runner retry cats'"),
    ):
        queue.submit(name, {"name": name})
        queue.hold(name, reason=reason)
    table = run("status")[1]
    assert "  held by its user  " in row(table, "mine")
    assert "  held: its budget of 10 GPU hours is spent  " in row(table, "spent")
    assert "  held: it is to come after cats, which is failed  " in row(table, "vain")


def test_workers_are_listed_the_idle_ones_too(queue: Queue, run: Run) -> None:
    """With what they are, and what each left to others; one that ended is not there any more."""
    assert "no workers" in run("status", "--workers")[2]
    queue.submit("big", {"name": "big", "requirements": {"labels": ["a100"]}})
    queue.claim(queue.submit("cats", {"name": "cats"}), GONE).renew(step=1)
    worker = subprocess.Popen(
        [sys.executable, "-m", "runner", "work", "--label", "lab"],
        stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env={**os.environ, "RUNNER_NODE": "n7"},
    )  # fmt: skip
    me, end = f"{socket.gethostname()}:{worker.pid}", time.monotonic() + 60
    try:
        while me not in (listed := run("status", "--workers")[1]) and time.monotonic() < end:
            time.sleep(0.1)
        assert re.search(rf"{me} +idle +\d+s ago +none +lab +n7", listed), listed
        assert "  big: it needs a machine labelled a100, this one is lab" in listed
        assert re.search(r"elsewhere:7 +cats +\ds ago", listed), listed
        found = {one["worker"]: one for one in json.loads(run("status", "--workers", "--json")[1])}
        assert (found[me]["state"], found["elsewhere:7"]["state"]) == ("idle", "running")
        worker.send_signal(signal.SIGSTOP)
        os.waitpid(worker.pid, os.WUNTRACED)
        assert re.search(rf"{me} +suspended ", run("status", "--workers")[1])
        worker.send_signal(signal.SIGCONT)
        assert run("work", "--drain", me)[0] == 0
        worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert me not in run("status", "--workers")[1]
    assert run("work", "--drain", me)[0] == 3, "there is no such worker now"


def test_what_others_have_done_since_is_left_by_no_worker(queue: Queue, run: Run) -> None:
    for name in ("waits", "done", "taken"):
        queue.submit(name, {"name": name})
    queue.cancel("done")
    queue.claim(queue.job("taken"), this_process())
    left = dict.fromkeys(("waits", "done", "taken", "removed"), "it needs a machine labelled lab")
    owner = {"host": "here", "pid": 7}
    presence.tell(queue.store, Presence(owner=owner, sent_at=datetime.now(UTC), left=left))
    found = {one["worker"]: one for one in json.loads(run("status", "--workers", "--json")[1])}
    assert list(found["here:7"]["left"]) == ["waits"]


def test_an_undisturbed_job_is_tried_once_and_a_killed_one_died(queue: Queue, run: Run) -> None:
    lease = queue.claim(queue.submit("cats", {"name": "cats"}), this_process())
    lease.finish(final={"step": 1, "manifest": "m", "digest": "d"})
    queue.claim(queue.job("cats"), this_process()).finish(evaluation={"top_1": 1.0})
    assert " 1 " in f"{row(run('status')[1], 'cats')} "
    assert "1 attempt at the evaluation, 0 preemptions, 0 deaths" in run("status", "cats")[1]
    queue.claim(queue.submit("dogs", {"name": "dogs"}), {**this_process(), "started": "1"})
    queue.claim(queue.job("dogs"), this_process())
    assert "2 attempts at the training, 0 preemptions, 1 death" in run("status", "dogs")[1]
    document = json.loads(run("status", "dogs", "--json")[1])
    names = ("attempts", "tries", "preemptions", "deaths")
    assert [document[name] for name in names] == [2, 2, 0, 1]


def test_status_filters(queue: Queue, run: Run) -> None:
    queue.submit("wide-1", {"seed": 1})
    queue.submit("wide-2", {"seed": 1})
    queue.claim(queue.submit("deep", {"seed": 1}), this_process()).renew()

    def names(*options: str) -> list[str]:
        return [one["id"] for one in json.loads(run("status", "--json", *options)[1])]

    assert names("--match", "wide-*") == ["wide-1", "wide-2"]
    assert names("--worker", drain.name_of(this_process())) == ["deep"]
    assert names("--state", "running", "--match", "wide-*") == []
    assert run("status", "deep", "--match", "x")[0] == 2
    assert "no jobs like that" in run("status", "--match", "none")[2]
    queue.store.put("jobs/broken/log/000000000000.json", b"garbage")
    assert names("--state", "unreadable") == ["broken"]


def test_watching_outlasts_a_bucket_that_is_away(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit("cats", {"seed": 1})
    known = status.look
    looks = 0

    def views(*arguments: Any) -> list[View]:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise StoreError("a bad line")
        if looks == 4:
            raise KeyboardInterrupt
        return known(*arguments)

    monkeypatch.setattr(status, "look", views)
    monkeypatch.setattr(live, "WATCH_SECONDS", 0.3)
    code, out, _ = run("status", "-w")
    assert (code, "cats" in out) == (130, True)
    code, _, said = run("status", "-w", "--json")
    assert (code, "give one of the two" in said) == (2, True)


# ---------------------------------------------------------------------- verbs


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


def test_a_stopped_worker_promises_no_checkpoint_that_is_not_there(queue: Queue) -> None:
    job = queue.submit("cats", {"seed": 1})
    assert working.what_resume_does(job) == "begins it again: nothing of it was saved yet"
    saved = replace(job, checkpoints=({"step": 3},))
    assert working.what_resume_does(saved) == "goes on from the last checkpoint"
    assert working.what_resume_does(replace(saved, stage=Stage.EVALUATE)) == "evaluates it again"
    done = replace(saved, state=State.SUCCEEDED)
    assert working.what_resume_does(done) == "works on what is left"


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
    for name in ("held", "failed", "done"):
        queue.submit(name, {"name": name, "evaluation": {}})
    queue.hold("held")
    queue.claim(queue.job("failed"), GONE).fail("x")
    queue.claim(queue.job("done"), GONE).finish(final={"step": 1})
    queue.claim(queue.job("done"), GONE).finish(evaluation={"top_1": 1.0})
    for name in ("held", "failed", "done"):
        os.truncate(tmp_path / f"jobs/{name}/log/000000000000.json", 100)
    code, _, shown = run("status", "held")
    sentence = next(line for line in shown.splitlines() if "cannot be read" in line)
    assert code == 6
    for verb, name in (("unhold", "held"), ("retry", "failed"), ("evaluate", "done")):
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
    lapses = queue.availability(queue.job("cats")).lapses_in
    assert lapses is not None
    assert 20 < lapses <= 40


def test_a_job_without_an_evaluation_is_not_queued_for_one(queue: Queue, run: Run) -> None:
    queue.claim(queue.submit("cats", {"evaluation": None}), GONE).finish(
        final={"step": 1}, evaluate=False
    )
    code, _, said = run("evaluate", "cats")
    assert (code, "its spec has no evaluation" in said) == (2, True)
    assert queue.job("cats").state.value == "succeeded"


def test_submit_takes_priority_and_dependencies(queue: Queue, run: Run) -> None:
    queue.submit("first", {"seed": 1})
    spec = [str(QUICKSTART), "--detach"]
    assert run("submit", *spec, "--priority", "3", "--after", "first")[0] == 0
    job = queue.job("quickstart")
    assert (job.priority, job.after) == (3, ("first",))
    assert queue.spec("quickstart")["after"] == ["first"]
    code, _, said = run("submit", *spec, "--set", "name=x", "--after", "nobody")
    assert (code, "there is no such job" in said) == (3, True)
    assert queue.find("x") is None


def test_what_a_job_cannot_go_on_from_is_refused_before_anything_is_stored(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    """With --dry-run as without: what it lets pass can be stored."""
    queue.submit("late", {"seed": 1})
    saved = {"step": 540, "epoch": 3, "manifest": "m"}
    queue.submit("dead", {"seed": 1}, {"checkpoints": (saved,), "step": 540})
    queue.claim(queue.job("dead"), GONE).fail("its fault")
    spec = json.loads(QUICKSTART.read_text())
    of_best = tmp_path / "best.json"
    of_best.write_text(json.dumps({**spec, "from": {"job": "dead", "checkpoint": "best"}}))
    alone, child = tmp_path / "alone.json", tmp_path / "child.json"
    alone.write_text(json.dumps({**spec, "name": "alone"}))
    child.write_text(json.dumps({**spec, "from": {"job": "alone"}}))
    hint = "Submit quickstart once late has ended."
    pattern = 'from.job: received "Late"; expected up to 63 lower-case letters, digits'
    for code, said, *arguments in (
        (3, "no job 'ghost'", str(QUICKSTART), "--from", "ghost"),
        (4, "It has none yet. " + hint, str(QUICKSTART), "--from", "late"),
        (4, "no checkpoint 541. It has latest, 540: add", str(QUICKSTART), "--from", "dead@541"),
        (4, "final checkpoint. It has latest, 540: add --set from.checkpoint=latest.", str(of_best),
         "--from", "dead"),
        (2, "--from received 'late@'; expected JOB", str(QUICKSTART), "--from", "late@"),
        (2, "1 mistake\n  from.checkpoint: received 'bogus'; expected 'final', 'best',",
         str(QUICKSTART), "--from", "late@bogus"),
        (2, pattern, str(QUICKSTART), "--from", "Late"),
        (4, "from alone, which is not trained yet", str(alone), str(child)),
    ):  # fmt: skip
        for more in (["--dry-run"], []):
            found, _, words = run("submit", *arguments, "--detach", *more)
            assert (found, said in words) == (code, True), words
    assert queue.ids() == ["dead", "late"]


def test_a_file_of_weights_is_known_by_its_ending_and_is_no_folder(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "x" / "m.keras").mkdir(parents=True)
    for file, said in (
        (QUICKSTART, "from.path: received '" + str(QUICKSTART) + "'; expected a file that ends in"),
        (tmp_path / "x" / "m.keras", "m.keras is a folder; expected a file."),
    ):
        code, _, words = run("submit", str(QUICKSTART), "--detach", "--set", f"from.path={file}")
        assert (code, said in words, "imagenet" in words) == (2, True, False), words
    assert not queue.ids()


def test_more_epochs_are_given_once(queue: Queue, run: Run) -> None:
    run("submit", str(QUICKSTART), "--detach")
    twice = ("--epochs", "20", "--set", "training.epochs=50", "--detach")
    code, _, words = run("extend", "quickstart", *twice)
    assert (code, "--epochs received 20, but --set makes it 50" in words) == (2, True), words


def test_a_job_is_not_to_come_after_itself(queue: Queue, run: Run) -> None:
    code, _, said = run("submit", str(QUICKSTART), "--detach", "--after", "quickstart")
    assert (code, "is this job itself" in said) == (2, True), said


def test_ctrl_c_while_jobs_are_stored(
    queue: Queue, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is stored, and that the same command stores the rest."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    store = submit.store_one

    def asked(*arguments: Any) -> Job:
        os.kill(os.getpid(), signal.SIGINT)
        return store(*arguments)

    monkeypatch.setattr(submit, "store_one", asked)
    specs = [str(tmp_path / f"{name}.json") for name in "abc"]
    for path in specs:
        Path(path).write_text(json.dumps({"name": f"job-{Path(path).stem}"}))
    code, out, said = run("submit", *specs, "--detach")
    for number, handler in before.items():
        signal.signal(number, handler)
    assert (code, len(out.splitlines())) == (130, 1), said
    assert "1 of 3 jobs are stored" in said
    monkeypatch.undo()
    monkeypatch.setenv("RUNNER_STORE", queue.store.url)
    assert run("submit", *specs, "--detach")[0] == 0
    assert len(queue.jobs()) == 3


def test_one_damaged_job_keeps_no_other_from_being_stored(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    """It is reported, and the exit code says so; a record 0 that is gone is restored."""
    spec = tmp_path / "sweep.json"
    sweep = [{"name": name, "data.name": "digits"} for name in ("a", "b", "c")]
    spec.write_text(json.dumps({"name": "all", "evaluation": None, "sweep": sweep}))
    first = tmp_path / "jobs/a/log/000000000000.json"
    first.parent.mkdir(parents=True)
    first.write_text("no JSON")
    code, out, said = run("submit", str(spec), "--detach")
    assert (code, out) == (6, "b\nc\n"), said
    assert "a: not stored: " in said
    queue.hold("b")
    (tmp_path / "jobs/b/log/000000000000.json").unlink()
    with pytest.raises(DamagedRecordError, match="submit the same spec again"):
        queue.spec("b")
    said = run("submit", str(spec), "--detach", "--set", "seed=9")[2]
    assert "b: not stored: records of b are gone" in said  # another spec is not it
    assert not (tmp_path / "jobs/b/log/000000000000.json").exists()
    said = run("submit", str(spec), "--detach")[2]
    assert "b: its record 0 was gone and is restored, held" in said
    assert "c: already there, queued" in said
    queue.spec("b", queue.job("b").spec_digest)
    assert queue.claim(queue.unhold("b"), GONE).job.state is State.RUNNING


def test_what_a_worker_wrote_behind_a_removed_log_is_no_job_to_restore(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    """Record 0 is put back only under a log that is whole but for it."""
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"name": "mid", "data": {"name": "digits"}}))
    run("submit", str(spec), "--detach")
    lease = queue.claim(queue.job("mid"), GONE)
    lease.commit(Commit(step=1, epoch=0, checkpoints=[]))
    folder = tmp_path / "jobs/mid"
    for number in (0, 1):
        (folder / f"log/{number:012d}.json").unlink()
    code, out, said = run("submit", str(spec), "--detach")
    assert (code, out) == (6, "")
    assert "records of mid are gone from jobs/mid/log, the first of them 1" in said
    assert "remove the whole of jobs/mid" in said
    assert "submit the same spec again" not in said
    assert [path.name for path in (folder / "log").iterdir()] == ["000000000002.json"]
    shutil.rmtree(folder)
    assert run("submit", str(spec), "--detach")[:2] == (0, "mid\n")
    assert queue.job("mid").number == 0


def test_data_that_need_a_package_are_said_when_they_are_submitted(
    queue: Queue, run: Run, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.json"
    data = {"name": "npz", "path": "webdav://nas/x.npz"}
    spec.write_text(json.dumps({"name": "mid", "data": data}))
    said = run("submit", str(spec), "--detach")[2]
    assert "data.path webdav://nas/x.npz: webdav:// needs a package" in said
    assert "webdav4" in said
    assert queue.job("mid").number == 0


@pytest.mark.parametrize("named", ["", " "])
def test_a_store_without_a_name_is_refused(run: Run, named: str) -> None:
    code, _, said = run("status", "--store", named)
    assert (code, "expected a folder or a URL" in said) == (2, True)


def test_storing_many_jobs_shows_progress(
    queue: Queue, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "COUNT_SECONDS", 0.0)
    spec = tmp_path / "sweep.json"
    spec.write_text(json.dumps({"name": "x", "sweep": [{"seed": n} for n in range(20)]}))
    code, out, said = run("submit", str(spec), "--detach")
    assert (code, len(out.splitlines())) == (0, 20)
    assert "7 of 20 jobs are checked\n" in said
    assert "7 of 20 jobs are stored\n" in said


def test_jobs_that_an_older_version_stored_are_the_same_content(queue: Queue, run: Run) -> None:
    """It knew fewer fields; what they are now by default changes nothing."""
    assert run("submit", str(QUICKSTART), "--dry-run")[0] == 0
    old = json.loads(run("submit", str(QUICKSTART), "--dry-run")[1])
    for name in ("priority", "after", "requirements", "budget", "limits"):
        del old[name]
    queue.submit("quickstart", old)
    code, out, said = run("submit", str(QUICKSTART), "--detach")
    assert (code, out) == (0, "quickstart\n")
    assert "already there, queued" in said
    assert run("submit", str(QUICKSTART), "--detach", "--priority", "1")[0] == 2


def test_jobs_of_one_command_are_stored_after_those_they_wait_for() -> None:
    def job(name: str, *after: str) -> tuple[Path, JobSpec]:
        return Path(name), JobSpec(name=name, after=after)

    order = [spec.name for _, spec in in_order([job("c", "b", "x"), job("b", "a"), job("a")])]
    assert order == ["a", "b", "c"]
    with pytest.raises(SpecError, match="wait for each other"):
        in_order([job("a", "b"), job("b", "a")])


# ---------------------------------------------------------------------- work


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


# ---------------------------------------------------------------------- logs


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
