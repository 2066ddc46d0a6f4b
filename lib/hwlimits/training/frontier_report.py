"""The frontier as a table and a figure: what is claimed, what is published, and what each of the sizes counts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hwlimits import data, plots

KINDS = {  # of what a published size counts
    "bytes": "bytes that rebuild the weights",
    "estimate": "computed from counts and bit widths, or quoted from others",
}
COLORS = {"lenet-300-100": "vermilion", "lenet-5": "blue"}
OTHER = "green"  # any other architecture


def measured() -> tuple[list[dict], dict]:
    """Our rows of data/results/frontier.csv, numbers as numbers, and what made them.

    Raises FileNotFoundError that says how it is made if there is no such table.
    """
    table = data.path("results/frontier.csv")
    with table.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"] == "ours"]
    numbers = {"parameters": int, "nonzero": int, "file_bytes": int, "seed": int, "max_bytes": int,
               "test_error": float, "max_error": float, "rate": float, "sparsity": float, "teacher": float}  # fmt: skip
    made_by = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))["provenance"]
    return [row | {name: kind(row[name]) for name, kind in numbers.items()} for row in rows], made_by


def tried(code: str = "contexts") -> list[dict]:
    """Rows of data/results/frontier_choices.csv, numbers as numbers: short trainings, the error of images held out.

    Raises FileNotFoundError that says how it is made if there is no such table.
    """
    numbers = {"sparsity": float, "bits": int, "rate": float, "teacher": float, "parameters": int, "nonzero": int,
               "file_bytes": int, "held_out_error": float}  # fmt: skip
    with data.path("results/frontier_choices.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["coding"] == code]
    return [row | {name: kind(row[name]) for name, kind in numbers.items()} for row in rows]


def records() -> list[dict]:
    """The published results of data/papers.yaml, each with the `kind` of its size, a key of `KINDS`."""
    found = data.papers("mnist_compression")
    for record in found:
        if record["kind"] not in KINDS:
            raise ValueError(f"papers.yaml: {record['name']} has the kind {record['kind']!r}: {', '.join(KINDS)}")
    return found


def claims(rows: Iterable[Mapping]) -> list[dict]:
    """Each point of our rows: the mean error of its seeds, the largest of their files, and whether that was asked.

    `held` is true if largest file and mean error are within `max_bytes` and `max_error`.

    >>> row = dict(name="a", architecture="b", parameters=9, max_bytes=700, max_error=0.01)
    >>> [(c["file_bytes"], round(c["test_error"], 4), c["held"])
    ...  for c in claims([row | dict(file_bytes=690, test_error=0.012), row | dict(file_bytes=699, test_error=0.008)])]
    [(699, 0.01, True)]
    """
    found: dict[str, list] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(row)
    points = []
    for name, group in found.items():
        first, errors = group[0], [row["test_error"] for row in group]
        largest, error = max(row["file_bytes"] for row in group), float(np.mean(errors))
        points.append(
            {"name": name, "architecture": first["architecture"], "parameters": first["parameters"],
             "seeds": len(group), "file_bytes": largest, "test_error": error, "errors": errors,
             "max_bytes": first["max_bytes"], "max_error": first["max_error"],
             "held": largest <= first["max_bytes"] and error <= first["max_error"] + 1e-12}
        )  # fmt: skip
    return points


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (bytes, error), those that no other beats in both; in order of their bytes.

    >>> frontier([(3, 1.0), (5, 0.7), (6, 0.9), (5, 0.8)])
    [(3, 1.0), (5, 0.7)]
    """
    kept: list[tuple[float, float]] = []
    for size, error in sorted(points):
        if not kept or error < kept[-1][1]:
            kept.append((size, error))
    return kept


def figure(rows: Sequence[Mapping], published: Sequence[Mapping]):
    """Test error over bytes, the bytes on a logarithmic axis. Returns (figure, alt).

    Ours are stars at the largest file and the mean error, with a line to the least and the largest error of the seeds;
    published sizes that are bytes are dots, estimates are rings. Two lines join what nothing beats: of the published
    bytes alone, and with ours.
    """
    points, labels, said = claims(rows), [], []
    figure, axes = plots.subplots(figsize=(8, 5))
    axes.set(xscale="log", xlabel="bytes", ylabel="errors on the 10,000 test images (%)")
    as_bytes = [(r["file_bytes"], 100 * r["error"]) for r in published if r["kind"] == "bytes"]
    ours = [(p["file_bytes"], 100 * p["test_error"]) for p in points]
    for found, style, text in (
        (as_bytes, ":", "published bytes"),
        ([*as_bytes, *ours], "-", "published bytes and ours"),
    ):
        if found:
            axes.step(*zip(*frontier(found), strict=True), style, where="post", color="#777777", lw=1.2, label=text)
    for r in published:
        size, error = r["file_bytes"], 100 * r["error"]
        color, ring = _color(r["architecture"]), r["kind"] == "estimate"
        axes.plot(size, error, "o", ms=6, color=color, mfc="white" if ring else color, mew=1.5, zorder=3)
        labels.append((r["name"], size, error))
        said.append(f"{r['name']} ({r['architecture']}, {KINDS[r['kind']]}): {size:,} bytes, {error:.2f} %")
    for p in points:
        size, error, color = p["file_bytes"], 100 * p["test_error"], _color(p["architecture"])
        least, most = 100 * min(p["errors"]), 100 * max(p["errors"])
        axes.plot([size, size], [least, most], color=color, lw=2, alpha=0.5, zorder=3)
        axes.plot(size, error, "*", ms=13, color=color, mec="black", mew=0.6, zorder=4)
        labels.append((f"ours: {p['name']}", size, error))
        said.append(f"ours, {p['name']}: {size:,} bytes, {error:.2f} % (seeds {least:.2f} to {most:.2f})")
    for name, color in (*COLORS.items(), ("another network", OTHER)):
        axes.plot([], [], "s", color=plots.COLORS[color], label=name)
    axes.plot([], [], "o", color="#555555", label="published, bytes")
    axes.plot([], [], "o", color="#555555", mfc="white", label="published, computed or quoted")
    axes.plot([], [], "*", ms=11, color="#555555", label="ours, a file")
    sizes = [x for _, x, _ in labels]
    axes.set(xlim=(min(sizes) / 2, max(sizes) * 2.2))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    plots.place_labels(figure, axes, labels)
    return figure, "Test error over bytes. " + "; ".join(said) + "."


def _color(architecture: str) -> str:
    return plots.COLORS[COLORS.get(architecture, OTHER)]
