"""`runner work`: a worker for the whole queue, for machines that come and go."""

import argparse

from runner.cli.common import add_store_option, open_queue, say
from runner.cli.working import add_session_option, catch_signals, session_of, work
from runner.errors import NotFoundError, SpecError
from runner.exit import Exit
from runner.queue.job import State
from runner.queue.queue import Queue
from runner.registry import nearest

EVERYONE = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `work`."""
    parser.add_argument(
        "--until-empty", action="store_true", help="end when there is nothing left to do here"
    )
    add_session_option(parser)
    parser.add_argument(
        "--label",
        metavar="NAME",
        action="append",
        default=[],
        help="of this machine, for jobs that require it (again for more; also $RUNNER_LABELS)",
    )
    parser.add_argument(
        "--each-gpu",
        action="store_true",
        help="a worker for each GPU that this machine has, or CUDA_VISIBLE_DEVICES names",
    )
    parser.add_argument(
        "--drain",
        metavar="WORKER",
        nargs="?",
        const=EVERYONE,
        help="work on nothing; ask the worker host:pid, or all that work now, to finish their"
        " step, save, and take no more",
    )
    _add_engine_options(parser)
    add_store_option(parser)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many machines")
    group.add_argument(
        "--engine",
        choices=("here", "ray"),
        default="here",
        help="where the workers run: in this process (default), or on a Ray cluster"
        " (pip install ray)",
    )
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of the Ray cluster's head (default: $RAY_ADDRESS, the cluster that runs on this"
        " machine, or else a new one of this machine alone)",
    )
    group.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="on the cluster (default: one for each GPU, or for each node if there is none)",
    )
    group.add_argument(
        "--gpus", metavar="N", type=float, help="for each worker, such as 1 or 0.5 (default: 1)"
    )


def run(options: argparse.Namespace) -> int:
    """Work, or ask others to stop working."""
    if options.drain is not None:
        return _drain(options)
    if options.engine == "ray":
        if options.each_gpu:
            msg = "--each-gpu is for this machine; --engine ray starts a worker for each GPU itself"
            raise SpecError(msg)
        from runner.cli.cluster import work_on_cluster

        return work_on_cluster(options)
    for name in ("address", "workers", "gpus"):
        if getattr(options, name) is not None:
            msg = f"--{name} is for a cluster; add --engine ray"
            raise SpecError(msg)
    if options.each_gpu:
        from runner.cli.cluster import work_on_each_gpu

        return work_on_each_gpu(options)
    stop = catch_signals()
    session = session_of(options)
    queue, store = open_queue(options)
    return work(
        queue,
        store,
        None,
        stop,
        until_empty=options.until_empty,
        session=session,
        labels=options.label,
    )


def _drain(options: argparse.Namespace) -> Exit:
    from runner.queue.drain import request

    queue, store = open_queue(options)
    everyone = options.drain == EVERYONE
    if not everyone and ":" not in options.drain:
        msg = f"--drain received {options.drain!r}; expected a worker as status shows it: host:pid"
        raise SpecError(msg)
    request(store, "" if everyone else options.drain)
    who = "all workers" if everyone else options.drain
    known = _workers(queue)
    if not everyone and who not in known:
        msg = f"no worker of {store.url} is {who}.{nearest(who, known)} Those that work here or"
        msg += " wait: 'runner status --workers'"
        raise NotFoundError(msg)
    say(f"asked {who} to drain: within a heartbeat they save, let go and take no more")
    return Exit.DONE


def _workers(queue: Queue) -> set[str]:
    """The workers that have a job or wait for one; a job that can't be read is no matter here."""
    from runner.queue import presence
    from runner.queue.drain import name_of

    jobs = queue.jobs(lambda _name, _error: None)
    owners = {name_of(job.owner or {}) for job in jobs if job.state is State.RUNNING}
    return owners | {one.worker for one in presence.everyone(queue.store)}
