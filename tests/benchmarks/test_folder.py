"""Images per second of a folder of JPEGs too large for memory, against Keras's own reader."""

import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runner.datasets import arrays, folder
from runner.training.data import Batches, Held

pytestmark = pytest.mark.bench

IMAGES, SIDE, SIZE, TURNS = 2000, 320, 224, 5


def per_second(batches: Iterable[Any]) -> float:
    began = time.perf_counter()
    images = sum(len(x) for x, _ in batches)
    return images / (time.perf_counter() - began)


def test_images_per_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In turns, so that whatever disturbs the machine disturbs all."""
    import keras

    monkeypatch.setattr(arrays, "IN_MEMORY", 0.0)
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        file = tmp_path / "jpegs" / str(number % 10) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (SIDE // 16, SIDE // 16, 3)).astype("uint8")
        picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(file, quality=90)
    found: dict[str, list[float]] = {"keras": [], "decoded once": [], "an epoch": []}
    for turn in range(TURNS + 1):  # the first one warms up
        read = keras.utils.image_dataset_from_directory(
            tmp_path / "jpegs", image_size=(SIZE, SIZE), seed=1, verbose=False
        )
        monkeypatch.setenv("RUNNER_CACHE", str(tmp_path / f"cache-{turn}"))
        keras_speed = per_second(read)
        began = time.perf_counter()
        data = folder.load(path=str(tmp_path / "jpegs"), image_size=SIZE, test_split=0.001)
        seconds = time.perf_counter() - began
        held = Held((data.x_train, data.y_train), own=True)
        rows = np.arange(len(data.x_train))
        batches = Batches.of_rows(held, rows, batch_size=32, seed=turn).get_tf_dataset()
        for name, speed in zip(
            found, (keras_speed, IMAGES / seconds, per_second(batches)), strict=True
        ):
            found[name] += [speed] if turn else []
    print("\nimages/s", {name: round(statistics.median(each)) for name, each in found.items()})
    ratios = [one / other for one, other in zip(found["an epoch"], found["keras"], strict=True)]
    print(f"an epoch, against Keras's: {statistics.median(ratios):.2f}, least {min(ratios):.2f}")
