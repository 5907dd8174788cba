"""A file in programs/, models/ or datasets/ is an entry; adding one needs no list to be edited.

Names are found without importing anything: an entry is a file that defines the
function its folder asks for, in the package or in the folder of the user's own `code`.
Packages of the user's own join through entry points: the group `runner.programs`, and so on.
"""

import difflib
import functools
import importlib
import inspect
import symtable
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from runner import code, quiet
from runner.errors import NotFoundError

Kind = Literal["programs", "models", "datasets"]

#: the function that makes a file an entry, and what it is asked with besides its own parameters
_FUNCTION: dict[Kind, str] = {"programs": "program", "models": "build", "datasets": "load"}
_GIVEN: dict[Kind, frozenset[str]] = {
    "programs": frozenset({"path", "seed"}),
    "models": frozenset({"input_shape", "classes"}),
    "datasets": frozenset({"path"}),
}
SLOW_IMPORT_SECONDS = 2.0  #: then an import is told


def kinds_of(spec: Mapping[str, Any]) -> dict[str, Kind]:
    """Return the parts of a spec, checked or not, that name an entry, and of which kind."""
    if spec.get("program") is not None:
        return {"program": "programs"}
    return {"data": "datasets", "model": "models"}


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """` Did you mean 'x'?` for the closest known name, behind the prefix; or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{prefix}{match[0]}'?" if match else ""


def names(kind: Kind) -> list[str]:
    """All entries of a kind, sorted; nothing is imported."""
    files = [path.stem for place in _places(kind) for path in place.glob("[!_]*.py")]
    return sorted({*(name for name in files if _files(kind, name)), *_plugins(kind)})


def get(kind: Kind, name: str) -> Callable[..., Any]:
    """The entry's function.

    Raises:
        NotFoundError: no file and no plugin of that name, or it can't be imported or called.
    """
    path, plugin = _file(kind, name), _plugins(kind).get(name)
    if path is None and plugin is None:
        raise NotFoundError(_unknown(kind, name))
    try:  # what is its user's own may be unfinished, or lack something here
        loaded = _load(path, kind, plugin)
    except (Exception, SystemExit) as error:
        raise NotFoundError(f"{_where(path, kind, name, plugin)}: {code.words(error)}") from error
    found = getattr(loaded, _FUNCTION[kind], loaded)
    if why := _unfit(found, kind):
        raise NotFoundError(f"{kind} entry '{name}' {why}.")
    return found  # type: ignore[no-any-return]


#: of such a parameter in a spec
UNNAMED = "the function takes it by position alone: take the `/` out of its parameters"


def _unfit(found: Any, kind: Kind) -> str:
    """Say why something can't be called as an entry; "" if it can."""
    function = _FUNCTION[kind]
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # it is no function, or one that tells nothing of itself
        return f"does not lead to a function {function}(...)"
    if inspect.iscoroutinefunction(found):
        return f"is asynchronous: write `def {function}(...)` without `async`"
    needed = [
        one.name for one in parameters if one.default is one.empty or one.name in _GIVEN[kind]
    ]
    if wrong := [name for name in needed if name in unnamed(found)]:
        return f"can't be given {', '.join(wrong)} by name: take the `/` out of its parameters"
    return ""


def unnamed(function: Callable[..., Any]) -> set[str]:
    """The parameters that a function takes by their position alone, where nothing gives them."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name for one in parameters if one.kind is one.POSITIONAL_ONLY}


def _where(path: Path | None, kind: Kind, name: str, plugin: EntryPoint | None) -> str:
    """Say what can't be imported."""
    if path is not None:
        return f"{path if code.is_own(path) else f'runner/{kind}/{name}.py'} can't be imported"
    package = f" of {plugin.dist.name}" if plugin and plugin.dist else ""
    value = plugin.value if plugin else ""
    return f"{kind[:-1]} '{name}'{package} can't be imported here: {value}"


def _load(path: Path | None, kind: Kind, plugin: EntryPoint | None) -> Any:
    with quiet.aside(), quiet.importing():
        if path is None:
            return plugin and plugin.load()
        if code.is_own(path):
            place = f"{path.parent.name}/{path.name}"
            with quiet.told_if_slow(_say, f"importing {place}", SLOW_IMPORT_SECONDS):
                return code.load(path)
        return importlib.import_module(f"runner.{kind}.{path.stem}")


def _say(text: str) -> None:
    """Tell somebody who waits at a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")


def _unknown(kind: Kind, name: str) -> str:
    known, function = names(kind), _FUNCTION[kind]
    places = [f"runner/{kind}", *(str(place) for place in _places(kind)[1:])]
    for place, shown in zip(_places(kind), places, strict=True):
        if name.isidentifier() and (place / f"{name}.py").exists():
            return f"{shown}/{name}.py defines no function {function}(...)."
    text = f"{kind[:-1]} '{name}' is not in {' or '.join(places)}.{nearest(name, known)}"
    text += f" Known: {', '.join(known) or 'none'}."
    return f"{text}{_advice(kind, name, places)}" if name.isidentifier() else text


def _advice(kind: Kind, name: str, places: Sequence[str]) -> str:
    """Say where such an entry seems to lie, or how to add one."""
    own = code.folder()
    if own is not None and own.name == kind and (own / f"{name}.py").exists():
        return f" {own} has a {name}.py itself: give the folder above it, --code {own.parent}"
    if own is None and (Path.cwd() / kind / f"{name}.py").exists():
        return f" {kind}/{name}.py is here: name its folder, --code . or {code.VARIABLE}=."
    yours = places[-1] if len(places) > 1 else f"FOLDER/{kind}"
    text = f" To add one, write {_FUNCTION[kind]}(...) into {yours}/{name}.py"
    text += "" if len(places) > 1 else f" and name the folder: --code FOLDER or {code.VARIABLE}"
    return f"{text}, or install the package that has it."


def package_of(kind: Kind, name: str) -> str | None:
    """The user's own package that offers an entry; None for a file."""
    point = None if _file(kind, name) else _plugins(kind).get(name)
    return point.dist.name if point and point.dist else None


def offered(kind: Kind, function: Callable[..., Any]) -> str | None:
    """The name under which an installed package offers a function; None if none does."""
    found = (
        name
        for name, point in _plugins(kind).items()
        if point.module == function.__module__
        and (point.attr or _FUNCTION[kind]) == function.__qualname__
    )
    return next(found, None)


def is_own(kind: Kind, name: str) -> bool:
    """Return whether an entry is a file in the folder of the user's own code."""
    path = _file(kind, name)
    return path is not None and code.is_own(path)


def parameters(function: Callable[..., Any], kind: Kind) -> dict[str, inspect.Parameter]:
    """The parameters of an entry's own, given by name: what a spec may set in `arguments`."""
    signature = inspect.signature(function)
    named = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return {
        key: parameter
        for key, parameter in signature.parameters.items()
        if key not in _GIVEN[kind] and parameter.kind in named
    }


def given(function: Callable[..., Any], kind: Kind) -> dict[str, Any]:
    """What of that which `runner` gives to entries of a kind this one asks for, and its default."""
    parameters = inspect.signature(function).parameters
    return {name: parameters[name].default for name in _GIVEN[kind] & parameters.keys()}


def _places(kind: Kind) -> list[Path]:
    """The folders whose files are entries: the package's, then that of the user's own code."""
    own = code.folder()
    return [Path(__file__).parent / kind, *([own / kind] if own is not None else [])]


def _file(kind: Kind, name: str) -> Path | None:
    """The file of an entry, if it is one.

    Raises:
        NotFoundError: there are two.
    """
    paths = _files(kind, name)
    if len(paths) > 1:
        raise NotFoundError(f"{paths[1]}: runner has a {kind[:-1]} '{name}' itself: rename yours.")
    return paths[0] if paths else None


def _files(kind: Kind, name: str) -> list[Path]:
    if not name.isidentifier() or name.startswith("_"):
        return []
    return [path for place in _places(kind) if _is_entry(kind, path := place / f"{name}.py")]


def _is_entry(kind: Kind, path: Path) -> bool:
    """Return whether a file gives a value to the function's name, in whatever way."""
    function = _FUNCTION[kind]
    try:
        text = path.read_text(encoding="utf-8")
        return function in text and function in _assigned(text)
    except SyntaxError:  # which its import says
        return True
    except (OSError, ValueError):
        return False


@functools.lru_cache(1024)
def _assigned(text: str) -> frozenset[str]:
    """Return the names that a file defines, assigns or imports at its top level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import gives them
        symbols = symtable.symtable(text, "", "exec").get_symbols()
    return frozenset(one.get_name() for one in symbols if one.is_assigned() or one.is_imported())


def _plugins(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"runner.{kind}")}
