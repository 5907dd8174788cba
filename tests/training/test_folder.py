"""A training's own folder: a damaged record is said, and nothing is built upon it."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from runner.checkpoint.ledger import Snapshot
from runner.checkpoint.manifest import Position
from runner.commit import Commit
from runner.errors import CheckpointError, LeaseLostError
from runner.store import log
from runner.store.thinning import AT_ONCE, KEPT
from runner.training.folder import Folder

FIELDS = (b'"checkpoints"', b'"best"', b'"token"', b'"step":3', b'"manifest"', b'"digest"')


def save(path: Path, *steps: int) -> None:
    folder = Folder(str(path), keep=2)
    saver, _ = folder.open()
    for step in steps:
        state = [("model/w", np.full(3, step, dtype="float32"))]
        position = Position(global_step=step)
        saver.save(Snapshot(tensors=state, python={}, position=position), wait=True)
    folder.close()


def resumed_at(path: Path) -> int:
    folder = Folder(str(path), keep=2)
    _, restored = folder.open()
    folder.close()
    assert restored is not None
    step = restored.position.global_step
    assert restored.tensors["model/w"].tolist() == [step] * 3
    return step


def newest(path: Path) -> Path:
    return max((path / "training/log").iterdir())


def flip(path: Path, field: bytes) -> None:
    """Flip a bit of a field's name."""
    wrong = bytearray(path.read_bytes())
    wrong[wrong.index(field) + 1] ^= 1
    path.write_bytes(bytes(wrong))


def first_versions(path: Path) -> None:
    """Take the hashes out of all records."""
    for file in [*(path / "training/log").iterdir(), path / "training/head.json"]:
        record = log.decode(file.read_bytes(), file.name)
        file.write_text(json.dumps(record, separators=(",", ":")))


@pytest.mark.parametrize("field", FIELDS)
def test_a_damaged_record_has_a_copy_or_one_before_it(
    tmp_path: Path, field: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The copy gives the very state; without it the training goes on one checkpoint earlier."""
    save(tmp_path, 1, 2, 3)
    record = newest(tmp_path)
    flip(record, field)
    damaged = record.read_bytes()
    assert resumed_at(tmp_path) == 3
    assert record.read_bytes() == damaged, "records are never changed"
    save(tmp_path, 4)
    (tmp_path / "training/head.json").unlink()
    assert resumed_at(tmp_path) == 4

    flip(newest(tmp_path), b'"checkpoints"')
    name = newest(tmp_path).name
    (tmp_path / "training/head.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert resumed_at(tmp_path) == 4, "the claim before it names the same checkpoints"
    assert f"training/log/{name} is damaged" in caplog.text
    assert "The record before it is used: the training goes on from step 4" in caplog.text
    save(tmp_path, 5)
    assert resumed_at(tmp_path) == 5


def test_records_of_the_first_versions_are_read(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    first_versions(tmp_path)
    assert resumed_at(tmp_path) == 2


@pytest.mark.parametrize("hashed", [True, False], ids=["today", "first versions"])
def test_where_no_record_is_whole_the_object_is_named_and_nothing_is_written(
    tmp_path: Path, hashed: bool
) -> None:
    save(tmp_path, 1, 2)
    if not hashed:
        first_versions(tmp_path)
    for file in [*(tmp_path / "training/log").iterdir(), tmp_path / "training/head.json"]:
        flip(file, b'"checkpoints"')
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match="another folder") as caught:
        resumed_at(tmp_path)
    assert f"training/log/{newest(tmp_path).name}" in str(caught.value)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_two_folders_after_damage_never_share_a_token(tmp_path: Path) -> None:
    """The damaged record may have been another program's claim."""
    save(tmp_path, 1, 2)
    tokens = [json.loads(newest(tmp_path).read_text())["token"]]
    for _ in range(3):
        flip(newest(tmp_path), b'"token"')
        (tmp_path / "training/head.json").unlink()
        assert resumed_at(tmp_path) == 1
        tokens = [*tokens, json.loads(newest(tmp_path).read_text())["token"]]
    assert len(set(tokens)) == len(tokens)
    assert tokens == sorted(tokens)


def test_records_stay_few_however_often_it_saves(tmp_path: Path) -> None:
    """And a folder whose log was thinned out is resumed, taken over and deleted as any other."""
    save(tmp_path, 1)
    folder = Folder(str(tmp_path), keep=2)
    folder.open()
    commit, most = folder._commit, KEPT + AT_ONCE
    assert commit is not None
    before = commit._record
    for _ in range(2 * most):
        commit(Commit(step=1, epoch=0, checkpoints=before["checkpoints"]))
    assert len(list((tmp_path / "training/log").iterdir())) <= most + 5
    assert resumed_at(tmp_path) == 1
    with pytest.raises(LeaseLostError, match="taken over"):
        commit(Commit(step=2, epoch=0))
    open_and_delete(tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def open_and_delete(path: Path) -> None:
    folder = Folder(str(path), keep=2)
    folder.open()
    folder.delete()


def put_into(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")


def test_what_others_keep_in_the_folder_is_not_deleted(tmp_path: Path) -> None:
    save(tmp_path / "one", 1, 2)
    open_and_delete(tmp_path / "one")
    assert not (tmp_path / "one").exists()
    save(tmp_path, 1, 2)
    names = ["notes.txt", "images/cat.png", "log/train.log", "packs/own.safetensors"]
    put_into(tmp_path / "training", names)
    open_and_delete(tmp_path)
    left = [path for path in (tmp_path / "training").rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(tmp_path / "training")) for path in left) == sorted(names)


KILLED = """
import os, signal, sys
from tests.training.test_folder import save
from runner.store import filesystem

def half(file, data):
    os.write(file, b"half")
    if len(data) > 1 or sys.argv[2] == "record":
        os.kill(os.getpid(), signal.SIGKILL)

filesystem.write_all = half
save(__import__("pathlib").Path(sys.argv[1]), 3)
"""


@pytest.mark.parametrize("write", ["pack", "record"])
def test_what_a_killed_write_left_is_deleted_with_the_rest(tmp_path: Path, write: str) -> None:
    save(tmp_path / "one", 1, 2)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "one"), write])
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "one").rglob(".tmp-*"))
    open_and_delete(tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_what_only_looks_like_a_killed_write_is_not_deleted(tmp_path: Path) -> None:
    save(tmp_path, 1)
    names = ["packs/.tmp-notes", ".tmp-0123456789abcdef.txt", "own/.tmp-0123456789abcdef"]
    put_into(tmp_path / "training", names)
    open_and_delete(tmp_path)
    assert all((tmp_path / "training" / name).exists() for name in names)


def test_a_folder_without_hard_links_is_deleted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    save(tmp_path / "one", 1, 2)
    left = tmp_path / "one/training/log/.tmp-0123456789abcdef.d/.whole"
    left.parent.mkdir()
    left.write_bytes(b"{")
    open_and_delete(tmp_path / "one")
    assert not (tmp_path / "one").exists()
