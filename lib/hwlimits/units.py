"""Numbers as people read them: three digits, and the prefix that suits them."""

from __future__ import annotations

PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
TIMES = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
ROUNDS_UP = 0.9995  # from here on, three digits are those of the next prefix: 999.6 G is 1 T


def quantity(value: float | None, unit: str = "") -> str:
    """A value in three digits with its prefix (decimal: GB is 1e9 B).

    A count, which has no unit, is exact below 10,000. None is nothing.

    >>> quantity(95.6e9, "FLOP/s"), quantity(9.996e11, "B/s"), quantity(2.25e15, "FLOP/s"), quantity(3.1e-7, "s")
    ('95.6 GFLOP/s', '1 TB/s', '2.25 PFLOP/s', '310 ns')
    >>> quantity(2_528_000), quantity(9_216), quantity(None)
    ('2.53 M', '9,216', '')
    """
    if value is None:
        return ""
    if unit == "s":
        return seconds(value)
    if not unit and abs(value) < 10_000 and value == int(value):
        return f"{int(value):,}"
    for prefix, scale in PREFIXES:
        if abs(value) >= ROUNDS_UP * scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def seconds(value_s: float) -> str:
    """A time with the unit that suits it.

    >>> seconds(0.0000774), seconds(0.0009999)
    ('77.4 µs', '1 ms')
    >>> seconds(0)
    '0 s'
    """
    if value_s == 0:
        return "0 s"
    for unit, scale in TIMES:
        if abs(value_s) >= ROUNDS_UP * scale:
            return f"{value_s / scale:.3g} {unit}"
    return f"{value_s / 1e-9:.3g} ns"
