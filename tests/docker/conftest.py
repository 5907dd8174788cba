"""An engine, and the image built once for all tests.

Where no engine answers and where the base image can't be pulled, the program that
RUNNER_TEST_DOCKER_ENGINE names helps out: `up DIR` starts an engine and writes DIR/env.sh,
`base TAG SUITE` makes a stand-in for TAG of Debian's packages, `down DIR` ends it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.engine import Engine, Image
from tests.harness import REPOSITORY

HELPER = Path(
    os.environ.get("RUNNER_TEST_DOCKER_ENGINE", REPOSITORY.parent / "shared/tools/docker-engine")
)
BASE, SUITE = "python:3.13-slim", "trixie"


def answers(environment: dict[str, str]) -> bool:
    command = shutil.which("docker", path=environment.get("PATH"))
    asked = [command or "", "version"]
    return (
        bool(command) and not subprocess.run(asked, capture_output=True, env=environment).returncode
    )


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    environment = dict(os.environ)
    if answers(environment):
        yield Engine(environment)
        return
    if not HELPER.exists():
        pytest.fail("these tests need a Docker Engine; is it running, and may you use it?")
    folder = Path(tempfile.mkdtemp(prefix="dk"))  # short: sockets' names are
    subprocess.run([HELPER, "up", folder], check=True, timeout=600)
    try:
        lines = ["bash", "-c", f". {folder}/env.sh && env -0"]
        found = subprocess.run(lines, check=True, capture_output=True, text=True).stdout
        yield Engine(dict(line.split("=", 1) for line in found.split("\0") if "=" in line))
    finally:
        subprocess.run([HELPER, "down", folder], check=False, timeout=120)


@pytest.fixture(scope="session")
def built(engine: Engine) -> str:
    """The CPU image's tag."""
    if engine.docker("image", "inspect", BASE).returncode and HELPER.exists():
        environment = engine.environment
        subprocess.run([HELPER, "base", BASE, SUITE], check=True, timeout=600, env=environment)
    seconds = engine.build("runner-test:cpu")
    size = engine.inspect("runner-test:cpu")["Size"]
    print(f"the CPU image: {size / 1e9:.2f} GB, built in {seconds:.0f} s")
    return "runner-test:cpu"


@pytest.fixture
def image(engine: Engine, built: str, tmp_path: Path) -> Iterator[Image]:
    """The image on a store of the test's own; its containers are removed."""
    found = Image(engine, built, tmp_path / "store")
    yield found
    mine = engine.ok("ps", "--all", "--quiet", f"--filter=label={found.label}").split()
    if mine:
        engine.ok("rm", "--force", "--volumes", *mine)
