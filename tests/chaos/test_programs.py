"""Any Keras training is a job: programs after Keras's public examples, each killed ten times.

Each is trained and evaluated undisturbed, and once more with a kill at ten random moments, each
attempt a process of its own, every other one with another order of sets and dicts.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.examples import JAX, TENSORFLOW
from tests.chaos.examples.files import write_pictures, write_table
from tests.harness import Runner, assert_same, need

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

CODE = Path(__file__).with_name("programs")
EPOCHS, KILLS = 3, 10
#: other moments: RUNNER_CHAOS_SEED=7 make chaos
SEED = os.environ.get("RUNNER_CHAOS_SEED", "1")


@dataclass(frozen=True, kw_only=True)
class Case:
    backends: tuple[str, ...] = (TENSORFLOW, JAX)
    needs: tuple[str, ...] = ()  #: packages besides Keras and its backend
    write: Callable[[Path], object] | None = None  #: its data, at the path that it is given


TENSORFLOW_STEP, TF_DATA = Case(backends=(TENSORFLOW,)), Case(needs=(TENSORFLOW,))
PROGRAMS = {
    "dcgan": TENSORFLOW_STEP,
    "vae": TENSORFLOW_STEP,
    "jax_step": Case(backends=(JAX,)),
    "reviews": TF_DATA,
    "table": Case(needs=(TENSORFLOW,), write=lambda path: write_table(path, 208)),
    "weather": TF_DATA,
    "unet": Case(),
    "wide_and_deep": Case(),
    "lora": Case(needs=(TENSORFLOW, "keras_hub")),
    "quantiles": Case(),
    "warm_up": Case(),
    "imbalanced": Case(),
    "pictures": Case(needs=(TENSORFLOW,), write=write_pictures),
}
CASES = [(name, backend) for name, case in PROGRAMS.items() for backend in case.backends]


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let JAX compile once what several processes run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNNER_CODE", str(CODE))
        patch.setenv("JAX_PLATFORMS", os.environ.get("JAX_PLATFORMS") or "cpu")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        yield


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_ten_kills_change_nothing(name: str, backend: str, tmp_path: Path) -> None:
    needs = PROGRAMS[name].needs
    need(backend, *needs)
    spec = write_spec(name, tmp_path)
    early = {
        "KERAS_BACKEND": backend,
        "WARM_IMPORTS": " ".join(package for package in needs if package != backend),
    }
    reference, runner = (
        Runner(tmp_path / kind, early, warm=True) for kind in ("undisturbed", "killed")
    )
    reference.ok("submit", str(spec), "--detach")
    shutil.copytree(reference.store, runner.store)
    reference.ok("resume", name)
    undisturbed = reference.status(name)
    assert undisturbed["step"] >= 3 * KILLS - 6, "too short for so many kills"
    assert undisturbed["evaluation"]
    deaths = random_deaths(undisturbed, random.Random(f"{SEED} {name}"))
    for number, death in enumerate([*deaths, None]):
        job = runner.job(name)
        assert job is not None
        done = runner.run(
            "resume",
            name,
            sabotage=death.sabotage(job.step) if death else "",
            environment={"PYTHONHASHSEED": str(1 + number % 2)},
        )
        said = f"{death}: {done.stderr[-3000:]}"
        assert done.returncode == (0 if death is None else -9), said
    status = runner.status(name)
    assert_same(status, undisturbed)
    assert status["deaths"] == KILLS


def write_spec(name: str, folder: Path) -> Path:
    program: dict[str, Any] = {"name": name}
    if write := PROGRAMS[name].write:
        program["path"] = str(folder / "data")
        write(folder / "data")
    spec = {
        "name": name,
        "seed": 1,
        "program": program,
        "training": {"epochs": EPOCHS},
        "checkpoint": {"every": "1 steps"},
        "limits": {"deaths": 1000},
    }
    path = folder / "job.json"
    path.write_text(json.dumps(spec))
    return path


@dataclass(frozen=True, order=True, kw_only=True)
class Death:
    """A moment in a job, whatever was done before; they come in their order."""

    step: int  #: that is done, of the whole training
    part: int  #: what happens then: a place in PARTS
    epoch_steps: int
    rest: float = 0.0  #: seconds, for a checkpoint that is being written

    def sabotage(self, done: int) -> str:
        """What the process is told that resumes after so many steps."""
        moment = PARTS[self.part]
        count = 1
        if moment == "step":
            count = self.step - done
        elif moment == "test_begin":
            count = max(1, self.step // self.epoch_steps - done // self.epoch_steps)
        return moment if ":" in moment else f"{moment}:{count}:{self.rest}"


#: finish:2 is that of the evaluation, which the same process goes on to
PARTS = ["step", "test_begin", "epoch", "train_end", "finish", "finish:2"]


def random_deaths(undisturbed: dict[str, Any], rng: random.Random) -> list[Death]:
    """Nine moments of the training, and one of its end."""
    steps, history = undisturbed["step"], undisturbed["history"]
    size = steps // undisturbed["epoch"]
    moments = [(step, "step") for step in range(1, steps + 1)]
    parts = ["epoch"] + ["test_begin"] * ("val_loss" in history)
    moments += [(step, part) for step in range(size, steps + 1, size) for part in parts]
    chosen = [*rng.sample(moments, KILLS - 1), (steps, rng.choice(PARTS[3:]))]
    return sorted(
        Death(step=step, part=PARTS.index(part), epoch_steps=size, rest=rng.choice([0.0, 0.0, 0.1]))
        for step, part in chosen
    )
