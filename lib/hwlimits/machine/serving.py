"""A server with a queue, run on the clock: requests at given times, batches, and the latency of each.

`hwlimits.queueing.serve` says what should come out, from the times of single batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from hwlimits.queueing import Served, begin_of, check_wait, in_order, quantile_s, whole
from hwlimits.units import seconds

NAP_S = 2e-3  # a wait longer than this sleeps first: asked to sleep for less, systems oversleep by as much


def run(
    arrivals_s: Sequence[float],
    call: Callable[[int], object],
    *,
    largest: int = 1,
    wait_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Served:
    """Serve requests as `queueing.serve` does, with `call(batch size)` for the work; returns measured latencies.

    A request counts from the moment at which it should have arrived, not from the one at which this loop saw it:
    a server that hangs for a second must not stop the clock of those who wait (Tene's "coordinated omission").
    The server polls, so one core is busy from the first arrival to the last answer. Errors are those of `serve`.
    """
    arrivals, (largest,) = in_order(arrivals_s), whole("serving.run", largest=largest)
    check_wait("serving.run", wait_s)
    starts, ends, batches, first = np.empty_like(arrivals), np.empty_like(arrivals), [], 0
    zero = clock()
    while first < len(arrivals):
        begin_s = begin_of(arrivals, first, largest, wait_s)
        while (now := clock() - zero) < begin_s:
            if begin_s - now > NAP_S:
                sleep(begin_s - now - NAP_S)
        size = min(largest, int(np.searchsorted(arrivals, now, "right")) - first)
        call(size)
        starts[first : first + size], ends[first : first + size] = now, clock() - zero
        batches.append(size)
        first += size
    return Served(ends - arrivals, starts - arrivals, tuple(batches), float(ends[-1]))


def one_by_one(call: Callable[[], object], count: int, clock: Callable[[], float] = time.perf_counter) -> np.ndarray:
    """Seconds of each of `count` calls, one right after the other, after a tenth as many that do not count.

    No queue: what a loop sees that asks for the next answer when it has the last one. Each call is timed by
    itself, clock included, so calls of less than a microsecond can't be told apart.
    """
    (count,) = whole("one_by_one", count=count)
    for _ in range(max(1, count // 10)):
        call()
    found = np.empty(count)
    for i in range(count):
        start = clock()
        call()
        found[i] = clock() - start
    return found


def shown(served: Served, shares: Sequence[float] = (0.5, 0.99)) -> dict[str, str]:
    """A row of a table: requests a second, mean batch, and quantiles of the latency (`queueing.quantile_s`).

    >>> from hwlimits.queueing import serve
    >>> shown(serve([0.0, 0.0, 2.0], lambda batch: 0.5, largest=2))
    {'requests/s': '1.2', 'batch, mean': '1.5', 'p50': '500 ms', 'p99': '500 ms'}
    """
    return {"requests/s": f"{served.per_s:,.4g}", "batch, mean": f"{served.mean_batch:.3g}"} | {
        f"p{100 * share:g}": seconds(quantile_s(served.latencies_s, share)) for share in shares
    }
