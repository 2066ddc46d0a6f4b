"""How much faster with several workers: speed-up, efficiency, and the laws of where it ends. Chapter 06's formulas.

A speed-up is serial time over parallel time, and efficiency is the speed-up over the number of workers: 1 where
nothing is lost. (Parallel time over serial time is the inverse of a speed-up, and the smaller the better; it is
no efficiency.) Three laws say how the speed-up grows:

Amdahl 1967      a share of the work is serial: the speed-up of a fixed problem ends at 1 / serial
Gustafson 1988   the problem grows with the workers, the serial part does not: the scaled speed-up does not end
USL              Gunther 1993: beside waiting for what is shared (contention) the workers wait for each other
                 (coherency), and that grows with their pairs: the speed-up has a peak, and falls after it

The `fit_` functions find the parameters from measured times, with 95 % intervals. `hwlimits.scheduling` shares
tasks among workers, `hwlimits.decomposition` cuts one network into parts, `hwlimits.scaling` plans a training.

>>> speedup(10.0, 5.0), efficiency(10.0, 5.0, workers=4)
(2.0, 0.5)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
ROUNDS = 20  # of reweighting: it has settled to ten digits after five or so


class ParallelError(ValueError):
    """A speed-up that can't be, or measurements that give none; the text says what to do."""


# --- what was gained ---------------------------------------------------------------------------


def speedup(serial_s, parallel_s):
    """Serial time over parallel time, of the same work: how many times as fast. Numbers or arrays.

    The serial time is that of the best serial program. The parallel program run by one worker is slower, and
    makes every speed-up look better.
    Raises ParallelError for a time that is not above 0.

    >>> speedup(10.0, 5.0)
    2.0
    """
    serial, parallel = _above_0("speedup", serial_s=serial_s, parallel_s=parallel_s)
    return _plain(serial / parallel)


def efficiency(serial_s, parallel_s, workers):
    """The speed-up over the number of workers: the share of their time that the serial program would have needed, too.

    Raises ParallelError as `speedup` does, and for less than one worker.

    >>> efficiency(10.0, 5.0, workers=2)
    1.0
    """
    return _plain(speedup(serial_s, parallel_s) / _workers("efficiency", workers))


def karp_flatt(speedup, workers):
    """The serial share that explains a measured speed-up by Amdahl's law: (1 / speed-up - 1 / p) / (1 - 1 / p).

    Constant over p: a part of the work is serial. Growing with p: overhead grows with the workers.
    Raises ParallelError for a speed-up that is not above 0, and for fewer than two workers, which show nothing.

    Source: Karp and Flatt, "Measuring Parallel Processor Performance" (1990), the experimentally determined
    serial fraction.

    >>> karp_flatt(amdahl(8, serial=0.25), workers=8)
    0.25
    """
    (psi,) = _above_0("karp_flatt", speedup=speedup)
    p = _workers("karp_flatt", workers, least=2)
    return _plain((1 / psi - 1 / p) / (1 - 1 / p))


# --- laws --------------------------------------------------------------------------------------


def amdahl(workers, serial: float):
    """Speed-up of a fixed problem, a share of which only one worker can do: 1 / (serial + (1 - serial) / p).

    serial   share of the serial program's time, from 0 to 1

    Raises ParallelError for another share, and for less than one worker.

    Source: Amdahl, "Validity of the single processor approach to achieving large scale computing capabilities"
    (1967), which has the argument; the formula as in Gustafson 1988.

    >>> amdahl(4, serial=0.2), round(amdahl(1_000_000, serial=0.2), 3)
    (2.5, 5.0)
    """
    p, s = _workers("amdahl", workers), _share("amdahl", "serial", serial)
    return _plain(1 / (s + (1 - s) / p))


def gustafson(workers, serial: float):
    """Scaled speed-up, if the parallel work grows with the workers and the serial part does not: s + (1 - s) p.

    serial   share of the *parallel* program's time: of another whole than in Amdahl's law

    Raises ParallelError as `amdahl` does.

    Source: Gustafson, "Reevaluating Amdahl's Law" (1988).

    >>> gustafson(4, serial=0.2)
    3.4
    """
    p, s = _workers("gustafson", workers), _share("gustafson", "serial", serial)
    return _plain(p - s * (p - 1))


def usl(workers, contention: float, coherency: float):
    """Speed-up by the universal scalability law: p / (1 + contention (p - 1) + coherency p (p - 1)).

    contention   share that is waited for, one worker at a time; alone, it is Amdahl's serial share
    coherency    what each pair of workers costs each other, as a share of the serial time, 0 or more

    Raises ParallelError for another contention or coherency, and for less than one worker.

    Source: Gunther, "A Simple Capacity Model of Massively Parallel Transaction Systems" (1993); "Guerrilla Capacity
    Planning" (2007), chapters 4 and 5.

    >>> usl(4, contention=0.2, coherency=0.0) == amdahl(4, serial=0.2)
    True
    """
    p, sigma = _workers("usl", workers), _share("usl", "contention", contention)
    kappa = _coherency("usl", coherency)
    return _plain(p / (1 + sigma * (p - 1) + kappa * p * (p - 1)))


def usl_peak(contention: float, coherency: float) -> float:
    """The number of workers with the largest speed-up by the law, sqrt((1 - contention) / coherency); more are slower.

    Not rounded, at least 1, and infinite without coherency.

    >>> usl_peak(contention=0.04, coherency=0.015)
    8.0
    """
    sigma, kappa = _share("usl_peak", "contention", contention), _coherency("usl_peak", coherency)
    return max(1.0, math.sqrt((1 - sigma) / kappa)) if kappa else math.inf


# --- fits --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A fitted number and its 95 % interval."""

    value: float
    low: float
    high: float

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Fit:
    """A law fitted to measurements.

    law            'amdahl', 'usl' or 'gustafson'
    parameters     name -> Estimate: the law's own (serial; contention, coherency), and what follows from them:
                   `limit`, the speed-up at the end of Amdahl's law; `peak`, the workers at the USL's
    noise          relative standard deviation of a measurement about the law
    ratios         measured over fitted, in the order of the measurements
    coefficients   of the linear form that was fitted

    An estimate may be below 0, where a law's parameter can't be: what was measured is then better than the law
    allows. One whose interval contains 0 was not seen in these measurements.
    """

    law: str
    parameters: Mapping[str, Estimate]
    noise: float
    ratios: tuple[float, ...]
    coefficients: tuple[float, ...]

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.parameters:
            raise ParallelError(f"a fit of {self.law} has no {name!r}; it has {', '.join(self.parameters)}")
        return self.parameters[name]

    def at(self, workers):
        """What the law has for so many workers, in what was fitted: seconds, or a scaled speed-up for Gustafson's.

        >>> round(fit_amdahl([1, 2, 4, 8], [10.0, 6.0, 4.0, 3.0]).at(16), 6)
        2.5
        """
        p = _workers("at", workers)
        columns, known = _FORMS[self.law](p)
        return _plain(columns @ np.array(self.coefficients) + known)

    def __str__(self) -> str:
        found = "; ".join(f"{name} {estimate}" for name, estimate in self.parameters.items())
        return f"{self.law}: {found}; noise {self.noise:.1%}"


# What is fitted is linear: columns . coefficients + known
_FORMS = {
    "amdahl": lambda p: (np.stack([np.ones_like(p), 1 / p], axis=-1), 0.0),
    "usl": lambda p: (np.stack([1 / p, (p - 1) / p, p - 1], axis=-1), 0.0),
    "gustafson": lambda p: (-(p - 1)[..., None], p),
}


def fit_amdahl(workers: Sequence[int], times_s: Sequence[float]) -> Fit:
    """Amdahl's law from the times of one problem with several numbers of workers, best with some of one worker alone.

    The law is linear in its times: T(p) = a + b / p, with serial = a / (a + b). So a and b are found by least
    squares on the relative errors (each weighted by 1 / the fitted time, which is found again until it settles),
    and the interval of a ratio of two such numbers is Fieller's (1954): exact where the errors are normal, which
    an interval from derivatives is not. The time of one worker is measured like any other and not taken for exact;
    speed-ups over it would all share its error.

    Raises ParallelError for fewer than 2 different numbers of workers or 3 times, and for a time not above 0.

    >>> found = fit_amdahl([1, 2, 4, 8], [10.0, 6.0, 4.0, 3.0])
    >>> round(found["serial"].value, 6), round(found["limit"].value, 6)
    (0.2, 5.0)
    """
    line = _Line("amdahl", *_measured("fit_amdahl", workers, times_s, parameters=2))
    return line.fit(serial=line.ratio([1, 0], [1, 1]), limit=line.from_0([1, 1], [1, 0]))


def fit_usl(workers: Sequence[int], times_s: Sequence[float]) -> Fit:
    """The universal scalability law from the times of one problem with several numbers of workers.

    T(p) = a / p + b (p - 1) / p + c (p - 1), with contention b / a and coherency c / a, as `fit_amdahl`
    does it. The interval of `peak` ends at infinity where that of the coherency reaches 0.

    Raises ParallelError for fewer than 3 different numbers of workers or 4 times, and for a time not above 0.

    >>> p = [1, 2, 4, 8, 16]
    >>> found = fit_usl(p, [10 / usl(n, contention=0.04, coherency=0.015) for n in p])
    >>> round(found["contention"].value, 6), round(found["coherency"].value, 6), round(found["peak"].value, 6)
    (0.04, 0.015, 8.0)
    """
    line = _Line("usl", *_measured("fit_usl", workers, times_s, parameters=3))
    squared = line.from_0([1, -1, 0], [0, 0, 1])
    peak = Estimate(*(math.sqrt(x) for x in (squared.value, squared.low, squared.high)))
    contention, coherency = line.ratio([0, 1, 0], [1, 0, 0]), line.ratio([0, 0, 1], [1, 0, 0])
    return line.fit(contention=contention, coherency=coherency, peak=peak)


def fit_gustafson(workers: Sequence[int], speedups: Sequence[float]) -> Fit:
    """Gustafson's law from scaled speed-ups, each the time that one worker takes for p's problem over p workers' own.

    p - speed-up = serial (p - 1): a line through 0, by least squares on the relative errors of the speed-ups. That
    of one worker is 1 by definition; it is left out.

    Raises ParallelError for fewer than 2 speed-ups with more than one worker, and for one not above 0.

    >>> round(fit_gustafson([1, 2, 4, 8], [1.0, 1.9, 3.7, 7.3])["serial"].value, 6)
    0.1
    """
    line = _Line("gustafson", *_measured("fit_gustafson", workers, speedups, parameters=1, what="speed-up"))
    half = line.quantile * math.sqrt(line.covariance[0, 0])
    (serial,) = line.coefficients
    return line.fit(serial=Estimate(float(serial), float(serial - half), float(serial + half)))


class _Line:
    """A linear law whose relative errors are as small as can be, and intervals of ratios of its coefficients."""

    def __init__(self, law: str, p: np.ndarray, measured: np.ndarray):
        columns, known = _FORMS[law](p)
        fitted = measured
        for _ in range(ROUNDS):
            x, y = columns / fitted[:, None], (measured - known) / fitted
            self.coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
            again = columns @ self.coefficients + known
            settled = np.allclose(again, fitted, rtol=1e-10, atol=0)
            fitted = np.where(again > 0, again, measured)  # far off, a line may be below 0, where no time is
            if settled:
                break
        free = len(measured) - columns.shape[1]
        variance = float(np.sum((y - x @ self.coefficients) ** 2)) / free
        self.law, self.noise = law, math.sqrt(variance)
        self.covariance = variance * np.linalg.inv(x.T @ x)
        from scipy import stats  # takes longer to import than all else here, and only fits need it

        self.quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, free))
        self.ratios = tuple(float(r) for r in measured / again)

    def ratio(self, above: Sequence[float], below: Sequence[float]) -> Estimate:
        """(above . coefficients) / (below . coefficients); without ends where the denominator may be 0."""
        n, d, a, ends = self._fieller(above, below)
        return Estimate(n / d, *ends) if a > 0 else Estimate(n / d, -math.inf, math.inf)

    def from_0(self, above: Sequence[float], below: Sequence[float]) -> Estimate:
        """The same of what can't be below 0, and is infinite where its denominator is 0 or less."""
        n, d, a, ends = self._fieller(above, below)
        value = max(0.0, n) / d if d > 0 else math.inf
        if a > 0:
            return Estimate(value, *(max(0.0, end) if d > 0 else math.inf for end in ends))
        # all but what lies between the ends, if there are any: 0 between them is excluded, infinity never
        low = ends[1] if ends and ends[0] < 0 < ends[1] else 0.0
        return Estimate(value, low, math.inf)

    def _fieller(self, above: Sequence[float], below: Sequence[float]):
        """Numerator, denominator, a and the ends: all r for which numerator - r denominator may be 0.

        They are |n - r d| <= t sqrt(var(n) - 2 r cov(n, d) + r^2 var(d)), or a r^2 - 2 b r + c <= 0: between two
        ends if a is above 0, which it is where the denominator is far enough from 0; else outside of two ends, or all.
        """
        n, d = float(self.coefficients @ above), float(self.coefficients @ below)
        var_n, cov, var_d = (float(np.dot(u, self.covariance @ v)) for u, v in
                             ((above, above), (above, below), (below, below)))  # fmt: skip
        tt = self.quantile**2
        a, b, c = d * d - tt * var_d, n * d - tt * cov, n * n - tt * var_n
        root = b * b - a * c
        if a <= 0 and root <= 0:
            return n, d, a, ()
        half = math.sqrt(max(0.0, root))  # with a above 0, below 0 by rounding alone: n / d itself is between the ends
        return n, d, a, tuple(sorted(((b - half) / a, (b + half) / a))) if a else ()

    def fit(self, **parameters: Estimate) -> Fit:
        return Fit(self.law, parameters, self.noise, self.ratios, tuple(float(x) for x in self.coefficients))


# --- checks ------------------------------------------------------------------------------------


def _plain(x):
    return x if np.ndim(x) else float(x)


def _above_0(function: str, **given):
    found = []
    for name, value in given.items():
        x = np.asarray(value, float)
        if not np.all((x > 0) & np.isfinite(x)):
            raise ParallelError(f"{function}({name}={value}): must be a number above 0")
        found.append(x)
    return found


def _workers(function: str, workers, least: int = 1) -> np.ndarray:
    p = np.asarray(workers, float)
    if not np.all((p >= least) & np.isfinite(p)):
        raise ParallelError(f"{function}(workers={workers}): must be at least {least}")
    return p


def _share(function: str, name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ParallelError(f"{function}({name}={value}): a share is from 0 to 1")
    return float(value)


def _coherency(function: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ParallelError(f"{function}(coherency={value}): must be a number of at least 0")
    return float(value)


def _measured(function: str, workers, measured, parameters: int, what: str = "time") -> tuple[np.ndarray, np.ndarray]:
    p, y = np.asarray(workers, float), np.asarray(measured, float)
    scaled = what == "speed-up"
    several = p[p > 1] if scaled else p
    if p.ndim != 1 or p.shape != y.shape or len(several) <= parameters or len(set(several)) < parameters:
        more = " with more than one worker" if scaled else ""
        raise ParallelError(
            f"{function}: {p.size} numbers of workers and {y.size} {what}s; give one {what} for each, at least "
            f"{parameters + 1}{more} and for at least {parameters} different numbers of workers"
        )
    _workers(function, p)
    if not np.all((y > 0) & np.isfinite(y)):
        raise ParallelError(f"{function}: every {what} must be a number above 0")
    return (p[p > 1], y[p > 1]) if scaled else (p, y)
