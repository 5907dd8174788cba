"""Checkpoints count all at once or not at all, and a damaged one is never believed."""

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from runner.checkpoint import collection, writing
from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.ledger import Ledger, Snapshot
from runner.checkpoint.manifest import Position, Reference
from runner.checkpoint.reading import Restored, read_checkpoint, read_manifest
from runner.commit import Commit
from runner.errors import CheckpointError, LeaseLostError, StoreError, StoreRefusedError
from tests.store.memory import Killed, MemoryStore

PREFIX = "jobs/cats"
LOGGER = logging.getLogger("tests")


class Log:
    """Stands for the job's log: remembers the last commit, and fences old tokens."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.token = 0

    def commit(self, token: int) -> Callable[[Commit], None]:
        def commit(made: Commit) -> None:
            if token != self.token:
                raise LeaseLostError("another worker owns the job.")
            self.records.append(made.changes())

        return commit

    @property
    def last(self) -> dict[str, Any]:
        return self.records[-1] if self.records else {"checkpoints": [], "best": None}

    def claim(
        self, store: Any, *, keep: int = 2, warn: Any = LOGGER.warning, **options: Any
    ) -> Checkpointer:
        self.token += 1
        ledger = Ledger(
            store,
            PREFIX,
            token=self.token,
            commit=self.commit(self.token),
            checkpoints=self.last["checkpoints"],
            best=self.last["best"],
            keep=keep,
            warn=warn,
        )
        return Checkpointer(ledger, warn=warn, **options)


def state(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {
        "model/00000/kernel": rng.random((30, 20)).astype("float32"),
        "model/00001/frozen": np.arange(4000, dtype="float32"),
        "optimizer/00000/iteration": np.array(step),
        "optimizer/00001/slot": rng.random((30, 20)).astype("float32"),
        "metric/00000/total": np.zeros(1),
        "python/00000/best_weights": rng.random(5),
    }


def snapshot(step: int, **changes: Any) -> Snapshot:
    return Snapshot(
        tensors=list(state(step).items()),
        python={"step": step},
        position=Position(epoch=step // 10, step=step % 10, global_step=step),
        **changes,
    )


def assert_is(restored: Restored | None, step: int) -> None:
    assert restored is not None
    assert restored.python == {"step": step}
    assert restored.position.global_step == step
    for name, array in state(step).items():
        assert restored.tensors[name].tobytes() == array.tobytes(), name


def saved(store: Any, log: Log, *steps: int, **options: Any) -> Checkpointer:
    saver = log.claim(store, **options)
    for step in steps:
        saver.save(snapshot(step), wait=True)
    return saver


def packs_in(store: MemoryStore) -> list[str]:
    return store.list(f"{PREFIX}/packs/")


def test_nothing_committed_restores_nothing() -> None:
    assert Log().claim(MemoryStore()).restore() is None


def test_what_was_saved_is_restored_by_another_process() -> None:
    store, log = MemoryStore(), Log()
    saved(store, log, 1, 2, 3).close()
    assert_is(log.claim(store).restore(), 3)


def test_packs_are_safetensors_files() -> None:
    store, log = MemoryStore(), Log()
    saved(store, log, 7)
    (key,) = packs_in(store)
    data = store.read(key)
    assert data is not None
    assert load(data)["model/00000/kernel"].tobytes() == state(7)["model/00000/kernel"].tobytes()


def test_digest_is_of_the_state_and_not_of_how_it_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = Log(), Log()
    saved(MemoryStore(), one, 1, 2, 3)
    monkeypatch.setattr(writing, "PACK_BYTES", 1000)
    saved(MemoryStore(), two, 3)
    assert one.last["checkpoints"][0]["digest"] == two.last["checkpoints"][0]["digest"]
    assert one.last["checkpoints"][0]["digest"] != one.last["checkpoints"][1]["digest"]


def test_manifest_is_committed_after_everything_it_refers_to() -> None:
    seen: list[str] = []
    store = MemoryStore(hook=lambda n, op, key: seen.append(f"{op} {key}"))
    log = Log()
    saver = log.claim(store)
    saver.ledger._commit = lambda _: seen.append("commit")
    saver.save(snapshot(1), wait=True)
    kinds = [("packs" in s and "pack") or ("checkpoints" in s and "manifest") or s for s in seen]
    assert kinds == ["pack", "manifest", "commit"]


def test_unchanged_tensors_travel_once() -> None:
    store, log = MemoryStore(), Log()
    saver = saved(store, log, 1, 2, 3)  # the third has the frozen one in a pack of its own
    before = saver.ledger.bytes_written
    saver.save(snapshot(4), wait=True)
    manifest = read_manifest(store, log.last["checkpoints"][0]["manifest"])
    changed = sum(a.nbytes for name, a in state(4).items() if "frozen" not in name)
    headers = 2000 + len(manifest.to_bytes())
    assert saver.ledger.bytes_written - before <= changed + headers
    assert_is(log.claim(store).restore(), 4)


def test_equal_tensors_are_stored_once() -> None:
    store, log = MemoryStore(), Log()
    zeros = [(f"optimizer/{i:05d}", np.zeros(1000)) for i in range(50)]
    log.claim(store).save(Snapshot(tensors=zeros, python={}, position=Position()), wait=True)
    (key,) = packs_in(store)
    assert (store.size(key) or 0) < 9000
    restored = log.claim(store).restore()
    assert restored is not None
    assert len(restored.tensors) == 50


def test_the_bucket_stays_bounded_and_holds_nothing_else() -> None:
    """A thousand checkpoints take no more room than a few."""
    store, log = MemoryStore(), Log()
    saver = log.claim(store)
    sizes = []
    for step in range(1000):
        saver.save(snapshot(step), wait=True, best=step == 500)
        sizes.append(sum(store.size(key) or 0 for key in store.list("")))
    assert max(sizes[100:]) <= 1.1 * max(sizes[:10]) + state(0)["model/00001/frozen"].nbytes * 2
    references = [*log.last["checkpoints"], log.last["best"]]
    manifests = [read_manifest(store, r["manifest"]) for r in references]
    used = {pack.key for manifest in manifests for pack in manifest.packs}
    assert set(store.list("")) == used | {r["manifest"] for r in references}
    assert log.last["best"]["step"] == 500


def test_a_second_owner_takes_over_packs_and_cleans_up_after_the_first() -> None:
    store, log = MemoryStore(), Log()
    saved(store, log, 1, 2)
    second = log.claim(store)
    assert_is(second.restore(), 2)
    for step in (3, 4, 5):
        second.save(snapshot(step), wait=True)
    manifests = set(store.list(f"{PREFIX}/checkpoints/"))
    assert manifests == {r["manifest"] for r in log.last["checkpoints"]}


def test_best_stays_however_old_it_is() -> None:
    store, log = MemoryStore(), Log()
    saver = saved(store, log, 1)
    saver.save(snapshot(2), best=True, wait=True)
    for step in (3, 4, 5):
        saver.save(snapshot(step), wait=True)
    assert log.last["best"]["step"] == 2
    assert store.read(log.last["best"]["manifest"]) is not None


def leftovers(store: MemoryStore, token: int) -> list[str]:
    keys = [f"{PREFIX}/packs/t{token}-aa.safetensors", f"{PREFIX}/checkpoints/t{token}-s1-aa.json"]
    for key in keys:
        store.put(key, b"left behind")
    return keys


def test_leftovers_of_earlier_owners_are_removed_after_a_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection, "GRACE_SECONDS", 60)
    now = [0.0]
    store, log = MemoryStore(clock=lambda: now[0]), Log()
    saved(store, log, 1, 2)
    old, current = leftovers(store, token=1), leftovers(store, token=2)
    now[0] = 50
    young = f"{PREFIX}/packs/t1-bb.safetensors"
    store.put(young, b"left behind")
    now[0] = 100
    saved(store, log, 3)
    there = set(store.list(""))
    assert not there & set(old)
    assert {*current, young} <= there
    for reference in log.last["checkpoints"]:
        read_checkpoint(store, Reference.from_json(reference))


def test_nothing_is_collected_while_a_kept_manifest_can_not_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection, "GRACE_SECONDS", 60)
    now = [0.0]
    store, log = MemoryStore(clock=lambda: now[0]), Log()
    saved(store, log, 1).save(snapshot(2), best=True, wait=True)
    store.put(log.last["best"]["manifest"], b"damaged")
    old = leftovers(store, token=1)
    now[0] = 100
    saved(store, log, 3, 4, 5, warn=lambda _: None)
    assert set(old) <= set(store.list(""))


# ---------------------------------------------------------------------- damage


def newest_objects(store: MemoryStore, log: Log) -> list[str]:
    """What only the newest checkpoint consists of."""
    newest, *before = log.last["checkpoints"]
    own = {p.key for p in read_manifest(store, newest["manifest"]).packs}
    shared = {p.key for one in before for p in read_manifest(store, one["manifest"]).packs}
    return [newest["manifest"], *sorted(own - shared)]


def damaged(data: bytes, how: str, rng: np.random.Generator) -> bytes | None:
    if how == "missing":
        return None
    if how == "empty":
        return b""
    if how == "cut":
        return data[: int(rng.integers(1, len(data)))]
    if how == "longer":
        return data + b"\0"
    wrong = bytearray(data)
    count = 64 if how == "64 bytes" else 1
    for index in rng.choice(len(wrong), size=count, replace=False):
        wrong[index] ^= int(rng.integers(1, 256))
    return bytes(wrong)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "longer", "64 bytes", "1 byte"])
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(how: str) -> None:
    """Whatever is done to any object of the newest one, anywhere in it."""
    original, log = MemoryStore(), Log()
    saved(original, log, 1, 2, 3, keep=3)
    for number, key in enumerate(newest_objects(original, log) * (1 if how == "missing" else 12)):
        store = original.copy()
        data = store.read(key)
        assert data is not None
        wrong = damaged(data, how, np.random.default_rng(number))
        store.delete(key)
        if wrong is not None:
            store.put(key, wrong)
        warnings: list[str] = []
        ledger = Ledger(
            store,
            PREFIX,
            token=9,
            commit=lambda _: None,
            checkpoints=log.last["checkpoints"],
            warn=warnings.append,
        )
        assert_is(ledger.restore(), 2)
        assert len(warnings) == 1
        assert key in warnings[0]
        assert ledger.newest is not None
        assert ledger.newest.step == 2


@pytest.mark.parametrize("steps", [2, 3, 4, 5])
def test_a_flipped_bit_in_any_pack_costs_one_checkpoint_at_most(steps: int) -> None:
    """What never changes, such as a generator's state, lies in no pack that all lean on."""
    original, log = MemoryStore(), Log()
    saved(original, log, *range(steps))
    for key in packs_in(original):
        for place in range(0, original.size(key) or 0, 97):
            store = original.copy()
            data = bytearray(store.read(key) or b"")
            data[place] ^= 4
            store.put(key, bytes(data))
            restored = log.claim(store, warn=lambda _: None).restore()
            assert restored is not None
            assert_is(restored, restored.position.global_step)
            assert restored.position.global_step >= steps - 2


def test_header_that_lies_about_a_tensor_is_found() -> None:
    """Even where the tensor's bytes are right: other readers would be misled."""
    store, log = MemoryStore(), Log()
    saved(store, log, 1, 2, 3, keep=3)
    _, pack = newest_objects(store, log)
    data = store.read(pack)
    assert data is not None
    store.put(pack, data.replace(b'"F32","shape":[30,20]', b'"F32","shape":[20,30]', 1))
    warnings: list[str] = []
    assert_is(log.claim(store, warn=warnings.append).restore(), 2)
    assert pack in warnings[0]
    assert "header" in warnings[0]


def test_none_verifies_is_an_error_and_no_fresh_start() -> None:
    store, log = MemoryStore(), Log()
    saved(store, log, 1, 2)
    for key in packs_in(store):
        store.put(key, b"garbage")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints") as caught:
        log.claim(store).restore()
    assert "packs/" in str(caught.value)


def test_best_is_the_last_resort() -> None:
    store, log = MemoryStore(), Log()
    saver = saved(store, log, 1)
    saver.save(snapshot(2), best=True, wait=True)
    for step in (3, 4):
        saver.save(snapshot(step), wait=True)
    for reference in log.last["checkpoints"]:
        store.delete(reference["manifest"])
    assert_is(log.claim(store).restore(), 2)


def test_one_wrong_read_is_not_damage() -> None:
    """The wire may lie once: the pack is read again before the checkpoint is given up."""

    class LiesOnce(MemoryStore):
        lied = False

        def read(self, key: str, *, max_bytes: int = 1 << 30) -> bytes | None:
            data = super().read(key, max_bytes=max_bytes)
            if "packs/" in key and data and not self.lied:
                self.lied = True
                return data[:-1] + bytes([data[-1] ^ 1])
            return data

    store, log = LiesOnce(), Log()
    saved(store, log, 1, 2)
    assert_is(log.claim(store).restore(), 2)
    assert store.lied


def test_unreachable_bucket_is_not_damage() -> None:
    store, log = MemoryStore(), Log()
    saved(store, log, 1, 2)

    def away(number: int, operation: str, key: str) -> None:
        raise StoreError("no route to the bucket.")

    saver = log.claim(store)
    store.hook = away
    with pytest.raises(StoreError, match="no route"):
        saver.restore()
    store.hook = None
    assert_is(saver.restore(), 2)


def test_damaged_checkpoint_is_dropped_at_the_next_commit() -> None:
    store, log = MemoryStore(), Log()
    saved(store, log, 1, 2)
    newest = log.last["checkpoints"][0]["manifest"]
    store.put(newest, b"{}")
    saver = log.claim(store, warn=lambda _: None)
    saver.restore()
    saver.save(snapshot(5), wait=True)
    assert [r["step"] for r in log.last["checkpoints"]] == [5, 1]


# ---------------------------------------------------------------------- death at any moment


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("least_used", [0.0, 0.99])
def test_death_between_any_two_store_calls(
    monkeypatch: pytest.MonkeyPatch, least_used: float, keep: int
) -> None:
    """Killed before each single call in turn: all that is committed is whole, and goes on."""
    monkeypatch.setattr(writing, "LEAST_USED", least_used)
    for fatal in range(1, 200):
        store, log = MemoryStore(), Log()
        saver = saved(store, log, 1, 2, keep=keep)
        first = store.operations

        def kill(number: int, operation: str, key: str) -> None:
            if number == first + fatal:  # noqa: B023
                raise Killed

        store.hook = kill
        try:
            for step in (3, 4, 5):
                saver.save(snapshot(step), wait=True)
        except Killed:
            pass
        else:
            assert fatal > 9
            return
        store.hook = None
        for reference in log.last["checkpoints"]:
            read_checkpoint(store, Reference.from_json(reference))
        survivor = log.claim(store)
        assert_is(survivor.restore(), log.last["checkpoints"][0]["step"])
        survivor.save(snapshot(6), wait=True)
        survivor.save(snapshot(7), wait=True)
        assert_is(log.claim(store).restore(), 7)
    pytest.fail("never came to an end")


# ---------------------------------------------------------------------- the background


class Gate(MemoryStore):
    """A bucket whose packs wait until they are let through."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    def put(self, key: str, data: Any) -> None:
        if "packs/" in key:
            assert self.opened.wait(10)
        super().put(key, data)


def test_save_does_not_wait_for_the_bucket_and_refuses_a_second() -> None:
    store, log = Gate(), Log()
    saver = log.claim(store)
    started = time.monotonic()
    assert saver.save(snapshot(1))
    assert not saver.save(snapshot(2))
    assert saver.busy
    assert time.monotonic() - started < 1
    assert log.records == []
    store.opened.set()
    saver.wait()
    assert [r["step"] for r in log.records] == [1]
    assert saver.save(snapshot(3))
    saver.close()
    assert [r["step"] for r in log.records] == [1, 3]


def test_best_waits_its_turn_and_a_better_one_takes_its_place() -> None:
    store, log = Gate(), Log()
    saver = log.claim(store)
    saver.save(snapshot(1))
    assert saver.save(snapshot(2), best=True)
    assert saver.save(snapshot(3), best=True)
    assert not saver.save(snapshot(4))
    store.opened.set()
    saver.wait()
    assert [r["step"] for r in log.records] == [1, 3]
    assert log.last["best"]["step"] == 3


def test_at_most_one_snapshot_is_held_while_one_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each tensor is let go as soon as its bytes have travelled."""

    class Tensor:
        def __init__(self, array: Any) -> None:
            self.array = array

    store, log = MemoryStore(), Log()
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def to_host(tensor: Tensor) -> Any:
        return tensor.array

    tensors = [(f"model/{i:05d}", Tensor(np.random.default_rng(i).random(1000))) for i in range(40)]
    alive.update(tensor for _, tensor in tensors)
    shot = Snapshot(tensors=tensors, python={}, position=Position(), to_host=to_host)
    del tensors
    held: list[int] = []
    monkeypatch.setattr(writing, "PACK_BYTES", 10 * 8000)
    store.hook = lambda n, op, key: held.append(len(alive))
    log.claim(store).save(shot, wait=True)
    assert held[:4] == [31, 21, 11, 1]  # the one in hand is the last of its pack


def test_failed_write_is_raised_at_the_next_call_and_then_tried_again() -> None:
    store, log = MemoryStore(), Log()
    saver = saved(store, log, 1)

    def full(number: int, operation: str, key: str) -> None:
        raise StoreRefusedError("the disk is full.")

    store.hook = full
    saver.save(snapshot(2))
    while saver.busy:
        time.sleep(0.01)
    with pytest.raises(StoreRefusedError, match="full"):
        saver.check()
    store.hook = None
    saver.save(snapshot(3), wait=True)
    assert [r["step"] for r in log.last["checkpoints"]] == [3, 1]
    assert_is(log.claim(store).restore(), 3)


def test_what_a_failed_checkpoint_was_to_say_comes_with_the_next() -> None:
    store, log = MemoryStore(), Log()
    saver = saved(store, log, 1)
    store.hook = away
    with pytest.raises(StoreError):
        saver.save(snapshot(2, notes=("continued on different numerics",)), wait=True)
    store.hook = None
    saver.save(snapshot(3, notes=("more",)), wait=True)
    assert log.last["notes"] == ("continued on different numerics", "more")
    saver.save(snapshot(4), wait=True)
    assert log.last["notes"] == ()


def test_patience_lets_the_training_go_on_until_too_much_is_unsaved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    store, log = MemoryStore(), Log()
    warnings: list[str] = []
    saver = log.claim(store, patience_seconds=600, warn=warnings.append)
    store.hook = away
    now[0] = 500
    saver.save(snapshot(1))
    idle(saver)
    saver.check()
    assert "away" in warnings[0]
    assert (saver.behind, saver.overdue) == (True, None)
    now[0] = 601
    saver.check()
    assert saver.overdue == "601 s of training are unsaved: the bucket is away."
    with pytest.raises(StoreError, match="away"):
        saver.save(snapshot(1), wait=True)
    store.hook = None
    saver.save(snapshot(1), wait=True)
    assert not saver.behind
    assert_is(log.claim(store).restore(), 1)


@pytest.mark.parametrize("waits", [False, True])
def test_a_best_that_could_not_be_written_is_written_before_anything_else(waits: bool) -> None:
    """Else the state says that it was seen, and it is nowhere."""
    store, log = MemoryStore(), Log()
    saver = log.claim(store, patience_seconds=600, warn=lambda _: None)
    store.hook = away
    saver.save(snapshot(3, notes=("began here",)), best=True)
    idle(saver)
    for _ in range(2):
        assert not saver.save(snapshot(4)), "two copies are held"
        idle(saver)
    store.hook = None
    if waits:
        assert saver.save(snapshot(5), wait=True)
    else:
        assert not saver.save(snapshot(4))
        idle(saver)
        assert saver.save(snapshot(5))
        idle(saver)
    assert [record["step"] for record in log.records] == [3, 5]
    assert log.last["best"]["step"] == 3
    assert [record["notes"] for record in log.records] == [("began here",), ()]
    best = read_checkpoint(store, Reference.from_json(log.last["best"]))
    assert_is(best, 3)


def test_a_better_best_takes_the_place_of_one_that_is_owed() -> None:
    store, log = MemoryStore(), Log()
    saver = log.claim(store, patience_seconds=600, warn=lambda _: None)
    store.hook = away
    saver.save(snapshot(3), best=True)
    idle(saver)
    store.hook = None
    assert saver.save(snapshot(6), best=True)
    idle(saver)
    assert saver.save(snapshot(7))
    idle(saver)
    assert [record["step"] for record in log.records] == [6, 7]
    assert log.last["best"]["step"] == 6


def away(number: int, operation: str, key: str) -> None:
    raise StoreError("the bucket is away.")


def idle(saver: Checkpointer) -> None:
    while saver.busy:
        time.sleep(0.01)


def test_after_a_lost_lease_nothing_more_is_written() -> None:
    store, log = MemoryStore(), Log()
    first = saved(store, log, 1)
    second = log.claim(store)
    first.save(snapshot(2))
    with pytest.raises(LeaseLostError):
        first.wait()
    writes = store.operations
    for _ in range(2):
        with pytest.raises(LeaseLostError):
            first.save(snapshot(3))
        with pytest.raises(LeaseLostError):
            first.check()
    assert store.operations == writes
    second.save(snapshot(4), wait=True)
    assert [r["step"] for r in log.last["checkpoints"]] == [4, 1]
    assert_is(log.claim(store).restore(), 4)


def test_retention_counts() -> None:
    store, log = MemoryStore(), Log()
    saved(store, log, *range(6), keep=3)
    assert [r["step"] for r in log.last["checkpoints"]] == [5, 4, 3]


class SlowStore(MemoryStore):
    """Lets a test hold back what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()

    def put(self, key: str, data: Any) -> None:
        if not self.open.is_set():
            self.reached.set()
            assert self.open.wait(30)
        super().put(key, data)


def test_what_is_not_committed_in_time_is_given_up_for_good() -> None:
    """After `close` the job may be another's: an upload that ends later commits nothing."""
    store = SlowStore()
    log = Log()
    saver = log.claim(store)
    assert saver.save(snapshot(1), wait=True, seconds=30)
    store.open.clear()
    began = time.monotonic()
    assert not saver.save(snapshot(2), wait=True, seconds=0.2)
    saver.close(0.1)
    assert time.monotonic() - began < 20
    store.open.set()
    time.sleep(0.5)
    assert [record["step"] for record in log.records] == [1]


def test_how_long_a_checkpoint_takes_is_known_from_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With what is left of the one under way before it."""
    store = SlowStore()
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    saver = Log().claim(store)
    assert saver.expected_seconds == 0, "nothing is known, so it is tried"
    store.open.clear()
    saver.save(snapshot(1))
    assert store.reached.wait(10)
    now[0] += 8
    store.open.set()
    saver.wait()
    assert saver.expected_seconds == 8
    store.open.clear()
    store.reached.clear()
    saver.save(snapshot(2))
    assert store.reached.wait(10)
    now[0] += 3
    assert saver.expected_seconds == 5 + 8
    store.open.set()
    saver.close()
