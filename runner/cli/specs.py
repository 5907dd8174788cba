"""Spec files on the command line: `SPEC… [--set key=value]`."""

import argparse
from collections.abc import Iterable
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
    parser.add_argument(
        "--set", metavar="KEY=VALUE", dest="changes", action="append", default=[], help=words
    )


def local_paths(specs: Iterable[JobSpec]) -> list[str]:
    """The data of these jobs that only this machine may have: `data.path /srv/x.npz`."""
    paths = paths_of(specs).items()
    return sorted(f"{field} {path}" for path, field in paths if "://" not in path)


def paths_of(specs: Iterable[JobSpec]) -> dict[str, str]:
    """Where the data of these jobs lie, and the field that says so."""
    parts = (("program.path", s.program) if s.program else ("data.path", s.data) for s in specs)
    return {part.path: field for field, part in parts if part.path}


def load_all(options: argparse.Namespace) -> list[tuple[Path, JobSpec]]:
    """All specs and their files, or all mistakes of all of them at once.

    Raises:
        SpecError: any file has a mistake, or two have the same name.
    """
    loaded: list[tuple[Path, JobSpec]] = []
    mistakes = []
    for path in options.spec:
        try:
            loaded += [(path, one) for one in specfile.load_all(path, options.changes)]
        except SpecError as error:
            mistakes.append(str(error))
    seen: dict[str, Path] = {}
    for path, one in loaded:
        if not mistakes and one.name in seen:
            mistakes.append(
                f"{path}: the name {one.name!r} is that of {seen[one.name]} too; each job needs"
                " its own"
            )
        seen.setdefault(one.name, path)
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return loaded
