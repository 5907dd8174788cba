"""A bucket may hold anything: no command hangs, shows a traceback or believes what is made up."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.harness import QUICKSTART, Runner, change_record

NONCE = "f" * 24


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    runner = Runner(tmp_path / "store")
    for name in ("a", "b"):
        runner.ok("submit", str(QUICKSTART), "--detach", "--set", f"name={name}")
    return runner


def folder(runner: Runner, job: str) -> Path:
    return runner.store / "jobs" / job


def change(runner: Runner, job: str, **fields: Any) -> None:
    """Change the job's only record."""
    change_record(folder(runner, job) / "log" / "000000000000.json", **fields)
    (folder(runner, job) / "head.json").unlink(missing_ok=True)


@pytest.mark.parametrize("place", ["head.json", "log/000000000001.json", "logs/000001.log"])
def test_a_pipe_in_the_place_of_an_object_hangs_nobody(runner: Runner, place: str) -> None:
    path = folder(runner, "a") / place
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    for command in (["status"], ["logs", "a"]):
        done = runner.run(*command)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 6)


def test_a_number_beyond_all_sense_hides_no_other_job(runner: Runner) -> None:
    hint = folder(runner, "b") / "head.json"
    hint.write_text('{"number": 1' + "0" * 400 + ', "nonce": "x"}')
    status = json.loads(runner.ok("status", "--json"))
    assert [job["state"] for job in status] == ["queued", "queued"]


def ruin(folder: Path, how: str) -> None:
    """Take a job's records away, or damage them."""
    first, log = folder / "log/000000000000.json", folder / "log"
    if how == "no records":
        shutil.rmtree(log)
    elif how == "no record 0":
        first.unlink()
    elif how == "record 0 damaged":
        first.write_bytes(first.read_bytes().replace(b'"batch_size":32', b'"batch_size":33'))
    else:
        newest = max(log.iterdir())
        newest.write_bytes(newest.read_bytes()[:100])
        (folder / "head.json").write_bytes(b"")


@pytest.mark.parametrize(
    "how", ["no records", "no record 0", "record 0 damaged", "the only record cut"]
)
def test_a_job_that_is_ruined_is_shown_as_unreadable_with_what_to_do(
    runner: Runner, how: str
) -> None:
    """Not as queued, for no worker can take it; the others are shown as ever."""
    ruin(folder(runner, "a"), how)
    done = runner.run("status")
    assert done.returncode == 6
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["b", "queued"], ["a", "unreadable"]]
    assert "a: cannot be read: " in done.stderr
    assert "back from a copy of the store" in " ".join(done.stderr.split())
    alone = runner.run("status", "a", "--json")
    assert alone.returncode == 6
    assert json.loads(alone.stdout)["state"] == "unreadable"
    assert "back from a copy of the store" in json.loads(alone.stdout)["reason"]
    assert runner.run("status", "b").returncode == 0


@pytest.mark.parametrize("copy", ["with its copy", "without its copy"])
def test_a_damaged_record_0_has_the_same_reason_everywhere(
    runner: Runner, tmp_path: Path, copy: str
) -> None:
    """Whichever byte it is, whichever command sees it, with other records or without."""
    first = folder(runner, "a") / "log/000000000000.json"
    first.write_bytes(first.read_bytes().replace(b'"', b"\x01", 1))
    if copy == "without its copy":
        (folder(runner, "a") / "head.json").unlink()
    reason = "the spec in jobs/a/log/000000000000.json is not the one that was submitted"
    stored = "submit", str(QUICKSTART), "--set", "name=a", "--detach"
    shown = "report", "a", "--output", str(tmp_path / "report")
    for command in (("status", "a"), stored, ("resume", "a"), ("unhold", "a"), shown):
        done = runner.run(*command)
        assert done.returncode == 6, command
        assert reason in " ".join(done.stderr.split()), command


def test_a_newest_record_that_is_cut_costs_one_change_and_is_said(runner: Runner) -> None:
    runner.ok("hold", "a")
    ruin(folder(runner, "a"), "cut")
    status = json.loads(runner.run("status", "a", "--json").stdout)
    assert (status["state"], "record 1 of its log is damaged" in status["reason"]) == (
        "queued",
        True,
    )
    done = runner.run("status")
    assert (done.returncode, "queued, record damaged" in done.stdout) == (6, True)
    assert "a: record 1 of its log is damaged: the one before it counts" in done.stderr
    runner.ok("cancel", "a")
    assert "record 1 of its log is damaged" in runner.status("a")["notes"][0]


def test_a_copy_that_was_made_up_is_not_built_upon(runner: Runner) -> None:
    """A state that no record of the log has, under a number that is far away."""
    record = json.loads((folder(runner, "a") / "log" / "000000000000.json").read_text())
    forged = {**record, "number": 500, "nonce": NONCE, "state": "failed", "kind": "fail"}
    (folder(runner, "a") / "head.json").write_text(json.dumps(forged))
    done = runner.run("retry", "a")
    assert done.returncode == 2, "a queued job can't be retried"
    assert [path.name for path in (folder(runner, "a") / "log").iterdir()] == ["000000000000.json"]
    assert "a: held" in runner.run("hold", "a").stderr


def test_another_jobs_copy_spoils_nothing(runner: Runner) -> None:
    shutil.copy(folder(runner, "a") / "head.json", folder(runner, "b") / "head.json")
    assert {job["id"] for job in json.loads(runner.ok("status", "--json"))} == {"a", "b"}
    assert runner.status("b")["state"] == "queued"
    assert "b: held" in runner.run("hold", "b").stderr


@pytest.mark.parametrize(
    "fields",
    [
        {"evaluation": {"top_1": 10**400, "loss": float("nan")}},
        {"evaluation": {"\x1b[2Jname": 0.5}},
        {"metrics": {"loss": 10**400}},
        {"reason": "\x1b]0;title\x07", "notes": ["\x1b[31m"]},
        {"state": "running", "owner": {"host": "\x1b[2J" + "h" * 100_000, "pid": 10**400}},
    ],
    ids=["numbers", "names", "metrics", "texts", "owner"],
)
def test_values_without_sense_are_shown_as_nothing(runner: Runner, fields: dict[str, Any]) -> None:
    change(runner, "a", **fields)
    for command in (["status"], ["status", "a"], ["status", "a", "--json"]):
        done = runner.run(*command)
        assert done.returncode in (0, 6), done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert len(done.stdout) < 20_000


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400", "null", '"x"'])
def test_a_heartbeat_without_sense_is_none(runner: Runner, value: str) -> None:
    change(runner, "a", state="running", token=1, owner={"host": "elsewhere", "pid": 1})
    beat = folder(runner, "a") / "lease" / "1.json"
    beat.parent.mkdir()
    beat.write_text(f'{{"metrics": {{"\\u001b[2J": {value}}}, "unsaved_seconds": {value}}}')
    done = runner.run("status")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "\x1b" not in done.stdout


def test_nested_without_end(runner: Runner) -> None:
    deep: dict[str, Any] = {}
    for _ in range(600):
        deep = {"a": deep}
    change(runner, "a", evaluation=deep)
    assert "Traceback" not in runner.run("status", "a", "--json").stderr


def test_control_characters_of_a_log_do_not_reach_the_terminal(runner: Runner) -> None:
    logs = folder(runner, "a") / "logs"
    logs.mkdir()
    (logs / "000001.log").write_text("one\x1b[2J\x07\ttwo\n")
    assert runner.ok("logs", "a") == "one[2J\ttwo\n"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://user:GEHEIM@bucket/r", "{}"),
        ("S3://user:GE/HEIM@bucket/r", "{}"),
        ("gs://u:GEHEIM@bucket/r", "{}"),
        ("s3://bucket/r", '{"key": 5, "secret": "GEHEIM"}'),
        ("s3://bucket/r", '{"secret": "GEHEIM", "nonsense": 1}'),
        ("gs://bucket/r", '{"token": {"private_key": "GEHEIM"}}'),
    ],
)
def test_credentials_that_make_no_sense_are_told_and_not_shown(
    tmp_path: Path, url: str, options: str
) -> None:
    runner = Runner(tmp_path, {"RUNNER_STORAGE_OPTIONS": options, "NO_GCE_CHECK": "true"}, url=url)
    done = runner.run("status")
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    assert "HEIM" not in done.stdout + done.stderr
