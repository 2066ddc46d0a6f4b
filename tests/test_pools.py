"""Allocators against the rules that make them, and the traces that break them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits.pools import Buddy, FreeList, Request, SizeClasses, replay, trace_of
from hwlimits.storage import Buffer, StorageError, peak_live_bytes

ALLOCATORS = {
    "first": lambda: FreeList(4096, fit="first", alignment=1),
    "best": lambda: FreeList(4096, fit="best", alignment=1),
    "buddy": lambda: Buddy(4096, least_bytes=4),
    "classes": lambda: SizeClasses(4096, classes=[4, 16, 64, 256]),
}
moves = st.lists(st.one_of(st.integers(1, 200), st.integers(-10, -1)), max_size=40)


@pytest.mark.parametrize("name", ALLOCATORS)
@settings(deadline=None)
@given(moves)
def test_blocks_never_overlap_and_lie_inside(name, moves):
    heap, held = ALLOCATORS[name](), []
    for move in moves:
        if move > 0:
            offset = heap.take(move)
            if offset is not None:
                assert heap.blocks[offset] >= move
                assert all(
                    offset + heap.blocks[offset] <= o or o + s <= offset for o, s in heap.blocks.items() if o != offset
                )
                assert 0 <= offset <= 4096 - move
                held.append(offset)
        elif held:
            heap.give_back(held.pop(move % len(held)))
    assert sum(s for _, s in heap.gaps()) + sum(heap.blocks.values()) == 4096
    if name == "buddy":
        assert all(s & (s - 1) == 0 and o % s == 0 for o, s in heap.blocks.items())


def test_first_and_best_fit_choose_differently():
    for fit, expected in (("first", 0), ("best", 60)):
        heap = FreeList(100, fit=fit, alignment=1)
        for size in (50, 10, 20, 20):
            heap.take(size)
        heap.give_back(0)
        heap.give_back(60)
        assert heap.take(20) == expected


def test_a_full_list_fails_only_if_no_gap_is_large_enough():
    """On any trace: a request is refused exactly where the largest gap is smaller than it."""
    heap = FreeList(100, alignment=1)
    offsets = [heap.take(10) for _ in range(10)]
    for offset in offsets[::2]:
        heap.give_back(offset)
    assert heap.take(11) is None
    assert heap.take(10) == 0


def test_fragmentation_fails_though_enough_is_free():
    shred = [Request(n, 25) for n in "abcd"] + [Request("a"), Request("c"), Request("e", 50)]
    failure = replay(shred, FreeList(100, alignment=1)).failure
    assert (failure.free_bytes, failure.largest_gap_bytes, failure.fragmented) == (50, 25, True)
    assert replay([Request("a", 101)], FreeList(100)).failure.fragmented is False


def test_internal_fragmentation_of_buddies_by_hand():
    """17, 33 and 5 bytes in blocks of 32, 64 and 8."""
    found = replay([Request("a", 17), Request("b", 33), Request("c", 5)], Buddy(256, least_bytes=1))
    assert found.peak_live_bytes == 55
    assert found.internal_bytes == (32 - 17) + (64 - 33) + (8 - 5)


def test_a_pool_never_shares_between_classes():
    """A phase of small blocks, then one of large ones: the free list reuses the memory, the pool can't."""
    trace = [Request(str(i), 10) for i in range(5)] + [Request(str(i)) for i in range(5)] + [Request("large", 50)]
    assert replay(trace, FreeList(1000, alignment=1)).high_water_bytes == 50
    assert replay(trace, SizeClasses(1000, classes=[10, 50])).high_water_bytes == 100


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 12), st.integers(0, 5)), min_size=1, max_size=12))
def test_a_trace_of_buffers_has_their_peak(rows):
    buffers = [Buffer(str(i), size, first, first + life) for i, (size, first, life) in enumerate(rows)]
    found = replay(trace_of(buffers), FreeList(10_000, alignment=1))
    assert found.failure is None
    assert found.peak_live_bytes == peak_live_bytes(buffers)
    assert found.high_water_bytes >= found.peak_live_bytes
    assert found.overhead == found.high_water_bytes / found.peak_live_bytes - 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: replay([Request("a", 1)] * 2, FreeList(100)), "'a' is asked for twice"),
        (lambda: replay([Request("a")], FreeList(10)), "'a' is given back, and was not asked for"),
        (lambda: Buddy(100), "Buddy(100): halving needs a power of two"),
        (lambda: FreeList(1, fit="worst"), "choose 'first' or 'best'"),
        (lambda: SizeClasses(100, classes=[8]).take(9), "9 bytes are more than the largest class, 8"),
    ],
)
def test_errors_say_what_to_do(call, said):
    with pytest.raises(StorageError) as caught:
        call()
    assert said in str(caught.value)
