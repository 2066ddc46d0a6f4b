"""Explorers of machines: the roofline, the all-reduce, the systolic array."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hwlimits import collectives, compute, devices, plots, scaling
from hwlimits.bandwidth import LinkModel
from hwlimits.roofline import Roofline
from hwlimits.systolic import DATAFLOWS, Array, multiply
from hwlimits.units import quantity, seconds
from hwlimits.widgets.explorer import Answer, Explorer, Knob, WidgetError

HERE = "this computer"
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
MACHINES = ("raspberry-pi-5", "core-i7-1260p", "epyc-9654", "t4", "a100-80gb-sxm", "h100-sxm", "tpu-v5e")
LINKS = ("ethernet-10g", "ethernet-100g", "infiniband-ndr", "pcie-4-x16", "nvlink-4")
ELEMENT_BYTES = 4  # of a float32 gradient
FROM_BATCH = "batch at which compute bounds"


def roofline(here: Mapping[str, Roofline] | None = None, machines: Sequence[str] = MACHINES) -> Explorer:
    """What bounds a dense layer with as many outputs as inputs: knobs for machine, precision, batch and width.

    here       precision -> Roofline of this computer: {"fp32": machine.card().roofline("fp32")}
    machines   names in the registry (`hwlimits.devices`), at their published numbers

    Raises WidgetError for a `here` that is no such mapping, and DeviceError for an unknown machine.

    >>> roofline().at(machine="t4", precision="fp16", batch=1).found["bound"]
    'memory'
    """
    here = _rooflines(here)
    known = {devices.device(name).name: devices.device(name) for name in machines}
    names = ([HERE] if here else []) + list(known)

    def of(machine: str, precision: str) -> Roofline:
        if machine != HERE:
            return Roofline.of_device(known[machine], precision)
        if precision not in here:
            raise WidgetError(f"this computer's roofline at {precision} is not given; given are {', '.join(here)}")
        return here[precision]

    def answer(machine: str, precision: str, batch: int, width: int) -> Answer:
        layer = compute.dense(width, width, batch=batch, dtype=DTYPES[precision])
        chosen = of(machine, precision)
        bandwidths = {level: 2 * b for level, b in chosen.bandwidths.items()}
        time_s, bound = chosen.time_s(layer), chosen.bound(layer)
        faster = Roofline(chosen.name, 2 * chosen.peak_flops_per_s, chosen.bandwidths).time_s(layer)
        wider = Roofline(chosen.name, chosen.peak_flops_per_s, bandwidths).time_s(layer)
        attained = chosen.attainable_flops_per_s(layer.intensity)

        def row(name: str) -> dict:
            try:
                r = of(name, precision)
            except ValueError:  # a precision that a machine lacks is said, and nothing put in its place
                return {"machine": name, "bound": f"no {precision} {'given' if name == HERE else 'published'}"}
            return {
                "machine": name, "peak": r.peak_flops_per_s, "bandwidth": r.bandwidth(),
                "ridge point": r.ridge_point(), "attainable": r.attainable_flops_per_s(layer.intensity),
                "bound": r.bound(layer), "time": r.time_s(layer), FROM_BATCH: _from_batch(r, precision, width),
            }  # fmt: skip

        said = (
            f"{chosen.name}: {layer.intensity:.3g} FLOP/byte, and the ridge point is at {chosen.ridge_point():.3g}, so "
            f"{bound} bounds: {seconds(time_s)} at least, {attained / chosen.peak_flops_per_s:.1%} of the peak. With "
            f"twice the peak it would be {seconds(faster)}, with twice the bandwidth {seconds(wider)}."
        )
        found = {"intensity": layer.intensity, "bound": bound, "time": time_s,
                 "share of peak": attained / chosen.peak_flops_per_s, "images a second": batch / time_s,
                 FROM_BATCH: _from_batch(chosen, precision, width)}  # fmt: skip
        label = f"{width} × {width}, batch {batch}"
        return Answer(
            said, found, [row(name) for name in names],
            lambda: plots.roofline(chosen, [(label, layer.intensity, attained)]),
        )  # fmt: skip

    knobs = (
        Knob("machine", "machine", tuple(names), start=names[0]),
        Knob("precision", "precision", tuple(DTYPES), start="fp32"),
        Knob("batch", "batch", tuple(2**i for i in range(13)), start=1),
        Knob("width", "width", tuple(2**i for i in range(6, 15)), start=1024),
    )
    units = {
        "peak": "FLOP/s", "bandwidth": "B/s", "ridge point": "FLOP/byte", "attainable": "FLOP/s", "time": "s",
        "intensity": "FLOP/byte", "share of peak": "%",
    }  # fmt: skip
    return Explorer("What does a dense layer wait for?", knobs, answer, units)


def _from_batch(roof: Roofline, precision: str, width: int) -> int | str:
    """The least batch at which compute bounds a layer, or "none": each image brings inputs and outputs of its own."""

    def layer(batch: int):
        return compute.dense(width, width, batch=batch, dtype=DTYPES[precision])

    one_bytes, image_bytes = layer(1).bytes, layer(2).bytes - layer(1).bytes
    gained_s = layer(1).flops / roof.peak_flops_per_s - image_bytes / roof.bandwidth()  # by each image, on memory
    if gained_s <= 0:
        return "none"
    batch = max(1, math.ceil((one_bytes - image_bytes) / roof.bandwidth() / gained_s))
    while roof.bound(layer(batch)) == "memory":  # where rounding falls on the ridge point
        batch += 1
    while batch > 1 and roof.bound(layer(batch - 1)) == "compute":
        batch -= 1
    return batch


def _rooflines(here) -> Mapping[str, Roofline]:
    if here is None:
        return {}
    good = isinstance(here, Mapping) and here and all(isinstance(r, Roofline) for r in here.values())
    if not good or not set(here) <= set(DTYPES):
        raise WidgetError(
            f"roofline(here={here!r}): give a Roofline for each precision, of {', '.join(DTYPES)}: "
            '{"fp32": machine.card().roofline("fp32")}'
        )
    return here


def allreduce(links: Sequence[str] = LINKS, here: LinkModel | None = None) -> Explorer:
    """Five ways to add up an array of float32 among processes: knobs for link, processes and elements.

    links   names in the registry, with the latency that `scaling.link_model` has for their kind
    here    the link between processes of this computer, as `bandwidth.fit` finds it

    Times are those of the alpha-beta model (`collectives.Cost.time_s`), each process with a link of its own.
    Raises DeviceError for an unknown link, and WidgetError for a `here` that is no LinkModel.

    >>> allreduce().at(processes=8, elements=1).found["fastest"]
    'recursive-doubling'
    """
    if here is not None and not isinstance(here, LinkModel):
        raise WidgetError(f"allreduce(here={here!r}): give a bandwidth.LinkModel, such as bandwidth.fit(...).link")
    known = ({HERE: here} if here else {}) | {name: scaling.link_model(name) for name in links}
    sizes = tuple(10**i for i in range(10))

    def answer(link: str, processes: int, elements: int) -> Answer:
        model = known[link]
        costs = {name: collectives.cost(name, processes, elements) for name in collectives.ALGORITHMS}
        fastest, time_s = collectives.fastest(processes, elements, model)
        least_bytes = ELEMENT_BYTES * collectives.lower_bound(processes, elements)
        rows = [
            {"algorithm": name, "steps": cost.steps, "most sent by one": max(cost.bytes_sent(ELEMENT_BYTES)),
             "sent by all": ELEMENT_BYTES * cost.total, "time": cost.time_s(model),
             "over the fastest": cost.time_s(model) / time_s if time_s else None}
            for name, cost in costs.items()
        ]  # fmt: skip
        waiting = costs[fastest].steps * model.latency_s / time_s if time_s else 0.0
        said = (
            f"{quantity(ELEMENT_BYTES * elements, 'B')} among {processes} over {link} "
            f"({seconds(model.latency_s)} + bytes ÷ {quantity(model.bytes_per_s, 'B/s')}): {fastest} is the fastest, "
            f"{seconds(time_s)}, of which {waiting:.0%} are latency. One process has to send at least "
            f"{quantity(least_bytes, 'B')}."
        )
        found = {"fastest": fastest, "time": time_s, "latency's share": waiting, "least bytes": least_bytes}

        def draw():
            figure, axes = plots.subplots(figsize=(7.0, 4.0))
            lines = {}
            for name in collectives.ALGORITHMS:
                lines[name] = [collectives.cost(name, processes, n).time_s(model) for n in sizes]
                axes.plot([ELEMENT_BYTES * n for n in sizes], lines[name], label=name)
            axes.plot(ELEMENT_BYTES * elements, time_s, "o", color=plots.COLORS["black"])
            axes.set(xscale="log", yscale="log", xlabel="array (bytes)", ylabel="time of an all-reduce (s)")
            axes.legend(fontsize=8)
            ends = "; ".join(f"{name} {seconds(t[0])} to {seconds(t[-1])}" for name, t in lines.items())
            return figure, (
                f"Time of an all-reduce among {processes} processes over {link}, from {ELEMENT_BYTES * sizes[0]} to "
                f"{quantity(ELEMENT_BYTES * sizes[-1], 'B')}: {ends}. The setting, {fastest}: {seconds(time_s)}."
            )

        return Answer(said, found, rows, draw)

    knobs = (
        Knob("link", "link", tuple(known), start=next(iter(known))),
        Knob("processes", "processes", (2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256), start=8),
        Knob("elements", "elements", sizes, start=10**6),
    )
    units = {"most sent by one": "B", "sent by all": "B", "time": "s", "over the fastest": "×", "latency's share": "%",
             "least bytes": "B"}  # fmt: skip
    return Explorer("How long does it take until all have the sum?", knobs, answer, units)


def systolic() -> Explorer:
    """When a systolic array idles: knobs for its side, what stays in its cells, and the sizes of the product.

    The product is really done, cycle by cycle (`systolic.multiply`), so the array of the figure is a small one; the
    table has larger ones by the closed form.

    >>> systolic().at(side=4, m=1, k=4, n=4).found["cycles"]
    11
    """

    def answer(side: int, dataflow: str, m: int, k: int, n: int) -> Answer:
        array = Array(side, side, dataflow)
        cycles, busy = array.cycles(m, k, n), array.utilization(m, k, n)
        rows = [
            {"side": s, "dataflow": flow, "folds": a.folds(m, k, n), "cycles": a.cycles(m, k, n),
             "utilisation": a.utilization(m, k, n), "empty cells": a.padding(m, k, n)}
            for s in sorted({side, 4, 8, 16, 128, 256})
            for flow in DATAFLOWS
            for a in [Array(s, s, flow)]
        ]  # fmt: skip
        said = (
            f"({m} × {k}) by ({k} × {n}) on {side} × {side} cells, {dataflow}: {array.folds(m, k, n)} folds, {cycles} "
            f"cycles, in which the cells work {busy:.1%} of the time; {array.padding(m, k, n):.1%} of the grid has "
            f"nothing to do at all. Without a wait it would be {-(-m * k * n // array.cells)} cycles."
        )
        found = {"folds": array.folds(m, k, n), "cycles": cycles, "utilisation": busy,
                 "empty cells": array.padding(m, k, n)}  # fmt: skip

        def draw():
            run = multiply(array, np.ones((m, k), int), np.ones((k, n), int))
            figure, axes = plots.subplots(figsize=(7.0, 3.0))
            axes.step(range(run.cycles), run.busy, where="post")
            axes.axhline(array.cells, ls="--", color=plots.COLORS["black"], lw=0.8, label="all cells")
            axes.set(xlabel="cycle", ylabel="cells that work", ylim=(0, 1.1 * array.cells))
            axes.legend(fontsize=8)
            return figure, (
                f"Cells at work in each of {run.cycles} cycles, of {array.cells}: at most {run.busy.max()}, "
                f"{run.busy.mean():.3g} in the mean, none in {int((run.busy == 0).sum())} cycles."
            )

        return Answer(said, found, rows, draw)

    sizes = (1, 4, 8, 9, 16, 17, 32, 64)
    knobs = (
        Knob("side", "side of the grid", (4, 8, 16), start=8),
        Knob("dataflow", "what stays", DATAFLOWS, start=DATAFLOWS[0]),
        Knob("m", "rows of A", sizes, start=1),
        Knob("k", "columns of A", sizes, start=16),
        Knob("n", "columns of B", sizes, start=16),
    )
    return Explorer("When does a systolic array idle?", knobs, answer, {"utilisation": "%", "empty cells": "%"})
