"""`runner work` on machines that an engine lends: the options checked, the engine started."""

import argparse
import os
import signal
import time
from pathlib import Path

from runner.cli.common import open_queue, say, store_url
from runner.cli.exit import Exit
from runner.cli.working import catch_signals, seconds_of
from runner.engine.keeper import Work
from runner.errors import SpecError, StoreError
from runner.queue.job import State
from runner.queue.queue import Queue

#: what the workers of other machines get told; credentials they have of their own
PASSED_ON = ("RUNNER_LEASE_SECONDS", "RUNNER_DATA_FROM")


def work_on_cluster(options: argparse.Namespace) -> int:
    """Let workers of a Ray cluster work on the queue; the worst of their exit codes."""
    _check(options)
    work = _work(options)
    stop = catch_signals()
    try:
        from runner.engine import ray as engine
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        msg = "--engine ray needs Ray, here and on every node: pip install ray"
        raise SpecError(msg) from None
    queue, store = open_queue(options)
    if store.url.startswith("file:"):
        say("ray: the store is a folder: every node must see the same one at this path")
    code = engine.work_on_ray(
        work,
        address=options.address,
        workers=options.workers,
        gpus=options.gpus,
        unfinished=lambda: _unfinished(queue),
        stop=stop,
        say=say,
    )
    if stop.signal == signal.SIGINT:
        return Exit.INTERRUPTED
    if stop.reason is not None:
        return Exit.PREEMPTED
    if code == Exit.UNFINISHED and all(job.ended for job in queue.jobs()):
        return Exit.DONE  # one left it to others, who have done it since
    return code


def _check(options: argparse.Namespace) -> None:
    if options.workers is not None and options.workers < 1:
        msg = f"--workers received {options.workers}; expected 1 or more"
        raise SpecError(msg)
    gpus = options.gpus
    if gpus is not None and not (0 <= gpus < 1 or (gpus >= 1 and gpus == int(gpus))):
        msg = f"--gpus received {gpus:g}; expected a part such as 0.5, or whole ones"
        raise SpecError(msg)


def _work(options: argparse.Namespace) -> Work:
    arguments = ["work"]
    if options.until_empty:
        arguments.append("--until-empty")
    for label in options.label:
        arguments += ["--label", label]
    ends_at = None
    if options.max_duration is not None:
        ends_at = time.time() + seconds_of(options.max_duration)
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return Work(
        arguments=arguments,
        # not on a command line, which all of a machine's users may read: it may hold a password
        environment={"RUNNER_STORE": _everywhere(store_url(options)), **passed},
        ends_at=ends_at,
    )


def _everywhere(url: str) -> str:
    """Return the store's name as it holds in any folder."""
    return url if "://" in url else str(Path(url).expanduser().absolute())


def _unfinished(queue: Queue) -> bool:
    try:
        return any(job.state in (State.QUEUED, State.RUNNING) for job in queue.jobs())
    except StoreError:
        return True
