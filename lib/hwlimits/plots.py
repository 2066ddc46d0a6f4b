"""One plot style for the course: colour-blind safe, axes with units, a text for those who can't see it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Okabe and Ito (2008), a palette that readers with any common colour vision tell apart.
COLORS = {
    "blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "vermilion": "#D55E00",
    "sky": "#56B4E9", "purple": "#CC79A7", "yellow": "#F0E442", "black": "#000000",
}  # fmt: skip

MAP = "cividis"  # for images: one that is even in lightness and safe for colour-blind readers

STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.prop_cycle": mpl.cycler(color=list(COLORS.values())),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "svg.hashsalt": "hwlimits",
}


def subplots(*args, **kwargs):
    """matplotlib's `subplots` in the course's style."""
    with mpl.rc_context(STYLE):
        return plt.subplots(*args, **kwargs)


def png(figure: Figure) -> bytes:
    """The figure as PNG, and closed."""
    packed = io.BytesIO()
    figure.savefig(packed, format="png", metadata={"Software": None})
    plt.close(figure)
    return packed.getvalue()


def html_image(figure: Figure, alt: str) -> str:
    """The figure as an <img> that needs no file beside the page."""
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png(figure)).decode()}">'


def show(figure: Figure, alt: str):
    """Display the figure in a notebook, `alt` being what it says to those who can't see it.

    Raises ValueError without a text: a figure that only shows is closed to some readers.
    """
    if not alt.strip():
        raise ValueError("show(figure, alt): say in a sentence what the figure shows")
    from IPython.display import Image, display

    display(Image(png(figure), metadata={"alt": alt}))  # IPython 7, which Colab has, knows no argument alt


def roofline(rooflines, points: Iterable[tuple[str, float, float]] = ()) -> tuple[Figure, str]:
    """Attainable performance over arithmetic intensity, both logarithmic, with measured points.

    rooflines   a `hwlimits.roofline.Roofline` or several; one line for each level of memory
    points      (label, FLOP/byte, FLOP/s) of what was measured

    Returns the figure and its text, which has the numbers.
    Raises ValueError for a point that has no place on logarithmic axes.
    """
    rooflines, points = list(rooflines) if isinstance(rooflines, Iterable) else [rooflines], list(points)
    for label, intensity, flops_per_s in points:
        if not (0 < intensity < float("inf") and 0 < flops_per_s < float("inf")):
            raise ValueError(
                f"point {label!r} ({intensity} FLOP/byte, {flops_per_s} FLOP/s) has no place on logarithmic axes: "
                "both must be above 0. Leave out what does no arithmetic."
            )
    ridges = [r.ridge_point(level) for r in rooflines for level in r.bandwidths]
    low = min([*ridges, *(x for _, x, _ in points)]) / 6
    high = max([*ridges, *(x for _, x, _ in points)]) * 6
    figure, axes = subplots(figsize=(7.5, 4.8))
    axes.set(xscale="log", yscale="log", xlabel="arithmetic intensity (FLOP/byte)", ylabel="performance (FLOP/s)")
    sentences = []
    styles = ("-", "--", "-.", ":")
    palette = ("blue", "vermilion", "green", "purple", "orange")
    lowest = min(r.attainable_flops_per_s(low) for r in rooflines)
    for i, r in enumerate(rooflines):
        color = COLORS[palette[i % len(palette)]]
        peak, levels = _si(r.peak_flops_per_s, "FLOP/s"), []
        for j, (level, bytes_per_s) in enumerate(r.bandwidths.items()):
            ridge = r.ridge_point(level)
            x = [low, ridge, high]
            label = f"{r.name}: {level}, {_si(bytes_per_s, 'B/s')}"
            axes.plot(x, r.attainable_flops_per_s(x, level), styles[j % len(styles)], color=color, lw=1.8, label=label)
            axes.plot(ridge, r.peak_flops_per_s, "v", color=color, ms=5)
            levels.append(f"{level} at {_si(bytes_per_s, 'B/s')} with its ridge point at {ridge:.3g} FLOP/byte")
        sentences.append(f"{r.name}: peak {peak}; {'; '.join(levels)}.")
        axes.text(high, r.peak_flops_per_s, f"peak {peak} ", ha="right", va="bottom", color=color, fontsize=9)
    for label, intensity, flops_per_s in points:
        axes.plot(intensity, flops_per_s, "o", color=COLORS["black"], ms=5, zorder=4)
        sentences.append(f"{label}: {_si(flops_per_s, 'FLOP/s')} at {intensity:.3g} FLOP/byte.")
    tallest = max([r.peak_flops_per_s for r in rooflines] + [y for _, _, y in points])
    axes.set(xlim=(low, high), ylim=(min([lowest, *(y for _, _, y in points)]) / 2, tallest * 4))
    axes.yaxis.set_major_formatter(lambda value, _: _si(value, "FLOP/s"))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    place_labels(figure, axes, points)
    return figure, "Roofline, performance over arithmetic intensity. " + " ".join(sentences)


def place_labels(figure: Figure, axes, points) -> None:
    """Write each label near its point where it covers neither another label nor a point."""
    figure.canvas.draw()  # only then is it known how large a text is
    at = [tuple(axes.transData.transform((x, y))) for _, x, y in points]
    taken = [text.get_window_extent() for text in axes.texts]
    taken += [mpl.transforms.Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in at]
    inside = axes.get_window_extent()
    scale = 72 / figure.dpi  # pixels to points, the unit of an annotation's offset
    for (label, x, y), (px, py) in zip(points, at, strict=True):
        note = axes.annotate(
            label, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": "#555555", "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
        size = note.get_window_extent()
        for reach in range(7, 240, 7):
            steps = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
            spots = [
                (
                    px + dx * reach - (dx < 0) * size.width - (dx == 0) * size.width / 2,
                    py + dy * reach - (dy < 0) * size.height - (dy == 0) * size.height / 2,
                )
                for dx, dy in steps
            ]
            boxes = [mpl.transforms.Bbox.from_bounds(*spot, size.width, size.height) for spot in spots]
            free = [
                b
                for b in boxes
                if inside.containsx(b.x0)
                and inside.containsx(b.x1)
                and inside.containsy(b.y0)
                and inside.containsy(b.y1)
                and not any(b.overlaps(other) for other in taken)
            ]
            if free:
                note.set_position(((free[0].x0 - px) * scale, (free[0].y0 - py) * scale))
                taken.append(free[0])
                break


def _si(value: float, unit: str) -> str:
    """A number with the SI prefix that suits it, in three digits.

    >>> _si(95.6e9, "FLOP/s"), _si(2e10, "B/s")
    ('95.6 GFLOP/s', '20 GB/s')
    """
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def concept_map(boxes: Mapping[str, tuple[float, float]], arrows: Iterable[tuple[str, str, str]]) -> Figure:
    """Boxes with text at their places, in columns and rows, and labelled arrows between them.

    boxes    text -> (column, row); row 0 is at the top
    arrows   (from, to, label) by the boxes' texts

    Raises ValueError for an arrow to a box that is not there.
    """
    arrows = list(arrows)
    if missing := [name for arrow in arrows for name in arrow[:2] if name not in boxes]:
        raise ValueError(f"concept_map: an arrow goes to {missing[0]!r}; the boxes are {', '.join(map(repr, boxes))}")
    columns, rows = (max(place[axis] for place in boxes.values()) for axis in (0, 1))
    figure, axes = subplots(figsize=(2.1 * (columns + 1), 1.05 * (rows + 1)))
    axes.set(xlim=(-0.55, columns + 0.55), ylim=(rows + 0.5, -0.5))
    axes.axis("off")
    frame = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": COLORS["blue"], "lw": 1.4}
    drawn = {
        text: axes.text(*place, text, ha="center", va="center", fontsize=9.5, bbox=frame)
        for text, place in boxes.items()
    }
    for start, end, label in arrows:
        axes.annotate(
            "", xy=boxes[end], xytext=boxes[start],
            arrowprops={"arrowstyle": "-|>", "color": "#555555", "lw": 1.2, "shrinkA": 4, "shrinkB": 4,
                        "patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()},
        )  # fmt: skip
        if label:
            middle = [(a + b) / 2 for a, b in zip(boxes[start], boxes[end], strict=True)]
            clear = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}
            axes.text(*middle, label, ha="center", va="center", fontsize=8, color="#333333", style="italic", bbox=clear)
    return figure


def timeline(rows: Mapping[str, Iterable[tuple[float, float]]], unit_s: float = 1e-3, unit: str = "ms") -> Figure:
    """Spans of time, (start, duration) in seconds, one line for each name, the first at the top."""
    figure, axes = subplots(figsize=(7.5, 0.32 * len(rows) + 0.9))
    palette = [COLORS[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky")]
    for i, spans in enumerate(rows.values()):
        axes.broken_barh([(s / unit_s, d / unit_s) for s, d in spans], (i - 0.35, 0.7), color=palette[i % len(palette)])
    axes.set(xlabel=f"time ({unit})", yticks=range(len(rows)), yticklabels=list(rows))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return figure
