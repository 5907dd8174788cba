"""`runner doctor`: whether this machine and this store can keep the promises, and how fast."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runner.cli.common import add_store_option, open_queue
from runner.errors import SpecError, StoreError
from runner.exit import Exit
from runner.queue.queue import Queue
from runner.store.base import Store
from runner.store.checkup import Finding, Verdict, check_up

_PACKAGES = ("tensorflow", "jax", "keras", "numpy", "fsspec", "gcsfs", "s3fs")
MOST_JOBS = 100  #: whose specs are looked at
_LITTLE_DISK = 2_000_000_000  # bytes
_MARKS = {Verdict.OK: "ok", Verdict.WARNING: "warning", Verdict.BAD: "BAD"}
_COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.BAD: "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `doctor`."""
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Try everything; exit code 6 if the store can't keep the promises."""
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
        yield from check_up(store)
        yield from _disk(store)
        yield from _memory(queue)
    yield _versions()
    yield _machine()
    yield _accelerators()


def _show(finding: Finding) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table.grid(padding=(0, 2))
    table.add_column(width=8, style=_COLOURS[finding.verdict])
    table.add_column(width=16)
    table.add_column()
    table.add_row(_MARKS[finding.verdict], finding.name, finding.text)
    console.print(table, markup=False, highlight=False)


def _versions() -> Finding:
    found = [f"Python {sys.version.split()[0]}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} missing")
    lacks_keras = "keras missing" in found
    text = ", ".join(found)
    if lacks_keras:
        text += ": this machine can look at jobs and not train them; pip install tensorflow"
    return Finding("versions", Verdict.WARNING if lacks_keras else Verdict.OK, text)


def _machine() -> Finding:
    from runner.machine.hardware import cores
    from runner.machine.memory import memory_bytes

    memory = memory_bytes()
    text = f"{cores()} cores" + (f", {memory / 1e9:.1f} GB of memory" if memory else "")
    return Finding("machine", Verdict.OK, text)


def _memory(queue: Queue) -> Iterator[Finding]:
    """Whether the jobs that are to be done fit into this machine, as far as their data tell."""
    from runner.training.check import memory_needed, memory_words, short_of_memory

    try:
        jobs = [job for job in queue.jobs(lambda *_: None) if not job.ended]
        specs = {job.id: queue.spec(job.id) for job in jobs[:MOST_JOBS]}
    except StoreError:  # which the checks of the store have told, or `status` tells
        return
    if specs:
        needs = {name: memory_needed(spec) for name, spec in specs.items()}
        largest = max(needs, key=lambda name: needs[name])
        text = (
            f"of {len(specs)} jobs to be done {largest} takes most: {memory_words(needs[largest])}"
        )
        large = [name for name, spec in specs.items() if short_of_memory(spec)]
        if large:
            text += f". Left for another machine: {', '.join(large)}"
        yield Finding("memory", Verdict.WARNING if large else Verdict.OK, text)


def _accelerators() -> Finding:
    from runner.machine.hardware import cards
    from runner.training.quiet import import_keras

    try:
        import_keras()
        from runner.training import backends

        usable = backends.current().accelerators()
    except (ImportError, SpecError) as error:
        return Finding("GPU", Verdict.WARNING, str(error))
    installed = cards()
    if usable:
        names = "; ".join(installed or usable)
        return Finding("GPU", Verdict.OK, f"{len(usable)} usable: {names}")
    if installed:
        text = (
            f"{'; '.join(installed)}: installed, but Keras's backend can't use it. Install "
            "its CUDA libraries: pip install 'tensorflow[and-cuda]'"
        )
        return Finding("GPU", Verdict.WARNING, text)
    return Finding("GPU", Verdict.OK, "none: trainings run on the CPU")


def _disk(store: Store) -> Iterator[Finding]:
    places = {"temporary files": Path(tempfile.gettempdir())}
    if store.url.startswith("file://"):
        places = {"the store": Path(store.url.removeprefix("file://")), **places}
    free = {name: shutil.disk_usage(path).free for name, path in places.items() if path.exists()}
    text = ", ".join(f"{amount / 1e9:.1f} GB free for {name}" for name, amount in free.items())
    little = min(free.values(), default=_LITTLE_DISK) < _LITTLE_DISK
    if little:
        text += ": a long training keeps three checkpoints, make room"
    yield Finding("disk", Verdict.WARNING if little else Verdict.OK, text)
