"""The networks of the study have exactly the sizes that the study reports."""

from typing import Any

import keras
import numpy as np
import pytest

from runner.errors import SpecError
from runner.models import myinception, myinception_dropout, myinception_dropout_small

CIFAR: dict[str, Any] = {"input_shape": (32, 32, 3), "classes": 100}


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def layers(model: keras.Model, kind: type[keras.layers.Layer]) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_myinception_has_the_studys_size() -> None:
    model = myinception.build(**CIFAR)
    assert model.count_params() == 5_741_188
    assert trainable(model) == 5_725_988
    assert len(layers(model, keras.layers.Conv2D)) == 78
    assert model.output_shape == (None, 100)
    assert model.output.dtype == "float32"


def test_maps_have_the_studys_shapes() -> None:
    model = myinception.build(**CIFAR)
    shapes = {name: model.get_layer(name).output.shape[1:] for name in _JOINS}
    assert shapes == _JOINS


_JOINS = {
    "stem_join3": (13, 13, 192),
    "a4_join1": (13, 13, 192),
    "reduction_a_join1": (6, 6, 512),
    "b2_join1": (6, 6, 512),
    "reduction_b_join1": (3, 3, 1024),
    "c1_join1": (3, 3, 768),
    "head_flatten": (768,),
}


def test_dropout_network_drops_maps_in_ten_places_at_the_same_size() -> None:
    model = myinception_dropout.build(**CIFAR)
    assert model.count_params() == 5_741_188
    drops = layers(model, keras.layers.SpatialDropout2D)
    assert [layer.rate for layer in drops] == [0.3] * 10
    head = [d.rate for d in layers(model, keras.layers.Dropout) if d not in drops]
    assert head == [0.2]
    assert not model.losses


def test_dropout_network_with_dense_head() -> None:
    model = myinception_dropout.build(**CIFAR, head_units=(1024,))
    assert model.count_params() == 6_554_244


def test_small_dropout_network() -> None:
    model = myinception_dropout_small.build(**CIFAR)
    assert model.count_params() == 2_884_612
    assert model.get_layer("head_dense1").activation is keras.activations.linear


def test_gentle_stem_keeps_more_of_the_picture_at_the_same_size() -> None:
    model = myinception.build(**CIFAR, stem="gentle")
    assert model.get_layer("stem_join3").output.shape[1:] == (16, 16, 192)
    assert model.count_params() == 5_741_188


def test_factorised_network_has_two_convolutions_for_one() -> None:
    model = myinception.build(**CIFAR, factorised=True)
    assert len(layers(model, keras.layers.Conv2D)) == 78 + 4 * 3 + 1
    assert not any(
        layer.kernel_size == (3, 3) and layer.strides == (1, 1)
        for layer in layers(model, keras.layers.Conv2D)
        if not layer.name.startswith("stem")
    )
    assert model.count_params() == 5_671_668


def test_attention_follows_every_inception_block() -> None:
    model = myinception.build(**CIFAR, attention="channel")
    assert len(layers(model, keras.layers.Multiply)) == 7
    assert model.count_params() == 6_059_460


@pytest.mark.parametrize("relu_first", [False, True])
def test_order_of_relu_and_norm(relu_first: bool) -> None:
    model = myinception.build(
        input_shape=(16, 16, 1), classes=10, blocks=(0, 0, 0), relu_before_norm=relu_first
    )
    order = [layer.name for layer in model.layers if layer.name.startswith("stem_")][:3]
    last = ["stem_relu1", "stem_norm1"] if relu_first else ["stem_norm1", "stem_relu1"]
    assert order == ["stem_conv1", *last]


def test_names_do_not_depend_on_what_was_built_before() -> None:
    first, second = (
        myinception.build(input_shape=(16, 16, 1), classes=10, blocks=(1, 1, 1), width=0.25)
        for _ in range(2)
    )
    assert [v.path for v in first.weights] == [v.path for v in second.weights]


def test_weight_decay_and_initialiser() -> None:
    model = myinception.build(input_shape=(16, 16, 1), classes=10, blocks=(0, 0, 0), width=0.25)
    convolutions = layers(model, keras.layers.Conv2D)
    assert len(model.losses) == len(convolutions)
    assert float(convolutions[0].kernel_regularizer.l2) == pytest.approx(5e-4)
    assert isinstance(convolutions[0].kernel_initializer, keras.initializers.HeNormal)


@pytest.mark.parametrize(("stem", "side"), [("plain", 15), ("gentle", 9)])
def test_smallest_image(stem: Any, side: int) -> None:
    tiny: dict[str, Any] = {"classes": 10, "blocks": (0, 0, 0), "width": 0.1, "stem": stem}
    model = myinception.build(input_shape=(side, side, 1), **tiny)
    assert model.get_layer("head_flatten").input.shape[1:3] == (1, 1)
    with pytest.raises(SpecError, match=f"at least {side} x {side}; received 40 x {side - 1}"):
        myinception.build(input_shape=(40, side - 1, 1), **tiny)
