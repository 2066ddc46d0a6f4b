"""One plot style for the course: colour-blind safe, axes with units, a text for those who can't see it."""

from __future__ import annotations

import base64
import io

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

    display(Image(png(figure), alt=alt))
