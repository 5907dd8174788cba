"""What is read from afar is read once on a machine, goes on where it was cut off, has a bound."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pytest

from runner.datasets import arrays, folder, npz, shards
from runner.errors import DataAwayError, DataError
from runner.store import cache
from runner.store.places import DataPlace
from runner.store.receiving import Received, told_to
from tests.datasets.test_folder import paint
from tests.store.servers.proxy import Proxy, answer, first


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def shard(start: int, count: int = 40, **more: Any) -> bytes:
    generator, file = np.random.default_rng(start), io.BytesIO()
    x = generator.integers(0, 256, (count, 8, 8, 3)).astype("uint8")
    np.savez(file, x=x, y=np.arange(start, start + count) % 3, **more)
    return file.getvalue()


def npz_of(y: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.zeros((len(y), 8, 8, 3), np.uint8), y=y)
    return file.getvalue()


SHARDS = {
    "test-0.npz": shard(90),
    "train-0.npz": shard(0, class_names=np.array(["ant", "bee", "cat"])),
    "train-1.npz": shard(40),
    "train-2.npz": shard(80, count=7),
}


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 bucket behind a proxy that counts: the proxy, its URL, and the store."""
    server = request.getfixturevalue("s3_server")
    name = f"cache-{token_hex(4)}"
    with Proxy(server.port) as proxy:
        monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", json.dumps(server.through(proxy.port)))
        yield proxy, server.url(name), server.store(name)


def reads(proxy: Proxy, ending: str) -> list[str]:
    """Return the objects whose bytes were asked for."""
    paths = [r.path.partition("?")[0] for r in proxy.seen if r.method == "GET"]
    return [path for path in paths if path.endswith(ending)]


def test_shards_are_one_data_set(tmp_path: Path) -> None:
    for name, content in SHARDS.items():
        (tmp_path / name).write_bytes(content)
    found = shards.load(path=str(tmp_path))
    assert (found.x_train.shape, found.x_test.shape) == ((87, 8, 8, 3), (40, 8, 8, 3))
    assert found.y_train.tolist() == (np.arange(87) % 3).tolist()
    assert found.class_names == ("ant", "bee", "cat")
    whole = [np.load(io.BytesIO(SHARDS[f"train-{n}.npz"]))["x"] for n in range(3)]
    assert np.array_equal(found.x_train, np.concatenate(whole))


def test_a_label_without_a_class_is_named_with_its_shard(tmp_path: Path) -> None:
    for name, content in (SHARDS | {"train-1.npz": npz_of(y=np.array([0, 3]))}).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"train-1\.npz cannot .*\n  y holds labels from 0 to 3"):
        shards.load(path=str(tmp_path))


def test_each_shard_is_fetched_once_by_all_attempts(bucket: Any) -> None:
    proxy, url, store = bucket
    for name, content in SHARDS.items():
        store.put(name, content)
    digests = {shards.load(path=url).digest for _ in range(3)}
    assert len(digests) == 1
    assert sorted(path.rpartition("/")[2] for path in reads(proxy, ".npz")) == sorted(SHARDS)


def test_a_shard_that_changes_is_read_anew(bucket: Any) -> None:
    _, url, store = bucket
    for name, content in SHARDS.items():
        store.put(name, content)
    before = shards.load(path=url)
    store.put("train-1.npz", shard(43))
    assert shards.load(path=url).digest != before.digest


def test_a_download_that_is_cut_off_goes_on(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is gone; the next one asks for what the first had not got."""
    proxy, url, store = bucket
    monkeypatch.setattr(cache, "RANGE", 1000)
    monkeypatch.setattr(cache, "_AT_ONCE", 1)
    monkeypatch.setattr(cache, "_SAVED_BYTES", 0)
    content = b"".join(SHARDS.values())
    store.put("x.bin", content)

    def stop(received: Received) -> None:
        if received.done > len(content) / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), told_to(stop):
        cache.view(DataPlace(f"{url}/x.bin"))
    asked = len(reads(proxy, "x.bin"))
    looks: list[Received] = []
    with told_to(looks.append):
        assert bytes(cache.view(DataPlace(f"{url}/x.bin"))) == content
    pieces = -(-len(content) // 1000)
    assert pieces <= asked + len(reads(proxy, "x.bin")[asked:]) <= pieces + 3  # that were ahead
    assert looks[0].done > len(content) / 2
    assert looks[-1].done == looks[-1].total == len(content)


def test_a_connection_that_is_cut_costs_one_range(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, url, store = bucket
    monkeypatch.setattr(cache, "RANGE", 1000)
    store.put("x.bin", bytes(range(256)) * 40)
    proxy.rule = first(1, answer(503), method="GET")
    assert bytes(cache.view(DataPlace(f"{url}/x.bin"))) == bytes(range(256)) * 40
    assert proxy.faults


def test_npz_files_from_afar_are_read_once(bucket: Any) -> None:
    proxy, url, store = bucket
    file, x, y = io.BytesIO(), np.zeros((4, 8, 8, 1), np.uint8), np.arange(4) % 2
    np.savez_compressed(file, x_train=x, y_train=y, x_test=x, y_test=y)
    store.put("x.npz", file.getvalue())
    for _ in range(2):
        assert npz.load(path=f"{url}/x.npz").x_train.shape == (4, 8, 8, 1)
    assert len(reads(proxy, "x.npz")) == 1


def pictures(place: Path, count: int = 12) -> Path:
    for n in range(count):
        for grey, name in ((10, "cat"), (200, "dog")):
            paint(place / name / f"{n:02}.png", grey + n)
    return place


def test_a_folder_too_large_for_memory_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images are the ones that would be in memory; they are mapped, and not decoded again."""
    place = pictures(tmp_path / "pictures")
    expected = folder.load(path=str(place))
    monkeypatch.setattr(arrays, "IN_MEMORY", 0.0)
    found = folder.load(path=str(place))
    assert arrays.stays_mapped(found.x_train)
    assert not arrays.stays_mapped(expected.x_train)
    assert found.digest == expected.digest
    monkeypatch.setattr("PIL.Image.open", None)
    assert folder.load(path=str(place)).digest == expected.digest


def test_a_picture_that_is_broken_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = pictures(tmp_path / "pictures")
    monkeypatch.setattr(arrays, "IN_MEMORY", 0.0)
    monkeypatch.setattr(cache, "_SAVED_BYTES", 0)
    broken = place / "cat" / "03.png"
    content, times = broken.read_bytes(), (broken.stat().st_atime, broken.stat().st_mtime)
    broken.write_bytes(b"0" * len(content))
    os.utime(broken, times)
    for _ in range(2):
        with pytest.raises(DataError, match=r"03.png is no readable picture"):
            folder.load(path=str(place))
    broken.write_bytes(content)
    os.utime(broken, times)
    assert folder.load(path=str(place)).x_train.max() > 0


KILLED = """
import sys, time
import numpy as np
from runner.store import cache
def read(piece):
    time.sleep(0.02)
    return {"x": np.full((3, 5), piece)}
print("begun", flush=True)
cache._SAVED_SECONDS = 0.2  # most kills come between two
found = cache.arrays("k", range(100), read, needs=1, bytes_of=lambda _: 1, threads=2)
print(found["x"][:, 0].tolist() == [p for p in range(100) for _ in range(3)], found["x"].shape)
"""


def test_who_is_killed_leaves_nothing_that_is_wrong(own_cache: Path) -> None:
    """SIGKILL at any moment; the next process goes on, and does not begin anew."""
    began = time.monotonic()
    for seconds in (0.4, 0.6, 0.5):
        child = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        child.wait()
    (entry,) = [one for one in own_cache.iterdir() if one.is_dir()]
    assert json.loads((entry / "journal.json").read_bytes())["pieces"] > 10
    out = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[1] == "True (300, 5)"
    assert time.monotonic() - began < 60


def kept(key: str, count: int, made: list[str] | None = None) -> dict[str, Any]:
    def read(_: int) -> dict[str, Any]:
        if made is not None:
            made.append(key)
        return {"x": np.ones(count, np.uint8)}

    return cache.arrays(key, [0], read, needs=count, bytes_of=lambda _: count, threads=1)


def test_what_was_not_used_for_longest_makes_room(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_CACHE_MB", "2.5")
    first_one = kept("a", 1_000_000)["x"]
    kept("b", 1_000_000)
    folders = {one: time.time() - 100 for one in own_cache.iterdir() if one.is_dir()}
    for one, at in folders.items():
        os.utime(one, (at, at))
    kept("a", 1_000_000)  # used now
    kept("c", 1_000_000)
    sizes = sum(file.stat().st_size for file in own_cache.rglob("x"))
    assert sizes == 2_000_000
    made: list[str] = []
    for key in "acb":
        kept(key, 1_000_000, made)
    assert made == ["b"]
    assert first_one.sum() == 1_000_000


def test_data_that_are_too_large_for_the_disk_are_told_with_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNNER_CACHE_MB", "1")
    with pytest.raises(
        DataAwayError, match=r"need 9.0 MB more .* RUNNER_CACHE_MB higher, or RUNNER"
    ):
        kept("a", 9_000_000)
    monkeypatch.setenv("RUNNER_CACHE_MB", "lots")
    with pytest.raises(DataAwayError, match="RUNNER_CACHE_MB: received 'lots'"):
        kept("a", 9_000_000)


def test_what_was_compressed_is_counted_as_it_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_CACHE_MB", "2.5")
    ones = np.ones(1_000_000, np.uint8)

    def all_of(key: str) -> dict[str, Any]:
        return cache.arrays(
            key, [0, 1, 2], lambda _: {"x": ones}, needs=10, bytes_of=lambda _: 3, threads=1
        )

    with pytest.raises(DataAwayError, match=r"need 1.0 MB more .* may take 0.5 MB"):
        all_of("a")
    monkeypatch.setenv("RUNNER_CACHE_MB", "3.5")
    assert len(all_of("b")["x"]) == 3_000_000  # in the place of the other


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"\2" + file.read_bytes()[1:]),
        lambda file: os.truncate(file, 1000),
        lambda file: file.unlink(),
        lambda file: file.with_name("journal.json").write_text('{"arrays": []}'),
    ],
    ids=["other bytes", "cut short", "gone", "another journal"],
)
def test_what_was_damaged_is_read_anew(damage: Callable[[Path], Any], own_cache: Path) -> None:
    kept("a", 9_000_000)
    made: list[str] = []
    assert not damage(file := next(own_cache.glob("*/x"))) or file.stat().st_size
    assert kept("a", 9_000_000, made)["x"].sum() == 9_000_000
    assert made == ["a"]


def test_a_copy_that_was_touched_is_compared_once(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept("a", 9_000_000)
    os.utime(next(own_cache.glob("*/x")))
    made: list[str] = []
    kept("a", 9_000_000, made)
    monkeypatch.setattr(cache._Entry, "_compare", None)
    kept("a", 9_000_000, made)
    assert made == []


def test_a_damaged_copy_of_a_file_is_fetched_again(bucket: Any, own_cache: Path) -> None:
    _, url, store = bucket
    file = io.BytesIO()
    x, y = np.ones((8, 8, 8, 3), np.uint8), np.arange(8) % 2
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    store.put("all.npz", file.getvalue())
    whole = npz.load(path=f"{url}/all.npz").x_train.copy()
    content = next(own_cache.glob("*/content"))
    content.write_bytes(content.read_bytes().replace(b"\1\1", b"\0\1"))
    assert (npz.load(path=f"{url}/all.npz").x_train == whole).all()


def test_a_folder_that_cannot_hold_a_cache_is_named_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/below", "link", "x" * 300):
        monkeypatch.setenv("RUNNER_CACHE", str(tmp_path / name))
        with pytest.raises(
            DataAwayError, match=r"can't be kept in .*\. Set RUNNER_CACHE to a fold"
        ):
            kept("a", 9)
    for name in ("~nobody-of-this-name/x", "s3://bucket/cache"):
        monkeypatch.setenv("RUNNER_CACHE", name)
        with pytest.raises(DataAwayError, match=r"RUNNER_CACHE: received .*; expected a folder of"):
            kept("a", 9)


def test_two_that_make_room_at_once_do_not_meet(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_CACHE_MB", "1.5")
    kept("a", 1_000_000)
    is_dir = Path.is_dir

    def removed_meanwhile(path: Path) -> bool:
        found = is_dir(path)
        if found and (path / "x").exists():
            shutil.rmtree(path)
        return found

    monkeypatch.setattr(Path, "is_dir", removed_meanwhile)
    assert len(kept("b", 1_000_000)["x"]) == 1_000_000


def test_a_disk_that_becomes_full_is_told_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_CACHE", str(tmp_path / "other"))
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(
        DataAwayError, match=r"No space left on device. Make room, set RUNNER_CACHE"
    ):
        kept("a", 9_000)


def test_shards_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    for name, content in SHARDS.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "train-3.npz", x=np.zeros((2, 9, 9, 3), np.uint8), y=np.zeros(2, int))
    with pytest.raises(DataError, match=r"train-3.npz: x has uint8 of \(9, 9, 3\) beside"):
        shards.load(path=str(tmp_path))
    np.savez(tmp_path / "train-3.npz", x=np.ones((2, 8, 8, 3)) / 2, y=np.zeros(3, int))
    with pytest.raises(DataError, match=r"train-3.npz cannot be used:\n  x holds") as refused:
        shards.load(path=str(tmp_path))
    assert "(x * 255)" in str(refused.value)
    assert "y has 3 labels for 2 images" in str(refused.value)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "._3.npz").write_bytes(b"what macOS leaves on other disks")
    np.savez(tmp_path / "train-3.npz", x=np.ones((2, 8, 8, 3), np.uint8), y=np.zeros(2, int))
    good = (tmp_path / "test-0.npz").read_bytes()
    (tmp_path / "test-0.npz").write_bytes(shard(90, class_names=np.array("ant")))
    shards.load(path=str(tmp_path))  # those of the first shard count
    (tmp_path / "train-0.npz").write_bytes(shard(0, class_names=np.array("ant")))
    with pytest.raises(DataError, match=r"train-0.npz: class_names holds .* expected a list"):
        shards.load(path=str(tmp_path))
    (tmp_path / "train-0.npz").write_bytes(SHARDS["train-0.npz"])
    (tmp_path / "test-0.npz").write_bytes(good)
    (tmp_path / "train-3.npz").write_bytes(b"no npz")
    with pytest.raises(DataError, match=r"train-3.npz is no npz file"):
        shards.load(path=str(tmp_path))
    with pytest.raises(DataError, match="has 0 train"):
        shards.load(path=str(pictures(tmp_path / "pictures", 1)))
