"""Every record follows the one its writer had seen, whatever became of the replies."""

import json
from contextlib import suppress

import pytest

from runner.errors import (
    ConflictError,
    DamagedRecordError,
    NotFoundError,
    StoreError,
    StoreRefusedError,
)
from runner.store import log
from runner.store.appending import append, settle
from runner.store.base import Created
from runner.store.heads import heads
from runner.store.log import Record, head
from runner.store.steps import Operation, Steps, run
from tests.store.memory import Fault, Killed, MemoryStore


def first(nonce: str = "n0") -> Record:
    return {"number": 0, "nonce": nonce, "previous": "", "value": 0}


def add_one(record: Record) -> Record:
    return {"value": record["value"] + 1}


class Nonces:
    def __init__(self, name: str = "n") -> None:
        self.name, self.count = name, 0

    def __call__(self) -> str:
        self.count += 1
        return f"{self.name}{self.count}"


def started() -> MemoryStore:
    store = MemoryStore()
    run(store, settle("job", first(), None))
    return store


def no_sleep(_seconds: float) -> None:
    pass


def resumed(steps: Steps[Record], operation: Operation) -> Steps[Record]:
    """The rest of a protocol that stands at an operation."""
    while True:
        try:
            operation = steps.send((yield operation))
        except StopIteration as end:
            found: Record = end.value
            return found


def test_records_are_numbered_and_follow_each_other() -> None:
    store, nonce = started(), Nonces()
    for value in range(1, 6):
        record = run(store, append("job", add_one, nonce))
        assert (record["number"], record["value"], record["previous"]) == (
            value,
            value,
            f"n{value - 1}",
        )
    assert run(store, head("job")) == record
    assert store.list("job/log/")[-1] == "job/log/000000000005.json"


def test_no_log_is_none_and_cannot_be_appended_to() -> None:
    assert run(MemoryStore(), head("job")) is None
    with pytest.raises(NotFoundError):
        run(MemoryStore(), append("job", add_one, Nonces()))


def test_who_was_late_decides_anew_with_the_winners_record() -> None:
    """Two writers saw record 0. The second is asked again, and may refuse."""
    store = started()
    late = append("job", add_one, Nonces("late"), known=first())
    operation = next(late)  # it looks whether record 1 is there
    reply = store.read(operation.key)  # type: ignore[union-attr]
    run(store, append("job", add_one, Nonces("early")))
    assert run(store, resumed(late, late.send(reply)))["value"] == 2

    def refuse(_record: Record) -> Record:
        raise ConflictError("no")

    with pytest.raises(ConflictError):
        run(store, append("job", refuse, Nonces()))


@pytest.mark.parametrize("fault", [Fault.REPLY_LOST, Fault.SAYS_EXISTS, Fault.NOT_DONE])
@pytest.mark.parametrize("times", [1, 3])
def test_a_lost_reply_is_read_back(fault: Fault, times: int) -> None:
    """Our nonce there is success; nothing there, and the same bytes are sent again."""
    store, creates = started(), []

    def hook(_n: int, operation: str, _key: str) -> Fault | None:
        creates.append(operation)
        failing = operation == "create" and creates.count("create") <= times
        return fault if failing else None

    store.hook = hook
    record = run(store, append("job", add_one, Nonces()), sleep=no_sleep)
    store.hook = None
    assert run(store, head("job")) == record
    assert len(store.list("job/log/")) == 2


def test_another_record_under_the_number_is_no_success() -> None:
    """`exists` with a foreign nonce is the other's record."""
    store = started()
    assert run(store, settle("job", first("other"), None)) == first()


def test_a_writer_that_never_gets_an_answer_gives_up() -> None:
    store = started()
    store.hook = lambda _n, operation, _key: Fault.NOT_DONE if operation == "create" else None
    with pytest.raises(StoreError, match="in 12 tries"):
        run(store, append("job", add_one, Nonces()), sleep=no_sleep)


def test_the_head_is_found_however_old_the_hint_and_the_listing() -> None:
    store, nonce = started(), Nonces()
    old = store.read("job/head.json")
    assert old is not None
    for _ in range(40):
        last = run(store, append("job", add_one, nonce))
    for hint in (old, b"", b"{", b"[]", b'{"number": -1, "nonce": "x"}', None):
        if hint is None:
            store.delete("job/head.json")
        else:
            store.put("job/head.json", hint)
        store.hook = lambda _n, operation, _key: Fault.STALE if operation == "list" else None
        assert run(store, head("job")) == last
        store.hook = None


def _one_of_many(base: str) -> Steps[Record | StoreError | None]:
    return (yield from heads([base]))[0]


@pytest.mark.parametrize("records", [500, 2_000])
def test_a_far_head_takes_one_listing(records: int) -> None:
    """Whether one log is looked at or many: a copy that is far behind is walked from no further."""
    store = started()
    for number in range(1, records):
        record = {"number": number, "nonce": f"n{number}", "previous": f"n{number - 1}"}
        store.put(log.slot("job", number), log.encode(record))
    asked: list[str] = []
    store.hook = lambda _number, operation, _key: asked.append(operation)
    for found in (run(store, steps) for steps in (head("job"), _one_of_many("job"))):
        assert isinstance(found, dict)
        assert found["number"] == records - 1
        assert asked.count("list") == 1
        assert asked.count("read") == len(asked) - 1 <= 8
        asked.clear()


def test_many_heads_take_two_reads_each_and_hide_no_error() -> None:
    store, nonce = MemoryStore(), Nonces()
    bases = [f"jobs/j{n}" for n in range(20)]
    for base in bases:
        run(store, settle(base, first(), None))
        run(store, append(base, add_one, nonce))
    before = store.operations
    found = run(store, heads([*bases, "jobs/none"]))
    assert store.operations - before <= 2 * 20 + 5
    assert [record["value"] if isinstance(record, dict) else record for record in found] == [
        *[1] * 20,
        None,
    ]
    store.delete("jobs/j3/head.json")
    store.put("jobs/j4/log/000000000002.json", b"damaged")
    store.put("jobs/j5/head.json", b"damaged")
    found = run(store, heads(bases))
    assert isinstance(found[4], StoreError)
    assert [n for n, record in enumerate(found) if isinstance(record, dict)] == [
        n for n in range(20) if n != 4
    ]


def test_two_records_under_one_number_are_noticed() -> None:
    """A record that does not follow the one before it: the store let two writers win."""
    store = started()
    run(store, append("job", add_one, Nonces()))
    run(store, append("job", add_one, Nonces("m")))
    other = {"number": 1, "nonce": "zz", "previous": "n0", "value": 7}
    store.put("job/log/000000000001.json", log.encode(other))
    store.delete("job/head.json")
    with pytest.raises(StoreRefusedError, match="two writers"):
        run(store, head("job", first()))


@pytest.mark.parametrize("call", range(1, 8))
def test_a_death_between_any_two_calls_leaves_a_whole_log(call: int) -> None:
    store, nonce = started(), Nonces()

    def die(_n: int, _operation: str, _key: str) -> None:
        nonlocal call
        call -= 1
        if call == 0:
            raise Killed

    store.hook = die
    with suppress(Killed):
        run(store, append("job", add_one, nonce))
    store.hook = None
    found = run(store, head("job"))
    assert found is not None
    assert run(store, append("job", add_one, Nonces("m")))["number"] == found["number"] + 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_only_plain_finite_json_is_written(value: object) -> None:
    with pytest.raises(StoreError, match="plain finite JSON"):
        run(started(), append("job", lambda _record: {"value": value}, Nonces()))


def test_a_record_too_large_for_one_request_is_refused() -> None:
    with pytest.raises(StoreError, match="created exclusively"):
        run(started(), append("job", lambda _record: {"value": "x" * (1 << 20)}, Nonces()))


def test_an_unknown_create_is_resolved_by_reading() -> None:
    store = MemoryStore(hook=lambda _n, op, _key: Fault.REPLY_LOST if op == "create" else None)
    assert store.create("a", b"1") is Created.UNKNOWN
    assert store.create("a", b"1") is Created.UNKNOWN
    assert store.read("a") == b"1"


# ---------------------------------------------------------------------- damage


NEWEST, COPY = "job/log/000000000002.json", "job/head.json"


def three_records() -> MemoryStore:
    store, nonce = started(), Nonces()
    for _ in range(2):
        run(store, append("job", add_one, nonce))
    return store


def of_the_first_versions(store: MemoryStore) -> MemoryStore:
    """The same records without their hashes."""
    for key in store.list("job/"):
        record = log.decode(store.read(key) or b"", key)
        store.put(key, json.dumps(record, separators=(",", ":")).encode() + b"\n")
    return store


def test_every_flipped_bit_of_a_record_is_noticed_or_changes_nothing() -> None:
    data = three_records().read(NEWEST) or b""
    whole = log.decode(data, NEWEST)
    for place in range(8 * len(data)):
        wrong = bytearray(data)
        wrong[place // 8] ^= 1 << place % 8
        with suppress(DamagedRecordError):
            record = log.decode(bytes(wrong), NEWEST)
            assert {name: record.get(name) for name in whole} == whole


def test_a_record_that_an_older_runner_handed_on_is_whole() -> None:
    """It copies what it does not know, the hash of the record before included."""
    data = json.loads(three_records().read(NEWEST) or b"")
    assert "sum2" in data
    handed_on = {**data, "number": 3, "nonce": "n3", "previous": "n2", "value": 7}
    record = log.decode(json.dumps(handed_on).encode(), "job/log/000000000003.json")
    assert record == {"number": 3, "nonce": "n3", "previous": "n2", "value": 7}


@pytest.mark.parametrize("bit", [0, 3, 7])
@pytest.mark.parametrize("damaged", [NEWEST, COPY])
def test_of_the_newest_record_and_its_copy_one_may_be_damaged(damaged: str, bit: int) -> None:
    """Anywhere: the other is taken, and the next record is what it would have been."""
    whole = three_records()
    data = whole.read(damaged) or b""
    for place in range(len(data)):
        store = whole.copy()
        wrong = bytearray(data)
        wrong[place] ^= 1 << bit
        store.put(damaged, bytes(wrong))
        assert run(store, append("job", add_one, Nonces("m")))["value"] == 3
        assert (run(store, head("job")) or {})["value"] == 3


def test_where_they_differ_the_logs_own_record_counts_and_not_its_copy() -> None:
    """Records of the first versions have no hash that would tell which of the two is whole."""
    store = of_the_first_versions(three_records())
    store.put(COPY, (store.read(COPY) or b"").replace(b'"value":2', b'"value":6'))
    assert run(store, append("job", add_one, Nonces("m")))["value"] == 3


def test_a_newest_record_that_is_gone_is_written_again_from_its_copy() -> None:
    """Else those who start at the copy and those who start at a listing see two heads."""
    for store in (three_records(), of_the_first_versions(three_records())):
        store.delete(NEWEST)
        assert run(store, append("job", add_one, Nonces("m")))["value"] == 3
        assert (run(store, head("job", hinted=False)) or {})["value"] == 3
        assert log.decode(store.read(NEWEST) or b"", NEWEST)["nonce"] == "n2"


def test_a_copy_of_another_log_brings_nothing_back_and_goes() -> None:
    store = three_records()
    other = {"number": 9, "nonce": "x", "previous": "y", "value": 50}
    store.put(COPY, log.encode(other))
    assert run(store, append("job", add_one, Nonces("m")))["value"] == 3
    assert len(store.list("job/log/")) == 4

    def refuse(_record: Record) -> Record:
        raise ConflictError("no")

    store.put(COPY, log.encode(other))
    with pytest.raises(ConflictError):
        run(store, append("job", refuse, Nonces("r")))
    assert (run(store, head("job")) or {})["value"] == 3


def flipped(store: MemoryStore, key: str) -> None:
    data = bytearray(store.read(key) or b"")
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def test_behind_a_damaged_record_without_a_copy_the_one_before_it_counts() -> None:
    """The log goes on under the next number, and whoever walks over the damage finds that."""
    store = three_records()
    first_two = {name: store.read(log.slot("job", name)) for name in range(2)}
    flipped(store, NEWEST)
    for copy in (first_two[1], first_two[0], None):  # older, much older, gone
        if copy:
            store.put(COPY, copy)
        else:
            store.delete(COPY)
        for found in (run(store, head("job")), run(store, head("job", first()))):
            assert found is not None
            assert (found["number"], found["value"], found["damaged"]) == (2, 1, 1)
    assert run(store, append("job", add_one, Nonces("m")))["number"] == 3
    for known in (None, first(), log.decode(first_two[1] or b"", "job/log/000000000001.json")):
        assert (run(store, head("job", known)) or {})["nonce"] == "m1"
    assert store.read(log.slot("job", 0)) == first_two[0]


def test_who_wrote_the_damaged_record_goes_on_and_others_follow() -> None:
    store, nonce = three_records(), Nonces("w")
    written = run(store, append("job", add_one, nonce))
    whole = store.read(log.slot("job", 3)) or b""
    flipped(store, log.slot("job", 3))
    store.delete(COPY)
    run(store, append("job", add_one, nonce, known=written, claim=(0, "n0")))
    assert (run(store, head("job", hinted=False)) or {})["nonce"] == "w2"
    assert (run(store, head("job", first())) or {})["nonce"] == "w2"
    flipped(store, log.slot("job", 4))
    store.delete(COPY)
    run(store, append("job", add_one, Nonces("m")))
    assert (run(store, head("job", first())) or {})["nonce"] == "m1", "two in a row"
    store.put(log.slot("job", 3), whole)
    assert (run(store, head("job", first())) or {})["nonce"] == "m1", "brought back from a copy"


def test_an_answer_that_is_damaged_once_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that only this line damaged may be a cancel: nothing stands in for it."""
    store = three_records()
    read, bad = store.read, [NEWEST]

    def noisy(key: str, **limits: int) -> bytes | None:
        data = read(key, **limits)
        if key in bad and data:
            bad.remove(key)
            return data[:-9]
        return data

    monkeypatch.setattr(store, "read", noisy)
    found = run(store, head("job", hinted=False))
    assert (found or {})["nonce"] == "n2"
    assert not bad


def test_too_many_damaged_records_are_an_error() -> None:
    store = started()
    for _ in range(log.MOST_DAMAGED + 2):
        run(store, append("job", add_one, Nonces("n")))
    for number in range(1, log.MOST_DAMAGED + 3):
        flipped(store, log.slot("job", number))
    store.delete(COPY)
    with pytest.raises(DamagedRecordError, match=log.slot("job", log.MOST_DAMAGED + 2)):
        run(store, head("job"))


def test_a_log_that_names_no_beginning_is_found_by_a_listing() -> None:
    """So are those of trainings that are no jobs."""
    store, nonce = three_records(), Nonces("w")
    for _ in range(9):
        run(store, append("job", add_one, nonce))
    assert (run(store, head("job", hinted=False)) or {})["nonce"] == "w9"
    assert (run(store, head("job", first())) or {})["nonce"] == "w9"
