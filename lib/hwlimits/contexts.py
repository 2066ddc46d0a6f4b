"""Integer tensors in the fewest bytes: binary decisions, each at a price that what came before has set.

A code is taken apart into decisions: is it zero, its sign, is its magnitude above 1, above 2 ... Each decision has
several predictions, from counters that have seen the same decision in this tensor, after neighbours of this size, in
this column, in this row. They are mixed where probabilities add up evenly, on the line ln(p / (1 - p)), with weights
that learn which of them to trust; a range coder makes of the mixed probability p what it is worth, log2(1 / p) bits.
The decoder makes the same predictions from the codes it has decoded, so there is no table in the content. All numbers
are whole, so that every computer makes the same ones.

Sources: range coding: Witten, Neal and Cleary, "Arithmetic coding for data compression" (1987); decisions and
adaptive counters: Marpe, Schwarz and Wiegand, "Context-based adaptive binary arithmetic coding" (2003), for weights of
networks: Wiedemann et al., "DeepCABAC" (2020, arXiv 1907.11900); mixing: Mahoney, "Adaptive weighing of context models
for lossless data compression" (2005), the PAQ programs.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from decimal import Context, Decimal
from functools import cache
from itertools import pairwise
from operator import mul

import numpy as np

from hwlimits.bits import WIDEST, CodingError, Reader, Writer

UNARY = 14  # magnitudes up to here are told one by one; of what is above, the size in bits first
DECISIONS = 2 + UNARY
MEAN_BITS = 6  # of means of magnitudes after the point
RATES = [(1 << 16) * 2 // (2 * n + 3) for n in range(256)]  # of a counter that has seen n decisions
PRIOR_COUNT = 2  # what a counter's beginning is worth, in decisions
LEARNING = 6
PROBABILITY = 22  # bits of a counter's probability
WIDTH = 32  # bits of the range coder's interval


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
        bit = self.value < part
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
        return int(bit)

    def position(self) -> float:
        """Bits that all decisions until now are worth: -log2 of the interval's share of all."""
        return 8 * (self.at - WIDTH // 8) + WIDTH - math.log2(self.width)

    def finish(self) -> None:
        """Raise CodingError if there is content that no decision needed."""
        if self.at < len(self.content):
            raise CodingError(f"{len(self.content) - self.at:,} bytes are left when all is decoded; damaged")


@cache
def _tables() -> tuple[list[int], list[int], list[int], list[list[int]]]:
    """squash, stretch, means, priors. decimal's exp is rounded correctly, on every computer alike."""
    exact = Context(prec=30)
    squash = [int(65536 / (1 + exact.exp(Decimal(2048 - x) / 176))) for x in range(4096)]  # 176: to ln(p/(1-p)) = 11.6
    squash = [min(max(p, 1), 65535) for p in squash]
    stretch = [min(max(bisect(squash, 16 * p + 8), 1), 4095) - 2048 for p in range(4096)]
    means, priors = [], []
    for quarter in range(-18, 24):  # spreads of a logistic distribution, each 2^(1/4) times the one before
        spread = exact.exp(Decimal(quarter) / 4 * exact.ln(Decimal(2)))
        # of a distribution with the shares 1 / (1 + exp(-x / spread)) below x, the share with |x| rounded to k or more
        above = [1 if k == 0 else 2 / (1 + exact.exp((k - Decimal("0.5")) / spread)) for k in range(200)]
        means.append(int(sum(above[1:]) * (1 << MEAN_BITS)))
        chances = [above[1], Decimal("0.5"), *(above[k + 1] / above[k] for k in range(1, UNARY + 1))]
        priors.append([min(max(int(p * (1 << PROBABILITY)), 64), (1 << PROBABILITY) - 64) for p in chances])
    return squash, stretch, means, priors


class _Model:
    """Counters and the weights of their mixture; `code` predicts a decision, codes it, and learns from it."""

    def __init__(self, coder: Encoder | Decoder, inputs: int):
        self.coder, self.inputs = coder, inputs
        self.probabilities, self.counts = [], []
        self.weights = [[(1 << 16) * 13 // (10 * inputs)] * inputs for _ in range(DECISIONS)]
        self.squash, self.stretch, self.means, self.priors = _tables()
        self.escape = self.counters(1 + 8 * (WIDEST + 1))

    def counters(self, number: int) -> int:
        """Room for so many new counters; the first one's place."""
        first = len(self.counts)
        self.counts += [0] * number
        self.probabilities += [0] * number
        return first

    def code(self, decision: int, places: list[int], prior: int, bit: int) -> int:
        """Code a decision; `places` of its counters, and the `prior` probability that one begins with."""
        probabilities, counts, stretch = self.probabilities, self.counts, self.stretch
        for i in places:
            if not counts[i]:
                counts[i], probabilities[i] = PRIOR_COUNT, prior
        inputs = [stretch[probabilities[i] >> PROBABILITY - 12] for i in places]
        weights = self.weights[decision]
        x = sum(map(mul, weights, inputs)) + 0x8000 >> 16
        probability = self.squash[min(max(x, -2047), 2047) + 2048]
        bit = self.coder.code(probability, bit)
        error = ((bit << 16) - probability) * LEARNING
        self.weights[decision] = [w + (error * s + 0x8000 >> 16) for w, s in zip(weights, inputs, strict=True)]
        target = bit << PROBABILITY
        for i in places:
            n = counts[i]
            probabilities[i] += (target - probabilities[i]) * RATES[n] >> 16
            if n < 255:
                counts[i] = n + 1
        return bit

    def bit(self, place: int, bit: int) -> int:
        """Code a decision by one counter alone."""
        counts, probabilities = self.counts, self.probabilities
        if not counts[place]:
            probabilities[place] = 1 << PROBABILITY - 1
        n = counts[place]
        bit = self.coder.code(min(max(probabilities[place] >> PROBABILITY - 16, 1), 65535), bit)
        probabilities[place] += ((bit << PROBABILITY) - probabilities[place]) * RATES[n] >> 16
        counts[place] = min(n + 1, 255)
        return bit

    def large(self, value: int) -> int:
        """Code a number from 1 on: the number of its bits, then these; the first two below the highest are counted."""
        bits = 1
        while self.bit(self.escape + 8 * bits, value.bit_length() > bits):
            bits += 1
            if bits > WIDEST + 1:
                raise CodingError("a number above 64 bits; the content is damaged")
        found = 1
        for j in reversed(range(bits - 1)):
            bit = value >> j & 1
            if bits - 2 - j < 2:
                bit = self.bit(self.escape + 8 * bits + (found if bits - 2 - j else 0) + 1, bit)
            else:
                bit = self.coder.code(1 << 15, bit)
            found = found << 1 | bit
        return found


def _size(mean: int) -> int:
    """A mean of magnitudes, of MEAN_BITS after the point, in steps of half an octave."""
    return 0 if mean == 0 else min(2 * mean.bit_length() + (mean >> mean.bit_length() - 2 & 1 if mean > 1 else 0), 23)


SIZES = 24


def _code(coder: Encoder | Decoder, shapes: Sequence[tuple[int, ...]], tensors: Sequence[list[int]] | None):
    """Code the tensors' values, or decode them; lists of values."""
    model = _Model(coder, 7)
    code, means, priors = model.code, model.means, model.priors
    places_shared = model.counters(len(means) * DECISIONS)
    done, marks = [], [coder.position()]
    for number, shape in enumerate(shapes):
        size = math.prod(shape)
        columns = shape[-1] if shape else 1
        values = tensors[number] if tensors is not None else None
        up = columns
        if len(shape) == 4:
            left_tap, up_tap = columns * shape[2], columns * shape[2] * shape[1]
        else:
            left_tap = up_tap = 0
        own = model.counters(DECISIONS)
        near = model.counters(49 * DECISIONS)
        vertical = model.counters(64 * DECISIONS)
        by_column = model.counters(SIZES * DECISIONS)
        by_row = model.counters(SIZES * DECISIONS)
        both = model.counters(100 * DECISIONS)
        result, magnitudes = [], []
        column_sums, column_hits = [], []
        total, row_sum, row_hits, row, column = 96, 0, 0, 0, 0
        for i in range(size):
            mean = total // (i + 1)
            spread = min(bisect(means, mean), len(means) - 1)
            if not row:  # not before: a false shape is only as long as the content makes it
                column_sums.append(0)
                column_hits.append(0)
            a = magnitudes[-1] if i else 0
            b = magnitudes[-2] if i > 1 else 0
            u = magnitudes[i - up] if row else 0
            t = magnitudes[i - left_tap] if left_tap and i >= left_tap else 0
            v = magnitudes[i - up_tap] if up_tap and i >= up_tap else 0
            c = _size((column_sums[column] * 2 + 1) * 64 // (2 * row + 2))
            r = _size((row_sum * 2 + 1) * 64 // (2 * column + 2))
            places = [
                own,
                places_shared + spread * DECISIONS,
                near + (min(a, 6) * 7 + min(b, 6)) * DECISIONS,
                vertical + (min(u, 3) * 16 + min(t, 3) * 4 + min(v, 3)) * DECISIONS,
                by_column + c * DECISIONS,
                by_row + r * DECISIONS,
                both + (min(column_hits[column], 9) * 10 + min(row_hits, 9)) * DECISIONS,
            ]
            prior = priors[spread]
            value = values[i] if values is not None else 0
            if code(0, places, prior[0], int(value != 0)):
                sign = code(1, [p + 1 for p in places], prior[1], int(value < 0))
                left, magnitude = abs(value), 1
                while magnitude <= UNARY:
                    d = magnitude + 1
                    if not code(d, [p + d for p in places], prior[d], int(left > magnitude)):
                        break
                    magnitude += 1
                else:
                    magnitude = UNARY + model.large(left - UNARY)
                value = -magnitude if sign else magnitude
                magnitudes.append(magnitude)
                total += magnitude << MEAN_BITS
                column_sums[column] += magnitude
                row_sum += magnitude
                column_hits[column] += 1
                row_hits += 1
            else:
                value = 0
                magnitudes.append(0)
            result.append(value)
            column += 1
            if column == columns:
                column, row, row_sum, row_hits = 0, row + 1, 0, 0
        done.append(result)
        marks.append(coder.position())
    return done, [b - a for a, b in pairwise(marks)]


def write(out: Writer, tensors: Sequence[np.ndarray]) -> list[float]:
    """Append the integers of tensors, the last thing in the content: where it ends, they end.

    What a tensor teaches helps those after it, so all the tensors of a network go together. Returns the bits that
    each tensor's decisions are worth.
    """
    coder = Encoder()
    _, worth = _code(coder, [np.shape(t) for t in tensors], [np.ravel(t).tolist() for t in tensors])
    content, bits = coder.finish()
    lengths = np.full(len(content), 8)
    if bits % 8:
        lengths[-1] = bits % 8
    out.codes(np.frombuffer(content, np.uint8) >> (8 - lengths), lengths)
    return worth


def read(back: Reader, shapes: Sequence[tuple[int, ...]], dtype: type = np.int64) -> list[np.ndarray]:
    """The tensors of these shapes that `write` wrote.

    Time and memory are in proportion to the shapes' sizes: bound these before.
    Raises CodingError for content that ends too early or too late, and for values that the type does not have.
    """
    coder = Decoder(back.rest())
    found, _ = _code(coder, shapes, None)
    coder.finish()
    try:
        return [np.array(values, dtype).reshape(shape) for values, shape in zip(found, shapes, strict=True)]
    except OverflowError:
        raise CodingError(f"values that {np.dtype(dtype)} does not have; the content is damaged") from None
