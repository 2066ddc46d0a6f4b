"""Small networks that the converter quantizes after training: the int8 files that several tests share."""

import warnings

import numpy as np

from hwlimits.training.keras import keras, tf
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.stderr import caught_stderr

layers = keras.layers


def conv(filters, size=3, strides=1):
    return layers.Conv2D(filters, size, strides, padding="same", activation="relu")


def mlp():
    dense = [layers.Dense(n, activation="relu") for n in (300, 100)]
    return keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Flatten(), *dense, layers.Dense(10, activation="softmax")]
    )


def residual():
    inputs = keras.Input((16, 16, 8))
    x = conv(16)(inputs)
    for _ in range(2):
        x = layers.ReLU()(layers.Add()([x, layers.Conv2D(16, 3, padding="same")(conv(16)(x))]))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def depthwise():
    inputs = keras.Input((32, 32, 3))
    x = conv(8, 3, 2)(inputs)
    for filters, strides in ((16, 1), (32, 2)):
        x = conv(filters, 1)(layers.DepthwiseConv2D(3, strides, padding="same", activation="relu")(x))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def concatenation():
    inputs = keras.Input((16, 16, 4))
    x = layers.Concatenate()([conv(8, 1)(inputs), conv(8)(inputs), layers.MaxPooling2D(3, 1, padding="same")(inputs)])
    x = layers.AveragePooling2D(2)(x)
    x = layers.Flatten()(layers.Concatenate()([x, conv(8)(x)]))
    return keras.Model(inputs, layers.Dense(4, activation="sigmoid")(x))


def transposed():
    inputs = keras.Input((16, 16, 2))
    skip = conv(8)(inputs)
    x = layers.Conv2DTranspose(8, 2, strides=2)(conv(16)(layers.MaxPooling2D(2)(skip)))
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(layers.Concatenate()([skip, x])))


def gated():
    inputs = keras.Input((16, 16, 8))
    x = conv(16)(inputs)
    gate = layers.Conv2D(16, 1, activation="sigmoid")(conv(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x)))
    x = layers.ZeroPadding2D(1)(layers.UpSampling2D(2)(layers.Multiply()([x, gate])))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def two_outputs():
    """The first is there early, and has to stay."""
    inputs = keras.Input((16, 16, 4))
    early = conv(8)(inputs)
    return keras.Model(inputs, [early, layers.GlobalAveragePooling2D()(conv(16)(conv(16)(early)))])


STORED = [f"results/case_study/quantized-seed{seed}.tflite" for seed in range(5)]
SHAPES = {f.__name__: f for f in (mlp, residual, depthwise, concatenation, transposed, gated, two_outputs)}


def drawn(seed):
    """A network of layers drawn at random: blocks as published networks have them, joined as they are."""
    random = np.random.default_rng(seed)
    one = lambda *choices: choices[random.integers(len(choices))]  # noqa: E731
    activation = lambda: one("relu", "relu6", "linear", "sigmoid", "tanh", "swish", "leaky", "hard", "prelu")  # noqa: E731

    def activate(x):
        kind = activation()
        if kind == "leaky":
            return layers.LeakyReLU(0.1)(x)
        if kind == "prelu":
            start = keras.initializers.RandomUniform(0.1, 0.4, seed=int(seed))
            return layers.PReLU(shared_axes=[1, 2], alpha_initializer=start)(x)
        if kind == "hard":
            return layers.Multiply()([x, layers.ReLU(6.0)(x + 3.0) * (1 / 6)])
        return layers.Activation({"relu6": tf.nn.relu6}.get(kind, kind))(x)

    def block(x):
        kind, channels = (
            one("conv", "inverted", "residual", "pool", "branches", "resize", "gate", "dilated", "norm"),
            x.shape[-1],
        )
        if kind == "conv":
            x = layers.Conv2D(
                int(random.integers(3, 13)),
                one(1, 2, 3, 5),
                one(1, 2),
                padding=one("same", "same", "valid"),
                use_bias=one(True, False),
            )(x)
            return activate(layers.BatchNormalization()(x) if one(True, False) else x)
        if kind == "inverted":
            y = activate(layers.Conv2D(2 * channels, 1)(x))
            y = activate(layers.DepthwiseConv2D(one(3, 5), padding="same", depth_multiplier=one(1, 1, 2))(y))
            return layers.Add()([x, layers.Conv2D(channels, 1)(y)])
        if kind == "residual":
            filters = int(random.integers(4, 13))
            y = layers.Conv2D(filters, 3, padding="same")(activate(layers.Conv2D(filters, 3, padding="same")(x)))
            short = layers.Conv2D(filters, 1)(x)
            return activate(one(layers.Add, layers.Subtract, layers.Maximum, layers.Minimum)()([y, short]))
        if kind == "pool":
            return one(layers.MaxPooling2D, layers.AveragePooling2D)(one(2, 3), one(1, 2), padding="same")(x)
        if kind == "branches":
            return layers.Concatenate()([layers.Conv2D(5, 1)(x), activate(layers.Conv2D(4, 3, padding="same")(x)), x])
        if kind == "resize" and x.shape[1] < 12:
            return layers.UpSampling2D(2, interpolation=one("nearest", "bilinear"))(x)
        if kind == "gate":
            y = layers.GlobalAveragePooling2D(keepdims=True)(x)
            return layers.Multiply()([x, layers.Conv2D(channels, 1, activation="sigmoid")(y)])
        if kind == "dilated":
            return layers.Conv2D(6, 3, padding="same", dilation_rate=2, activation="relu")(x)
        if kind == "norm":
            return layers.LayerNormalization()(x)
        return layers.ZeroPadding2D(1)(x)

    size = int(random.integers(8, 17))
    inputs = [keras.Input((size, size, int(random.integers(1, 5)))) for _ in range(one(1, 1, 2))]
    x = conv(8)(inputs[0])
    if len(inputs) == 2:
        x = layers.Add()([x, layers.Conv2D(8, 3, padding="same")(inputs[1])])
    for _ in range(int(random.integers(2, 6))):
        x = block(x)
    head = one("mean", "flatten", "max", "attention")
    if head == "attention":
        y = layers.Reshape((-1, x.shape[-1]))(x)
        x = layers.Flatten()(layers.MultiHeadAttention(2, 4)(y, y))
    else:
        x = {"mean": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D, "flatten": layers.Flatten}[
            head
        ]()(x)
    return keras.Model(
        inputs, layers.Dense(int(random.integers(1, 11)), activation=one("softmax", "linear", "sigmoid"))(x)
    )


def int8(model, per_channel: bool = True) -> LiteRTFile:
    """Quantized after training, on random images."""
    random = np.random.default_rng(0)
    signature = [tf.TensorSpec(x.shape, x.dtype) for x in model.inputs]
    call = tf.function(lambda *x: model(x[0] if len(x) == 1 else x)).get_concrete_function(*signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call], model)
    converter.experimental_lower_to_saved_model = False  # which takes most of the time
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    shapes = [(1, *x.shape[1:]) for x in model.inputs]
    converter.representative_dataset = lambda: (
        [random.random(shape, dtype=np.float32) for shape in shapes] for _ in range(4)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel = not per_channel
    with caught_stderr(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        return LiteRTFile(converter.convert())
