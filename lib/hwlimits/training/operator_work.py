"""A LiteRT file as the model of the machine sees it: each operator with its form, shape and tensors.

The translation is one for the operators that a calibration measures and for those of a network.
"""

from __future__ import annotations

from math import prod

from hwlimits.machine.latency import DIMENSIONS, PRODUCTS, Work, family_of
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.operators import FREE, SHAPES_ONLY, Operator, operators

_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D")


def works(file: LiteRTFile, batch: int = 1) -> list[Work]:
    """The operators that run in each call, in order.

    What works on constants alone is left out: LiteRT does it once, before the first call (the
    float16 weights of a file become float32 there); so is what only gives data another shape.
    """
    found, static = [], set()
    for operator in operators(file, batch):
        if operator.note in (FREE, SHAPES_ONLY):
            continue
        if operator.inputs and all(t.constant or t.name in static for t in operator.inputs):
            static |= {t.name for t in operator.outputs}
            continue
        found.append(work_of(operator, file._model.subgraphs[0].operators[operator.index].builtinOptions))
    return found


def work_of(operator: Operator, options=None) -> Work:
    """One operator. A dimension that depends on the data counts as 1."""
    first, outputs = operator.inputs[0], operator.outputs
    out_shape = outputs[0].shape or (1,)
    shape = (*_shape(operator, first.shape or (1,), out_shape), _mark(operator, options))
    reads = tuple((t.name, t.bytes or 0) for t in operator.inputs if (t.bytes or 0) > 0)
    writes = tuple((t.name, t.bytes or 0) for t in outputs)
    amount = operator.cost.macs or max(sum(n for _, n in (*reads, *writes)), 1)
    # Without its MACs an operator is like no other of its kind: its time is a guess from its bytes.
    known = len(shape) == DIMENSIONS.get(family_of(operator.kind), 4)
    kind = operator.kind if known else f"{operator.kind} not counted"
    return Work(operator.name, kind, _form(operator), shape, amount, reads, writes)


def _form(operator: Operator) -> str:
    data = next((t.dtype for t in operator.inputs if not t.constant), operator.inputs[0].dtype)
    if data in ("int8", "uint8", "int16"):
        return "int8"
    if operator.kind in _WITH_WEIGHTS and any(t.constant and t.dtype in ("int8", "int4") for t in operator.inputs):
        return "dynamic"
    return "float32"


def _shape(operator: Operator, in_shape, out_shape) -> tuple[float, ...]:
    macs = operator.cost.macs
    if operator.kind == "DEPTHWISE_CONV_2D":
        pixels, channels = prod(out_shape[:-1]), out_shape[-1]
        return (pixels, channels, macs / (pixels * channels), prod(in_shape[:-1]) / pixels)
    if operator.kind in (*PRODUCTS, "TRANSPOSE_CONV") and macs:
        rows, columns = prod(out_shape[:-1]), out_shape[-1]
        if operator.kind == "TRANSPOSE_CONV":  # each place of the input gives a window of outputs
            in_shape = operator.inputs[2].shape
            rows, columns = prod(in_shape[:-1]), macs / prod(in_shape)
        depth = macs / (rows * columns)
        channels = min(in_shape[-1], depth)
        return (rows, channels, columns, depth / channels)
    if operator.kind == "BATCH_MATMUL":
        batch, rows, columns = prod(out_shape[:-2]), out_shape[-2], out_shape[-1]
        return (batch, rows, columns, macs / (batch * rows * columns))
    elements = max(prod(in_shape), prod(out_shape))
    if "POOL" in operator.kind:
        window = max(1.0, operator.cost.other_flops / prod(out_shape))
        return (elements, in_shape[-1], window, prod(in_shape) / prod(out_shape))
    return (elements, max(in_shape[-1], 1), 1.0)


def _mark(operator: Operator, options) -> float:
    """A coordinate that keeps forms of one kind apart that different kernels compute: 1, or so far that neither says
    anything of the other."""
    shapes = [t.shape or (1,) for t in operator.inputs]
    form = 0
    if operator.kind in _PAIRS and len(shapes) > 1 and prod(shapes[0]) != prod(shapes[1]):
        smaller, larger = sorted(shapes[:2], key=prod)
        form = 1 if smaller[-1:] == larger[-1:] or prod(smaller) == 1 else 2
    elif operator.kind in _REDUCTIONS:
        out = operator.outputs[0].shape or (1,)
        form = int(prod(out) * (shapes[0][-1] or 1) == prod(shapes[0]))
    elif operator.kind == "BATCH_MATMUL":
        form = int(bool(getattr(options, "adjY", False)))
    return FAR**form


FAR = 2.0**30
_PAIRS = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU")
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
