"""Whether a tf.data pipeline gives the same batches in every process, and every epoch anew.

Only then can a resume find its place again by skipping. The pipeline is looked through, part by
part, and so are the functions in it and the pipelines within those: shuffles without a seed draw
new orders, generators and Python functions run code that we can't see, stateful operations and
tables remember, and parallel parts may have been given leave to change the order. Variables that
a pipeline reads are no reason to doubt it: they are named by `captured`, and saved with the rest.

A shuffle with a seed that reshuffles has a generator of its own, from which each iterator draws
its seeds as it begins. So the order of a pass is known from how many were begun before it; they
need not be read (`late` says where that does not hold).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework.dataset_options_pb2 import Options
from tensorflow.python.framework import op_def_registry

#: parts whose output is decided by their input (and by a function, looked at by itself)
_PLAIN = re.compile(
    r"_?(Tensor|TensorSlice|SparseTensorSlice|Range|Batch|ParallelBatch|PaddedBatch|Map|"
    r"ParallelMap|Prefetch|Repeat|Take|Skip|Cache|Zip|Concatenate|Filter|FlatMap|Interleave|"
    r"ParallelInterleave|Options|Shard|Unbatch|Window|TakeWhile|Rebatch|Scan|Unique|"
    r"FixedLengthRecord|TFRecord|TextLine|Csv|CSV|DenseToRagged|DenseToRaggedBatch|"
    r"DenseToSparseBatch|GroupByWindow|AssertCardinality|AssertNext|Restructured|IgnoreErrors|"
    r"Reduce)?Dataset(V\d)?"
)
#: stateful by their registration, but without a memory that matters here
_HARMLESS = re.compile(
    r".*(Variable|VarHandle|VarIsInitialized|Iterator|Partitioned|While|If|Case|Assign|Optional|"
    r"Assert|Print|ResourceApply|ResourceScatter|ResourceGather|Summary|HashTable|Lookup|Dataset|"
    r"Placeholder|XlaLaunch|TensorArray|Stack|Empty|CollectiveReduce|NcclAllReduce).*"
)

#: operations of `tf.random`
_DRAWS = re.compile("Random|Multinomial|(Parameterized)?TruncatedNormal|Stateful|Rng")

#: parts that are random whatever is put into them
_RANDOM = re.compile("Random|Sampl|Choose")
#: operations that make a pipeline
_MADE = re.compile(r"Dataset(V\d)?$")

#: parts that begin their input when they begin, and keep nothing of it for the next pass
_AT_ONCE = re.compile(
    r"_?(Batch|ParallelBatch|PaddedBatch|Map|ParallelMap|Prefetch|Take|Skip|Filter|Options|Shard|"
    r"Unbatch|Restructured|Zip|AssertCardinality)Dataset(V\d)?"
)

_ONE_ORDER = "shuffle(..., seed=1, reshuffle_each_iteration=False)"


def doubt(dataset: Any) -> str | None:
    """Return why a pipeline may give other batches in another process; None if it never does."""
    return _first(_part_doubt(part) or _functions_doubt(part) for part in _parts(dataset))


def reshuffles(dataset: Any) -> bool:
    """Return whether each pass has another order."""
    return any(map(_reshuffles, _parts(dataset)))


def late(dataset: Any) -> str | None:
    """Return why the order of a pass is not known from how many were begun; None if it is."""
    inner = dataset._inputs()
    if not reshuffles(dataset):
        return None
    if _reshuffles(dataset):
        twice = any(map(reshuffles, inner))
        return f"it shuffles twice in each epoch; {_ONE_ORDER} keeps one order" if twice else None
    kind = type(dataset).__name__
    if not _AT_ONCE.fullmatch(kind):
        return f"{kind} comes after a shuffle() that reshuffles: put it before, or {_ONE_ORDER}"
    return _first(map(late, inner))


def captured(dataset: Any) -> list[Any]:
    """Return the variables that a pipeline's functions read, always in the same order."""
    return list({id(variable): variable for variable in _variables(_parts(dataset))}.values())


def stale(dataset: Any, *, one_iterator: bool) -> str | None:
    """Return why batches may hold old values of the variables; None if they never do.

    Args:
        dataset: may read variables.
        one_iterator: one pass extends over all epochs.
    """
    parts = list(_parts(dataset))
    if not any(True for _ in _variables(parts)):
        return None
    if one_iterator:  # TensorFlow reads ahead, even if it was not asked to
        return "batches are read ahead of the change, through the end of an epoch"
    caches = [part for part in parts if "Cache" in type(part).__name__]
    if any(True for cache in caches for _ in _variables(_parts(cache))):
        return "cache() keeps what was made with the values before"
    return None


def order(dataset: Any) -> str:
    """Return what decides over the order of a sound pipeline's shuffles; empty without any."""
    shuffles = [part for part in _parts(dataset) if "Shuffle" in type(part).__name__]
    return ", ".join(f"shuffled by seed {one}/{two}" for one, two in map(_seeds, shuffles))


def _seeds(shuffle: Any) -> tuple[int, int]:
    """TensorFlow's two: of the program (`tf.random.set_seed`), and of this shuffle."""
    return int(shuffle._seed), int(shuffle._seed2)


def _parts(dataset: Any) -> Iterator[Any]:
    yield dataset
    for inner in dataset._inputs():
        yield from _parts(inner)


def _variables(parts: Iterable[Any]) -> Iterator[Any]:
    for part in parts:
        for function in part._functions():
            yield from function.function.graph.variables


def _first(reasons: Iterable[str | None]) -> str | None:
    return next(filter(None, reasons), None)


def _part_doubt(part: Any) -> str | None:
    kind = type(part).__name__
    if "Shuffle" in kind:
        return _shuffle_doubt(part)
    reason = _kind_doubt(kind, ordered=not _unordered(part))
    return reason and f"{kind} {reason}"


def _kind_doubt(kind: str, *, ordered: bool) -> str | None:
    """Return why the name of a kind of pipeline, or its order, is a reason to doubt it."""
    if "Shuffle" in kind or _RANDOM.search(kind):
        return "is random"
    if "Generator" in kind:
        return "runs Python code"
    if not _PLAIN.fullmatch(kind):
        return "is not known to repeat itself"
    return None if ordered else "may change the order (deterministic=False)"


def _reshuffles(part: Any) -> bool:
    kind = type(part).__name__
    return "Shuffle" in kind and getattr(part, "_reshuffle_each_iteration", None) is not False


def _shuffle_doubt(part: Any) -> str | None:
    if not hasattr(part, "_seed2"):
        return f"{type(part).__name__} is random"
    return "shuffle() has no seed; give it one" if _seeds(part) == (0, 0) else None


def _unordered(part: Any) -> bool:
    given = getattr(part, "_deterministic", None)
    if given in (False, "false") or part.options().deterministic is False:
        return True
    if "ParallelInterleave" not in type(part).__name__ or given is not None:
        return False
    graph = _graph_of(part._variant_tensor)  # its Python object has forgotten the argument
    return graph is None or any(map(_gives_up_order, _nodes(graph)))


def _functions_doubt(part: Any) -> str | None:
    for function in part._functions():
        graph = function.function.graph.as_graph_def()
        found = _graph_doubt(graph) or _captures_doubt(function.function, graph)
        if found:
            return found
    return None


def _graph_doubt(graph: Any) -> str | None:
    """Doubt a function, and the pipelines that are made in it."""
    nodes = list(_nodes(graph))
    if reason := _first(_made_doubt(node) for node in nodes if _MADE.search(node.op)):
        return f"a function in it makes {reason}"
    if any(node.op.startswith("IteratorGetNext") for node in nodes):
        return "a function in it reads from an iterator, which remembers its place"
    return _state_doubt({node.op for node in nodes if _remembers(node.op) or _writes(node.op)})


def _state_doubt(names: set[str]) -> str | None:
    if drawn := sorted(filter(_DRAWS.match, names)):
        return (
            f"a function in it draws from a state that can't be saved ({', '.join(drawn)}); "
            "tf.random.stateless_*, with a seed for each element, draws from none"
        )
    if names:
        return f"a function in it remembers or runs Python code ({', '.join(sorted(names))})"
    return None


def _made_doubt(node: Any) -> str | None:
    reason = _kind_doubt(node.op, ordered=not _gives_up_order(node))
    return reason and f"{node.op}, which {reason}"


def _gives_up_order(node: Any) -> bool:
    if node.op.startswith("OptionsDataset"):
        options = Options.FromString(node.attr["serialized_options"].s)
        return bool(options.WhichOneof("optional_deterministic")) and not options.deterministic
    return bool(node.attr["deterministic"].s == b"false" or node.attr["sloppy"].b)


def _captures_doubt(function: Any, graph: Any) -> str | None:
    """Doubt what a function takes from outside: tables, and other pipelines."""
    variables = {id(variable.handle) for variable in function.graph.variables}
    keys = {node.attr["Tin"].type for node in _nodes(graph) if node.op.startswith("LookupTable")}
    for capture in function.captured_inputs:
        if capture.dtype == tf.variant and (reason := _captured_pipeline_doubt(capture)):
            return reason
        other = capture.dtype == tf.resource and id(capture) not in variables
        if other and _can_change(capture, keys - {0}):
            return "a function in it reads a lookup table that can change"
    return None


def _captured_pipeline_doubt(variant: Any) -> str | None:
    graph = _graph_of(variant)
    if graph is None:
        return "a function in it uses something that can't be looked into"
    if any(re.search("Resource|Variable|Lookup", name) for name in operations(graph)):
        return "a function in it uses another pipeline that reads variables or tables"
    return _graph_doubt(graph)


def _can_change(table: Any, keys: Iterable[int]) -> bool:
    """Whether a lookup table is one of those that change: they let nothing be removed from them."""
    for key in keys:
        try:
            tf.raw_ops.LookupTableRemoveV2(table_handle=table, keys=tf.zeros([0], key))
        except tf.errors.InvalidArgumentError:
            continue  # its keys are of another type
        except tf.errors.UnimplementedError:
            return False
        return True
    return False


def _graph_of(variant: Any) -> Any:
    """Return a pipeline as the graph that TensorFlow would save; None if it can't."""
    try:
        text = tf.raw_ops.DatasetToGraphV2(
            input_dataset=variant, external_state_policy=1, strip_device_assignment=True
        )
        return tf.compat.v1.GraphDef.FromString(text.numpy())
    except (tf.errors.OpError, DecodeError):  # of no pipeline, or of more than 2 GB
        return None


def stateful_operations(graph: Any) -> set[str]:
    """Return the names of operations in a graph that remember something between two runs."""
    return {operation for operation in operations(graph) if _remembers(operation)}


def operations(graph: Any) -> set[str]:
    """Return the names of all operations in a graph and in the functions that it calls."""
    return {node.op for node in _nodes(graph)}


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _writes(operation: str) -> bool:
    return operation.startswith(("Assign", "ResourceScatter", "ResourceApply"))


def _remembers(operation: str) -> bool:
    known = op_def_registry.get(operation)
    stateful = known is not None and known.is_stateful
    return stateful and not _HARMLESS.fullmatch(operation)
