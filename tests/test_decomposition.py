"""Decompositions against the undivided product and gradient; pipelines counted slot by slot, against closed forms."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits import collectives
from hwlimits.decomposition import (
    DecompositionError,
    average_gradients,
    bubble,
    column_parallel,
    data_bytes,
    in_flight,
    pipeline_bytes,
    pipeline_schedule,
    row_parallel,
    tensor_bytes,
)

RNG = np.random.default_rng(0)

# data


def test_the_average_is_the_gradient_of_the_whole_batch():
    """Least squares, 10 examples on 3 devices: the shares differ, so the plain mean would be wrong."""
    x, y, w = RNG.normal(size=(10, 4)), RNG.normal(size=10), RNG.normal(size=4)

    def gradient(part):
        return 2 * x[part].T @ (x[part] @ w - y[part]) / len(x[part])

    parts = [slice(0, 5), slice(5, 8), slice(8, 10)]
    found = average_gradients([gradient(p) for p in parts], [5, 3, 2])
    assert found.shape == (3, 4)
    np.testing.assert_allclose(found[0], gradient(slice(None)), rtol=1e-12)
    assert np.all(found == found[0]), "all have the same bits"
    plain = np.mean([gradient(p) for p in parts], axis=0)
    assert np.max(np.abs(plain - gradient(slice(None)))) > 0.01
    np.testing.assert_array_equal(average_gradients([np.ones((2, 3))], [7]), np.ones((1, 2, 3)))


def test_data_bytes_by_hand():
    """ResNet-50 of Keras' 25.6 M parameters on 8 devices: 2 x 7/8 of 4 bytes each."""
    assert data_bytes(25_636_712, 8) == 2 * 7 * 25_636_712 // 8 * 4
    assert data_bytes(1000, 1) == 0
    assert data_bytes(1000, 4, element_bytes=2) == 3000


# tensors


@given(tokens=st.integers(1, 4), width=st.integers(4, 9), inner=st.integers(4, 9), out=st.integers(1, 5),
       devices=st.integers(1, 4), seed=st.integers(0, 99))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_columns_then_rows_are_the_product(tokens, width, inner, out, devices, seed):
    """In integers, exactly; with a ReLU between, which needs no communication as each device has whole columns."""
    rng = np.random.default_rng(seed)
    x, a, b = (rng.integers(-9, 10, shape) for shape in ((tokens, width), (width, inner), (inner, out)))
    parts = column_parallel(x, a, devices)
    assert len(parts) == devices
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), x @ a)
    found = row_parallel([np.maximum(part, 0) for part in parts], b)
    np.testing.assert_array_equal(found, np.broadcast_to(np.maximum(x @ a, 0) @ b, (devices, tokens, out)))


def test_the_gradient_of_the_input_is_an_all_reduce():
    """y = x A by columns; the gradient of x is g A^T, with g cut as y is: rows of A^T."""
    x, a, g = RNG.integers(-9, 10, (3, 6)), RNG.integers(-9, 10, (6, 8)), RNG.integers(-9, 10, (3, 8))
    parts = np.split(g, np.cumsum([p.shape[-1] for p in column_parallel(x, a, 3)])[:-1], axis=-1)
    np.testing.assert_array_equal(row_parallel(parts, a.T)[2], g @ a.T)


def test_floats_differ_in_their_last_bits_alone():
    x, a, b = RNG.normal(size=(2, 5, 8)), RNG.normal(size=(8, 12)), RNG.normal(size=(12, 8))
    found = row_parallel(column_parallel(x, a, 4), b)
    assert found.shape == (4, 2, 5, 8)
    np.testing.assert_allclose(found[1], x @ a @ b, rtol=1e-12, atol=1e-12)
    assert np.all(found == found[0])


def test_tensor_bytes_are_four_all_reduces_a_layer():
    """Of each, a device sends 2 (p - 1) / p of the array: 2048 tokens x 1024, 24 layers, 8 devices, 2 bytes."""
    assert tensor_bytes(2048, 1024, 24, 8) == 24 * 4 * 2 * 7 * 2048 * 1024 // 8 * 2
    assert tensor_bytes(2048, 1024, 24, 1) == 0
    # one all-reduce forward, counted on the messages that row_parallel's sum takes
    sent = [0] * 4
    for message in collectives.schedule("ring", 4, 5 * 8).messages:
        sent[message.source] += message.elements
    assert 4 * max(sent) * 2 == tensor_bytes(5, 8, 1, 4)


# pipeline


def slots(kind, p, m, v=1, **times):
    return pipeline_schedule(kind, p, m, chunks=v, **times)


CASES = [(kind, p, m, 1) for kind in ("gpipe", "1f1b") for p in (1, 2, 3, 4, 6) for m in (1, 2, 3, 5, 8, 16)]
CASES += [("interleaved", p, k * p, v) for p in (1, 2, 3, 4, 6) for k in (1, 2, 3) for v in (1, 2, 3)]


@pytest.mark.parametrize(("kind", "p", "m", "v"), CASES)
def test_a_schedule_is_complete_and_in_order(kind, p, m, v):
    found = slots(kind, p, m, v)
    assert len(found.slots) == len(found.rows()) == 2 * p * m * v
    ended = {(s.kind, s.microbatch, s.chunk * p + s.stage): s for s in found.slots}
    assert len(ended) == 2 * p * m * v, "each once"
    for (what, microbatch, piece), slot in ended.items():
        if what == "forward" and piece:
            assert ended["forward", microbatch, piece - 1].stop_s <= slot.start_s
        if what == "backward":
            assert ended["forward", microbatch, piece].stop_s <= slot.start_s
            if piece < p * v - 1:
                assert ended["backward", microbatch, piece + 1].stop_s <= slot.start_s
    for stage in range(p):
        own = [s for s in found.slots if s.stage == stage]
        assert all(a.stop_s <= b.start_s for a, b in itertools.pairwise(own)), "one at a time"


@pytest.mark.parametrize(("kind", "p", "m", "v"), CASES)
@pytest.mark.parametrize(("forward_s", "backward_s"), [(1.0, 2.0), (3.0, 1.0)])
def test_the_counted_bubble_is_the_formulas(kind, p, m, v, forward_s, backward_s):
    found = slots(kind, p, m, v, forward_s=forward_s, backward_s=backward_s)
    assert found.bubble == pytest.approx(bubble(p, m, v), abs=1e-12)
    assert found.makespan_s == pytest.approx((m + Fraction(p - 1, v)) * Fraction(forward_s + backward_s))


@pytest.mark.parametrize(("kind", "p", "m", "v"), CASES)
def test_the_counted_activations_are_the_formulas(kind, p, m, v):
    found = slots(kind, p, m, v)
    for stage in range(p):
        assert found.in_flight(stage) == pytest.approx(in_flight(kind, p, m, stage, v))
        if kind == "1f1b":
            assert found.in_flight(stage) <= p


def test_four_stages_by_hand():
    """Forward and backward of 1 s each. GPipe, 3 microbatches: 12 slots of 2 x (3 + 3); 1F1B by the figure."""
    gpipe = slots("gpipe", 4, 3, forward_s=1, backward_s=1)
    assert gpipe.makespan_s == 12
    assert gpipe.bubble == pytest.approx(3 / 6)
    line = dict.fromkeys(range(4), "")
    for slot in slots("1f1b", 4, 4, forward_s=1, backward_s=1).slots:
        line[slot.stage] = line[slot.stage].ljust(int(slot.start_s), ".") + "FB"[slot.kind == "backward"]
    assert list(line.values()) == ["FFFF...B.B.B.B", ".FFF..BFB.B.B", "..FF.BFBFB.B", "...FBFBFBFB"]


def test_one_microbatch_uses_one_stage_at_a_time():
    assert bubble(8, 1) == 7 / 8
    assert bubble(1, 1) == 0
    assert bubble(8, 10**6) < 1e-5


def test_interleaving_divides_the_bubbles_time_and_multiplies_what_is_sent():
    plain, pieces = slots("1f1b", 4, 8), slots("interleaved", 4, 8, 4)
    waits = [s.bubble * s.makespan_s for s in (plain, pieces)]
    assert waits[0] / waits[1] == pytest.approx(4)
    sent = [pipeline_bytes(1000, 64, 4, v) for v in (1, 4)]
    assert sent == [3 * 2 * 1000 * 64 * 2, 15 * 2 * 1000 * 64 * 2]
    assert pipeline_bytes(1000, 64, 1) == 0
    # counted on the slots: every forward but of the last piece sends its output, every backward but of the first
    for schedule, expected in zip((plain, pieces), sent, strict=True):
        last = schedule.stages * schedule.chunks - 1
        piece = [(s.kind, s.chunk * schedule.stages + s.stage) for s in schedule.slots]
        sends = sum((kind == "forward" and k < last) or (kind == "backward" and k > 0) for kind, k in piece)
        assert sends * (1000 // 8) * 64 * 2 == expected


# errors


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: average_gradients([np.ones(2)], [1, 2]),
            "average_gradients: 1 gradients and 2 numbers of examples; give one for each",
        ),
        (lambda: average_gradients([], []), "average_gradients: 0 gradients and 0 numbers of examples"),
        (
            lambda: average_gradients([np.ones(2)], [0]),
            "average_gradients(examples=0): must be a whole number, at least 1",
        ),
        (
            lambda: average_gradients([np.ones(2), np.ones(3)], [1, 1]),
            "average_gradients: the gradients have the shapes [(2,), (3,)]; give them one",
        ),
        (
            lambda: column_parallel(np.ones((2, 3)), np.ones((4, 5)), 2),
            "column_parallel: (2, 3) times (4, 5); the inner lengths must be equal",
        ),
        (
            lambda: column_parallel(np.ones((2, 4)), np.ones((4, 5)), 6),
            "column_parallel: 5 columns for 6 devices; each must have one at least",
        ),
        (
            lambda: column_parallel(np.ones(4), np.ones(4), 1),
            "column_parallel: the weights have the shape (4,); give a matrix",
        ),
        (
            lambda: row_parallel([np.ones((2, 3)), np.ones((2, 1))], np.ones((4, 5))),
            "row_parallel: the parts have [3, 1] columns; for 4 rows of weights give [2, 2]",
        ),
        (
            lambda: pipeline_schedule("zero", 2, 2),
            "pipeline_schedule(kind='zero'): choose from gpipe, 1f1b, interleaved",
        ),
        (lambda: pipeline_schedule("1f1b", 2, 2, chunks=2), "(kind='1f1b', chunks=2): only 'interleaved' has chunks"),
        (
            lambda: pipeline_schedule("interleaved", 4, 6, chunks=2),
            "pipeline_schedule: 6 microbatches can't be interleaved on 4 stages; give a multiple of 4",
        ),
        (
            lambda: pipeline_schedule("gpipe", 2, 2, backward_s=0),
            "pipeline_schedule(backward_s=0): must be a number above 0",
        ),
        (lambda: pipeline_schedule("gpipe", 0, 2), "pipeline_schedule(stages=0): must be a whole number, at least 1"),
        (lambda: in_flight("gpipe", 2, 2, stage=2), "in_flight(stage=2): the stages are 0 to 1"),
        (lambda: in_flight("g", 2, 2), "in_flight(kind='g'): choose from gpipe, 1f1b, interleaved"),
        (lambda: bubble(2, 1.5), "bubble(microbatches=1.5): must be a whole number, at least 1"),
    ],
)
def test_errors_say_what_was_asked(call, text):
    with pytest.raises(DecompositionError, match=re.escape(text)):
        call()
