"""Arena plans: never overlapping, never below the bound, the optimum against every layout there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits.allocation import MOST_BUFFERS, Plan, optimum, plan
from hwlimits.storage import Buffer, StorageError, peak_live_bytes

rows = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 8), st.integers(0, 4)), max_size=8)


def buffers_of(rows):
    return [Buffer(str(i), size, first, first + life) for i, (size, first, life) in enumerate(rows)]


def conflicts(buffers, found: Plan, alignment=1):
    """Pairs that live together and share a byte, byte by byte."""
    taken = {b.name: set(range(found.offsets[b.name], found.offsets[b.name] + b.bytes)) for b in buffers}
    pairs = itertools.combinations(buffers, 2)
    together = [(a, b) for a, b in pairs if set(range(a.first, a.last + 1)) & set(range(b.first, b.last + 1))]
    return [(a.name, b.name) for a, b in together if taken[a.name] & taken[b.name]]


def every_layout(buffers):
    """The least arena by trying every offset of every buffer."""
    for total in range(peak_live_bytes(buffers), sum(b.bytes for b in buffers) + 1):
        places = [range(total - b.bytes + 1) for b in buffers]
        for offsets in itertools.product(*places):
            if not conflicts(buffers, Plan(dict(zip((b.name for b in buffers), offsets, strict=True)), total)):
                return total
    return 0


@settings(deadline=None)
@given(rows, st.sampled_from([1, 4, 16]))
def test_a_plan_is_sound(rows, alignment):
    buffers = buffers_of(rows)
    for found in (plan(buffers, alignment), optimum(buffers, alignment)):
        assert conflicts(buffers, found) == []
        assert all(offset % alignment == 0 for offset in found.offsets.values())
        assert found.total_bytes >= peak_live_bytes(buffers, alignment)
        assert found.total_bytes >= max((found.offsets[b.name] + b.bytes for b in buffers), default=0)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(0, 3)), max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_optimum_is_that_of_every_layout(rows):
    buffers = buffers_of(rows)
    assert optimum(buffers, 1).total_bytes == every_layout(buffers)


def test_a_conflict_is_seen():
    buffers = [Buffer("a", 4, 0, 2), Buffer("b", 4, 2, 3)]
    assert conflicts(buffers, Plan({"a": 0, "b": 3}, 7)) == [("a", "b")]
    assert conflicts(buffers, Plan({"a": 0, "b": 4}, 8)) == []


# Four buffers that greedy packs badly: the two large ones take the ends of each other's neighbours.
BAD = [Buffer("w", 7, 3, 4), Buffer("x", 4, 1, 3), Buffer("y", 6, 0, 3), Buffer("z", 10, 0, 0)]


def test_greedy_is_not_optimal():
    assert plan(BAD, 1).total_bytes == 20
    assert optimum(BAD, 1).total_bytes == peak_live_bytes(BAD) == every_layout(BAD) == 17


def test_the_gap_on_random_cases():
    """What the chapter shows: mostly none, a few per cent on average, up to a third."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(200):
        n = 8
        rows = zip(rng.integers(1, 11, n), rng.integers(0, n, n), rng.integers(0, 4, n), strict=True)
        buffers = buffers_of([tuple(map(int, row)) for row in rows])
        ratios.append(plan(buffers, 1).total_bytes / optimum(buffers, 1).total_bytes)
    assert min(ratios) == 1 < np.mean(ratios) < 1.03 < max(ratios) < 1.5


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: optimum(buffers_of([(1, 0, 1)] * 11)),
            f"optimum of 11 buffers: the search takes exponential time, and {MOST_BUFFERS} are the most",
        ),
        (lambda: plan([Buffer("a", 1, 0, 0)] * 2), "two buffers are called 'a'"),
        (lambda: plan([], alignment=0), "alignment=0: must be a whole number of bytes"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, said):
    with pytest.raises(StorageError) as caught:
        call()
    assert said in str(caught.value)
