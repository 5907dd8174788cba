"""MyInception: InceptionV4 without residuals, halved in width, for images of 32 x 32.

At the default arguments and 100 classes it has exactly 5,741,188 parameters in 78 convolutions,
5,725,988 of them trainable; a test counts them. The other networks of the family (channel
dropout, the small one) are this builder with other defaults, so a fix here reaches them all.

Every layer has a name of its own: Keras would number them by what else the process has built,
and a checkpoint's names must not depend on that.
"""

from typing import TYPE_CHECKING, Any, Literal

from runner.errors import SpecError
from runner.models._arguments import (
    Activation,
    Attention,
    Count,
    Decay,
    Factor,
    Initializer,
    Share,
    Stem,
    Units,
)
from runner.models._blocks import ConvBlocks

if TYPE_CHECKING:
    import keras


def build(
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    blocks: tuple[Count, Count, Count] = (4, 2, 1),
    width: Factor = 1.0,
    late_width: Factor = 1.0,
    channel_dropout: Share = 0.0,
    head_dropout: Share = 0.2,
    head_units: tuple[Units, ...] = (),
    head_activation: Activation | None = "relu",
    l2: Decay = 5e-4,
    initializer: Initializer = "he_normal",
    relu_before_norm: bool = False,
    stem: Stem = "plain",
    factorised: bool = False,
    attention: Attention | None = None,
) -> "keras.Model":
    """Return the network: float images in [-1, 1] to class probabilities (float32).

    Args:
        input_shape: Height, width and channels of an image; at least 15 x 15.
        classes: Number of classes, the length of the softmax.
        blocks: How many Inception-A, -B and -C blocks; 0 leaves a kind out.
        width: Factor on every convolution's filters (rounded, at least 1).
        late_width: Further factor on Inception-B, -C and Reduction-B; the pool branch of
            Inception-B and the 2x2 convolution of Reduction-B's short branch keep their width.
        channel_dropout: Share of whole feature maps dropped after the stem and every block.
        head_dropout: Share of the pooled features dropped before the dense layers.
        head_units: Sizes of dense layers before the softmax.
        head_activation: Activation of those dense layers, null for linear ones.
        l2: Weight decay on the kernels of the convolutions, added to the loss; 0 for none.
        initializer: Keras name of the convolution kernels' initialiser. he_normal is
            VarianceScaling(2, fan_in); glorot_uniform is Keras's default.
        relu_before_norm: Conv-ReLU-BatchNorm instead of Conv-BatchNorm-ReLU.
        stem: "gentle" pads instead of cropping, so that blocks A see 16 x 16 instead of 13 x 13.
        factorised: Replace each 3x3 of Inception-A and Reduction-A that keeps the size by a 1x3
            and a 3x1.
        attention: "channel" reweights the feature maps after every Inception block
            (squeeze and excitation, reduction 8).
    """
    import keras

    _check_size(input_shape, stem)
    net = ConvBlocks(
        width=width,
        l2=l2,
        initializer=initializer,
        relu_before_norm=relu_before_norm,
        channel_dropout=channel_dropout,
    )
    inputs = keras.Input(input_shape, name="pixels")
    x = _stem(net, inputs, "valid" if stem == "plain" else "same")
    for n in range(blocks[0]):
        x = _attend(net, _inception_a(net, x, f"a{n + 1}", factorised=factorised), attention)
    x = _reduction_a(net, x, factorised=factorised)
    late = net.scaled(late_width)
    for n in range(blocks[1]):
        x = _attend(net, _inception_b(late, net, x, f"b{n + 1}"), attention)
    x = _reduction_b(late, net, x)
    for n in range(blocks[2]):
        x = _attend(net, _inception_c(late, x, f"c{n + 1}"), attention)
    side = min(2, x.shape[1], x.shape[2])
    x = keras.layers.AveragePooling2D(side, name="head_pool")(x)
    x = keras.layers.Dropout(head_dropout, name="head_dropout")(x)
    x = keras.layers.Flatten(name="head_flatten")(x)
    for n, units in enumerate(head_units, start=1):
        x = keras.layers.Dense(units, activation=head_activation, name=f"head_dense{n}")(x)
    outputs = keras.layers.Dense(classes, activation="softmax", dtype="float32", name="head")(x)
    return keras.Model(inputs, outputs, name="network")


def _check_size(input_shape: tuple[int, int, int], stem: Stem) -> None:
    """Refuse images that the reductions would shrink to nothing."""
    least = 15 if stem == "plain" else 9
    if min(input_shape[:2]) < least:
        height, width = input_shape[:2]
        raise SpecError(
            f"this network with the {stem} stem needs images of at least {least} x {least};"
            f" received {height} x {width}. Choose larger images or another model."
        )


def _stem(net: ConvBlocks, x: Any, crop: Literal["valid", "same"]) -> Any:
    """32 x 32 to 13 x 13 x 192 (16 x 16 x 192 without cropping)."""
    net.block("stem")
    x = net.conv(net.conv(x, 16, 3), 32, 3)
    x = net.join(net.max_pool(x, 3, 2, crop), net.conv(x, 48, 3, stride=2, padding=crop))
    short = net.conv(net.conv(x, 32, 1), 48, 3, padding=crop)
    long = net.conv(net.conv(net.conv(x, 32, 1), 32, (1, 7)), 32, (7, 1))
    x = net.join(short, net.conv(long, 48, 3, padding=crop))
    return net.drop(net.join(net.conv(x, 96, 3), net.max_pool(x, 3, 1, "same")))


def _three(net: ConvBlocks, x: Any, filters: int, *, factorised: bool) -> Any:
    """Add a 3x3 convolution that keeps the size, or its two factors."""
    if not factorised:
        return net.conv(x, filters, 3)
    return net.conv(net.conv(x, filters, (1, 3)), filters, (3, 1))


def _inception_a(net: ConvBlocks, x: Any, name: str, *, factorised: bool) -> Any:
    net.block(name)
    pooled = net.conv(net.average_pool(x), 48, 1)
    point = net.conv(x, 48, 1)
    short = _three(net, net.conv(x, 32, 1), 48, factorised=factorised)
    long = _three(net, net.conv(x, 32, 1), 48, factorised=factorised)
    long = _three(net, long, 48, factorised=factorised)
    return net.drop(net.join(pooled, point, short, long))


def _reduction_a(net: ConvBlocks, x: Any, *, factorised: bool) -> Any:
    net.block("reduction_a")
    pooled = net.max_pool(x, 3, 2, "valid")
    short = net.conv(x, 192, 3, stride=2, padding="valid")
    long = _three(net, net.conv(x, 96, 1), 112, factorised=factorised)
    long = net.conv(long, 128, 3, stride=2, padding="valid")
    return net.drop(net.join(pooled, short, long))


def _inception_b(net: ConvBlocks, full: ConvBlocks, x: Any, name: str) -> Any:
    net.block(name)
    pooled = full.conv(net.average_pool(x), 64, 1)
    point = net.conv(x, 192, 1)
    short = net.conv(net.conv(net.conv(x, 96, 1), 112, (1, 7)), 128, (7, 1))
    long = net.conv(net.conv(net.conv(x, 96, 1), 96, (1, 7)), 112, (7, 1))
    long = net.conv(net.conv(long, 112, (1, 7)), 128, (7, 1))
    return net.drop(net.join(pooled, point, short, long))


def _reduction_b(net: ConvBlocks, full: ConvBlocks, x: Any) -> Any:
    net.block("reduction_b")
    pooled = net.max_pool(x, 2, 2, "valid")
    short = full.conv(net.conv(x, 192, 1), 192, 2, stride=2, padding="valid")
    long = net.conv(net.conv(net.conv(x, 256, 1), 256, (1, 7)), 320, (7, 1))
    long = net.conv(long, 320, 2, stride=2, padding="valid")
    return net.drop(net.join(pooled, short, long))


def _inception_c(net: ConvBlocks, x: Any, name: str) -> Any:
    net.block(name)
    pooled = net.conv(net.average_pool(x), 128, 1)
    point = net.conv(x, 128, 1)
    short = net.conv(x, 192, 1)
    long = net.conv(net.conv(net.conv(x, 192, 1), 224, (1, 3)), 256, (3, 1))
    wide, tall = net.conv(short, 128, (1, 3)), net.conv(short, 128, (3, 1))
    high, flat = net.conv(long, 128, (3, 1)), net.conv(long, 128, (1, 3))
    return net.drop(net.join(pooled, point, wide, tall, high, flat))


def _attend(net: ConvBlocks, x: Any, attention: str | None) -> Any:
    return net.channel_attention(x) if attention == "channel" else x
