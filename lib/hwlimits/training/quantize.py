"""Quantization-aware training, by tensorflow-model-optimization or by the course itself, keeping the zeros of pruning.

Both engines round what LiteRT keeps as integers, with the straight-through estimator: kernels symmetric and without
the lowest code, a scale for each filter of a convolution and one for a dense layer; what layers put out by a range
that is learnt. They differ in that range: tfmot's starts at -6 to 6 and forgets that over some 1,000 steps, ours
starts with the first batch. And tfmot's rounding is float arithmetic of its own, where ours is
`hwlimits.quantization`'s.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwlimits import calibration
from hwlimits.quantization import QuantizationError
from hwlimits.training import quantized_layers
from hwlimits.training.fake_quant import LearntRange
from hwlimits.training.keras import keras

ENGINES = ("tfmot", "own")
METHODS = ("min_max", "mean_square_error")
IMAGES_AT_ONCE = 250


def aware(model: keras.Model, engine: str = "tfmot", *, bits: int = 8, keep_zeros: bool = True) -> keras.Model:
    """The model with codes simulated in its forward pass, to be trained further.

    engine       'tfmot', or 'own': the course's own, which loads nothing of tfmot
    bits         of kernels and of what is between the layers, 2 to 8; input and answers have 8
    keep_zeros   weights that are zero stay zero: plain quantization-aware training lets them grow back, and the
                 pruning is lost. tfmot can do it at 8 bits (its Default8BitPrunePreserve scheme)

    Raises QuantizationError for another engine, for bits that an engine doesn't have, and for layers that the own
    engine doesn't know.
    """
    if engine not in ENGINES:
        raise QuantizationError(f"engine {engine!r} is not known; choose 'tfmot' or 'own'")
    if bits not in range(2, 9):
        raise QuantizationError(f"aware(bits={bits}): the engines have codes of 2 to 8 bits, a whole number")
    if engine == "own":
        return quantized_layers.rebuild(model, bits, keep_zeros)
    from hwlimits.training import quantize_tfmot

    return quantize_tfmot.aware(model, bits, keep_zeros)


def calibrated(model: keras.Model, images: np.ndarray, bits: int = 8, method: str = "min_max") -> keras.Model:
    """The model with codes in its forward pass, without further training: ranges from its weights and from `images`.

    images   inputs as the model takes them, a few hundred
    method   'min_max' takes the widest ranges, 'mean_square_error' those with the least error: the functions of
             `hwlimits.calibration`, for the kernel of each channel and for what each layer puts out

    The model is of the own engine, untrained. Raises QuantizationError for another method, and as `aware` does.
    """
    if method not in METHODS:
        raise QuantizationError(f"calibrated(method={method!r}): choose from {', '.join(METHODS)}")
    coded = aware(model, "own", bits=bits)
    ranges = _watch(coded, images)
    for layer_range, seen in ranges:
        low, high = (
            calibration.min_max(seen) if method == "min_max" else calibration.mean_square_error(seen, layer_range.bits)
        )
        layer_range.low.assign(low)
        layer_range.high.assign(high)
        layer_range.batches.assign(1.0)
    if method == "mean_square_error":
        for layer in quantized_layers.coded_layers(coded):
            if hasattr(layer, "weight_range"):
                kernel = layer.flat(getattr(layer, layer.attribute)).numpy()
                magnitude = layer.weight_range.magnitude
                groups = kernel.reshape(-1, kernel.shape[-1]).T if magnitude.shape.rank else [kernel]
                best = [max(np.abs(calibration.mean_square_error(g, bits, symmetric=True))) for g in groups]
                magnitude.assign(np.reshape(best, magnitude.shape))
    return coded


def _watch(coded: keras.Model, images: np.ndarray) -> list[tuple[LearntRange, calibration.Histogram]]:
    """What the layers put out when nothing is rounded, counted, with the ranges that it is for."""
    layers = list(quantized_layers.coded_layers(coded))
    found = [(layer.output_range, calibration.Histogram()) for layer in layers if hasattr(layer, "output_range")]
    heavy = [layer.weight_range for layer in layers if hasattr(layer, "weight_range")]

    def set_watch(watch: Callable | None, watching: bool) -> None:
        for layer_range, seen in found:
            layer_range.watch = watch(seen) if watch else None
        for weights in heavy:
            weights.watching = watching

    set_watch(lambda seen: seen.add, True)
    try:
        for first in range(0, len(images), IMAGES_AT_ONCE):
            coded(keras.backend.constant(images[first : first + IMAGES_AT_ONCE]), training=False)
    finally:
        set_watch(None, False)
    return found
