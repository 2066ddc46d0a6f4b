"""Which function of the integer kernels an operator of a LiteRT file is, and which move of numbers.

`OPERATORS` has one function for each kind that is known. It takes a `Step` (an operator with its options
and the values of its inputs) and gives the values of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from scipy import special

from hwlimits import integer, integer_pointwise, quantization
from hwlimits.fixed_point import scale_coarse, scale_fixed, scale_float
from hwlimits.quantization import Quantization

# How kernels other than LiteRT's reference ones get to the output's scale, where they do it otherwise.
KERNELS = {
    "reference": {},
    "micro": {"FULLY_CONNECTED": scale_fixed, "SUM": scale_fixed},
    "xnnpack": dict.fromkeys(
        ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "MUL", "MEAN", "SUM"),
        scale_float,
    )
    | {"QUANTIZE": scale_coarse, "LEAKY_RELU": scale_coarse},
}
_ACTIVATIONS = {0: "none", 1: "relu", 2: "relu_n1_to_1", 3: "relu6"}


class OperatorError(ValueError):
    """An operator of a file that the integer kernels don't have, or not with these types or options."""


@dataclass
class Step:
    """One operator as it runs: the values and quantizations of its inputs and the quantizations of its outputs.

    An input that is left out is None, and so is the quantization of a tensor that has none.
    """

    index: int
    kind: str
    options: object
    x: list[np.ndarray | None]
    q: list[Quantization | None]
    out: list[Quantization | None]
    scaled: dict  # requantize=..., where KERNELS has another than the reference's own

    def option(self, name: str, default=0):
        return default if self.options is None else getattr(self.options, name)

    def given(self, i: int) -> np.ndarray | None:
        return self.x[i] if i < len(self.x) else None

    def integers(self, i: int) -> list[int]:
        return [int(n) for n in np.ravel(self.x[i])]

    @property
    def activation(self) -> str:
        found = self.option("fusedActivationFunction")
        if found not in _ACTIVATIONS:
            raise OperatorError(f"operator {self.index} ({self.kind}) has the fused activation {found}: not known")
        return _ACTIVATIONS[found]

    @property
    def windows(self) -> dict:
        same = self.option("padding") == schema.Padding.SAME
        strides = self.option("strideH"), self.option("strideW")
        return {"strides": strides, "padding": "same" if same else "valid", "activation": self.activation}

    @property
    def coded(self) -> bool:
        """True where the first input is codes, False where it is plain integers that the file computes with."""
        return self.x[0].dtype.itemsize == 1 and self.q[0] is not None


# --- layers with weights, pooling --------------------------------------------------------------


def _weighted(step: Step, x: int = 0, bias: int = 2) -> tuple:
    return step.x[x], step.x[1], step.given(bias), step.q[x], step.q[1], step.out[0]


def _conv(step: Step, kernel=integer.conv):
    dilations = step.option("dilationHFactor"), step.option("dilationWFactor")
    return kernel(*_weighted(step), **step.windows, dilations=dilations, **step.scaled)


def _transpose_conv(step: Step):
    size = step.integers(0)[1:3]
    return integer.transpose_conv(*_weighted(step, 2, 3), size=size, **step.windows, **step.scaled)


def _dense(step: Step):
    found = integer.dense(*_weighted(step), activation=step.activation, **step.scaled)
    return found.reshape(*step.x[0].shape[:-1], -1) if step.option("keepNumDims") else found


def _pool(kernel):
    def pool(step: Step):
        window = step.option("filterHeight"), step.option("filterWidth")
        return kernel(step.x[0], step.out[0], window=window, **step.windows)

    return pool


def _matrix_product(step: Step):
    x, y = (
        value.swapaxes(-1, -2) if step.option(name) else value
        for value, name in zip(step.x, ("adjX", "adjY"), strict=True)
    )
    return integer_pointwise.matrix_product(x, y, *step.q, step.out[0], **step.scaled)


# --- number by number --------------------------------------------------------------------------


def _pair(kernel, plain, **options):
    def pair(step: Step):
        if not step.coded:
            return plain(*step.x)
        return kernel(*step.x, *step.q, step.out[0], activation=step.activation, **options, **step.scaled)

    return pair


def _quantize(step: Step):
    if np.issubdtype(step.x[0].dtype, np.floating):
        return quantization.quantize(step.x[0], step.out[0])
    return integer_pointwise.requantize_codes(step.x[0], step.q[0], step.out[0], **step.scaled)


def _lookup(function):
    return lambda step: integer_pointwise.lookup(step.x[0], function, step.q[0], step.out[0])


def _gelu(step: Step):
    """float32 as LiteRT has it: either form of the function has its own roundings."""
    exact = lambda x: 0.5 * x * (1 + special.erf(x * np.sqrt(0.5)))  # noqa: E731
    tanh = lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))  # noqa: E731
    function = tanh if step.option("approximate") else exact
    return integer_pointwise.lookup(step.x[0], function, step.q[0], step.out[0])


def _log(step: Step):
    least = np.float64(step.out[0].scale * np.float32(step.out[0].lowest - step.out[0].zero_point))
    function = lambda x: np.where(x > 0, np.log(np.maximum(x, 1e-300)), least)  # noqa: E731
    return integer_pointwise.lookup(step.x[0], function, step.q[0], step.out[0])


def _relu(activation):
    return lambda step: integer_pointwise.relu(step.x[0], step.q[0], step.out[0], activation=activation)


def _reduce(kernel):
    def reduce(step: Step):
        keep = bool(step.option("keepDims"))
        return kernel(step.x[0], step.integers(1), step.q[0], step.out[0], keep=keep, **step.scaled)

    return reduce


def _extreme(function):
    return lambda step: function(step.x[0], axis=tuple(step.integers(1)), keepdims=bool(step.option("keepDims")))


def _product(step: Step):
    if step.coded:
        raise OperatorError(f"operator {step.index} ({step.kind}) multiplies codes: only plain integers are known here")
    return np.prod(step.x[0], axis=tuple(step.integers(1)), keepdims=bool(step.option("keepDims")))


def _segment_product(step: Step):
    found = np.ones(step.integers(2)[0], step.x[0].dtype)
    np.multiply.at(found, step.integers(1), step.x[0])
    return found


def _softmax(step: Step):
    return integer_pointwise.softmax(step.x[0], step.q[0], beta=step.option("beta"))


def _resize_bilinear(step: Step):
    corners, centers = bool(step.option("alignCorners")), bool(step.option("halfPixelCenters"))
    return integer_pointwise.resize_bilinear(
        step.x[0], step.integers(1), align_corners=corners, half_pixel_centers=centers
    )


# --- moves -------------------------------------------------------------------------------------


def _reshape(step: Step):
    shape = step.integers(1) if step.given(1) is not None else [int(n) for n in step.option("newShape")]
    return step.x[0].reshape(shape)


def _pad(step: Step):
    value = 0 if step.out[0] is None else step.out[0].zero_point
    if step.kind == "PADV2":
        value = step.x[2].item()
    return np.pad(step.x[0], step.x[1], constant_values=value)


def _mirror_pad(step: Step):
    reflect = step.option("mode") == schema.MirrorPadMode.REFLECT
    return np.pad(step.x[0], step.x[1], "reflect" if reflect else "symmetric")


def _slice(step: Step):
    begin, size = step.integers(1), step.integers(2)
    return step.x[0][tuple(slice(b, None if n < 0 else b + n) for b, n in zip(begin, size, strict=True))]


def _strided_slice(step: Step):
    if step.option("offset"):
        raise OperatorError(f"operator {step.index} ({step.kind}) has ends that count from the beginnings: not known")
    masks = {name: step.option(f"{name}Mask") for name in ("begin", "end", "ellipsis", "newAxis", "shrinkAxis")}
    key: list = []
    for i, (begin, end, stride) in enumerate(zip(*(step.integers(k) for k in (1, 2, 3)), strict=True)):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            key.append(Ellipsis)
        elif masks["newAxis"] & bit:
            key.append(None)
        elif masks["shrinkAxis"] & bit:
            key.append(begin)
        else:
            key.append(slice(None if masks["begin"] & bit else begin, None if masks["end"] & bit else end, stride))
    return step.x[0][tuple(key)]


def _split(step: Step):
    return np.split(step.x[1], step.option("numSplits"), axis=step.integers(0)[0])


def _split_v(step: Step):
    axis, sizes = step.integers(2)[0], step.integers(1)
    rest = step.x[0].shape[axis] - sum(n for n in sizes if n >= 0)
    return np.split(step.x[0], np.cumsum([rest if n < 0 else n for n in sizes])[:-1], axis=axis)


def _gather(step: Step):
    if step.option("batchDims"):
        raise OperatorError(f"operator {step.index} ({step.kind}) takes other places in each batch: not known")
    return np.take(step.x[0], step.x[1], axis=step.option("axis"))


def _squeeze(step: Step):
    given = step.option("squeezeDims", None)
    axes = tuple(int(n) for n in given) if given is not None and len(given) else None
    return step.x[0].squeeze(axes)


def _resize_nearest(step: Step):
    places = []
    for n, out in zip(step.x[0].shape[1:3], step.integers(1), strict=True):
        corners = step.option("alignCorners") and out > 1
        scale = np.float32(n - 1) / np.float32(out - 1) if corners else np.float32(n) / np.float32(out)
        place = (np.arange(out, dtype=np.float32) + np.float32(0.5 * bool(step.option("halfPixelCenters")))) * scale
        place = np.floor(place + np.float32(0.5)) if step.option("alignCorners") else np.floor(place)
        places.append(np.minimum(place.astype(int), n - 1))
    return step.x[0][:, places[0]][:, :, places[1]]


def _depth_to_space(step: Step):
    (n, h, w, c), b = step.x[0].shape, step.option("blockSize")
    moved = step.x[0].reshape(n, h, w, b, b, c // b**2).transpose(0, 1, 3, 2, 4, 5)
    return moved.reshape(n, h * b, w * b, c // b**2)


def _space_to_depth(step: Step):
    (n, h, w, c), b = step.x[0].shape, step.option("blockSize")
    return step.x[0].reshape(n, h // b, b, w // b, b, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // b, w // b, -1)


def _space_to_batch(step: Step):
    blocks, pads = step.integers(1), step.x[2]
    fill = 0 if step.out[0] is None else step.out[0].zero_point
    x = np.pad(step.x[0], [(0, 0), *pads, *[(0, 0)] * (step.x[0].ndim - 1 - len(blocks))], constant_values=fill)
    parts = [x[(slice(None), *(slice(o, None, b) for o, b in zip(offsets, blocks, strict=True)))]
             for offsets in np.ndindex(*blocks)]  # fmt: skip
    return np.concatenate(parts)


def _batch_to_space(step: Step):
    blocks, crops = step.integers(1), step.x[2].tolist()
    parts = np.split(step.x[0], int(np.prod(blocks)))
    spatial = [n * b for n, b in zip(step.x[0].shape[1:], blocks, strict=False)]
    whole = np.empty((parts[0].shape[0], *spatial, *step.x[0].shape[1 + len(blocks) :]), step.x[0].dtype)
    for part, offsets in zip(parts, np.ndindex(*blocks), strict=True):
        whole[(slice(None), *(slice(o, None, b) for o, b in zip(offsets, blocks, strict=True)))] = part
    return whole[(slice(None), *(slice(a, n - b) for (a, b), n in zip(crops, spatial, strict=True)))]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


OPERATORS: dict[str, Callable[[Step], np.ndarray | list[np.ndarray]]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": lambda step: _conv(step, integer.depthwise_conv),
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _matrix_product,
    "AVERAGE_POOL_2D": _pool(integer.average_pool),
    "MAX_POOL_2D": _pool(integer.max_pool),
    "ADD": _pair(integer_pointwise.add, np.add),
    "SUB": _pair(integer_pointwise.add, np.subtract, sign=-1),
    "MUL": _pair(integer_pointwise.multiply, np.multiply),
    "SQUARED_DIFFERENCE": lambda step: integer_pointwise.squared_difference(*step.x, *step.q, step.out[0]),
    "MAXIMUM": lambda step: np.maximum(*step.x),
    "MINIMUM": lambda step: np.minimum(*step.x),
    "QUANTIZE": _quantize,
    "DEQUANTIZE": lambda step: quantization.dequantize(step.x[0], step.q[0]),
    "RELU": _relu("relu"),
    "RELU6": _relu("relu6"),
    "RELU_N1_TO_1": _relu("relu_n1_to_1"),
    "RELU_0_TO_1": _relu("relu_0_to_1"),
    "LEAKY_RELU": lambda step: integer_pointwise.leaky_relu(
        step.x[0], step.q[0], step.out[0], alpha=step.option("alpha"), **step.scaled
    ),
    "PRELU": lambda step: integer_pointwise.prelu(*step.x, *step.q, step.out[0]),
    "HARD_SWISH": lambda step: integer_pointwise.hard_swish(step.x[0], step.q[0], step.out[0]),
    "LOGISTIC": _lookup(_sigmoid),
    "TANH": _lookup(np.tanh),
    "EXP": _lookup(np.exp),
    "GELU": _gelu,
    "ABS": lambda step: integer_pointwise.absolute(step.x[0], step.q[0], step.out[0]),
    "RSQRT": lambda step: integer_pointwise.reciprocal_root(step.x[0], step.q[0], step.out[0]),
    "LOG": _log,
    "SOFTMAX": _softmax,
    "MEAN": _reduce(integer_pointwise.mean),
    "SUM": _reduce(integer_pointwise.total),
    "REDUCE_MAX": _extreme(np.max),
    "REDUCE_MIN": _extreme(np.min),
    "REDUCE_PROD": _product,
    "UNSORTED_SEGMENT_PROD": _segment_product,
    "ARG_MAX": lambda step: np.argmax(step.x[0], axis=step.integers(1)[0]),
    "ARG_MIN": lambda step: np.argmin(step.x[0], axis=step.integers(1)[0]),
    "RESIZE_BILINEAR": _resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
    "CONCATENATION": lambda step: np.concatenate(step.x, axis=step.option("axis")),
    "PACK": lambda step: np.stack(step.x, axis=step.option("axis")),
    "UNPACK": lambda step: [
        part.squeeze(step.option("axis")) for part in np.split(step.x[0], step.option("num"), axis=step.option("axis"))
    ],
    "RESHAPE": _reshape,
    "SQUEEZE": _squeeze,
    "EXPAND_DIMS": lambda step: np.expand_dims(step.x[0], step.integers(1)[0]),
    "TRANSPOSE": lambda step: step.x[0].transpose(step.integers(1)),
    "PAD": _pad,
    "PADV2": _pad,
    "MIRROR_PAD": _mirror_pad,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "GATHER": _gather,
    "TILE": lambda step: np.tile(step.x[0], step.integers(1)),
    "BROADCAST_TO": lambda step: np.broadcast_to(step.x[0], step.integers(1)),
    "REVERSE_V2": lambda step: np.flip(step.x[0], step.integers(1)),
    "DEPTH_TO_SPACE": _depth_to_space,
    "SPACE_TO_DEPTH": _space_to_depth,
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "BATCH_TO_SPACE_ND": _batch_to_space,
    "SHAPE": lambda step: np.array(step.x[0].shape),
    "FILL": lambda step: np.full(step.integers(0), step.x[1].item()),
    "CAST": lambda step: step.x[0],
}
