"""What 100,000 commits of one job cost: its records, and the time of those who read them."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest

from runner.commit import Commit
from runner.queue.protocol import Availability
from runner.queue.queue import Queue
from runner.store.filesystem import FileStore
from tests.benchmarks._tables import table
from tests.store.memory import MemoryStore

pytestmark = pytest.mark.bench
REFERENCE = {"manifest": "m" * 60, "digest": "d" * 64}


def milliseconds(work: Callable[[], object], times: int = 20) -> str:
    spent = []
    for _ in range(times):
        started = perf_counter()
        work()
        spent.append(1000 * (perf_counter() - started))
    return f"{median(spent):.2f}"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "marks"), [
    ("memory", (100, 1_000, 10_000, 100_000)), ("folder", (100, 1_000, 10_000)),
])  # fmt: skip
def test_a_job_of_many_commits(kind: str, marks: tuple[int, ...], tmp_path: Path) -> None:
    store = MemoryStore() if kind == "memory" else FileStore(tmp_path)
    queue = Queue(store)
    lease = queue.claim(queue.submit("cats", {"seed": 1}), {"host": "a"})
    free = Availability(claimable=True, why="its worker is gone")
    rows = []
    for step in range(1, marks[-1] + 1):
        commit = Commit(step=step, epoch=0, checkpoints=[{"step": step, **REFERENCE}] * 2)
        lease.commit(commit)
        if step in marks:
            records = len(store.list("jobs/cats/log/"))
            one = milliseconds(lambda: lease.commit(commit), 60)  # noqa: B023
            status = milliseconds(lambda: queue.job("cats"))
            started = perf_counter()
            lease = queue.claim(queue.job("cats"), {"host": "b"}, judged=free)
            takeover = f"{1000 * (perf_counter() - started):.2f}"
            rows.append((f"{step:,}", str(records), one, status, takeover))
    table(
        f"many commits ({kind})",
        ("commits", "records", "commit ms", "status ms", "takeover ms"),
        rows,
    )
