"""An int8 LiteRT file run by the course's own integer kernels, and held against LiteRT tensor by tensor.

LiteRT's reference kernels are code that is read, not a specification; what they compute is known when
something else computes the same. `run` does, for every operator that `integer_operators` knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from hwlimits.quantization import Quantization
from hwlimits.training.integer_operators import KERNELS, OPERATORS, OperatorError, Step
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_parser import DTYPE_NAMES, OP_NAMES
from hwlimits.training.stderr import caught_stderr

_NUMPY = {"float32": np.float32, "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "int32": np.int32,
          "int64": np.int64, "bool": np.bool_}  # fmt: skip

_MORE_TYPES = dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), ("int4",)) | {
    "QUANTIZE": ("uint8", "float32"),
    "DEQUANTIZE": ("uint8", "float32"),
    "CAST": ("uint8",),
}


@dataclass(frozen=True)
class TensorDifference:
    """One tensor as two ways of running a file have it: how many of its numbers differ, and by how much at most."""

    index: int
    name: str
    kind: str  # of the operator that makes it
    size: int
    differing: int
    largest: float  # steps, for codes


def run(file: LiteRTFile, inputs: Sequence[np.ndarray], *, kernels: str = "reference") -> dict[int, np.ndarray]:
    """Every tensor of the file by its index, from the values of its inputs.

    inputs       one array for each input of the file, in its order, of the input's type; the batch may be another
                 than the file says where its operators allow it
    kernels      whose kernels are computed: 'reference' LiteRT's, bit for bit; 'micro' tflite-micro's, which differ
                 in dense layers; 'xnnpack' those that LiteRT takes by default, as far as KERNELS says how

    Raises OperatorError that names every operator or type that is not known here, before anything runs.
    """
    model = file._model
    graph = model.subgraphs[0]
    if kernels not in KERNELS:
        raise OperatorError(f"run(kernels={kernels!r}): choose from {', '.join(KERNELS)}")
    _check(file)
    tensors = graph.tensors
    quantizations = [_quantization(t) for t in tensors]
    values = {i: _constant(model, t) for i, t in enumerate(tensors) if _has_data(model, t)}
    if len(inputs) != len(graph.inputs):
        raise OperatorError(f"the file has {len(graph.inputs)} inputs, and {len(inputs)} were given")
    for i, given in zip(graph.inputs, inputs, strict=True):
        dtype, shape = _NUMPY[DTYPE_NAMES[tensors[i].type]], _shape(tensors[i])
        if given.dtype != dtype or given.shape[1:] != shape[1:]:
            raise OperatorError(
                f"input {tensors[i].name.decode()!r} is {np.dtype(dtype)} of the shape {list(shape)}, "
                f"and {given.dtype} of the shape {list(given.shape)} was given"
            )
        values[i] = given
    for index, op in enumerate(graph.operators):
        step = Step(
            index,
            kind := _kind(model, op),
            op.builtinOptions,
            [values[i] if i >= 0 else None for i in op.inputs],
            [quantizations[i] if i >= 0 else None for i in op.inputs],
            [quantizations[i] for i in op.outputs],
            {"requantize": KERNELS[kernels][kind]} if kind in KERNELS[kernels] else {},
        )
        found = OPERATORS[step.kind](step)
        for i, value in zip(op.outputs, found if isinstance(found, list) else [found], strict=True):
            values[i] = np.asarray(value, _NUMPY[DTYPE_NAMES[tensors[i].type]])
    return values


def reference(file: LiteRTFile, inputs: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Every input and every operator's output as LiteRT's reference kernels have it, by index: `run` must equal it."""
    graph = file._model.subgraphs[0]
    with caught_stderr():
        interpreter = Interpreter(
            model_content=file.content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=True,
        )
        for details, given in zip(interpreter.get_input_details(), inputs, strict=True):
            if tuple(details["shape"]) != given.shape:
                interpreter.resize_tensor_input(details["index"], given.shape)
        interpreter.allocate_tensors()
        for details, given in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(details["index"], given)
        interpreter.invoke()
    made = [int(i) for op in graph.operators for i in op.outputs]
    return {i: interpreter.get_tensor(i) for i in (*map(int, graph.inputs), *made)}


def differences(file: LiteRTFile, ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray]) -> list[TensorDifference]:
    """What differs, for each tensor that an operator makes, in the order of execution.

    Raises OperatorError where two tensors have different shapes.
    """
    model = file._model
    graph = model.subgraphs[0]
    found = []
    for op in graph.operators:
        for i in op.outputs:
            name, a, b = graph.tensors[i].name.decode(errors="replace"), ours[i], theirs[i]
            if a.shape != b.shape:
                raise OperatorError(f"tensor {name!r} of {_kind(model, op)} is {a.shape} here and {b.shape} there")
            step = np.abs(a.astype(np.float64) - b)
            largest = float(step.max(initial=0))
            found.append(TensorDifference(int(i), name, _kind(model, op), a.size, int(np.count_nonzero(step)), largest))
    return found


def random_inputs(file: LiteRTFile, batch: int = 1, seed: int = 0) -> list[np.ndarray]:
    """Inputs for a file: codes spread over all that there are, floats from a normal distribution."""
    graph, random = file._model.subgraphs[0], np.random.default_rng(seed)
    found = []
    for i in graph.inputs:
        tensor = graph.tensors[i]
        shape = _shape(tensor) if batch == 1 else (batch, *_shape(tensor)[1:])
        dtype = np.dtype(_NUMPY[DTYPE_NAMES[tensor.type]])
        if dtype == np.float32:
            found.append(random.standard_normal(shape, dtype=np.float32))
        else:
            bounds = np.iinfo(dtype) if dtype.itemsize == 1 else np.iinfo(np.int8)
            found.append(random.integers(bounds.min, bounds.max, shape, dtype, endpoint=True))
    return found


def _check(file: LiteRTFile) -> None:
    """Raise OperatorError for all that `run` could not do, in one sentence."""
    model = file._model
    graph = model.subgraphs[0]
    unknown = sorted({_kind(model, op) for op in graph.operators} - set(OPERATORS))
    if unknown:
        raise OperatorError(
            f"the integer kernels don't have {', '.join(unknown)}: build the network of other layers, "
            "or add them to integer_operators.OPERATORS"
        )
    for index, op in enumerate(graph.operators):
        kind = _kind(model, op)
        types = {DTYPE_NAMES[graph.tensors[i].type] for i in (*op.inputs, *op.outputs) if i >= 0}
        allowed = {"int8", "int32", "int64", "bool", *_MORE_TYPES.get(kind, ())}
        if types - allowed:
            raise OperatorError(
                f"operator {index} ({kind}) computes with {', '.join(sorted(types - allowed))}: "
                "only int8 files run here; convert the model with int8 operators"
            )


def _kind(model, op) -> str:
    code = model.operatorCodes[op.opcodeIndex]
    return OP_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _has_data(model, tensor) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _shape(tensor) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(n) for n in np.atleast_1d(tensor.shape))


def _constant(model, tensor) -> np.ndarray:
    data = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.uint8)
    shape = _shape(tensor)
    name = DTYPE_NAMES[tensor.type]
    if name == "int4":  # two in a byte, the first in the lower half
        halves = np.stack([data & 15, data >> 4], axis=1).ravel()[: int(np.prod(shape))].astype(np.int8)
        return np.where(halves > 7, halves - 16, halves).astype(np.int8).reshape(shape)
    return data.view(_NUMPY[name]).reshape(shape)


def _quantization(tensor) -> Quantization | None:
    q = tensor.quantization
    name = DTYPE_NAMES[tensor.type]
    if q is None or q.scale is None or not len(q.scale) or name not in ("int8", "uint8", "int4"):
        return None
    bits, signed = (4 if name == "int4" else 8), name != "uint8"
    zero_points = np.asarray(q.zeroPoint, np.int64) if q.zeroPoint is not None else np.zeros(len(q.scale), np.int64)
    if len(q.scale) == 1:
        return Quantization(np.float32(q.scale[0]), int(zero_points[0]), bits, signed)
    return Quantization(np.asarray(q.scale, np.float32), zero_points, bits, signed, axis=int(q.quantizedDimension))
