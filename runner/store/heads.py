"""The newest records of many logs at once, in as few round trips as one log takes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from runner.errors import StoreError
from runner.store.log import FAR, Record, check, decode, head, hint, is_commit, newest, slot
from runner.store.steps import ReadMany, Steps


def heads(
    bases: Sequence[str], known: Mapping[str, Record] | None = None
) -> Steps[list[Record | StoreError | None]]:
    """Return the newest record of each log; two reads a log where nothing is missing.

    Of a log in `known`, by its base, one is enough where that is no commit (see `thinning.py`).
    A log that can't be read is returned as its error, so that it hides no other.
    """
    found: list[Record | StoreError | None] = [None] * len(bases)
    starts = yield from _starts(bases, known or {})
    for index in set(range(len(bases))) - starts.keys():
        found[index] = yield from _or_error(head(bases[index]))
    walking, unsure = dict(starts), set[int]()
    for _ in range(FAR):
        if not walking:
            break
        further = yield from _walk_together(bases, found, walking)
        unsure |= {
            index for index in further if is_commit(walking[index]) or is_commit(further[index])
        }
        walking = further
    for index in unsure | walking.keys():  # what follows was deleted, or the start was far behind
        like = walking.get(index) or found[index]
        if not isinstance(like, StoreError):
            found[index] = yield from _or_error(newest(bases[index], like))
    return found


def _starts(bases: Sequence[str], known: Mapping[str, Record]) -> Steps[dict[int, Record]]:
    """Return where to start walking, by the place in `bases`: what is known, or a sound copy."""
    found = {index: known[base] for index, base in enumerate(bases) if base in known}
    asked = [index for index in range(len(bases)) if index not in found or is_commit(found[index])]
    hints = yield ReadMany([hint(bases[index]) for index in asked])
    for index, data in zip(asked, hints, strict=True):
        with suppress(StoreError):
            copy = decode(data if isinstance(data, bytes) else b"", hint(bases[index]))
            if index not in found or copy["number"] > found[index]["number"]:
                found[index] = copy
    return found


def _or_error(steps: Steps[Record | None]) -> Steps[Record | StoreError | None]:
    try:
        return (yield from steps)
    except StoreError as error:
        return error


def _walk_together(
    bases: Sequence[str], found: list[Record | StoreError | None], walking: dict[int, Record]
) -> Steps[dict[int, Record]]:
    keys = {index: slot(bases[index], record["number"] + 1) for index, record in walking.items()}
    replies = yield ReadMany(list(keys.values()))
    further: dict[int, Record] = {}
    for (index, key), data in zip(keys.items(), replies, strict=True):
        record = walking[index]
        try:
            if isinstance(data, bytes):
                further[index] = check(key, record["number"] + 1, data, record)
            else:
                found[index] = record if data is None else data
        except StoreError as error:
            found[index] = error
    return further
