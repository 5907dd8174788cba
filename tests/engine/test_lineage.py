"""Jobs that go on from each other are removed, killed and resumed in any order: a model is kept.

Each training counts: its weight after n steps follows from what it began with. So of every
checkpoint that counts the model knows the value, whatever has become of the job it came from. The
ledger, the queue, `from` and the removal are the real ones.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from runner.checkpoint.ledger import Ledger, Snapshot
from runner.checkpoint.manifest import Position, Reference
from runner.checkpoint.reading import read_checkpoint
from runner.cli.extend import extended
from runner.cli.forking import reference_of
from runner.cli.submit import store_one
from runner.errors import ConflictError, RunnerError
from runner.queue.job import Job, State
from runner.queue.queue import Queue
from runner.queue.removal import leftovers
from runner.queue.view import Onlooker
from runner.spec import JobSpec, parse
from runner.store import thinning
from runner.training.best import Best
from tests.store.memory import Killed, MemoryStore

STEPS = 2  #: of an epoch
LEASE = 60.0
NAMES = ["cats", "dogs", "fish", "mice"]


def after(value: int, steps: int) -> int:
    """The weight after so many more steps."""
    for _ in range(steps):
        value = (value * 31 + 7) % 1_000_003
    return value


@dataclass
class Known:
    """What the model knows of a job: where it began, and with what."""

    value: int
    step: int

    def at(self, step: int) -> int:
        return after(self.value, step - self.step)


class World:
    """A store, its jobs, and the model of them."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 1000.0
        self.store = MemoryStore(clock=lambda: self.now)
        self.queue = Queue(self.store, lease_seconds=LEASE, clock=lambda: self.now)
        self.known: dict[str, Known] = {}
        self.counts: Counter[str] = Counter()

    def act(self) -> None:
        actions = (self.submit, self.fork, self.fork, self.train, self.train, self.train)
        action = self.random.choice([*actions, self.remove, self.user, self.repair])
        new = action in (self.submit, self.fork) or not self.known
        name = self.random.choice(NAMES if new else sorted(self.known))
        if self.random.random() < 0.4:
            self.store.hook = self.dies(self.store.operations + self.random.randrange(1, 30))
        try:
            action(name)
            self.counts[action.__name__] += 1
        except Killed:
            self.counts[f"{action.__name__} killed"] += 1
        except RunnerError:
            self.counts["refused"] += 1
        self.store.hook = None
        self.now += self.random.choice([1.0, LEASE + 1.0, 4000.0])
        self.check()

    def dies(self, at: int) -> Any:
        def hook(number: int, operation: str, key: str) -> None:
            if number >= at:
                raise Killed(f"{operation} {key}")

        return hook

    # ------------------------------------------------------------------ what happens

    def submit(self, name: str, **parts: Any) -> None:
        epochs, known = self.random.randrange(1, 4), Known(1, 0)
        if parts:
            step, known = self.origin(**parts["from"])
            epochs = step // STEPS + self.random.randrange(0, 3) or 1
        spec = {"name": name, "training": {"epochs": epochs}, **parts}
        spec["checkpoint"] = {"best": {"monitor": "val_loss"}, "keep": self.random.choice([1, 2])}
        if name not in self.known:
            self.known[name] = known
            self.maybe = name
        store_one(self.queue, parse(spec, source="test"), self.queue.find(name))

    def origin(self, job: str, checkpoint: str | int, take: str) -> tuple[int, Known]:
        """The step of a job's checkpoint, and what a training knows that begins with it."""
        parent, known = self.queue.job(job), self.known[job]
        step = int(reference_of(parent, checkpoint, "child")["step"])
        return step, known if take == "all" else Known(known.at(step), 0)

    def fork(self, name: str) -> None:
        if not self.known:
            return
        parent = self.random.choice(sorted(self.known))
        which = self.random.choice(["final", "best", "latest", self.random.randrange(0, 7)])
        take = self.random.choice(["all", "all", "weights"])
        self.submit(name, **{"from": {"job": parent, "checkpoint": which, "take": take}})

    def train(self, name: str) -> None:
        """Go on with a job, some steps or to its end, as a worker does."""
        job = self.queue.job(name)
        spec = parse(self.queue.spec(name), source=name)
        lease = self.queue.claim(job, {"host": "here", "at": self.now})
        ledger = Ledger(
            self.store,
            f"jobs/{name}",
            token=lease.token,
            commit=lease.commit,
            checkpoints=lease.job.checkpoints,
            best=lease.job.best,
            keep=spec.checkpoint.keep,
        )
        restored, best = ledger.restore(), Best("val_loss")
        value, step = 1, 0
        if restored is not None:
            value, step = int(restored.tensors["model/0/w"][0]), restored.position.global_step
            best.from_json(restored.python["best"])
            assert (best.value is None) == (ledger.best is None)
        elif lease.job.parent is not None:
            weights = lease.job.parent["reference"]
            found = read_checkpoint(self.store, Reference.from_json(weights))
            value = int(found.tensors["model/0/w"][0])
            ledger.begin_with(weights)
            self.write(ledger, best, value, 0)
        last = spec.training.epochs * STEPS
        stop = self.random.choice([last, step + 1, step + 2])
        while step < min(last, stop):
            value, step = after(value, 1), step + 1
            self.write(ledger, best, value, step)
        if step < last:
            lease.release("notice")
        elif ledger.newest is not None:
            lease.finish(final=ledger.newest.to_json(), evaluate=False)

    def write(self, ledger: Ledger, best: Best, value: int, step: int) -> None:
        improved = step > 0 and step % STEPS == 0
        improved = improved and best.improved(step // STEPS - 1, {"val_loss": value % 97})
        snapshot = Snapshot(
            tensors=[("model/0/w", np.array([value])), ("model/1/frozen", np.arange(5))],
            python={"best": best.to_json()},
            position=Position(epoch=step // STEPS, step=step % STEPS, global_step=step),
        )
        ledger.write(snapshot, best=improved, given_up=lambda: False)
        ledger.collect()

    def remove(self, name: str) -> None:
        self.maybe = name
        self.queue.remove(name)
        assert self.store.list(f"jobs/{name}/") == []

    def user(self, name: str) -> None:
        change = self.random.choice(["cancel", "retry", "hold", "unhold"])
        getattr(self.queue, change)(name)

    def repair(self, _: str) -> None:
        names = [name for name in self.queue.ids() if self.queue.find(name) is None]
        for name in leftovers(self.store, names, older_than=3600.0):
            assert name not in self.known
            assert self.queue.remove_leftover(name, older_than=3600.0)

    # ------------------------------------------------------------------ what must be

    maybe = ""  #: the job that the last action was to make or to remove

    def check(self) -> None:
        onlooker = Onlooker(self.queue)
        jobs = {view.job.id: view.job for view in onlooker.look()}
        assert not onlooker.problems
        gone = self.known.keys() - jobs.keys()
        assert gone <= {self.maybe}
        for name in gone:
            del self.known[name]
        self.maybe = ""
        assert jobs.keys() == self.known.keys()
        for job in jobs.values():
            self.check_job(job, self.known[job.id])

    def check_job(self, job: Job, known: Known) -> None:
        """All that it needs is in its own folder, and has the values that the model knows."""
        kept = [one for one in (*job.checkpoints, job.best, job.final) if one]
        if job.parent is not None and not job.checkpoints:
            found = read_checkpoint(self.store, Reference.from_json(job.parent["reference"]))
            assert int(found.tensors["model/0/w"][0]) == known.value
        for one in kept:
            found = read_checkpoint(self.store, Reference.from_json(one))
            assert one["manifest"].startswith(f"jobs/{job.id}/")
            assert int(found.tensors["model/0/w"][0]) == known.at(one["step"])
        assert job.state is not State.SUCCEEDED or job.final is not None

    def end(self) -> None:
        """Let all dead workers be gone, and repair: nothing is left but the jobs."""
        self.now += 100_000.0
        self.repair("")
        assert set(self.store.folders("jobs/")) == self.known.keys()


def play(seeds: range) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        world = World(seed)
        kept = 1 if seed % 2 else 100  # so that owners delete old commits early
        with patch.multiple(thinning, KEPT=kept, AT_ONCE=kept, FEW=kept + 1):
            for _ in range(25):
                try:
                    world.act()
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}: {error}") from error
            world.end()
        counts += world.counts
    return counts


def test_twelve_sequences_against_the_model() -> None:
    counts = play(range(12))
    assert counts["fork"] > 10
    assert counts["remove"] >= 5


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_200_sequences_against_the_model() -> None:
    counts = play(range(100, 300))
    print(dict(counts))
    for action in ("submit", "fork", "train", "remove"):
        assert counts[action] > 100
        assert counts[f"{action} killed"] > 30


def fork_of_cats(world: World) -> JobSpec:
    with patch.object(world.random, "choice", lambda options: options[0]):
        store_one(world.queue, parse({"name": "cats", **TWO_EPOCHS}, source="test"))
        world.train("cats")
    child = {"name": "dogs", **TWO_EPOCHS, "training": {"epochs": 3}, "from": {"job": "cats"}}
    return parse(child, source="test")


TWO_EPOCHS = {"training": {"epochs": 2}, "checkpoint": {"best": {"monitor": "val_loss"}}}


@pytest.mark.parametrize("cut_off", [None, 9, 18, 27])
def test_a_job_that_is_stored_while_its_name_is_being_removed_has_all_it_needs(
    cut_off: int | None,
) -> None:
    """Its objects are called as those of the earlier job, which a remover deletes."""
    calls, refused = 40, 0
    for at in range(1, calls + 1):
        world = World(1)
        child = fork_of_cats(world)
        store_one(world.queue, child)
        if cut_off is not None:
            world.store.hook = world.dies(world.store.operations + cut_off)
            with suppress(Killed):
                world.queue.remove("dogs")
            world.store.hook = None
        known = world.queue.find("dogs")
        first = world.store.operations
        world.store.hook = partial(removes_dogs, world, first + at)
        try:
            job = store_one(world.queue, child, known)
        except ConflictError as error:
            assert "removed" in str(error)  # noqa: PT017  (it may be refused)
            refused += 1
            continue
        world.store.hook = None
        found = world.queue.find("dogs")
        assert found is None or (found == job and found.state is State.QUEUED), at
        if found is not None:
            world.check_job(found, Known(1, 0))
    assert refused < calls or cut_off is not None


def test_a_further_training_is_named_after_the_first_and_its_notes_say_of_which_they_are() -> None:
    world = World(1)
    with patch.object(world.random, "choice", lambda options: options[0]):
        for name, parent, epochs in (
            ("cats", "", 1),
            ("resnet-50", "cats", 2),
            ("cats-2", "cats", 3),
            ("cats-3", "cats-2", 4),
        ):
            spec = {"name": name, "training": {"epochs": epochs, "batch_size": 8 * epochs}}
            if parent:
                spec["from"] = {"job": parent}
            store_one(world.queue, parse(spec, source="test"))
            world.train(name)
    names = [extended(world.queue, name, 9, []).name for name in ("resnet-50", "cats", "cats-2")]
    assert names == ["resnet-50-2", "cats-4", "cats-4"]
    changed = "training.batch_size {}, now {}; training.epochs {}, now {}"
    assert world.queue.job("cats-3").notes == (
        "of cats-2: cats had " + changed.format(8, 24, 1, 3),
        "cats-2 had " + changed.format(24, 32, 3, 4),
    )


def test_no_job_begins_while_its_name_is_being_removed() -> None:
    """Its submit could die before it looks whether all is there."""
    world = World(1)
    child = fork_of_cats(world)
    store_one(world.queue, child)
    world.store.hook = lambda _, operation, key: killed_at_last(operation, key)
    with pytest.raises(Killed):
        world.queue.remove("dogs")
    world.store.hook = None
    assert world.store.list("jobs/dogs/") == ["jobs/dogs/head.json"]
    with pytest.raises(ConflictError, match="is being removed, or its removal was cut off"):
        store_one(world.queue, child, world.queue.find("dogs"))
    assert world.store.list("jobs/dogs/") == ["jobs/dogs/head.json"]


def killed_at_last(operation: str, key: str) -> None:
    if (operation, key) == ("delete", "jobs/dogs/head.json"):
        raise Killed


def removes_dogs(world: World, at: int, number: int, _operation: str, _key: str) -> None:
    if number == at:
        world.store.hook = None
        with suppress(RunnerError):
            world.queue.remove("dogs")


def test_no_state_remembers_a_best_that_is_nowhere() -> None:
    """The best came after the checkpoint that is gone on from: the new job has none yet."""
    world = World(1)
    best = {"monitor": "val_loss"}
    spec = {"name": "cats", "training": {"epochs": 2}, "checkpoint": {"best": best, "keep": 2}}
    lease = world.queue.claim(store_one(world.queue, parse(spec, source="test")), {"host": "a"})
    ledger = Ledger(world.store, "jobs/cats", token=1, commit=lease.commit)
    for step in (2, 3, 4):
        snapshot = Snapshot(
            tensors=[("model/0/w", np.array([step]))],
            python={"best": {**Best("val_loss").to_json(), "value": "0x1p0", "epoch": 0}},
            position=Position(epoch=step // STEPS, step=step % STEPS, global_step=step),
        )
        ledger.write(snapshot, best=step % STEPS == 0, given_up=lambda: False)
    for step, has in ((3, False), (4, True)):
        child = {**spec, "name": f"from-{step}", "training": {"epochs": 3}}
        child["from"] = {"job": "cats", "checkpoint": step}
        job = store_one(world.queue, parse(child, source="test"))
        found = read_checkpoint(world.store, Reference.from_json(job.checkpoints[0]))
        assert (job.best is not None, found.python["best"] is not None) == (has, has)
