"""Made data in files; nothing of Keras, so that a test can write them."""

from pathlib import Path

import numpy as np


def write_table(path: Path, rows: int = 96) -> None:
    """A CSV table of numbers, words and a target."""
    rng = np.random.default_rng(2)
    lines = [
        f"{rng.integers(20, 80)},{rng.choice(['low', 'high', 'fixed'])},"
        f"{rng.normal():.3f},{rng.integers(0, 4)},{rng.integers(0, 2)}"
        for _ in range(rows)
    ]
    path.write_text("\n".join(["age,blood,slope,vessels,target", *lines]) + "\n")


def write_pictures(folder: Path, each: int = 36) -> None:
    """A folder of pictures for each colour."""
    from PIL import Image

    rng = np.random.default_rng(4)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 160, (40, 36, 3), dtype="uint8")
            pixels[..., channel] += 40
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
