"""How long `runner status` takes, as a user waits for it: a new process each time."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.queue.test_cost import write_jobs

pytestmark = pytest.mark.bench


def test_status_of_many_jobs(tmp_path: Path) -> None:
    print("\n  jobs  `runner status`  `runner status --json`   (median of 5, seconds)")
    for count in (0, 10, 1_000, 10_000):
        store = tmp_path / str(count)
        store.mkdir()
        write_jobs(store, count)
        print(f"{count:>6}  {seconds(store):>15.2f}  {seconds(store, '--json'):>22.2f}")


def seconds(store: Path, *options: str) -> float:
    command = [sys.executable, "-m", "runner", "status", "--store", str(store), *options]
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
