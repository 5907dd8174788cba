"""Every command answers a user's mistake in one sentence and with the documented exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import QUICKSTART, Runner, change_record, large_npz, sets


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "store")


def test_submit_detached_prints_the_id_alone_and_is_idempotent(runner: Runner) -> None:
    """The same name and content again is a no-op."""
    first = runner.run("submit", str(QUICKSTART), "--detach")
    assert (first.returncode, first.stdout) == (0, "quickstart\n")
    again = runner.run("submit", str(QUICKSTART), "--detach")
    assert (again.returncode, again.stdout) == (0, "quickstart\n")
    assert again.stderr.endswith("already there, queued\n")
    job = runner.job("quickstart")
    assert job is not None
    assert (job.number, job.state.value) == (0, "queued")


def test_same_name_with_other_content_shows_the_difference(runner: Runner) -> None:
    """Nothing is stored, exit 2."""
    runner.ok("submit", str(QUICKSTART), "--detach")
    other = runner.run("submit", str(QUICKSTART), "--detach", "--set", "seed=5")
    assert other.returncode == 2
    assert "seed is 7, not 5" in other.stderr
    assert other.stdout == ""
    job = runner.job("quickstart")
    assert job is not None
    assert job.number == 0


def test_mistakes_of_all_specs_are_told_and_nothing_is_stored(
    runner: Runner, tmp_path: Path
) -> None:
    """One bad file among good ones keeps all of them out."""
    bad = tmp_path / "bad.json"
    mistakes = {
        "training": {"epochs": 0},
        "data": {"name": "digit"},
        "model": {"arguments": {"blok": 1}},
    }
    bad.write_text(json.dumps({"name": "bad", **mistakes}))
    worse = tmp_path / "worse.json"
    worse.write_text('{"nam": "worse"}')
    done = runner.run("submit", str(QUICKSTART), str(bad), str(worse), "--detach")
    assert done.returncode == 2
    assert "training.epochs: received 0" in done.stderr
    assert "model.arguments.blok: no such field" in done.stderr
    assert "data.name: dataset 'digit' is not in" in done.stderr
    assert "Did you mean 'name'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert runner.job("quickstart") is None


@pytest.mark.parametrize("command", ["validate", "submit"])
def test_mistakes_in_specs_hide_none_in_their_data(
    runner: Runner, tmp_path: Path, command: str
) -> None:
    """Of the same file or others: all are told at once."""
    specs: dict[str, dict[str, Any]] = {
        "a": {"data": {"name": "folder"}, "budget": {"hours": "1h"}, "after": ["a"]},
        "b": {"data": {"path": "nowhere.npz"}, "checkpoint": {"every": "0s"}},
        "c": {"training": {"batch_size": 100_000}},
        "d": {"sweep": [{"name": "same"}, {"name": "same"}]},
    }
    for name, spec in specs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, **spec}))
    said = runner.run(command, *map(str, sorted(tmp_path.glob("*.json")))).stderr
    words = (
        "a.json: 2 mistakes",
        "a.json: the dataset 'folder' needs data.path",
        "b.json: 1 mistake",
        "nowhere.npz: does not",
        "c.json: training.batch_size: received 100000",
    )
    assert [one for one in words if one not in said] == [], said
    said = runner.run(command, str(tmp_path / "d.json")).stderr
    assert "the name 'same' is that of another job of its sweep too" in said
    said = runner.run(command, str(QUICKSTART), "--set", "training.epochs", "3").stderr
    assert "received 'training.epochs'; expected key=value" in said


def test_a_command_that_is_none_is_shown_the_nearest(runner: Runner) -> None:
    done = runner.run("statsu")
    assert done.returncode == 2
    assert "no command 'statsu'. Did you mean 'status'?" in done.stderr


def test_several_specs_are_validated_into_one_list(runner: Runner, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"name": "other", "data": {"name": "digits"}}))
    done = runner.run("validate", str(QUICKSTART), str(other))
    assert [one["name"] for one in json.loads(done.stdout)] == ["quickstart", "other"]
    assert json.loads(runner.run("validate", str(other)).stdout)["name"] == "other"


def test_data_of_one_machine_are_said_and_their_job_waits_for_it(
    runner: Runner, tmp_path: Path
) -> None:
    data = tmp_path / "x.npz"
    x, y = np.zeros((40, 8, 8, 1), "uint8"), np.arange(40) % 2
    np.savez(data, x_train=x, y_train=y, x_test=x, y_test=y)
    changes = sets({"data": {"name": "npz", "path": str(data)}, "training.batch_size": 8})
    done = runner.run("submit", str(QUICKSTART), "--detach", *changes)
    assert f"data.path {data} is of this machine" in done.stderr
    data.rename(tmp_path / "elsewhere.npz")
    done = runner.run("work", "--until-empty")
    assert f"quickstart: left for another machine: it has no {data}" in done.stderr
    assert done.returncode == 4
    assert runner.status("quickstart")["state"] == "queued"


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_stored(
    runner: Runner,
) -> None:
    """With both numbers."""
    done = runner.run("submit", str(QUICKSTART), "--set", "training.batch_size=100000")
    assert done.returncode == 2
    assert "received 100000, but an epoch has" in done.stderr
    assert runner.job("quickstart") is None


@pytest.mark.parametrize("content", [None, b"PK\x03\x04 cut short", b""])
def test_data_that_cannot_be_read_are_named(
    runner: Runner, tmp_path: Path, content: bytes | None
) -> None:
    """A missing, a truncated and an empty file: exit 2, the file's name, nothing stored."""
    path = tmp_path / "images.npz"
    if content is not None:
        path.write_bytes(content)
    done = runner.run(
        "submit",
        str(QUICKSTART),
        "--set", "data.name=cifar100",
        "--set", f"data.path={path}",
        "--set", "data.arguments={}",
    )  # fmt: skip
    assert done.returncode == 2
    assert "images.npz" in done.stderr
    assert "Traceback" not in done.stderr
    assert runner.job("quickstart") is None


def test_dry_run_stores_nothing(runner: Runner) -> None:
    """It prints the effective spec."""
    done = runner.run("submit", str(QUICKSTART), "--dry-run")
    effective = json.loads(done.stdout)
    assert "dry run: 1 job would be stored, 0 are there already" in done.stderr
    assert effective["name"] == "quickstart"
    assert runner.job("quickstart") is None
    assert not runner.store.exists()


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"data": {"name": "npz", "path": "smal.npz"}}, 2, "smal.npz: does not exist"),
        ({"data": {"name": "npz"}}, 2, "path"),
        ({"training.batch_size": 100_000}, 2, "training.batch_size"),
        ({"after": ["nobody"]}, 3, "there is no such job"),
        ({"seed": 5}, 2, "seed is 7, not 5"),
    ],
)
def test_a_dry_run_refuses_what_submit_refuses(
    runner: Runner, changes: dict[str, object], code: int, words: str
) -> None:
    """In the same words."""
    runner.ok("submit", str(QUICKSTART), "--detach")
    arguments = ("submit", str(QUICKSTART), *sets(changes))
    done = [runner.run(*arguments, option) for option in ("--detach", "--dry-run")]
    assert [one.returncode for one in done] == [code, code], done[1].stderr
    said = [one.stderr.replace(f"store: {runner.store.as_uri()}\n", "") for one in done]
    assert (words in said[0], said[0]) == (True, said[1])


def test_a_dry_run_tries_a_step_of_a_program(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "mine.py").write_text("def program():\n    raise KeyError('here')\n")
    spec = tmp_path / "mine.json"
    spec.write_text('{"name": "mine", "program": {"name": "mine"}}')
    arguments = ("submit", str(spec), "--code", str(tmp_path), "--dry-run")
    done = runner.run(*arguments)
    words = "KeyError: 'here' (programs/mine.py, line 2"
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert runner.run(*arguments, "--no-trial").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("status", "quickstrat"), 3, "there is no job 'quickstrat'"),
        (("logs", "nobody"), 3, "there is no job 'nobody'"),
        (("resume", "nobody"), 3, "there is no job 'nobody'"),
        (("cancel", "nobody"), 3, "there is no job 'nobody'"),
        (("export", "nobody", "x.keras"), 3, "there is no job 'nobody'"),
        (("export", "nobody", "x.h5"), 2, "ends in .keras"),
        (("submit",), 2, "required: SPEC"),
        (("submit", "none.json"), 2, "no such file"),
        (("frobnicate",), 2, "no command"),
        (("status", "--state", "asleep"), 2, "invalid choice"),
        (("status", "quickstart", "--state", "lost"), 2, "give one of the two"),
        ((), 2, ""),
    ],
)
def test_exit_codes_of_mistakes(
    runner: Runner, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """2 for usage and specs, 3 for jobs that don't exist."""
    done = runner.run(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_cannot_be_used_is_exit_6(runner: Runner, tmp_path: Path) -> None:
    """A file in the place of the folder; a scheme that nobody knows."""
    (tmp_path / "file").write_text("")
    for store in (str(tmp_path / "file" / "store"), "nosuch://bucket/x"):
        done = runner.run("submit", str(QUICKSTART), "--detach", "--store", store)
        assert done.returncode == 6, done.stderr
        assert "Traceback" not in done.stderr


def test_status_of_an_empty_store(runner: Runner) -> None:
    """Says so, and is no error; JSON is an empty list."""
    assert "no jobs" in runner.run("status").stderr
    assert json.loads(runner.ok("status", "--json")) == []


def test_status_json_is_the_documented_contract(runner: Runner) -> None:
    """A program may rely on these names; a queued job has them all."""
    runner.ok("submit", str(QUICKSTART), "--detach")
    status = runner.status("quickstart")
    contract = {
        "id", "name", "state", "stage", "attempts", "preemptions", "epoch", "step",
        "checkpoint", "final", "history", "evaluation", "parameters", "store",
    }  # fmt: skip
    assert contract <= status.keys()
    assert (status["state"], status["stage"]) == ("queued", "train")
    assert isinstance(json.loads(runner.ok("status", "--json")), list)


def test_a_record_that_cannot_be_read_is_not_claimed(runner: Runner) -> None:
    """Its spec is read first: nothing is written on top of a damaged log."""
    runner.ok("submit", str(QUICKSTART), "--detach")
    log = runner.store / "jobs" / "quickstart" / "log"
    (log / "000000000000.json").write_text("garbage")  # the hint still says that it is queued
    done = runner.run("resume")
    assert (done.returncode, "Traceback" in done.stderr) == (6, False)
    assert "quickstart: cannot be read" in done.stderr
    assert [path.name for path in log.iterdir()] == ["000000000000.json"]


def test_export_of_a_job_that_has_not_ended(runner: Runner, tmp_path: Path) -> None:
    runner.ok("submit", str(QUICKSTART), "--detach")
    done = runner.run("export", "quickstart", str(tmp_path / "m.keras"))
    assert done.returncode == 4
    assert "no final checkpoint yet (queued)" in done.stderr
    done = runner.run("export", "quickstart", str(tmp_path / "h.csv"))
    assert done.returncode == 4
    assert "quickstart has no checkpoint yet (queued)" in done.stderr


def test_hold_unhold_cancel_retry(runner: Runner) -> None:
    """Each says the new state; what makes no sense is exit 2."""
    runner.ok("submit", str(QUICKSTART), "--detach")
    for verb, state in (("hold", "held"), ("unhold", "queued"), ("cancel", "cancelled")):
        assert f"quickstart: {state}" in runner.run(verb, "quickstart").stderr
    assert runner.run("hold", "quickstart").returncode == 2
    assert runner.run("resume", "quickstart").returncode == 5
    assert "quickstart: queued" in runner.run("retry", "quickstart").stderr


def test_the_store_is_named_first_and_defaults_to_the_user_data_folder(tmp_path: Path) -> None:
    """Without an option or a variable."""
    environment = {key: value for key, value in os.environ.items() if key != "RUNNER_STORE"}
    done = subprocess.run(
        [sys.executable, "-m", "runner", "submit", str(QUICKSTART), "--detach"],
        env={**environment, "XDG_DATA_HOME": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[0] == f"store: file://{tmp_path / 'data' / 'runner'}"


def test_broken_pipe_is_no_error(runner: Runner) -> None:
    """`runner schema | head -1` ends quietly."""
    done = subprocess.run(
        f"{sys.executable} -m runner schema | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_validate_prints_the_effective_spec(runner: Runner) -> None:
    """With every default; and it is itself a valid spec."""
    effective = json.loads(runner.ok("validate", str(QUICKSTART)))
    assert effective["checkpoint"]["max_loss"]
    assert (effective["training"]["devices"], effective["requirements"]["devices"]) == (1, None)
    assert effective["model"]["arguments"]


def test_validate_build_prints_the_parameter_count_the_classes_and_the_memory(
    runner: Runner, tmp_path: Path
) -> None:
    """The network is really built, on the spec's real data."""
    x, y = np.zeros((50, 16, 16, 1), "uint8"), np.arange(50) // 30
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[25:], y_test=y[25:])
    changes = sets({"data": {"name": "npz", "path": str(tmp_path / "x.npz")}})
    done = runner.run("validate", str(QUICKSTART), "--build", *changes)
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stderr
    assert "50 training + 25 test images of 16 x 16 x 1:\n0 30 + 5, 1 20 + 20\n" in done.stderr
    assert "at least 0.5 GB of memory, this machine has" in done.stderr


def test_data_that_no_memory_can_hold_are_not_read_and_are_said(
    runner: Runner, tmp_path: Path
) -> None:
    changes = sets({"data": {"name": "npz", "path": str(large_npz(tmp_path))}})
    done = runner.run("validate", str(QUICKSTART), "--build", *changes)
    needs = "at least 100000.5 GB of memory, this machine has"
    assert (done.returncode, f"quickstart: not built: it needs {needs}" in done.stderr) == (0, True)
    runner.ok("submit", str(QUICKSTART), "--detach", *changes)
    found = {one["name"]: one for one in json.loads(runner.ok("doctor", "--json"))}
    assert found["memory"]["verdict"] == "warning"
    assert f"quickstart needs {needs}" in found["memory"]["text"]
    assert found["memory"]["text"].endswith("Left for another machine: quickstart")


def test_a_mistyped_store_is_no_empty_one(runner: Runner, tmp_path: Path) -> None:
    missing = runner.run("status", "--store", str(tmp_path / "missing"))
    assert missing.returncode == 0
    assert f"no jobs: {(tmp_path / 'missing').as_uri()} is not there yet" in missing.stderr
    (tmp_path / "file").write_text("")
    for command in ("status", "report"):
        refused = runner.run(command, "--store", (tmp_path / "file" / "sub").as_uri())
        assert refused.returncode == 6
        assert f"{tmp_path / 'file'} is no folder" in refused.stderr


@pytest.mark.parametrize(
    "record",
    ["", "{", '{"state": "frob"}', "[1]", '{"checkpoints": [1]}', '{"final": {"step": "a"}}'],
)
def test_a_job_that_cannot_be_read_is_named_and_hides_no_other(runner: Runner, record: str) -> None:
    """Never "no jobs" with exit 0: a script would believe that all is done."""
    runner.ok("submit", str(QUICKSTART), "--detach")
    runner.ok("submit", str(QUICKSTART), "--detach", "--set", "name=other")
    log = runner.store / "jobs" / "other" / "log" / "000000000000.json"
    if record.startswith('{"'):
        change_record(log, **json.loads(record))
    else:
        log.write_text(record)
    log.parent.parent.joinpath("head.json").unlink()  # only a hint
    status = runner.run("status")
    assert status.returncode == 6
    assert "other: cannot be read" in status.stderr
    assert "quickstart" in status.stdout
    listed = json.loads(runner.run("status", "--json").stdout)
    assert {job["id"]: job["state"] for job in listed} == {
        "quickstart": "queued",
        "other": "unreadable",
    }
    one = runner.run("status", "other")
    assert (one.returncode, "Traceback" in one.stderr) == (6, False)


@pytest.mark.parametrize(
    "manifest", [b"", b"{", b'{"tensors":5}', b'{"tensors":{"model/a":[]}}', b"[" * 100_000]
)
def test_a_manifest_without_sense_breaks_no_status(runner: Runner, manifest: bytes) -> None:
    """What it would have told is left out."""
    runner.ok("submit", str(QUICKSTART), "--detach")
    log = runner.store / "jobs" / "quickstart" / "log" / "000000000000.json"
    reference = {"step": 1, "epoch": 0, "manifest": "jobs/quickstart/m", "digest": "d", "bytes": 1}
    change_record(log, checkpoints=[reference])
    log.parent.parent.joinpath("head.json").unlink()
    (runner.store / "jobs" / "quickstart" / "m").write_bytes(manifest)
    assert runner.status("quickstart")["parameters"] is None
    runner.ok("status", "quickstart")


def test_text_from_the_bucket_cannot_steer_the_terminal(runner: Runner) -> None:
    """Control characters are taken out."""
    runner.ok("submit", str(QUICKSTART), "--detach")
    log = runner.store / "jobs" / "quickstart" / "log" / "000000000000.json"
    change_record(log, reason="\u001b[31mred\u0007")
    log.parent.parent.joinpath("head.json").unlink()
    assert "\x1b" not in runner.ok("status", "quickstart")


def test_output_that_cannot_be_written_and_streams_that_are_closed(runner: Runner) -> None:
    """One sentence and exit 6; without standard error the job is stored all the same."""
    base = f"RUNNER_STORE={runner.store} {sys.executable} -m runner"
    full = subprocess.run(f"{base} schema > /dev/full", shell=True, capture_output=True, text=True)
    assert (full.returncode, "Traceback" in full.stderr) == (6, False)
    closed = subprocess.run(f"{base} submit {QUICKSTART} --detach 2>&-", shell=True)
    assert closed.returncode == 0
    assert runner.job("quickstart") is not None


def test_ascii_terminals_get_a_table(runner: Runner) -> None:
    """A locale without UTF-8 ends no command."""
    runner.ok("submit", str(QUICKSTART), "--detach")
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert runner.run("status", "quickstart", environment=environment).returncode == 0


def test_a_store_that_is_no_folder_is_not_empty(runner: Runner, tmp_path: Path) -> None:
    """It is refused, for reading too."""
    (tmp_path / "file").write_text("")
    assert runner.run("status", "--store", str(tmp_path / "file")).returncode == 6
    assert runner.run("status", "--store", "").returncode == 2
