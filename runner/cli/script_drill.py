"""`runner drill -- PROGRAM`: a program's training, killed and resumed, against itself."""

import argparse
import json
import secrets
import sys
from dataclasses import asdict
from random import Random
from typing import TYPE_CHECKING, Any

from runner.cli.common import say
from runner.cli.exit import Exit
from runner.cli.working import catch_signals
from runner.errors import PreemptedError, SpecError
from runner.training.orders import Orders

if TYPE_CHECKING:
    from runner.engine.script_drill import ScriptDrill, ScriptVerdict

HEADER = ("KILL", "AFTER STEP", "RESUMED AFTER STEP")
_OF_PROGRAMS = ("steps", "epochs", "every", "ignore")
_OF_JOBS = ("spec", "changes", "store")


def add_arguments(parser: Any) -> None:
    """The options that only a program's drill has."""
    parser.add_argument("--steps", metavar="N", type=int, help="no more steps than these")
    parser.add_argument("--epochs", metavar="N", type=int, help="no more epochs than these")
    parser.add_argument(
        "--every", metavar="N", type=int, help="compare after every N steps (default: 1)"
    )
    parser.add_argument(
        "--ignore",
        metavar="NAME",
        action="append",
        help="what may differ, such as a clock: 'callback Timer.*' (may be given again)",
    )


def check(options: argparse.Namespace) -> None:
    """Refuse options of the other form. Raises SpecError."""
    is_job = options.program is None
    for name in _OF_PROGRAMS if is_job else _OF_JOBS:
        if getattr(options, name):
            what = {"changes": "--set", "spec": str(options.spec)}.get(name, f"--{name}")
            form = (
                "a program: runner drill -- python train.py" if is_job else "a job, not a program"
            )
            msg = f"{what} is for the drill of {form}"
            raise SpecError(msg)
    if options.program == []:
        msg = "no program after --; expected one such as: runner drill -- python train.py"
        raise SpecError(msg)
    for name in ("steps", "epochs", "every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            msg = f"--{name} received {value}; expected 1 or more"
            raise SpecError(msg)


def run(options: argparse.Namespace) -> int:
    """Drill; exit code 0 only if nothing differs."""
    from runner.cli.drill import show_verdict
    from runner.engine.script_drill import ScriptDrill

    stop = catch_signals()
    seed = secrets.randbelow(10_000) if options.seed is None else options.seed
    say(f"the kills of this drill: --seed {seed}")
    drill = ScriptDrill(
        options.program,
        kills=options.kills,
        orders=Orders(steps=options.steps, epochs=options.epochs, every=options.every or 1),
        ignored=options.ignore or (),
        random=Random(seed),
        stop=stop,
    )
    try:
        verdict = _watch(drill, live=sys.stderr.isatty() and not options.json)
    except PreemptedError as error:
        say(f"runner: {error}")
        return Exit.INTERRUPTED
    if options.json:
        print(json.dumps({"passed": verdict.passed, "seed": seed, **asdict(verdict)}, indent=2))
    else:
        rows = [(str(k.number), str(k.step), str(k.resumed_at)) for k in verdict.kills]
        show_verdict([HEADER, *rows], verdict_text(verdict), verdict.passed)
    if not verdict.passed:
        say(f"traces and what the program said: {drill.folder}")
    return Exit.DONE if verdict.passed else Exit.FAILED


def verdict_text(verdict: "ScriptVerdict") -> list[str]:
    """What the drill showed, the verdict first."""
    from runner.cli.drill import verdict_lines

    batches = "batches, " if verdict.batches_seen else ""
    same = f"{batches}variables, History and callbacks of {verdict.steps} steps"
    unproven = "the training ended before a kill. Let it make more steps."
    lines = verdict_lines(verdict, same, unproven)
    return lines if verdict.batches_seen else [*lines, "  (its batches can't be seen)"]


def _watch(drill: "ScriptDrill", *, live: bool) -> "ScriptVerdict":
    from rich.console import Console

    from runner.engine.script_drill import ScriptVerdict

    with Console(stderr=True, quiet=not live).status("starting") as status:
        for event in drill.run():
            if isinstance(event, ScriptVerdict):
                return event
            if event.lasting:
                say(event.text)
            status.update(event.text)
    raise PreemptedError("the drill ended without a verdict.")
