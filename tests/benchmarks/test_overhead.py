"""What checkpoints do to the speed of a training, and what exactness costs.

With and without take turns, in one process: the quotient of neighbours is compared.
"""

import ctypes
import platform
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks._tables import REPEATS, ratios, spread, table
from tests.benchmarks._training import (
    BATCH,
    Commits,
    OnDemand,
    at_each_step,
    batches,
    myinception,
    pictures,
)

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

BLOCK = 12  #: steps
PAIRS = max(REPEATS, 16)  #: of blocks; fewer say little on a machine that others use
STEPS = 16  #: of a fit whose speed is measured; with one checkpoint, so some 7 s apart


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


def test_throughput(tmp_path: Path) -> None:
    """Runner's fit, checkpoints and all, against a bare one; and determinism against none."""
    from tensorflow.python.framework.config import disable_op_determinism, enable_op_determinism

    from runner.training import allocator
    from runner.training.callback import BackupAndRestore

    exact = myinception()
    disable_op_determinism()
    loose = myinception_again()
    x, y = pictures(BATCH * STEPS)

    def bare(model: Any) -> Speed:
        give_freed_memory_back()
        return timed(model, x, y, batch_size=BATCH)

    def ours() -> Speed:
        allocator.keep_freed_memory()  # as a job's training does
        commits, every = Commits(tmp_path / str(time.monotonic_ns())), OnDemand()

        def in_the_middle(step: int) -> None:
            every.wanted = step == STEPS // 2

        callbacks = [
            at_each_step(in_the_middle, lambda step: None),
            BackupAndRestore.for_job(commits.checkpointer, every=every),
        ]
        speed = timed(exact, batches(STEPS), callbacks=callbacks)
        assert commits.manifests, "no checkpoint was made"
        return speed

    def unsafe() -> Speed:
        disable_op_determinism()
        speed = bare(loose)
        enable_op_determinism()
        return speed

    enable_op_determinism()
    bare(exact), ours(), unsafe()  # these trace
    rows = []
    for name, measured, rounds in (
        (f"runner, deterministic, a checkpoint every {STEPS} steps", ours, 2 * PAIRS),
        ("model.fit on arrays, not deterministic", unsafe, PAIRS // 2),
    ):
        around, speeds = [bare(exact)], []
        for _ in range(rounds):
            speeds.append(measured())
            around.append(bare(exact))
        cells = []
        for which in ("seconds", "cpu"):
            others = [getattr(speed, which) for speed in around]
            these = [getattr(speed, which) for speed in speeds]
            neighbours = [(one + other) / 2 for one, other in pairwise(others)]
            ratio = spread(ratios(these, neighbours), digits=3)
            cells += [spread(neighbours), spread(these), ratio]
        rows.append((name, str(rounds), *cells[:3], cells[-1]))
    table(
        f"Images a second of MyInception with Adam, fits of {STEPS} steps; median (range), each"
        " against the bare fits before and after it",
        ("", "fits", "model.fit on arrays, deterministic", "this", "ratio", "by CPU seconds"),
        rows,
    )


def give_freed_memory_back() -> None:
    """Set what glibc reaches by itself in a process that uses large blocks: mallopt(3)."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        library.mallopt(-1, 64 << 20)  # M_TRIM_THRESHOLD


def myinception_again() -> Any:
    """The same without determinism: whoever builds it has switched that off."""
    from tensorflow.python.framework.config import disable_op_determinism

    model = myinception()  # switches it on
    disable_op_determinism()
    return model


@dataclass(frozen=True)
class Speed:
    seconds: float  #: images a second
    cpu: float  #: images a CPU second of all threads; steadier where others use the machine


def timed(model: Any, *data: Any, **options: Any) -> Speed:
    """Fit one epoch; its speed from the end of the second step to the end of the last."""
    ends: list[tuple[float, float]] = []
    clock = at_each_step(
        lambda step: None, lambda step: ends.append((time.perf_counter(), time.process_time()))
    )
    callbacks = [*options.pop("callbacks", []), clock]
    model.fit(*data, epochs=1, callbacks=callbacks, verbose=0, **options)
    images = BATCH * (len(ends) - 2)
    seconds, cpu = (last - first for first, last in zip(ends[1], ends[-1], strict=True))
    return Speed(images / seconds, images / cpu)
