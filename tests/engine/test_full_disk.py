"""A disk that is full in the middle of a training: said, nothing lost, and the same in the end."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import QUICKSTART, Runner, assert_same, sets, wait_until

SHORT = {"training.epochs": 3, "checkpoint.every": "2 steps", "evaluation": None}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.chaos
def test_a_full_disk_ends_the_worker_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    undisturbed = Runner(tmp_path / "reference")
    undisturbed.ok("submit", str(QUICKSTART), *sets(SHORT))
    runner = Runner(small_disk / "store")
    filler = small_disk / "filler"
    worker = runner.start("submit", str(QUICKSTART), *sets(SHORT))

    def has_saved() -> bool:
        job = runner.job("quickstart")
        return job is not None and job.step >= 4

    assert wait_until(has_saved, worker)
    with filler.open("wb", buffering=0) as file:
        while os.statvfs(small_disk).f_bavail:
            file.write(bytes(4096))
    _, said = worker.communicate(timeout=180)
    assert worker.returncode == 6, said[-3000:]
    assert "The disk is full: make room" in said
    assert "Traceback" not in said
    job = runner.job("quickstart")  # the disk is still full: reading needs no room
    assert job is not None
    assert job.step >= 4
    filler.unlink()
    resumed = runner.run("resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert_same(runner.status("quickstart"), undisturbed.status("quickstart"))
