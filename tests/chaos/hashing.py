"""`runner`, but a training is a chain of hashes: exact, restorable, and without TensorFlow.

Everything else is the product: the worker, its heartbeat, the queue, the checkpoints with their
packs and manifests. So eight of these fit on two cores, and what they leave must be, bit for
bit, what an undisturbed chain leaves.

HASHING_HOST names the machine that the process pretends to be, so that nobody can see whether it
lives; HASHING_STEPS is a folder on this machine for the steps really done, a line each.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.ledger import Ledger, Snapshot
from runner.checkpoint.manifest import Position
from runner.engine import running, worker
from runner.engine.stages import Attempt
from runner.errors import PreemptedError
from runner.queue.job import Stage
from runner.queue.owner import this_process
from runner.training.progress import Progress

SIZE = 1024  # bytes of the state
EVALUATION_STEPS = 5


def run_stage(attempt: Attempt) -> None:
    """Do what `runner.engine.stages.run_stage` does, with hashes."""
    if attempt.lease.job.stage is Stage.TRAIN:
        train(attempt)
    else:
        evaluate(attempt)


def train(attempt: Attempt) -> None:
    spec, job = attempt.spec, attempt.lease.job
    ledger = Ledger(
        attempt.store,
        attempt.prefix,
        token=attempt.lease.token,
        commit=attempt.commit,
        checkpoints=job.checkpoints,
    )
    saver = Checkpointer(ledger, patience_seconds=600.0)
    try:
        restored = saver.restore()
        state = first(spec["seed"]) if restored is None else restored.tensors["model/0"].tobytes()
        step = 0 if restored is None else restored.position.global_step
        if restored is None:
            saver.save(snapshot(state, 0), wait=True)
        while step < spec["steps"]:
            if reason := attempt.should_stop():
                saver.save(snapshot(state, step), wait=True)
                raise PreemptedError(f"stopped ({reason}); saved at step {step}.")
            time.sleep(spec["step_seconds"])
            step, state = step + 1, following(state, step + 1)
            tell(attempt, "train", step, spec["steps"])
            note(job.id, attempt.lease.token, step)  # until it is told, a signal may end it at once
            saver.check()
            if step % spec["every"] == 0:
                saver.save(snapshot(state, step))
        saver.save(snapshot(state, step), wait=True)
        final = saver.last_committed
        assert final is not None
        attempt.lease.finish(final=final.to_json())
    finally:
        saver.close()


def evaluate(attempt: Attempt) -> None:
    job = attempt.lease.job
    assert job.final is not None
    state = np.frombuffer(first(0), "uint8")
    ledger = Ledger(
        attempt.store, attempt.prefix, token=attempt.lease.token, commit=lambda _: None,
        checkpoints=[job.final],
    )  # fmt: skip
    restored = ledger.restore()
    assert restored is not None
    state = restored.tensors["model/0"]
    for step in range(1, EVALUATION_STEPS + 1):
        if reason := attempt.should_stop():
            raise PreemptedError(f"stopped ({reason}) while evaluating.")
        time.sleep(attempt.spec["step_seconds"])
        tell(attempt, "evaluate", step, EVALUATION_STEPS)
    attempt.lease.finish(evaluation={"top_1": float(state.mean()) / 255})


def first(seed: int) -> bytes:
    return blake3(f"seed {seed}".encode()).digest(length=SIZE)


def following(state: bytes, step: int) -> bytes:
    return blake3(state + step.to_bytes(8, "big")).digest(length=SIZE)


def snapshot(state: bytes, step: int) -> Snapshot:
    tensors = [("model/0", np.frombuffer(state, "uint8"))]
    return Snapshot(tensors=tensors, python={}, position=Position(global_step=step))


def tell(attempt: Attempt, stage: str, step: int, steps: int) -> None:
    done = step if stage == "train" else attempt.lease.job.step
    attempt.progressed(
        Progress(stage=stage, epochs=1, step=step, steps=steps, global_step=done)
    )  # fmt: skip


def note(job_id: str, token: int, step: int) -> None:
    """Leave on this machine that the step was done, whatever becomes of it."""
    folder = os.environ.get("HASHING_STEPS")
    if folder:
        with Path(folder, f"{job_id}.{token}").open("a", encoding="ascii") as file:
            file.write(f"{step} {time.time()}\n")


def owner() -> Mapping[str, Any]:
    return {**this_process(), "host": os.environ["HASHING_HOST"]}


STAND_INS: list[tuple[Any, str, Any]] = [
    (running, "run_stage", run_stage),
    (worker, "missing_here", lambda spec, store_url, *, begun: ""),
    (worker, "import_keras", lambda: None),
]


def install() -> None:
    """Put the hashes in the place of the training, which needs nothing of the machine."""
    for module, name, stand_in in STAND_INS:
        setattr(module, name, stand_in)


if __name__ == "__main__":
    install()
    setattr(worker, "this_process", owner)  # noqa: B010
    from runner.cli.main import main

    sys.exit(main())
