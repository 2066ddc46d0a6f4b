"""LiteRT files of one operator, written by hand: what a calibration times, with no network and no converter.

An operator's speed depends on its kind, its numbers' type and its shapes. `single` writes a file that
has just that: random weights where it takes some, one scale for all int8 activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hwlimits.training.litert import LiteRTFile

# activations and weights of each form that the converter makes of a network
FORMS = {"float32": ("FLOAT32", "FLOAT32"), "int8": ("INT8", "INT8"), "dynamic": ("FLOAT32", "INT8")}
_NUMPY = {"FLOAT32": np.float32, "INT8": np.int8, "INT32": np.int32}
PAIRS = ("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE", "MAXIMUM", "DIV")
ZERO_POINT = -10  # of int8 activations: some kernels take 0 alone, which a network's ranges don't have
HEAVY = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class Spec:
    """One operator: its kind, form, the shape of its first input, and of what it does with it.

    outputs   channels or units of a convolution or a dense layer
    window    height and width of a kernel or of a pooling window; of MEAN, 0 for a mean over the last axis
    second    second operand of a pair: '' one number an element, 'channel' or 'row' one for each of them,
              'transposed' the right factor of a BATCH_MATMUL by its columns
    """

    kind: str
    form: str
    shape: tuple[int, ...]
    outputs: int = 0
    window: int = 1
    stride: int = 1
    second: str = ""


class _Builder:
    """Tensors and buffers of a file in the making."""

    def __init__(self) -> None:
        self.tensors, self.buffers = [], [schema.BufferT()]

    def tensor(self, shape, dtype: str, values: np.ndarray | None = None, scale=None, axis: int = 0, zero: int = 0):
        """Enter a tensor, constant if it has values; `scale` is a number, or an array along `axis`."""
        made = schema.TensorT()
        made.name, made.shape = f"t{len(self.tensors)}".encode(), [int(n) for n in shape]
        made.type, made.buffer = getattr(schema.TensorType, dtype), 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values, _NUMPY[dtype]).tobytes(), np.uint8)
            made.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if scale is not None:
            quantization = schema.QuantizationParametersT()
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            quantization.scale, quantization.zeroPoint = scales, np.full(len(scales), zero, np.int64)
            quantization.quantizedDimension = axis
            made.quantization = quantization
        self.tensors.append(made)
        return len(self.tensors) - 1


def single(spec: Spec, seed: int = 0) -> LiteRTFile:
    """A file with one operator as `spec` says. Raises KeyError for a kind or form that is not written here."""
    activation, weight = FORMS[spec.form]
    build, random = _Builder(), np.random.default_rng(seed)
    small = {"scale": 0.05, "zero": -128 if spec.kind == "RSQRT" else ZERO_POINT} if activation == "INT8" else {}
    inputs = [build.tensor(spec.shape, activation, **small)]
    graph_inputs = list(inputs)
    out_shape, out_scale = spec.shape, small
    if spec.kind in HEAVY:
        out_shape = _heavy(build, spec, inputs, random, activation, weight)
    elif spec.kind == "TRANSPOSE_CONV":
        return _file(build, spec, *_transpose_conv(build, spec, inputs[0], random))
    elif spec.kind in PAIRS:
        inputs.append(build.tensor(_second(spec), activation, **small))
        graph_inputs = list(inputs)
    elif spec.kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        same = spec.stride == 1  # as networks mostly have it: 'SAME' where the size is kept, 'VALID' where it shrinks
        height, width = ((n if same else (n - spec.window) // spec.stride + 1) for n in spec.shape[1:3])
        out_shape = (1, height, width, spec.shape[3])
    elif spec.kind == "MEAN":
        axes = [1, 2] if spec.window else [3]
        inputs.append(build.tensor((len(axes),), "INT32", np.array(axes)))
        out_shape = tuple(1 if i in axes else n for i, n in enumerate(spec.shape))
    elif spec.kind == "PAD":
        inputs.append(build.tensor((4, 2), "INT32", np.array([[0, 0], [1, 1], [1, 1], [0, 0]])))
        out_shape = (1, spec.shape[1] + 2, spec.shape[2] + 2, spec.shape[3])
    elif spec.kind == "CONCATENATION":
        inputs.append(build.tensor(spec.shape, activation, **small))
        graph_inputs = list(inputs)
        out_shape = (*spec.shape[:-1], 2 * spec.shape[-1])
    elif spec.kind == "TRANSPOSE":
        inputs.append(build.tensor((4,), "INT32", np.array([0, 2, 1, 3])))
        out_shape = (spec.shape[0], spec.shape[2], spec.shape[1], spec.shape[3])
    elif spec.kind in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        out_shape = (1, 2 * spec.shape[1], 2 * spec.shape[2], spec.shape[3])
        inputs.append(build.tensor((2,), "INT32", np.array(out_shape[1:3])))
    elif spec.kind == "BATCH_MATMUL":
        depth = spec.shape[-1]
        other = (*spec.shape[:-2], *((spec.outputs, depth) if spec.second else (depth, spec.outputs)))
        inputs.append(build.tensor(other, activation, **small))
        graph_inputs = list(inputs)
        out_shape = (*spec.shape[:-1], spec.outputs)
    elif spec.kind in ("LOGISTIC", "SOFTMAX") and small:
        out_scale = {"scale": 1 / 256, "zero": -128}
    elif spec.kind == "TANH" and small:
        out_scale = {"scale": 1 / 128}
    out_type = {"QUANTIZE": "INT8", "DEQUANTIZE": "FLOAT32"}.get(spec.kind, activation)
    if spec.kind == "QUANTIZE":
        out_scale = {"scale": 0.05, "zero": ZERO_POINT}
    elif spec.kind == "DEQUANTIZE":
        out_scale = {}
    output = build.tensor(out_shape, out_type, **out_scale)
    return _file(build, spec, inputs, graph_inputs, output)


def _second(spec: Spec) -> tuple[int, ...]:
    ones = (1,) * (len(spec.shape) - 1)
    return {"": spec.shape, "channel": (*ones, spec.shape[-1]), "row": (*spec.shape[:-1], 1)}[spec.second]


def _transpose_conv(build: _Builder, spec: Spec, source: int, random) -> tuple[list[int], list[int], int]:
    """Inputs, the graph's inputs and the output of a transposed convolution with 'SAME' padding, without a bias."""
    activation, weight = FORMS[spec.form]
    out_shape = (1, *(n * spec.stride for n in spec.shape[1:3]), spec.outputs)
    shape = (spec.outputs, spec.window, spec.window, spec.shape[3])
    size = build.tensor((4,), "INT32", np.array(out_shape))
    if weight == "INT8":
        scale = {"scale": np.full(spec.outputs, 0.01)}
        weights = build.tensor(shape, weight, random.integers(-127, 128, shape), **scale)
    else:
        weights = build.tensor(shape, weight, 0.1 * random.standard_normal(shape))
    output = build.tensor(
        out_shape, activation, **({"scale": 0.05, "zero": ZERO_POINT} if activation == "INT8" else {})
    )
    return [size, weights, source], [source], output


def _heavy(build: _Builder, spec: Spec, inputs: list[int], random, activation: str, weight: str) -> tuple[int, ...]:
    """Enter weights and bias; the output's shape. The convolutions pad as 'SAME'."""
    channels = spec.shape[-1]
    axis = 0
    if spec.kind == "FULLY_CONNECTED":
        shape, out_shape, count = (spec.outputs, channels), (spec.shape[0], spec.outputs), spec.outputs
    else:
        size = tuple(-(-n // spec.stride) for n in spec.shape[1:3])
        if spec.kind == "CONV_2D":
            shape, count = (spec.outputs, spec.window, spec.window, channels), spec.outputs
        else:
            shape, count, axis = (1, spec.window, spec.window, channels), channels, 3
        out_shape = (1, *size, count)
    if weight == "INT8":
        values, scale = random.integers(-127, 128, shape), {"scale": np.full(count, 0.01), "axis": axis}
    else:
        values, scale = 0.1 * random.standard_normal(shape), {}
    inputs.append(build.tensor(shape, weight, values, **scale))
    bias = "INT32" if activation == "INT8" else "FLOAT32"
    scale = {"scale": np.full(count, 0.01 * 0.05)} if activation == "INT8" else {}
    inputs.append(build.tensor((count,), bias, np.zeros(count), **scale))
    return out_shape


def _file(build: _Builder, spec: Spec, inputs: list[int], graph_inputs: list[int], output: int) -> LiteRTFile:
    model, graph, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    number = getattr(schema.BuiltinOperator, spec.kind)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), _version(spec)
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, [output]
    if options := _options(spec):
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    graph.tensors, graph.operators = build.tensors, [operator]
    graph.inputs, graph.outputs = graph_inputs, [output]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], build.buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return LiteRTFile(bytes(builder.Output()))


def _version(spec: Spec) -> int:
    """Versions of the operators from which on they take int8, or int8 weights beside float32 activations."""
    newer = {"int8": {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "BATCH_MATMUL": 2},
             "dynamic": {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 9, "TRANSPOSE_CONV": 2}}  # fmt: skip
    if spec.kind in ("HARD_SWISH", "GELU"):
        return 1
    return newer.get(spec.form, {}).get(spec.kind, 2 if spec.form == "int8" else 1)


def _options(spec: Spec):
    """The operator's options as the schema has them; None where it takes none."""
    names = {
        "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "ADD": "AddOptions",
        "FULLY_CONNECTED": "FullyConnectedOptions", "SUB": "SubOptions", "MUL": "MulOptions", "MEAN": "ReducerOptions",
        "MAX_POOL_2D": "Pool2DOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "SOFTMAX": "SoftmaxOptions",
        "CONCATENATION": "ConcatenationOptions", "RESIZE_BILINEAR": "ResizeBilinearOptions", "GELU": "GeluOptions",
        "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions", "BATCH_MATMUL": "BatchMatMulOptions",
        "LEAKY_RELU": "LeakyReluOptions", "TRANSPOSE_CONV": "TransposeConvOptions", "DIV": "DivOptions",
        "SQUARED_DIFFERENCE": "SquaredDifferenceOptions", "MAXIMUM": "MaximumMinimumOptions",
    }  # fmt: skip
    if spec.kind not in names:
        return None
    options = getattr(schema, f"{names[spec.kind]}T")()
    given = {"strideH": spec.stride, "strideW": spec.stride, "filterHeight": spec.window, "filterWidth": spec.window,
             "dilationHFactor": 1, "dilationWFactor": 1, "depthMultiplier": 1, "keepDims": True, "beta": 1.0,
             "axis": -1, "alpha": 0.2, "halfPixelCenters": True, "adjY": spec.second == "transposed"}  # fmt: skip
    for name, value in given.items():
        if hasattr(options, name):
            setattr(options, name, value)
    if hasattr(options, "padding"):
        valid = "POOL" in spec.kind and spec.stride > 1
        options.padding = schema.Padding.VALID if valid else schema.Padding.SAME
    return options
