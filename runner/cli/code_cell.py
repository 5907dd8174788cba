"""A notebook's cell with its user's own code: a repository at one commit, or the files themselves.

While the notebook is written, `RUNNER_CODE` is that very code, so that the specs are checked
against what the notebook will have.
"""

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner import code
from runner.cli.common import say
from runner.errors import SpecError
from runner.store.settings import mask

MOST_BYTES = (
    150_000  #: that are carried: Kaggle takes a notebook of a megabyte, runner itself in it
)
NAMED = 12  #: files that are said by their names
MOST_READ = 5_000_000  #: bytes of files that may pack into so few
KINDS = ("programs", "models", "datasets")
_FOLDER = """\
import base64, io, os, subprocess, sys, tempfile, zipfile

code = os.path.join(tempfile.gettempdir(), {name})
os.makedirs(code, exist_ok=True)
"""
_CLONED = """\
git = ["git", "-C", code]
subprocess.run([*git, "init", "--quiet"], check=True)
subprocess.run([*git, "fetch", "--quiet", "--depth=1", {url}, {commit}], check=True)  # {ref}
subprocess.run([*git, "checkout", "--quiet", "--force", "FETCH_HEAD"], check=True)
"""
_CARRIED = """\
packed = base64.b64decode(\"\"\"
{content}\"\"\")
zipfile.ZipFile(io.BytesIO(packed)).extractall(code)
"""
_INSTALL = """\
pip = [sys.executable, "-m", "pip", "install", "--quiet"]
subprocess.run([*pip, *{what}], cwd=code, check=True)
"""


@contextmanager
def brought(named: str) -> Iterator[str]:
    """Have the code here while the specs are read; the source of the cell that brings it.

    Args:
        named: `https://…[@TAG]`, or a folder; "" for none, and no cell.

    Raises:
        SpecError: it can't be had, here or in a notebook.
    """
    with tempfile.TemporaryDirectory(prefix="runner-code-") as place, code.undone():
        if named.startswith("git@") or "://" in named:
            yield _clone(named, Path(place))
        else:
            yield _carry(Path(named).expanduser().absolute()) if named else ""


def _clone(named: str, here: Path) -> str:
    """Fetch one commit of a repository. A tag or branch may move, so the notebook names that."""
    found = re.fullmatch(
        r"(?:git\+)?(https://[^\s/@\"'\\]+/[^\s@\"'\\]+)(?:@([^\s\"'\\]+))?", named
    )
    if found is None:
        msg = f"--code received {mask(named)!r}: a notebook is shared and has no key of yours;"
        msg += " expected https://HOST/YOU/STUDY@TAG without credentials, or a folder, whose files"
        msg += " it carries"
        raise SpecError(msg)
    url, ref = found[1], found[2] or "HEAD"
    _git(named, here, "init", "--quiet")
    _git(named, here, "fetch", "--quiet", "--depth=1", "--", url, ref)
    _git(named, here, "checkout", "--quiet", "FETCH_HEAD")
    commit = _git(named, here, "rev-parse", "HEAD")
    _use(here, named)
    say(f"the notebook has {url} at {ref}, which is commit {commit[:12]}")
    name = f"{url.rstrip('/').rpartition('/')[2].removesuffix('.git')}-{commit[:12]}"
    cloned = _CLONED.format(url=json.dumps(url), commit=json.dumps(commit), ref=ref)
    return _FOLDER.format(name=json.dumps(name)) + cloned + _rest(here)


def _git(named: str, folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},  # nobody is asked for a password
        )
    except FileNotFoundError:
        msg = f"--code {named}: this needs git, to find the commit that the notebook names"
        raise SpecError(msg) from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.splitlines()
        why = next((line for line in lines if line.startswith("fatal:")), " ".join(lines))
        msg = f"--code {named}: git: {why.rstrip('.')}. It has to be public, and behind @ a tag, a"
        msg += " branch or a whole commit; of a private one --code FOLDER carries the files."
        raise SpecError(msg) from None
    return done.stdout.strip()


def _files(folder: Path) -> list[Path]:
    """A folder's files, but what is hidden or made by Python."""

    def is_left_out(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return any(part[0] == "." or part == "__pycache__" for part in parts)

    paths = sorted(folder.rglob("*"))
    return [path for path in paths if path.is_file() and not is_left_out(path)]


def _carry(folder: Path) -> str:
    """Pack a folder's files, but what is hidden or made by Python."""
    if not folder.is_dir():
        msg = f"--code received {str(folder)!r}, which is no folder here; a repository is https://…"
        raise SpecError(msg)
    _use(folder, str(folder))
    paths = _files(folder)
    packed = io.BytesIO()
    if sum(path.stat().st_size for path in paths) <= MOST_READ:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in paths:
                info = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # of no date
                archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    if not 0 < len(packed.getvalue()) <= MOST_BYTES:
        largest = max(paths, key=lambda path: path.stat().st_size).relative_to(folder)
        msg = (
            f"--code {folder}: a notebook carries {MOST_BYTES // 1000} kB of code at most, packed."
        )
        msg += f" The largest file is {largest}. Keep data elsewhere (a program's `path`), or name"
        raise SpecError(f"{msg} the folder's repository: --code https://…@TAG")
    names = ", ".join(str(path.relative_to(folder)) for path in paths[:NAMED])
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    carried = f"{len(paths)} files of {folder}, for everybody who sees it"
    say(f"the notebook carries {carried}: {names}{more}")
    content = base64.encodebytes(packed.getvalue()).decode()
    name = json.dumps(f"{folder.name}-{hashlib.sha256(packed.getvalue()).hexdigest()[:12]}")
    head = "#@title Your code (this cell carries it)\n" + _FOLDER.format(name=name)
    return head + _CARRIED.format(content=content) + _rest(folder)


def _use(folder: Path, named: str) -> None:
    if not any((folder / kind).is_dir() for kind in KINDS):
        raise SpecError(
            f"--code {named}: expected programs/, models/ or datasets/ in it; there is none of them"
        )
    os.environ[code.VARIABLE] = str(folder)


def _rest(folder: Path) -> str:
    """Install what the code needs, and name its folder."""
    wanted: list[list[str]] = []
    if (folder / "requirements.txt").is_file():
        wanted.append(["-r", "requirements.txt"])
    try:
        project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    except FileNotFoundError:
        project = {}
    except ValueError as error:
        raise SpecError(f"--code: pyproject.toml: {error}") from None
    if "build-system" in project:
        wanted.append(["."])
    elif needs := project.get("project", {}).get("dependencies"):  # there is nothing to be built
        wanted.append(needs)
    what = json.dumps([one for part in wanted for one in part])
    end = f'os.environ["{code.VARIABLE}"] = code\n'
    return (_INSTALL.format(what=what) if wanted else "") + end
