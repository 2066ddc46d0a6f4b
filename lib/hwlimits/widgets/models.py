"""Explorers of what is done to a model: zeros, bits, workers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from functools import cache

import numpy as np

from hwlimits import calibration, data, parallel, plots, quantization, storage
from hwlimits.roofline import Roofline
from hwlimits.units import quantity
from hwlimits.widgets.explorer import Answer, Explorer, Knob, WidgetError

PIXEL_BYTES = 4  # that the sparse float32 kernel reads for each weight that is left
RANGES = ("min and max", "99.9 %", "least error")
SCALES = ("one", "one for each channel")


@cache
def measured_times() -> tuple[tuple[tuple[float, float], ...], str]:
    """Stored measurements of sparse layers: (share of zeros, time in times of the dense kernel), and the processor.

    The 13 pointwise layers of MobileNetV1 beside LiteRT's dense kernels, one thread: `make bench`.
    """
    table = data.path("results/kernels.csv")
    with open(table, encoding="utf-8", newline="") as stored:
        rows = [r for r in csv.DictReader(stored) if "MobileNetV1's pointwise layers" in r["kernel"]]
    made = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))["provenance"]["compression"]
    times = [(int(re.search(r"(\d+) % zeros", r["kernel"])[1]) / 100, 1 / float(r["ratio"])) for r in rows]
    return tuple(sorted(times)), made["machine"]["cpu"]


def sparsity(here: Roofline | None = None, level: str | None = None) -> Explorer:
    """How many zeros until a layer's weights are smaller, and until it is faster: knobs for zeros, width and format.

    here    a float32 roofline of this computer with its levels of memory: machine.card().roofline("fp32"). With it
            there is chapter 04's prediction beside the stored measurements: the dense kernel at the peak, the sparse
            one reading a pixel for each weight that is left from `level` (None: the second one, as there).

    Raises WidgetError for a `here` that is no Roofline or has no second level, RooflineError for an unknown level.

    >>> sparsity().at(zeros=0.9, width=1024, form="int8").found["bitmap"]
    235930
    """
    if here is not None and not isinstance(here, Roofline):
        raise WidgetError(f'sparsity(here={here!r}): give a Roofline, such as machine.card().roofline("fp32")')
    if here is not None and level is None:
        if len(here.bandwidths) < 2:
            raise WidgetError(
                f"sparsity: roofline {here.name!r} has one level of memory; say which is meant, level=..."
            )
        level = list(here.bandwidths)[1]
    per_mac = None  # of the sparse kernel, in times of the dense one
    if here is not None:
        both = here.times_s(flops=2, level_bytes={level: PIXEL_BYTES})
        per_mac = both[level] / both["compute"]
    times, cpu = measured_times()
    stored_zeros, stored = zip(*times, strict=True)
    break_even = float(np.interp(-1.0, [-t for t in stored], stored_zeros))

    def speed(zeros: float) -> tuple[float | None, float | None]:
        """Speed-up over dense: from the card, and between the stored measurements (none beyond them)."""
        inside = stored_zeros[0] <= zeros <= stored_zeros[-1]
        measured = 1 / float(np.interp(zeros, stored_zeros, stored)) if inside else None
        predicted = 1 / (per_mac * (1 - zeros)) if per_mac and zeros < 1 else None
        return predicted, measured

    def sizes(zeros: float, width: int, form: str) -> dict[str, int]:
        nonzero = width * width - round(zeros * width * width)
        return {
            "dense": storage.at_rest_bytes(width * width, form),
            "bitmap": storage.bitmap_bytes(width * width, nonzero, form),
            "CSR": storage.csr_bytes(width, width, nonzero, form),
        }

    def row(zeros: float, width: int, form: str) -> dict:
        predicted, measured = speed(zeros)
        more = {"speed-up, from the card": predicted} if here else {}
        return {"zeros": zeros, **sizes(zeros, width, form), **more, "speed-up, measured": measured}

    def answer(zeros: float, width: int, form: str) -> Answer:
        if not 0 <= zeros <= 1:
            raise WidgetError(f"sparsity: zeros={zeros}; a share is from 0 to 1")
        size = sizes(zeros, width, form)
        least = min(size, key=size.get)
        predicted, measured = speed(zeros)
        density = {sparse: storage.break_even_density(form, sparse) for sparse in ("bitmap", "csr")}
        said = (
            f"{zeros:.0%} zeros in {width} × {width} {form} weights: {least} is the smallest form, "
            f"{quantity(size[least], 'B')} of {quantity(size['dense'], 'B')}. A bitmap pays from "
            f"{1 - density['bitmap']:.0%} zeros on, CSR from {1 - density['csr']:.0%}. "
        )
        said += (
            f"Speed in float32, measured on {cpu}: {measured:.2f} times the dense kernel's"
            if measured
            else f"Speed in float32 was measured on {cpu} from {stored_zeros[0]:.0%} to {stored_zeros[-1]:.0%} zeros"
        )
        said += f"; skipping pays from {break_even:.0%} on."
        if here:
            said += f" From the card of this computer: from {max(0.0, 1 - 1 / per_mac):.0%} on."
        found = row(zeros, width, form)
        found |= {f"{name} pays from": 1 - density[sparse] for name, sparse in (("a bitmap", "bitmap"), ("CSR", "csr"))}
        return Answer(said, found, [row(z, width, form) for z in rows_at], lambda: draw(zeros))

    def draw(zeros: float):
        figure, axes = plots.subplots(figsize=(6.5, 3.6))
        axes.plot(stored_zeros, stored, "o-", label=f"measured, {cpu}")
        if per_mac:
            axes.plot([0, 1], [per_mac, 0], "--", label="from the card of this computer")
        axes.axhline(1, color=plots.COLORS["black"], lw=0.8)
        axes.axvline(zeros, color=plots.COLORS["vermilion"], ls=":", label="the setting")
        axes.set(xlabel="share of zeros", ylabel="time, sparse ÷ dense", xlim=(0, 1), ylim=0)
        axes.legend(fontsize=8)
        listed = ", ".join(f"{t:.2f} at {z:.0%}" for z, t in times)
        card = f" From the card: {per_mac:.2f} without zeros, on a straight line to 0." if per_mac else ""
        return figure, f"Time of a sparse layer over the dense one's, by its zeros. Measured on {cpu}: {listed}.{card}"

    shares = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
    rows_at = sorted({*shares, *stored_zeros})
    knobs = (
        Knob("zeros", "zeros", shares, start=0.9, unit="%"),
        Knob("width", "width", (128, 256, 512, 1024, 2048, 4096), start=1024),
        Knob("form", "format", ("float32", "float16", "int8", "int4"), start="float32"),
    )
    units = dict.fromkeys(("dense", "bitmap", "CSR"), "B")
    units |= dict.fromkeys(("speed-up, from the card", "speed-up, measured"), "×")
    units |= dict.fromkeys(("a bitmap pays from", "CSR pays from"), "%")
    return Explorer("Who notices a zero?", knobs, answer, units)


def bits(weights: Mapping[str, np.ndarray] | None = None) -> Explorer:
    """What numbers lose in few bits: knobs for bits, the numbers, the range that codes span, and the scales.

    weights   name -> array with its channels along the last axis. None: three made-up ones, 16 channels of 512:
              of a bell curve, with a long tail (Student's t of 3 degrees), and with channels of different widths

    Codes are symmetric (`quantization.symmetric`). Raises WidgetError for no array, or one without channels.

    >>> bits().at(bits=8).found["error, as expected"] < bits().at(bits=4).found["error, as expected"]
    False
    """
    known = _arrays(weights)

    def one(bits: int, numbers: str, range: str, scales: str) -> dict:
        x = known[numbers]
        codes = _codes(x, bits, range, scales)
        back = quantization.fake_quantize(x, codes)
        rms = float(np.sqrt(np.mean(x.astype(float) ** 2)))
        plain = range == RANGES[0] and scales == SCALES[0]
        packed = {size: name for name, size in storage.FORMATS.items() if name.startswith("int")}
        channels = x.shape[-1] if scales == SCALES[1] else 1
        return {
            "error, as expected": quantization.uniform_sqnr_db(bits, float(np.abs(x).max()) / rms) if plain else None,
            "error, found": quantization.sqnr_db(x, back),
            "largest step": float(np.max(codes.scale)),
            "clipped": float(np.mean((x > codes.high + codes.scale / 2) | (x < codes.low - codes.scale / 2))),
            "bytes": storage.at_rest_bytes(x.size, packed[bits], scales=channels) if bits in packed else None,
        }

    def answer(bits: int, numbers: str, range: str, scales: str) -> Answer:
        found = one(bits, numbers, range, scales)
        expected = found["error, as expected"]
        said = (
            f"{numbers} in {bits} bits, range by {range}, scale: {scales}. The numbers are "
            f"{found['error, found']:.1f} dB above the error"
            + (f"; {expected:.1f} were to be expected of a step this wide. " if expected is not None else ". ")
            + f"{found['clipped']:.2%} of them lie outside of the codes."
        )
        at = sorted({*counts, bits})
        rows = [{"bits": str(b), **one(b, numbers, range, scales)} for b in at]

        def draw():
            figure, axes = plots.subplots(figsize=(6.5, 3.6))
            axes.plot(at, [r["error, found"] for r in rows], "o-", label="found")
            if expected is not None:
                axes.plot(at, [r["error, as expected"] for r in rows], "--", label="expected: 6 dB a bit")
            axes.plot(bits, found["error, found"], "s", ms=9, mfc="none", color=plots.COLORS["black"])
            axes.set(xlabel="bits", ylabel="numbers over error (dB)")
            axes.legend(fontsize=8)
            listed = ", ".join(f"{r['error, found']:.1f} with {r['bits']} bits" for r in rows)
            return figure, f"Decibels between numbers and the error of their codes, {numbers}: {listed}."

        return Answer(said, found, rows, draw)

    counts = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
    knobs = (
        Knob("bits", "bits", counts, start=8),
        Knob("numbers", "numbers", tuple(known), start=next(iter(known))),
        Knob("range", "range", RANGES, start=RANGES[0]),
        Knob("scales", "scale", SCALES, start=SCALES[0]),
    )
    units = {"error, as expected": "dB", "error, found": "dB", "clipped": "%", "bytes": "B"}
    return Explorer("What does a number lose?", knobs, answer, units)


def _arrays(weights) -> dict[str, np.ndarray]:
    if weights is None:
        random, widths = np.random.default_rng(0), np.geomspace(1 / 8, 8, 16)
        bell = random.standard_normal((512, 16))
        return {"a bell curve": bell, "a long tail": random.standard_t(3, (512, 16)),
                "channels that differ": bell * widths}  # fmt: skip
    arrays = {name: np.asarray(array) for name, array in dict(weights).items()}
    for name, array in arrays.items():
        if array.ndim < 2 or not array.any() or not np.issubdtype(array.dtype, np.floating):
            raise WidgetError(
                f"bits: {name!r} has the shape {array.shape} of {array.dtype}; floats with channels along the last "
                "axis are needed, not all of them 0"
            )
    if len(arrays) < 2:
        raise WidgetError(f"bits: {len(arrays)} arrays; a knob needs two to choose from")
    return {name: array.reshape(-1, array.shape[-1]) for name, array in arrays.items()}


def _codes(x: np.ndarray, bits: int, range: str, scales: str) -> quantization.Quantization:
    """Symmetric codes for what lies along the last axis of x (numbers, channels), over one of RANGES."""

    def magnitude(values: np.ndarray) -> float:
        if range == RANGES[1]:
            return max(map(abs, calibration.percentile(values, 99.9)))
        if range == RANGES[2]:
            return max(map(abs, calibration.mean_square_error(values, bits, symmetric=True)))
        return max(map(abs, calibration.min_max(values)))

    if scales == SCALES[0]:
        return quantization.symmetric(magnitude(x), bits)
    return quantization.symmetric(np.array([magnitude(column) for column in x.T]), bits, axis=1)


def speedup() -> Explorer:
    """Amdahl's law, Gustafson's, and the one with what workers cost each other: knobs for the three numbers.

    >>> speedup().at(serial=0.5, workers=4096).found["Amdahl's end"]
    2.0
    """

    def one(serial: float, workers: int, coherency: float) -> dict:
        fixed = parallel.amdahl(workers, serial)
        return {
            "Amdahl": fixed, "Gustafson": parallel.gustafson(workers, serial),
            "USL": parallel.usl(workers, serial, coherency), "efficiency": fixed / workers,
        }  # fmt: skip

    def answer(serial: float, workers: int, coherency: float) -> Answer:
        found = one(serial, workers, coherency)
        peak = parallel.usl_peak(serial, coherency)
        found |= {"Amdahl's end": 1 / serial if serial else float("inf"), "USL's peak": peak}
        said = (
            f"{serial:.1%} serial, {workers} workers. The same problem: {found['Amdahl']:.3g} times as fast (Amdahl), "
            + (f"and never more than {1 / serial:.3g}. " if serial else "without an end. ")
            + f"A problem that grows with them, {serial:.1%} of the parallel time serial: {found['Gustafson']:.4g} "
            f"(Gustafson). "
            + (
                f"With workers that cost each other, {found['USL']:.3g}; more than {peak:.0f} make it slower."
                if coherency
                else "Workers cost each other nothing."
            )
        )
        rows = [{"workers": p, **one(serial, p, coherency)} for p in sorted({*counts, workers})]

        def draw():
            figure, axes = plots.subplots(figsize=(6.5, 4.0))
            xs = [r["workers"] for r in rows]
            for name, style in (("Gustafson", "-"), ("Amdahl", "-"), ("USL", "--")):
                axes.plot(xs, [r[name] for r in rows], style, label=name)
                axes.plot(workers, found[name], "o", color=plots.COLORS["black"], ms=4)
            axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="speed-up")
            axes.legend(fontsize=8)
            ends = "; ".join(f"{name} {found[name]:.3g}" for name in ("Amdahl", "Gustafson", "USL"))
            return figure, (
                f"Speed-up over 1 to {xs[-1]} workers with a serial share of {serial:.1%}. At {workers}: {ends}. "
                f"At {xs[-1]}: " + "; ".join(f"{n} {rows[-1][n]:.3g}" for n in ("Amdahl", "Gustafson", "USL")) + "."
            )

        return Answer(said, found, rows, draw)

    counts = tuple(2**i for i in range(13))
    knobs = (
        Knob("serial", "serial share", (0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5), start=0.05, unit="%"),
        Knob("workers", "workers", counts, start=16),
        Knob("coherency", "cost of each pair", (0.0, 1e-6, 1e-5, 1e-4, 1e-3), start=1e-4),
    )
    units = dict.fromkeys(("Amdahl", "Gustafson", "USL", "Amdahl's end"), "×") | {"efficiency": "%"}
    return Explorer("Where does it end?", knobs, answer, units)
