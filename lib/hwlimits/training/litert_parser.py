"""The bytes of a LiteRT file as Python objects, or one clear error.

A file is data from somewhere else. LiteRT's own interpreter takes some damaged files for good and
crashes the process; this parser reads the same schema in Python and checks what everything built
on it relies on: every index points at something, every constant has as many bytes as its shape says.
"""

from __future__ import annotations

import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema

MAX_ELEMENTS = 2**40  # of one tensor: a terabyte in int8, more than any file's network has

# bits of one element; what is not here (strings, resources, variants) has no fixed width
BITS = {
    getattr(schema.TensorType, name): bits
    for bits, names in {
        2: "INT2", 4: "INT4 UINT4", 8: "INT8 UINT8 BOOL FLOAT8_E4M3FN FLOAT8_E5M2", 16: "INT16 UINT16 FLOAT16 BFLOAT16",
        32: "INT32 UINT32 FLOAT32", 64: "INT64 UINT64 FLOAT64 COMPLEX64", 128: "COMPLEX128",
    }.items()
    for name in names.split()
    if hasattr(schema.TensorType, name)
}  # fmt: skip
DTYPE_NAMES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
OP_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


class LiteRTError(ValueError):
    """A file is not a LiteRT model, or one that this part of the course can't read."""


def damaged(why: str) -> LiteRTError:
    """The error for a file that has LiteRT's mark and is no sound model all the same."""
    why = "".join(c if c.isprintable() else "?" for c in why)  # names and numbers are the file's own
    why = why if len(why) <= 300 else why[:300] + "..."
    return LiteRTError(f"a damaged LiteRT file: {why}. Export or download the model again.")


def parse(content: bytes) -> schema.ModelT:
    """The model in `content`, its references checked.

    Raises LiteRTError where the bytes run out, an index points nowhere, or a size is absurd.
    """
    try:
        _bound(content)
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        _check(model)
    except LiteRTError:
        raise
    except Exception as error:  # struct.error, IndexError, TypeError, ...: whatever the bytes lead the reader into
        raise damaged(f"its {len(content):,} bytes lead nowhere ({type(error).__name__}: {error})") from None
    return model


def tensor_bytes(tensor: schema.TensorT, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor of this shape, None for a type of no fixed width; four bits are packed in pairs."""
    bits = BITS.get(tensor.type)
    return None if bits is None else -(-math.prod(shape) * bits // 8)


def _bound(content: bytes) -> None:
    """Refuse tables that overlap: a few bytes could stand for billions of tensors, and take forever."""
    model = schema.Model.GetRootAs(content, 0)
    tables = _length(content, model.SubgraphsLength())
    tables += model.BuffersLength() + model.OperatorCodesLength() + model.MetadataLength() + model.SignatureDefsLength()
    for i in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(i)
        tables = _length(content, tables + signature.InputsLength() + signature.OutputsLength())
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        tables = _length(content, tables + graph.TensorsLength() + graph.OperatorsLength())
        for j in range(graph.TensorsLength()):
            tensor = graph.Tensors(j)
            sparsity = tensor.Sparsity()
            tables += tensor.VariantTensorsLength() + (sparsity.DimMetadataLength() if sparsity else 0)
            _length(content, tables)


def _length(content: bytes, tables: int) -> int:
    if tables * 8 > len(content):  # an offset and the least table are four bytes each
        raise damaged(f"it speaks of {tables:,} tables in {len(content):,} bytes")
    return tables


def _check(model: schema.ModelT) -> None:
    if not model.subgraphs:
        raise damaged("it has no graph")
    for code in model.operatorCodes or ():
        if max(code.builtinCode, code.deprecatedBuiltinCode) not in OP_NAMES:
            raise damaged(f"there is no operator number {max(code.builtinCode, code.deprecatedBuiltinCode)}")
    for graph in model.subgraphs:
        graph.tensors, graph.operators = graph.tensors or [], graph.operators or []
        for tensor in graph.tensors:
            _check_tensor(model, tensor)
        count = len(graph.tensors)
        for what in (graph, *graph.operators):
            what.inputs, what.outputs = _indices(what.inputs), _indices(what.outputs)
            if any(not -1 <= i < count for i in what.inputs) or any(not 0 <= i < count for i in what.outputs):
                raise damaged(f"it uses a tensor that is none of its {count:,}")
        for operator in graph.operators:
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes or ()):
                raise damaged("an operator is of no kind")


def _check_tensor(model: schema.ModelT, tensor: schema.TensorT) -> None:
    tensor.name = tensor.name or b""
    name = tensor.name.decode(errors="replace")
    shape = _indices(tensor.shape)
    if any(n < 0 for n in shape) or math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS or len(shape) > 16:
        raise damaged(f"tensor {name!r} has the shape {shape}")
    signature = _indices(tensor.shapeSignature)
    if signature and (
        len(signature) != len(shape) or any(s not in (-1, n) for s, n in zip(signature, shape, strict=True))
    ):
        raise damaged(f"tensor {name!r} has the shape {shape} and the signature {signature}")
    if tensor.type not in DTYPE_NAMES:
        raise damaged(f"tensor {name!r} is of type {tensor.type}, which there is not")
    if not 0 <= tensor.buffer < len(model.buffers or ()):
        raise damaged(f"tensor {name!r} has no buffer")
    buffer = model.buffers[tensor.buffer]
    if buffer.offset > 1 or tensor.externalBuffer:
        raise LiteRTError(
            f"tensor {name[:100]!r} keeps its data outside the model, as files above 2 GB do: that is not read here"
        )
    held = 0 if buffer.data is None else len(buffer.data)
    expected = tensor_bytes(tensor, shape)
    if held and tensor.sparsity is None and expected is not None and held != expected:
        raise damaged(f"tensor {name!r} of shape {shape} needs {expected:,} bytes and has {held:,}")


def _indices(vector) -> tuple[int, ...]:
    return () if vector is None else tuple(np.atleast_1d(vector).tolist())
