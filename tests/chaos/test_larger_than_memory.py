"""Data four times as large as the memory, under a real limit: five kills, and the same bits.

The limit is a control group's, as a container has one. The reference holds all in memory.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.harness import QUICKSTART, Runner, assert_same, sets
from tests.store.servers import serving
from tests.store.servers.proxy import Proxy

pytestmark = pytest.mark.chaos

LIMIT = 1 << 30
PICTURES, SIZE = 20_000, 272  # 4.4 GB as arrays
SHARDS = 20
GROUPS = Path("/sys/fs/cgroup")
KILLS = ("memory.oom_control", "memory.events")  #: of version 1 and 2
#: in the first epoch, in its validation, twice in the second epoch, in the evaluation
DEATHS = ("step:20", "validation:1", "step:30", "committed:2", "evaluation:1")
ENTERS = 'echo $$ > {group}/cgroup.procs && exec "$@"'


@pytest.fixture
def within() -> Iterator[tuple[str, ...]]:
    """A command that runs another one with so much memory and no more."""
    parent, limit = GROUPS / "memory", "memory.limit_in_bytes"  # version 1
    if not parent.exists():
        parent, limit = GROUPS, "memory.max"
    group = parent / f"runner-{token_hex(4)}"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no control group with a limit can be made here: {error}")
    yield ("sh", "-c", ENTERS.format(group=group), "sh")
    told = next(file for name in KILLS if (file := group / name).exists()).read_text().split()
    killed = int(told[told.index("oom_kill") + 1])
    group.rmdir()
    assert not killed, f"the limit ended {killed} processes"  # a death that was asked for hides it


def pixels(number: int) -> Image.Image:
    """A picture of its own, of few colours, brighter in one of the two classes."""
    small = np.random.default_rng(number).integers(0, 128, (17, 17, 3)).astype("uint8")
    return Image.fromarray(small + 100 * (number % 2)).resize(
        (SIZE, SIZE), Image.Resampling.NEAREST
    )


def paint(folder: Path, numbers: range) -> None:
    for number in numbers:
        pixels(number).save(folder / f"class-{number % 2}" / f"{number:05}.jpg", quality=50)


def pack(folder: Path, part: str, numbers: range) -> None:
    x = np.stack([np.asarray(pixels(number)) for number in numbers])
    np.savez_compressed(folder / part, x=x, y=np.array(numbers) % 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("class-0", "class-1"):
        (folder / name).mkdir()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, PICTURES, 500):
            pool.submit(paint, folder, range(start, start + 500))
    assert sum(1 for _ in folder.rglob("*.jpg")) == PICTURES
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, each = tmp_path_factory.mktemp("shards"), PICTURES // SHARDS
    parts = [
        *(f"train-{number:02}" for number in range(SHARDS - 4)),
        *map("test-{}".format, "0123"),
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for number, part in enumerate(parts):
            pool.submit(pack, folder, part, range(number * each, (number + 1) * each))
    assert sum(1 for _ in folder.glob("*.npz")) == SHARDS
    return folder


def killed(runner: Runner, *command: str, at: str) -> None:
    done = runner.run(*command, sabotage=at)
    assert done.returncode == -9, f"{at} never came: {done.stderr[-2000:]}"


def trained(runner: Runner, data: dict[str, Any], *deaths: str, at: str = "") -> dict[str, Any]:
    """Train with a SIGKILL at each of the deaths, the first of them in `submit`, if `at` is one."""
    changes = {
        "data": data, "augmentation": None, "model": {"name": "mlp", "arguments": {"units": [4]}},
        "training": {"epochs": 2, "batch_size": 128}, "checkpoint": {"every": "5 steps"},
        "evaluation": {"batch_size": 128}, "limits.deaths": 1000,
    }  # fmt: skip
    submit = "submit", str(QUICKSTART), "--detach", "--no-trial", *sets(changes)
    if at:
        killed(runner, *submit, at=at)
    runner.ok(*submit)
    for death in deaths:
        killed(runner, "resume", "quickstart", at=death)
    runner.ok("resume", "quickstart")
    return runner.status("quickstart")


def test_a_folder_of_pictures(folder: Path, within: tuple[str, ...], tmp_path: Path) -> None:
    data = {"name": "folder", "path": str(folder), "arguments": {"image_size": SIZE}}
    whole = trained(Runner(tmp_path / "whole"), data)
    small = Runner(tmp_path / "small", {"RUNNER_CACHE": str(tmp_path / "cache")}, within=within)
    # `submit` checks the data, so it is what decodes them
    assert_same(trained(small, data, *DEATHS[1:], at="picture:9000"), whole)


def test_shards_in_a_bucket(shards: Path, within: tuple[str, ...], tmp_path: Path) -> None:
    """Each is fetched once, by the first attempt; the others read this machine's cache."""
    whole = trained(Runner(tmp_path / "whole"), {"name": "shards", "path": str(shards)})
    bucket = f"shards-{token_hex(4)}"
    with serving("s3") as server, Proxy(server.port) as proxy:
        store = server.store(bucket)
        for file in shards.iterdir():
            store.put(file.name, file.read_bytes())
        environment = {
            "RUNNER_CACHE": str(tmp_path / "cache"),
            "RUNNER_STORAGE_OPTIONS": json.dumps(server.through(proxy.port)),
        }
        small = Runner(tmp_path / "small", environment, within=within)
        data = {"name": "shards", "path": server.url(bucket)}
        assert_same(trained(small, data, *DEATHS), whole)
        fetched = [r.path.partition("?")[0] for r in proxy.seen if r.method == "GET"]
    names = sorted(path.rpartition("/")[2] for path in fetched if path.endswith(".npz"))
    assert names == sorted(file.name for file in shards.iterdir())
