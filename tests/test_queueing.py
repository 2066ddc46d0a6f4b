"""Queues by hand and by theory, the real server on a clock of the tests, intervals against brute force, bad input."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hwlimits.machine import serving
from hwlimits.queueing import QueueError, md1_wait_s, missed, poisson, quantile_s, serve, tail

arrivals = st.lists(st.floats(0, 2), min_size=1, max_size=40).map(lambda gaps: list(np.cumsum(gaps)))


def naive(times, service_s, largest, wait_s):
    """The same server as a loop over small decisions, request by request."""
    waiting, done, now, batches = list(enumerate(times)), {}, 0.0, []
    while waiting:
        oldest = waiting[0][1]
        now = max(now, oldest)
        there = [r for r in waiting if r[1] <= now]
        while len(there) < largest and now < oldest + wait_s:
            after = [t for _, t in waiting if t > now]
            now = min([oldest + wait_s, *after])
            there = [r for r in waiting if r[1] <= now]
        batch = there[:largest]
        now += service_s(len(batch))
        done |= {i: now - t for i, t in batch}
        waiting = waiting[len(batch) :]
        batches.append(len(batch))
    return [done[i] for i in range(len(times))], tuple(batches)


@settings(max_examples=200, deadline=None)
@given(arrivals, st.integers(1, 5), st.sampled_from([0.0, 0.3, 1.5]), st.sampled_from([0.1, 1.0, 3.0]))
def test_serve_is_what_a_loop_over_requests_does(times, largest, wait_s, base_s):
    def service_s(n):
        return base_s * (1 + 0.2 * n)

    found = serve(times, service_s, largest=largest, wait_s=wait_s)
    latencies, batches = naive(times, service_s, largest, wait_s)
    assert found.batches == batches
    np.testing.assert_allclose(found.latencies_s, latencies, atol=1e-9)
    assert (found.waits_s >= -1e-12).all()
    assert sum(found.batches) == len(times)
    assert found.per_s == pytest.approx(len(times) / found.end_s)


def test_by_hand():
    """Batches of two at most, half a second for a partner: at 0, 0.2 | 1.0 alone until 1.5 | 3.0, 3.1."""
    found = serve([0.0, 0.2, 1.0, 3.0, 3.1], lambda n: 0.4, largest=2, wait_s=0.5)
    assert found.batches == (2, 1, 2)
    np.testing.assert_allclose(found.latencies_s, [0.6, 0.4, 0.9, 0.5, 0.4])
    np.testing.assert_allclose(found.waits_s, [0.2, 0.0, 0.5, 0.1, 0.0])
    assert found.end_s == pytest.approx(3.5)
    assert found.mean_batch == pytest.approx(5 / 3)
    assert found.per_s == pytest.approx(5 / 3.5)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_the_mean_wait_is_pollaczek_s_and_khinchine_s(busy):
    service_s = 0.01
    found = serve(poisson(busy / service_s, 200_000, seed=3), lambda n: service_s)
    assert found.waits_s.mean() == pytest.approx(md1_wait_s(busy / service_s, service_s), rel=0.04)


def test_arrivals_are_poisson_s():
    times = poisson(50, 100_000)
    gaps = np.diff(times)
    assert stats.kstest(gaps, "expon", args=(0, 1 / 50)).pvalue > 0.001
    np.testing.assert_array_equal(times, poisson(50, 100_000), err_msg="the same seed, the same arrivals")
    assert not np.allclose(times, poisson(50, 100_000, seed=1))


class Clock:
    """Time that passes only where somebody spends it."""

    def __init__(self, service_s, tick_s=0.0):
        self.now, self.service_s, self.tick_s, self.slept = 100.0, service_s, tick_s, []

    def __call__(self):
        self.now += self.tick_s
        return self.now

    def sleep(self, duration_s):
        assert duration_s > 0
        self.slept.append(duration_s)
        self.now += duration_s

    def work(self, batch):
        self.now += self.service_s(batch)


@pytest.mark.parametrize(("largest", "wait_s"), [(1, 0.0), (4, 0.0), (4, 0.02), (16, 0.1)])
def test_the_server_on_the_clock_does_what_the_simulation_says(largest, wait_s):
    def service_s(n):
        return 0.004 + 0.002 * n

    times = poisson(150, 300, seed=2)
    clock = Clock(service_s, tick_s=1e-7)  # it polls; each look at the clock takes a little
    found = serving.run(times, clock.work, largest=largest, wait_s=wait_s, clock=clock, sleep=clock.sleep)
    expected = serve(times, service_s, largest=largest, wait_s=wait_s)
    assert found.batches == expected.batches
    np.testing.assert_allclose(found.latencies_s, expected.latencies_s, atol=1e-3)
    assert clock.slept, "it does not burn a core while nothing can happen for long"


def test_who_waits_for_a_server_that_hangs_is_not_forgotten():
    hangs = iter([1.0] + [0.001] * 99)
    clock = Clock(lambda n: next(hangs), tick_s=1e-7)
    found = serving.run(np.arange(100) * 0.01, clock.work, clock=clock, sleep=clock.sleep)
    assert (found.latencies_s > 0.5).sum() >= 50, "half of a second's requests waited for half of it or longer"


def test_calls_one_by_one_are_each_timed():
    clock = Clock(lambda n: n)
    durations = iter([9.0, 9.0] + list(range(1, 21)))  # two for the warm-up
    found = serving.one_by_one(lambda: clock.work(next(durations)), 20, clock=clock)
    np.testing.assert_array_equal(found, np.arange(1, 21))


# --- quantiles and shares ---


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [20, 300, 2000])
def test_the_interval_holds_the_true_quantile_as_often_as_it_says(share, n):
    """Brute force: 400 samples of a known distribution; an open side holds whatever lies there."""
    random, true = np.random.default_rng(n), stats.lognorm(1).ppf(share)
    held = 0
    for _ in range(400):
        found = tail(random.lognormal(0, 1, n), share)
        held += (found.low_s is None or found.low_s <= true) and (found.high_s is None or true <= found.high_s)
    assert held >= 400 * 0.95 - 3 * math.sqrt(400 * 0.95 * 0.05)


@pytest.mark.parametrize(("n", "share"), [(300, 0.5), (1000, 0.99), (5000, 0.999)])
def test_the_order_statistics_are_the_tightest_ones(n, share):
    """By the binomial's definition, summed here: one step inwards on either side would be below 95 %."""
    found = tail(np.arange(1.0, n + 1), share)  # the value is its number in the order
    below = np.cumsum(stats.binom.pmf(np.arange(n + 1), n, share))  # P(B <= k)
    low, high = int(found.low_s), int(found.high_s)
    assert below[low - 1] <= 0.025 < below[low]
    assert below[high - 1] >= 0.975 > below[high - 2]
    assert low <= found.value_s <= high


def test_few_samples_leave_a_side_open():
    assert tail(np.arange(100.0), 0.999).high_s is None
    assert tail(np.arange(100.0), 0.999).low_s is not None
    assert tail([1.0, 2.0], 0.01).low_s is None
    assert tail(np.arange(10_000.0), 0.999).high_s is not None
    assert tail([3.0], 0.5).value_s == 3.0


def test_a_quantile_is_numpy_s():
    samples = np.random.default_rng(0).lognormal(0, 1, 997)
    for share in (0.01, 0.5, 0.95, 0.99, 0.999):
        assert tail(samples, share).value_s == np.quantile(samples, share, method="inverted_cdf")


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 50, 100, 200, 1000])
def test_a_quantile_is_the_first_within_which_the_share_is(n):
    """Shares as they are written, in whole hundredths: the least number of n of which 100 times is at least n share."""
    samples = np.random.default_rng(n).permutation(np.arange(1, n + 1)) * 1.0
    for percent in range(1, 100):
        wanted = next(i for i in range(1, n + 1) if 100 * i >= n * percent)
        assert quantile_s(samples, percent / 100) == wanted, percent
        if n < 20 or percent in (7, 14, 55, 99):
            assert tail(samples, percent / 100).value_s == wanted, percent


def test_a_share_that_was_computed_is_no_other_one():
    assert quantile_s(np.arange(1.0, 11), 0.1 + 0.2) == 3
    assert quantile_s(np.arange(1.0, 11), 1 - 0.9) == 1
    assert quantile_s(np.arange(1.0, 11), 0.300001) == 4
    assert quantile_s([5.0], 5e-324) == 5


@pytest.mark.parametrize(("late", "n"), [(0, 50), (1, 50), (7, 1000), (50, 50)])
def test_missed_against_scipy(late, n):
    samples = [2.0] * late + [0.5] * (n - late)
    exact = stats.binomtest(late, n).proportion_ci(0.95, "exact")
    assert missed(samples, 1.0) == pytest.approx((late / n, exact.low, exact.high))
    assert missed([1.0], 1.0)[0] == 0, "in time is in time"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: poisson(0, 3), "poisson(rate_per_s=0): must be a number above 0"),
        (lambda: poisson(1, 2.5), "poisson(count=2.5): must be a whole number, at least 1"),
        (lambda: serve([], lambda n: 1), "give one or more times in s from 0 on"),
        (lambda: serve([-1.0, 0.0], lambda n: 1), "give one or more times in s from 0 on"),
        (lambda: serve([0.0, 2.0, 1.0], lambda n: 1), "arrival 2 is before arrival 1: give them in order"),
        (lambda: serve([0.0], lambda n: 1, largest=0), "serve(largest=0): must be a whole number, at least 1"),
        (lambda: serve([0.0], lambda n: 1, wait_s=True), "serve(wait_s=True): the oldest request waits 0 s or longer"),
        (lambda: serve([0.0], lambda n: 1, wait_s=math.nan), "serve(wait_s=nan): the oldest request waits 0 s or"),
        (lambda: serve([0.0], lambda n: 1, wait_s=math.inf), "serve(wait_s=inf): the oldest request waits 0 s or"),
        (lambda: serve([0.0], lambda n: 1, wait_s="1"), "serve(wait_s='1'): the oldest request waits 0 s or"),
        (lambda: quantile_s([], 0.5), "quantile_s: give one or more times in s, in one row; these have shape (0,)"),
        (lambda: quantile_s([1.0], 1), "quantile_s(share=1): a share lies between 0 and 1, such as 0.99"),
        (lambda: serve([0.0], lambda n: 1, wait_s=-1), "serve(wait_s=-1): the oldest request waits 0 s or longer"),
        (lambda: serve([0.0], lambda n: 0), "serve: service_s(1) is 0; a batch takes longer than 0 s"),
        (lambda: md1_wait_s(100, 0.01), "keep 1.00 servers busy, so the queue of one grows without end"),
        (lambda: tail([], 0.5), "tail: give one or more times in s"),
        (lambda: tail([1.0, math.nan], 0.5), "tail: give one or more times in s"),
        (lambda: tail([1.0], 99), "tail(share=99): a share lies between 0 and 1, such as 0.99"),
        (lambda: tail([1.0], 0.5, confidence=95), "tail(confidence=95): a share lies between 0 and 1"),
        (lambda: missed([1.0], 0), "missed(deadline_s=0): must be a number above 0"),
        (lambda: serving.run([1.0, 0.5], print), "arrival 1 is before arrival 0"),
        (lambda: serving.run([1.0], print, largest=True), "serving.run(largest=True): must be a whole number"),
        (lambda: serving.one_by_one(print, 0), "one_by_one(count=0): must be a whole number"),
    ],
)
def test_what_can_not_be(call, message):
    with pytest.raises(QueueError, match=re.escape(message)):
        call()
