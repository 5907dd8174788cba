"""`runner work`: a worker for the whole queue, for machines that come and go."""

import argparse

from runner.cli.common import add_code_option, add_store_option, command, not_there, open_queue, say
from runner.cli.working import add_session_option, catch_signals, session_of, work
from runner.errors import NotFoundError, SpecError
from runner.exit import Exit
from runner.registry import nearest

EVERYONE = "all"
GONE = ("silent", "lost")  #: the states of workers that show no sign of life


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `work`."""
    add = parser.add_argument
    add("--until-empty", action="store_true", help="end when there is nothing left to do here")
    add_session_option(parser)
    labels = "of this machine, for jobs that require it (again for more; also $RUNNER_LABELS)"
    add("--label", metavar="NAME", action="append", default=[], help=labels)
    cards = "a worker for each GPU that this machine has, or CUDA_VISIBLE_DEVICES names"
    add("--each-gpu", action="store_true", help=cards)
    drain = (
        "work on nothing; ask the worker host:pid, or all that work now, to finish their step,"
        " save, and take no more"
    )
    add("--drain", metavar="WORKER", nargs="?", const=EVERYONE, help=drain)
    _add_engine_options(parser)
    add_store_option(parser)
    add_code_option(parser)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("many machines").add_argument
    engine = (
        "where the workers run: in this process (default), or on a Ray cluster (pip install ray)"
    )
    add("--engine", choices=("here", "ray"), default="here", help=engine)
    address = (
        "of the Ray cluster's head (default: $RAY_ADDRESS, the cluster that runs on this machine,"
        " or else a new one of this machine alone)"
    )
    add("--address", metavar="HOST:PORT", help=address)
    workers = "on the cluster (default: one for each GPU, or for each node if there is none)"
    add("--workers", metavar="N", type=int, help=workers)
    add("--gpus", metavar="N", type=float, help="for each worker, such as 1 or 0.5 (default: 1)")


def run(options: argparse.Namespace) -> int:
    """Work, or ask others to stop working."""
    if options.drain is not None:
        return _drain(options)
    _check(options)
    if options.engine == "ray":
        from runner.cli.cluster import work_on_cluster

        return work_on_cluster(options)
    if options.each_gpu:
        from runner.cli.cluster import work_on_each_gpu

        return work_on_each_gpu(options)
    stop = catch_signals()
    session = session_of(options)
    queue, _ = open_queue(options)
    return work(
        queue,
        None,
        stop,
        until_empty=options.until_empty,
        session=session,
        labels=options.label,
    )


def _check(options: argparse.Namespace) -> None:
    """Refuse options that are of no use where the workers are to run."""
    if options.engine == "ray" and options.each_gpu:
        msg = "--each-gpu is for this machine; --engine ray starts a worker for each GPU itself"
        raise SpecError(msg)
    for name in ("address", "workers", "gpus") if options.engine != "ray" else ():
        if getattr(options, name) is not None:
            raise SpecError(f"--{name} is for a cluster; add --engine ray")


def _worker_of(drain: str) -> str:
    """The worker that is to drain; "" for all."""
    if drain in ("", EVERYONE):
        return ""
    if ":" not in drain:
        msg = f"--drain received {drain!r}; expected a worker as status shows it: host:pid"
        raise SpecError(msg)
    return drain


def _drain(options: argparse.Namespace) -> Exit:
    from runner.cli.workers import all_workers
    from runner.queue.drain import request

    queue, store = open_queue(options)
    worker = _worker_of(options.drain)
    missing = not_there(store)
    if missing:
        say(missing)
        return Exit.DONE
    request(store, worker)
    everyone = list(all_workers(queue))
    known = [one["worker"] for one in everyone]
    if worker and worker not in known:
        msg = f"no worker of {store.url} is {worker}.{nearest(worker, known)} Those that work here"
        raise NotFoundError(f"{msg} or wait: {command('status', '--workers')}")
    if not worker and all(one["state"] in GONE for one in everyone):
        say("no worker works here now")
        return Exit.DONE
    who = worker or "all workers"
    say(f"asked {who} to drain: within a heartbeat they save, release their jobs and take no more")
    return Exit.DONE
