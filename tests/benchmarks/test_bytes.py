"""What checkpoints write, and what a bucket holds after a thousand of them."""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.ledger import Ledger, Snapshot
from runner.checkpoint.manifest import Position
from runner.checkpoint.reading import read_manifest
from runner.commit import Commit
from runner.queue.queue import Queue
from tests.benchmarks._tables import REPEATS, spread, table
from tests.benchmarks._training import Commits, batches, compiled, trained
from tests.store.memory import MemoryStore

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

MANY = int(os.environ.get("RUNNER_BENCH_CHECKPOINTS", "1000"))
FROZEN = 249  #: layers of InceptionV3 below its two top blocks


def test_transfer(tmp_path: Path) -> None:
    """Two blocks of InceptionV3 are trained: what is written, against what has changed."""
    from runner.checkpoint.policy import Interval

    arguments = {"weights": None, "image_size": None, "train_from": FROZEN}
    model = compiled("transfer", arguments, image_size=96)
    manifests: list[Any] = []

    class Reading(Commits):
        def __call__(self, commit: Commit) -> None:
            super().__call__(commit)
            manifests.append(read_manifest(self.store, self.manifests[-1]))

    commits = Reading(tmp_path)
    data = batches(2 * (REPEATS + 1), image_size=96, batch=4)
    trained(model, data, commits, Interval(steps=2), [waiting(commits.checkpointer)])
    # the last one is that of the end: nothing has changed since the one before
    manifests.pop()
    written = np.diff(commits.bytes_written[:-1]).tolist()
    changed = [
        sum(
            place.length
            for name, place in after.tensors.items()
            if place.hash != before.tensors[name].hash
        )
        for before, after in itertools.pairwise(manifests)
    ]
    table(
        "Transfer learning, InceptionV3 with two blocks training and Adam, a checkpoint every 2"
        f" steps; median (range) of {len(written)}",
        ("state, MB", "changed, MB", "written, MB", "ratio", "in all"),
        [
            (
                f"{manifests[-1].state_bytes / 1e6:.1f}",
                spread([one / 1e6 for one in changed]),
                spread([one / 1e6 for one in written]),
                spread([w / c for w, c in zip(written, changed, strict=True)], digits=4),
                f"{sum(written) / sum(changed):.4f}",
            )
        ],
    )


def waiting(checkpointer: Checkpointer) -> Any:
    """Let each checkpoint be written before the next step, so that none is skipped."""
    from tests.benchmarks._training import at_each_step

    return at_each_step(lambda step: checkpointer.wait(), lambda step: None)


def test_a_thousand_checkpoints() -> None:
    """What is kept stays bounded; the log grows by a small record each."""
    store = MemoryStore()
    queue = Queue(store)
    lease = queue.claim(queue.submit("long", {"seed": 1}), {"host": "here", "pid": 1})
    saver = Checkpointer(Ledger(store, "jobs/long", token=1, commit=lease.commit))
    random = np.random.default_rng(1)
    state = {f"layer{n:02d}": random.random(1 << (5 + n % 8)) for n in range(40)}
    whole = sum(array.nbytes for array in state.values())
    kept: list[int] = []
    log = 0
    for step in range(1, MANY + 1):
        for name in random.choice(list(state), int(random.integers(1, 20)), replace=False):
            state[name] = random.random(state[name].shape)
        snapshot = Snapshot(
            tensors=list(state.items()), python={}, position=Position(global_step=step)
        )
        saver.save(snapshot, wait=True)
        kept.append(held(store, "jobs/long/packs/") + held(store, "jobs/long/checkpoints/"))
    saver.close()
    log = held(store, "jobs/long/log/")
    table(
        f"{MANY:,} checkpoints of a state of {whole / 1e3:.0f} kB, of which 1 to 19 of 40 tensors"
        " change; two are kept",
        ("checkpoints", "held, x state", "objects", "log, bytes a checkpoint"),
        [
            (
                f"{first + 1:,} to {last:,}",
                f"{max(kept[first:last]) / whole:.2f} at most, {kept[last - 1] / whole:.2f} last",
                str(len(store.list("jobs/long/packs/"))) if last == MANY else "",
                f"{log / MANY:.0f}" if last == MANY else "",
            )
            for first, last in ((0, MANY // 10), (MANY // 10, MANY // 2), (MANY // 2, MANY))
        ],
    )


def held(store: MemoryStore, folder: str) -> int:
    return sum(store.size(key) or 0 for key in store.list(folder))
