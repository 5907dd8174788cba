"""What in a training step can't be restored is found in its traced graph, and said.

`tf.random.*`, `tf.nn.dropout` and NumPy inside a layer draw from states that no checkpoint can
hold; a tf.Variable that no layer tracks is not known before the step is traced. The graph shows
both. The training goes on: it is merely not the same after a resume.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from runner.training import private
from runner.training.pipelines import stateful_operations

#: Keras layers that choose with Python's `random` while they are traced: another graph each time
CHOSEN_WHEN_TRACED = frozenset({"AugMix"})


def problems(model: Any, known_handles: Sequence[Any]) -> list[str]:
    """Return in words what the traced training step remembers and no checkpoint holds."""
    found = []
    layers = {type(layer).__name__ for layer in private.all_layers(model)}
    found += [
        f"the layer {name} makes its choices once, while the step is traced, and others in the "
        "next process: a resumed training is not exact. Use RandAugment, or single layers."
        for name in sorted(layers & CHOSEN_WHEN_TRACED)
    ]
    known = {id(handle) for handle in known_handles}
    for function in private.step_functions(model):
        operations = stateful_operations(function.graph.as_graph_def())
        if operations:
            found.append(
                f"the training step uses {', '.join(sorted(operations))}, whose state can't be "
                "saved: a resumed training is not exact. Use keras.random with a "
                "keras.random.SeedGenerator, or Keras's layers."
            )
        strangers = {
            variable.name.split(":")[0]
            for variable in function.graph.variables
            if not any(id(part.handle) in known for part in _parts(variable))
        }
        if strangers:
            found.append(
                f"the training step uses variables that no layer tracks: "
                f"{', '.join(sorted(strangers))}. They are not saved: a resumed training is not "
                "exact. Make them with add_weight, or assign them to the layer."
            )
    return list(dict.fromkeys(found))


def in_background(
    model: Any, known_handles: Sequence[Any], warn: Callable[[str], None]
) -> threading.Thread:
    """Look through the step while the training goes on; each problem is said once."""

    def look() -> None:
        for problem in problems(model, known_handles):
            warn(problem)

    thread = threading.Thread(target=look, name="inspection", daemon=True)
    thread.start()
    return thread


def _parts(variable: Any) -> list[Any]:
    values = getattr(variable, "values", None)
    return [variable] if values is None or callable(values) else list(values)
