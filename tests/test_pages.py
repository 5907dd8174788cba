"""The pages are true: what they name exists, what they show runs as it stands."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import runner
from runner import spec
from runner.cli.main import ALIASES, COMMANDS, build_parser
from tests.harness import ENVIRONMENT, REPOSITORY, Runner

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for place in ("", "docker", "jobs", "runner", "tests")
    for path in (REPOSITORY / place).glob("**/*.md" if place else "*.md")
    if "notebooks" not in path.parts
)
MOST_LINES = 230  #: of the README

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`")
_DEFINITION = re.compile(r"^\[([^\]]+)\]: (\S+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SHORT = re.compile(r"\[(\w+)\](?![(:\w\[])")
_FILE = re.compile(r"`((?:runner|tests|docker|jobs)/[\w./-]+\.\w+)`")


def text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its code."""
    return _INLINE.sub("", _FENCE.sub("", text(page)))


def block(page: str, language: str, containing: str) -> str:
    """The one block of code in that language that has these words."""
    found = [code for name, code in _FENCE.findall(text(page)) if name == language]
    (code,) = [code for code in found if containing in code]
    return str(code)


def anchors(path: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    lines = _FENCE.sub("", path.read_text(encoding="utf-8")).splitlines()
    heads = [line.lstrip("#").strip().lower() for line in lines if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in heads}


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_exists(page: str) -> None:
    targets = [*_LINK.findall(prose(page)), *(path for _, path in _DEFINITION.findall(text(page)))]
    missing = []
    for target in targets:
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (REPOSITORY / page).parent / name if name else REPOSITORY / page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(target)
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_a_file_that_a_page_names_exists(page: str) -> None:
    """But for the two that a reader is to write."""
    written = {"runner/models/mine.py", "runner/datasets/stripes.py"}
    named = set(_FILE.findall(text(page))) - written
    assert not {name for name in named if not (REPOSITORY / name).exists()}


@pytest.mark.parametrize("page", ["runner/README.md", "runner/training/README.md"])
def test_each_file_stands_once_at_the_end_and_is_named_above(page: str) -> None:
    defined = dict(_DEFINITION.findall(text(page)))
    assert list(defined) == sorted(defined)
    assert set(_SHORT.findall(_DEFINITION.sub("", prose(page)))) == set(defined)
    assert text(page).rstrip().endswith(list(defined.values())[-1])


def test_the_map_has_every_package_and_module() -> None:
    rows = "".join(re.findall(r"^\| (`.*?) \|", text("runner/README.md"), re.MULTILINE))
    for path in (REPOSITORY / "runner").iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"`{path.name}/`" in rows, path.name
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert f"`{path.stem}`" in rows, path.name


def test_the_map_has_every_public_name() -> None:
    (said,) = re.findall(r"^`import runner` offers (.*?) \(", text("runner/README.md"), re.M | re.S)
    assert sorted(re.findall(r"`(\w+)`", said)) == sorted(runner.__all__)


def test_the_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) <= MOST_LINES


# ---------------------------------------------------------------------- commands


def commands() -> Iterator[tuple[str, str]]:
    """Yield page and command for each line of code, indented or fenced, that calls `runner`."""
    for page in PAGES:
        for line in text(page).splitlines():
            if re.match(r"(    )?runner \w", line):
                yield page, line


def test_the_commands_are_ones_that_runner_has() -> None:
    found = list(commands())
    assert len(found) > 25
    for page, command in found:
        arguments = shlex.split(command, comments=True)[1:]
        if "--" in arguments:  # a program of the user's
            arguments = arguments[: arguments.index("--")]
        arguments[0] = ALIASES.get(arguments[0], arguments[0])
        assert arguments[0] in COMMANDS, f"{page}: {command}"
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                build_parser(arguments).parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{page}: {command}\n{said.getvalue()}")


@pytest.mark.parametrize("page", PAGES)
def test_the_targets_of_make_are_there(page: str) -> None:
    makefile = text("Makefile")
    named = re.findall(r"(?:`|^    (?:\w+=\w+ )?)make ([a-z][\w-]*)", text(page), re.MULTILINE)
    targets = set(re.findall(r"[\w-]+", re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0]))
    assert set(named) <= targets


# ---------------------------------------------------------------------- code


def test_the_pages_job_is_a_spec() -> None:
    page = "runner/models/README.md"
    job = json.loads(block(page, "json", "digits-small"))
    assert spec.parse(job, source=page).name == "digits-small"


def test_the_readmes_program_is_a_job(tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    program = block("README.md", "python", "def program")
    (tmp_path / "programs" / "houses.py").write_text(program)
    (tmp_path / "houses.json").write_text(block("README.md", "json", "houses-wide"))
    store = Runner(tmp_path / "store")
    code = str(tmp_path)
    store.ok("submit", str(tmp_path / "houses.json"), "--code", code, "--set", "training.epochs=2")
    assert store.status("houses-wide")["evaluation"]["mae"] > 0


@pytest.mark.slow
def test_the_readmes_notebook_trains(tmp_path: Path) -> None:
    """As it stands, and again."""
    cell = block("README.md", "python", "BackupAndRestore")
    assert len(cell.splitlines()) <= 11
    done = subprocess.run(
        [sys.executable, "-c", f"{cell}\n{cell}"],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Epoch 5/5") == 2
    assert not (tmp_path / "backup").exists()


def test_the_pages_model_is_one() -> None:
    module = types.ModuleType("mine")
    exec(block("runner/models/README.md", "python", "def build"), module.__dict__)
    assert module.build(input_shape=(8, 8, 3), classes=2, units=4).output_shape == (None, 2)


def test_the_data_set_of_the_page_is_one() -> None:
    module = types.ModuleType("stripes")
    exec(block("runner/datasets/README.md", "python", "def load"), module.__dict__)
    assert module.load(width=2).class_names == ("odd", "even")
