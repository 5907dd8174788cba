"""What the commands say of a program of one's own, and write of it: a real job, once trained."""

import json
import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest

from runner import registry
from runner.errors import DataError, NotFoundError
from runner.spec import parse
from runner.training import check
from tests.harness import Runner, wait_until

PROGRAM = """
import keras, numpy, runner
print("read")

class Doubled(keras.Model):
    def __init__(self, inner, weigh):
        super().__init__()
        self.inner, self.weigh = inner, weigh

    def call(self, x):
        return self.weigh(self.inner(x))

class Steps(keras.Model):
    # it has no `call`: Keras never builds it

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self.inner(data[0]) - data[1]) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.inner.trainable_weights),
                             self.inner.trainable_weights)
        return {"loss": loss}

    def test_step(self, data):
        return {"mae": keras.ops.mean(abs(self.inner(data[0]) - data[1]))}

def program(*, own: bool = False, steps: bool = False) -> runner.Program:
    x = numpy.random.default_rng(1).normal(size=(96, 4)).astype("float32")
    y = (x.sum(axis=1, keepdims=True) > 0).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    if own:
        model = Doubled(model, lambda x: 2 * x)
    if steps:
        model = Steps(model)
        model.compile("adam")
    else:
        model.compile("adam", "mse" if own else "binary_crossentropy", metrics=["mae"])
    return runner.Program(
        model=model,
        fit={"x": x, "y": y, "batch_size": 32, "validation_split": 0.25},
        evaluate=(lambda model: print("judged") or {"outliers": 3, "errors": x, "bias": 0.25})
        if own else {"x": x, "y": y},
        classes=() if own or steps else ("below", "above"),
    )
"""
SPEC: dict[str, Any] = {
    "program": {"name": "sums"},
    "training": {"epochs": 2, "early_stopping": {"monitor": "val_mae"}},
    "checkpoint": {"every": "1 steps"},
}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A store with two jobs: one tells classes apart, the other's model is of its own class."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "programs").mkdir()
    (folder / "programs" / "sums.py").write_text(PROGRAM)
    best_first = {"training.early_stopping.mode": "max", "checkpoint.best": {"monitor": "val_mae"}}
    own = {"program.arguments": {"own": True}, "evaluation.checkpoint": "best", **best_first}
    sweep = [{"name": "sums"}, {"name": "own", **own}]
    sweep += [{"name": "steps", "program.arguments": {"steps": True}}]
    (folder / "job.json").write_text(json.dumps({**SPEC, "sweep": sweep}))
    runner = Runner(folder / "store", environment={"RUNNER_CODE": str(folder)})
    done = runner.run("submit", str(folder / "job.json"))
    said = done.stderr
    assert done.stdout.split() == ["sums", "own", "steps"]  # what programs print is no result
    assert ("read" in said, said.count("judged")) == (True, 1), said
    assert "sums: succeeded: test mae " in said
    assert "own: succeeded: test outliers 3, bias 0.2500" in said
    assert "own: training ended after 2 epochs, at step 6 with the weights of epoch 1" in said
    return runner


def test_status_and_report_of_programs(runner: Runner, tmp_path: Path) -> None:
    """Whatever the evaluation found; sizes say examples, what says nothing of it is left out."""
    document = runner.status("sums")
    assert list(document["history"]) == ["loss", "mae", "val_loss", "val_mae"]
    assert {"loss", "mae", "top_1", "expected_calibration_error"} <= document["evaluation"].keys()
    assert document["evaluation"]["examples"] == 96
    assert not {"images", "top_5", "certainty"} & document["evaluation"].keys()
    assert runner.status("own")["evaluation"] == {"outliers": 3, "bias": 0.25, "parameters": 5}
    done = runner.run("report", "-o", str(tmp_path))
    assert (done.returncode, "cannot be read" in done.stderr) == (0, False)
    pictures = {path.name for path in tmp_path.iterdir()}
    assert {"sums-confusion.png", "sums-calibration.png", "own-mae.png"} <= pictures
    assert not {"own-confusion.png", "own-calibration.png"} & pictures


@pytest.mark.slow
def test_which_weights_were_tested_and_exported_is_said(runner: Runner, tmp_path: Path) -> None:
    """An early stopping puts the best back, whether it has stopped the training or not."""
    weights = "with the weights of epoch 1, its best val_mae"
    tested = "tested: the best checkpoint, of epoch 2"
    status = runner.ok("status", "own")
    assert (weights in status, tested in status) == (True, True), status
    runner.ok("report", "own", "-o", str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert (f"2 epochs (6 steps) {weights}." in page, tested in page) == (True, True)
    for which, words in (("final", weights), ("best", ", after epoch 2)")):
        path = str(tmp_path / f"{which}.weights.h5")
        assert words in runner.run("export", "own", path, "--checkpoint", which).stderr


@pytest.mark.slow
def test_a_model_of_ones_own_class_is_exported_by_its_weights(
    runner: Runner, tmp_path: Path
) -> None:
    """Where Keras can't save the whole model, that is said in one sentence, with the way out."""
    done = runner.run("export", "own", str(tmp_path / "m.keras"))
    assert done.returncode == 2
    assert "own can't be exported as a whole" in done.stderr
    assert "Its weights can: FILE.weights.h5" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [*tmp_path.iterdir()]
    runner.ok("export", "own", str(tmp_path / "m.weights.h5"))
    runner.ok("export", "own", str(tmp_path / "m.csv"))
    assert (tmp_path / "m.csv").read_text().startswith("epoch,loss,mae,val_loss,val_mae\n1,")
    assert (tmp_path / "m.weights.h5").stat().st_size > 0


def test_a_model_that_keras_never_builds_is_exported(runner: Runner, tmp_path: Path) -> None:
    runner.ok("export", "steps", str(tmp_path / "m.weights.h5"))
    with h5py.File(tmp_path / "m.weights.h5") as file:
        kernel = file["inner/layers/dense/vars/0"][()]
    assert kernel.shape == (4, 1)
    assert abs(kernel).sum() > 0


def test_what_is_exported_can_be_trained_on(runner: Runner, tmp_path: Path) -> None:
    """Keras's file has the optimizer's whole state: two epochs of three steps."""
    runner.ok("export", "sums", str(tmp_path / "m.keras"))
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        assert file["optimizer/vars/0"][()] == 6
        assert abs(file["optimizer/vars/2"][()]).sum() > 0, "Adam's first moment"


def test_an_export_with_other_code_says_so(runner: Runner, tmp_path: Path) -> None:
    code = tmp_path / "programs" / "sums.py"
    code.parent.mkdir()
    code.write_text(PROGRAM + "\n# changed\n")
    done = runner.run("export", "sums", str(tmp_path / "m.keras"), "--code", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "exported with other code than it was trained with: code programs/sums.py" in done.stderr
    assert "config.json" in zipfile.ZipFile(tmp_path / "m.keras").namelist()


@pytest.mark.slow
def test_a_drill_of_a_program_is_identical(runner: Runner, tmp_path: Path) -> None:
    spec = tmp_path / "job.json"
    changes = {"name": "sums", "training": {"epochs": 20}}
    spec.write_text(json.dumps({**SPEC, **changes}))
    done = runner.run("drill", str(spec), "--kills", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["identical"], found["undisturbed"]["step"]) == (True, 60)
    assert "mae" in found["killed"]["evaluation"]


@pytest.mark.slow
def test_a_machine_whose_backend_is_broken_says_so_once_and_leaves_no_job(
    tmp_path: Path,
) -> None:
    """Not once for each job, as if it were the fault of its program."""
    broken = tmp_path / "broken" / "tensorflow"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libcudart.so.12')")
    (tmp_path / "programs").mkdir()
    runner = Runner(tmp_path / "store", {"RUNNER_CODE": str(tmp_path)})
    for name in ("one", "two"):
        (tmp_path / f"programs/{name}.py").write_text(PROGRAM)
        (tmp_path / "spec.json").write_text(
            json.dumps({"name": name, "program": {"name": name}, "training": {"epochs": 1}})
        )
        runner.ok("submit", str(tmp_path / "spec.json"), "--detach", "--no-trial")
    path = os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", "")])
    process = runner.start("work", "--until-empty", environment={"PYTHONPATH": path})
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert said.count("libcudart") == 1
    assert "program 'one'" not in said


@pytest.mark.slow
def test_doctor_names_the_programs_and_a_folder_that_is_none_is_refused(
    runner: Runner, tmp_path: Path
) -> None:
    code = (runner.environment or {})["RUNNER_CODE"]
    findings = json.loads(runner.ok("doctor", "--json"))
    (finding,) = [one for one in findings if one["name"] == "code"]
    assert finding["text"] == f"{code}: programs sums"
    done = runner.run("doctor", "--code", str(tmp_path / "nowhere"))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "nowhere' is no folder here" in done.stderr


def test_a_programs_data_are_not_looked_at_as_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a path that is not there is told before anything is stored."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "plain.py").write_text("def program(*, path=None): ...")
    monkeypatch.setenv("RUNNER_CODE", str(tmp_path))
    monkeypatch.delattr(check, "load_data")
    spec: dict[str, Any] = {"name": "plain", "program": {"name": "plain"}}
    check.check_data([("job.json", parse(spec, source="job.json"))])
    spec["program"]["path"] = str(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"program\.path: .*nowhere\.csv: does not exist"):
        check.check_data([("job.json", parse(spec, source="job.json"))])


@pytest.mark.parametrize(
    ("text", "changed", "said"),
    [
        (
            "steps: bool = False)",
            "steps: bool = False",
            "line 32: def program",
        ),
        ("import keras, numpy, runner", "import nothing_here", "line 2: import nothing_here"),
        ('model.compile("adam", ', '(lambda *a, **k: 0)("adam", ', "is not compiled"),
        ("return runner.Program(", "return dict(", "no runner.Program"),
        ("size=(96, 4)", "size=(0, 4)", "its data are empty"),
        ("    if steps:", "    raise KeyError('mine')\n    if steps:", "line 38: raise"),
        ("    if steps:", "    raise SystemExit\n    if steps:", "line 38: raise"),
        ("import keras", "raise SystemExit\nimport keras", "line 2: raise SystemExit"),
        (
            'if own else {"x": x, "y": y}',
            'if own else lambda model: "good"',
            "evaluate(model) returned a str; expected numbers by name. (programs/sums.py, line 47)",
        ),
        (
            'if own else {"x": x, "y": y}',
            'if own else {"x": x[:, :3], "y": y}',
            "[96,3], In[1]: [4,1]",
        ),
        ("", "", "Did you mean 'val_mae'?"),
    ],
)
def test_a_program_that_cant_be_trained_is_told_and_nothing_is_stored(
    tmp_path: Path, text: str, changed: str, said: str
) -> None:
    """With exit code 2 and the user's own line; a metric that is not there likewise."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "sums.py").write_text(PROGRAM.replace(text, changed, 1))
    monitor = "val_mae" if text else "val_mea"
    training = {"epochs": 2, "early_stopping": {"monitor": monitor}}
    (tmp_path / "job.json").write_text(json.dumps({**SPEC, "name": "sums", "training": training}))
    store = Runner(tmp_path / "store")
    done = store.run("submit", str(tmp_path / "job.json"), "--code", str(tmp_path))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert said in done.stderr
    assert ("sums.py" in done.stderr) == bool(text)
    assert not list((tmp_path / "store").glob("jobs/*"))


@pytest.mark.slow
def test_ctrl_c_ends_the_trial_of_a_program(tmp_path: Path) -> None:
    """At once, however long its function takes; nothing is stored."""
    (tmp_path / "programs").mkdir()
    reached = tmp_path / "reached"
    slow = f"import pathlib, time\ndef program():\n    pathlib.Path({str(reached)!r}).touch()\n"
    (tmp_path / "programs" / "slow.py").write_text(f"{slow}    time.sleep(500)\n")
    spec = {"name": "slow", "program": {"name": "slow"}, "training": {"epochs": 1}}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    store = Runner(tmp_path / "store")
    process = store.start("submit", str(tmp_path / "job.json"), "--code", str(tmp_path))
    wait_until(reached.exists, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "0 of 1 jobs are stored" in err
    assert not list((tmp_path / "store").glob("jobs/*"))


def test_a_program_that_lies_in_the_working_folder_is_pointed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user has forgotten to name the folder."""
    monkeypatch.delenv("RUNNER_CODE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "fields.py").write_text("def program(): ...\n")
    with pytest.raises(NotFoundError, match=r"programs/fields\.py is here: .* --code \. or "):
        registry.get("programs", "fields")


def test_a_folder_that_is_one_too_deep_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one whose programs lie in it, and not in programs/, is not."""
    deep = tmp_path / "programs"
    deep.mkdir()
    for folder, said in ((deep, True), (tmp_path, False)):
        (folder / "fields.py").write_text("def program(): ...\n")
        monkeypatch.setenv("RUNNER_CODE", str(folder))
        if not said:
            (deep / "fields.py").unlink()
        with pytest.raises(NotFoundError) as error:
            registry.get("programs", "fields")
        assert ("give the folder above it, --code " in str(error.value)) == said
        assert not said or str(error.value).endswith(f"--code {tmp_path}")
