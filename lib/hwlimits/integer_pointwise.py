"""What stands between the layers of an int8 network, in integers alone: sums, products, means, activations.

As in `hwlimits.integer`, functions take codes and each tensor's `Quantization` and give the codes that LiteRT's
reference kernels give, bit for bit. Two operands are repeated along axes of length 1, as NumPy does.

>>> q = Quantization(0.5, 0)
>>> add(np.array([3], np.int8), np.array([4], np.int8), q, q, Quantization(0.25, 0))
array([14], dtype=int8)
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from hwlimits.fixed_point import (
    IntegerError,
    divide_by_power,
    exp_of_negative,
    high_multiply,
    inverse_root,
    quantize_multiplier,
    reciprocal,
    rescale,
    scale_fixed,
    wrap,
)
from hwlimits.integer import clamp
from hwlimits.quantization import Quantization, round_to_integer

# --- two operands ------------------------------------------------------------------------------


def add(x, y, x_q, y_q, z_q, *, activation="none", sign: int = 1) -> np.ndarray:
    """ADD, or with `sign` -1 SUB: both at twice the larger scale, with 20 bits to spare, then at the output's.

    >>> q = Quantization(0.5, 0)
    >>> add(np.array([3], np.int8), np.array([4], np.int8), q, q, q, sign=-1)
    array([-1], dtype=int8)
    """
    twice = 2 * np.float64(max(x_q.scale, y_q.scale))
    total = _at_scale(x, x_q, twice, 20) + sign * _at_scale(y, y_q, twice, 20)
    raw = rescale(total, *quantize_multiplier(twice / (2**20 * np.float64(z_q.scale))))
    return clamp(raw + z_q.zero_point, z_q, activation)


def multiply(x, y, x_q, y_q, z_q, *, activation="none", requantize=scale_fixed) -> np.ndarray:
    """MUL: the product of the two, at the output's scale."""
    product = (np.int64(x) - x_q.zero_point) * (np.int64(y) - y_q.zero_point)
    real = x_q.scale * y_q.scale / z_q.scale  # float32, as LiteRT has it
    return clamp(requantize(product, real, 1, 1) + z_q.zero_point, z_q, activation)


def squared_difference(x, y, x_q, y_q, z_q) -> np.ndarray:
    """SQUARED_DIFFERENCE: as `add` with 7 bits to spare, the difference multiplied by itself."""
    twice = 2 * np.float64(max(x_q.scale, y_q.scale))
    difference = _at_scale(x, x_q, twice, 7) - _at_scale(y, y_q, twice, 7)
    real = twice * twice / (2**14 * np.float64(z_q.scale))
    return clamp(rescale(wrap(difference * difference), *quantize_multiplier(real)) + z_q.zero_point, z_q)


def matrix_product(x, y, x_q, y_q, z_q, *, requantize=scale_fixed) -> np.ndarray:
    """BATCH_MATMUL: matrices (..., rows, depth) by (..., depth, columns)."""
    sums = (np.float64(x) - x_q.zero_point) @ (np.float64(y) - y_q.zero_point)
    raw = requantize(wrap(sums.astype(np.int64)), x_q.scale * y_q.scale, np.float32(1), z_q.scale)
    return clamp(raw + z_q.zero_point, z_q)


def _at_scale(x, q: Quantization, scale: np.float64, bits: int) -> np.ndarray:
    return rescale((np.int64(x) - q.zero_point) << bits, *quantize_multiplier(np.float64(q.scale) / scale))


# --- one operand, number by number -------------------------------------------------------------


def requantize_codes(x, x_q, y_q, *, requantize=scale_fixed) -> np.ndarray:
    """QUANTIZE from codes to codes: the same numbers, as near as may be, at another scale."""
    raw = requantize(np.int64(x) - x_q.zero_point, x_q.scale, 1, y_q.scale)
    return clamp(raw + y_q.zero_point, y_q)


def relu(x, x_q, y_q, *, activation="relu") -> np.ndarray:
    """RELU, RELU6, RELU_N1_TO_1, RELU_0_TO_1: to the output's scale, and kept within the activation's bounds."""
    raw = rescale(np.int64(x) - x_q.zero_point, *quantize_multiplier(x_q.scale / y_q.scale))
    return clamp(raw + y_q.zero_point, y_q, activation)


def leaky_relu(x, x_q, y_q, *, alpha: float, requantize=scale_fixed) -> np.ndarray:
    """LEAKY_RELU: below 0 times `alpha`, which is at least 0."""
    steps = np.int64(x) - x_q.zero_point
    below = requantize(steps, np.float32(x_q.scale * np.float32(alpha) / y_q.scale), 1, 1)
    above = requantize(steps, np.float32(x_q.scale / y_q.scale), 1, 1)
    return clamp(np.where(steps >= 0, above, below) + y_q.zero_point, y_q)


def prelu(x, alpha, x_q, alpha_q, y_q) -> np.ndarray:
    """PRELU: below 0 times `alpha`, codes for each channel."""
    steps = np.int64(x) - x_q.zero_point
    products = steps * (np.int64(alpha) - alpha_q.zero_point)
    below = rescale(products, *quantize_multiplier(np.float32(x_q.scale * alpha_q.scale / y_q.scale)))
    above = rescale(steps, *quantize_multiplier(x_q.scale / y_q.scale))
    return clamp(np.where(steps >= 0, above, below) + y_q.zero_point, y_q)


def hard_swish(x, x_q, y_q) -> np.ndarray:
    """HARD_SWISH, x relu6(x + 3) / 6, in integers of 16 bits."""
    fine = np.float32(1 / 128) * x_q.scale
    out_multiplier, out_shift = _multiplier_of_16_bits(fine / y_q.scale)
    gate_multiplier, gate_shift = _multiplier_of_16_bits(fine / np.float32(3 / 32768))
    if out_shift > 0:
        raise IntegerError(
            f"hard_swish: an output scale of {y_q.scale} is too small for an input scale of {x_q.scale}; "
            "LiteRT refuses it, too"
        )
    steps = (np.int64(x) - x_q.zero_point) << 7
    number = _high_multiply_16(steps, out_multiplier)
    gate = steps if gate_shift <= 0 else _saturate_16(steps << (gate_shift - 1))
    gate = _high_multiply_16(gate, gate_multiplier)
    gate = _saturate_16(gate << 1) if gate_shift > 0 else divide_by_power(gate, -gate_shift)
    gate = (gate + 2**15) >> 1  # from [-1, 1] to [0, 1]
    product = gate * number
    product = np.sign(product) * (np.abs(product) >> 15)  # towards 0, against the bias of the roundings before
    return clamp(divide_by_power(product, -out_shift) + y_q.zero_point, y_q)


def absolute(x, x_q, y_q) -> np.ndarray:
    """ABS."""
    raw = rescale(np.abs(np.int64(x) - x_q.zero_point), *quantize_multiplier(x_q.scale / y_q.scale))
    return clamp(raw + y_q.zero_point, y_q)


def reciprocal_root(x, x_q, y_q) -> np.ndarray:
    """RSQRT, 1 / sqrt(x); the code of 0 becomes the highest one.

    Raises IntegerError for codes below the zero point.
    """
    steps = np.int64(x) - x_q.zero_point
    if steps.size and steps.min() < 0:
        raise IntegerError(f"reciprocal_root: {np.count_nonzero(steps < 0)} of {steps.size} numbers are below 0")
    real = 1 / (np.float64(np.sqrt(x_q.scale)) * np.float64(y_q.scale))
    multiplier, shift = quantize_multiplier(real)
    fraction, down = inverse_root(np.maximum(steps, 1))
    found = rescale(rescale(np.ones_like(steps), fraction, 20 - down), multiplier, shift - 20) + y_q.zero_point
    return clamp(np.where(steps == 0, y_q.highest, found), y_q)


def lookup(x, function: Callable[[np.ndarray], np.ndarray], x_q, y_q) -> np.ndarray:
    """LOGISTIC, TANH, EXP, ...: a table of the function's value for each of the 256 codes, made in float32.

    function   takes float64 and is rounded to float32, which is what a good C library's float32 function gives

    >>> lookup(np.array([0], np.int8), np.tanh, Quantization(0.1, -5), Quantization(1 / 128, 0))
    array([59], dtype=int8)
    """
    codes = np.arange(x_q.lowest, x_q.highest + 1)
    numbers = x_q.scale * (codes - x_q.zero_point).astype(np.float32)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        values = function(np.float64(numbers)).astype(np.float32) * (np.float32(1) / y_q.scale)
    rounded = round_to_integer(np.clip(values, -(2.0**20), 2.0**20)).astype(np.int64)
    table = clamp(rounded + y_q.zero_point, y_q)
    return table[np.int64(x) - x_q.lowest]


def _multiplier_of_16_bits(real) -> tuple[int, int]:
    multiplier, shift = quantize_multiplier(real)
    return min((int(multiplier) + 2**15) >> 16, 2**15 - 1), int(shift)


def _high_multiply_16(a, b) -> np.ndarray:
    return _saturate_16((np.int64(a) * b + 2**14) >> 15)


def _saturate_16(x) -> np.ndarray:
    return np.clip(x, -(2**15), 2**15 - 1)


# --- along axes --------------------------------------------------------------------------------


def mean(x, axes, x_q, y_q, *, keep: bool = True, requantize=None) -> np.ndarray:
    """MEAN over `axes`. Unless `requantize` is given, the division is folded into the multiplier, as LiteRT has it."""
    axes = tuple(a % x.ndim for a in axes)
    count = prod(x.shape[a] for a in axes)
    sums = wrap(np.int64(x).sum(axis=axes, keepdims=keep) - int(x_q.zero_point) * count)
    if requantize is not None:
        return clamp(requantize(sums, x_q.scale, np.float32(1) / np.float32(count), y_q.scale) + y_q.zero_point, y_q)
    multiplier, shift = (int(n) for n in quantize_multiplier(np.float64(x_q.scale) / np.float64(y_q.scale)))
    bits = min(count.bit_length() - 1, 32, 31 + shift)  # the multiplier loses its last bits for the division
    return clamp(rescale(sums, (multiplier << bits) // count, shift - bits) + y_q.zero_point, y_q)


def total(x, axes, x_q, y_q, *, keep: bool = True, requantize=None) -> np.ndarray:
    """SUM over `axes`. Unless `requantize` is given, with a fault that LiteRT's reference kernel has (2.3).

    It takes the bytes for unsigned ones on both sides, which shows where a code is below 0; tflite-micro
    and LiteRT's default kernels don't.
    """
    axes = tuple(a % x.ndim for a in axes)
    faulty = requantize is None and x.dtype == np.int8
    sums = (np.int64(x.view(np.uint8) if faulty else x) - x_q.zero_point).sum(axis=axes, keepdims=keep)
    raw = (requantize or scale_fixed)(wrap(sums), x_q.scale, 1, y_q.scale) + y_q.zero_point
    return np.clip(raw, 0, 255).astype(np.uint8).view(np.int8) if faulty else clamp(raw, y_q)


def softmax(x, x_q, *, beta: float = 1.0) -> np.ndarray:
    """SOFTMAX over the last axis, to codes of the scale 1/256 with zero point -128.

    exp(beta (x - largest)) with 5 bits before the point, a sum with 12, one reciprocal for each row. A number
    so far below the largest that 5 bits don't hold it becomes 0. Where the exponentials add up to 512 or more, all
    shares are 0; LiteRT's reference kernel ends the process there.
    Raises IntegerError for rows so long and so even that their sum leaves 12 bits.

    >>> softmax(np.array([[10, 10, -100]], np.int8), Quantization(0.1, 0))
    array([[   0,    0, -128]], dtype=int8)
    """
    real = min(np.float64(np.float32(beta)) * np.float64(x_q.scale) * 2**26, 2.0**31 - 1)
    multiplier, shift = quantize_multiplier(real)
    least = -int(np.floor(31 * 2**26 / 2.0 ** int(shift)))
    below = np.int64(x) - np.int64(x).max(axis=-1, keepdims=True)
    there = below >= least
    exps = exp_of_negative(high_multiply(np.where(there, below, 0) << shift, multiplier), 5)
    sums = np.where(there, divide_by_power(exps, 12), 0).sum(axis=-1, keepdims=True)
    if sums.size and sums.max() >= 2**31:
        raise IntegerError(f"softmax: the exponentials of a row of {x.shape[-1]} numbers add up to 2^12 or more")
    fraction, bits = reciprocal(sums, 12)
    shares = divide_by_power(high_multiply(fraction, exps), bits + 31 - 8) - 128
    return np.where(there, np.clip(shares, -128, 127), -128).astype(np.int8)


def resize_bilinear(x, size, *, align_corners: bool = False, half_pixel_centers: bool = False) -> np.ndarray:
    """RESIZE_BILINEAR to `size` (height, width): weights of 10 bits in either direction, a half away from 0."""
    rows, columns = (
        _between(n, out, align_corners, half_pixel_centers) for n, out in zip(x.shape[1:3], size, strict=True)
    )
    mixed = 0
    for y, y_weight in rows:
        for z, z_weight in columns:
            part = np.int64(x)[:, y][:, :, z]
            mixed = mixed + part * y_weight[:, None, None] * z_weight[:, None]
    return (np.sign(mixed) * ((np.abs(mixed) + 2**19) >> 20)).astype(x.dtype)


def _between(n: int, out: int, align_corners: bool, half_pixel_centers: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each place of the output the two neighbours in the input and their weights, which add up to 2^10."""
    scale = (1024 * n + out // 2) // out
    if align_corners and out > 1:
        scale = (1024 * (n - 1) + (out - 1) // 2) // (out - 1)
    place = np.arange(out, dtype=np.int64) * scale
    if half_pixel_centers:
        place = place + scale // 2 - 512
    lower = np.maximum(np.sign(place) * (np.abs(place) // 1024), 0)
    above = place + 1023
    upper = np.minimum(np.sign(above) * (np.abs(above) // 1024), n - 1)
    return [(lower, 1024 - (place - 1024 * lower)), (upper, place - 1024 * lower)]
