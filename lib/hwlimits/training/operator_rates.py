"""The operators whose times a calibration takes: made-up shapes, LiteRT's own kernels, one thread.

    python -m hwlimits.training.operator_rates [--quick]      operator times for the machine card, as JSON

Each is a file of one operator (`litert_build`), run alone. All are sampled in turn, round after round, so
that a computer that is disturbed for a while disturbs one round and no family. Shapes are a grid that
covers what networks use; no network takes part.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from hwlimits.machine.latency import Point, Work, record_of
from hwlimits.machine.record import Number
from hwlimits.training.litert_build import Spec, single
from hwlimits.training.operator_times import peak_memory_bytes, runner
from hwlimits.training.operator_work import works

ROUNDS, SAMPLE_S, QUICK_S = 10, 1e-3, 3e-4
PASSES, PASSES_S = 10, 0.05  # calls before a sample, unless they would take longer than this
FORMS = ("float32", "int8", "dynamic")


def specs() -> Iterator[Spec]:
    """The operators, in the order in which they are measured."""
    for form in FORMS:
        yield from _products(form)
        if form != "dynamic":  # its other operators are float32's, but for depthwise convolutions
            yield from _light(form)
        yield from _depthwise(form)


def _products(form: str) -> Iterator[Spec]:
    for side in (1, 3, 7, 14, 28, 56, 112):
        for depth in (8, 32, 128, 512, 1024):
            for outputs in (8, 16, 24, 40, 64, 256, 512):
                macs = side * side * depth * outputs
                regular = (side in (3, 56)) + (depth in (32, 1024)) + (outputs in (24, 40, 512)) < 2
                if 1e3 < macs < 3e7 and regular:
                    yield Spec("CONV_2D", form, (1, side, side, depth), outputs)
    for side in (4, 7, 14, 28, 56):
        for depth, outputs in ((8, 16), (32, 32), (64, 64), (64, 24), (128, 128), (256, 256), (512, 512)):
            if side * side * depth * outputs * 9 < 1.3e8:
                yield Spec("CONV_2D", form, (1, side, side, depth), outputs, window=3)
    for depth, outputs in ((16, 2), (64, 4), (256, 6)):  # less than a vector
        yield Spec("CONV_2D", form, (1, 14, 14, depth), outputs)
        yield Spec("CONV_2D", form, (1, 14, 14, depth), outputs, window=3)
    for side, depth, outputs, window in ((24, 16, 20, 1), (7, 256, 100, 1), (14, 64, 50, 1), (28, 32, 10, 1),
                                         (8, 20, 50, 5), (28, 8, 12, 3), (14, 64, 100, 3)):  # fmt: skip
        yield Spec("CONV_2D", form, (1, side, side, depth), outputs, window)
    for channels in (1, 3):  # first layers
        for side, outputs, window, stride in ((28, 32, 3, 1), (96, 16, 3, 2), (112, 32, 3, 2), (112, 64, 7, 2),
                                              (28, 20, 5, 1), (56, 64, 3, 1), (96, 64, 3, 1)):  # fmt: skip
            yield Spec("CONV_2D", form, (1, side, side, channels), outputs, window, stride)
        for side, outputs, window in ((10, 64, 6), (12, 32, 4), (14, 16, 3), (20, 64, 3), (24, 32, 7), (28, 16, 9),
                                      (28, 6, 5), (14, 4, 3), (28, 8, 5), (20, 6, 7), (32, 2, 3)):  # fmt: skip
            yield Spec("CONV_2D", form, (1, side, side, channels), outputs, window)
    yield Spec("CONV_2D", form, (1, 14, 14, 32), 64, window=5)
    yield Spec("CONV_2D", form, (1, 28, 28, 48), 64, window=5)
    yield Spec("CONV_2D", form, (1, 17, 17, 128), 128, window=7)
    sizes = (16, 64, 128, 256, 512, 724, 1024, 1224, 1448, 1776, 2048, 2896, 4096)
    for size in sizes if form == "float32" else sizes[::2]:
        yield Spec("FULLY_CONNECTED", form, (1, size), size)
    for depth, outputs in ((1024, 10), (64, 10), (256, 100), (800, 500), (256, 1000), (2048, 1000), (784, 300),
                           (9216, 1024)):  # fmt: skip
        yield Spec("FULLY_CONNECTED", form, (1, depth), outputs)
    for rows, depth, outputs in ((16, 256, 256), (128, 512, 512), (128, 256, 1024), (64, 128, 512)):
        yield Spec("FULLY_CONNECTED", form, (rows, depth), outputs)


def _depthwise(form: str) -> Iterator[Spec]:
    for side, channels in ((112, 32), (56, 16), (56, 64), (56, 144), (28, 32), (28, 96), (28, 192), (14, 96),
                           (14, 384), (7, 192), (7, 960), (4, 64)):  # fmt: skip
        for window, stride in ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)):
            if (window == 3 or side in (112, 56, 14, 7)) and not (window == 7 and channels > 300):
                yield Spec("DEPTHWISE_CONV_2D", form, (1, side, side, channels), window=window, stride=stride)
    if form != "dynamic":
        for side, depth, outputs in ((12, 64, 32), (28, 32, 16), (14, 128, 64)):
            for window in (2, 3, 4):
                yield Spec("TRANSPOSE_CONV", form, (1, side, side, depth), outputs, window=window, stride=2)


SIZES = ((1, 64), (1, 1024), (7, 16), (7, 256), (28, 11), (28, 64), (56, 24), (56, 128), (112, 96))
ALIKE = ("ADD", "SUB", "MUL", "RELU", "LOGISTIC", "TANH", "CONCATENATION", "PAD", "TRANSPOSE", "MEAN", "HARD_SWISH",
         "GELU", "RSQRT", "SQUARED_DIFFERENCE")  # fmt: skip


def _light(form: str) -> Iterator[Spec]:
    for kind in (*ALIKE, "QUANTIZE" if form == "float32" else "DEQUANTIZE"):
        for side, channels in SIZES:
            yield Spec(kind, form, (1, side, side, channels))
    for kind in ("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE"):
        for side, channels in ((7, 64), (14, 512), (28, 64), (56, 128), (64, 3), (160, 3)):
            yield Spec(kind, form, (1, side, side, channels), second="channel")
        for rows, columns in ((16, 64), (128, 256), (512, 128), (1024, 768)):
            yield Spec(kind, form, (1, rows, columns), second="row")
            yield Spec(kind, form, (1, rows, columns), second="channel")
    for kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        for side, channels in ((8, 64), (14, 256), (28, 44), (28, 128), (56, 64), (112, 32)):
            for window, stride in ((1, 2), (2, 2), (3, 2), (3, 1)):
                yield Spec(kind, form, (1, side, side, channels), window=window, stride=stride)
    for kind in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        for side, channels in ((7, 64), (28, 32), (56, 32), (56, 128)):
            yield Spec(kind, form, (1, side, side, channels))
    for rows, columns in ((1, 10), (1, 1000), (64, 64), (512, 128), (2048, 64), (4096, 2), (9216, 3)):
        yield Spec("SOFTMAX", form, (1, rows, columns))
    for rows, columns in ((1, 1000), (64, 64), (128, 256), (512, 128), (1024, 768)):
        yield Spec("MEAN", form, (1, 1, rows, columns), window=0)
    for batch, rows, depth, columns in (
        (1, 64, 64, 64),
        (4, 64, 32, 64),
        (4, 128, 128, 32),
        (8, 128, 64, 128),
        (12, 128, 128, 64),
    ):
        for second in ("", "transposed"):
            yield Spec("BATCH_MATMUL", form, (1, batch, rows, depth), columns, second=second)


@dataclass
class Turns:
    """Calls that are timed in turn, round after round, forwards and backwards: a computer that is disturbed for a while
    then disturbs some rounds of all of them, and not all rounds of some."""

    calls: dict[Hashable, Callable[[], object]]
    sample_s: float
    clock: Callable[[], float] = time.perf_counter
    samples: dict[Hashable, list[float]] = field(default_factory=dict)

    def __post_init__(self):
        self._loops = {name: max(1, round(self.sample_s / self._seconds(call, 2))) for name, call in self.calls.items()}
        self.samples = {name: [] for name in self.calls}

    def round(self) -> None:
        """A sample of each, in seconds per call."""
        done = len(next(iter(self.samples.values()), []))
        for name in list(self.calls)[:: 1 if done % 2 else -1]:
            call, loops = self.calls[name], self._loops[name]
            # brings back what the others pushed out; a shared cache keeps data only after several passes over them
            self._seconds(call, min(max(loops, PASSES), max(1, round(PASSES_S / self._seconds(call, 1)))))
            self.samples[name].append(self._seconds(call, loops))

    def steady_rounds(self) -> list[int]:
        """The half of the rounds in which these calls, taken together, were fastest: the computer was least disturbed.

        A round's speed is the median over the calls of its sample over the call's own median.
        """
        times = np.array(list(self.samples.values()))
        speed = np.median(times / np.median(times, axis=1, keepdims=True), axis=0)
        return sorted(np.argsort(speed, kind="stable")[: -(-len(speed) // 2)].tolist())

    def median_and_iqr_s(self, name: Hashable, rounds: Sequence[int] | None = None) -> tuple[float, float]:
        """The middle of the samples of these rounds (None: all), and the width of their middle half."""
        chosen = np.array(self.samples[name])[slice(None) if rounds is None else list(rounds)]
        low, middle, high = np.percentile(chosen, [25, 50, 75])
        return float(middle), float(high - low)

    def _seconds(self, call, loops: int) -> float:
        start = self.clock()
        for _ in range(loops):
            call()
        return max((self.clock() - start) / loops, 1e-9)


def prepare(todo: Iterable[Spec]) -> tuple[dict[Spec, Work], dict[Hashable, Callable], dict[str, str]]:
    """For each operator what it is and a call that runs it; and which can't be run here, and why."""
    known, calls, left_out = {}, {}, {}
    for spec in todo:
        try:
            file = single(spec)
            (known[spec],) = works(file, spec.shape[0])
            calls[spec] = runner(file)
            calls[spec]()
        except Exception as error:  # a kind that this version of LiteRT doesn't take; the others can be measured
            known.pop(spec, None)
            calls.pop(spec, None)
            left_out[f"{spec.kind} {spec.form}"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return known, calls, left_out


def points(known: dict[Spec, Work], turns: Turns) -> tuple[Point, ...]:
    """The measured operators: medians over the steady rounds."""
    rounds = turns.steady_rounds()
    return tuple(Point(work, *turns.median_and_iqr_s(spec, rounds)) for spec, work in known.items())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m hwlimits.training.operator_rates", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter samples")
    quick = parser.parse_args(arguments).quick
    known, calls, left_out = prepare(specs())
    turns = Turns(calls, QUICK_S if quick else SAMPLE_S)
    for _ in range(3 if quick else ROUNDS):
        turns.round()
    numbers = []
    try:
        numbers.append(asdict(runtime_memory(3)))
    except RuntimeError as error:
        left_out["memory litert"] = str(error)
    print(
        json.dumps(
            {"operators": [record_of(p) for p in points(known, turns)], "numbers": numbers, "left_out": left_out}
        )
    )


def runtime_memory(repeats: int) -> Number:
    """What LiteRT itself takes when a file is loaded and run: that of a file that has next to nothing in it."""
    file = single(Spec("RELU", "float32", (1, 1, 1, 8)))
    samples = [peak_memory_bytes(file) for _ in range(repeats)]
    how = "Resident memory that loading and running a file of one small operator adds to a fresh process."
    return Number.from_samples("memory", "litert", "B", samples, how)


if __name__ == "__main__":
    main()
