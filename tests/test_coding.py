"""Arrays through all codes and back, sizes against entropy and an arithmetic coder, and content that is damaged."""

import math
import tracemalloc
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hwlimits.bits import Writer
from hwlimits.coding import CODES, GAP_CODES, CodingError, decode, encode, entropy_bits

EVERY = [(code, gaps) for code in CODES for gaps in (None, *GAP_CODES)]
every = pytest.mark.parametrize(("code", "gaps"), EVERY)
integers = arrays.arrays(
    st.sampled_from(["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i4"]),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
)


def pruned_codes(n=100_000, kept=0.2):
    """4-bit codes of normal weights, the smaller ones pruned."""
    weights = np.random.default_rng(0).normal(size=n)
    size = np.abs(weights)
    return np.where(size < np.quantile(size, 1 - kept), 0, np.round(weights / size.max() * 7)).astype(np.int8)


def same(a, b):
    return a.dtype == b.dtype.newbyteorder("=") and a.shape == b.shape and np.array_equal(a, b)


# --- the same again ----------------------------------------------------------------------------


@every
@settings(deadline=None, max_examples=40)
@given(values=integers)
def test_any_array_of_integers_comes_back(code, gaps, values):
    assert same(decode(encode(values, code, gaps=gaps), values.size), values)


@every
@pytest.mark.parametrize("dtype", ["int8", "int64", "uint64"])
def test_the_ends_of_a_type_come_back(code, gaps, dtype):
    limits = np.iinfo(dtype)
    values = np.array([limits.min, limits.max, 0, 1, limits.max, limits.min], dtype)
    assert same(decode(encode(values, code, gaps=gaps), 6), values)


@every
def test_large_and_strange_arrays_come_back(code, gaps):
    generator = np.random.default_rng(0)
    for values in (
        pruned_codes(),
        np.zeros((3, 0, 5), np.uint8),
        np.zeros(1000, int),
        np.full(1000, -7),
        np.int16(-3),
        np.arange(20_000),
        generator.geometric(0.001, 3000),
        generator.integers(-(2**63), 2**63 - 1, 500),
    ):
        assert same(decode(encode(values, code, gaps=gaps), max(1, np.size(values))), np.asarray(values))


def test_a_constant_is_a_few_bytes():
    content = encode(np.full(1_000_000, 5))
    assert len(content) < 24
    assert decode(content, 10**6).tolist() == [5] * 10**6


# --- sizes -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=100))
def test_entropy_is_the_logarithm_of_each_value_s_share(values):
    by_hand = sum(-math.log2(values.count(v) / len(values)) for v in values)
    assert entropy_bits(values) == pytest.approx(by_hand)


def test_entropy_of_floats_counts_different_values():
    assert entropy_bits(np.linspace(0, 1, 64, dtype=np.float32)) == 64 * 6


def arithmetic_bits(values):
    """The bits of an arithmetic code with exact fractions: as many as tell a number of the last interval."""
    symbols, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    starts = [0, *np.cumsum(counts).tolist()]
    low, width = Fraction(0), Fraction(1)
    for i in indices.tolist():
        low, width = low + width * Fraction(starts[i], len(values)), width * Fraction(int(counts[i]), len(values))
    bits = 0
    while -(-low.numerator * 2**bits // low.denominator) >= (low + width) * 2**bits:
        bits += 1
    return bits


def test_rans_is_an_arithmetic_code_s_size_and_its_table():
    values = pruned_codes(1500)
    header_bytes = len(encode(values[:1])) + 24  # 13 symbols of at most 10 bits, and the last x
    size = arithmetic_bits(values) / 8
    assert size - 2 < len(encode(values)) < 1.01 * size + header_bytes
    assert size == pytest.approx(entropy_bits(values) / 8, abs=2)


def test_pruned_codes_by_every_code():
    values = pruned_codes()
    entropy = entropy_bits(values) / 8
    size = {(code, gaps): len(encode(values, code, gaps=gaps)) for code, gaps in EVERY}
    assert entropy < size["rans", None] < 1.01 * entropy
    assert size["huffman", None] >= values.size / 8, "a bit each at least, and most values are zero"
    # order-0 entropy knows no runs: to tell where the zeros are costs the same, by the gaps or value by value
    assert all(entropy * 0.999 < size["rans", gaps] < 1.02 * entropy for gaps in GAP_CODES)
    assert size["huffman", "rice"] < size["huffman", None]
    # contexts are no order-0 code: they may be shorter than any
    assert size["rans", "rans"] == min(s for (code, gaps), s in size.items() if gaps and code != "contexts")


def test_no_code_of_independent_values_is_below_their_entropy():
    generator = np.random.default_rng(3)
    for different in (2, 16, 300):
        values = generator.integers(0, different, 20_000)
        assert min(len(encode(values, code)) for code in CODES) > entropy_bits(values) / 8


# --- damage ------------------------------------------------------------------------------------


def signed(content):
    """Content with a checksum that is right, as one who means harm would make it."""
    return zlib.crc32(content).to_bytes(4, "big") + content


def outcome(content, max_symbols):
    """'array' of no more than is allowed, or 'error' of decode's own; anything else fails the test."""
    try:
        decoded = decode(content, max_symbols)
    except CodingError as error:
        return "error" if str(error).startswith("decode: ") else f"another error: {error}"
    return "array" if decoded.size <= max_symbols else "too many"


@every
def test_every_truncation_and_every_altered_bit_is_seen(code, gaps):
    values = pruned_codes(150)
    content = encode(values, code, gaps=gaps)
    for n in range(len(content)):
        with pytest.raises(CodingError, match=rf"^decode: {n} bytes whose checksum is not theirs; truncated"):
            decode(content[:n], 150)
    for bit in range(8 * len(content)):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodingError, match="whose checksum is not theirs"):
            decode(altered, 150)


@every
def test_damage_under_a_right_checksum_ends_in_an_error_or_in_an_array(code, gaps):
    values = pruned_codes(300).reshape(3, 100)
    content, generator = encode(values, code, gaps=gaps)[4:], np.random.default_rng(4)
    outcomes = {"error": 0, "array": 0}
    for _ in range(300):
        altered = bytearray(content[: generator.integers(len(content) + 1)] if generator.random() < 0.3 else content)
        for _ in range(generator.integers(1, 4)):
            if altered:
                altered[generator.integers(len(altered)) if generator.random() < 0.5 else 0] = generator.integers(256)
        outcomes[outcome(signed(bytes(altered)), 1000)] += 1
    assert outcomes["error"] > 100, outcomes


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=80))
def test_any_bytes_end_in_an_error_or_in_an_array(content):
    assert outcome(signed(content), 500) in ("error", "array")


def hostile(code=2, gaps=0, dtype=0, shape=(8,), numbers=()):
    out = Writer()
    for value, bits in ((code, 2), (gaps, 2), (dtype, 3)):
        out.fixed(value, bits)
    for number in (len(shape), *shape, *numbers):
        out.number(number)
    return signed(out.content())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes whose checksum is not theirs; truncated, altered or no code"),
        (b"abcdefgh", "8 bytes whose checksum is not theirs"),
        (signed(b""), "the content ends before all is decoded; it is truncated or damaged"),
        (hostile(shape=(2**40,)), "1,099,511,627,776 values, and max_symbols is 1,000; raise it if you trust"),
        (hostile(shape=(2**63,) * 64), "values, and max_symbols is 1,000"),
        (hostile(shape=(1,) * 65), "an array of 65 axes; 64 is the most, so the content is damaged"),
        (hostile(shape=(0, 2**63, 2**63)), r"the shape \(0, \d+, \d+\) is none of an array"),
        (hostile(shape=(0, 2**62, 2**62)), r"the shape \(0, \d+, \d+\) is none of an array"),
        (hostile(gaps=1, numbers=[9]), "9 of 8 values can't be other than 0; the content is damaged"),
        (hostile(gaps=3, numbers=[8, 1, 64, 9]), "the content ends before|gaps that go beyond|do not sum"),
        (hostile(numbers=[0]), "8 values, 0 of them different; the content is damaged"),
        (hostile(numbers=[9]), "8 values, 9 of them different; the content is damaged"),
        (hostile(shape=(1000,), numbers=[900]), "the content ends before all is decoded"),
    ],
)
def test_hostile_content_is_refused(content, said):
    with pytest.raises(CodingError, match=f"^decode: .*({said})"):
        decode(content, 1000)


@every
def test_a_claim_of_a_thousand_million_values_costs_no_memory(code, gaps):
    numbers = [10**9] * (2 if gaps else 1)
    content = hostile(CODES.index(code), 1 + GAP_CODES.index(gaps) if gaps else 0, shape=(10**9,), numbers=numbers)
    tracemalloc.start()
    with pytest.raises(CodingError, match=r"bits are promised|bits are left|ends before|of them different"):
        decode(content, 10**9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    model = 100_000 if code == "contexts" else 0  # its counters: as many for a small array
    assert peak < 100_000 + model


def test_values_that_the_type_does_not_have_are_refused():
    content = encode(np.array([1000, 2000]), "rans")
    body = bytearray(content[4:])
    assert body[0] >> 1 & 7 == 3, "int64"
    body[0] ^= (3 ^ 0) << 1  # says int8
    with pytest.raises(CodingError, match="values that int8 does not have; the content is damaged"):
        decode(signed(bytes(body)), 2)


def test_gaps_beyond_the_end_are_refused():
    out = Writer()
    for value, bits in ((0, 2), (1, 2), (0, 3)):
        out.fixed(value, bits)
    for number in (1, 8, 2):  # one axis of eight values, two of them not 0
        out.number(number)
    out.rice(np.array([3, 4]))  # at 3 and at 8
    with pytest.raises(CodingError, match="decode: gaps that go beyond the 8 values; the content is damaged"):
        decode(signed(out.content()), 8)


def test_bytes_after_the_end_are_refused():
    with pytest.raises(CodingError, match="decode: .* bits are left when all is decoded"):
        decode(signed(encode([1, 2, 3])[4:] + b"\0"), 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: encode([1], "zip"), r"encode\(code='zip'\): choose from rice, huffman, rans"),
        (lambda: encode([1], None), r"encode\(code=None\): choose from rice, huffman, rans"),
        (lambda: encode([1], gaps="zip"), r"encode\(gaps='zip'\): choose from rice, huffman, rans"),
        (lambda: encode([0.5]), "encode: values of type float64 are no integers; quantize them first"),
        (lambda: encode([True]), "encode: values of type bool are no integers"),
        (lambda: encode([2**70]), "encode: values of type object are no integers"),
        (lambda: decode(b"", -1), r"decode\(max_symbols=-1\): must be a whole number, at least 0"),
        (lambda: decode(b"", 2.5), r"decode\(max_symbols=2.5\): must be a whole number"),
        (lambda: decode(encode([1, 2]), 1), "decode: 2 values, and max_symbols is 1; raise it if you trust"),
    ],
)
def test_errors(call, said):
    with pytest.raises(CodingError, match=said):
        call()
