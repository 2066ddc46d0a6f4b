"""What LiteRT and TensorFlow cost per operator, whatever the operator computes.

    python -m hwlimits.training.overhead [--quick]      numbers for the machine card, as JSON

Chains of n operators that have next to nothing to compute are timed against n. The slope of the
line is what one operator costs, its intercept what a call costs. Both runtimes rewrite what they
are given, and a chain that is fused or folded would show a slope of nothing; so LiteRT's chain is
of convolutions, each of which adds one, and for TensorFlow's the nodes that ran are counted.
One thread. LiteRT is measured without TensorFlow, so it is there where TensorFlow is not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from hwlimits.machine.record import Number
from hwlimits.training.stderr import caught_stderr

CHANNELS = 8
LITERT_LENGTHS = (1, 50, 100, 200)
TENSORFLOW_LENGTHS = (1, 200, 400, 800)


def slopes(
    calls: dict[int, Callable[[], object]],
    *,
    rounds: int,
    sample_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float], float]:
    """Fit time = intercept + slope n, once a round, over calls that run n operators each.

    `calls` maps n to a call. Each round times all of them, forwards or backwards in turn, and gives one
    least-squares line. Returns the slopes (s per operator), the intercepts (s per call), and how
    far the medians stray from a line, at most, as a share of their range.
    """
    lengths = sorted(calls)
    if len(lengths) < 3:
        raise ValueError(f"slopes: {len(lengths)} lengths make no check of a line; give at least 3")
    loops = {n: _loops_for(calls[n], sample_s, clock) for n in lengths}
    times = {n: [] for n in lengths}
    for turn in range(rounds):
        for n in lengths if turn % 2 else reversed(lengths):
            times[n].append(_seconds(calls[n], loops[n], clock))
    lines = [np.polyfit(lengths, [times[n][turn] for n in lengths], 1) for turn in range(rounds)]
    medians = np.array([statistics.median(times[n]) for n in lengths])
    line = np.polyval(np.polyfit(lengths, medians, 1), lengths)
    stray = float(np.max(np.abs(medians - line)) / np.ptp(medians))
    return [float(slope) for slope, _ in lines], [float(intercept) for _, intercept in lines], stray


def _seconds(call, loops: int, clock) -> float:
    start = clock()
    for _ in range(loops):
        call()
    return (clock() - start) / loops


def _loops_for(call, sample_s: float, clock) -> int:
    for _ in range(3):  # warm-up
        call()
    return max(1, round(sample_s / max(_seconds(call, 10, clock), 1e-9)))


def litert_chain(n: int) -> bytes:
    """A LiteRT file of n 1x1 convolutions, one after the other, over one pixel of CHANNELS channels; each adds one.

    >>> litert_chain(3)[4:8]
    b'TFL3'
    """
    shape = [1, 1, 1, CHANNELS]
    weights, bias = np.eye(CHANNELS, dtype=np.float32), np.ones(CHANNELS, np.float32)
    model, graph, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 1
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [_buffer(None), _buffer(weights), _buffer(bias)]  # the first is that of all that is computed
    graph.tensors = [_tensor("weights", [CHANNELS, 1, 1, CHANNELS], 1), _tensor("bias", [CHANNELS], 2)]
    graph.tensors += [_tensor(f"x{i}", shape, 0) for i in range(n + 1)]
    graph.inputs, graph.outputs = [2], [2 + n]
    graph.operators = [_convolution(2 + i, 3 + i) for i in range(n)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _buffer(values):
    buffer = schema.BufferT()
    buffer.data = None if values is None else np.frombuffer(values.tobytes(), np.uint8)
    return buffer


def _tensor(name: str, shape: list[int], buffer: int):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer, tensor.type = name.encode(), shape, buffer, schema.TensorType.FLOAT32
    return tensor


def _convolution(source: int, target: int):
    options, operator = schema.Conv2DOptionsT(), schema.OperatorT()
    options.padding = schema.Padding.VALID
    options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [source, 0, 1], [target]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
    return operator


def litert_calls(lengths: Sequence[int], kernels) -> dict[int, Callable[[], None]]:
    """For each length, a call that runs a chain of that many convolutions in LiteRT on one thread.

    Raises RuntimeError if a chain's answer shows that not all its convolutions ran.
    """
    calls = {}
    for n in lengths:
        with caught_stderr():  # it says each time which kernels it chose
            interpreter = Interpreter(
                model_content=litert_chain(n), num_threads=1, experimental_op_resolver_type=kernels
            )
            interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.zeros((1, 1, 1, CHANNELS), np.float32))
        interpreter.invoke()
        answer = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        if not np.array_equal(answer, np.full((1, 1, 1, CHANNELS), n)):
            raise RuntimeError(f"a chain of {n} convolutions that add one gave {answer.ravel()[0]}")
        calls[n] = interpreter.invoke
    return calls


def tensorflow_calls(lengths: Sequence[int], operator: Callable | None = None) -> dict[int, Callable[[], object]]:
    """For each length, a call of a tf.function whose graph is a chain of that many operators on one number each.

    `operator(x, y)` is tf.maximum unless another is given: TensorFlow's optimiser joins a chain of
    additions to one AddN, and a chain of tanh to one composed operator. Raises RuntimeError if the
    number of nodes that ran shows that it did the like.
    """
    from hwlimits.training.keras import tf

    operator = operator or tf.maximum
    one, two = tf.ones([1, 1]), tf.fill([1, 1], 2.0)
    calls = {}
    for n in lengths:

        def chain(x, y, n=n):
            for _ in range(n):
                x = operator(x, y)
            return x

        function = tf.function(chain, autograph=False)
        nodes = _nodes_run(lambda function=function: function(one, two))
        if nodes not in (n, None):
            raise RuntimeError(f"of a chain of {n} operators, TensorFlow's optimiser left {nodes}")
        calls[n] = lambda function=function: function(one, two)
    return calls


def _nodes_run(first_call: Callable[[], object]) -> int | None:
    """Nodes of the optimised graph that a function's first call makes, arguments and results not counted.

    None if this version of TensorFlow does not give its graphs away.
    """
    try:
        collect = importlib.import_module("tensorflow.python.eager.context").collect_graphs  # no public way
    except (ImportError, AttributeError):
        first_call()
        return None
    with collect(optimized=True) as graphs:
        first_call()
    beside = {"_Arg", "_Retval", "Identity", "NoOp", "Const"}
    return sum(node.op not in beside for graph in graphs for node in graph.node) if graphs else None


def litert_numbers(rounds: int, sample_s: float) -> list[Number]:
    """What an operator and a call cost in LiteRT: with XNNPACK's kernels, its default, and with its own."""
    numbers = []
    for prefix, kernels, whose in (
        ("litert", OpResolverType.AUTO, "XNNPACK's kernels, the default"),
        ("litert_builtin", OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, "LiteRT's own kernels"),
    ):
        calls = litert_calls(LITERT_LENGTHS, kernels)
        slope, intercept, stray = slopes(calls, rounds=rounds, sample_s=sample_s)
        chains = _chains(LITERT_LENGTHS, f"1x1 convolutions of {CHANNELS} to {CHANNELS} channels at one pixel")
        how = f"{chains}, {whose}; medians within {stray:.0%} of the line."
        numbers.append(Number.from_samples("overhead", f"{prefix}_operator", "s", slope, f"Slope of {how}"))
        if prefix == "litert":
            how = f"Intercept of {how[:-1]}; from Python's call of invoke() to its return."
            numbers.append(Number.from_samples("overhead", "litert_invoke", "s", intercept, how))
    return numbers


def tensorflow_numbers(rounds: int, sample_s: float) -> list[Number]:
    """What an operator and a call of a tf.function cost in TensorFlow, and an operator that is run by itself."""
    from hwlimits.training.keras import tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    slope, intercept, stray = slopes(tensorflow_calls(TENSORFLOW_LENGTHS), rounds=rounds, sample_s=sample_s)
    chains = _chains(TENSORFLOW_LENGTHS, "tf.maximum of two numbers in a tf.function")
    how = f"{chains}; medians within {stray:.0%} of the line."
    one, two = tf.ones([1, 1]), tf.fill([1, 1], 2.0)

    def eager():
        return tf.maximum(one, two)

    loops = _loops_for(eager, sample_s, time.perf_counter)
    single = [_seconds(eager, loops, time.perf_counter) for _ in range(rounds)]
    alone = f"tf.maximum of two numbers, called from Python, mean of {loops:,}."
    return [
        Number.from_samples("overhead", "tensorflow_operator", "s", slope, f"Slope of {how}"),
        Number.from_samples("overhead", "tensorflow_call", "s", intercept, f"Intercept of {how}"),
        Number.from_samples("overhead", "tensorflow_eager_operator", "s", single, alone),
    ]


def _chains(lengths: Sequence[int], what: str) -> str:
    return f"time against n for chains of n = {', '.join(map(str, lengths))} {what}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.overhead", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter samples")
    quick = parser.parse_args(arguments).quick
    numbers, left_out = [], {}
    for what, measure in (("overhead litert", litert_numbers), ("overhead tensorflow", tensorflow_numbers)):
        try:
            numbers += measure(rounds=5 if quick else 15, sample_s=0.002 if quick else 0.01)
        except Exception as error:  # the other runtime can still be measured
            left_out[what] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    print(json.dumps({"numbers": [asdict(number) for number in numbers], "left_out": left_out}))


if __name__ == "__main__":
    main()
