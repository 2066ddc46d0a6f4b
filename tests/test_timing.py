"""The timer, on a clock that the test controls: what it says of a planted drift is exact."""

import numpy as np
import pytest

from hwlimits.machine import timing
from hwlimits.machine.timing import Comparison, Timing, compare, measure


class Machine:
    """A clock and work on it; `slowdown` is how much slower the machine is at a time."""

    def __init__(self, slowdown=lambda now: 1.0):
        self.now = 0.0
        self.slowdown = slowdown

    def clock(self):
        return self.now

    def work(self, seconds):
        def call():
            self.now += seconds * self.slowdown(self.now)

        return call


def test_measure_gives_the_time_of_one_call():
    machine = Machine()
    found = measure(machine.work(2e-6), clock=machine.clock)
    assert found.median_s == pytest.approx(2e-6)
    assert found.loops * 2e-6 >= 1e-3  # samples long enough for a clock of finite resolution
    assert not found.noisy


def test_a_slow_first_call_is_warm_up_and_not_a_sample():
    machine = Machine()
    calls = iter(range(10**9))

    def compiles_first():
        machine.now += 0.5 if next(calls) == 0 else 2e-6

    found = measure(compiles_first, clock=machine.clock)
    assert found.median_s == pytest.approx(2e-6)
    assert found.loops * 2e-6 >= 1e-3


def test_quartiles_are_those_of_numpy():
    samples = tuple(np.random.default_rng(0).uniform(1, 2, 31))
    assert Timing(samples).iqr_s == pytest.approx(np.subtract(*np.percentile(samples, [75, 25])))
    assert Timing(samples).noisy
    assert "NOISY" in str(Timing(samples))


def test_a_planted_drift_fools_two_measurements_in_a_row_and_not_compare():
    machine = Machine(slowdown=lambda now: 1 + now)  # the longer it runs, the slower
    work = machine.work(0.002)
    first, second = measure(work, clock=machine.clock), measure(work, clock=machine.clock)
    assert second.median_s / first.median_s > 1.05, "the drift is there"
    found = compare(work, work, clock=machine.clock)
    assert found.ratio == pytest.approx(1, abs=0.005)
    assert found.verdict == "equal"
    assert not found.void


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "faster"), (1.0, "equal"), (1.02, "equal"), (2.0, "slower")])
def test_compare_finds_a_known_ratio_under_drift(factor, verdict):
    machine = Machine(slowdown=lambda now: 1 + now / 3)
    found = compare(machine.work(0.004), machine.work(0.004 * factor), clock=machine.clock)
    assert found.ratio == pytest.approx(1 / factor, rel=0.01)
    assert found.verdict == verdict


def test_a_machine_that_does_not_hold_still_makes_a_comparison_void():
    """The work is slow just after the other's has run: position, not content, decides."""
    machine = Machine()
    last = []

    def work(name):
        def call():
            machine.now += 0.004 * (3 if last[-2:] == ["b", "a"] and name == "a" else 1)
            last.append(name)

        return call

    found = compare(work("a"), work("b"), clock=machine.clock, rounds=10)
    assert found.void
    assert found.verdict == "VOID"
    assert found.attempts == 3, "a void comparison is tried again"
    assert str(found).startswith("VOID after 3 attempts")


def test_the_interval_of_the_ratio_holds_it_under_noise():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(40):
        machine = Machine(slowdown=lambda now: rng.lognormal(0, 0.05))
        found = compare(machine.work(0.003), machine.work(0.002), clock=machine.clock, attempts=1)
        held += found.low <= 1.5 <= found.high
    assert held >= 34  # 95 % of 40 is 38; fewer than 34 has a probability below 2 %


def test_sync_is_inside_the_clock():
    machine = Machine()
    pending = []

    def launch():  # returns at once, as a GPU's engine does
        pending.append(0.01)

    def finish(_):
        machine.now += sum(pending)
        pending.clear()

    assert measure(launch, sync=finish, clock=machine.clock).median_s == pytest.approx(0.01)
    machine.now = 0.0
    timing_without = timing._sample(launch, 1, None, machine.clock)
    assert timing_without == 0, "without sync only the launch is timed"


@pytest.mark.parametrize("call", [lambda: measure(print, repeats=2), lambda: compare(print, print, rounds=2)])
def test_too_few_samples_are_refused(call):
    with pytest.raises(ValueError, match="at least 3"):
        call()


def test_a_comparison_says_what_it_found():
    timings = (Timing((2.0, 2.0, 2.0)), Timing((1.0, 1.0, 1.0)))
    assert str(Comparison(*timings, 2.0, 1.9, 2.1, 1.001)) == "faster: 2.00x [1.90, 2.10], A/A control 1.001"
    assert Comparison(*timings, 2.0, 1.9, 2.1, 1.031).verdict == "VOID"
    assert Comparison(*timings, 1.2, 0.9, 1.5, 1.0).verdict == "equal", "an interval over 1 shows nothing"
