"""The networks that the course counts, by name, with random weights.

build("resnet-50") gives a Keras model of ordinary layers, exactly as published: its parameters
and multiply-accumulates are those of the paper, and the tests hold them to it. Dropout is left
out: it does nothing when a model is used.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

import numpy as np

from hwlimits.training.keras import keras
from hwlimits.training.models import article_cnn

layers = keras.layers


class ZooError(ValueError):
    """A name is not one of the zoo, or an option does not fit the network."""


def build(name: str, *, sequence_length: int | None = None) -> keras.Model:
    """The network called `name`, one of NAMES.

    `sequence_length`, in tokens, is for the transformers: transformer-base (default 128, source and
    target alike), bert-base (128, at most 512), gpt-2-124m (1024, the most it takes).
    Raises ZooError for another name, and for a length that the network doesn't take.

    >>> build("lenet-300-100").count_params()
    266610
    """
    if name not in NAMES:
        near = difflib.get_close_matches(str(name).lower(), NAMES, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise ZooError(f"no network called {name!r}: {meant}The zoo has {', '.join(NAMES)}.")
    if name not in _SEQUENCE:
        if sequence_length is not None:
            raise ZooError(f"build({name!r}, sequence_length={sequence_length}): {name} takes images, not a sequence")
        return _BUILDERS[name]()
    default, longest = _SEQUENCE[name]
    tokens = default if sequence_length is None else sequence_length
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= longest:
        raise ZooError(f"build({name!r}, sequence_length={tokens!r}): {name} takes 1 to {longest:,} tokens")
    return _BUILDERS[name](tokens)


def _stack(name: str, shape: tuple[int, ...], *stack) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *stack], name=name)


def _lenet_300_100() -> keras.Model:
    """LeCun et al. 1998, as pruned by Han et al. 2015."""
    return _stack(
        "lenet_300_100", (28, 28, 1), layers.Flatten(), _dense(300), _dense(100), layers.Dense(10, activation="softmax")
    )


def _lenet_5_caffe() -> keras.Model:
    """Caffe's LeNet-5: wider than LeCun's, no activation after the convolutions."""
    return _stack(
        "lenet_5_caffe", (28, 28, 1),
        layers.Conv2D(20, 5), layers.MaxPooling2D(2),
        layers.Conv2D(50, 5), layers.MaxPooling2D(2),
        layers.Flatten(), _dense(500), layers.Dense(10, activation="softmax"),
    )  # fmt: skip


def _alexnet() -> keras.Model:
    """torchvision's AlexNet: Krizhevsky 2014, one tower, 224 × 224. Its adaptive pooling does nothing at this size."""
    return _stack(
        "alexnet", (224, 224, 3),
        layers.ZeroPadding2D(2), _conv(64, 11, strides=4, padding="valid"), layers.MaxPooling2D(3, 2),
        _conv(192, 5), layers.MaxPooling2D(3, 2),
        _conv(384, 3), _conv(256, 3), _conv(256, 3), layers.MaxPooling2D(3, 2),
        layers.Flatten(), _dense(4096), _dense(4096), layers.Dense(1000, activation="softmax"),
    )  # fmt: skip


def _alexnet_caffe() -> keras.Model:
    """Krizhevsky et al. 2012 as Caffe has it: 227 × 227, two groups in three convolutions.

    Without local response normalization, which Keras has no layer for: no parameters, no convolution.
    """
    return _stack(
        "alexnet_caffe", (227, 227, 3),
        _conv(96, 11, strides=4, padding="valid"), layers.MaxPooling2D(3, 2),
        _conv(256, 5, groups=2), layers.MaxPooling2D(3, 2),
        _conv(384, 3), _conv(384, 3, groups=2), _conv(256, 3, groups=2), layers.MaxPooling2D(3, 2),
        layers.Flatten(), _dense(4096), _dense(4096), layers.Dense(1000, activation="softmax"),
    )  # fmt: skip


def _conv(filters: int, size: int, *, padding: str = "same", **options) -> keras.layers.Layer:
    return layers.Conv2D(filters, size, padding=padding, activation="relu", **options)


def _dense(units: int) -> keras.layers.Layer:
    return layers.Dense(units, activation="relu")


def _application(name: str) -> Callable[[], keras.Model]:
    """A network of Keras' own collection, for ImageNet's 1,000 classes at 224 × 224."""
    return lambda: getattr(keras.applications, name)(weights=None)


def _transformer_base(tokens: int) -> keras.Model:
    """Vaswani et al. 2017, base: 6 + 6 layers, width 512, 8 heads, inner width 2048, 37,000 tokens.

    One table embeds source and target and, transposed, gives the scores of the output (section 3.4).
    """
    vocabulary, width, heads, inner, depth = 37_000, 512, 8, 2048, 6
    table = layers.Embedding(vocabulary, width, name="embedding")
    # section 3.4 multiplies the embedding by √width, 3.5 adds the sinusoids: one layer does both
    position = layers.Rescaling(math.sqrt(width), _sinusoids(tokens, width).tolist(), name="position")
    source = keras.Input((tokens,), dtype="int32", name="source")
    target = keras.Input((tokens,), dtype="int32", name="target")

    x = position(table(source))
    for i in range(depth):
        x = _after(x, _attention(f"encoder{i}_attention", heads, width)(x, x))
        x = _after(x, _feed_forward(x, inner, width, "relu"))
    y = position(table(target))
    for i in range(depth):
        y = _after(y, _attention(f"decoder{i}_attention", heads, width)(y, y, use_causal_mask=True))
        y = _after(y, _attention(f"decoder{i}_cross_attention", heads, width)(y, x))
        y = _after(y, _feed_forward(y, inner, width, "relu"))
    scores = layers.Softmax(name="softmax")(_tied(table, y))
    return keras.Model([source, target], scores, name="transformer_base")


def _bert_base(tokens: int) -> keras.Model:
    """Devlin et al. 2019, base: 12 layers, width 768, 12 heads, inner width 3072, 30,522 tokens; with the pooler."""
    vocabulary, positions, types, width, heads, inner, depth = 30_522, 512, 2, 768, 12, 3072, 12
    inputs = [keras.Input((tokens,), dtype="int32", name=name) for name in ("token", "position", "type")]
    sizes = (vocabulary, positions, types)
    embedded = [layers.Embedding(size, width)(given) for size, given in zip(sizes, inputs, strict=True)]
    x = _normalization(1e-12)(layers.Add()(embedded))
    for i in range(depth):
        x = _after(x, _attention(f"attention{i}", heads, width)(x, x), 1e-12)
        x = _after(x, _feed_forward(x, inner, width, "gelu"), 1e-12)
    first = layers.Flatten(name="first_token")(layers.Cropping1D((0, tokens - 1))(x))
    return keras.Model(inputs, layers.Dense(width, activation="tanh", name="pooler")(first), name="bert_base")


def _gpt_2(tokens: int) -> keras.Model:
    """Radford et al. 2019, smallest: 12 layers, width 768, 12 heads, 50,257 tokens; no biases, as nanoGPT counts it."""
    vocabulary, positions, width, heads, depth = 50_257, 1024, 768, 12, 12
    table = layers.Embedding(vocabulary, width, name="embedding")
    token = keras.Input((tokens,), dtype="int32", name="token")
    position = keras.Input((tokens,), dtype="int32", name="position")
    x = layers.Add()([table(token), layers.Embedding(positions, width, name="positions")(position)])
    for i in range(depth):
        y = _normalization(1e-5, center=False)(x)
        x = layers.Add()([x, _attention(f"attention{i}", heads, width, use_bias=False)(y, y, use_causal_mask=True)])
        y = _normalization(1e-5, center=False)(x)
        x = layers.Add()([x, _feed_forward(y, 4 * width, width, "gelu", use_bias=False)])
    return keras.Model([token, position], _tied(table, _normalization(1e-5, center=False)(x)), name="gpt_2_124m")


def _attention(name: str, heads: int, width: int, **options) -> keras.layers.Layer:
    return layers.MultiHeadAttention(heads, width // heads, name=name, **options)


def _feed_forward(x, inner: int, width: int, activation: str, **options):
    return layers.Dense(width, **options)(layers.Dense(inner, activation=activation, **options)(x))


def _normalization(epsilon: float, **options) -> keras.layers.Layer:
    return layers.LayerNormalization(epsilon=epsilon, **options)


def _after(x, change, epsilon: float = 1e-6):
    """Add and normalize, in this order, as the first transformers did."""
    return _normalization(epsilon)(layers.Add()([x, change]))


def _tied(table: keras.layers.Layer, x):
    """Scores (batch, tokens, vocabulary): x by the embedding's own table (vocabulary, width), counted once."""
    projection = layers.EinsumDense("bsd,vd->bsv", (None, table.input_dim), name="scores")
    projection.build(x.shape)
    projection.kernel = table.embeddings
    return projection(x)


def _sinusoids(tokens: int, width: int) -> np.ndarray:
    """The position encoding (tokens, width) of Vaswani et al. 2017, section 3.5."""
    angles = np.arange(tokens)[:, None] / 10_000 ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(tokens, width)


_BUILDERS = {
    "article-cnn": article_cnn,
    "lenet-300-100": _lenet_300_100,
    "lenet-5-caffe": _lenet_5_caffe,
    "alexnet": _alexnet,
    "alexnet-caffe": _alexnet_caffe,
    "vgg-16": _application("VGG16"),
    "resnet-50": _application("ResNet50"),
    "mobilenet-v1": _application("MobileNet"),
    "mobilenet-v2": _application("MobileNetV2"),
    "efficientnet-b0": _application("EfficientNetB0"),
    "transformer-base": _transformer_base,
    "bert-base": _bert_base,
    "gpt-2-124m": _gpt_2,
}
NAMES = tuple(_BUILDERS)
_SEQUENCE = {"transformer-base": (128, 100_000), "bert-base": (128, 512), "gpt-2-124m": (1024, 1024)}
