"""The roofline's properties on a grid of machines, hand calculations, and what its plot shows and says."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text

from hwlimits import plots
from hwlimits.compute import Cost
from hwlimits.roofline import Roofline, RooflineError

MACHINES = [
    Roofline(f"peak {peak:g}, {bandwidth:g}", peak, {"near": 8 * bandwidth, "middle": 3 * bandwidth, "far": bandwidth})
    for peak, bandwidth in itertools.product((1e6, 6.4e7, 9.56e10, 1.979e15), (4e6, 2.2e10, 8e12))
]
INTENSITIES = np.geomspace(1e-4, 1e8, 241)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize("level", ["near", "middle", "far", None])
class TestProperties:
    def test_attainable_is_never_above_peak_nor_above_what_memory_feeds(self, machine, level):
        attainable = machine.attainable_flops_per_s(INTENSITIES, level)
        assert (attainable <= machine.peak_flops_per_s).all()
        assert (attainable <= machine.bandwidth(level) * INTENSITIES).all()
        assert np.isclose(attainable, machine.peak_flops_per_s).any() or machine.ridge_point(level) > 1e8

    def test_attainable_never_falls_and_has_no_jump_at_the_ridge(self, machine, level):
        assert (np.diff(machine.attainable_flops_per_s(INTENSITIES, level)) >= 0).all()
        ridge = machine.ridge_point(level)
        around = machine.attainable_flops_per_s([ridge * (1 - 1e-9), ridge, ridge * (1 + 1e-9)], level)
        np.testing.assert_allclose(around, machine.peak_flops_per_s, rtol=1e-8)

    def test_the_ridge_is_peak_over_bandwidth(self, machine, level):
        assert machine.ridge_point(level) * machine.bandwidth(level) == pytest.approx(machine.peak_flops_per_s)

    def test_a_time_is_the_work_over_the_attainable_rate(self, machine, level):
        for macs, read in ((10**9, 10**3), (10**6, 10**9), (5, 10)):
            cost = Cost(macs=macs, bytes_read=read)
            time_s = machine.time_s(cost, level)
            assert time_s == pytest.approx(cost.flops / machine.attainable_flops_per_s(cost.intensity, level))
            assert machine.bound(cost, level) == (
                "compute" if cost.intensity >= machine.ridge_point(level) else "memory"
            )


def test_a_nearer_level_is_never_slower():
    for machine in MACHINES:
        near, far = (machine.attainable_flops_per_s(INTENSITIES, level) for level in ("near", "far"))
        assert (near >= far).all()


def test_by_hand():
    """10 GFLOP/s, 4 GB/s: the ridge lies at 2.5 FLOP/byte; at 0.5 there are 2 GFLOP/s."""
    machine = Roofline("small", 1e10, {"cache": 2e10, "memory": 4e9})
    assert machine.ridge_point() == 2.5
    assert machine.ridge_point("cache") == 0.5
    assert machine.attainable_flops_per_s(0.5) == 2e9
    assert isinstance(machine.attainable_flops_per_s(0.5), float)
    add = Cost(other_flops=10**6, bytes_read=8 * 10**6, bytes_written=4 * 10**6)  # float32 a + b
    assert machine.time_s(add) == pytest.approx(3e-3)
    assert machine.bound(add) == "memory"
    assert machine.time_s(Cost(bytes_read=4 * 10**9)) == 1.0, "what only moves takes the time that moving takes"
    assert machine.bound(Cost(other_flops=25, bytes_read=10)) == "compute", "on the ridge point itself"


def test_each_level_has_its_time_and_the_longest_one_bounds():
    machine = Roofline("small", 1e10, {"cache": 2e10, "memory": 4e9})
    times_s = machine.times_s(5e9, {"cache": 1.6e10, "memory": 1e9})
    assert times_s == {"compute": 0.5, "cache": 0.8, "memory": 0.25}
    assert max(times_s, key=times_s.get) == "cache"
    with pytest.raises(RooflineError, match="roofline 'small' has no level 'L2'; it has cache, memory"):
        machine.times_s(1, {"L2": 1})


class Published:
    """Stands for a device of the registry."""

    title = "Board 1"
    memory_bytes_per_s = 3e11

    def peak_flops_per_s(self, precision):
        return {"fp32": 6e12, "fp16": 6e13}[precision]


def test_a_device_s_roofline_has_its_published_numbers():
    found = Roofline.of_device(Published(), "fp16")
    assert found.name == "Board 1, fp16"
    assert found.ridge_point() == 200
    assert found.attainable_flops_per_s(10) == 3e12
    assert found.time_s(Cost(macs=3 * 10**13, bytes_read=3 * 10**10)) == 1.0


def test_every_device_of_the_registry_by_hand():
    devices = pytest.importorskip("hwlimits.devices")
    checked = 0
    for device, precision in ((d, p) for d in devices.devices() for p in d.precisions):
        try:
            bandwidth, peak = device.memory_bytes_per_s, device.peak_flops_per_s(precision)
        except devices.DeviceError:
            continue
        found = Roofline.of_device(device, precision)
        assert found.ridge_point() == pytest.approx(peak / bandwidth)
        assert found.ridge_point() == pytest.approx(device.ridge_point(precision))
        assert found.attainable_flops_per_s(0.25) == pytest.approx(min(peak, bandwidth / 4))
        checked += 1
    assert checked > 60


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1e9, {}), "roofline 'x' needs the bandwidth of at least one level of memory"),
        ((0, {"DRAM": 1}), "roofline 'x': peak is 0; it must be a number above 0"),
        ((1e9, {"DRAM": -2}), "roofline 'x': DRAM is -2"),
        ((1e9, {"DRAM": float("nan")}), "roofline 'x': DRAM is nan"),
        ((float("inf"), {"DRAM": 1}), "roofline 'x': peak is inf"),
    ],
)
def test_what_is_no_machine_is_refused(arguments, text):
    with pytest.raises(RooflineError, match=text):
        Roofline("x", *arguments)


def test_a_level_that_is_not_there_is_named():
    with pytest.raises(RooflineError, match="no level 'L9'; it has near, middle, far"):
        MACHINES[0].ridge_point("L9")


def test_bandwidths_can_t_be_changed_afterwards():
    with pytest.raises(TypeError):
        MACHINES[0].bandwidths["far"] = 1


LAPTOP = Roofline("laptop, fp32", 9.5e10, {"L1": 3e11, "L2": 1.3e11, "L3": 6e10, "DRAM": 2.2e10})
CROWD = [(f"layer {i}", 0.2 * 1.04**i, 3e9 * 1.03**i) for i in range(9)] + [
    ("conv", 35.0, 8.1e10),
    ("again", 35.0, 8e10),
]


def test_the_plot_draws_every_line_where_it_belongs():
    figure, _ = plots.roofline(LAPTOP, CROWD)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "arithmetic intensity (FLOP/byte)"
    assert axes.get_ylabel() == "performance (FLOP/s)"
    roofs = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(roofs) == 4
    for level, line in zip(LAPTOP.bandwidths, roofs, strict=True):
        assert level in line.get_label()
        for x, y in line.get_xydata():
            assert y == pytest.approx(min(LAPTOP.peak_flops_per_s, x * LAPTOP.bandwidths[level]))
    assert len({line.get_linestyle() for line in roofs}) == 4, "lines differ without colour"
    dots = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [(x, y) for _, x, y in CROWD]
    plt.close(figure)


def test_labels_cover_neither_each_other_nor_points_and_the_legend_nothing():
    figure, _ = plots.roofline(LAPTOP, CROWD)
    (axes,) = figure.axes
    figure.canvas.draw()
    labels = [t for t in axes.texts if t.get_text() in {name for name, _, _ in CROWD}]
    assert len(labels) == len(CROWD)
    boxes = [Text.get_window_extent(label) for label in labels]  # the words, without the line to the point
    for (i, a), (j, b) in itertools.combinations(enumerate(boxes), 2):
        assert not a.overlaps(b), f"{labels[i].get_text()} covers {labels[j].get_text()}"
    (legend,), inside = figure.legends, axes.get_window_extent()
    assert not legend.get_window_extent().overlaps(inside)
    points = [axes.transData.transform((x, y)) for _, x, y in CROWD]
    for label, box in zip(labels, boxes, strict=True):
        assert not any(box.contains(*point) for point in points), label.get_text()
        assert inside.containsx(box.x0)
        assert inside.containsx(box.x1)
        assert inside.containsy(box.y0)
        assert inside.containsy(box.y1)
    plt.close(figure)


def test_the_text_for_those_who_can_t_see_it_has_the_numbers():
    figure, alt = plots.roofline([LAPTOP, Roofline("board", 8.1e12, {"memory": 3e11})], [("conv", 35.0, 8.1e10)])
    plt.close(figure)
    for words in (
        "laptop, fp32: peak 95 GFLOP/s; L1 at 300 GB/s with its ridge point at 0.317 FLOP/byte",
        "DRAM at 22 GB/s with its ridge point at 4.32 FLOP/byte",
        "board: peak 8.1 TFLOP/s; memory at 300 GB/s with its ridge point at 27 FLOP/byte.",
        "conv: 81 GFLOP/s at 35 FLOP/byte.",
    ):
        assert words in alt


def test_machines_differ_in_colours_of_the_safe_palette():
    figure, _ = plots.roofline([LAPTOP, *MACHINES[:2]])
    colors = {line.get_color() for line in figure.axes[0].lines}
    assert len(colors) == 3
    assert colors <= set(plots.COLORS.values())
    plt.close(figure)


@pytest.mark.parametrize("point", [("pad", 0.0, 1e9), ("pad", 1.0, 0.0), ("pad", float("nan"), 1.0)])
def test_a_point_without_a_place_is_refused(point):
    with pytest.raises(ValueError, match=r"point 'pad' \(.*\) has no place on logarithmic axes"):
        plots.roofline(LAPTOP, [point])
