"""`runner status`: what every job is doing, derived from what is in the bucket.

Imports neither TensorFlow nor anything else that is slow: people call it often.
"""

import argparse
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from runner.cli.common import add_store_option, open_queue, say
from runner.cli.render import duration, metric_texts, show
from runner.errors import SpecError, StoreError
from runner.exit import Exit
from runner.queue.drain import name_of
from runner.queue.job import HOLD, Job, Stage, State, line
from runner.queue.protocol import Availability, Heartbeat
from runner.queue.queue import Queue
from runner.queue.survey import Survey
from runner.store.base import Store
from runner.store.filesystem import FileStore

MOST_DEPTH = 50
LOOKS = 3  #: at what reads like damage
MOST_MANIFEST = 32 << 20  #: bytes; a network of 10,000 variables has 3 MB
AT_ONCE = 16  #: requests under way together
Look = tuple[list[tuple[str, ...]], list[str], list[str]]  #: rows, styles, what can't be read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `status`."""
    parser.add_argument("job", metavar="JOB", nargs="*", help="only these (default: all)")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")
    parser.add_argument("-w", "--watch", action="store_true", help="go on showing, until Ctrl-C")
    parser.add_argument(
        "--state",
        action="append",
        choices=[*(state.value for state in State), "lost", "stalled"],
        help="only jobs in this state (again for more)",
    )
    parser.add_argument("--worker", metavar="TEXT", help="only jobs whose worker's name has this")
    parser.add_argument("--match", metavar="GLOB", help="only jobs named so, such as 'wide-*'")
    parser.add_argument(
        "--workers", action="store_true", help="the workers instead, and what each left to others"
    )
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Print a table, or JSON; exit code 6 if a job's records can't be read."""
    if options.job and (options.state or options.worker or options.match):
        name = "--state" if options.state else "--worker" if options.worker else "--match"
        msg = f"{name} chooses among all jobs, JOB names one: give one of the two"
        raise SpecError(msg)
    if options.json and options.watch:
        msg = "--watch draws for people, --json is for programs: give one of the two"
        raise SpecError(msg)
    queue, store = open_queue(options, quiet=options.json)
    if options.workers:
        from runner.cli.workers import list_workers

        return list_workers(queue, as_json=options.json)
    unreadable: dict[str, str] = {}
    if options.json:
        views = _views(queue, options, unreadable)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            document = list(pool.map(lambda view: describe(store, view), views))
        document += [
            {"id": name, "state": "unreadable", "reason": line(why)}
            for name, why in unreadable.items()
        ]
        alone = len(options.job) == 1 and len(document) == 1
        print(json.dumps(document[0] if alone else document, indent=2))
        return _said(unreadable)
    if options.watch:
        from runner.cli.live import watch

        watch(_looking(queue, options))
    views = _views(queue, options, unreadable)
    if views or unreadable:
        show(*_table(views, unreadable))
    else:
        chosen = options.state or options.worker or options.match
        if isinstance(store, FileStore) and not store.is_there:
            say(f"no jobs: {store.url} is not there yet")
        else:
            say("no jobs" + (" like that" if chosen else ""))
    if options.job:
        from runner.cli.detail import detail

        for view in views:
            print(detail(queue, view))
    return _said(unreadable)


def _cannot(unreadable: Mapping[str, str]) -> list[str]:
    return [f"{name}: cannot be read: {why}" for name, why in unreadable.items()]


def _said(unreadable: Mapping[str, str]) -> int:
    for words in _cannot(unreadable):
        say(words)
    return Exit.STORAGE if unreadable else Exit.DONE


def _looking(queue: Queue, options: argparse.Namespace) -> Callable[[], Look]:
    """Look again and again: the table, and what can't be read."""
    unreadable: dict[str, str] = {}
    survey = _survey(queue, unreadable)

    def look() -> Look:
        unreadable.clear()
        views = _views(queue, options, unreadable, survey)
        return *_table(views, unreadable), _cannot(unreadable)

    return look


@dataclass(frozen=True, kw_only=True)
class View:
    """A job and what is known of its worker."""

    job: Job
    availability: Availability | None = None  #: of a running job
    beat: Heartbeat | None = None

    @property
    def state(self) -> str:
        """The job's state; a running one may be `lost` or `stalled`."""
        if self.availability is None:
            return self.job.state.value
        if self.availability.claimable:
            return "lost"  # its worker is gone
        return self.job.state.value if self.stalled_seconds is None else "stalled"

    @property
    def stalled_seconds(self) -> float | None:
        """For how long its worker, which lives, has made no step; None: it goes on."""
        found = self.beat.details.get("stalled_seconds") if self.beat else None
        return real(found)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the stage's end, as its worker thought when it was last seen."""
        eta = real(self.beat.details.get("eta_seconds")) if self.beat else None
        if eta is None or self.availability is None or self.state != "running":
            return None
        return max(0.0, eta - (self.availability.seen_seconds or 0.0))


def view_all(queue: Queue, jobs: Sequence[Job]) -> list[View]:
    """Look at the workers of all running jobs at once."""
    running = [job for job in jobs if job.state is State.RUNNING]
    beats = queue.heartbeats(running)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        seen = dict(
            zip((j.id for j in running), pool.map(queue.availability, running), strict=True)
        )
    return [View(job=j, availability=seen.get(j.id), beat=beats.get(j.id)) for j in jobs]


def describe(store: Store, view: View) -> dict[str, Any]:
    """The contract of `runner status JOB --json`; NaN and infinity become null."""
    job, state, availability = view.job, view.state, view.availability
    manifest = _manifest(store, job.final or (job.checkpoints[0] if job.checkpoints else None))
    document: dict[str, Any] = _strict(
        {
            "id": job.id,
            "name": job.id,
            "state": state,
            "stage": job.stage.value,
            "reason": job.reason,
            "attempts": job.attempts,
            "tries": job.tries,
            "preemptions": job.preempted,
            "deaths": job.died,
            "failures": job.failures,
            "failure": dict(job.failure) if job.failure else None,
            "priority": job.priority,
            "after": list(job.after),
            "requirements": dict(job.requirements) if job.requirements else None,
            "budget": dict(job.budget) if job.budget else None,
            "spent_hours": job.spent_seconds / 3600,
            "spent_gpu_hours": job.spent_gpu_seconds / 3600,
            "stalled_seconds": view.stalled_seconds,
            "eta_seconds": view.eta_seconds,
            "epoch": job.epoch,
            "step": job.step,
            "checkpoint": _position(job.checkpoints[0] if job.checkpoints else None),
            "best": _position(job.best),
            "final": _position(job.final),
            "history": _history(manifest),
            "evaluation": job.results,
            "evaluation_run": job.evaluation_run,
            "parameters": _parameters(manifest),
            "interval": line(str(view.beat.details.get("interval") or "")[:300])
            if view.beat
            else None,
            "unsaved_seconds": view.beat.unsaved_seconds if view.beat else None,
            "notes": list(job.notes),
            "worker": worker_of(job) if job.state is State.RUNNING else None,
            "node": _node(job) if job.state is State.RUNNING else None,
            "seen_seconds": availability.seen_seconds if availability else None,
            "submitted_at": job.submitted_at.isoformat(),
            "updated_at": job.updated_at.isoformat(),
            "store": store.url,
        }
    )
    return document


def _survey(queue: Queue, unreadable: dict[str, str]) -> Survey:
    def cannot_read(job_id: str, error: StoreError) -> None:
        unreadable[job_id] = str(error)

    return Survey(queue, cannot_read, every_change=True)


def _views(
    queue: Queue,
    options: argparse.Namespace,
    unreadable: dict[str, str],
    survey: Survey | None = None,
) -> list[View]:
    """Return the jobs that are asked for, the oldest first; why others can't be read."""
    jobs = (survey or _survey(queue, unreadable)).jobs(options.job or None)
    for name in {*options.job} - {job.id for job in jobs} - unreadable.keys():
        queue.job(name)  # NotFoundError, with names that are like it
    views = view_all(queue, sorted(jobs, key=lambda job: (job.submitted_at, job.id)))
    return [view for view in views if _is_wanted(view, options)]


def _is_wanted(view: View, options: argparse.Namespace) -> bool:
    if options.state and view.state not in options.state:
        return False
    if options.match and not fnmatchcase(view.job.id, options.match):
        return False
    if not options.worker:
        return True
    return view.job.state is State.RUNNING and options.worker in worker_of(view.job)


def real(value: Any) -> float | None:
    """A number that can be shown; None for all else that a bucket may hold."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and isinstance(value, int | float) else None


def _position(reference: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if reference is None:
        return None
    return {"step": reference.get("step", 0), "digest": reference.get("digest", "")}


def _manifest(store: Store, reference: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a checkpoint says of itself, for people; a damaged one says nothing."""
    if reference is None:
        return {}
    from blake3 import blake3

    key = str(reference.get("manifest", ""))
    for _ in range(LOOKS):  # a line that was cut within an answer is no damage
        try:
            data = store.read(key, max_bytes=MOST_MANIFEST)
            if data is None:
                return {}
            if not key.endswith(f"-{blake3(data).hexdigest()[:32]}.json"):
                continue
            manifest = json.loads(data)
        except StoreError:
            return {}
        except (ValueError, RecursionError):
            continue
        return manifest if isinstance(manifest, dict) else {}
    return {}


def _history(manifest: Mapping[str, Any]) -> dict[str, list[Any]]:
    history = manifest.get("history")
    if not isinstance(history, dict):
        return {}
    return {str(name): values for name, values in history.items() if isinstance(values, list)}


def _parameters(manifest: Mapping[str, Any]) -> int | None:
    """The numbers in the model's weights and statistics; seeds are no parameters."""
    try:
        sizes = [
            math.prod(tensor[1])
            for name, tensor in manifest["tensors"].items()
            if name.startswith("model/") and "seed_generator" not in name
        ]
        total = int(sum(sizes))
        return total if 0 < total < 1 << 62 else None
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError):
        return None


def _strict(value: Any, depth: int = 0) -> Any:
    """Return it as JSON that any program can read; what is absurd becomes null."""
    if depth > MOST_DEPTH:
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if real(value) is not None else None
    if isinstance(value, str):
        return line(value)
    if isinstance(value, Mapping):
        return {line(str(key)): _strict(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item, depth + 1) for item in value]
    return value


def worker_of(job: Job) -> str:
    """The owner's name, as people call it."""
    return line(name_of(job.owner or {}))


def _node(job: Job) -> str | None:
    """What an engine calls the worker's machine."""
    found = (job.owner or {}).get("node")
    return line(str(found)[:100]) if found else None


COLUMNS = ("ID", "STATUS", "PROGRESS", "METRIC", "", "TRY", "WORKER", "SEEN", "UNSAVED", "ETA")
COLOURS = {
    "succeeded": "green", "running": "cyan", "failed": "red", "lost": "yellow",
    "cancelled": "dim", "held": "yellow", "stalled": "yellow",
}  # fmt: skip


def _table(
    views: Sequence[View], unreadable: Collection[str] = ()
) -> tuple[list[tuple[str, ...]], list[str]]:
    """The rows, their header first, and the styles of those after it."""
    ruined = [(name, "unreadable", *[""] * (len(COLUMNS) - 2)) for name in unreadable]
    styles = [COLOURS.get(view.state, "") for view in views] + ["red"] * len(ruined)
    return [COLUMNS, *map(_row, views), *ruined], styles


def _row(view: View) -> tuple[str, ...]:
    job, state, beat = view.job, view.state, view.beat
    # a worker that lives is beyond what it has committed; what a dead one had beyond it is lost
    ahead = beat if beat and state == "running" and beat.step >= job.step else job
    seen = view.availability.seen_seconds if view.availability else None
    unsaved = beat.unsaved_seconds if beat and state == "running" else None
    return (
        job.id,
        _text(view),
        f"epoch {ahead.epoch} step {ahead.step}",
        *_metrics(job, ahead),
        str(job.tries),
        worker_of(job) if state in ("running", "stalled") else "",
        duration(seen) + " ago" if seen is not None else "",
        duration(unsaved) if unsaved is not None else "",
        duration(view.eta_seconds) if view.eta_seconds is not None else "",
    )


def _text(view: View) -> str:
    """The state in words."""
    job, state = view.job, view.state
    if state == "lost":
        seen = view.availability.seen_seconds if view.availability else None
        what_then = "to be held" if job.wish == HOLD else "can be resumed"
        return f"lost{'' if seen is None else ' ' + duration(seen)}, {what_then}"
    if state == "stalled":
        return f"stalled {duration(view.stalled_seconds or 0.0)}"
    if job.state is State.FAILED and job.failure:
        return f"failed ({str(job.failure.get('kind', 'crash')).replace('_', ' ')})"
    if job.state is State.HELD and job.kind == "quarantine" and job.deaths:
        return "held (quarantined)"
    if job.state is State.HELD and job.reason:
        why = job.reason.partition(";")[0]
        return why if why.startswith("held") else f"held: {why[:60]}"
    if job.state not in (State.QUEUED, State.RUNNING):
        return state
    text = f"{state} (evaluate)" if job.stage is Stage.EVALUATE else state
    if job.state is State.RUNNING:
        return f"{text}, to be held" if job.wish == HOLD else text
    if job.failures:
        return f"{text}, retry {job.failures}"
    if job.after and not job.attempts:
        return f"{text}, after {', '.join(job.after)[:40]}"
    return f"{text}, can be resumed" if job.checkpoints and text == state else text


def _metrics(job: Job, ahead: Job | Heartbeat) -> tuple[str, str]:
    """Two at most: the first and the last of those that people steer by."""
    top_1 = real((job.evaluation or {}).get("top_1"))
    if top_1 is not None:
        return f"test top_1 {top_1:.4f}", ""
    metrics = ahead.metrics or job.metrics or {}
    shown = {name: real(value) for name, value in metrics.items()}
    texts = metric_texts({name: value for name, value in shown.items() if value is not None})
    return texts[0] if texts else "", texts[-1] if len(texts) > 1 else ""
