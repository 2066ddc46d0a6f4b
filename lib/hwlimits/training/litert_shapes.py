"""What shape each tensor of a LiteRT file has, for a given batch.

The shapes in the file don't say: where the converter left a dimension open it writes 1, and behind
a RESHAPE whose target is worked out at run time every dimension may be open (in a transformer,
128 rows of a matrix product then read as 1). So the batch is put into the inputs, and the shapes
follow from operator to operator, as in the interpreter's resize_tensor_input; so do the small
integer tensors that the file computes shapes with. Where the file does state a length, it must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hwlimits.training.litert_parser import BITS, OP_NAMES, LiteRTError, damaged

Shape = tuple[int, ...]

_INTEGERS = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}
_LARGEST_VALUE = 1024  # elements of a tensor that is followed by value: shapes, axes, paddings


@dataclass
class Call:
    """One operator with what is known where it runs: the shape and, of small integers, the value of each input.

    An input that is left out has shape None and value None; a shape that depends on data is None, too.
    """

    index: int
    kind: str
    options: object
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: list[Shape | None]
    values: list[np.ndarray | None]
    folded: bool = False  # its result is known before any data: the file computes a shape

    def option(self, name: str, default=0):
        return default if self.options is None else getattr(self.options, name)

    def integers(self, position: int) -> list[int]:
        """The value of an input that says where or how large."""
        if position >= len(self.values) or self.values[position] is None:
            raise _UnknownError
        return [int(x) for x in self.values[position].ravel()]


class _UnknownError(Exception):
    """A shape depends on data, or on an operator that is not known here."""


def calls(model: schema.ModelT, batch: int) -> tuple[list[Call], dict[int, Shape | None]]:
    """The operators of the main graph in order of execution, and the shape of each tensor by its index.

    Raises LiteRTError where the file can't take this batch, or contradicts itself.
    """
    graph = model.subgraphs[0]
    shapes: dict[int, Shape | None] = {}
    values: dict[int, np.ndarray] = {}
    for i, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        constant = data is not None and len(data)
        if constant or tensor.isVariable:
            shapes[i] = _stated(tensor)
        if constant and tensor.type in _INTEGERS and prod(shapes[i]) <= _LARGEST_VALUE:
            values[i] = np.frombuffer(bytes(data), _INTEGERS[tensor.type]).reshape(shapes[i])
    for i in graph.inputs:
        shapes[i] = _with_batch(graph.tensors[i], batch)
    found = []
    for index, op in enumerate(graph.operators):
        code = model.operatorCodes[op.opcodeIndex]
        kind = OP_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        given = [shapes.get(i) for i in op.inputs], [values.get(i) for i in op.inputs]
        call = Call(index, kind, op.builtinOptions, op.inputs, op.outputs, *given)
        found.append(call)
        try:
            outputs, value = _infer(call)
        except LiteRTError:
            raise
        except Exception as error:  # an option or an input that this kind of operator must have is not there
            raise damaged(f"operator {index} ({call.kind}) makes no sense ({type(error).__name__}: {error})") from None
        for i, shape in zip(op.outputs, outputs, strict=True):
            shapes[i] = _agreed(graph.tensors[i], shape, batch, call)
        if value is not None and graph.tensors[op.outputs[0]].type in _INTEGERS:
            values[op.outputs[0]], call.folded = value, True
    return found, shapes


def _stated(tensor: schema.TensorT) -> Shape:
    return () if tensor.shape is None else tuple(int(n) for n in np.atleast_1d(tensor.shape))


def _signature(tensor: schema.TensorT) -> Shape:
    """The shape that the file states, -1 where it is open."""
    if tensor.shapeSignature is None or not len(tensor.shapeSignature):
        return _stated(tensor)
    return tuple(int(n) for n in tensor.shapeSignature)


def _with_batch(tensor: schema.TensorT, batch: int) -> Shape:
    first, *rest = _signature(tensor) or (None,)
    if first is None or (first == batch and -1 not in rest):
        return _stated(tensor)
    name = tensor.name.decode(errors="replace")
    if -1 in rest:
        raise LiteRTError(f"input {name!r} leaves more than the batch open: {[first, *rest]}. Export fixed lengths.")
    if first not in (-1, 1):
        raise LiteRTError(f"batch={batch} was asked for, and input {name!r} of the file is for a batch of {first}")
    return (batch, *rest)


def _agreed(tensor: schema.TensorT, shape: Shape | None, batch: int, call: Call) -> Shape | None:
    """The shape that was worked out, held against the file's own; the file's where none could be."""
    stated = _signature(tensor)
    if shape is None:
        fixed = -1 not in stated and (batch == 1 or not stated or stated[0] != 1) and tensor.type in BITS
        return stated if fixed and call.kind not in ("WHILE", "IF", "CUSTOM") else None
    shape = tuple(int(n) for n in shape)
    # a file that was made for batch 1 says 1 where another batch has its size
    if batch == 1 and (len(stated) != len(shape) or any(s not in (-1, n) for s, n in zip(stated, shape, strict=True))):
        raise damaged(
            f"operator {call.index} ({call.kind}) gives {list(shape)}, where the file says "
            f"{list(stated)} for tensor {tensor.name.decode(errors='replace')!r}"
        )
    return shape


def _infer(call: Call) -> tuple[list[Shape | None], np.ndarray | None]:
    """Shapes of the outputs, and the value of the first where it can be worked out from shapes alone."""
    nothing = [None] * len(call.outputs)
    known = [s is not None for s, i in zip(call.shapes, call.inputs, strict=True) if i >= 0]
    value = None
    try:
        if call.kind == "SHAPE" and call.shapes[0] is not None:
            value = np.array(call.shapes[0])
        elif call.kind in _VALUES and all(v is not None for v in call.values):
            value = np.asarray(_VALUES[call.kind](call))
            value = value if value.size <= _LARGEST_VALUE else None
        if value is not None and len(call.outputs) == 1:
            return [value.shape], value
        if not all(known) or call.kind not in _SHAPES:
            return nothing, None
        found = _SHAPES[call.kind](call)
    except _UnknownError:
        return nothing, None
    found = found if isinstance(found, list) else [found]
    if len(found) != len(call.outputs):
        raise ValueError(f"{len(call.outputs)} outputs")
    if any(n < 0 for shape in found for n in shape):
        raise ValueError("a length below 0")
    return found, None


# --- shapes, by kind of operator ---------------------------------------------------------------


def windows(size: int, window: int, stride: int, dilation: int, padding: int) -> int:
    """How often a window fits along one axis; padding as in the schema, 0 SAME, 1 VALID."""
    if padding == schema.Padding.SAME:
        return -(-size // stride)
    return (size - dilation * (window - 1) - 1) // stride + 1


def _places(c: Call, axes: str, sizes, kernel, dilations: str = "") -> list[int]:
    dilation = [c.option(dilations.format(a)) if dilations else 1 for a in axes]
    stride = [c.option(f"stride{a}") for a in axes]
    return [windows(*each, c.option("padding")) for each in zip(sizes, kernel, stride, dilation, strict=True)]


def _conv(c: Call) -> Shape:
    (n, *sizes, _), (out, *kernel, channels) = c.shapes[:2]
    out = channels if c.kind == "DEPTHWISE_CONV_2D" else out
    return (n, *_places(c, "HW", sizes, kernel, dilations="dilation{}Factor"), out)


def _conv_3d(c: Call) -> Shape:
    (n, *sizes, _), (*kernel, _, out) = c.shapes[:2]
    return (n, *_places(c, "DHW", sizes, kernel, dilations="dilation{}Factor"), out)


def _pool(c: Call) -> Shape:
    n, *sizes, channels = c.shapes[0]
    return (n, *_places(c, "HW", sizes, [c.option("filterHeight"), c.option("filterWidth")]), channels)


def _fully_connected(c: Call) -> Shape:
    x, (out, depth) = c.shapes[:2]
    if prod(x) % depth:
        raise ValueError(f"{list(x)} by {depth}")
    return (*x[:-1], out) if c.option("keepNumDims", False) else (prod(x) // depth, out)


def _batch_matmul(c: Call) -> Shape:
    x, y = c.shapes
    rows, depth = x[-2:] if not c.option("adjX", False) else x[:-3:-1]
    depth_y, columns = y[-2:] if not c.option("adjY", False) else y[:-3:-1]
    if depth != depth_y:
        raise ValueError(f"{list(x)} by {list(y)}")
    return (*np.broadcast_shapes(x[:-2], y[:-2]), rows, columns)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def _reduce(c: Call) -> Shape:
    x = c.shapes[0]
    axes = {_axis(a, len(x)) for a in c.integers(1)}
    kept = [1 if i in axes else n for i, n in enumerate(x)]
    return tuple(kept if c.option("keepDims", False) else (n for i, n in enumerate(x) if i not in axes))


def _arg(c: Call) -> Shape:
    axis = _axis(*c.integers(1), len(c.shapes[0]))
    return tuple(n for i, n in enumerate(c.shapes[0]) if i != axis)


def _reshape(c: Call) -> Shape:
    target = c.integers(1) if len(c.shapes) > 1 else [int(n) for n in c.option("newShape", ())]
    total = prod(c.shapes[0])
    if target.count(-1) == 1:
        rest = prod(n for n in target if n != -1)
        target[target.index(-1)] = total // rest if rest else 0
    if prod(target) != total:
        raise ValueError(f"{list(c.shapes[0])} into {target}: a file made for one batch only?")
    return tuple(target)


def _squeeze(c: Call) -> Shape:
    x = c.shapes[0]
    given = c.option("squeezeDims", None)
    axes = {_axis(int(a), len(x)) for a in given} if given is not None and len(given) else set()
    return tuple(n for i, n in enumerate(x) if not (i in axes or (not axes and n == 1)))


def _concatenation(c: Call) -> Shape:
    axis = _axis(c.option("axis"), len(c.shapes[0]))
    rest = {(*s[:axis], *s[axis + 1 :]) for s in c.shapes}
    if len(rest) != 1:
        raise ValueError(f"shapes {c.shapes}")
    return (*c.shapes[0][:axis], sum(s[axis] for s in c.shapes), *c.shapes[0][axis + 1 :])


def _split(c: Call) -> list[Shape]:
    sizes = c.integers(1) if c.kind == "SPLIT_V" else None
    x = c.shapes[0] if sizes else c.shapes[1]
    axis = _axis(c.integers(2 if sizes else 0)[0], len(x))
    sizes = sizes or [x[axis] // len(c.outputs)] * len(c.outputs)
    if -1 in sizes:
        sizes[sizes.index(-1)] = x[axis] - sum(sizes) - 1
    if sum(sizes) != x[axis]:
        raise ValueError(f"{list(x)} into {sizes}")
    return [(*x[:axis], n, *x[axis + 1 :]) for n in sizes]


def _pack(c: Call) -> Shape:
    x = list(c.shapes[0])
    x.insert(c.option("axis") % (len(x) + 1), len(c.shapes))
    return tuple(x)


def _unpack(c: Call) -> list[Shape]:
    x = list(c.shapes[0])
    del x[_axis(c.option("axis"), len(x))]
    return [tuple(x)] * len(c.outputs)


def _gather(c: Call) -> Shape:
    x, at = c.shapes
    axis, skip = _axis(c.option("axis"), len(x)), c.option("batchDims")
    return (*x[:axis], *at[skip:], *x[axis + 1 :])


def _slice_of(c: Call, array: np.ndarray) -> np.ndarray:
    """STRIDED_SLICE on an array; one of stride 0 takes no memory and has the shape all the same."""
    begin, end, stride = (c.integers(i) for i in (1, 2, 3))
    index = []
    for i, (b, e, s) in enumerate(zip(begin, end, stride, strict=True)):
        bit = 1 << i
        if c.option("ellipsisMask") & bit:
            index.append(Ellipsis)
        elif c.option("newAxisMask") & bit:
            index.append(None)
        elif c.option("shrinkAxisMask") & bit:
            index.append(b)
        else:
            e = b + e if c.option("offset", False) else e
            index.append(slice(None if c.option("beginMask") & bit else b, None if c.option("endMask") & bit else e, s))
    return array[tuple(index)]


def _slice(c: Call) -> Shape:
    starts, sizes = c.integers(1), c.integers(2)
    return tuple(n - b if size == -1 else size for n, b, size in zip(c.shapes[0], starts, sizes, strict=True))


def _pad(c: Call) -> Shape:
    paddings = np.reshape(c.integers(1), (-1, 2))
    return tuple(n + int(before + after) for n, (before, after) in zip(c.shapes[0], paddings, strict=True))


def _resize(c: Call) -> Shape:
    return (c.shapes[0][0], *c.integers(1), c.shapes[0][3])


def _depth_and_space(c: Call) -> Shape:
    (n, h, w, channels), size = c.shapes[0], c.option("blockSize")
    if c.kind == "SPACE_TO_DEPTH":
        return (n, h // size, w // size, channels * size**2)
    return (n, h * size, w * size, channels // size**2)


def _space_and_batch(c: Call) -> Shape:
    n, *rest = c.shapes[0]
    block, borders = c.integers(1), np.reshape(c.integers(2), (-1, 2)).sum(axis=1).tolist()
    places, channels = rest[: len(block)], rest[len(block) :]
    if c.kind == "SPACE_TO_BATCH_ND":
        moved = [(x + b) // k for x, b, k in zip(places, borders, block, strict=True)]
        return (n * prod(block), *moved, *channels)
    moved = [x * k - b for x, b, k in zip(places, borders, block, strict=True)]
    return (n // prod(block), *moved, *channels)


_ALIKE = (
    "ABS CAST CEIL COS CUMSUM DEQUANTIZE ELU EXP FLOOR GELU HARD_SWISH L2_NORMALIZATION LEAKY_RELU LOG LOG_SOFTMAX "
    "LOCAL_RESPONSE_NORMALIZATION LOGICAL_NOT LOGISTIC NEG PRELU QUANTIZE RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 "
    "REVERSE_V2 ROUND RSQRT SIGN SIN SOFTMAX SQRT SQUARE TANH ZEROS_LIKE"
)
_PAIRS = (
    "ADD ADD_N ATAN2 DIV EQUAL FLOOR_DIV FLOOR_MOD GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND LOGICAL_OR "
    "MAXIMUM MINIMUM MUL NOT_EQUAL POW SELECT SELECT_V2 SQUARED_DIFFERENCE SUB"
)
_REDUCTIONS = "MEAN REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM"

_SHAPES: dict[str, Callable[[Call], Shape | list[Shape]]] = {
    **dict.fromkeys(_ALIKE.split(), lambda c: c.shapes[0]),
    **dict.fromkeys(_PAIRS.split(), lambda c: np.broadcast_shapes(*c.shapes)),
    **dict.fromkeys(_REDUCTIONS.split(), _reduce),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _conv),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), _pool),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), _arg),
    **dict.fromkeys(("SPLIT", "SPLIT_V"), _split),
    **dict.fromkeys(("PAD", "PADV2"), _pad),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE"), _depth_and_space),
    **dict.fromkeys(("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), _space_and_batch),
    "MIRROR_PAD": _pad,
    "CONV_3D": _conv_3d,
    "TRANSPOSE_CONV": lambda c: tuple(c.integers(0)),
    "CONV_3D_TRANSPOSE": lambda c: tuple(c.integers(0)),
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "RESHAPE": _reshape,
    "SQUEEZE": _squeeze,
    "EXPAND_DIMS": lambda c: np.expand_dims(np.broadcast_to(0, c.shapes[0]), tuple(c.integers(1))).shape,
    "TRANSPOSE": lambda c: tuple(c.shapes[0][axis] for axis in c.integers(1)),
    "CONCATENATION": _concatenation,
    "PACK": _pack,
    "UNPACK": _unpack,
    "GATHER": _gather,
    "EMBEDDING_LOOKUP": lambda c: (*c.shapes[0], *c.shapes[1][1:]),
    "STRIDED_SLICE": lambda c: _slice_of(c, np.broadcast_to(0, c.shapes[0])).shape,
    "SLICE": _slice,
    "FILL": lambda c: tuple(c.integers(0)),
    "BROADCAST_TO": lambda c: tuple(c.integers(1)),
    "TILE": lambda c: tuple(n * k for n, k in zip(c.shapes[0], c.integers(1), strict=True)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lambda c: (*c.shapes[0][:2], c.shapes[8][1]),
}

# What files compute shapes with: the value itself, from the values of the inputs.
_VALUES: dict[str, Callable[[Call], np.ndarray]] = {
    "ADD": lambda c: c.values[0] + c.values[1],
    "SUB": lambda c: c.values[0] - c.values[1],
    "MUL": lambda c: c.values[0] * c.values[1],
    "FLOOR_DIV": lambda c: c.values[0] // c.values[1],
    "MAXIMUM": lambda c: np.maximum(*c.values),
    "MINIMUM": lambda c: np.minimum(*c.values),
    "REDUCE_PROD": lambda c: np.prod(c.values[0], axis=tuple(c.integers(1)), keepdims=c.option("keepDims", False)),
    "CONCATENATION": lambda c: np.concatenate(c.values, axis=c.option("axis")),
    "PACK": lambda c: np.stack(c.values, axis=c.option("axis")),
    "GATHER": lambda c: np.take(c.values[0], c.values[1], axis=c.option("axis")),
    "RESHAPE": lambda c: c.values[0].reshape(_reshape(c)),
    "SQUEEZE": lambda c: c.values[0].reshape(_squeeze(c)),
    "EXPAND_DIMS": lambda c: np.expand_dims(c.values[0], tuple(c.integers(1))),
    "STRIDED_SLICE": lambda c: _slice_of(c, c.values[0]),
    "CAST": lambda c: c.values[0],
}
