"""Requests that arrive when they please, a server that takes them in batches, and how long each then waits.

A mean speed is no answer to "in time?": while one request is served, others arrive and wait. `serve` carries out
what a server with a queue does, event by event, from the times of arrival and the time of a batch; it is
deterministic. `tail` and `missed` say what share is late, with an interval.

>>> serve(poisson(rate_per_s=200, count=6), lambda batch: 0.01 + 0.001 * batch, largest=4).batches
(1, 4, 1)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np


class QueueError(ValueError):
    """A server, arrivals or a share that can't be; the text says what to do."""


@dataclass(frozen=True)
class Served:
    """What became of the requests, in the order of their arrival.

    latencies_s  from arrival to the end of the batch that a request was in
    waits_s      from arrival to the beginning of it
    batches      how many were in each batch
    end_s        when the last one was done
    """

    latencies_s: np.ndarray
    waits_s: np.ndarray
    batches: tuple[int, ...]
    end_s: float

    @property
    def per_s(self) -> float:
        """Requests done a second, until the last one was."""
        return len(self.latencies_s) / self.end_s

    @property
    def mean_batch(self) -> float:
        return len(self.latencies_s) / len(self.batches)


def poisson(rate_per_s: float, count: int, seed: int = 0) -> np.ndarray:
    """Times of arrival in s of requests that know nothing of each other, at `rate_per_s` in the mean.

    >>> poisson(rate_per_s=1000, count=3).round(4)
    array([0.0007, 0.0017, 0.0017])
    """
    rate_per_s, (count,) = _above("poisson", rate_per_s=rate_per_s), whole("poisson", count=count)
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, count))


def serve(
    arrivals_s: Sequence[float], service_s: Callable[[int], float], *, largest: int = 1, wait_s: float = 0.0
) -> Served:
    """One server, first come first served, in batches.

    service_s   seconds for a batch of so many requests
    largest     requests in a batch, at most
    wait_s      for how long the oldest request waits for others to fill its batch, while the server has nothing to do

    A free server begins once the batch is full or its oldest has waited `wait_s`; it takes all that are there by then,
    up to `largest`. Raises QueueError for arrivals out of order.

    >>> serve([0.0, 0.0, 0.0], lambda batch: 1.0, largest=2).latencies_s
    array([1., 1., 2.])
    """
    arrivals = in_order(arrivals_s)
    (largest,) = whole("serve", largest=largest)
    check_wait("serve", wait_s)
    starts, ends, batches = np.empty_like(arrivals), np.empty_like(arrivals), []
    free_s, first = 0.0, 0
    while first < len(arrivals):
        begin_s = max(free_s, begin_of(arrivals, first, largest, wait_s))
        size = min(largest, int(np.searchsorted(arrivals, begin_s, "right")) - first)
        took_s = service_s(size)
        if not 0 < took_s < math.inf:
            raise QueueError(f"serve: service_s({size}) is {took_s}; a batch takes longer than 0 s")
        free_s = begin_s + took_s
        starts[first : first + size], ends[first : first + size] = begin_s, free_s
        batches.append(size)
        first += size
    return Served(ends - arrivals, starts - arrivals, tuple(batches), free_s)


def begin_of(arrivals: np.ndarray, first: int, largest: int, wait_s: float) -> float:
    """When a batch whose oldest request is number `first` may begin: it is full, or that one has waited enough."""
    full = first + largest - 1
    filled_s = arrivals[full] if full < len(arrivals) else math.inf
    return float(min(filled_s, arrivals[first] + wait_s))


def md1_wait_s(rate_per_s: float, service_s: float) -> float:
    """Mean wait with random arrivals and one fixed service time (Pollaczek 1930; Khinchine 1932).

    With the share of time that the server is busy, r = rate service: service r / (2 (1 - r)).
    Raises QueueError from r = 1 on: the queue then grows without end.

    >>> round(md1_wait_s(rate_per_s=90, service_s=0.01), 6), round(md1_wait_s(rate_per_s=50, service_s=0.01), 6)
    (0.045, 0.005)
    """
    rate_per_s, service_s = _above("md1_wait_s", rate_per_s=rate_per_s), _above("md1_wait_s", service_s=service_s)
    busy = rate_per_s * service_s
    if busy >= 1:
        raise QueueError(
            f"md1_wait_s: {rate_per_s:g} requests/s of {service_s:g} s each keep {busy:.2f} servers busy, so the queue "
            "of one grows without end"
        )
    return service_s * busy / (2 * (1 - busy))


# --- late or not -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tail:
    """A quantile of latencies and its interval in s; `low_s` or `high_s` is None where the samples are too few."""

    share: float
    value_s: float
    low_s: float | None
    high_s: float | None
    samples: int


def quantile_s(samples_s: Sequence[float], share: float) -> float:
    """The least of the samples within which `share` of them are: p50 for 0.5, p99 for 0.99.

    One that was seen, and no mean of two (Hyndman and Fan 1996, definition 1). A share's error of rounding counts for
    nothing: of 100 samples, 0.55 are 55, though 0.55 * 100 is above 55 in floating point.

    >>> quantile_s(range(1, 101), 0.55), quantile_s([0.1, 0.2, 0.9], 0.5)
    (55.0, 0.2)
    """
    samples = _samples("quantile_s", samples_s)
    _share("quantile_s", share=share)
    number = math.ceil(share * len(samples) * (1 - 1e-12))  # from 1 on; 1e-12: far above rounding, far below 1 / n
    return float(np.sort(samples)[max(number, 1) - 1])


def tail(samples_s: Sequence[float], share: float, confidence: float = 0.95) -> Tail:
    """The time within which `share` of all requests is done, with an interval that assumes no distribution.

    The time is `quantile_s`. Of n samples in order, the number below the true quantile is binomial: two order
    statistics bound it (Conover 1999, section 3.2). Too few samples leave a side open: a 99.9th percentile
    needs thousands. The samples are taken as independent; what slows down one request slows down its
    neighbours, too, so that the true interval is rather wider.

    >>> found = tail([1.0] * 90 + [9.0] * 10, 0.5)
    >>> found.value_s, found.low_s, found.high_s
    (1.0, 1.0, 1.0)
    >>> print(tail([1.0, 2.0, 3.0], 0.99).high_s)
    None
    """
    from scipy import stats  # takes longer to import than all else here

    samples = _samples("tail", samples_s)
    _share("tail", share=share)
    _share("tail", confidence=confidence)
    n, beyond = len(samples), (1 - confidence) / 2
    ordered = np.sort(samples)
    # With B samples below the quantile, number i (from 1) is above it if B < i: at most `beyond` of the time for `low`,
    # and number `high` is below it if B >= high, as seldom.
    low, high = int(stats.binom.ppf(beyond, n, share)), int(stats.binom.ppf(1 - beyond, n, share)) + 1
    return Tail(
        share,
        quantile_s(samples, share),
        float(ordered[low - 1]) if low >= 1 else None,
        float(ordered[high - 1]) if high <= n else None,
        n,
    )


def missed(samples_s: Sequence[float], deadline_s: float, confidence: float = 0.95) -> tuple[float, float, float]:
    """The share of requests that took longer than the deadline, and its interval (Clopper and Pearson 1934).

    With none late, the interval still ends above 0, at about 3 / n: what was never seen is not impossible.

    >>> [round(x, 4) for x in missed([0.001] * 1000, deadline_s=0.01)]
    [0.0, 0.0, 0.0037]
    """
    from scipy import stats

    samples, deadline_s = _samples("missed", samples_s), _above("missed", deadline_s=deadline_s)
    _share("missed", confidence=confidence)
    late, n, beyond = int((samples > deadline_s).sum()), len(samples), (1 - confidence) / 2
    low = float(stats.beta.ppf(beyond, late, n - late + 1)) if late else 0.0
    high = float(stats.beta.ppf(1 - beyond, late + 1, n - late)) if late < n else 1.0
    return late / n, low, high


# --- checks ------------------------------------------------------------------------------------


def check_wait(function: str, wait_s: float) -> None:
    """Raises QueueError unless the oldest request waits for a number of s, 0 or more, that ends."""
    if isinstance(wait_s, bool) or not isinstance(wait_s, Real) or not 0 <= wait_s < math.inf:
        raise QueueError(f"{function}(wait_s={wait_s!r}): the oldest request waits 0 s or longer, and not for ever")


def in_order(arrivals_s: Sequence[float]) -> np.ndarray:
    """The times of arrival as an array. Raises QueueError unless they are one or more, from 0 on, in order."""
    arrivals = np.asarray(arrivals_s, float)
    if arrivals.ndim != 1 or not arrivals.size or not np.isfinite(arrivals).all() or arrivals[0] < 0:
        raise QueueError(f"arrivals of shape {arrivals.shape}: give one or more times in s from 0 on")
    if (np.diff(arrivals) < 0).any():
        late = int(np.argmax(np.diff(arrivals) < 0)) + 1
        raise QueueError(f"arrival {late} is before arrival {late - 1}: give them in order")
    return arrivals


def _samples(function: str, samples_s) -> np.ndarray:
    samples = np.asarray(samples_s, float)
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
        raise QueueError(f"{function}: give one or more times in s, in one row; these have shape {samples.shape}")
    return samples


def _share(function: str, **given) -> None:
    ((name, value),) = given.items()
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < 1:
        raise QueueError(f"{function}({name}={value!r}): a share lies between 0 and 1, such as 0.99")


def _above(function: str, **given) -> float:
    ((name, value),) = given.items()
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise QueueError(f"{function}({name}={value!r}): must be a number above 0")
    return float(value)


def whole(function: str, **given) -> tuple[int, ...]:
    """The numbers given, as ints. Raises QueueError, in the name of `function`, for what is no whole number above 0."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise QueueError(f"{function}({name}={value!r}): must be a whole number, at least 1")
    return tuple(int(value) for value in given.values())
