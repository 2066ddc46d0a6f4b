"""What a process holds of the memory that its program takes and gives back: glibc's allocator on Linux, in small.

Blocks above a threshold are mapped one by one, and go back to the system when they are given back. The
threshold moves: giving back a mapped block raises it to that block's size, up to 32 MiB. Smaller blocks lie in
heaps of 64 MiB, where a block given back stays, touched and resident, until one that fits takes its place or
the whole heap is empty. So a process is larger than what lives in it, and more so if its blocks are smaller.

Source: glibc 2.36, malloc/malloc.c (sysmalloc, free) and malloc/arena.c (heap_trim), for a thread that is not the
main one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HEAP_BYTES = 2**26
LARGEST_THRESHOLD = 2**25
FIRST_THRESHOLD = 2**17
ALIGNMENT, HEADER, LEAST = 64, 16, 32  # of what vector instructions like; of a block; the smallest gap


@dataclass
class _Heap:
    gaps: dict[int, int] = field(default_factory=dict)  # offset -> bytes given back, between blocks
    top: int = 0  # from here on nothing was ever handed out, or all was given back
    touched: int = 0


class Heap:
    """Takes and gives blocks by name, and knows what is resident: `resident_bytes` now, `peak_bytes` at most.

    Every block is taken to be written from end to end.

    >>> heap = Heap()
    >>> heap.take("a", 50_000_000); heap.give("a")
    >>> heap.resident_bytes, heap.peak_bytes >= 50_000_000
    (0, True)
    """

    def __init__(self, threshold_bytes: int = FIRST_THRESHOLD, *, fixed: bool = False):
        self.threshold_bytes, self.fixed = threshold_bytes, fixed
        self.heaps = [_Heap()]
        self.mapped = 0
        self.where: dict[object, tuple[_Heap | None, int, int]] = {}
        self.peak_bytes = 0

    @property
    def resident_bytes(self) -> int:
        return self.mapped + sum(heap.touched for heap in self.heaps)

    def take(self, name: object, size: int) -> None:
        size = -(-(size + HEADER) // 16) * 16
        self.where[name] = self._fitting(size) or self._new(size)
        self.peak_bytes = max(self.peak_bytes, self.resident_bytes)

    def _fitting(self, size: int):
        """In the smallest gap of any heap that holds it, or else on top of the newest heap.

        glibc looks for room for the block wherever alignment may put it, so the place that an aligned
        block has left is, by a few bytes, too small for its like.
        """
        need = size + ALIGNMENT + LEAST
        gaps = [(gap, i, at) for i, heap in enumerate(self.heaps) for at, gap in heap.gaps.items() if gap >= need]
        if gaps:
            gap, i, at = min(gaps)
            del self.heaps[i].gaps[at]
            return self._cut(self.heaps[i], at, size, at + gap)
        heap = self.heaps[-1]
        if size >= self.threshold_bytes and heap.top + need > heap.touched:
            return None  # the top would have to grow: mapped instead
        return self._on_top(heap, size)

    def _on_top(self, heap: _Heap, size: int):
        if heap.top + size + ALIGNMENT + LEAST > HEAP_BYTES:
            return None
        found = self._cut(heap, heap.top, size, None)
        heap.top = found[1] + size
        return found

    def _cut(self, heap: _Heap, at: int, size: int, end: int | None):
        """The block in a gap from `at` to `end` (None: the top), aligned; what is left of the gap stays one."""
        start = -(-(at + HEADER) // ALIGNMENT) * ALIGNMENT - HEADER
        start += ALIGNMENT if 0 < start - at < LEAST else 0
        if start > at:
            heap.gaps[at] = start - at
        if end is not None and end > start + size:
            heap.gaps[start + size] = end - start - size
        heap.touched = max(heap.touched, start + size)
        return heap, start, size

    def _new(self, size: int):
        if size < self.threshold_bytes and size <= HEAP_BYTES // 2:
            full = self.heaps[-1]  # what it had on top is a gap from now on
            if full.top < HEAP_BYTES:
                full.gaps[full.top] = HEAP_BYTES - full.top
                self._joined(full, full.top)
                full.top = HEAP_BYTES
            self.heaps.append(_Heap())
            return self._on_top(self.heaps[-1], size)
        self.mapped += size
        return None, 0, size

    def give(self, name: object) -> None:
        heap, at, size = self.where.pop(name)
        if heap is None:
            self.mapped -= size
            if not self.fixed and self.threshold_bytes < size <= LARGEST_THRESHOLD:
                self.threshold_bytes = size
            return
        heap.gaps[at] = size
        self._joined(heap, at)
        self._lower_top(self.heaps[-1])
        while len(self.heaps) > 1 and self.heaps[-1].top == 0:
            self.heaps.pop()
            self._lower_top(self.heaps[-1])
        newest = self.heaps[-1]
        if newest.touched - newest.top >= 2 * self.threshold_bytes:
            newest.touched = newest.top

    @staticmethod
    def _joined(heap: _Heap, at: int) -> None:
        """The gap at `at` and the gaps on either side of it are one."""
        size = heap.gaps.pop(at)
        for start, gap in list(heap.gaps.items()):
            if start + gap == at or at + size == start:
                del heap.gaps[start]
                at, size = min(at, start), size + gap
        heap.gaps[at] = size

    @staticmethod
    def _lower_top(heap: _Heap) -> None:
        """A gap that reaches the top is the top."""
        for at, gap in heap.gaps.items():
            if at + gap == heap.top:
                del heap.gaps[at]
                heap.top = at
                break
