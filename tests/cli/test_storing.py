"""What `submit` stores, what it refuses, and what it says of many jobs."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.cli import submit
from runner.cli.submit import in_order
from runner.commit import Commit
from runner.engine.preemption import SIGNALS
from runner.errors import DamagedRecordError, SpecError
from runner.queue.job import Job, State
from runner.queue.queue import Queue
from runner.spec import JobSpec, parse
from tests.cli.conftest import GONE, Run
from tests.harness import QUICKSTART


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


def test_another_spec_of_the_same_name_is_told_what_to_do(queue: Queue, run: Run) -> None:
    run("submit", str(QUICKSTART), "--detach")
    code, _, words = run("submit", str(QUICKSTART), "--detach", "--set", "training.epochs=50")
    assert (code, "'runner extend quickstart --epochs 50'" in words) == (2, True), words
    words = run("submit", str(QUICKSTART), "--detach", "--set", "seed=50")[2]
    assert ("runner extend" in words, "--set name=NAME" in words) == (False, True), words


def test_a_spec_in_another_encoding_is_told_so(run: Run, tmp_path: Path) -> None:
    spec = tmp_path / "wide.json"
    spec.write_text('{"name": "wide"}', encoding="utf-16")
    code, _, words = run("submit", str(spec), "--detach")
    assert (code, "wide.json: is no text in UTF-8" in words) == (2, True), words


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


def test_of_the_jobs_of_one_program_the_first_is_tried_and_the_others_are_counted(
    queue: Queue, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def build_report(spec: JobSpec, *, source: str) -> str:
        tried.append(spec.name)
        return source

    trial = SimpleNamespace(build_report=build_report)
    monkeypatch.setitem(sys.modules, "runner.evaluation.trial", trial)
    monkeypatch.setattr(submit, "import_keras", lambda: None)
    queue.submit("there", {"seed": 1})
    programs = dict.fromkeys(("there", "one", "three", "four"), "diabetes")
    programs["two"] = "descriptions"
    parsed = [parse({"name": n, "program": {"name": p}}, source=n) for n, p in programs.items()]
    submit._try_out(queue, [(Path("sweep.json"), one) for one in parsed])
    assert tried == ["one", "two"]
    assert "not tried: 2 other jobs of the same programs" in capsys.readouterr().err


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
