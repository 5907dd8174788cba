"""`runner submit`: check specs, store the jobs, work on them here."""

import argparse
import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from runner.cli.common import add_store_option, command, open_queue, say
from runner.cli.forking import BEGINNING, beginning, require_begun
from runner.cli.specs import add_spec_arguments, load_all, local_paths, paths_of
from runner.cli.working import add_session_option, catch_signals, session_of, work
from runner.engine.preemption import StopRequest
from runner.engine.session import Session
from runner.errors import (
    ConflictError,
    DamagedRecordError,
    MissingHereError,
    NotFoundError,
    NotReadyError,
    OneObjectError,
    PreemptedError,
    SpecError,
)
from runner.exit import Exit, worst
from runner.queue.job import ENDED, Job, State, spec_digest
from runner.queue.protocol import conflict
from runner.queue.queue import Queue
from runner.queue.texts import count as counted
from runner.spec import JobSpec, parse
from runner.store import places
from runner.store.receiving import STAGE, Received, told_to
from runner.store.settings import mask
from runner.training.quiet import check_backend, import_keras

MANY = 20  #: jobs whose progress is shown
COUNT_SECONDS = 2.0  #: between two lines


class Now:
    """A line every two seconds while something lasts."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def __call__(self, text: str) -> None:
        """Show it if it is time."""
        if time.monotonic() - self._at >= COUNT_SECONDS:
            self._at = time.monotonic()
            say(text)


def counting(done: str, total: int) -> Callable[[int], None]:
    """Say how many of many jobs are handled: `120 of 200 jobs are stored`."""
    now = Now()
    return lambda count: now(f"{count} of {total} jobs are {done}") if total >= MANY else None


def reading() -> Callable[[Received], None]:
    """Say how much data is read: `reading data, 120 of 200 MB`."""
    now = Now()

    def tell(got: Received) -> None:
        if got.total >= 1e6:
            now(f"{STAGE}, {got.done / 1e6:,.0f} of {got.total / 1e6:,.0f} MB")

    return tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `submit`."""
    add = parser.add_argument
    add_spec_arguments(parser)
    go_on = "go on from this job's final checkpoint, or from its best, latest or a STEP"
    add("--from", metavar="JOB[@WHICH]", dest="parent", help=go_on)
    first = "higher goes first (the spec's `priority`)"
    add("--priority", metavar="N", type=int, help=first)
    after = "begin when this job has succeeded (again for more; added to the spec's `after`)"
    add("--after", metavar="JOB", action="append", default=[], help=after)
    add_storing_options(parser)


def add_storing_options(parser: argparse.ArgumentParser) -> None:
    """What every command that stores jobs has."""
    add = parser.add_argument
    add("--detach", action="store_true", help="only store the jobs; a worker takes them up")
    add("--dry-run", action="store_true", help="check all that is checked, store nothing")
    add("--no-trial", action="store_true", help="try no program before it is stored")
    add_session_option(parser)
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Submit; each id alone on a line of standard output."""
    stop = catch_signals()
    session = session_of(options)
    if not options.detach:
        check_backend()
    return submit(options, _specs(options), stop, session)


def submit(
    options: argparse.Namespace,
    specs: list[tuple[Path, JobSpec]],
    stop: StopRequest,
    session: Session | None,
) -> int:
    """Check, store and work on jobs, as the options of `submit` say."""
    from runner.training.check import check_data

    with told_to(reading()):
        check_data(specs, tell=counting("checked", len(specs)))
    queue, _ = open_queue(options)
    _check_after(queue, specs)
    _check_from(queue, specs)
    if not options.no_trial:
        with suppress(PreemptedError), stop.interrupting():
            _try_out(queue, specs)
    if options.dry_run:
        return _dry_run(queue, specs)
    ids, failed = _store_all(queue, specs, stop)
    if len(ids) + failed < len(specs):
        say(f"{len(ids)} of {len(specs)} jobs are stored; the same command stores the rest")
        return Exit.INTERRUPTED if stop.signal == signal.SIGINT else Exit.PREEMPTED
    code = _detached(specs) if options.detach else Exit.DONE
    if ids and not options.detach:
        code = work(queue, ids, stop, session=session)
    return worst([code, Exit.STORAGE]) if failed else code


def _store_all(
    queue: Queue, specs: list[tuple[Path, JobSpec]], stop: StopRequest
) -> tuple[list[str], int]:
    """Store the jobs until asked to stop; the ids of those that are there, how many failed."""
    ids: list[str] = []
    failed = 0
    count = counting("stored", len(specs))
    for _, spec in specs:
        count(len(ids))
        if stop.reason is not None:
            break
        try:
            ids.append(_store(queue, spec))
        except (DamagedRecordError, OneObjectError) as error:  # of this job alone
            say(f"{spec.name}: not stored: {error}")
            failed += 1
    return ids, failed


def _try_out(queue: Queue, specs: list[tuple[Path, JobSpec]]) -> None:
    """Try each program with the first of its specs that is not stored yet."""
    tried: set[str] = set()
    others = 0
    for path, spec in specs:
        if spec.program is None or queue.find(spec.name):
            continue
        if spec.program.name in tried:
            others += 1
            continue
        tried.add(spec.program.name)
        what = f"one step of program {spec.program.name!r} and its evaluation"
        say(f"{spec.name}: trying {what} (not with --no-trial)")
        import_keras()
        from runner.evaluation.trial import build_report

        try:
            say(build_report(spec, source=str(path)))
        except MissingHereError as error:
            say(f"not tried: {error}")
    if others:
        rest = counted(others, "other job")
        say(f"not tried: {rest} of the same programs; 'runner validate --build' tries each")


def _dry_run(queue: Queue, specs: list[tuple[Path, JobSpec]]) -> Exit:
    """Print what would be stored, if the jobs that are there already let it."""
    there_already = 0
    for _, spec in specs:
        known = queue.find(spec.name)
        there_already += known is not None
        if known is not None and known.spec_digest != spec_digest(spec.effective()):
            there = queue.spec(spec.name)
            if not is_same(there, spec):
                raise conflict(spec.name, there, spec.effective())
        print(json.dumps(spec.effective(), indent=2))
    new = counted(len(specs) - there_already, "job")
    say(f"dry run: {new} would be stored, {there_already} are there already")
    return Exit.DONE


def _detached(specs: list[tuple[Path, JobSpec]]) -> Exit:
    for path in local_paths(spec for _, spec in specs):
        say(f"{path} is of this machine: others leave these jobs unless they have it")
    for path, field in sorted(paths_of(spec for _, spec in specs).items()):
        if places.is_url(path) and (lacking := places.lacks_client(path)):
            say(f"{field} {mask(path)}: {lacking}: workers without it leave these jobs")
    return Exit.DONE


def _specs(options: argparse.Namespace) -> list[tuple[Path, JobSpec]]:
    """Return the specs with what the options add to them, in the order of their storing."""
    if options.priority is not None:
        options.changes = [*options.changes, f"priority={options.priority}"]
    if options.parent is not None:
        job, at, which = options.parent.partition("@")
        if not job or (at and not which):
            msg = f"--from received {options.parent!r}; expected JOB, or JOB@ and final, best,"
            raise SpecError(f"{msg} latest or the number of a step")
        go_on = [f"from.job={json.dumps(job)}", f"from.checkpoint={which or 'final'}"]
        options.changes = [*options.changes, *go_on]
    found = load_all(options, data=True)
    return in_order([(path, _after(spec, options.after)) for path, spec in found])


def _store(queue: Queue, spec: JobSpec) -> str:
    """Store a job, which may be there already, and print its id."""
    known = queue.find(spec.name)
    job = store_one(queue, spec, known)
    if known is not None and job.number == 0 and job.nonce != known.nonce:
        say(f"{job.id}: its record 0 was gone and is restored, {known.state.value}")
    elif known is not None:
        again = "; `--set name=NAME` trains it again" if job.state in ENDED else ""
        if job.state in (State.FAILED, State.CANCELLED):
            again = f"; {command('retry', job.id)} queues it again, where it stood"
        say(f"{job.id}: already there, {job.state.value}{again}")
    print(job.id, flush=True)
    return job.id


def store_one(queue: Queue, spec: JobSpec, known: Job | None = None) -> Job:
    """Store a job. One that an older version stored with fewer fields has the same content."""
    content = spec.effective()
    if known is not None and known.number:
        queue.require_whole(spec.name)
        if known.spec_digest != spec_digest(content):
            queue.spec(spec.name)  # where it is gone, no other spec takes its place
    begins = dict[str, Any]()
    if known is None and spec.from_ is not None:
        queue.require_free(spec.name)
        begins = beginning(queue, spec)
    if known is not None and not known.number:  # perhaps only its copy is there
        begins = {name: getattr(known, name) for name in BEGINNING}
    try:
        job = queue.submit(spec.name, content, begins)
    except ConflictError:
        if known is not None and is_same(queue.spec(spec.name), spec):
            return known
        raise
    require_begun(queue, spec, job)
    return job


def is_same(there: dict[str, Any], spec: JobSpec) -> bool:
    """Whether a stored spec, perhaps of an older version with fewer fields, has this content."""
    with suppress(SpecError):
        return _content(parse(there, source=spec.name)) == _content(spec)
    return False


def _content(spec: JobSpec) -> dict[str, Any]:
    """A spec but for how its data's path was given."""
    content = spec.effective()
    for part in ("program" if spec.program else "data", "from"):
        content.get(part, {}).pop("given", None)
    return content


def _after(spec: JobSpec, names: list[str]) -> JobSpec:
    """Add jobs that a spec waits for."""
    if not names:
        return spec
    after = list(dict.fromkeys([*spec.after, *names]))
    return parse({**spec.effective(), "after": after}, source=f"{spec.name}, with --after")


def in_order(specs: list[tuple[Path, JobSpec]]) -> list[tuple[Path, JobSpec]]:
    """Put jobs behind those that they wait for, so that nobody sees one without the other.

    Raises:
        SpecError: some wait for each other.
    """
    by_name = {spec.name: (path, spec) for path, spec in specs}
    sorter = TopologicalSorter(
        {name: [n for n in spec.after if n in by_name] for name, (_, spec) in by_name.items()}
    )
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        circle = " after ".join(error.args[1])
        msg = f"after: jobs that wait for each other: {circle}. None of them could ever begin."
        raise SpecError(msg) from None
    return [by_name[name] for name in order]


def _check_after(queue: Queue, specs: list[tuple[Path, JobSpec]]) -> None:
    """Refuse jobs that wait for one that nobody has submitted."""
    mine = {spec.name for _, spec in specs}
    for _, spec in specs:
        for name in spec.after:
            if name not in mine and queue.find(name) is None:
                msg = f"{spec.name} is to come after {name!r}, and there is no such job. Submit it"
                msg += " before, or in the same command."
                raise NotFoundError(msg)


def _check_from(queue: Queue, specs: list[tuple[Path, JobSpec]]) -> None:
    """Refuse new jobs that cannot go on from the one that they name, before any is stored."""
    mine = {spec.name for _, spec in specs}
    for _, spec in specs:
        if spec.from_ is None or spec.from_.job is None:
            continue
        with suppress(DamagedRecordError, OneObjectError):  # which are told as the job is stored
            if queue.find(spec.name) is not None:
                continue
        parent = spec.from_.job
        if parent in mine and queue.find(parent) is None:
            msg = f"{spec.name} cannot go on from {parent}, which is not trained yet."
            raise NotReadyError(f"{msg} Submit {spec.name} once {parent} has ended.")
        beginning(queue, spec, brings=False)
