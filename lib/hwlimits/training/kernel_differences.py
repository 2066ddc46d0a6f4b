"""How far LiteRT's default kernels (XNNPACK's, mostly) are from its reference ones, and whether it is known why.

A reference convolution rounds twice: what lies a little before the middle of two codes is first rounded to the middle
and then away from it, and halves go up or away from 0. XNNPACK rounds once, in float32, halves to even. So they differ
by a step here and there; operator by operator, on the same inputs, `run(kernels="xnnpack")` tells where. Over a network
one step leads to the next.

`python -m hwlimits.training.kernel_differences` measures both on the int8 files of the case study and on test images
of MNIST, and writes data/results/kernel_differences.csv, with what made it beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import flatbuffers
import numpy as np

from hwlimits import data, quantization
from hwlimits.machine.provenance import provenance, require_clean_commit, store_table
from hwlimits.training import mnist
from hwlimits.training.integer_run import TensorDifference, _quantization, differences, reference, run
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_parser import parse
from hwlimits.training.stderr import caught_stderr

SEEDS, IMAGES = range(5), 200
# Shares are of an operator's outputs; explained_share is that which the model of XNNPACK's rounding has as it is.
# `alone` is on the inputs of the reference kernels, `network` after all operators before.
COLUMNS = (
    "file", "index", "operator", "by_xnnpack", "images", "outputs", "alone_differing_share", "alone_largest_steps",
    "explained_share", "network_differing_share", "network_largest_steps",
)  # fmt: skip


@dataclass(frozen=True)
class OperatorDifference:
    """One operator run by the default and by the reference kernels on the same inputs."""

    index: int
    kind: str
    by_xnnpack: bool  # else LiteRT's own optimized kernel ran
    size: int
    differing: int
    largest: float  # steps
    unexplained: int  # numbers that `run(kernels="xnnpack")` has otherwise than the default kernels

    @property
    def share(self) -> float:
        return self.differing / self.size if self.size else 0.0


def by_operator(file: LiteRTFile, inputs: Sequence[np.ndarray]) -> list[OperatorDifference]:
    """Every operator by itself, on the inputs that it has in a run of the reference kernels."""
    known = reference(file, inputs)
    found = []
    for index in range(len(file._model.subgraphs[0].operators)):
        alone, sources = single_operator(file, index)
        given = [known[i] for i in sources]
        theirs, by_xnnpack = _defaults(alone, given)
        (d,) = differences(alone, theirs, reference(alone, given))[:1]
        explained = differences(alone, theirs, run(alone, given, kernels="xnnpack" if by_xnnpack else "reference"))
        found.append(
            OperatorDifference(index, d.kind, by_xnnpack, d.size, d.differing, d.largest, explained[0].differing)
        )
    return found


def over_network(file: LiteRTFile, inputs: Sequence[np.ndarray]) -> list[TensorDifference]:
    """Every tensor of one run by the default kernels against one by the reference kernels."""
    theirs, _ = _defaults(_all_outputs(file), inputs)
    return differences(file, theirs, reference(file, inputs))


def single_operator(file: LiteRTFile, index: int) -> tuple[LiteRTFile, list[int]]:
    """A file of operator `index` alone, with the tensors' numbers unchanged, and which tensors are its inputs."""
    model = parse(file.content)
    graph = model.subgraphs[0]
    operator = graph.operators[index]
    sources = [i for i in dict.fromkeys(operator.inputs) if i >= 0 and not _constant(model, graph.tensors[i])]
    graph.operators, graph.inputs, graph.outputs = [operator], sources, operator.outputs
    return _pack(model), sources


def _all_outputs(file: LiteRTFile) -> LiteRTFile:
    model = parse(file.content)
    graph = model.subgraphs[0]
    graph.outputs = [i for operator in graph.operators for i in operator.outputs]
    return _pack(model)


def _pack(model) -> LiteRTFile:
    model.signatureDefs = None  # they name the tensors that were inputs and outputs before
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return LiteRTFile(bytes(builder.Output()))


def _constant(model, tensor) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _defaults(file: LiteRTFile, inputs: Sequence[np.ndarray]) -> tuple[dict[int, np.ndarray], bool]:
    """The outputs of the default kernels by index, and whether XNNPACK took a part in them."""
    interpreter = file.interpreter(None)
    details = {d["index"]: d for d in interpreter.get_input_details()}
    with caught_stderr():
        order = [i for i in file._model.subgraphs[0].inputs if i in details]
        for i, given in zip(order, inputs, strict=True):
            if tuple(details[i]["shape"]) != given.shape:
                interpreter.resize_tensor_input(i, given.shape)
        interpreter.allocate_tensors()
        for i, given in zip(order, inputs, strict=True):
            interpreter.set_tensor(i, given)
        interpreter.invoke()
    outputs = {int(i): interpreter.get_tensor(int(i)) for i in file._model.subgraphs[0].outputs}
    return outputs, any(o["op_name"] == "DELEGATE" for o in interpreter._get_ops_details())


def rows(name: str, images: np.ndarray) -> list[dict]:
    """Lines of the table: every operator of a file of one input and of operators with one output, on `images` uint8."""
    file = LiteRTFile.read(data.path(name))
    graph = file._model.subgraphs[0]
    given = [quantization.quantize(mnist.scale(images), _quantization(graph.tensors[graph.inputs[0]]))]
    found = []
    for alone, together in zip(by_operator(file, given), over_network(file, given), strict=True):
        values = (
            name, alone.index, alone.kind, alone.by_xnnpack, len(images), alone.size, alone.share, alone.largest,
            1 - alone.unexplained / alone.size, together.differing / together.size, together.largest,
        )  # fmt: skip
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def main() -> None:
    """Measure the files of the case study, and store the table."""
    require_clean_commit()
    images = mnist.load("mnist-5k").x_test[:IMAGES]
    made_by = provenance("python -m hwlimits.training.kernel_differences", seeds=SEEDS)
    found = []
    for seed in SEEDS:
        found += rows(f"results/case_study/quantized-seed{seed}.tflite", images)
        print(*found[-1].values(), file=sys.stderr, flush=True)
    store_table(data.path("results") / "kernel_differences.csv", COLUMNS, found, made_by)


if __name__ == "__main__":
    main()
