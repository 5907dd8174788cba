"""Exactness on what Keras has: each combination is killed twice and must end the same."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.killing import Warm, differences, killed, undisturbed

OPTIMIZERS = ["SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor"]
OPTIMIZERS += ["Nadam", "Ftrl", "Lion", "Lamb", "Muon"]

SIGNED = {"value_range": [-1, 1]}
#: every random layer of Keras that needs no labels
RANDOM: dict[str, list[Any]] = {
    "geometry": [
        ["RandomTranslation", {"height_factor": 0.1, "width_factor": 0.1}],
        ["RandomShear", {"x_factor": 0.1, "y_factor": 0.1}],
        ["RandomPerspective", {"factor": 0.5}],
        ["RandomElasticTransform", {"factor": 0.5, **SIGNED}],
        ["RandomCrop", {"height": 11, "width": 11}],
    ],
    "colour": [
        ["RandomHue", {"factor": 0.2, **SIGNED}],
        ["RandomSaturation", {"factor": 0.5, **SIGNED}],
        ["RandomSharpness", {"factor": 0.5, **SIGNED}],
        ["RandomColorDegeneration", {"factor": 0.5, **SIGNED}],
        ["RandomColorJitter", {"brightness_factor": 0.2, "hue_factor": 0.1, **SIGNED}],
    ],
    "tone": [
        ["RandomGrayscale", {"factor": 0.5}],
        ["RandomInvert", {"factor": 0.5, **SIGNED}],
        ["RandomPosterization", {"factor": 4, **SIGNED}],
        ["Solarization", {"addition_factor": 0.1, "threshold_factor": 0.5, **SIGNED}],
    ],
    "mixtures": [
        ["RandomErasing", {"factor": 0.5, **SIGNED}],
        ["RandomGaussianBlur", {"factor": 0.5, **SIGNED}],
        ["RandAugment", SIGNED],
    ],
    "choices made while traced": [["AugMix", SIGNED]],
}

MATRIX: dict[str, dict[str, Any]] = {
    "steps_per_execution 4, not dividing": {"steps_per_execution": 4},
    "steps_per_execution 3, dividing": {"steps_per_execution": 3},
    "float16": {"precision": "mixed_float16"},
    "float16, growing loss scale": {"precision": "mixed_float16", "loss_scale": True},
    "bfloat16": {"precision": "mixed_bfloat16"},
    "moving average": {"optimizer_arguments": {"use_ema": True, "ema_overwrite_frequency": 4}},
    "moving average at the end": {"optimizer_arguments": {"use_ema": True}},
    "moving average swapped in": {"optimizer_arguments": {"use_ema": True}, "swap_ema": True},
    "gradient accumulation": {"optimizer_arguments": {"gradient_accumulation_steps": 4}},
    "clipped gradients": {"optimizer_arguments": {"global_clipnorm": 0.5}},
    "schedule": {"schedule": True},
    "LearningRateScheduler": {"scheduler": True, "plateau": False},
    "TerminateOnNaN": {"terminate": True},
    "TensorBoard": {"tensorboard": True},
    "class and sample weights": {"class_weight": True, "sample_weight": True},
    "XLA": {"jit_compile": True, "augmentation": ["RandomFlip"], "deterministic": False},
    "eager": {"eager": True},
    "two replicas": {"replicas": 2},
    "two replicas, float16": {"replicas": 2, "precision": "mixed_float16"},
    "validation_steps": {"validation_steps": 2},
    "validation_freq": {"validation_freq": 2, "patience": 1},
    "other augmentation": {
        "augmentation": ["RandomFlip", "RandomBrightness", "RandomContrast", "GaussianNoise"]
    },
    "custom train_step": {"custom_step": True},
    "callback that says its state": {"stateful_callback": True, "plateau": False},
    **{f"augmentation: {name}": {"augmentation": layers} for name, layers in RANDOM.items()},
    **{f"optimizer {name}": {"optimizer": name} for name in OPTIMIZERS},
}


#: of each combination; all of them together make some 250
KILLS = int(os.environ.get("RUNNER_CHAOS_KILLS", "5"))
#: another seed, other moments: RUNNER_CHAOS_SEED=7 make chaos
SEED = int(os.environ.get("RUNNER_CHAOS_SEED", "1"))
EPOCHS, STEPS = 3, 6


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    process = Warm(tmp_path_factory.mktemp("warm"))
    yield process
    process.close()


def moments(rng: random.Random, together: int) -> list[dict[str, Any]]:
    """Random moments to die at, in the order in which a training that comes back passes them.

    All come after the first commit, since each attempt draws another beginning.
    """
    kills: list[dict[str, Any]] = []
    for at in sorted(rng.sample(range(together, EPOCHS * STEPS), KILLS)):
        epoch, step = divmod(at, STEPS)
        kinds: list[dict[str, Any]] = [
            {"kind": "batch_end", "at": at},
            {"kind": "batch_begin", "at": at - step % together},
            {"kind": "store", "at": 0, "n": 1 if kills else 3, **rng.choice(CALLS)},
        ]
        if step == STEPS - 1:
            kinds = [{"kind": "epoch_end", "at": epoch}, {"kind": "batch_end", "at": at}]
            if epoch % 2:  # validated in every combination
                kinds.append({"kind": "validation", "at": epoch})
        kills.append(rng.choice(kinds))
    return kills


#: what a store does next in any attempt, so that it is a moment that comes for sure
CALLS: list[dict[str, Any]] = [
    {"operation": operation, "key": key, "when": when}
    for operation, key in (("put", "packs/"), ("put", "checkpoints/"), ("create", "log/"))
    for when in ("before", "after")
]


@pytest.mark.chaos
@pytest.mark.parametrize("name", MATRIX)
def test_killed_at_random_moments_and_the_same(tmp_path: Path, name: str, warm: Warm) -> None:
    if name == "TensorBoard":
        pytest.importorskip("tensorboard")
    options = {"epochs": EPOCHS, **MATRIX[name]}
    reference = undisturbed(tmp_path / "reference", options, attempt=warm)
    together = options.get("steps_per_execution", 1)
    kills = moments(random.Random(f"{SEED} {name}"), together)
    print(name, kills)  # shown where it fails
    found = killed(tmp_path / "killed", options, kills, attempt=warm)
    assert differences(reference, found) == []


@pytest.mark.chaos
def test_more_threads_are_recorded_and_the_training_goes_on(tmp_path: Path) -> None:
    options = {"epochs": 3, "later_threads": 2}
    found = killed(tmp_path / "run", options, [{"kind": "batch_end", "at": 8}])
    assert found["epochs"] == [0, 1, 2]
    records = [path.read_text() for path in (tmp_path / "run/backup/training/log").iterdir()]
    assert any("continued on different numerics: threads 1 -> 2" in text for text in records)
