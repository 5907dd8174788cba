"""A Docker Engine for the tests: containers that are started, looked into, stopped and killed."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import REPOSITORY

#: as docker/README.md and compose.yaml run it; the store of the tests is a folder
HARDENED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp",
    "--network=none",
)
#: a dead worker's job is taken over sooner than in earnest
LEASE_SECONDS = 8


class Engine:
    """The commands of one engine."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)

    def docker(self, *arguments: str, timeout: float = 540) -> "subprocess.CompletedProcess[str]":
        """Run a docker command to its end."""
        return subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=REPOSITORY,
            timeout=timeout,
        )

    def ok(self, *arguments: str, timeout: float = 540) -> str:
        """Run a docker command that must succeed; its standard output."""
        done = self.docker(*arguments, timeout=timeout)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr[-3000:]}"
        return done.stdout

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container or image."""
        (found,) = json.loads(self.ok("inspect", name))
        return dict(found)

    def has_bridge(self) -> bool:
        """Whether containers of this engine get a network of their own."""
        return "bridge" in self.ok("network", "ls", "--format={{.Driver}}").split()

    def build(self, tag: str, *, variant: str = "cpu", context: Path = REPOSITORY) -> float:
        """Build the image; the seconds that it took."""
        begin = time.monotonic()
        self.ok(
            "build",
            f"--file={context / 'docker' / 'Dockerfile'}",
            f"--build-arg=VARIANT={variant}",
            "--build-arg=VERSION=1.2.3",
            "--build-arg=REVISION=0123abc",
            f"--tag={tag}",
            *(() if self.has_bridge() else ("--network=host",)),
            str(context),
            timeout=1100,
        )
        return time.monotonic() - begin


@dataclass
class Image:
    """An image of ours, on a store that is a folder of this machine."""

    engine: Engine
    tag: str
    store: Path

    @property
    def label(self) -> str:
        """What all its containers carry."""
        return f"runner-test={self.store}"

    def run(
        self, *arguments: str, options: Sequence[str] = ()
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command of `runner` in a new container to its end."""
        return self.engine.docker("run", "--rm", *self._options(options), self.tag, *arguments)

    def ok(self, *arguments: str, options: Sequence[str] = ()) -> str:
        """Run a command that must succeed; its standard output."""
        done = self.run(*arguments, options=options)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def start(self, *arguments: str, options: Sequence[str] = ()) -> "Container":
        """Start a command in a new container."""
        out = self.engine.ok("run", "--detach", *self._options(options), self.tag, *arguments)
        return Container(self.engine, out.strip())

    def _options(self, more: Sequence[str]) -> list[str]:
        self.store.mkdir(exist_ok=True)
        self.store.chmod(0o2777)  # for whatever user the container has
        return [
            *HARDENED,
            f"--label={self.label}",
            f"--volume={self.store}:/store",
            f"--env=RUNNER_LEASE_SECONDS={LEASE_SECONDS}",
            *more,
        ]


@dataclass
class Container:
    """One that was started."""

    engine: Engine
    name: str

    def state(self) -> dict[str, Any]:
        """Return Status, ExitCode, OOMKilled, …"""
        return dict(self.engine.inspect(self.name)["State"])

    def log(self) -> str:
        """What it said so far, on both outputs."""
        done = self.engine.docker("logs", self.name)
        return done.stdout + done.stderr

    def runner(self, file: str) -> str:
        """A file in /proc of the process that tini started; "" while there is none."""
        script = f'read -r child _ < /proc/1/task/1/children; cat "/proc/$child/{file}"'
        return self.engine.docker("exec", self.name, "bash", "-c", script).stdout

    def hears(self, number: int) -> bool:
        """Whether the process has a handler for a signal."""
        lines = [line for line in self.runner("status").splitlines() if line.startswith("SigCgt")]
        return bool(lines) and bool(int(lines[0].split()[1], 16) >> (number - 1) & 1)

    def has_tensorflow(self) -> bool:
        """Whether the process has loaded TensorFlow's library."""
        return "libtensorflow" in self.runner("maps")

    def until(self, condition: Callable[[], bool], *, seconds: float = 240) -> None:
        """Wait for a moment in the container's life."""
        end = time.monotonic() + seconds
        while not condition():
            if self.state()["Status"] in ("exited", "dead"):
                pytest.fail(f"ended before the moment came:\n{self.log()[-3000:]}")
            if time.monotonic() > end:
                pytest.fail(f"waited {seconds} s in vain:\n{self.log()[-3000:]}")
            time.sleep(0.02)

    def stop(self, *, grace: int = 120) -> tuple[int, float]:
        """`docker stop`: the exit code, and the seconds that it took."""
        begin = time.monotonic()
        self.engine.ok("stop", f"--time={grace}", self.name)
        return int(self.state()["ExitCode"]), time.monotonic() - begin

    def kill(self) -> int:
        """`docker kill`: SIGKILL; the exit code."""
        self.engine.ok("kill", self.name)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return int(self.engine.ok("wait", self.name).strip())
