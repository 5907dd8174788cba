"""A job whose data are read from the disk ends with the bits of one that holds them in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.harness import OFTEN, QUICKSTART, Runner, assert_same, sets

DEATHS = ("picture:25", "step:4", "evaluation:1")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 JPEGs of two classes: 38 train, 10 validate, 12 test."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    for number in range(60):
        pixels = generator.integers(0, 256, (9, 9, 3)).astype("uint8") // (1 + number % 2)
        file = folder / f"class-{number % 2}" / f"{number:02}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((40, 30)).save(file)
    return folder


def trained(store: Path, pictures: Path, *deaths: str, **environment: str) -> dict[str, Any]:
    runner = Runner(store / "store", environment=environment, warm=True)
    changes = {
        **OFTEN, "data.name": "folder", "data.path": str(pictures),
        "training.epochs": 2, "training.batch_size": 8, "model": {"name": "mlp"},
        "evaluation.augmented_passes": 1, "evaluation.batch_size": 8,
    }  # fmt: skip
    runner.ok("submit", str(QUICKSTART), "--detach", "--no-trial", *sets(changes))
    for death in deaths:
        done = runner.run("resume", "quickstart", sabotage=death)
        assert done.returncode == -9, f"{death} never came: {done.stderr[-2000:]}"
    done = runner.run("resume", "quickstart", sabotage="slow:0")
    assert done.returncode == 0, done.stderr[-3000:]
    return runner.status("quickstart")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.chaos)])
def test_the_same_bits_from_the_disk_after_three_kills(
    backend: str, pictures: Path, tmp_path: Path
) -> None:
    """The first death comes while the pictures are decoded, the last one in the evaluation."""
    reference = trained(tmp_path / "memory", pictures, KERAS_BACKEND=backend)
    cache = tmp_path / "cache"
    small = {"SABOTAGE_MEMORY": "none", "RUNNER_CACHE": str(cache), "KERAS_BACKEND": backend}
    killed = trained(tmp_path / "disk", pictures, *DEATHS, **small)
    assert_same(killed, reference)
    assert not any("numerics" in note for note in killed.get("notes") or [])
    assert sum(file.stat().st_size for file in cache.rglob("x_*")) == 60 * 32 * 32 * 3
