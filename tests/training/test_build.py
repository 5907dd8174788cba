"""What trains in a phase is what the spec says, whatever trained before."""

from typing import Any

import keras
import pytest

from runner.models import myinception, transfer
from runner.training.build import train_from

SMALL: dict[str, Any] = {"input_shape": (16, 16, 3), "classes": 4}


@pytest.fixture(scope="module")
def plain() -> Any:
    return myinception.build(**SMALL, blocks=(1, 0, 0), width=0.125)


@pytest.fixture(scope="module")
def nested() -> Any:
    return transfer.build(**SMALL, network="MobileNetV2", weights=None, image_size=32)


def trained(model: Any) -> set[str]:
    return {variable.path for variable in model.trainable_variables}


@pytest.mark.parametrize("before", [0, 5, -1])
def test_layers_before_the_number_stay(plain: Any, before: int) -> None:
    train_from(plain, before)
    train_from(plain, -1)
    assert trained(plain) == {"head/kernel", "head/bias"}
    train_from(plain, 10)
    first = {v.path for layer in plain.layers[10:] for v in layer.trainable_variables}
    assert trained(plain) == first != set()
    train_from(plain, 0)
    assert len(trained(plain)) == sum(len(layer.weights) > 0 for layer in plain.layers) * 2 - sum(
        isinstance(layer, keras.layers.Conv2D) and not layer.use_bias for layer in plain.layers
    )


def test_in_transfer_learning_the_head_always_trains(nested: Any) -> None:
    base = next(layer for layer in nested.layers if hasattr(layer, "layers"))
    head = {path for path in trained(nested) if path.startswith("head")}
    for number in (10_000, len(base.layers)):
        train_from(nested, number)
        assert trained(nested) == head
    train_from(nested, -3)
    last = {v.path for layer in base.layers[-3:] for v in layer.trainable_variables}
    assert last
    assert trained(nested) == head | last
    train_from(nested, 0)
    assert len(trained(nested)) > 100
