"""How much a layer computes and how much it moves: chapter 01's formulas, with their symbols as arguments.

One function a kind of layer, from its dimensions to a `Cost`. Shapes are those of one example,
without the batch and with the channels last; `batch` examples share the parameters. What a MAC, a
FLOP and a byte are is said once, in `hwlimits.counting`. Convolutions and pooling are written in
`hwlimits.convolutions`, attention and recurrence in `hwlimits.sequences`; all of it is to be had from here.

>>> conv((28, 28, 1), filters=32, kernel=3).macs == 26 * 26 * 32 * 3 * 3 * 1
True
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from hwlimits.convolutions import (
    conv,
    conv_lstm,
    conv_transpose,
    local_conv,
    pooling,
    separable_conv,
    window_positions,
)
from hwlimits.counting import (
    ACTIVATION_FLOPS,
    DTYPES,
    Cost,
    CountError,
    LayerCost,
    ModelCost,
    Utilization,
    activation_flops,
    bytes_per_element,
    each,
    examples,
    per_batch,
    sizes,
    utilization,
    utilizations,
)
from hwlimits.sequences import additive_attention, attention, dot_attention, gru, lstm, simple_rnn

__all__ = [
    "ACTIVATION_FLOPS", "DTYPES", "Cost", "CountError", "LayerCost", "ModelCost", "Utilization",
    "activation", "activation_flops", "additive_attention", "attention", "batch_norm", "bytes_per_element", "conv",
    "conv_lstm", "conv_transpose", "dense", "dot", "dot_attention", "einsum", "einsum_dense", "embedding",
    "gru", "layer_norm", "local_conv", "lstm", "merge", "move", "per_batch", "pooling", "rms_norm", "separable_conv",
    "simple_rnn", "unit_norm", "utilization", "utilizations", "window_positions",
]  # fmt: skip


def dense(
    inputs: int,
    outputs: int,
    *,
    positions: int = 1,
    bias: bool = True,
    activation: str | None = None,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """A dense layer, y = activation(x W + b), at each of `positions` places of an example.

    >>> dense(784, 300).macs, dense(784, 300).parameters
    (235200, 235500)
    """
    inputs, outputs, positions = sizes("dense", inputs=inputs, outputs=outputs, positions=positions)
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=positions * inputs,
        written=positions * outputs,
        macs=positions * inputs * outputs,
        other_flops=positions * outputs * (bias + activation_flops(activation)),
        parameters=(inputs + bias) * outputs,
    )


def einsum(equation: str, *shapes: Sequence[int]) -> int:
    """MACs of a product of two arrays in Einstein's notation: the product of all its labels' lengths.

    One array (a sum or a transposition) has none. An ellipsis stands for the axes not named.
    Raises CountError for an equation that doesn't fit its shapes.

    >>> einsum("bqhd,bkhd->bhqk", (1, 128, 12, 64), (1, 128, 12, 64))
    12582912
    """
    operands = equation.replace(" ", "").split("->")[0].split(",")
    if len(operands) != len(shapes) or len(shapes) > 2:
        raise CountError(f"einsum {equation!r} with {len(shapes)} arrays: one or two are counted, as many as it names")
    lengths: dict[str, int] = {}
    for labels, given in zip(operands, shapes, strict=True):
        (shape,) = sizes("einsum", shape=given)
        named = len(labels.replace("...", ""))
        # axes under an ellipsis align at their end, as NumPy broadcasts
        hidden = [f"...{i}" for i in range(len(shape) - named, 0, -1)]
        before, dots, after = labels.partition("...")
        all_labels = [*before, *(hidden if dots else []), *after]
        if len(all_labels) != len(shape):
            raise CountError(f"einsum {equation!r}: {labels!r} doesn't fit the shape {shape}")
        for label, length in zip(all_labels, shape, strict=True):
            if 1 != lengths.get(label, 1) != length != 1:
                raise CountError(f"einsum {equation!r}: {label!r} is {lengths[label]} and {length}")
            lengths[label] = max(lengths.get(label, 1), length)
    return prod(lengths.values()) if len(shapes) == 2 else 0


def einsum_dense(
    equation: str,
    input_shape: Sequence[int],
    kernel_shape: Sequence[int],
    output_shape: Sequence[int],
    *,
    bias_elements: int = 0,
    activation: str | None = None,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """A dense layer in Einstein's notation, with `bias_elements` in its bias.

    equation   of input and kernel; its first label of the input is the batch (or the ellipsis has it)

    >>> einsum_dense("abc,cde->abde", (128, 768), (768, 12, 64), (128, 12, 64), bias_elements=768).macs
    75497472
    """
    input_shape, kernel_shape, output_shape = sizes(
        "einsum_dense", input_shape=input_shape, kernel_shape=kernel_shape, output_shape=output_shape
    )
    (bias_elements,) = sizes("einsum_dense", 0, bias_elements=bias_elements)
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=prod(input_shape),
        written=prod(output_shape),
        macs=einsum(equation, (1, *input_shape), kernel_shape),
        other_flops=prod(output_shape) * (bool(bias_elements) + activation_flops(activation)),
        parameters=prod(kernel_shape) + bias_elements,
    )


def dot(a_shape: Sequence[int], b_shape: Sequence[int], axes: Sequence[int], *, normalize: bool = False,
        batch: int = 1, dtype: str = "float32") -> Cost:  # fmt: skip
    """The product of two tensors along one axis of each, counted from 0 without the batch.

    normalize   True: both are divided by their length along that axis first (a cosine)

    >>> dot((4, 8), (6, 8), axes=(1, 1)).macs == 4 * 6 * 8
    True
    """
    a_shape, b_shape = sizes("dot", a_shape=a_shape, b_shape=b_shape)
    axes = each("axes", axes, 2, least=0)
    for axis, shape in zip(axes, (a_shape, b_shape), strict=True):
        if axis >= len(shape):
            raise CountError(f"dot(axes={axes}): {shape} has no axis {axis}; its axes are counted from 0")
    depth = a_shape[axes[0]]
    if depth != b_shape[axes[1]]:
        raise CountError(f"dot: axis {axes[0]} of {a_shape} and axis {axes[1]} of {b_shape} differ")
    elements = prod(a_shape), prod(b_shape)
    outputs = elements[0] // depth * (elements[1] // depth)
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=sum(elements),
        written=outputs,
        macs=outputs * depth,
        other_flops=sum(_to_unit_length(n, n // depth) for n in elements) if normalize else 0,
    )


def embedding(lookups: int, features: int, vocabulary: int, *, batch: int = 1, dtype: str = "float32") -> Cost:
    """A table look-up: no arithmetic; the rows asked for are read, not the table.

    lookups   indices for one example, four bytes each

    >>> embedding(128, features=768, vocabulary=30522).bytes_read == 128 * (768 * 4 + 4)
    True
    """
    lookups, features, vocabulary = sizes("embedding", lookups=lookups, features=features, vocabulary=vocabulary)
    rows = per_batch(batch=batch, dtype=dtype, read=lookups * features, written=lookups * features)
    return rows + Cost(parameters=vocabulary * features, bytes_read=examples(batch) * lookups * 4)


def activation(shape: Sequence[int], name: str, *, parameters: int = 0, batch: int = 1, dtype: str = "float32") -> Cost:
    """An activation function as a layer of its own; operations per element in `ACTIVATION_FLOPS`.

    >>> activation((26, 26, 32), "relu").intensity  # one operation for eight bytes
    0.125
    """
    (shape,) = sizes("activation", shape=shape)
    n = prod(shape)
    return per_batch(
        batch=batch, dtype=dtype, read=n, written=n, other_flops=n * activation_flops(name), parameters=parameters
    )


def batch_norm(
    shape: Sequence[int], *, scale: bool = True, center: bool = True, batch: int = 1, dtype: str = "float32"
) -> Cost:
    """Batch normalization at inference: its four vectors fold into one factor and one summand, two FLOPs an element.

    Folding is done once and not counted. The channels come last in `shape`.

    >>> batch_norm((26, 26, 32)).other_flops == 2 * 26 * 26 * 32
    True
    """
    (shape,) = sizes("batch_norm", shape=shape)
    if not shape:
        raise CountError("batch_norm(shape=()): the shape must have the channels at least")
    n = prod(shape)
    parameters = shape[-1] * (2 + scale + center)
    return per_batch(batch=batch, dtype=dtype, read=n, written=n, other_flops=2 * n, parameters=parameters)


def layer_norm(
    shape: Sequence[int],
    normalized: int,
    *,
    scale: int | None = None,
    center: int | None = None,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """Layer and group normalization: mean and variance of each `normalized` elements, then factor and summand.

    scale, center   how many factors and summands are learned, 0 for none; None: `normalized` of them

    An element costs 1 for the mean, 3 for the variance, 2 to be normalized, 1 each for factor and
    summand; a group 3 for 1/sqrt(variance + epsilon).

    >>> layer_norm((128, 768), normalized=768).other_flops == 128 * (8 * 768 + 3)
    True
    """
    n, normalized = _groups("layer_norm", shape, normalized)
    (scale,) = sizes("layer_norm", 0, scale=normalized if scale is None else scale)
    (center,) = sizes("layer_norm", 0, center=normalized if center is None else center)
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=n,
        written=n,
        other_flops=n * (6 + bool(scale) + bool(center)) + n // normalized * 3,
        parameters=scale + center,
    )


def rms_norm(shape: Sequence[int], normalized: int, *, batch: int = 1, dtype: str = "float32") -> Cost:
    """Root-mean-square normalization: no mean is taken off, no summand added (Zhang and Sennrich 2019).

    >>> rms_norm((128, 768), normalized=768).other_flops == 128 * (4 * 768 + 3)
    True
    """
    n, normalized = _groups("rms_norm", shape, normalized)
    other_flops = 4 * n + n // normalized * 3
    return per_batch(batch=batch, dtype=dtype, read=n, written=n, other_flops=other_flops, parameters=normalized)


def unit_norm(shape: Sequence[int], normalized: int, *, batch: int = 1, dtype: str = "float32") -> Cost:
    """Each `normalized` elements divided by their length (Euclid's).

    >>> unit_norm((128, 768), normalized=768).other_flops == 128 * (3 * 768 + 2)
    True
    """
    n, normalized = _groups("unit_norm", shape, normalized)
    return per_batch(batch=batch, dtype=dtype, read=n, written=n, other_flops=_to_unit_length(n, n // normalized))


def _groups(function: str, shape: Sequence[int], normalized: int) -> tuple[int, int]:
    """The elements of the shape and those of one group, if groups of that size fill it."""
    shape, normalized = sizes(function, shape=shape, normalized=normalized)
    if prod(shape) % normalized:
        raise CountError(f"{function}(normalized={normalized}): must divide the {prod(shape)} elements of {shape}")
    return prod(shape), normalized


def _to_unit_length(elements: int, vectors: int) -> int:
    """Square, sum, guard against 0, 1/sqrt (two), multiply: as TensorFlow's profiler counts l2_normalize."""
    return elements + (elements - vectors) + vectors + 2 * vectors + elements


def merge(kind: str, shapes: Sequence[Sequence[int]], *, batch: int = 1, dtype: str = "float32") -> Cost:
    """Tensors merged element by element, broadcast as in NumPy.

    kind   'add', 'subtract', 'multiply', 'maximum', 'minimum': one operation for each tensor after
           the first; 'average': one more, the division; 'concatenate': none, but all of it moves

    >>> merge("add", [(56, 56, 64), (56, 56, 64)]).other_flops == 56 * 56 * 64
    True
    """
    if len(shapes) == 0:
        raise CountError(f"merge({kind!r}, shapes={shapes!r}): give the shape of one tensor at least")
    shapes = [sizes("merge", shape=shape)[0] for shape in shapes]
    read = sum(prod(shape) for shape in shapes)
    if kind == "concatenate":
        return per_batch(batch=batch, dtype=dtype, read=read, written=read)
    if kind not in ("add", "subtract", "multiply", "maximum", "minimum", "average"):
        raise CountError(
            f"merge {kind!r} is not one of add, subtract, multiply, maximum, minimum, average, concatenate"
        )
    so_far, other_flops = shapes[0], 0
    for shape in shapes[1:]:
        try:
            so_far = np.broadcast_shapes(so_far, shape)
        except ValueError:
            raise CountError(
                f"merge({kind!r}, shapes={shapes}): {shape} doesn't broadcast with {so_far}; lengths must be equal or 1"
            ) from None
        other_flops += prod(so_far)
    other_flops += prod(so_far) * (kind == "average")
    return per_batch(batch=batch, dtype=dtype, read=read, written=prod(so_far), other_flops=other_flops)


def move(read: int, written: int, *, flops_per_output: int = 0, batch: int = 1, dtype: str = "float32") -> Cost:
    """What copies, pads, crops, repeats, transposes or resizes: elements read and written.

    flops_per_output   0 for a copy; 9 for bilinear interpolation, which is three of a + t (b - a)

    >>> move(read=100, written=400).bytes
    2000
    """
    read, written, flops_per_output = sizes("move", 0, read=read, written=written, flops_per_output=flops_per_output)
    return per_batch(batch=batch, dtype=dtype, read=read, written=written, other_flops=written * flops_per_output)
