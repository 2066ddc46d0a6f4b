"""Bits against Python's own text of numbers, and what a damaged content is told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits.bits import CodingError, Reader, Writer, bit_lengths

anything = st.integers(0, 2**64 - 1) | st.integers(0, 40)


def bytes_of(text):
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def one(method, values):
    out = Writer()
    getattr(out, method)(values)
    return out.content()


@settings(deadline=None)
@given(st.lists(anything, max_size=20))
def test_bit_lengths_are_python_s(values):
    assert bit_lengths(np.array(values, np.uint64)).tolist() == [v.bit_length() for v in values]


@settings(deadline=None)
@given(st.lists(anything.map(lambda v: max(v, 1)), max_size=20))
def test_gamma_is_zeros_and_the_number(values):
    content = one("gamma", np.array(values, np.uint64))
    assert content == bytes_of("".join("0" * (v.bit_length() - 1) + f"{v:b}" for v in values))
    back = Reader(content)
    assert [back.gamma() for _ in values] == values
    back.finish()


def rice_text(value, k):
    return "0" * (value >> k) + "1" + (f"{value % 2**k:0{k}b}" if k else "")


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_rice_is_the_shortest_of_all_k_written_by_hand(values):
    sizes = [sum(len(rice_text(v, k)) for v in values) for k in range(12)]
    k = sizes.index(min(sizes))
    content = one("rice", np.array(values))
    assert content == bytes_of(f"{k:06b}" + "".join(rice_text(v, k) for v in values))
    assert Reader(content).rice(len(values)) == values


@settings(deadline=None)
@given(st.lists(anything, max_size=20))
def test_rice_and_number_take_any_number(values):
    out = Writer()
    out.rice(np.array(values, np.uint64))
    for v in values:
        out.number(v)
    back = Reader(out.content())
    assert back.rice(len(values)) == values
    assert [back.number() for _ in values] == values
    back.finish()


def test_nothing_written_is_no_bytes():
    assert Writer().content() == b""
    Reader(b"").finish()


@pytest.mark.parametrize(
    ("text", "read", "said"),
    [
        ("1", lambda r: r.fixed(9), "the content ends before all is decoded; it is truncated or damaged"),
        ("", lambda r: r.gamma(), "the content ends before all is decoded"),
        ("0" * 16, lambda r: r.gamma(), "the content ends before all is decoded"),
        ("00000001", lambda r: r.gamma(), "the content ends before all is decoded"),
        ("0" * 64 + "1" * 72, lambda r: r.gamma(), "a number of 65 bits; 64 is the most"),
        ("1111111", lambda r: r.number(), "a number of 127 bits; 64 is the most"),
        ("000000" + "1", lambda r: r.rice(9), "9 numbers of at least 1 bits are promised and 2 bits are left"),
        ("111111" + "01" + "1" * 64, lambda r: r.rice(1), None),
        ("111111" + "001" + "1" * 63, lambda r: r.rice(1), "a number above 64 bits; the content is damaged"),
        ("1" * 8, lambda r: r.finish(), "8 bits are left when all is decoded; the content is damaged"),
        ("1" * 8, lambda r: (r.fixed(7), r.finish()), "1 bits are left when all is decoded"),
        ("1" * 8, lambda r: r.lookup(9, 1, [0, 1], [1, 1]), "the content ends before all is decoded"),
        ("1" * 8, lambda r: r.lookup(10**12, 3, [0] * 8, [3] * 8), "the content ends before all is decoded"),
    ],
)  # fmt: skip
def test_what_a_damaged_content_is_told(text, read, said):
    back = Reader(bytes_of(text))
    if said is None:
        assert read(back) == [2**64 - 1]
        return
    with pytest.raises(CodingError, match=said):
        read(back)
