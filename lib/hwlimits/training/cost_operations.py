"""What TensorFlow operations cost: for mathematics between layers and for layers without a formula.

Operations per element follow TensorFlow's profiler where it has a rule (its `flops_registry`), and
`ACTIVATION_FLOPS`. Counted, too, is what the profiler leaves out: Einsum, groups, activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from hwlimits.compute import ACTIVATION_FLOPS, Cost, bytes_per_element, einsum

ONE_PER_OUTPUT = {
    "Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "DivNoNan", "Maximum", "Minimum", "Pow", "FloorMod", "FloorDiv",
    "Mod", "BiasAdd", "Neg", "Square", "Sqrt", "Abs", "Sign", "Exp", "Log", "Sin", "Cos", "Erf", "Erfc", "Reciprocal",
    "Inv", "Round", "Rint", "Floor", "Ceil", "Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual",
    "Relu", "Cumsum", "Cumprod",
}  # fmt: skip
PER_OUTPUT = dict.fromkeys(ONE_PER_OUTPUT, 1) | {
    "SquaredDifference": 2, "Rsqrt": 2, "Expm1": 2, "Log1p": 2, "ClipByValue": 2, "ResizeBilinear": 9,
    "Relu6": ACTIVATION_FLOPS["relu6"], "LeakyRelu": ACTIVATION_FLOPS["leaky_relu"], "Elu": ACTIVATION_FLOPS["elu"],
    "Selu": ACTIVATION_FLOPS["selu"], "Sigmoid": ACTIVATION_FLOPS["sigmoid"], "Tanh": ACTIVATION_FLOPS["tanh"],
    "Softplus": ACTIVATION_FLOPS["softplus"], "Softsign": ACTIVATION_FLOPS["softsign"],
    "Softmax": ACTIVATION_FLOPS["softmax"], "LogSoftmax": ACTIVATION_FLOPS["log_softmax"],
}  # fmt: skip
# Copies: bytes move, nothing is computed.
MOVE = {
    "ConcatV2", "Pack", "Transpose", "Pad", "PadV2", "MirrorPad", "Tile", "BroadcastTo", "ReverseV2", "Roll",
    "DepthToSpace", "SpaceToDepth", "SpaceToBatchND", "BatchToSpaceND", "ResizeNearestNeighbor", "ZerosLike",
    "OnesLike", "Fill", "OneHot", "Range", "LinSpace", "Select", "SelectV2", "MatrixBandPart",
}  # fmt: skip
# Copies of a part: only what arrives at the output is read. The number is that of the input it is taken from.
TAKE = {
    "StridedSlice": 0, "Slice": 0, "GatherV2": 0, "GatherNd": 0, "ResourceGather": 0, "SplitV": 0, "Unpack": 0,
    "Split": 1,
}  # fmt: skip
# The same numbers under another name or shape. A cast is taken to be part of what follows it; a quantization
# that tfmot simulates is the number format of the exported file.
VIEW = {
    "Identity", "Reshape", "ExpandDims", "Squeeze", "StopGradient", "PreventGradient", "EnsureShape", "Snapshot",
    "Cast", "IdentityN", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel",
}  # fmt: skip
SOURCE = {
    "Const", "Placeholder", "PlaceholderWithDefault", "ReadVariableOp", "NoOp", "Shape", "ShapeN", "Size", "Rank",
    "Assert",
}  # fmt: skip


class NoCount(Exception):
    """An operation without a rule, or with a length that only the data tell."""


def cost_of(operations: Sequence, outputs: Iterable, dtype: str) -> tuple[Cost, set[str]]:
    """The cost of operations that run as one, and the types of those that have no count.

    operations   tf.Operation of one graph
    outputs      tensors of theirs that are wanted outside

    Operations on integers (shapes, indices) are no FLOPs. What comes in is read once, what goes
    out is written once, what passes from one operation to the next moves nothing.
    """
    own = {operation.name for operation in operations}
    working = {op.name: op for op in operations if op.type not in VIEW | SOURCE and _works(op)}
    macs = flops = 0
    unknown = set()
    for operation in working.values():
        try:
            products, others = _count(operation)
            macs, flops = macs + products, flops + others
        except NoCount:
            unknown.add(operation.type)

    def origin(tensor):
        """What `tensor` is a view of, as far back as these operations go."""
        while tensor.op.type in VIEW and tensor.op.name in own:
            tensor = tensor.op.inputs[tensor.value_index]
        return tensor

    wanted = {tensor.name for tensor in outputs}
    read, written = {}, {}
    for operation in operations:
        for tensor in operation.outputs:
            leaves = tensor.name in wanted or any(user.name not in own for user in tensor.consumers())
            if leaves and origin(tensor).op.name in working:
                written[origin(tensor).name] = _elements_or_0(tensor)
    for operation in working.values():
        for i, tensor in enumerate(operation.inputs):
            source = origin(tensor)
            if TAKE.get(operation.type) == i:
                read[operation.name] = sum(map(_elements_or_0, operation.outputs))
            elif tensor.dtype.is_floating and source.op.name not in working and not _is_scalar_constant(source):
                read[source.name] = _elements_or_0(source)
    size = bytes_per_element(dtype)
    return Cost(macs, flops, 0, sum(read.values()) * size, sum(written.values()) * size), unknown


def _count(operation) -> tuple[int, int]:
    """(MACs, other FLOPs) of one operation."""
    kind, inputs, output = operation.type, operation.inputs, operation.outputs[0] if operation.outputs else None
    if kind in MOVE or kind in TAKE:
        return 0, 0
    if kind in PER_OUTPUT:
        return 0, PER_OUTPUT[kind] * _elements(output)
    if kind == "Mean":  # a sum and one division
        return 0, _elements(inputs[0])
    if kind in ("Sum", "Max", "Min", "Prod", "ArgMax", "ArgMin"):
        return 0, _elements(inputs[0]) - _elements(output)
    if kind == "AddN":
        return 0, (len(inputs) - 1) * _elements(output)
    if kind in ("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"):
        return 0, prod(operation.get_attr("ksize")) * _elements(output)
    if kind in ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"):
        if not operation.get_attr("is_training"):
            return 0, 2 * _elements(output)
        return 0, 8 * _elements(output) + 3 * _elements(operation.outputs[1])  # as compute.layer_norm
    if kind in ("MatMul", "SparseMatMul"):  # its operands are dense, one may be told to have zeros
        return _elements(output) * _shape(inputs[0])[0 if operation.get_attr("transpose_a") else 1], 0
    if kind in ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        return _elements(output) * _shape(inputs[0])[-2 if operation.get_attr("adj_x") else -1], 0
    if kind == "Einsum":
        macs = einsum(operation.get_attr("equation").decode(), *map(_shape, inputs))
        return macs, _elements(inputs[0]) - _elements(output) if len(inputs) == 1 else 0
    if kind in ("Conv2D", "Conv3D"):  # a kernel's third axis from the end is the channels of one group
        return _elements(output) * prod(_shape(inputs[1])[:-1]), 0
    if kind == "DepthwiseConv2dNative":
        return _elements(output) * prod(_shape(inputs[1])[:2]), 0
    if kind in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):  # the convolution transposed
        return _elements(inputs[2]) * prod(_shape(inputs[1])[:-1]), 0
    raise NoCount(kind)


def _works(operation) -> bool:
    """True if there is work in it that must be counted or named: floating-point numbers, text, tables, loops."""
    tensors = [*operation.inputs, *operation.outputs]
    if any(tensor.dtype.is_floating or tensor.dtype.name == "string" for tensor in tensors):
        return True
    return "While" in operation.type or "LookupTable" in operation.type


def _is_scalar_constant(tensor) -> bool:
    return tensor.op.type == "Const" and tensor.shape.num_elements() == 1


def _shape(tensor) -> list[int]:
    if tensor.shape.rank is None or None in tensor.shape.as_list():
        raise NoCount(tensor.name)
    return tensor.shape.as_list()


def _elements(tensor) -> int:
    return prod(_shape(tensor))


def _elements_or_0(tensor) -> int:
    return tensor.shape.num_elements() or 0
