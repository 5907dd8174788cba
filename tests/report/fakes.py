"""Stores with jobs that nobody trained: every shape a report may meet, made in milliseconds."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.ledger import Ledger, Snapshot
from runner.checkpoint.manifest import Position
from runner.evaluation import metrics
from runner.queue.lease import Lease
from runner.queue.protocol import Availability
from runner.queue.queue import Queue
from runner.store.base import Store

STEPS = 20  #: of an epoch
NUMERICS: dict[str, Any] = {
    "backend": "tensorflow", "tensorflow": "2.21.0", "keras": "3.15.1", "threads": 2,
    "deterministic": True, "cpu": "A processor (avx2)", "accelerators": ["Tesla T4"],
    "xla": False, "data_content": "1750f4a557981340",
}  # fmt: skip


class Clock:
    """A time that goes on when told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def passes(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@dataclass
class World:
    """A store, its queue and their time."""

    store: Store
    clock: Clock = field(default_factory=Clock)
    numerics: dict[str, Any] = field(default_factory=NUMERICS.copy)

    def __post_init__(self) -> None:
        seconds = lambda: self.clock().timestamp()  # noqa: E731
        self.queue = Queue(self.store, lease_seconds=60, now=self.clock, clock=seconds)

    def submit(self, name: str, **parts: Any) -> None:
        self.queue.submit(name, {"name": name, "training": {"epochs": 40}, **parts})

    def claim(self, name: str, host: str = "colab-1") -> Lease:
        """Take up a job, from its last worker if need be: that one is surely dead."""
        dead = Availability(claimable=True, why="it is dead")
        owner = {"host": host, "pid": 1, "git_commit": f"c0ffee-of-{host}"}
        return self.queue.claim(self.queue.job(name), owner, judged=dead)

    def save(self, lease: Lease, history: Mapping[str, Sequence[float | None]], step: int) -> None:
        """Commit a checkpoint at this step."""
        job = lease.job
        ledger = Ledger(
            self.store,
            f"jobs/{job.id}",
            token=lease.token,
            commit=lease.commit,
            checkpoints=job.checkpoints,
        )
        saver = Checkpointer(ledger)
        epoch = step // STEPS
        position = Position(epoch=epoch, step=step % STEPS, global_step=step)
        known = {metric: list(values[:epoch]) for metric, values in history.items()}
        tensors = [("model/0/kernel", np.full((10, 10), step, "float32"))]
        snapshot = Snapshot(
            tensors=tensors, python={}, position=position,
            history=known if epoch else {}, numerics=self.numerics,
        )  # fmt: skip
        saver.save(snapshot, wait=True)

    def train(
        self, name: str, history: Mapping[str, Any], *deaths: int, host: str = "gpu"
    ) -> Lease:
        """Train to the end of the history, dying after each of these steps; the last lease.

        A checkpoint is saved every ten steps; 30 s pass between two.
        """
        end = STEPS * max(map(len, history.values()))
        lease = self.claim(name, f"{host}-1")
        done = 0
        for attempt, death in enumerate([*deaths, end], 2):
            for step in range(done, death + 1, 10):
                self.clock.passes(30)
                self.save(lease, history, step)
            if death == end:
                break
            lease.renew(step=death, epoch=death // STEPS)
            done = death // 10 * 10
            self.clock.passes(600)
            lease = self.claim(name, f"{host}-{attempt}")
        return lease

    def finish(self, lease: Lease, **evaluation: Any) -> None:
        """End the training and store an evaluation, if any numbers for one are given."""
        final = lease.job.checkpoints[0]
        lease.finish(final=final, evaluate=bool(evaluation))
        if evaluation:
            lease = self.claim(lease.job.id)
            self.clock.passes(45)
            lease.finish(evaluation=store_evaluation(self.store, lease.job.id, **evaluation))


def history(epochs: int, seed: int = 0, best: float = 0.55) -> dict[str, list[float]]:
    """Return learning curves that look like some."""
    random = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for part, gain in (("", 1.1), ("val_", 0.95)):
        rise = 1 - np.exp(-np.arange(1, epochs + 1) / 8)
        top_1 = np.clip(best * gain * rise + random.normal(0, 0.012, epochs), 0.005, 1)
        found[f"{part}loss"] = [float(value) for value in 4.6 - 3.2 * top_1 - 0.3 * rise]
        found[f"{part}top_1"] = [float(value) for value in top_1]
        found[f"{part}top_5"] = [float(value) for value in np.clip(top_1 * 1.5, 0, 1)]
    return found


def predictions(classes: int, images: int, skill: float, seed: int = 0) -> dict[str, Any]:
    """Return labels and the probabilities of a network that has this skill, and its favourites."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    logits = random.normal(0, 1, (images, classes))
    liked = random.uniform(0.5, 1.5, classes)
    logits[np.arange(images), labels] += skill * 4 * liked[labels]
    logits[np.arange(images), labels ^ 1 if classes % 2 == 0 else labels] += skill * 2.2
    p = np.exp(logits)
    return {"labels": labels, "probabilities": (p / p.sum(axis=1, keepdims=True)).astype("float32")}


def store_evaluation(
    store: Store,
    job_id: str,
    *,
    labels: Any,
    probabilities: Any,
    names: Sequence[str] = (),
    passes: int = 2,
    change: Callable[[dict[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:
    """Write an evaluation as the engine does; what the job's record keeps of it."""
    classes = probabilities.shape[1]
    labels = np.asarray(labels, np.int32)
    plain = probabilities.argmax(axis=1)
    random = np.random.default_rng(1)
    others = [
        np.where(random.random(len(plain)) < 0.8, plain, random.integers(0, classes, len(plain)))
        for _ in range(passes)
    ]
    predicted = np.stack([plain, *others]).astype(np.int32)
    confusion = metrics.confusion_matrix(labels, predicted[0], classes)
    shown = list(names) or [str(number) for number in range(classes)]
    ranks = metrics.ranks(probabilities, labels)
    scores = {
        "loss": metrics.cross_entropy(probabilities, labels),
        "top_1": metrics.top_k(ranks, 1),
        "top_5": metrics.top_k(ranks, 5),
    }
    document: dict[str, Any] = {
        "images": len(labels),
        "classes": classes,
        **({"class_names": list(names)} if names else {}),
        **scores,
        "certainty": metrics.certainty(predicted, labels),
        "consistency": metrics.consistency(predicted),
        "augmented_passes": passes,
        "augmented": dict(scores) if passes else None,
        **metrics.calibration(probabilities, labels),
        "confused": metrics.confused_pairs(confusion, shown),
        "parameters": 5_741_188,
    }
    arrays = {"labels": labels, "predicted": predicted, "confusion": confusion}
    if passes:
        repeated = np.broadcast_to(labels, predicted[1:].shape)
        arrays["confusion_augmented"] = metrics.confusion_matrix(repeated, predicted[1:], classes)
    change(document)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    base = f"jobs/{job_id}/evaluation/t9"
    store.put(f"{base}.npz", content.getvalue())
    store.put(f"{base}.json", json.dumps(document).encode())
    scalars = {name: v for name, v in document.items() if isinstance(v, int | float)}
    return {**scalars, "images_per_second": 812.5, "json": f"{base}.json", "npz": f"{base}.npz"}


def dump(store: Store, root: Path) -> None:
    """Write a store's objects as files, without syncing each."""
    for key in store.list(""):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(key) or b"")


def study(store: Store, *, jobs: int = 10, images: int = 10_000, epochs: int = 60) -> World:
    """Write a study: jobs of 100 classes, trained with two deaths each, and evaluated."""
    from runner.datasets.cifar100 import CLASS_NAMES

    world = World(store)
    for number in range(jobs):
        name = f"study-network-{number}"
        world.submit(name, description=f"Network {number} of the study.", data={"name": "cifar100"})
        skill = 0.6 + 0.1 * number
        curves = history(epochs, seed=number, best=0.3 + 0.04 * number)
        lease = world.train(name, curves, 155, 495)
        seen = predictions(100, images, skill, seed=number)
        world.finish(lease, **seen, names=CLASS_NAMES, passes=10)
    return world
