"""Decisions through the range coder and back; sizes against exact intervals and against entropy; damaged content."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hwlimits import contexts
from hwlimits.bits import CodingError, Reader, Writer
from hwlimits.coding import entropy_bits
from hwlimits.range_coder import WIDTH, Decoder, Encoder

decisions = st.lists(
    st.tuples(st.sampled_from([1, 9, 700, 32768, 65000, 65535]) | st.integers(1, 65535), st.booleans())
)


def content_of(values):
    out = Writer()
    contexts.write(out, values)
    return out.content()


def back(values, content=None):
    return contexts.read(Reader(content_of(values) if content is None else content), [np.shape(v) for v in values])


def bits_of(*values):
    return contexts.write(Writer(), values)


# --- the range coder -----------------------------------------------------------------------------


def exact_bits(coded):
    """The shortest binary fraction in the interval, by exact arithmetic on the interval [0, 1)."""
    low, width = Fraction(0), Fraction(1)
    for probability, bit in coded:
        part = width * probability / 65536
        low, width = (low, part) if bit else (low + part, width - part)
    bits = 0
    while -(-low.numerator * 2**bits // low.denominator) >= (low + width) * 2**bits:
        bits += 1
    return bits


@settings(deadline=None, max_examples=150)
@given(decisions)
@example([(257, True), (1, True)])
def test_decisions_come_back_in_as_few_bits_as_they_are_worth(coded):
    encoder = Encoder()
    for probability, bit in coded:
        assert encoder.code(probability, int(bit)) == bit
    shares = [p if bit else 65536 - p for p, bit in coded]
    worth = sum(-math.log2(share / 65536) for share in shares)
    # the interval is at least 2**(WIDTH - 8) wide, and its parts are whole numbers: each is off by less than 1
    off = sum(math.log2(1 + 1 / (2 ** (WIDTH - 8) * share / 65536 - 1)) for share in shares) + 1e-6
    assert encoder.position() == pytest.approx(worth, abs=off)
    content, bits = encoder.finish()
    assert bits <= worth + 2 + off
    assert len(content) == -(-bits // 8)
    decoder = Decoder(content)
    assert [decoder.code(probability) for probability, _ in coded] == [int(bit) for _, bit in coded]
    decoder.finish()


def test_the_bits_are_those_of_exact_arithmetic():
    """Where a number ends is luck, for each of the two its own: over 20 messages they are as long."""
    more = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        chances = generator.integers(1000, 64000, 400)
        coded = [(int(p), int(u * 65536 < p)) for p, u in zip(chances, generator.random(400), strict=True)]
        encoder = Encoder()
        for probability, bit in coded:
            encoder.code(probability, bit)
        more.append(encoder.finish()[1] - exact_bits(coded))
    assert abs(np.mean(more)) < 1


def test_a_carry_goes_through_all_bytes_of_255():
    seen = 0
    for seed in range(300):  # decisions for the upper part bring the interval up to a whole number's edge
        generator = np.random.default_rng(seed)
        coded = [(65535, 0)] * 3 + [
            (int(p), int(b)) for p, b in zip(generator.choice([1, 32768], 60), generator.random(60) < 0.5, strict=True)
        ]
        encoder = Encoder()
        before = b""
        for probability, bit in coded:
            encoder.code(probability, bit)
            seen += encoder.out[: len(before)] != before
            before = bytes(encoder.out)
        decoder = Decoder(encoder.finish()[0])
        assert [decoder.code(p) for p, _ in coded] == [b for _, b in coded]
    assert seen, "no carry was ever needed: the test tests nothing"


def test_content_that_no_decision_needs_is_refused():
    encoder = Encoder()
    for _ in range(50):
        encoder.code(40000, 1)
    content, _ = encoder.finish()
    decoder = Decoder(content + bytes(9))
    for _ in range(50):
        decoder.code(40000)
    with pytest.raises(CodingError, match="bytes are left when all is decoded; the content is damaged"):
        decoder.finish()


# --- tensors --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_tensors_come_back(data):
    shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    small, large = st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1)
    kinds = st.sampled_from([small, st.integers(-40, 40), large])
    values = [
        data.draw(arrays.arrays(np.int64, data.draw(shapes), elements=data.draw(kinds)))
        for _ in range(data.draw(st.integers(0, 4)))
    ]
    found = back(values)
    assert [v.shape for v in found] == [v.shape for v in values]
    assert all(np.array_equal(a, b) for a, b in zip(found, values, strict=True))


def normal_codes(n, steps_per_deviation, seed=0):
    return np.round(np.random.default_rng(seed).normal(size=n) * steps_per_deviation).astype(np.int64)


@pytest.mark.parametrize(
    ("n", "steps", "most"), [(100, 1.5, 1.20), (400, 1.5, 1.06), (1500, 1.5, 1.025), (1500, 4, 1.03)]
)
def test_small_tensors_are_near_their_entropy_with_all_that_must_be_learnt(n, steps, most):
    values = normal_codes(n, steps)
    assert 8 * len(content_of([values])) < most * entropy_bits(values) + 8


def test_what_one_tensor_taught_helps_the_next():
    generator = np.random.default_rng(4)
    first, second = (generator.choice([-4, -3, 3, 4], shape) for shape in ((30, 30), (10, 10)))
    assert bits_of(first, second)[1] < bits_of(second)[0] - 20


def test_gains_around_a_mean_cost_what_their_spread_does():
    gains = np.round(np.random.default_rng(9).normal(40, 2, 300)).astype(int)
    assert bits_of(gains)[0] < 1.03 * entropy_bits(gains) + 30  # the median, and what must be learnt
    assert bits_of(gains)[0] < 0.75 * bits_of(gains[:, None])[0], "with two axes they are coded from 0"


def test_numbers_that_rise_cost_less_by_their_order():
    values = np.sort(np.random.default_rng(10).integers(-15, 16, 16))
    ways = math.log2(math.comb(16 + 30, 16))  # of 16 numbers that rise within 31
    assert bits_of(values)[0] < ways + 16
    assert bits_of(values)[0] < bits_of(values[::-1])[0] - 0.6 * math.log2(math.factorial(16))


@pytest.mark.parametrize(
    "values", [[5, 5, 5], [-9, -9, 40], [7, 6, 9, 8], [2**31, 2**31 + 1, 2**31 + 2], [-(2**31) + 1, 0, 2**31 - 1], [3]]
)
def test_tensors_of_one_axis_come_back(values):
    several = [np.array(values), np.array(values)[::-1], np.array(values)]
    assert all(np.array_equal(a, b) for a, b in zip(back(several), several, strict=True))


def test_the_shorter_of_two_beginnings_is_taken():
    by_content = {}
    for values in (normal_codes((30, 30), 3), np.where(np.random.default_rng(8).random((40, 40)) < 0.1, 1, 0)):
        each = [sum(contexts._code(Encoder(), [values.shape], [values.ravel().tolist()], sure)[1]) for sure in (0, 1)]
        assert sum(bits_of(values)) == pytest.approx(min(each), abs=2)
        by_content[values.shape] = int(np.argmin(each))
    assert by_content == {(30, 30): 1, (40, 40): 0}, "each is the shorter somewhere"


def test_independent_values_cost_their_entropy():
    values = np.where(np.random.default_rng(5).random((200, 300)) < 0.02, normal_codes((200, 300), 2), 0)
    assert sum(bits_of(values)) < 1.015 * entropy_bits(values)


def test_empty_rows_and_columns_are_seen():
    generator = np.random.default_rng(6)
    values = np.where(generator.random((200, 100)) < 0.4, normal_codes((200, 100), 2), 0)
    values[generator.random(200) < 0.4] = 0
    values[:, generator.random(100) < 0.4] = 0
    assert sum(bits_of(values)) < 0.9 * entropy_bits(values)
    mixed = generator.permutation(values.ravel()).reshape(values.shape)
    assert sum(bits_of(mixed)) > 0.99 * entropy_bits(mixed), "nothing is there to be seen"


def test_neighbours_of_a_kernel_s_taps_are_seen():
    generator = np.random.default_rng(7)
    used = generator.random((1, 1, 30, 40)) < 0.3  # a filter for a channel is there with all its taps, or not
    values = np.where(used, np.abs(normal_codes((3, 3, 30, 40), 2)) + 1, 0)
    assert sum(bits_of(values)) < 0.75 * entropy_bits(values)


def test_the_bits_of_tensors_sum_to_the_content():
    values = [normal_codes((20, 20), 3), normal_codes(20, 30)]
    assert sum(bits_of(*values)) == pytest.approx(8 * len(content_of(values)), abs=10)


def test_the_content_is_the_same_on_every_computer():
    """These bytes are the format: if they change, files that are there can't be read, and hwz.VERSION must change."""
    values = [np.array([[0, -1, 2], [5, 0, -40]]), np.array([63, 20, 0, -7])]
    assert content_of(values).hex() == "83f6ecce1ab5661829809a0028bb28"
    # many large numbers: the counters of their bits count far enough to tell how fast they learn
    large = [np.arange(400).reshape(20, 20) * 7919 % 1009 - 500]
    assert hashlib.sha256(content_of(large)).hexdigest()[:16] == "8ff53684f0e94887"


# --- damage -----------------------------------------------------------------------------------------


def test_truncated_content_is_refused():
    values = [normal_codes((20, 20), 3)]
    content = content_of(values)
    for n in range(0, len(content) - 4, 7):
        with pytest.raises(CodingError, match="the content ends before all is decoded; it is truncated or damaged"):
            back(values, content[:n])


def test_values_that_a_type_does_not_have_are_refused():
    content = content_of([np.array([-5, 3])])
    with pytest.raises(CodingError, match="values that uint64 does not have; the content is damaged"):
        contexts.read(Reader(content), [(2,)], np.uint64)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60))
def test_any_bytes_end_in_an_error_or_in_the_shapes_asked_for(content):
    shapes = [(3, 3, 2, 4), (9,), (5, 8), ()]
    try:
        found = contexts.read(Reader(content), shapes)
    except CodingError:
        return
    assert [v.shape for v in found] == shapes
