"""A whole number of bits for each symbol, fewer for frequent ones: Huffman's code, as Deflate and JPEG keep it.

The lengths say it all: with the symbols sorted by length, and alike ones by value, each code is the one before plus
one, shifted to its length. A decoder needs only the lengths (such a code is called canonical). They end at 15 bits,
so that one look at a table of 32,768 patterns decodes a symbol.

>>> lengths = code_lengths([5, 2, 1, 1])
>>> lengths, canonical_codes(lengths)
(array([1, 2, 3, 3]), array([0, 2, 6, 7]))
"""

from __future__ import annotations

import numpy as np

from hwlimits.bits import CodingError, Reader, Writer

LONGEST = 15  # bits of a code, as in Deflate; four bits say a length


def code_lengths(counts: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """Bits of each symbol's code: those for which sum(counts * lengths) is least with none above `longest`.

    A single symbol takes 0 bits: how many there are says all.
    Raises CodingError for counts below 1, and for more symbols than codes of `longest` bits.

    Source: Huffman, "A method for the construction of minimum-redundancy codes" (1952); with the limit, the
    package-merge of Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes" (1990).

    >>> code_lengths([8, 4, 2, 1, 1]), code_lengths([8, 4, 2, 1, 1], longest=3)
    (array([1, 2, 3, 4, 4]), array([1, 3, 3, 3, 3]))
    """
    counts = np.asarray(counts, np.int64)
    n = counts.size
    if n == 0 or counts.min() < 1:
        raise CodingError(f"code_lengths(counts={counts.tolist()[:5]}): give each symbol's count, at least 1 each")
    if n > 2**longest:
        raise CodingError(f"code_lengths(longest={longest}): {n:,} symbols have no codes of {longest} bits; take more")
    order = np.argsort(counts, kind="stable")
    light_first, packages, levels = counts[order], counts[:0], []
    for _ in range(longest):
        both = np.concatenate([light_first, packages])
        by_weight = np.argsort(both, kind="stable")
        levels.append(by_weight < n)  # which of this level are symbols; the rest are pairs of the level before
        packages = both[by_weight][: both.size // 2 * 2].reshape(-1, 2).sum(axis=1)
    lengths, take = np.zeros(n, np.int64), 2 * n - 2
    for symbols in reversed(levels):
        taken = int(symbols[:take].sum())
        lengths[order[:taken]] += 1
        take = 2 * (take - taken)
    return lengths


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """The codes of these lengths, as numbers: in order of length, alike ones in order of symbol.

    Raises CodingError unless the lengths make a full code: sum(2**-length) = 1 (Kraft 1949).

    >>> canonical_codes([2, 1, 2])
    array([2, 0, 3])
    """
    lengths = np.asarray(lengths, np.int64)
    longest = int(lengths.max(initial=0))
    shares = 1 << (longest - lengths)
    if lengths.size == 0 or shares.sum() != 1 << longest:
        raise CodingError(f"{lengths.size:,} code lengths do not make a full code; the table is damaged")
    order = np.argsort(lengths, kind="stable")
    codes = np.empty_like(lengths)
    codes[order] = (np.cumsum(shares[order]) - shares[order]) >> (longest - lengths[order])
    return codes


def write(out: Writer, indices: np.ndarray, counts: np.ndarray) -> None:
    """The code's lengths, then the code of each symbol.

    indices   the symbols, numbered from 0;   counts   how often each occurs, at least once
    """
    if len(counts) == 1:
        return
    longest = _longest(len(counts))
    lengths = code_lengths(counts, longest)
    out.codes(lengths, np.full(lengths.size, longest.bit_length()))
    out.codes(canonical_codes(lengths)[indices], lengths[indices])


def read(back: Reader, symbols: int, count: int) -> list[int]:
    """The `count` indices that `write` wrote, of so many symbols. Raises CodingError for a damaged table."""
    if symbols == 1:
        return [0] * count
    width = _longest(symbols).bit_length()
    back.expect(symbols, width)
    lengths = np.array([back.fixed(width) for _ in range(symbols)])
    if lengths.min() < 1 or lengths.max() > _longest(symbols):
        raise CodingError(f"a code of {lengths.min()} to {lengths.max()} bits; the table is damaged")
    canonical_codes(lengths)  # checks that it is full
    back.expect(count)
    longest, order = int(lengths.max()), np.argsort(lengths, kind="stable")
    found = np.repeat(order, 1 << (longest - lengths[order]))
    return back.lookup(count, longest, found.tolist(), lengths[found].tolist())


def _longest(symbols: int) -> int:
    return max(LONGEST, (symbols - 1).bit_length())
