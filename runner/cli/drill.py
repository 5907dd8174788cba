"""`runner drill`: prove on this machine and this bucket that a killed training is the same one."""

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runner.cli import script_drill
from runner.cli.common import add_store_option, open_queue, say, store_url
from runner.cli.exit import Exit
from runner.cli.render import show
from runner.cli.specs import add_set_option
from runner.cli.working import catch_signals
from runner.errors import PreemptedError, SpecError
from runner.queue.view import duration

if TYPE_CHECKING:
    from runner.engine.drill import Drill, Event, Kill, Verdict
    from runner.engine.script_drill import ScriptVerdict
    from runner.spec import JobSpec

LEASE_SECONDS = "9"  # a heartbeat every 1.5 s, so that little is unknown about the moment of death
MOST_KILLS = 1000
PLAIN_SECONDS = 10.0  #: between plain progress lines
EPILOG = """\
With a SPEC, or with nothing: a job is trained in the store, once undisturbed and once killed
(SIGKILL), and digest, History and evaluation are compared.

With `-- PROGRAM`, such as `runner drill -- python train.py`: any program whose fit has a
runner.BackupAndRestore. It runs in this folder, once undisturbed and once killed and started again,
with its backup in a temporary folder; its own is not touched. After each step all variables, the
batches, History and what callbacks and layers hold are compared; what differs first is named.
"""
HEADER = ("KILL", "DURING", "AT STEP", "LOST STEPS", "RECOVERY")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `drill`, in both of its forms."""
    parser.usage = (
        f"{parser.prog} [OPTIONS] [SPEC]\n       {parser.prog} [OPTIONS] -- PROGRAM [...]"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "spec", metavar="SPEC", nargs="?", type=Path, help="a JSON file (default: a small built-in)"
    )
    parser.add_argument(
        "--kills", metavar="N", type=int, default=5, help="how often to kill (default: 5)"
    )
    parser.add_argument("--seed", metavar="N", type=int, help="of the moments of the kills")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")
    add_set_option(parser)
    add_store_option(parser)
    script_drill.add_arguments(parser.add_argument_group("of a program"))


def run(options: argparse.Namespace) -> int:
    """Drill; exit code 0 only if nothing differs."""
    if not 1 <= options.kills <= MOST_KILLS:
        msg = f"--kills received {options.kills}; expected 1 to {MOST_KILLS}"
        raise SpecError(msg)
    script_drill.check(options)
    if options.program is not None:
        return script_drill.run(options)
    from runner.engine.drill import Drill
    from runner.training.check import check_data

    stop = catch_signals()
    spec = _spec(options)
    check_data([(options.spec or "drill", spec)])
    queue, store = open_queue(options)
    drill = Drill(
        queue,
        spec,
        kills=options.kills,
        environment={
            "RUNNER_STORE": store_url(options),
            "RUNNER_LEASE_SECONDS": os.environ.get("RUNNER_LEASE_SECONDS") or LEASE_SECONDS,
        },
        stop=stop,
        random=Random(options.seed),
        nonce=secrets.token_hex(4),
    )
    try:
        verdict = _watch(drill, options)
    except PreemptedError as error:
        say(f"runner: {error}")
        return Exit.INTERRUPTED
    finally:
        _say_left(drill, store.url)
    if options.json:
        print(json.dumps(_document(verdict, drill, store.url), indent=2))
    else:
        show_verdict(
            [HEADER, *map(kill_cells, verdict.kills)], verdict_text(verdict), verdict.passed
        )
    return Exit.DONE if verdict.passed else Exit.FAILED


def _spec(options: argparse.Namespace) -> "JobSpec":
    from runner import specfile
    from runner.engine.drill import SPEC
    from runner.spec import parse

    if options.spec is not None:
        return specfile.load(options.spec, options.changes)
    return parse(specfile.changed(SPEC, options.changes), source="the built-in spec")


def _watch(drill: "Drill", options: argparse.Namespace) -> "Verdict":
    from rich.console import Console

    from runner.engine.drill import Verdict

    console = Console(stderr=True)
    live = console.is_terminal and not options.json
    with _Live(console) if live else nullcontext(_Plain()) as screen:
        for event in drill.run():
            if isinstance(event, Verdict):
                return event
            screen.tell(event)
    raise PreemptedError("the drill ended without a verdict.")


def _say_left(drill: "Drill", url: str) -> None:
    """The jobs of a drill stay, as all jobs do: say where and how."""
    for name, state in drill.left.items():
        say(f"{name}: {state}; its records stay under {url}/jobs/{name}/")


# ---------------------------------------------------------------------- words


def began_text(job_id: str, kills: int) -> str:
    """The line that opens a training."""
    return f"{job_id}: " + (f"to be killed {kills} times" if kills else "nobody disturbs it")


def kill_cells(kill: "Kill") -> tuple[str, ...]:
    """A row of the table."""
    recovery = "..." if kill.recovery_seconds is None else f"{kill.recovery_seconds:.1f} s"
    during = "training" if kill.stage == "train" else "evaluation"
    return (str(kill.number), during, str(kill.step), str(kill.lost_steps), recovery)


def kill_text(kill: "Kill") -> str:
    """A row as a sentence, for log files."""
    _, during, step, lost, recovery = kill_cells(kill)
    if kill.recovery_seconds is None:
        return f"kill {kill.number}: during the {during} at step {step}, {lost} steps lost"
    return f"kill {kill.number}: going on after {recovery}"


def verdict_text(verdict: "Verdict") -> list[str]:
    """What the drill showed, the verdict first."""
    killed = verdict.killed
    same = f"final digest {killed.digest[:16]} at step {killed.step}, History"
    same += ", evaluation" if killed.evaluation else ""
    return verdict_lines(
        verdict, same, "the job ended before a kill. Give it more training.epochs."
    )


def verdict_lines(verdict: "Verdict | ScriptVerdict", same: str, unproven: str) -> list[str]:
    """What a drill showed: what is the same, what differs, or why nothing is known."""
    kills, planned = len(verdict.kills), verdict.planned
    times = f"killed {kills} times" if kills != 1 else "killed once"
    if kills < planned:
        times += f" ({planned} were planned; it ended before)"
    if verdict.differences and not kills:
        return ["DIFFERENT without being killed:", *(f"  {one}" for one in verdict.differences)]
    if verdict.differences:
        return [f"DIFFERENT after being {times}:", *(f"  {one}" for one in verdict.differences)]
    if not kills:
        return [f"NOTHING PROVEN: {unproven}"]
    return [f"IDENTICAL, {times}: {same}"]


def show_verdict(rows: Sequence[Sequence[str]], lines: Sequence[str], passed: bool) -> None:
    """Print the table of kills and what was found."""
    from rich.console import Console
    from rich.text import Text

    show(rows)
    console = Console()
    if not console.is_terminal:
        sys.stdout.write("\n".join(lines) + "\n")
        return
    first, *more = lines
    console.print(Text(first, "bold green" if passed else "bold red"))
    for line in more:
        console.print(Text(line), soft_wrap=True)


def _document(verdict: "Verdict", drill: "Drill", url: str) -> Mapping[str, Any]:
    kills = [
        {
            "kill": kill.number,
            "stage": kill.stage,
            "step": kill.step,
            "committed": kill.committed,
            "lost_steps": kill.lost_steps,
            "recovery_seconds": kill.recovery_seconds,
        }
        for kill in verdict.kills
    ]
    return {
        "passed": verdict.passed,
        "identical": not verdict.differences,
        "differences": list(verdict.differences),
        "planned": verdict.planned,
        "kills": kills,
        "jobs": dict(drill.left),
        "undisturbed": asdict(verdict.undisturbed),
        "killed": asdict(verdict.killed),
        "store": url,
    }


# ---------------------------------------------------------------------- the screen


class _Plain:
    """Lines for a log file."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def tell(self, event: "Event") -> None:
        text = _event_text(event)
        if text is None:
            if time.monotonic() - self._said_at < PLAIN_SECONDS:
                return
            text = _now_text(event)
        self._said_at = time.monotonic()
        say(text)


class _Live:
    """A table that grows, and a line that moves."""

    def __init__(self, console: Any) -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._kills: dict[int, Kill] = {}

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def tell(self, event: "Event") -> None:
        from runner.engine.drill import Killed

        if isinstance(event, Killed):
            self._kills[event.kill.number] = event.kill
        elif (text := _event_text(event)) is not None:
            self._console.print(text, markup=False, highlight=False)
        else:
            self._live.update(self._picture(_now_text(event)))

    def _picture(self, now: str) -> Any:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.table import Table

        spinner = Spinner("dots", now)
        if not self._kills:
            return spinner
        table = Table(*HEADER, box=None, pad_edge=False)
        for kill in self._kills.values():
            table.add_row(*kill_cells(kill))
        return Group(table, spinner)


def _event_text(event: "Event") -> str | None:
    """A line for what happens once, None for a mere look."""
    from runner.engine.drill import Began, Finished, Killed

    if isinstance(event, Began):
        return began_text(event.job_id, event.kills)
    if isinstance(event, Killed):
        return kill_text(event.kill)
    if isinstance(event, Finished):
        return f"{event.job_id}: succeeded in {duration(event.seconds)}"
    return None


def _now_text(event: "Event") -> str:
    from runner.engine.drill import Seen

    if not isinstance(event, Seen):
        return ""
    sight = event.sight
    if event.waiting is not None:
        what = f"recovering from kill {event.waiting.number}"
    elif sight.evaluating:
        what = "evaluating"
    elif not sight.step:
        what = "starting"
    else:
        what = f"step {sight.step}" + (f" of {sight.steps} at most" if sight.steps else "")
    return f"{sight.job.id}: {what}, {duration(event.seconds)}"
