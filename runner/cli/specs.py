"""Spec files on the command line: `SPEC… [--set key=value]`."""

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from runner import specfile
from runner.cli.common import add_code_option
from runner.errors import SpecError
from runner.spec import JobSpec


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    """The spec files, and changes to all of them."""
    parser.add_argument("spec", metavar="SPEC", nargs="+", type=Path, help="a JSON file")
    add_set_option(parser)
    add_code_option(parser)


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """`--set KEY=VALUE`."""
    words = "change a field, such as training.epochs=2 (again for more)"
    add = partial(parser.add_argument, action="append", default=[], type=_change, help=words)
    add("--set", metavar="KEY=VALUE", dest="changes")


def _change(text: str) -> str:
    if "=" not in text:
        msg = f"received {text!r}; expected key=value such as training.epochs=2"
        raise argparse.ArgumentTypeError(msg)
    return text


def local_paths(specs: Iterable[JobSpec]) -> list[str]:
    """The data of these jobs that only this machine may have: `data.path /srv/x.npz`."""
    paths = paths_of(specs).items()
    return sorted(f"{field} {path}" for path, field in paths if "://" not in path)


def paths_of(specs: Iterable[JobSpec]) -> dict[str, str]:
    """Where the data of these jobs lie, and the field that says so."""
    parts = (("program.path", s.program) if s.program else ("data.path", s.data) for s in specs)
    return {part.path: field for field, part in parts if part.path}


def load_all(options: argparse.Namespace, *, data: bool = False) -> list[tuple[Path, JobSpec]]:
    """All specs and their files, or all mistakes of all of them at once.

    `data`: they are checked against their data next, so their mistakes there are told as well.

    Raises:
        SpecError: any file has a mistake, or two have the same name.
    """
    loaded: list[tuple[Path, JobSpec]] = []
    mistakes, others = [], list[tuple[Path | str, JobSpec]]()
    for path in options.spec:
        try:
            loaded += [(path, one) for one in specfile.load_all(path, options.changes)]
        except SpecError as error:
            mistakes.append(str(error))
            others += error.data
    mistakes = mistakes or _same_name(loaded)
    if mistakes and data:
        from runner.training.check import check_data

        try:
            check_data([*others, *loaded])
        except SpecError as error:
            mistakes.append(str(error))
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return loaded


def _same_name(loaded: Iterable[tuple[Path, JobSpec]]) -> list[str]:
    """Say that two have the same name; nothing if all have one of their own."""
    seen: dict[str, Path] = {}
    for path, one in loaded:
        if one.name in seen:
            other = "another job of its sweep" if seen[one.name] == path else seen[one.name]
            text = f"{path}: the name {one.name!r} is that of {other} too; each job needs its own"
            return [text]
        seen[one.name] = path
    return []
