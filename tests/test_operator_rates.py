"""What a calibration measures of LiteRT: every form and kind once, in turns that a disturbance can't tilt."""

import json
from collections import Counter
from math import prod

import numpy as np
import pytest

from hwlimits.machine.latency import point_of
from hwlimits.training import operator_rates
from hwlimits.training.litert_build import Spec
from hwlimits.training.operator_rates import (
    ALIKE,
    FORMS,
    PASSES,
    QUICK_S,
    ROUNDS,
    SAMPLE_S,
    Turns,
    main,
    points,
    prepare,
    runtime_memory,
    specs,
)

ALL = list(specs())
HEAVY = {"CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D"}
LIGHT = {*ALIKE, "MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SOFTMAX",
         "BATCH_MATMUL", "TRANSPOSE_CONV"}  # fmt: skip


def test_every_form_has_its_kinds_and_no_operator_is_there_twice():
    kinds = {form: {s.kind for s in ALL if s.form == form} for form in FORMS}
    assert kinds["float32"] == HEAVY | LIGHT | {"QUANTIZE"}
    assert kinds["int8"] == HEAVY | LIGHT | {"DEQUANTIZE"}
    assert kinds["dynamic"] == HEAVY
    assert [spec for spec, n in Counter(ALL).items() if n > 1] == []


def test_a_family_needs_three_operators_and_has_them():
    few = {key: n for key, n in Counter((s.kind, s.form) for s in ALL).items() if n < 3}
    assert few == {}


def kept(name, form, *kinds):
    """The values of a field that specs of this form and these kinds have."""
    return {getattr(s, name) for s in ALL if s.form == form and s.kind in kinds}


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_what_other_kernels_compute_is_measured_by_itself(form):
    for kind in ("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE"):
        assert kept("second", form, kind) == {"", "channel", "row"}
    assert kept("second", form, "BATCH_MATMUL") == {"", "transposed"}
    assert kept("window", form, "MEAN") == {0, 1}
    assert kept("window", form, "MAX_POOL_2D", "AVERAGE_POOL_2D") == {1, 2, 3}
    assert kept("window", form, "TRANSPOSE_CONV") == {2, 3, 4}
    assert kept("window", form, "DEPTHWISE_CONV_2D") == {3, 5, 7}
    assert kept("stride", form, "DEPTHWISE_CONV_2D") == {1, 2}


def test_sizes_are_worth_measuring_and_fit_a_card():
    """A convolution does more than what a call costs, and none takes a tenth of a second."""
    macs = [prod(s.shape) * s.outputs * s.window**2 // s.stride**2 for s in ALL if s.kind == "CONV_2D"]
    assert min(macs) > 1e3
    assert max(macs) < 5e8
    assert len(ALL) <= 2000
    square = {f: {s.outputs for s in ALL if s.kind == "FULLY_CONNECTED" and s.shape == (1, s.outputs) and s.form == f}
              for f in FORMS}  # fmt: skip
    assert square["int8"] == square["dynamic"] == set(sorted(square["float32"])[::2])
    assert 4 * max(square["float32"]) ** 2 >= 2**26, "weights that no second-level cache holds"


def test_an_operator_of_several_rows_is_known_with_all_of_them():
    spec = Spec("FULLY_CONNECTED", "float32", (7, 16), 8)
    known, _, _ = prepare([spec])
    assert known[spec].shape == (7, 16, 8, 1, 1)


def test_a_sample_of_every_kind_and_form_runs_here():
    smallest = {}
    for spec in ALL:
        key = (spec.kind, spec.form, spec.second, spec.window)
        smallest[key] = min(smallest.get(key, spec), spec, key=lambda s: np.prod(s.shape) * max(s.outputs, 1))
    known, calls, left_out = prepare(smallest.values())
    assert left_out == {}
    assert list(known) == list(calls) == list(smallest.values())
    for spec, work in known.items():
        assert (work.kind, work.form) == (spec.kind, spec.form)


def test_an_operator_that_can_t_run_is_named_and_the_others_are_kept(monkeypatch):
    def single(spec):
        if spec.kind == "TANH":
            raise RuntimeError("no such\n  kernel")
        return made(spec)

    made = operator_rates.single
    monkeypatch.setattr(operator_rates, "single", single)
    todo = [Spec(kind, "float32", (1, 2, 2, 8)) for kind in ("RELU", "TANH", "ADD")]
    known, calls, left_out = prepare(todo)
    assert list(known) == list(calls) == [todo[0], todo[2]]
    assert left_out == {"TANH float32": "RuntimeError: no such kernel"}


def test_one_that_fails_when_it_is_run_is_left_out_altogether(monkeypatch):
    def fails():
        raise RuntimeError("it does not run")

    monkeypatch.setattr(operator_rates, "runner", lambda file: fails)
    known, calls, left_out = prepare([Spec("RELU", "float32", (1, 2, 2, 8))])
    assert (known, calls) == ({}, {})
    assert left_out == {"RELU float32": "RuntimeError: it does not run"}

    def says_much():
        raise RuntimeError("x" * 1000)

    monkeypatch.setattr(operator_rates, "runner", lambda file: says_much)
    assert len(prepare([Spec("RELU", "float32", (1, 2, 2, 8))])[2]["RELU float32"]) == 200


class Clock:
    """A made-up clock: each call takes its time, times what the computer is slower by."""

    def __init__(self, **seconds):
        self.now, self.slower, self.log, self.seconds = 0.0, 1.0, [], seconds

    def __call__(self):
        return self.now

    def calls(self):
        def call(name):
            self.log.append(name)
            self.now += self.seconds[name] * self.slower

        return {name: (lambda name=name: call(name)) for name in self.seconds}

    def turns(self, sample_s=1.0):
        made = Turns(self.calls(), sample_s, clock=self)
        self.log.clear()
        return made


def order(log):
    return [name for i, name in enumerate(log) if i == 0 or log[i - 1] != name]


def test_calls_take_turns_forwards_and_backwards():
    clock = Clock(a=0.1, b=0.25, c=0.5)
    turns = clock.turns()
    for expected in ("cba", "abc", "cba"):
        clock.log.clear()
        turns.round()
        assert "".join(order(clock.log)) == expected


@pytest.mark.parametrize(("call_s", "warm_up", "loops"), [(0.001, 20, 20), (0.004, PASSES, 5)])
def test_a_sample_takes_its_time_after_warm_up_calls(call_s, warm_up, loops):
    """20 ms a sample; before it as many calls, and ten at least."""
    clock = Clock(a=call_s)
    turns = clock.turns(sample_s=0.02)
    turns.round()
    assert len(clock.log) == 1 + warm_up + loops, "one to time a call, the warm-up, the sample"
    assert turns.samples["a"] == pytest.approx([call_s])


def test_warm_up_is_shortened_for_long_calls():
    clock = Clock(a=0.025)
    turns = clock.turns(sample_s=0.02)
    turns.round()
    assert len(clock.log) == 1 + 2 + 1, "50 ms are two calls of 25 ms"


def test_a_call_that_is_longer_than_a_sample_is_made_once():
    clock = Clock(a=0.2)
    turns = clock.turns(sample_s=0.02)
    turns.round()
    assert len(clock.log) == 1 + 1 + 1
    assert turns.samples["a"] == [pytest.approx(0.2)]


def test_a_call_too_short_for_the_clock_takes_next_to_nothing():
    clock = Clock(a=0.0)
    turns = clock.turns(sample_s=1e-8)
    turns.round()
    assert turns.samples["a"] == [1e-9]


def test_the_steady_rounds_are_not_those_of_one_call():
    """Each call counts by its own median: without that the one of middle length would decide alone."""
    turns = Clock(a=1.0).turns()
    turns.samples = {"a": [1.0, 1.0, 1.3, 1.3], "b": [10, 10, 9, 9], "c": [100, 100, 130, 130]}
    assert turns.steady_rounds() == [0, 1]
    turns.samples = {"a": [1.2, 1.0, 1.3, 1.1]}
    assert turns.steady_rounds() == [1, 3], "in their order"


def test_the_undisturbed_half_of_the_rounds_counts():
    clock = Clock(a=0.1, b=0.25, c=0.5)
    turns = clock.turns()
    for slower in (1.0, 1.3, 1.01, 2.0, 1.02, 1.5, 1.4):
        clock.slower = slower
        turns.round()
    assert turns.steady_rounds() == [0, 1, 2, 4]
    middle, spread = turns.median_and_iqr_s("a", [0, 2, 4])
    assert middle == pytest.approx(0.101)
    assert spread == pytest.approx(0.001)
    assert turns.median_and_iqr_s("a")[0] == pytest.approx(0.13)


def test_a_single_call_that_jumps_makes_no_round_unsteady():
    """The median over the calls decides."""
    clock = Clock(a=0.1, b=0.2, c=0.3)
    turns = clock.turns()
    turns.samples = {"a": [9, 1, 1.2, 1.2], "b": [1, 1, 1.2, 1.2], "c": [1, 1, 1.2, 1.2]}
    assert turns.steady_rounds() == [0, 1]


def test_points_are_medians_of_the_steady_rounds():
    spec = Spec("RELU", "float32", (1, 2, 2, 8))
    known, _, _ = prepare([spec])
    clock = Clock(a=0.1)
    turns = clock.turns()
    turns.samples = {spec: [1.0, 5.0, 3.0, 1.2]}
    (point,) = points(known, turns)
    assert (point.work, point.time_s, point.iqr_s) == (known[spec], pytest.approx(1.1), pytest.approx(0.1))


def test_the_runtime_takes_megabytes():
    number = runtime_memory(1)
    assert (number.quantity, number.of, number.unit, number.n) == ("memory", "litert", "B", 1)
    assert 2**20 < number.value < 2**28


@pytest.fixture
def measured(monkeypatch):
    """Three operators in the place of all, a memory that is planted, and what was asked of `Turns`."""
    todo = [Spec("RELU", "float32", (1, 2, 2, n)) for n in (8, 16)] + [Spec("NO_SUCH", "float32", (1, 2, 2, 8))]
    asked = []

    class Planted(Turns):
        def __post_init__(self):
            self.samples = {name: [] for name in self.calls}
            asked.append(self)

        def round(self):
            for i, taken in enumerate(self.samples.values()):
                taken.append((1 + i) * 1e-6)

    sizes = iter([5e6, 9e6, 6e6])
    monkeypatch.setattr(operator_rates, "specs", lambda: todo)
    monkeypatch.setattr(operator_rates, "Turns", Planted)
    monkeypatch.setattr(operator_rates, "peak_memory_bytes", lambda file: next(sizes))
    return asked


@pytest.mark.parametrize(("options", "rounds", "sample_s"), [([], ROUNDS, SAMPLE_S), (["--quick"], 3, QUICK_S)])
def test_the_program_prints_points_memory_and_what_was_left_out(measured, capsys, options, rounds, sample_s):
    main(options)
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    found = [point_of(row) for row in said["operators"]]
    assert [(p.work.kind, p.work.shape, p.time_s, p.iqr_s) for p in found] == [
        ("RELU", (32, 8, 1, 1), 1e-6, 0), ("RELU", (64, 16, 1, 1), 2e-6, 0)
    ]  # fmt: skip
    (turns,) = measured
    assert (len(next(iter(turns.samples.values()))), turns.sample_s) == (rounds, sample_s)
    (memory,) = said["numbers"]
    assert (memory["quantity"], memory["of"], memory["value"], memory["n"]) == ("memory", "litert", 6e6, 3)
    assert list(said["left_out"]) == ["NO_SUCH float32"]
    assert QUICK_S < SAMPLE_S
    assert ROUNDS > 3


def test_the_operators_are_told_where_memory_can_t_be_measured(measured, monkeypatch, capsys):
    def fails(repeats):
        raise RuntimeError("no process was started")

    monkeypatch.setattr(operator_rates, "runtime_memory", fails)
    main(["--quick"])
    said = json.loads(capsys.readouterr().out)
    assert len(said["operators"]) == 2
    assert said["numbers"] == []
    assert said["left_out"]["memory litert"] == "no process was started"
