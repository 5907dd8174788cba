"""A container may be stopped or killed in every phase of a job, and the job ends the same."""

import json
import signal
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.docker.engine import Container, Image
from tests.harness import ENVIRONMENT, QUICKSTART, REPOSITORY, Runner, assert_same

pytestmark = pytest.mark.docker

SAVED = 75
KILLED = 137
#: what clouds give a spot machine, in seconds
GRACE = 30
STEPS_PER_EPOCH = 36
#: what decides over the bits of a training
NUMERICS = ("tensorflow", "keras")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The quickstart's status after a run that nobody touched, on this machine, without Docker."""
    folder = tmp_path_factory.mktemp("outside")
    python = Path(sys.executable)
    locked = (REPOSITORY / "docker/requirements-cpu.txt").read_text()
    if not all(f"\n{name}=={version(name)} " in locked for name in NUMERICS):
        python = locked_environment(folder / "venv")
    store = folder / "store"
    environment = {"RUNNER_STORE": str(store), "PYTHONPATH": str(REPOSITORY), **ENVIRONMENT}
    command = [str(python), "-m", "runner", "submit", str(QUICKSTART)]
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=900)
    return Runner(store).status("quickstart")


def locked_environment(folder: Path) -> Path:
    """The container's packages, where those of the tests are others."""
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    locked = REPOSITORY / "docker/requirements-cpu.txt"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes"]
    subprocess.run([*pip, "-r", str(locked)], check=True, timeout=1100)
    return python


def test_stopped_and_killed_in_every_phase(image: Image, outside: dict[str, Any]) -> None:
    """Six containers, five deaths, one training; PID 1 answers SIGTERM whatever it does."""
    host = Runner(image.store)
    assert image.ok("submit", "jobs/quickstart.json", "--detach") == "quickstart\n"

    worker = image.start("resume")
    worker.until(lambda: worker.hears(signal.SIGTERM))
    assert not worker.has_tensorflow()
    assert_saves(worker, "before TensorFlow is imported")

    worker = image.start("resume")
    worker.until(worker.has_tensorflow)
    assert_saves(worker, "while TensorFlow is imported")

    worker = image.start("resume")
    worker.until(lambda: has_initial_state(host))  # what comes next is the trace
    assert_saves(worker, "while the graph is built")
    assert committed(host) == 0, "trained already: that was another phase"

    worker = image.start("resume")
    worker.until(lambda: committed(host) % STEPS_PER_EPOCH > 0)
    assert worker.kill() == KILLED
    killed_at = committed(host)
    assert 0 < killed_at < outside["step"]

    worker = image.start("resume")
    worker.until(lambda: committed(host) > killed_at)
    assert_saves(worker, "in training")
    job = host.job("quickstart")
    assert job is not None
    assert job.state.value == "queued"
    assert job.step > killed_at
    assert job.stage.value == "train"

    worker = image.start("resume")
    worker.until(lambda: "evaluating" in worker.log())
    assert_saves(worker, "in evaluation")

    done = image.run("resume")
    assert done.returncode == 0, done.stderr[-3000:]
    status = json.loads(image.ok("status", "quickstart", "--json"))
    assert_same(status, outside)
    notes = image.ok("logs", "quickstart")
    assert "different numerics" not in notes


def assert_saves(worker: Container, phase: str) -> None:
    code, seconds = worker.stop(grace=GRACE)
    print(f"stopped {phase}: exit code {code} after {seconds:.1f} s")
    assert code == SAVED, worker.log()[-3000:]


def has_initial_state(host: Runner) -> bool:
    job = host.job("quickstart")
    return job is not None and bool(job.checkpoints)


def committed(host: Runner) -> int:
    job = host.job("quickstart")
    return job.step if job is not None else 0
