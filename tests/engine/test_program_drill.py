"""`runner drill -- PROGRAM` finds whatever a kill changes in anybody's training, and names it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine.drill.program import ProgramVerdict
from runner.engine.drill.traces import Line, Trace, compare
from tests.harness import REPOSITORY, Runner

#: a training of seconds; but for "exact" without a seed, and with whatever each process makes anew
PROGRAM = """
import os, sys, time
import keras
import numpy as np
import runner

kind, result = sys.argv[1:]
rng = np.random.default_rng(0)
x, y = rng.normal(size=(80, 8)).astype("float32"), rng.integers(0, 3, 80)

class Clock(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.now = time.time()

stops = []

class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if kind == "interrupted" and not stops and int(self.model.optimizer.iterations) == 7:
            stops.append(7)
            raise KeyboardInterrupt

class Noise(keras.layers.Layer):
    def call(self, x):
        return x * int.from_bytes(os.urandom(2))  # another factor in each process

class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 5
    def __getitem__(self, index):
        rows = slice(index * 16, index * 16 + 16)
        if kind == "other batches":
            rows = np.frombuffer(os.urandom(16), np.uint8) % 80
        return x[rows], y[rows]

if kind == "once" and os.path.exists(result):
    sys.exit()
if kind == "exact":
    keras.utils.set_random_seed(3)
layers = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.3), keras.layers.Dense(3)]
layers += [Noise()] if kind == "noise" else []
model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Softmax()])
optimizer = "sgd" if kind == "noise" else "adam"
model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
early = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
callbacks = [Clock(), Stop(), early, runner.BackupAndRestore("backup", save_freq=2)]
data = (x, y) if kind in ("exact", "interrupted") else (Pairs(),)
options = dict(batch_size=16, verbose=0, validation_data=(x, y), callbacks=callbacks)
try:
    model.fit(*data, epochs=3, **options)
except KeyboardInterrupt:
    model.fit(*data, epochs=3, **options)
np.save(result, np.concatenate([weight.ravel() for weight in model.get_weights()]))
"""


class Place:
    """A folder with the program, and the drill in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        (folder / "train.py").write_text(PROGRAM)
        (folder / "backup").mkdir()
        (folder / "backup" / "mine.txt").write_text("a backup")
        paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        self.environment = {"PYTHONPATH": paths, "TMPDIR": str(self.temporary)}
        self.runner = Runner(folder / "store", self.environment)

    def program(self, kind: str, result: str = "drilled.npy") -> list[str]:
        inside = f"import os, runpy; os.chdir({str(self.folder)!r}); runpy.run_path('train.py')"
        return [sys.executable, "-c", inside, kind, result]

    def drill(self, *options: str, program: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        return self.runner.run("drill", *options, "--", *program)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.slow
def test_an_exact_program(place: Place) -> None:
    """Nothing differs, and nothing is left behind; it trains as it does without a drill."""
    options = ("--kills", "2", "--seed", "1", "--ignore", "callback Clock.*")
    done = place.drill(*options, program=place.program("exact"))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "IDENTICAL, killed 2 times: batches, variables, History and callbacks of 15" in (
        done.stdout
    )
    assert "undisturbed: 15 compared steps in " in done.stderr
    assert "kill 2 of 2: after step " in done.stderr
    assert list(place.temporary.iterdir()) == []
    assert (place.folder / "backup" / "mine.txt").read_text() == "a backup"
    assert [path.name for path in (place.folder / "backup").iterdir()] == ["mine.txt"]

    subprocess.run(
        place.program("exact", "plain.npy"),
        env={**os.environ, **place.environment},
        check=True,
        timeout=300,
    )
    drilled, plain = (place.folder / f"{name}.npy" for name in ("drilled", "plain"))
    assert drilled.read_bytes() == plain.read_bytes()


@pytest.mark.chaos
def test_without_a_seed(place: Place) -> None:
    """Both runs are one training, also where each process would begin another."""
    options = ("--kills", "1", "--epochs", "2", "--ignore", "callback Clock.*", "--json")
    done = place.drill(*options, program=place.program("pairs"))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert document["passed"]
    assert document["batches_seen"]
    assert document["steps"] == 10
    assert len(document["kills"]) == 1


@pytest.mark.chaos
def test_a_fit_after_an_interrupted_one(place: Place) -> None:
    """It goes on where that one was stopped, as it does without a drill: both are one training."""
    options = ("--kills", "1", "--seed", "5", "--ignore", "callback Clock.*", "--json")
    done = place.drill(*options, program=place.program("interrupted"))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert document["steps"] == 15
    assert document["kills"][0]["fit"] == 1
    assert document["kills"][0]["resumed_at"] >= 9  # killed at 10: not far behind


@pytest.mark.slow
def test_what_the_undisturbed_run_leaves_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that reads what it wrote the first time: no fault of a resume, and named."""
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("PYTHONPATH", place.environment["PYTHONPATH"])
    drill = [sys.executable, "-m", "runner", "drill", "--kills", "1", "--ignore", "*Clock.*"]
    program = [sys.executable, "train.py", "once", "drilled.npy"]
    done = subprocess.run([*drill, "--", *program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr[-3000:]
    assert done.stdout.splitlines()[0] == "DIFFERENT without being killed:"
    assert "If the program reads a file that it wrote the first time" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("noise", "step 1: model/sequential/dense"),
        ("other batches", "the batches differ from step 1 on"),
    ],
)
def test_a_hidden_fault_is_named(kind: str, words: str, place: Place) -> None:
    """What each process makes anew differs, and is named with its step; the traces stay."""
    options = ("--kills", "1", "--steps", "4", "--ignore", "callback Clock.*")
    done = place.drill(*options, program=place.program(kind))
    assert done.returncode == 1, done.stdout + done.stderr[-3000:]
    head, kill, first, cause = done.stdout.splitlines()[:4]
    assert head.split()[0] == "KILL"
    assert kill.split()[0] == "1"
    assert first == "DIFFERENT after being killed once:"
    assert cause.strip().startswith(words)
    (kept,) = place.temporary.glob("runner-drill-*")
    assert f"traces and what the program said: {kept}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--", sys.executable, "-c", "print('hello')"), 2, "no step with a runner.BackupAndRe"),
        (("--", sys.executable, "-c", "import nowhere"), 1, "No module named 'nowhere'"),
        (("--", sys.executable, "-c", "input()"), 1, "EOFError"),
        (("--", "./no-such-program"), 2, "'./no-such-program' can't be run: No such file"),
        (("--",), 2, "no program after --"),
        (("job.json", "--", "python"), 2, "job.json is for the drill of a job"),
        (("--set", "seed=1", "--", "python"), 2, "--set is for the drill of a job"),
        (("--steps", "5"), 2, "--steps is for the drill of a program"),
        (("--steps", "0", "--", "python"), 2, "--steps received 0"),
        (("--kills", "0", "--", "python"), 2, "--kills received 0"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], code: int, words: str, place: Place) -> None:
    done = place.runner.run("drill", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr.partition("It said:")[0]
    assert list(place.temporary.iterdir()) == []


def test_both_forms_are_explained(place: Place) -> None:
    said = place.runner.ok("drill", "--help")
    assert "runner drill [OPTIONS] [SPEC]" in said
    assert "runner drill [OPTIONS] -- PROGRAM [...]" in said
    assert "runner drill -- python train.py" in said


def test_stopped(place: Place) -> None:
    """Ctrl-C: the program ends, whatever it has started, and nothing stays."""
    sleeps = "import subprocess; subprocess.run(['sleep', '3210'])"
    process = place.runner.start("drill", "--", sys.executable, "-c", sleeps)
    assert process.stderr is not None
    for line in process.stderr:
        if "nobody kills it" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "SIGINT: stopping; once more" in said  # no job is saved here
    assert "Traceback" not in said
    assert list(place.temporary.iterdir()) == []
    assert (
        "3210" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    )


# ---------------------------------------------------------------------- comparing


def test_equal_traces() -> None:
    whole = trace(1, 2, 3)
    first, second = trace(1, 2), Trace(lines=[restored(1), *trace(2, 3).lines])
    assert compare(whole, [first, second]) == []


def test_the_first_is_named() -> None:
    """Of all that differs, the first step's; a repeated step counts as well; batches come first."""
    whole = trace(1, 2, 3)
    late = Trace(lines=[line(1), line(2), line(3, a="late")])
    second = [restored(1), line(2, a="other"), line(3, a="more", batches=["no"])]
    assert compare(whole, [late, Trace(lines=second)]) == [
        "step 2: model/dense/a differs first (undisturbed a2…, resumed othe…)",
        "all that is compared was as before when it went on after step 1",
    ]
    third = [line(2, batches=["no"]), line(3, a="more")]
    assert (
        compare(whole, [trace(1, 2), Trace(lines=third)])[0] == "the batches differ from step 2 on"
    )


def test_the_cause_is_named() -> None:
    """What a resume did not bring back, if variables differ only a step later."""
    whole = trace(1, 2, 3)
    second = [restored(1, python="new"), line(2, a="other"), line(3)]
    words = compare(whole, [trace(1, 2), Trace(lines=second, warnings=["Noisy is not saved"])])
    assert words[1:] == [
        "not as before the kill when it went on after step 1: layer noisy.rng",
        "runner had said: Noisy is not saved",
    ]


def test_what_no_step_changes_is_the_programs() -> None:
    """A path that each process makes anew is no difference; a value that changes is."""
    whole, other = (
        Trace(lines=[line(step, python=path) for step in (1, 2)]) for path in ("/tmp/a", "/tmp/b")
    )
    assert compare(whole, [other]) == []
    changing = Trace(lines=[line(1, python="/tmp/a"), line(2, python="c")])
    assert "layer noisy.rng differs first" in compare(whole, [changing])[0]
    assert compare(whole, [changing], ignored=["layer noisy.*"]) == []


def test_a_training_that_ends_elsewhere() -> None:
    whole = trace(1, 2, 3)
    assert compare(whole, [trace(1, 2)]) == ["never made when killed: step 3"]
    assert compare(trace(1, 2), [whole]) == ["made only when killed: step 3"]


def test_no_kill_proves_nothing() -> None:
    verdict = ProgramVerdict(differences=(), kills=(), planned=3, steps=1, batches_seen=True)
    assert not verdict.passed
    assert verdict.lines[0].startswith("NOTHING PROVEN")


def line(step: int, *, a: str = "", python: str = "", batches: Sequence[str] | None = None) -> Line:
    return Line(
        fit=1,
        step=step,
        epoch=0,
        moment="batch",
        at=float(step),
        restored=False,
        batches=batches or [f"batch {step}"],
        variables={"model/00000/dense/a": a or f"a{step}"},
        python={"layer noisy.rng": python or f"p{step}"},
    )


def restored(step: int, **values: Any) -> Line:
    return replace(line(step, **values), restored=True, batches=[])


def trace(*steps: int) -> Trace:
    return Trace(lines=[line(step) for step in steps])
