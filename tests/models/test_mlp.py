"""The small dense network that fast tests train."""

import numpy as np

from runner.models import mlp


def test_layers_follow_the_arguments() -> None:
    model = mlp.build(input_shape=(4, 4, 1), classes=3, units=(8, 5), dropout=0.5, batch_norm=True)
    assert model.count_params() == (16 * 8 + 8) + 4 * 8 + (8 * 5 + 5) + 4 * 5 + (5 * 3 + 3)
    assert [layer.name for layer in model.layers[1:]] == [
        "flatten",
        *("hidden1", "norm1", "relu1", "drop1"),
        *("hidden2", "norm2", "relu2", "drop2"),
        "head",
    ]


def test_output_is_a_distribution() -> None:
    model = mlp.build(input_shape=(4, 4, 1), classes=3)
    p = np.asarray(model(np.ones((2, 4, 4, 1), "float32")))
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
