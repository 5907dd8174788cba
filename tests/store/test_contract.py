"""What every store guarantees, whatever is behind it."""

import array
import os
import threading
import time
from pathlib import Path

import pytest

from runner.errors import NotFoundError, StoreError
from runner.store.base import MAX_RECORD, Buffer, Created, Store
from runner.store.filesystem import FileStore
from runner.store.remote import FsspecStore
from tests.store.conftest import Place


def test_a_key_is_created_once(store: Store) -> None:
    assert store.create("jobs/a/log/000000000000.json", b"first\n") is Created.YES
    assert store.create("jobs/a/log/000000000000.json", b"second\n") is Created.EXISTS
    assert store.read("jobs/a/log/000000000000.json") == b"first\n"


def test_a_create_does_not_replace_what_was_put(store: Store) -> None:
    store.put("a", b"put")
    assert store.create("a", b"created") is Created.EXISTS
    assert store.read("a") == b"put"


def test_an_absent_key_is_none(store: Store) -> None:
    assert store.read("nothing/here") is None
    assert store.read("nothing/here", max_bytes=100) is None
    assert store.size("nothing/here") is None
    assert store.age("nothing/here") is None
    assert store.list("nothing/") == []
    assert store.folders("nothing/") == []
    store.delete("nothing/here")
    with pytest.raises(NotFoundError):
        store.read_range("nothing/here", 0, 1)


def test_a_folder_is_not_a_key(store: Store) -> None:
    store.put("folder/key", b"1")
    assert store.size("folder") is None


def test_what_was_written_is_read_at_once(store: Store) -> None:
    for n in range(10):
        store.put("same", b"%d" % n)
        assert store.read("same") == b"%d" % n
        assert store.size("same") == 1


def test_a_key_that_was_seen_absent_is_found_once_written(store: Store) -> None:
    """No cache remembers that it was not there."""
    assert store.read("late/key") is None
    assert store.list("late/") == []
    store.put("late/key", b"here")
    assert store.read("late/key") == b"here"
    assert store.list("late/") == ["late/key"]


def test_another_writers_key_is_listed_at_once(place: Place) -> None:
    ours, theirs = place.open(), place.open()
    assert ours.list("log/") == []
    theirs.create("log/1", b"x")
    assert ours.list("log/") == ["log/1"]
    theirs.create("log/2", b"x")
    assert ours.list("log/") == ["log/1", "log/2"]
    assert ours.read("log/2") == b"x"


def test_listing_is_whole_sorted_and_relative(store: Store) -> None:
    """More keys than a page of the test servers' listings has."""
    keys = sorted(f"jobs/j{n % 7}/log/{n:012d}.json" for n in range(120))
    for key in keys:
        store.put(key, b"{}")
    store.put("jobs-other/x", b"{}")
    store.put("top", b"{}")
    assert store.list("jobs/") == keys
    assert store.list("jobs/j3/") == [key for key in keys if key.startswith("jobs/j3/")]
    assert store.list("jobs/j3/log/") == store.list("jobs/j3/")
    assert store.list("") == sorted([*keys, "jobs-other/x", "top"])
    assert store.list("jobs/", after=keys[59]) == keys[60:]
    assert store.folders("jobs/") == [f"j{n}" for n in range(7)]
    assert store.folders("") == ["jobs", "jobs-other"]


def test_folders_over_several_pages(store: Store) -> None:
    names = sorted(f"job-{n}" for n in range(110))
    for name in names:
        store.put(f"jobs/{name}/head.json", b"{}")
    assert store.folders("jobs/") == names


def test_deleted_is_gone(store: Store) -> None:
    store.put("a/b", b"1")
    store.delete("a/b")
    assert store.read("a/b") is None
    assert store.list("a/") == []
    assert store.create("a/b", b"2") is Created.YES


def test_many_reads_at_once(store: Store) -> None:
    for n in range(100):
        store.put(f"many/{n}", b"%d" % n)
    keys = [f"many/{n}" for n in range(0, 200, 2)]
    expected = [b"%d" % n if n < 100 else None for n in range(0, 200, 2)]
    assert store.read_many(keys) == expected
    assert store.read_many([]) == []
    store.put("huge", b"x" * 1000)
    small, huge = store.read_many(["many/1", "huge"], max_bytes=100)
    assert small == b"1"
    assert isinstance(huge, StoreError)


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_any_size(store: Store, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    store.put("blob", data)
    assert store.read("blob") == data
    assert store.read("blob", max_bytes=size) == data
    assert store.size("blob") == size
    if size > 1:
        assert store.read_range("blob", 1, size - 1) == data[1:]
        assert store.read_range("blob", size - 1, 1) == data[-1:]
        with pytest.raises(StoreError):
            store.read("blob", max_bytes=size - 1)
    with pytest.raises(StoreError):
        store.read_range("blob", size, 1)
    with pytest.raises(StoreError):
        store.read_range("blob", max(0, size - 1), 10)


def test_large_objects_are_written_in_pieces_and_whole(store: Store) -> None:
    """More than one part of an upload: multipart on S3, resumable on GCS."""
    pieces: list[Buffer] = [bytearray(b"a") * (36 << 20), memoryview(b"b" * (33 << 20)), b"c" * 5]
    store.put("packs/large", pieces)
    assert store.size("packs/large") == sum(len(piece) for piece in pieces)
    assert store.read_range("packs/large", (36 << 20) - 1, 2) == b"ab"
    assert store.read_range("packs/large", (69 << 20) - 1, 6) == b"bccccc"
    whole = store.read("packs/large")
    assert whole == b"".join(pieces)
    store.put("packs/large", b"small now")
    assert store.read("packs/large") == b"small now"


def test_pieces_may_be_views_of_any_shape(store: Store) -> None:
    numbers = array.array("d", [1.0, 2.0])
    store.put("pieces", [memoryview(numbers), b"", memoryview(b"abcd")[::1]])
    assert store.read("pieces") == numbers.tobytes() + b"abcd"


def test_only_small_records_are_created(store: Store) -> None:
    """Conditional creates of large objects are not safe everywhere, so there are none."""
    assert store.create("most", b"x" * MAX_RECORD) is Created.YES
    for data in (b"", b"x" * (MAX_RECORD + 1)):
        with pytest.raises(StoreError, match="created exclusively"):
            store.create("more", data)


@pytest.mark.parametrize(
    "key", ["a", "A.b_c-d", "a/b/c/d/e/f", "0/00000.json", "x" * 200, "a..b/c", "-/_", "a.tmp/b.d"]
)
def test_odd_keys(store: Store, key: str) -> None:
    assert store.create(key, b"1") is Created.YES
    assert store.read(key) == b"1"
    assert store.list("") == [key]


UNSAFE = (
    *("", "/a", "a/", "a//b", "..", "a/../b", ".", "a/./b", ".hidden", "a/.b", "a b", "a\nb"),
    *("a\\b", "a\x00b", "ä", "a%2e", "a*", "x" * 201, "/".join(["x" * 100] * 10), "C:x", "a?b"),
)


@pytest.mark.parametrize("key", UNSAFE)
def test_keys_that_could_leave_the_store_are_refused(store: Store, key: str) -> None:
    for use in (
        lambda: store.read(key),
        lambda: store.create(key, b"x"),
        lambda: store.put(key, b"x"),
        lambda: store.delete(key),
        lambda: store.size(key),
        lambda: store.age(key),
        lambda: store.read_range(key, 0, 1),
        lambda: store.read_many([key]),
    ):
        with pytest.raises(StoreError, match="is not a key"):
            use()
    with pytest.raises(StoreError, match="is not a"):
        store.list(f"{key}/")
    with pytest.raises(StoreError, match="is not a folder"):
        store.list("a")


def test_age_grows_by_the_stores_own_clock(store: Store) -> None:
    store.put("beat", b"1")
    first = store.age("beat")
    assert first is not None
    assert 0 <= first < 5
    time.sleep(1.2)
    second = store.age("beat")
    assert second is not None
    assert second > first
    time.sleep(1.1)
    store.put("beat", b"2")
    third = store.age("beat")
    assert third is not None
    assert third < 1.5  # a store may keep whole seconds


def test_threads_share_one_store(store: Store) -> None:
    def work(name: str) -> None:
        for n in range(5):
            store.put(f"threads/{name}", b"%d" % n)
            results.append(store.read(f"threads/{name}") == b"%d" % n)

    results: list[bool] = []
    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


def test_a_duplicate_lives_by_itself(store: Store) -> None:
    """Whichever of the two names is deleted or replaced, the other keeps its bytes."""
    store.put("jobs/a/packs/t1-x.safetensors", [b"ab", b"c"])
    store.duplicate("jobs/a/packs/t1-x.safetensors", "jobs/b/packs/t0-x.safetensors")
    store.duplicate("jobs/a/packs/t1-x.safetensors", "jobs/b/packs/t0-x.safetensors")
    store.put("jobs/a/packs/t1-x.safetensors", b"other")
    assert store.read("jobs/b/packs/t0-x.safetensors") == b"abc"
    store.delete("jobs/a/packs/t1-x.safetensors")
    assert store.read("jobs/b/packs/t0-x.safetensors") == b"abc"
    assert (store.age("jobs/b/packs/t0-x.safetensors") or 0) < 60
    assert store.sizes("jobs/") == {"jobs/b/packs/t0-x.safetensors": 3}
    with pytest.raises(NotFoundError):
        store.duplicate("jobs/a/packs/t1-x.safetensors", "jobs/c/x")
    assert store.sizes("jobs/c/") == {}


def test_a_duplicate_of_an_old_object_is_young(place: Place, tmp_path: Path) -> None:
    store = place.open()
    store.put("a/old", b"x")
    if isinstance(store, FileStore):
        os.utime(tmp_path / store.url.rpartition("/")[2] / "a" / "old", (1e9, 1e9))
    store.duplicate("a/old", "a/new")
    assert (store.age("a/new") or 0.0) < 60


@pytest.mark.parametrize(
    ("name", "kind"), [("report.html", "text/html"), ("loss.png", "image/png"), ("x.bin", None)]
)
def test_a_bucket_says_what_a_browser_shows(place: Place, name: str, kind: str | None) -> None:
    """And lets it keep no page, for there will be a newer one."""
    store = place.open()
    if not isinstance(store, FsspecStore):
        pytest.skip("no server says of what kind its files are")
    store.put(f"report/{name}", b"x")
    place_in_bucket = f"{store._root}/report/{name}"
    found = store._fs.info(place_in_bucket, refresh=True)
    if "LastModified" in found:  # S3, whose listing says less
        bucket, _, key = place_in_bucket.partition("/")
        head = store._fs.call_s3("head_object", Bucket=bucket, Key=key)
        said = head["ContentType"], head.get("CacheControl")
    else:
        said = found["contentType"], found.get("cacheControl")
    if kind is None:
        assert said[1] is None
    else:
        assert said[0].startswith(kind)
        assert said[1] == "no-cache"
