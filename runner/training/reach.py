"""What a training can reach: every object that its models, callbacks and functions refer to.

Keras keeps a book of some of a model's variables. A second optimizer, the average model of a
callback, a generator in a closure or a list of layers stands in no book, and is changed by the
steps all the same. So the objects themselves are walked: attributes, containers, closures, and the
global names that functions of the program use. Code of libraries is not walked.

The walk is breadth first and in the order in which things were made, so that the same program
gives the same paths in every process.
"""

import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import keras
import numpy as np

Found = tuple[str, Any]  #: path and object

_MOST = 200_000  #: objects; a walk that meets more is among data, not among a training's parts
_LONGEST = 10_000  #: entries; a longer container holds data
_LIBRARIES = frozenset(
    {"absl", "h5py", "jax", "jaxlib", "keras", "matplotlib", "ml_dtypes", "numpy", "optree"}
    | {"pandas", "rich", "runner", "scipy", "sklearn", "tensorboard", "tensorflow", "google"}
)
_LEAVES = (
    str, bytes, bytearray, int, float, complex, bool, type(None), type(Ellipsis), range, slice,
    type, types.ModuleType, types.BuiltinFunctionType, types.GeneratorType, types.CodeType,
    types.FrameType, types.TracebackType, np.ndarray, np.generic, np.dtype, keras.KerasTensor,
)  # fmt: skip
#: what a training is made of, be it Keras's own or a class of the program
_PARTS = (
    keras.Layer,
    keras.optimizers.Optimizer,
    keras.Metric,
    keras.Loss,
    keras.callbacks.Callback,
)
#: of Keras's own attributes: graphs of layers (the layers are found elsewhere), books, and caches
_BOOKS = frozenset(
    {"_tracker", "_inbound_nodes", "_outbound_nodes", "_nodes", "_operations_by_depth"}
    | {"_nodes_by_depth", "_parent_path", "_build_shapes_dict", "_initial_epoch", "_jax_state"}
    | {"train_function", "test_function", "predict_function", "_eval_epoch_iterator"}
)


def is_library(module: str | None) -> bool:
    """Whether code of this module is a library's, not the program's."""
    root = (module or "").partition(".")[0]
    return root in _LIBRARIES or (root in sys.stdlib_module_names and root != "__main__")


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
        if isinstance(value, _LEAVES) and not isinstance(value, np.ndarray):
            yield path, value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        kept.append(value)
        yield path, value
        if not isinstance(value, np.ndarray) and not leaf(value):
            queue.extend(_parts(path, value))


def parts(model: Any) -> list[Found]:
    """Return the models, layers, losses, metrics and optimizers that a model refers to."""

    def is_leaf(value: Any) -> bool:
        return isinstance(value, keras.Variable)

    return [one for one in walk([("model", model)], leaf=is_leaf) if is_part(one[1])]


def program_parts(model: Any) -> list[Found]:
    """Return the models, layers, losses, metrics and optimizers of classes of the program's own."""
    return [one for one in parts(model) if not is_library(type(one[1]).__module__)]


def is_part(value: Any) -> bool:
    """Whether an object is a model, layer, metric, loss or optimizer; a callback is none."""
    return isinstance(value, _PARTS) and not isinstance(value, keras.callbacks.Callback)


def _parts(path: str, value: Any) -> Iterator[Found]:
    if isinstance(value, types.FunctionType):
        yield from _of_function(path, value)
    elif isinstance(value, types.MethodType):
        yield from ((path, value.__self__), (path, value.__func__))
    elif isinstance(value, functools.partial):
        yield from ((path, value.func), (f"{path}.args", value.args))
        yield f"{path}.keywords", value.keywords
    elif isinstance(value, Mapping | list | tuple | set | frozenset | deque):
        yield from _of_container(path, value)
    if not isinstance(value, types.FunctionType | types.MethodType):
        yield from _of_object(path, value)


def _of_container(path: str, value: Any) -> Iterator[Found]:
    if len(value) > _LONGEST:
        return
    if isinstance(value, Mapping):
        for key in list(value):
            yield f"{path}[{key!r}]" if isinstance(key, str | int | float) else path, value[key]
    elif isinstance(value, set | frozenset):
        members = sorted(value, key=lambda v: (type(v).__name__, str(getattr(v, "path", ""))))
        yield from ((f"{path}{{{index}}}", member) for index, member in enumerate(members))
    else:
        yield from ((f"{path}[{index}]", member) for index, member in enumerate(value))


def attributes(value: Any) -> dict[str, Any]:
    """Return an object's own attributes, those in slots included."""
    found = dict(getattr(value, "__dict__", None) or {})
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                try:
                    found[name] = object.__getattribute__(value, name)
                except AttributeError:  # not set yet
                    continue
    return found


def _of_object(path: str, value: Any) -> Iterator[Found]:
    kind = type(value)
    own = not is_library(kind.__module__)
    if not own and not _is_part(value):
        return
    for name, inner in attributes(value).items():
        if name not in _BOOKS:
            yield f"{path}.{name}", inner
    for parent in kind.__mro__:
        if not is_library(parent.__module__):
            yield from _of_class(path, parent)


def _is_part(value: Any) -> bool:
    """Whether an object of a library's kind is one of those that a training is made of."""
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return False  # a leaf with a state of its own
    module = type(value).__module__
    if module.startswith("keras."):
        return not module.startswith(("keras.src.ops.node", "keras.src.utils.tracking"))
    return isinstance(value, _PARTS) or _is_tensorflow_part(value)


def _is_tensorflow_part(value: Any) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not type(value).__module__.startswith("tensorflow."):
        return False
    kinds = (
        tensorflow.Module,
        tensorflow.random.Generator,
        tensorflow.types.experimental.PolymorphicFunction,
    )
    return isinstance(value, kinds)


def _of_class(path: str, kind: type) -> Iterator[Found]:
    """What the class itself holds, and what its methods use."""
    for name, inner in list(vars(kind).items()):
        if isinstance(inner, staticmethod | classmethod):
            inner = inner.__func__
        if isinstance(inner, property):
            for accessor in (inner.fget, inner.fset):
                if accessor is not None:
                    yield f"{path}.{name}", accessor
        elif not name.startswith("__") or isinstance(inner, types.FunctionType):
            yield f"{path}.{name}", inner


def _of_function(path: str, function: types.FunctionType) -> Iterator[Found]:
    if is_library(function.__module__) and not function.__closure__:
        return
    for name, inner in cells(function).items():
        yield f"{path}<{name}>", inner
    if not is_library(function.__module__):
        used = list(dict.fromkeys(n for c in codes(function.__code__) for n in c.co_names))
        yield from _of_names(path, function.__globals__, used)
        yield from ((f"{path}()", default) for default in function.__defaults__ or ())
        for name, default in (function.__kwdefaults__ or {}).items():
            yield f"{path}({name})", default
    for name, inner in vars(function).items():  # `__wrapped__` among them
        yield f"{path}.{name}", inner


def _of_names(path: str, values: Mapping[str, Any], used: Iterable[str]) -> Iterator[Found]:
    """What names of code stand for, those in other modules of the program's own included."""
    for name in used:
        if name not in values:
            continue
        inner = values[name]
        yield f"{path}<{name}>", inner
        if isinstance(inner, types.ModuleType) and not is_library(inner.__name__):
            yield from (
                (f"{path}<{name}.{part}>", vars(inner)[part])
                for part in used
                if part in vars(inner) and not isinstance(vars(inner)[part], types.ModuleType)
            )


def cells(function: types.FunctionType) -> dict[str, Any]:
    """Return what a function's closure holds."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with suppress(ValueError):  # not filled yet
            found[name] = cell.cell_contents
    return found


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a function's code, and that of the functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)
