"""Every job of the study trains on real pictures, survives a kill and is evaluated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import REPOSITORY, Runner, cifar, sets

JOBS = sorted(path.stem for path in (REPOSITORY / "jobs").glob("*-[nam][au].json"))


@pytest.fixture(scope="module")
def few_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 training and 100 test pictures: four steps of 60, and 60 to validate on."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(cifar()) as file:
        parts: dict[str, Any] = {
            f"{axis}_{part}": file[f"{axis}_{part}"][:count]
            for axis in "xy"
            for part, count in (("train", 300), ("test", 100))
        }
    np.savez(path, **parts)
    return path


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", JOBS)
def test_job_survives_a_kill(name: str, few_pictures: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "data.path": str(few_pictures),
        "training.epochs": 1,
        "training.batch_size": 60,
        "checkpoint.every": "1 steps",
        "evaluation.augmented_passes": 1,
        "evaluation.batch_size": 50,
    }
    if name.startswith("transfer"):
        changes["model.arguments.weights"] = None  # nothing is downloaded here
        changes["model.arguments.image_size"] = 75
        del changes["training.epochs"]  # the phases have their own
        changes["training.phases"] = [{"epochs": 1, "train_from": n} for n in (255, 199)]
    runner = Runner(tmp_path, warm=True)
    runner.ok("submit", str(REPOSITORY / "jobs" / f"{name}.json"), "--detach", *sets(changes))
    died = runner.run("resume", name, sabotage="step:3")
    assert died.returncode == -9, died.stderr[-2000:]
    done = runner.run("resume", name)
    assert done.returncode == 0, done.stderr[-2000:]
    status = runner.status(name)
    assert status["state"] == "succeeded"
    steps = (16 if name.endswith("-ma") else 4) * (2 if name.startswith("transfer") else 1)
    assert status["final"]["step"] == steps
    assert status["evaluation"]["images"] == 100
    assert status["evaluation"]["augmented_passes"] == 1
