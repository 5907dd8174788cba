"""`docker compose` does what docker/README.md says."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docker.engine import Container, Engine
from tests.harness import REPOSITORY

pytestmark = pytest.mark.docker

NAMES = ("runner", "doctor", "worker")


@dataclass
class Project:
    """compose.yaml under a name of its own, without a network."""

    engine: Engine
    name: str
    override: Path

    def compose(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code and both outputs."""
        files = [f"--file={REPOSITORY / 'docker/compose.yaml'}", f"--file={self.override}"]
        project = ["compose", *files, "--profile=cpu", f"--project-name={self.name}"]
        done = self.engine.docker(*project, *arguments)
        return done.returncode, done.stdout, done.stderr

    def runner(self, *arguments: str) -> str:
        """`docker compose run --rm runner …`, which must succeed; its standard output."""
        code, out, err = self.compose("run", "--rm", "runner", *arguments)
        assert code == 0, err[-3000:]
        return out

    def worker(self) -> Container:
        """The worker's container."""
        code, out, err = self.compose("ps", "--all", "--quiet", "worker")
        assert code == 0, err
        return Container(self.engine, out.strip())

    def status(self) -> dict[str, Any]:
        """Return what `runner status` says."""
        return dict(json.loads(self.runner("status", "quickstart", "--json")))

    def use(self, **worker: object) -> None:
        """Change the worker as a second compose file does."""
        common = {"network_mode": "none", "environment": {"RUNNER_LEASE_SECONDS": "8"}}
        services: dict[str, dict[str, object]] = {name: dict(common) for name in NAMES}
        services["worker"].update(worker)
        self.override.write_text(json.dumps({"services": services}))


@pytest.fixture
def project(engine: Engine, built: str, tmp_path: Path) -> Iterator[Project]:
    engine.environment["RUNNER_IMAGE"] = built
    found = Project(engine, f"runner-test-{os.getpid()}-{time.time_ns()}", tmp_path / "more.yaml")
    found.use()
    yield found
    found.compose("--profile=commands", "down", "--volumes", "--timeout=1")


def test_commands_and_a_worker_that_crashes(project: Project) -> None:
    """A worker in the background dies: the engine starts it again, it ends the job and waits."""
    quick = ["--set", "training.epochs=4", "--set", "evaluation=null"]
    assert project.runner("submit", "jobs/quickstart.json", "--detach", *quick) == "quickstart\n"
    code, _, err = project.compose("up", "--detach")
    assert code == 0, err
    worker = project.worker()
    worker.until(lambda: "epoch 1/4" in worker.log())
    crash = "read -r child _ < /proc/1/task/1/children; kill -9 $child"
    project.engine.ok("exec", worker.name, "bash", "-c", crash)
    worker.until(lambda: "succeeded" in worker.log())
    more = ["--set", "name=another", "--set", "training.epochs=1", "--set", "evaluation=null"]
    project.runner("submit", "jobs/quickstart.json", "--detach", *more)
    worker.until(lambda: "another: succeeded" in worker.log())
    assert worker.state()["Status"] == "running"
    assert project.engine.inspect(worker.name)["RestartCount"] == 1
    code, _, err = project.compose("stop")
    assert code == 0, err
    assert worker.state()["ExitCode"] == 75
    status = project.status()
    assert status["state"] == "succeeded"
    assert status["deaths"] == 1
    assert project.runner("resume") == ""


@pytest.mark.parametrize(
    "command", [["resume", "no-such-job"], ["no-such-command"], ["submit", "no-such-file.json"]]
)
def test_a_mistake_is_not_repeated(project: Project, command: list[str]) -> None:
    """What the same again won't mend ends the worker; it is started once."""
    project.use(command=command)
    code, _, err = project.compose("up", "--detach", "--no-deps", "worker")
    assert code == 0, err
    worker = project.worker()
    worker.wait()
    time.sleep(1)  # the engine's first restart comes after 0.1 s
    found = project.engine.inspect(worker.name)
    assert found["State"]["Status"] == "exited", worker.log()
    assert found["RestartCount"] == 0


def test_exit_codes_of_commands_are_the_programs_own(project: Project) -> None:
    code, _, err = project.compose("run", "--rm", "runner", "status", "no-such-job")
    assert code == 3, err
