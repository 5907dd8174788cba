"""How long `runner report` takes for ten jobs of a study, as a user waits for it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.report.fakes import dump, study
from tests.store.memory import MemoryStore

pytestmark = pytest.mark.bench


def test_report_of_ten_jobs(tmp_path: Path) -> None:
    """100 classes, 10,000 test images, 60 epochs and two deaths each."""
    memory = MemoryStore()
    study(memory, jobs=10)
    dump(memory, tmp_path / "store")
    print("\n  jobs  `runner report` (seconds)    page (MB)")
    for count in (1, 10):
        names = [f"study-network-{number}" for number in range(count)]
        out = tmp_path / f"report-{count}"
        command = [sys.executable, "-m", "runner", "report", *names, "-o", str(out)]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--store", str(tmp_path / "store")], check=True, capture_output=True
        )
        seconds = time.perf_counter() - started
        size = (out / "report.html").stat().st_size / 1e6
        print(f"{count:>6}  {seconds:>25.1f}  {size:>11.1f}")
