"""Whether a tf.data pipeline gives the same batches in every process, and every epoch anew.

Only then can a resume find its place again by skipping. The pipeline is looked through, part by
part: most shuffles draw new orders, generators and Python functions run code that we can't see,
stateful operations remember, and parallel maps may be told not to keep the order.
"""

import re
from collections.abc import Iterator
from typing import Any

from tensorflow.python.framework import op_def_registry

#: parts whose output is decided by their input (and by a function, looked at by itself)
_PLAIN = re.compile(
    r"_?(Tensor|TensorSlice|SparseTensorSlice|Range|Batch|ParallelBatch|PaddedBatch|Map|"
    r"ParallelMap|Prefetch|Repeat|Take|Skip|Cache|Zip|Concatenate|Filter|FlatMap|Interleave|"
    r"ParallelInterleave|Options|Shard|Unbatch|Window|TakeWhile|Rebatch|Scan|Unique|"
    r"FixedLengthRecord|TFRecord|TextLine|DenseToRaggedBatch|GroupByWindow|AssertCardinality|"
    r"AssertNext|Restructured|IgnoreErrors)?Dataset(V\d)?"
)
#: stateful by their registration, but without a memory that matters here
_HARMLESS = re.compile(
    r".*(Variable|VarHandle|Iterator|Partitioned|While|If|Case|Assign|Optional|Assert|Print|"
    r"ResourceApply|ResourceScatter|ResourceGather|Summary|HashTable|Lookup|Dataset|Placeholder|"
    r"XlaLaunch|CollectiveReduce|NcclAllReduce).*"
)

_ONE_ORDER = "shuffle(..., seed=1, reshuffle_each_iteration=False)"


def doubt(dataset: Any) -> str | None:
    """Return why a pipeline can't be vouched for, or None if it can."""
    for part in _parts(dataset):
        kind = type(part).__name__
        if "Shuffle" in kind:
            if getattr(part, "_reshuffle_each_iteration", None) is not False:
                return (
                    "shuffle() draws a new order in each epoch, and after a resume its first one"
                    f" again; {_ONE_ORDER} keeps one order"
                )
            if _seeds(part) == (0, 0):
                return f"shuffle() has no seed; {_ONE_ORDER} keeps one order"
            continue
        if "Random" in kind or "Sample" in kind or "Choose" in kind:
            return f"{kind} is random"
        if not _PLAIN.fullmatch(kind):
            return f"{kind} is not known to repeat itself"
        if _unordered(part):
            return f"{kind} may change the order (deterministic=False)"
        for function in part._functions():
            found = stateful_operations(function.function.graph.as_graph_def())
            found |= {
                op for op in operations(function.function.graph.as_graph_def()) if _writes(op)
            }
            if found:
                names = ", ".join(sorted(found))
                return f"a function in it remembers or runs Python code ({names})"
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


def _unordered(part: Any) -> bool:
    said = getattr(part, "_deterministic", None)
    options = part.options()
    return said in (False, "false") or options.deterministic is False


def stateful_operations(graph: Any) -> set[str]:
    """Return the names of operations in a graph that remember something between two runs."""
    return {operation for operation in operations(graph) if _remembers(operation)}


def operations(graph: Any) -> set[str]:
    """Return the names of all operations in a graph and in the functions that it calls."""
    inner = {node.op for function in graph.library.function for node in function.node_def}
    return inner | {node.op for node in graph.node}


def _writes(operation: str) -> bool:
    return operation.startswith(("Assign", "ResourceScatter", "ResourceApply"))


def _remembers(operation: str) -> bool:
    known = op_def_registry.get(operation)
    stateful = known is not None and known.is_stateful
    return stateful and not _HARMLESS.fullmatch(operation)
