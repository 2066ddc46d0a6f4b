"""A few values that many weights share: codes and a codebook, found by k-means on a line.

Quantization spaces its values evenly; here they go where the weights are. A layer is then a small whole number for
each weight, its *code*, and the *codebook* of what each code stands for. The codes are what `hwlimits.coding`
makes short. What pruning made 0 stays exactly 0: zero is the codebook's first value and takes no part in the means.

>>> shared = share([0.0, 1.0, 1.2, -2.0, 0.0], values=3)
>>> shared.codes, shared.codebook
(array([0, 2, 2, 1, 0], dtype=uint8), array([ 0. , -2. ,  1.1]))
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np

STARTS = ("linear", "density")
MOST_VALUES = 65536
LARGEST = 10.0**100  # of a weight: squares and sums stay finite
MOST_ROUNDS = 1000  # of Lloyd's iteration; it ends by itself where no weight changes its code


class SharingError(ValueError):
    """Weights that can't be shared as asked; the text says what to do."""


@dataclass(frozen=True)
class Shared:
    """Codes of the weights' shape, unsigned and as narrow as they fit, and what each stands for."""

    codes: np.ndarray
    codebook: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """The weights that the codes stand for."""
        return self.codebook[self.codes]

    @property
    def packed_bytes(self) -> int:
        """Bytes of the codes in the same whole number of bits each, and of the codebook as float32.

        Deep Compression's equation 1, with its k log2(k) rounded up to whole bits.
        """
        bits = (self.codebook.size - 1).bit_length()
        return -(-self.codes.size * bits // 8) + 4 * self.codebook.size

    def indexed_bytes(self, index_bits: int) -> int:
        """Bytes of the weights that are not 0, each with how many zeros come before it, and of the codebook.

        A weight takes `index_bits` for the zeros before it and the bits of a code. Where more zeros come than that
        counts, 2^index_bits - 1, a *filler* stands: a zero that is stored as if it were a weight. The zeros after
        the last weight take nothing, and the codebook need not have the 0 of those that are left out.

        Source: Han, Mao and Dally, "Deep Compression" (2016, arXiv 1510.00149), section 2 and figure 2.

        >>> share([0, 0, 0, 0, 0, 3.0, 0, 3.0], values=2).indexed_bytes(index_bits=2)  # a filler and two weights
        6
        """
        if isinstance(index_bits, bool) or not isinstance(index_bits, Integral) or not 0 < index_bits < 64:
            raise SharingError(f"indexed_bytes(index_bits={index_bits!r}): must be a whole number from 1 to 63")
        flat = self.codebook[self.codes.ravel()] != 0
        zeros_before = np.diff(np.flatnonzero(flat), prepend=-1) - 1
        stored = zeros_before.size + int(np.sum(zeros_before >> int(index_bits)))
        values = int(np.count_nonzero(self.codebook))
        filled = values + (stored > zeros_before.size)  # a filler's code is one more
        bits = stored * (int(index_bits) + max(filled - 1, 0).bit_length())
        return -(-bits // 8) + 4 * values


def share(weights: np.ndarray, values: int, *, start: str = "linear") -> Shared:
    """At most `values` values for all the weights, so that the squared error is as low as k-means finds.

    values   of the codebook, 0 among them where any weight is 0; with 2**b of them a code takes b bits
    start    'linear': evenly from the least weight to the largest, so that few but large weights have values near
             them; 'density': evenly by count, so that each value begins with as many weights

    The codebook is 0, if any weight is, and then the others in ascending order, the mean of its weights each. It is
    shorter than asked where there are fewer different weights, and then exact. The same weights give the same codes:
    nothing is random. A value that loses all its weights begins again at the weight farthest from its own
    value, in the group with the largest squared error. The result is a local optimum and depends on the start.

    Raises SharingError for no weights, for NaN and what is not below 10^100, and for too few values.

    Source: Han, Mao and Dally, "Deep Compression" (2016, arXiv 1510.00149), section 3; Lloyd, "Least squares
    quantization in PCM" (1982).

    >>> share([1.0, 2.0, 10.0, 11.0], values=2, start="density").weights
    array([ 1.5,  1.5, 10.5, 10.5])
    """
    weights = np.asarray(weights, np.float64)
    if weights.size == 0 or not (np.abs(weights) < LARGEST).all():
        raise SharingError(f"share: weights of shape {weights.shape} must be some, and numbers below {LARGEST:g}")
    if start not in STARTS:
        raise SharingError(f"share(start={start!r}): choose from {', '.join(STARTS)}")
    zero = not weights.all()
    least = 1 + (zero and weights.any())
    if isinstance(values, bool) or not isinstance(values, Integral) or not least <= values <= MOST_VALUES:
        raise SharingError(
            f"share(values={values!r}): must be a whole number from {least} to {MOST_VALUES:,} for these weights"
            + (", with one for 0" if zero else "")
        )
    line = np.sort(weights[weights != 0])
    book, edges = _lloyd(line, int(values) - zero, start) if line.size else (line, np.zeros(0, np.int64))
    codes = np.searchsorted(line[edges[1:]], weights, side="right") if line.size else np.zeros(weights.shape, np.int64)
    if zero:
        codes, book = np.where(weights == 0, 0, codes + 1), np.concatenate([[0.0], book])
    return Shared(codes.astype(np.min_scalar_type(book.size - 1)), book)


def _lloyd(line: np.ndarray, k: int, start: str) -> tuple[np.ndarray, np.ndarray]:
    """Values in ascending order, and where in the sorted weights the group of each begins."""
    different, first = np.unique(line, return_index=True)
    if different.size <= k:
        return different, first
    if start == "linear":
        book = np.linspace(line[0], line[-1], k) if k > 1 else line.mean(keepdims=True)
    else:
        book = line[((np.arange(k) + 0.5) * line.size / k).astype(np.int64)]
    sums = np.concatenate([[0.0], np.cumsum(line)])
    edges = None
    for _ in range(MOST_ROUNDS):
        book, new = _groups(line, book)
        if edges is not None and np.array_equal(new, edges):
            break
        edges = new
        ends = np.append(edges[1:], line.size)
        # a mean of equal weights is that weight, which the sums' rounding may miss
        book = np.clip((sums[ends] - sums[edges]) / (ends - edges), line[edges], line[ends - 1])
    return book, edges


def _groups(line: np.ndarray, book: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values, none of them without weights, and where the group of each begins: each weight's value is nearest."""
    for _ in range(2 * book.size):
        edges = np.concatenate([[0], np.searchsorted(line, (book[1:] + book[:-1]) / 2, side="right")])
        ends = np.append(edges[1:], line.size)
        empty = np.flatnonzero(edges == ends)
        if empty.size == 0:
            return book, edges
        errors = (line - np.repeat(book, ends - edges)) ** 2
        worst = int(np.argmax(np.add.reduceat(np.append(errors, 0.0), edges) * (edges < ends)))
        low, high = line[edges[worst]], line[ends[worst] - 1]
        book = book.copy()
        book[empty[0]] = low if book[worst] - low > high - book[worst] else high
        book.sort()
    return book[edges < ends], edges[edges < ends]  # weights so near each other that nothing lies between
