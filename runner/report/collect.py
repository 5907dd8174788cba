"""Everything that a report says of a job, read from the bucket as plain data.

A report can be made at any moment: of a job that runs, that was never evaluated, or part of
whose records can't be read. What is missing is None, what is damaged is named in `problems`,
and neither hides anything else. Nothing here imports TensorFlow or runs code from the bucket.
"""

import io
import json
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import StoreError
from runner.evaluation.metrics import per_class_accuracy
from runner.queue import protocol
from runner.queue.job import Job, Json, Stage, from_json, to_json
from runner.queue.protocol import Availability, Heartbeat
from runner.queue.queue import Queue
from runner.queue.record import OF_THE_RUN, SIZES
from runner.queue.texts import finite, says_nothing
from runner.queue.view import (
    History,
    Onlooker,
    View,
    history_of,
    parameters_of,
    read_manifest,
    read_named,
)
from runner.report.attempts import Attempt, attempts
from runner.store import log
from runner.store.base import Store
from runner.store.steps import run
from runner.store.thinning import listed, sound

AT_ONCE = 8  #: jobs read together
MAX_DOCUMENT = 16 * 1024 * 1024  #: bytes of an evaluation's numbers
MAX_ARRAYS = 512 * 1024 * 1024  #: bytes of its arrays, unpacked
MAX_CLASSES = 2000
MAX_METRICS = 100
LONGEST = 2_000  #: characters of one piece of text
OF_PASSES = ("certainty", "consistency")  #: what one look at each image cannot show
#: results that stand before all others
FIRST = ("top_1", "top_5", "loss", *OF_PASSES)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """An evaluation, as it was stored."""

    metrics: Mapping[str, Any]  #: numbers, and others, by name
    class_names: tuple[str, ...] = ()  #: one per class, or none
    labels: Counts | None = field(default=None, repr=False)  #: images
    predicted: Counts | None = field(default=None, repr=False)  #: of the plain pass
    confusion: Counts | None = field(default=None, repr=False)  #: true x predicted
    augmented: Counts | None = field(default=None, repr=False)  #: of all augmented passes

    @property
    def passes(self) -> int:
        """How often the images were changed at random and looked at again."""
        return int(finite(self.metrics.get("augmented_passes")) or 0)

    def number(self, name: str) -> float | None:
        """Return a metric, None where it is missing, says nothing or is no finite number."""
        empty = (name in OF_PASSES and not self.passes) or says_nothing(name, self.metrics)
        return None if empty else finite(self.metrics.get(name))

    @property
    def results(self) -> dict[str, float]:
        """What was found, of whatever name; not how large what was looked at is."""
        names = dict.fromkeys([*FIRST, *(clean(name, limit=80) for name in self.metrics)])
        found = {name: self.number(name) for name in names if name not in (*SIZES, *OF_THE_RUN)}
        return dict(islice(((n, v) for n, v in found.items() if v is not None), MAX_METRICS))

    @property
    def examples(self) -> int:
        """How many were looked at; 0: nobody knows."""
        return int(self.number("images") or self.number("examples") or 0)

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
    shares = [finite(one.get(name)) for name in ("low", "high", "confidence", "accuracy")]
    return all(share is not None and 0 <= share <= 1 for share in shares)


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One job, for a reader."""

    view: View
    spec: Json  #: effective
    attempts: Sequence[Attempt] = ()
    history: History = field(default_factory=dict)
    numerics: Json = field(default_factory=dict)
    parameters: int | None = None
    measured: Measured | None = None
    problems: Sequence[str] = ()  #: what could not be read, in sentences

    @property
    def job(self) -> Job:
        """Its record."""
        return self.view.job

    @property
    def state(self) -> str:
        """Of the job; `lost` or `stalled` where it runs on paper only."""
        return self.view.state

    @property
    def noun(self) -> str:
        """What it is trained on, one of them."""
        return "example" if self.spec.get("program") else "image"

    @property
    def subject(self) -> str:
        """What is trained on what, for a heading: only runs of one subject are compared."""
        for name, words in {"program": "of the program", "data": "on the data"}.items():
            part = self.spec.get(name)
            if isinstance(part, dict):
                return clean(f"{words} {part.get('name')}", limit=80)
        return ""

    @property
    def epochs(self) -> int:
        """How many epochs the history covers."""
        return max(map(len, self.history.values()), default=0)

    @property
    def inherited(self) -> int:
        """How many of them are those of the job that this one goes on from."""
        parent = self.job.parent or {"take": "weights"}
        return 0 if parent["take"] == "weights" else int(parent["epoch"])

    @property
    def trainings(self) -> int:
        """How often a worker took its training up."""
        return sum(one.stage is Stage.TRAIN for one in self.attempts)

    @property
    def deaths(self) -> int:
        """Workers that died without notice, one that nobody has replaced yet among them."""
        return self.job.died + (self.state == "lost")

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


def clean(text: str, *, limit: int = LONGEST, lines: bool = False) -> str:
    r"""Return text without control and direction characters, at most `limit` characters of it.

    >>> clean("a\x1b[31m\u202eb")
    'a[31mb'
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    spaced = "".join(" " if c in "\t\r" or (c == "\n" and not lines) else c for c in cut)
    return "".join(c for c in spaced if c == "\n" or unicodedata.category(c)[0] != "C")


def collect(queue: Queue, names: Sequence[str], *, now: datetime) -> Report:
    """Read jobs from a store once; see `Collector.look`."""
    return Collector(queue).look(names, now=now)


class Collector:
    """Reads jobs from a store, again and again at the cost of what changed.

    What it keeps of a job are the records that an attempt began or ended with: records never
    change.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._onlooker = Onlooker(queue)
        self._known: dict[tuple[str, datetime], list[Job]] = {}

    def look(self, names: Sequence[str], *, now: datetime) -> Report:
        """Read jobs as they are now.

        Args:
            names: only these jobs; all, where none is named.
            now: the time, for people.

        Raises:
            NotFoundError: there is no job of a name.
            StoreError: the store can't be listed.
        """
        views = self._onlooker.look(names)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            runs = list(pool.map(self._run, views))
        return self._report(runs, sorted(self._onlooker.problems), now)

    def own(self, job: Job, *, now: datetime) -> Report:
        """Read the rest of a job whose worker this process is: it lives, and needs no proof."""
        beat = self._queue.heartbeat(job)
        lives = Availability(claimable=False, why="", owner_alive=True, seen_seconds=0.0)
        view = View(job=job, beat=beat, availability=lives if job.owner else None)
        return self._report([self._run(view)], [], now)

    def _report(self, runs: list[Run], problems: list[str], now: datetime) -> Report:
        parts = (f"{run.job.id}: {text}" for run in runs for text in run.problems)
        problems = [*problems, *parts]
        return Report(store=self._queue.store.url, made_at=now, runs=runs, problems=problems)

    def _run(self, view: View) -> Run:
        return _run(self._queue, view, self._records(view.job))

    def _records(self, job: Job) -> tuple[list[Job], list[str]]:
        """Return the records of a job that count, and what could not be read."""
        key, problems = (job.id, job.submitted_at), list[str]()
        known = self._known.get(key, [])
        if known and known[-1].number > job.number:
            known = []
        first = known[-1].number + 1 if known else 0
        found = [*known, *_records(self._queue.store, job, first, problems)]
        kinds = [
            *(one.kind for one in found[1:]),
            "",
        ]  # the last is kept: what follows is read next
        kept = [  # of a row of commits the last counts
            one
            for one, after in zip(found, kinds, strict=False)
            if not one.kind == after == "commit"
        ]
        if not problems:
            self._known[key] = kept
        return [*kept, job], problems


@contextmanager
def _noting(problems: list[str], what: str) -> Iterator[None]:
    """Make a sentence of what cannot be read."""
    try:
        yield
    except (StoreError, ValueError, KeyError, OSError, EOFError, RecursionError,
            zipfile.BadZipFile) as error:  # fmt: skip
        problems.append(f"{what} cannot be read: {error}")


def _run(queue: Queue, view: View, known: tuple[list[Job], list[str]]) -> Run:
    job, (records, problems) = view.job, known
    beats = _beats(queue.store, records)
    manifest = _newest_manifest(queue, job, problems)
    numerics, digest = manifest.get("numerics"), job.spec_digest
    counted = finite((job.evaluation or {}).get("parameters"))
    return Run(
        view=view,
        spec=next((one.spec for one in records if one.spec and one.spec_digest == digest), {}),
        attempts=attempts(
            records, beats, _steps_per_epoch(manifest, beats), lost=view.state == "lost"
        ),
        history=dict(list(history_of(manifest).items())[:MAX_METRICS]),
        numerics=numerics if isinstance(numerics, dict) else {},
        parameters=int(counted) if counted else parameters_of(manifest),
        measured=_measured(queue.store, job, problems) if job.evaluation else None,
        problems=problems,
    )


def _records(store: Store, job: Job, first: int, problems: list[str]) -> list[Job]:
    """Return the records from `first` to the newest, which is known, as far as they can be read."""
    base = protocol.base(job.id)
    keys, lost = (store.list(f"{base}/log/"), None) if first else run(store, listed(base))
    if lost is not None:
        problems.append(f"{protocol.gone(job.id, lost)}")
    there = [number for number in log.numbers(keys) if first <= number < job.number]
    keys = [log.slot(base, number) for number in there]
    found = []
    for key, data in zip(keys, store.read_many(keys), strict=True):
        with _noting(problems, "a record"):
            if isinstance(data, StoreError):
                raise data
            if data is not None:  # else its owner has deleted it since
                found.append(to_json(from_json(log.decode(data, key), job.id)))
    counting = sound([*found, to_json(job)], {*there, job.number})[:-1]
    return [from_json(record, job.id) for record in counting]


def _beats(store: Store, records: Sequence[Job]) -> dict[int, Heartbeat]:
    """Return the last heartbeat of every token; they are for people, a missing one is none."""
    claims = [record for record in records if record.kind == "claim"]
    replies = store.read_many([protocol.beat_key(claim.id, claim.token) for claim in claims])
    return {
        claim.token: beat
        for claim, data in zip(claims, replies, strict=True)
        if isinstance(data, bytes) and (beat := protocol.parse_beat(data, claim.token))
    }


def _newest_manifest(queue: Queue, job: Job, problems: list[str]) -> Json:
    """Return what the newest readable checkpoint says of itself; a damaged one is a problem.

    A running job may have replaced a checkpoint since its record was read: look again.
    """
    for reference in filter(None, (job.final, *job.checkpoints)):
        try:
            return read_manifest(queue.store, reference)
        except StoreError as error:
            newer = queue.find(job.id)
            if newer is not None and newer.checkpoints != job.checkpoints:
                return _newest_manifest(queue, newer, problems)
            problems.append(f"a checkpoint cannot be read: {error}")
    return {}


def _steps_per_epoch(manifest: Json, beats: Mapping[int, Heartbeat]) -> float | None:
    position = manifest.get("position")
    stands = position if isinstance(position, dict) else {}
    epochs, inside, steps = (
        finite(stands.get(name)) or 0 for name in ("epoch", "step", "global_step")
    )
    if epochs > 0 and steps > inside:
        return float((steps - inside) / epochs)
    trained = (beat.details for beat in beats.values() if beat.details.get("stage") == "train")
    return next((steps for details in trained if (steps := finite(details.get("steps")))), None)


def _measured(store: Store, job: Job, problems: list[str]) -> Measured:
    """Return the evaluation; its scalars stand in the job's record, whatever else is damaged."""
    metrics = dict(job.evaluation or {})
    with _noting(problems, "the evaluation's numbers"):
        document = json.loads(read_named(store, metrics.get("json"), MAX_DOCUMENT))
        if not isinstance(document, dict):
            raise ValueError("they are no JSON object")
        metrics |= document
    arrays: dict[str, Counts] = {}
    if metrics.get("classes"):  # else they are a program's own
        with _noting(problems, "the evaluation's arrays"):
            arrays = _arrays(read_named(store, metrics.get("npz"), MAX_ARRAYS))
    names = metrics.get("class_names")
    known = names[:MAX_CLASSES] if isinstance(names, list) else []
    texts = tuple(clean(str(name), limit=80) for name in known)
    return Measured(metrics=metrics, class_names=texts, **arrays)


def _arrays(data: bytes) -> dict[str, Counts]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if sum(entry.file_size for entry in packed.infolist()) > MAX_ARRAYS:
            raise ValueError(f"they take more than {MAX_ARRAYS} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        found = {name: np.asarray(file[name]) for name in ("labels", "predicted", "confusion")}
        if "confusion_augmented" in file.files:
            found["augmented"] = np.asarray(file["confusion_augmented"])
    labels, predicted, *matrices = found.values()
    _check_matrices(matrices)
    if predicted.ndim != 2 or predicted.shape[1:] != labels.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predicted.shape}")
    found["predicted"] = predicted[0]
    return {name: array.astype(np.int64) for name, array in found.items()}


def _check_matrices(matrices: Sequence[NDArray[Any]]) -> None:
    side = max(matrices[0].shape, default=0)
    for one in matrices:
        square = one.shape == (side, side) and 0 < side <= MAX_CLASSES
        if not square or one.dtype.kind not in "iu" or one.min() < 0:
            raise ValueError(f"a confusion matrix of the shape {one.shape}, {one.dtype}")
