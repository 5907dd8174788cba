"""A file in models/ or datasets/ is an entry; adding one needs no list to be edited.

Names are found without importing anything: an entry is a file that defines the
function its folder asks for. Packages of the user's own join through the entry
point groups `runner.models` and `runner.datasets`.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from runner.errors import NotFoundError

Kind = Literal["models", "datasets"]

#: the function that makes a file an entry, and what it is asked with besides its own parameters
_FUNCTION: dict[Kind, str] = {"models": "build", "datasets": "load"}
_GIVEN: dict[Kind, frozenset[str]] = {
    "models": frozenset({"input_shape", "classes"}),
    "datasets": frozenset({"path"}),
}


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """` Did you mean 'x'?` for the closest known name, behind the prefix; or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{prefix}{match[0]}'?" if match else ""


def names(kind: Kind) -> list[str]:
    """All entries of a kind, sorted; nothing is imported."""
    return sorted({*_files(kind), *_plugins(kind)})


def get(kind: Kind, name: str) -> Callable[..., Any]:
    """The entry's function.

    Raises:
        NotFoundError: no file and no plugin of that name.
    """
    function, plugin = _FUNCTION[kind], _plugins(kind).get(name)
    if _is_entry(kind, name):
        plugin, where = None, f"runner/{kind}/{name}.py can't be imported"
    elif plugin is None:
        raise NotFoundError(_unknown(kind, name))
    else:
        package = f" of {plugin.dist.name}" if plugin.dist else ""
        where = f"{kind[:-1]} '{name}'{package} can't be imported here: {plugin.value}"
    try:  # what is its user's own may be unfinished, or lack something here
        loaded = plugin.load() if plugin else importlib.import_module(f"runner.{kind}.{name}")
    except Exception as error:
        raise NotFoundError(f"{where}: {type(error).__name__}: {error}") from error
    found = getattr(loaded, function, loaded)
    if not callable(found):
        msg = f"{kind} entry '{name}' does not lead to a function {function}(...)."
        raise NotFoundError(msg)
    return found  # type: ignore[no-any-return]


def _unknown(kind: Kind, name: str) -> str:
    known, function = names(kind), _FUNCTION[kind]
    if (Path(__file__).parent / kind / f"{name}.py").exists():
        return f"runner/{kind}/{name}.py defines no function {function}(...)."
    text = f"{kind[:-1]} '{name}' is not in runner/{kind}.{nearest(name, known)}"
    text += f" Known: {', '.join(known)}."
    if name.isidentifier():
        text += f" To add one, create runner/{kind}/{name}.py with {function}(...)."
    return text


def package_of(kind: Kind, name: str) -> str | None:
    """The user's own package that offers an entry; None for a file of runner's."""
    point = None if _is_entry(kind, name) else _plugins(kind).get(name)
    return point.dist.name if point and point.dist else None


def parameters(function: Callable[..., Any], kind: Kind) -> dict[str, inspect.Parameter]:
    """The parameters of an entry's own, given by name: what a spec may set in `arguments`."""
    signature = inspect.signature(function)
    named = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return {
        key: parameter
        for key, parameter in signature.parameters.items()
        if key not in _GIVEN[kind] and parameter.kind in named
    }


def _files(kind: Kind) -> list[str]:
    paths = sorted((Path(__file__).parent / kind).glob("[!_]*.py"))
    return [path.stem for path in paths if _is_entry(kind, path.stem)]


def _is_entry(kind: Kind, name: str) -> bool:
    path = Path(__file__).parent / kind / f"{name}.py"
    if not name.isidentifier() or name.startswith("_") or not path.is_file():
        return False
    function = rf"^(def {_FUNCTION[kind]}\(|{_FUNCTION[kind]} = )"
    return re.search(function, path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _plugins(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"runner.{kind}")}
