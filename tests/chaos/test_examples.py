"""Trainings after Keras's own examples: the callback changes no bit of them, nor do ten kills.

Each runs bare, with `BackupAndRestore`, and with it killed ten times at random moments; each
attempt is a process of its own, seeded otherwise and with another order of sets and dicts.
"""

import importlib.util
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.examples import EXAMPLES, JAX, TENSORFLOW
from tests.training.killing import Warm, differences, killed

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.chaos

PROGRAM = Path(__file__).with_name("example_program.py")
KILLS = 10
#: other moments: RUNNER_CHAOS_SEED=7 make chaos
SEED = os.environ.get("RUNNER_CHAOS_SEED", "1")
CASES = [(name, backend) for name, one in EXAMPLES.items() for backend in one.backends]


class Processes:
    """Attempts in forks of servers with different hash seeds; what they say is kept."""

    def __init__(self, folder: Path, backend: str) -> None:
        variables = {"KERAS_BACKEND": backend}
        if backend == JAX:
            variables |= {
                "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS") or "cpu",
                "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            }
        self._servers = [
            Warm(folder, PROGRAM, PYTHONHASHSEED=str(seed), **variables) for seed in (1, 2)
        ]
        self.said = ""

    def __call__(
        self, folder: Path, options: dict[str, Any], number: int, kill: Any = None
    ) -> "subprocess.CompletedProcess[str]":
        process = self._servers[number % 2](folder, options, number, kill)
        self.said += process.stderr
        return process

    def close(self) -> None:
        for server in self._servers:
            server.close()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Processes]]:
    """Of each backend that is installed."""
    found = {
        backend: Processes(tmp_path_factory.mktemp(backend), backend)
        for backend in (TENSORFLOW, JAX)
        if importlib.util.find_spec(backend)
    }
    yield found
    for one in found.values():
        one.close()


def random_kills(moments: list[Any], seed: str) -> list[dict[str, Any]]:
    """Ten of the moments of a training, in their order, some with time for a checkpoint."""
    rng = random.Random(seed)
    chosen = sorted(rng.sample(moments, KILLS))
    return [{"at": moment, "rest": rng.choice([0.0, 0.3])} for moment in chosen]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    found = {key: other.get(key) for key in one}
    assert differences({"bits": one}, {"bits": found}) == []


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_the_callback_changes_no_bit_and_ten_kills_change_none(
    name: str, backend: str, processes: dict[str, Processes], tmp_path: Path
) -> None:
    example = EXAMPLES[name]
    if backend not in processes or (example.tf_data and TENSORFLOW not in processes):
        pytest.skip("not installed")
    attempt = processes[backend]
    attempt.said = ""
    options = {"example": name}
    bare = killed(tmp_path / "bare", {**options, "plain": True}, [], attempt=attempt)
    whole = killed(tmp_path / "whole", options, [], attempt=attempt)
    # an optimizer that no step uses has no slots in the bare run
    assert_same(bare, whole)
    moments = json.loads((tmp_path / "whole/moments.json").read_text())
    kills = random_kills(moments, f"{SEED} {name}")
    found = killed(tmp_path / "killed", options, kills, attempt=attempt)
    if example.says:
        assert example.says in attempt.said
    else:
        assert found.keys() == whole.keys()
        assert_same(whole, found)
