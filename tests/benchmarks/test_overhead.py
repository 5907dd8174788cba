"""What checkpoints do to the speed of a training, and what exactness costs.

With and without take turns in one process: the quotient of neighbours is compared.
"""

import gc
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks._tables import REPEATS, quotient, ratios, spread, table
from tests.benchmarks._training import (
    BATCH,
    Commits,
    OnDemand,
    at_each_step,
    batches,
    myinception,
    pictures,
    settle,
    trained,
)

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

BLOCK = 12  #: steps
#: (images in a batch, after which steps of a block it saves) -> pairs of blocks; fewer say little
#: on a machine that others use. After 6 and 12: the second is written when the 12 are over, as
#: where a training ends; after 3 and 9: both are written within. The experiments' batches are of
#: 512 and more: 128 is as far towards them as time allows here
PAIRS: dict[tuple[int, tuple[int, ...]], int] = {
    (BATCH, (6, 12)): 6 * REPEATS,
    (BATCH, (3, 9)): 12 * REPEATS,
    (128, (3, 9)): 3 * REPEATS,
}
TURN = int(os.environ.get("RUNNER_BENCH_TURN", "16"))  #: steps; some 5 s of them, to compare
SAVING = 6  #: a checkpoint in each such turn: every 30 s ("auto" makes it 50)
TURNS = 2 * SAVING * REPEATS
FIRST = 2  #: step that is timed: what is done once in a training is over


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
        self._every.wanted = place + 1 in self._plan[block]

    def end(self, step: int) -> None:
        """After the checkpoint that the step's end has caused, if any."""
        if step % BLOCK == BLOCK - 1:
            self.seconds.append(time.perf_counter() - self._began)
            self.cpu.append(time.process_time() - self._cpu)


@pytest.mark.parametrize(("batch", "saves"), PAIRS)
def test_overhead(tmp_path: Path, batch: int, saves: tuple[int, ...]) -> None:
    """A checkpoint every 6 steps, and from it one every 30 seconds; in a process like a job's."""
    model = myinception()
    commits, every = Commits(tmp_path), OnDemand()
    pairs = PAIRS[batch, saves]
    plan: list[tuple[int, ...]] = [(), *([(), saves] * pairs), (), ()]
    blocks = Blocks(commits, every, plan)

    # a step's end, seen at the next step's beginning, comes after our part of it
    def before(step: int) -> None:
        if step:
            blocks.end(step - 1)
        if step == 1:
            gc.freeze()  # as a job does after its first step
        blocks.before(step)

    try:
        data = batches(BLOCK * len(plan), batch=batch)
        trained(model, data, commits, every, [at_each_step(before, blocks.after)])
    finally:
        gc.unfreeze()
    rows = []
    for name, values in (("seconds", blocks.seconds), ("CPU seconds", blocks.cpu)):
        # between the blocks before and after, so that a machine that gets slower cancels out
        around, saving = values[1 : 2 * pairs + 2 : 2], values[2 : 2 * pairs + 1 : 2]
        without = [(one + other) / 2 for one, other in pairwise(around)]
        each = [(one - other) / 2 for one, other in zip(saving, without, strict=True)]
        cells = (spread(values, digits=2) for values in (without, saving))
        ratio = spread(ratios(saving, without), digits=3)
        rare = spread([1 + one / 30 for one in each], digits=4)
        whole = quotient(saving, without)
        rows.append((name, *cells, ratio, whole, spread(each, digits=3), rare))
    table(
        f"{BLOCK} steps of MyInception with Adam, batches of {batch}, with a checkpoint after"
        f" {' and '.join(map(str, saves))}; median (range) of {pairs}, each against its two"
        " neighbours",
        (
            "",
            "without",
            "with",
            "ratio",
            "all pairs together",
            "a checkpoint costs",
            "ratio at one every 30 s",
        ),
        rows,
    )


def test_throughput(tmp_path: Path) -> None:
    """Runner's fit, checkpoints and all, against a bare one; and determinism against none.

    All take turns in one process and train one model: two processes that do the very same differ
    by some 2 %, all their lives.
    """
    model = myinception()
    turns = Turns(model, Commits(tmp_path))
    loose = turns.loose if keras_backend() == "tensorflow" else None
    for warm_up in (turns.bare, turns.ours, loose or turns.bare):
        warm_up()
    bare: list[Took] = [turns.bare()]
    ours: list[Took] = []
    others: list[Took] = []
    for number in range(TURNS):
        ours.append(turns.ours(saves=number % SAVING == SAVING // 2))
        bare.append(turns.bare())
        if loose is not None and number % SAVING == 0:
            others += [loose(), turns.bare()]  # each has its neighbour
    rows = [compared("runner", ours, [one.mean(other) for one, other in pairwise(bare)])]
    if others:
        rows.append(compared("model.fit, not deterministic", others[::2], others[1::2]))
    table(
        f"Images a second of MyInception with Adam, batches of {BATCH}; medians and ranges of turns"
        f" of {TURN} steps, each against its neighbours; runner with a checkpoint every"
        f" {TURN * SAVING} steps",
        ("", "turns", "model.fit", "this", "ratio", "all turns together", "in CPU seconds"),
        rows,
    )


@dataclass(frozen=True)
class Took:
    seconds: float
    cpu: float

    def mean(self, other: "Took") -> "Took":
        return Took((self.seconds + other.seconds) / 2, (self.cpu + other.cpu) / 2)


def compared(kind: str, this: Sequence[Took], bare: Sequence[Took]) -> tuple[str, ...]:
    """Return the row of a kind: its speed over that of its neighbours, with a margin of error."""
    images = BATCH * TURN
    quotients = ratios([one.seconds for one in bare], [one.seconds for one in this])
    return (
        kind,
        str(len(this)),
        spread([images / one.seconds for one in bare]),
        spread([images / one.seconds for one in this]),
        spread(quotients, digits=3),
        quotient([one.seconds for one in bare], [one.seconds for one in this]),
        quotient([one.cpu for one in bare], [one.cpu for one in this]),
    )


class Turns:
    """Short fits of one model: bare ones, and under our care."""

    def __init__(self, model: Any, commits: Commits) -> None:
        self._model = model
        self._commits = commits
        self._steps = FIRST + TURN + 1
        self._x, self._y = pictures(BATCH * self._steps)
        self._batches = batches(self._steps)

    def bare(self) -> Took:
        def fit(callbacks: list[Any]) -> object:
            return self._model.fit(
                self._x, self._y, batch_size=BATCH, epochs=1, callbacks=callbacks, verbose=0
            )

        return self._fit(fit)

    def loose(self) -> Took:
        """A bare fit whose operations may be faster and give other bits each time."""
        from tensorflow.python.framework.config import (
            disable_op_determinism,
            enable_op_determinism,
        )

        disable_op_determinism()
        try:
            return self.bare()
        finally:
            enable_op_determinism()

    def ours(self, *, saves: bool = False) -> Took:
        every = OnDemand()

        def ask(step: int) -> None:
            every.wanted = saves and step == TURN // 2

        def fit(callbacks: list[Any]) -> object:
            return trained(self._model, self._batches, self._commits, every, callbacks)

        try:
            return self._fit(fit, ask=ask, traced=gc.freeze)
        finally:
            gc.unfreeze()

    def _fit(
        self,
        fit: Callable[[list[Any]], object],
        *,
        ask: Callable[[int], object] = lambda _: None,
        traced: Callable[[], object] = lambda: None,
    ) -> Took:
        """Time the steps from FIRST on, with what they leave to do."""
        took: list[tuple[float, float]] = []

        def before(step: int) -> None:
            ask(step)
            if step == FIRST:
                traced()
            if step in (FIRST, FIRST + TURN):
                settle(self._model)
                self._commits.checkpointer.wait()
                for thread in threading.enumerate():
                    if thread.name == "inspection":  # of the traced step: 0.1 s, once a training
                        thread.join()
                took.append((time.perf_counter(), time.process_time()))

        # no hook at a step's end: Keras would wait for the metrics of each step then
        fit([at_each_step(before)])
        (began, cpu_began), (ended, cpu_ended) = took
        return Took(ended - began, cpu_ended - cpu_began)


def keras_backend() -> str:
    import keras

    return str(keras.config.backend())
