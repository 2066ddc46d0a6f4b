"""glibc's rules in small: by hand, and beside the allocator of this process."""

import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits.heap import HEAP_BYTES, LARGEST_THRESHOLD, Heap

MB = 2**20
moves = st.lists(st.one_of(st.integers(1, 48), st.integers(-10, -1)), max_size=60)


@settings(deadline=None)
@given(moves)
def test_blocks_never_overlap_and_resident_is_never_below_what_lives(moves):
    heap, held = Heap(LARGEST_THRESHOLD), []
    for i, move in enumerate(moves):
        if move > 0:
            heap.take(i, move * MB)
            held.append((i, move * MB))
        elif held:
            heap.give(held.pop(move % len(held))[0])
        assert heap.peak_bytes >= heap.resident_bytes >= sum(size for _, size in held)
        placed = sorted((id(h), at, size) for h, at, size in heap.where.values() if h is not None)
        for (a, at, size), (b, other, _) in zip(placed, placed[1:], strict=False):
            assert a != b or at + size <= other
            assert at + size <= HEAP_BYTES


def test_large_blocks_go_back_at_once():
    heap = Heap()
    for i in range(4):
        heap.take(i, 40 * MB)
        heap.give(i)
    assert heap.resident_bytes == 0
    assert heap.peak_bytes < 41 * MB


def test_small_blocks_stay_until_the_top_is_long_enough():
    heap = Heap(LARGEST_THRESHOLD)
    for i in range(3):
        heap.take(i, 10 * MB)
    heap.give(1)
    assert heap.resident_bytes > 29 * MB, "a gap between two blocks is resident"
    heap.give(2)
    heap.give(0)
    assert heap.resident_bytes > 29 * MB, "30 MB of top is less than twice the threshold"


def test_the_threshold_follows_what_is_given_back():
    heap = Heap()
    heap.take("a", 5 * MB)
    heap.give("a")
    assert 5 * MB <= heap.threshold_bytes < 5.1 * MB
    heap.take("b", 40 * MB)
    heap.give("b")
    assert heap.threshold_bytes < 5.1 * MB, "beyond 32 MiB it does not follow"


PROGRAM = """
import ctypes, threading, random, sys
from hwlimits.machine.memory import _peak_of_mark, _reset_mark
import psutil
libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]
def work():
    rng, held = random.Random(0), []
    small = [libc.malloc(size) for size in range(24, 1032, 16) for _ in range(8)]
    for p in small:  # a thread that has worked has its own store of small blocks full, so that crumbs are joined
        libc.free(p)
    for size in {sizes}:
        p = ctypes.c_void_p()
        libc.posix_memalign(ctypes.byref(p), 64, size)
        ctypes.memset(p, 1, size)
        held.append(p)
        if len(held) > 12:
            libc.free(held.pop(rng.randrange(len(held))))
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free(libc.malloc(2**25 - 2**16))  # the threshold is at its largest, as in a process that has worked
_reset_mark()
before = psutil.Process().memory_info().rss
thread = threading.Thread(target=work)
thread.start(); thread.join()
print(_peak_of_mark(lambda: None) - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the rules are glibc's")
@pytest.mark.parametrize("unit", [4, 11, 20])
def test_the_estimate_lies_near_a_real_thread_and_mostly_below(unit):
    """The same requests to the real allocator, in a thread of a fresh process, every block written.

    Seen over 14 such traces: 1.00 to 1.28 times the estimate. The rest is in crumbs that aligned blocks leave
    and a thread keeps for itself, so that gaps are not joined; the estimate joins them all.
    """
    import random

    sizes = (np.random.default_rng(unit).integers(1, 4, 60) * unit * MB // 2).tolist()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(sizes=sizes)], capture_output=True, text=True, check=True
    )
    heap, rng, held = Heap(LARGEST_THRESHOLD), random.Random(0), []
    for i, size in enumerate(sizes):
        heap.take(i, size)
        held.append(i)
        if len(held) > 12:
            heap.give(held.pop(rng.randrange(len(held))))
    assert 0.95 <= int(done.stdout) / heap.peak_bytes <= 1.35
