"""From the start of a process to its first new step: a cold start, against a resume.

Real processes, watched through the bucket, where the heartbeats tell what they do.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks._tables import REPEATS, ratios, spread, table
from tests.harness import Runner, kill

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

TIMES = max(2, REPEATS // 2)
SPECS: Mapping[str, Mapping[str, Any]] = {
    "small": {
        "data": {"name": "digits"},
        "model": {"name": "myinception", "arguments": {"blocks": [1, 0, 0], "width": 0.25}},
    },
    "MyInception": {
        "data": {"name": "digits", "arguments": {"image_size": 32, "channels": 3}},
        "model": {"name": "myinception"},
    },
}
STEPS = 5  #: before the kill


@pytest.mark.parametrize("name", SPECS)
def test_first_step(name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    starts: dict[str, list[dict[str, float]]] = {"cold start": [], "resume": []}
    for number in range(TIMES):
        job = f"start-{number}"
        spec = {
            **SPECS[name],
            "name": job,
            "training": {"epochs": 100, "batch_size": 32},
            "checkpoint": {"every": "2 steps"},
        }
        path.write_text(json.dumps(spec))
        # a heartbeat every sixth of a second: that is how well the times are known
        runner = Runner(tmp_path / "store", {"RUNNER_LEASE_SECONDS": "1"})
        runner.ok("submit", str(path), "--detach")
        starts["cold start"].append(started(runner, job))
        starts["resume"].append(started(runner, job))
    imports = [import_seconds() for _ in range(TIMES)]
    parts = ("claimed", "built", "first new step")
    rows = [
        (kind, *(spread([one[part] for one in many]) for part in parts))
        for kind, many in starts.items()
    ]
    cold, again = ([one[parts[-1]] for one in starts[kind]] for kind in starts)
    rows.append(("ratio", "", "", spread(ratios(again, cold), digits=2)))
    table(
        f"Start of the {name} job: seconds from the process's start; median (range) of {TIMES}",
        ("", *parts),
        rows,
    )
    print(f"  of which importing TensorFlow and Keras: {statistics.median(imports):.1f} s")


def started(runner: Runner, job: str) -> dict[str, float]:
    """Work on the job until some new steps are saved, then kill; seconds of each part."""
    queue = runner.queue()
    known = queue.job(job)
    began = time.perf_counter()
    process = runner.start("resume", job)
    times: dict[str, float] = {}
    while "first new step" not in times or queue.job(job).step < known.step + STEPS:
        assert process.poll() is None, process.communicate()[1]
        now = queue.job(job)
        if now.token > known.token:
            times.setdefault("claimed", time.perf_counter() - began)
            beat = queue.heartbeat(now)
            if beat is not None and beat.details.get("stage") == "train":
                times.setdefault("built", time.perf_counter() - began)
            if max(now.step, beat.step if beat else 0) > known.step:
                times.setdefault("first new step", time.perf_counter() - began)
        time.sleep(0.02)
    kill(process)
    return times


def import_seconds() -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import keras, tensorflow"], check=True, capture_output=True
    )
    return time.perf_counter() - started
