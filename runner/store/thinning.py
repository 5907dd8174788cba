"""The owner of a log deletes its old commits, so that a job of 100,000 of them has few records.

A record that is gone can be created anew, by a writer that had slept since it read the record
before. So an owner deletes commits alone, which nobody else writes, and of these neither its
newest nor the first behind another kind of record. Every record of others therefore has its
successor beside it for good, unless it is the newest: by that, a writer sees whether its new
record counts (`log.append`), and a reader tells a record that filled a hole (`sound`).
"""

from collections.abc import Sequence, Set
from contextlib import suppress
from itertools import pairwise

from runner.errors import DamagedRecordError, StoreError
from runner.store import log
from runner.store.log import COMMIT, Record, copied, decode, follows, holds, numbers, read, slot
from runner.store.steps import Delete, List, ReadMany, Steps

AT_ONCE = 50  #: commits deleted together
MOST_READ = 1000  #: of earlier owners' records


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
        self._earlier = True  # owners may have left more than they had to

    def committed(self, number: int) -> Steps[None]:
        """Take note of a commit that has landed, and delete old ones if there are enough.

        What can't be deleted stays. Nothing is deleted that readers might start from, and nothing
        of a log that was removed and begun anew.
        """
        if number == self._newest + 1:
            self._old.append(number)
        self._newest = number
        if len(self._old) < log.KEPT + AT_ONCE:
            return
        going, self._old = self._old[:AT_ONCE], self._old[AT_ONCE:]
        with suppress(StoreError):
            if self._earlier:
                self._earlier = False
                going = [*(yield from self._left_by_others()), *going]
            copy = yield from copied(self._base)
            if copy is None or copy["number"] <= going[-1]:
                return
            if (yield from holds(self._base, *self._claim)):
                yield Delete([slot(self._base, number) for number in going])

    def _left_by_others(self) -> Steps[list[int]]:
        """Return the commits of earlier owners that have a commit of theirs on either side."""
        listed = numbers((yield List(f"{self._base}/log/")))
        before = [number for number in listed if number < self._claim[0]][-MOST_READ:]
        keys = [slot(self._base, number) for number in before]
        replies = yield ReadMany(keys)
        tokens: dict[int, object] = {}
        for number, key, data in zip(before, keys, replies, strict=True):
            with suppress(DamagedRecordError):
                record = decode(data if isinstance(data, bytes) else b"", key)
                if record.get("kind") == COMMIT:
                    tokens[number] = record.get("token")
        going = []
        for number, later in pairwise(tokens):
            earlier = tokens.get(number - 1) == tokens[number]
            if earlier and tokens[later] == tokens[number]:
                going.append(number)
        return going


def listed(base: str, first: int = 0) -> Steps[tuple[list[str], int | None]]:
    """Return the keys of a log's records, and the first from `first` on that is lost, or None.

    A record is lost where no commit comes before its place, for an owner deletes only what follows
    one, and among the newest, of which it deletes none.
    """
    copy = yield from copied(base)  # read before the listing, which then has what led to it
    last = -1 if copy is None else max(0, copy["number"] - 1)  # itself it is written again
    keys: list[str] = yield List(f"{base}/log/")
    there = {*numbers(keys)}
    newest = max({last, *there})
    for number in (n for n in range(first, newest + 1) if n not in there):
        if number > newest - log.KEPT:
            return keys, number
        begins = number == first or number - 1 in there
        if begins and not (yield from _behind_commit(base, range(first, number), there)):
            return keys, number
    return keys, None


def _behind_commit(base: str, before: range, there: Set[int]) -> Steps[bool]:
    """Whether the last of these records but other kinds is a commit, or was deleted."""
    for earlier in reversed(before):
        if earlier not in there:
            return True
        with suppress(DamagedRecordError):
            record = yield from read(base, earlier)
            if record is not None and record.get("kind") == COMMIT:
                return True
    return False


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
        if counts or record.get("kind") == COMMIT:
            kept[record["number"]] = record
    return [*kept.values()][::-1]
