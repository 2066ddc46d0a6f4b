"""All-reduce: p processes have an array of n numbers each, and in the end all have the sum of all.

Each algorithm is written down as messages, so that what it costs can be counted: `schedule` has them,
`cost` says by formula what counting gives, and `hwlimits.machine.allreduce` runs them between processes.

naive               all send to process 0, one after the other, which sends the sum back to each
tree                a binomial tree to process 0, and back
recursive-doubling  partners exchange all they have, at distances 1, 2, 4, ...
halving-doubling    partners exchange halves, then quarters, ...; and back (Rabenseifner)
ring                each sends its right neighbour one p-th, 2 (p - 1) times (Patarasuk and Yuan 2009)

The costs are those of Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication
operations in MPICH": a process sends one message and receives one in a step. Where the two recursive ones
need a power of two and p is none, each process too many gives its array to a neighbour first, and gets
the sum from it at last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np

from hwlimits.bandwidth import BandwidthError, LinkModel, whole


@dataclass(frozen=True, order=True)
class Message:
    """In `step`, `source` sends elements [start, stop) of its array; `target` adds them to its own, or puts them there.

    kind   'add' or 'put'
    """

    step: int
    source: int
    target: int
    start: int
    stop: int
    kind: str

    @property
    def elements(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Cost:
    """What an all-reduce costs, in elements.

    steps     in which a process sends at most one message and receives at most one
    sent      by each process, in its order
    critical  the largest message of each step, added up: what the slowest way from start to end carries
    added     the same of the additions
    """

    steps: int
    sent: tuple[int, ...]
    critical: int
    added: int

    @property
    def total(self) -> int:
        return sum(self.sent)

    def bytes_sent(self, element_bytes: int = 4) -> tuple[int, ...]:
        """Bytes that each process sends."""
        return tuple(element_bytes * n for n in self.sent)

    def time_s(self, link: LinkModel, element_bytes: int = 4, add_s_per_byte: float = 0.0) -> float:
        """Seconds, in the alpha-beta-gamma model: steps x latency + bytes / bandwidth + additions.

        Each process has a link of its own, both ways at once, and a processor of its own.
        """
        moved_s = self.critical * element_bytes / link.bytes_per_s
        return self.steps * link.latency_s + moved_s + self.added * element_bytes * add_s_per_byte


@dataclass(frozen=True)
class Schedule:
    """An all-reduce as messages, in the order of their steps. Messages of one step go at the same time."""

    algorithm: str
    processes: int
    elements: int
    messages: tuple[Message, ...]

    def steps(self) -> list[list[Message]]:
        """The messages, a list for each step."""
        found: list[list[Message]] = []
        for message in self.messages:
            if not found or message.step != found[-1][0].step:
                found.append([])
            found[-1].append(message)
        return found

    def cost(self) -> Cost:
        """What the messages cost, counted one by one."""
        sent = [0] * self.processes
        for message in self.messages:
            sent[message.source] += message.elements
        steps = self.steps()
        critical = sum(max(m.elements for m in step) for step in steps)
        added = sum(max((m.elements for m in step if m.kind == "add"), default=0) for step in steps)
        return Cost(len(steps), tuple(sent), critical, added)

    def pairs(self) -> dict[tuple[int, int], int]:
        """Elements from one process to another, by (source, target)."""
        found: dict[tuple[int, int], int] = {}
        for message in self.messages:
            pair = message.source, message.target
            found[pair] = found.get(pair, 0) + message.elements
        return found

    def simulate(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Every process's array (processes, elements) after all messages, from those before.

        >>> schedule("ring", 3, 4).simulate(np.arange(12.0).reshape(3, 4))[2]
        array([12., 15., 18., 21.])
        """
        now = np.array(arrays)
        if now.shape != (self.processes, self.elements):
            raise BandwidthError(
                f"simulate: the arrays have the shape {now.shape}; this schedule is for "
                f"{self.processes} processes with {self.elements} elements each"
            )
        for step in self.steps():
            carried = [now[m.source, m.start : m.stop].copy() for m in step]  # all leave before any arrives
            for m, values in zip(step, carried, strict=True):
                if m.kind == "add":
                    now[m.target, m.start : m.stop] += values
                else:
                    now[m.target, m.start : m.stop] = values
        return now


def schedule(algorithm: str, processes: int, elements: int) -> Schedule:
    """The messages of an all-reduce of `elements` numbers among `processes`. Empty messages are not sent.

    Raises BandwidthError for an algorithm that is not in ALGORITHMS, and without a process or an element.

    >>> for message in schedule("ring", 2, 5).messages:
    ...     print(message.step, message.source, "to", message.target, message.kind, message.start, message.stop)
    0 0 to 1 add 0 3
    0 1 to 0 add 3 5
    1 0 to 1 put 3 5
    1 1 to 0 put 0 3
    """
    p, n = _checked(algorithm, processes, elements)
    messages = (m for m in _WAYS[algorithm](p, n) if m.elements)
    return Schedule(algorithm, p, n, tuple(sorted(messages)))


def _naive(p: int, n: int) -> Iterator[Message]:
    for i in range(1, p):
        yield Message(i - 1, i, 0, 0, n, "add")
        yield Message(p - 2 + i, 0, i, 0, n, "put")


def _tree(p: int, n: int) -> Iterator[Message]:
    levels = ceil(log2(p))
    for level in range(levels):
        for low in range(0, p - 2**level, 2 ** (level + 1)):
            yield Message(level, low + 2**level, low, 0, n, "add")
            yield Message(2 * levels - 1 - level, low, low + 2**level, 0, n, "put")


def _ring(p: int, n: int) -> Iterator[Message]:
    cut = cuts(n, p)
    for step in range(2 * (p - 1)):
        for i in range(p):  # at first its own part, then always the part that came last
            part = (i - step) % p
            kind = "add" if step < p - 1 else "put"
            yield Message(step, i, (i + 1) % p, cut[part], cut[part + 1], kind)


def _recursive_doubling(p: int, n: int) -> Iterator[Message]:
    q, place, first, last = _power_of_two(p, n)
    yield from first
    step = len(first) and 1
    for level in range(_log2(q)):
        for v in range(q):
            yield Message(step + level, place[v], place[v ^ 2**level], 0, n, "add")
    yield from last(step + _log2(q))


def _halving_doubling(p: int, n: int) -> Iterator[Message]:
    q, place, first, last = _power_of_two(p, n)
    yield from first
    step, cut, levels = len(first) and 1, cuts(n, q), _log2(q)
    for level in range(levels):
        half = q >> (level + 1)  # parts in the half that is kept
        for v in range(q):
            partner = v ^ half
            low = partner // half * half  # the partner keeps the half that it lies in
            yield Message(step + level, place[v], place[partner], cut[low], cut[low + half], "add")
            own, back = v // half * half, step + 2 * levels - 1 - level
            yield Message(back, place[v], place[partner], cut[own], cut[own + half], "put")
    yield from last(step + 2 * levels)


def _power_of_two(p: int, n: int):
    """How many take part (a power of two), who they are, the messages before, and those after from a step on."""
    q = 2 ** int(log2(p))
    extra = p - q  # of the first 2 x extra, the even ones give their array to the odd ones
    place = [2 * v + 1 if v < extra else v + extra for v in range(q)]
    first = [Message(0, 2 * v, 2 * v + 1, 0, n, "add") for v in range(extra)]
    return q, place, first, lambda step: [Message(step, 2 * v + 1, 2 * v, 0, n, "put") for v in range(extra)]


def cuts(elements: int, parts: int) -> list[int]:
    """Where n elements are cut into parts as even as can be, the larger ones first: parts + 1 places.

    >>> cuts(10, 4)
    [0, 3, 6, 8, 10]
    """
    size, larger = divmod(elements, parts)
    return [i * size + min(i, larger) for i in range(parts + 1)]


_WAYS = {
    "naive": _naive, "tree": _tree, "recursive-doubling": _recursive_doubling,
    "halving-doubling": _halving_doubling, "ring": _ring,
}  # fmt: skip
ALGORITHMS = tuple(_WAYS)


def cost(algorithm: str, processes: int, elements: int) -> Cost:
    """What an all-reduce costs, by formula: exact also where n is not divisible by p, and p no power of two.

    Raises BandwidthError as `schedule` does.

    >>> cost("ring", 4, 1000)
    Cost(steps=6, sent=(1500, 1500, 1500, 1500), critical=1500, added=750)
    """
    p, n = _checked(algorithm, processes, elements)
    if p == 1:
        return Cost(0, (0,), 0, 0)
    if algorithm == "naive":
        return Cost(2 * (p - 1), ((p - 1) * n, *[n] * (p - 1)), 2 * (p - 1) * n, (p - 1) * n)
    if algorithm == "tree":
        # once up, unless it is the root; and once down for each level at which it has a child
        children = [_children(i, p) for i in range(p)]
        levels = _log2(2 * p - 1)  # rounded up
        sent = tuple(n * (c + (i > 0)) for i, c in enumerate(children))
        return Cost(2 * levels, sent, 2 * levels * n, levels * n)
    if algorithm == "ring":
        part = [n // p + (i < n % p) for i in range(p)]
        # summing, process i sends all parts but number i + 1; spreading, all but i + 2
        sent = tuple(2 * n - part[(i + 1) % p] - part[(i + 2) % p] for i in range(p))
        return Cost(2 * (p - 1), sent, 2 * (p - 1) * max(part), (p - 1) * max(part))
    levels = _log2(p)
    q = 2**levels
    extra = p - q
    if algorithm == "recursive-doubling":
        inner, critical, added, steps = [levels * n] * q, levels * n, levels * n, levels
    else:
        largest = sum(_share(n, q, 0, q >> level) for level in range(1, levels + 1))
        # halving, it sends all that it does not keep; doubling, each block that it has by then
        inner = [n - _share(n, q, v, 1) + sum(_share(n, q, v, 2**j) for j in range(levels)) for v in range(q)]
        critical, added, steps = 2 * largest, largest, 2 * levels
    if not extra:
        return Cost(steps, tuple(inner), critical, added)
    sent = [x for v in range(extra) for x in (n, inner[v] + n)] + inner[extra:]
    return Cost(steps + 2, tuple(sent), critical + 2 * n, added + n)


def _share(n: int, q: int, v: int, width: int) -> int:
    """Elements in the block of `width` of the q parts in which part v lies."""
    low = v // width * width
    return width * (n // q) + min(max(n % q - low, 0), width)


def _children(i: int, p: int) -> int:
    """Children of process i in a binomial tree over p processes."""
    reach = _log2(i & -i) if i else _log2(2 * p - 1)
    return sum(i + 2**level < p for level in range(reach))


def _log2(n: int) -> int:
    """The logarithm of a whole number to the base 2, rounded down."""
    return n.bit_length() - 1


def _checked(algorithm: str, processes: int, elements: int) -> tuple[int, int]:
    if algorithm not in _WAYS:
        raise BandwidthError(f"all-reduce algorithm {algorithm!r} is not one of {', '.join(ALGORITHMS)}")
    return whole("all-reduce", "processes", processes), whole("all-reduce", "elements", elements)


def time_on_cores_s(
    plan: Schedule, link: LinkModel, work: LinkModel, cores: int, element_bytes: int = 4, add_s_per_byte: float = 0.0
) -> float:
    """Seconds if all processes share the cores of one computer, through whose processor every byte goes.

    work   processor seconds of a message, both ends together, in the form of a link: fitted like one

    A step takes the longest of: its largest message; what a process has to copy, half of the work of what
    it sends and half of that of what it receives; and the work of all messages, shared among the cores.
    With more processes than cores the last one bounds: what then counts are all bytes, not the critical ones.
    """
    cores, total_s = whole("time_on_cores_s", "cores", cores), 0.0
    for step in plan.steps():
        works = [work.time_s(m.elements * element_bytes) for m in step]
        adds = [m.elements * element_bytes * add_s_per_byte * (m.kind == "add") for m in step]
        own = [0.0] * plan.processes
        for m, work_s, add_s in zip(step, works, adds, strict=True):
            own[m.source] += work_s / 2
            own[m.target] += work_s / 2 + add_s
        slowest = max(link.time_s(m.elements * element_bytes) + add_s for m, add_s in zip(step, adds, strict=True))
        total_s += max(slowest, max(own), (sum(works) + sum(adds)) / cores)
    return total_s


def lower_bound(processes: int, elements: int) -> float:
    """Elements that some process has to send at least: 2 (p - 1) / p x n (Patarasuk and Yuan 2009).

    The same factor makes a bandwidth of bytes / time comparable among numbers of processes: NCCL's "bus bandwidth".

    >>> lower_bound(4, 1000)
    1500.0
    """
    p, n = _checked("ring", processes, elements)
    return 2 * (p - 1) / p * n


def fastest(
    processes: int, elements: int, link: LinkModel, element_bytes: int = 4, add_s_per_byte: float = 0.0
) -> tuple[str, float]:
    """The algorithm with the least time in the model, and its seconds; of equals the one named first.

    >>> fastest(8, 1, LinkModel(1e-5, 1e9))[0], fastest(6, 10**8, LinkModel(1e-5, 1e9))[0]
    ('recursive-doubling', 'ring')
    """
    times = {a: cost(a, processes, elements).time_s(link, element_bytes, add_s_per_byte) for a in ALGORITHMS}
    best = min(times, key=times.get)
    return best, times[best]


def crossovers(
    processes: int, link: LinkModel, element_bytes: int = 4, add_s_per_byte: float = 0.0, largest: int = 10**9
) -> list[tuple[int, str]]:
    """Which algorithm is the fastest from how many elements on, up to `largest`: [(elements, algorithm), ...].

    Parts that are not all alike make two algorithms cross several times within p elements; then it is one of them.

    >>> crossovers(4, LinkModel(latency_s=1e-5, bytes_per_s=1e9))
    [(1, 'recursive-doubling'), (10007, 'halving-doubling')]
    """
    sizes = sorted({max(1, round(1.1**k)) for k in range(int(np.log(largest) / np.log(1.1)) + 1)} | {largest})
    best = [fastest(processes, n, link, element_bytes, add_s_per_byte)[0] for n in sizes]
    found = [(1, best[0])]
    for i in range(1, len(sizes)):
        if best[i] == best[i - 1]:
            continue
        low, high = sizes[i - 1], sizes[i]
        while high - low > 1:  # bisection: within a tenth, one crossing
            middle = (low + high) // 2
            same = fastest(processes, middle, link, element_bytes, add_s_per_byte)[0] == best[i - 1]
            low, high = (middle, high) if same else (low, middle)
        found.append((high, best[i]))
    return found
