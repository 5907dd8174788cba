"""The committed jobs are the study's runs: they validate, and their networks have its sizes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runner import registry, spec, specfile

JOBS = Path(__file__).resolve().parents[1] / "jobs"

PARAMETERS = {
    "quickstart": 169_974,
    **dict.fromkeys(
        [
            *("myinception-na", "myinception-au", "myinception-ma"),
            *("myinception-rmsprop-au", "myinception-gentle-stem-au", "myinception-dropout-na"),
        ],
        5_741_188,
    ),
    **dict.fromkeys(["myinception-dropout-au", "myinception-dropout-ma"], 6_554_244),
    **dict.fromkeys([f"myinception-dropout-small-{r}" for r in ("na", "au", "ma")], 2_884_612),
    "myinception-attention-au": 6_059_460,
    "myinception-factorised-au": 5_671_668,
    **dict.fromkeys([f"transfer-inceptionv3-{r}" for r in ("na", "au", "ma")], 24_003_460),
}

#: jobs of runner/programs; tests/training/test_programs.py trains them
PROGRAMS = {"descriptions", "diabetes"}


def job(name: str) -> spec.JobSpec:
    return specfile.load(JOBS / f"{name}.json")


@cache
def parameters(model: str, arguments: str, shape: tuple[int, int, int], classes: int) -> int:
    network = registry.get("models", model)(
        input_shape=shape, classes=classes, **json.loads(arguments)
    )
    return int(network.count_params())


def test_every_job_is_known_here() -> None:
    files = {path.stem for path in JOBS.glob("[!.]*.json")}
    assert files == set(PARAMETERS) | PROGRAMS


@pytest.mark.parametrize("name", [*PARAMETERS, *sorted(PROGRAMS)])
def test_job_validates_and_says_what_it_is(name: str) -> None:
    found = job(name)
    assert found.name == name
    assert found.description.endswith(".")


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_network_has_the_studys_size(name: str, count: int) -> None:
    model = job(name).model
    digits = name == "quickstart"
    shape, classes = ((16, 16, 1), 10) if digits else ((32, 32, 3), 100)
    assert parameters(model.name, json.dumps(model.arguments), shape, classes) == count


@pytest.mark.parametrize(
    ("regime", "repeat", "batch"), [("na", 1, 512), ("au", 1, 1024), ("ma", 4, 1024)]
)
def test_regimes(regime: str, repeat: int, batch: int) -> None:
    for family in ("myinception", "myinception-dropout", "myinception-dropout-small"):
        found: Any = job(f"{family}-{regime}")
        assert found.data.repeat == repeat
        assert found.data.validation_split == 0.2
        assert found.training.batch_size == batch
        assert (found.augmentation is None) == (regime == "na")
        assert found.training.early_stopping.patience == 10
        assert found.training.early_stopping.restore_best_weights
