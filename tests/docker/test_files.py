"""The container's files pass the linters that others will run over them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.engine import Engine
from tests.harness import REPOSITORY

pytestmark = pytest.mark.docker

DOCKER = REPOSITORY / "docker"
COMPOSE = DOCKER / "compose.yaml"
PROFILES = ("--profile=commands", "--profile=cpu", "--profile=gpu")


def lint(*command: str | Path) -> None:
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfiles_are_clean() -> None:
    lint("hadolint", *DOCKER.glob("*Dockerfile"))


def test_the_compose_file_follows_the_specification() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_compose_reads_its_file(engine: Engine) -> None:
    """All services are hardened alike, and only the GPU's reserve devices."""
    text = engine.ok("compose", f"--file={COMPOSE}", *PROFILES, "config", "--format=json")
    services = json.loads(text)["services"]
    assert services.keys() == {
        f"{n}{s}" for n in ("runner", "doctor", "worker") for s in ("", "-gpu")
    }
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["user"] == "10001:0", name
        mounts = {mount["target"]: mount.get("read_only", False) for mount in service["volumes"]}
        read_only = dict.fromkeys(("/app/jobs", "/code", "/data", "/credentials"), True)
        assert mounts == {**read_only, "/store": False, "/cache": False}, name
        assert ("deploy" in service) == name.endswith("-gpu"), name
        assert ("restart" in service) == name.startswith("worker"), name


def test_the_example_of_settings_has_what_compose_passes_on() -> None:
    """Every line of it has an effect, and so do labels and name of the machine."""
    example = (DOCKER / ".env.example").read_text()
    settings = set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    text = COMPOSE.read_text()
    for name in settings - {"COMPOSE_PROFILES"}:  # which Compose itself reads
        assert re.search(rf"\b{name}\b", text), name
    for name in ("RUNNER_LABELS", "RUNNER_NODE"):
        assert name in settings
        assert f"    {name}:\n" in text, "a name alone is passed on if it is set"


def test_every_package_is_locked_by_hash() -> None:
    """pip installs nothing whose hash isn't written down, from wherever it may come."""
    dockerfile = (DOCKER / "Dockerfile").read_text()
    installs = re.findall(r"pip (?:install|wheel) (.*)", dockerfile)
    assert installs
    for options in installs:
        assert "--require-hashes" in options or "--no-index" in options, options
    for path in DOCKER.glob("requirements-*.txt"):
        text = path.read_text().replace("\\\n", " ")
        packages = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert packages
        for line in packages:
            assert re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line
    cpu = (DOCKER / "requirements-cpu.txt").read_text().splitlines()
    gpu = (DOCKER / "requirements-gpu.txt").read_text().splitlines()
    added = {line.split("==")[0] for line in gpu if "==" in line and line not in cpu}
    assert added, "the GPU's packages are the CPU's and CUDA"
    assert all(name.startswith("nvidia-") for name in added), added
    assert {line for line in cpu if "==" in line} < set(gpu)


def test_the_start_up_script_makes_a_service(engine: Engine, built: str, tmp_path: Path) -> None:
    """What it lets systemd run at each boot runs: nothing to work on, exit code 0."""
    for name in ("systemctl", "docker", "nvidia-ctk"):
        fake = tmp_path / name
        fake.write_text("#!/bin/sh\n")
        fake.chmod(0o755)
    script = ["bash", str(DOCKER / "startup.sh")]
    here = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "UNITS": str(tmp_path),
        "BIN": str(tmp_path),
    }
    jobs = {"IMAGE": built, "STORE": "/store", "GPUS": ""}
    subprocess.run(script, check=True, env={**here, **jobs})
    unit = (tmp_path / "runner.service").read_text()
    assert "RestartPreventExitStatus=1 2 3 4 5\n" in unit
    assert "poweroff" in unit
    (start,) = re.findall(r"^ExecStart=docker (.*)$", unit, re.MULTILINE)
    assert "nothing to work on" in engine.docker(*shlex.split(start)).stderr
    subprocess.run(script, check=True, env={**here, **jobs, "GPUS": "--gpus=1", "POWEROFF": "no"})
    unit = (tmp_path / "runner.service").read_text()
    assert "poweroff" not in unit
    assert " --gpus=1 " in unit
