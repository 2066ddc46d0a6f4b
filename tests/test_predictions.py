"""Predictions of LiteRT files: on a computer that is made up, by hand, and coarsely on this one."""

import numpy as np
import planted
import pytest

from hwlimits import data
from hwlimits.machine.latency import Point, Work
from hwlimits.machine.predict import on_this_computer
from hwlimits.machine.provenance import provenance
from hwlimits.machine.record import Card, CardError, Number
from hwlimits.machine.timing import measure
from hwlimits.training import operator_rates, prediction_models
from hwlimits.training.litert import LiteRTError, LiteRTFile
from hwlimits.training.operator_times import runner
from hwlimits.training.operator_work import works
from hwlimits.training.predictions import predict


def card_of(operators, **overheads):
    record = provenance("planted")
    record["machine"] |= {"usable_cores": 2, "cpu_quota": None, "caches": []}
    times = {"litert_invoke": planted.INVOKE_S, "litert_operator": 1e-7} | overheads
    numbers = [Number("overhead", of, 1, v, "s", 0.0, 9, "x") for of, v in times.items()]
    return Card((*numbers, Number("memory", "litert", 1, 5e6, "B", 0.0, 9, "x")), record, {}, operators)


OPERATORS = planted.operators()
CARD = card_of(OPERATORS)


@pytest.fixture(scope="module")
def int8():
    return LiteRTFile.read(data.path("results/case_study/quantized-seed0.tflite"))


def test_a_network_takes_what_its_operators_take(int8):
    found = predict(int8, CARD, model="case study")
    true_s = planted.INVOKE_S + sum(planted.time_s(w) - planted.INVOKE_S + 1e-7 for w in works(int8))
    assert found.time_s == pytest.approx(found.overhead_s + sum(x.time_s for x in found.layers))
    assert found.time_s == pytest.approx(true_s, rel=0.15)
    assert found.low_s < found.time_s < found.high_s
    assert (found.precision, found.model, found.batch) == ("int8", "case study", 1)
    assert found.bound == "compute"
    assert [x.kind for x in found.layers] == [w.kind for w in works(int8)]


def test_memory_by_hand(int8):
    """The file, a copy of its weights and biases, the arena (27,040 bytes), and the runtime."""
    found = predict(int8, CARD)
    weights = 288 + 32 * 4 + 18_432 + 64 * 4 + 102_400 + 64 * 4 + 640 + 10 * 4
    assert found.weight_bytes == len(int8.content) + weights
    assert found.activation_bytes == 27_040
    assert found.memory_bytes == found.weight_bytes + 27_040 + 5_000_000


def test_a_larger_batch_takes_longer_and_its_weights_are_there_once(int8):
    one, many = predict(int8, CARD), predict(int8, CARD, batch=8)
    assert 4 * one.time_s < many.time_s < 9 * one.time_s
    assert many.weight_bytes == one.weight_bytes
    assert many.activation_bytes == pytest.approx(8 * one.activation_bytes, rel=0.01)


def test_noisier_points_and_a_wandering_clock_widen_the_interval(int8):
    random = np.random.default_rng(0)
    noisy = card_of(tuple(Point(p.work, p.time_s * np.exp(0.3 * random.standard_normal()), p.iqr_s) for p in OPERATORS))
    drifting = card_of(tuple(Point(p.work, p.time_s, 0.5 * p.time_s) for p in OPERATORS))
    plain, *wider = (predict(int8, card) for card in (CARD, noisy, drifting))
    for found in wider:
        assert found.high_s / found.low_s > 1.2 * plain.high_s / plain.low_s


def test_a_kind_that_nobody_measured_is_named():
    strange = Work("s", "BITCAST", "float32", (1e6, 8.0, 1.0, 1.0), 8 * 10**6, (("x", 4 * 10**6),), (("y", 4 * 10**6),))
    found = on_this_computer("strange", [strange], CARD)
    assert "no operator of their kind is measured: BITCAST" in found.notes
    assert found.high_s > 2 * found.time_s
    assert found.memory_bytes is None


def test_a_card_without_operators_or_memory_says_so(int8):
    with pytest.raises(CardError, match=r"no operator times \(it was made before operators were measured\)"):
        predict(int8, card_of(()))
    bare = Card(tuple(n for n in CARD.numbers if n.quantity != "memory"), CARD.provenance, {}, OPERATORS)
    found = predict(int8, bare)
    assert found.memory_bytes == found.weight_bytes + found.activation_bytes
    assert any("the runtime's own memory" in note for note in found.notes)


def test_a_batch_that_a_file_can_t_take_is_refused(int8):
    with pytest.raises(LiteRTError, match="batch=0"):
        predict(int8, CARD, batch=0)


@pytest.fixture(scope="module")
def live():
    """This computer's card from one in three of its operators, quickly."""
    chosen = [spec for i, spec in enumerate(operator_rates.specs()) if i % 3 == 0 or spec.kind == "FULLY_CONNECTED"]
    known, calls, left_out = operator_rates.prepare(chosen)
    assert left_out == {}
    turns = operator_rates.Turns(calls, operator_rates.QUICK_S)
    turns.round()
    turns.round()
    return card_of(operator_rates.points(known, turns), litert_invoke=6e-7, litert_operator=4e-8)


@pytest.mark.parametrize("name", ["lenet-300-100", "article-cnn", "tiny-resnet-8"])
@pytest.mark.parametrize("form", ["float32", "int8"])
def test_a_live_prediction_is_of_the_right_size(live, name, form):
    """Against gross faults, such as a unit: what the predictions are worth is in the stored table."""
    file = prediction_models.export(prediction_models.build(name), form)
    found = predict(file, live, model=name)
    assert 1 / 3 < measure(runner(file), repeats=9).median_s / found.time_s < 3
