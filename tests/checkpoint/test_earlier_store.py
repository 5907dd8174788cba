"""A store that the version of November 2026 wrote is read to the same values, and resumed.

`data/store` holds a job that was interrupted ("cats"), one that has ended ("dogs"), a folder of the
drop-in callback ("own"), a heartbeat and a worker. `data/store/expected.json` is what that version
read from it.
"""

import json
import math
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.checkpoint.ledger import Ledger, Snapshot
from runner.checkpoint.manifest import Manifest, Position
from runner.checkpoint.plain import decode
from runner.checkpoint.reading import Restored
from runner.queue import presence
from runner.queue.job import from_json, to_json
from runner.queue.protocol import parse_beat
from runner.queue.queue import Queue
from runner.store import log
from runner.store.filesystem import FileStore
from runner.training.folder import Folder

DATA = Path(__file__).parent / "data" / "store"
EXPECTED = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
RECORDS = sorted(DATA.glob("jobs/*/log/*.json"))
MANIFESTS = sorted(DATA.glob("**/checkpoints/*.json"))


def plain(value: Any) -> Any:
    """As JSON has it."""
    text = json.dumps(asdict(value), default=lambda one: one.isoformat())
    return json.loads(text)


def assert_is(restored: Restored | None, step: int) -> None:
    assert restored is not None
    assert restored.position == Position(epoch=step // 2, step=step % 2, global_step=step)
    rng, tensors = np.random.default_rng(step), restored.tensors
    assert tensors["model/w"].tobytes() == rng.random((4, 3)).astype("float32").tobytes()
    assert tensors["model/frozen"].tobytes() == np.arange(6, dtype="int64").tobytes()
    assert tensors["optimizer/half"].tobytes() == rng.random(3).astype("float16").tobytes()
    python = decode(restored.python, tensors.__getitem__)
    assert math.isnan(python.pop("nan"))
    assert python.pop("a").tolist() == [1, 1]
    at = datetime(2026, 11, 1, tzinfo=UTC)
    assert python == {"seen": (step, {1, 2}), 3: b"\x00\xff", "at": at}
    assert restored.history == {"loss": [0.5, None, 0.25][:step], "val_top_1": [0.1 * step]}


@pytest.mark.parametrize("name", ["cats", "dogs"])
def test_a_job_is_what_it_was(name: str) -> None:
    found = plain(Queue(FileStore(DATA)).job(name))
    later: dict[str, Any] = {"monitors": [], "parent": None, "time": None, "trackers": []}
    assert found == {**EXPECTED[name], **later}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_records_are_written_as_they_were(path: Path) -> None:
    """To the byte, where no text in them was changed to one line."""
    data = path.read_bytes()
    again = log.encode(to_json(from_json(log.decode(data, path.name), path.parts[-3])))
    assert again == data or rb"\n" in data
    assert log.decode(again, path.name).keys() == log.decode(data, path.name).keys()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_written_as_they_were(path: Path) -> None:
    data = path.read_bytes()
    assert Manifest.from_bytes(path.name, data).to_bytes() == data


def test_signs_of_life_are_read() -> None:
    data = (DATA / "jobs/cats/lease/1.json").read_bytes()
    assert plain(parse_beat(data, 1)) == {**EXPECTED["beat"], "time": {}}  # which came later
    worker = {**EXPECTED["worker"], "ended": False}  # which came later
    assert [plain(one) for one in presence.everyone(FileStore(DATA))] == [worker]


@pytest.mark.parametrize(("name", "step"), [("cats", 3), ("dogs", 4)])
def test_the_checkpoints_of_a_job_are_restored(name: str, step: int) -> None:
    store = FileStore(DATA)
    job = Queue(store).job(name)
    ledger = Ledger(
        store,
        f"jobs/{name}",
        token=9,
        commit=lambda _: None,
        checkpoints=job.checkpoints,
        best=job.best,
    )
    assert_is(ledger.restore(), step)
    assert job.best is not None
    assert job.best["step"] == {"cats": 2, "dogs": 4}[name]


def test_a_job_goes_on(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "store")
    queue = Queue(FileStore(tmp_path / "store"))
    lease = queue.claim(queue.job("cats"), {"host": "another", "pid": 1})
    assert lease.token == 3
    assert lease.release("SIGTERM") == queue.job("cats")


def test_a_folder_goes_on(tmp_path: Path) -> None:
    shutil.copytree(DATA / "own", tmp_path / "own")
    folder = Folder(str(tmp_path / "own"), keep=2)
    checkpointer, restored = folder.open()
    assert_is(restored, 6)
    state = [("model/w", np.zeros(2, dtype="float32"))]
    checkpointer.save(
        Snapshot(tensors=state, python={}, position=Position(global_step=7)), wait=True
    )
    folder.close()
    _, restored = Folder(str(tmp_path / "own"), keep=2).open()
    assert restored is not None
    assert restored.position.global_step == 7
