"""What is odd about one machine fails no job: it is mended there, or the job is left to others."""

import os
import pwd
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.cli.main import main
from runner.engine.requirements import missing_here
from runner.errors import DataError, MissingHereError, SpecError
from runner.queue.job import State
from runner.spec import parse
from runner.training import quiet
from runner.training.check import load_data
from runner.training.images import load_checked
from tests.harness import QUICKSTART, REPOSITORY, Runner, sets

NETWORK = """
import warnings
import keras

class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)

def build(*, input_shape, classes, own_step=False):
    warnings.warn("this way is deprecated", DeprecationWarning)
    warnings.warn("this is slow", UserWarning)
    pixels = keras.Input(input_shape)
    x = keras.layers.Flatten()(pixels)
    y = keras.layers.Dense(classes, activation="softmax")(x)
    return (OwnStep if own_step else keras.Model)(pixels, y)
"""
SHORT = {"training.epochs": 1, "evaluation": None, "model": {"name": "odd"}}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A store, and a package of the user's own with the model `odd`."""
    package = tmp_path / "package"
    (package / "odd-1.dist-info").mkdir(parents=True)
    (package / "odd-1.dist-info" / "METADATA").write_text("Name: odd\nVersion: 1\n")
    (package / "odd-1.dist-info" / "entry_points.txt").write_text("[runner.models]\nodd = odd\n")
    (package / "odd.py").write_text(NETWORK)
    path = os.pathsep.join([str(package), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return Runner(tmp_path / "store", environment={"PYTHONPATH": path})


@pytest.mark.slow
def test_warnings_that_are_errors_on_one_machine_fail_no_job(runner: Runner) -> None:
    environment = {"PYTHONWARNINGS": "error"}
    done = runner.run("submit", str(QUICKSTART), *sets(SHORT), environment=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert runner.status("quickstart")["state"] == "succeeded"


@pytest.mark.slow
def test_a_step_of_its_own_is_refused_where_the_network_is_built(runner: Runner) -> None:
    """By `validate --build`, and by the worker: the job has failed before a step was made."""
    own = {**SHORT, "model": {"name": "odd", "arguments": {"own_step": True}}}
    for command in (["validate", "--build"], ["submit"]):
        done = runner.run(*command, str(QUICKSTART), *sets(own))
        assert done.returncode in (1, 2)
        assert "the network is of the class OwnStep, whose own train_step" in done.stderr
    job = runner.job("quickstart")
    assert job is not None
    assert (job.state, job.step, job.attempts) == (State.FAILED, 0, 1)


@pytest.mark.slow
def test_code_that_builds_another_model_now_fails_no_job(runner: Runner, tmp_path: Path) -> None:
    """Said once, with no retry spent; where the code is as it was, the job goes on."""
    died = runner.run("submit", str(QUICKSTART), *sets(SHORT), sabotage="committed:1")
    assert died.returncode == -9
    file = tmp_path / "package" / "odd.py"
    file.write_text(NETWORK.replace("(pixels)\n", "(keras.layers.Flatten()(pixels)[:, :9])\n"))
    done = runner.run("resume", "quickstart")
    assert done.stderr.count("another model or optimizer") == 1, done.stderr
    assert "left for another machine: the checkpoint belongs to another model" in done.stderr
    assert "in the checkpoint, float32[9, " in done.stderr
    job = runner.job("quickstart")
    assert job is not None
    assert (job.state, job.failures) == (State.QUEUED, 0)
    file.write_text(NETWORK)
    runner.ok("resume", "quickstart")
    assert runner.status("quickstart")["state"] == "succeeded"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["submit", str(QUICKSTART)], ["resume"], ["work", "--until-empty"]]
)
def test_a_backend_that_runner_does_not_know_touches_no_job(
    runner: Runner, command: list[str]
) -> None:
    """A job that is half trained stays as it is, for a machine that can go on with it."""
    died = runner.run("submit", str(QUICKSTART), *sets(SHORT), sabotage="committed:1")
    assert died.returncode == -9
    before = runner.job("quickstart")
    more = [] if command[0] != "submit" else [*sets(SHORT)]
    done = runner.run(*command, *more, environment={"KERAS_BACKEND": "torch"})
    assert done.returncode == 2, done.stderr
    assert "Keras's backend is torch here" in done.stderr
    assert "No job was touched" in done.stderr
    assert "Traceback" not in done.stderr
    assert runner.job("quickstart") == before


def test_the_backend_of_keras_own_settings_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    quiet.check_backend()
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    with pytest.raises(SpecError, match="Keras's backend is torch here"):
        quiet.check_backend()
    (tmp_path / "keras.json").write_text("{")
    quiet.check_backend()


def test_a_backend_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name != "keras" else name)
    with pytest.raises(SpecError, match="tensorflow is not installed here"):
        quiet.check_backend()


def test_a_backend_that_cannot_be_imported_touches_no_job(runner: Runner, tmp_path: Path) -> None:
    """A library of it is missing, or of another version: known only when it is imported."""
    package = tmp_path / "package" / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libcudart.so.12: no such file')")
    runner.ok("submit", str(QUICKSTART), "--detach")
    before = runner.job("quickstart")
    done = runner.run("work", "--until-empty")
    assert done.returncode == 2, done.stderr
    assert "can't be imported here: ImportError: libcudart.so.12" in done.stderr
    assert "No job was touched" in done.stderr
    assert "Traceback" not in done.stderr
    assert runner.job("quickstart") == before


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"name": "npz", "path": "gone.npz"}, "no such file"),
        ({"name": "folder", "path": "gone"}, "no such folder"),
        ({"name": "npz", "path": "dropbox://x/y.npz"}, "requires .*dropbox"),
        ({"name": "cifar100"}, "could not be downloaded: no route"),
    ],
)
def test_what_this_machine_cannot_get_is_told_from_what_is_bad(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: dict[str, Any], why: str
) -> None:
    """By the stage itself: it was there, or seemed to be, when the job was claimed."""
    monkeypatch.chdir(tmp_path)

    def download(**_: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr("keras.datasets.cifar100.load_data", download)
    with pytest.raises(MissingHereError, match=why):
        load_checked(parse({"name": "x", "data": data}, source="x"))
    Path("bad.npz").write_text("no npz at all")
    bad = parse({"name": "x", "data": {"name": "npz", "path": "bad.npz"}}, source="x")
    with pytest.raises(DataError) as raised:
        load_checked(bad)
    assert not isinstance(raised.value, MissingHereError)


def test_data_given_by_a_relative_path_are_found_in_another_machines_folder(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is remembered as given, and looked for where the worker works."""
    here, there = tmp_path / "here", tmp_path / "there"
    x, y = np.zeros((40, 8, 8, 1), "uint8"), np.arange(40) % 2
    (here / "data").mkdir(parents=True)
    np.savez(here / "data" / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.chdir(here)
    changes = {"data": {"name": "npz"}, "data.path": "data/x.npz", "training.batch_size": 8}
    command = ["submit", str(QUICKSTART), "--detach", *sets(changes)]
    monkeypatch.setenv("RUNNER_STORE", str(runner.store))
    assert main(command) == 0
    assert main(command) == 0, "the same again is the same"
    stored = runner.queue().spec("quickstart")
    assert stored["data"]["path"] == str(here / "data" / "x.npz")
    assert stored["data"]["given"] == "data/x.npz"
    here.rename(there)
    monkeypatch.chdir(tmp_path)
    url = runner.queue().store.url
    assert "nor data/x.npz in the folder it works in" in missing_here(stored, url)
    monkeypatch.chdir(there)
    assert missing_here(stored, url) == ""
    assert load_data(parse(stored, source="stored")).x_train.shape == x.shape
    monkeypatch.setenv("RUNNER_DATA_FROM", str(here))
    assert "was not submitted on this machine" in missing_here(stored, "s3://bucket/runs")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_without_proc_tensorflow_would_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job would be taken for one that kills its workers."""
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(quiet, "_OWN_PROGRAM", "/nowhere/exe")
    with pytest.raises(SpecError, match="TensorFlow aborts where /nowhere/exe is missing"):
        quiet.check_backend()


def test_a_user_without_a_home_names_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No entry in passwd and no HOME, as in many containers: a sentence, no traceback."""

    def nobody(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "RUNNER_STORE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["status"]) == 2
    assert "name a store with --store or RUNNER_STORE" in capsys.readouterr().err
    store = str(tmp_path / "store")
    assert main(["submit", str(QUICKSTART), "--detach", "--store", store]) == 0
    assert main(["status", "--store", store]) == 0
