"""The networks of the course, as Keras models."""

from __future__ import annotations

from hwlimits.training.keras import keras

IMAGE_SHAPE = (28, 28, 1)


def article_cnn() -> keras.Model:
    """The CNN of the article's section 5.2, layer for layer: 121,930 parameters.

    Takes images float32 (n, 28, 28, 1) in [0, 1], gives class probabilities (n, 10).

    >>> article_cnn().count_params()
    121930
    """
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            layers.Conv2D(32, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(64, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="dense1"),
            layers.Dense(10, activation="softmax", name="dense2"),
        ],
        name="article_cnn",
    )
