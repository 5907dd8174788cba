"""`runner status --workers`: who works here, idle or not, and what each left to others."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from runner.cli.common import say
from runner.cli.render import duration, show
from runner.cli.status import view_all, worker_of
from runner.exit import Exit
from runner.queue import presence
from runner.queue.job import State
from runner.queue.queue import Queue

SILENT_SECONDS = 2 * presence.RENEW_SECONDS + 60  #: without a sign, a worker without a job is gone
COLUMNS = ("WORKER", "DOES", "SEEN", "GPU", "LABELS", "NODE")


def list_workers(queue: Queue, *, as_json: bool) -> int:
    """Print all workers that work now, or have not ended as they should."""
    found = list(_workers(queue))
    if as_json:
        print(json.dumps(found, indent=2))
        return Exit.DONE
    if not found:
        say("no workers: 'runner work' starts one")
        return Exit.DONE
    show([COLUMNS, *map(_row, found)])
    for one in found:
        if one["left"]:
            print(f"{one['worker']} leaves to others:")
        for job, why in one["left"].items():
            print(f"  {job}: {why.removeprefix(presence.LEFT)}")
    return Exit.DONE


def _workers(queue: Queue) -> Iterator[dict[str, Any]]:
    jobs = queue.jobs(lambda _name, _error: None)  # one that can't be read is no matter here
    views = view_all(queue, [job for job in jobs if job.state is State.RUNNING])
    told = {one.worker: one for one in presence.everyone(queue.store)}
    for name in sorted({*told, *(worker_of(view.job) for view in views)}):
        mine = [view for view in views if worker_of(view.job) == name]
        one = told.get(name)
        seconds = [
            view.availability.seen_seconds
            for view in mine
            if view.availability and view.availability.seen_seconds is not None
        ]
        if one is not None and not mine:
            seconds = [max(0.0, (datetime.now(UTC) - one.sent_at).total_seconds())]
        seen = min(seconds, default=None)
        idle = "idle" if seen is not None and seen < SILENT_SECONDS else "silent"
        yield {
            "worker": name,
            "state": min((view.state for view in mine), default=idle),
            "jobs": [view.job.id for view in mine],
            "seen_seconds": seen,
            "gpus": list(one.gpus) if one else [],
            "labels": list(one.labels) if one else [],
            "node": (one.node if one else "") or None,
            "version": one.version if one else None,
            "left": dict(one.left) if one else {},
        }


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    seen, state = worker["seen_seconds"], worker["state"]
    return (
        worker["worker"],
        ", ".join([*worker["jobs"], *([] if state == "running" else [state])]),
        "" if seen is None else f"{duration(seen)} ago",
        "; ".join(worker["gpus"]) or "none",
        ", ".join(worker["labels"]),
        worker["node"] or "",
    )
