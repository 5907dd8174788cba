"""A log of numbered records in which every record follows the one its writer had seen.

A record is created under the next number, and only if nothing is there: of all writers that
saw record n, one writes n+1, the others get to read what it says and decide anew. That is a
compare-and-swap on any store with an honest create. Clocks play no part.

This is how a log is read; how a record is added is in `appending.py`. The functions are generators
over store operations, see `steps.py`. Failure sequences are in README.md, beside this file.

Layout below a base such as "jobs/cats":
    log/000000000007.json   record 7, whole state, never changed
    head.json               a copy of the last record that a writer got around to copying. A
                            place to start walking, never an answer: it may be old or missing

A record ends in the hash of its own bytes: one flipped bit makes it a damaged record, never
another record. Those of the first versions have none. Where a record is damaged and its copy too,
the record before it stands in for it, under its number: the log goes on behind it.

A log may be removed and another begun in its place. Who slept since may write a record into that:
it is late, which its spec tells if it is another, and readers pass over it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from runner.errors import DamagedRecordError, OneObjectError, StoreError, StoreRefusedError
from runner.store.steps import List, Read, Steps

Record = dict[str, Any]  #: has "number", "nonce" and "previous" (the nonce of the record before)

MOST_RECORDS = 10**12  #: their numbers have twelve digits
FAR = 4  #: records to walk one by one before a listing
LOOKS = 3  #: at a record that reads as damaged: it may have been the line
MOST_DAMAGED = 8  #: records in a row for which an earlier one may stand in
DAMAGED = "damaged"  #: nonce of a record that stands in for a damaged one
COMMIT = "commit"  #: kind of the records that their writer may delete: see thinning.py
REMOVED = "remove"  #: kind of the last record: what lies there is no log any more
BEGAN = "submitted_at"  #: in every record of a job's log, as is the hash of its spec:
SPEC = "spec_digest"
#: a record's own hash. It is called by the record's number: an older runner hands on what it does
#: not know, and another record's hash must not make its record look damaged
_SUM = re.compile(r"sum\d*")


def slot(base: str, number: int) -> str:
    """Return the key of record `number`."""
    return f"{base}/log/{number:012d}.json"


def hint(base: str) -> str:
    """Return the key of the copy that says where to start walking."""
    return f"{base}/head.json"


def encode(record: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record, of a log or not: JSON on one line that ends in its hash."""
    try:
        body = json.dumps(record, allow_nan=False, separators=(",", ":"))[:-1]
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"a record that is not plain finite JSON ({error}).") from error
    return f'{body},"{_sum_name(record)}":"{_hash(body.encode())}"}}\n'.encode()


def _sum_name(record: Mapping[str, Any]) -> str:
    return f"sum{record.get('number', '')}"


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]


def decode(data: bytes, key: str) -> Record:
    """Return the record of a log, or raise DamagedRecordError where there is none."""
    record = parse(data, key)
    number = record.get("number")
    if (
        type(number) is not int
        or not 0 <= number < MOST_RECORDS
        or not isinstance(record.get("nonce"), str)
    ):
        raise damaged(key, f"is not a record of a log: number {number!r:.40}, no nonce")
    return record


def parse(data: bytes, key: str) -> Record:
    """Return the JSON object in `data`; DamagedRecordError: there is none, or its hash differs."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(key, f"is not a record ({type(error).__name__}: {error})") from error
    if not isinstance(record, dict):
        raise damaged(key, f"is not a record: a JSON {type(record).__name__}")
    sums = {name: record.pop(name) for name in [*record] if _SUM.fullmatch(name)}
    own = _sum_name(record)
    for name, said in sums.items():
        body = data.rpartition(f',"{name}":'.encode())[0]
        # another record's hash was handed on by an older runner; or this one's number is damaged
        renamed = body.replace(f'"number":{own[3:]}'.encode(), f'"number":{name[3:]}'.encode(), 1)
        if (said == _hash(renamed)) != (name == own):
            raise damaged(key, "is damaged: its bytes are not those that were written")
    return record


def damaged(key: str, what: str = "is damaged") -> DamagedRecordError:
    """Return the error for a record that is none; of record 0 it is the same, whatever is wrong."""
    if not key.endswith(slot("", 0)):
        return DamagedRecordError(f"{key} {what}. Bring it back from a copy of the store.")
    return DamagedRecordError(
        f"the spec in {key} is not the one that was submitted: it was changed or damaged. Bring "
        "that object back from a copy of the store, or submit the spec under another name."
    )


def read(base: str, number: int, before: Record | None = None) -> Steps[Record | None]:
    """Return record `number` or None, checked against the record `before` it if given."""
    key, looks = slot(base, number), 0
    while True:
        data = yield Read(key)
        looks += 1
        try:
            return None if data is None else check(key, number, data, before)
        except DamagedRecordError:
            if looks == LOOKS:
                raise


def holds(base: str, number: int, nonce: str) -> Steps[bool]:
    """Whether a record is still there, be it damaged: nobody has removed the log since."""
    try:
        found = yield from read(base, number)
    except DamagedRecordError:
        return True
    return found is not None and found["nonce"] == nonce


class LateRecordError(OneObjectError):
    """A record is of another log than the one before it: one of the two may be late."""

    def __init__(self, key: str, record: Record) -> None:
        super().__init__(
            f"{key} and the record before it are of two jobs of one name. Check the store with "
            "'runner doctor'."
        )
        self.record = record


def check(key: str, number: int, data: bytes, before: Record | None = None) -> Record:
    """Return the record in `data` if it belongs under `number` and follows `before`."""
    record = decode(data, key)
    if record["number"] != number:
        raise damaged(key, f"says that it is record {record['number']}, as if it was moved by hand")
    if before is None or follows(record, before):
        return record
    if differ(record, before):
        raise LateRecordError(key, record)
    raise OneObjectError(
        f"{key} does not follow the record before it: the store let two writers create one "
        "record, or someone changed it. Check the store with 'runner doctor'."
    )


def is_late(base: str, record: Record) -> Steps[bool]:
    """Whether a record is of an earlier log than the one that is there: its spec is another.

    Record 0 and it must have a hash of their own: in others it may be a flipped bit that differs.
    """
    found = list[Record]()
    for number in (0, record["number"]):
        key = slot(base, number)
        data: bytes | None = yield Read(key)
        try:
            found.append(decode(data or b"", key))
        except DamagedRecordError:
            return False
        if not has_hash(data or b"", number):
            return False
    return differ(*found)


def has_hash(data: bytes, number: int) -> bool:
    """Whether a record that was read whole has a hash of its own."""
    return f',"{_sum_name({"number": number})}":'.encode() in data


def differ(one: Record, other: Record) -> bool:
    """Whether two records are surely of two jobs: a job's spec never changes.

    When it was submitted says less: a first record that was lost may have been put back later.
    """
    specs = one.get(SPEC), other.get(SPEC)
    return None not in specs and specs[0] != specs[1]


def follows(record: Record, before: Record) -> bool:
    """Whether a record was written after `before`, as far as can be told next to a damaged one."""
    return DAMAGED in (before["nonce"], previous := record.get("previous")) or (
        previous == before["nonce"]
    )


def head(
    base: str, known: Record | None = None, *, hinted: bool = True, own: bool = False
) -> Steps[Record | None]:
    """Return the newest record, or None where there is no log.

    From any record, walking on to the first absent number ends at the newest, unless an owner has
    deleted what follows (see `thinning.py`). So behind a commit that was `known`, and is not the
    caller's `own`, the copy beside the log is looked at; and where a walk led over commits, or
    without `hinted`, a listing. A damaged record is stood in for, see `_stand_in`.
    """
    if known is not None and is_commit(known) and not own:
        copy = yield from copied(base)
        if copy is not None and copy["number"] > known["number"]:
            known = None
    start = known
    if start is None and hinted:
        start = yield from copied(base)
    if start is None:
        return (yield from newest(base))
    record, is_newest = yield from _walk(base, start, own=own, known=known is not None)
    if is_newest:
        return record
    return (yield from newest(base, None if record is start else record))


def is_commit(record: Record) -> bool:
    """Whether its writer may delete a record, and the one behind it."""
    return record.get("kind") == COMMIT


def _walk(base: str, record: Record, *, own: bool, known: bool) -> Steps[tuple[Record, bool]]:
    """Walk on from a record; return where that ends, and whether it is surely the newest."""
    start, over_commits = record, is_commit(record)
    for _ in range(FAR + 1):
        try:
            following = yield from _following(base, record)
        except StoreRefusedError:
            of_another_log = not known and record is start
            fills_a_hole = record.get("token") and not is_commit(record)
            if of_another_log or fills_a_hole:
                break
            raise
        if following is None:
            return record, own or record is start or not over_commits
        record, over_commits = following, over_commits or is_commit(following)
    return record, False


def newest(base: str, like: Record | None = None) -> Steps[Record | None]:
    """Return the newest record by a listing, which may lack the last few; `like`: of this log."""
    for _ in range(LOOKS):
        keys: list[str] = yield List(f"{base}/log/")
        record = yield from _last(base, numbers(keys), like)
        while record is not None:
            following = yield from _following(base, record)
            if following is None:
                return record
            record = following
        if not keys:
            return None
    return None  # what was listed was gone each time


def _last(base: str, listed: Sequence[int], like: Record | None) -> Steps[Record | None]:
    """Return the last of these records that is not late."""
    for number in reversed(listed or [0]):  # record 0 may not be listed yet
        record = yield from _whole(base, number)
        if record is None or not number or (like is not None and not differ(record, like)):
            return record
        if not (yield from is_late(base, record)):
            return record
    return None


def numbers(keys: Iterable[str]) -> list[int]:
    """Return the numbers of the records among the keys of a log, sorted."""
    return sorted(int(name) for key in keys if (name := key.rpartition("/")[2][:-5]).isdecimal())


def copied(base: str) -> Steps[Record | None]:
    """Return the copy beside the log; None where it is missing, half-written or foreign."""
    data = yield Read(hint(base))
    try:
        return None if data is None else decode(data, hint(base))
    except DamagedRecordError:
        return None


def _following(base: str, record: Record) -> Steps[Record | None]:
    """Return the record after `record`, or None; for a damaged one its copy, or `record` itself."""
    number = record["number"] + 1
    try:
        return (yield from read(base, number, record))
    except LateRecordError as late:
        if (yield from is_late(base, late.record)):
            return None
        raise
    except DamagedRecordError:
        copy = yield from copied(base)
        its_own = copy is not None and copy["number"] == number and follows(copy, record)
        return copy if its_own else _stand_in(record)


def _stand_in(record: Record) -> Record:
    """Return what counts where the record after `record` is damaged: `record`, in its place.

    Nobody can tell what the damaged one said; it may have been a claim. So a further claim passes
    over as many tokens as "damaged" says.
    """
    place = {"number": record["number"] + 1, "nonce": DAMAGED, "previous": record["nonce"]}
    return {**record, **place, "damaged": record.get("damaged", 0) + 1}


def _whole(base: str, number: int) -> Steps[Record | None]:
    """Return record `number`, or what stands in for it, or None where there is none."""
    try:
        return (yield from read(base, number))
    except DamagedRecordError:
        record = None
        for earlier in range(number - 1, max(-1, number - 1 - MOST_DAMAGED), -1):
            with suppress(DamagedRecordError):
                record = yield from read(base, earlier)
                break
        if record is None:
            raise
    while record["number"] < number:
        record = _stand_in(record)
    return record
