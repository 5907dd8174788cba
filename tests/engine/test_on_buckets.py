"""On a bucket that fails all the time, a training that is killed ends bit-identically.

A tenth of all requests fails, and of every tenth create the reply is lost after the server has
acted. The servers and the faults are those of `tests/store`.
"""

import itertools
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Runner, assert_same, finish
from tests.store.servers import Server, serving
from tests.store.servers.proxy import CUT, LOSE, RESET, Fault, Proxy, Request, answer, answer_after

SPEC = {
    "name": "over-a-bad-line",
    "seed": 3,
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "augmentation": {"flip": "horizontal", "rotation": 0.1, "zoom": 0.1},
    "model": {"name": "mlp", "arguments": {"dropout": 0.2}},
    "training": {"epochs": 4, "batch_size": 100},
    "checkpoint": {"every": "4 steps", "best": {"monitor": "val_loss"}},
    "limits": {"deaths": 1000},
    "evaluation": {"augmented_passes": 2},
}
DEATHS = ("committed:3", "step:5", "claimed", "train_end", "evaluation:2")
FAULTS = (answer(503), answer(500), answer(429), answer_after(500), RESET, LOSE, CUT)


class BadLine:
    """Which requests fail: a tenth of all, and of every tenth create the reply is lost."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._creates = itertools.count(1)
        self._lock = threading.Lock()
        self.lost_creates = 0
        self.failed = 0

    def __call__(self, request: Request) -> Fault | None:
        with self._lock:
            if request.creates and next(self._creates) % 10 == 0:
                self.lost_creates += 1
                return LOSE
            if self._random.random() < 0.1:
                self.failed += 1
                return self._random.choice(FAULTS)
        return None


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "job.json"
    path.write_text(json.dumps(SPEC))
    return path


@pytest.fixture(scope="module")
def undisturbed(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runner = Runner(tmp_path_factory.mktemp("undisturbed"), warm=True)
    runner.ok("submit", str(spec))
    return runner.status("over-a-bad-line")


@pytest.fixture(scope="module", params=["s3", pytest.param("gcs", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving(request.param) as server:
        yield server


def test_killed_over_a_bad_line(server: Server, spec: Path, undisturbed: dict[str, Any]) -> None:
    die_and_finish(server, spec, undisturbed, *DEATHS[:2])


@pytest.mark.chaos
def test_killed_five_times_over_a_bad_line(
    server: Server, spec: Path, undisturbed: dict[str, Any]
) -> None:
    die_and_finish(server, spec, undisturbed, *DEATHS)


def die_and_finish(server: Server, spec: Path, undisturbed: dict[str, Any], *deaths: str) -> None:
    seed = random.randrange(1 << 30)
    line = BadLine(seed)
    with Proxy(server.port, line) as proxy:
        environment = server.environment(port=proxy.port)
        url = server.url(f"runs-{len(deaths)}")
        runner = Runner(Path(), environment, url=url, warm=True)
        runner.ok("submit", str(spec), "--detach")
        status = finish(runner, "over-a-bad-line", *deaths)
    print(f"seed {seed}: {line.failed} requests failed, {line.lost_creates} creates' replies lost")
    assert_same(status, undisturbed)
    assert line.failed > 10
    assert line.lost_creates >= 2
    assert (status["deaths"], status["failures"]) == (len(deaths), 0)
