"""Counters of a GPU's profiler: launches found by the empty kernel before them; what an H100 counted, and measured."""

import json

import pytest

from hwlimits import data, devices
from hwlimits.kernels import gpu_counters

NAME = "gpu_nvidia-h100-80gb-hbm3"


def profile(launches):
    """ncu's CSV of launches: (function, {metric: (unit, value)})."""
    lines = ["==PROF== Connected to process 7", '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"']
    for number, (function, values) in enumerate(launches):
        for metric in gpu_counters.METRICS:
            unit, value = values.get(metric, ("", "0"))
            lines.append(f'"{number}","{function}","{metric}","{unit}","{value}"')
    return "\n".join(lines) + "\n"


def launch(function, requests, sectors, time, occupancy, unit="ns"):
    sectors_name, requests_name = list(gpu_counters.METRICS)[:2]
    return function, {
        sectors_name: ("sector", sectors), requests_name: ("request", requests),
        "gpu__time_duration.sum": (unit, time), "dram__bytes_read.sum": ("Kbyte", "1.5"),
        "sm__warps_active.avg.pct_of_peak_sustained_active": ("%", occupancy),
    }  # fmt: skip


def test_launches_of_a_stage_are_added_and_its_longest_tells_the_occupancy():
    text = profile([
        ("empty[abi](int)", {}), launch("one", "1,000", "4,000", "900", "50.5"),
        ("empty[abi](int)", {}), launch("two", "10", "320", "2", "20", "us"), launch("three", "30", "960", "500", "90"),
    ])  # fmt: skip
    one, two = gpu_counters.read(text, [("copy", "a"), ("sum", "b")])
    assert (one["kernel"], one["stage"], one["launches"]) == ("copy", "a", 1)
    assert one["load_sectors_per_request"] == 4
    assert one["store_sectors_per_request"] is None
    assert (one["occupancy_percent"], one["dram_read_bytes"]) == (50.5, 1500)
    assert (two["launches"], two["load_sectors_per_request"], two["time_ns"]) == (2, 32, 2500)
    assert two["occupancy_percent"] == 20
    with pytest.raises(ValueError, match="^the profile has 2 stages, and 1 were run$"):
        gpu_counters.read(text, [("copy", "a")])


@pytest.fixture(scope="module")
def measured():
    found = json.loads(data.path(f"results/{NAME}.json").read_text(encoding="utf-8"))
    assert found["failures"] == []
    return {(r["kernel"], r["stage"], str(r["size"])): r for r in found["rows"]}


@pytest.mark.parametrize(
    ("kernel", "stage", "size", "least"),
    [("triad", "vector", "67108864", 0.90), ("bias_relu", "vector", "[8192, 8192]", 0.85),
     ("product", "vector_tiles", "4096", 0.5), ("product", "vector_tiles", "8192", 0.5)],
)  # fmt: skip
def test_the_targets_are_met_on_an_h100(measured, kernel, stage, size, least):
    row = measured[kernel, stage, size]
    assert row["share_low"] >= least
    assert not row["void"]


def test_the_measured_peak_and_bandwidth_are_below_the_published_ones_and_near(measured):
    h100 = devices.device("h100-sxm")
    peak = max(row["flops_per_s"] for (kernel, *_), row in measured.items() if kernel == "roofline")
    assert 0.9 < peak / h100.peak_flops_per_s("fp32") < 1
    triad = measured["triad", "vector", "67108864"]["bytes_per_s"]
    assert 0.85 < triad / h100.memory_bytes_per_s < 1


@pytest.fixture(scope="module")
def counted():
    found = json.loads(data.path(f"results/{NAME}_counters.json").read_text(encoding="utf-8"))
    return {(r["kernel"], r["stage"]): r for r in found["rows"]}


def test_each_stage_fixed_what_it_says(counted):
    def of(name, *where):
        return counted[where][name]

    assert of("load_sectors_per_request", "copy", "strided") == 32  # a place of its own for each of 32 threads
    assert of("load_sectors_per_request", "copy", "coalesced") == 4  # 32 floats in a row
    assert of("load_sectors_per_request", "copy", "vector") == 16  # four times as many, in a quarter of the requests
    assert of("store_sectors_per_request", "transpose", "naive") == 32
    assert of("store_sectors_per_request", "transpose", "shared") == 4
    assert of("shared_load_conflicts", "transpose", "padded") < of("shared_load_conflicts", "transpose", "shared") / 100
    two, fused = (of("dram_read_bytes", "bias_relu", s) for s in ("two_kernels", "fused"))
    assert 1.9 < two / fused < 2.1
    assert of("instructions", "product", "vector_tiles") < of("instructions", "product", "naive") / 20
