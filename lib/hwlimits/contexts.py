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
from itertools import accumulate, pairwise
from operator import mul

import numpy as np

from hwlimits.bits import WIDEST, CodingError, Reader, Writer
from hwlimits.range_coder import Decoder, Encoder

UNARY = 14  # magnitudes up to here are told one by one; of what is above, how many bits it has and these
WIDE = 6  # a tensor's mean magnitude where it is not 0, above which magnitudes are told by how many bits they have
DECISIONS = 2 + UNARY
PROBABILITY = 22  # bits of a counter's probability
SELDOM = 1 << PROBABILITY - 5  # the first probability of a tensor so wide
MEAN_BITS = 6  # of means of magnitudes after the point
SIZES = 24  # steps of half an octave, in which means of columns and rows are told apart
FIRST_MEAN = (96, 24 << MEAN_BITS)  # of a tensor that none like it came before; narrow, wide
RATES = [(1 << 16) * 2 // (2 * n + 3) for n in range(1024)]  # of a counter that has seen n decisions
# what a counter's beginning is worth, in decisions: little, or much where weights are as from one distribution
PRIOR_COUNTS = ([2, 1] + [4] * UNARY, [16, 32] + [48] * UNARY)
BOTH_BELOW = 20_000  # values: both of these are tried
UNIT = 352  # of the line ln(p / (1 - p)), on which predictions are mixed
FIRST_SUM = 1 << 16  # of the weights
LEARNING = (4, 180_000, 1000)  # of the weights: the least; and the first as a share, falling with the decisions
FIRST_TRUST = (3 << 14, 1 << 15)  # of 65536, in the mixture, as a tensor begins
LEAST_TRUST = 600  # of 65536, in the mixture or in the tensor's own counter, whichever was the worse
LARGEST_SHIFTED = 1 << 31  # magnitude in a tensor that is coded as what is above its median, or as its steps up
AS_IS, SHIFTED, RISING = range(3)


@cache
def _tables() -> tuple:
    """squash, stretch, means of all magnitudes, of those not 0, priors.

    decimal's exp is rounded correctly, on every computer alike.
    """
    exact = Context(prec=30)
    squash = [int(65536 / (1 + exact.exp(Decimal(4096 - x) / UNIT))) for x in range(8192)]
    squash = [min(max(p, 1), 65535) for p in squash]
    stretch = [min(max(bisect(squash, p), 1), 8191) - 4096 for p in range(65536)]
    means, given, narrow, wide = [], [], [], []
    for quarter in range(-18, 57):  # spreads of a logistic distribution, each 2^(1/4) times the one before
        spread = exact.exp(Decimal(quarter) / 4 * exact.ln(Decimal(2)))
        # the share with |x| rounded to k or more
        above = [2 / (1 + exact.exp((k - Decimal("0.5")) / spread)) for k in range(1, 41)]
        far = [2 / (1 + exact.exp((2**b - Decimal("0.5")) / spread)) for b in range(DECISIONS - 1)]
        mean = sum(above) if quarter < 8 else spread * 2 * exact.ln(Decimal(2))
        means.append(int(mean * (1 << MEAN_BITS)))
        given.append(int(mean / above[0] * (1 << MEAN_BITS)))
        narrow.append(_chances(above[: UNARY + 1]))
        wide.append(_chances(far))
    priors = [
        [[list(zip(chances, counts, strict=True)) for chances in found] for counts in PRIOR_COUNTS]
        for found in (narrow, wide)
    ]
    return squash, stretch, means, given, priors


def _chances(above: list[Decimal]) -> list[int]:
    """Priors of the decisions: not zero, below zero, and each further one where the one before was yes."""
    chances = [above[0], Decimal("0.5"), *(b / a for a, b in pairwise(above))]
    chances = [min(max(int(p * (1 << PROBABILITY)), 64), (1 << PROBABILITY) - 64) for p in chances]
    return chances


class _Model:
    """Counters and the weights of their mixture; each method codes something and learns from it."""

    def __init__(self, coder: Encoder | Decoder, sure: int = 0):
        self.coder, self.sure = coder, coder.code(1 << 15, sure)
        self.probabilities, self.counts = [], []
        self.weights, self.seen = {}, {}
        self.trust = [1 << 15] * DECISIONS
        self.squash, self.stretch, self.means, self.given, self.priors = _tables()
        self.escapes = self.counters(8 * (WIDEST + 2))

    def counters(self, number: int) -> int:
        """Room for so many new counters; the first one's place."""
        first = len(self.counts)
        self.counts += [0] * number
        self.probabilities += [0] * number
        return first

    def decide(self, decision: int, places: list[int], prior: tuple[int, int], bit: int, mixer: int = 0) -> int:
        """Code a decision by a mixture.

        places   where the groups of counters begin, each with one for the decision; the tensor's own is the first
        prior    the probability that a counter begins with, and how many decisions it is worth
        mixer    which weights to use
        """
        probabilities, counts, stretch = self.probabilities, self.counts, self.stretch
        places = [place + decision for place in places]
        for i in places:
            if not counts[i]:
                probabilities[i], counts[i] = prior
        inputs = [stretch[probabilities[i] >> PROBABILITY - 16] for i in places]
        mixer = mixer * DECISIONS + decision
        if mixer not in self.weights:
            self.weights[mixer], self.seen[mixer] = [FIRST_SUM // len(inputs)] * len(inputs), 0
        weights = self.weights[mixer]
        x = sum(map(mul, weights, inputs)) + 0x8000 >> 16
        mixed = self.squash[min(max(x, -4095), 4095) + 4096]
        # the mixture or the counter alone, by how well they did: Bayes' rule
        own, trust = min(max(probabilities[places[0]] >> PROBABILITY - 16, 1), 65535), self.trust[decision]
        probability = mixed * trust + own * (65536 - trust) >> 16
        bit = self.coder.code(probability, bit)
        if bit:
            good, all_good = mixed * trust, probability
        else:
            good, all_good = (65536 - mixed) * trust, 65536 - probability
        self.trust[decision] = min(max(good // all_good, LEAST_TRUST), 65536 - LEAST_TRUST)
        seen = self.seen[mixer]
        self.seen[mixer] = seen + 1
        least, first, lasting = LEARNING
        error = ((bit << 16) - mixed) * max(least, first // (lasting + seen))
        self.weights[mixer] = [w + (error * x + 0x200000 >> 22) for w, x in zip(weights, inputs, strict=True)]
        target = bit << PROBABILITY
        for i in places:
            n = counts[i]
            probabilities[i] += (target - probabilities[i]) * RATES[n] >> 16
            if n < 1023:
                counts[i] = n + 1
        return bit

    def bit(self, place: int, bit: int, prior: int = 1 << PROBABILITY - 1) -> int:
        """Code a decision by one counter alone; the probability that it begins with."""
        counts, probabilities = self.counts, self.probabilities
        n = counts[place]
        if n == 0:
            probabilities[place] = prior
        bit = self.coder.code(min(max(probabilities[place] >> PROBABILITY - 16, 1), 65535), bit)
        probabilities[place] += ((bit << PROBABILITY) - probabilities[place]) * RATES[n] >> 16
        counts[place] = min(n + 1, 1023)
        return bit

    def large(self, value: int, first: int) -> int:
        """Code a number from 1 on: how many bits it has, then these; counters from place `first` on."""
        bits = 1
        while self.bit(first + 8 * bits, value.bit_length() > bits):
            bits += 1
            if bits > WIDEST:
                raise CodingError("a number above 64 bits; the content is damaged")
        return self.below(first, bits, value)

    def below(self, first: int, bits: int, value: int) -> int:
        """Code what is below the highest bit of a number; the first two have counters, from place `first` on."""
        found = 1
        for j in reversed(range(bits - 1)):
            bit = value >> j & 1
            bit = self.bit(first + 8 * bits + found, bit) if found < 4 else self.coder.code(1 << 15, bit)
            found = found << 1 | bit
        return found

    def unary(self, places: list[int], priors: list[tuple[int, int]], magnitude: int) -> int:
        """Code a magnitude from 1 on: above 1, above 2 ...?"""
        for m in range(1, UNARY + 1):
            if not self.decide(m + 1, places, priors[m + 1], magnitude > m):
                return m
        return UNARY + self.large(magnitude - UNARY, self.escapes)

    def binary(self, places: list[int], priors: list[tuple[int, int]], magnitude: int, first: int) -> int:
        """Code a magnitude from 1 on: more bits than 1, than 2 ...? And the bits below the highest."""
        for bits in range(1, UNARY + 1):
            if not self.decide(bits + 1, places, priors[bits + 1], magnitude >> bits > 0):
                return self.below(first, bits, magnitude)
        return self.large(magnitude >> UNARY, self.escapes) << UNARY | self._plain(magnitude & (1 << UNARY) - 1)

    def _plain(self, value: int) -> int:
        return sum(self.coder.code(1 << 15, value >> j & 1) << j for j in range(UNARY))


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _size(mean: int) -> int:
    """A mean of magnitudes in half octaves: its bits, and the first of them below the highest."""
    bits = mean.bit_length()
    return min(2 * bits + (mean >> bits - 2 & 1), SIZES - 1) if bits > 1 else bits


def _change(values: list[int], axes: int) -> tuple[int, int]:
    """How to code the values of a tensor: a way, and what they are to be counted from."""
    if axes != 1 or not values or max(map(abs, values)) >= LARGEST_SHIFTED:
        return AS_IS, 0
    if len(values) > 2 and all(a <= b for a, b in pairwise(values)):
        return RISING, values[0]
    middle = sorted(values)[len(values) // 2]
    shorter = 4 * sum(abs(value - middle) for value in values) < 3 * sum(map(abs, values))
    return (SHIFTED, middle) if shorter else (AS_IS, 0)


def _code(
    coder: Encoder | Decoder, shapes: Sequence[tuple[int, ...]], tensors: Sequence[list[int]] | None, sure: int = 0
):
    """Code the tensors' values, or decode them where there are none: lists of values, and the bits of each.

    Tensors are of four kinds: with two axes or more; the first with one axis after those; the others with one; those
    of one axis that never fall, coded as steps up. Kinds, and wide and narrow tensors, have statistics of their own.
    """
    model = _Model(coder, sure)
    groups, origins = {}, {}
    kind, done, marks = 0, [], [0.0]
    changes, modes = [model.counters(2) for _ in range(3)], [model.counters(1) for _ in range(4)]
    numbers = [model.counters(8 * (WIDEST + 2)) for _ in range(3)]
    for number, shape in enumerate(shapes):
        axes = len(shape)
        kind = 0 if axes > 1 else min(kind + 1, 2)
        values = tensors[number] if tensors is not None else None
        way, origin = _change(values, axes) if values is not None else (AS_IS, 0)
        if axes == 1 and shape[0]:
            way = model.bit(changes[kind], way > 0) and 1 + model.bit(changes[kind] + 1, way > 1)
            if way != AS_IS:
                difference = origin - origins.get((kind, way), 0)
                difference = model.large(_zigzag(difference) + 1, numbers[kind]) - 1
                origin = origins[kind, way] = origins.get((kind, way), 0) + (difference >> 1 ^ -(difference & 1))
        if values is not None and way == RISING:
            values = [b - a for a, b in pairwise([origin, *values])]
        elif values is not None and way == SHIFTED:
            values = [value - origin for value in values]
        place = 3 if way == RISING else kind
        nonzero = sum(map(bool, values)) if values else 0
        wide = model.bit(modes[place], sum(map(abs, values)) > WIDE * nonzero if values else 0, SELDOM)
        if (place, wide) not in groups:
            groups[place, wide] = _Group(model, place, wide)
        result = groups[place, wide].code(shape, values, way != RISING)
        if way == RISING:
            result = list(accumulate(result, initial=origin))[1:]
        elif way == SHIFTED:
            result = [value + origin for value in result]
        done.append(result)
        marks.append(coder.position())
    return done, [after - before for before, after in pairwise(marks)]


def _zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


class _Group:
    """What tensors of a kind have in common: counters by spread, neighbours, column and row, and the last mean."""

    def __init__(self, model: _Model, kind: int, wide: int):
        self.model, self.kind, self.wide = model, kind, wide
        self.by_spread, self.by_taps, self.by_signs, self.by_column, self.by_row = (
            model.counters(n * DECISIONS) for n in (len(model.means), 64, 27, SIZES, SIZES)
        )
        self.mantissas = model.counters(8 * (WIDEST + 2))
        self.mean = FIRST_MEAN[wide]

    def code(self, shape: tuple[int, ...], values: list[int] | None, signed: bool) -> list[int]:
        """A tensor's values, coded or decoded."""
        model, decide, means, given, wide = self.model, self.model.decide, self.model.means, self.model.given, self.wide
        size, columns = math.prod(shape), shape[-1] if shape else 1
        own, priors, total, nonzero = model.counters(DECISIONS), model.priors[wide][model.sure], self.mean, 0
        model.trust = [FIRST_TRUST[model.sure]] * DECISIONS
        # of a convolution's kernel (height, width, inputs, outputs): how far back its neighbours in the image are
        left, up = (math.prod(shape[2:]), math.prod(shape[1:])) if len(shape) == 4 else (size, size)
        result, sums, row_sum, row, column = [], [], 0, 0, 0
        for i in range(size):
            if not row:  # not before: a false shape is only as long as the content makes it
                sums.append(0)
            spread = min(bisect(means, total // (i + 1)), len(means) - 1)
            above = result[i - columns] if row else 0
            before, higher = (result[i - left], result[i - up] if i >= up else 0) if i >= left else (0, 0)
            taps = min(abs(above), 3) + 4 * min(abs(before), 3) + 16 * min(abs(higher), 3)
            places = [
                own,
                self.by_spread + spread * DECISIONS,
                self.by_taps + taps * DECISIONS,
                self.by_column + _size((2 * sums[column] + 1 << MEAN_BITS) // (2 * row + 2)) * DECISIONS,
                self.by_row + _size((2 * row_sum + 1 << MEAN_BITS) // (2 * column + 2)) * DECISIONS,
            ]
            value, magnitude = values[i] if values is not None else 0, 0
            mixer = 1 + 4 * self.kind + 2 * (not sums[column]) + (not row_sum)
            if decide(0, places, priors[spread][0], value != 0, mixer):
                signs = 13 + _sign(above) + 3 * _sign(before) + 9 * _sign(higher)
                negative = signed and decide(1, [own, self.by_signs + signs * DECISIONS], priors[spread][1], value < 0)
                spread = min(bisect(given, ((total - self.mean) + 128) // (nonzero + 1)), len(means) - 1)
                places[1] = self.by_spread + spread * DECISIONS
                if wide:
                    magnitude = model.binary(places, priors[spread], abs(value), self.mantissas)
                else:
                    magnitude = model.unary(places, priors[spread], abs(value))
                value = -magnitude if negative else magnitude
                total += magnitude << MEAN_BITS
                nonzero += 1
                sums[column] += magnitude
                row_sum += magnitude
            result.append(value)
            column += 1
            if column == columns:
                column, row, row_sum = 0, row + 1, 0
        self.mean = total // (size + 1)
        return result


def write(out: Writer, tensors: Sequence[np.ndarray]) -> list[float]:
    """Append the integers of tensors, the last thing in the content: where it ends, they end.

    What a tensor teaches helps those after it, so all the tensors of a network go together. Returns the bits that
    each tensor's decisions are worth.
    """
    shapes, values = [np.shape(t) for t in tensors], [np.ravel(t).tolist() for t in tensors]
    found = []
    for sure in range(2 if sum(map(len, values)) < BOTH_BELOW else 1):
        coder = Encoder()
        _, worth = _code(coder, shapes, values, sure)
        found.append((*coder.finish(), worth))
    content, bits, worth = min(found, key=lambda each: each[1])
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
