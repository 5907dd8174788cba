"""What a worker reads because a record names it: its writer is anyone who may write the bucket."""

import subprocess
import sys
from pathlib import Path

import pytest

from runner.errors import DataError
from runner.queue.queue import Queue
from runner.store import allowed, places
from runner.store.allowed import refusal
from tests.store.memory import MemoryStore

BUCKET, FOLDER = "s3://bucket/runs", "file:///runs"


@pytest.fixture(autouse=True)
def nothing_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(allowed, "_submitted", set())


@pytest.mark.parametrize(
    "path", ["gs://b/x.npz", "s3://b/x", "az://c/x", "abfs://c@a/x", "https://h/x", "HTTPS://h/x"]
)
def test_buckets_and_https_are_read_unasked(path: str) -> None:
    assert refusal(path, BUCKET) == refusal(path, FOLDER) == ""


@pytest.mark.parametrize("path", ["/data/x.npz", "~/x.npz", "file:///data/x", "local:///data/x"])
def test_local_files_are_read_unasked_for_a_local_store(path: str) -> None:
    assert refusal(path, FOLDER) == ""
    assert "RUNNER_DATA_FROM=" in refusal(path, BUCKET)


@pytest.mark.parametrize(
    "path",
    ["http://lab/x", "sftp://nas/x", "ftp://h/x", "memory://x", "github://o:r@/x", "zip://x"],
)
def test_other_places_are_not(path: str) -> None:
    assert "RUNNER_DATA_FROM=" in refusal(path, BUCKET)


@pytest.mark.parametrize(
    "path",
    [
        "simplecache::https://h/x",
        "zip://x::file:///etc/y.zip",
        "https://169.254.169.254/latest/meta-data",
        "https://user@169.254.169.254:80/x",
        "https://2852039166/x",
        "https://0xa9fea9fe/x",
        "https://[fe80::1]/x",
        "https://[fd00:ec2::254]/x",
        "https://[::ffff:169.254.169.254]/x",
        "https://metadata.google.internal./x",
        "http://metadata.google.internal/x",
        "http://100.100.100.200/x",
        "https://[/x",
    ],
)
def test_chains_and_a_machines_own_addresses_never_are(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_DATA_FROM", f"/,http://,https://,{path}")
    for store in (BUCKET, FOLDER):
        assert "chained" in refusal(path, store) or "cloud or link" in refusal(path, store)


@pytest.mark.parametrize(
    ("path", "setting", "may"),
    [
        ("/data/x/y.npz", "/srv,/data", True),
        ("/data/x.npz", "/data/x.npz", True),
        ("/database/x.npz", "/data", False),
        ("/data/../etc/passwd", "/data", False),
        ("file:///data/x.npz", "/data", True),
        ("file:///data/../etc/passwd", "/data", False),
        ("sftp://nas/x", "sftp://nas/", True),
        ("sftp://nas/x", "sftp://nas", True),
        ("sftp://nas.evil/x", "sftp://nas", False),
        ("sftp://nas@evil/x", "sftp://nas", False),
    ],
)
def test_the_setting_names_folders_and_servers(
    path: str, setting: str, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_DATA_FROM", setting)
    assert (refusal(path, BUCKET) == "") is may


def test_what_was_submitted_on_this_machine_is_remembered() -> None:
    """By whoever has this home, in any process; and by no record that says so."""
    store = MemoryStore("x")
    store.url = BUCKET
    Queue(store).submit("cats", {"data": {"path": "/data/x.npz"}, "name": "cats"})
    program = f"from runner.store.allowed import refusal; print(refusal('/data/x.npz', {BUCKET!r}))"
    for path, said in (("/data/x.npz", ""), ("/data/y.npz", "it reads /data/y.npz")):
        code = program.replace("/data/x.npz", path)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.startswith(said or "\n"), done.stderr


def test_a_chain_is_not_opened_whoever_asks() -> None:
    with pytest.raises(DataError, match="chained"):
        places.DataPlace("simplecache::memory://x")
