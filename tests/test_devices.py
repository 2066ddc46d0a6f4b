"""The registry: complete, sourced, derived right, physically possible; and no hardware figure typed anywhere else."""

import ast
import doctest
import io
import math
import operator
import re
import subprocess
import sys
import tokenize
from dataclasses import FrozenInstanceError, replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from hwlimits import devices as registry
from hwlimits.devices import DeviceError, device, devices, link, links

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "data" / "devices.yaml").read_text()
RAW = yaml.safe_load(TEXT)  # read a second way: here 3.35e12 is text, and float() below makes it a number
DEVICES, LINKS = devices(), links()
GROUPS = ("peaks", "memory", "caches")


def ids(entry):
    return entry.name


def raw_numbers(entry: dict) -> dict[str, dict]:
    """The mappings with a value of a raw entry, by their dotted field."""
    found = {key: value for key, value in entry.items() if isinstance(value, dict) and "value" in value}
    for group in GROUPS:
        found |= {f"{group}.{k}": v for k, v in entry.get(group, {}).items() if isinstance(v, dict) and "value" in v}
    return found


EVERY = [
    (f"{name}: {field}", number)
    for part in ("devices", "links")
    for name, entry in RAW[part].items()
    for field, number in raw_numbers(entry).items()
]


# ---------------------------------------------------------------- complete and sourced

REQUIRED = """
t4 l4 p100-pcie p100-sxm2 v100-pcie v100-sxm2 a100-40gb-pcie a100-40gb-sxm a100-80gb-pcie a100-80gb-sxm h100-pcie
h100-sxm h200-sxm b200 rtx-4090 jetson-orin-nano jetson-agx-orin tpu-v2 tpu-v3 tpu-v4 tpu-v5e tpu-v5p tpu-v6e tpu7x
coral-edge-tpu raspberry-pi-4 raspberry-pi-5 apple-m1 apple-m2 apple-m3 apple-m4
"""
REQUIRED_LINKS = """
pcie-3-x16 pcie-4-x16 pcie-5-x16 nvlink-3 nvlink-4 nvlink-5 ethernet-1g ethernet-10g ethernet-25g ethernet-100g
infiniband-hdr infiniband-ndr ici-v3 ici-v4 ici-v5e ici-v5p ici-v6e
"""


def test_what_learners_and_their_employers_meet_is_there():
    assert len(DEVICES) >= 60
    assert not set(REQUIRED.split()) - {d.name for d in DEVICES}
    assert not set(REQUIRED_LINKS.split()) - {k.name for k in LINKS}
    for kind, at_least in {"laptop-cpu": 3, "server-cpu": 4, "microcontroller": 4, "gpu": 15, "soc": 4}.items():
        assert len(devices(kind)) >= at_least, kind
    text = " ".join(d.title + d.note for d in devices("microcontroller"))
    assert "Cortex-M4" in text
    assert "Cortex-M7" in text


@pytest.mark.parametrize("entry", DEVICES, ids=ids)
def test_a_device_is_complete(entry):
    assert entry.title
    assert entry.kind in registry.DEVICE_KINDS
    assert 2005 <= entry.year <= 2026
    for field in registry.REQUIRED:
        there = [key for key in entry.numbers if key == field or key.startswith(field + ".")]
        reason = entry.absent.get(field, "")
        assert bool(there) != (len(reason) > 10), f"{field}: either a number or a reason, not both"
    assert set(entry.absent) <= set(registry.REQUIRED)
    for name in entry.links:
        assert link(name)
    assert entry.memory_kind or "memory.capacity" in entry.absent


@pytest.mark.parametrize(("where", "number"), EVERY, ids=[where for where, _ in EVERY])
def test_a_number_says_unit_source_and_what_it_is(where, number):
    field = where.split(": ")[1]
    assert float(number["value"]) > 0
    assert str(number["unit"]) in registry.UNITS
    keys = number["source"] if isinstance(number["source"], list) else [number["source"]]
    assert keys
    assert all(key in RAW["sources"] for key in keys)
    assert (number.get("dense") is True) == field.startswith("peaks.")
    if field in ("bandwidth", "total"):
        assert number["direction"] == {"bandwidth": "per direction", "total": "both directions"}[field]
    else:
        assert ("direction" in number) == (field == "lane_rate" and number["unit"] == "B/s")
    if field.startswith("peaks."):
        assert number["unit"] == ("OP/s" if re.match(r"peaks\.(int|npu)", field) else "FLOP/s")
    if field.startswith("caches."):
        assert number["per"] in ("core", "cluster", "chip")
    if field == "power":
        assert number["what"]
    assert ("inputs" in number) <= ("derived" in number), "inputs without a formula"


def test_what_the_module_gives_is_what_the_file_says():
    entries = {**{d.name: d for d in DEVICES}, **{k.name: k for k in LINKS}}
    assert set(entries) == {*RAW["devices"], *RAW["links"]}
    for part in ("devices", "links"):
        for name, entry in RAW[part].items():
            numbers = raw_numbers(entry)
            assert set(numbers) == set(entries[name].numbers), name
            for field, number in numbers.items():
                ours = entries[name].number(field)
                assert ours.value == float(number["value"])
                assert ours.unit == str(number["unit"])
                first = number["source"] if isinstance(number["source"], str) else number["source"][0]
                assert ours.source.url == RAW["sources"][first]["url"]
                assert date(2022, 1, 1) < ours.read <= date.today()


def test_every_word_of_the_format_is_used():
    """A kind, format, suffix or unit without an entry would be offered in an error, and lead nowhere."""
    assert {d.kind for d in DEVICES} == set(registry.DEVICE_KINDS)
    assert {k.kind for k in LINKS} == set(registry.LINK_KINDS)
    parts = [precision.partition("-") for d in DEVICES for precision in d.precisions]
    assert {base for base, _, _ in parts} == set(registry.FORMATS)
    assert {suffix for _, _, suffix in parts} - {""} == set(registry.SUFFIXES)
    assert {str(number["unit"]) for _, number in EVERY} == set(registry.UNITS)


def test_every_source_is_used_and_has_an_address_and_a_date():
    used = set()
    for _, number in EVERY:
        used |= {number["source"]} if isinstance(number["source"], str) else set(number["source"])
    assert used == set(RAW["sources"]), "sources that no number names"
    addresses = [source["url"] for source in RAW["sources"].values()]
    for source in RAW["sources"].values():
        assert source["title"]
        assert re.fullmatch(r"https?://[\w.-]+\.\w+(/\S*)?", source["url"])
        assert isinstance(source["read"], date)
    assert len(set(addresses)) == len(addresses), "one address under two keys"


# ---------------------------------------------------------------- derived right

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def evaluate(formula: str, inputs: dict) -> float:
    """Arithmetic over named inputs, and nothing else."""

    def value(node):
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        return float(inputs[node.id]) if isinstance(node, ast.Name) else float(ast.literal_eval(node))

    return value(ast.parse(formula, mode="eval").body)


DERIVED = [(where, number) for where, number in EVERY if "derived" in number]


@pytest.mark.parametrize(("where", "number"), DERIVED, ids=[where for where, _ in DERIVED])
def test_a_derived_number_follows_from_its_inputs(where, number):
    inputs = dict(number.get("inputs", {}))
    if "sparse" in number:
        inputs["sparse"] = number["sparse"]
    assert evaluate(number["derived"], inputs) == pytest.approx(float(number["value"]), rel=0.01)
    assert all(re.search(rf"\b{key}\b", number["derived"]) for key in number.get("inputs", {})), "an input unused"


def test_enough_is_derivable_and_a_wrong_value_is_seen():
    assert len(DERIVED) > 60
    assert evaluate("(a + 2) * b / 4 - 1", {"a": 4, "b": "1e3"}) == 1499
    wrong = evaluate("cores * clock * 2", {"cores": 16384, "clock": 2.52e9})
    assert wrong != pytest.approx(165.15e12, rel=0.01)


BUS = ("memory.bandwidth", "memory.bus_width", "memory.data_rate")
WITH_BUS = [d for d in DEVICES if set(BUS) <= set(d.numbers)]


@pytest.mark.parametrize("entry", WITH_BUS, ids=ids)
def test_bandwidth_is_bus_width_times_data_rate(entry):
    bandwidth, width, rate = (entry.number(field).value for field in BUS)
    assert width * rate / 8 == pytest.approx(bandwidth, rel=0.02)


def test_the_bus_is_known_often_enough():
    assert len(WITH_BUS) >= 20


# Multiprocessors, compute units, matrix units or cores; their clock; dense FLOP of one of them per clock: from papers
# on the architectures, a multiply-accumulate being two.
ARCHITECTURE = {
    ("p100-sxm2", "fp16"): (56, 1.48e9, 64 * 2 * 2),
    ("p100-pcie", "fp16"): (56, 1.30e9, 64 * 2 * 2),
    ("v100-sxm2", "fp16"): (80, 1.53e9, 8 * 64 * 2),
    ("v100-pcie", "fp16"): (80, 1.38e9, 8 * 64 * 2),
    ("t4", "fp16"): (40, 1.59e9, 8 * 64 * 2),
    ("t4", "int8"): (40, 1.59e9, 8 * 128 * 2),
    ("a100-40gb-sxm", "bf16"): (108, 1.41e9, 4 * 256 * 2),
    ("a100-80gb-pcie", "int8"): (108, 1.41e9, 4 * 512 * 2),
    ("a100-80gb-sxm", "tf32"): (108, 1.41e9, 4 * 128 * 2),
    ("a100-80gb-sxm", "fp64"): (108, 1.41e9, 32 * 2),
    ("a10", "fp16"): (72, 1.695e9, 4 * 128 * 2),
    ("h100-sxm", "fp16"): (132, 1.83e9, 4 * 512 * 2),
    ("h100-pcie", "fp16"): (114, 1.62e9, 4 * 512 * 2),
    ("h200-sxm", "int8"): (132, 1.83e9, 4 * 1024 * 2),
    ("l40s", "fp16"): (142, 2.52e9, 4 * 128 * 2),
    ("l4", "fp16"): (58, 2.04e9, 4 * 128 * 2),
    ("rtx-3090", "fp16"): (82, 1.695e9, 4 * 64 * 2),
    ("rtx-4090", "fp16"): (128, 2.52e9, 4 * 64 * 2),
    ("rtx-4090", "int8"): (128, 2.52e9, 4 * 256 * 2),
    ("rtx-5090", "fp16"): (170, 2.407e9, 4 * 64 * 2),
    ("rtx-5090", "int8"): (170, 2.407e9, 4 * 256 * 2),
    ("jetson-orin-nano", "int8"): (8, 0.625e9, 4 * 512 * 2),
    ("jetson-agx-orin", "int8"): (16, 1.3e9, 4 * 512 * 2),
    ("mi300x", "fp16"): (304, 2.1e9, 2048),
    ("mi300x", "fp64"): (304, 2.1e9, 128),
    ("mi250x", "fp16"): (220, 1.7e9, 1024),
    ("xeon-platinum-8380", "fp32"): (40, 2.3e9, 2 * 16 * 2),
    ("xeon-gold-6248", "int8"): (20, 2.5e9, 2 * 64 * 2),
    ("epyc-7763", "fp64"): (64, 2.45e9, 2 * 4 * 2),
    ("tpu-v2", "bf16"): (2 * 1, 0.7e9, 128 * 128 * 2),
    ("tpu-v3", "bf16"): (2 * 2, 0.94e9, 128 * 128 * 2),
    ("tpu-v4", "bf16"): (2 * 4, 1.05e9, 128 * 128 * 2),
    ("tpu-v5e", "bf16"): (1 * 4, 1.5e9, 128 * 128 * 2),
    ("tpu-v5p", "bf16"): (2 * 4, 1.75e9, 128 * 128 * 2),
}


@pytest.mark.parametrize(("name", "precision"), ARCHITECTURE, ids=lambda part: part)
def test_a_peak_is_what_the_architecture_can_do_with_dense_operands(name, precision):
    """Units x clock x operations per clock, none of it from the registry: a sparse figure would be twice this."""
    units, clock, per_clock = ARCHITECTURE[name, precision]
    assert device(name).peak_flops_per_s(precision) == pytest.approx(units * clock * per_clock, rel=0.025)


# ---------------------------------------------------------------- physically possible

# By kind of chip, the least and the most that exists or nearly exists: ridge points in FLOP/byte over all formats, main
# memory in bytes and bytes/s, power in W, and operations per joule at the fastest format.
LIMITS = {
    "laptop-cpu": ((1, 500), (4e9, 3e11), (2e10, 3e11), (5, 160), (1e9, 1e12)),
    "desktop-cpu": ((1, 200), (8e9, 3e11), (2e10, 2e11), (35, 260), (1e9, 2e11)),
    "server-cpu": ((1, 800), (3e10, 1e13), (4e10, 2e12), (60, 600), (2e9, 1e12)),
    "gpu": ((0.5, 2000), (8e9, 4e11), (1e11, 2e13), (50, 1500), (3e10, 1e13)),
    "laptop-gpu": ((5, 2000), (4e9, 3e10), (1e11, 1e12), (30, 200), (3e10, 1e13)),
    "tpu": ((30, 3000), (8e9, 4e11), (5e11, 2e13), (100, 1200), (1e11, 1e13)),
    "accelerator": ((5, 3000), (8e9, 4e11), (5e11, 2e13), (70, 1500), (3e11, 1e13)),
    "soc": ((5, 500), (4e9, 6e11), (3e10, 2e12), (5, 300), (1e10, 1e13)),
    "edge": ((0.1, 600), (1e6, 2e11), (5e8, 3e11), (0.5, 130), (1e9, 2e13)),
    "microcontroller": ((0.05, 50), (1e4, 2e7), (1e7, 1e10), (1e-3, 5), (1e8, 1e13)),
}


def out_of_limits(entry: registry.Device) -> list[str]:
    """What of a device is not possible for its kind; what it does not have is not judged."""
    peaks = [entry.peak_flops_per_s(precision) for precision in entry.precisions]
    values = {"ridge": [], "bytes": [], "rate": [], "w": [], "per_j": []}
    if "memory.bandwidth" in entry.numbers:
        values["rate"] = [entry.memory_bytes_per_s]
        values["ridge"] = [entry.ridge_point(precision) for precision in entry.precisions]
    if "memory.capacity" in entry.numbers:
        values["bytes"] = [entry.memory_bytes]
    if "power" in entry.numbers:
        values["w"] = [entry.power_w]
        values["per_j"] = [max(peaks) / entry.power_w] if peaks else []
    limits = zip(values.items(), LIMITS[entry.kind], strict=True)
    return [f"{name} {v:.4g}" for (name, found), (low, high) in limits for v in found if not low <= v <= high]


@pytest.mark.parametrize("entry", DEVICES, ids=ids)
def test_a_device_is_physically_possible(entry):
    assert out_of_limits(entry) == []


@pytest.mark.parametrize(
    ("name", "field", "factor"),
    [
        ("h100-sxm", "memory.bandwidth", 1e-3),  # GB/s taken for TB/s
        ("h100-sxm", "memory.capacity", 1e3),
        ("t4", "power", 1e-3),
        ("tpu-v4", "peaks.bf16", 1e3),
        ("apple-m2", "peaks.fp32", 1e-3),
        ("raspberry-pi-5", "memory.bandwidth", 1e3),
        ("stm32f746", "peaks.fp32", 1e3),
        ("stm32l4r5", "power", 1e3),
        ("epyc-7763", "peaks.fp64", 1e3),
    ],
)
def test_a_number_in_the_wrong_unit_is_seen(name, field, factor):
    entry = device(name)
    wrong = replace(entry.number(field), value=entry.number(field).value * factor)
    assert out_of_limits(replace(entry, numbers=entry.numbers | {field: wrong}))


@pytest.mark.parametrize("entry", DEVICES, ids=ids)
def test_caches_grow_away_from_the_core_and_are_smaller_than_memory(entry):
    sizes = [entry.number(f"caches.{level}") for level in ("L1", "L2", "L3") if f"caches.{level}" in entry.numbers]
    in_order = [number.value for number in sizes if number.per == "core"]
    assert in_order == sorted(in_order)
    for number in sizes:
        assert 1024 <= number.value < 2e9
        assert "memory.capacity" in entry.absent or number.value < entry.memory_bytes


NARROWING = [("fp64", "fp32"), ("fp32", "tf32"), ("tf32", "bf16"), ("fp32", "fp16"), ("fp32", "bf16"), ("bf16", "fp8"),
             ("fp16", "fp8"), ("fp8", "fp6"), ("fp8", "fp4"), ("fp6", "fp4"), ("bf16", "int8"), ("fp16", "int8"),
             ("fp32", "int8"), ("int16", "int8"), ("int8", "int4"), ("fp64", "fp64-matrix"), ("fp32", "fp32-matrix"),
             ("fp32", "fp16-vector"), ("fp16", "fp16-acc16"), ("fp16-vector", "fp16")]  # fmt: skip


@pytest.mark.parametrize("entry", DEVICES, ids=ids)
def test_fewer_bits_are_never_slower(entry):
    for wide, narrow in NARROWING:
        if {wide, narrow} <= set(entry.precisions):
            slow, fast = entry.peak_flops_per_s(wide), entry.peak_flops_per_s(narrow)
            assert slow <= fast * 1.001, f"{wide} {slow:.4g} is above {narrow} {fast:.4g}"
            if not {"bf16", "fp16"} - set(entry.precisions):
                assert entry.peak_flops_per_s("bf16") == entry.peak_flops_per_s("fp16")


FP16_BY_VECTOR_UNIT = ("p100-pcie", "p100-sxm2", "graviton2", "raspberry-pi-5")


@pytest.mark.parametrize("entry", DEVICES, ids=ids)
def test_the_fastest_unit_of_a_format_has_no_suffix(entry):
    """Slower units and other accumulators of a chip stand beside the plain format, never in its place."""
    for precision in entry.precisions:
        base, _, suffix = precision.partition("-")
        if suffix in ("matrix", "vector", "acc16"):
            assert base in entry.precisions, f"{precision} without {base}"
        if suffix == "vector":
            assert entry.peak_flops_per_s(precision) < entry.peak_flops_per_s(base)


def test_without_a_matrix_unit_the_vector_peak_is_the_plain_one():
    """A vector register holds twice as many fp16 as fp32: such a chip is twice as fast in fp16, no more and no less."""
    for name in FP16_BY_VECTOR_UNIT:
        entry = device(name)
        assert not [precision for precision in entry.precisions if precision.startswith("fp16-")]
        assert entry.peak_flops_per_s("fp16") == pytest.approx(2 * entry.peak_flops_per_s("fp32"), rel=0.01)


MATRIX_FORMATS = ("tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4")
# A format without half or double the rate of its neighbour, and why: none at present.
ODD_RATIOS: dict[str, str] = {}


@pytest.mark.parametrize(
    "entry", [d for d in DEVICES if d.kind in ("gpu", "laptop-gpu", "tpu", "accelerator")], ids=ids
)
def test_matrix_rates_differ_by_powers_of_two(entry):
    rates = sorted(entry.peak_flops_per_s(p) for p in entry.precisions if p in MATRIX_FORMATS)
    for slow, fast in pairwise(rates):
        steps = math.log2(fast / slow)
        assert abs(steps - round(steps)) < 0.05, f"{fast:.5g} / {slow:.5g}"
        assert round(steps) in (0, 1, 2)


PUBLISHED_SPARSE = [
    (d, field, number) for d in DEVICES for field, number in d.numbers.items() if number.sparse is not None
]


@pytest.mark.parametrize(("entry", "field", "number"), PUBLISHED_SPARSE, ids=lambda part: getattr(part, "name", None))
def test_a_sparse_figure_is_twice_the_dense_one(entry, field, number):
    assert field.startswith("peaks.")
    assert number.sparse == pytest.approx(2 * number.value, rel=0.01)


# Figures that are sold or copied and are no dense peak of the chip: device, precision, the figure in FLOP/s or OP/s.
TRAPS = [
    ("h100-sxm", "fp16", 1979e12, "sparse, as NVIDIA prints it"),
    ("h100-sxm", "tf32", 989e12, "sparse tf32, or dense fp16"),
    ("h100-sxm", "int8", 3958e12, "sparse"),
    ("h100-pcie", "fp16", 1513e12, "sparse"),
    ("h200-sxm", "fp8", 3958e12, "sparse"),
    ("b200", "fp8", 9000e12, "sparse"),
    ("b200", "fp4", 20000e12, "a GB200's, sparse"),
    ("l4", "fp16", 242e12, "sparse"),
    ("l4", "int8", 485e12, "sparse"),
    ("l40s", "fp16", 733e12, "sparse"),
    ("a100-80gb-sxm", "bf16", 624e12, "sparse"),
    ("rtx-4090", "fp16", 330.3e12, "sparse, or accumulating in fp16"),
    ("rtx-4090", "int8", 1321e12, "sparse"),
    ("rtx-5090", "fp4", 3352e12, "sparse"),
    ("mi300x", "fp16", 2615e12, "sparse"),
    ("jetson-agx-orin", "int8", 275e12, "sparse, GPU and DLA"),
    ("jetson-orin-nx", "int8", 100e12, "sparse, GPU and DLA"),
    ("jetson-orin-nano", "int8", 40e12, "sparse"),
    ("jetson-orin-nano-super", "int8", 67e12, "sparse"),
    ("tpu-v2", "bf16", 180e12, "four chips"),
    ("tpu-v3", "bf16", 420e12, "four chips"),
    ("tpu-v3", "bf16", 140e12, "not Google's figure"),
    ("tpu-v6e", "bf16", 2150e12, "a projection"),
    ("trainium2", "bf16", 2563e12, "sparse"),
]


@pytest.mark.parametrize(("name", "precision", "figure", "why"), TRAPS, ids=lambda part: str(part))
def test_no_sparse_or_summed_figure_stands_as_a_dense_peak(name, precision, figure, why):
    assert device(name).peak_flops_per_s(precision) < 0.95 * figure, why


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("entry", LINKS, ids=ids)
def test_a_link_is_lanes_times_rate_and_twice_that_both_ways(entry):
    bandwidth = entry.bytes_per_s
    assert 1e5 < bandwidth < 5e12
    if "total" in entry.numbers:
        assert entry.number("total").value == pytest.approx(2 * bandwidth, rel=0.02)
    if {"lanes", "lane_rate"} <= set(entry.numbers):
        rate = entry.number("lane_rate")
        raw = entry.number("lanes").value * rate.value / (8 if rate.unit == "T/s" else 1)
        efficiency = entry.number("encoding").value if "encoding" in entry.numbers else 1
        assert efficiency <= 1
        assert raw * efficiency == pytest.approx(bandwidth, rel=0.02)
    if "latency" in entry.numbers:
        assert 1e-8 < entry.latency_s < 1e-2


def test_links_are_what_their_standards_say():
    for generation, transfers in {3: 8e9, 4: 16e9, 5: 32e9}.items():
        sixteen = link(f"pcie-{generation}-x16").bytes_per_s
        assert sixteen == pytest.approx(16 * transfers * 128 / 130 / 8, rel=0.005)
        assert link(f"pcie-{generation}-x4").bytes_per_s == pytest.approx(sixteen / 4, rel=0.005)
    for generation, (count, gigabytes) in {3: (12, 25), 4: (18, 25), 5: (18, 50)}.items():
        assert link(f"nvlink-{generation}").bytes_per_s == pytest.approx(count * gigabytes * 1e9, rel=0.005)
    for gigabits in (1, 10, 25, 100):
        assert link(f"ethernet-{gigabits}g").bytes_per_s == pytest.approx(gigabits * 1e9 / 8, rel=0.001)
    for name, gigabits in {"hdr": 200, "ndr": 400}.items():
        assert link(f"infiniband-{name}").bytes_per_s == pytest.approx(gigabits * 1e9 / 8, rel=0.03)
    for name, both_ways in {"v5e": 400e9, "v5p": 1200e9, "v6e": 800e9}.items():
        assert link(f"ici-{name}").bytes_per_s == pytest.approx(both_ways / 2, rel=0.11), "per chip, per direction"
    assert link("ici-v3").bytes_per_s == pytest.approx(340e12 / 1024, rel=0.02), "all-reduce bandwidth of a pod of 1024"
    assert links() == sorted(links(), key=lambda k: (registry.LINK_KINDS.index(k.kind), k.bytes_per_s, k.name))


# ---------------------------------------------------------------- asking


def test_names_are_found_in_any_case_and_by_alias():
    assert device("T4") is device(" t4 ") is device("Tesla T4") is device("tesla_t4")
    assert device("RTX 4090") is device("rtx4090") is device("rtx-4090")
    assert len({registry._plain(d.name) for d in DEVICES}) == len(DEVICES)
    assert device("Trillium").name == "tpu-v6e"
    assert device("m1").title == "Apple M1"
    aliases = {registry._plain(alias) for d in DEVICES for alias in d.aliases}
    assert not aliases & {registry._plain(d.name) for d in DEVICES}, "an alias that no one can reach"
    assert len({d.title for d in DEVICES}) == len(DEVICES)


def test_what_is_not_there_is_said_with_what_is():
    with pytest.raises(DeviceError, match=r"'A100' may be any of a100-40gb-pcie, a100-40gb-sxm, a100-80gb-pcie, a100-"):
        device("A100")
    with pytest.raises(DeviceError, match=r"No device 'rtx-4091'; near it: rtx-4090, .*`hwlimits devices` lists all\."):
        device("rtx-4091")
    with pytest.raises(DeviceError, match=r"No device 'xyzzyx'\. `hwlimits devices`"):
        device("xyzzyx")
    with pytest.raises(DeviceError, match=r"No device ''"):
        device("")
    with pytest.raises(DeviceError, match=r"No link 'pcie-3'; near it: pcie-3-x"):
        link("pcie-3")
    with pytest.raises(
        DeviceError, match=r"v100-sxm2 has no published peak for 'int8'\. It has fp64, fp32, fp16, fp16-"
    ):
        device("v100-sxm2").peak_flops_per_s("int8")
    with pytest.raises(DeviceError, match=r"t4 has no published peak for 'bfloat16'\. It has fp64, fp32, fp16, int8,"):
        device("t4").ridge_point("bfloat16")
    with pytest.raises(DeviceError, match=r"tpu-v5e has no 'power': Google publishes none\. It has peaks\.bf16, "):
        _ = device("tpu-v5e").power_w
    with pytest.raises(DeviceError, match=r"t4 has no 'voltage'\. It has peaks\.fp64, .*power"):
        device("t4").number("voltage")
    with pytest.raises(DeviceError, match=r"devices\('phone'\): there is no such kind; kinds are laptop-cpu, "):
        devices("phone")
    assert issubclass(DeviceError, ValueError)


def test_precisions_go_by_the_names_of_numpy_and_tensorflow_too():
    card = device("a100-80gb-sxm")
    for ours, theirs in {"fp32": "float32", "fp64": "float64", "fp16": "float16", "bf16": "bfloat16"}.items():
        assert card.peak_flops_per_s(theirs) == card.peak_flops_per_s(ours)
    assert card.precisions == ("fp64", "fp64-matrix", "fp32", "tf32", "bf16", "fp16", "int8", "int4")


def test_ridge_point_by_hand():
    assert device("h100-sxm").ridge_point("bf16") == pytest.approx(989.4 / 3.35)
    assert device("t4").ridge_point("int8") == 130 / 0.320


def test_a_number_carries_its_provenance_and_nothing_can_be_changed():
    peak = device("h100-pcie").number("peaks.fp16")
    assert str(peak) == "7.565e+14 FLOP/s"
    assert (peak.dense, peak.sparse, peak.direction) == (True, 1513e12, None)
    assert peak.source.url.startswith("https://")
    assert peak.read == peak.source.read == date(2026, 11, 23)
    assert len(device("a10").number("peaks.bf16").sources) == 2
    with pytest.raises(FrozenInstanceError):
        device("t4").year = 2030
    with pytest.raises(FrozenInstanceError):
        peak.value = 1.0
    with pytest.raises(TypeError):
        device("t4").numbers["power"] = peak
    devices().clear()
    assert len(devices()) == len(DEVICES), "a list given away is not the registry's own"


def test_devices_come_by_kind_year_and_name():
    assert [d.kind for d in DEVICES] == sorted((d.kind for d in DEVICES), key=registry.DEVICE_KINDS.index)
    assert [d.name for d in devices("soc")][:3] == ["apple-m1", "apple-m1-max", "apple-m1-pro"]


def test_the_registry_is_read_when_first_asked_for_and_needs_no_numpy():
    program = (
        "import sys, hwlimits.devices as d\n"
        "assert not d._registry.cache_info().currsize and 'numpy' not in sys.modules\n"
        "d.device('t4'); d.links(); print(d._registry.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


# ---------------------------------------------------------------- a malformed registry

GOOD = """
sources:
  sheet: {title: "A data sheet", url: "https://example.com/sheet", read: 2026-11-23}
devices:
  card-1:
    title: "Card 1"
    kind: gpu
    year: 2020
    peaks:
      fp32: {value: 1e12, unit: FLOP/s, dense: true, source: sheet}
    memory:
      kind: GDDR6
      capacity: {value: 8e9, unit: B, source: sheet}
      bandwidth: {value: 1e11, unit: B/s, source: sheet}
    caches:
      L2: {value: 1e6, unit: B, per: chip, source: sheet}
    power: {value: 100, unit: W, what: TDP, source: sheet}
    links: [wire]
links:
  wire:
    title: "Wire"
    kind: pcie
    year: 2020
    bandwidth: {value: 1e9, unit: B/s, direction: per direction, source: sheet}
"""

MALFORMED = [
    ("value: 1e12, ", "", r"card-1: peaks\.fp32: value must be a positive number, is None"),
    ("1e12", "-1e12", r"card-1: peaks\.fp32: value must be a positive number, is -1000000000000\.0"),
    ("1e12", ".nan", r"card-1: peaks\.fp32: value must be a positive number, is nan"),
    ("1e12", "much", r"card-1: peaks\.fp32: value must be a positive number, is 'much'"),
    ("unit: FLOP/s", "unit: TFLOP/s", r"card-1: peaks\.fp32: unit must be FLOP/s, is 'TFLOP/s'"),
    ("fp32:", "int8:", r"card-1: peaks\.int8: unit must be OP/s, is 'FLOP/s'"),
    ("fp32:", "float:", r"card-1: peaks\.float: is no precision known here"),
    ("dense: true, ", "", r"card-1: peaks\.fp32: must say dense: true, and be it"),
    ("dense: true", "dense: false", r"card-1: peaks\.fp32: must say dense: true, and be it"),
    ("dense: true, source: sheet", "dense: true", r"card-1: peaks\.fp32: source \[\] is not among the sources"),
    ("dense: true, source: sheet", "dense: true, source: gossip", r"source \['gossip'\] is not among the sources"),
    ("dense: true", "dense: true, speed: high", r"card-1: peaks\.fp32: \{'speed'\} is not known here"),
    ("{value: 1e12, unit: FLOP/s, dense: true, source: sheet}", "1e12",
     r"card-1: peaks\.fp32: must be a mapping with value, unit and source, is 1000000000000\.0"),
    ("per: chip, ", "", r"card-1: caches\.L2: must say `per`: core, cluster or chip"),
    ("L2:", "L9:", r"card-1: caches\.L9: is no field known here"),
    ("kind: gpu", "kind: toaster", r"card-1: kind: 'toaster' is none of laptop-cpu, "),
    ("year: 2020\n    peaks", "year: soon\n    peaks", r"card-1: year: must be there, as int"),
    ("power: {value: 100, unit: W, what: TDP, source: sheet}\n    ", "",
     r"card-1: power: is neither there nor `absent` with a reason, or both"),
    ("    links: [wire]", "    absent: {power: \"secret\"}\n    links: [wire]", r"card-1: power: .*or both"),
    ("links: [wire]", "links: [string]", r"card-1: links: 'string' is none of the links"),
    ("title: \"Card 1\"", "titel: \"Card 1\"", r"card-1: titel: is no field known here"),
    ("kind: GDDR6", "kind: GDDR6\n    caches: big",
     r"devices\.yaml is no valid YAML: mapping values are not allowed .*line 14"),
    ("    caches:\n      L2: {value: 1e6, unit: B, per: chip, source: sheet}\n", "    caches: big\n",
     r"card-1: caches: is no mapping"),
    ("links:\n  wire:", "wires:\n  wire:", r"links: section: is no mapping"),
    ("card-1", "Card_1", r"Card_1: name: must be in kebab case"),
    ("direction: per direction", "direction: both directions", r"wire: bandwidth: must say direction: per direction"),
    ("direction: per direction, ", "", r"wire: bandwidth: must say direction: per direction"),
    ("direction: per direction", "direction: up", r"wire: bandwidth: direction 'up' is unknown"),
    ("https://example.com", "example.com", r"sheet: url: 'example.com/sheet' is no address"),
    (", read: 2026-11-23", "", r"sheet: source: needs title, url, read"),
    ("read: 2026-11-23", "read: lately", r"sheet: read: 'lately' is no date"),
    ("    year: 2020\n    peaks", "    year: 2020\n    year: 2021\n    peaks", r"line 6: 'year' is there twice"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), MALFORMED, ids=[said for _, _, said in MALFORMED])
def test_a_malformed_registry_is_refused_with_entry_and_field(old, new, said):
    assert registry._parse(GOOD)[0]["card-1"].ridge_point("fp32") == 10
    assert old in GOOD
    with pytest.raises(DeviceError, match=said):
        registry._parse(GOOD.replace(old, new, 1))


# ---------------------------------------------------------------- no hardware figure anywhere else

# Names that hold a hardware figure: flops_per_s, peak, dram_bandwidth, power_w, price_usd, clock_hz, dram_bytes, ...
HARDWARE_NAME = re.compile(
    r"(flops?|ops|macs|bytes|bits|transfers)_per_s$|(^|_)(peak|bandwidth|tdp|watts|price)$"
    r"|(^|_)(peak|bandwidth|power|dram|hbm|vram|device_memory|gpu_memory|clock|price|link)_"
    r"(w|hz|mhz|ghz|usd|capacity|bytes|gb|gib|gbs|gb_s|flops|gflops|tflops|ops|tops|per_s)$"
)
# Prose: a number with a unit that only hardware has, or an amount of money.
HARDWARE_PROSE = re.compile(
    r"""(?<![\w.^_-])\d[\d.,\u202f\u2009]*(?:\s?(?:x|×)\s?10\S*)?[\s\u00a0\u202f]?(?:
        [kMGTPE]?(?:FLOPS|OPS|MACS)\b | [kMGTPE]?(?:FLOP|OP|MAC)s?(?:/s|\sper\ssecond)
      | (?:[kMGT]i?B|[kMGT]b)(?:/s|ps\b|\sper\ssecond) | [MG]T/s
      | [mk]?W\b(?![\^_(\[]) | watts?\b | [MG]Hz\b
      | [kMGT]i?B\s(?:of\s)?(?:main\s|device\s|video\s|unified\s)?(?:memory|RAM|VRAM|DRAM|HBM|SRAM|cache|flash)\b
      | USD\b | dollars\b)
      | (?:\bUS)?\$\d[\d,]*(?:\.\d+)?(?![\d$^_{\\])""",
    re.VERBOSE,
)
NOT_HARDWARE = "not a hardware figure"  # a comment that lets its line pass


def is_conversion(value: float) -> bool:
    """Powers of ten and of two convert units; they describe no machine."""
    return value in {float(base) ** n for base in (2, 10) for n in range(64)}


def constant(node: ast.AST) -> float | None:
    """The value of an expression of literals, None for anything else."""
    if isinstance(node, ast.Constant):
        return float(node.value) if type(node.value) in (int, float) else None
    if isinstance(node, ast.BinOp):
        left, right = constant(node.left), constant(node.right)
        known = OPERATORS | {ast.Pow: operator.pow, ast.LShift: lambda a, b: a * 2**b}
        if left is not None and right is not None and type(node.op) in known:
            return float(known[type(node.op)](left, right))
    return None


def named_values(tree: ast.AST):
    """Pairs of a name and the expression it gets: by assignment, keyword, default or dictionary key."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield getattr(target, "id", getattr(target, "attr", "")), node.value
        elif isinstance(node, ast.keyword):
            yield node.arg or "", node.value
        elif isinstance(node, ast.arguments):
            positional = (node.posonlyargs + node.args)[::-1]
            yield from ((a.arg, value) for a, value in zip(positional, node.defaults[::-1], strict=False))
            yield from ((a.arg, v) for a, v in zip(node.kwonlyargs, node.kw_defaults, strict=True) if v is not None)
        elif isinstance(node, ast.Dict):
            yield from ((str(getattr(k, "value", "")), v) for k, v in zip(node.keys, node.values, strict=True))


def code_literals(code: str) -> list[str]:
    """Typed figures in Python: a mantissa with an exponent of 9 or more, or a number given to a hardware name."""
    lines, found, tree = code.splitlines(), set(), ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and node.value >= 1e9:
            written = ast.get_source_segment(code, node) or ""
            if "e" in written.lower() and not is_conversion(node.value):
                found.add((node.lineno, written))
    for name, value in named_values(tree):
        if not HARDWARE_NAME.search(name.lower()):
            continue
        for part in [value, *getattr(value, "elts", []), *getattr(value, "values", [])]:
            number = constant(part)
            if number is not None and number > 1 and not is_conversion(number):
                found.add((part.lineno, f"{name}: {ast.get_source_segment(code, part)}"))
    return [text for line, text in sorted(found) if NOT_HARDWARE not in lines[line - 1]]


def prose_of_python(code: str) -> str:
    """Comments and strings, without the examples of docstrings: those may invent a machine."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    parts = [token.string for token in tokens if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                pieces = doctest.DocTestParser().parse(node.value)
            except ValueError:  # a string that only looks like an example
                pieces = [node.value]
            parts += [piece for piece in pieces if isinstance(piece, str)]
    return "\n".join(parts)


def prose_literals(prose: str) -> list[str]:
    """Numbers with a unit of hardware, line by line."""
    lines = [line for line in prose.splitlines() if NOT_HARDWARE not in line]
    return [match[0] for match in HARDWARE_PROSE.finditer("\n".join(lines))]


def hardware_literals(source: str, markdown: bool = False) -> list[str]:
    """Typed hardware figures in Python source, or in a chapter's Markdown with its code cells.

    Peaks, bandwidths, capacities, powers and prices belong in data/devices.yaml, or in the card of the
    computer at hand. Unit conversions (2**30, 1e9), seeds and sizes pass; a line passes with the comment
    "not a hardware figure".
    """
    if not markdown:
        return code_literals(source) + prose_literals(prose_of_python(source))
    found = []
    for cell in re.finditer(r"^(`{3,}|~{3,})\{code-cell\}.*?\n(.*?)^\1", source, re.MULTILINE | re.DOTALL):
        body = re.sub(r"\A(---\n.*?\n---\n|(:[\w-]+:[^\n]*\n)+)", "", cell[2], flags=re.DOTALL)
        found += hardware_literals(re.sub(r"^([^\S\n]*)[%!][^\n]*", r"\1pass", body, flags=re.MULTILINE))
        source = source.replace(cell[0], "")
    math_spans = r"\$\$.+?\$\$|(?<![\\\w])\$(?!\d[^$\n\\]*[a-z]{3})[^$\n]+\$"  # not "$5 for one, $6 for two"
    return found + prose_literals(re.sub(math_spans, "", source, flags=re.DOTALL))


CHECKED = [p for p in sorted((ROOT / "lib").rglob("*")) if p.suffix in (".py", ".j2", ".md", ".txt")] + sorted(
    (ROOT / "chapters").rglob("*.md")
)


@pytest.mark.parametrize("path", CHECKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_hardware_figure_is_typed_in_the_library_or_a_chapter(path):
    assert hardware_literals(path.read_text(encoding="utf-8"), markdown=path.suffix != ".py") == []


PLANTED = [
    "peak = 312e12",
    "peak_flops_per_s = 95_600_000_000",
    "gpu = Roofline('A100', peak_flops_per_s=19.5 * 10**12)",
    "d = dict(bandwidth_bytes_per_s=2039e9)",
    "def time_s(n, bandwidth=900):\n    return n / bandwidth",
    "def time_s(n, *, power_w: float = 700.0): ...",
    "TABLE = {'device_memory_bytes': 80 * 10**9}",
    "TABLE = {'price_usd': 1599}",
    "MEMORY_BYTES_PER_S = (23.5e9, 21e9)",
    "self.tdp = 350",
    "x = 1.979e15",
    "clock_hz = 2_400_000_000",
    "dram_bandwidth = 25.6",
    "# the A100 does 312 TFLOP/s",
    "'''The H100 moves 3.35 TB/s.'''",
    "print(f'{x} of 19.5 TFLOPS')",
    "raise ValueError('needs 16 GB of memory')",
    "label = 'T4 (70 W)'",
]
PLANTED_PROSE = [
    "An A100 reaches 312 TFLOP/s in bf16.",
    "Its memory moves 3.35 TB/s.",
    "A laptop with 16 GB of memory is enough.",
    "The card draws 700 W.",
    "It costs $1599 today.",
    "One costs $249, the other $1999.",
    "It costs 1,599 USD.",
    "It runs at 2.4 GHz.",
    "A link of 400 Gb/s.",
    "```{code-cell} ipython3\n:tags: [a]\npeak = 312e12\n```\n",
]
ORDINARY = [
    "GIB = 2**30\nGB = 1e9\nprint(n / 1e9, 'GB/s')",
    "rng = np.random.default_rng(20261123)\nSEED = 1234567",
    "peak = card.peak_flops_per_s('fp32')\nbandwidth = n_bytes / seconds",
    "power_w = 0\npeak_flops_per_s = 1e12  # a made-up machine\nbandwidth: float | None = None",
    "MAX_FILE_BYTES = 100_000_000  # uncompressed, the arrays are 55 MB",
    "def f(iterations=1000, size=1_500_000, scale=1e-9): ...",
    "assert ratio == pytest.approx(0.93)\nlimit = 3e8",
    "n = 4_000_000_000  # elements\nmask = 0xFFFFFFFFFFFF",
    "'''>>> Roofline('made up', 50e9, {'DRAM': 20e9}).ridge_point()\n2.5\n'''",
    "text = f'{rate / 1e9:.1f} GB/s at {power:.0f} W'",
    "peak_fraction = 0.5\npower = 2",
    "y = x @ W + b  # the weights W, the bytes of W",
    "bandwidth = 900e9  # not a hardware figure: a test of the parser",
]
ORDINARY_PROSE = [
    "A matrix of 1024 × 1024 in float32 takes 4 MiB; the file has 55 MB.",
    "The cost is $2 m n k$ FLOPs, the bytes $4 (m k + k n + m n)$; $$3 W$$ and $2W^T$.",
    "Goyal et al. trained ResNet-50 in 1 h; 93 % of the peak; 3.37× smaller; about 60 s.",
    "25.6 million parameters, 4.1 billion MACs, 8.2 GFLOP for one image.",
    "```{code-cell} ipython3\n%matplotlib inline\npeak = card.peak_flops_per_s('fp32')\n```\n",
]


@pytest.mark.parametrize("source", PLANTED)
def test_the_lint_sees_a_planted_figure_in_code(source):
    assert hardware_literals(source)


@pytest.mark.parametrize("source", PLANTED_PROSE)
def test_the_lint_sees_a_planted_figure_in_a_chapter(source):
    assert hardware_literals(source, markdown=True)


@pytest.mark.parametrize("source", ORDINARY)
def test_the_lint_lets_ordinary_code_pass(source):
    assert hardware_literals(source) == []


@pytest.mark.parametrize("source", ORDINARY_PROSE)
def test_the_lint_lets_ordinary_prose_pass(source):
    assert hardware_literals(source, markdown=True) == []
