"""Random generators that no layer tracks: closures, globals, a Lambda's cells.

Keras saves the seeds that layers hold as attributes. One that a `call` reaches through its
closure or its module would start anew after a resume. They are found by walking from the
model's own functions, so that generators of other models in the process don't matter.
"""

import types
from collections.abc import Iterator
from typing import Any

import keras

from runner.training import backends

_DEPTH = 3  #: functions called by functions called by a layer's call


def hidden_generators(model: Any) -> list[Any]:
    """Return the state variables of generators that the model uses and does not track."""
    tracked = {id(variable) for variable in model.variables}
    found: dict[int, Any] = {}
    for value in _reachable(model):
        state = _state(value)
        if state is not None and id(state) not in tracked:
            found.setdefault(id(state), state)
    return list(found.values())


def _state(value: Any) -> Any:
    if isinstance(value, keras.random.SeedGenerator):
        return value.state
    return backends.current().generator_state(value)


def _reachable(model: Any) -> Iterator[Any]:
    seen: set[int] = set()
    for owner in (model, *model._flatten_layers(include_self=False)):
        for value in list(vars(owner).values()):
            yield from _generators_in(value, seen, _DEPTH)
        for name in ("call", "train_step", "compute_loss"):
            method = getattr(type(owner), name, None)
            if method is not None and not _is_keras(method):
                yield from _generators_in(method, seen, _DEPTH)


def _is_keras(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("keras.")


def _generators_in(value: Any, seen: set[int], depth: int) -> Iterator[Any]:
    if _state(value) is not None:
        yield value
    elif isinstance(value, types.MethodType):
        yield from _generators_in(value.__func__, seen, depth)
    elif isinstance(value, types.FunctionType) and depth and id(value) not in seen:
        seen.add(id(value))
        for inner in _names_used(value):
            yield from _generators_in(inner, seen, depth - 1)
    elif isinstance(value, list | tuple | dict) and len(value) < 1000 and depth:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _generators_in(inner, seen, depth - 1)


def _names_used(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield function.__globals__[name]
    yield from (function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).values()
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield wrapped
