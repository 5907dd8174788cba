"""The quickstart, killed for real at the worst moments, ends bit-identically.

Real processes, really killed; each attempt is a new process. The outcome is compared with
that of a run that nobody touched: final digest, History, evaluation.
"""

import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness import OFTEN, QUICKSTART, Runner, assert_same, finish, kill, sets, wait_until

FEW = ("pack:2", "committed:3", "evaluation:2")
#: one death after the other, in one training, and its evaluation at the end
DEATHS = (
    "claimed",
    "pack:2",
    "validation:2",
    "epoch:2",
    "committed:3",
    "finish",
    "evaluation:2",
)


#: a smaller network, since its start is traced anew after each death
SMALL = {
    **OFTEN,
    "model": {"name": "mlp", "arguments": {"dropout": 0.3}},
    "training.batch_size": 8,
    "training.epochs": 8,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runner = Runner(tmp_path_factory.mktemp("undisturbed"))
    done = runner.run("submit", str(QUICKSTART))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "quickstart\n"
    return runner.status("quickstart")


def test_quickstart_learns(undisturbed: dict[str, Any]) -> None:
    """At least 90 % of the test images are recognised."""
    assert undisturbed["state"] == "succeeded"
    assert undisturbed["evaluation"]["top_1"] >= 0.9
    assert undisturbed["final"]["step"] == undisturbed["step"]
    assert undisturbed["parameters"] == undisturbed["evaluation"]["parameters"]
    assert len(undisturbed["history"]["val_top_1"]) == undisturbed["epoch"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runner = Runner(tmp_path_factory.mktemp("small"), warm=True)
    runner.ok("submit", str(QUICKSTART), *sets(SMALL))
    return runner.status("quickstart")


@pytest.mark.parametrize("deaths", [FEW, pytest.param(DEATHS, marks=pytest.mark.slow)])
def test_killed_at_chosen_moments(
    deaths: Sequence[str], small: dict[str, Any], tmp_path: Path
) -> None:
    """In one training: no difference, not even how often checkpoints were taken."""
    runner = Runner(tmp_path, warm=True)
    runner.ok("submit", str(QUICKSTART), "--detach", *sets(SMALL))
    stray = tmp_path / "jobs/quickstart/evaluation/t1-0123456789abcdef.npz"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"half an evaluation")
    status = finish(runner, "quickstart", *deaths)
    assert_same(status, small)
    assert (status["deaths"], status["preemptions"]) == (len(deaths), 0)
    assert status["attempts"] == len(deaths) + 2
    assert status["failures"] == 0
    log = runner.ok("logs", "quickstart")
    wordless = deaths.count("claimed")  # it died before it could say a word
    assert log.count("attempt ") == status["attempts"] - wordless
    told = {
        line.split("epoch ")[1].split("/")[0] for line in log.splitlines() if "Z epoch " in line
    }
    assert told == {str(epoch + 1) for epoch in range(status["epoch"])}, "an epoch is missing"
    left = {str(path.relative_to(tmp_path)) for path in stray.parent.iterdir()}
    run = status["evaluation_run"]
    assert left == {run["json"], run["npz"]}, "exactly once"


@pytest.mark.slow
def test_killed_at_random_moments(small: dict[str, Any], tmp_path: Path) -> None:
    """Whenever the power fails."""
    seed = random.randrange(1 << 30)
    runner = Runner(tmp_path, warm=True)
    kills = killed_at_random(runner, small, kills=6, seed=seed, changes=SMALL)
    assert kills >= 4, f"seed {seed}"


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_killed_twenty_times_in_one_training(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Twenty deaths at random moments of one job."""
    seed = random.randrange(1 << 30)
    kills = killed_at_random(Runner(tmp_path, warm=True), undisturbed, kills=25, seed=seed)
    assert kills >= 20, f"seed {seed}"


def killed_at_random(
    runner: Runner,
    undisturbed: dict[str, Any],
    *,
    kills: int,
    seed: int,
    changes: Mapping[str, object] = OFTEN,
) -> int:
    """Kill at random steps of the whole job, spread over its length; how often it was."""
    generator = random.Random(seed)
    total = undisturbed["step"]
    runner.ok("submit", str(QUICKSTART), "--detach", *sets(changes))
    killed = 0
    for target in sorted(generator.sample(range(total), kills)):
        process = runner.start("resume", "quickstart")

        def far_enough(target: int = target) -> bool:
            job = runner.job("quickstart")
            return job is not None and job.step >= target and job.state.value == "running"

        reached = wait_until(far_enough, process)
        time.sleep(generator.random() * 0.3)
        if not reached or process.poll() is not None:
            process.communicate()
            continue
        kill(process)
        killed += 1
    status = finish(runner, "quickstart")
    print(f"seed {seed}: {killed} kills", json.dumps(status["final"]))
    assert_same(status, undisturbed)
    return killed
