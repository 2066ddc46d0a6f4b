"""Fractions of a bit for each symbol: range asymmetric numeral systems, as in Zstandard and JPEG XL.

The whole message is one number x. A symbol with the share f / 2**P of all makes x about 2**P / f times as large, which
is log2(2**P / f) more bits: what the symbol's information is. So that x fits a machine word, its low 16 bits go
out whenever it would grow beyond 48. What is lost against the entropy is the rounding of the shares to f / 2**P, the
table that holds them, and the six bytes of the last x. The decoder runs backwards: the last symbol coded
comes out first, so the encoder begins with the last.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np

from hwlimits.bits import CodingError, Reader, Writer

WORD = 16  # bits that leave x at once
LOWEST = 1 << 32  # x is from here to 2**48; well above 2**P, so that x // f rounds little away
PRECISIONS = 16  # the P that are tried end here, unless the alphabet needs more
MOST_PRECISION = 32  # LOWEST must be a multiple of 2**P


def quantized_frequencies(counts: np.ndarray, precision: int) -> np.ndarray:
    """Whole numbers of at least 1 with the sum 2**precision for which -sum(counts * log2(f / 2**precision)) is least.

    One more for a symbol with count c and frequency f saves c log2(1 + 1/f) bits, less each time; so all savings
    above some level are taken, and the level is found by bisection.
    Raises CodingError for counts below 1, and for more symbols than 2**precision.

    >>> quantized_frequencies([90, 9, 1], precision=4)
    array([14,  1,  1])
    """
    counts, total = np.asarray(counts, np.float64), 1 << precision
    if counts.size == 0 or counts.min() < 1:
        raise CodingError(f"quantized_frequencies(counts={counts.tolist()[:5]}): give counts of at least 1")
    if counts.size > total:
        raise CodingError(
            f"quantized_frequencies(precision={precision}): {counts.size:,} symbols have no frequencies of at least 1 "
            f"with the sum {total:,}; take more precision"
        )

    def above(level: float) -> np.ndarray:
        """The least f for which one more saves at most `level`: log2(1 + 1/f) <= level / count."""
        return np.maximum(1, np.ceil(1 / np.expm1(np.minimum(level / counts, 2) * np.log(2))))

    low, high = counts.min() / (4 * total), 2 * counts.max()  # all f too large; all 1
    while high > low * (1 + 1e-12):
        level = np.sqrt(low * high)
        low, high = (low, level) if above(level).sum() <= total else (level, high)
    frequencies = above(high).astype(np.int64)
    rest = total - int(frequencies.sum())  # symbols whose savings are alike, one for each at most
    best = np.argsort(-counts * np.log2(1 + 1 / frequencies), kind="stable")
    frequencies[best[:rest]] += 1
    return frequencies


def table(counts: np.ndarray) -> tuple[int, np.ndarray]:
    """The precision for which table and message together are shortest, and the frequencies at that precision.

    >>> precision, frequencies = table([1000, 1000])
    >>> precision, frequencies
    (1, array([1, 1]))
    """
    counts = np.asarray(counts)
    least = (counts.size - 1).bit_length()
    best = None
    for precision in range(least, min(max(PRECISIONS, least + 2), MOST_PRECISION) + 1 if counts.size > 1 else 1):
        frequencies = quantized_frequencies(counts, precision)
        bits = float(np.sum(counts * (precision - np.log2(frequencies)))) + _table_bits(frequencies)
        if best is None or bits < best[0]:
            best = bits, precision, frequencies
    return best[1:]


def write(out: Writer, indices: np.ndarray, counts: np.ndarray) -> None:
    """The frequencies in a Rice code, the last x, then the words that left it, the last first.

    indices   the symbols, numbered from 0;   counts   how often each occurs, at least once

    Source: Duda, "Asymmetric numeral systems" (2013, arXiv 1311.2540).
    """
    precision, frequencies = table(counts)
    out.fixed(precision, 6)
    out.rice(frequencies - 1)
    frequencies = frequencies.tolist()
    starts = [0, *accumulate(frequencies)]
    limits = [f << (32 + WORD - precision) for f in frequencies]  # from here on x would leave 48 bits
    x, words = LOWEST, []
    for i in reversed(np.asarray(indices).tolist()):
        if x >= limits[i]:
            words.append(x & 0xFFFF)
            x >>= WORD
        quotient, rest = divmod(x, frequencies[i])
        x = (quotient << precision) + rest + starts[i]
    out.fixed(x, 32 + WORD)
    out.codes(words[::-1], np.full(len(words), WORD))


def read(back: Reader, symbols: int, count: int) -> list[int]:
    """The `count` indices that `write` wrote, of so many symbols.

    Raises CodingError for frequencies that do not sum to 2**P, and unless x ends as it began.
    """
    precision = back.fixed(6)
    frequencies = [f + 1 for f in back.rice(symbols)]
    if precision > MOST_PRECISION or sum(frequencies) != 1 << precision:
        raise CodingError(f"frequencies that do not sum to 2**{precision}; the table is damaged")
    starts = [0, *accumulate(frequencies)]
    x, mask, found = back.fixed(32 + WORD), (1 << precision) - 1, []
    for _ in range(count):
        slot = x & mask
        i = bisect_right(starts, slot) - 1
        x = frequencies[i] * (x >> precision) + slot - starts[i]
        if x < LOWEST:
            x = x << WORD | back.fixed(WORD)
        found.append(i)
    if x != LOWEST:
        raise CodingError("the last number is not the one that coding begins with; the content is damaged")
    return found


def _table_bits(frequencies: np.ndarray) -> int:
    return min(int(np.sum((frequencies - 1) >> k)) + frequencies.size * (k + 1) for k in range(WORD * 2))
