"""Code lengths against Huffman's own construction on a heap and, with a limit, against every full code there is."""

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits.bits import CodingError, Reader, Writer
from hwlimits.huffman import canonical_codes, code_lengths, read, write

some_counts = st.lists(st.integers(1, 1000) | st.integers(1, 3), min_size=2, max_size=40)


def heap_bits(counts):
    """Bits of the message with Huffman's code: the sum of all nodes that two are merged to."""
    heap, bits = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        bits += both
        heapq.heappush(heap, both)
    return bits


@settings(deadline=None)
@given(some_counts)
def test_without_a_limit_that_matters_the_bits_are_those_of_the_heap(counts):
    lengths = code_lengths(counts, longest=40)
    assert int(lengths @ counts) == heap_bits(counts)
    assert sum(2.0**-lengths) == 1


@pytest.mark.parametrize("longest", [3, 4, 5])
@pytest.mark.parametrize("counts", [(1, 2, 4, 8), (1, 1, 1, 9), (1, 1, 2, 3, 5), (1, 3, 9, 27, 81), (7, 7, 7)])
def test_with_a_limit_no_full_code_is_shorter(counts, longest):
    all_lengths = itertools.product(range(1, longest + 1), repeat=len(counts))
    best = min(sum(np.multiply(l, counts)) for l in all_lengths if sum(2.0 ** -np.array(l)) <= 1)  # noqa: E741
    lengths = code_lengths(counts, longest)
    assert lengths.max() <= longest
    assert int(lengths @ counts) == best


def test_fibonacci_counts_end_at_the_limit():
    counts = [1, 1]
    while len(counts) < 30:
        counts.append(sum(counts[-2:]))
    lengths = code_lengths(counts)
    assert lengths.max() == 15
    assert sum(2.0**-lengths) == 1
    assert code_lengths(counts, longest=29).max() == 29


@settings(deadline=None)
@given(some_counts)
def test_no_code_begins_another(counts):
    lengths = code_lengths(counts)
    codes = canonical_codes(lengths)
    texts = sorted(f"{c:0{n}b}" for c, n in zip(codes.tolist(), lengths.tolist(), strict=True))
    assert not [a for a, b in itertools.pairwise(texts) if b.startswith(a)]


def test_canonical_codes_are_deflate_s():
    # RFC 1951, section 3.2.2: the example ABCDEFGH
    codes = canonical_codes([3, 3, 3, 3, 3, 2, 4, 4])
    assert codes.tolist() == [0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111]


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=200))
def test_what_is_written_is_read_and_has_the_size_of_table_and_codes(values):
    symbols, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    out = Writer()
    write(out, indices, counts)
    content = out.content()
    bits = 4 * symbols.size + heap_bits(counts.tolist()) if symbols.size > 1 else 0
    assert len(content) == -(-bits // 8)  # no length reaches the limit: at most 200 values
    back = Reader(content)
    assert read(back, symbols.size, len(values)) == indices.tolist()
    back.finish()


def test_more_symbols_than_codes_of_15_bits():
    indices = np.arange(40_000)
    out = Writer()
    write(out, indices, np.ones(40_000, int))
    assert read(Reader(out.content()), 40_000, 40_000) == indices.tolist()


def damaged(lengths, codes=b""):
    out = Writer()
    out.codes(np.array(lengths), np.full(len(lengths), 4))
    return Reader(out.content() + codes)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: code_lengths([]), r"code_lengths\(counts=\[\]\): give each symbol's count, at least 1 each"),
        (lambda: code_lengths([3, 0]), r"code_lengths\(counts=\[3, 0\]\): give each symbol's count"),
        (lambda: code_lengths([1] * 5, longest=2), r"code_lengths\(longest=2\): 5 symbols have no codes of 2 bits"),
        (lambda: canonical_codes([1, 1, 1]), "3 code lengths do not make a full code; the table is damaged"),
        (lambda: canonical_codes([2, 1]), "2 code lengths do not make a full code"),
        (lambda: read(damaged([1, 3, 2, 2]), 4, 4), "4 code lengths do not make a full code"),
        (lambda: read(damaged([0, 1, 2, 2]), 4, 4), "a code of 0 to 2 bits; the table is damaged"),
        (lambda: read(damaged([1, 1]), 2, 1), "1 numbers of at least 1 bits are promised and 0 bits are left"),
        (lambda: read(damaged([1, 2, 2, 0][:2]), 10**9, 10**9), "numbers of at least 5 bits are promised"),
        (lambda: read(damaged([1, 3, 3, 2], b"\xff"), 4, 8), "the content ends before all is decoded"),
    ],
)
def test_errors(call, said):
    with pytest.raises(CodingError, match=said):
        call()
