"""The record of a computer: numbers measured on it, each with its spread, kept as JSON and checked when read.

A card names the processor, and nothing of its owner. Each number on it is a median with its
interquartile range, and says in a sentence how it was measured; what could not be measured says why.
`hwlimits.machine.card` gives this computer's.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from hwlimits.machine.latency import Latency, Point, point_of, record_of
from hwlimits.machine.provenance import machine
from hwlimits.machine.timing import NOISY_ABOVE
from hwlimits.units import quantity

SCHEMA = 1
LEVELS = ("L1", "L2", "L3", "L4", "DRAM")
UNITS = {"peak": ("FLOP/s", "OP/s"), "bandwidth": ("B/s",), "overhead": ("s",), "memory": ("B",)}
BUSY_BELOW = 0.95
MAX_FILE_BYTES = 1_000_000  # a card has some 300,000
WHAT_TO_DO = "Make this computer's card with `hwlimits calibrate`."


class CardError(ValueError):
    """A machine card can't be read, or lacks the number that was asked for."""


@dataclass(frozen=True)
class Number:
    """One measured number of a card.

    quantity  'peak', 'bandwidth', 'overhead' or 'memory'; `of` says of what: 'fp32', 'DRAM', 'litert_operator'
    value     the median of `n` samples, in `unit`; `iqr` is their interquartile range in the same unit
    how       a sentence: what was run, and what was counted
    busy      share of the time for which its threads had a processor; less than 1 if other programs took it
    """

    quantity: str
    of: str
    threads: int
    value: float
    unit: str
    iqr: float
    n: int
    how: str
    busy: float = 1.0

    @classmethod
    def from_samples(
        cls, quantity: str, of: str, unit: str, samples: Iterable[float], how: str, threads: int = 1, busy: float = 1.0
    ) -> Number:
        """The number that samples give.

        >>> Number.from_samples("overhead", "process_start", "s", [1.0, 2.0, 9.0], "timed by hand").value
        2.0
        """
        samples = list(samples)
        low, high = np.percentile(samples, [25, 75])
        median, iqr = statistics.median(samples), float(high - low)
        return cls(quantity, of, threads, median, unit, iqr, len(samples), how, round(min(busy, 1.0), 3))

    @property
    def noisy(self) -> bool:
        """True if the samples spread too far, are too few to tell, or were taken while other programs ran."""
        return self.iqr > NOISY_ABOVE * self.value or self.n < 3 or self.busy < BUSY_BELOW

    def __str__(self) -> str:
        return f"{quantity(self.value, self.unit)}{' NOISY' if self.noisy else ''}"


@dataclass(frozen=True)
class Card:
    """A computer's measured numbers.

    numbers     the measured numbers
    left_out    what could not be measured, by name, and why
    operators   measured operators of LiteRT: what a prediction for a model starts from (`latency`)
    provenance  command, commit, date, versions and machine, as `hwlimits.machine.provenance` records them;
                its `machine` also has `usable_cores`, `cpu_quota` and `caches`
    """

    numbers: tuple[Number, ...]
    provenance: dict
    left_out: dict[str, str] = field(default_factory=dict)
    operators: tuple[Point, ...] = ()

    @property
    def machine(self) -> dict:
        """The computer: its processor, cores, threads, caches, memory and system."""
        return self.provenance["machine"]

    @property
    def name(self) -> str:
        """Processor and number of usable cores."""
        cores = self.machine["usable_cores"]
        return f"{self.machine['cpu']}, {cores} core{'s' if cores > 1 else ''}"

    @property
    def threads(self) -> tuple[int, ...]:
        """The numbers of threads with which it was measured: 1 and, where there are more, all usable cores."""
        return tuple(sorted({number.threads for number in self.numbers}))

    @property
    def levels(self) -> tuple[str, ...]:
        """The memory levels whose bandwidth was measured, from the nearest to the farthest."""
        found = {number.of for number in self.numbers if number.quantity == "bandwidth"}
        return tuple(level for level in LEVELS if level in found)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The number formats whose peak was measured."""
        return tuple(dict.fromkeys(number.of for number in self.numbers if number.quantity == "peak"))

    def number(self, quantity: str, of: str, threads: int | str = 1) -> Number:
        """A number with its spread; `threads` is how many ran, or 'all' for one on each usable core.

        Raises CardError that lists what there is.
        """
        wanted = max(self.threads) if threads == "all" else threads
        for number in self.numbers:
            if (number.quantity, number.of, number.threads) == (quantity, of, wanted):
                return number
        there = ", ".join(_label(n) for n in self.numbers if n.quantity == quantity) or f"no {quantity} at all"
        asked = f"{quantity} {of}"
        reasons = [
            f"{name}: {why}" for name, why in self.left_out.items() if name.startswith(asked) or asked.startswith(name)
        ]
        why = f" ({'; '.join(reasons)})" if reasons else ""
        raise CardError(
            f"the card of {self.name} has no {quantity} of {of!r} with threads={wanted!r}{why}; it has {there}."
        )

    def peak_flops_per_s(self, precision: str, threads: int | str = 1) -> float:
        """Arithmetic peak in FLOP/s (OP/s for integers), a multiply-add counted as two."""
        return self.number("peak", precision, threads).value

    def bandwidth_bytes_per_s(self, level: str, threads: int | str = 1) -> float:
        """Bandwidth in B/s of a memory level (`levels`), or of 'disk_write', 'disk_read', 'loopback' ...."""
        return self.number("bandwidth", level, threads).value

    def overhead_s(self, name: str) -> float:
        """A fixed cost in s, such as 'litert_operator', 'tensorflow_operator', 'process_start', 'loopback'.

        Raises CardError for a card without it, as older ones are.
        """
        try:
            return self.number("overhead", name).value
        except CardError as error:
            raise CardError(f"{error} `hwlimits calibrate` makes a card with all of them.") from None

    @cached_property
    def latency(self) -> Latency:
        """The times of LiteRT's operators on this computer, one thread. Raises CardError for a card without them."""
        if not self.operators:
            why = self.left_out.get("operators", "it was made before operators were measured")
            raise CardError(
                f"the card of {self.name} has no operator times ({why}): `hwlimits calibrate` measures them"
            )
        return Latency(self.operators, self.overhead_s("litert_invoke"), self.overhead_s("litert_operator"))

    def roofline(self, precision: str, threads: int | str = 1):
        """The roofline of this computer: its peak, and the bandwidth of each memory level.

        Raises CardError without DRAM's, as without the peak: the farthest level is where all data come from.
        """
        from hwlimits.roofline import Roofline

        peak = self.number("peak", precision, threads)
        self.number("bandwidth", "DRAM", peak.threads)
        measured = {n.of: n.value for n in self.numbers if (n.quantity, n.threads) == ("bandwidth", peak.threads)}
        name = f"{self.machine['cpu']}, {precision}, {peak.threads} thread{'s' if peak.threads > 1 else ''}"
        return Roofline(name, peak.value, {level: measured[level] for level in self.levels if level in measured})

    def ridge_point(self, precision: str, level: str = "DRAM", threads: int | str = 1) -> float:
        """FLOPs for each byte that keep arithmetic and a memory level equally busy: peak over bandwidth."""
        return self.peak_flops_per_s(precision, threads) / self.bandwidth_bytes_per_s(level, threads)

    def same_computer(self) -> bool:
        """True if the card was made on this computer, as far as processor, cores, threads and system tell."""
        return _identity(self.machine) == _identity(machine())

    def write(self, path: str | Path) -> None:
        """Write the card as JSON, whole or not at all."""
        path = Path(path)
        rows = [asdict(number) | {"noisy": number.noisy} for number in self.numbers]
        content = {"schema": SCHEMA, "provenance": self.provenance, "numbers": rows, "left_out": self.left_out}
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        if self.operators:  # a line each: there are many
            lines = ",\n  ".join(json.dumps(record_of(point), allow_nan=False) for point in self.operators)
            text = f'{text[:-2]},\n "operators": [\n  {lines}\n ]\n}}'
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            part.write_text(text + "\n", encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: str | Path) -> Card:
        """Read a card. Raises CardError if the file is none, is damaged, or was written by a later version."""
        path = Path(path)
        try:
            with open(path, "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise CardError(f"{path} can't be read as a machine card: {error.strerror}. {WHAT_TO_DO}") from None
        try:
            if len(content) > MAX_FILE_BYTES:
                raise ValueError(f"it has more than {MAX_FILE_BYTES:,} bytes")
            return _card(json.loads(content))
        except CardError as error:
            raise CardError(f"{path}: {error}") from None
        except (ValueError, OverflowError, RecursionError) as error:  # JSON's and Unicode's are ValueErrors
            raise CardError(f"{path} is no machine card, or a damaged one: {error}. {WHAT_TO_DO}") from None

    def table(self) -> str:
        """The card as Markdown: the computer, every number with its spread, and what was left out."""
        m = self.machine
        caches = ", ".join(f"{c['level']} {c['bytes'] // 1024:,} KiB" for c in m["caches"]) or "not told by the system"
        cores = (
            f"{m['usable_cores']} of {m['cores']} cores used"
            if m["usable_cores"] < m["cores"]
            else f"{m['cores']} cores"
        )
        quota = "" if m["cpu_quota"] is None else f", limited to {m['cpu_quota']:g} cores' time by a container"
        memory = f"{m['memory_bytes'] / 2**30:.0f} GiB"
        lines = [
            f"**{cell(m['cpu'])}**: {cores}{quota}, {memory} of memory, {cell(m['os'])}; caches: {caches}. "
            f"Measured on {cell(self.provenance['date'])}.\n",
            "| what | threads | median | IQR | n | |",
            "|---|---|---|---|---|---|",
        ]
        for n in self.numbers:
            shown = f"{quantity(n.value, n.unit)} | {quantity(n.iqr, n.unit)} | {n.n} | {'NOISY' if n.noisy else ''}"
            lines.append(f"| {n.quantity} {cell(n.of)} | {n.threads} | {shown} |")
        lines += [f"\nLeft out: {cell(name)} ({cell(why)})." for name, why in self.left_out.items()]
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return self.table()


def _card(content) -> Card:
    """The card that a parsed file holds. Raises ValueError that names the first thing wrong with it."""
    if not isinstance(content, dict) or type(content.get("schema")) is not int:
        raise ValueError("it lacks the number `schema`")
    if content["schema"] > SCHEMA:
        raise CardError(
            f"this card has schema {content['schema']} and was written by a later version of hwlimits; "
            f"this version reads schema {SCHEMA}: update hwlimits to read it."
        )
    if content["schema"] < SCHEMA:
        raise ValueError(f"its schema {content['schema']} is none that ever was")
    record, left_out, rows = (content.get(key) for key in ("provenance", "left_out", "numbers"))
    _check_machine(record)
    if not isinstance(left_out, dict) or not all(isinstance(why, str) for why in left_out.values()):
        raise ValueError("`left_out` is no table of names and reasons")
    if not isinstance(rows, list) or not rows:
        raise ValueError("it holds no numbers")
    numbers = tuple(_number(row) for row in rows)
    labels = [f"{number.quantity} {_label(number)}" for number in numbers]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"it gives {min(twice)} twice")
    operators = content.get("operators", [])
    if not isinstance(operators, list):
        raise ValueError("`operators` is no list")
    return Card(numbers, record, left_out, tuple(point_of(row) for row in operators))


_TYPES = {"quantity": str, "of": str, "threads": int, "value": float, "unit": str, "iqr": float, "n": int, "how": str,
          "busy": float}  # fmt: skip


def _number(row) -> Number:
    if not isinstance(row, dict):
        raise ValueError(f"a number is {row!r}, not a table of fields")
    what = f"{row.get('quantity')} {row.get('of')}"
    fields = {}
    for name, kind in _TYPES.items():
        value = row.get(name)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{what}: {name} is {value!r}")
        fields[name] = value
    if fields["quantity"] not in UNITS:
        raise ValueError(f"{what}: the quantity is not one of {', '.join(UNITS)}")
    if fields["unit"] not in UNITS[fields["quantity"]]:
        raise ValueError(f"{what}: its unit {fields['unit']!r} is not {' or '.join(UNITS[fields['quantity']])}")
    if not (math.isfinite(fields["value"]) and fields["value"] > 0):
        raise ValueError(f"{what}: its value {fields['value']} is not a positive number")
    if not (math.isfinite(fields["iqr"]) and fields["iqr"] >= 0):
        raise ValueError(f"{what}: its iqr {fields['iqr']} is no spread")
    if not 0 < fields["busy"] <= 1:
        raise ValueError(f"{what}: busy {fields['busy']} is no share")
    if fields["threads"] < 1 or fields["n"] < 1:
        raise ValueError(f"{what}: threads {fields['threads']} and n {fields['n']} are at least 1")
    return Number(**fields)


def _check_machine(record) -> None:
    """Raise ValueError unless a provenance has what the table and the check of identity read."""
    found = record.get("machine") if isinstance(record, dict) and isinstance(record.get("date"), str) else None
    if not isinstance(found, dict):
        raise ValueError("it lacks the provenance that says when and on what it was measured")
    for name in ("cores", "threads", "usable_cores", "memory_bytes"):
        if not isinstance(found.get(name), int) or isinstance(found[name], bool) or found[name] < 1:
            raise ValueError(f"machine: {name} is {found.get(name)!r}")
    for name in ("cpu", "os"):
        if not isinstance(found.get(name), str) or not found[name]:
            raise ValueError(f"machine: {name} is {found.get(name)!r}")
    quota, caches = found.get("cpu_quota"), found.get("caches")
    if quota is not None and not (isinstance(quota, int | float) and math.isfinite(quota) and quota > 0):
        raise ValueError(f"machine: cpu_quota is {quota!r}")
    if not isinstance(caches, list) or not all(
        isinstance(c, dict) and isinstance(c.get("level"), str) and isinstance(c.get("bytes"), int) for c in caches
    ):
        raise ValueError("machine: caches is no list of levels and bytes")


def _label(number: Number) -> str:
    return f"{number.of} with {number.threads} thread{'s' if number.threads > 1 else ''}"


def _identity(found: dict) -> tuple:
    return tuple(found[name] for name in ("cpu", "cores", "threads", "os"))


def cell(text: str) -> str:
    """Text that can't break a Markdown table: on one line, with no bar and no tag.

    >>> print(cell("A | B\\n<b>"))
    A \\| B &lt;b>
    """
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
