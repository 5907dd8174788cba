"""`runner` in a notebook's cell: its commands, with a progress in its place, and jobs of functions.

A command is a process of its own: the kernel stays free of TensorFlow, and the stop button asks
the process to save and release its job, which takes longer than an interrupted cell. When the
kernel ends, on Linux the process is asked the same.
"""

import html
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from runner import code, registry
from runner.cli.live import IN_PLACE
from runner.engine import tether
from runner.errors import NotFoundError, RunnerError, SpecError, StoreError
from runner.exit import Exit

#: what the exit codes of `submit` mean
_ERRORS: dict[int, type[RunnerError]] = {
    Exit.USAGE: SpecError,
    Exit.NOT_FOUND: NotFoundError,
    Exit.STORAGE: StoreError,
}


def run(*arguments: str) -> int:
    """Run `runner ARGUMENTS…` below this cell; its exit code.

    What it says appears as it comes, its progress in one line above. Interrupting the cell saves
    and ends; again: leaves at once.

    Example:
        >>> run("resume")  # doctest: +SKIP
    """
    variables = {"FORCE_COLOR", "CLICOLOR_FORCE"}  # they would ask for a terminal's colours
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    kernel = os.getpid()
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "runner", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment, IN_PLACE: "1"},
        start_new_session=True,  # it hears of an interruption from us, once
        preexec_fn=(lambda: _tie_to(kernel)) if sys.platform == "linux" else None,
    )
    place = _place()
    output = io.TextIOWrapper(cast(BinaryIO, process.stdout), "utf-8", "replace", newline="")
    while True:  # in this thread, since a notebook tells cells apart by it
        try:
            line = output.readline()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            continue
        if not line:
            break
        if line.endswith("\r"):  # progress
            place(line.rstrip("\r"))
        else:
            sys.stdout.write(f"{line.rstrip()}\n")
    result = process.wait()
    place("")
    if result in (Exit.PREEMPTED, Exit.INTERRUPTED):
        print("stopped with the progress saved: run this cell again to resume")
    return result


def show(page: str | Path, *, height: int = 800) -> None:
    """Show an HTML page below this cell, apart from the notebook's own style.

    Args:
        page: its file.
        height: in pixels.
    """
    from IPython.display import display

    text = html.escape(Path(page).read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe srcdoc="{text}" width="100%" height="{height}" frameborder="0"></iframe>'
    display({"text/html": frame}, raw=True)  # type: ignore[no-untyped-call]


def submit(
    program: Callable[..., Any],
    *,
    name: str,
    arguments: Mapping[str, Any] | None = None,
    path: str | Path | None = None,
    **parts: Any,
) -> str:
    """Check and store a job that trains a program of yours; its id. `run("resume")` trains it.

    It does what `runner submit --detach` does with such a spec, in a process of its own. The
    function's file counts as it is on the disk now. The same job again changes nothing.

    Args:
        program: the function `program` of a file FOLDER/programs/NAME.py (RUNNER_CODE becomes
            FOLDER in this process if it is not set), or one that an installed package offers as an
            entry point of the group `runner.programs`.
        name: of the job.
        arguments: of the function, as JSON can hold them.
        path: a file or URL, for a program that asks for a `path`.
        parts: the other parts of a spec, such as training={"epochs": 20} or seed=1.

    Raises:
        SpecError: no worker could find the function, or the spec has mistakes: all of them; or
            another job has this name.
        NotFoundError: there is no job that it is to come after.
        StoreError: the store can't be used.

    Example:
        >>> from programs.houses import program  # doctest: +SKIP
        >>> submit(program, name="wide", arguments={"units": 256})  # doctest: +SKIP
        'wide'
    """
    part = {"name": _entry(program), "arguments": dict(arguments or {})}
    changes = [] if path is None else ["--set", f"program.path={json.dumps(str(path))}"]
    source = f"runner.submit(name={name!r})"
    if "sweep" in parts:
        raise SpecError(f"{source} is one job: submit several in a loop")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "job.json")
        try:
            file.write_text(json.dumps({**parts, "name": name, "program": part}))
        except (TypeError, ValueError) as error:
            raise SpecError(f"{source}: {error}") from None
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "runner", "submit", str(file), "--detach", *changes],
            capture_output=True,
            text=True,
            check=False,
        )
    said = done.stderr.replace(str(file), source)
    if done.returncode != Exit.DONE:
        told = (said.partition("runner: ")[2] or said).strip()
        raise _ERRORS.get(done.returncode, RunnerError)(told)
    sys.stderr.write(said)
    return done.stdout.strip()


def _entry(program: Callable[..., Any]) -> str:
    """Return the name under which workers find a function; RUNNER_CODE leads to it then.

    Raises:
        SpecError: they could not; says what to do.
    """
    function = inspect.unwrap(program)
    if not inspect.isfunction(function):
        msg = f"runner.submit received a {type(program).__name__}; expected a program's function"
        raise SpecError(msg)
    if (offered := registry.offered("programs", function)) is not None:
        return offered
    module = sys.modules.get(function.__module__)  # gone where its file was changed and read again
    here = Path(function.__code__.co_filename).absolute()
    typed = function.__module__ == "__main__" and not hasattr(module, "__file__")
    msg = f"runner.submit received {function.__qualname__}, which"
    if typed or not here.is_file():
        msg += " is defined in a notebook's cell: a worker is another process, perhaps elsewhere,"
        msg += " and could not import it. Put it into a file: run !mkdir -p programs, then a cell"
        msg += " that begins with %%writefile programs/houses.py, and submit what this imports:"
        raise SpecError(f"{msg} from programs.houses import program")
    if here.parent.name != "programs":
        msg += f" lies in {here}. Workers look for FOLDER/programs/NAME.py: put it into"
        msg += (
            f" {here.parent / 'programs' / here.name}, or offer it as an entry point of the group"
        )
        raise SpecError(f"{msg} runner.programs of your package.")
    if function.__qualname__ != "program" and getattr(module, "program", None) is not program:
        msg += f" workers would not find in {here}: they call what is named `program` there."
        raise SpecError(msg)
    _use(here.parent.parent)
    return here.stem


def _use(folder: Path) -> None:
    """Let this process and its children find the programs of a folder."""
    own = code.folder()
    if folder == Path(registry.__file__).parent:
        return
    if own is None:
        os.environ[code.VARIABLE] = str(folder)
    elif own.resolve() != folder.resolve():
        msg = (
            f"runner.submit received a function of {folder}, but {code.VARIABLE} is {own}, and all"
        )
        raise SpecError(f"{msg} jobs of a worker are of one folder: put the file there.")


def _tie_to(kernel: int) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a notebook's server may ignore it: nohup
    tether.tie_to(kernel, signal.SIGHUP)  # which is no second request to stop


def _place() -> Callable[[str], None]:
    """A line of output that can be written again."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ModuleNotFoundError:
        return lambda _: None
    if get_ipython() is None:
        return lambda _: None
    handle = display({"text/plain": ""}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
    return lambda text: handle.update({"text/plain": text}, raw=True)
