"""What in a training step can't be restored is found in its traced graph, and reported.

`tf.random.*`, `tf.nn.dropout` and NumPy inside a layer draw from states that no checkpoint can
hold, and so do tables and variables of texts. The graph shows them. The training continues: it is
merely not the same after a resume.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from runner.training import private
from runner.training.data.pipelines import operations, stateful_operations

Parts = Callable[[Any], list[tuple[str, Any]]]  #: as `Backend.parts`
_TABLE_WRITES = ("LookupTableInsert", "LookupTableImport", "LookupTableRemove")


def problems(model: Any, known_handles: Sequence[Any], parts: Parts) -> list[str]:
    """Return in words what the traced training step remembers and no checkpoint holds."""
    found = []
    known = {id(handle) for handle in known_handles}
    for function in private.step_functions(model):
        graph = function.graph.as_graph_def()
        changed = {name for name in operations(graph) if name.startswith(_TABLE_WRITES)}
        remembering = stateful_operations(graph) | changed
        if remembering:
            found.append(
                f"the training step uses {', '.join(sorted(remembering))}, whose state can't be "
                "saved: a resumed training is not exact. Use keras.random with a "
                "keras.random.SeedGenerator, or Keras's layers."
            )
        if adds_a_sum(graph):
            found.append(
                "the training step adds a sum to a metric, as in tracker.update_state(a + b). "
                "TensorFlow makes one sum of both in some processes and not in others, with or "
                "without a checkpoint: the last bit of that metric may differ after a resume, that "
                "of no weight. Give it keras.ops.sum(keras.ops.stack([a, b]))."
            )
        strangers = {
            variable.name.split(":")[0]
            for variable in function.graph.variables
            if not any(id(part.handle) in known for _, part in parts(variable))
        }
        if strangers:
            found.append(
                f"the training step uses variables whose kind can't be saved: "
                f"{', '.join(sorted(strangers))}. A resumed training is exact only if no step "
                "and no callback changes them. Keep texts and tables out of the training's state."
            )
    return list(dict.fromkeys(found))


def adds_a_sum(graph: Any) -> bool:
    """Whether a sum is added to a variable in a graph, or in a function that it calls.

    The optimizer of TensorFlow's graphs (Grappler's AddOpsRewrite) goes through its sums in the
    order of their addresses.
    """
    return any(
        _adds_a_sum({node.name: node for node in nodes})
        for nodes in (graph.node, *(function.node_def for function in graph.library.function))
    )


def _adds_a_sum(nodes: Mapping[str, Any]) -> bool:
    def inputs(node: Any) -> list[Any]:
        names = [name.split(":")[0] for name in node.input if not name.startswith("^")]
        return [nodes[name] for name in names if name in nodes]

    def is_of_a_scalar(total: Any) -> bool:
        *_, axes = inputs(total)
        if axes.op == "Range":  # from 0 to the rank
            _, rank, _ = inputs(axes)
            return rank.op == "Const" and not tf.make_ndarray(rank.attr["value"].tensor)
        return axes.op == "Const" and not tf.make_ndarray(axes.attr["value"].tensor).size

    def is_sum(node: Any) -> bool:
        while node.op == "Identity" or (node.op == "Sum" and is_of_a_scalar(node)):
            node = inputs(node)[0]
        return node.op in ("AddV2", "AddN")

    added = [
        inputs(value)
        for node in nodes.values()
        if node.op == "AssignVariableOp"
        for value in inputs(node)
        if value.op == "AddV2"
    ]
    return any(
        len(both) == 2 and both[0].op == "ReadVariableOp" and is_sum(both[1]) for both in added
    )


def in_background(
    model: Any, known_handles: Sequence[Any], parts: Parts, warn: Callable[[str], None]
) -> threading.Thread:
    """Look through the step while the training continues; each problem is reported once."""

    def look() -> None:
        for problem in problems(model, known_handles, parts):
            warn(problem)

    thread = threading.Thread(target=look, name="inspection", daemon=True)
    thread.start()
    return thread
