"""Workers on a Ray cluster, whose nodes are killed, frozen, drained, added and taken away.

Whatever happens to the cluster, each job ends once, with the bits of an undisturbed run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="pip install '.[ray]'")

from runner.queue.job import Job, State
from runner.queue.queue import Queue
from runner.store.filesystem import open_store
from tests.chaos.test_fleet import Plan, outcome, records, specs, undisturbed
from tests.harness import REPOSITORY, Runner
from tests.processes import lives, parent, send
from tests.ray.nodes import Machines, Node

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

LEASE_SECONDS = 5.0


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # the nodes' GPUs are Ray's to give
        running = Machines()
        yield running
        running.lose()


class Scene:
    """A bucket with jobs in it, and the command that has them done on a cluster."""

    def __init__(self, folder: Path, *, jobs: int, steps: int) -> None:
        self.plan = Plan(workers=0, jobs=jobs, chains=jobs, steps=steps, seconds=0, pause=0)
        self.folder = folder
        self.store = open_store(str(folder / "store"))
        self.queue = Queue(self.store)
        self.steps = folder / "steps"
        self.steps.mkdir()
        self.names = [spec["name"] for spec in specs(self.plan)]
        for spec in specs(self.plan):
            self.queue.submit(spec["name"], spec)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, machines: Machines, *options: str) -> None:
        with (self.folder / "said").open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.ray.command", "work", "--engine", "ray",
                 "--address", machines.address, *options],
                stdout=said, stderr=said, cwd=REPOSITORY,
                env={
                    **os.environ,
                    "RUNNER_STORE": str(self.folder / "store"),
                    "RUNNER_LEASE_SECONDS": str(LEASE_SECONDS),
                    "HASHING_STEPS": str(self.steps),
                },
            )  # fmt: skip

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def ended(self, seconds: float = 240) -> int:
        """The command's exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            jobs = [f"{j.id} {j.state} {j.step} {j.owner}" for j in self.queue.jobs()]
            pytest.fail(f"it goes on after {seconds} s: {jobs}\n{self.said()[-4000:]}")

    def until(self, condition: Callable[[], Any], seconds: float = 200) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.1)
        jobs = [f"{j.id} {j.state} {j.step} {j.owner}" for j in self.queue.jobs()]
        pytest.fail(f"waited {seconds} s in vain: {jobs}\n{self.said()[-4000:]}")

    def running_on(self, *hosts: str) -> list[Job]:
        """The jobs that have made progress on these."""
        return [
            job
            for job in self.queue.jobs()
            if job.state is State.RUNNING and job.step and (job.owner or {})["host"] in hosts
        ]

    def claimed_by(self, name: str) -> list[str]:
        return [
            str((record.owner or {})["host"])
            for record in records(self.store, name)
            if record.kind == "claim"
        ]

    def began_on(self, node: Node) -> bool:
        """Whether a worker has been started there."""
        return any(self.steps.glob(f"gpus.{node.host}.*"))

    def written_by(self, host: str) -> int:
        """How many records a host has written as a job's owner."""
        return sum(
            (record.owner or {}).get("host") == host
            for name in self.names
            for record in records(self.store, name)
        )

    def actor_of(self, job: Job, node: Node) -> int:
        """The process of Ray's that the job's worker hangs on."""
        tether = parent((job.owner or {})["pid"])
        actor = parent(tether)
        assert actor in node.processes()
        return actor

    def kinds(self, name: str) -> list[str]:
        return [record.kind for record in records(self.store, name)]

    def check(self) -> None:
        """Every job has ended once, with the bits that it has when nothing happens."""
        assert {job.id: outcome(job) for job in self.queue.jobs()} == undisturbed(self.plan)
        for name in self.names:
            history = records(self.store, name)
            assert [record.kind for record in history].count("finish") == 2  # training, evaluation
            tokens = [record.token for record in history]
            assert tokens == sorted(tokens), "a record of an owner before the last one counts"

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes = []

    def make(*, jobs: int, steps: int) -> Scene:
        scenes.append(Scene(tmp_path, jobs=jobs, steps=steps))
        return scenes[-1]

    yield make
    for one in scenes:
        one.close()


@pytest.fixture
def nodes(machines: Machines) -> Iterator[Callable[..., Sequence[Node]]]:
    """Add nodes for one test."""
    added: list[Node] = []

    def add(count: int, *, gpus: int = 0) -> Sequence[Node]:
        new = [machines.add(gpus=gpus) for _ in range(count)]
        added.extend(new)
        return new

    yield add
    for node in added:
        machines.remove(node)


PROGRAM = """
from pathlib import Path

import keras
import numpy as np
import runner
import shape_of
from shapes import flat


def program(*, told: str) -> runner.Program:
    Path(told).write_text(f"{__file__} {flat.__file__}")
    assert flat.X == shape_of.X
    model = keras.Sequential([keras.Input(shape_of.X), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((16, *shape_of.X), "float32"), np.ones((16, 1), "float32")
    return runner.Program(model=model, fit={"x": runner.Batches(x, y, batch_size=8, seed=1)})
"""
#: the command in a process where Ray takes no more than this
LIMITED = """
import sys
from ray._private.runtime_env import packaging
packaging.GCS_STORAGE_MAX_SIZE = 1000
from runner.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study/programs").mkdir(parents=True)
    (tmp_path / "study/programs/flat.py").write_text(PROGRAM)
    (tmp_path / "study/shape_of.py").write_text("X = (2,)\n")
    (tmp_path / "study/shapes").mkdir()
    (tmp_path / "study/shapes/__init__.py").write_text("")
    (tmp_path / "study/shapes/flat.py").write_text("from .sizes import X\n")
    (tmp_path / "study/shapes/sizes.py").write_text("from shape_of import X\n")
    return tmp_path / "study"


def test_ones_own_code_is_taken_to_the_nodes(
    machines: Machines, nodes: Any, study: Path, tmp_path: Path
) -> None:
    """The worker runs Ray's copy of the folder, a package in it too, not what lies at its path."""
    nodes(1)
    told = tmp_path / "told"
    job = {"name": "flat", "program": {"name": "flat", "arguments": {"told": str(told)}}}
    (tmp_path / "flat.json").write_text(json.dumps({**job, "training": {"epochs": 1}}))
    runner = Runner(tmp_path / "store")
    runner.ok("submit", str(tmp_path / "flat.json"), "--detach", "--code", str(study))
    where = ["work", "--engine", "ray", "--address", machines.address, "--workers", "1"]
    done = runner.run(*where, "--until-empty", environment={"RUNNER_CODE": str(study)})
    assert done.returncode == 0, done.stderr[-4000:]
    files = told.read_text().split()
    for path, name in zip(files, ("programs/flat.py", "shapes/flat.py"), strict=True):
        assert path.endswith(name)
        assert not Path(path).is_relative_to(study)
    status = runner.status("flat")
    assert status["state"] == "succeeded"
    note = " ".join(status["notes"])
    assert all(f"{name}.py" in note for name in ("shape_of", "shapes/flat", "shapes/sizes"))


def test_code_that_ray_does_not_take_is_said(
    machines: Machines, study: Path, tmp_path: Path
) -> None:
    (study / "houses.csv").write_bytes(os.urandom(5000))
    command = ["work", "--engine", "ray", "--address", machines.address, "--code", str(study)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *command, "--store", str(tmp_path / "store")],
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-4000:]
    assert f"--code {study}: Ray can't take it to the nodes: " in done.stderr
    assert "exceeds the maximum size" in done.stderr


def test_a_node_is_killed(machines: Machines, scene: Any, nodes: Any) -> None:
    """Without grace: its job goes on elsewhere, and its worker too once there is room."""
    here = scene(jobs=4, steps=100)
    first, second = nodes(2)
    here.start(machines, "--workers", "2", "--until-empty")
    job = here.until(lambda: here.running_on(first.host))[0]
    first.kill()
    (third,) = nodes(1)
    here.until(lambda: here.began_on(third))
    assert here.ended() == 0, here.said()[-6000:]
    here.check()
    owners = here.claimed_by(job.id)
    assert owners[0] == first.host
    assert set(owners[1:]) <= {second.host, third.host}


def test_a_host_freezes_and_thaws(machines: Machines, scene: Any, nodes: Any) -> None:
    """Its job is taken over, its worker replaced. What it does when it thaws counts for nothing."""
    here = scene(jobs=4, steps=80)
    first, second = nodes(2)
    here.start(machines, "--workers", "2", "--until-empty")
    job = here.until(lambda: here.running_on(first.host))[0]
    frozen = first.freeze()
    (third,) = nodes(1)
    here.until(lambda: len(here.claimed_by(job.id)) > 1)
    here.until(lambda: here.began_on(third))
    before = here.written_by(first.host)
    for pid in frozen:
        send(pid, signal.SIGCONT)
    here.until(lambda: not any(lives(pid) for pid in frozen))
    assert here.written_by(first.host) == before
    assert here.ended() == 0
    here.check()
    assert set(here.claimed_by(job.id)[1:]) <= {second.host, third.host}


def test_the_fleet_grows_and_shrinks(machines: Machines, scene: Any, nodes: Any) -> None:
    """Workers wait for room, get a GPU each, and leave a node that is drained with all saved."""
    here = scene(jobs=5, steps=80)
    (first,) = nodes(1, gpus=1)
    here.start(machines, "--workers", "3", "--until-empty")
    here.until(lambda: here.running_on(first.host))
    second, third = nodes(2, gpus=1)
    here.until(lambda: here.running_on(second.host) and here.running_on(third.host))
    job = here.until(lambda: here.running_on(second.host))[0]
    shown = Runner(here.folder / "store").status(job.id)
    assert shown["worker"].startswith(f"{second.host}:")
    assert f"ray {second.host} at " in shown["node"]
    machines.drain(second)
    here.until(
        lambda: here.claimed_by(job.id).count(second.host) and "release" in here.kinds(job.id)
    )
    here.until(lambda: not here.running_on(second.host))
    second.kill()
    assert here.ended() == 0
    here.check()
    assert all(path.read_text() == "0" for path in here.steps.glob("gpus.*"))


def test_an_actor_gets_a_sigterm(machines: Machines, scene: Any, nodes: Any) -> None:
    """Its worker saves and lets go before it goes; another comes in its place."""
    here = scene(jobs=1, steps=60)
    (node,) = nodes(1)
    here.start(machines, "--workers", "1", "--until-empty")
    job = here.until(lambda: here.running_on(node.host))[0]
    actor = here.actor_of(job, node)
    send(actor, signal.SIGTERM)
    here.until(lambda: "release" in here.kinds(job.id))
    assert here.ended() == 0
    here.check()


def test_an_actor_is_killed(machines: Machines, scene: Any, nodes: Any) -> None:
    """Its worker is told by the kernel: no GPU is left with a worker of which Ray knows nothing."""
    here = scene(jobs=1, steps=60)
    (node,) = nodes(1)
    here.start(machines, "--workers", "1", "--until-empty")
    job = here.until(lambda: here.running_on(node.host))[0]
    actor = here.actor_of(job, node)
    send(actor, signal.SIGKILL)
    here.until(lambda: "release" in here.kinds(job.id))
    assert here.ended() == 0
    here.check()


def test_the_command_is_stopped(machines: Machines, scene: Any, nodes: Any) -> None:
    """SIGTERM: all jobs are saved and let go before it ends with 75; who waited for room goes."""
    here = scene(jobs=2, steps=100)
    first, second = nodes(2)
    here.start(machines, "--workers", "3")
    here.until(lambda: here.running_on(first.host) and here.running_on(second.host))
    here.process.terminate()
    assert here.ended() == 75
    assert all(job.state is State.QUEUED and job.step for job in here.queue.jobs())
    assert all(here.kinds(name)[-1] == "release" for name in here.names)


def test_the_command_is_killed(machines: Machines, scene: Any, nodes: Any) -> None:
    """Ray ends its actors; their workers save and let go all the same."""
    here = scene(jobs=1, steps=200)
    (node,) = nodes(1)
    here.start(machines, "--workers", "1")
    here.until(lambda: here.running_on(node.host))
    here.process.kill()
    here.until(lambda: here.kinds(here.names[0])[-1] == "release")


def test_the_cluster_is_lost(scene: Any) -> None:
    """The command ends with 75, and on another cluster goes on where the bucket is."""
    here = scene(jobs=3, steps=60)
    machines = Machines()
    for _ in range(2):
        machines.add()
    here.start(machines, "--workers", "2")
    here.until(lambda: [job for job in here.queue.jobs() if job.step])
    machines.lose()
    assert here.ended() == 75
    again = Machines()
    try:
        for _ in range(2):
            again.add()
        here.start(again, "--workers", "2", "--until-empty")
        assert here.ended() == 0
    finally:
        again.lose()
    here.check()
