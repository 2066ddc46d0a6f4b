"""Explorers: where turning a knob teaches. Each has a form with knobs, and one with a figure and tables for a page.

roofline     what bounds a dense layer, on which machine, at which batch and precision     chapters 01, 07, 11
sparsity     how many zeros it takes until a smaller file, and a faster layer              chapter 04
bits         what a number loses in few bits                                               chapter 05
speedup      Amdahl, Gustafson and what workers cost each other                            chapter 06
allreduce    how many ways to add up gradients, and which is the fastest when              chapters 03, 06
systolic     when a systolic array idles                                                   chapter 07

At the end of a cell an explorer shows itself: knobs where a kernel and ipywidgets are, else `show()`.

>>> speedup().at(serial=0.1, workers=10).found["Amdahl"]
5.2631578947368425
"""

from hwlimits.progress import STATIC
from hwlimits.widgets.explorer import Answer, Explorer, Knob, WidgetError
from hwlimits.widgets.hardware import allreduce, roofline, systolic
from hwlimits.widgets.models import bits, sparsity, speedup

__all__ = [
    "STATIC", "Answer", "Explorer", "Knob", "WidgetError",
    "allreduce", "bits", "roofline", "sparsity", "speedup", "systolic",
]  # fmt: skip
