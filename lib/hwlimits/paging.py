"""Where keys and values of many texts lie while these are written: reserved in one piece each, or in pages of a pool.

How long a text becomes nobody knows beforehand. Who reserves room for the longest one wastes what shorter ones leave;
who hands out pages of a few tokens wastes at most the rest of each text's last page (Kwon et al. 2023, "Efficient
Memory Management for Large Language Model Serving with PagedAttention", arXiv 2309.06180). Pages are all alike, and so
are reservations: counting free ones is all that an allocator does here (`hwlimits.pools` has those that must search).

>>> texts = [Text(prompt=3, generated=5)] * 8
>>> run(texts, capacity=64, reserve=32).most_texts, run(texts, capacity=64, page=4).most_texts
(2, 8)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral


class PagingError(ValueError):
    """Texts that can't be written in this memory, or a memory that can't be; the text says what to do."""


@dataclass(frozen=True)
class Text:
    """A text that comes with `prompt` tokens and gets `generated` more, one in each step."""

    prompt: int
    generated: int


@dataclass(frozen=True)
class Step:
    """One decode step: texts that got a token, tokens in the cache after it, tokens of prompts taken in before it."""

    texts: int
    cached: int
    prefilled: int


@dataclass(frozen=True)
class Run:
    """What happened until all texts were done.

    capacity  tokens for which there is room
    sent_back how often a text had to leave, its pages given to another, and was begun again later
    """

    steps: tuple[Step, ...]
    capacity: int
    sent_back: int

    @property
    def most_texts(self) -> int:
        return max(step.texts for step in self.steps)

    @property
    def mean_texts(self) -> float:
        """Texts that got a token in a step, in the mean: the batch that reads the weights together."""
        return sum(step.texts for step in self.steps) / len(self.steps)

    @property
    def used(self) -> float:
        """The share of the memory that held keys and values, in the mean over the steps."""
        return sum(step.cached for step in self.steps) / len(self.steps) / self.capacity


def run(texts: Iterable[Text], capacity: int, *, page: int | None = None, reserve: int | None = None) -> Run:
    """Write texts, as many at a time as there is room for; who is done makes room for the next one at once.

    capacity  tokens for whose keys and values there is room
    reserve   each text takes room for so many tokens when it begins, and keeps it; or
    page      it takes pages of so many tokens as it grows. Where there is none left, the text that began last goes
              back to the head of the queue, and its prompt and what it had written are taken in anew

    Texts begin in their order (Yu et al. 2022, "Orca": after each step, not after each batch).
    Raises PagingError unless one of the two is given, and for a text that alone has no room.
    """
    waiting = deque(_checked(texts, capacity, page, reserve))
    unit = page or reserve
    free, sent_back, steps = capacity // unit, 0, []
    running: list[list] = []  # [text, tokens cached, units held], in the order in which they began
    while waiting or running:
        prefilled = 0
        while waiting:
            text, cached = waiting[0]
            # in pages: with room for the token to come, so that it does not leave again at once
            needed = 1 if reserve else -(-(cached + 1) // page)
            if needed > free:
                break
            waiting.popleft()
            free -= needed
            prefilled += cached
            running.append([text, cached, needed])
        assert running, "a text that was checked to have room has none"
        for entry in list(running):
            if entry not in running or entry[1] < entry[2] * unit:  # it was sent back, or has room for one more
                continue
            while free == 0 and running[-1] is not entry:
                free += _send_back(running, waiting)
                sent_back += 1
            if free == 0:  # it is the last one itself
                free += _send_back(running, waiting)
                sent_back += 1
                continue
            free, entry[2] = free - 1, entry[2] + 1
        for entry in running:
            entry[1] += 1
        steps.append(Step(len(running), sum(entry[1] for entry in running), prefilled))
        for entry in [e for e in running if e[1] == e[0].prompt + e[0].generated]:
            running.remove(entry)
            free += entry[2]
    return Run(tuple(steps), capacity, sent_back)


def _send_back(running: list, waiting: deque) -> int:
    """The last text that began goes back to the queue; returns the units that it held."""
    text, cached, units = running.pop()
    waiting.appendleft((text, cached))
    return units


def _checked(texts, capacity, page, reserve) -> list[tuple[Text, int]]:
    """(text, tokens to take in) for each, if all of them can be written at all."""
    if (page is None) == (reserve is None):
        raise PagingError(f"run(page={page!r}, reserve={reserve!r}): give one of the two")
    for name, value in {"capacity": capacity, "page": page, "reserve": reserve}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
            raise PagingError(f"run({name}={value!r}): must be a whole number of tokens, at least 1")
    found = []
    for i, text in enumerate(texts):
        for name, value in {"prompt": text.prompt, "generated": text.generated}.items():
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise PagingError(f"text {i}: {name} is {value!r}; it must be a whole number of tokens, at least 1")
        whole = text.prompt + text.generated
        room = reserve if reserve and reserve <= capacity else capacity // page * page if page else 0
        if whole > room:
            raise PagingError(f"text {i} becomes {whole} tokens long, and a single text has room for {room}")
        found.append((text, text.prompt))
    if not found:
        raise PagingError("run: give at least one text")
    return found
