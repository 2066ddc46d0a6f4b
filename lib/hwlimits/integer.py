"""Layers of a network in integers alone: convolutions, dense layers and pooling from int8 to int8.

Every function takes codes and the `Quantization` of each tensor, and gives the output's codes: those of LiteRT's
reference kernels, bit for bit. A sum of products is exact in int32; what is left to do is to bring it from
its own scale, input times weights, to the output's, and there kernels differ: `requantize` is one of
`fixed_point`'s scale_fixed, scale_double and scale_float, unless said otherwise the reference kernel's own.

Images are (batch, height, width, channels). Weights are symmetric (zero point 0), with one scale or one for
each output channel; biases int32 at the scale of input times weights. Operators without weights are
in `hwlimits.integer_pointwise`.

>>> x, w, y = Quantization(0.5, -10), Quantization(0.25), Quantization(1.0)
>>> dense(np.array([[-8, 0]], np.int8), np.array([[4, 2]], np.int8), np.array([8]), x, w, y)
array([[5]], dtype=int8)
"""

from __future__ import annotations

import numpy as np

from hwlimits.fixed_point import IntegerError, scale_double, scale_fixed, wrap
from hwlimits.quantization import Quantization, round_to_integer

# (lowest, highest) number that a layer's fused activation lets through
ACTIVATIONS = {
    "none": (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6), "relu_n1_to_1": (-1, 1), "relu_0_to_1": (0, 1),
}  # fmt: skip


def conv(x, weights, bias, x_q, w_q, y_q, *, strides=(1, 1), dilations=(1, 1), padding="same", activation="none",
         requantize=scale_fixed) -> np.ndarray:  # fmt: skip
    """CONV_2D: weights (outputs, height, width, channels); fewer channels than `x` has make groups.

    bias          (outputs,) or None
    padding       'same' or 'valid'; what is padded is the number 0
    activation    one of ACTIVATIONS

    Raises IntegerError where channels and weights don't fit.
    """
    outputs, height, width, channels = weights.shape
    groups, rest = divmod(x.shape[3], channels)
    if rest or not groups or outputs % groups:
        raise IntegerError(f"conv: weights of the shape {weights.shape} don't fit {x.shape[3]} input channels")
    patches = _windows(np.float64(x) - x_q.zero_point, (height, width), strides, dilations, padding, 0.0)
    parts = [
        np.tensordot(p, np.float64(w), ([3, 4, 5], [3, 1, 2]))  # exact: float64 holds integers to 2^53
        for p, w in zip(np.split(patches, groups, axis=3), np.split(weights, groups), strict=True)
    ]
    return _output(np.concatenate(parts, axis=3), bias, x_q, w_q, y_q, activation, requantize)


def depthwise_conv(x, weights, bias, x_q, w_q, y_q, *, strides=(1, 1), dilations=(1, 1), padding="same",
                   activation="none", requantize=scale_fixed) -> np.ndarray:  # fmt: skip
    """DEPTHWISE_CONV_2D: weights (1, height, width, outputs), output c from input channel c // multiplier.

    Arguments as of `conv`. Raises IntegerError where the outputs are no multiple of the input's channels.
    """
    _, height, width, outputs = weights.shape
    multiplier, rest = divmod(outputs, x.shape[3])
    if rest or not multiplier:
        raise IntegerError(f"depthwise_conv: {outputs} outputs are no multiple of {x.shape[3]} input channels")
    patches = _windows(np.float64(x) - x_q.zero_point, (height, width), strides, dilations, padding, 0.0)
    sums = np.einsum("nhwcij,ijcm->nhwcm", patches, np.float64(weights).reshape(height, width, -1, multiplier))
    return _output(sums.reshape(*sums.shape[:3], outputs), bias, x_q, w_q, y_q, activation, requantize)


def transpose_conv(x, weights, bias, x_q, w_q, y_q, *, size, strides=(1, 1), padding="same", activation="none",
                   requantize=scale_fixed) -> np.ndarray:  # fmt: skip
    """TRANSPOSE_CONV to an output of `size` (height, width): each input puts a window of weights there, which add up.

    weights (outputs, height, width, channels); other arguments as of `conv`.
    """
    outputs, *kernel, _ = weights.shape
    top, left = (_places(n, k, s, padding)[1] for n, k, s in zip(size, kernel, strides, strict=True))
    products = np.tensordot(np.float64(x) - x_q.zero_point, np.float64(weights), ([3], [3]))
    reach = [s * n + k for n, k, s in zip(x.shape[1:3], kernel, strides, strict=True)]
    sums = np.zeros((x.shape[0], max(reach[0], top + size[0]), max(reach[1], left + size[1]), outputs))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows, columns = (slice(o, o + s * n, s) for o, s, n in zip((i, j), strides, x.shape[1:3], strict=True))
            sums[:, rows, columns] += products[..., i, j]
    return _output(sums[:, top : top + size[0], left : left + size[1]], bias, x_q, w_q, y_q, activation, requantize)


def dense(x, weights, bias, x_q, w_q, y_q, *, activation="none", requantize=scale_double) -> np.ndarray:
    """FULLY_CONNECTED: weights (outputs, inputs), `x` of any shape whose last axes make rows of `inputs`.

    LiteRT's reference kernel brings the sums to the output's scale in float64: this layer alone has it so.
    Raises IntegerError where the numbers don't divide into rows.
    """
    if x.size % weights.shape[1]:
        raise IntegerError(f"dense: {x.shape} can't be rows of {weights.shape[1]} inputs")
    rows = np.float64(x).reshape(-1, weights.shape[1]) - x_q.zero_point
    sums = rows @ (np.float64(weights) - np.reshape(w_q.zero_point, (-1, 1))).T
    return _output(sums, bias, x_q, w_q, y_q, activation, requantize)


def average_pool(x, q, *, window, strides, padding="valid", activation="none") -> np.ndarray:
    """AVERAGE_POOL_2D: the mean of the codes that are there, a half away from 0; the scale stays as it is."""
    sums = _windows(np.int64(x), window, strides, (1, 1), padding, 0).sum(axis=(4, 5))
    there = np.ones((1, *x.shape[1:3], 1), np.int64)
    count = _windows(there, window, strides, (1, 1), padding, 0).sum(axis=(4, 5))
    mean = np.sign(sums) * ((np.abs(sums) + count // 2) // count)
    return clamp(mean, q, activation)


def max_pool(x, q, *, window, strides, padding="valid", activation="none") -> np.ndarray:
    """MAX_POOL_2D: the largest of the codes that are there; the scale stays as it is."""
    return clamp(_windows(x, window, strides, (1, 1), padding, q.lowest).max(axis=(4, 5)), q, activation)


def clamp(codes: np.ndarray, q: Quantization, activation: str = "none") -> np.ndarray:
    """Integers kept within the codes of `q`, and within those that a fused activation lets through.

    Raises IntegerError for an activation that is not in ACTIVATIONS.

    >>> clamp(np.array([-300, 0, 90]), Quantization(0.1, -10), "relu6")
    array([-10,   0,  50], dtype=int8)
    """
    if activation not in ACTIVATIONS:
        raise IntegerError(f"activation {activation!r}: known are {', '.join(ACTIVATIONS)}")
    low, high = ACTIVATIONS[activation]
    lowest, highest = q.lowest, q.highest
    if np.isfinite(low):
        lowest = max(lowest, int(q.zero_point) + _code(low, q))
    if np.isfinite(high):
        highest = min(highest, int(q.zero_point) + _code(high, q))
    return np.minimum(np.maximum(codes, lowest), highest).astype(q.dtype)


def _code(number: float, q: Quantization) -> int:
    return int(round_to_integer(np.float32(number) / q.scale))


def _output(sums, bias, x_q, w_q, y_q, activation, requantize) -> np.ndarray:
    sums = wrap(sums.astype(np.int64) + (0 if bias is None else np.int64(bias)))
    return clamp(requantize(sums, x_q.scale, w_q.scale, y_q.scale) + y_q.zero_point, y_q, activation)


def _windows(x, kernel, strides, dilations, padding, fill) -> np.ndarray:
    """Views (batch, rows, columns, channels, height, width) of the windows that a kernel sees, padded with `fill`."""
    pads = []
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    for n, extent, stride in zip(x.shape[1:3], extents, strides, strict=True):
        out, before = _places(n, extent, stride, padding)
        pads.append((before, max(0, (out - 1) * stride + extent - n - before)))
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, extents, (1, 2))
    return views[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]


def _places(n: int, extent: int, stride: int, padding: str) -> tuple[int, int]:
    """How many windows of `extent` lie along `n` numbers, and how much is padded before the first number."""
    if padding == "same":
        out = -(-n // stride)
        return out, max(0, (out - 1) * stride + extent - n) // 2
    if padding != "valid":
        raise IntegerError(f"padding={padding!r}: choose 'same' or 'valid'")
    if extent > n:
        raise IntegerError(f"a window of {extent} has no place in {n} numbers without padding")
    return (n - extent) // stride + 1, 0
