"""Int8 files of one operator with everything drawn: shapes, windows, strides, scales, zero points, activations.

Not a test: what tests/test_integer_run.py runs through LiteRT and through the course's kernels.
"""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_build import _Builder

SAME, VALID = schema.Padding.SAME, schema.Padding.VALID


def write(kind, build, inputs, graph_inputs, outputs, version=2, options_kind=None, **options) -> LiteRTFile:
    model, graph, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    number = getattr(schema.BuiltinOperator, kind)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, outputs
    if options_kind:
        operator.builtinOptions = getattr(schema, f"{options_kind}OptionsT")()
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{options_kind}Options")
        for name, value in options.items():
            assert hasattr(operator.builtinOptions, name), name
            setattr(operator.builtinOptions, name, value)
    graph.tensors, graph.operators = build.tensors, [operator]
    graph.inputs, graph.outputs = graph_inputs, outputs
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], build.buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return LiteRTFile(bytes(builder.Output()))


class Draw:
    """Random choices for one file."""

    def __init__(self, seed):
        self.random, self.build = np.random.default_rng(seed), _Builder()

    def integer(self, low, high):
        return int(self.random.integers(low, high + 1))

    def one(self, *choices):
        return choices[self.random.integers(len(choices))]

    def scale(self, low=1e-3, high=10.0):
        return np.float32(np.exp(self.random.uniform(np.log(low), np.log(high))))

    def zero(self):
        return self.one(-128, 127, 0, self.integer(-128, 127), self.integer(-128, 127))

    def codes(self, shape, scale=None, zero=None):
        """A tensor of int8 codes, its scale and its zero point."""
        scale, zero = self.scale() if scale is None else scale, self.zero() if zero is None else zero
        return self.build.tensor(shape, "INT8", scale=scale, zero=zero), np.float32(scale), zero

    def ints(self, values):
        values = np.asarray(values)
        return self.build.tensor(values.shape, "INT32", values)

    def weights(self, shape, axis, channels, bits=8):
        """Codes of 8 bits, or of 4, of which LiteRT has two in a byte, the first in its lower half."""
        high = 2 ** (bits - 1)
        values = self.random.integers(1 - high, high, shape)
        if channels:
            scale = np.array([self.scale(1e-4, 0.3) for _ in range(shape[axis])], np.float32)
        else:
            scale = self.scale(1e-4, 0.3)
        if bits == 8:
            return self.build.tensor(shape, "INT8", values, scale=scale, axis=axis), scale
        made = self.build.tensor(shape, "INT4", scale=scale * 16, axis=axis)
        codes = np.append(values.ravel() & 15, np.zeros(values.size % 2, int)).reshape(-1, 2)
        buffer = schema.BufferT()
        buffer.data = (codes[:, 0] | codes[:, 1] << 4).astype(np.uint8)
        self.build.tensors[made].buffer = len(self.build.buffers)
        self.build.buffers.append(buffer)
        return made, scale * 16

    def bias(self, scale, count, spread):
        return self.build.tensor((count,), "INT32", self.random.normal(0, spread, count), scale=scale)

    def output_scale(self, scale, terms):
        """So that outputs fill the codes, or by chance not at all: the ratio may be above 1, and far below."""
        typical = float(np.mean(scale)) * 74.0**2 * terms**0.5 / 60
        return np.float32(typical * self.one(1, 1, 1, 0.3, 3, 1e-3, 1e4))


def conv(seed, bits=8):
    d = Draw(seed)
    kernel, strides = (d.integer(1, 4), d.integer(1, 4)), (d.integer(1, 3), d.integer(1, 3))
    dilations = (d.integer(1, 2), d.integer(1, 2)) if strides == (1, 1) else (1, 1)
    groups = d.one(1, 1, 2, 3) if bits == 8 else 1
    channels, outputs = groups * d.integer(1, 5), groups * d.integer(1, 5)
    height, width = (d.integer((k - 1) * n + 1, 9) for k, n in zip(kernel, dilations, strict=True))
    x, scale, _ = d.codes((d.integer(1, 2), height, width, channels))
    w, w_scale = d.weights((outputs, *kernel, channels // groups), 0, d.one(True, True, False), bits)
    y = d.output_scale(scale * w_scale, kernel[0] * kernel[1] * channels // groups)
    return _layer(d, "CONV_2D", "Conv2D", x, w, scale * w_scale, outputs, y, strides, dilations, kernel, 3)


def depthwise(seed, bits=8):
    d = Draw(seed)
    kernel, stride = (d.integer(1, 4), d.integer(1, 4)), d.integer(1, 3)
    dilations = (d.integer(1, 2), d.integer(1, 2)) if stride == 1 else (1, 1)
    channels, multiplier = d.integer(1, 6), d.one(1, 1, 2, 3)
    height, width = (d.integer((k - 1) * n + 1, 9) for k, n in zip(kernel, dilations, strict=True))
    x, scale, _ = d.codes((d.integer(1, 2), height, width, channels))
    w, w_scale = d.weights((1, *kernel, channels * multiplier), 3, d.one(True, True, False), bits)
    y = d.output_scale(scale * w_scale, kernel[0] * kernel[1])
    return _layer(d, "DEPTHWISE_CONV_2D", "DepthwiseConv2D", x, w, scale * w_scale, channels * multiplier, y,
                  (stride, stride), dilations, kernel, 3, depthMultiplier=multiplier)  # fmt: skip


def _layer(d, kind, options, x, w, scale, outputs, y_scale, strides, dilations, kernel, version, **more):
    padding = d.one(SAME, VALID)
    _, height, width, _ = d.build.tensors[x].shape
    size = []
    for n, k, s, e in zip((height, width), kernel, strides, dilations, strict=True):
        extent = (k - 1) * e + 1
        size.append(-(-n // s) if padding == SAME else (n - extent) // s + 1)
    inputs = [x, w, d.bias(scale, outputs, 3000)]  # LiteRT wants one
    y, _, _ = d.codes((d.build.tensors[x].shape[0], *size, outputs), y_scale)
    return write(kind, d.build, inputs, [x], [y], version, options, padding=padding, strideH=strides[0],
                 strideW=strides[1], dilationHFactor=dilations[0], dilationWFactor=dilations[1],
                 fusedActivationFunction=d.integer(0, 3), **more)  # fmt: skip


def transpose_conv(seed):
    d = Draw(seed)
    kernel, strides, padding = (
        (d.integer(1, 4), d.integer(1, 4)),
        (d.integer(1, 3), d.integer(1, 3)),
        d.one(SAME, VALID),
    )
    channels, outputs, sizes = d.integer(1, 5), d.integer(1, 5), (d.integer(1, 5), d.integer(1, 5))
    size = [n * s if padding == SAME else (n - 1) * s + k for n, s, k in zip(sizes, strides, kernel, strict=True)]
    x, scale, _ = d.codes((1, *sizes, channels))
    w, w_scale = d.weights((outputs, *kernel, channels), 0, d.one(True, False))
    inputs = [d.ints([1, *size, outputs]), w, x]
    if d.one(True, False):
        inputs.append(d.bias(scale * w_scale, outputs, 3000))
    y, _, _ = d.codes((1, *size, outputs), d.output_scale(scale * w_scale, kernel[0] * kernel[1] * channels))
    return write("TRANSPOSE_CONV", d.build, inputs, [x], [y], 4, "TransposeConv", padding=padding, strideH=strides[0],
                 strideW=strides[1], fusedActivationFunction=d.integer(0, 3))  # fmt: skip


def dense(seed, bits=8):
    d = Draw(seed)
    rows, depth, outputs = d.integer(1, 4), d.integer(1, 300), d.integer(1, 20)
    keep = d.one(True, False)
    x, scale, _ = d.codes((2, rows, depth) if keep else (rows, depth))
    w, w_scale = d.weights((outputs, depth), 0, d.one(True, False) and outputs > 1, bits)
    inputs = [x, w]
    if d.one(True, True, False):
        inputs.append(d.bias(scale * w_scale, outputs, 3000))
    y, _, _ = d.codes((2, rows, outputs) if keep else (rows, outputs), d.output_scale(scale * w_scale, depth))
    return write("FULLY_CONNECTED", d.build, inputs, [x], [y], 5 if keep else 4, "FullyConnected",
                 keepNumDims=keep, fusedActivationFunction=d.integer(0, 3))  # fmt: skip


def matrix_product(seed):
    d = Draw(seed)
    rows, depth, columns, batch = d.integer(1, 5), d.integer(1, 40), d.integer(1, 5), (1, d.integer(1, 3))
    flip_x, flip_y = d.one(True, False), d.one(True, False)
    x, x_scale, _ = d.codes((*batch, *((depth, rows) if flip_x else (rows, depth))))
    y, y_scale, _ = d.codes((*batch, *((columns, depth) if flip_y else (depth, columns))))
    z, _, _ = d.codes((*batch, rows, columns), d.output_scale(x_scale * y_scale, depth))
    return write("BATCH_MATMUL", d.build, [x, y], [x, y], [z], 2, "BatchMatMul", adjX=flip_x, adjY=flip_y)


def pool(seed, kind="AVERAGE_POOL_2D"):
    d = Draw(seed)
    window, strides, padding = (
        (d.integer(1, 4), d.integer(1, 4)),
        (d.integer(1, 3), d.integer(1, 3)),
        d.one(SAME, VALID),
    )
    sizes = [d.integer(k, 9) for k in window]
    shape = (d.integer(1, 2), *sizes, d.integer(1, 7))
    x, scale, zero = d.codes(shape)
    size = [-(-n // s) if padding == SAME else (n - k) // s + 1 for n, k, s in zip(sizes, window, strides, strict=True)]
    y, _, _ = d.codes((shape[0], *size, shape[3]), scale, zero)
    return write(kind, d.build, [x], [x], [y], 2, "Pool2D", padding=padding, strideH=strides[0], strideW=strides[1],
                 filterHeight=window[0], filterWidth=window[1], fusedActivationFunction=d.integer(0, 3))  # fmt: skip


def pair(seed, kind="ADD", options="Add"):
    d = Draw(seed)
    shape = (d.integer(1, 3), d.integer(1, 5), d.integer(1, 5), d.integer(1, 6))
    other = d.one(shape, (1, 1, 1, shape[3]), (*shape[:3], 1), (shape[0], 1, 1, shape[3]), (1,))
    shapes = (shape, other) if d.one(True, False) else (other, shape)
    (x, a, _), (y, b, _) = (d.codes(s, d.scale(0.01, 1)) for s in shapes)
    if kind == "SQUARED_DIFFERENCE":
        z_scale = max(a, b) ** 2 * np.float32(np.exp(d.random.uniform(0, 6)))
    elif kind == "MUL":
        z_scale = a * b * np.float32(np.exp(d.random.uniform(-2, 6)))
    else:
        z_scale = max(a, b) * np.float32(np.exp(d.random.uniform(-3, 2)))
    z, _, _ = d.codes(shape, z_scale)
    fused = {} if kind == "SQUARED_DIFFERENCE" else {"fusedActivationFunction": d.integer(0, 3)}
    return write(kind, d.build, [x, y], [x, y], [z], 2, options, **fused)


def extreme(seed, kind="MAXIMUM"):
    d = Draw(seed)
    shape = (d.integer(1, 3), d.integer(1, 5), d.integer(1, 5), d.integer(1, 6))
    scale, zero = d.scale(), d.zero()
    x, y, z = (d.codes(s, scale, zero)[0] for s in (shape, d.one(shape, (1, 1, 1, shape[3])), shape))
    return write(kind, d.build, [x, y], [x, y], [z], 2, "MaximumMinimum")


def requantize(seed, types=("INT8", "INT8")):
    d = Draw(seed)
    x, scale, _ = d.codes((256,))
    y, _, _ = d.codes((256,), scale * np.float32(np.exp(d.random.uniform(-4, 4))))
    for i, name in zip((x, y), types, strict=True):
        if name == "UINT8":
            d.build.tensors[i].type = schema.TensorType.UINT8
            d.build.tensors[i].quantization.zeroPoint += 128
    return write("QUANTIZE", d.build, [x], [x], [y], 2)


def one(seed, kind="RELU", options=None, version=2, out=None, **more):
    """An activation on all 256 codes."""
    d = Draw(seed)
    x, scale, _ = d.codes((1, 256), d.scale(0.003, 1))
    if out is None:
        out = (scale * np.float32(np.exp(d.random.uniform(-1, 2))), None)
    y, _, _ = d.codes((1, 256), *out)
    if kind == "RSQRT":
        d.build.tensors[x].quantization.zeroPoint = np.array([-128])
    if kind == "LEAKY_RELU":
        more["alpha"] = d.one(0.2, 0.01, 0.5, 1.5, float(d.random.uniform(0, 1)))
    return write(kind, d.build, [x], [x], [y], version, options, **more)


def prelu(seed):
    d = Draw(seed)
    shape = (1, 3, 4, d.integer(1, 6))
    x, scale, _ = d.codes(shape)
    alpha = d.build.tensor(
        (1, 1, shape[3]), "INT8", d.random.integers(-128, 128, (1, 1, shape[3])), scale=0.01, zero=d.integer(-50, 50)
    )
    y, _, _ = d.codes(shape, scale * np.float32(np.exp(d.random.uniform(-1, 2))))
    return write("PRELU", d.build, [x, alpha], [x], [y], 1)


def softmax(seed):
    d = Draw(seed)
    x, _, _ = d.codes((d.integer(1, 4), d.one(1, 2, 10, 100, 500)), d.scale(1e-3, 5))
    y, _, _ = d.codes(d.build.tensors[x].shape, 1 / 256, -128)
    return write("SOFTMAX", d.build, [x], [x], [y], 2, "Softmax", beta=d.one(1.0, 1.0, 0.5, 3.0))


def reduce(seed, kind="MEAN"):
    d = Draw(seed)
    shape = (d.integer(1, 3), d.integer(1, 9), d.integer(1, 9), d.integer(1, 9))
    axes = d.one([1, 2], [2, 1], [3], [-1], [1], [0], [1, 2, 3], [0, 1, 2, 3])
    keep = d.one(True, False)
    x, scale, zero = d.codes(shape)
    real = {a % 4 for a in axes}
    out = [1 if i in real else n for i, n in enumerate(shape) if keep or i not in real]
    if kind in ("REDUCE_MAX", "REDUCE_MIN"):
        y, _, _ = d.codes(out, scale, zero)
    else:
        y, _, _ = d.codes(out, scale * np.float32(np.exp(d.random.uniform(-3, 1) + (3 if kind == "SUM" else 0))))
    return write(kind, d.build, [x, d.ints(axes)], [x], [y], 2, "Reducer", keepDims=keep)


def resize(seed, kind="RESIZE_BILINEAR"):
    d = Draw(seed)
    shape, size = (
        (d.integer(1, 2), d.integer(1, 7), d.integer(1, 7), d.integer(1, 4)),
        [d.integer(1, 15), d.integer(1, 15)],
    )
    corners = d.one(True, False)
    centers = not corners and d.one(True, False)
    x, scale, zero = d.codes(shape)
    y, _, _ = d.codes((shape[0], *size, shape[3]), scale, zero)
    options = "ResizeBilinear" if kind == "RESIZE_BILINEAR" else "ResizeNearestNeighbor"
    return write(kind, d.build, [x, d.ints(size)], [x], [y], 3, options, alignCorners=corners, halfPixelCenters=centers)


LUT = {"LOGISTIC": (np.float32(1 / 256), -128), "TANH": (np.float32(1 / 128), 0)}
CASES = {
    "CONV_2D": conv,
    "CONV_2D of 4 bits": lambda seed: conv(seed, 4),
    "DEPTHWISE_CONV_2D": depthwise,
    "DEPTHWISE_CONV_2D of 4 bits": lambda seed: depthwise(seed, 4),
    "TRANSPOSE_CONV": transpose_conv,
    "FULLY_CONNECTED": dense,
    "FULLY_CONNECTED of 4 bits": lambda seed: dense(seed, 4),
    "BATCH_MATMUL": matrix_product,
    "AVERAGE_POOL_2D": pool,
    "MAX_POOL_2D": lambda seed: pool(seed, "MAX_POOL_2D"),
    "ADD": pair,
    "SUB": lambda seed: pair(seed, "SUB", "Sub"),
    "MUL": lambda seed: pair(seed, "MUL", "Mul"),
    "SQUARED_DIFFERENCE": lambda seed: pair(seed, "SQUARED_DIFFERENCE", "SquaredDifference"),
    "MAXIMUM": extreme,
    "MINIMUM": lambda seed: extreme(seed, "MINIMUM"),
    "QUANTIZE": requantize,
    "QUANTIZE of uint8": lambda seed: requantize(seed, ("UINT8", "INT8")),
    "QUANTIZE to uint8": lambda seed: requantize(seed, ("INT8", "UINT8")),
    "RELU": one,
    "RELU6": lambda seed: one(seed, "RELU6"),
    "RELU_N1_TO_1": lambda seed: one(seed, "RELU_N1_TO_1", version=1),
    "RELU_0_TO_1": lambda seed: one(seed, "RELU_0_TO_1", version=1),
    "LEAKY_RELU": lambda seed: one(seed, "LEAKY_RELU", "LeakyRelu"),
    "PRELU": prelu,
    "HARD_SWISH": lambda seed: one(seed, "HARD_SWISH", version=1),
    "LOGISTIC": lambda seed: one(seed, "LOGISTIC", out=LUT["LOGISTIC"]),
    "TANH": lambda seed: one(seed, "TANH", out=LUT["TANH"]),
    "EXP": lambda seed: one(seed, "EXP", version=2),
    "ABS": lambda seed: one(seed, "ABS", version=2),
    "RSQRT": lambda seed: one(seed, "RSQRT", version=2, out=(np.float32(0.003 * 1.5 ** (seed % 20)), None)),
    "LOG": lambda seed: one(seed, "LOG", version=2, out=(np.float32(0.003 * 1.5 ** (seed % 8)), None)),
    "GELU": lambda seed: one(seed, "GELU", "Gelu", version=2, approximate=bool(seed % 2)),
    "SOFTMAX": softmax,
    "MEAN": reduce,
    "SUM": lambda seed: reduce(seed, "SUM"),
    "REDUCE_MAX": lambda seed: reduce(seed, "REDUCE_MAX"),
    "REDUCE_MIN": lambda seed: reduce(seed, "REDUCE_MIN"),
    "RESIZE_BILINEAR": resize,
    "RESIZE_NEAREST_NEIGHBOR": lambda seed: resize(seed, "RESIZE_NEAREST_NEIGHBOR"),
}
