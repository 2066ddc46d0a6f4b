"""The ledger of predictions: a number is written down before it is measured, and both are kept.

ledger = Ledger()
ledger.predict("one dense layer", 2.1e-5, "s")
ledger.measure("one dense layer", lambda: x @ w, bound="memory")
ledger                                     # a table: predicted, measured, ratio, bound
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwlimits.machine.timing import Comparison, Timing, compare, measure
from hwlimits.units import seconds

BOUNDS = ("compute", "memory", "overhead", "noise")


class LedgerError(ValueError):
    """A prediction is missing, comes too late, or does not fit what was measured."""


@dataclass
class Entry:
    """One row: what was predicted, what was measured, and what bounds it."""

    name: str
    predicted: float
    unit: str
    measured: float | None = None
    bound: str | None = None
    void: bool = False
    times_measured: int = 0

    @property
    def ratio(self) -> float | None:
        """Measured over predicted: 1 is right, 2 means twice as much as predicted."""
        if self.measured is None or self.void or self.predicted == 0:
            return None
        return self.measured / self.predicted


class Ledger:
    """Predictions and what became of them, in the order they were made.

    >>> ledger = Ledger()
    >>> ledger.predict("parameters", 100_000, "parameters")
    >>> ledger.measure("parameters", 121_930).ratio
    1.2193
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def predict(self, name: str, value: float, unit: str) -> None:
        """Write down a prediction. It can be changed until it is measured, not after."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise LedgerError(f"predict({name!r}): a prediction is a finite number, this is {value!r}")
        if name in self._entries and self._entries[name].measured is not None:
            raise LedgerError(
                f"predict({name!r}): it was measured already, so this would be no prediction. "
                "Give a second attempt a name of its own."
            )
        self._entries[name] = Entry(name, float(value), unit)

    def measure(
        self,
        name: str,
        what: Callable[[], Any] | Timing | Comparison | float,
        *,
        bound: str | None = None,
        void: bool = False,
    ) -> Entry:
        """Set the measured value beside its prediction.

        `what` is a call to time, a Timing, a Comparison (its ratio counts) or a number that
        something else measured (`void` if by a comparison that came out so). To measure again
        replaces the value, and the table says so.
        Raises LedgerError if nothing was predicted under this name.
        """
        entry = self._predicted(name)
        if bound is not None and bound not in BOUNDS:
            raise LedgerError(f"measure({name!r}): bound {bound!r} is not one of {', '.join(BOUNDS)}")
        if callable(what):
            what = measure(what)
        if isinstance(what, Timing) and entry.unit != "s":
            raise LedgerError(f"measure({name!r}): a time is in s, the prediction is in {entry.unit!r}")
        if isinstance(what, Comparison) and entry.unit not in ("×", "x"):
            raise LedgerError(f"measure({name!r}): a comparison is a ratio, in ×; the prediction is in {entry.unit!r}")
        entry.void = void or (isinstance(what, Comparison) and what.void)
        if isinstance(what, Comparison):
            value = what.ratio
        else:
            value = what.median_s if isinstance(what, Timing) else float(what)
            bound = bound or ("noise" if isinstance(what, Timing) and what.noisy else None)
        entry.measured, entry.bound, entry.times_measured = value, bound, entry.times_measured + 1
        return entry

    def compare(self, name: str, a: Callable[[], Any], b: Callable[[], Any], **options) -> Comparison:
        """Measure the speed-up of b over a, interleaved, against its prediction."""
        self._predicted(name)  # before the work, not after it
        found = compare(a, b, **options)
        self.measure(name, found)
        return found

    def _predicted(self, name: str) -> Entry:
        if name not in self._entries:
            made = ", ".join(map(repr, self._entries)) or "none yet"
            raise LedgerError(f"measure({name!r}): predict it first; predictions so far: {made}")
        return self._entries[name]

    @property
    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    @property
    def voids(self) -> int:
        """How many comparisons came out void."""
        return sum(entry.void for entry in self.entries)

    def table(self) -> str:
        """The ledger as a Markdown table, void comparisons counted below it."""
        lines = ["| what | predicted | measured | measured ÷ predicted | bound |", "|---|---|---|---|---|"]
        for e in self.entries:
            measured = "VOID" if e.void else "not yet" if e.measured is None else _quantity(e.measured, e.unit)
            measured += f" (measured {e.times_measured} times)" if e.times_measured > 1 else ""
            ratio = "" if e.ratio is None else f"{e.ratio:.2f}"
            lines.append(f"| {e.name} | {_quantity(e.predicted, e.unit)} | {measured} | {ratio} | {e.bound or ''} |")
        if self.voids:
            lines.append(f"\n{self.voids} of {len(self.entries)} comparisons void.")
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return self.table()

    def save(self, path: str | Path) -> None:
        """Write the ledger as JSON."""
        rows = [asdict(e) | {"ratio": e.ratio} for e in self.entries]
        Path(path).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _quantity(value: float, unit: str) -> str:
    if unit == "s":
        return seconds(value)
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{shown} {unit}"
