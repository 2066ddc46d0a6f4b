"""The case study's report: tables for the terminal, the chapter and a page, figures, and the claims.

All of it is computed from the records of `case_study.run`; nothing here measures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import jinja2
import numpy as np
from rich.console import Console
from rich.table import Table

from hwlimits import plots
from hwlimits.training.evaluate import before_after, mcnemar, paired, right_answers
from hwlimits.training.recipe import STAGES
from hwlimits.units import seconds

NAMES = {
    "article": "article's recipe, 3 fits",
    "baseline_5": "plain, 5 epochs",
    "baseline_15": "plain, 15 epochs",
    "control": "control, never compressed",
    "pruned": "pruned",
    "quantized": "pruned and int8",
}


def of(runs: Sequence[Mapping], stage: str, key: str) -> list:
    """The values of one field of one stage, by seed.

    Raises KeyError that lists the stages there are.
    """
    found = sorted((r["seed"], r[key]) for r in runs if r["stage"] == stage)
    if not found:
        raise KeyError(f"no runs of stage {stage!r}; there are {', '.join(sorted({r['stage'] for r in runs}))}")
    return [value for _, value in found]


def mean(runs: Sequence[Mapping], stage: str, key: str) -> float:
    """Mean of one field of one stage over the seeds."""
    return float(np.mean(of(runs, stage, key)))


def difference(runs: Sequence[Mapping], after: str, before: str, key: str = "test_accuracy") -> dict:
    """Mean of after - before, paired by seed, with its 95 % interval."""
    return paired(of(runs, after, key), of(runs, before, key))


def points(found: Mapping) -> str:
    """A difference of two accuracies in percentage points.

    >>> points({"mean": 0.0012, "low": -0.0001, "high": 0.0025})
    '+0.12 points [-0.010, +0.250]'
    """
    return f"{100 * found['mean']:+.2f} points [{100 * found['low']:+.3f}, {100 * found['high']:+.3f}]"


def stages(runs: Sequence[Mapping]) -> list[str]:
    return [stage for stage in STAGES if any(r["stage"] == stage for r in runs)]


WEIGHS = ("stage", "not zero", "raw kB", "deflated kB", "entropy kB", "effective MACs")
DOES = ("stage", "accuracy %", "McNemar", "batch 1", "batch 128", "peak memory MB, batch 128")


def rows(runs: Sequence[Mapping], columns: Sequence[str] = WEIGHS + DOES[1:]) -> list[dict[str, str]]:
    """One row a stage, with these columns: what it weighs, what it does. Means over seeds where there are several."""
    table = []
    for stage in stages(runs):
        accuracy = of(runs, stage, "test_accuracy")
        if len(accuracy) == 1:
            run = next(r for r in runs if r["stage"] == stage)
            spread = f"[{100 * run['test_accuracy_low']:.2f}, {100 * run['test_accuracy_high']:.2f}]"
            p_value = f"{run['mcnemar_vs_baseline']['p_value']:.2g}"
        else:
            spread = f"({100 * min(accuracy):.2f} to {100 * max(accuracy):.2f})"
            base = np.array(of(runs, "baseline_15", "test_accuracy"))
            known = np.array([test["p_value"] < 0.05 for test in of(runs, stage, "mcnemar_vs_baseline")])
            better = np.array(accuracy) > base
            p_value = f"{np.sum(known & better)} better, {np.sum(known & ~better)} worse"
        table.append({
            "stage": NAMES[stage],
            "accuracy %": f"{100 * np.mean(accuracy):.2f} {spread}",
            "McNemar": "-" if stage == "baseline_15" else p_value,
            "not zero": f"{mean(runs, stage, 'nonzero_parameters'):,.0f}",
            "raw kB": f"{mean(runs, stage, 'raw_bytes') / 1e3:.1f}",
            "deflated kB": f"{mean(runs, stage, 'deflated_bytes') / 1e3:.1f}",
            "entropy kB": f"{mean(runs, stage, 'entropy_bytes') / 1e3:.1f}",
            "effective MACs": (
                f"{mean(runs, stage, 'effective_macs') / 1e6:.2f} of {mean(runs, stage, 'macs') / 1e6:.2f} M"
            ),
            **{f"batch {b}": _latency(runs, stage, b) for b in (1, 128)},
            "peak memory MB, batch 128": f"{mean(runs, stage, 'peak_memory_batch128_bytes') / 1e6:.1f}",
        })  # fmt: skip
    return [{column: row[column] for column in columns} for row in table]


def _latency(runs: Sequence[Mapping], stage: str, batch: int) -> str:
    prefix = f"latency_batch{batch}"
    verdicts = set(of(runs, stage, f"{prefix}_verdict"))
    time = f"{seconds(mean(runs, stage, f'{prefix}_median_s'))} (IQR {seconds(mean(runs, stage, f'{prefix}_iqr_s'))})"
    time += " NOISY" if any(of(runs, stage, f"{prefix}_noisy")) else ""
    speedup = mean(runs, stage, f"{prefix}_speedup")
    said = f"{speedup:.2f}x" if verdicts <= {"faster"} or verdicts <= {"slower"} else "/".join(sorted(verdicts))
    return time if stage == "baseline_15" else f"{time}, {said}"


def recall_rows(runs: Sequence[Mapping]) -> list[dict[str, str]]:
    """Recall of each digit, in per cent, one row a stage, mean over seeds."""
    return [
        {"stage": NAMES[stage]}
        | {str(d): f"{100 * x:.1f}" for d, x in enumerate(np.mean(of(runs, stage, "recall_per_digit"), axis=0))}
        for stage in stages(runs)
    ]


def notes(runs: Sequence[Mapping]) -> list[str]:
    """What the table needs said beside it, and the claims that it supports."""
    first, seeds = runs[0], sorted({r["seed"] for r in runs})
    full = "all of MNIST" if first["dataset"] == "mnist" else "the 5,000-image sample: intervals are wide"
    said = [
        f"source: {first['dataset']} ({full}); {first['test_images']:,} test images; "
        f"seeds {', '.join(map(str, seeds))}.",
        f"Latency: LiteRT, {first['latency_threads']} thread, input already set, warmed up; median and interquartile "
        "range of samples of 2 ms or more, each stage interleaved with 'plain, 15 epochs', with an A/A control.",
        "McNemar: "
        + (
            "p against 'plain, 15 epochs'."
            if len(seeds) == 1
            else "seeds that differ from 'plain, 15 epochs' (p < 0.05)."
        ),
        "Entropy: order-0, of the parameters alone, without the table of values that a decoder needs; of float32 "
        "almost each value is one of its own, so there it says little.",
    ]
    final = [r for r in runs if r["stage"] == "quantized"]
    disagreement = max(r["keras_disagreement"] for r in final)
    said.append(f"The int8 file answers as its Keras model does on all but {100 * disagreement:.2f} % of the images.")
    for micro in (r["micro"] for r in final[:1]):
        said.append(f"Microcontroller runtime: {micro}." if isinstance(micro, str) else (
            f"Microcontroller runtime: {100 * micro['test_accuracy']:.2f} % on {micro['test_images']:,} images, "
            f"arena {micro['arena_bytes']:,} bytes."
        ))  # fmt: skip
    if len(seeds) == 1 and "control" in stages(runs):
        verdict = comparison(runs, before="control")[-1][3]
        said.append(f"What compression alone does to accuracy (against the control): {verdict}.")
    if len(seeds) > 1 and "control" in stages(runs):
        compression = points(difference(runs, "quantized", "control"))
        training = points(difference(runs, "control", "baseline_15"))
        said += [
            f"What compression does to accuracy (final minus control): {compression}.",
            f"What schedule and shifts do (control minus plain, 15 epochs): {training}.",
        ]
    voids = [r for r in runs for b in (1, 128) if r[f"latency_batch{b}_verdict"] == "VOID"]
    if voids:
        said.append(f"{len(voids)} of {2 * len(runs)} speed comparisons are VOID: the machine did not hold still.")
    return said


def markdown(table: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table."""
    head = list(table[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in table])


def stages_figure(runs: Sequence[Mapping]):
    """Size, accuracy and latency of each stage, side by side; a dot for each seed. Returns (figure, alt).

    Latency is relative to the plain network's in the same, interleaved run: absolute times of
    two stages were taken at two moments.
    """
    names = stages(runs)
    plain_s = mean(runs, "baseline_15", "latency_batch1_median_s")
    panels = (
        ("blue", "deflated file (kB)", lambda r: r["deflated_bytes"] / 1e3),
        ("green", "test accuracy (%)", lambda r: 100 * r["test_accuracy"]),
        (
            "vermilion",
            f"latency ÷ plain's, batch 1 (1 = {seconds(plain_s)})",
            lambda r: 1 / r["latency_batch1_speedup"],
        ),
    )
    figure, axes = plots.subplots(1, 3, figsize=(11, 3.2), sharey=True)
    for axis, (color, label, value) in zip(axes, panels, strict=True):
        for place, stage in enumerate(names):
            group = [r for r in runs if r["stage"] == stage]
            values = [value(r) for r in group]
            if color == "green":  # an accuracy has an interval, and no meaningful zero to draw a bar from
                low, high = (100 * np.mean([r[f"test_accuracy_{end}"] for r in group]) for end in ("low", "high"))
                axis.plot([low, high], [place, place], color="#999999", lw=4, alpha=0.6, solid_capstyle="butt")
            else:
                void = color == "vermilion" and any(r["latency_batch1_verdict"] == "VOID" for r in group)
                fill = {"fill": False, "hatch": "//"} if void else {"color": plots.COLORS[color]}
                axis.barh(place, np.mean(values), height=0.6, **fill)
            axis.plot(values, [place] * len(values), "o", ms=4, color="black", alpha=0.6)
        axis.set_xlabel(label)
    axes[0].set_yticks(range(len(names)), [NAMES[n] for n in names])
    axes[0].invert_yaxis()
    alt = "Three panels by stage. " + "; ".join(
        f"{NAMES[n]}: {mean(runs, n, 'deflated_bytes') / 1e3:.0f} kB, {100 * mean(runs, n, 'test_accuracy'):.2f} %, "
        + (
            "latency VOID"
            if "VOID" in of(runs, n, "latency_batch1_verdict")
            else f"{1 / mean(runs, n, 'latency_batch1_speedup'):.2f} of the plain latency"
        )
        for n in names
    )
    return figure, alt


def digits_figure(runs: Sequence[Mapping]):
    """Which digits each stage gets wrong, in errors per 1,000 images of the digit. Returns (figure, alt)."""
    names = stages(runs)
    errors = np.array([1000 * (1 - np.mean(of(runs, n, "recall_per_digit"), axis=0)) for n in names])
    figure, axis = plots.subplots(figsize=(8, 3.2))
    image = axis.imshow(errors, aspect="auto", cmap=plots.MAP)
    axis.grid(False)
    for (row, digit), value in np.ndenumerate(errors):
        axis.text(digit, row, f"{value:.0f}", ha="center", color="white" if value < errors.max() * 0.6 else "black")
    axis.set_xticks(range(10), range(10))
    axis.set_yticks(range(len(names)), [NAMES[n] for n in names])
    axis.set_xlabel("digit")
    figure.colorbar(image, label="wrong per 1,000 images")
    alt = "Errors per 1,000 images by stage and digit. " + "; ".join(
        f"{NAMES[n]}: worst is {int(np.argmax(e))} with {e.max():.0f}, best {int(np.argmin(e))} with {e.min():.0f}"
        for n, e in zip(names, errors, strict=True)
    )
    return figure, alt


def comparison(
    runs: Sequence[Mapping], seed: int | None = None, before: str = "baseline_15"
) -> list[tuple[str, str, str, str]]:
    """The stage `before` and the final one (pruned and int8) of one seed, with the verdicts that hold."""
    seed = runs[0]["seed"] if seed is None else seed
    pair = (next(r for r in runs if r["stage"] == s and r["seed"] == seed) for s in (before, "quantized"))
    return before_after(*pair)


def engines(own: Sequence[Mapping], tfmot: Sequence[Mapping]) -> list[dict[str, str]]:
    """The compressed stages by the course's own engine beside tfmot's, on the seeds that both have.

    Accuracies are paired by seed; of a single seed, by image (McNemar). Sizes and zeros are means.
    Raises ValueError for results of other images, or without a seed in common.
    """
    seeds = sorted({r["seed"] for r in own} & {r["seed"] for r in tfmot})
    images = {(r["dataset"], r["test_images"]) for r in (*own, *tfmot)}
    if not seeds or len(images) > 1:
        raise ValueError(
            f"engines: {len(seeds)} seeds in common, tested on {', '.join(sorted(name for name, _ in images))}; "
            "needs the same seeds and images"
        )
    own, tfmot = ([r for r in runs if r["seed"] in seeds] for runs in (own, tfmot))
    rows = []
    for stage in ("pruned", "quantized"):
        if len(seeds) > 1:
            said = points(paired(of(own, stage, "test_accuracy"), of(tfmot, stage, "test_accuracy")))
        else:
            right = [right_answers(next(r for r in runs if r["stage"] == stage)) for runs in (own, tfmot)]
            said = f"McNemar p = {mcnemar(*right)['p_value']:.2g}"
        shares = [mean(runs, stage, "test_accuracy") for runs in (tfmot, own)]
        row = {"stage": NAMES[stage], "what": "accuracy", "tfmot": f"{100 * shares[0]:.2f} %"}
        rows.append(row | {"own": f"{100 * shares[1]:.2f} %", "own against tfmot": said})
        for what, key in (("deflated bytes", "deflated_bytes"), ("parameters not zero", "nonzero_parameters")):
            theirs, ours = (mean(runs, stage, key) for runs in (tfmot, own))
            row = {"stage": NAMES[stage], "what": what, "tfmot": f"{theirs:,.0f}", "own": f"{ours:,.0f}"}
            rows.append(row | {"own against tfmot": f"{100 * (ours / theirs - 1):+.1f} %"})
    return rows


def _beside_tfmot(found: Mapping, full: Mapping) -> list[dict[str, str]]:
    """`engines` where there is something to compare: the own engine's run, on images and seeds of the stored one."""
    if found["provenance"].get("engine") != "own":
        return []
    try:
        return engines(found["runs"], full["runs"])
    except ValueError:
        return []


def show(found: Mapping, full: Mapping, page: Path, console: Console) -> None:
    """Print the report of a run, and write it with figures, beside the stored full result, as a page."""
    runs = found["runs"]
    for title, lines in (
        ("What each stage weighs", rows(runs, WEIGHS)),
        ("What it can do, and how fast", rows(runs, DOES)),
        ("Recall of each digit (%)", recall_rows(runs)),
    ):
        table = Table(title=title, title_justify="left")
        for column in lines[0]:
            table.add_column(column, justify="left" if column == "stage" else "right")
        for line in lines:
            table.add_row(*line.values())
        console.print(table)
    table = Table(
        "",
        "before",
        "after",
        "verdict",
        title="Before and after: plain, 15 epochs, and pruned and int8",
        title_justify="left",
    )
    for row in comparison(runs):
        table.add_row(*row)
    console.print(table)
    for note in notes(runs):
        console.print("-", note, highlight=False)
    if beside := _beside_tfmot(found, full):
        table = Table(*beside[0], title="The course's own engine beside tfmot's stored result", title_justify="left")
        for line in beside:
            table.add_row(*line.values())
        console.print(table)
    elif found["provenance"].get("engine") == "own":
        console.print("- Not compared with tfmot's stored result: that is of other images or seeds.", highlight=False)
    write_page(found, full, page)
    console.print(f"The page with figures: {page}", highlight=False)


def write_page(found: Mapping, full: Mapping, page: Path) -> None:
    """Write the report as one HTML file that needs nothing beside it."""

    def section(title, result):
        runs = result["runs"]
        return {
            "title": title,
            "notes": notes(runs),
            "tables": [rows(runs, WEIGHS), rows(runs, DOES)],
            "recall": recall_rows(runs),
            "figures": [
                plots.html_image(f, escape(alt, quote=True)) for f, alt in (stages_figure(runs), digits_figure(runs))
            ],
            "comparison": comparison(runs),
            "provenance": json.dumps(result["provenance"], indent=1),
        }

    template = jinja2.Template(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"), autoescape=True)
    this = section("This run, on this computer", found)
    if beside := _beside_tfmot(found, full):
        this["tables"].append(beside)
    sections = [this, section("The stored result, five seeds", full)]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(template.render(sections=sections), encoding="utf-8")
