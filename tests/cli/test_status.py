"""What `status` says of a queue with many workers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.cli import common, compare, live, status
from runner.cli.render import wrapped
from runner.cli.words import ended
from runner.commit import Commit
from runner.engine.attempt import trace_key
from runner.engine.identity import Identity
from runner.engine.requirements import Looking
from runner.errors import StoreError
from runner.queue import drain, presence
from runner.queue.job import Failure
from runner.queue.owner import this_process
from runner.queue.presence import Presence
from runner.queue.queue import Queue
from runner.queue.view import View
from tests.cli.conftest import GONE, Run
from tests.harness import REPOSITORY


def row(text: str, job: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(job))


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


def test_compared_curves_have_one_scale_and_a_column_for_each_epoch(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a job goes on from another, with a mark between, and where they are cut."""
    histories = {"one": [1.0, 2.0, 3.0], "two": [1.0, 2.0, 3.0, 5.0, None, 8.0]}
    monkeypatch.setattr(
        compare, "describe", lambda _, view: {
            "history": {"loss": histories[view.job.id]},
            "evaluation": None, "final": None, "checkpoint": None,
        }
    )  # fmt: skip
    monkeypatch.setattr(compare, "inherited", lambda job: 3 if job.id == "two" else 0)
    for name in histories:
        queue.submit(name, {"name": name, "program": {"name": "p", "arguments": {}}})
    out = run("compare", "one", "two")[1]
    assert out.endswith("\nloss\n  one  ▁▂▃      3.0000\n  two  ▁▂▃┃▅ █  8.0000\n")
    monkeypatch.setattr(compare, "VALUES", 4)
    out = run("compare", "one", "two")[1]
    assert out.endswith("\nloss, epochs 3 to 6\n  one  ▁      3.0000\n  two  ▁┃▄ █  8.0000\n")
    for alone in (("one",), ("one", "one")):
        code, _, said = run("compare", *alone)
        assert (code, "received only one; give two jobs or more ('status one')" in said) == (
            2,
            True,
        )


@pytest.mark.parametrize(("name", "more"), [("mine", " --code DIR"), ("diabetes", "")])
def test_the_command_that_goes_on_names_the_code_that_it_needs(
    queue: Queue, run: Run, name: str, more: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where it is known already, it needs no name."""
    evaluation = {"batch_size": 1}
    spec = {"name": "cats", "program": {"name": name, "arguments": {}}, "evaluation": evaluation}
    said = f"'runner resume cats{more}'"
    dead = {**this_process(), "pid": 2**22 + 1}
    queue.claim(queue.submit("cats", spec), dead)
    assert f"its worker is gone: {said} takes it over here" in run("status", "cats")[1]
    queue.claim(queue.submit("dogs", {**spec, "name": "dogs"}), GONE).finish(final={"step": 1})
    queue.claim(queue.job("dogs"), GONE).finish(evaluation={"mae": 1.0})
    assert f"{said.replace('cats', 'dogs')} works on it here" in run("evaluate", "dogs")[2]
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/mine.py").write_text("def program(): ...\n")
    monkeypatch.setenv("RUNNER_CODE", str(tmp_path))
    assert "'runner resume dogs' starts one" in run("status", "dogs")[1]


def test_a_command_repeats_the_code_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(common._named, "code", "my code")
    assert common.command("resume", "cats").endswith("--code 'my code''")
    assert "--code" not in common.command("status", "cats")


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


def test_time_that_no_goodput_counts_is_named_so(queue: Queue, run: Run) -> None:
    lease = queue.claim(queue.submit("cats", {"seed": 1}), this_process())
    lease.commit(Commit(step=3, epoch=1, time={"steps": 30.0, "start": 10.0, "evaluation": 5.0}))
    lines = [" ".join(line.split()) for line in run("status", "cats")[1].splitlines()]
    assert "goodput 75.0% of 40s in training" in lines
    assert {"30s steps", "10s start and imports", "5s evaluation, not in it"} <= set(lines), lines


def test_what_a_removal_has_left_is_measured_too(queue: Queue, run: Run) -> None:
    queue.submit("cats", {"seed": 1})
    queue.store.put("jobs/gone/packs/t1-aa.safetensors", bytes(4200))  # a removal was cut off
    for names in ((), ("gone",)):
        code, shown, _ = run("du", *names)
        assert (code, row(shown, "gone").split()[1:3]) == (0, ["4.2", "kB"])


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
    assert "newest failure: out of memory; saved at step 0" in detail
    assert "      File x\n" in detail
    assert "\x1b" not in detail
    assert "priority    4" in run("status", "next")[1]
    document = json.loads(run("status", "next", "--json")[1])
    assert (document["priority"], document["after"]) == (4, ["cats"])


def test_what_failed_before_a_success_is_told_in_one_line(queue: Queue, run: Run) -> None:
    failing = queue.claim(queue.submit("cats", {"seed": 1}), GONE)
    queue.store.put(trace_key("cats", 1), b"Traceback\n  File x\n")
    failing.fail("KeyError: 3", retries=0, kind=Failure.CRASH, trace=trace_key("cats", 1))
    queue.retry("cats")
    queue.claim(queue.job("cats"), this_process()).finish(final={"step": 1}, evaluate=False)
    detail = run("status", "cats")[1]
    assert "newest failure: crash; saved at step 0: KeyError: 3" in detail
    assert "File x" not in detail


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
    assert "a worker: none is here, 'runner work'" in said.replace(
        f" --store {queue.store.url}", ""
    )
    assert "on such a machine starts one" in said
    queue.submit("dogs", {"name": "dogs"})
    assert "a worker: none is here, 'runner resume dogs" in run("status", "dogs")[1]
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


def test_what_goes_on_is_watched_first_and_what_has_no_room_is_counted(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        queue.submit(f"old-{number}", {"seed": 1})
        queue.cancel(f"old-{number}")
    queue.submit("zz", {"seed": 1})
    monkeypatch.setenv("LINES", "8")
    known, looks = status.look, iter(range(2))

    def views(*arguments: Any) -> list[View]:
        if next(looks):
            raise KeyboardInterrupt
        return known(*arguments)

    monkeypatch.setattr(status, "look", views)
    lines = [line.strip() for line in run("status", "-w")[1].splitlines()]
    assert [line.split()[0] for line in lines[1:7]] == ["zz", *(f"old-{n}" for n in range(5))]
    assert lines[7] == "3 more, see 'runner status'"


def test_workers_are_filtered_by_the_names_that_engines_give_them(
    queue: Queue, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_NODE", "pod-7")
    queue.claim(queue.submit("cats", {"seed": 1}), this_process())
    assert row(run("status", "--worker", "pod-7")[1], "cats")
    assert "no jobs like that" in run("status", "--worker", "pod-8")[2]


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
