"""`runner work` as several workers: on machines that an engine lends, or one for each GPU here."""

import argparse
import os
import signal
import time
from pathlib import Path

from runner.cli.common import open_queue, say, store_url
from runner.cli.live import PLAIN
from runner.cli.working import catch_signals, seconds_of, session_of
from runner.code import VARIABLE as CODE_VARIABLE
from runner.code import folder as code_folder
from runner.engine.keeper import Work
from runner.engine.preemption import StopRequest
from runner.errors import SpecError, StoreError
from runner.exit import Exit
from runner.queue.job import State
from runner.queue.queue import Queue

#: what the workers of other machines get told; credentials they have of their own
PASSED_ON = (
    *("RUNNER_LEASE_SECONDS", "RUNNER_DATA_FROM"),
    *("RUNNER_NOTIFY", "RUNNER_NOTIFY_LOST"),
)


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
        raise SpecError("--engine ray needs Ray, here and on every node: pip install ray") from None
    queue, store = open_queue(options)
    if store.url.startswith("file:"):
        say("ray: the store is a folder: every node must see the same one at this path")
    code = engine.work_on_ray(
        work,
        own_code=code_folder(),
        address=options.address,
        workers=options.workers,
        gpus=options.gpus,
        unfinished=lambda: _unfinished(queue),
        stop=stop,
        say=say,
    )
    return _ended(code, stop, queue)


def work_on_each_gpu(options: argparse.Namespace) -> int:
    """Let a worker for each GPU of this machine work on the queue; the worst exit code.

    Raises:
        SpecError: there is none.
    """
    from runner.engine.keeper import keep_all
    from runner.engine.notices.watcher import watching
    from runner.machine.hardware import gpus

    work, session, cards = _work(options), session_of(options), gpus()
    # without the driver's command the variable alone says what there is
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    ids = [card.id for card in cards] or [one for one in named if one.strip() not in ("", "-1")]
    if not ids:
        msg = "--each-gpu: nvidia-smi finds no GPU here, nor does CUDA_VISIBLE_DEVICES name one"
        raise SpecError(msg)
    stop = catch_signals()
    queue, _ = open_queue(options)
    say(f"{len(ids)} workers, one for each GPU: {', '.join(card.name for card in cards) or ids}")
    environments = [{"CUDA_VISIBLE_DEVICES": one, PLAIN: "1"} for one in ids]
    with watching(stop, say, session=session):
        code = keep_all(work, environments, stopped=lambda: stop.reason is not None)
    return _ended(code, stop, queue)


def _ended(code: int, stop: StopRequest, queue: Queue) -> int:
    """The exit code of all workers together."""
    if stop.signal == signal.SIGINT:
        return Exit.INTERRUPTED
    if stop.reason is not None:
        return Exit.PREEMPTED
    if code == Exit.UNFINISHED and all(job.ended for job in queue.jobs()):
        return Exit.DONE  # one left it to others, who have done it since
    return code


def _check(options: argparse.Namespace) -> None:
    if options.workers is not None and options.workers < 1:
        raise SpecError(f"--workers received {options.workers}; expected 1 or more")
    gpus = options.gpus
    if gpus is not None and not (0 <= gpus < 1 or (gpus >= 1 and gpus == int(gpus))):
        raise SpecError(f"--gpus received {gpus:g}; expected a part such as 0.5, or whole ones")


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
    if options.engine == "ray" and code_folder():
        passed[CODE_VARIABLE] = "."  # Ray takes the folder to the nodes: their workers start in it
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
