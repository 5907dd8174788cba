"""The command `runner`: parses, imports what the command needs, turns errors into exit codes.

Results go to standard output, everything said on the way to standard error, so that
`runner submit … | xargs runner logs` works. A mistake of the user's is one sentence, never a
traceback.
"""

import argparse
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from runner.cli.codes import of_error
from runner.cli.common import use_code
from runner.errors import RunnerError
from runner.exit import Exit
from runner.registry import nearest

#: command → (module that runs it, what it does); modules are imported when used
COMMANDS: dict[str, tuple[str, str]] = {
    "submit": ("submit", "store jobs and work on them here"),
    "extend": ("extend", "train a finished job further, as a new job"),
    "resume": ("resume", "take over what is queued, preempted or lost, until nothing is left"),
    "work": ("work", "work on the whole queue, one job after the other"),
    "status": ("status", "what every job is doing"),
    "logs": ("logs", "what a job's attempts said"),
    "retry": ("verbs", "queue a failed or cancelled job again"),
    "cancel": ("verbs", "end a job for good"),
    "hold": ("verbs", "keep a job from being taken up; a running one is saved first"),
    "unhold": ("verbs", "let a held job be taken up again (also: release)"),
    "priority": ("verbs", "let jobs go before others, or after them"),
    "evaluate": ("verbs", "queue another evaluation of a finished training"),
    "remove": ("remove", "remove jobs that are not running, with all their objects"),
    "du": ("du", "how many bytes each job holds"),
    "compare": ("compare", "what differs between jobs: specs, curves, results"),
    "report": ("report", "write a page that shows and compares what was learnt"),
    "serve": ("serve", "show the report on this machine in a browser, always up to date"),
    "export": (
        "export",
        "write the trained model (.keras, .tflite, .onnx, ...), or its history as CSV",
    ),
    "validate": ("validate", "check specs and print them with every default"),
    "notify": ("notify", "send a test message, as workers send them when a job ends"),
    "schema": ("schema", "print the JSON schema of specs"),
    "notebook": ("notebook", "write a notebook that trains on Colab or Kaggle"),
    "drill": ("drill", "train once undisturbed and once killed, here, and compare every bit"),
    "doctor": ("doctor", "try this machine and the store, and say what they are good for"),
}
ALIASES = {"release": "unhold"}  #: commands by another name, for habits and scripts
RUNS_PROGRAMS = "drill"  #: the command that takes a program and its arguments after `--`


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code of the process."""
    _fix_streams()
    _fix_warnings()
    options = _parse(list(sys.argv[1:] if argv is None else argv))
    module = importlib.import_module(f"runner.cli.{COMMANDS[options.command][0]}")
    try:
        if getattr(options, "code", None) is not None:
            use_code(options.code)
        result = int(module.run(options))
        sys.stdout.flush()
        return result
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # the reader of our output went away (`| head`); nobody is left to read more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except RunnerError as error:
        sys.stderr.write(f"runner: {error}\n")
        return of_error(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        sys.stderr.write(f"runner: the output cannot be written: {error.strerror}\n")
        return Exit.STORAGE


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command and its options; usage and mistakes end the process."""
    arguments[:1] = [ALIASES.get(argument, argument) for argument in arguments[:1]]
    arguments, program = _split(arguments)
    parser = build_parser(arguments)
    first = next(iter(arguments), "-")
    if not first.startswith("-") and first not in COMMANDS:
        known = f"Known: {', '.join(COMMANDS)}."
        parser.error(f"no command {first!r}.{nearest(first, COMMANDS)} {known}")
    options = parser.parse_args(arguments, argparse.Namespace(program=program))
    if options.command is None:
        parser.print_help()
        sys.exit(Exit.USAGE)
    return options


def _split(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """Part a command from the program after `--` that it runs; None where there is none."""
    if arguments[:1] != [RUNS_PROGRAMS] or "--" not in arguments:
        return arguments, None
    end = arguments.index("--")
    return arguments[:end], arguments[end + 1 :]


def _fix_streams() -> None:
    """Give a process without output some, and let no character end a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _fix_warnings() -> None:
    """Let warnings be warnings: with PYTHONWARNINGS=error a library's would fail a job for good."""
    if any("error".startswith(option.partition(":")[0] or "?") for option in sys.warnoptions):
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)  # as Python does by itself


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser; only the command that is named gets its options, the rest are listed."""
    parser = _Parser(
        prog="runner",
        description="Keras trainings that survive the death of their machine, bit for bit.",
        epilog="exit codes: 0 done, 1 a job failed, 2 usage or spec, 3 no such job, 4 not finished"
        " yet, 5 cancelled, 6 storage or credentials, 75 stopped with progress saved (run again),"
        " 130 Ctrl-C",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    named = next((argument for argument in arguments if argument in COMMANDS), None)
    for command, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=summary, description=_sentence(summary))
        if command == named:
            importlib.import_module(f"runner.cli.{module}").add_arguments(subparser)
    return parser


class _Parser(argparse.ArgumentParser):
    """Shows the usage of the very command, and the nearest of what it knows."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if option := next((one for one in unknown if one.startswith("-")), ""):
            name = option.partition("=")[0]
            known = [one[2:] for one in self._option_string_actions if one.startswith("--")]
            field = _field(name) if "set" in known else ""
            near = nearest(name.lstrip("-"), known, "--")
            hint = f" Did you mean '--set {field}=...'?" if field else near
            self.error(f"no option {name!r}.{hint}")
        if unknown:
            self.error(f"too many arguments: {' '.join(unknown)}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += nearest(str(value), map(str, action.choices or ()))
            raise

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        sys.stderr.write(f"runner: {message}\n")
        sys.exit(Exit.USAGE)


def _field(option: str) -> str:
    """Return the field of a spec that an option is named like: --epochs; "" if there is none."""
    from runner.spec import JobSpec
    from runner.specparts import Training

    of_training = {name: f"training.{name}" for name in Training.model_fields}
    fields = of_training | {name: name for name in JobSpec.model_fields}
    return fields.get(option.removeprefix("--").replace("-", "_"), "")


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from importlib.metadata import version

        sys.stdout.write(f"runner {version('keras-runner')}\n")
        sys.exit(Exit.DONE)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
