"""Speed-ups and their laws against hand counts; fits against exact curves, and their intervals by simulation."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from scipy import optimize, stats

from hwlimits.parallel import (
    Estimate,
    ParallelError,
    amdahl,
    efficiency,
    fit_amdahl,
    fit_gustafson,
    fit_usl,
    gustafson,
    karp_flatt,
    speedup,
    usl,
    usl_peak,
)

# what was gained


def test_the_articles_example_has_its_inverse():
    """10 s that become 5 s are a speed-up of 2; the article's "efficiency" of 0.5 is its inverse, on any hardware."""
    assert speedup(10, 5) == 2.0
    assert [efficiency(10, 5, workers) for workers in (2, 4, 8)] == [1.0, 0.5, 0.25]
    assert isinstance(speedup(10, 5), float)
    np.testing.assert_array_equal(speedup([10, 10], [5, 2]), [2, 5])
    np.testing.assert_array_equal(efficiency(12, np.array([12, 6, 4]), [1, 2, 4]), [1, 1, 0.75])


# laws


@pytest.mark.parametrize("serial", [0.0, 0.01, 0.2, 0.5, 1.0])
def test_amdahl_is_the_time_of_two_parts(serial):
    """By exact fractions: a serial part, and a parallel one that p workers share."""
    s = Fraction(serial)
    for p in (1, 2, 3, 7, 64):
        assert amdahl(p, serial) == pytest.approx(float(1 / (s + (1 - s) / p)), rel=1e-15)
        assert usl(p, serial, 0) == pytest.approx(amdahl(p, serial), rel=1e-15)
    assert amdahl(1, serial) == 1
    if serial:
        assert amdahl(10**12, serial) == pytest.approx(1 / serial, rel=1e-6)


@pytest.mark.parametrize("serial", [0.0, 0.004, 0.2, 1.0])
def test_gustafson_is_amdahls_law_for_the_grown_problem(serial):
    """p workers take s + (1 - s) for what one would take s + (1 - s) p: Amdahl's share is then s / (s + (1 - s) p)."""
    for p in (1, 2, 5, 1024):
        alone = serial + (1 - serial) * p
        assert gustafson(p, serial) == pytest.approx(alone)
        assert amdahl(p, serial / alone) == pytest.approx(gustafson(p, serial))


def test_gustafsons_own_numbers():
    """1,024 processors and serial shares of 0.4 to 0.8 %: the paper measured 1,016 to 1,021, where Amdahl's law has a
    tenth or two of that."""
    assert [round(gustafson(1024, s)) for s in (0.004, 0.008)] == [1020, 1016]
    assert [round(amdahl(1024, s)) for s in (0.004, 0.008)] == [201, 111]


def test_karp_flatt_undoes_amdahl_and_sees_overhead():
    p = np.array([2, 3, 4, 16, 100])
    np.testing.assert_allclose(karp_flatt(amdahl(p, 0.07), p), 0.07, rtol=1e-12)
    growing = karp_flatt(usl(p, 0.07, 0.001), p)
    assert np.all(np.diff(growing) > 0), "coherency shows as a share that grows"
    np.testing.assert_allclose(growing, 0.07 + 0.001 * p, rtol=1e-9), "for the USL it is contention + coherency p"
    assert karp_flatt(4.4, 4) < 0, "faster than p workers can be"


@pytest.mark.parametrize(("contention", "coherency"), [(0.04, 0.015), (0.0, 0.001), (0.3, 1e-4)])
def test_the_peak_is_where_the_law_has_it(contention, coherency):
    found = optimize.minimize_scalar(lambda p: -usl(p, contention, coherency), bounds=(1, 200), method="bounded",
                                     options={"xatol": 1e-9})  # fmt: skip
    assert usl_peak(contention, coherency) == pytest.approx(found.x, rel=1e-4)
    around = usl(np.arange(1, 400), contention, coherency)
    assert abs(1 + int(np.argmax(around)) - usl_peak(contention, coherency)) < 1


def test_peaks_at_the_ends():
    assert usl_peak(0.1, 0) == math.inf
    assert usl_peak(0.0, 5.0) == usl_peak(1.0, 0.1) == 1.0, "one worker is the best"


# fits

P = np.repeat([1, 2, 3, 4, 6, 8], 2)


def noisy(times, noise, seed):
    return times * (1 + noise * np.random.default_rng(seed).standard_normal(np.shape(times)))


def test_exact_times_give_the_laws_back():
    found = fit_amdahl(P, 7 / amdahl(P, 0.11))
    assert found["serial"].value == pytest.approx(0.11)
    assert found["limit"].value == pytest.approx(1 / 0.11)
    assert found.noise == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found.ratios, 1)
    assert found.at(64) == pytest.approx(7 / amdahl(64, 0.11))

    found = fit_usl(P, 7 / usl(P, 0.05, 0.02))
    assert found["contention"].value == pytest.approx(0.05)
    assert found["coherency"].value == pytest.approx(0.02)
    assert found["peak"].value == pytest.approx(usl_peak(0.05, 0.02))
    np.testing.assert_allclose(found.at(np.array([1, 100])), 7 / usl(np.array([1, 100]), 0.05, 0.02))

    found = fit_gustafson(P, gustafson(P, 0.3))
    assert found["serial"].value == pytest.approx(0.3)
    assert found.at(10) == pytest.approx(gustafson(10, 0.3))
    assert len(found.ratios) == np.sum(P > 1), "one worker's speed-up is 1 by definition and left out"


def test_against_scipys_nonlinear_fit():
    """The same minimum: relative errors, by curve_fit on the law itself with the fitted times as its sigma."""
    times = noisy(5 / usl(P, 0.08, 0.01), 0.03, seed=1)
    found = fit_usl(P, times)
    sigma = found.at(P)
    ours = [found["contention"].value, found["coherency"].value]
    (t1, *scipys), covariance = optimize.curve_fit(
        lambda p, t1, sigma, kappa: t1 * (1 + sigma * (p - 1) + kappa * p * (p - 1)) / p, P, times, (5, 0.1, 0.1), sigma
    )
    np.testing.assert_allclose(ours, scipys, rtol=1e-4)
    assert found.at(1) == pytest.approx(t1, rel=1e-5)
    # its intervals, from derivatives, are near Fieller's where the noise is small
    half = stats.t.ppf(0.975, len(P) - 3) * np.sqrt(np.diag(covariance))[1:]
    for estimate, width in zip((found["contention"], found["coherency"]), half, strict=True):
        assert (estimate.high - estimate.low) / 2 == pytest.approx(width, rel=0.05)


def coverage(fit, exact, truths, noise, draws=1000):
    """Shares of draws whose interval has the true number in it, by name."""
    inside, rng = dict.fromkeys(truths, 0), np.random.default_rng(5)
    for _ in range(draws):
        found = fit(P, exact * (1 + noise * rng.standard_normal(len(P))))
        for name, truth in truths.items():
            inside[name] += truth in found[name]
    return {name: count / draws for name, count in inside.items()}


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_intervals_of_amdahl_cover_what_they_say(noise):
    """1,000 draws: a standard error of 0.7 points. At 10 % noise many intervals of the limit have no end."""
    found = coverage(fit_amdahl, 5 / amdahl(P, 0.05), {"serial": 0.05, "limit": 20.0}, noise)
    assert all(0.93 < share < 0.97 for share in found.values()), found


@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_intervals_of_the_usl_cover_what_they_say(noise):
    truths = {"contention": 0.05, "coherency": 0.01, "peak": usl_peak(0.05, 0.01)}
    found = coverage(fit_usl, 5 / usl(P, 0.05, 0.01), truths, noise)
    assert all(0.93 < share < 0.97 for share in found.values()), found


def test_intervals_of_gustafson_cover_what_they_say():
    found = coverage(fit_gustafson, gustafson(P, 0.2), {"serial": 0.2}, 0.03)
    assert 0.93 < found["serial"] < 0.97, found


def test_what_was_not_seen_has_0_in_its_interval():
    """Times of Amdahl's law, and noise: the coherency's interval contains 0, so the peak's has no end."""
    found = fit_usl(P, noisy(5 / amdahl(P, 0.05), 0.03, seed=3))
    assert 0 in found["coherency"]
    assert found["peak"].high == math.inf
    assert 1 < found["peak"].low < math.inf
    scaling = fit_amdahl(P, noisy(5 / P, 0.05, seed=4))
    assert 0 in scaling["serial"]
    assert scaling["limit"].high == math.inf
    assert scaling["limit"].low > 1


def test_better_than_the_law_allows():
    """Caches that grow with the workers: times of less than 1 / p give a share below 0 and no limit."""
    found = fit_amdahl(P, 5 / P**1.2)
    assert found["serial"].high < 0
    assert found["limit"] == Estimate(math.inf, math.inf, math.inf)


def test_a_larger_noise_gives_wider_intervals():
    exact = 5 / amdahl(P, 0.05)
    errors = np.random.default_rng(0).standard_normal(len(P))
    widths = [fit_amdahl(P, exact * (1 + noise * errors))["serial"] for noise in (0.001, 0.01, 0.05)]
    assert np.all(np.diff([e.high - e.low for e in widths]) > 0)


def test_a_fit_says_what_it_found():
    found = fit_amdahl([1, 2, 4, 8], [10.0, 6.1, 4.0, 3.0])
    assert str(found) == "amdahl: serial 0.198 (0.1796 to 0.2174); limit 5.05 (4.599 to 5.567); noise 1.0%"
    with pytest.raises(ParallelError, match="a fit of amdahl has no 'coherency'; it has serial, limit"):
        found["coherency"]


# errors


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: speedup(0, 5), r"speedup(serial_s=0): must be a number above 0"),
        (lambda: speedup(5, -1), r"speedup(parallel_s=-1): must be a number above 0"),
        (lambda: efficiency(5, math.inf, 2), r"speedup(parallel_s=inf): must be a number above 0"),
        (lambda: efficiency(5, 1, 0), r"efficiency(workers=0): must be at least 1"),
        (lambda: karp_flatt(2, 1), r"karp_flatt(workers=1): must be at least 2"),
        (lambda: karp_flatt(0, 2), r"karp_flatt(speedup=0): must be a number above 0"),
        (lambda: amdahl(2, 1.5), r"amdahl(serial=1.5): a share is from 0 to 1"),
        (lambda: amdahl(2, math.nan), r"amdahl(serial=nan): a share is from 0 to 1"),
        (lambda: gustafson(0.5, 0.1), r"gustafson(workers=0.5): must be at least 1"),
        (lambda: usl(2, -0.1, 0), r"usl(contention=-0.1): a share is from 0 to 1"),
        (lambda: usl(2, 0.1, -1), r"usl(coherency=-1): must be a number of at least 0"),
        (lambda: usl_peak(0.1, math.inf), r"usl_peak(coherency=inf): must be a number of at least 0"),
        (
            lambda: fit_amdahl([1, 2], [2, 1]),
            "fit_amdahl: 2 numbers of workers and 2 times; give one time for each, at least 3 "
            "and for at least 2 different numbers of workers",
        ),
        (lambda: fit_amdahl([2, 2, 2], [2, 1, 1]), "for at least 2 different numbers of workers"),
        (lambda: fit_usl([1, 2, 2, 1], [2, 1, 1, 2]), "at least 4 and for at least 3 different numbers of workers"),
        (lambda: fit_usl([1, 2, 3, 4], [2, 1, 1]), "fit_usl: 4 numbers of workers and 3 times"),
        (
            lambda: fit_gustafson([1, 1, 2], [1, 1, 2]),
            "fit_gustafson: 3 numbers of workers and 3 speed-ups; give one speed-up for each, at least 2 "
            "with more than one worker",
        ),
        (lambda: fit_amdahl([1, 2, 3], [2, 1, 0]), "fit_amdahl: every time must be a number above 0"),
        (lambda: fit_amdahl([0, 2, 3], [2, 1, 1]), "fit_amdahl(workers=[0. 2. 3.]): must be at least 1"),
    ],
)
def test_errors_say_what_was_asked(call, text):
    with pytest.raises(ParallelError, match=re.escape(text)):
        call()
