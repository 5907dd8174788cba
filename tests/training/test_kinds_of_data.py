"""Whatever data fit is given: killed at any step and resumed, the training is the same one.

Each attempt is a process of its own, and seeds everything differently. The History has a metric
that is another if any batch comes at another step; `runner drill` records the batches themselves.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import need
from tests.training import kinds_of_data
from tests.training.killing import ROOT, Warm, differences, environment, killed, undisturbed
from tests.training.kinds_of_data import EPOCHS, KINDS, STEPS

PROGRAM = Path(kinds_of_data.__file__)
#: other moments: RUNNER_CHAOS_SEED=7 make chaos
SEED = os.environ.get("RUNNER_CHAOS_SEED", "1")
FEW = ("PyDataset, threads", "IterDataset", "pipeline that reshuffles")


@pytest.fixture(scope="module", params=["tensorflow", "jax"])
def backend(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def warm(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    process = Warm(tmp_path_factory.mktemp("warm"), PROGRAM, KERAS_BACKEND=backend)
    yield process
    process.close()


def need_what_reads(kind: str) -> None:
    if "pipeline" in kind or kind.endswith(", tf"):
        need("tensorflow")
    elif "PyDataset" not in kind:
        need("grain", *["keras_hub"] * ("KerasHub" in kind))


def kill_and_compare(kind: str, kills: int, folder: Path, warm: Warm) -> None:
    need_what_reads(kind)
    options, draw = {"kind": kind}, random.Random(f"{SEED} {kind}")
    steps = EPOCHS * (7 if "endless" in kind else STEPS)
    moments: list[dict[str, Any]] = [
        {"kind": draw.choice(["batch_begin", "batch_end"]), "at": at}
        for at in sorted(draw.sample(range(1, steps), min(kills, steps - 1)))
    ]
    moments.insert(0, {"kind": "epoch_end", "at": 0})  # all steps of an epoch are done, and saved
    moments[1:] = [one for one in moments[1:] if one["at"] >= steps // EPOCHS]
    print(moments)  # shown where it fails
    reference = undisturbed(folder / "reference", options, attempt=warm)
    found = killed(folder / "killed", options, moments, attempt=warm)
    assert differences(reference, found) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", FEW)
def test_killed_three_times_and_the_same(kind: str, tmp_path: Path, warm: Warm) -> None:
    kill_and_compare(kind, 3, tmp_path, warm)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_twenty_times_and_the_same(kind: str, tmp_path: Path, warm: Warm) -> None:
    kill_and_compare(kind, 20, tmp_path, warm)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_see_the_same_batches(kind: str, backend: str, tmp_path: Path) -> None:
    need_what_reads(kind)
    program = [sys.executable, str(PROGRAM), str(tmp_path / "place"), json.dumps({"kind": kind})]
    drill = [sys.executable, "-m", "runner", "drill", "--kills", "5", "--seed", SEED, "--"]
    done = subprocess.run(
        [*drill, *program],
        cwd=ROOT,
        env=environment() | {"KERAS_BACKEND": backend, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "IDENTICAL, killed 5 times: batches" in done.stdout, done.stdout + done.stderr[-3000:]
