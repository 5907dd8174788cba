"""`runner drill`: prove on this machine and this bucket that a killed training is the same one."""

import argparse
import json
import os
import secrets
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from runner.cli.common import add_code_option, add_store_option, open_queue, say, store_url
from runner.cli.render import show
from runner.cli.specs import add_set_option
from runner.cli.working import catch_signals
from runner.errors import PreemptedError, SpecError
from runner.exit import Exit

if TYPE_CHECKING:
    from runner.engine.drill.base import Drill, Task, Verdict

LEASE_SECONDS = "9"  # a heartbeat every 1.5 s, so that little is unknown about the moment of death
MOST_KILLS = 1000
EPILOG = """\
With a SPEC, or with nothing: a job is trained in the store, once undisturbed and once killed
(SIGKILL), and digest, History and evaluation are compared.

With `-- PROGRAM`, such as `runner drill -- python train.py`: any program whose fit has a
runner.BackupAndRestore. It runs in this folder, once undisturbed and once killed and started again,
with its backup in a temporary folder; its own is not touched. After each step all variables, the
batches, History and what callbacks and layers hold are compared; what differs first is named.
"""
_OF_PROGRAMS = ("steps", "epochs", "every", "ignore")
_OF_JOBS = ("spec", "changes", "store")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `drill`, in both of its forms."""
    parser.usage = (
        f"{parser.prog} [OPTIONS] [SPEC]\n       {parser.prog} [OPTIONS] -- PROGRAM [...]"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    spec = "a JSON file (default: a small built-in)"
    add("spec", metavar="SPEC", nargs="?", type=Path, help=spec)
    add("--kills", metavar="N", type=int, default=5, help="how often to kill (default: 5)")
    add("--seed", metavar="N", type=int, help="of the moments of the kills")
    add("--json", action="store_true", help="for programs: one JSON document")
    add_set_option(parser)
    add_store_option(parser)
    add_code_option(parser)
    add = parser.add_argument_group("of a program").add_argument
    add("--steps", metavar="N", type=int, help="no more steps than these")
    add("--epochs", metavar="N", type=int, help="no more epochs than these")
    add("--every", metavar="N", type=int, help="compare after every N steps (default: 1)")
    other = "what may differ, such as a clock: 'callback Timer.*' (may be given again)"
    add("--ignore", metavar="NAME", action="append", help=other)


def run(options: argparse.Namespace) -> int:
    """Drill; exit code 0 only if nothing differs."""
    from rich.console import Console

    from runner.engine.drill.base import Task

    _check(options)
    seed = secrets.randbelow(10_000) if options.seed is None else options.seed
    stop = catch_signals()
    stop.idle = True  # the jobs are its workers'
    live = sys.stderr.isatty() and not options.json
    with Console(stderr=True, quiet=not live).status("starting") as status:
        task = Task(
            kills=options.kills, random=Random(seed), stop=stop, note=say, now=status.update
        )
        try:
            say(f"the kills of this drill: --seed {seed}")
            drill = _drill_job if options.program is None else _drill_program
            verdict, more = drill(options, task)
        except PreemptedError as error:
            say(f"runner: {error}")
            return Exit.INTERRUPTED
    if options.json:
        print(json.dumps({"seed": seed, **verdict.to_json(), **more}, indent=2))
    else:
        _show(verdict)
    return Exit.DONE if verdict.passed else Exit.FAILED


def _check(options: argparse.Namespace) -> None:
    """Refuse wrong numbers and options of the other form. Raises SpecError."""
    if not 1 <= options.kills <= MOST_KILLS:
        raise SpecError(f"--kills received {options.kills}; expected 1 to {MOST_KILLS}")
    is_job = options.program is None
    for name in _OF_PROGRAMS if is_job else _OF_JOBS:
        if getattr(options, name):
            what = {"changes": "--set", "spec": str(options.spec)}.get(name, f"--{name}")
            form = (
                "a program: runner drill -- python train.py" if is_job else "a job, not a program"
            )
            raise SpecError(f"{what} is for the drill of {form}")
    if options.program == []:
        msg = "no program after --; expected one such as: runner drill -- python train.py"
        raise SpecError(msg)
    for name in ("steps", "epochs", "every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SpecError(f"--{name} received {value}; expected 1 or more")


def _drill_job(options: argparse.Namespace, task: "Task") -> tuple["Verdict", dict[str, Any]]:
    """Drill a job; what else a script wants to know: what is left in the store."""
    from runner import specfile
    from runner.engine.drill.job import SPEC, JobDrill
    from runner.spec import parse
    from runner.training.check import check_data

    if options.spec is not None:
        spec = specfile.load(options.spec, options.changes)
    else:
        spec = parse(specfile.changed(SPEC, options.changes), source="the built-in spec")
    check_data([(options.spec or "drill", spec)])
    queue, store = open_queue(options)
    environment = {
        "RUNNER_STORE": store_url(options),
        "RUNNER_NOTIFY": "",  # nobody has to know
        "RUNNER_LEASE_SECONDS": os.environ.get("RUNNER_LEASE_SECONDS") or LEASE_SECONDS,
    }
    drill = JobDrill(queue, spec, task, environment=environment, nonce=secrets.token_hex(4))
    try:
        verdict = _run(drill)
    finally:
        for name, state in drill.left.items():
            say(f"{name}: {state}; it stays in {store.url} until 'runner remove {name}'")
    return verdict, {"jobs": drill.left, "store": store.url}


def _drill_program(options: argparse.Namespace, task: "Task") -> tuple["Verdict", dict[str, Any]]:
    """Drill a program."""
    from runner.engine.drill.program import ProgramDrill
    from runner.training.orders import Orders

    orders = Orders(steps=options.steps, epochs=options.epochs, every=options.every or 1)
    drill = ProgramDrill(options.program, task, orders=orders, ignored=options.ignore or ())
    return _run(drill), {}


def _run(drill: "Drill") -> "Verdict":
    verdict = drill.run()
    if not verdict.passed:
        say(f"traces and what the program said: {drill.folder}")
    return verdict


def _show(verdict: "Verdict") -> None:
    """Print the table of kills and what was found."""
    from rich.console import Console
    from rich.text import Text

    show(verdict.rows)
    first, *more = verdict.lines
    console = Console()
    console.print(Text(first, "bold green" if verdict.passed else "bold red"), soft_wrap=True)
    for line in more:
        console.print(Text(line), soft_wrap=True)
