"""Cards of a class side by side: what computers differ in, and one roofline for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwlimits.machine.record import LEVELS, Card, CardError, cell
from hwlimits.units import quantity


@dataclass(frozen=True)
class Pool:
    """Several computers' cards.

    cards    by a name for each: the file's, or the processor's
    refused  files that are no card, or the same card again, by name, and why
    """

    cards: dict[str, Card]
    refused: dict[str, str]

    def rooflines(self, precision: str = "fp32", threads: int | str = "all") -> list:
        """One roofline a card, in the pool's order; cards without this peak or DRAM's bandwidth are left out."""
        found = []
        for name, card in self.cards.items():
            if None not in (_value(card, "peak", precision, threads), _value(card, "bandwidth", "DRAM", threads)):
                roofline = card.roofline(precision, threads)
                found.append(type(roofline)(f"{name}: {roofline.name}", roofline.peak_flops_per_s, roofline.bandwidths))
        return found

    def median_roofline(self, precision: str = "fp32", threads: int | str = "all"):
        """The class's roofline: the median of the peaks, and of the bandwidths of each level that all computers have.

        Raises CardError if no card has this precision, or none has it with that many threads.
        """
        from hwlimits.roofline import Roofline

        each = self.rooflines(precision, threads)
        if not each:
            lacking = f"none of the {len(self.cards)} cards has a peak of {precision!r} and DRAM's bandwidth"
            there = {n for n in self._threads() if self.rooflines(precision, n)}
            if there:
                lacking += f" with {_threads([threads])}; there are some with {_threads(sorted(there))}"
            raise CardError(lacking)
        common = [level for level in LEVELS if all(level in one.bandwidths for one in each)]
        bandwidths = {level: float(np.median([one.bandwidths[level] for one in each])) for level in common}
        peak = float(np.median([one.peak_flops_per_s for one in each]))
        return Roofline(f"median of {len(each)} computers, {precision}", peak, bandwidths)

    def rows(self, threads: int | str = "all") -> list[dict]:
        """A record a card: name, cpu, cores, threads; DRAM's bandwidth; by precision, peak and ridge point.

        What a card lacks is None.
        """
        found = []
        for name, card in self.cards.items():
            row = {"name": name, "cpu": card.machine["cpu"], "cores": card.machine["cores"]}
            row["threads"] = max(card.threads) if threads == "all" else threads
            memory = _value(card, "bandwidth", "DRAM", threads)
            row["dram_bytes_per_s"] = memory
            for precision in self.precisions:
                peak = _value(card, "peak", precision, threads)
                row[f"{precision}_flops_per_s"] = peak
                row[f"{precision}_ridge_flops_per_byte"] = None if None in (peak, memory) else peak / memory
            found.append(row)
        return found

    def _threads(self) -> set[int]:
        return {n for card in self.cards.values() for n in card.threads}

    @property
    def precisions(self) -> tuple[str, ...]:
        """The number formats that at least one card has a peak of."""
        return tuple(dict.fromkeys(p for card in self.cards.values() for p in card.precisions))

    def table(self, threads: int | str = "all") -> str:
        """The cards as Markdown, their median and interquartile range below, and what was refused."""
        heads = ["card", "cpu", "cores", "threads", "DRAM"]
        heads += [head for p in self.precisions for head in (p, f"{p} ridge point")]
        rows = self.rows(threads)
        lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        keys = [key for key in (rows[0] if rows else {}) if key not in ("name", "cpu", "cores", "threads")]
        for row in rows:
            shown = [cell(row["name"]), cell(row["cpu"]), str(row["cores"]), str(row["threads"])]
            lines.append(f"| {' | '.join(shown + [_shown(key, row[key]) for key in keys])} |")
        for what, of in (("median", 50), ("lower quartile", 25), ("upper quartile", 75)) if len(rows) > 1 else ():
            values = [[row[key] for row in rows if row[key] is not None] for key in keys]
            shown = [_shown(key, float(np.percentile(v, of))) if v else "" for key, v in zip(keys, values, strict=True)]
            lines.append(f"| {' | '.join([f'**{what}**', f'{len(rows)} computers', '', '', *shown])} |")
        lines += [f"\nNot pooled: {cell(name)} ({cell(why)})." for name, why in self.refused.items()]
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return self.table()


def pool(cards: Iterable[Card | str | Path]) -> Pool:
    """Put cards, or files of cards, side by side.

    A file that is no card, or a card that is there already, is refused by name and the others kept.
    Raises CardError if no card is left.
    """
    kept: dict[str, Card] = {}
    refused: dict[str, str] = {}
    for item in cards:
        given = item.machine["cpu"] if isinstance(item, Card) else Path(item).name
        name, again = given, 1
        while name in kept or name in refused:
            again += 1
            name = f"{given} ({again})"
        try:
            card = item if isinstance(item, Card) else Card.read(item)
        except CardError as error:
            refused[name] = str(error)
            continue
        twin = next((other for other, seen in kept.items() if seen == card), None)
        if twin:
            refused[name] = f"the same card as {twin}"
        else:
            kept[name] = card
    if not kept:
        why = "; ".join(f"{name}: {why}" for name, why in refused.items()) or "no file was given"
        raise CardError(f"there is no machine card to pool ({why})")
    return Pool(kept, refused)


def _value(card: Card, what: str, of: str, threads: int | str) -> float | None:
    try:
        return card.number(what, of, threads).value
    except CardError:
        return None


def _threads(counts: list[int | str]) -> str:
    return f"{', '.join(map(str, counts))} thread{'' if counts == [1] else 's'}"


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if key.endswith("_per_byte"):
        return f"{value:.3g}"
    return quantity(value, "B/s" if key.startswith("dram") else "OP/s" if key.startswith("int") else "FLOP/s")
