"""A job as people see it: its record, what is known of its worker, and words for both.

`runner status`, its JSON, the lines of a worker, `doctor` and the report look at jobs through a
`View`, so that they never disagree. A bucket may hold anything, and nothing here decides
anything: what makes no sense reads as nothing. Imports nothing that is slow.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from runner.errors import StoreError
from runner.queue import goodput
from runner.queue.drain import name_of
from runner.queue.job import ENDED, HOLD, Job, Json, Stage, State, line
from runner.queue.protocol import Availability, Heartbeat
from runner.queue.queue import Queue
from runner.queue.survey import Survey
from runner.queue.texts import duration, finite, metric_texts, result_texts
from runner.store import receiving
from runner.store.base import Store
from runner.store.log import DAMAGED

AT_ONCE = 16  #: requests under way together
LOOKS = 3  #: at what reads like damage: an answer may have been cut on its way
MOST_MANIFEST = 32 << 20  #: bytes; a network of 10,000 variables has 3 MB
MOST_DEPTH = 50  #: of what a record nests
History = dict[str, tuple[float | None, ...]]  #: metric -> one value an epoch
STARTING = "start"  #: the stage that a heartbeat names before its stage has begun

# ---------------------------------------------------------------------- a job and its worker


def worker_of(job: Job) -> str:
    """Return the owner's name, as people call it."""
    return line(name_of(job.owner or {}))


@dataclass(frozen=True, kw_only=True)
class View:
    """A job, and of a running one what is known of its worker."""

    job: Job
    availability: Availability | None = None
    beat: Heartbeat | None = None
    others: Mapping[str, State] = field(
        default_factory=dict
    )  #: jobs that it may come after, where known

    @property
    def state(self) -> str:
        """The job's state; a running one may be `lost` or `stalled`."""
        if self.availability is not None and self.availability.claimable:
            return "lost"  # its worker is gone
        stalled = self.availability is not None and self.stalled_seconds is not None
        return "stalled" if stalled else self.job.state.value

    def reported(self, name: str) -> Any:
        """Return what else the worker reported when it was last seen."""
        return self.beat.details.get(name) if self.beat else None

    @property
    def stalled_seconds(self) -> float | None:
        """For how long its worker, which lives, has made no step; None: it makes steps."""
        stalled: float | None = finite(self.reported("stalled_seconds"))
        return stalled

    @property
    def seen_seconds(self) -> float | None:
        """Seconds since its worker's last sign of life."""
        return self.availability.seen_seconds if self.availability else None

    @property
    def time(self) -> Json | None:
        """Seconds by cause, of all attempts, as far as it is known; None: not at all."""
        return goodput.until_now(self.job, self.beat, lost=self.state == "lost")

    @property
    def goodput(self) -> float | None:
        """The share of the training's machine time that became steps which were kept."""
        return goodput.goodput(self.time)

    @property
    def cost(self) -> Json | None:
        """What its machines cost, `paid`, and what of it is `lost`; SpecError of a bad price."""
        return goodput.cost(self.job, self.time)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the stage's end, as its worker thought when it was last seen."""
        eta: float | None = finite(self.reported("eta_seconds"))
        if eta is None or self.availability is None or self.state != "running" or self.starting:
            return None
        return max(0.0, eta - (self.seen_seconds or 0.0))

    @property
    def unsaved_seconds(self) -> float | None:
        """Seconds of training that would be repeated if its worker died now; None: no training."""
        trains = self.state == "running" and self.job.stage is Stage.TRAIN and not self.starting
        return self.beat.unsaved_seconds if self.beat and trains else None

    @property
    def starting(self) -> bool:
        """Whether its worker still imports and builds what it needs."""
        return self.state == "running" and self.reported("stage") in (STARTING, receiving.STAGE)

    @property
    def interval(self) -> str | None:
        """How often its worker saves, and why."""
        return line(str(self.reported("interval") or "")[:300]) if self.beat else None

    @property
    def ahead(self) -> Job | Heartbeat:
        """Where it stands. What a dead worker had beyond its commits is lost."""
        beat = self.beat
        beyond = beat and self.state == "running" and beat.step >= self.job.step
        return beat if beat and beyond else self.job

    @property
    def epoch(self) -> int:
        """The epoch that a worker is in, counted from 1; else how many are done."""
        inside = self.reported("step") or self.reported("stage") == "validate"
        trains = self.job.stage is Stage.TRAIN and self.ahead is self.beat
        return self.ahead.epoch + bool(trains and inside)

    @property
    def metrics(self) -> list[str]:
        """Two: of the evaluation, or the newest, of the validation if there is one."""
        if found := result_texts(self.job)[:2]:
            return [f"test {found[0]}", *found[1:]]
        texts = metric_texts(self.ahead.metrics or self.job.metrics or {}, self.job.monitors)
        validated = [text for text in texts[1:] if text.startswith("val_")]
        return [*texts[:1], *(validated[-1:] or texts[1:2])]

    @property
    def worker(self) -> str | None:
        """The worker of a job that is running, if on paper only."""
        return worker_of(self.job) if self.job.state is State.RUNNING else None

    @property
    def node(self) -> str | None:
        """What an engine calls the worker's machine."""
        found = (self.job.owner or {}).get("node")
        running = self.job.state is State.RUNNING
        return line(str(found)[:100]) if found and running else None

    @property
    def text(self) -> str:
        """The state in words, with the reason."""
        say = _STATES.get(self.state)
        text = say(self) if say else self.state
        return f"{text}, record damaged" if self.job.nonce == DAMAGED else text


def _lost(view: View) -> str:
    since = "" if view.seen_seconds is None else f" {duration(view.seen_seconds)}"
    return f"lost{since}, {'to be held' if view.job.wish == HOLD else 'can be resumed'}"


def _failed(view: View) -> str:
    return f"failed ({failure_words(view.job.failure)})" if view.job.failure else "failed"


def failure_words(failure: Json) -> str:
    """Say what kind of fault a job's failure was, and whether it was in the evaluation."""
    kind = str(failure.get("kind", "crash")).replace("_", " ")
    if failure.get("stage") != Stage.EVALUATE:
        return kind
    return "evaluation" if kind in ("training", "crash") else f"{kind}, evaluation"


def _held(view: View) -> str:
    job = view.job
    if job.kind == "quarantine" and job.deaths:
        return "held (quarantined)"
    why = job.reason.partition(";")[0]
    return (why if why.startswith("held") else f"held: {why[:60]}") if why else "held"


def _stage(view: View) -> str:
    text = view.state
    if view.starting:
        done, total = finite(view.reported("step")), finite(view.reported("steps"))
        reads = total and (done or 0) < total
        text = f"reading data {done or 0:.0f}/{total:.0f} MB" if reads else "starting"
    return f"{text} (evaluate)" if view.job.stage is Stage.EVALUATE else text


def _waits(view: View) -> str:
    """The jobs that one waits for; the one that somebody must bring forward, if there is one."""
    known = {name: view.others.get(name) for name in view.job.after}
    waits = [name for name, state in known.items() if state is not State.SUCCEEDED]
    stuck = {*ENDED, State.HELD}
    ended = (f"{name} ({state})" for name in waits if (state := known[name]) in stuck)
    return next(ended, ", ".join(waits)[:40])


def _queued(view: View) -> str:
    job, text = view.job, _stage(view)
    if job.failures:
        return f"{text}, retry {job.failures}"
    if (waits := _waits(view)) and not job.attempts:
        return f"{text}, after {waits}"
    return f"{text}, can be resumed" if job.checkpoints and job.stage is Stage.TRAIN else text


_STATES: Mapping[str, Callable[[View], str]] = {
    "lost": _lost,
    "stalled": lambda view: f"stalled {duration(view.stalled_seconds or 0.0)}",
    "running": lambda view: f"{_stage(view)}{', to be held' if view.job.wish == HOLD else ''}",
    "queued": _queued,
    "held": _held,
    "failed": _failed,
}


def view_all(
    queue: Queue, jobs: Sequence[Job], others: Mapping[str, State] | None = None
) -> list[View]:
    """Look at the workers of all running jobs at once; `others`: states, for jobs that wait."""
    running = [job for job in jobs if job.state is State.RUNNING]
    beats = queue.heartbeats(running)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(queue.availability, running)
        seen = {job.id: one for job, one in zip(running, found, strict=True)}
    return [
        View(job=job, availability=seen.get(job.id), beat=beats.get(job.id), others=others or {})
        for job in jobs
    ]


@dataclass
class Onlooker:
    """Looks at jobs, as often as someone wants to see them, at the cost of what changed."""

    queue: Queue
    unreadable: dict[str, str] = field(default_factory=dict)  #: in the last look: why
    damaged: dict[str, str] = field(default_factory=dict)  #: an earlier record stands in, likewise

    def __post_init__(self) -> None:
        self._survey = Survey(self.queue, self._cannot_read, every_change=True)

    def _cannot_read(self, job_id: str, error: StoreError) -> None:
        self.unreadable[job_id] = line(str(error))

    def look(self, names: Collection[str] = ()) -> list[View]:
        """Return the jobs of these names, or all, the oldest first.

        Raises:
            NotFoundError: there is no job of a name.
        """
        self.unreadable.clear()
        jobs = self._survey.jobs(list(dict.fromkeys(names)) or None)
        self.damaged = {job.id: job.reason for job in jobs if job.nonce == DAMAGED}
        for name in {*names} - {job.id for job in jobs} - self.unreadable.keys():
            self.queue.job(name)  # NotFoundError, with names that are like it
        jobs.sort(key=lambda job: (job.submitted_at, job.id))
        return view_all(self.queue, jobs, self._states(jobs))

    def _states(self, jobs: Sequence[Job]) -> dict[str, State]:
        """Return the states of these jobs, and of those that they wait for."""
        known = {job.id: job.state for job in jobs}
        waits = {name for job in jobs if job.state is State.QUEUED for name in job.after}
        if missing := waits - known.keys() - self.unreadable.keys():
            more = self.queue.look(missing, {}, lambda *_: None)
            known |= {job.id: job.state for job in more}
        return known

    @property
    def problems(self) -> list[str]:
        """What could not be read in the last look, in sentences."""
        unreadable = [f"{name}: cannot be read: {why}" for name, why in self.unreadable.items()]
        return unreadable + [f"{name}: {why}" for name, why in self.damaged.items()]


# ---------------------------------------------------------------------- what it has stored


def read_named(store: Store, key: Any, most: int) -> bytes:
    """Return an object whose name ends in the hash of its bytes.

    Raises:
        StoreError: it is not there, or damaged.
    """
    from blake3 import blake3  # which imports asyncio: 30 ms that a table does without

    name = str(key or "")
    _, _, named = name.rpartition(".")[0].rpartition("-")
    for _ in range(LOOKS):
        data = store.read(name, max_bytes=most)
        if data is None:
            raise StoreError(f"{name} is missing.")
        if len(named) != 32 or blake3(data).hexdigest().startswith(named):
            return data  # the first versions had shorter names
    raise StoreError(f"{name} is damaged: its bytes are not those it is named by.")


def read_manifest(store: Store, reference: Json | None) -> dict[str, Any]:
    """Return what a checkpoint says of itself, for people; of no checkpoint nothing.

    Raises:
        StoreError: it is not there, or damaged.
    """
    if reference is None:
        return {}
    key = reference.get("manifest")
    try:
        manifest = json.loads(read_named(store, key, MOST_MANIFEST))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{key} is not a manifest: {error!r}") from None
    if not isinstance(manifest, dict):
        raise StoreError(f"{key} is not a manifest.")
    return manifest


def history_of(manifest: Json) -> History:
    """Return the metrics of each finished epoch; None for what is no number."""
    history = manifest.get("history")
    lists = history.items() if isinstance(history, dict) else ()
    return {
        line(str(name)[:100]): tuple(map(finite, values))
        for name, values in lists
        if isinstance(values, list)
    }


def parameters_of(manifest: Json) -> int | None:
    """Return the numbers in the model's weights and statistics; seeds are no parameters."""
    try:
        total = sum(
            math.prod(tensor[1])
            for name, tensor in manifest["tensors"].items()
            if name.startswith("model/") and "seed_generator" not in name
        )
        return int(total) if 0 < total < 1 << 62 else None
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError):
        return None


#: the names of `runner status JOB --json`, which is a contract
CONTRACT = (
    "id", "name", "state", "stage", "reason", "attempts", "tries", "preemptions", "deaths",
    "parent", "failures", "failure", "priority", "after", "requirements", "budget", "spent_hours",
    "spent_gpu_hours", "goodput", "time", "cost", "stalled_seconds", "eta_seconds", "epoch", "step",
    "checkpoint", "best", "final", "history", "evaluation", "evaluation_run", "parameters",
    "interval", "unsaved_seconds", "notes", "worker", "node", "seen_seconds", "submitted_at",
    "updated_at", "store",
)  # fmt: skip
_OF_VIEW = (
    "state", "stalled_seconds", "eta_seconds", "interval", "worker", "node", "seen_seconds",
    "goodput", "time", "cost",
)  # fmt: skip


def describe(store: Store, view: View) -> dict[str, Any]:
    """Return the contract of `runner status JOB --json`; what is no finite number is null."""
    job = view.job
    checkpoint = job.checkpoints[0] if job.checkpoints else None
    manifest: Json = {}
    with suppress(StoreError):
        manifest = read_manifest(store, job.final or checkpoint)
    known: dict[str, Any] = {
        **vars(job),
        **{name: getattr(view, name) for name in _OF_VIEW},
        "name": job.id,
        "tries": job.tries,
        "preemptions": job.preempted,
        "deaths": job.died,
        "spent_hours": job.spent_seconds / 3600,
        "spent_gpu_hours": job.spent_gpu_seconds / 3600,
        "checkpoint": _position(checkpoint),
        "best": _position(job.best),
        "final": _position(job.final),
        "parent": job.parent
        and {name: job.parent[name] for name in ("job", "step", "epoch", "take")},
        "history": history_of(manifest),
        "evaluation": job.results,
        "evaluation_run": job.evaluation_run,
        "parameters": parameters_of(manifest),
        "unsaved_seconds": view.beat.unsaved_seconds if view.beat else None,
        "submitted_at": job.submitted_at.isoformat(),
        "updated_at": job.updated_at.isoformat(),
        "store": store.url,
    }
    document: dict[str, Any] = _strict({name: known[name] for name in CONTRACT})
    return document


def _position(reference: Json | None) -> Json | None:
    return reference and {name: reference.get(name, other) for name, other in _POSITION.items()}


_POSITION = {"step": 0, "digest": ""}


def _strict(value: Any, depth: int = 0) -> Any:
    """Return it as JSON that any program can read; what is absurd becomes null."""
    if isinstance(value, Mapping) and depth <= MOST_DEPTH:
        return {line(str(key)): _strict(item, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str) and depth <= MOST_DEPTH:
        return [_strict(item, depth + 1) for item in value]
    if isinstance(value, str):
        return line(value)
    return value if isinstance(value, bool) else finite(value)
