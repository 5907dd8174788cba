"""Everything that a report says of a job, read from the bucket as plain data.

A report can be made at any moment: of a job that runs, that was never evaluated, or part of
whose records can't be read. What is missing is None, what is damaged is named in `problems`,
and neither hides anything else. Nothing here imports TensorFlow or runs code from the bucket.
"""

import io
import json
import math
import re
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.checkpoint.manifest import Manifest
from runner.checkpoint.packs import hash_bytes
from runner.checkpoint.reading import read_manifest
from runner.errors import CheckpointError, NotFoundError, StoreError
from runner.evaluation.metrics import per_class_accuracy
from runner.queue import protocol
from runner.queue.job import Job, State, from_json
from runner.queue.protocol import Heartbeat
from runner.queue.queue import Queue
from runner.report.attempts import Attempt, attempts
from runner.store import log
from runner.store.base import Store

AT_ONCE = 8  #: jobs read together
MAX_DOCUMENT = 16 * 1024 * 1024  #: bytes of an evaluation's numbers
MAX_ARRAYS = 512 * 1024 * 1024  #: bytes of its arrays, unpacked
MAX_CLASSES = 2000
MAX_METRICS = 32
LONGEST = 2_000  #: characters of one piece of text
OF_PASSES = ("certainty", "consistency")  #: what one look at each image cannot tell

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
History = Mapping[str, tuple[float | None, ...]]  #: metric -> one value an epoch


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """An evaluation, as it was stored."""

    metrics: Mapping[str, Any]  #: top_1, loss, certainty, ...
    class_names: tuple[str, ...] = ()  #: one per class, or none
    labels: Counts | None = field(default=None, repr=False)  #: images
    predicted: Counts | None = field(default=None, repr=False)  #: of the plain pass
    confusion: Counts | None = field(default=None, repr=False)  #: true x predicted
    augmented: Counts | None = field(default=None, repr=False)  #: of all augmented passes

    @property
    def passes(self) -> int:
        """How often the images were changed at random and looked at again."""
        return int(number(self.metrics.get("augmented_passes")) or 0)

    def number(self, name: str) -> float | None:
        """Return a metric, None where it is missing, says nothing or is no finite number."""
        return None if name in OF_PASSES and not self.passes else number(self.metrics.get(name))

    @property
    def per_class(self) -> Floats | None:
        """Share of each class's images that are recognised; NaN where a class has none."""
        return None if self.confusion is None else per_class_accuracy(self.confusion)

    @property
    def reliability(self) -> list[Mapping[str, Any]]:
        """The intervals of confidence that hold images."""
        bins = self.metrics.get("reliability")
        return [one for one in (bins if isinstance(bins, list) else []) if _is_interval(one)]


def _is_interval(one: Any) -> bool:
    if not isinstance(one, dict) or type(one.get("count")) is not int or one["count"] < 1:
        return False
    shares = [number(one.get(name)) for name in ("low", "high", "confidence", "accuracy")]
    return all(share is not None and 0 <= share <= 1 for share in shares)


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One job, for a reader."""

    job: Job
    state: str  #: of the job; `lost` where it runs on paper only
    spec: Mapping[str, Any]  #: effective
    attempts: Sequence[Attempt] = ()
    history: History = field(default_factory=dict)
    numerics: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    beat: Heartbeat | None = None  #: of a running job
    measured: Measured | None = None
    problems: Sequence[str] = ()  #: what could not be read, in sentences

    @property
    def epochs(self) -> int:
        """How many epochs the history covers."""
        return max(map(len, self.history.values()), default=0)

    @property
    def interruptions(self) -> list[Attempt]:
        """The attempts whose training was cut short."""
        return [one for one in self.attempts if one.interrupted]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All runs of a report."""

    store: str  #: for people
    made_at: datetime
    runs: Sequence[Run]
    problems: Sequence[str]  #: everything that could not be read, job by job


def number(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def clean(text: str, *, limit: int = LONGEST, lines: bool = False) -> str:
    r"""Return text without control and direction characters, at most `limit` characters of it.

    >>> clean("a\x1b[31m\u202eb")
    'a[31mb'
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    spaced = "".join(" " if c in "\t\r" or (c == "\n" and not lines) else c for c in cut)
    return "".join(c for c in spaced if c == "\n" or unicodedata.category(c)[0] != "C")


def collect(queue: Queue, names: Sequence[str], *, now: datetime) -> Report:
    """Read jobs from a store.

    Args:
        queue: of the store.
        names: only these jobs; all, where none is named.
        now: the time, for people.

    Raises:
        NotFoundError: there is no job of a name.
        StoreError: the store can't be listed.
    """
    unreadable: dict[str, str] = {}

    def refuse(name: str, error: Exception) -> None:
        unreadable[name] = f"{name}: cannot be read: {error}"

    def read(job: Job) -> Run | None:
        try:
            return _run(queue, job)
        except (StoreError, NotFoundError) as error:
            refuse(job.id, error)
            return None

    jobs = [] if names else sorted(queue.jobs(refuse), key=lambda job: (job.submitted_at, job.id))
    for name in dict.fromkeys(names):
        try:
            jobs.append(queue.job(name))
        except StoreError as error:
            refuse(name, error)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [run for run in pool.map(read, jobs) if run]
    parts = (f"{run.job.id}: {text}" for run in runs for text in run.problems)
    problems = [*(unreadable[name] for name in sorted(unreadable)), *parts]
    return Report(store=queue.store.url, made_at=now, runs=runs, problems=problems)


@contextmanager
def _noting(problems: list[str], what: str) -> Iterator[None]:
    """Make a sentence of what cannot be read."""
    try:
        yield
    except (StoreError, ValueError, KeyError, OSError, EOFError, RecursionError,
            zipfile.BadZipFile) as error:  # fmt: skip
        problems.append(f"{what} cannot be read: {error}")


def _run(queue: Queue, job: Job) -> Run:
    problems: list[str] = []
    records = _records(queue.store, job, problems)
    beats = _beats(queue.store, records)
    lost = False
    if job.state is State.RUNNING:
        with _noting(problems, "the sign of life of its worker"):
            lost = queue.availability(job).claimable
    manifest = _newest_manifest(queue, job, problems)
    digest = job.spec_digest
    return Run(
        job=job,
        state="lost" if lost else job.state.value,
        spec=next((one.spec for one in records if one.spec and one.spec_digest == digest), {}),
        attempts=attempts(records, beats, _steps_per_epoch(manifest, beats), lost=lost),
        history=history_of(manifest),
        numerics=manifest.numerics if manifest else {},
        parameters=_parameters(job, manifest),
        beat=beats.get(job.token) if job.state is State.RUNNING else None,
        measured=_measured(queue.store, job, problems) if job.evaluation else None,
        problems=problems,
    )


def _records(store: Store, job: Job, problems: list[str]) -> list[Job]:
    """Return the job's records that can be read, the newest of them as it is known already."""
    base = protocol.base(job.id)
    keys = [log.slot(base, number) for number in range(job.number)]
    found = []
    for key, data in zip(keys, store.read_many(keys), strict=True):
        with _noting(problems, "a record"):
            if not isinstance(data, bytes):
                raise data or StoreError(f"{key} is missing.")
            found.append(from_json(log.decode(data, key), job.id))
    return [*found, job]


def _beats(store: Store, records: Sequence[Job]) -> dict[int, Heartbeat]:
    """Return the last heartbeat of every token; they are for people, a missing one is none."""
    claims = [record for record in records if record.kind == "claim"]
    replies = store.read_many([protocol.beat_key(claim.id, claim.token) for claim in claims])
    return {
        claim.token: beat
        for claim, data in zip(claims, replies, strict=True)
        if isinstance(data, bytes) and (beat := protocol.parse_beat(data, claim.token))
    }


def _newest_manifest(queue: Queue, job: Job, problems: list[str]) -> Manifest | None:
    """Return what the newest readable checkpoint says of itself; a damaged one is a problem.

    A running job may have replaced a checkpoint since its record was read: look again.
    """
    for reference in [*([job.final] if job.final else []), *job.checkpoints]:
        try:
            return read_manifest(queue.store, str(reference.get("manifest", "")))
        except (CheckpointError, StoreError) as error:
            newer = queue.find(job.id)
            if newer is not None and newer.checkpoints != job.checkpoints:
                return _newest_manifest(queue, newer, problems)
            problems.append(f"a checkpoint cannot be read: {error}")
    return None


def history_of(manifest: Manifest | None) -> dict[str, tuple[float | None, ...]]:
    """Return the metrics of each finished epoch."""
    raw: Any = manifest.history if manifest is not None else {}
    if not isinstance(raw, Mapping):
        return {}
    lists = [(name, values) for name, values in raw.items() if isinstance(values, list)]
    return {
        clean(str(name), limit=60): tuple(number(value) for value in values)
        for name, values in lists[:MAX_METRICS]
    }


def _steps_per_epoch(manifest: Manifest | None, beats: Mapping[int, Heartbeat]) -> float | None:
    position = manifest.position if manifest else None
    if position is not None and position.epoch > 0 and position.global_step > position.step:
        return (position.global_step - position.step) / position.epoch
    told = (beat.details for beat in beats.values() if beat.details.get("stage") == "train")
    return next((steps for details in told if (steps := number(details.get("steps")))), None)


def _parameters(job: Job, manifest: Manifest | None) -> int | None:
    counted = number((job.evaluation or {}).get("parameters"))
    sizes = (
        math.prod(place.shape)
        for name, place in (manifest.tensors.items() if manifest else ())
        if name.startswith("model/") and "seed_generator" not in name
    )
    return int(counted or sum(sizes)) or None


def _measured(store: Store, job: Job, problems: list[str]) -> Measured:
    """Return the evaluation; its scalars stand in the job's record, whatever else is damaged."""
    metrics = dict(job.evaluation or {})
    with _noting(problems, "the evaluation's numbers"):
        document = json.loads(_read(store, metrics.get("json"), MAX_DOCUMENT))
        if not isinstance(document, dict):
            raise ValueError("they are no JSON object")
        metrics |= document
    arrays: dict[str, Counts] = {}
    with _noting(problems, "the evaluation's arrays"):
        arrays = _arrays(_read(store, metrics.get("npz"), MAX_ARRAYS))
    names = metrics.get("class_names")
    known = names[:MAX_CLASSES] if isinstance(names, list) else []
    texts = tuple(clean(str(name), limit=80) for name in known)
    return Measured(metrics=metrics, class_names=texts, **arrays)


def _read(store: Store, key: Any, most: int) -> bytes:
    """Return what an evaluation stored; StoreError where it is not what its name says."""
    data = store.read(str(key or ""), max_bytes=most)
    if data is None:
        raise StoreError(f"{key} is missing.")
    named = re.search(r"-([0-9a-f]{32})\.[a-z]+$", key)  # the first versions had other names
    if named and named[1] != hash_bytes(data)[:32]:
        raise StoreError(f"{key} is damaged: its bytes are not those it is named by.")
    return data


def _arrays(data: bytes) -> dict[str, Counts]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if sum(entry.file_size for entry in packed.infolist()) > MAX_ARRAYS:
            raise ValueError(f"they take more than {MAX_ARRAYS} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        augmented = [name for name in file.files if name == "confusion_augmented"]
        names = ("labels", "predicted", "confusion", *augmented)
        labels, predicted, *matrices = (np.asarray(file[name]) for name in names)
    shape = matrices[0].shape
    square = len(shape) == 2 and shape[0] == shape[1] and 0 < shape[0] <= MAX_CLASSES
    for one in matrices:
        if not square or one.shape != shape or one.dtype.kind not in "iu" or one.min() < 0:
            raise ValueError(f"a confusion matrix of the shape {one.shape}, {one.dtype}")
    if labels.ndim != 1 or predicted.ndim != 2 or predicted.shape[1:] != labels.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predicted.shape}")
    found = zip(
        ("labels", "predicted", "confusion", "augmented"),
        (labels, predicted[0], *matrices),
        strict=False,
    )
    return {name: array.astype(np.int64) for name, array in found}
