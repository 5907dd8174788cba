"""The layers that the Inception networks are made of, each with a name that depends on its place.

A leading underscore keeps this file out of the list of models.
"""

import copy
from typing import Any, Literal

Padding = Literal["same", "valid"]


class ConvBlocks:
    """Adds convolutions, pools and joins to a functional Keras model, block by block.

    Example:
        >>> net = ConvBlocks(width=0.5)
        >>> net.block("stem")
        >>> x = net.conv(keras.Input((32, 32, 3)), 32, 3)   # 16 filters, "stem_conv1"
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        l2: float = 0.0,
        initializer: str = "glorot_uniform",
        relu_before_norm: bool = False,
        channel_dropout: float = 0.0,
    ) -> None:
        self._width = width
        self._l2 = l2
        self._initializer = initializer
        self._relu_before_norm = relu_before_norm
        self._channel_dropout = channel_dropout
        self._names = _Names()

    def scaled(self, factor: float) -> "ConvBlocks":
        """Return blocks of `factor` times the width that go on with the same names."""
        other = copy.copy(self)
        other._width = self._width * factor
        return other

    def block(self, name: str) -> None:
        """Begin a block: the names of the layers that follow start with `name`."""
        self._names.begin(name)

    def conv(
        self,
        x: Any,
        filters: int,
        size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = "same",
    ) -> Any:
        """Convolution with bias, BatchNormalization and ReLU; `filters` is scaled by the width."""
        from keras import layers, regularizers

        number = self._names.next("conv")
        name = self._names.block
        x = layers.Conv2D(
            max(1, round(filters * self._width)),
            size,
            strides=stride,
            padding=padding,
            kernel_initializer=self._initializer,
            kernel_regularizer=regularizers.L2(self._l2) if self._l2 else None,
            name=f"{name}_conv{number}",
        )(x)
        norm = layers.BatchNormalization(name=f"{name}_norm{number}")
        relu = layers.ReLU(name=f"{name}_relu{number}")
        return norm(relu(x)) if self._relu_before_norm else relu(norm(x))

    def max_pool(self, x: Any, size: int, stride: int, padding: Padding) -> Any:
        """Largest value of each `size` x `size` window."""
        from keras import layers

        name = self._names.unique("pool")
        return layers.MaxPooling2D(size, stride, padding, name=name)(x)

    def average_pool(self, x: Any) -> Any:
        """Mean of each 3x3 window, at stride 1 and without a change of size."""
        from keras import layers

        return layers.AveragePooling2D(3, 1, "same", name=self._names.unique("pool"))(x)

    def join(self, *branches: Any) -> Any:
        """Lay the feature maps of the branches behind each other."""
        from keras import layers

        return layers.Concatenate(name=self._names.unique("join"))(list(branches))

    def drop(self, x: Any) -> Any:
        """Drop whole feature maps while training, where the network has channel dropout."""
        from keras import layers

        if not self._channel_dropout:
            return x
        name = self._names.unique("drop")
        return layers.SpatialDropout2D(self._channel_dropout, name=name)(x)

    def channel_attention(self, x: Any) -> Any:
        """Weigh each feature map by what all of them hold on average (squeeze and excitation)."""
        from keras import layers

        maps, name = x.shape[-1], self._names.unique("attention")
        squeeze = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(x)
        units = max(1, maps // 8)
        hidden = layers.Dense(units, activation="relu", name=f"{name}_squeeze")(squeeze)
        weight = layers.Dense(maps, activation="sigmoid", name=f"{name}_excite")(hidden)
        return layers.Multiply(name=name)([x, weight])


class _Names:
    """Numbers the layers of each kind within a block."""

    def __init__(self) -> None:
        self.block = "start"
        self._counts: dict[str, int] = {}

    def begin(self, block: str) -> None:
        self.block = block
        self._counts = {}

    def next(self, kind: str) -> int:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind]

    def unique(self, kind: str) -> str:
        return f"{self.block}_{kind}{self.next(kind)}"
