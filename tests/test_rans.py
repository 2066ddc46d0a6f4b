"""rANS against big integers that hold the whole message, and its frequencies against all that there are."""

import itertools
import math

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits.bits import CodingError, Reader, Writer
from hwlimits.coding import entropy_bits
from hwlimits.rans import quantized_frequencies, read, table, write


def cost_bits(counts, frequencies, precision):
    return float(np.sum(np.array(counts) * (precision - np.log2(frequencies))))


@pytest.mark.parametrize("precision", [2, 3, 4, 5])
@pytest.mark.parametrize("counts", [(1, 1), (90, 9, 1), (7, 7, 1), (5, 5, 5), (1, 2, 3, 4), (1000, 1, 1), (7, 7, 1, 1)])
def test_no_frequencies_of_the_same_sum_are_better(counts, precision):
    total = 2**precision
    every = (f for f in itertools.product(range(1, total), repeat=len(counts)) if sum(f) == total)
    best = min(cost_bits(counts, f, precision) for f in every)
    frequencies = quantized_frequencies(counts, precision)
    assert frequencies.sum() == total
    assert cost_bits(counts, frequencies, precision) == pytest.approx(best, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**9) | st.integers(1, 3), min_size=1, max_size=64), st.integers(6, 32))
def test_frequencies_are_at_least_1_and_have_the_sum(counts, precision):
    frequencies = quantized_frequencies(counts, precision)
    assert frequencies.min() >= 1
    assert frequencies.sum() == 2**precision


def big_integer(indices, frequencies, precision):
    """The textbook's rANS: one Python integer for the whole message, no words, no limits."""
    starts, x = [0, *itertools.accumulate(frequencies)], 1
    for i in reversed(indices):
        x = (x // frequencies[i] << precision) + x % frequencies[i] + starts[i]
    return x


@pytest.mark.parametrize("shares", [(0.9, 0.05, 0.05), (0.25,) * 4, (0.999, 0.001), tuple([1 / 64] * 64)])
def test_words_cost_next_to_nothing_against_one_big_integer(shares):
    indices = np.random.default_rng(0).choice(len(shares), 3000, p=shares)
    _, indices, counts = np.unique(indices, return_inverse=True, return_counts=True)
    precision, frequencies = table(counts)
    whole = big_integer(indices.tolist(), frequencies.tolist(), precision).bit_length()
    out, alone = Writer(), Writer()
    write(out, indices, counts)
    alone.fixed(precision, 6)
    alone.rice(frequencies - 1)
    words = 8 * (len(out.content()) - len(alone.content()))
    assert abs(words - whole) <= 48 + 16 + 8  # the last x, a word not full, bytes not full
    assert whole == pytest.approx(cost_bits(counts, frequencies, precision), rel=1e-2, abs=precision + 2)


@settings(deadline=None)
@given(st.lists(st.integers(0, 30) | st.just(0), min_size=1, max_size=300))
def test_what_is_written_is_read(values):
    symbols, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    out = Writer()
    write(out, indices, counts)
    back = Reader(out.content())
    assert read(back, symbols.size, len(values)) == indices.tolist()
    back.finish()


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
def test_a_long_message_is_within_1_percent_of_its_entropy_where_huffman_needs_a_bit(share):
    values = (np.random.default_rng(1).random(100_000) > share).astype(int)
    _, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    out = Writer()
    write(out, indices, counts)
    assert entropy_bits(values) / 8 < len(out.content()) <= 1.01 * entropy_bits(values) / 8 + 16


def test_the_table_takes_the_precision_that_pays():
    assert table([1000, 1000])[0] == 1
    assert table([5])[0] == 0
    long, short = table([999_000, 900, 100])[0], table([9, 2, 1])[0]
    assert short < 6 < long
    sizes = {}
    for precision in range(2, 17):
        frequencies = quantized_frequencies([999_000, 900, 100], precision)
        out = Writer()
        out.rice(frequencies - 1)
        sizes[precision] = cost_bits([999_000, 900, 100], frequencies, precision) + 8 * len(out.content())
    assert sizes[long] <= min(sizes.values()) + 8


def damaged(precision, frequencies, x=1 << 32, more=b""):
    out = Writer()
    out.fixed(precision, 6)
    out.rice(np.array(frequencies) - 1)
    out.fixed(x, 48)
    return Reader(out.content() + more)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: quantized_frequencies([], 4), r"quantized_frequencies\(counts=\[\]\): give counts of at least 1"),
        (lambda: quantized_frequencies([2, 0], 4), r"quantized_frequencies\(counts=\[2.0, 0.0\]\): give counts"),
        (lambda: quantized_frequencies([1] * 5, 2), r"precision=2\): 5 symbols have no frequencies .* the sum 4; take"),
        (lambda: read(damaged(2, [1, 2]), 2, 0), r"frequencies that do not sum to 2\*\*2; the table is damaged"),
        (lambda: read(damaged(63, [1, 2**63 - 1]), 2, 0), r"frequencies that do not sum to 2\*\*63; the table is"),
        (lambda: read(damaged(2, [2, 2], x=(1 << 32) + 1), 2, 0), "the last number is not the one that coding begins"),
        (lambda: read(damaged(2, [2, 2]), 2, 1000), "the content ends before all is decoded"),
        (lambda: read(damaged(2, [2, 2]), 10**9, 10**9), "numbers of at least 1 bits are promised"),
    ],
)
def test_errors(call, said):
    with pytest.raises(CodingError, match=said):
        call()


def test_the_entropy_of_the_reference_is_a_sum_over_symbols():
    assert entropy_bits([0, 1, 1, 1]) == pytest.approx(math.log2(4) + 3 * math.log2(4 / 3))


# --- constriction, another coder ---------------------------------------------------------------


@pytest.mark.parametrize("shares", [(0.9, 0.05, 0.05), (0.25,) * 4, (0.999, 0.001), tuple([1 / 64] * 64)])
def test_constriction_needs_as_many_bytes_with_the_same_table_and_gives_the_same_symbols(shares):
    indices = np.random.default_rng(5).choice(len(shares), 20_000, p=shares)
    _, indices, counts = np.unique(indices, return_inverse=True, return_counts=True)
    precision, frequencies = table(counts)
    model = constriction.stream.model.Categorical(frequencies / 2.0**precision, perfect=False)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(indices.astype(np.int32), model)
    words = coder.get_compressed()
    out, alone = Writer(), Writer()
    write(out, indices, counts)
    alone.fixed(precision, 6)
    alone.rice(frequencies - 1)
    assert abs(len(out.content()) - len(alone.content()) - 4 * words.size) <= 8
    theirs = constriction.stream.stack.AnsCoder(words).decode(model, indices.size)
    assert read(Reader(out.content()), len(counts), indices.size) == theirs.tolist() == indices.tolist()
