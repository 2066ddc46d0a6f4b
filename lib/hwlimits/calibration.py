"""Which range the codes should span: four answers, from samples or from a histogram of them.

The widest range clips nothing and has the coarsest steps. Each function here returns (low, high), which
`quantization.affine` takes as it is, and `quantization.symmetric` by its larger magnitude. A tensor of one
channel is calibrated like any other, so ranges for each channel come from a loop over the channels.

Activations are too many to keep: a `Histogram` counts them, batch by batch, and stands for them everywhere.

>>> x = np.append(np.linspace(-1, 1, 1000), 50)
>>> [round(float(high), 2) for high in (min_max(x)[1], percentile(x, 99)[1])]
[50.0, 0.99]
"""

from __future__ import annotations

import numpy as np

from hwlimits import quantization
from hwlimits.quantization import QuantizationError

Range = tuple[float, float]
CANDIDATES = 100  # ranges that the search for the least error tries
EMPTY = 1e-4  # what a bin without numbers counts as, where a logarithm needs one


class Histogram:
    """Counts of numbers in 2 × `bins` equal bins about 0, from -limit to limit, filled batch by batch.

    The first batch that is not all 0 sets the limit, its largest magnitude. A larger number doubles the
    limit, as often as needed, and merges bins in pairs, so that no count is ever guessed. The least and
    the largest number are kept exactly. 2,048 bins for the magnitudes are TensorRT's.
    Raises QuantizationError for an odd number of bins, and for NaN and infinities.

    >>> histogram = Histogram(4)
    >>> histogram.add([-1.0, 0.3, 1.0])
    >>> histogram.add([1.5])
    >>> histogram.limit, histogram.counts.tolist()
    (2.0, [0, 0, 1, 0, 1, 1, 0, 1])
    """

    def __init__(self, bins: int = 2048):
        if bins < 2 or bins % 2:
            raise QuantizationError(f"Histogram(bins={bins}): bins merge in pairs, so their number is even, at least 2")
        self.bins, self.limit = bins, 0.0
        self.counts = np.zeros(2 * bins, np.int64)
        self.low, self.high = np.inf, -np.inf

    def add(self, x) -> None:
        """Count the numbers of one more batch, of any shape."""
        x = _samples("Histogram.add", x)
        if not x.size:
            return
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        largest = max(-self.low, self.high)
        if self.limit == 0 < largest:
            zeros = int(self.counts.sum())  # all that came so far
            self.limit, self.counts[:] = largest, 0
            self.counts[self.bins] = zeros
        while self.limit < largest:
            half = self.bins // 2
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([np.zeros(half, np.int64), merged, np.zeros(half, np.int64)])
            self.limit *= 2
        share = x / self.limit if self.limit else x
        bins = np.minimum(np.floor((share + 1) * self.bins), 2 * self.bins - 1).astype(np.int64)
        self.counts += np.bincount(bins, minlength=2 * self.bins)

    @property
    def edges(self) -> np.ndarray:
        """Where the bins begin, and the end of the last."""
        return np.linspace(-self.limit, self.limit, 2 * self.bins + 1)

    @property
    def magnitudes(self) -> np.ndarray:
        """Counts of the absolute values, in `bins` bins from 0 to the limit."""
        return self.counts[self.bins :] + self.counts[: self.bins][::-1]


def min_max(x, axis: int | None = None) -> tuple:
    """The least and the largest number; with `axis` arrays of them, one for each channel.

    `x` is an array, or without `axis` a Histogram. Raises QuantizationError where there are no numbers.

    >>> min_max([[1.0, -2.0], [0.5, 3.0]], axis=1)
    (array([ 0.5, -2. ]), array([1., 3.]))
    """
    if axis is None:
        if isinstance(x, Histogram):
            _weighted("min_max", x)
            return x.low, x.high
        values, _ = _weighted("min_max", x)
        return float(values.min()), float(values.max())
    x = np.asarray(x, np.float64)
    _weighted("min_max", x)
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    return x.min(axis=others), x.max(axis=others)


def percentile(x, percent: float = 99.9) -> Range:
    """The range that holds `percent` of the numbers and leaves out as many below as above.

    Exact for samples, with the quantiles interpolated linearly; from a Histogram the outer edges of the bins
    where the counts pass, so never too narrow. Raises QuantizationError for a percent outside (0, 100].

    >>> percentile(np.arange(1001.0), 90)
    (50.0, 950.0)
    """
    if not 0 < percent <= 100:
        raise QuantizationError(f"percentile(percent={percent}): it is above 0 and at most 100")
    values, counts = _weighted("percentile", x)
    tail = (100 - percent) / 200
    if not isinstance(x, Histogram):
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)
    total = counts.sum()
    first = np.flatnonzero(np.cumsum(counts) > tail * total)[0]
    last = len(counts) - 1 - np.flatnonzero(np.cumsum(counts[::-1]) > tail * total)[0]
    return max(x.low, float(x.edges[first])), min(x.high, float(x.edges[last + 1]))


def mean_square_error(x, bits: int = 8, *, symmetric: bool = False) -> Range:
    """The range whose codes come nearest to the numbers, of 1/100 to 100/100 of [least, largest].

    Nearest in the mean square of the difference, which counts what is clipped and what is rounded alike; of
    equal ones the widest. From a Histogram each bin's middle stands for its numbers.
    `symmetric` takes the codes of `quantization.symmetric` instead of the affine ones.

    >>> x = np.random.default_rng(0).standard_normal(10_000)
    >>> [round(mean_square_error(x, bits)[1], 1) for bits in (2, 4, 8)]
    [1.5, 2.3, 3.4]
    """
    values, counts = _weighted("mean_square_error", x)
    low, high = min_max(x)
    best, least = (low, high), np.inf
    for k in range(CANDIDATES, 0, -1):
        ends = low * k / CANDIDATES, high * k / CANDIDATES
        largest = max(-ends[0], ends[1])
        q = quantization.symmetric(largest, bits) if symmetric else quantization.affine(*ends, bits)
        error = np.average((values - quantization.fake_quantize(values, q)) ** 2, weights=counts)
        if error < least:
            best, least = ends, error
    return best


def entropy(x, bits: int = 8) -> Range:
    """The range [-t, t], or [0, t] where no number is negative, whose codes lose the least information.

    For each t at the edge of a bin of magnitudes, P is the histogram up to t with all that lies beyond in its
    last bin; Q is the same without what lies beyond, its bins merged into as many as there are codes for
    magnitudes, and each merged count spread again over those of its bins that are not empty. The t with the
    least Kullback-Leibler divergence of Q from P is taken, of equal ones the largest. The first bin, where
    ReLU puts its zeros, has a code of its own whatever t is: it is counted as the second is. A bin that is
    empty in Q counts as 1/10,000 of a number, or one far number would make every t infinitely bad.

    Source: Migacz, "8-bit Inference with TensorRT" (2017); the share for an empty bin is Apache MXNet's. There
    are 2^(bits-1) codes for magnitudes, or 2^bits where the range is [0, t]; TensorRT has 2^(bits-1) throughout.
    Raises QuantizationError where a histogram has no more bins than there are codes.

    >>> x = np.append(np.random.default_rng(0).standard_normal(10_000), 50.0)
    >>> 2 < entropy(x)[1] < 10
    True
    """
    quantization._check_bits("entropy", bits)
    histogram = x
    if not isinstance(x, Histogram):
        histogram = Histogram(max(2048, 2 ** (bits + 3)))
        histogram.add(x)
    _weighted("entropy", histogram)
    signed = histogram.low < 0
    codes = 2 ** (bits - signed)
    if histogram.bins <= codes:
        raise QuantizationError(
            f"entropy(bits={bits}): a histogram of {histogram.bins} bins can't tell {codes} codes apart; "
            f"make it of {8 * codes}"
        )
    counts = histogram.magnitudes.astype(np.float64)
    counts[0] = counts[1]
    if not counts.any():  # nothing but zeros
        return histogram.low, histogram.high
    beyond = np.append(np.cumsum(counts[::-1])[::-1], 0)
    best, least = histogram.bins, np.inf
    for bins in range(histogram.bins, codes - 1, -1):
        p = counts[:bins].copy()
        p[-1] += beyond[bins]
        # bin i of `bins` falls to code i · codes / bins, rounded down
        code = np.arange(bins) * codes // bins
        filled = counts[:bins] > 0
        merged = np.bincount(code, counts[:bins], codes)
        among = np.maximum(np.bincount(code, filled, codes), 1)
        divergence = _divergence(p, np.where(filled, (merged / among)[code], 0))
        if divergence < least:
            best, least = bins, divergence
    t = best * histogram.limit / histogram.bins
    return (-t if signed else 0.0), t


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Kullback-Leibler divergence of counts `q` from counts `p`, in nats."""
    q = np.where(q == 0, EMPTY, q)
    p, q = p / p.sum(), q / q.sum()
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / q[there])))


def _samples(where: str, x) -> np.ndarray:
    return quantization._numbers(where, x).astype(np.float64).ravel()


def _weighted(where: str, x) -> tuple[np.ndarray, np.ndarray]:
    """The numbers and how often each is there."""
    if isinstance(x, Histogram):
        values, counts = (x.edges[1:] + x.edges[:-1]) / 2, x.counts
    else:
        values = _samples(where, x)
        counts = np.ones(values.size)
    if not counts.sum():
        raise QuantizationError(f"{where}: there are no numbers to take a range from")
    return values, counts
