"""How many bytes: of a model at rest, of a training step, of whatever lives at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral


class StorageError(ValueError):
    """Something whose bytes can't be counted as asked; the text says what to do."""


@dataclass(frozen=True)
class Buffer:
    """Bytes that something needs from step `first` to step `last`, both included.

    Raises StorageError for a size below 0, for a life that ends before it begins, and for what is no whole number.

    >>> Buffer("image", 784, 0, 1).overlaps(Buffer("pooled", 100, 2, 3))
    False
    """

    name: str
    bytes: int
    first: int
    last: int

    def __post_init__(self):
        for what in ("bytes", "first", "last"):
            value = getattr(self, what)
            if isinstance(value, bool) or not isinstance(value, Integral) or (what == "bytes" and value < 0):
                need = "a whole number" + (" of at least 0" if what == "bytes" else "")
                raise StorageError(f"Buffer({self.name!r}, {what}={value!r}): {what} must be {need}")
        if self.first > self.last:
            raise StorageError(
                f"Buffer({self.name!r}): it lives from step {self.first} to {self.last}, which is before"
            )

    def overlaps(self, other: Buffer) -> bool:
        """True if there is a step at which both live."""
        return self.first <= other.last and other.first <= self.last


def live_bytes(buffers: Iterable[Buffer], alignment: int = 1) -> dict[int, int]:
    """Bytes alive at each step at which that changes: {step: bytes}, in order. `alignment` rounds each size up.

    >>> live_bytes([Buffer("image", 100, 0, 1), Buffer("conv", 400, 1, 2), Buffer("pool", 100, 2, 3)])
    {0: 100, 1: 500, 2: 500, 3: 100, 4: 0}
    """
    change: dict[int, int] = {}
    for b in buffers:
        size = -(-int(b.bytes) // alignment) * alignment
        change[b.first] = change.get(b.first, 0) + size
        change[b.last + 1] = change.get(b.last + 1, 0) - size
    alive, total = {}, 0
    for step in sorted(change):
        total += change[step]
        alive[step] = total
    return alive


def peak_live_bytes(buffers: Iterable[Buffer], alignment: int = 1) -> int:
    """The most bytes that are alive at one step: no arena that holds them all can be smaller.

    >>> peak_live_bytes([Buffer("image", 100, 0, 1), Buffer("conv", 400, 1, 2), Buffer("pool", 100, 2, 3)])
    500
    """
    return max(live_bytes(buffers, alignment).values(), default=0)
