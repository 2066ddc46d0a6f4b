"""A model file's score: bytes, latency and accuracy against the limits of a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwlimits.machine.timing import EQUAL_WITHIN, Timing
from hwlimits.training.evaluate import accuracy_interval

TIE = (1 + EQUAL_WITHIN) ** (1 / 3)  # what 5 % of one ratio make of a score: closer ones are a tie


@dataclass(frozen=True)
class Budget:
    """At most so many bytes and seconds for one image, and at least this share of images right.

    deflated   count the bytes of the file after deflate, as a download does; there zeros pay
    """

    file_bytes: int
    latency_s: float
    accuracy: float
    deflated: bool = False

    def __post_init__(self):
        if not (0 < self.file_bytes < math.inf and 0 < self.latency_s < math.inf and 0 < self.accuracy <= 1):
            raise ValueError(f"{self}: bytes and seconds must be above 0, and accuracy is a share, above 0 and up to 1")


@dataclass(frozen=True)
class Score:
    """A file measured against a budget. `right` of `images` images; `latency` of one image on one thread."""

    name: str
    budget: Budget
    file_bytes: int
    deflated_bytes: int
    right: int
    images: int
    latency: Timing
    steady: bool = True  # False if the A/A control showed that the computer did not hold still
    digest: str = ""

    @property
    def accuracy(self) -> float:
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return accuracy_interval(self.right, self.images)

    @property
    def disturbed(self) -> bool:
        """True if the latency is not to be trusted, and so decides nothing."""
        return self.latency.noisy or not self.steady

    @property
    def ratios(self) -> dict[str, float]:
        """By limit: 1 or more if it is kept."""
        counted = self.deflated_bytes if self.budget.deflated else self.file_bytes
        return {
            "bytes": self.budget.file_bytes / counted,
            "latency": 1.0 if self.disturbed else self.budget.latency_s / self.latency.median_s,
            "accuracy": self.accuracy / self.budget.accuracy,
        }

    @property
    def kept(self) -> dict[str, bool | None]:
        """By limit: True or False, and None for a latency that decides nothing."""
        return {n: None if n == "latency" and self.disturbed else ratio >= 1 for n, ratio in self.ratios.items()}

    @property
    def missed(self) -> list[str]:
        return [name for name, kept in self.kept.items() if kept is False]

    @property
    def value(self) -> float:
        """The score: the geometric mean of the ratios, 0 if a limit is missed."""
        return 0.0 if self.missed else math.prod(self.ratios.values()) ** (1 / 3)

    @property
    def said(self) -> list[str]:
        """What has to be said beside the numbers."""
        low, high = self.interval
        found = [f"{name} limit missed" for name in self.missed]
        if self.disturbed:
            why = "NOISY" if self.latency.noisy else "VOID (A/A control)"
            found.append(f"latency {why}: it decides nothing, measure again")
        if low < self.budget.accuracy < high:
            found.append("on other images the accuracy could be on the other side of its limit")
        return found

    @property
    def shown(self) -> dict[str, str]:
        """The numbers as a table has them."""
        low, high = self.interval
        return {
            "score": f"{self.value:.3f}",
            "bytes": f"{self.file_bytes:,}",
            "deflated": f"{self.deflated_bytes:,}",
            "right %": f"{100 * self.accuracy:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
            "one image": str(self.latency),
        }

    def __str__(self) -> str:
        return "; ".join([self.name, *(f"{what} {number}" for what, number in self.shown.items()), *self.said])
