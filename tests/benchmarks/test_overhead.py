"""What checkpoints do to the speed of a training, and what exactness costs.

With and without take turns: the quotient of neighbours is compared.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.benchmarks._tables import REPEATS, ratios, spread, table
from tests.benchmarks._training import (
    BATCH,
    Commits,
    OnDemand,
    at_each_step,
    batches,
    myinception,
)
from tests.benchmarks._turns import ROUND, SAVING, TURN, Turns

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

BLOCK = 12  #: steps
PAIRS = max(REPEATS, 16)  #: of blocks; fewer say little on a machine that others use


class Blocks:
    """Times blocks of steps within one fit; each says after which of its steps it saves."""

    def __init__(self, commits: Commits, every: OnDemand, plan: list[tuple[int, ...]]) -> None:
        self._commits, self._every, self._plan = commits, every, plan
        self._began = self._cpu = 0.0
        self.seconds: list[float] = []
        self.cpu: list[float] = []  #: seconds of all threads; steadier where others use the machine

    def before(self, step: int) -> None:
        if step % BLOCK == 0:
            self._commits.checkpointer.wait()  # nothing of the block before
            self._began, self._cpu = time.perf_counter(), time.process_time()

    def after(self, step: int) -> None:
        block, place = divmod(step, BLOCK)
        self._every.wanted = place in self._plan[block]

    def end(self, step: int) -> None:
        """After the checkpoint that the step's end has caused, if any."""
        if step % BLOCK == BLOCK - 1:
            self.seconds.append(time.perf_counter() - self._began)
            self.cpu.append(time.process_time() - self._cpu)


def test_overhead(tmp_path: Path) -> None:
    """A checkpoint every 6 steps, as the issue asks; and from it one every 30 seconds."""
    from runner.training.callback import BackupAndRestore

    model = myinception()
    commits, every = Commits(tmp_path), OnDemand()
    plan: list[tuple[int, ...]] = [(), *([(), (2, 8)] * PAIRS), (), ()]
    blocks = Blocks(commits, every, plan)
    ours = BackupAndRestore.for_job(commits.checkpointer, every=every)

    # a step's end, seen at the next step's beginning, comes after our part of it
    def before(step: int) -> None:
        if step:
            blocks.end(step - 1)
        blocks.before(step)

    model.fit(
        batches(BLOCK * len(plan)),
        epochs=1,
        callbacks=[at_each_step(before, blocks.after), ours],
        verbose=0,
    )
    rows = []
    for name, values in (("seconds", blocks.seconds), ("CPU seconds", blocks.cpu)):
        # between the blocks before and after, so that a machine that gets slower cancels out
        around, saving = values[1 : 2 * PAIRS + 2 : 2], values[2 : 2 * PAIRS + 1 : 2]
        without = [(one + other) / 2 for one, other in pairwise(around)]
        each = [(one - other) / 2 for one, other in zip(saving, without, strict=True)]
        cells = (spread(values, digits=2) for values in (without, saving))
        ratio = spread(ratios(saving, without), digits=3)
        rare = spread([1 + one / 30 for one in each], digits=4)
        rows.append((name, *cells, ratio, spread(each, digits=3), rare))
    table(
        f"{BLOCK} steps of MyInception with Adam, batches of {BATCH}, with a checkpoint every 6"
        f" steps; median (range) of {PAIRS}, each against its two neighbours",
        ("", "without", "with", "ratio", "a checkpoint costs", "ratio at one every 30 s"),
        rows,
    )


def test_throughput() -> None:
    """Runner's fit, checkpoints and all, against a bare one; and determinism against none.

    Two processes that do the very same differ by some 2 %, all their lives: so there are several
    of each, and what each pair did in all is compared too: checkpoints are not in every round.
    """
    exact = [against_bare("runner", first=number % 2 == 0) for number in range(REPEATS)]
    loose = [against_bare("model.fit, not deterministic", first=True)]
    rows = []
    for kind, pairs in (("runner", exact), ("model.fit, not deterministic", loose)):
        rounds = [one for pair in pairs for one in pair]
        cells = [
            spread([getattr(one, name) for one in rounds], digits=digits)
            for name, digits in (("bare", 1), ("this", 1), ("ratio", 3), ("by_cpu", 3))
        ]
        in_all = spread([total(pair) for pair in pairs], digits=3)
        rows.append((kind, str(len(rounds)), *cells, in_all))
    table(
        f"Images a second of MyInception with Adam, batches of {BATCH}; median (range) of rounds of"
        f" {TURN * ROUND} steps, in turns of {TURN} with model.fit, each in a process of its own;"
        f" runner with a checkpoint every {TURN * SAVING} steps",
        (
            "",
            "rounds",
            "model.fit, deterministic",
            "this",
            "ratio",
            "by CPU seconds",
            "ratio, all rounds of a pair",
        ),
        rows,
    )


@dataclass(frozen=True)
class Round:
    bare: float  #: images a second
    this: float
    ratio: float
    by_cpu: float


def total(rounds: Sequence[Round]) -> float:
    """Return the quotient of the speeds over all rounds together."""
    return sum(1 / one.bare for one in rounds) / sum(1 / one.this for one in rounds)


def against_bare(kind: str, *, first: bool) -> list[Round]:
    """Let a fresh process of this kind and one of a bare fit take turns."""
    if first:
        this, bare = Turns(kind), Turns("model.fit")
    else:
        bare, this = Turns("model.fit"), Turns(kind)
    rounds = []
    images = BATCH * TURN * ROUND
    around = [bare.take()]
    for _ in range(PAIRS // 2):
        around, between = around[-1:], []
        for _ in range(ROUND):
            between.append(this.take())
            around.append(bare.take())
        took = {key: sum(turn[key] for turn in between) for key in between[0]}
        other = {key: mean_of_neighbours(around, key) for key in took}
        rounds.append(
            Round(
                images / other["seconds"],
                images / took["seconds"],
                other["seconds"] / took["seconds"],
                other["cpu"] / took["cpu"],
            )
        )
    this.close()
    bare.close()
    middle = spread([one.ratio for one in rounds], digits=3)
    print(f"{kind}: {middle}; in all {total(rounds):.3f}", flush=True)
    return rounds


def mean_of_neighbours(around: Sequence[Mapping[str, float]], key: str) -> float:
    return sum((one[key] + other[key]) / 2 for one, other in pairwise(around))
