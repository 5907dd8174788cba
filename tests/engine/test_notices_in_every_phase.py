"""Whatever the machine announces, and whenever: the job is saved, let go, and the exit code 75.

After its notice a phase takes much longer than the notice is, see `tests.announcer`.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.queue.job import Job, State
from tests.harness import Runner
from tests.metadata import NOTICES, Metadata, serving

GRACE_SECONDS = 30
SECONDS = {**NOTICES, "kubernetes": GRACE_SECONDS}
PHASES = ("waiting", "building", "training", "validation", "evaluation")
SPEC: dict[str, Any] = {
    "name": "noticed",
    "seed": 3,
    "data": {"name": "digits", "arguments": {"image_size": 8}, "validation_split": 0.3},
    "model": {"name": "mlp", "arguments": {"units": [8]}},
    "training": {"batch_size": 16, "epochs": 2},
    "checkpoint": {"every": "10 epochs", "max_loss": "1h"},  # only a notice saves
    "evaluation": {"augmented_passes": 0, "batch_size": 16},
}


@pytest.fixture
def machine() -> Iterator[Metadata]:
    with serving() as metadata:
        yield metadata


def noticed(
    runner: Runner, machine: Metadata, phase: str, kind: str, *, grace: int | None = None
) -> tuple[Job, str]:
    """Get the notice in this phase; the job after that, and what the process said."""
    environment = (
        {"RUNNER_GRACE_SECONDS": str(grace or GRACE_SECONDS)}
        if kind == "kubernetes"
        else machine.environment(kind)
    )
    process = runner.start(
        "resume",
        "noticed",
        module="tests.announcer",
        environment={
            **environment,
            "ANNOUNCE": phase,
            "KIND": kind,
            "METADATA": machine.url,
        },
    )
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it goes on and on: {process.communicate()[1][-3000:]}")
    ended_at = time.time()
    announced_at = float(out.split()[1]) if kind == "kubernetes" else machine.announced_at
    assert announced_at > 0, f"the phase never came: {err[-3000:]}"
    assert process.returncode == 75, err[-3000:]
    assert "Traceback" not in err
    job = runner.job("noticed")
    assert job is not None
    seconds = SECONDS[kind] if grace is None else grace
    let_go_at = job.updated_at.timestamp() if phase != "waiting" else 0.0
    # with hardly any grace, the end of a process with TensorFlow on a busy machine may be late
    assert (ended_at if grace is None else let_go_at) - announced_at < seconds, err[-3000:]
    return job, err


def check(runner: Runner, machine: Metadata, phase: str, kind: str) -> None:
    """One notice in one phase."""
    before = runner.job("noticed")
    assert before is not None
    if phase == "waiting":
        claim_from_elsewhere(runner)
    job, said = noticed(runner, machine, phase, kind)
    if phase == "waiting":
        assert job.state is State.RUNNING, "it is another's"
        return
    assert job.state is State.QUEUED
    assert job.preemptions == before.preemptions + 1
    assert job.reason is not None
    name = (
        "SIGTERM"
        if kind == "kubernetes"
        else {"gce": "GCE", "ec2": "EC2", "azu": "Azure"}[kind[:3]]
    )
    assert name in job.reason, "the record tells why"
    assert name in said
    if phase in ("training", "validation"):
        assert f"saved at step {job.step}" in job.reason
        assert job.checkpoints[0]["step"] == job.step > before.step, "the newest state is saved"
    if phase == "evaluation":
        assert job.stage.value == "evaluate"


def claim_from_elsewhere(runner: Runner) -> None:
    """Take the job as a machine that is silent from then on."""
    queue = runner.queue()
    queue.claim(queue.job("noticed"), {"host": "elsewhere", "pid": 1, "boot": "other"})


def submitted(folder: Path, environment: dict[str, str] | None = None) -> Runner:
    path = folder / "job.json"
    path.write_text(json.dumps(SPEC))
    settings = {"RUNNER_LEASE_SECONDS": "20", **(environment or {})}
    runner = Runner(folder / "store", settings, warm=True)
    runner.ok("submit", str(path), "--detach")
    return runner


@pytest.mark.slow
def test_a_preemption_of_gces_in_each_phase(tmp_path: Path) -> None:
    """One job goes through all phases, interrupted in each, and ends as if nothing had been."""
    runner = submitted(tmp_path)
    for phase in ("building", "training", "validation", "evaluation"):
        with serving() as machine:
            check(runner, machine, phase, "gce-preempted")
    with serving() as machine:
        check(runner, machine, "waiting", "gce-preempted")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slow", "grace", "said"),
    [
        ("0,300", 8, "given up"),  # the bucket hangs when it matters
        ("4,4", 7, "the newest state is not saved: that takes about 4 s"),  # known beforehand
    ],
)
def test_a_state_that_cannot_be_saved_in_time_does_not_cost_the_release(
    machine: Metadata, tmp_path: Path, slow: str, grace: int, said: str
) -> None:
    """What was committed before is what the next one goes on from, at once."""
    runner = submitted(tmp_path, {"SLOW": slow})
    job, err = noticed(runner, machine, "training", "kubernetes", grace=grace)
    assert job.state is State.QUEUED
    assert job.reason.startswith("stopped (SIGTERM)")
    assert [checkpoint["step"] for checkpoint in job.checkpoints] == [0]
    assert said in err


@pytest.mark.chaos
@pytest.mark.parametrize("kind", [kind for kind in SECONDS if kind != "gce-preempted"])
@pytest.mark.parametrize("phase", PHASES)
def test_every_notice_in_every_phase(
    machine: Metadata, tmp_path: Path, phase: str, kind: str
) -> None:
    check(submitted(tmp_path), machine, phase, kind)
