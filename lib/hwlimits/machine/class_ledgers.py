"""The ledgers of a class side by side: how far off were its predictions, prediction by prediction.

found = class_ledgers(Path("ledgers").glob("*.json"))     # files of Ledger.save, one a student
found.rows()                                              # a record a prediction: how many, median ratio, quartiles
found.figure()                                            # a dot a student and prediction, and the text of the figure
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np

from hwlimits.machine.ledger import LedgerError

MAX_FILE_BYTES = 1_000_000


@dataclass(frozen=True)
class ClassLedgers:
    """Measured over predicted by prediction and student; 1 is right.

    ratios    {prediction: {student: ratio}}, in the order in which predictions first came
    void      {prediction: how many students' measurement was void, or not made}
    refused   files that are no ledger, by name, and why
    """

    ratios: dict[str, dict[str, float]]
    void: dict[str, int]
    refused: dict[str, str]

    def rows(self) -> list[dict]:
        """A record a prediction: name, students, median ratio and its quartiles, within a factor of 2, void."""
        found = []
        for name, by_student in self.ratios.items():
            values = np.array(list(by_student.values()))
            low, median, high = np.percentile(values, [25, 50, 75]) if len(values) else (None,) * 3
            within = int(((values >= 0.5) & (values <= 2)).sum())
            found.append(
                {"prediction": name, "students": len(values), "lower_quartile": low, "median": median,
                 "upper_quartile": high, "within_factor_2": within, "void": self.void.get(name, 0)}
            )  # fmt: skip
        return found

    def figure(self):
        """A row a prediction, a dot a student, the median as a line, on a logarithmic axis; and the figure's text.

        Raises LedgerError if nothing was measured.
        """
        from hwlimits import plots

        rows = [row for row in self.rows() if row["students"]]
        if not rows:
            raise LedgerError("none of the ledgers has a prediction that was measured: nothing can be drawn")
        figure, axes = plots.subplots(figsize=(7.5, 1.2 + 0.42 * len(rows)))
        for place, row in enumerate(rows):
            values = list(self.ratios[row["prediction"]].values())
            axes.plot(values, [place] * len(values), "o", ms=5, alpha=0.6, color=plots.COLORS["blue"])
            axes.plot([row["median"]] * 2, [place - 0.3, place + 0.3], color=plots.COLORS["vermilion"], lw=2)
        axes.axvline(1, color="#777777", lw=1)
        axes.set(xscale="log", xlabel="measured ÷ predicted", yticks=range(len(rows)))
        axes.set_yticklabels([_short(row["prediction"]) for row in rows])
        axes.invert_yaxis()
        said = [f"{row['prediction']}: median {row['median']:.2f} of {row['students']}" for row in rows]
        return figure, f"Measured over predicted, a dot for each student. {'; '.join(said)}."


def class_ledgers(files: Iterable[str | Path]) -> ClassLedgers:
    """Read the ledgers of a class; a student's name is that of the file.

    A file that is no ledger is refused by name, and the others are kept. Raises LedgerError if none is left.
    """
    ratios: dict[str, dict[str, float]] = {}
    void: dict[str, int] = {}
    refused: dict[str, str] = {}
    read = 0
    for path in map(Path, files):
        try:
            entries = _entries(path)
        except (OSError, ValueError, RecursionError) as error:
            refused[path.name] = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            continue
        read += 1
        for name, ratio in entries:
            ratios.setdefault(name, {})
            if ratio is None:
                void[name] = void.get(name, 0) + 1
            else:
                ratios[name][_free(path.stem, ratios[name])] = ratio
    if not read:
        why = "; ".join(f"{name}: {why}" for name, why in refused.items()) or "no file was given"
        raise LedgerError(f"there is no ledger to pool ({why}); a student writes one with ledger.save(FILE)")
    return ClassLedgers(ratios, void, refused)


def _entries(path: Path) -> list[tuple[str, float | None]]:
    """(prediction, ratio) of a file; the ratio is worked out anew, and None where there is none."""
    with open(path, "rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES:,} bytes")
    rows = json.loads(content)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    ):
        raise ValueError("it is no ledger: a list of predictions with their names is wanted")
    found = []
    for row in rows:
        predicted, measured = row.get("predicted"), row.get("measured")
        good = all(isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x) for x in (predicted, measured))
        ratio = measured / predicted if good and predicted else None
        usable = ratio is not None and ratio > 0 and math.isfinite(ratio) and not row.get("void")
        found.append((row["name"], ratio if usable else None))
    return found


def _free(name: str, taken) -> str:
    return name if name not in taken else _free(f"{name} again", taken)


def _short(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
