"""The tensors of a LiteRT file that need working memory, with the time for which each does.

The weights are constants: a microcontroller reads them where they lie, in flash. What is left is what
`hwlimits.allocation.plan` lays out in one arena, as tflite-micro does before it runs a file.
"""

from __future__ import annotations

from math import prod

from hwlimits.storage import Buffer
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_parser import DTYPE_NAMES, LiteRTError, tensor_bytes
from hwlimits.training.litert_shapes import Call, calls

SCRATCH = "scratch of "
_QUANTIZED = ("int8", "uint8", "int16")


def arena_buffers(file: LiteRTFile, batch: int = 1, *, scratch: bool = True) -> list[Buffer]:
    """Every tensor of the file's main graph that is no constant, from the step that makes it to its last use.

    Step 0 is the input's arrival, step i + 1 the operator of index i. An operator's inputs and outputs
    live together, so none is computed in place; outputs of the graph live to its end. So tflite-micro
    has it, and `plan` of these buffers has the offsets that it works out.

    scratch   also what its plain kernels ask for beside the tensors, which lives for one operator and is
              called 'scratch of ...': int32 sums of an integer MEAN or SUM (four bytes for each number of
              the output), and of an integer TRANSPOSE_CONV (int64 where it is int16). Kernels written
              for one processor ask for more or for other things.

    A state that a file keeps from call to call (`isVariable`) is not in the arena's planned part and not here.
    Raises LiteRTError for a tensor whose size depends on the data, and where an operator calls another graph.

    >>> from hwlimits import data
    >>> from hwlimits.allocation import plan
    >>> file = LiteRTFile.read(data.path("results/case_study/quantized-seed0.tflite"))
    >>> plan(arena_buffers(file)).total_bytes
    27040
    """
    model = file._model
    graph = model.subgraphs[0]
    found, shapes = calls(model, batch)
    first: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[int, int] = dict(first)
    extra: list[Buffer] = []
    for call in found:
        step = call.index + 1
        if call.kind in ("IF", "WHILE", "CALL_ONCE"):
            raise LiteRTError(f"operator {call.index} ({call.kind}) calls another graph of the file: not planned here")
        for i in call.outputs:
            first[i] = last[i] = step
        for i in call.inputs:
            if i in first:
                last[i] = step
        if scratch and (size := _scratch_bytes(graph, call, shapes)):
            extra.append(Buffer(f"{SCRATCH}{call.kind} {call.index}", size, step, step))
    for i in graph.outputs:
        if i in first:
            last[i] = len(found)
    names = [graph.tensors[i].name.decode(errors="replace") for i in range(len(graph.tensors))]
    buffers = []
    for i in sorted(first):
        tensor, shape = graph.tensors[i], shapes.get(i)
        data = model.buffers[tensor.buffer].data
        if tensor.isVariable or (data is not None and len(data)):
            continue
        size = None if shape is None else tensor_bytes(tensor, shape)
        if size is None:
            raise LiteRTError(f"tensor {names[i]!r} has no size before the file runs: nothing can be planned with it")
        name = names[i] if names.count(names[i]) == 1 else f"{names[i]} ({i})"
        buffers.append(Buffer(name, size, first[i], last[i]))
    return buffers + extra


def _scratch_bytes(graph, call: Call, shapes) -> int:
    """What tflite-micro's plain kernel of this operator asks for beside its tensors."""
    data = {"MEAN": 0, "SUM": 0, "TRANSPOSE_CONV": 2}.get(call.kind)
    if data is None:
        return 0
    dtype = DTYPE_NAMES[graph.tensors[call.inputs[data]].type]
    shape = shapes.get(call.outputs[0])
    if dtype not in _QUANTIZED or shape is None:
        return 0
    return prod(shape) * (8 if call.kind == "TRANSPOSE_CONV" and dtype == "int16" else 4)
