"""The owner of a log deletes old commits, so that a job of 100,000 of them has few records.

A record that is gone can be created anew, by a writer that had slept since it read the record
before. So an owner deletes commits alone, its own and those of owners before it, and of each row
of them neither the first nor the last. Every record of another kind therefore has its successor
beside it for good, unless it is the newest: by that, a writer sees whether its new record counts
(`append`), and a reader tells a record that filled a hole (`sound`).
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress

from runner.errors import DamagedRecordError, StoreError
from runner.store.log import (
    BEGAN,
    Record,
    copied,
    decode,
    follows,
    holds,
    is_commit,
    is_late,
    numbers,
    read,
    slot,
)
from runner.store.steps import Delete, List, ReadMany, Steps

KEPT = 100  #: newest commits of an owner that stay while it works
AT_ONCE = 50  #: commits deleted together
FEW = 10  #: commits after which it deletes what the owners before it left
MOST_READ = 1000  #: records of theirs at once


class Thinning:
    """What an owner has committed and may delete. Not for several threads at once.

    Args:
        base: of its log.
        claim: number and nonce of the record that made it the owner.
    """

    def __init__(self, base: str, claim: tuple[int, str]) -> None:
        self._base = base
        self._claim = claim
        self._newest = -1
        self._old: list[int] = []
        self._few = FEW

    def committed(self, number: int) -> Steps[None]:
        """Take note of a commit that has landed, and delete old ones if there are enough.

        What can't be deleted stays. Nothing is deleted that readers might start from, and nothing
        of a log that was removed and begun anew.
        """
        if number == self._newest + 1:
            self._old.append(number)
        elif self._old[-1:] == [self._newest]:
            self._old.pop()  # it is the last of its row
        self._newest = number
        self._few -= 1
        with suppress(StoreError):
            if self._few == 0:
                yield from self._delete((yield from self._left_by_others()))
            if len(self._old) >= KEPT + AT_ONCE:
                going, self._old = self._old[:AT_ONCE], self._old[AT_ONCE:]
                yield from self._delete(going)

    def _delete(self, going: Sequence[int]) -> Steps[None]:
        copy = yield from copied(self._base)
        if not going or copy is None or copy["number"] <= going[-1]:
            return
        if (yield from holds(self._base, *self._claim)):
            yield Delete([slot(self._base, number) for number in going])

    def _left_by_others(self) -> Steps[list[int]]:
        """Return the oldest commits before this owner's claim that are amid others of their row."""
        there = {*numbers((yield List(f"{self._base}/log/")))}
        amid = [n for n in there if n < self._claim[0] and {n - 1, n + 1} <= there]
        oldest = sorted({n + place for n in sorted(amid)[:MOST_READ] for place in (-1, 0, 1)})
        tokens = yield from _commits(self._base, oldest)
        return [n for n in oldest if n in amid and _is_amid(n, tokens)]


def _is_amid(number: int, tokens: Mapping[int, object]) -> bool:
    """Whether the records before and after a commit are commits of the same owner."""
    row = [tokens.get(number + place) for place in (-1, 0, 1)]
    return row[1] is not None and row[0] == row[1] == row[2]


def _commits(base: str, wanted: Sequence[int]) -> Steps[dict[int, object]]:
    """Return the owners of those of these records that are commits, as far as they can be read."""
    keys = [slot(base, number) for number in wanted]
    tokens: dict[int, object] = {}
    for number, key, data in zip(wanted, keys, (yield ReadMany(keys)), strict=True):
        with suppress(DamagedRecordError):
            record = decode(data if isinstance(data, bytes) else b"", key)
            if is_commit(record):
                tokens[number] = (record.get("token"), record.get(BEGAN))
    return tokens


def listed(base: str, first: int = 0) -> Steps[tuple[list[str], int | None]]:
    """Return the keys of a log's records, and the first from `first` on that is lost, or None.

    A record is not lost but deleted where the commits next to its place, before and after it, are
    of one owner.
    """
    keys, there, newest = yield from _there(base)
    absent = [n for n in range(first, newest + 1) if n not in there]
    gaps = [n for n in absent if n == first or n - 1 in there]
    edges = sorted(n for n in there if not {n - 1, n + 1} <= there)
    tokens = yield from _commits(base, edges if gaps else [])
    for number in gaps:
        before = yield from _next_commit(base, range(number - 1, first - 1, -1), there, tokens)
        after = yield from _next_commit(base, range(number, newest + 1), there, tokens)
        if before is None or before != after:
            return keys, number
    return keys, None


def _there(base: str) -> Steps[tuple[list[str], set[int], int]]:
    """Return the keys of a log's records, the numbers that are there, and the newest."""
    copy = yield from copied(base)  # read before the listing, which then has what led to it
    last = -1 if copy is None else max(0, copy["number"] - 1)  # itself it is written again
    keys: list[str] = yield List(f"{base}/log/")
    there = {*numbers(keys)}
    missed = [slot(base, n) for n in range(max(there, default=-1) + 1, last + 1)[:KEPT]]
    replies = (yield ReadMany(missed)) if missed else []
    there |= {*numbers(key for key, data in zip(missed, replies, strict=True) if data)}
    if len(there) <= max({last, *there}):
        there = yield from _without_late(base, there, last)
    return keys, there, max({last, *there})


def _without_late(base: str, there: set[int], last: int) -> Steps[set[int]]:
    """Return what is there and not of an earlier log; `last` was copied, it is not."""
    for number in sorted(there, reverse=True):
        record = None
        if number > max(last, 0):
            with suppress(DamagedRecordError):
                record = yield from read(base, number)
        if record is None or not (yield from is_late(base, record)):
            break
        there = there - {number}
    return there


def _next_commit(
    base: str, order: Iterable[int], there: Set[int], tokens: dict[int, object]
) -> Steps[object]:
    """Return the token of the first commit among records, or None; `tokens`: what is known."""
    for number in order:
        if number in there:
            if number not in tokens and {number - 1, number + 1} <= there:
                tokens |= yield from _commits(base, [number])
            if number in tokens:
                return tokens[number]
    return None


def sound(records: Sequence[Record], there: Set[int]) -> list[Record]:
    """Return those of the records of a log that are part of it: see above.

    One that filled a hole tells of something that never happened.

    Args:
        records: in order, up to the newest; without those that can't be read.
        there: numbers of these, too.
    """
    kept: dict[int, Record] = {}
    readable = {record["number"] for record in records}
    for record in reversed(records):
        number = record["number"] + 1
        after = kept.get(number)
        if after is None:  # it is the newest; or followed by nothing, a filled hole, or damage
            counts = not kept or (number in there and number not in readable)
        else:
            counts = follows(after, record)
        if counts or is_commit(record):
            kept[record["number"]] = record
    return [*kept.values()][::-1]
