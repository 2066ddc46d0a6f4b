"""Predictions on published devices: by hand from the registry's file, by identities over all of it, and
against times that others measured and published, which no least time may exceed."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from hwlimits import devices as registry
from hwlimits.compute import Cost, CountError, LayerCost, ModelCost, dense
from hwlimits.devices import DeviceError
from hwlimits.machine import predict
from hwlimits.machine.predict import (
    CPU_KINDS,
    Factors,
    LayerPrediction,
    Prediction,
    PredictionError,
    bytes_per_number,
    cache_bytes,
    largest_layer_bytes,
    measured_factors,
    on_device,
)

RAW = yaml.safe_load((Path(__file__).parents[1] / "data" / "devices.yaml").read_text())["devices"]
DEVICES = registry.devices()
NPU_ONLY = {"npu"}


def mlp(batch=1, dtype="float32") -> ModelCost:
    """LeNet-300-100, by its dimensions."""
    widths = [784, 300, 100, 10]
    rows = [
        LayerCost(f"dense{i}", "Dense", (batch, b), dense(a, b, activation="relu", batch=batch, dtype=dtype))
        for i, (a, b) in enumerate(pairwise(widths))
    ]
    return ModelCost("mlp", tuple(rows), {}, batch, dtype)


def raw(device: str, *path: str) -> float:
    """A number as the registry's file has it."""
    entry = RAW[device]
    for key in path:
        entry = entry[key]
    return float(entry["value"])


@pytest.fixture(scope="module")
def counted():
    """Three networks of the zoo, counted in fp32."""
    from hwlimits.training import cost, zoo

    return {name: cost.cost(zoo.build(name)) for name in ("article-cnn", "mobilenet-v1", "transformer-base")}


def test_an_mlp_on_a_t4_by_hand():
    batch, peak, memory = 64, raw("t4", "peaks", "fp16"), raw("t4", "memory", "bandwidth")
    found = on_device(mlp(batch), "T4", "fp16")
    sizes = [(784, 300), (300, 100), (100, 10)]
    flops = [batch * (2 * a * b + 2 * b) for a, b in sizes]
    moved = [2 * (batch * (a + b) + (a + 1) * b) for a, b in sizes]
    times = [max(f / peak, m / memory) for f, m in zip(flops, moved, strict=True)]
    assert [x.time_s for x in found.layers] == pytest.approx(times)
    assert [x.bound for x in found.layers] == ["memory"] * 3
    assert found.time_s == pytest.approx(sum(times))
    assert found.examples_per_s == pytest.approx(batch / sum(times))
    parameters = 785 * 300 + 301 * 100 + 101 * 10
    assert (found.weight_bytes, found.activation_bytes) == (2 * parameters, 2 * batch * (784 + 300))
    assert found.memory_bytes == found.weight_bytes + found.activation_bytes
    assert (found.device, found.precision, found.batch, found.overhead_s) == ("t4", "fp16", batch, None)


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
def test_no_device_is_faster_than_its_data_sheet(device, counted):
    """FLOP/s at most the peak, bytes/s at most the bandwidth, layer by layer; the interval holds the prediction."""
    for count in counted.values():
        for precision in set(device.precisions) - NPU_ONLY:
            found = on_device(count, device, precision)
            peak, size = raw(device.name, "peaks", precision), bytes_per_number(precision) / 4
            memory = RAW[device.name].get("memory", {}).get("bandwidth")
            for layer, x in zip(count.layers, found.layers, strict=True):
                needed = {"compute": layer.cost.flops / peak}
                if memory is not None:
                    needed["memory"] = size * layer.cost.bytes / float(memory["value"])
                assert x.time_s == pytest.approx(max(needed.values()))
                known = memory is not None and x.time_s
                assert x.bound == (max(needed, key=needed.get) if known else "")
            assert count.total.flops / found.time_s <= peak * (1 + 1e-9)
            assert 0 < found.low_s <= found.time_s
            assert found.low_s >= count.total.flops / peak * (1 - 1e-9)


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
def test_a_larger_batch_never_lowers_the_throughput(device):
    for precision in set(device.precisions) - NPU_ONLY:
        rates = [on_device(mlp(batch), device, precision).examples_per_s for batch in (1, 2, 3, 8, 64, 1000)]
        assert all(b >= a * (1 - 1e-12) for a, b in pairwise(rates)), precision


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
def test_a_precision_that_is_not_published_is_never_replaced(device):
    count = mlp()
    for precision in set(registry.FORMATS) - set(device.precisions):
        with pytest.raises(DeviceError, match=rf"no published peak for '{precision}'. It has "):
            on_device(count, device, precision)
    if "fp32" not in device.precisions:
        with pytest.raises(DeviceError, match="no published peak for 'fp32'"):
            on_device(count, device)


def test_a_rate_without_a_size_of_its_numbers_is_refused():
    with pytest.raises(PredictionError, match=r"precision 'npu' has no known size; known are fp64, fp32, "):
        on_device(mlp(), "apple-m1", "npu")


# the indices of an embedding do not shrink with the precision
SCALED = [("article-cnn", "float16", 1e-12), ("article-cnn", "int8", 1e-12), ("transformer-base", "int8", 1e-3)]


@pytest.mark.parametrize(("name", "dtype", "close"), SCALED)
def test_bytes_scaled_are_bytes_counted_again(counted, name, dtype, close):
    from hwlimits.training import cost, zoo

    again = cost.cost(zoo.build(name), dtype=dtype)
    scaled, counted_again = (on_device(c, "a100-40gb-sxm", dtype) for c in (counted[name], again))
    assert scaled.weight_bytes == counted_again.weight_bytes
    assert scaled.time_s == pytest.approx(counted_again.time_s, rel=close)
    assert scaled.time_s <= counted_again.time_s * (1 + 1e-12), "a least time stays one"


# What others measured: images/s or seconds that vendors and projects print for these very devices.
# XNNPACK's README (all threads of a Raspberry Pi 4); coral.ai/docs/edgetpu/benchmarks (USB Accelerator).
PUBLISHED = [
    ("raspberry-pi-4", "fp32", "mobilenet-v1", 75e-3),
    ("raspberry-pi-4", "fp32", "mobilenet-v2", 44e-3),
    ("coral-edge-tpu", "int8", "mobilenet-v1", 2.2e-3),
    ("coral-edge-tpu", "int8", "mobilenet-v2", 2.3e-3),
]


@pytest.mark.parametrize(("device", "precision", "model", "measured_s"), PUBLISHED)
def test_no_published_measurement_beats_the_least_time(device, precision, model, measured_s):
    from hwlimits.training import cost, zoo

    found = on_device(cost.cost(zoo.build(model)), device, precision)
    assert found.low_s <= found.time_s < measured_s
    assert measured_s < 20 * found.time_s, "a wrong unit would be further off"


# what is not known is said


def test_without_a_bandwidth_the_arithmetic_alone_counts_and_no_bound_is_named():
    found = on_device(mlp(), "coral-edge-tpu", "int8")
    assert found.time_s == pytest.approx(mlp().total.flops / raw("coral-edge-tpu", "peaks", "int8"))
    assert {x.bound for x in found.layers} == {""}
    assert found.bound == ""
    why = RAW["coral-edge-tpu"]["absent"]["memory.bandwidth"]
    assert f"memory.bandwidth is not known: {why}: the times are those of the arithmetic alone" in found.notes


def test_what_is_left_out_is_named():
    count = ModelCost("odd", mlp().layers, {"mystery": "no formula"}, 1, "float32")
    notes = " ".join(on_device(count, "t4").notes)
    assert "what launching an operator costs" in notes
    assert "KV cache" in notes
    assert "not counted, and so without time: mystery" in notes
    assert "input and output of the largest layer" in notes
    assert "largest layer" not in " ".join(on_device(count, "t4", activation_bytes=1).notes)


# memory


def test_memory_that_is_given_is_scaled_to_the_precision():
    found = on_device(mlp(), "t4", "int8", activation_bytes=4000, weight_bytes=8000)
    assert (found.weight_bytes, found.activation_bytes, found.memory_bytes) == (2000, 1000, 3000)
    assert on_device(mlp(), "t4", "int4", weight_bytes=8000).weight_bytes == 1000
    int8 = mlp(dtype="int8")
    assert on_device(int8, "t4", activation_bytes=4000, weight_bytes=8000).memory_bytes == 12_000


def test_the_largest_layer_counts_input_and_output_but_no_weight(counted):
    assert largest_layer_bytes(counted["article-cnn"]) == 4 * (26 * 26 * 32 + 13 * 13 * 32)
    table = LayerCost("embedding", "Embedding", (1, 5, 8), Cost(parameters=10**6, bytes_read=160, bytes_written=160))
    assert largest_layer_bytes(ModelCost("table", (table,))) == 160, "of a table, rows alone are read"
    assert largest_layer_bytes(ModelCost("nothing", ())) == 0


def test_liveness_is_never_below_the_largest_layer(counted):
    from hwlimits.storage import peak_live_bytes
    from hwlimits.training import zoo
    from hwlimits.training.memory import inference_buffers

    for name in ("article-cnn", "mobilenet-v1"):
        assert peak_live_bytes(inference_buffers(zoo.build(name))) >= largest_layer_bytes(counted[name])


# the interval


def one_layer(weights: int, flops: int = 10) -> ModelCost:
    cost = Cost(macs=flops // 2, parameters=weights, bytes_read=4 * weights, bytes_written=4)
    return ModelCost("one", (LayerCost("dense", "Dense", (1, 1), cost),))


def test_the_lower_end_streams_only_the_weights_that_caches_can_t_keep():
    cache, memory = raw("rtx-4090", "caches", "L2"), raw("rtx-4090", "memory", "bandwidth")
    large, small = one_layer(100_000_000), one_layer(1_000_000)
    assert on_device(large, "rtx-4090", "fp32").low_s == pytest.approx((4e8 - cache) / memory)
    assert on_device(small, "rtx-4090", "fp32").low_s == 10 / raw("rtx-4090", "peaks", "fp32")
    assert "caches" not in RAW["stm32h743"]
    assert on_device(large, "stm32h743", "fp32").low_s == 10 / raw("stm32h743", "peaks", "fp32"), (
        "not known: none assumed"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rtx-4090", 75_497_472),
        ("stm32h743", None),
        ("core-i5-1135g7", 4 * (49_152 + 1_310_720) + 8_388_608),  # L1 and L2 of four cores, L3 of the chip
        ("snapdragon-x1e-80-100", 12 * 12_582_912),  # of a cluster: no more of them than cores
    ],
)
def test_all_caches_over_all_cores(name, expected):
    assert cache_bytes(registry.device(name)) == expected


def stored(path: Path, rows: list[tuple], heads=("model", "precision", "measured_s", "roofline_s")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([heads, *rows])
    return path


ROWS = [("a", "fp32", 2e-3, 1e-3), ("b", "float32", 1.5e-3, 1e-3), ("c", "int8", 9e-3, 3e-3)]


def test_factors_are_measured_over_least_times_of_that_precision(tmp_path):
    path = stored(tmp_path / "errors.csv", ROWS)
    assert measured_factors("fp32", path).values == (2.0, 1.5)
    assert measured_factors("int8-dla", path).values == pytest.approx((3.0,))
    assert str(measured_factors("float32", path)) == (
        "2 models measured at 1.5 to 2 times their least time, median 1.75 (errors.csv)"
    )


@pytest.mark.parametrize(
    ("precision", "change", "said"),
    [
        ("bf16", {}, r"errors.csv has no model measured in bf16"),
        ("fp32", {"heads": ("model", "precision", "measured_s", "x")}, r"errors.csv has no column 'roofline_s'"),
        ("fp32", {"rows": []}, r"errors.csv has no model measured in fp32"),
    ],
)
def test_a_file_without_the_factor_is_refused(tmp_path, precision, change, said):
    path = stored(tmp_path / "errors.csv", **{"rows": ROWS} | change)
    with pytest.raises(PredictionError, match=said):
        measured_factors(precision, path)


def test_without_a_file_no_upper_end_is_known(tmp_path, monkeypatch):
    with pytest.raises(PredictionError, match="no measured errors are stored yet"):
        measured_factors("fp32", tmp_path / "none.csv")

    def missing(name):
        raise FileNotFoundError(name)

    monkeypatch.setattr(predict.data, "path", missing)
    found = on_device(mlp(), "epyc-7742")
    assert found.high_s is None
    assert f"no upper end of the time is known: no measured errors are stored yet ({predict.RESULTS})" in found.notes


def test_the_upper_end_is_the_worst_factor_and_a_cpu_s_alone(tmp_path, monkeypatch):
    path = stored(tmp_path / "errors.csv", ROWS)
    monkeypatch.setattr(predict.data, "path", {predict.RESULTS: path}.__getitem__)
    for device in DEVICES:
        if "fp32" in device.precisions:
            found = on_device(mlp(), device)
            if device.kind in CPU_KINDS:
                assert found.high_s == pytest.approx(2 * found.time_s)
            else:
                assert found.high_s is None
                assert any(f"{device.name} is none ({device.kind})" in note for note in found.notes)
    given = on_device(mlp(), "t4", factors=Factors((1.0, 8.0), "by hand"))
    assert given.high_s == pytest.approx(8 * given.time_s)


# what every prediction holds


def prediction(layers, overhead_s) -> Prediction:
    return Prediction("m", "here", "fp32", 4, tuple(layers), overhead_s, None, None, None)


def test_time_bound_and_throughput_of_a_whole():
    layers = [LayerPrediction("a", "x", 2.0, "compute"), LayerPrediction("b", "x", 1.0, "memory"),
              LayerPrediction("c", "x", 0.5, "overhead"), LayerPrediction("d", "x", 0.0, "")]  # fmt: skip
    found = prediction(layers, 0.5)
    assert (found.time_s, found.examples_per_s, found.bound) == (4.0, 1.0, "compute")
    assert found.shares() == {"compute": 0.5, "memory": 0.25, "overhead": 0.25}
    assert prediction(layers, 2.0).bound == "overhead", "what operators and the call take, together"
    assert prediction(layers, None).time_s == 3.5
    empty = prediction([], None)
    assert (empty.time_s, empty.bound, empty.examples_per_s, empty.shares()) == (0, "", 0, {})


def test_a_prediction_is_json():
    record = json.loads(json.dumps(on_device(mlp(8), "t4", "int8").record(), allow_nan=False))
    assert record["bound"] == "memory"
    assert record["examples_per_s"] == pytest.approx(8 / record["time_s"])
    assert sum(layer["time_s"] for layer in record["layers"]) == pytest.approx(record["time_s"])
    assert record["shares"] == {"memory": pytest.approx(1)}


@pytest.mark.parametrize(
    ("time_s", "bound", "said"),
    [(1.0, "noise", "bound 'noise' is none of 'compute', 'memory', 'overhead', ''"),
     (-1.0, "compute", "must be a number from 0 up"), (float("nan"), "", "must be a number from 0 up")],
)  # fmt: skip
def test_a_layer_that_can_t_be_is_refused(time_s, bound, said):
    with pytest.raises(PredictionError, match=said):
        LayerPrediction("a", "x", time_s, bound)


def test_a_device_that_there_is_not_and_an_unknown_type_are_refused():
    with pytest.raises(DeviceError, match="No device 't5'"):
        on_device(mlp(), "t5")
    with pytest.raises(CountError, match="dtype 'int3' is not one that is counted"):
        mlp(dtype="int3")
