"""Predictions of LiteRT files, on a computer that is made up and so known, and by hand."""

import numpy as np
import planted
import pytest

from hwlimits import data
from hwlimits.machine.latency import Point, Work, point_of, record_of
from hwlimits.machine.predict import on_this_computer
from hwlimits.machine.provenance import provenance
from hwlimits.machine.record import Card, CardError, Number
from hwlimits.training import operator_rates, predictions
from hwlimits.training.litert import LiteRTError, LiteRTFile
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
    assert (many.batch, many.weight_bytes) == (8, one.weight_bytes)
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


def test_from_samples_to_a_prediction(int8):
    """Operators that are timed by a planted clock, each as long as it takes on the made-up computer; their card; a
    network's time. A wrong unit anywhere on the way, and the prediction is not that of its operators."""
    kinds = {w.kind for w in works(int8)}
    todo = [s for s in operator_rates.specs() if s.form == "int8" and s.kind in kinds]
    todo = [s for i, s in enumerate(todo) if i % 3 == 0 or s.kind == "SOFTMAX"]
    todo += [s for s in operator_rates.specs() if s.kind == "FULLY_CONNECTED" and s.form == "float32"]
    todo = [s for s in todo if s.shape[-1] * s.outputs < 10**6]  # larger ones take a while to write
    known, _, left_out = operator_rates.prepare(todo)
    assert left_out == {}
    now = [0.0]

    def call(spec):
        now[0] += planted.time_s(known[spec])

    calls = {spec: (lambda spec=spec: call(spec)) for spec in known}
    turns = operator_rates.Turns(calls, 1e-6, clock=lambda: now[0])
    for _ in range(2):
        turns.round()
    card = card_of(tuple(point_of(record_of(point)) for point in operator_rates.points(known, turns)))
    true_s = planted.INVOKE_S + sum(planted.time_s(w) - planted.INVOKE_S + 1e-7 for w in works(int8))
    assert predict(int8, card).time_s == pytest.approx(true_s, rel=0.15)


def test_what_a_network_s_weights_take_is_not_what_flows_between_its_operators(monkeypatch, int8):
    """Copies are made of what only one operator reads and none writes, once for all that read it."""

    def work(name, reads, writes):
        return Work(name, "ADD", "float32", (64.0, 8.0, 1.0, 1.0), 512, reads, writes)

    x, y, z = ("x", 256), ("y", 256), ("z", 256)
    found = [work("a", (x, ("w", 1000)), (y,)), work("b", (y, ("w", 1000), ("v", 70)), (z,)), work("c", (z, y), (x,))]
    monkeypatch.setattr(predictions, "works", lambda file, batch: found)
    assert predict(int8, CARD).weight_bytes == len(int8.content) + 1070


def test_memory_that_can_t_be_planned_is_said_and_the_time_predicted(monkeypatch, int8):
    def fails(*_, **__):
        raise LiteRTError("a shape depends on the data")

    monkeypatch.setattr(predictions, "arena_buffers", fails)
    found = predict(int8, CARD)
    assert (found.memory_bytes, found.activation_bytes) == (None, None)
    assert "no memory is predicted: a shape depends on the data" in found.notes
    assert "one thread, LiteRT's default" in found.notes
    assert found.time_s == predict(int8, CARD).time_s > 0


def test_the_arena_is_that_of_the_default_kernels(monkeypatch, int8):
    """Without scratch buffers, which LiteRT's reference kernels alone take; for the batch that was asked for."""
    asked = []
    made = predictions.arena_buffers
    monkeypatch.setattr(predictions, "arena_buffers", lambda *a, **k: asked.append((a[1:], k)) or made(*a, **k))
    predict(int8, CARD, batch=3)
    assert asked == [((3,), {"scratch": False})]
