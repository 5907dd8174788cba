"""The fields of Python objects: what their state is made of, read and written by name.

An object's fields are its attributes; a function's are its closure, the globals that can change
and its own attributes; a class's are its attributes and methods. Fields are read and written
where they are kept (`__dict__`, slots, cells): no property, `__getattr__` or `__setattr__` runs.
"""

import enum
import functools
from collections.abc import Callable
from typing import Any

import keras

from runner.checkpoint.plain import NotPlainError
from runner.training.state import anatomy, kinds
from runner.training.state.anatomy import is_library, is_program
from runner.training.state.kinds import DATA, Kind, kind_of


def fields_of(owner: Any) -> dict[str, Any]:
    """Return what an object consists of, by name; names with a colon are not attributes."""
    return _FIELDS.get(kind_of(owner), _of_object)(owner)


def _of_object(owner: Any) -> dict[str, Any]:
    cls: Any = type(owner)
    found = {"class:": cls} if is_program(cls.__module__) else {}
    found |= anatomy.own_attributes(owner)
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
    if not any(map(_is_foreign, cls.__mro__)) or (_is_foreign(cls) and kinds.is_dataclass(cls)):
        return None
    names = anatomy.names_in_code(
        cls, lambda base: not _is_foreign(base) and base not in (object, *DATA)
    )
    return frozenset({"class:", *names} - {"stop_training"})


# ---------------------------------------------------------------------- functions and classes


def _of_function(owner: Any) -> dict[str, Any]:
    if not is_program(owner.__globals__.get("__name__")):
        return {}
    used = anatomy.globals_of(owner, is_program)
    defaults = [*(owner.__defaults__ or ()), *(owner.__kwdefaults__ or {}).values()]
    return {
        **{f"closure:{name}": v for name, v in anatomy.cells(owner).items()},
        **{f"global:{name}": v for name, v, stored in used if stored or kinds.has_state(v)},
        **{f"default:{index}": v for index, v in enumerate(defaults) if kinds.has_state(v)},
        **vars(owner),
    }


_CLASS_STATE = {
    Kind.LEAF,
    *kinds.CONTAINERS,
    *kinds.GENERATORS,
    Kind.OBJECT,
    Kind.TUPLE,
    Kind.FROZEN,
}


def _of_class(owner: Any) -> dict[str, Any]:
    if not is_program(owner.__module__) or issubclass(owner, enum.Enum | tuple):
        return {}
    found: dict[str, Any] = {}
    for name, value in vars(owner).copy().items():
        hidden = name[:2] == name[-2:] == "__"
        if function := next(anatomy.functions_in(value), None):
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
    slot = anatomy.slots_of(cls).get(name)
    if relation == "closure":
        if inner not in owner.__code__.co_freevars:
            raise NotPlainError("the function is another now")
        owner.__closure__[owner.__code__.co_freevars.index(inner)].cell_contents = value
    elif relation == "global":
        names, last = anatomy.holder_of(inner, owner, is_program)
        names[last] = value
    elif relation:
        raise NotPlainError(f"{name} can't be set")
    elif kind_of(owner) is Kind.CLASS:
        type.__setattr__(owner, name, value)
    elif name in ("monitor_op", "min_delta") and _is_monitor(owner):
        _set_monitor(owner, name, value)
    elif name == "monitor_op" and anatomy.is_of_keras(cls):
        pass  # before Keras 3.11 some have none that changes
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
