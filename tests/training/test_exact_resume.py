"""A training killed with SIGKILL and run again ends as if nothing had happened, bit for bit."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.killing import Warm, attempt, differences, killed, undisturbed

STEPS = 6  # of an epoch


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return undisturbed(tmp_path_factory.mktemp("reference") / "run", {})


def test_the_training_is_one_that_shows_faults(reference: dict[str, Any]) -> None:
    """It stops early, lowers its rate, restores its best weights and has random layers."""
    assert 2 < len(reference["epochs"]) < 5
    assert reference["best"] not in (None, reference["digest"])
    assert len(set(reference["history"]["learning_rate"])) > 1
    seeds = [name for name in reference["variables"] if "seed_generator_state" in name]
    assert len(seeds) == 5, seeds


def test_what_is_saved_at_the_end_is_what_is_in_memory(reference: dict[str, Any]) -> None:
    """The final checkpoint holds the state after on_train_end: best weights restored."""
    assert reference["saved"] == reference["variables"]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    process = Warm(tmp_path_factory.mktemp("warm"))
    yield process
    process.close()


def store_kill(operation: str, key: str, n: int, when: str) -> dict[str, Any]:
    return {"kind": "store", "at": 0, "operation": operation, "key": key, "n": n, "when": when}


def test_five_kills_in_one_training(tmp_path: Path, reference: dict[str, Any], warm: Warm) -> None:
    """At steps, in a validation, between epochs, while a checkpoint is written, at the end.

    Each attempt seeds everything differently: what is equal was restored.
    """
    kills = [
        {"kind": "validation", "at": 0},
        store_kill("put", "packs/", 1, "after"),  # no manifest yet
        {"kind": "epoch_end", "at": 1},
        store_kill("create", "log/", 2, "after"),  # committed, nothing cleaned up
        {"kind": "after_final", "at": 0},
    ]
    assert differences(reference, killed(tmp_path / "run", {}, kills, attempt=warm)) == []


@pytest.mark.chaos
def test_more_kills_in_one_training(tmp_path: Path, reference: dict[str, Any]) -> None:
    """The moments that the shorter test leaves out, with another interval."""
    kills = [
        {"kind": "batch_end", "at": 4},
        store_kill("put", "checkpoints/", 2, "after"),  # not committed
        store_kill("put", "packs/", 3, "before"),
        {"kind": "batch_begin", "at": STEPS - 1},
        {"kind": "epoch_begin", "at": 1},
        {"kind": "validation", "at": 1},
        store_kill("delete", "", 2, "after"),
        {"kind": "batch_end", "at": 2 * STEPS + 3},
        {"kind": "epoch_begin", "at": 3},
        {"kind": "train_end", "at": 0},
    ]
    found = killed(tmp_path / "run", {"every": "2 steps", "keep": 1}, kills)
    assert differences(reference, found) == []


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_moments(tmp_path: Path, reference: dict[str, Any], seed: int) -> None:
    """Five kills at any time: the first after a step, for before it there is nothing to resume."""
    rng = random.Random(seed)
    seconds = [rng.uniform(0, 3), *(rng.uniform(2.5, 7) for _ in range(4))]
    kills = [{"kind": "timer", "at": 0, "seconds": each} for each in seconds]
    found = killed(tmp_path / "run", {"every": "1 step"}, kills, may_finish=True)
    assert differences(reference, found) == []


@pytest.mark.slow
def test_broken_restores_are_seen(tmp_path: Path, reference: dict[str, Any]) -> None:
    """The comparison has teeth: with other seeds and no checkpoint everything differs."""
    folder = tmp_path / "run"
    folder.mkdir()
    process = attempt(folder, {}, number=1)
    assert process.returncode == 0, process.stderr[-3000:]
    other = json.loads((folder / "result.json").read_text())
    assert len(differences(reference, other)) > 20
