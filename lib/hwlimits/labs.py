"""Checks for the labs: an answer is right, or it is told which of the usual slips it looks like, or at what to look.

number(conv_macs(28, 28, 1, 32, 3), 194_688, "MACs of the first convolution", slips={"...": 225_792})

A check is an assert: it says nothing if the answer is right, and raises AssertionError with one sentence if not. The
sentence names what was asked and what came, and never the right answer.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence

import numpy as np

# Factors between an answer and the right one that say by themselves what happened.
FACTORS = {
    2.0: "twice as much as it should be: is something counted twice?",
    0.5: "half of what it should be: is something forgotten?",
    8.0: "eight times as much as it should be",
    1 / 8: "an eighth of what it should be",
    1e3: "a thousand times as much as it should be: look at the prefix of the unit (ms, kB)",
    1e-3: "a thousandth of what it should be: look at the prefix of the unit (ms, kB)",
    1e6: "a million times as much as it should be: look at the prefix of the unit (µs, MB)",
    1e-6: "a millionth of what it should be: look at the prefix of the unit (µs, MB)",
    1e9: "a thousand million times as much as it should be: look at the prefix of the unit (ns, GB)",
    1e-9: "a thousand-millionth of what it should be: look at the prefix of the unit (ns, GB)",
    2**10 / 1e3: "off by 1024 / 1000: KiB, or kB?",
    1e3 / 2**10: "off by 1000 / 1024: kB, or KiB?",
    2**20 / 1e6: "off by 1024^2 / 1000^2: MiB, or MB?",
    1e6 / 2**20: "off by 1000^2 / 1024^2: MB, or MiB?",
    2**30 / 1e9: "off by 1024^3 / 1000^3: GiB, or GB?",
    1e9 / 2**30: "off by 1000^3 / 1024^3: GB, or GiB?",
    -1.0: "right but for its sign",
}


# What a factor says more where the question is about these.
HINTS = {
    (2.0, "FLOP"): "one multiply-add is two FLOPs", (0.5, "FLOP"): "one multiply-add is two FLOPs",
    (2.0, "MAC"): "a MAC is a multiplication and an addition",
    (0.5, "MAC"): "a MAC is a multiplication and an addition",
    (8.0, "byte"): "bits, or bytes?", (1 / 8, "byte"): "bits, or bytes?", (8.0, "bit"): "bits, or bytes?",
    (1 / 8, "bit"): "bits, or bytes?",
}  # fmt: skip


def number(got, wanted: float, what: str, *, within: float = 1e-9, slips: Mapping[str, float] | None = None) -> None:
    """Assert that `got` is `wanted`, to a relative (at 0: an absolute) deviation of `within`.

    slips   sentences, each with the answer to which that slip leads; they are looked at before FACTORS

    >>> number(100, 200, "FLOPs of the layer")
    Traceback (most recent call last):
    AssertionError: FLOPs of the layer: 100 is half of what it should be: is something forgotten? (one multiply-add ...)
    """
    got = _one_number(got, what)
    if not math.isfinite(got):
        raise AssertionError(f"{what}: {got} is no finite number: is something divided by 0?")
    if _close(got, wanted, within):
        return
    for sentence, value in (slips or {}).items():
        if _close(got, value, max(within, 1e-9)):
            raise AssertionError(f"{what}: {got:,.6g}: {sentence}")
    for factor, sentence in FACTORS.items():
        clear = within < abs(factor - 1) / 4  # else any wrong answer near the right one would be such a factor
        if wanted and clear and _close(got, factor * wanted, max(within, 1e-9)):
            hints = {hint for (of, word), hint in HINTS.items() if of == factor and word in what}
            raise AssertionError(f"{what}: {got:,.6g} is {sentence}{f' ({hints.pop()})' if hints else ''}")
    raise AssertionError(f"{what}: {got:,.6g} is too {'large' if got > wanted else 'small'}")


def array(got, wanted, what: str, *, within: float = 1e-6, slips: Mapping[str, Sequence] | None = None) -> None:
    """The same for arrays: shape first, then values, to `within` of the largest one wanted.

    >>> array([1, 2], [1, 2, 3], "the mask")
    Traceback (most recent call last):
    AssertionError: the mask: the shape is (2,), and (3,) is wanted
    """
    if got is None:
        raise AssertionError(f"{what}: there is no answer yet (None): does the function return its result?")
    try:
        if np.asarray(got).dtype.kind not in "biuf":
            raise TypeError("no numbers")
        got, wanted = np.asarray(got, dtype=float), np.asarray(wanted, dtype=float)
    except (TypeError, ValueError):
        raise AssertionError(f"{what}: an array of numbers is wanted, and this is a {type(got).__name__}") from None
    if got.shape != wanted.shape:
        raise AssertionError(f"{what}: the shape is {got.shape}, and {wanted.shape} is wanted")
    if not np.isfinite(got).all():
        raise AssertionError(f"{what}: {int((~np.isfinite(got)).sum())} of {got.size} numbers are not finite")
    most = within * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    if np.abs(got - wanted).max(initial=0.0) <= most:
        return
    for sentence, value in (slips or {}).items():
        value = np.asarray(value, dtype=float)
        if value.shape == got.shape and np.abs(got - value).max() <= most:
            raise AssertionError(f"{what}: {sentence}")
    if np.abs(got + wanted).max() <= most:
        raise AssertionError(f"{what}: right but for its sign")
    wrong = int((np.abs(got - wanted) > most).sum())
    at = tuple(int(i) for i in np.argwhere(np.abs(got - wanted) > most)[0])
    raise AssertionError(f"{what}: {wrong} of {got.size} numbers are not right, the first at {list(at)}")


def prediction(value, unit: str, wanted_unit: str, what: str, *, low: float, high: float) -> None:
    """Assert that a prediction is a number in the unit that was asked for, and could be true: from `low` to `high`.

    >>> prediction(3, "ms", "s", "time of one image", low=1e-6, high=1)
    Traceback (most recent call last):
    AssertionError: time of one image: predict it in 's', and this is in 'ms'
    """
    if value is None or value is ...:
        raise AssertionError(f"{what}: write your prediction down before you go on; it may well be wrong")
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise AssertionError(f"{what}: a prediction is one finite number, and this is {value!r}")
    if not isinstance(unit, str):
        raise AssertionError(f"{what}: write the unit of your prediction, too, as a string")
    if unit != wanted_unit:
        raise AssertionError(f"{what}: predict it in {wanted_unit!r}, and this is in {unit!r}")
    if not low <= value <= high:
        side = "more than this could ever be" if value > high else "less than this could ever be"
        raise AssertionError(f"{what}: {value:,.6g} {unit} is {side}: look at the prefix of the unit")


def _one_number(got, what: str) -> float:
    """What was answered, as a float of Python's: small integers of NumPy's would overflow in the comparisons."""
    if got is None:
        raise AssertionError(f"{what}: there is no answer yet (None): does the function return its result?")
    if isinstance(got, np.ndarray) and got.ndim == 0:
        got = got[()]
    if isinstance(got, bool | str | bytes | complex):
        raise AssertionError(f"{what}: one number is wanted, and this is a {type(got).__name__}")
    try:
        return float(got)
    except (TypeError, ValueError):
        raise AssertionError(f"{what}: one number is wanted, and this is a {type(got).__name__}") from None
    except OverflowError:
        raise AssertionError(f"{what}: that is far too large") from None


def _close(a: float, b: float, within: float) -> bool:
    return abs(a - b) <= within * (abs(b) or 1.0)
