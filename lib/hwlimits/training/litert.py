"""A LiteRT file: what is in it, and what it does in the two runtimes.

Everything the course says about a compressed model is read from its file or measured by running
it: LiteRT (ai-edge-litert) for computers and phones, tflite-micro for microcontrollers.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from hwlimits.coding import entropy_bits
from hwlimits.training.litert_parser import OP_NAMES, LiteRTError, parse
from hwlimits.training.mnist import scale
from hwlimits.training.stderr import caught_stderr

_HEAVY = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
}


@dataclass(frozen=True)
class HeavyLayer:
    """A convolution or dense layer of a file: `weights` (outputs, ...) and its bias."""

    name: str
    op: str
    weights: np.ndarray
    bias: np.ndarray


class LiteRTFile:
    """A model file, by its bytes.

    Raises LiteRTError if they are no LiteRT model.
    """

    def __init__(self, content: bytes):
        self.content = bytes(content)
        if self.content[4:8] != b"TFL3":
            raise LiteRTError(
                f"not a LiteRT file: its {len(self.content):,} bytes lack the mark TFL3 at offset 4. "
                "Export the model with hwlimits.training.export, or give the path of a .tflite file."
            )

    @classmethod
    def read(cls, path: str | Path) -> LiteRTFile:
        return cls(Path(path).read_bytes())

    def check(self) -> None:
        """Raise LiteRTError if the file is damaged; else do nothing."""
        _ = self._model

    @property
    def raw_bytes(self) -> int:
        return len(self.content)

    @property
    def deflated_bytes(self) -> int:
        """Size after zlib's deflate at level 9: what a download or a flash image may count."""
        return len(zlib.compress(self.content, 9))

    @property
    def entropy_bytes(self) -> float:
        """Order-0 entropy of the parameters, tensor by tensor: no code for independent symbols is shorter.

        The table of symbols and the file's structure are not in it, which flatters float32: there
        almost each weight is a symbol of its own.
        """
        return sum(entropy_bits(values) for values in self.parameters) / 8

    @property
    def parameters(self) -> list[np.ndarray]:
        return [array for layer in self.layers for array in (layer.weights, layer.bias)]

    @property
    def parameter_count(self) -> int:
        return sum(array.size for array in self.parameters)

    @property
    def bytes_by_part(self) -> dict[str, int]:
        """Bytes of the file by what they are for: 'weights', 'biases', 'scales' and 'description'; in all `raw_bytes`.

        Weights and biases are those of convolutions and dense layers, in the type that the file stores: what a
        DEQUANTIZE widens when the file is loaded counts as it was before. A scale has four bytes, its zero point
        eight. The description is the rest: operators, names, shapes, and what holds them together.
        """
        graph, buffers = self._model.subgraphs[0], self._model.buffers
        widened = {op.outputs[0]: op.inputs[0] for op in self._ops if self._op_name(op) == "DEQUANTIZE"}
        parts, counted = dict.fromkeys(("weights", "biases", "scales"), 0), set()
        for op in self._ops:
            given = op.inputs[1:3] if self._op_name(op) in _HEAVY else ()
            for part, index in zip(("weights", "biases"), given, strict=False):
                buffer = graph.tensors[widened.get(index, index)].buffer if index >= 0 else 0
                if buffer not in counted:  # two layers may share their weights
                    counted.add(buffer)
                    parts[part] += len(buffers[buffer].data) if buffers[buffer].data is not None else 0
        for quantization in (tensor.quantization for tensor in graph.tensors if tensor.quantization is not None):
            for numbers, size in ((quantization.scale, 4), (quantization.zeroPoint, 8)):
                parts["scales"] += size * (0 if numbers is None else len(numbers))
        return parts | {"description": self.raw_bytes - sum(parts.values())}

    @property
    def nonzero_parameters(self) -> int:
        return sum(int(np.count_nonzero(array)) for array in self.parameters)

    @property
    def int8_weights(self) -> bool:
        """True if the weights of every convolution and dense layer are int8."""
        return all(layer.weights.dtype == np.int8 for layer in self.layers)

    @cached_property
    def layers(self) -> list[HeavyLayer]:
        """The layers that hold the weights, in order of execution."""
        return [self._layer(op) for op in self._ops if self._op_name(op) in _HEAVY]

    @cached_property
    def _model(self):
        return parse(self.content)

    @property
    def _ops(self):
        return self._model.subgraphs[0].operators

    def _op_name(self, op) -> str:
        code = self._model.operatorCodes[op.opcodeIndex]
        return OP_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def _constant(self, index: int) -> np.ndarray:
        tensor = self._model.subgraphs[0].tensors[index]
        if tensor.type not in _DTYPES:
            raise LiteRTError(f"tensor {tensor.name} has a type that is not float32, int8 or int32")
        return np.frombuffer(bytes(self._model.buffers[tensor.buffer].data), _DTYPES[tensor.type]).reshape(tensor.shape)

    def _layer(self, op) -> HeavyLayer:
        weights = self._constant(op.inputs[1])
        has_bias = len(op.inputs) > 2 and op.inputs[2] >= 0
        bias = self._constant(op.inputs[2]) if has_bias else np.empty(0, np.int32)
        name = self._model.subgraphs[0].tensors[op.outputs[0]].name.decode()
        return HeavyLayer(name, self._op_name(op), weights, bias)

    def interpreter(self, batch: int | None = 1, *, threads: int = 1, reference: bool = False) -> Interpreter:
        """A LiteRT interpreter for `batch` examples, or, with None, for as many as the file says.

        `reference` takes the plain kernels instead of XNNPACK's.
        """
        kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
        with caught_stderr():  # it says each time which kernels it chose; an error still gets out
            found = Interpreter(model_content=self.content, num_threads=threads, experimental_op_resolver_type=kernels)
            for details in found.get_input_details() if batch is not None else ():
                found.resize_tensor_input(details["index"], (batch, *details["shape"][1:]))
            found.allocate_tensors()
        return found

    def runner(self, images: np.ndarray, *, threads: int = 1) -> Callable[[], None]:
        """A call that runs the file on `images` uint8 (n, height, width), to be timed: the input is already set."""
        interpreter = self.interpreter(len(images), threads=threads)
        details = interpreter.get_input_details()[0]
        interpreter.set_tensor(details["index"], to_input(images, details))
        return interpreter.invoke

    def outputs(self, images: np.ndarray, *, reference: bool = False, batch: int = 500) -> np.ndarray:
        """Raw outputs (n, 10) for `images` uint8 (n, height, width), in the output's own type."""
        parts = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            interpreter = self.interpreter(len(part), reference=reference)
            details = interpreter.get_input_details()[0]
            interpreter.set_tensor(details["index"], to_input(part, details))
            interpreter.invoke()
            parts.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
        return np.concatenate(parts)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The digit seen in each of `images` uint8 (n, height, width)."""
        return self.outputs(images).argmax(axis=1)


def to_input(images: np.ndarray, details: dict) -> np.ndarray:
    """uint8 images as the file's input tensor: float32 in [0, 1], or int8 by its scale."""
    scaled = scale(images)
    if details["dtype"] == np.float32:
        return scaled
    step, zero_point = details["quantization"]
    return np.clip(np.round(scaled / step + zero_point), -128, 127).astype(np.int8)


def micro_runtime():
    """tflite-micro's runtime, or None where it has no wheel (all but Linux on x86-64)."""
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError:
        return None
    return runtime


@dataclass(frozen=True)
class MicroRun:
    """What tflite-micro did: outputs int8 (n, 10); the bytes of working memory it asked for."""

    outputs: np.ndarray
    arena_bytes: int


def run_micro(file: LiteRTFile, images: np.ndarray) -> MicroRun:
    """Run an int8 file on `images` uint8 (n, height, width) in the microcontroller runtime.

    `arena_bytes` is the runtime's own recording: activations and its bookkeeping, not the
    weights, which stay in flash. Raises LiteRTError where tflite-micro is not installed.
    """
    runtime = micro_runtime()
    if runtime is None:
        raise LiteRTError(
            "tflite-micro is not installed: it has wheels for Linux on x86-64 only; this stage is left out"
        )
    details = file.interpreter().get_input_details()[0]
    interpreter = runtime.Interpreter.from_bytes(file.content)
    outputs = []
    for image in to_input(images, details):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0])
    with caught_stderr() as report:
        interpreter.print_allocations()
    total = re.search(r"Arena allocation total (\d+) bytes", report())
    if not total:
        raise LiteRTError(f"tflite-micro reported no arena size, but {report()[:200]!r}")
    return MicroRun(np.array(outputs), int(total[1]))
