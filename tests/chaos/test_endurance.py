"""One training for an hour, killed all the time, on a bucket that is away in every minute."""

import json
import os
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.test_programs import CODE
from tests.harness import Runner, assert_same, kill
from tests.store.servers import serving
from tests.store.servers.proxy import Fault, Proxy, Request, Rule, answer

#: a shorter or longer trial: RUNNER_ENDURANCE_SECONDS=600 make chaos
SECONDS = float(os.environ.get("RUNNER_ENDURANCE_SECONDS", "3600"))
PACE = "PATIENT_STEP_SECONDS"  #: read by programs/patient.py
START, STEP = 12.0, 0.05  #: seconds an attempt takes to its first step, and a step
STEPS = 500  #: of an epoch
KILLED_AFTER = (20.0, 60.0)  #: seconds
MINUTE, AWAY = 60.0, 10.0
FIRST, GROWTH = 300.0, 1.1  #: seconds; the rest of the time is as these were

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3 * SECONDS + 600)]


class Sample(NamedTuple):
    """What a training holds after so many seconds."""

    at: float
    memory: float  #: MB that its process has in use, once it trains
    files: float  #: that it has open
    objects: float  #: of checkpoints; each commit and each attempt leave a small one beside them


def test_an_hour_of_kills_and_a_bucket_that_fails(tmp_path: Path) -> None:
    attempt = statistics.mean(KILLED_AFTER)
    epochs = max(2, round(SECONDS * (attempt - START) / attempt / STEP / STEPS))
    spec = {
        "name": "patient",
        "program": {"name": "patient", "arguments": {"steps": STEPS}},
        "training": {"epochs": epochs},
        "checkpoint": {"every": "2s"},
        "limits": {"deaths": 10_000},
    }
    path = tmp_path / "patient.json"
    path.write_text(json.dumps(spec))
    undisturbed = Runner(tmp_path / "undisturbed", {"RUNNER_CODE": str(CODE)})
    undisturbed.ok("submit", str(path))

    began = time.monotonic()
    with serving("s3") as server, Proxy(server.port) as proxy:
        environment = {"RUNNER_CODE": str(CODE), PACE: str(STEP)}
        environment |= server.environment(port=proxy.port)
        runner = Runner(tmp_path, environment, url=server.url("endurance"))
        watched = server.store("endurance")
        runner.ok("submit", str(path), "--detach")
        proxy.rule = away(began)
        samples = train(runner, lambda: len(of_checkpoints(watched.list(""))), began)
        proxy.rule = lambda _request: None
        status = runner.status("patient")
        assert proxy.faults, "the bucket never failed"
    print(f"\n{len(samples)} attempts, {sum(proxy.faults.values())} requests failed")
    print(*samples, sep="\n")
    assert_same(status, undisturbed.status("patient"))
    early = [sample for sample in samples if sample.at <= FIRST]
    late = [sample for sample in samples if sample.at > samples[-1].at - FIRST]
    before, after = map(medians, (early, late))
    assert after.memory <= before.memory * GROWTH
    assert after.files <= before.files + 2
    # what a kill leaves half-written is removed when it is a day old
    assert after.objects <= before.objects + 2 * len(samples)


def medians(samples: Sequence[Sample]) -> Sample:
    """Return the median of each figure."""
    return Sample(*(statistics.median(figures) for figures in zip(*samples, strict=True)))


def away(began: float) -> Rule:
    """Return a rule by which nothing is answered well for a part of each minute."""

    def rule(_request: Request) -> Fault | None:
        return answer(503) if (time.monotonic() - began) % MINUTE > MINUTE - AWAY else None

    return rule


def of_checkpoints(keys: list[str]) -> list[str]:
    return [key for key in keys if "/packs/" in key or "/checkpoints/" in key]


def train(runner: Runner, objects: Callable[[], int], began: float) -> list[Sample]:
    """Kill and resume until the job has ended; each time, what the process held at its end."""
    generator = random.Random(1)
    samples: list[Sample] = []
    while True:
        process = runner.start("resume", "patient")
        end = time.monotonic() + generator.uniform(*KILLED_AFTER)
        memory = files = 0
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.5)
            memory, files = held(process.pid) or (memory, files)
        if process.poll() is None:
            kill(process)
        elif process.communicate() and process.returncode == 0:
            return samples
        else:
            assert process.returncode in (4, 6, 75), process.communicate()[1][-3000:]
        now = time.monotonic() - began
        samples.append(Sample(at=round(now), memory=memory, files=files, objects=objects()))


def held(pid: int) -> tuple[int, int] | None:
    """Return the MB that a process has in use and the files it has open, None after its end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len([*Path(f"/proc/{pid}/fd").iterdir()])
    except OSError:
        return None
    memory = re.search(r"VmRSS:\s+(\d+) kB", status)
    return (int(memory[1]) // 1024, files) if memory else None
