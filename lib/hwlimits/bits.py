"""Numbers as bits one after the other, and the codes that need no table: what chapter 09's coders write into.

A `Writer` collects numbers and packs them; a `Reader` takes them out in the same order. Beside numbers of a known
width there are three codes for whole numbers of unknown size: *gamma*, short for 1 and twice as long as the number's
own bits after that; *Rice*, a remainder of k bits and the quotient in unary; and `number`, with its width before it.
The first bit of a byte is its highest.

>>> out = Writer()
>>> out.number(300)
>>> out.gamma(np.array([1, 2, 3]))
>>> back = Reader(out.content())
>>> back.number(), back.gamma(), back.gamma(), back.gamma()
(300, 1, 2, 3)
"""

from __future__ import annotations

import numpy as np

WIDEST = 64  # bits of a number


class CodingError(ValueError):
    """What can't be coded, and content that is no code; the text says why."""


class Writer:
    """Collects numbers and packs their bits; the numbers' sizes are in bits."""

    def __init__(self):
        self._codes: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    @property
    def bits(self) -> int:
        """How many bits were appended."""
        return sum(int(lengths.sum()) for lengths in self._lengths)

    def codes(self, codes: np.ndarray, lengths: np.ndarray) -> None:
        """Append each of `codes`, below 2**length, in so many bits; lengths beyond 64 begin with zeros."""
        self._codes.append(np.asarray(codes, np.uint64))
        self._lengths.append(np.asarray(lengths, np.int64))

    def fixed(self, value: int, bits: int) -> None:
        """Append a number in `bits` bits."""
        self.codes([value], [bits])

    def number(self, value: int) -> None:
        """Append a number from 0 to 2**64 - 1: its width in seven bits, and itself."""
        self.fixed(value.bit_length(), 7)
        self.fixed(value, value.bit_length())

    def gamma(self, values: np.ndarray) -> None:
        """Append numbers of at least 1 in Elias' gamma code: as many zeros as the number has bits after its first.

        Source: Elias, "Universal codeword sets and representations of the integers" (1975).
        """
        values = np.asarray(values, np.uint64)
        self.codes(values, 2 * bit_lengths(values) - 1)

    def rice(self, values: np.ndarray) -> None:
        """Append numbers of at least 0 in the Rice code with the k that makes them shortest, k before them in 6 bits.

        A number is its quotient by 2**k in unary, a 1, and its remainder in k bits: the best code for the lengths
        of runs where 2**-k is near the rate at which they end.
        Source: Golomb, "Run-length encodings" (1966); Rice, JPL Publication 79-22 (1979), for powers of two.
        """
        values = np.asarray(values, np.uint64)
        # float64: a sum of 64-bit numbers has more than 64 bits, and the k next to the best will do
        sizes = [values.size * (k + 1) + (values >> np.uint64(k)).sum(dtype=np.float64) for k in range(WIDEST)]
        k = int(np.argmin(sizes))
        self.fixed(k, 6)
        one = np.uint64(1 << k)
        self.codes(values & (one - np.uint64(1)) | one, (values >> np.uint64(k)).astype(np.int64) + k + 1)

    def content(self) -> bytes:
        """All that was appended, filled up with zeros to whole bytes."""
        codes = np.concatenate([np.zeros(0, np.uint64), *self._codes])
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        bits, ends = np.zeros(lengths.sum(), np.uint8), np.cumsum(lengths)
        for j in range(int(codes.max(initial=0)).bit_length()):
            bits[ends[codes >> np.uint64(j) & np.uint64(1) == 1] - 1 - j] = 1
        return np.packbits(bits).tobytes()


class Reader:
    """Takes numbers out of the content of a `Writer`. It needs nine bytes of memory for each of the content.

    Every method raises CodingError where the content ends too early.
    """

    def __init__(self, content: bytes):
        # as text, because str.find and int(text, 2) are the fastest ways there are in Python alone
        self._text = (np.unpackbits(np.frombuffer(content, np.uint8)) + ord("0")).tobytes().decode("ascii")
        self._at = 0

    @property
    def left(self) -> int:
        """How many bits are left."""
        return len(self._text) - self._at

    def fixed(self, bits: int) -> int:
        """The next number of `bits` bits."""
        start, self._at = self._at, self._at + bits
        if self._at > len(self._text):
            raise CodingError("the content ends before all is decoded; it is truncated or damaged")
        return int(self._text[start : self._at], 2) if bits else 0

    def number(self) -> int:
        """The next that `Writer.number` wrote. Raises CodingError for a width above 64 bits."""
        bits = self.fixed(7)
        if bits > WIDEST:
            raise CodingError(f"a number of {bits} bits; 64 is the most, so the content is damaged")
        return self.fixed(bits)

    def gamma(self) -> int:
        """The next that `Writer.gamma` wrote. Raises CodingError for a number above 64 bits."""
        zeros = self._zeros()
        if zeros >= WIDEST:
            raise CodingError(f"a number of {zeros + 1} bits; 64 is the most, so the content is damaged")
        return self.fixed(zeros + 1)

    def rice(self, count: int) -> list[int]:
        """The next `count` that `Writer.rice` wrote. Raises CodingError for a number above 64 bits."""
        k = self.fixed(6)
        self.expect(count, k + 1)
        values = []
        for _ in range(count):
            quotient = self._zeros()
            self._at += 1
            values.append(quotient << k | self.fixed(k))
        if max(values, default=0) >= 1 << WIDEST:
            raise CodingError("a number above 64 bits; the content is damaged")
        return values

    def expect(self, count: int, bits: int = 1) -> None:
        """Raise CodingError unless the content has room for `count` numbers of at least `bits` bits."""
        if count * bits > self.left:
            raise CodingError(
                f"{count:,} numbers of at least {bits} bits are promised and {self.left:,} bits are left; "
                "the content is truncated or damaged"
            )

    def lookup(self, count: int, bits: int, found: list[int], lengths: list[int]) -> list[int]:
        """The next `count` of a prefix code, by a table over its next `bits` bits.

        found, lengths   for each of the 2**bits patterns, what begins it and how many bits of the pattern that is
        """
        text, at, values = self._text[self._at :] + "0" * bits, 0, []
        left = self.left
        for _ in range(count):
            if at > left:
                break
            pattern = int(text[at : at + bits], 2)
            values.append(found[pattern])
            at += lengths[pattern]
        self._at += at
        self.fixed(0)  # the error, if that was too far
        return values

    def rest(self) -> bytes:
        """All that is left, as bytes; a last byte that is not whole is filled up with zeros."""
        text, self._at = self._text[self._at :], len(self._text)
        bits = np.frombuffer(text.encode("ascii"), np.uint8) - ord("0")
        return np.packbits(bits).tobytes()

    def finish(self) -> None:
        """Raise CodingError unless what is left is less than a byte of zeros."""
        if self.left >= 8 or "1" in self._text[self._at :]:
            raise CodingError(f"{self.left:,} bits are left when all is decoded; the content is damaged")

    def _zeros(self) -> int:
        """How many zeros come next; they are taken, and the 1 that ends them is not."""
        start, self._at = self._at, self._text.find("1", self._at)
        if self._at < 0:
            self._at = len(self._text) + 1
            self.fixed(0)  # the error
        return self._at - start


def bit_lengths(values: np.ndarray) -> np.ndarray:
    """How many bits each number of at least 0 has, exactly; 0 has none.

    >>> bit_lengths(np.array([0, 1, 255, 256, 2**64 - 1], np.uint64))
    array([ 0,  1,  8,  9, 64])
    """
    rest, lengths = np.array(values, np.uint64), np.zeros(np.shape(values), np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        large = rest >> np.uint64(step) > 0
        lengths[large] += step
        rest[large] >>= np.uint64(step)
    return lengths + (rest > 0)
