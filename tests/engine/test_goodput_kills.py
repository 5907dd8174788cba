"""A training that is killed for real knows what its machines' time became."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pytest

from runner.report.attempts import Ending
from runner.report.collect import collect
from tests.harness import Runner, kill, wait_until
from tests.referee import Referee

PROGRAM = """
import time
import keras, numpy as np, runner
from runner.training.saving import Saving

def program(*, told: str) -> runner.Program:
    def tell(*words):  # a file that stays open is put back by a resume, as all state
        with open(told, "a") as file:
            print(*words, file=file)

    class Tells(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            tell("step", int(self.model.optimizer.iterations), time.time())

        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.02)

    save = Saving._save

    def saves(self, **named):
        began = time.time()
        try:
            save(self, **named)
        finally:
            tell("save", began, time.time())

    Saving._save = saves
    model = keras.Sequential([keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.ones((3840, 8), "float32"), np.zeros(3840, "int32")  # 480 steps
    batches = runner.Batches(x, y, batch_size=8, seed=1)
    return runner.Program(model=model, fit={"x": batches}, callbacks=[Tells()])
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, Path]:
    """A job that was killed with -9 at about step 130 and 290, and resumed."""
    folder = tmp_path_factory.mktemp("killed")
    told = folder / "told"
    told.write_text("")
    (folder / "programs").mkdir()
    (folder / "programs" / "steps.py").write_text(PROGRAM)
    spec = {
        "name": "steps",
        "program": {"name": "steps", "arguments": {"told": str(told)}},
        "training": {"epochs": 1, "threads": 1},
        "checkpoint": {"every": "80 steps"},
    }
    (folder / "steps.json").write_text(json.dumps(spec))
    environment = {"RUNNER_CODE": str(folder), "RUNNER_LEASE_SECONDS": "3"}
    runner = Runner(folder / "store", environment=environment, warm=True)
    runner.ok("submit", str(folder / "steps.json"), "--detach", "--no-trial")
    for step in (130, 290):
        process = runner.start("resume", "steps")
        assert wait_until(lambda at=step: f"step {at} " in told.read_text(), process)  # type: ignore[misc]
        kill(process)
    done = runner.run("resume", "steps")
    assert done.returncode == 0, done.stderr[-3000:]
    return runner, told


def is_all_of(time: Mapping[str, float], seconds: float, share: float) -> bool:
    """Whether causes add up to seconds from a claim on; part of `start` may lie before that."""
    whole = sum(time.values())
    return whole - time["start"] <= seconds * (1 + share) and whole >= seconds * (1 - share)


@pytest.mark.slow
def test_its_parts_are_all_of_the_time(killed: tuple[Runner, Path]) -> None:
    """To 1 %: from the first claim to the end, by causes of which each is there."""
    runner, _ = killed
    status = runner.status("steps")
    records = _records(runner)
    wall = _seconds(records[-1]["updated_at"]) - _seconds(
        next(one["updated_at"] for one in records if one["kind"] == "claim")
    )
    time = status["time"]
    assert status["state"] == "succeeded"
    assert is_all_of(time, wall, 0.01)
    assert {"steps", "repeated", "build", "restore", "save", "queue"} <= time.keys()
    assert 0 < status["goodput"] < 1
    paid = sum(seconds for cause, seconds in time.items() if cause != "queue")
    assert status["goodput"] == pytest.approx(time["steps"] / paid, abs=1e-4)


def test_the_attempts_of_its_report_add_up_to_its_time(killed: tuple[Runner, Path]) -> None:
    runner, _ = killed
    (run,) = collect(runner.queue(), ["steps"], now=datetime.now().astimezone()).runs
    ends = [one.ending for one in run.attempts]
    assert ends == [Ending.LOST, Ending.LOST, Ending.FINISHED]
    whole = dict(run.view.time or {})
    del whole["queue"]
    for cause, seconds in whole.items():
        parts = sum(one.time.get(cause, 0.0) for one in run.attempts)
        assert parts == pytest.approx(seconds, abs=0.01), cause
    for one in run.attempts:
        assert is_all_of(one.time, one.seconds(one.began_at), 0.02)


def test_googles_package_finds_the_same(killed: tuple[Runner, Path], tmp_path: Path) -> None:
    """Told when each step began, and each save: to 1 % the same seconds became kept steps."""
    runner, told = killed
    referee = Referee(tmp_path)
    lines = [line.split() for line in told.read_text().splitlines() if line.count(" ") == 2]
    events = [(float(at), kind, number) for kind, number, at in lines]
    events += [
        (_seconds(one["updated_at"]), one["kind"], "")
        for one in _records(runner)
        if one["kind"] == "claim"
    ]
    for at, kind, number in sorted(events):
        if kind == "claim":
            referee.job_starts(at)
        elif kind == "step":
            referee.step_starts(int(number), at)
        else:
            referee.saved(float(number), at)
    referee.job_ends(max(float(begin) for _, kind, begin in events if kind == "save"))
    assert 0 < referee.goodput() < 1
    time = runner.status("steps")["time"]
    assert time["steps"] == pytest.approx(referee.productive_seconds(), rel=0.01)


def _records(runner: Runner) -> list[dict[str, str]]:
    folder = runner.store / "jobs" / "steps" / "log"
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda one: int(one["number"]))


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
