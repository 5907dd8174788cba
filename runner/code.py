"""The user's own code: a folder that this process was given, and no other.

It has `programs/`, `models/` and `datasets/`, and each file there is an entry, as inside the
package. Neither a bucket nor a spec says where code lies. A file's own imports find what lies
beside it and in the folder.
"""

import dis
import functools
import hashlib
import importlib.util
import inspect
import linecache
import os
import re
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from runner.errors import SpecError

VARIABLE = "RUNNER_CODE"  #: the folder; `--code` sets it for this process and its children
_PREFIX = "runner_code"  #: of the names of the entries' modules
_INSTALLED = {"site-packages", "dist-packages"}
_OTHERS = (Path(__file__).parent, Path(sys.prefix), Path(sys.base_prefix))
#: what Keras says of an array of NumPy's strings
_OF_TEXTS = re.compile(r"Invalid dtype: (str|bytes)\d+$")
_TEXTS = "an array of texts must be array.astype(object), or tf.constant(array)"
_loaded: dict[Path, str] = {}  #: the user's files in use, and their contents' hashes


def folder() -> Path | None:
    """Return the folder of the user's code, or None where this process was given none.

    Raises:
        SpecError: it is no folder.
    """
    named = os.environ.get(VARIABLE, "")
    if not named:
        return None
    found = Path(named).expanduser().absolute()
    if not found.is_dir():
        msg = f"{VARIABLE} (--code): {named!r} is no folder here. Give the folder with programs/."
        raise SpecError(msg)
    return found


def use(named: str) -> None:
    """Let this process and its children find the user's code there.

    Raises:
        SpecError: it is no folder.
    """
    os.environ[VARIABLE] = str(Path(named).expanduser().absolute())
    folder()


def is_own(path: Path) -> bool:
    """Return whether a file is the user's own: in the folder, and of nothing installed there.

    The folder may be a clone of runner, or hold a virtual environment or Python itself.
    """
    root = folder()
    return (
        root is not None
        and path.is_relative_to(root)
        and not _INSTALLED & {*path.parts}
        and not any(path.is_relative_to(one) for one in _OTHERS if one.is_relative_to(root))
    )


def load(path: Path) -> ModuleType:
    """Import an entry's file; anew if it, or what it imports of the folder, has changed."""
    name = f"{_PREFIX}.{path.parent.name}.{path.stem}"
    root = path.parent.parent
    if any(_hash(one) != content for one, content in _loaded.items()):
        forget()
    if (known := sys.modules.get(name)) is not None and known.__file__ == str(path):
        return known
    for place in (str(root), str(path.parent)):
        if place not in sys.path:
            sys.path.insert(0, place)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        forget()
        raise
    _take()
    return module


def identity() -> str:
    """Return which of the user's code is in use: "programs/houses.py 1f0c2ab94c1d"; "" if none.

    Only the contents count: the same code elsewhere, or in another commit, is the same.
    """
    root = folder()
    if root is None:
        return ""
    _take()
    return ", ".join(
        f"{path.relative_to(root).as_posix()} {content[:12]}"
        for path, content in sorted(_loaded.items())
        if path.is_relative_to(root)
    )


def git_commit() -> str:
    """Return the commit of the user's code, or of the working folder where none was given.

    "-dirty" stands behind it where files differ from it; "" means that there is no commit.
    """
    return _git_commit(folder() or Path.cwd())


@functools.cache  # what a process has imported is what was there when it began
def _git_commit(place: Path) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=place, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@contextmanager
def undone() -> Iterator[None]:
    """Undo at the end what a job sets for the whole process: environment, folder, warnings."""
    environment, here = dict(os.environ), Path.cwd()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        os.chdir(here)


def where(error: BaseException) -> str:
    """Return the line of the user's own code that an error comes from; "" if it comes from none.

    "programs/houses.py, line 12: model.compile(optimiser)"
    """
    frames = _own_frames(error) or _own_frames(error.__cause__)
    if isinstance(error, SyntaxError) and error.filename and is_own(Path(error.filename)):
        place = error.filename, error.lineno or 0, ""
        frames = [traceback.FrameSummary(*place, line=error.text or "")]
    root = folder()
    if not frames or root is None:
        return ""
    path = Path(frames[-1].filename).relative_to(root).as_posix()
    return f"{path}, line {frames[-1].lineno}: {(frames[-1].line or '').strip()}"


def with_line(text: str, error: BaseException) -> str:
    """Return what is said of an error, and in brackets the user's line that it comes from."""
    line = where(error)
    return f"{text} ({line})" if line and line not in text else text


def of_function(function: Any) -> str:
    """Return where the user's own code returns from a function, in brackets; "" if elsewhere.

    " (programs/houses.py, line 31)"
    """
    of, root = getattr(inspect.unwrap(function), "__code__", None), folder()
    if root is None or of is None or not is_own(path := Path(of.co_filename)):
        return ""
    returns = [one.positions for one in dis.get_instructions(of) if one.opname[:6] == "RETURN"]
    lines = [place.lineno for place in returns if place and place.lineno]
    line = max(lines, default=of.co_firstlineno)
    return f" ({path.relative_to(root).as_posix()}, line {line})"


def words(error: BaseException) -> str:
    """Return what an error says, on one line, the line of the user's own code, and a known fix."""
    own = where(error) != ""
    said = error.msg if own and isinstance(error, SyntaxError) else error  # its place comes once
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", str(said))
    if text.startswith("Graph execution error"):  # TensorFlow's own traceback comes first
        text = text.partition("\n\t [[")[0].rstrip().rpartition("\n\n")[2]
    said = " ".join(text.split())
    if len(said) > 300:
        said = f"{said[:200]}{said[200:300].rpartition(' ')[0]} …"
    text = with_line(f"{type(error).__name__}: {said}", error)
    if own and isinstance(error, ModuleNotFoundError):
        return f"{text}: install it here, or put it beside this file"
    return f"{text}: {_TEXTS}" if _OF_TEXTS.match(str(error)) else text


def traceback_of(error: BaseException) -> str:
    """Return an error's traceback: of the user's own lines alone, where there are some."""
    own = _own_frames(error)
    if not own:
        return "".join(traceback.format_exception(error))
    lines = [*traceback.format_list(own), *traceback.format_exception_only(error)]
    return "".join(["Traceback, of your own code:\n", *lines])


def _own_frames(error: BaseException | None) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(error.__traceback__ if error else None)
    return [frame for frame in frames if is_own(Path(frame.filename))]


def _take() -> None:
    """Note the files of the folder that are imported by now."""
    files = (getattr(module, "__file__", None) for module in sys.modules.copy().values())
    root = f"{folder()}{os.sep}"
    for path in [Path(file) for file in files if isinstance(file, str) and file.startswith(root)]:
        if path not in _loaded and is_own(path):
            _loaded[path] = _hash(path)


def _hash(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def forget() -> None:
    """Let all of the user's files be imported anew, and be in use only when they are."""
    for name, module in sys.modules.copy().items():  # in one go: other threads import
        file = getattr(module, "__file__", None)
        if name.startswith(f"{_PREFIX}.") or (isinstance(file, str) and Path(file) in _loaded):
            del sys.modules[name]
    _loaded.clear()
    importlib.invalidate_caches()
    linecache.checkcache()
