"""A log of numbered records in which every record follows the one its writer had seen.

A record is created under the next number, and only if nothing is there: of all writers that
saw record n, one writes n+1, the others get to read what it says and decide anew. That is a
compare-and-swap on any store with an honest create. Clocks play no part. Owners delete old
commits (see `thinning.py`): so who writes behind others' records looks whether the number was one.

The functions are generators over store operations, see `steps.py`. Failure sequences are in
README.md, beside this file.

Layout below a base such as "jobs/cats":
    log/000000000007.json   record 7, whole state, never changed
    head.json               a copy of the last record that a writer got around to copying. A
                            place to start walking, never an answer: it may be old or missing

A record ends in the hash of its own bytes: one flipped bit makes it a damaged record, never
another record. Those of the first versions have none. Where a record is damaged and its copy too,
the record before it stands in for it, under its number: the log goes on behind it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from runner.errors import DamagedRecordError, NotFoundError, StoreError, StoreRefusedError
from runner.store.base import Created
from runner.store.steps import (
    Age,
    Create,
    Delete,
    Folders,
    List,
    Operation,
    Pause,
    Put,
    Read,
    ReadMany,
    Steps,
    run,
)  # fmt: skip

__all__ = [  # of what is defined elsewhere
    "Age", "Create", "Folders", "List", "Operation", "Pause", "Put", "Read", "ReadMany", "Steps",
    "run",
]  # fmt: skip

Record = dict[str, Any]  #: has "number", "nonce" and "previous" (the nonce of the record before)
Change = Callable[[Record], Record]  #: the next record's fields, or raises why there is none

RESENDS = 12  #: times that one record is sent before its writer gives up in doubt
MOST_RECORDS = 10**12  #: their numbers have twelve digits
FAR = 4  #: records to walk one by one before a listing
LOOKS = 3  #: at a record that reads as damaged: it may have been the line
MOST_DAMAGED = 8  #: records in a row for which an earlier one may stand in
DAMAGED = "damaged"  #: nonce of a record that stands in for a damaged one
COMMIT = "commit"  #: kind of the records that their writer may delete: see thinning.py
REMOVED = "remove"  #: kind of the last record: what lies there is no log any more
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


def check(key: str, number: int, data: bytes, before: Record | None = None) -> Record:
    """Return the record in `data` if it belongs under `number` and follows `before`."""
    record = decode(data, key)
    if record["number"] != number:
        raise damaged(key, f"says that it is record {record['number']}, as if it was moved by hand")
    if before is not None and not follows(record, before):
        raise StoreRefusedError(
            f"{key} does not follow the record before it: the store let two writers create one "
            "record, or someone changed it. Check the store with 'runner doctor'."
        )
    return record


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
    if start is not None:
        record, is_newest = yield from _walk(base, start, own=own, known=known is not None)
        if is_newest:
            return record
    return (yield from _listed(base))


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


def _listed(base: str) -> Steps[Record | None]:
    """Return the newest record by a listing, which may lack the last few."""
    for _ in range(LOOKS):
        keys: list[str] = yield List(f"{base}/log/")
        record = yield from _whole(base, max(numbers(keys), default=0))  # it may lack record 0 yet
        while record is not None:
            following = yield from _following(base, record)
            if following is None:
                return record
            record = following
        if not keys:
            return None
    return None  # what was listed was gone each time


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


def append(
    base: str,
    change: Change,
    nonce: Callable[[], str],
    *,
    known: Record | None = None,
    proven: bool = False,
) -> Steps[Record]:
    """Write the next record: `change(newest)` with number, nonce and previous filled in.

    Where another writer was first, `change` is asked again with that writer's record, until it
    returns or raises. A StoreError leaves it open whether the record landed; calling again
    with the same `change` is safe as far as `change` recognises its own result.

    Unless `known` is `proven` (the writer is the owner that wrote it), the record that is
    followed is read there: a copy that someone moved or made up must not be built upon. And where
    the new record turns out to be no part of the log (see `_counts`), `change` is asked again with
    the newest.
    """
    record = yield from head(base, known, own=proven)
    if record is not None and not proven:
        record = yield from _in_its_place(base, record)
    while record is not None:
        following = {
            **change(dict(record)),
            "number": record["number"] + 1,
            "nonce": nonce(),
            "previous": record["nonce"],
        }
        winner = yield from settle(base, following, record, copied=proven)
        if winner["nonce"] != following["nonce"]:
            record = (yield from head(base, winner)) or winner
        elif proven or (yield from _counts(base, following, record)):
            return following
        else:
            record = yield from _newest_listed(base)
    raise NotFoundError(f"there is no log at {base}.")


def _counts(base: str, record: Record, before: Record) -> Steps[bool]:
    """Whether a record that was created just now is part of the log; leave its copy if so.

    Its writer may have slept since it read the record before. Meanwhile an owner may have deleted
    commits, and the new record is in the place of one; or all was removed, and perhaps submitted
    anew: then the new record goes. What follows one that counts stays (see `thinning.py`).
    """
    found, last, copy = record, record["number"], (yield from copied(base))
    if before.get("token"):  # there has been an owner
        last = max([last, *numbers((yield List(f"{base}/log/"))), copy["number"] if copy else 0])
    while found["number"] < last and (found is record or not is_commit(found)):
        following = yield from _next_to(base, found)
        if following is None:
            return False
        found = following
    alone = found is record and record.get("kind") != REMOVED
    whole = not _says_removed(copy, record)
    if alone and not (whole and (yield from holds(base, before["number"], before["nonce"]))):
        if (yield from holds(base, record["number"], record["nonce"])):
            yield Delete([slot(base, record["number"])])
        return False
    yield from _leave_hint(base, encode(record))
    return True


def _next_to(base: str, record: Record) -> Steps[Record | None]:
    """Return the record that follows another under the next number, or None: who knows, then."""
    with suppress(DamagedRecordError):
        following = yield from read(base, record["number"] + 1)
        if following is not None and following.get("previous") == record["nonce"]:
            return following
    return None


def _newest_listed(base: str) -> Steps[Record | None]:
    """Return the newest record, whatever the copy says, and make it the copy.

    Not so a commit, for its owner goes on, nor where the copy says that all is being removed.
    """
    copy = yield from copied(base)
    newest = yield from head(base, hinted=False)
    if newest is None or _says_removed(copy, newest):
        return copy if newest else None
    if not is_commit(newest):
        yield from _leave_hint(base, encode(newest))
    return newest


def _says_removed(copy: Record | None, record: Record) -> bool:
    """Whether the log of a record is being removed; a copy may be of an earlier job of the name."""
    began = record.get("submitted_at")
    return copy is not None and copy.get("kind") == REMOVED and copy.get("submitted_at") == began


def _in_its_place(base: str, copy: Record) -> Steps[Record | None]:
    """Return the log's own record of which `copy` is one; the log's newest if it is of none."""
    try:
        there = yield from read(base, copy["number"])
    except DamagedRecordError:
        return copy  # which was read whole, or stands in for it
    if there is None:
        there = yield from _brought_back(base, copy)
    if there is not None and there["nonce"] == copy["nonce"]:
        return there
    return (yield from _newest_listed(base))


def _brought_back(base: str, lost: Record) -> Steps[Record | None]:
    """Write a record that was lost from its place once more, if its copy is surely of this log."""
    copy = yield from copied(base)
    if copy is None or copy["nonce"] != lost["nonce"] or not lost["number"]:
        return None
    before = yield from read(base, lost["number"] - 1)
    later = numbers((yield List(f"{base}/log/")))[-1:] > [lost["number"]]  # it is being removed
    if later or before is None or before["nonce"] != copy.get("previous"):
        return None
    return (yield from settle(base, copy, before))


def settle(
    base: str, record: Record, before: Record | None, *, copied: bool = True
) -> Steps[Record]:
    """Create a record and return what its number holds in the end: this record or another's.

    `copied`: where it landed, readers shall start at it.

    Anything but a plain YES may mean that it landed: clients resend by themselves, and are
    then told that it exists. The nonce says whose it is. Absent means that nothing landed
    *yet*: the same bytes are sent again to the same name, never to the next.
    """
    key, data = slot(base, record["number"]), encode(record)
    for attempt in range(RESENDS):
        said: Created = yield Create(key, data)
        if said is Created.YES:
            if copied:
                yield from _leave_hint(base, data)
            return record
        found = yield Read(key)
        if found is not None:
            winner = check(key, record["number"], found, before)
            if winner["nonce"] == record["nonce"] and copied:
                yield from _leave_hint(base, data)
            return winner
        yield Pause(attempt)
    raise StoreError(f"{key} could not be written in {RESENDS} tries, and nothing is there.")


def _leave_hint(base: str, data: bytes) -> Steps[None]:
    with suppress(StoreError):  # readers start from an older hint, or from a listing
        yield Put(hint(base), data)
