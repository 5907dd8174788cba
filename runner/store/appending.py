"""A record is added to a log: created behind the newest, or decided anew behind another's.

Owners delete old commits (see `thinning.py`), and a log may be removed while a writer sleeps. So
whoever has created a record looks whether it counts before anyone is pointed to it. What it costs
is in README.md, beside this file.
"""

from collections.abc import Callable
from contextlib import suppress

from runner.errors import (
    DamagedRecordError,
    NotFoundError,
    OneObjectError,
    StoreError,
    StoreRefusedError,
)
from runner.store import log
from runner.store.base import Created
from runner.store.log import (
    BEGAN,
    REMOVED,
    LateRecordError,
    Record,
    check,
    copied,
    differ,
    encode,
    hint,
    holds,
    is_commit,
    is_late,
    numbers,
    read,
    slot,
)
from runner.store.steps import Create, Delete, List, Pause, Put, Read, Steps

Change = Callable[[Record], Record]  #: the next record's fields, or raises why there is none

RESENDS = 12  #: times that one record is sent before its writer gives up in doubt


def append(
    base: str,
    change: Change,
    nonce: Callable[[], str],
    *,
    known: Record | None = None,
    claim: tuple[int, str] | None = None,
) -> Steps[Record]:
    """Write the next record: `change(newest)` with number, nonce and previous filled in.

    Where another writer was first, `change` is asked again with that writer's record, until it
    returns or raises. A StoreError leaves it open whether the record landed; calling again
    with the same `change` is safe as far as `change` recognises its own result.

    The record that is followed is read in its place: a copy that someone moved or made up must not
    be built upon. And where the new record turns out to be no part of the log (see `_counts`),
    `change` is asked again with the newest.

    Args:
        base: of the log.
        change: as said.
        nonce: of a record.
        known: a record to start looking from.
        claim: number and nonce of the record that made the writer the owner, which wrote `known`.
            Nobody deletes what an owner follows: it only looks whether its claim is there, before
            and after its record is created.

    Raises:
        NotFoundError: there is no log, or not the owner's any more.
    """
    if claim is None:
        return (yield from _append(base, change, nonce, known, None))
    yield from _require(base, claim)
    try:
        return (yield from _append(base, change, nonce, known, claim))
    except StoreRefusedError:
        yield from _require(base, claim)  # another log may be what refused it
        raise


def _append(
    base: str,
    change: Change,
    nonce: Callable[[], str],
    known: Record | None,
    claim: tuple[int, str] | None,
) -> Steps[Record]:
    record = yield from log.head(base, known, own=claim is not None)
    if record is not None and claim is None:
        record = yield from _in_its_place(base, record)
    while record is not None:
        following = {
            **change(dict(record)),
            "number": record["number"] + 1,
            "nonce": nonce(),
            "previous": record["nonce"],
        }
        winner = yield from settle(base, following, record, copied=False)
        if winner["nonce"] != following["nonce"]:
            record = (yield from log.head(base, winner)) or winner
        elif claim is not None:
            yield from _require(base, claim, following)
            return following
        elif (yield from _counts(base, following, record)):
            return following
        else:
            record = yield from _newest_listed(base)
    raise NotFoundError(f"there is no log at {base}.")


def _require(base: str, claim: tuple[int, str], written: Record | None = None) -> Steps[None]:
    """Raise NotFoundError where an owner's log is gone.

    What it has just `written` is taken back then, and becomes the copy otherwise.
    """
    if not (yield from holds(base, *claim)):
        if written is not None:
            yield from _take_back(base, written)
        raise NotFoundError(f"there is no log of this owner at {base} any more.")
    if written is not None:
        yield from _leave_hint(base, encode(written))


def _take_back(base: str, record: Record) -> Steps[None]:
    """Delete a record that was created in a log that is not its own."""
    if (yield from holds(base, record["number"], record["nonce"])):
        yield Delete([slot(base, record["number"])])


def _counts(base: str, record: Record, before: Record) -> Steps[bool]:
    """Whether a record that was created just now is part of the log; leave its copy if so.

    Its writer may have slept since it read the record before. Meanwhile an owner may have deleted
    commits, and the new record is in the place of one; or all was removed, and perhaps submitted
    anew: then the new record goes. What follows one that counts stays (see `thinning.py`).
    """
    copy = yield from copied(base)
    last = (yield from _last(base, record, copy)) if before.get("token") else record["number"]
    found = record
    while found["number"] < last and (found is record or not is_commit(found)):
        following = yield from _next_to(base, found)
        if following is None:
            return False
        found = following
    if found is record:
        followed = yield from holds(base, before["number"], before["nonce"])
        if not followed or _says_removed(copy, record):
            copy = yield from copied(base)  # another who ends this removal copies its record first
            if copy is None or copy["nonce"] != record["nonce"]:
                yield from _take_back(base, record)
                return False
    yield from _leave_hint(base, encode(record))
    return True


def _last(base: str, record: Record, copy: Record | None) -> Steps[int]:
    """Return the highest number that is there, of a record that is not late, or was copied."""
    number: int = max(record["number"], copy["number"] if copy else 0)
    keys: list[str] = yield List(f"{base}/log/")
    for listed in reversed(numbers(keys)):
        if listed <= number:
            break
        try:
            there = yield from read(base, listed)
        except DamagedRecordError:
            return listed
        if there is not None and not differ(there, record):
            return listed
    return number


def _next_to(base: str, record: Record) -> Steps[Record | None]:
    """Return the record that follows another under the next number, or None: who knows, then."""
    with suppress(DamagedRecordError):
        following = yield from read(base, record["number"] + 1)
        if following is not None and following.get("previous") == record["nonce"]:
            return following
    return None


def _newest_listed(base: str) -> Steps[Record | None]:
    """Return the newest record, whatever the copy says, and make it the copy.

    Not so a commit, for its owner goes on, but in the place of an earlier job's copy; nor where the
    copy says that all is being removed.
    """
    copy = yield from copied(base)
    newest = yield from log.head(base, hinted=False)
    if newest is None or _says_removed(copy, newest):
        return copy if newest else None
    of_another = copy is not None and copy.get(BEGAN) != newest.get(BEGAN)
    if of_another or not is_commit(newest):
        yield from _leave_hint(base, encode(newest))
    return newest


def _says_removed(copy: Record | None, record: Record) -> bool:
    """Whether the log of a record is being removed; a copy may be of an earlier job of the name."""
    began = record.get(BEGAN)
    return copy is not None and copy.get("kind") == REMOVED and copy.get(BEGAN) == began


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
    key, data, late = slot(base, record["number"]), encode(record), False
    for attempt in range(RESENDS):
        said: Created = yield Create(key, data)
        if said is Created.YES:
            if copied:
                yield from _leave_hint(base, data)
            return record
        found = yield Read(key)
        try:
            winner = None if found is None else check(key, record["number"], found, before)
            late = False
        except LateRecordError as error:
            if not (yield from is_late(base, error.record)):
                raise
            winner, late = None, True  # its writer is about to take it back
        if winner is not None:
            if winner["nonce"] == record["nonce"] and copied:
                yield from _leave_hint(base, data)
            return winner
        yield Pause(attempt)
    if late:
        raise OneObjectError(
            f"{key} is of an earlier job of that name, whose worker wrote late, and died. "
            "'runner doctor --repair' removes it."
        )
    raise StoreError(f"{key} could not be written in {RESENDS} tries, and nothing is there.")


def _leave_hint(base: str, data: bytes) -> Steps[None]:
    with suppress(StoreError):  # readers start from an older hint, or from a listing
        yield Put(hint(base), data)
