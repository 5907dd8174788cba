"""What a training can reach: every object that its models, callbacks and functions refer to.

Keras keeps a book of some of a model's variables. A second optimizer, the average model of a
callback, a generator in a closure or a list of layers stands in no book, and is changed by the
steps all the same. So the objects themselves are walked: attributes, containers, closures, and the
global names that functions of the program use. Code of libraries is not walked.

The walk is breadth first and in the order in which things were made, so that the same program
gives the same paths in every process. The paths are names of tensors in checkpoints.
"""

import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from runner.training.state import anatomy
from runner.training.state.anatomy import cells, globals_of, own_attributes

Found = tuple[str, Any]  #: path and object

_MOST = 200_000  #: objects; a walk that meets more is among data, not among a training's parts
_LONGEST = 10_000  #: entries; a longer container holds data
#: libraries besides `anatomy`'s; what they have is not walked
_OTHERS = frozenset(
    {"absl", "google", "h5py", "matplotlib", "ml_dtypes", "optree", "pandas", "rich", "scipy"}
    | {"sklearn", "tensorboard"}
)
_LEAVES = (
    str, bytes, bytearray, int, float, complex, bool, type(None), type(Ellipsis), range, slice,
    type, types.ModuleType, types.BuiltinFunctionType, types.GeneratorType, types.CodeType,
    types.FrameType, types.TracebackType, np.generic, np.dtype, keras.KerasTensor,
)  # fmt: skip
_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
#: what a training is made of, be it Keras's own or a class of the program
_PARTS = (
    *(keras.Layer, keras.optimizers.Optimizer, keras.Metric, keras.Loss),
    *(keras.regularizers.Regularizer, keras.constraints.Constraint),
    keras.optimizers.schedules.LearningRateSchedule,
)
#: of Keras's own attributes: graphs of layers (the layers are found elsewhere), books, and caches
_BOOKS = frozenset(
    {"_tracker", "_inbound_nodes", "_outbound_nodes", "_nodes", "_operations_by_depth"}
    | {"_nodes_by_depth", "_parent_path", "_build_shapes_dict", "_initial_epoch", "_jax_state"}
    | {"train_function", "test_function", "predict_function", "_eval_epoch_iterator"}
)


def is_library(module: str | None) -> bool:
    """Whether code of this module is a library's, not the program's."""
    return anatomy.is_library(module) or anatomy.root_of(module) in _OTHERS


def walk(
    roots: Iterable[Found], *, leaf: Callable[[Any], bool], known: Iterable[Any] = ()
) -> Iterator[Found]:
    """Yield every object that the roots refer to, themselves included, once, nearest first.

    Args:
        roots: names and objects.
        leaf: whether an object is yielded, but not looked into.
        known: objects that are passed over.
    """
    seen = {id(value) for value in known}
    kept = []  # what is made by looking (bound methods) must live as long as its identity counts
    queue: deque[Found] = deque(roots)
    while queue and len(seen) < _MOST:
        path, value = queue.popleft()
        if isinstance(value, _LEAVES):
            yield path, value
        elif id(value) not in seen:
            seen.add(id(value))
            kept.append(value)
            yield path, value
            if not isinstance(value, np.ndarray) and not leaf(value):
                queue.extend(_inside(path, value))


def parts(model: Any) -> list[Found]:
    """Return the models, layers, optimizers and so on that a model refers to."""
    return [one for one in _referred_to(model) if is_part(one[1])]


def program_parts(model: Any) -> list[Found]:
    """Return the parts of classes of the program's own.

    In a step that is not traced, the program's losses, metrics and functions in layers run each
    time: what they hold and use is state, too.
    """
    is_mine = _is_mine_or_runs if model.run_eagerly else _is_mine
    return [one for one in _referred_to(model) if is_mine(one[1])]


def _referred_to(model: Any) -> Iterator[Found]:
    return walk([("model", model)], leaf=lambda value: isinstance(value, keras.Variable))


def _is_mine(value: Any) -> bool:
    return is_part(value) and not is_library(type(value).__module__)


def _is_mine_or_runs(value: Any) -> bool:
    if isinstance(value, types.FunctionType):
        is_method = "." in value.__qualname__.rpartition("<locals>.")[2]
        return not is_method and not is_library(value.__module__)
    is_called = callable(value) and not isinstance(value, type)
    return _is_mine(value) or (is_called and not is_library(type(value).__module__))


def is_part(value: Any) -> bool:
    """Whether an object is of a kind that a training is made of; a callback is none."""
    return isinstance(value, _PARTS) and not isinstance(value, keras.callbacks.Callback)


def _inside(path: str, value: Any) -> Iterator[Found]:
    """Yield what a value refers to."""
    if isinstance(value, types.FunctionType):
        yield from _of_function(path, value)
        return
    if isinstance(value, types.MethodType):
        yield from ((path, value.__self__), (path, value.__func__))
        return
    if isinstance(value, functools.partial):
        yield from ((path, value.func), (f"{path}.args", value.args))
        yield f"{path}.keywords", value.keywords
    elif isinstance(value, _CONTAINERS) and len(value) <= _LONGEST:
        yield from _of_container(path, value)
    yield from _of_object(path, value)


def _of_container(path: str, value: Any) -> Iterator[Found]:
    if isinstance(value, Mapping):
        for key in list(value):
            yield f"{path}[{key!r}]" if isinstance(key, str | int | float) else path, value[key]
    elif isinstance(value, set | frozenset):
        members = sorted(value, key=lambda v: (type(v).__name__, str(getattr(v, "path", ""))))
        yield from ((f"{path}{{{index}}}", member) for index, member in enumerate(members))
    else:
        yield from ((f"{path}[{index}]", member) for index, member in enumerate(value))


def _of_object(path: str, value: Any) -> Iterator[Found]:
    kind = type(value)
    if is_library(kind.__module__) and not _is_library_s_part(value):
        return
    for name, inner in own_attributes(value).items():
        if name not in _BOOKS:
            yield f"{path}.{name}", inner
    for parent in kind.__mro__:
        if not is_library(parent.__module__):
            yield from _of_class(path, parent)


def _is_library_s_part(value: Any) -> bool:
    """Whether an object of a library's kind is one of those that a training is made of."""
    module = type(value).__module__
    if module.startswith("keras."):
        return not module.startswith(("keras.src.ops.node", "keras.src.utils.tracking"))
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not module.startswith("tensorflow."):
        return isinstance(value, (*_PARTS, keras.callbacks.Callback))
    kinds = (
        tensorflow.Module,
        tensorflow.random.Generator,
        tensorflow.types.experimental.PolymorphicFunction,
    )
    return isinstance(value, kinds)


def _of_class(path: str, kind: type) -> Iterator[Found]:
    """What the class itself holds, and what its methods use."""
    for name, inner in vars(kind).copy().items():
        if isinstance(inner, staticmethod | classmethod):
            inner = inner.__func__
        if isinstance(inner, property):
            accessors = (inner.fget, inner.fset)
            yield from ((f"{path}.{name}", one) for one in accessors if one is not None)
        elif not name.startswith("__") or isinstance(inner, types.FunctionType):
            yield f"{path}.{name}", inner


def _of_function(path: str, function: types.FunctionType) -> Iterator[Found]:
    own = not is_library(function.__module__)
    if not own and not function.__closure__:
        return
    yield from ((f"{path}<{name}>", inner) for name, inner in cells(function).items())
    if own:
        yield from _of_own_function(path, function)
    for name, inner in vars(function).items():  # `__wrapped__` among them
        yield f"{path}.{name}", inner


def _of_own_function(path: str, function: types.FunctionType) -> Iterator[Found]:
    for name, inner, _ in globals_of(function, lambda module: not is_library(module)):
        yield f"{path}<{name}>", inner
    yield from ((f"{path}()", default) for default in function.__defaults__ or ())
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f"{path}({name})", default
