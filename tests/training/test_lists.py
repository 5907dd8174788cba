"""Data of several arrays: what a list of them means to Keras's fit it means to ours."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner import BackupAndRestore


def lists(kind: str) -> tuple[keras.Model, dict[str, Any]]:
    """Models and data of lists, as Keras's fit takes them."""
    x = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
    y = x.sum(1, keepdims=True)
    keras.utils.set_random_seed(1)
    one, other = keras.Input((3,)), keras.Input((3,))
    dense = [keras.layers.Dense(1, name=f"out{number}") for number in range(2)]
    if kind == "two inputs":
        model = keras.Model([one, other], dense[0](keras.layers.Concatenate()([one, other])))
        data: dict[str, Any] = {"x": [x, -x], "y": y}
    elif kind == "two outputs":
        model = keras.Model(one, [layer(one) for layer in dense])
        data = {"x": x, "y": [y, -y], "sample_weight": [np.arange(24.0), np.ones(24)]}
    else:
        model = keras.Model(one, dense[0](one))
        data = {"x": [x], "y": y} if kind == "one input" else {"x": x, "y": [y]}
    model.compile("sgd", ["mse"] * len(model.outputs))
    return model, data


@pytest.mark.parametrize("kind", ["two inputs", "two outputs", "one input", "one output"])
def test_lists_of_arrays_mean_what_they_mean_to_keras(tmp_path: Path, kind: str) -> None:
    found = []
    for callbacks in ([], [BackupAndRestore(str(tmp_path))]):
        model, data = lists(kind)
        fit = model.fit(
            **data, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks
        )
        found.append((fit.history, [array.tolist() for array in model.get_weights()]))
    assert found[0] == found[1]
