"""Fake quantization that can be trained through: codes on the way forward, a clipped identity on the way back.

Forward is `hwlimits.quantization.fake_quantize`, number for number. Its true derivative is 0 almost everywhere, so
nothing would learn; the straight-through estimator takes that of the clipped surrogate clip(x, low, high) in its
place: 1 where a code is near, 0 where the range ends.

Source: Bengio, Léonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons" (2013);
Jacob et al. (2018), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np

from hwlimits.training.keras import keras, tf

DECAY = 0.99  # of a learnt range: the mean of the first 100 batches, then of about the last 100
_HALF = np.nextafter(np.float32(0.5), np.float32(0))  # 0.5 itself would carry the number below it over to 1
_EDGE = np.float32(1 + 2.0**-22)  # two roundings: the largest weight, from which its scale is made, is inside
_SMALLEST = np.finfo(np.float32).tiny


def affine(low, high, bits: int = 8):
    """Scale and ends (lowest code, highest code), counted from the zero point, of a range: `quantization.affine`'s.

    low, high   scalar tensors float32. Returns three scalar tensors float32.

    >>> [x.numpy().item() for x in affine(-1.0, 3.0, 2)]
    [1.3333333730697632, -1.0, 2.0]
    """
    low, high = tf.minimum(tf.cast(low, tf.float32), 0.0), tf.maximum(tf.cast(high, tf.float32), 0.0)
    steps = 2.0**bits - 1
    scale = _scale(high - low, steps)
    below = tf.clip_by_value(_round(-low / scale), 0.0, steps)
    return scale, -below, steps - below


def symmetric(magnitude, bits: int = 8):
    """Scale and ends of the codes for -magnitude to magnitude, one or one for each channel: `quantization.symmetric`'s.

    >>> scale, lowest, highest = symmetric([1.0, 2.54])
    >>> scale.numpy(), lowest, highest
    (array([0.00787402, 0.02      ], dtype=float32), -127.0, 127.0)
    """
    highest = 2.0 ** (bits - 1) - 1
    return _scale(tf.convert_to_tensor(magnitude, tf.float32), highest), -highest, highest


def fake_quantize(x, scale, lowest, highest):
    """The nearest numbers to `x` that have a code, scale × (lowest to highest); differentiable by the estimator.

    x                 tensor float32
    scale             a scalar, or one for each channel of the last axis
    lowest, highest   the codes' ends, counted from the zero point

    The gradient passes where scale × lowest <= x <= scale × highest; scale and ends have none.

    >>> fake_quantize(tf.constant([0.3, -0.3, 9.0]), 0.25, -8.0, 7.0).numpy()
    array([ 0.25, -0.25,  1.75], dtype=float32)
    """
    scale = tf.stop_gradient(tf.convert_to_tensor(scale, tf.float32))
    lowest, highest = (tf.stop_gradient(tf.convert_to_tensor(end, tf.float32)) for end in (lowest, highest))

    @tf.custom_gradient
    def straight_through(x):
        def gradient(upstream):
            inside = (x >= scale * lowest * _EDGE) & (x <= scale * highest * _EDGE)
            return tf.where(inside, upstream, 0.0)

        return _round(tf.clip_by_value(x / scale, lowest, highest)) * scale, gradient

    return straight_through(x)


class LearntRange:
    """Fake quantization of one tensor, by the running mean of each batch's least and largest number.

    The mean is of all batches at first, and of about the last 1 / (1 - DECAY) later: it starts with what is there,
    not with a guess that it has to forget. Its state are weights of `layer`, so it is saved and restored with them.
    `watch`, where it is set, is given the numbers, which then pass unchanged: what calibration needs.
    """

    def __init__(self, layer: keras.layers.Layer, name: str, bits: int):
        self.bits = bits
        self.watch: Callable[[np.ndarray], None] | None = None
        self.low = layer.add_weight(f"{name}_low", (), initializer="zeros", trainable=False)
        self.high = layer.add_weight(f"{name}_high", (), initializer="zeros", trainable=False)
        self.batches = layer.add_weight(f"{name}_batches", (), initializer="zeros", trainable=False)

    def __call__(self, x, training: bool):
        if self.watch:
            self.watch(x.numpy())
            return x
        if training:
            seen = self.batches.assign_add(1.0)
            share = tf.maximum(1.0 / seen, 1 - DECAY)
            self.low.assign_add(share * (tf.reduce_min(x) - self.low))
            self.high.assign_add(share * (tf.reduce_max(x) - self.high))
        scale, lowest, highest = affine(self.low, self.high, self.bits)
        if _CONVERTING:
            return tf.quantization.fake_quant_with_min_max_vars(x, scale * lowest, scale * highest, self.bits)
        return fake_quantize(x, scale, lowest, highest)


class WeightRange:
    """Fake quantization of weights, symmetric: their own largest magnitude, of each channel or of all, spans the codes.

    While training the magnitude follows the weights at each step; otherwise it stays what it was at the last one.
    `channels` along the last axis, or None for one scale.
    """

    def __init__(self, layer: keras.layers.Layer, name: str, bits: int, channels: int | None):
        self.bits, self.watching = bits, False
        shape = () if channels is None else (channels,)
        self.magnitude = layer.add_weight(f"{name}_magnitude", shape, initializer="zeros", trainable=False)

    def follow(self, weights) -> None:
        """Take the magnitude from weights."""
        axes = None if not self.magnitude.shape.rank else list(range(weights.shape.rank - 1))
        self.magnitude.assign(tf.reduce_max(tf.abs(weights), axis=axes))

    def __call__(self, weights, training: bool):
        if self.watching:
            return weights
        if training:
            self.follow(weights)
        if _CONVERTING:
            ends = -self.magnitude, self.magnitude
            if self.magnitude.shape.rank:
                return tf.quantization.fake_quant_with_min_max_vars_per_channel(weights, *ends, self.bits, True)
            return tf.quantization.fake_quant_with_min_max_vars(weights, *ends, self.bits, True)
        return fake_quantize(weights, *symmetric(self.magnitude, self.bits))


_CONVERTING = False


@contextmanager
def converters_own():
    """Inside, ranges are given to TensorFlow's fake quantization, from which its converter reads them."""
    global _CONVERTING
    _CONVERTING = True
    try:
        yield
    finally:
        _CONVERTING = False


def _scale(width, steps: float):
    # a range without width has one number, and its code needs no scale of its own: 1, as in NumPy
    return tf.where(width == 0, 1.0, tf.maximum(width / steps, _SMALLEST))


def _round(x):
    """To the nearest whole number, a half away from 0; tf.round takes halves to even. For |x| below 2^22."""
    return tf.sign(x) * tf.floor(tf.abs(x) + _HALF)
