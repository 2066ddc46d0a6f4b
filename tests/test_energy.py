"""Energies against sums written out by hand, prices against the paper's, and what may be called a ceiling."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwlimits import compute, data, devices, energy
from hwlimits.counting import Cost
from hwlimits.energy import EnergyError, Range

# Horowitz 2014, figure 1.1.9, in pJ, typed here a second time.
HOROWITZ_PJ = {
    "int8 add": 0.03, "int32 add": 0.1, "int8 multiply": 0.2, "int32 multiply": 3.1,
    "fp16 add": 0.4, "fp32 add": 0.9, "fp16 multiply": 1.1, "fp32 multiply": 3.7,
    "SRAM 8 KiB": 10, "SRAM 32 KiB": 20, "SRAM 1 MiB": 100, "DRAM": (1300, 2600),
}  # fmt: skip


def test_the_table_is_horowitz_s_row_by_row():
    rows = {row["what"]: row for row in data.papers("energy_per_operation") if row["process"] == "45 nm"}
    assert set(rows) == set(HOROWITZ_PJ)
    for what, pj in HOROWITZ_PJ.items():
        low, high = pj if isinstance(pj, tuple) else (pj, pj)
        assert energy.price_j(what) == Range(pytest.approx(low * 1e-12), pytest.approx(high * 1e-12))
        assert rows[what].get("bytes") == (8 if what.startswith(("SRAM", "DRAM")) else None)


def test_every_row_names_a_source_that_says_what_it_counts():
    sources = {row["key"]: row for row in data.papers("energy_sources")}
    rows = data.papers("energy_per_operation")
    assert {row["source"] for row in rows} == set(sources)
    assert all(row["counts"] and row["read"].year == 2026 for row in sources.values())
    assert all(0 < row["low_pj"] <= row["high_pj"] for row in rows)


def test_wider_numbers_and_farther_memories_cost_more():
    for process in energy.processes():
        prices = [energy.byte_j(level, process).low for level in energy.levels(process)]
        assert prices == sorted(prices)
    assert energy.mac_j("int8") < energy.mac_j("fp16") < energy.mac_j("fp32")


def test_a_mac_by_hand():
    assert energy.mac_j("fp32") == pytest.approx(3.7e-12 + 0.9e-12)
    assert energy.mac_j("fp16") == pytest.approx(1.1e-12 + 0.9e-12)  # summed in fp32
    assert energy.mac_j("int8") == pytest.approx(0.2e-12 + 0.1e-12)  # summed in int32
    assert energy.mac_j("int32") == pytest.approx(3.1e-12 + 0.1e-12)


def test_a_dense_layer_by_hand():
    """1,600 x 64 and a bias, one image: 102,400 MACs, 64 additions; all of it in float32 from DRAM, once."""
    found = energy.of_cost(compute.dense(1600, 64), "fp32")
    moved_bytes = 4 * (1600 + 64 + 1600 * 64 + 64)
    assert found.arithmetic_j == pytest.approx((102_400 * 4.6 + 64 * 0.9) * 1e-12)
    assert found.movement_j["DRAM"].low == pytest.approx(moved_bytes / 8 * 1.3e-9)
    assert found.movement_j["DRAM"].high == pytest.approx(moved_bytes / 8 * 2.6e-9)
    assert found.total_j.high == pytest.approx((102_400 * 4.6 + 57.6) * 1e-12 + moved_bytes / 8 * 2.6e-9)
    assert found.moving_share.low == pytest.approx(1 - found.arithmetic_j / found.total_j.low)
    assert found.left_out.startswith("left out: caches and on-chip memory unless given in moved_bytes, ")
    assert "leakage" in found.left_out


@given(
    macs=st.integers(0, 10**12), other=st.integers(0, 10**9),
    near=st.integers(0, 10**12), far=st.integers(0, 10**12), precision=st.sampled_from(["fp32", "fp16", "int8"]),
)  # fmt: skip
def test_an_energy_is_the_sum_of_its_parts_in_order(macs, other, near, far, precision):
    product = {"fp32": 3.7, "fp16": 1.1, "int8": 0.2}[precision]
    add = {"fp32": 0.9, "fp16": 0.9, "int8": 0.1}[precision]
    found = energy.of_cost(Cost(macs=macs, other_flops=other), precision, {"SRAM 32 KiB": near, "DRAM": far})
    picojoules = macs * (product + add) + other * add + near * 20 / 8
    assert found.total_j.low == pytest.approx((picojoules + far * 1300 / 8) * 1e-12)
    assert found.total_j.high == pytest.approx((picojoules + far * 2600 / 8) * 1e-12)
    assert 0 <= found.moving_share.low <= found.moving_share.high <= 1 or not found.total_j.low


def test_two_halves_take_what_the_whole_takes():
    half = Cost(macs=5, other_flops=3, bytes_read=8, bytes_written=16)
    whole = energy.of_cost(half + half, "fp32").total_j
    assert whole.low == pytest.approx(2 * energy.of_cost(half, "fp32").total_j.low)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: energy.mac_j("bf16"), "no energy of a MAC in 'bf16' is in the table; it has fp32, fp16, int8, int32"),
        (lambda: energy.mac_j("fp32", "7 nm"), "the table for 7 nm has no 'fp32 add'; it has fp32 multiply"),
        (lambda: energy.price_j("fp64 add"), "the table for 45 nm has no 'fp64 add'; it has int8 add"),
        (lambda: energy.price_j("DRAM", "3 nm"), "no table for the process '3 nm'; there are 45 nm, 7 nm"),
        (lambda: energy.byte_j("fp32 add"), "'fp32 add' is an operation, no memory; memories are SRAM 8 KiB"),
        (lambda: energy.of_cost(Cost(macs=1), "bf16"), "no energy of a MAC in 'bf16'"),
        (lambda: energy.of_cost(Cost(), "fp32", {"L2": 1.0}), "the table for 45 nm has no 'L2'"),
        (lambda: energy.of_cost(Cost(), "fp32", {"DRAM": -1.0}), "-1.0 bytes from DRAM: must be a number from 0 up"),
        (lambda: energy.of_cost(Cost(), "fp32", {"DRAM": math.nan}), "nan bytes from DRAM"),
        (lambda: energy.of_cost(Cost(), "fp32", {"DRAM": True}), "of_cost: True bytes from DRAM: must be a number"),
        (lambda: energy.of_cost(Cost(), "fp32", {"DRAM": "8"}), "of_cost: '8' bytes from DRAM: must be a number"),
        (lambda: energy.of_cost(Cost(), ["fp32"]), "no energy of a MAC in ['fp32'] is in the table"),
        (lambda: energy.mac_j(["fp32"]), "no energy of a MAC in ['fp32'] is in the table; it has fp32, fp16"),
        (lambda: energy.power_time("t4", "1"), "power_time(t4, time_s='1'): a time is a number above 0"),
        (lambda: energy.power_time("t4", True), "power_time(t4, time_s=True): a time is a number above 0"),
        (lambda: energy.power_time("t4", 0.0), "power_time(t4, time_s=0.0): a time is a number above 0"),
        (lambda: energy.power_time("t4", math.inf), "a time is a number above 0"),
        (lambda: energy.co2(-1.0), "co2(joules=-1.0): must be a number from 0 up"),
        (lambda: energy.co2(math.inf), "co2(joules=inf)"),
        (lambda: energy.co2("1"), "co2(joules='1'): must be a number from 0 up"),
        (lambda: energy.co2(True), "co2(joules=True): must be a number from 0 up"),
        (lambda: energy.co2(1.0, overhead=True), "co2(overhead=True): a building takes at least what"),
        (lambda: energy.co2(1.0, overhead="2"), "co2(overhead='2'): a building takes at least what"),
        (lambda: energy.co2(1.0, overhead=math.nan), "co2(overhead=nan): a building takes at least what"),
        (lambda: energy.co2(1.0, overhead=0.9), "co2(overhead=0.9): a building takes at least what its computers take"),
    ],
)
def test_what_can_not_be_told_is_refused_in_a_sentence(call, text):
    with pytest.raises(EnergyError) as error:
        call()
    assert text in str(error.value)


class TestPowerAndTime:
    def test_it_is_watts_times_seconds_and_says_what_the_watts_are(self):
        found = energy.power_time("t4", 0.003)
        assert (found.joules, found.power_w, found.what) == (pytest.approx(0.21), 70, "TDP")
        assert found.ceiling is None
        assert "over a while" in found.why

    def test_only_a_stated_most_is_a_ceiling(self):
        """Each kind of power that the registry has is known, and only these two bound the energy of any run."""
        kinds = {d.number("power").what: d for d in devices.devices() if "power" in d.numbers}
        ceilings = {what for what, d in kinds.items() if energy.power_time(d, 1.0).ceiling}
        assert ceilings == {"maximum", "supply"}
        assert {what for what, d in kinds.items() if energy.power_time(d, 1.0).ceiling is False} == {
            "measured maximum", "typical", "base",
        }  # fmt: skip

    def test_without_a_published_power_there_is_none(self):
        with pytest.raises(devices.DeviceError, match="tpu-v5e has no 'power'"):
            energy.power_time("tpu-v5e", 1.0)
        with pytest.raises(devices.DeviceError, match="tpu-v5e has no 'power'"):
            energy.flops_per_joule("tpu-v5e", "bf16")

    def test_flops_per_joule_by_hand(self):
        assert energy.flops_per_joule("v100-sxm2", "fp16") == pytest.approx(125e12 / 300)
        with pytest.raises(devices.DeviceError, match="no published peak for 'bf16'"):
            energy.flops_per_joule("v100-sxm2", "bf16")


class TestCo2:
    def test_a_kilowatt_hour_gives_the_source_s_numbers(self):
        found = energy.co2(1000 * 3600)
        assert (found.low_g, found.world_g, found.high_g) == (pytest.approx(30), pytest.approx(481), pytest.approx(713))
        assert (found.low_place, found.high_place, found.year) == ("Norway", "India", 2023)

    def test_it_is_in_proportion_and_the_building_comes_on_top(self):
        assert energy.co2(7.2e6).world_g == pytest.approx(2 * 481)
        assert energy.co2(3.6e6, overhead=1.5).high_g == pytest.approx(1.5 * 713)
        assert energy.co2(0).high_g == 0

    def test_it_says_that_it_is_an_estimate_and_what_is_not_in_it(self):
        assert str(energy.co2(3.6e8)) == "estimate: 48.1 kg of CO2 equivalent (3 kg in Norway, 71.3 kg in India, 2023)"
        assert "making and scrapping the device" in energy.co2(1.0).left_out

    def test_the_grids_have_one_year_and_a_source(self):
        rows = data.papers("grid_carbon")
        assert len({row["year"] for row in rows}) == 1
        assert data.papers("grid_carbon_source")[0]["source"].startswith("Ember")
