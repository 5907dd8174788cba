"""What Python objects, classes and functions are made of, seen without running code of theirs.

Attributes are read where they are kept (`__dict__`, slots, cells): no property and no `__getattr__`
runs.
"""

import dis
import functools
import sys
import types
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

_LIBRARIES = {"keras", "tensorflow", "jax", "jaxlib", "numpy", "runner"}


def root_of(module: Any) -> str:
    """Return the package that a module is in."""
    return str(module).partition(".")[0]


def is_library(module: Any) -> bool:
    """Whether a module is Python's, or of those whose objects are machinery here."""
    root = root_of(module)
    return root in _LIBRARIES or root in sys.stdlib_module_names


@functools.cache
def is_program(module: Any) -> bool:
    """Whether a module is the user's: neither a library nor installed like one."""
    found = sys.modules.get(root_of(module))
    installed = "site-packages" in str(getattr(found, "__file__", None) or "")
    return not is_library(module) and not installed


def is_of_keras(cls: Any) -> bool:
    """Whether a class is Keras's own."""
    return str(cls.__module__).startswith("keras.")


# ---------------------------------------------------------------------- objects


@functools.lru_cache(maxsize=10_000)
def slots_of(cls: type) -> dict[str, Any]:
    """Return the slots of a class that hold values, by name."""
    return {
        name: member
        for base in reversed(cls.__mro__)
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def own_attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes in an object's dictionary and slots."""
    cls: Any = type(owner)
    found = dict(object.__getattribute__(owner, "__dict__")) if cls.__dictoffset__ else {}
    for name, member in slots_of(cls).items():
        with suppress(AttributeError):  # not set
            found[name] = member.__get__(owner)
    return found


# ---------------------------------------------------------------------- functions and classes


def cells(function: types.FunctionType) -> dict[str, Any]:
    """Return what a function's closure holds, by name, but for the class that it is in."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with suppress(ValueError):  # not filled yet
            found[name] = cell.cell_contents
    found.pop("__class__", None)
    return found


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a function's code, and that of the functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


#: the functions that members of classes wrap, by the members' kinds
_WRAPPED: dict[Any, tuple[str, ...]] = {
    types.FunctionType: ("__wrapped__",),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset"),
    functools.cached_property: ("func",),
}


def functions_in(member: Any) -> Iterator[types.FunctionType]:
    """Yield the functions that a class's member is or wraps; the outermost first."""
    if type(member) is types.FunctionType:
        yield member
    for kind, names in _WRAPPED.items():
        if issubclass(type(member), kind):
            for name in names:
                yield from functions_in(getattr(member, name, None))


def names_in_code(
    cls: Any, is_meant: Callable[[Any], bool], *, but: Collection[str] = ()
) -> set[str]:
    """Return the names that the code of a class's bases mentions.

    Args:
        cls: a class.
        is_meant: whether a base's code counts.
        but: members of them that do not count.
    """
    return {
        name
        for base in cls.__mro__
        if is_meant(base)
        for member, value in vars(base).items()
        if member not in but
        for function in functions_in(value)
        for code in codes(function.__code__)
        for name in code.co_names
    }


@functools.lru_cache(maxsize=10_000)
def _globals_named(code: types.CodeType) -> dict[str, bool]:
    """The global names in a function's code, and whether it assigns to them.

    With dots, if something is taken from them: `settings.level` may be in a module `settings`.
    """
    names: dict[str, bool] = {}
    for inner in codes(code):
        instructions = list(dis.get_instructions(inner))
        set_somewhere = {i.argval for i in instructions if i.opname == "STORE_ATTR"}
        name = ""
        for instruction in instructions:
            kind, _, what = instruction.opname.partition("_")
            stored = kind == "STORE"
            if what == "GLOBAL":
                name = instruction.argval
            elif what in ("ATTR", "METHOD") and name:
                name = f"{name}.{instruction.argval}"
                stored = instruction.argval in set_somewhere
            else:
                name = name if kind in ("COPY", "DUP") else ""  # as `settings.level += 1` does
                continue
            names[name] = names.get(name, False) or stored
    return names


def holder_of(name: str, function: Any, is_meant: Callable[[Any], bool]) -> tuple[Any, str]:
    """Return the names in which a dotted global name of a function is found, and its last part.

    Args:
        name: such as `settings.level`.
        function: that uses it.
        is_meant: whether names are looked for in this module.
    """
    values, (first, *others) = function.__globals__, name.split(".")
    for inner in others:
        module = values.get(first)
        if not isinstance(module, types.ModuleType) or not is_meant(module.__name__):
            return {}, ""
        values, first = vars(module), inner
    return values, first


def globals_of(function: Any, is_meant: Callable[[Any], bool]) -> Iterator[tuple[str, Any, bool]]:
    """Yield name, value and whether it is assigned to, of the globals that a function uses."""
    for name, stored in _globals_named(function.__code__).items():
        values, last = holder_of(name, function, is_meant)
        if last in values:
            yield name, values[last], stored
