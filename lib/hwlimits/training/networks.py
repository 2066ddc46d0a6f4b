"""Small networks of many shapes to train: what chapter 02 predicts the memory of, each compiled with Adam."""

from __future__ import annotations

from collections.abc import Callable

from hwlimits.training.keras import keras, tf
from hwlimits.training.models import article_cnn
from hwlimits.training.zoo import build as from_zoo

layers = keras.layers
SMALL_IMAGE = (32, 32, 3)


def build(name: str, optimizer: str = "adam") -> keras.Model:
    """The network called `name`, one of NAMES, compiled for class numbers as labels.

    Keras' count of unnamed layers starts anew: TensorFlow's order of operations, and with it the memory of a
    step, depends on names. (dense_9 and dense_10 sort the other way round than dense_8 and dense_9.)

    >>> build("lenet").count_params()
    431080
    """
    if name not in _BUILDERS:
        raise ValueError(f"build({name!r}): there is no network of that name; there are {', '.join(NAMES)}")
    keras.backend.reset_uids()
    model = _BUILDERS[name]()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


class Recomputed(layers.Layer):
    """Layers whose activations are not kept: tf.recompute_grad runs them again when backward comes to them."""

    def __init__(self, block: list[keras.layers.Layer], **options):
        super().__init__(**options)
        self.block = block

    def build(self, shape):
        for layer in self.block:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        super().build(shape)

    def call(self, x):
        def run(x):
            for layer in self.block:
                x = layer(x)
            return x

        return tf.recompute_grad(run)(x)


def deep(depth: int = 16, every: int | None = None) -> keras.Model:
    """A chain of `depth` equal convolutions, compiled; with `every`, each segment of that many is `Recomputed`."""
    keras.backend.reset_uids()
    convolutions = [_conv(16) for _ in range(depth)]
    if every is not None:
        convolutions = [Recomputed(convolutions[i : i + every]) for i in range(0, depth, every)]
    tail = [layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((32, 32, 16)), *convolutions, *tail])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def _conv(filters: int, size: int = 3, strides: int = 1) -> keras.layers.Layer:
    return layers.Conv2D(filters, size, strides, padding="same", activation="relu")


def _classes(x, inputs, count: int = 10) -> keras.Model:
    return keras.Model(inputs, layers.Dense(count, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def _mlp() -> keras.Model:
    hidden = [layers.Dense(units, activation="relu") for units in (1024, 1024, 512)]
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10, activation="softmax")])


def _vgg_like() -> keras.Model:
    stack = [keras.Input(SMALL_IMAGE)]
    for filters, times in ((32, 2), (64, 2), (128, 3)):
        stack += [_conv(filters) for _ in range(times)] + [layers.MaxPooling2D(2)]
    tail = [layers.Flatten(), layers.Dense(256, activation="relu"), layers.Dense(10, activation="softmax")]
    return keras.Sequential(stack + tail)


def _resnet_like() -> keras.Model:
    def normalized(x, filters, strides=1):
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input(SMALL_IMAGE)
    x = layers.ReLU()(normalized(inputs, 16))
    for filters in (16, 32, 64):
        for block in range(2):
            strides = 2 if block == 0 and filters > 16 else 1
            y = normalized(layers.ReLU()(normalized(x, filters, strides)), filters)
            x = layers.Conv2D(filters, 1, strides)(x) if strides > 1 else x
            x = layers.ReLU()(layers.Add()([x, y]))
    return _classes(x, inputs)


def _mobilenet_like() -> keras.Model:
    def relu6(x):
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    inputs = keras.Input(SMALL_IMAGE)
    x = relu6(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs))
    for filters, strides in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        x = relu6(layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x))
        x = relu6(layers.Conv2D(filters, 1, use_bias=False)(x))
    return _classes(x, inputs)


def _densenet_like() -> keras.Model:
    inputs = keras.Input(SMALL_IMAGE)
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for _ in range(2):
        for _ in range(4):
            y = layers.Conv2D(12, 3, padding="same")(layers.ReLU()(layers.BatchNormalization()(x)))
            x = layers.Concatenate()([x, y])
        x = layers.AveragePooling2D(2)(layers.Conv2D(32, 1)(x))
    return _classes(x, inputs)


def _unet_like() -> keras.Model:
    inputs, skips = keras.Input((64, 64, 1)), []
    x = inputs
    for filters in (16, 32):
        x = _conv(filters)(_conv(filters)(x))
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = _conv(64)(x)
    for filters in (32, 16):
        x = layers.Concatenate()([skips.pop(), layers.Conv2DTranspose(filters, 2, 2)(x)])
        x = _conv(filters)(_conv(filters)(x))
    return keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(x))


def _transformer() -> keras.Model:
    """Two encoder layers, 64 tokens of width 128."""
    inputs = keras.Input((64,), dtype="int32")
    x = layers.Embedding(1000, 128)(inputs)
    for _ in range(2):
        x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(4, 32)(x, x)]))
        y = layers.Dense(128)(layers.Dense(512, activation="relu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def _lstm() -> keras.Model:
    """Unrolled: of a loop the graph doesn't tell the length."""
    lstm = layers.LSTM(128, unroll=True)
    return keras.Sequential([keras.Input((28, 28)), lstm, layers.Dense(10, activation="softmax")])


_BUILDERS: dict[str, Callable[[], keras.Model]] = {
    "mlp": _mlp,
    "article-cnn": article_cnn,
    "lenet": lambda: from_zoo("lenet-5-caffe"),
    "vgg-like": _vgg_like,
    "resnet-like": _resnet_like,
    "mobilenet-like": _mobilenet_like,
    "densenet-like": _densenet_like,
    "unet-like": _unet_like,
    "transformer": _transformer,
    "lstm": _lstm,
}
NAMES = tuple(_BUILDERS)

# Examples at which the activations reach 500 MB.
BATCHES = {
    "mlp": 49_000, "article-cnn": 3_600, "lenet": 6_700, "vgg-like": 950, "resnet-like": 500, "mobilenet-like": 420,
    "densenet-like": 300, "unet-like": 200, "transformer": 600, "lstm": 5_000,
}  # fmt: skip
