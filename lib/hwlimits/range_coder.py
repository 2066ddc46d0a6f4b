"""Decisions of any probability as bits: a range coder, which `hwlimits.contexts` tells the probabilities.

Source: Witten, Neal and Cleary, "Arithmetic coding for data compression" (1987); Martin, "Range encoding" (1979).

>>> encoder = Encoder()
>>> bits = [encoder.code(60_000, bit) for bit in (1, 1, 0, 1)]
>>> content, _ = encoder.finish()
>>> decoder = Decoder(content)
>>> len(content), [decoder.code(60_000) for _ in bits]
(1, [1, 1, 0, 1])
"""

from __future__ import annotations

import math

from hwlimits.bits import CodingError

WIDTH = 32  # bits of the interval


class Encoder:
    """A range coder's interval of numbers, narrowed by each decision to the part that belongs to it."""

    def __init__(self):
        self.low, self.width, self.out = 0, (1 << WIDTH) - 1, bytearray()

    def code(self, probability: int, bit: int) -> int:
        """Write a bit that is 1 with the probability, in 1 / 65536; returned as it is."""
        part = self.width * probability >> 16
        if bit:
            self.width = part
        else:
            self.low += part
            self.width -= part
        while self.width < 1 << WIDTH - 8:
            self._emit()
            self.width <<= 8
        return bit

    def _emit(self) -> None:
        byte, self.low = self.low >> WIDTH - 8, (self.low & (1 << WIDTH - 8) - 1) << 8
        if byte > 255:  # a carry, into the bytes that have left
            at = len(self.out) - 1
            while self.out[at] == 255:
                self.out[at] = 0
                at -= 1
            self.out[at] += 1
        self.out.append(byte & 255)

    def position(self) -> float:
        """Bits that all decisions until now are worth: -log2 of the interval's share of all."""
        return 8 * len(self.out) + WIDTH - math.log2(self.width)

    def finish(self) -> tuple[bytes, int]:
        """All bytes, and how many bits of them are needed: what follows may be zeros."""
        bits, value = 0, -(-self.low >> WIDTH) << WIDTH
        while value >= self.low + self.width:  # the number of the interval that ends with the most zeros
            bits += 1
            unit = WIDTH - bits
            value = -(-self.low >> unit) << unit
        bits += 8 * len(self.out)
        self.low = value
        for _ in range(WIDTH // 8):
            self._emit()
        return bytes(self.out[: -(-bits // 8)]), bits


class Decoder:
    """Takes the decisions out of what an `Encoder` wrote; content that ends is followed by zeros."""

    def __init__(self, content: bytes):
        self.content, self.at, self.width = content, WIDTH // 8, (1 << WIDTH) - 1
        self.value = int.from_bytes(content[: self.at].ljust(self.at, b"\0"), "big")

    def code(self, probability: int, bit: int = 0) -> int:
        """The next bit, which is 1 with the probability, in 1 / 65536. Raises CodingError beyond the content's end."""
        part = self.width * probability >> 16
        bit = int(self.value < part)
        if bit:
            self.width = part
        else:
            self.value -= part
            self.width -= part
        while self.width < 1 << WIDTH - 8:
            self.value = self.value << 8 | (self.content[self.at] if self.at < len(self.content) else 0)
            self.at += 1
            if self.at > len(self.content) + WIDTH // 8:
                raise CodingError("the content ends before all is decoded; it is truncated or damaged")
            self.width <<= 8
        return bit

    def position(self) -> float:
        """Bits that all decisions until now are worth: -log2 of the interval's share of all."""
        return 8 * (self.at - WIDTH // 8) + WIDTH - math.log2(self.width)

    def finish(self) -> None:
        """Raise CodingError if there is content that no decision needed."""
        if self.at < len(self.content):
            raise CodingError(
                f"{len(self.content) - self.at:,} bytes are left when all is decoded; the content is damaged"
            )
