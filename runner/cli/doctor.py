"""`runner doctor`: whether this machine and this store can keep the promises, and how fast."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runner import code, registry
from runner.cli.common import add_code_option, add_store_option, not_there, open_queue
from runner.errors import SpecError, StoreError
from runner.exit import Exit
from runner.queue.queue import Queue
from runner.queue.removal import leftovers
from runner.queue.view import Onlooker
from runner.store.base import Store
from runner.store.checkup import Finding, Verdict, check_up, remove_late

_PACKAGES = ("tensorflow", "jax", "keras", "numpy", "fsspec", "gcsfs", "s3fs")
MOST_JOBS = 100  #: whose specs are looked at
_UNDER_WAY = 3600.0  #: seconds for which a folder without a record may be a submit's
_LITTLE_DISK = 2_000_000_000  # bytes
#: how each is shown, and in which colour
_SHOWN = {
    Verdict.OK: ("ok", "green"),
    Verdict.WARNING: ("warning", "yellow"),
    Verdict.BAD: ("BAD", "bold red"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `doctor`."""
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")
    words = "remove what no job needs: removals and submits that were cut off"
    parser.add_argument("--repair", action="store_true", help=words)
    add_store_option(parser)
    add_code_option(parser)


def run(options: argparse.Namespace) -> int:
    """Try everything; exit code 6 if the store can't keep the promises.

    Damaged records are a warning: they keep no worker from the other jobs.
    """
    findings = []
    for finding in _examine(options):
        findings.append(finding)
        if not options.json:
            _show(finding)
    if options.json:
        document = [
            {"name": one.name, "verdict": one.verdict.value, "text": one.text} for one in findings
        ]
        print(json.dumps(document, indent=2))
    return Exit.STORAGE if any(one.verdict is Verdict.BAD for one in findings) else Exit.DONE


def _examine(options: argparse.Namespace) -> Iterator[Finding]:
    try:
        queue, store = open_queue(options, quiet=options.json)
    except StoreError as error:
        yield Finding("store", Verdict.BAD, str(error))
    else:
        missing = not_there(store)
        yield from check_up(store)
        if missing and not not_there(store):
            yield _finding("store", f"{store.url} was not there; it is made now, and empty")
        yield _disk(store)
        yield from _leftovers(queue, repair=options.repair)
        yield from _memory(queue)
    yield from _code()
    yield from _messages()
    yield _versions()
    yield _machine()
    yield _accelerators()


def _leftovers(queue: Queue, *, repair: bool) -> Iterator[Finding]:
    """What lies in the folders of jobs and is no job, any more or yet; gone with `repair`."""
    try:
        jobs = Onlooker(queue)
        known = {view.job.id for view in jobs.look()} | jobs.unreadable.keys()
        names = [name for name in queue.ids() if name not in known]
        found = leftovers(queue.store, names, older_than=_UNDER_WAY)
        if repair:
            found = _removed(queue, found) | _late(queue, known)
    except StoreError:  # which the checks of the store or `status` report
        return
    if found:
        each = "; ".join(f"{name}: {why}" for name, why in found.items())
        done = "removed" if repair else "no job needs it, --repair removes it"
        yield _finding("leftovers", f"{each}: {done}", doubtful=not repair)
    elif repair:
        yield _finding("leftovers", "there is nothing to remove")


def _removed(queue: Queue, found: Mapping[str, str]) -> dict[str, str]:
    """Remove leftovers; return those that were still none when it came to it."""
    return {
        name: why
        for name, why in found.items()
        if queue.remove_leftover(name, older_than=_UNDER_WAY)
    }


def _late(queue: Queue, names: Iterable[str]) -> dict[str, str]:
    """Remove what earlier jobs of these names wrote late; what was removed, by job."""
    found = {}
    for name in names:
        with suppress(StoreError):  # of this job's records, which `status` reports
            for key in remove_late(queue.store, name):
                found[name] = f"{key} was written late by an earlier job of that name"
    return found


def _show(finding: Finding) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    mark, colour = _SHOWN[finding.verdict]
    if not console.is_terminal:
        print(f"{mark:<8}  {finding.name:<16}  {finding.text}")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(width=8, style=colour)
    table.add_column(width=16)
    table.add_column()
    table.add_row(mark, finding.name, finding.text)
    console.print(table, markup=False, highlight=False)


def _finding(name: str, text: str, *, doubtful: bool = False) -> Finding:
    return Finding(name, Verdict.WARNING if doubtful else Verdict.OK, text)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _versions() -> Finding:
    found = {"Python": sys.version.split()[0], **{name: _version(name) for name in _PACKAGES}}
    text = ", ".join(f"{name} {number}" for name, number in found.items())
    lacks_keras = found["keras"] == "missing"
    if lacks_keras:
        text += ": this machine can look at jobs and not train them; pip install tensorflow"
    return _finding("versions", text, doubtful=lacks_keras)


def _code() -> Iterator[Finding]:
    """Which programs of the user's own this machine has, where it was given a folder of code."""
    try:
        if root := code.folder():
            files = (root / "programs" / f"{one}.py" for one in registry.names("programs"))
            names = ", ".join(path.stem for path in files if path.is_file()) or "none"
            yield _finding("code", f"{root}: programs {names}", doubtful=names == "none")
    except SpecError as error:
        yield _finding("code", str(error), doubtful=True)


def _messages() -> Iterator[Finding]:
    """Where this machine's workers send messages, if anywhere."""
    if urls := os.environ.get("RUNNER_NOTIFY", "").strip():
        from runner.engine.messages import names, open_services

        try:
            services, wrong = open_services(urls)
        except SpecError as error:
            services, wrong = [], [str(error)]
        known = [f"to {names(services)}; 'runner notify' sends a test"] if services else []
        yield _finding("messages", "; ".join(known + wrong), doubtful=bool(wrong))


def _machine() -> Finding:
    from runner.machine.hardware import cores
    from runner.machine.memory import memory_bytes

    memory = memory_bytes()
    text = f"{cores()} cores" + (f", {memory / 1e9:.1f} GB of memory" if memory else "")
    return _finding("machine", text)


def _memory(queue: Queue) -> Iterator[Finding]:
    """Whether the pending jobs fit into this machine, as far as their data show."""
    from runner.training.check import memory_needed, memory_words, short_of_memory

    try:
        ids = [view.job.id for view in Onlooker(queue).look() if not view.job.ended]
        specs = {name: queue.spec(name) for name in ids[:MOST_JOBS]}
    except StoreError:  # which the checks of the store or `status` report
        return
    if not specs:
        return
    needs = {name: memory_needed(spec) for name, spec in specs.items()}
    largest = max(needs, key=lambda name: needs[name])
    most = memory_words(needs[largest])
    text = f"{largest} needs {most}"
    if len(specs) > 1:
        looked = f"the first {len(specs)} of " if len(ids) > len(specs) else ""
        text = f"of {looked}{len(ids)} jobs to be done, {largest} needs most: {most}"
    large = [name for name, spec in specs.items() if short_of_memory(spec)]
    if large:
        text += f". Left for another machine: {', '.join(large)}"
    yield _finding("memory", text, doubtful=bool(large))


def _accelerators() -> Finding:
    from runner.machine.hardware import cards, cpu_devices
    from runner.training.quiet import import_keras

    try:
        import_keras()
        from runner.training import backends

        usable = backends.current().accelerators()
    except (ImportError, SpecError) as error:
        return _finding("GPU", str(error), doubtful=True)
    installed = cards()
    text = "none: trainings run on the CPU"
    if (count := cpu_devices()) > 1:
        text += f", as {count} devices (RUNNER_CPU_DEVICES)"
    if usable:
        text = f"{len(usable)} usable: {'; '.join(installed or usable)}"
        if len(usable) > 1:
            text += ". A job uses one, or as many as its training.devices says"
    elif installed:
        text = f"{'; '.join(installed)}: installed, but Keras's backend can't use it. Install "
        text += "its CUDA libraries: pip install 'tensorflow[and-cuda]'"
    return _finding("GPU", text, doubtful=bool(installed and not usable))


def _disk(store: Store) -> Finding:
    places = {"temporary files": Path(tempfile.gettempdir())}
    if store.url.startswith("file://"):
        places = {"the store": Path(store.url.removeprefix("file://")), **places}
    free = {name: shutil.disk_usage(path).free for name, path in places.items() if path.exists()}
    text = ", ".join(f"{amount / 1e9:.1f} GB free for {name}" for name, amount in free.items())
    little = min(free.values(), default=_LITTLE_DISK) < _LITTLE_DISK
    if little:
        text += ": a long training keeps three checkpoints, make room"
    return _finding("disk", text, doubtful=little)
