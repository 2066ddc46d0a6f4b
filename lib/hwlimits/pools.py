"""Allocators that hand out memory while a program runs, and what they lose: pools and fragmentation in small.

A planner (`hwlimits.allocation`) knows every request beforehand. An allocator hears of them one by one, and
what it has handed out it can't move. It loses memory in two ways: *internal* fragmentation, the part
of a block beyond what was asked for, and *external*, free bytes in pieces that are too small. Each
allocator here manages `capacity_bytes` from offset 0; `replay` runs a trace through one.

Source: Wilson et al., "Dynamic Storage Allocation: A Survey and Critical Review" (1995).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hwlimits.storage import Buffer, StorageError


@dataclass(frozen=True)
class Request:
    """One line of a trace: `bytes` asked for under a name, or given back where `bytes` is None."""

    name: str
    bytes: int | None = None


def trace_of(buffers: Iterable[Buffer]) -> list[Request]:
    """The requests of a program with these buffers: at each step what begins is taken, then what ends given back.

    >>> [r.name for r in trace_of([Buffer("x", 4, 0, 1), Buffer("y", 2, 1, 2)])]
    ['x', 'y', 'x', 'y']
    """
    buffers = list(buffers)
    events = [(b.first, 0, i, Request(b.name, b.bytes)) for i, b in enumerate(buffers)]
    events += [(b.last, 1, i, Request(b.name)) for i, b in enumerate(buffers)]
    return [request for *_, request in sorted(events, key=lambda e: e[:3])]


class FreeList:
    """Blocks anywhere: `fit` 'first' takes the lowest gap that is large enough, 'best' the smallest such gap.

    Sizes are rounded up to a multiple of `alignment`. Neighbouring gaps are one gap.

    >>> heap = FreeList(100, fit="first", alignment=1)
    >>> heap.take(60), heap.take(60)
    (0, None)
    """

    def __init__(self, capacity_bytes: int, *, fit: str = "first", alignment: int = 16):
        if fit not in ("first", "best"):
            raise StorageError(f"FreeList(fit={fit!r}): choose 'first' or 'best'")
        self.capacity_bytes, self.fit, self.alignment = capacity_bytes, fit, alignment
        self.blocks: dict[int, int] = {}  # offset -> bytes handed out

    def gaps(self) -> list[tuple[int, int]]:
        """(offset, bytes) of each piece that is free, from the lowest."""
        found, at = [], 0
        for offset, size in sorted(self.blocks.items()):
            found.append((at, offset - at))
            at = offset + size
        found.append((at, self.capacity_bytes - at))
        return [(offset, size) for offset, size in found if size]

    def take(self, size: int) -> int | None:
        """Offset of a block of at least `size` bytes, None if no gap is large enough."""
        size = max(1, -(-size // self.alignment)) * self.alignment
        fitting = [(gap, offset) for offset, gap in self.gaps() if gap >= size]
        if not fitting:
            return None
        offset = min(fitting)[1] if self.fit == "best" else min(offset for _, offset in fitting)
        self.blocks[offset] = size
        return offset

    def give_back(self, offset: int) -> None:
        del self.blocks[offset]


class Buddy(FreeList):
    """Blocks of 2^k bytes at multiples of their size: a gap is halved until it fits, and halves that are free rejoin.

    `capacity_bytes` is a power of two. Finding and joining take a few steps however many blocks there are; the
    price is internal: almost half of a block, at worst.

    >>> heap = Buddy(64)
    >>> heap.take(17), heap.take(32), heap.take(1)
    (0, 32, None)
    """

    def __init__(self, capacity_bytes: int, *, least_bytes: int = 16):
        if capacity_bytes < 1 or capacity_bytes & (capacity_bytes - 1):
            raise StorageError(f"Buddy({capacity_bytes}): halving needs a power of two")
        super().__init__(capacity_bytes, alignment=1)
        self.least_bytes = least_bytes

    def take(self, size: int) -> int | None:
        size = max(self.least_bytes, 1 << max(0, size - 1).bit_length())
        places = range(0, self.capacity_bytes - size + 1, size)
        free = [p for p in places if all(p + size <= o or o + s <= p for o, s in self.blocks.items())]
        if not free:
            return None
        # out of the smallest free buddy, so that large ones stay whole; of equal ones the lowest
        offset = min(free, key=lambda p: (self._whole(p, size), p))
        self.blocks[offset] = size
        return offset

    def _whole(self, offset: int, size: int) -> int:
        """Bytes of the free buddy around a place."""
        while size < self.capacity_bytes:
            start = offset // (2 * size) * 2 * size
            if any(start < o + s and o < start + 2 * size for o, s in self.blocks.items()):
                break
            offset, size = start, 2 * size
        return size


class SizeClasses(FreeList):
    """A pool: a block given back stays cut, on the list of its class, for the next request of that class.

    classes   sizes of the blocks; a request takes the smallest class that holds it. New blocks
              come from the end. Taking and giving back are one step each, and memory that one class
              holds never serves another: that is what a pool costs.

    >>> pool = SizeClasses(100, classes=[20, 50])
    >>> pool.take(15), pool.take(45), pool.give_back(0), pool.take(20), pool.take(30)
    (0, 20, None, 0, None)
    """

    def __init__(self, capacity_bytes: int, *, classes: Iterable[int]):
        super().__init__(capacity_bytes, alignment=1)
        self.classes = sorted(classes)
        self.kept: dict[int, list[int]] = {size: [] for size in self.classes}
        self.end = 0

    def take(self, size: int) -> int | None:
        fitting = [c for c in self.classes if c >= size]
        if not fitting:
            raise StorageError(f"SizeClasses: {size:,} bytes are more than the largest class, {self.classes[-1]:,}")
        block = fitting[0]
        if self.kept[block]:
            offset = self.kept[block].pop()
        elif self.end + block <= self.capacity_bytes:
            offset, self.end = self.end, self.end + block
        else:
            return None
        self.blocks[offset] = block
        return offset

    def give_back(self, offset: int) -> None:
        self.kept[self.blocks.pop(offset)].append(offset)


@dataclass(frozen=True)
class Failure:
    """A request that could not be served: so many bytes were free, and the largest piece had so many."""

    name: str
    bytes: int
    free_bytes: int
    largest_gap_bytes: int

    @property
    def fragmented(self) -> bool:
        """True if the free bytes were enough: it failed because they are in pieces."""
        return self.bytes <= self.free_bytes


@dataclass(frozen=True)
class Replay:
    """What a trace did to an allocator.

    high_water_bytes   the highest end of any block: the memory that the program occupied
    peak_live_bytes    the most bytes that were asked for and not yet given back: no allocator needs less
    internal_bytes     at that moment, bytes of blocks beyond what was asked for
    failure            the first request that failed, where the replay ended; None if none did
    """

    high_water_bytes: int
    peak_live_bytes: int
    internal_bytes: int
    failure: Failure | None

    @property
    def overhead(self) -> float:
        """Occupied over needed, minus 1: all that fragmentation cost."""
        return self.high_water_bytes / self.peak_live_bytes - 1 if self.peak_live_bytes else 0.0


def replay(trace: Iterable[Request], allocator: FreeList) -> Replay:
    """Run a trace through an allocator, until it ends or a request fails.

    Raises StorageError for a name that is asked for twice, or given back without having been asked for.

    >>> shred = [Request(n, 25) for n in "abcd"] + [Request("a"), Request("c"), Request("e", 50)]
    >>> replay(shred, FreeList(100, alignment=1)).failure
    Failure(name='e', bytes=50, free_bytes=50, largest_gap_bytes=25)
    """
    held: dict[str, tuple[int, int]] = {}  # name -> offset, bytes asked for
    high = peak = internal = 0
    for request in trace:
        if (request.bytes is None) != (request.name in held):
            what = "given back, and was not asked for" if request.bytes is None else "asked for twice"
            raise StorageError(f"trace: {request.name!r} is {what}")
        if request.bytes is None:
            allocator.give_back(held.pop(request.name)[0])
            continue
        offset = allocator.take(request.bytes)
        if offset is None:
            free = [size for _, size in allocator.gaps()]
            return Replay(high, peak, internal, Failure(request.name, request.bytes, sum(free), max(free, default=0)))
        held[request.name] = offset, request.bytes
        live = sum(size for _, size in held.values())
        if live > peak:
            peak, internal = live, sum(allocator.blocks.values()) - live
        high = max(high, max(o + s for o, s in allocator.blocks.items()))
    return Replay(high, peak, internal, None)
