"""A LiteRT file counted: each operator with what it computes and moves, and any one cut out to be timed.

The same conventions as for a Keras model (hwlimits.counting), on the graph that really runs:
activations and biases fused, normalization folded, attention in its single products. Bytes are
those of the file's own types: an int8 weight is one byte, an int32 bias four, a float16 two. What an
int8 kernel does to bring a sum back to eight bits is not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hwlimits.counting import ACTIVATION_FLOPS, Cost, LayerCost, ModelCost
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_parser import DTYPE_NAMES, LiteRTError, damaged, tensor_bytes
from hwlimits.training.litert_shapes import Call, Shape, calls

FREE = "no arithmetic, nothing moves"
SHAPES_ONLY = "works out a shape: no data in it"


@dataclass(frozen=True)
class Tensor:
    """One input or output: `shape` with the batch in front, None where it depends on the data."""

    name: str
    shape: Shape | None
    dtype: str
    bytes: int | None
    constant: bool


@dataclass(frozen=True)
class Operator:
    """One operator of a file, in order of execution.

    name      of its first output, which tells where in the network it stands
    kind      as LiteRT calls it: CONV_2D, SOFTMAX, ...; a custom one by its own name
    cost      bytes and parameters always; MACs and FLOPs if `counted`
    note      why it is not counted, or why a zero is a zero
    """

    index: int
    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    cost: Cost
    counted: bool = True
    note: str = ""


def operators(file: LiteRTFile, batch: int = 1) -> list[Operator]:
    """Every operator of the file's main graph, with its shapes and cost for `batch` examples.

    The batch is put into the inputs and the shapes follow from operator to operator, as when the
    interpreter's inputs are resized. Parameters that several operators share are the first one's.
    Raises LiteRTError for a damaged file, and where the file can't take this batch.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise LiteRTError(f"batch={batch!r}: a batch has at least one example")
    model = file._model
    graph = model.subgraphs[0]
    found, shapes = calls(model, batch)
    seen: set[int] = set()
    return [_operator(model, graph, call, shapes, seen) for call in found]


def cost(file: LiteRTFile, batch: int = 1, *, name: str = "LiteRT file") -> ModelCost:
    """The file's operators as a ModelCost, the table that a Keras model gives, too.

    Its dtype is that of the first input; the bytes are counted tensor by tensor.
    """
    found = operators(file, batch)
    rows = tuple(LayerCost(x.name, x.kind, x.outputs[0].shape, x.cost, note=x.note) for x in found if x.outputs)
    graph = file._model.subgraphs[0]
    dtype = DTYPE_NAMES[graph.tensors[graph.inputs[0]].type] if graph.inputs else "float32"
    return ModelCost(name, rows, {x.name: f"{x.kind}: {x.note}" for x in found if not x.counted}, batch, dtype)


def _operator(model, graph, call: Call, shapes: dict[int, Shape | None], seen: set[int]) -> Operator:
    def tensor(i: int) -> Tensor:
        t, shape = graph.tensors[i], shapes.get(i)
        size = None if shape is None else tensor_bytes(t, shape)
        data = model.buffers[t.buffer].data
        return Tensor(
            t.name.decode(errors="replace"), shape, DTYPE_NAMES[t.type], size, data is not None and len(data) > 0
        )

    inputs = tuple(tensor(i) for i in call.inputs if i >= 0)
    outputs = tuple(tensor(i) for i in call.outputs)
    kind = call.kind
    if kind == "CUSTOM":
        code = model.operatorCodes[graph.operators[call.index].opcodeIndex]
        kind = f"CUSTOM {(code.customCode or b'').decode(errors='replace')}"
    named = outputs[0].name if outputs else f"operator {call.index}"

    parameters = 0
    for position, i in enumerate(call.inputs):
        if i >= 0 and tensor(i).constant and _is_parameter(call.kind, position, tensor(i)):
            buffer = graph.tensors[i].buffer
            parameters += 0 if buffer in seen else prod(shapes[i])
            seen.add(buffer)

    def of(cost: Cost, counted: bool = True, note: str = "") -> Operator:
        return Operator(call.index, named, kind, inputs, outputs, cost, counted, note)

    if call.kind == "SHAPE" or call.folded:
        return of(Cost(), note=SHAPES_ONLY)
    if call.kind in _FREE:
        return of(Cost(parameters=parameters), note=FREE)
    read, written = _bytes(call, inputs, outputs, {i: tensor(i) for i in call.inputs if i >= 0})
    moved = Cost(parameters=parameters, bytes_read=read, bytes_written=written)
    if any(t.shape is None for t in (*inputs, *outputs)):
        return of(moved, False, "its shapes depend on the data")
    if call.kind not in _RULES:
        return of(moved, False, "this kind of operator has no formula here")
    try:
        macs, flops = _RULES[call.kind](call, [t.shape for t in outputs])
    except _NotCountedError as reason:
        return of(moved, False, str(reason))
    except Exception as error:  # an operand of another form than this kind of operator takes
        raise damaged(f"operator {call.index} ({call.kind}) makes no sense ({type(error).__name__}: {error})") from None
    return of(moved + Cost(macs=int(macs), other_flops=int(flops)))


class _NotCountedError(Exception):
    """An operator of a known kind in a form that has no formula."""


def _is_parameter(kind: str, position: int, tensor: Tensor) -> bool:
    """A learned constant: not an index, an axis or a shape, and no single number such as an epsilon."""
    if tensor.dtype in ("int32", "int64"):
        return position == _BIAS.get(kind)
    return bool(tensor.shape)


def _bytes(call: Call, inputs, outputs, by_index: dict[int, Tensor]) -> tuple[int, int]:
    """Compulsory traffic: each input once, of a table or a slice only what is taken; each output once."""
    written = sum(t.bytes or 0 for t in outputs)
    if call.kind in _TAKES_PART:
        table, *rest = inputs if call.kind != "EMBEDDING_LOOKUP" else inputs[::-1]
        taken = written if not table.bytes else min(written, table.bytes)
        return taken + sum(t.bytes or 0 for t in rest), written
    return sum(t.bytes or 0 for t in by_index.values()), written


# --- MACs and other FLOPs, by kind of operator -------------------------------------------------

_FUSED = {
    schema.ActivationFunctionType.NONE: 0,
    schema.ActivationFunctionType.RELU: ACTIVATION_FLOPS["relu"],
    schema.ActivationFunctionType.RELU_N1_TO_1: 2,
    schema.ActivationFunctionType.RELU6: ACTIVATION_FLOPS["relu6"],
    schema.ActivationFunctionType.TANH: ACTIVATION_FLOPS["tanh"],
    schema.ActivationFunctionType.SIGN_BIT: 1,
}
_BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "CONV_3D": 2, "TRANSPOSE_CONV": 3}


def _after_sum(c: Call, outputs: list[Shape]) -> int:
    """Bias and fused activation, per element of the output."""
    position = _BIAS[c.kind]
    bias = len(c.inputs) > position and c.inputs[position] >= 0
    return prod(outputs[0]) * (bias + _FUSED[c.option("fusedActivationFunction")])


def _conv(c: Call, outputs):
    # weights (filters, height, width, channels of a group), or in 3-D with the filters last: each is
    # used once at each place of the output image
    return prod(outputs[0][:-1]) * prod(c.shapes[1]), _after_sum(c, outputs)


def _transpose_conv(c: Call, outputs):
    return prod(c.shapes[2][:-1]) * prod(c.shapes[1]), _after_sum(c, outputs)


def _fully_connected(c: Call, outputs):
    return prod(outputs[0]) * c.shapes[1][-1], _after_sum(c, outputs)


def _batch_matmul(c: Call, outputs):
    depth = c.shapes[0][-2 if c.option("adjX", False) else -1]
    return prod(outputs[0]) * depth, 0


def _lstm(c: Call, outputs):
    """Gates as matrices (units, inputs) and (units, outputs); per unit and step as in `compute.lstm`."""
    steps = prod(c.shapes[0][:2])
    weights = [prod(c.shapes[i]) for i in (*range(1, 9), 16) if c.inputs[i] >= 0]
    units, gates = c.shapes[8][0], sum(c.inputs[i] >= 0 for i in range(1, 5))
    if any(i >= 0 for i in (*c.inputs[9:12], *c.inputs[20:24])):
        raise _NotCountedError("an LSTM with peepholes or layer normalization has no formula here")
    per_unit = 2 * gates + (gates - 1) * ACTIVATION_FLOPS["sigmoid"] + 2 * ACTIVATION_FLOPS["tanh"] + 4
    return steps * sum(weights), steps * units * per_unit


def _pool(c: Call, outputs):
    window = c.option("filterHeight") * c.option("filterWidth")
    return 0, prod(outputs[0]) * (window + _FUSED[c.option("fusedActivationFunction")])


def _per_output(flops: int) -> Callable:
    def count(c: Call, outputs):
        fused = getattr(c.options, "fusedActivationFunction", 0)
        return 0, prod(outputs[0]) * (flops + _FUSED[fused])

    return count


def _per_input(flops: int) -> Callable:
    return lambda c, outputs: (0, prod(c.shapes[0]) * flops)


def _gelu(c: Call, outputs):
    return 0, prod(outputs[0]) * ACTIVATION_FLOPS["gelu_tanh" if c.option("approximate", False) else "gelu"]


def _nothing(c: Call, outputs):
    return 0, 0


_FREE = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_TAKES_PART = ("GATHER", "EMBEDDING_LOOKUP", "SLICE", "STRIDED_SLICE")
_MOVES = (
    "BATCH_TO_SPACE_ND BROADCAST_TO CAST CONCATENATION DEPTH_TO_SPACE EMBEDDING_LOOKUP FILL GATHER MIRROR_PAD PACK PAD "
    "PADV2 RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SLICE SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V STRIDED_SLICE TILE "
    "TRANSPOSE UNPACK ZEROS_LIKE"
)
_ONE_EACH = (
    "ABS ADD CEIL COS DIV EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD GREATER GREATER_EQUAL LESS LESS_EQUAL LOG LOGICAL_AND "
    "LOGICAL_NOT LOGICAL_OR MAXIMUM MINIMUM MUL NEG NOT_EQUAL POW ROUND SELECT SELECT_V2 SIGN SIN SQRT SQUARE SUB"
)
# subtract and square; 1/sqrt; scale and shift; the two bounds
_TWO_EACH = "SQUARED_DIFFERENCE RSQRT QUANTIZE DEQUANTIZE RELU_0_TO_1 RELU_N1_TO_1"
_ACTIVATIONS = {
    "ELU": "elu", "HARD_SWISH": "hard_swish", "LEAKY_RELU": "leaky_relu", "LOGISTIC": "sigmoid",
    "LOG_SOFTMAX": "log_softmax", "PRELU": "prelu", "RELU": "relu", "RELU6": "relu6",
    "SOFTMAX": "softmax", "TANH": "tanh",
}  # fmt: skip
_REDUCTIONS = "ARG_MAX ARG_MIN CUMSUM MEAN REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM"

_RULES: dict[str, Callable[[Call, list[Shape]], tuple[int, int]]] = {
    **dict.fromkeys(_MOVES.split(), _nothing),
    **dict.fromkeys(_ONE_EACH.split(), _per_output(1)),
    **dict.fromkeys(_REDUCTIONS.split(), _per_input(1)),
    **{kind: _per_output(ACTIVATION_FLOPS[name]) for kind, name in _ACTIVATIONS.items()},
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D"), _conv),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _pool),
    **dict.fromkeys(_TWO_EACH.split(), _per_output(2)),
    "RESIZE_BILINEAR": _per_output(9),
    "GELU": _gelu,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}


# --- one operator as a file of its own ---------------------------------------------------------


def cut(file: LiteRTFile, index: int, batch: int = 1) -> LiteRTFile:
    """Operator `index` of the file as a file of its own, to be run and timed alone with the real kernel.

    Its constants come along; what other operators compute are its inputs, in the operator's own
    order, with the shapes that they have for `batch` examples. Shapes that the whole file would
    work out are constants here. Raises LiteRTError for an index that there isn't, an operator
    that works on such shapes only, and for one that calls another graph or depends on data.
    """
    model = file._model
    graph = model.subgraphs[0]
    found, shapes = calls(model, batch)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(found):
        raise LiteRTError(f"cut(file, {index!r}): the file has operators 0 to {len(found) - 1}")
    call = found[index]
    if call.kind in ("IF", "WHILE", "CALL_ONCE") or call.kind == "SHAPE" or call.folded:
        why = SHAPES_ONLY if call.kind == "SHAPE" or call.folded else "it calls another graph of the file"
        raise LiteRTError(f"operator {index} ({call.kind}) can't be cut out: {why}")
    if open_ends := [i for i in (*call.inputs, *call.outputs) if i >= 0 and shapes.get(i) is None]:
        name = graph.tensors[open_ends[0]].name.decode(errors="replace")
        raise LiteRTError(f"operator {index} ({call.kind}) can't be cut out: the shape of {name!r} depends on the data")

    part = schema.ModelT()
    part.version, part.description = model.version, "one operator of another file"
    part.buffers, part.subgraphs, tensors, place = [schema.BufferT()], [schema.SubGraphT()], [], {-1: -1}
    inputs = []
    for position, i in enumerate((*call.inputs, *call.outputs)):
        if i in place:
            continue
        tensor = copy.copy(graph.tensors[i])
        tensor.shape, tensor.shapeSignature = np.array(shapes[i], np.int32), None
        data = model.buffers[tensor.buffer].data
        if position < len(call.inputs) and call.values[position] is not None and not (data is not None and len(data)):
            width = np.int64 if tensor.type == schema.TensorType.INT64 else np.int32
            data = np.frombuffer(call.values[position].astype(width).tobytes(), np.uint8)
        tensor.buffer = 0
        if data is not None and len(data):
            tensor.buffer = len(part.buffers)
            part.buffers.append(schema.BufferT(data=data))
        elif position < len(call.inputs) and not tensor.isVariable:
            inputs.append(len(tensors))
        place[i] = len(tensors)
        tensors.append(tensor)
    operator = copy.copy(graph.operators[index])
    part.operatorCodes = [model.operatorCodes[operator.opcodeIndex]]
    operator.opcodeIndex, operator.debugMetadataIndex = 0, -1
    operator.inputs, operator.outputs = ([place[i] for i in ends] for ends in (call.inputs, call.outputs))
    operator.intermediates = (
        None if operator.intermediates is None or not len(operator.intermediates) else operator.intermediates
    )
    part.subgraphs[0].tensors, part.subgraphs[0].operators = tensors, [operator]
    part.subgraphs[0].inputs, part.subgraphs[0].outputs = inputs, operator.outputs
    builder = flatbuffers.Builder(1024)
    builder.Finish(part.Pack(builder), b"TFL3")
    return LiteRTFile(bytes(builder.Output()))
