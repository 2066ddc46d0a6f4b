"""Numbers as people read them: read back, they are the value."""

import pytest

from hwlimits.units import quantity, seconds

SCALE = {"n": 1e-9, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


@pytest.mark.parametrize("exponent", range(-9, 18))
@pytest.mark.parametrize("factor", [1, 2.5, 9.994, 9.996, -2.5])
def test_a_quantity_is_shown_with_its_value(exponent, factor):
    """Read back what is shown: prefix and number give the value, and the number has no exponent."""
    value = factor * 10.0**exponent
    unit = "s" if exponent < 0 else "B/s"
    number, shown = quantity(value, unit).split()
    assert float(number) * SCALE.get(shown.removesuffix(unit), 1) == pytest.approx(value, rel=5e-3)
    assert "e" not in number or abs(value) >= 999.5e15


def test_what_rounds_up_has_the_next_prefix():
    assert [quantity(x, "B/s") for x in (9.994e11, 9.996e11, 2.25e15)] == ["999 GB/s", "1 TB/s", "2.25 PB/s"]
    assert [seconds(x) for x in (9.994e-4, 9.996e-4, 0.99951, 0)] == ["999 µs", "1 ms", "1 s", "0 s"]


def test_a_small_count_is_exact_and_none_is_nothing():
    assert [quantity(n) for n in (0, 9_999, 10_000, 999_950, 1e6)] == ["0", "9,999", "10 k", "1 M", "1 M"]
    assert quantity(0.125) == "0.125"
    assert quantity(None, "B") == ""
