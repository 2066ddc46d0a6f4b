"""Which devices fit: against a brute force over the registry's file, by identities, and by hand at the corners."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from hwlimits import devices as registry
from hwlimits.compute import Cost, LayerCost, ModelCost
from hwlimits.machine import selection
from hwlimits.machine.predict import PredictionError
from hwlimits.machine.selection import DAY_S, EXPORTS, REASONS, Limits, Load, SelectionError, fit

ROOT = Path(__file__).parents[1]
DOCUMENT = yaml.safe_load((ROOT / "data" / "devices.yaml").read_text())
RAW = DOCUMENT["devices"]
SIZES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
NAMES = [d.name for d in registry.devices()]


def model(weights: int, activations: int, macs: int) -> ModelCost:
    """One layer of so many weights and multiply-accumulates, with input and output of so many numbers together."""
    cost = Cost(macs=macs, parameters=weights, bytes_read=4 * (weights + activations - 1), bytes_written=4)
    return ModelCost("planted", (LayerCost("dense", "Dense", (1, 1), cost),))


SMALL = model(20_000, 2_000, 1_000_000)
MIDDLE = model(25_000_000, 1_000_000, 4_000_000_000)
LARGE = model(7_000_000_000, 10_000_000, 7_000_000_000)
MODELS = {"small": SMALL, "middle": MIDDLE, "large": LARGE}
LIMITS = [
    Limits(),
    Limits(latency_s=1e-3),
    Limits(examples_per_s=5_000),
    Limits(power_w=30),
    Limits(price_usd=1_000),
    Limits(latency_s=0.02, power_w=300, price_usd=10_000),
]


def number(entry: dict, *path: str) -> float | None:
    for key in path:
        entry = entry.get(key, {})
    return float(entry["value"]) if "value" in entry else None


def fits_by_brute_force(name: str, count: ModelCost, limits: Limits) -> bool:
    """Whether some export of the model keeps to everything that the registry's file says of a device."""
    entry = RAW[name]
    (layer,) = count.layers
    weights, moved = layer.cost.parameters, layer.cost.bytes / 4
    activations = moved - weights
    memory, capacity, flash = (number(entry, "memory", key) for key in ("bandwidth", "capacity", "flash"))
    power, price = number(entry, "power"), number(entry, "price")
    if limits.power_w and (power is None or power > limits.power_w):
        return False
    if limits.price_usd and (price is None or price > limits.price_usd):
        return False
    if memory is None and (limits.latency_s or limits.examples_per_s):
        return False
    caches = entry.get("caches", {})
    cores = number(entry, "cores") or 1
    on_chip = sum(float(c["value"]) * (1 if c["per"] == "chip" else cores) for c in caches.values())
    for peak, content in entry["peaks"].items():
        base, _, suffix = peak.partition("-")
        if base not in SIZES or suffix == "acc16":
            continue
        size = SIZES[base]
        if entry["kind"] == "microcontroller" and flash is not None:
            held = size * weights <= flash and size * activations <= capacity
        else:
            held = size * moved <= (on_chip if capacity is None else capacity)
        time_s = max(layer.cost.flops / float(content["value"]), size * moved / (memory or float("inf")))
        soon = time_s <= (limits.latency_s or time_s) and 1 / time_s >= (limits.examples_per_s or 0)
        if held and soon:
            return True
    return False


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_what_fits_is_what_brute_force_finds(name, limits):
    found = fit(MODELS[name], limits=limits)
    ours = {each.device.name for each in found.fits}
    assert ours == {device for device in NAMES if fits_by_brute_force(device, MODELS[name], limits)}


def test_brute_force_sees_both_sides():
    """The cases above let some devices through and hold some back, for each limit alone and for memory."""
    for limits in LIMITS[1:]:
        assert any(len(fit(count, limits=limits).fits) < len(fit(count).fits) for count in MODELS.values())
    assert len(fit(LARGE).fits) < len(fit(MIDDLE).fits) < len(fit(SMALL).fits) < len(NAMES)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_every_device_is_there_once_with_a_reason_if_it_does_not_fit(name, limits):
    found = fit(MODELS[name], limits=limits)
    assert sorted(each.device.name for each in (*found.fits, *found.others)) == sorted(NAMES)
    assert all(each.fits and each.prediction for each in found.fits)
    for each in found.others:
        kinds = [REASONS.index(reason.kind) for reason in each.reasons]
        assert kinds, each.device.name
        assert kinds == sorted(kinds)
    first = [REASONS.index(each.reasons[0].kind) for each in found.others]
    assert first == sorted(first)


TIGHTER = [
    [Limits(latency_s=10**-n) for n in range(8)],
    [Limits(examples_per_s=10**n) for n in range(8)],
    [Limits(power_w=1000 / 3**n) for n in range(9)],
    [Limits(price_usd=30_000 / 3**n) for n in range(9)],
]


@pytest.mark.parametrize("chain", TIGHTER, ids=lambda c: str(c[0]))
@pytest.mark.parametrize("name", MODELS)
def test_a_tighter_limit_never_adds_a_device(name, chain):
    for loose, tight in pairwise([Limits(), *chain]):
        left = {each.device.name for each in fit(MODELS[name], limits=tight).fits}
        assert left <= {each.device.name for each in fit(MODELS[name], limits=loose).fits}


def test_cheapest_first_and_what_has_no_price_or_power_after_what_has():
    rows = [(each.price_usd, each.power_w, each.prediction.time_s) for each in fit(MIDDLE).fits]
    prices = [price for price, _, _ in rows if price is not None]
    assert prices == sorted(prices)
    assert len(prices) > 5
    assert [price for price, _, _ in rows[: len(prices)]] == prices, "none without a price before one with"
    powers = [power for _, power, _ in rows[len(prices) :]]
    known = [power for power in powers if power is not None]
    assert powers[: len(known)] == sorted(known)
    times = [time for _, _, time in rows[len(prices) + len(known) :]]
    assert len(times) > 5
    assert times == sorted(times)


# the precision


def chosen(device: str, count: ModelCost = MIDDLE, **options):
    (found,) = [*(f := fit(count, among=[registry.device(device)], **options)).fits, *f.others]
    return found


def test_the_fastest_export_is_chosen_and_the_wider_of_two_as_fast():
    assert chosen("t4").precision == "int8"
    assert chosen("p100-pcie").precision == "fp16", "which has no int8"
    assert chosen("tpu-v3").precision == "bf16"
    assert chosen("trainium2").precision == "fp16", "as fast as bf16, and named before it"
    assert chosen("epyc-7742").precision == "fp32", "and never fp64"
    for name in ("t4", "rtx-4090"):  # whose fp16 that adds in fp16 is twice as fast, and another arithmetic
        assert chosen(name, model(1000, 1000, 10**9), exports=("fp32", "fp16")).precision == "fp16"
    for name in NAMES:
        assert chosen(name).precision.partition("-")[0] in ("", *EXPORTS)
        assert "acc16" not in chosen(name).precision


def test_an_export_that_keeps_to_the_limits_goes_before_a_faster_one_that_does_not():
    teensy, weights = registry.device("teensy-41"), int(number(RAW["teensy-41"], "memory", "flash"))
    numbers = dict(teensy.numbers) | {"peaks.int8": replace(teensy.number("peaks.fp32"), value=1.0, unit="OP/s")}
    slow_int8 = replace(teensy, numbers=numbers)
    assert fit(model(weights // 4, 9, 9), among=[slow_int8]).fits[0].precision == "fp32"
    assert fit(model(weights // 4 + 1, 9, 9), among=[slow_int8]).fits[0].precision == "int8"


def test_without_a_peak_in_an_export_there_is_no_fit():
    (reason,) = chosen("rp2040").reasons
    assert (reason.kind, reason.text) == (
        "precision", "no published peak for fp32 or fp16 or bf16 or int8; it has int16",
    )  # fmt: skip
    assert chosen("rp2040").prediction is None
    (reason,) = chosen("coral-edge-tpu", SMALL, exports=("fp32",)).reasons
    assert reason.text == "no published peak for fp32; it has int8"


def test_a_precision_that_is_asked_for_is_taken_as_it_is():
    found = fit(SMALL, precision="int16")
    assert {each.precision for each in found.fits} == {"int16"}
    assert "rp2040" in {each.device.name for each in found.fits}
    for each in found.others:
        if "int16" not in each.device.precisions:
            assert each.reasons[0].kind == "precision"
    assert chosen("t4", precision="float16").precision == "fp16"
    assert chosen("rtx-4090", precision="fp16-acc16").precision == "fp16-acc16"
    with pytest.raises(SelectionError, match=r"no device has a published peak for 'fp12'; there are fp64, fp32, "):
        fit(SMALL, precision="fp12")
    with pytest.raises(PredictionError, match="'npu' has no known size"):
        fit(SMALL, precision="npu")


# memory


def test_a_microcontroller_holds_weights_in_flash_and_activations_in_sram():
    flash, sram = (int(number(RAW["stm32f407"], "memory", key)) // 4 for key in ("flash", "capacity"))
    assert chosen("stm32f407", model(flash, sram, 1)).fits, "each full to the last byte"
    (reason,) = chosen("stm32f407", model(flash + 1, sram, 1)).reasons
    assert reason.text == "does not hold it: 1.05 MB of weights in 1.05 MB of flash"
    (reason,) = chosen("stm32f407", model(flash, sram + 1, 1)).reasons
    assert reason.text == "does not hold it: 197 kB of activations in 197 kB of SRAM"
    (reason,) = chosen("stm32f407", model(2 * flash, 2 * sram, 1)).reasons
    assert (
        reason.text
        == "does not hold it: 2.1 MB of weights in 1.05 MB of flash, 393 kB of activations in 197 kB of SRAM"
    )


def test_a_flash_of_unknown_size_is_not_guessed():
    sram = int(number(RAW["esp32-s3"], "memory", "capacity"))
    assert chosen("esp32-s3", model(sram - 10, 10, 1)).fits, "SRAM alone holds it"
    (reason,) = chosen("esp32-s3", model(sram, 10, 1)).reasons
    assert reason.kind == "not known"
    assert reason.text.endswith("524 kB of SRAM do not, and the size of its flash is not known")


def test_elsewhere_one_memory_holds_both():
    capacity = int(number(RAW["t4"], "memory", "capacity"))
    assert chosen("t4", model(capacity - 10, 10, 1), precision="int8").fits
    (reason,) = chosen("t4", model(capacity - 9, 10, 1), precision="int8").reasons
    assert reason.text == "does not hold it: 16 GB in 16 GB"
    (reason,) = chosen("coral-m2", MIDDLE).reasons
    assert reason.text == "does not hold it: 26 MB in 8 MB; what is too much comes over its link at every call"


def test_a_memory_of_unknown_size_holds_what_its_caches_would():
    cache = int(sum(number(RAW["ryzen-9-5950x"], "caches", level) for level in ("L2", "L3"))) // 4
    assert chosen("ryzen-9-5950x", model(cache - 10, 10, 1)).fits
    (reason,) = chosen("ryzen-9-5950x", model(cache - 9, 10, 1)).reasons
    assert reason.kind == "not known"
    assert reason.text == (
        "whether it holds 75.5 MB can't be told: memory.capacity is not known: no page that was read states the maximum"
    )
    assert chosen("ryzen-9-5950x", LARGE).reasons[0].kind == "not known"


def test_sizes_that_are_given_count():
    assert not chosen("t4", SMALL, weight_bytes=100 * 10**9).fits
    assert not chosen("teensy-41", SMALL, activation_bytes=2 * 10**6).fits


# limits


def test_reasons_say_both_numbers():
    found = chosen("t4", MIDDLE, limits=Limits(latency_s=1e-6, examples_per_s=1e6, power_w=50), precision="fp32")
    time_s = max(
        MIDDLE.total.flops / number(RAW["t4"], "peaks", "fp32"), 4 * 26e6 / number(RAW["t4"], "memory", "bandwidth")
    )
    assert time_s == pytest.approx(983e-6, rel=1e-3)
    assert [(reason.kind, reason.text) for reason in found.reasons] == [
        ("latency", "too slow: at least 983 µs a call, asked 1 µs"),
        ("throughput", "too slow: at most 1.02 k examples/s, asked 1 M/s"),
        ("power", "too much power: 70 W, asked 50 W"),
    ]
    (reason,) = chosen("h100-sxm", limits=Limits(price_usd=100)).reasons
    assert reason.text == f"too expensive: {number(RAW['h100-sxm'], 'price'):,.6g} USD, asked 100 USD"


def test_where_caches_could_save_a_limit_it_is_said():
    cache, memory = number(RAW["core-i7-1260p"], "caches", "L3"), number(RAW["core-i7-1260p"], "memory", "bandwidth")
    for weights, saved in ((1.1 * cache, True), (3 * cache, False)):  # all but 0.1, or 2, of its caches' size
        count = model(int(weights / 4), 10, 1000)
        (reason,) = chosen("core-i7-1260p", count, limits=Limits(latency_s=weights / memory / 2)).reasons
        (other,) = chosen("core-i7-1260p", count, limits=Limits(examples_per_s=2 * memory / weights)).reasons
        assert reason.text.startswith("too slow: at least ")
        assert other.text.startswith("too slow: at most ")
        assert ("if its caches held what moves" in other.text) is saved
        assert ("if its caches held what moves" in reason.text) is saved


def test_what_is_not_known_is_not_held_to_be_kept():
    (reason,) = chosen("tpu-v5e", limits=Limits(power_w=10_000)).reasons
    assert (reason.kind, reason.text) == ("not known", "power is not known: Google publishes none")
    (reason,) = chosen("t4", limits=Limits(price_usd=10**6)).reasons
    assert reason.text == "price is not known: it is not in the registry"
    (reason,) = chosen("raspberry-pi-3b-plus", limits=Limits(latency_s=100)).reasons
    assert reason.text.startswith("how fast can't be told: memory.bandwidth is not known: ")
    (reason,) = chosen("raspberry-pi-3b-plus", limits=Limits(latency_s=1e-9)).reasons
    assert reason.kind == "latency", "its arithmetic alone is too slow"
    assert chosen("raspberry-pi-3b-plus").fits


def test_unknown_numbers_are_carried_along():
    assert chosen("tpu-v5e").unknown == (
        "power is not known: Google publishes none", "price is not known: it is not in the registry",
    )  # fmt: skip
    assert chosen("rtx-4090").unknown == ()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "10"])
@pytest.mark.parametrize("name", ["latency_s", "examples_per_s", "power_w", "price_usd"])
def test_a_limit_that_can_t_be_is_refused(name, value):
    with pytest.raises(SelectionError, match=rf"Limits\({name}=.*must be a number above 0"):
        Limits(**{name: value})


# data and network


def test_two_numbers_of_the_data_give_the_third():
    for given in (
        {"bytes_per_day": 2e9, "examples_per_day": 1e4},
        {"bytes_per_day": 2e9, "bytes_per_example": 2e5},
        {"examples_per_day": 1e4, "bytes_per_example": 2e5},
    ):
        load = Load(**given)
        assert (load.bytes_per_day, load.examples_per_day, load.bytes_per_example) == (2e9, 1e4, 2e5)
    with pytest.raises(SelectionError, match="the data of a day are given twice"):
        Load(1, 1, 1)
    with pytest.raises(SelectionError, match="nothing is said of the data over ethernet-1g"):
        Load(link=registry.link("ethernet-1g"))
    with pytest.raises(SelectionError, match=r"Load\(bytes_per_day=-1\): must be a number above 0"):
        Load(bytes_per_day=-1)


def test_a_day_s_data_take_their_share_of_the_link():
    gigabit = registry.link("ethernet-1g")
    assert Load(bytes_per_day=125e6 * DAY_S / 4, link=gigabit).link_share() == pytest.approx(0.25)
    assert Load(bytes_per_day=1).link_share() is None
    full = Load(bytes_per_day=125e6 * DAY_S, link=gigabit)
    assert not {each.device.name for each in fit(SMALL, load=full).others if each.reasons[0].kind == "network"}
    more = replace(full, bytes_per_day=1.001 * full.bytes_per_day)
    found = fit(SMALL, load=more)
    assert found.fits == (), "no device gets what the link does not carry"
    assert chosen("t4", SMALL, load=more).reasons[0].text == "10.8 TB a day do not come in at 125 MB/s"


def test_a_device_takes_no_more_than_its_own_fastest_link_brings():
    fast = registry.link("ethernet-100g")
    feed = {
        n: chosen(n, SMALL, load=Load(bytes_per_example=100, link=fast)).feed_bytes_per_s
        for n in NAMES
        if n != "rp2040"
    }
    for name, found in feed.items():
        own = [key for key in RAW[name].get("links", []) if DOCUMENT["links"][key]["kind"] not in ("nvlink", "ici")]
        rates = [float(DOCUMENT["links"][key]["bandwidth"]["value"]) for key in own]
        assert found == min(12.5e9, max(rates, default=12.5e9)), name
    assert feed["coral-edge-tpu"] == 5e8
    assert feed["tpu-v4"] == 12.5e9, "what joins chips brings no data in"


def test_a_starved_device_is_told_by_how_much():
    gigabit, each = registry.link("ethernet-1g"), 1e5
    found = chosen("t4", MIDDLE, load=Load(bytes_per_example=each, link=gigabit))
    assert found.fits, "it runs, and waits"
    assert found.fed == pytest.approx(125e6 / each / found.prediction.examples_per_s)
    assert found.fed < 0.5
    slow = chosen("raspberry-pi-4", MIDDLE, load=Load(bytes_per_example=each, link=gigabit))
    assert slow.fed == 1
    asked = chosen("t4", MIDDLE, load=Load(bytes_per_example=each, link=gigabit), limits=Limits(examples_per_s=2000))
    assert [(r.kind, r.text) for r in asked.reasons] == [
        ("network", "starved: 125 MB/s bring 1,250 examples/s, asked 2,000/s")
    ]
    assert chosen("t4", MIDDLE, load=Load(bytes_per_day=1e9, link=gigabit)).fed is None, "of unknown examples"


def test_the_examples_of_a_day_have_to_be_done_in_it():
    rate = chosen("t4").prediction.examples_per_s
    assert chosen("t4", load=Load(examples_per_day=0.99 * rate * DAY_S)).fits
    (reason,) = chosen("t4", load=Load(examples_per_day=1.01 * rate * DAY_S)).reasons
    assert reason.kind == "throughput"
    assert "the day's examples come at" in reason.text


# the answer


def test_an_answer_is_json():
    load = Load(examples_per_day=1e5, bytes_per_example=1e5, link=registry.link("ethernet-10g"))
    record = json.loads(json.dumps(fit(MIDDLE, load=load, limits=Limits(power_w=100)).record(), allow_nan=False))
    assert record["load"]["link"] == "ethernet-10g"
    assert record["load"]["link_share"] == pytest.approx(1e10 / (DAY_S * 1.25e9))
    assert record["limits"]["power_w"] == 100
    assert all(each["fits"] and not each["reasons"] for each in record["fits"])
    assert all(each["reasons"] and not each["fits"] for each in record["others"])
    assert {*record["fits"][0]} == {*record["others"][0]}
    assert "layers" not in record["fits"][0]["prediction"]


def test_the_reasons_that_are_documented_are_those_that_there_are():
    seen = set()
    for limits in (*LIMITS, Limits(latency_s=1e-9, examples_per_s=1e12, power_w=0.1, price_usd=1)):
        load = Load(bytes_per_day=1e18, link=registry.link("ethernet-1g"))
        for count in MODELS.values():
            seen |= {reason.kind for each in fit(count, limits=limits, load=load).others for reason in each.reasons}
    assert seen == set(REASONS)
    assert set(selection._INTO_DEVICE) <= set(registry.LINK_KINDS)
