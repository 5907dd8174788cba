"""`runner status --workers`: who works here, idle or not, and what each left to others."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from runner.cli.common import command, say
from runner.cli.render import show
from runner.exit import Exit
from runner.queue import presence
from runner.queue.job import gpus
from runner.queue.owner import is_stopped
from runner.queue.presence import Presence
from runner.queue.queue import Queue
from runner.queue.texts import ago
from runner.queue.view import Onlooker, View

SILENT_SECONDS = 2.5 * presence.RENEW_SECONDS  #: without a sign, a worker without a job is gone
COLUMNS = ("WORKER", "DOES", "SEEN", "GPU", "LABELS", "NODE")


def list_workers(queue: Queue, *, as_json: bool) -> int:
    """Print all workers that work now, or have not ended as they should."""
    found = list(all_workers(queue))
    if as_json:
        print(json.dumps(found, indent=2))
        return Exit.DONE
    if not found:
        say(f"no workers: {command('work')} starts one")
        return Exit.DONE
    show([COLUMNS, *map(_row, found)])
    for one in found:
        if one["left"]:
            print(f"{one['worker']} leaves to others:")
        for job, why in one["left"].items():
            print(f"  {job}: {why.removeprefix(presence.LEFT)}")
    return Exit.DONE


def all_workers(queue: Queue) -> Iterator[dict[str, Any]]:
    """Return what is known of each, as JSON."""
    everything = Onlooker(queue).look()
    queued = {view.job.id for view in everything if view.state == "queued"}
    known = {one.worker: one for one in presence.everyone(queue.store)}
    for name in sorted({*known, *(view.worker for view in everything if view.worker)}):
        one = known.get(name, Presence(owner={}, sent_at=datetime.now(UTC), left={}))
        left = {job: one.left[job] for job in queued & one.left.keys()}  # not done by others since
        mine = [view for view in everything if view.worker == name]
        yield _worker(name, replace(one, left=left), mine)


def _worker(name: str, one: Presence, views: Sequence[View]) -> dict[str, Any]:
    """What a worker says of itself, and its jobs."""
    silent = max(0.0, (datetime.now(UTC) - one.sent_at).total_seconds())
    seconds = [view.seen_seconds for view in views if view.seen_seconds is not None]
    return {
        "worker": name,
        "state": min(view.state for view in views) if views else _idle_state(one.owner, silent),
        "jobs": [view.job.id for view in views],
        "seen_seconds": min(seconds, default=None) if views else silent,
        "gpus": list(one.gpus),
        "gpus_used": sum(gpus(view.job) for view in views),
        "labels": list(one.labels),
        "node": one.node or None,
        "version": one.version or None,
        "left": dict(one.left),
    }


def _idle_state(owner: Mapping[str, Any], silent_seconds: float) -> str:
    if is_stopped(owner):
        return "suspended"
    return "idle" if silent_seconds < SILENT_SECONDS else "silent"


def _gpus(cards: Sequence[str], used: int) -> str:
    """Name the cards, and how many of several its jobs use."""
    share = f"{used} of {len(cards)} in use: " if used and len(cards) > 1 else ""
    return share + ("; ".join(cards) or "none")


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    state = worker["state"]
    return (
        worker["worker"],
        ", ".join([*worker["jobs"], *([] if state == "running" else [state])]),
        ago(worker["seen_seconds"]),
        _gpus(worker["gpus"], worker["gpus_used"]),
        ", ".join(worker["labels"]),
        worker["node"] or "",
    )
