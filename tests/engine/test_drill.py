"""`runner drill` kills for real, and says so when anything differs."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import pytest

from runner import specfile
from runner.engine.drill.base import Course, Task, moments
from runner.engine.drill.job import SPEC, JobDrill, JobVerdict, Kill
from runner.engine.outcome import Outcome, differences
from runner.engine.preemption import StopRequest
from runner.errors import PreemptedError, TrainingError
from runner.queue.job import Stage
from runner.queue.queue import Queue
from runner.spec import parse
from runner.store.filesystem import open_store
from tests.harness import ENVIRONMENT, Runner, sets
from tests.store.servers import serving

#: a training of some seconds
TINY = {
    "name": "tiny",
    "seed": 5,
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "augmentation": {"flip": None, "rotation": 0.1, "zoom": 0.1},
    "model": {"name": "mlp", "arguments": {"units": [256, 256], "dropout": 0.2}},
    "training": {"epochs": 60, "batch_size": 16},
    "checkpoint": {"every": "25 steps"},
    "evaluation": {"augmented_passes": 2},
}

#: a worker that is not exact
OTHER_ORDER = """
import sys
from runner.training.data import batches as data
real = data.permutation
data.permutation = lambda n, seed, epoch: real(n, seed + 1, epoch)
from runner.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.mark.chaos
def test_two_kills(spec: Path, tmp_path: Path) -> None:
    """It kills twice, measures what that cost, and finds no difference."""
    runner = Runner(tmp_path / "store")
    done = runner.run("drill", str(spec), "--kills", "2", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert document["identical"]
    assert document["differences"] == []
    assert 1 <= len(document["kills"]) <= 2, "one may have come too late on a fast machine"
    assert all(kill["recovery_seconds"] > 0 for kill in document["kills"])
    assert all(kill["lost_steps"] >= 0 for kill in document["kills"])
    assert document["killed"]["digest"] == document["undisturbed"]["digest"] != ""
    jobs = document["jobs"]
    assert sorted(jobs.values()) == ["succeeded", "succeeded"]
    killed = next(name for name in jobs if name.endswith("-killed"))
    assert runner.status(killed)["deaths"] == len(document["kills"])
    assert f"it stays in file://{tmp_path}/store until 'runner remove {killed}'" in done.stderr


@pytest.mark.chaos
def test_a_difference_is_found(spec: Path, tmp_path: Path) -> None:
    """After a kill, workers read the data in another order, with other kernels: it fails, and
    names what differs and what is known of the cause."""
    environment = {**ENVIRONMENT, "RUNNER_LEASE_SECONDS": "9"}
    environment["RUNNER_STORE"] = str(tmp_path / "store")

    def command(job_id: str, killed: int) -> list[str]:
        program = ["-c", OTHER_ORDER] if killed else ["-m", "runner"]
        onednn = f"TF_ENABLE_ONEDNN_OPTS={0 if killed else 1}"
        return ["env", onednn, sys.executable, *program, "resume", job_id]

    queue = Queue(open_store(str(tmp_path / "store")))
    verdict = drill_of(queue, spec, command=command, environment=environment).run()
    assert isinstance(verdict, JobVerdict)
    assert not verdict.passed
    assert len(verdict.kills) == 1
    assert any(one.startswith("final digest: ") for one in verdict.differences)
    assert any(one.startswith("History loss: ") for one in verdict.differences)
    first, *rest = verdict.lines
    assert first == "DIFFERENT after being killed once:"
    assert "the killed job says: continued on different numerics: onednn 1 -> 0" in rest[-1]


def test_exit_code_of_a_difference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1, with the difference on standard output."""
    from runner.cli import drill, main

    one = outcome_of()
    verdict = verdict_on(replace(one, digest="f" * 64), one)
    monkeypatch.setattr(drill, "_run", lambda *_: verdict)
    monkeypatch.setattr(drill, "catch_signals", StopRequest)
    assert main.main(["drill", "--store", str(tmp_path)]) == 1
    assert "final digest: ffffffffffffffff killed, aaaaaaaaaaaaaaaa undisturbed" in (
        capsys.readouterr().out
    )


def test_everything_is_compared() -> None:
    """One bit in any place is a difference with a name."""
    one = outcome_of()
    assert differences(one, one) == []
    close = 0.1 + 0.2  # not 0.3
    others = {
        "final step": replace(one, step=99),
        "final digest": replace(one, digest="b" * 64),
        "History loss: 0.30000000000000004 killed, 0.3 undisturbed, first in epoch 2": replace(
            one, history={"loss": [0.5, close]}
        ),
        "History loss: 1 epochs killed, 2 undisturbed": replace(one, history={"loss": [0.5]}),
        "History loss: only one of the two has it": replace(one, history={}),
        "evaluation top_1": replace(one, evaluation={"top_1": close}),
        "evaluation: the predictions differ": replace(one, predictions="other"),
    }
    for words, other in others.items():
        found = differences(other, one)
        assert len(found) == 1, words
        assert found[0].startswith(words)


def test_no_kill_proves_nothing() -> None:
    """A job that ended before the first kill is not called safe."""
    one = outcome_of()
    verdict = JobVerdict(differences=(), kills=(), planned=3, undisturbed=one, killed=one)
    assert not verdict.passed
    assert verdict.lines[0].startswith("NOTHING PROVEN")


@pytest.mark.parametrize("kills", [1, 2, 5, 40])
def test_moments_are_spread(kills: int) -> None:
    """One in each part of the training, in order, the last one in the evaluation."""
    for seed in range(50):
        task = Task(kills=kills, random=Random(seed))
        found = moments(task, Course(steps=600, seconds=20.0, evaluation_seconds=5.0))
        assert len(found) == kills
        training = [moment.step for moment in found if moment.step != float("inf")]
        assert training == sorted(training)
        assert all(0 <= step < 600 for step in training)
        late = [m.then_seconds for m in found if m.step == float("inf")]
        assert all(0 <= seconds <= 5.0 for seconds in late)
        assert len(late) == (kills > 1)


def test_stopped(spec: Path, tmp_path: Path) -> None:
    """Ctrl-C: the worker goes, the job is cancelled so that nobody takes it up, and it says so."""
    runner = Runner(tmp_path / "store")
    process = runner.start("drill", str(spec))
    assert process.stderr is not None
    for line in process.stderr:
        if "nobody kills it" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    (job,) = runner.queue().jobs()
    assert job.state.value == "cancelled"
    assert f"{job.id}: cancelled; it stays in" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_failing_spec(spec: Path, tmp_path: Path) -> None:
    """A training that fails undisturbed ends the drill with its reason."""
    runner = Runner(tmp_path / "store")
    done = runner.run("drill", str(spec), *sets({"optimizer.learning_rate": 1e30}))
    assert done.returncode == 1
    assert "in epoch 1: the loss became" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--kills", "0"), 2, "--kills received 0"),
        (("--set", "training.epoch=1"), 2, "epoch"),
        (("nowhere.json",), 2, "no such file"),
        (("--store", "sftp://nowhere/"), 6, "sftp"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    done = Runner(tmp_path).run("drill", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_is_said(spec: Path, tmp_path: Path) -> None:
    """A worker that ends by itself ends the drill, with what it said; no job is left open."""

    queue = Queue(open_store(str(tmp_path / "store")))
    drill = drill_of(queue, spec, command=lambda *_: [sys.executable, "-c", "raise SystemExit(9)"])
    with pytest.raises(TrainingError, match="exit code 9"):
        drill.run()
    assert drill.left == {drill.undisturbed: "cancelled"}


def test_asked_to_stop_at_once(spec: Path, tmp_path: Path) -> None:
    """No process stays behind."""
    stop = StopRequest()
    queue = Queue(open_store(str(tmp_path / "store")))

    def command(job_id: str, killed: int) -> list[str]:
        stop.set("a test")
        return ["sleep", "4321"]

    with pytest.raises(PreemptedError, match="a test"):
        drill_of(queue, spec, command=command, stop=stop).run()
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "sleep 4321" not in running


def test_the_built_in_spec_is_one() -> None:
    assert parse(SPEC, source="built in").name == "drill"


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_on_buckets(kind: str, spec: Path) -> None:
    """The same over the wire."""
    with serving(kind) as server:
        runner = Runner(Path(), server.environment(), url=server.url("drills"))
        done = runner.run("drill", str(spec), "--kills", "3")
        assert done.returncode == 0, done.stderr[-3000:]
        assert "IDENTICAL, killed 3 times" in done.stdout


def outcome_of() -> Outcome:
    return Outcome(
        step=10,
        digest="a" * 64,
        history={"loss": [0.5, 0.3]},
        evaluation={"top_1": 0.3},
        predictions="hash",
    )


def verdict_on(killed: Outcome, undisturbed: Outcome) -> JobVerdict:
    kill = Kill(stage=Stage.TRAIN, step=9, committed=5, token=1, at=0.0, recovery_seconds=8.0)
    return JobVerdict(
        differences=tuple(differences(killed, undisturbed)),
        kills=(kill,),
        planned=1,
        undisturbed=undisturbed,
        killed=killed,
    )


def drill_of(
    queue: Queue,
    path: Path,
    *,
    command: Any,
    environment: Mapping[str, str] = MappingProxyType({}),
    stop: StopRequest | None = None,
) -> JobDrill:
    task = Task(kills=1, random=Random(1), stop=stop or StopRequest())
    spec = specfile.load(path)
    return JobDrill(queue, spec, task, environment=environment, nonce="0", command=command)
