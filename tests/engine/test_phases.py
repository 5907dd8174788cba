"""A training in phases is one training: killed within or between two, it ends the same."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import Runner, assert_same, finish

SPEC: dict[str, Any] = {
    "name": "phased",
    "seed": 3,
    "data": {"name": "digits", "arguments": {"image_size": 16}},
    "augmentation": {"flip": "horizontal", "rotation": 0.1, "zoom": 0.1},
    "model": {"name": "mlp", "arguments": {"dropout": 0.2}},
    "training": {
        "batch_size": 200,
        "tensorboard": True,
        "phases": [
            {"epochs": 2, "train_from": -1},
            {"epochs": 4, "train_from": 2, "learning_rate": 0.0005},
            {"epochs": 1},
        ],
        "early_stopping": {"monitor": "val_loss", "patience": 1, "min_delta": 10.0},
    },
    "checkpoint": {"every": "2 steps", "best": {"monitor": "val_loss"}},
    "limits": {"deaths": 1000},
    "evaluation": {"augmented_passes": 1},
}
#: within a phase; at its end, before the final state; after it, before the next phase's first
#: state; within the next; at its end
DEATHS = ("step:3", "train_end:1", "commit:2", "step:2", "train_end:1")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "job.json"
    path.write_text(json.dumps(SPEC))
    return path


@pytest.mark.slow
def test_killed_within_and_between_phases(spec: Path, tmp_path: Path) -> None:
    reference = Runner(tmp_path / "reference", warm=True)
    reference.ok("submit", str(spec))
    undisturbed = reference.status("phased")
    # the second phase is ended early by its callback, which begins anew in each
    assert undisturbed["epoch"] == 2 + 2 + 1
    assert len(undisturbed["history"]["val_loss"]) == undisturbed["epoch"]
    runner = Runner(tmp_path / "killed", warm=True)
    runner.ok("submit", str(spec), "--detach")
    killed = finish(runner, "phased", *DEATHS)
    assert_same(killed, undisturbed)
    assert killed["best"] == undisturbed["best"]
    for one in (reference, runner):
        assert "final with the weights of epoch 5, its best val_loss" in _plain(one)
    assert killed["deaths"] == len(DEATHS)
    assert events(tmp_path / "killed") == events(tmp_path / "reference")
    steps = [(step, tag) for step, tag, _ in events(tmp_path / "killed")]
    assert len(steps) == len(set(steps)), "doubled"
    assert {step for step, _ in steps} == set(range(undisturbed["epoch"])), "missing"
    values = [value for _, tag, value in events(tmp_path / "killed") if tag == "epoch_val/loss"]
    assert values == [np.float32(value) for value in undisturbed["history"]["val_loss"]]


def _plain(runner: Runner) -> str:
    """What `status` says, without steps and digests."""
    return re.sub(r" +step \d+, digest \w+", "", runner.ok("status", "phased"))


def events(store: Path) -> list[tuple[int, str, float]]:
    """What TensorBoard would read."""
    import tensorflow as tf

    found = []
    for run, prefix in (("train", "epoch_"), ("validation", "epoch_val/")):
        # a kill may leave a `.tmp-` beside it
        (path,) = (store / "jobs/phased/tensorboard" / run).glob("events.*")
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                tag = f"{prefix}{value.tag.removeprefix('epoch_')}"
                found.append((event.step, tag, value.simple_value))
    return found
