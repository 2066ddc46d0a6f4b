"""The README's picture, made from a stored result: `python book/picture.py` writes book/_static/predicted-measured.png.

Times of one inference, predicted and then measured, of networks that took no part in making the predictor
(data/results/prediction_errors.csv, chapter 02).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from matplotlib.figure import Figure

from hwlimits import data, plots

FILE = Path(__file__).resolve().parent / "_static" / "predicted-measured.png"
RESULT = "results/prediction_errors"


def rows() -> list[dict[str, float | str]]:
    """The networks held out: model, precision, and the times in milliseconds."""
    with data.path(f"{RESULT}.csv").open(encoding="utf-8") as file:
        held_out = [row for row in csv.DictReader(file) if row["set"] == "held out"]
    times = ("predicted_s", "low_s", "high_s", "measured_s")
    return [{"precision": row["precision"]} | {t: 1e3 * float(row[t]) for t in times} for row in held_out]


def figure() -> tuple[Figure, str]:
    """The picture, and what it says to those who can't see it."""
    found = rows()
    made = json.loads(data.path(f"{RESULT}.json").read_text(encoding="utf-8"))["provenance"]
    drawn, axes = plots.subplots(figsize=(7, 3.6))
    ends = [min(r["low_s"] for r in found) / 1.5, max(r["high_s"] for r in found) * 1.5]
    axes.loglog(ends, ends, color="#888888", linewidth=1)
    axes.text(1.5, 0.9, "measured = predicted", va="top", color="#555555", fontsize=9)
    for precision, color, marker in (("float32", "blue", "o"), ("int8", "vermilion", "s")):
        own = [r for r in found if r["precision"] == precision]
        at, then = [r["predicted_s"] for r in own], [r["measured_s"] for r in own]
        spread = [[r["predicted_s"] - r["low_s"] for r in own], [r["high_s"] - r["predicted_s"] for r in own]]
        style = {"fmt": marker, "color": plots.COLORS[color], "markersize": 5, "elinewidth": 1}
        axes.errorbar(at, then, xerr=spread, label=precision, **style)
    axes.set(xlim=ends, ylim=ends, xlabel="predicted, with its interval (ms)", ylabel="then measured (ms)")
    axes.legend(loc="upper left", frameon=False)
    measured = [r["measured_s"] for r in found]
    off = sorted(max(r["measured_s"] / r["predicted_s"], r["predicted_s"] / r["measured_s"]) - 1 for r in found)
    alt = (
        f"Time of one inference of {len(found)} networks that the predictor had never seen, in float32 and int8: "
        f"predicted, and then measured on one computer ({made['date'][:10]}). They lie along the line where both are "
        f"equal, from {min(measured):.2g} to {max(measured):.0f} milliseconds; "
        f"half of the predictions are off by less than {100 * off[len(off) // 2]:.0f} %, "
        f"the worst by {100 * off[-1]:.0f} %."
    )
    return drawn, alt


if __name__ == "__main__":
    drawn, alt = figure()
    FILE.write_bytes(plots.png(drawn))
    print(alt)
