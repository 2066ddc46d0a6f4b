"""The server that runs, on a clock that the test moves: who is in which batch, from when on each request counts."""

import re

import numpy as np
import pytest

from hwlimits.machine import serving
from hwlimits.queueing import QueueError, Served, poisson, serve, tail

TICK_S = 2.0**-20  # what a look at the clock takes: the server polls, and time must pass. Sums of it are exact


class Clock:
    """Time that passes where somebody looks, sleeps or works; `log` has all that was done, with its beginning."""

    def __init__(self, service_s=lambda batch: 0.0, start_s=1000.0):
        self.now, self.start, self.service_s, self.log = start_s, None, service_s, []

    def __call__(self):
        self.now += TICK_S
        self.start = self.now if self.start is None else self.start
        return self.now

    def sleep(self, duration_s):
        assert duration_s > 0
        self.log.append(("sleep", self.now - self.start, duration_s))
        self.now += duration_s

    def work(self, batch):
        self.log.append(("work", self.now - self.start, batch))
        self.now += self.service_s(batch)

    def of(self, kind):
        return [(at, what) for what_kind, at, what in self.log if what_kind == kind]

    def run(self, arrivals_s, **options):
        return serving.run(arrivals_s, self.work, clock=self, sleep=self.sleep, **options)


def near(value, within=10 * TICK_S):
    return pytest.approx(value, abs=within, rel=0)


# --- run ---


def test_batches_by_hand():
    """Two at most, half a second for a partner, 0.4 s a batch: 0 and 0.2 | 1.0 alone until 1.5 | 3.0 and 3.1."""
    clock = Clock(lambda batch: 0.4)
    found = clock.run([0.0, 0.2, 1.0, 3.0, 3.1], largest=2, wait_s=0.5)
    assert found.batches == (2, 1, 2)
    assert [batch for _, batch in clock.of("work")] == [2, 1, 2], "the call is told how many"
    assert [at for at, _ in clock.of("work")] == near([0.2, 1.5, 3.1])
    assert list(found.latencies_s) == near([0.6, 0.4, 0.9, 0.5, 0.4])
    assert list(found.waits_s) == near([0.2, 0.0, 0.5, 0.1, 0.0])
    assert found.end_s == near(3.5)


def test_who_comes_while_the_server_works_is_in_the_next_batch():
    """Five come while the first is served, of which four fit; the last one waits for these."""
    clock = Clock(lambda batch: 1.0)
    found = clock.run([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], largest=4)
    assert found.batches == (1, 4, 1)
    assert list(found.latencies_s) == near([1.0, 1.9, 1.8, 1.7, 1.6, 2.5])
    assert list(found.waits_s) == near([0.0, 0.9, 0.8, 0.7, 0.6, 1.5])


def test_who_comes_late_enough_is_served_at_once_without_a_partner():
    clock = Clock(lambda batch: 0.1)
    assert clock.run([0.0, 1.0, 2.0], largest=8).batches == (1, 1, 1)


def test_who_is_there_when_a_batch_begins_is_in_it():
    """It begins at 1 s and three looks at the clock: one who arrives at that very moment is not left behind."""
    for arrives_s, batches in ((1 + 3 * TICK_S, (1, 2)), (1 + 4 * TICK_S, (1, 1, 1))):
        found = Clock(lambda batch: 1.0).run([0.0, 0.5, arrives_s], largest=4)
        assert found.batches == batches


def test_a_request_counts_from_when_it_should_have_come():
    """The server hangs for a second at the first of a hundred, ten milliseconds apart; the clock of the others runs."""
    hangs = iter([1.0] + [0.001] * 99)
    clock = Clock(lambda batch: next(hangs))
    found = clock.run(np.arange(100) * 0.01)
    assert found.latencies_s[0] == near(1.0)
    for i in (1, 50, 99):  # what is left of the second, and the queue
        assert found.latencies_s[i] == near(1.0 - 0.009 * i, 1e-3)
    assert list(found.latencies_s - found.waits_s) == near([1.0] + [0.001] * 99)


@pytest.mark.parametrize("start_s", [0.0, 1e6])
def test_the_clock_may_begin_anywhere(start_s):
    found = Clock(lambda batch: 0.25, start_s).run([0.5, 0.5], largest=2)
    assert found.end_s == near(0.75)
    assert found.per_s == pytest.approx(2 / 0.75, rel=1e-3)


@pytest.mark.parametrize(("largest", "wait_s"), [(1, 0.0), (3, 0.0), (3, 0.03), (50, 0.2)])
def test_it_does_what_the_simulation_says(largest, wait_s):
    def service_s(batch):
        return 0.003 + 0.0015 * batch

    times = poisson(180, 250, seed=8)
    found = Clock(service_s).run(times, largest=largest, wait_s=wait_s)
    expected = serve(times, service_s, largest=largest, wait_s=wait_s)
    assert found.batches == expected.batches
    assert list(found.latencies_s) == near(expected.latencies_s, 1e-3)
    assert list(found.waits_s) == near(expected.waits_s, 1e-3)
    assert found.end_s == near(expected.end_s, 1e-3)


def test_a_long_wait_is_slept_and_its_end_is_watched():
    """All but the last NAP_S of it; and what is shorter is watched from the beginning."""
    clock = Clock(lambda batch: 0.1)
    clock.run([1.0, 1.1 + 0.9 * serving.NAP_S])
    ((at, slept),) = clock.of("sleep")
    assert (at, slept) == (near(0.0), near(1.0 - serving.NAP_S))
    assert clock.of("work")[0][0] == near(1.0), "not a nap late"


def test_a_sleep_that_is_too_long_is_seen_in_the_waits():
    """Systems oversleep: the batch then begins late, and with all who came meanwhile."""
    clock = Clock(lambda batch: 0.1)
    asleep = clock.sleep
    clock.sleep = lambda duration_s: asleep(duration_s + 0.3)
    found = clock.run([1.0, 1.2], largest=2)
    assert found.batches == (2,)
    begun_s = 1.0 - serving.NAP_S + 0.3
    assert list(found.waits_s) == near([begun_s - 1.0, begun_s - 1.2])


@pytest.mark.parametrize(
    ("arrivals", "options", "message"),
    [
        ([], {}, "arrivals of shape (0,): give one or more times in s from 0 on"),
        ([[0.0]], {}, "arrivals of shape (1, 1): give one or more times in s from 0 on"),
        ([-0.1], {}, "give one or more times in s from 0 on"),
        ([np.nan], {}, "give one or more times in s from 0 on"),
        ([0.0, 2.0, 1.0], {}, "arrival 2 is before arrival 1: give them in order"),
        ([0.0], {"largest": 0}, "serving.run(largest=0): must be a whole number, at least 1"),
        ([0.0], {"largest": 2.0}, "serving.run(largest=2.0): must be a whole number, at least 1"),
        ([0.0], {"wait_s": -0.1}, "serving.run(wait_s=-0.1): the oldest request waits 0 s or longer"),
        ([0.0], {"wait_s": True}, "serving.run(wait_s=True): the oldest request waits 0 s or longer"),
        ([0.0], {"wait_s": np.nan}, "serving.run(wait_s=nan): the oldest request waits 0 s or longer"),
        ([0.0], {"wait_s": np.inf}, "serving.run(wait_s=inf): the oldest request waits 0 s or longer"),
        ([0.0], {"wait_s": "1"}, "serving.run(wait_s='1'): the oldest request waits 0 s or longer"),
    ],
)
def test_what_can_not_be_run(arrivals, options, message):
    clock = Clock()
    with pytest.raises(QueueError, match=re.escape(message)):
        clock.run(arrivals, **options)
    assert not clock.log, "nothing was served"


def test_an_error_of_the_work_gets_out():
    def fails(batch):
        raise OSError("the model is gone")

    with pytest.raises(OSError, match="the model is gone"):
        serving.run([0.0], fails, clock=Clock())


# --- one by one ---


@pytest.mark.parametrize(("count", "warm_up"), [(1, 1), (9, 1), (20, 2), (57, 5)])
def test_each_call_is_timed_by_itself_after_a_warm_up_that_does_not_count(count, warm_up):
    durations = [5.0] * warm_up + list(np.linspace(0.01, 0.2, count))
    clock, left = Clock(), iter(durations)

    def call():
        clock.now += next(left)

    found = serving.one_by_one(call, count, clock=clock)
    assert list(found) == near(durations[warm_up:])
    assert next(left, None) is None, "so many calls and no more"


@pytest.mark.parametrize("count", [0, -3, 2.5, True])
def test_no_calls_can_not_be_timed(count):
    message = f"one_by_one(count={count}): must be a whole number, at least 1"
    with pytest.raises(QueueError, match=re.escape(message)):
        serving.one_by_one(lambda: None, count)


# --- shown ---


def test_a_row_by_hand():
    """Ten requests in four batches until 5 s; of 1 ms to 10 ms, half are within 5 ms or less, and nine within 9."""
    latencies = np.array([3, 1, 2, 10, 9, 8, 7, 4, 5, 6]) * 1e-3
    served = Served(latencies, latencies / 10, (4, 3, 2, 1), 5.0)
    assert serving.shown(served, (0.25, 0.5, 0.9, 0.999)) == {
        "requests/s": "2", "batch, mean": "2.5", "p25": "3 ms", "p50": "5 ms", "p90": "9 ms", "p99.9": "10 ms",
    }  # fmt: skip
    for share in (0.07, 0.25, 0.5, 0.55, 0.9, 0.999):
        (said,) = list(serving.shown(served, (share,)).values())[2:]
        assert said == f"{1000 * tail(latencies, share).value_s:g} ms", "a table and a tail mean the same"
    assert list(serving.shown(served)) == ["requests/s", "batch, mean", "p50", "p99"]
