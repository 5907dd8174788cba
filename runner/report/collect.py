"""Everything that a report says of a job, read from the bucket as plain data.

A report can be made at any moment: of a job that runs, that was never evaluated, or part of
whose records can't be read. What is missing is None, what is damaged is named in `problems`,
and neither hides anything else. Nothing here imports TensorFlow or runs code from the bucket.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.checkpoint.manifest import Manifest
from runner.checkpoint.reading import read_manifest
from runner.errors import CheckpointError, NotFoundError, StoreError
from runner.queue import protocol
from runner.queue.job import Job, State, from_json
from runner.queue.protocol import Heartbeat
from runner.queue.queue import Queue
from runner.report.attempts import Attempt, Interruption, attempts, interruptions
from runner.report.markup import clean
from runner.store import log
from runner.store.base import Store

AT_ONCE = 8  #: jobs read together
MAX_DOCUMENT = 16 * 1024 * 1024  #: bytes of an evaluation's numbers
MAX_ARRAYS = 512 * 1024 * 1024  #: bytes of its arrays, unpacked
MAX_CLASSES = 2000
MAX_METRICS = 32

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

    def number(self, name: str) -> float | None:
        """Return a metric, None where it is missing or no finite number."""
        return number(self.metrics.get(name))

    @property
    def per_class(self) -> Floats | None:
        """Share of each class's images that are recognised; NaN where a class has none."""
        if self.confusion is None:
            return None
        totals = self.confusion.sum(axis=1).astype(np.float64)
        shares = np.full(len(totals), np.nan)
        np.divide(np.diagonal(self.confusion), totals, out=shares, where=totals > 0)
        return shares

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
    interruptions: Sequence[Interruption] = ()
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


@dataclass(frozen=True, kw_only=True)
class Report:
    """All runs of a report."""

    store: str  #: for people
    made_at: datetime
    runs: Sequence[Run]
    unreadable: Mapping[str, str]  #: job -> why nothing is known of it

    @property
    def problems(self) -> list[str]:
        """Everything that could not be read, job by job."""
        whole = [f"{name}: cannot be read: {why}" for name, why in self.unreadable.items()]
        return whole + [f"{run.job.id}: {text}" for run in self.runs for text in run.problems]


def number(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


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
    jobs = _named(queue, names, unreadable) if names else _all(queue, unreadable)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda job: _run_or_error(queue, job), jobs))
    for job, run in zip(jobs, found, strict=True):
        if isinstance(run, StoreError):
            unreadable[job.id] = str(run)
    return Report(
        store=queue.store.url,
        made_at=now,
        runs=[run for run in found if isinstance(run, Run)],
        unreadable=unreadable,
    )


def _all(queue: Queue, unreadable: dict[str, str]) -> list[Job]:
    jobs = queue.jobs(lambda name, error: unreadable.__setitem__(name, str(error)))
    return sorted(jobs, key=lambda job: (job.submitted_at, job.id))


def _named(queue: Queue, names: Sequence[str], unreadable: dict[str, str]) -> list[Job]:
    found = []
    for name in dict.fromkeys(names):
        try:
            found.append(queue.job(name))
        except StoreError as error:
            unreadable[name] = str(error)
    return found


def _run_or_error(queue: Queue, job: Job) -> Run | StoreError:
    try:
        return _run(queue, job)
    except (StoreError, NotFoundError) as error:
        return error if isinstance(error, StoreError) else StoreError(str(error))


def _run(queue: Queue, job: Job) -> Run:
    problems: list[str] = []
    records = _records(queue.store, job, problems)
    beats = _beats(queue.store, records)
    lost = job.state is State.RUNNING and _is_lost(queue, job, problems)
    manifest = newest_manifest(queue, job, problems)
    tried = attempts(records, beats, lost=lost)
    return Run(
        job=job,
        state="lost" if lost else job.state.value,
        spec=_spec(records),
        attempts=tried,
        interruptions=interruptions(tried, records, _steps_per_epoch(manifest, beats)),
        history=history_of(manifest),
        numerics=manifest.numerics if manifest else {},
        parameters=_parameters(job, manifest),
        beat=beats.get(job.token) if job.state is State.RUNNING else None,
        measured=_measured(queue.store, job, problems),
        problems=problems,
    )


def _is_lost(queue: Queue, job: Job, problems: list[str]) -> bool:
    try:
        return queue.availability(job).claimable
    except StoreError as error:
        problems.append(f"whether its worker lives cannot be told: {error}")
        return False


def _records(store: Store, job: Job, problems: list[str]) -> list[Job]:
    """Return the job's records that can be read, the newest of them as it is known already."""
    base = protocol.base(job.id)
    keys = [log.slot(base, number) for number in range(job.number)]
    found = []
    for key, data in zip(keys, store.read_many(keys), strict=True):
        try:
            if not isinstance(data, bytes):
                raise data or StoreError(f"{key} is missing.")
            found.append(from_json(log.decode(data, key), job.id))
        except StoreError as error:
            problems.append(f"a record cannot be read: {error}")
    return [*found, job]


def _spec(records: Sequence[Job]) -> Mapping[str, Any]:
    return next((record.spec for record in records if record.spec), {})


def _beats(store: Store, records: Sequence[Job]) -> dict[int, Heartbeat]:
    """Return the last heartbeat of every token; they are for people, a missing one is none."""
    claims = [record for record in records if record.kind == "claim"]
    replies = store.read_many([protocol.beat_key(claim.id, claim.token) for claim in claims])
    beats = {
        claim.token: protocol.parse_beat(data, claim.token)
        for claim, data in zip(claims, replies, strict=True)
        if isinstance(data, bytes)
    }
    return {token: beat for token, beat in beats.items() if beat is not None}


def newest_manifest(queue: Queue, job: Job, problems: list[str]) -> Manifest | None:
    """Return what the newest readable checkpoint says of itself; a damaged one is a problem.

    A running job may have replaced a checkpoint since its record was read: look again.
    """
    for reference in [*([job.final] if job.final else []), *job.checkpoints]:
        key = str(reference.get("manifest", ""))
        try:
            return read_manifest(queue.store, key)
        except (CheckpointError, StoreError) as error:
            newer = queue.find(job.id)
            if newer is not None and newer.checkpoints != job.checkpoints:
                return newest_manifest(queue, newer, problems)
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
    for beat in beats.values():
        steps = number(beat.details.get("steps"))
        if beat.details.get("stage") == "train" and steps:
            return steps
    return None


def _parameters(job: Job, manifest: Manifest | None) -> int | None:
    counted = number((job.evaluation or {}).get("parameters"))
    if counted is not None or manifest is None:
        return None if counted is None else int(counted)
    sizes = [
        math.prod(place.shape)
        for name, place in manifest.tensors.items()
        if name.startswith("model/") and "seed_generator" not in name
    ]
    return sum(sizes) or None


def _measured(store: Store, job: Job, problems: list[str]) -> Measured | None:
    """Return the evaluation; its scalars stand in the job's record, whatever else is damaged."""
    if not job.evaluation:
        return None
    metrics = dict(job.evaluation)
    try:
        metrics |= _document(store, str(metrics.get("json", "")))
    except (StoreError, ValueError, RecursionError) as error:
        problems.append(f"the evaluation's numbers cannot be read: {error}")
    try:
        arrays = _arrays(store, str(metrics.get("npz", "")))
        return Measured(metrics=metrics, **_checked(arrays), class_names=_names(metrics))
    except (StoreError, ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        problems.append(f"the evaluation's arrays cannot be read: {error}")
    return Measured(metrics=metrics, class_names=_names(metrics))


def _document(store: Store, key: str) -> dict[str, Any]:
    data = store.read(key, max_bytes=MAX_DOCUMENT)
    if data is None:
        raise StoreError(f"{key} is missing.")
    document = json.loads(data)
    if not isinstance(document, dict):
        raise StoreError(f"{key} holds no JSON object.")
    return document


def _names(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    names = metrics.get("class_names")
    known = names[:MAX_CLASSES] if isinstance(names, list) else []
    return tuple(clean(str(name), limit=80) for name in known)


def _arrays(store: Store, key: str) -> dict[str, NDArray[Any]]:
    data = store.read(key, max_bytes=MAX_ARRAYS)
    if data is None:
        raise StoreError(f"{key} is missing.")
    wanted = ("labels", "predicted", "confusion", "confusion_augmented")
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if sum(entry.file_size for entry in packed.infolist()) > MAX_ARRAYS:
            raise StoreError(f"{key} holds more than {MAX_ARRAYS} bytes.")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: np.asarray(file[name]) for name in wanted if name in file.files}


def _checked(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Counts | None]:
    """Return the arrays that a report uses, or say what makes no sense."""
    confusion, augmented = arrays.get("confusion"), arrays.get("confusion_augmented")
    labels, predicted = arrays.get("labels"), arrays.get("predicted")
    if confusion is None or labels is None or predicted is None:
        raise ValueError("labels, predictions or the confusion matrix are missing")
    classes = len(confusion)
    for matrix in (confusion, augmented):
        if matrix is not None and (
            matrix.shape != (classes, classes)
            or not 0 < classes <= MAX_CLASSES
            or not np.issubdtype(matrix.dtype, np.integer)
            or matrix.min() < 0
        ):
            raise ValueError(f"a confusion matrix of the shape {matrix.shape}, {matrix.dtype}")
    if labels.ndim != 1 or predicted.ndim != 2 or predicted.shape[1:] != labels.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predicted.shape}")
    return {
        "confusion": confusion.astype(np.int64),
        "augmented": None if augmented is None else augmented.astype(np.int64),
        "labels": labels.astype(np.int64),
        "predicted": predicted[0].astype(np.int64),
    }
