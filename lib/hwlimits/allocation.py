"""Where each buffer lies in one arena: planned before the run, from sizes and lifetimes.

An engine knows before it runs which tensors it will need, and when. So it can lay them out once, in one
block of memory, such that two that live at the same time never overlap, and two that don't may share a
place. The block's size is what matters: the least possible one is the *optimum*, which takes exponential
time to find (dynamic storage allocation is NP-hard: Garey and Johnson 1979, problem SR2); the bytes that are
alive at the busiest step are a lower bound of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hwlimits.storage import Buffer, StorageError, peak_live_bytes

MOST_BUFFERS = 10  # for which `optimum` searches: 10 take up to a few seconds, each more ten times as long


@dataclass(frozen=True)
class Plan:
    """Offsets by the buffer's name, in bytes from the arena's start, and the size of the arena."""

    offsets: Mapping[str, int]
    total_bytes: int


def plan(buffers: Iterable[Buffer], alignment: int = 16) -> Plan:
    """Greedy by size: the largest buffer first, each at the lowest place that is free while it lives.

    As tflite-micro's GreedyMemoryPlanner does it, which rounds each size up to a multiple of
    `alignment` and, of equal ones, places the last first; so the plans are the same.
    Raises StorageError for two buffers of one name, and for an alignment below 1.

    Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020).

    >>> plan([Buffer("image", 100, 0, 1), Buffer("conv", 400, 1, 2), Buffer("pool", 100, 2, 3)], alignment=1)
    Plan(offsets={'image': 400, 'conv': 0, 'pool': 400}, total_bytes=500)
    """
    buffers = _checked(buffers, alignment)
    sizes = {b.name: _up(b.bytes, alignment) for b in buffers}
    placed: list[tuple[int, Buffer]] = []
    largest_first = sorted(range(len(buffers)), key=lambda i: (sizes[buffers[i].name], i), reverse=True)
    for buffer in (buffers[i] for i in largest_first):
        offset = 0
        for at, other in sorted(((at, o) for at, o in placed if o.overlaps(buffer)), key=lambda x: x[0]):
            if at - offset >= sizes[buffer.name]:
                break
            offset = max(offset, at + sizes[other.name])
        placed.append((offset, buffer))
    return _plan(buffers, {b.name: at for at, b in placed}, sizes)


def optimum(buffers: Iterable[Buffer], alignment: int = 16) -> Plan:
    """A plan of the least possible size, by trying the orders in which buffers can lie on top of each other.

    Let all buffers of any plan fall as far as they go: each then lies on the ground or on one that lives
    with it. So it is enough to try orders, with each buffer as low as those before it let it lie; an order
    that can't beat the best so far is left, and the search ends where the lower bound is met.
    Raises StorageError for more than MOST_BUFFERS, and as `plan` does.

    >>> a, b, c, d = Buffer("a", 4, 0, 1), Buffer("b", 2, 1, 3), Buffer("c", 3, 2, 4), Buffer("d", 3, 4, 6)
    >>> optimum([a, b, c, d], alignment=1).total_bytes
    6
    """
    buffers = _checked(buffers, alignment)
    if len(buffers) > MOST_BUFFERS:
        raise StorageError(
            f"optimum of {len(buffers)} buffers: the search takes exponential time, and {MOST_BUFFERS} are the most "
            "here; `plan` is for as many as you like, `peak_live_bytes` bounds it from below"
        )
    sizes = {b.name: _up(b.bytes, alignment) for b in buffers}
    least = peak_live_bytes(buffers, alignment)
    best = plan(buffers, alignment)

    def search(offsets: dict[str, int], left: tuple[Buffer, ...], floor: int) -> None:
        nonlocal best
        if not left:
            best = _plan(buffers, offsets, sizes)
        for buffer in left:
            if best.total_bytes == least:
                return
            below = [offsets[b.name] + sizes[b.name] for b in buffers if b.name in offsets and b.overlaps(buffer)]
            offset = max(below, default=0)
            # from the ground up: the same plan in another order would be tried again
            if offset >= floor and offset + sizes[buffer.name] < best.total_bytes:
                search(offsets | {buffer.name: offset}, tuple(b for b in left if b is not buffer), offset)

    search({}, buffers, 0)
    return best


def _checked(buffers: Iterable[Buffer], alignment: int) -> tuple[Buffer, ...]:
    buffers = tuple(buffers)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1:
        raise StorageError(f"alignment={alignment!r}: must be a whole number of bytes, at least 1")
    names = [b.name for b in buffers]
    if twice := [name for name in names if names.count(name) > 1]:
        raise StorageError(f"two buffers are called {twice[0]!r}: a plan gives offsets by name, so each needs its own")
    return buffers


def _up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _plan(buffers: tuple[Buffer, ...], offsets: Mapping[str, int], sizes: Mapping[str, int]) -> Plan:
    ordered = {b.name: offsets[b.name] for b in buffers}
    return Plan(ordered, max((at + sizes[name] for name, at in ordered.items()), default=0))
