"""W&B's offline file holds each epoch once, bit for bit, whatever died meanwhile."""

import json
import math
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.mirrors.copies import run_id
from tests.harness import Runner, need
from tests.mirrors.test_mlflow import SPEC, has, wait_for

BLOCK, HEADER = 32_768, 7  #: of the log format that W&B shares with LevelDB


def records(path: Path) -> Iterator[Any]:
    """Read W&B's file with its own messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # a whole one, or the last part of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def rows(path: Path) -> list[dict[str, Any]]:
    """Return what was logged, a row a call of `log`."""
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in one}
        for record in records(path)
        if (one := record.history.item)
    ]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    need("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    runner = Runner(tmp_path / "store", warm=True)
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**SPEC, "trackers": ["wandb"], "log_model": True}))
    runner.ok("submit", str(path), "--detach")
    return runner


def assert_mirrored(runner: Runner, folder: Path) -> None:
    """There is one file; it has what the job's record and History have, nothing else."""
    job, status = runner.job("seen"), runner.status("seen")
    assert job is not None
    (path,) = (folder / "wandb").glob("*run-*/*.wandb")
    assert path.name == f"run-{run_id(job)}.wandb"
    found = rows(path)
    history = status["history"]
    assert [row["_step"] for row in found] == [*range(status["epoch"])]
    for epoch, row in enumerate(found):
        values = {name: value for name, value in row.items() if name[0] != "_"}
        assert values.keys() == history.keys()
        for name, value in values.items():
            expected = history[name][epoch]
            assert repr(float(value)) == repr(math.nan if expected is None else expected)
    (run,) = (record.run for record in records(path) if record.run.run_id)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.display_name, run.project) == ("seen", "runner")
    assert (config["training.epochs"], config["model.name"]) == (status["epoch"], "mlp")
    summary = {}
    for record in records(path):
        for item in record.summary.update:
            name = item.key or ".".join(item.nested_key)
            summary[name] = json.loads(item.value_json)
    for name, value in status["evaluation"].items():
        assert summary[f"evaluation/{name}"] == value
    artifacts = [record.artifact for record in records(path) if record.artifact.name]
    files = {one.type: [file.path for file in one.manifest.contents] for one in artifacts}
    assert "report.html" in files.pop("report")
    assert files == {"model": ["model.keras"]}


def test_killed_between_commits_and_the_mirror(runner: Runner, tmp_path: Path) -> None:
    for moment in ("committed:4", "committed:2", "finished:1"):
        died = runner.run("resume", sabotage=moment)
        assert died.returncode == -9, died.stderr[-2000:]
    runner.ok("resume")
    assert_mirrored(runner, tmp_path)
    before = [*(tmp_path / "wandb").iterdir()]
    runner.ok("work", "--until-empty")
    assert [*(tmp_path / "wandb").iterdir()] == before, "mirrored again"


def test_killed_while_the_file_is_written(runner: Runner, tmp_path: Path) -> None:
    """A worker and the process that writes for it; the next worker's file takes its place."""
    process = runner.start("resume")
    wait_for(lambda: has(runner, 1) and any((tmp_path / "wandb").glob("*run-*/*.wandb")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(1)
    runner.ok("resume")
    runner.ok("work", "--until-empty")
    assert_mirrored(runner, tmp_path)
