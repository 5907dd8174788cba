"""Whether a store keeps what the protocol needs, how fast it is, and what that means for jobs.

Everything is tried, nothing believed: objects are written below "probe/" and removed again. Each
finding is told as soon as it is there, for on a slow line the whole takes a minute.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from functools import partial
from secrets import token_bytes, token_hex
from statistics import median

from runner.errors import DamagedRecordError, StoreError, StoreRefusedError
from runner.store import log
from runner.store.base import Created, Store
from runner.store.filesystem import FileStore
from runner.store.probe import convicted, probe
from runner.store.steps import run
from runner.store.thinning import listed

_ROUNDS, _RACERS = 10, 16
_SMALL = 10  # repetitions
_LARGE_BYTES = 16 << 20
_CHECKPOINT_BYTES = 65_900_000  # MyInception with Adam
_WRITES_A_COMMIT = 4  # pack, manifest, record, hint; one read
_RECORDS = 2_000  # looked at: a listing for each job and a read for each record
_CLOCK_WARNING = 60.0  # S3 refuses signatures that are 15 minutes off


class Verdict(Enum):
    """What a finding means."""

    OK = "ok"
    WARNING = "warning"  #: it works, with a drawback
    BAD = "bad"  #: the promises can't be kept here


@dataclass(frozen=True)
class Finding:
    """One thing that was tried."""

    name: str
    verdict: Verdict
    text: str  #: what was seen, and what it means


def check_up(store: Store) -> Iterator[Finding]:
    """Try a store; it ends early where the store can't be used at all."""
    folder = f"probe/{token_hex(8)}"
    try:
        yield _reach(store, f"{folder}/reach.bin")
        yield _create(store)
        yield _read_after_write(store, folder)
        yield _listing(store, folder)
        yield _latency(store, folder)
        yield _throughput(store, f"{folder}/large.bin")
        yield _clock(store)
        yield _records(store)
    except StoreError as error:
        yield Finding("access", Verdict.BAD, str(error))
    finally:
        if isinstance(store, FileStore):
            store.close_down_below("probe")


def _reach(store: Store, key: str) -> Finding:
    store.put(key, b"runner was here\n")
    store.read(key)
    store.delete(key)
    return Finding("access", Verdict.OK, "an object was written, read and deleted")


def _create(store: Store) -> Finding:
    verdict = probe(store, rounds=_ROUNDS, racers=_RACERS)
    tried = f"{verdict.rounds} races of {verdict.racers} writers"
    if verdict.honest:
        text = f"{tried} had one winner each, and a latecomer lost: machines can share its jobs"
        return Finding("create-if-absent", Verdict.OK, text)
    if store.single_writer:
        text = f"{tried}: {'; '.join(verdict.findings)}. Fine while one process at a time works"
        return Finding("create-if-absent", Verdict.WARNING, f"{text} (single_writer)")
    return Finding("create-if-absent", Verdict.BAD, convicted(store, verdict))


def _read_after_write(store: Store, folder: str) -> Finding:
    stale = 0
    for number in range(_SMALL):
        key = f"{folder}/{number % 3}.bin"
        store.read(key)  # a cache would remember it
        content = b"%d" % number
        store.put(key, content)
        stale += store.read(key) != content
    for number in range(3):
        store.delete(f"{folder}/{number}.bin")
        stale += store.read(f"{folder}/{number}.bin") is not None
    if stale:
        text = (
            f"{stale} of {_SMALL + 3} reads showed an older state: a worker could miss that its "
            "job was taken over. Is there a cache or a replica between here and the bucket?"
        )
        return Finding("read after write", Verdict.BAD, text)
    text = f"{_SMALL} writes and 3 deletions were seen at once"
    return Finding("read after write", Verdict.OK, text)


def _listing(store: Store, folder: str) -> Finding:
    keys = [f"{folder}/list/{number:03d}" for number in range(_SMALL)]
    for key in keys:
        store.put(key, b"x")
    seen = store.list(f"{folder}/list/") == keys
    for key in keys:
        store.delete(key)
    if seen and not store.list(f"{folder}/list/"):
        return Finding("listing", Verdict.OK, f"{_SMALL} new objects were listed at once")
    text = "listings lag behind: `status` may show a new job late; nothing is lost by it"
    return Finding("listing", Verdict.WARNING, text)


def _latency(store: Store, folder: str) -> Finding:
    record = b"{}".ljust(800)
    keys = [f"{folder}/small/{number:03d}.json" for number in range(_SMALL)]
    creating = [_timed(partial(_created, store, key, record)) for key in keys]
    reading = [_timed(partial(store.read, key)) for key in keys]
    for key in keys:
        store.delete(key)
    create, read = median(creating), median(reading)
    commit = _WRITES_A_COMMIT * create + read
    text = (
        f"create {create * 1e3:.1f} ms, read {read * 1e3:.2f} ms: a commit takes about "
        f"{commit * 1e3:.0f} ms, beside the training"
    )
    slow = create > 2
    return Finding("small objects", Verdict.WARNING if slow else Verdict.OK, text)


def _created(store: Store, key: str, record: bytes) -> None:
    if store.create(key, record) is not Created.YES:
        raise StoreError(f"a create of the new key {key} got no clear answer.")


def _throughput(store: Store, key: str) -> Finding:
    content = token_bytes(_LARGE_BYTES)
    written = _timed(lambda: store.put(key, content))
    started = time.perf_counter()
    whole = store.read(key) == content
    read = time.perf_counter() - started
    store.delete(key)
    if not whole:
        raise StoreRefusedError(f"{store.url}: {_LARGE_BYTES >> 20} MiB came back changed.")
    times = _CHECKPOINT_BYTES / _LARGE_BYTES
    saving, restoring = written * times, read * times
    text = (
        f"{_LARGE_BYTES / written / 1e6:.0f} MB/s up, {_LARGE_BYTES / read / 1e6:.0f} MB/s down: "
        f"a checkpoint of 66 MB (MyInception with Adam) is written in {saving:.1f} s and read in "
        f"{restoring:.1f} s"
    )
    verdict = Verdict.WARNING if saving > 30 else Verdict.OK
    if verdict is Verdict.WARNING:
        text += "; checkpoints will be further apart than the usual 30 s"
    return Finding("large objects", verdict, text)


def _clock(store: Store) -> Finding:
    ask: Callable[[], float | None] | None = getattr(store, "clock_ahead", None)
    ahead = ask() if ask else None
    if ahead is None:
        text = "the store keeps no times: a dead worker's job is free after a full lease"
        return Finding("clock", Verdict.WARNING, text)
    text = f"the store's clock is {abs(ahead):.1f} s {'ahead' if ahead >= 0 else 'behind'}"
    if abs(ahead) > _CLOCK_WARNING:
        text += ": set this machine's clock, or signed requests will be refused"
        return Finding("clock", Verdict.WARNING, text)
    return Finding("clock", Verdict.OK, f"{text}; no decision rests on it")


def _records(store: Store) -> Finding:
    """Look at the records of the first jobs: which are gone or damaged, or could be unnoticed."""
    jobs, keys, older = store.folders("jobs/"), list[str](), set[str]()
    waiting = iter(jobs)
    gaps = []
    while len(keys) < _RECORDS and (job := next(waiting, None)):
        of_job, number = run(store, listed(f"jobs/{job}"))
        keys += of_job
        older |= {*of_job[1:-1]}  # a job is read from its first record and its newest
        if number is not None and not _is_removed(store, job):
            gaps.append(f"{job} lacks record {number}")
    left = len(list(waiting))
    sorts = _sorts(dict(zip(keys, store.read_many(keys), strict=True)))
    text = f"{len(keys)} records of {len(jobs) - left} jobs" if jobs else "no jobs yet"
    if left:
        text += f", {left} more were not looked at"
    if {*sorts.values()} == {"sound"}:
        text += ", each with a hash of its own"
    wrong = _wrong_records(sorts, gaps, older)
    return Finding("records", Verdict.WARNING if wrong else Verdict.OK, text + wrong)


def _is_removed(store: Store, job: str) -> bool:
    """Whether the records that are gone were removed with the job, as its last one says."""
    try:
        copy = log.decode(store.read(log.hint(f"jobs/{job}")) or b"", job)
    except DamagedRecordError:
        return False
    return copy.get("kind") == "remove"


def _wrong_records(sorts: Mapping[str, str], gaps: Sequence[str], older: Set[str]) -> str:
    def of(sort: str) -> list[str]:
        return [key for key, its in sorts.items() if its == sort]

    damaged, harmless = list[str](), list[str]()
    for key in of("damaged"):
        (harmless if key in older else damaged).append(key)
    texts = [
        (
            of("old"),
            "{n} are of the first versions and have no hash of their own, so that a flipped bit in "
            "them may go unnoticed. What is written from now on has one",
        ),
        (
            damaged,
            "{n} damaged: {first}. Bring them back from a copy: a job without its first is not "
            "trained, extended or compared, of one without its newest its copy or the one before "
            "counts",
        ),
        (harmless, "{n} damaged that only the past tells: {first}. Its job goes on"),
        (
            of("late"),
            "{n} of earlier jobs of the same name, whose workers wrote late: {first}. --repair "
            "removes them",
        ),
        (
            gaps,
            "records are gone: {first}. Bring them back, submit the same spec again where record 0 "
            "alone is gone, or remove the job's whole folder",
        ),
    ]
    return "".join(
        "; " + text.format(n=len(found), first=", ".join(found[:5]))
        for found, text in texts
        if found
    )


def remove_late(store: Store, job: str) -> list[str]:
    """Delete a job's records that are of an earlier job of its name; return their keys.

    Each is looked at once more right before: its writer may have taken it back meanwhile.
    """
    keys, removed = store.list(f"jobs/{job}/log/"), list[str]()
    sorts = _sorts(dict(zip(keys, store.read_many(keys), strict=True)))
    for key in [key for key, sort in sorts.items() if sort == "late"]:
        if run(store, log.is_late(f"jobs/{job}", {"number": log.numbers([key])[0]})):
            store.delete(key)
            removed.append(key)
    return removed


def _sorts(found: Mapping[str, bytes | StoreError | None]) -> dict[str, str]:
    """Return for each record: "damaged", "late", "old" (without a hash of its own) or "sound"."""
    first, sorts = dict[str, log.Record](), dict[str, str]()
    for key, data in found.items():
        if isinstance(data, StoreError):
            raise data
        job = key.rpartition("/log/")[0]
        try:
            record = log.decode(data or b"", key)
        except DamagedRecordError:
            sorts[key] = "damaged"
            continue
        if not log.has_hash(data or b"", record["number"]):
            sorts[key] = "old"
            continue
        if not record["number"]:
            first[job] = record
        late = job in first and log.differ(first[job], record)
        sorts[key] = "late" if late else "sound"
    return sorts


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
