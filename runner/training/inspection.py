"""What in a training step can't be restored is found in its traced graph, and reported.

`tf.random.*`, `tf.nn.dropout` and NumPy inside a layer draw from states that no checkpoint can
hold, and so do tables and variables of texts. The graph shows them. The training continues: it is
merely not the same after a resume.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

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
