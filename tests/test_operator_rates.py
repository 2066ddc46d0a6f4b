"""What a calibration measures of LiteRT: every form and kind once, in turns that a disturbance can't tilt."""

from collections import Counter

import numpy as np
import pytest

from hwlimits.training import operator_rates
from hwlimits.training.litert_build import Spec
from hwlimits.training.operator_rates import ALIKE, FORMS, PASSES, Turns, points, prepare, runtime_memory, specs

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
    number = runtime_memory(2)
    assert (number.quantity, number.of, number.unit, number.n) == ("memory", "litert", "B", 2)
    assert 2**20 < number.value < 2**28
