"""Fits that take turns, each in a process of its own: what one does there disturbs no other.

`python -m tests.benchmarks._turns KIND` trains for ever, where KIND is "runner", "model.fit" or
"model.fit, not deterministic". For each line that it reads it does some steps and writes a line of
JSON: the seconds and CPU seconds that they took.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness import REPOSITORY

TURN = 8  #: steps
ROUND = 3  #: turns
SAVING = 12  #: runner makes a checkpoint in each such turn: every 30 s ("auto" makes it 50)
TURNS = 600  #: at most


class Turns:
    """The other side: has one kind do its steps."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks._turns", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=REPOSITORY,
        )
        self.take()  # traces, and waits until it is done

    def take(self) -> dict[str, float]:
        """Return what one turn took."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        took: dict[str, float] = json.loads(self._process.stdout.readline())
        return took

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def clock(finish: Callable[[], object], at_half: Callable[[], object]) -> Any:
    """Return a callback that waits for its turn and times it, with what its steps left to do."""
    from tests.benchmarks._training import at_each_step

    began = 0.0, 0.0

    def before(step: int) -> None:
        nonlocal began
        if step % TURN == 0:
            if step:
                finish()
                took = time.perf_counter() - began[0], time.process_time() - began[1]
                print(json.dumps(dict(zip(("seconds", "cpu"), took, strict=True))), flush=True)
            if not sys.stdin.readline():
                sys.exit()
            began = time.perf_counter(), time.process_time()

    def after(step: int) -> None:
        if step % TURN == TURN // 2 - 1:
            at_half()

    return at_each_step(before, after)


def main(kind: str) -> None:
    from tensorflow.python.framework.config import disable_op_determinism

    from runner.training import allocator
    from runner.training.callback import BackupAndRestore
    from tests.benchmarks._training import (
        BATCH,
        Commits,
        OnDemand,
        batches,
        myinception,
        pictures,
    )

    model = myinception()
    steps = TURN * TURNS
    if kind != "runner":
        if kind != "model.fit":
            disable_op_determinism()
        x, y = pictures(BATCH * steps)
        nothing = clock(lambda: None, lambda: None)
        model.fit(x, y, batch_size=BATCH, epochs=1, callbacks=[nothing], verbose=0)
        return
    allocator.keep_freed_memory()  # as a job's training does
    with tempfile.TemporaryDirectory() as folder:
        commits, every = Commits(Path(folder)), OnDemand()
        turn = 0

        def now_and_then() -> None:
            nonlocal turn
            every.wanted = turn % SAVING == 0
            turn += 1

        ours = BackupAndRestore.for_job(commits.checkpointer, every=every)
        timer = clock(commits.checkpointer.wait, now_and_then)
        model.fit(batches(steps), epochs=1, callbacks=[timer, ours], verbose=0)


if __name__ == "__main__":
    main(sys.argv[1])
