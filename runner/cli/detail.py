"""`runner status JOB`: one job in lines, and what it waits for."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from runner import registry
from runner.cli.common import command
from runner.cli.render import sparkline, wrapped
from runner.errors import NotFoundError, StoreError
from runner.queue import presence
from runner.queue.goodput import CAUSES, SHOWN, training_seconds
from runner.queue.job import HOLD, Job, Json, Stage, State, gpus, line
from runner.queue.presence import Presence
from runner.queue.queue import Queue
from runner.queue.record import SIZES
from runner.queue.texts import ago, count, decimal, duration, finite, says_nothing
from runner.queue.view import View, describe, failure_words
from runner.store import places
from runner.store.base import Store

MOST_TRACE = 1 << 20  #: bytes
TRACE_LINES = 14
VALUES = 48  #: epochs of a curve
MARK = "┃"  #: in a curve: from here on it is another job's


def detail(queue: Queue, view: View) -> str:
    """One job in lines: where it stands, what it waits for, how its newest attempt failed."""
    job, now = view.job, datetime.now(UTC)
    died = job.died + (view.state == "lost")  # whoever takes it over writes that
    stage = "training" if job.stage is Stage.TRAIN else "evaluation"
    head = (
        f"{job.id}: submitted {ago(now - job.submitted_at)},"
        f" last record {ago(now - job.updated_at)},"
        f" {count(job.tries, 'attempt')} at the {stage}, {count(job.preempted, 'preemption')},"
        f" {count(died, 'death')}, {count(job.failures, 'failure')}"
    )
    facts = _facts(queue, view, describe(queue.store, view))
    width = max(11, *(len(label[:32]) for label, text in facts if text), 0)
    known = [f"  {label:<{width}} {text}" for label, text in facts if text]
    return "\n".join(["", wrapped(head), *known, *_failure_lines(queue.store, job)])


def _facts(queue: Queue, view: View, document: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of the job; nothing is said of what has no text."""
    job = view.job
    return [
        ("worker", f"{view.worker} ({view.node})" if view.node else view.worker or ""),
        ("parent", origin(job)),
        ("GPUs in use", str(gpus(job) or "") if job.state is State.RUNNING else ""),
        ("parameters", f"{document['parameters'] or 0:,}".removeprefix("0")),
        ("checkpoint", _position(document["checkpoint"])),
        ("best", _position(document["best"])),
        ("final", _position(document["final"]) + job.weights),
        *((name, curve(values, job)) for name, values in document["history"].items()),
        *_measured(document["evaluation"]),
        *_measured(document["evaluation_run"]),
        ("saves", _saves(view)),
        *_time(document),
        *_each("budget", _budget(job)),
        ("next", what_next(queue, view)),
        *_each("waits for", _waits(queue, view)),
        *_each("note", job.notes),
        ("priority", str(job.priority or "")),
        ("reason", job.reason),
    ]


def _each(label: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    return [(label, text) for text in texts]


def _measured(found: Json | None) -> Iterator[tuple[str, str]]:
    for name, value in (found or {}).items():
        if says_nothing(name, found or {}):
            continue
        shown = finite(value) is not None and name not in SIZES
        absent = "not finite" if value is None and name not in SIZES else ""
        yield f"test {name}", decimal(value) if shown else absent


def _saves(view: View) -> str:
    saves = view.interval if view.state == "running" else ""
    return f"{saves}; unsaved {duration(view.unsaved_seconds)}" if saves else ""


def _time(document: Json) -> Iterator[tuple[str, str]]:
    """What the machines' time became, and what that cost."""
    time, share, cost = document["time"] or {}, document["goodput"], document["cost"]
    if share is not None:
        yield "goodput", f"{share:.1%} of {duration(training_seconds(time))} in training"
    for cause, words in CAUSES.items():
        aside = "" if training_seconds({cause: 1.0}) else ", not in it"
        shown = time.get(cause, 0) >= SHOWN
        yield "", f"{duration(time[cause]):>6} {words}{aside}" if shown else ""
    if cost:
        yield "cost", f"{cost['paid']:,.2f}, of which {cost['lost']:,.2f} lost"


def _position(position: Json | None) -> str:
    return f"step {position['step']}, digest {position['digest'][:16]}" if position else ""


def origin(job: Job) -> str:
    """What the job goes on from; "" if from nothing."""
    if job.parent is None:
        return ""
    which = "weights of " if job.parent["take"] == "weights" else ""
    return f"{which}{job.parent['job']}, epoch {job.parent['epoch']}, step {job.parent['step']}"


def curve(values: Sequence[float | None], job: Job) -> str:
    """A metric of every epoch in one line, with a mark where the job has gone on from another."""
    numbers = [value for value in values if value is not None][-VALUES:]
    if not numbers:
        return ""
    before = inherited(job)
    ours = min(sum(value is not None for value in values[before:]), len(numbers))
    line = sparkline(numbers)
    cut = "…" if len(numbers) < sum(value is not None for value in values) else ""
    if before and ours < len(numbers):
        line = f"{line[: len(line) - ours]}{MARK}{line[len(line) - ours :]}"
    return f"{cut}{line}  {decimal(numbers[-1])}"


def inherited(job: Job) -> int:
    """How many epochs of the history are those of the job that it goes on from."""
    return job.parent["epoch"] if job.parent and job.parent["take"] != "weights" else 0


def _budget(job: Job) -> Iterator[str]:
    spent = {"hours": job.spent_seconds / 3600, "gpu_hours": job.spent_gpu_seconds / 3600}
    for name, hours in (job.budget or {}).items():
        used, words = spent.get(name, 0.0), name.replace("gpu_", "GPU ")
        left = max(0.0, hours - used)
        yield f"{_short(used)} of {hours:g} {words} spent, {_short(left)} left"


def _short(number: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{Decimal(f'{number:.3g}'):f}"


def resume(queue: Queue, job: Job) -> str:
    """The command that works on a job here; with `--code` where this process lacks its code."""
    try:
        spec = queue.spec(job.id, job.spec_digest)
        lacks = any(
            spec[part]["name"] not in registry.names(kind)
            for part, kind in registry.kinds_of(spec).items()
        )
    except (StoreError, LookupError, TypeError):  # which is said where it matters
        lacks = False
    return command("resume", job.id, *(["--code", "DIR"] if lacks else []))


def what_next(queue: Queue, view: View) -> str:
    """What becomes of a job that runs, in the log at least, and is lost or to be held; else ""."""
    job, lost, hold = view.job, view.state == "lost", view.job.wish == HOLD
    unhold = f"{command('unhold', job.id)} lets it be taken up again"
    if lost and hold:
        return f"its worker is gone: the next one holds it instead of taking it over; {unhold}"
    if lost:
        return f"its worker is gone: {resume(queue, job)} takes it over here"
    return f"its worker saves and holds it at its next heartbeat; {unhold}" if hold else ""


def _waits(queue: Queue, view: View) -> Iterator[str]:
    """What a queued job waits for, one thing a line."""
    if view.state != "queued":
        return
    job = view.job
    others = list(_others(queue, job))
    machine = list(_machine(queue, job))
    yield from [*others, *machine]
    known = sorted(presence.known(queue.store), key=lambda one: (one.lives, one.sent_at))
    yield from _left_by(known[::-1], job)
    workers = [one for one in known if one.lives]
    if others or (workers and all(job.id in one.left for one in workers)):
        return
    here = f"{len(workers)} in runner status --workers"
    starts = f"{command('work')} on such a machine" if machine else resume(queue, job)
    yield f"a worker: {here if workers else f'none is here, {starts} starts one'}"


def _left_by(workers: Iterable[Presence], job: Job) -> Iterator[str]:
    """Why workers left it to others; of those that ended only what no other said."""
    said = set[str]()
    for one in workers:
        why = one.left.get(job.id, "").removeprefix(presence.LEFT)
        if why and (one.lives or why not in said):
            ended = "" if one.lives else f", which ended {ago(datetime.now(UTC) - one.sent_at)}"
            yield f"another machine than {one.worker}{ended}: {why}"
            said.add(why)


def _others(queue: Queue, job: Job) -> Iterator[str]:
    """The jobs that come before it, and its own next try."""
    for name in job.after:
        try:
            other = queue.find(name)
        except StoreError as error:
            yield f"{name}, which cannot be read: {error}"
            continue
        if other is None:
            yield f"{name}, which is not there"
        elif other.state is not State.SUCCEEDED:
            verb = {State.HELD: "unhold", State.FAILED: "retry", State.CANCELLED: "retry"}
            does = verb.get(other.state)
            yield f"{name} ({other.state}{f'; {command(does, name)} queues it' if does else ''})"
    if pause := queue.availability(job).expires_in:
        yield f"its next try, in {pause:.0f} s"


def _machine(queue: Queue, job: Job) -> Iterator[str]:
    """What a machine must have for it."""
    needs = job.requirements or {}
    if needs.get("gpu_memory_gb") is not None:
        yield f"a machine with a GPU of {needs['gpu_memory_gb']:g} GB"
    if needs.get("devices") is not None:
        yield f"a worker with {count(needs['devices'], 'device')}"
    if needs.get("labels"):
        yield f"a machine labelled {line(', '.join(needs['labels'])[:200])}"
    if path := _missing_path(queue, job):
        yield f"a machine with {line(path[:200])}: this one has not"


def _missing_path(queue: Queue, job: Job) -> str:
    """The file or folder of its data, where this machine has it not; else ""."""
    try:
        spec = queue.spec(job.id)
    except (StoreError, NotFoundError):
        return ""
    data = spec.get("program") or spec.get("data")
    path, given = (data.get("path"), data.get("given")) if isinstance(data, dict) else (None, None)
    if not isinstance(path, str) or places.is_url(path):
        return ""
    return "" if places.here(path, given if isinstance(given, str) else None) else path


def _failure_lines(store: Store, job: Job) -> list[str]:
    """The newest failure, and the end of its traceback."""
    if not job.failure:
        return []
    kind, step = str(job.failure.get("kind", "?")), job.failure.get("step", 0)
    head = f"  newest failure: {failure_words(job.failure)}; saved at step {step}"
    if job.failure.get("reason") != job.reason:
        head += f": {job.failure.get('reason', '')}"
    if kind in ("spec", "diverged") or job.state is State.SUCCEEDED:
        return [head]  # the sentence says what to fix, or it is over
    try:
        data = store.read(str(job.failure.get("trace", "")), max_bytes=MOST_TRACE) or b""
    except StoreError:
        data = b""
    tail = data.decode(errors="replace").splitlines()[-TRACE_LINES:]
    return [head, *(f"    {_line_of_code(text)}" for text in tail)]


def _line_of_code(text: str) -> str:
    """A line of a traceback from the bucket, its indentation kept, safe to print."""
    return " " * (len(text) - len(text.lstrip(" "))) + line(text)
