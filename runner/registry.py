"""A file in models/ or datasets/ is an entry; adding one needs no list to be edited.

Names are found without importing anything: an entry is a file that defines the
function its folder asks for. Packages of the user's own join through the entry
point groups `runner.models` and `runner.datasets`.
"""

import ast
import difflib
import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from runner.errors import NotFoundError

Kind = Literal["models", "datasets"]

#: the function that makes a file an entry, and what it is asked with besides its own parameters
_FUNCTION: dict[Kind, str] = {"models": "build", "datasets": "load"}
_GIVEN: dict[Kind, frozenset[str]] = {
    "models": frozenset({"input_shape", "classes"}),
    "datasets": frozenset({"path"}),
}


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known name, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""


def names(kind: Kind) -> list[str]:
    """All entries of a kind, sorted; nothing is imported."""
    return sorted({*_files(kind), *_plugins(kind)})


def get(kind: Kind, name: str) -> Callable[..., Any]:
    """The entry's function.

    Raises:
        NotFoundError: no file and no plugin of that name.
    """
    function = _FUNCTION[kind]
    if _is_entry(kind, name):
        found = getattr(_imported(kind, name), function)
    elif name in (plugins := _plugins(kind)):
        loaded = _loaded(kind, plugins[name])
        found = getattr(loaded, function, loaded)
    else:
        known = names(kind)
        msg = (
            f"{kind.removesuffix('s')} '{name}' is not in runner/{kind}.{nearest(name, known)}"
            f" Known: {', '.join(known)}."
        )
        if (Path(__file__).parent / kind / f"{name}.py").exists():
            msg = f"runner/{kind}/{name}.py defines no function {function}(...)."
        elif name.isidentifier():
            msg += f" To add one, create runner/{kind}/{name}.py with {function}(...)."
        raise NotFoundError(msg)
    if not callable(found):
        msg = f"{kind} entry '{name}' does not lead to a function {function}(...)."
        raise NotFoundError(msg)
    return found  # type: ignore[no-any-return]


def package_of(kind: Kind, name: str) -> str | None:
    """The user's own package that offers an entry; None for a file of runner's."""
    point = None if _is_entry(kind, name) else _plugins(kind).get(name)
    return point.dist.name if point and point.dist else None


def _imported(kind: Kind, name: str) -> ModuleType:
    """Import a file, which may be its user's own and unfinished."""
    try:
        return importlib.import_module(f"runner.{kind}.{name}")
    except Exception as error:
        msg = f"runner/{kind}/{name}.py can't be imported: {type(error).__name__}: {error}"
        raise NotFoundError(msg) from error


def _loaded(kind: Kind, point: EntryPoint) -> Any:
    """Import what a package of the user's own offers; it may lack something here."""
    try:
        return point.load()
    except Exception as error:
        package = f" of {point.dist.name}" if point.dist else ""
        msg = (
            f"{kind.removesuffix('s')} '{point.name}'{package} can't be imported here:"
            f" {point.value}: {type(error).__name__}: {error}"
        )
        raise NotFoundError(msg) from error


def parameters(function: Callable[..., Any], kind: Kind) -> dict[str, inspect.Parameter]:
    """The parameters of an entry's own, given by name: what a spec may set in `arguments`."""
    signature = inspect.signature(function)
    named = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return {
        key: parameter
        for key, parameter in signature.parameters.items()
        if key not in _GIVEN[kind] and parameter.kind in named
    }


@functools.cache
def optimizer_arguments(name: str) -> set[str] | None:
    """Return what the Keras optimizer of this lower-case name may be given, read from its source.

    Keras takes seconds to import, and a spec is checked before that. None where Keras is not
    there or is laid out differently: then the worker finds out.
    """
    found = importlib.util.find_spec("keras")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "src" / "optimizers" / f"{name}.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.lower() == name:
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    given = [*item.args.args, *item.args.kwonlyargs]
                    return {one.arg for one in given} - {"self", "learning_rate", "name"}
    return None


def _files(kind: Kind) -> list[str]:
    paths = sorted((Path(__file__).parent / kind).glob("[!_]*.py"))
    return [path.stem for path in paths if _is_entry(kind, path.stem)]


def _is_entry(kind: Kind, name: str) -> bool:
    path = Path(__file__).parent / kind / f"{name}.py"
    if not name.isidentifier() or name.startswith("_") or not path.is_file():
        return False
    return f"\ndef {_FUNCTION[kind]}(" in "\n" + path.read_text(encoding="utf-8")


def _plugins(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"runner.{kind}")}
