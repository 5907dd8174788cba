"""The fields of Python objects: what their state is made of, read and written by name.

An object's fields are its attributes; a function's are its closure, the globals that can change
and its own attributes; a class's are its attributes and methods. Fields are read and written
where they are kept (`__dict__`, slots, cells): no property, `__getattr__` or `__setattr__` runs.
"""

import dis
import enum
import functools
import types
from collections.abc import Callable
from typing import Any

import keras

from runner.checkpoint.plain import NotPlainError
from runner.training.state.anatomy import (
    cells,
    codes,
    functions_in,
    is_library,
    is_program,
    names_in_code,
    own_attributes,
    slots_of,
)
from runner.training.state.kinds import (
    CONTAINERS,
    DATA,
    GENERATORS,
    Kind,
    has_state,
    is_dataclass,
    kind_of,
)


def fields_of(owner: Any) -> dict[str, Any]:
    """Return what an object consists of, by name; names with a colon are not attributes."""
    return _FIELDS.get(kind_of(owner), _of_object)(owner)


def _of_object(owner: Any) -> dict[str, Any]:
    cls: Any = type(owner)
    found = {"class:": cls} if is_program(cls.__module__) else {}
    found |= own_attributes(owner)
    if issubclass(cls, keras.callbacks.Callback):
        return _of_callback(owner, found)
    chosen = _chosen(cls)
    return found if chosen is None else {k: v for k, v in found.items() if k in chosen}


def _of_callback(owner: Any, found: dict[str, Any]) -> dict[str, Any]:
    skipped = {"_model", "params"}
    if issubclass(type(owner), keras.callbacks.CSVLogger):
        skipped |= {"csv_file", "writer"}
    found = {k: v for k, v in found.items() if k not in skipped}
    if _is_monitor(owner) and "monitor_op" in found:
        # Keras sets the operation at the first epoch's end and flips the sign of what was given
        found["monitor_op"] = getattr(found["monitor_op"], "__name__", None)
        found["min_delta"] = abs(found.get("min_delta", 0))
    return found


def _is_monitor(owner: Any) -> bool:
    cls = type(owner)
    return issubclass(cls, keras.callbacks.Callback) and hasattr(cls, "_set_monitor_op")


def _is_foreign(base: Any) -> bool:
    """Whether a base class is a library's, and may have state."""
    hollow = ("abc", "typing", "collections.abc", "contextlib")
    known = base is object or base in DATA or base.__module__ in hollow
    return is_library(base.__module__) and not known


@functools.lru_cache(maxsize=1000)
def _chosen(cls: type) -> frozenset[str] | None:
    """The attributes that are the program's, in a class that adds to a library's; None: all."""
    if not any(map(_is_foreign, cls.__mro__)) or (_is_foreign(cls) and is_dataclass(cls)):
        return None
    names = names_in_code(cls, lambda base: not _is_foreign(base) and base not in (object, *DATA))
    return frozenset({"class:", *names} - {"stop_training"})


# ---------------------------------------------------------------------- functions and classes


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


def _module_of(name: str, values: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what a dotted name is found in, and its last part; modules of the program alone."""
    first, *others = name.split(".")
    for inner in others:
        module = values.get(first)
        if not isinstance(module, types.ModuleType) or not is_program(module.__name__):
            return {}, ""
        values, first = vars(module), inner
    return values, first


def _of_function(owner: Any) -> dict[str, Any]:
    if not is_program(owner.__globals__.get("__name__")):
        return {}
    defaults = [*(owner.__defaults__ or ()), *(owner.__kwdefaults__ or {}).values()]
    return {
        **{f"closure:{name}": v for name, v in cells(owner).items() if name != "__class__"},
        **_globals_of(owner),
        **{f"default:{i}": v for i, v in enumerate(defaults) if has_state(v)},
        **vars(owner),
    }


def _globals_of(function: Any) -> dict[str, Any]:
    found = {}
    for name, stored in _globals_named(function.__code__).items():
        names, last = _module_of(name, function.__globals__)
        if last in names and (stored or has_state(names[last])):
            found[f"global:{name}"] = names[last]
    return found


_CLASS_STATE = {Kind.LEAF, *CONTAINERS, *GENERATORS, Kind.OBJECT, Kind.TUPLE, Kind.FROZEN}


def _of_class(owner: Any) -> dict[str, Any]:
    if not is_program(owner.__module__) or issubclass(owner, enum.Enum | tuple):
        return {}
    found: dict[str, Any] = {}
    for name, value in list(vars(owner).items()):
        hidden = name[:2] == name[-2:] == "__"
        if function := next(functions_in(value), None):
            found[f"method:{name}"] = function
        elif not hidden and kind_of(value) in _CLASS_STATE:
            found[name] = value
    bases = [base for base in owner.__bases__ if is_program(base.__module__)]
    return found | {f"base:{base.__qualname__}": base for base in bases}


_FIELDS: dict[Kind, Callable[[Any], dict[str, Any]]] = {
    Kind.FUNCTION: _of_function,
    Kind.CLASS: _of_class,
    Kind.METHOD: lambda m: {"self:": m.__self__, "function:": m.__func__},
    Kind.PARTIAL: lambda p: {"function:": p.func, "args:": p.args, "keywords:": p.keywords},
    Kind.BUILTIN: lambda b: {"self:": b.__self__},
}

# ---------------------------------------------------------------------- writing

#: by which Keras's monitors compare, by name
_OPERATIONS = {None: None, "less": keras.ops.less, "greater": keras.ops.greater}


def is_settable(name: str) -> bool:
    """Whether a field can be given another value; else only what stands in it changes."""
    return ":" not in name or name.startswith(("closure:", "global:"))


def set_field(owner: Any, name: str, value: Any) -> None:
    """Give a field another value.

    Raises:
        NotPlainError: it can't have one.
    """
    relation, _, inner = name.rpartition(":")
    cls: Any = type(owner)
    slot = slots_of(cls).get(name)
    if relation == "closure":
        if inner not in owner.__code__.co_freevars:
            raise NotPlainError("the function is another now")
        owner.__closure__[owner.__code__.co_freevars.index(inner)].cell_contents = value
    elif relation == "global":
        names, last = _module_of(inner, owner.__globals__)
        names[last] = value
    elif relation:
        raise NotPlainError(f"{name} can't be set")
    elif kind_of(owner) is Kind.CLASS:
        type.__setattr__(owner, name, value)
    elif name in ("monitor_op", "min_delta") and _is_monitor(owner):
        _set_monitor(owner, name, value)
    elif slot is not None:
        slot.__set__(owner, value)
    else:
        object.__getattribute__(owner, "__dict__")[name] = value


def _set_monitor(owner: Any, name: str, value: Any) -> None:
    attributes = vars(owner)
    attributes[name] = _OPERATIONS.get(value) if name == "monitor_op" else value
    sign = -1 if attributes.get("monitor_op") is keras.ops.less else 1
    attributes["min_delta"] = sign * abs(attributes.get("min_delta", 0))


def delete_field(owner: Any, name: str) -> None:
    """Remove an attribute that the training removed."""
    if kind_of(owner) is not Kind.CLASS and ":" not in name and type(owner).__dictoffset__:
        object.__getattribute__(owner, "__dict__").pop(name, None)
