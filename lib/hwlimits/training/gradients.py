"""What the loss says of a layer's weights: its gradient, and the diagonal of its second derivatives.

`pruning.first_order` takes the first, `pruning.second_order` the second. All three are of the mean loss over the
examples given, with the model as at inference (dropout off), and have the kernel's shape.

A network's Hessian is too large to write down; its diagonal is had in two ways:

    hessian_diagonal   an estimate from products of the Hessian with random vectors. It may be negative, away
                       from a minimum.
    fisher_diagonal    the mean of the squared gradients of single examples: the empirical Fisher information. Never
                       negative; where the model's probabilities are right, it is the expected Hessian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hwlimits.progress import bar
from hwlimits.pruning import PruningError
from hwlimits.training.keras import keras, tf
from hwlimits.training.prune import layer_with_kernel

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (labels, outputs) to the loss of each example

BATCH = 256
TOGETHER = 32  # examples whose gradients are held at the same time, each of the kernel's size
CROSSENTROPY = keras.losses.sparse_categorical_crossentropy


def gradient(model: keras.Model, name: str, x: np.ndarray, y: np.ndarray, loss: Loss = CROSSENTROPY) -> np.ndarray:
    """dL/dw for the kernel of the layer `name`: float32, of its shape.

    x, y   examples (n, ...) as the model takes them, and their labels (n, ...)
    loss   loss(labels, outputs) gives (n,): one number for each example

    Raises PruningError for a layer that is not there or has no kernel, unless x and y are equally many, and for a loss
    of another shape.

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones", name="a")])
    >>> gradient(model, "a", np.float32([[3]]), np.float32([[5]]), keras.losses.mse)  # 2 (3 w - 5) 3 at w = 1
    array([[-12.]], dtype=float32)
    """
    kernel = _kernel("gradient", model, name, x, y)
    total = np.zeros(kernel.shape, np.float64)
    for images, labels in _batches(x, y, BATCH):
        with tf.GradientTape() as tape:
            summed = tf.reduce_sum(_each("gradient", loss, model, images, labels))
        total += tape.gradient(summed, kernel, unconnected_gradients="zero").numpy()
    return (total / len(x)).astype(np.float32)


def hessian_diagonal(
    model: keras.Model,
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    loss: Loss = CROSSENTROPY,
    *,
    samples: int = 32,
    seed: int = 0,
) -> np.ndarray:
    """d²L/dw² for each weight of the kernel of the layer `name`, estimated: float32, of its shape.

    samples   random vectors v of ±1: the mean of v * (H v) has the diagonal as its expectation, and for weight i
              the standard deviation sqrt(sum over j != i of H_ij² / samples)

    Arguments and errors are those of `gradient`, and samples must be at least 1.
    Source: Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of a matrix" (2007); the product H v by
    differentiating twice: Pearlmutter, "Fast exact multiplication by the Hessian" (1994).

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="a")])
    >>> hessian_diagonal(model, "a", np.float32([[3]]), np.float32([[5]]), keras.losses.mse, samples=1)  # 2 * 3²
    array([[18.]], dtype=float32)
    """
    kernel = _kernel("hessian_diagonal", model, name, x, y)
    if not isinstance(samples, int | np.integer) or samples < 1:
        raise PruningError(f"hessian_diagonal(samples={samples}): give at least 1 random vector; 32 is a start")
    signs = np.random.default_rng(seed).choice(np.float32([-1, 1]), (samples, *kernel.shape))
    total = np.zeros(kernel.shape, np.float64)
    for images, labels in bar(list(_batches(x, y, BATCH)), desc="Hessian", unit="batch"):
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                summed = tf.reduce_sum(_each("hessian_diagonal", loss, model, images, labels))
            slope = inner.gradient(summed, kernel, unconnected_gradients="zero")
            along = [tf.reduce_sum(slope * v) for v in signs]
        for v, scalar in zip(signs, along, strict=True):
            total += v * outer.gradient(scalar, kernel, unconnected_gradients="zero").numpy()
    return (total / (samples * len(x))).astype(np.float32)


def fisher_diagonal(
    model: keras.Model, name: str, x: np.ndarray, y: np.ndarray, loss: Loss = CROSSENTROPY
) -> np.ndarray:
    """The mean over the examples of (dL/dw)², each example's own: float32, of the kernel's shape.

    The empirical Fisher information, which `pruning.second_order` takes in the place of the curvature: with a loss
    that is the negative logarithm of a probability (crossentropy). Arguments and errors are those of `gradient`.
    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning" (2018, arXiv 1801.05787).

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones", name="a")])
    >>> fisher_diagonal(model, "a", np.float32([[3], [1]]), np.float32([[5], [1]]), keras.losses.mse)  # (12² + 0²) / 2
    array([[72.]], dtype=float32)
    """
    kernel = _kernel("fisher_diagonal", model, name, x, y)
    total = np.zeros(kernel.shape, np.float64)
    for images, labels in _batches(x, y, TOGETHER):
        with tf.GradientTape() as tape:
            each = _each("fisher_diagonal", loss, model, images, labels)
        total += np.square(tape.jacobian(each, kernel).numpy(), dtype=np.float64).sum(axis=0)
    return (total / len(x)).astype(np.float32)


def _kernel(function: str, model: keras.Model, name: str, x: np.ndarray, y: np.ndarray) -> tf.Variable:
    layer = layer_with_kernel(function, model, name)
    if len(x) != len(y) or not len(x):
        raise PruningError(f"{function}: {len(x)} examples and {len(y)} labels; give as many of both, one at least")
    return layer.kernel


def _each(function: str, loss: Loss, model: keras.Model, images: np.ndarray, labels: np.ndarray) -> tf.Tensor:
    """The loss of each example; a loss that has one number for all would be weighed wrongly."""
    found = loss(labels, model(images, training=False))
    if found.shape != (len(labels),):
        raise PruningError(
            f"{function}: the loss of {len(labels)} examples has the shape {tuple(found.shape)}; it must be one number "
            "for each, as the functions of keras.losses give it and its classes with reduction='none'"
        )
    return found


def _batches(x: np.ndarray, y: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(x), size):
        yield x[start : start + size], y[start : start + size]
