"""`runner status JOB`: one job in lines, and what it waits for."""

from collections.abc import Iterator
from datetime import UTC, datetime

from runner.cli.render import ago, count, duration, sparkline
from runner.cli.status import View, describe, real
from runner.errors import NotFoundError, StoreError
from runner.queue import presence
from runner.queue.job import Job, Stage, State, line
from runner.queue.queue import Queue
from runner.store import places
from runner.store.base import Store

MOST_TRACE = 1 << 20  #: bytes
TRACE_LINES = 14


def detail(queue: Queue, view: View) -> str:
    """One job in lines: where it stands, what it waits for, how its newest attempt failed."""
    store, job = queue.store, view.job
    document = describe(store, view)
    now = datetime.now(UTC)
    stage = "training" if job.stage is Stage.TRAIN else "evaluation"
    lines = [
        "",
        f"{job.id}: submitted {ago(now - job.submitted_at)},"
        f" last record {ago(now - job.updated_at)},"
        f" {count(job.tries, 'attempt')} at the {stage}, {count(job.preempted, 'preemption')},"
        f" {count(job.died, 'death')}, {count(job.failures, 'failure')}",
    ]
    if document["worker"]:
        node = f" ({document['node']})" if document["node"] else ""
        lines.append(f"  worker      {document['worker']}{node}")
    if document["parameters"]:
        lines.append(f"  parameters  {document['parameters']:,}")
    for name in ("checkpoint", "best", "final"):
        if document[name]:
            one = document[name]
            lines.append(f"  {name:<11} step {one['step']}, digest {one['digest'][:16]}")
    for name, values in document["history"].items():
        numbers = [value for value in map(real, values) if value is not None]
        if numbers:
            lines.append(f"  {name:<11} {sparkline(numbers[-48:])}  {numbers[-1]:.4f}")
    measured = {**(document["evaluation"] or {}), **(document["evaluation_run"] or {})}
    for name, value in measured.items():
        if isinstance(value, float):
            lines.append(f"  test {name:<12} {value:.4f}")
    if document["interval"] and view.state == "running":
        unsaved = duration(document["unsaved_seconds"] or 0.0)
        lines.append(f"  saves       {document['interval']}; unsaved {unsaved}")
    lines += [f"  budget      {text}" for text in _budget(job)]
    if view.state in ("queued", "lost"):
        lines += [f"  waits for   {text}" for text in _waits(queue, job)]
    lines += [f"  note: {note}" for note in job.notes]
    if job.priority:
        lines.append(f"  priority    {job.priority}")
    if job.reason:
        lines.append(f"  reason: {job.reason}")
    lines += _failure_lines(store, job)
    return "\n".join(lines)


def _budget(job: Job) -> Iterator[str]:
    spent = {"hours": job.spent_seconds / 3600, "gpu_hours": job.spent_gpu_seconds / 3600}
    for name, hours in (job.budget or {}).items():
        used, words = spent.get(name, 0.0), name.replace("gpu_", "GPU ")
        yield f"{used:.2f} of {hours:g} {words} spent, {max(0.0, hours - used):.2f} left"


def _waits(queue: Queue, job: Job) -> Iterator[str]:
    """What a job that could be run waits for, one thing a line."""
    others = list(_others(queue, job)) if job.state is State.QUEUED else []
    pause = queue.availability(job).lapses_in
    if pause:
        others.append(f"its next try, in {pause:.0f} s")
    yield from others
    yield from _machine(queue, job)
    workers = presence.everyone(queue.store)
    for one in workers:
        if job.id in one.left:
            why = one.left[job.id].removeprefix(presence.LEFT)
            yield f"another machine than {one.worker}: {why}"
    if not others:
        here = f"none is here, 'runner resume {job.id}' starts one"
        yield f"a worker: {f'{len(workers)} in runner status --workers' if workers else here}"


def _others(queue: Queue, job: Job) -> Iterator[str]:
    for name in job.after:
        try:
            other = queue.find(name)
        except StoreError as error:
            yield f"{name}, which cannot be read: {error}"
            continue
        if other is None:
            yield f"{name}, which is not there"
        elif other.state is not State.SUCCEEDED:
            yield f"{name} ({other.state})"


def _machine(queue: Queue, job: Job) -> Iterator[str]:
    """What a machine must have for it."""
    needs = job.requirements or {}
    if needs.get("gpu_memory_gb") is not None:
        yield f"a machine with a GPU of {needs['gpu_memory_gb']:g} GB"
    if needs.get("labels"):
        yield f"a machine labelled {line(', '.join(needs['labels'])[:200])}"
    try:
        data = queue.spec(job.id).get("data")
    except (StoreError, NotFoundError):
        return
    path, given = (data.get("path"), data.get("given")) if isinstance(data, dict) else (None, None)
    if not isinstance(path, str) or places.is_url(path):
        return
    other = given if isinstance(given, str) else None
    has = "this one has" if places.here(path, other) else "this one has not"
    yield f"a machine with {line(path[:200])}: {has}"


def _failure_lines(store: Store, job: Job) -> list[str]:
    """The newest failure, and the end of its traceback."""
    if not job.failure:
        return []
    kind, step = str(job.failure.get("kind", "?")), job.failure.get("step", 0)
    lines = [f"  newest failure: {kind.replace('_', ' ')} after step {step}"]
    if job.failure.get("reason") != job.reason:
        lines[0] += f": {job.failure.get('reason', '')}"
    if kind in ("spec", "diverged"):
        return lines  # the sentence says what to mend
    try:
        data = store.read(str(job.failure.get("trace", "")), max_bytes=MOST_TRACE) or b""
    except StoreError:
        data = b""
    tail = data.decode(errors="replace").splitlines()[-TRACE_LINES:]
    return [*lines, *(f"    {line_of_code(text)}" for text in tail)]


def line_of_code(text: str) -> str:
    """A line of a traceback from the bucket, its indentation kept, safe to print."""
    return " " * (len(text) - len(text.lstrip(" "))) + line(text)
