"""The command: its numbers against hand-derived ones, its sentences, its exit codes, its streams."""

import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import planted
import pytest
import yaml
from typer.testing import CliRunner

import hwlimits
from hwlimits.cli import app, checks, fitting, predicting, terminal
from hwlimits.machine.card import Card, Number
from hwlimits.machine.provenance import provenance

ROOT = Path(__file__).parents[1]
COMMANDS = ("doctor", "calibrate", "cost", "predict", "fit", "devices", "cards", "sweep", "evaluate")
PEAKS = {("fp32", 1): 100e9, ("fp32", 2): 200e9, ("int8", 2): 800e9}
BANDWIDTHS = {("L2", 1): 200e9, ("L2", 2): 400e9, ("DRAM", 1): 20e9, ("DRAM", 2): 40e9}
OVERHEADS = {"litert_invoke": 1e-6, "litert_operator": 1e-7, "tensorflow_call": 1e-4, "tensorflow_operator": 1e-6}

# The article's network, by its dimensions.
CONV1 = 26 * 26 * 32 * 3 * 3 * 1
CONV2 = 11 * 11 * 64 * 3 * 3 * 32
DENSE1, DENSE2 = 1600 * 64, 64 * 10
MACS = CONV1 + CONV2 + DENSE1 + DENSE2


def planted_card(scale: float = 1.0, **changes) -> Card:
    """A card of this computer with round numbers; `changes` are to its machine."""
    made = provenance("hwlimits calibrate")
    made["machine"] |= {"usable_cores": 2, "cpu_quota": None, "caches": [], **changes}
    numbers = [
        Number("peak", of, n, scale * v, "OP/s" if of == "int8" else "FLOP/s", 1e6, 9, "x")
        for (of, n), v in PEAKS.items()
    ]
    numbers += [Number("bandwidth", of, n, scale * v, "B/s", 1e6, 9, "x") for (of, n), v in BANDWIDTHS.items()]
    numbers += [Number("overhead", of, 1, v, "s", v / 9, 9, "x") for of, v in OVERHEADS.items()]
    return Card(tuple(numbers), made, {"bandwidth L3": "planted"})


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where this computer's card would be: nowhere yet. What a command sets in the environment is taken back."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("HWLIMITS_CACHE", str(tmp_path / "cache"))
    for name in ("HWLIMITS_CARD", "HWLIMITS_MNIST", "COLUMNS", "FORCE_COLOR", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "machine-card.json"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def result(*arguments):
    """The JSON that a command prints."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def refused(*arguments) -> str:
    """The one sentence of a command that can't do what it was asked."""
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("hwlimits: ")
    (line,) = done.stderr.splitlines()
    return line


def process(*arguments, **environment):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "hwlimits.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


# start and help


def loaded_after(program: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def command_program(*arguments) -> str:
    return (
        f"import sys\nfrom hwlimits.cli import app\ntry: app({list(map(str, arguments))})\nexcept SystemExit: pass\n"
        "print(*sys.modules)"
    )


HEAVY = {"tensorflow", "keras", "tf_keras", "numba", "matplotlib", "ai_edge_litert"}


def test_help_loads_nothing_heavy():
    loaded = loaded_after(command_program("--help"))
    assert not loaded & (HEAVY | {"numpy", "scipy", "h5py", "yaml", "psutil", "pooch"})
    assert "rich" in loaded, "it did run"


def test_no_command_loads_what_it_does_without(chain):
    assert not loaded_after(command_program("devices", "h100-sxm")) & (HEAVY | {"numpy"})
    assert not loaded_after(command_program("cost", chain)) & {"tensorflow", "keras", "tf_keras", "numba", "matplotlib"}
    for command in (["predict", chain, "--device", "t4"], ["fit", chain]):
        assert not loaded_after(command_program(*command)) & {"tensorflow", "keras", "tf_keras", "numba", "matplotlib"}
    assert not loaded_after(command_program("doctor")) & {"tensorflow", "keras", "tf_keras", "matplotlib"}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_s_help_has_an_example_and_json(command):
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert f"Example: hwlimits {command}" in shown.stdout
    assert "--json" in shown.stdout


def test_help_lists_the_commands_and_version_is_the_package_s():
    assert all(re.search(rf"│ {command} ", run("--help").stdout) for command in COMMANDS)
    assert run("--version").stdout == f"{hwlimits.__version__}\n"
    assert PROJECT["scripts"]["hwlimits"] == "hwlimits.cli:main"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_wrong_options_are_typer_s():
    for wrong in (["cost"], ["cost", "x", "--batch", "0"], ["cards"], ["no-such-command"], ["devices", "--no-option"]):
        done = run(*wrong)
        assert done.exit_code == 2
        assert "Usage: " in done.stderr


# cost


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """A .tflite file of three 1x1 convolutions, 8 to 8 channels at one pixel."""
    from hwlimits.training.overhead import litert_chain

    path = tmp_path_factory.mktemp("tflite") / "chain.tflite"
    path.write_bytes(litert_chain(3))
    return path


def test_cost_without_a_card_counts_and_says_what_to_do():
    done = run("cost", "article-cnn", "--json")
    assert done.exit_code == 0
    (hint,) = done.stderr.splitlines()
    assert hint.startswith("hwlimits: this computer has no machine card: `hwlimits calibrate` measures this computer")
    found = json.loads(done.stdout)
    assert found["roofline"] is None
    assert found["total"]["least_time_s"] is None
    assert found["total"]["macs"] == MACS == 194_688 + 2_230_272 + 102_400 + 640
    assert found["total"]["parameters"] == 320 + 18_496 + (DENSE1 + 64) + (DENSE2 + 10) == 121_930
    assert found["total"]["trainable_parameters"] == 121_930


def test_cost_against_the_card_of_this_computer(place):
    planted_card().write(place)
    found = result("cost", "article-cnn")
    layers = {layer["name"]: layer for layer in found["layers"]}
    # bias and activation are one operation each; softmax is five, and a maximum of 2 x 2 four
    flops = {
        "conv1": 2 * CONV1 + 2 * 26 * 26 * 32,
        "pool1": 4 * 13 * 13 * 32,
        "conv2": 2 * CONV2 + 2 * 11 * 11 * 64,
        "pool2": 4 * 5 * 5 * 64,
        "flatten": 0,
        "dense1": 2 * DENSE1 + 2 * 64,
        "dense2": 2 * DENSE2 + 6 * 10,
    }
    moved = {
        "conv1": 28 * 28 + 320 + 26 * 26 * 32,
        "pool1": 26 * 26 * 32 + 13 * 13 * 32,
        "conv2": 13 * 13 * 32 + 18_496 + 11 * 11 * 64,
        "pool2": 11 * 11 * 64 + 5 * 5 * 64,
        "flatten": 0,
        "dense1": 1600 + DENSE1 + 64 + 64,
        "dense2": 64 + DENSE2 + 10 + 10,
    }
    assert {name: layer["flops"] for name, layer in layers.items()} == flops
    assert {name: layer["bytes"] for name, layer in layers.items()} == {name: 4 * n for name, n in moved.items()}
    for level, bandwidth in (("DRAM", 40e9), ("L2", 400e9)):
        least = sum(max(flops[name] / 200e9, 4 * moved[name] / bandwidth) for name in flops)
        assert found["total"]["least_time_s_by_level"][level] == pytest.approx(least)
    assert found["total"]["least_time_s"] == found["total"]["least_time_s_by_level"]["DRAM"]
    assert {name: layer["bound"] for name, layer in layers.items()} == {
        "conv1": "memory", "pool1": "memory", "conv2": "compute", "pool2": "memory", "flatten": None,
        "dense1": "memory", "dense2": "memory",
    }  # fmt: skip
    in_conv2 = flops["conv2"] / 200e9 / found["total"]["least_time_s"]
    assert found["total"]["time_shares"] == pytest.approx({"compute": in_conv2, "memory": 1 - in_conv2})
    assert found["total"]["overhead_s"] == pytest.approx(1e-4 + 6 * 1e-6), "flatten does nothing"
    assert found["total"]["bound"] == "overhead"
    assert found["roofline"]["ridge_points_flops_per_byte"] == {"L2": 0.5, "DRAM": 5.0}
    alone = result("cost", "article-cnn", "--threads", 1)
    assert alone["total"]["least_time_s"] == pytest.approx(2 * found["total"]["least_time_s"])


def test_batch_and_dtype(place):
    planted_card().write(place)
    found = result("cost", "article-cnn", "--batch", 400, "--dtype", "int8")
    dense1 = found["layers"][5]
    assert dense1["macs"] == 400 * DENSE1
    assert dense1["bytes"] == 400 * (1600 + 64) + DENSE1 + 64
    assert found["roofline"]["peak_flops_per_s"] == 800e9
    assert found["total"]["bound"] in ("compute", "memory"), "so large a batch outlasts the overhead"
    assert found["total"]["bound"] == max(found["total"]["time_shares"], key=found["total"]["time_shares"].get)


def test_cost_against_a_device_of_the_registry():
    registry = yaml.safe_load((ROOT / "data" / "devices.yaml").read_text())["devices"]["t4"]
    peak, memory = (float(x["value"]) for x in (registry["peaks"]["fp16"], registry["memory"]["bandwidth"]))
    found = result("cost", "lenet-300-100", "--device", "T4", "--dtype", "float16", "--batch", 64)
    rows = [(x["flops"], x["bytes"]) for x in found["layers"]]
    assert rows[1] == (64 * (2 * 784 * 300 + 2 * 300), 2 * (64 * (784 + 300) + 785 * 300))
    assert found["total"]["least_time_s"] == pytest.approx(sum(max(f / peak, b / memory) for f, b in rows))
    assert found["total"]["overhead_s"] is None
    assert "NVIDIA T4" in found["roofline"]["name"]


def test_a_precision_that_there_is_not_is_never_replaced(place):
    assert refused("cost", "article-cnn", "--device", "tpu-v2") == (
        "hwlimits: tpu-v2 has no published peak for fp32; choose with --precision one of bf16"
    )
    assert "tpu-v2 has no published peak for 'fp64'" in refused(
        "cost", "article-cnn", "--device", "tpu-v2", "--precision", "fp64"
    )
    planted_card().write(place)
    done = run("cost", "article-cnn", "--dtype", "bfloat16", "--json")
    assert done.exit_code == 0
    assert "no least times: the card of" in done.stderr
    assert json.loads(done.stdout)["roofline"] is None
    assert "no peak of 'bf16' with threads=2" in refused("cost", "article-cnn", "--precision", "bf16")
    assert "no peak of 'fp32' with threads=3" in refused("cost", "article-cnn", "--threads", 3)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The article's network as the three kinds of Keras file, a model with an open length, and one with a Lambda."""
    from hwlimits.training import keras as door
    from hwlimits.training.models import article_cnn

    folder = tmp_path_factory.mktemp("keras")
    article_cnn().save(folder / "two.keras")
    with pytest.warns(UserWarning, match="HDF5"):
        article_cnn().save(folder / "two.h5")
    layers = door.keras3.layers
    door.keras3.Sequential(
        [
            door.keras3.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2), layers.Flatten(),
            layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax"),
        ]
    ).save(folder / "three.keras")  # fmt: skip
    layers = door.keras.layers
    open_length = door.keras.Sequential([door.keras.Input((None, 4)), layers.Conv1D(5, 3, name="conv")])
    open_length.save(folder / "open.keras")
    fixed = door.keras.Sequential([door.keras.Input((4,), batch_size=2), layers.Dense(3)])
    fixed.save(folder / "fixed.keras")
    inside = door.keras.Input((100,))
    around = layers.Add()([inside, layers.Dense(100)(layers.Dense(400)(inside))])
    door.keras.Model(inside, around).save(folder / "residual.keras")
    door.keras.Sequential([door.keras.Input((4,)), layers.Lambda(lambda x: x + 1)]).save(folder / "lambda.keras")
    return folder


@pytest.mark.parametrize("name", ["two.keras", "two.h5", "three.keras"])
def test_cost_of_a_keras_file(saved, name):
    total = result("cost", saved / name)["total"]
    assert (total["macs"], total["parameters"]) == (MACS, 121_930)


def test_a_length_that_is_open_must_be_said(saved):
    sentence = refused("cost", saved / "open.keras")
    assert "has the shape (None, 4) without the batch, with a length open" in sentence
    assert sentence.endswith("say for which to count with --length N")
    assert result("cost", saved / "open.keras", "--length", 10)["total"]["macs"] == (10 - 3 + 1) * 5 * 3 * 4
    assert "leave no length open: leave --length out" in refused("cost", saved / "two.keras", "--length", 10)
    images = refused("cost", "lenet-300-100", "--length", 5)
    assert images == "hwlimits: --length 5: lenet-300-100 takes images, not a sequence"
    assert refused("cost", "bert-base", "--length", 600) == "hwlimits: --length 600: bert-base takes 1 to 512 tokens"


def test_a_batch_that_is_fixed_must_be_said(saved):
    path = saved / "fixed.keras"
    assert refused("cost", path) == f"hwlimits: {path} was built for a batch of 2 alone: say --batch 2"
    assert result("cost", path, "--batch", 2)["total"]["macs"] == 2 * 4 * 3


def test_the_length_of_a_transformer_of_the_zoo():
    n, width, inner = 8, 768, 3072
    block = n * (4 * width * width + 2 * width * inner) + 2 * n * n * width
    found = result("cost", "bert-base", "--length", n)
    assert found["total"]["macs"] == 12 * block + width * width  # and the pooler, at one token


def test_a_lambda_layer_is_refused(saved):
    assert "Lambda" in refused("cost", saved / "lambda.keras")


def test_cost_of_a_litert_file(chain, place):
    planted_card().write(place)
    found = result("cost", chain)
    assert [(x["kind"], x["macs"]) for x in found["layers"]] == [("CONV_2D", 8 * 8)] * 3
    assert found["dtype"] == "float32"
    assert found["total"]["overhead_s"] == pytest.approx(1e-6 + 3 * 1e-7)
    for lacking, expected in (("litert_operator", 1e-6), ("litert_invoke", None)):
        card = planted_card()
        replace(card, numbers=tuple(n for n in card.numbers if n.of != lacking)).write(place)
        assert result("cost", chain)["total"]["overhead_s"] == expected, "the call alone, or nothing"
    assert "--dtype out" in refused("cost", chain, "--dtype", "int8")
    assert "--length out" in refused("cost", chain, "--length", 3)


def test_an_int8_file_is_held_against_the_int8_peak(compressed, place, tmp_path):
    planted_card().write(place)
    path = tmp_path / "int8.tflite"
    path.write_bytes(compressed[1]["quantized"].content)
    found = result("cost", path)
    assert found["dtype"] == "int8"
    assert found["roofline"]["peak_flops_per_s"] == 800e9
    assert found["total"]["macs"] == MACS


@pytest.fixture(scope="session")
def uncounted(chain, tmp_path_factory):
    """The chain with its second operator of a kind that has no formula."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(chain.read_bytes(), 0)
    unknown, operator = schema.OperatorCodeT(), model.subgraphs[0].operators[1]
    unknown.builtinCode = unknown.deprecatedBuiltinCode = schema.BuiltinOperator.L2_NORMALIZATION
    model.operatorCodes.append(unknown)
    operator.opcodeIndex, operator.inputs = 1, operator.inputs[:1]
    operator.builtinOptionsType, operator.builtinOptions = 0, None
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path_factory.mktemp("uncounted") / "unknown.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


def test_what_can_t_be_counted_is_named_and_the_rest_printed(uncounted):
    path = uncounted
    for arguments in (["--json"], []):
        done = run("cost", path, *arguments)
        assert done.exit_code == 2
        sentence = done.stderr.splitlines()[-1]
        assert sentence.startswith(f"hwlimits: {path}: not everything could be counted: x2 (L2_NORMALIZATION: ")
    assert re.search(r"^x2 +L2_NORMALIZATION +1×1×1×8 +0 \+ \? ", done.stdout, re.MULTILINE)
    assert re.search(r"^total +128 \+ \? ", done.stdout, re.MULTILINE)
    found = json.loads(run("cost", path, "--json").stdout)
    assert found["total"]["macs"] == 2 * 8 * 8
    assert list(found["not_counted"]) == ["x2"]


def test_a_bad_model_or_name_is_one_sentence(chain, tmp_path):
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(chain.read_bytes()[:200])
    assert "a damaged LiteRT file" in refused("cost", damaged)
    empty = tmp_path / "empty.keras"
    empty.touch()
    assert refused("cost", empty).startswith(f"hwlimits: {empty}: the file is empty.")
    assert refused("cost", tmp_path / "none.h5").endswith("none.h5: there is no such file")
    assert "did you mean resnet-50" in refused("cost", "resnet50")
    assert "No device 'h100-smx'; near it: h100-sxm" in refused("cost", chain, "--device", "h100-smx")
    assert "dtype 'int3' is not one that is counted" in refused("cost", "article-cnn", "--dtype", "int3")
    assert "--threads is about this computer" in refused("cost", chain, "--device", "t4", "--threads", 1)
    assert "--threads many: a number of threads from 1 up, or all" in refused("cost", chain, "--threads", "many")
    assert "?[31mx: there is no such file" in refused("cost", "\x1b[31mx"), (
        "what a name holds does not reach the terminal"
    )


def test_a_damaged_card_and_one_of_another_computer_are_told(chain, place):
    planted_card(cpu="Another").write(place)
    done = run("cost", chain, "--json")
    assert "is of another computer (Another, 2 cores): `hwlimits calibrate`" in done.stderr
    assert json.loads(done.stdout)["roofline"] is None
    place.write_text("{")
    assert "is no machine card, or a damaged one" in refused("cost", chain)


def test_a_small_table_for_a_narrow_terminal_a_large_one_for_a_wide(chain, place, monkeypatch):
    planted_card().write(place)
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run("cost", chain).stdout
    monkeypatch.setenv("COLUMNS", "120")
    wide = run("cost", chain).stdout
    assert max(map(len, narrow.split("\n\n")[0].splitlines())) <= 80
    assert "CONV_2D" in wide
    assert "CONV_2D" not in narrow
    assert "Bound by overhead: 0% of the least time is that of layers bound by compute" in wide.replace("\n", " ")


def test_the_zoo_is_listed():
    from hwlimits.training import zoo

    assert run("cost", "--zoo").stdout.split() == list(zoo.NAMES)
    assert result("cost", "--zoo") == list(zoo.NAMES)


# predict and fit

REGISTRY = yaml.safe_load((ROOT / "data" / "devices.yaml").read_text())


def published(device, *path):
    entry = REGISTRY["devices"][device]
    for key in path:
        entry = entry[key]
    return float(entry["value"])


def test_predict_on_a_device_by_hand():
    peak, memory = published("t4", "peaks", "int8"), published("t4", "memory", "bandwidth")
    found = result("predict", "article-cnn", "--device", "T4", "--precision", "int8", "--batch", 400)
    conv2, dense1 = found["layers"][2], found["layers"][5]
    moved = 400 * (13 * 13 * 32 + 11 * 11 * 64) + 18_496
    flops = 400 * (2 * CONV2 + 2 * 11 * 11 * 64)
    assert conv2["time_s"] == pytest.approx(max(flops / peak, moved / memory))
    assert dense1["time_s"] == pytest.approx((400 * (1600 + 64) + DENSE1 + 64) / memory)
    assert found["time_s"] == pytest.approx(sum(layer["time_s"] for layer in found["layers"]))
    assert (found["device"], found["precision"], found["batch"], found["bound"]) == ("t4", "int8", 400, "memory")
    assert found["weight_bytes"] == 121_930
    assert found["activation_bytes"] == 400 * (26 * 26 * 32 + 13 * 13 * 32), "the peak by liveness"
    assert found["overhead_s"] is None
    assert any("what launching an operator costs" in note for note in found["notes"])


def test_predict_takes_every_kind_of_model(saved, chain, compressed, tmp_path):
    times = {result("predict", saved / name, "--device", "t4")["time_s"] for name in ("two.keras", "three.keras")}
    assert times == {result("predict", "article-cnn", "--device", "t4")["time_s"]}
    assert len(result("predict", saved / "open.keras", "--length", 10, "--device", "t4")["layers"]) == 1
    residual = result("predict", saved / "residual.keras", "--device", "t4")
    assert residual["activation_bytes"] == 4 * (100 + 400 + 100), (
        "the input waits for the sum, beside the largest layer"
    )
    assert "Lambda" in refused("predict", saved / "lambda.keras", "--device", "t4")
    path = tmp_path / "int8.tflite"
    path.write_bytes(compressed[1]["quantized"].content)
    found = result("predict", path, "--device", "t4")
    assert (found["precision"], found["weight_bytes"]) == ("int8", path.stat().st_size)
    assert found["activation_bytes"] == 26 * 26 * 32 + 13 * 13 * 32
    assert result("predict", path, "--device", "jetson-orin-nx", "--precision", "int8-dla")["precision"] == "int8-dla"
    for precision in ("fp8", "fp16"):
        assert refused("predict", path, "--device", "t4", "--precision", precision) == (
            f"hwlimits: {path} computes in int8, as a .tflite file it can't do so in {precision}: export it again, or "
            "leave --precision out"
        )
    assert result("predict", chain, "--device", "a100-40gb-sxm", "--precision", "tf32")["memory_bytes"] > 0


def test_predict_and_fit_name_what_is_not_there(monkeypatch, chain):
    for module in (predicting, fitting):  # both imported before: one takes `ask` from the other
        monkeypatch.setattr(module, "ask", None)  # they are told before a model is counted
    assert "No device 't5'; near it: t4" in refused("predict", "resnet-50", "--device", "t5")
    assert "No link 'ethernet-2g'" in refused("fit", "resnet-50", "--network", "ethernet-2g", "--example-size", "1kB")
    assert refused("fit", "x", "--network", "ethernet-1g") == (
        "hwlimits: --network ethernet-1g: say what comes over it with --data-per-day or --example-size"
    )
    assert refused("fit", "x", "--data-per-day", "1GB", "--examples-per-day", "9", "--example-size", "1kB") == (
        "hwlimits: --data-per-day, --examples-per-day and --example-size: two give the third, leave one out"
    )
    for wrong in ("10", "0ms", "-1s", "ms", "1 hour", "1e999ms"):
        assert refused("fit", "x", "--latency", wrong).startswith(f"hwlimits: --latency {wrong}: a number above 0 with")
    assert "--data-per-day 5: a number above 0 with its unit (B, kB, MB" in refused("fit", "x", "--data-per-day", "5")
    for option in ("--power", "--price", "--throughput", "--examples-per-day"):
        assert refused("fit", "x", option, "0") == f"hwlimits: {option} 0: a number above 0"
        assert refused("fit", "x", option, "nan") == f"hwlimits: {option} nan: a number above 0"


def test_a_precision_to_predict_in_is_never_replaced(chain):
    assert refused("predict", chain, "--device", "tpu-v2") == (
        "hwlimits: tpu-v2 has no published peak for fp32; choose with --precision one of bf16"
    )
    sentence = refused("predict", "article-cnn", "--device", "v100-pcie", "--precision", "int8")
    assert "v100-pcie has no published peak for 'int8'. It has fp64, fp32, fp16, fp16-vector." in sentence
    assert "no device has a published peak for 'int3'; there are" in refused(
        "fit", "article-cnn", "--precision", "int3"
    )
    assert "precision 'int3' has no known size" in refused("fit", chain, "--precision", "int3")


@pytest.mark.parametrize("command", [["predict", "--device", "t4"], ["fit"]])
def test_predict_and_fit_name_what_can_t_be_counted_and_print_the_rest(uncounted, command):
    for arguments in (["--json"], []):
        done = run(command[0], uncounted, *command[1:], *arguments)
        assert done.exit_code == 2
        assert done.stderr.splitlines()[-1].startswith(f"hwlimits: {uncounted}: not everything could be counted: x2 (")
        assert done.stdout
    found = json.loads(run(command[0], uncounted, *command[1:], "--json").stdout)
    predicted = found if command[0] == "predict" else found["fits"][0]["prediction"]
    assert "not counted, and so without time: x2" in predicted["notes"]


def test_fit_answers_for_every_device_once():
    found = result("fit", "article-cnn", "--latency", "20ms", "--power", 30, "--batch", 2)
    names = [each["device"] for each in (*found["fits"], *found["others"])]
    assert sorted(names) == sorted(REGISTRY["devices"])
    assert found["limits"] == {"latency_s": 0.02, "examples_per_s": None, "power_w": 30, "price_usd": None}
    assert all(each["power_w"] <= 30 and each["prediction"]["time_s"] <= 0.02 for each in found["fits"])
    first = found["fits"][0]
    text = " ".join(run("fit", "article-cnn", "--latency", "20ms", "--power", 30, "--batch", 2).stdout.split())
    assert f"the cheapest whose price is known is {first['device']}, {first['price_usd']:,.6g} USD." in text
    assert first["price_usd"] == min(each["price_usd"] for each in found["fits"] if each["price_usd"])
    assert {each["prediction"]["batch"] for each in found["fits"]} == {2}
    kept = {each["precision"] for each in result("fit", "article-cnn", "--precision", "fp32")["fits"]}
    assert kept == {"fp32"}


def test_fit_says_what_the_data_take(chain):
    link = ["--network", "ethernet-1g", "--data-per-day", "5.4 TB", "--example-size", "1 MB"]
    found = result("fit", chain, *link)
    assert found["load"]["link_share"] == pytest.approx(0.5)
    assert found["load"]["examples_per_day"] == pytest.approx(5.4e6)
    t4 = next(each for each in found["fits"] if each["device"] == "t4")
    assert t4["fed"] == pytest.approx(125 / t4["prediction"]["examples_per_s"])
    text = run("fit", chain, *link).stdout.replace("\n", " ")
    assert "5.4 TB of data a day; 1.97 PB for each year that they are kept." in text
    assert "ethernet-1g (125 MB/s) takes 12 hours to move a day's data: 0.5 of the link." in text
    assert "ethernet-1g brings at most 125 examples/s." in text
    more = run("fit", chain, "--network", "ethernet-1g", "--data-per-day", "20TB").stdout
    assert "0 of 94 devices" in more.replace("\n", " ")


def test_a_file_is_run_in_its_own_type_alone(compressed, tmp_path):
    path = tmp_path / "int8.tflite"
    path.write_bytes(compressed[1]["quantized"].content)
    found = result("fit", path)
    assert {each["precision"].partition("-")[0] for each in found["fits"]} == {"int8"}
    assert "int16" not in {each["precision"] for each in found["fits"]}
    v100 = next(each for each in found["others"] if each["device"] == "v100-pcie")
    assert v100["reasons"][0]["text"] == "no published peak for int8; it has fp64, fp32, fp16, fp16-vector"


FITS = [[], ["--latency", "10ms", "--power", "30"], ["--network", "ethernet-1g", "--example-size", "150kB"]]


@pytest.mark.parametrize("options", FITS, ids=lambda o: " ".join(o) or "no limit")
def test_an_answer_fits_a_terminal(monkeypatch, options, chain):
    for columns in (80, 100, 130, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        for command in (["fit", chain, *options], ["predict", chain, "--device", "t4"]):
            shown = run(*command).stdout
            assert max(map(len, shown.splitlines())) <= columns
            rows = shown.split("\n\n")[0].splitlines()
            assert [row for row in rows[2:] if not row[0].isspace() and len(row.split()) < 3 and "---" not in row] == []


def with_operators(**changes) -> Card:
    """The planted card, with the operators of a computer that is made up."""
    return replace(planted_card(**changes), operators=planted.operators())


def test_predict_on_this_computer_says_what_to_do_without_a_card(place, chain):
    assert "this computer has no machine card: `hwlimits calibrate` measures" in refused("predict", chain)
    with_operators(cpu="Another").write(place)
    assert "is of another computer (Another, 2 cores)" in refused("predict", chain)
    planted_card().write(place)
    assert "no operator times (it was made before operators were measured): `hwlimits" in refused("predict", chain)


def test_predict_on_this_computer(place, compressed, tmp_path):
    with_operators().write(place)
    path = tmp_path / "int8.tflite"
    path.write_bytes(compressed[1]["quantized"].content)
    found = result("predict", path)
    kinds = [layer["kind"] for layer in found["layers"]]
    assert kinds == [
        "CONV_2D",
        "MAX_POOL_2D",
        "CONV_2D",
        "MAX_POOL_2D",
        "FULLY_CONNECTED",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]
    assert found["precision"] == "int8"
    assert found["low_s"] < found["time_s"] < found["high_s"]
    assert found["time_s"] == pytest.approx(found["overhead_s"] + sum(layer["time_s"] for layer in found["layers"]))
    assert result("predict", path, "--batch", 8)["time_s"] > 4 * found["time_s"]
    shown = run("predict", path).stdout
    assert "Interval: from" in shown
    assert "at least" not in shown, "it means to be the time, not a bound of it"
    assert "as a .tflite file it can't do so in fp32" in refused("predict", path, "--precision", "fp32")


def test_predict_converts_a_model_of_keras(place):
    with_operators().write(place)
    whole, small = result("predict", "article-cnn"), result("predict", "article-cnn", "--precision", "int8")
    assert (whole["precision"], small["precision"]) == ("fp32", "int8")
    assert "converted to LiteRT, int8" in small["notes"]
    assert small["weight_bytes"] < 0.3 * whole["weight_bytes"]
    assert "--precision bf16: on this computer a model runs in LiteRT, in one of fp32, fp16, int8" in refused(
        "predict", "article-cnn", "--precision", "bf16"
    )


# devices


def test_devices_lists_the_registry():
    found = {entry["name"]: entry for entry in result("devices")}
    assert set(found) == set(REGISTRY["devices"])
    for name, entry in REGISTRY["devices"].items():
        peaks = {f"peaks.{p}": float(number["value"]) for p, number in entry.get("peaks", {}).items()}
        there = found[name]["numbers"]
        assert {field: there[field]["value"] for field in there if field.startswith("peaks.")} == peaks
        assert all(number["sources"][0]["url"].startswith("http") and number["read"] for number in there.values())
    assert {entry["name"] for entry in result("devices", "--links")} == set(REGISTRY["links"])
    gpus = {name for name, entry in REGISTRY["devices"].items() if entry["kind"] == "gpu"}
    assert {entry["name"] for entry in result("devices", "--kind", "gpu")} == gpus
    shown = run("devices").stdout
    assert all(re.search(rf"^{re.escape(name)} ", shown, re.MULTILINE) for name in REGISTRY["devices"])


def test_one_device_with_units_and_sources():
    shown = run("devices", "V100-SXM2").stdout
    assert re.search(r"^peaks\.fp16 +dense.* \[\d\].* 125 TFLOP/s +\d{4}-\d\d-\d\d", shown, re.MULTILINE)
    sources = REGISTRY["devices"]["v100-sxm2"]["peaks"]["fp16"]["source"]  # a key, or several
    for source in [sources] if isinstance(sources, str) else sources:
        url = REGISTRY["sources"][source]["url"]
        assert re.search(rf"^\[\d\] .*, {re.escape(url)}$", shown, re.MULTILINE)
    assert "per direction" in run("devices", "pcie-4-x16").stdout, "a link by its name alone"
    assert result("devices", "pcie-4-x16") == result("devices", "pcie-4-x16", "--links")
    assert result("devices", "NVLink-4") == result("devices", "nvlink-4"), "written as loosely as a device"


def words(text: str) -> Counter:
    """Runs of letters and digits; a long word may be broken after a hyphen or a slash, but not elsewhere."""
    return Counter(re.findall(r"\w+", text))


def test_every_entry_can_be_shown_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    commands = [[], ["--links"], *([name] for name in [*REGISTRY["devices"], *REGISTRY["links"]])]
    narrow = [run("devices", *command) for command in commands]
    monkeypatch.setenv("COLUMNS", "300")
    for command, done in zip(commands, narrow, strict=True):
        assert done.exit_code == 0
        too_long = [line for line in done.stdout.splitlines() if len(line) > 80 and not line.startswith("[")]
        assert too_long == []
        assert words(done.stdout) == words(run("devices", *command).stdout), "nothing is cut off"


def test_unknown_devices_and_kinds_are_one_sentence():
    assert refused("devices", "h100") == "hwlimits: 'h100' may be any of h100-pcie, h100-sxm: name one."
    assert "No device or link 'raspberry-pi-55'; near it: raspberry-pi-5" in refused("devices", "raspberry-pi-55")
    assert "No link 'pcie-9'" in refused("devices", "pcie-9", "--links")
    near = refused("devices", "nvlink")
    assert all(name in near for name in REGISTRY["links"] if name.startswith("nvlink"))
    assert refused("devices", "zzzz").endswith("`hwlimits devices` lists all devices, with --links all links.")
    assert refused("devices", "zzzz", "--links").endswith("`hwlimits devices --links` lists all.")
    assert "there is no such kind; kinds are laptop-cpu" in refused("devices", "--kind", "phone")
    assert "--kind phone: there is no such kind; kinds are pcie" in refused("devices", "--links", "--kind", "phone")
    assert "--kind gpu: that is a kind of device: leave --links out" in refused("devices", "--links", "--kind", "gpu")
    assert "--kind pcie: that is a kind of link: say --links, too" in refused("devices", "--kind", "pcie")
    assert run("devices", "t4", "--kind", "gpu").exit_code == 2


# calibrate


@pytest.fixture
def calibration(monkeypatch):
    """Calibration replaced by a planted card; a list of how it was called."""
    calls = []

    def calibrate(quick=False, progress=True):
        calls.append((quick, progress))
        return planted_card(scale=2)

    import hwlimits.machine.calibrate as module

    monkeypatch.setattr(module, "calibrate", calibrate)
    return calls


def test_calibrate_keeps_the_card_and_prints_it(calibration, place, tmp_path):
    done = run("calibrate")
    assert done.exit_code == 0
    assert Card.read(place) == planted_card(scale=2)
    assert re.search(r"^peak fp32 +2 +400 GFLOP/s +1 MFLOP/s +9$", done.stdout, re.MULTILINE)
    assert "Left out: bandwidth L3 (planted)." in done.stdout
    assert done.stderr.splitlines() == [
        "hwlimits: measuring this computer, about two minutes", f"hwlimits: the card is kept in {place}",
    ]  # fmt: skip
    other = tmp_path / "new" / "mine.json"
    printed = result("calibrate", "--quick", "--output", other)
    assert printed == json.loads(other.read_text())
    assert calibration == [(False, False), (True, False)], "no bar where stderr is no terminal"


def test_an_interrupted_calibration_leaves_the_old_card(monkeypatch, place):
    import hwlimits.machine.calibrate as module

    planted_card().write(place)
    before = place.read_bytes()

    def interrupted(quick, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "calibrate", interrupted)
    done = run("calibrate")
    assert done.exit_code == 130
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == f"hwlimits: interrupted; {place} is as it was"
    assert place.read_bytes() == before
    assert list(place.parent.iterdir()) == [place]


def no_permission(dir):
    raise PermissionError(13, "Permission denied", str(dir))


def test_calibrate_overwrites_nothing_but_this_computer_s_card(calibration, place, tmp_path, monkeypatch):
    thesis = tmp_path / "thesis.json"
    thesis.write_text('{"chapters": 7}')
    assert "thesis.json is there and is no machine card that can be read" in refused("calibrate", "--output", thesis)
    other = tmp_path / "other.json"
    planted_card(cpu="Another").write(other)
    monkeypatch.setenv("HWLIMITS_CARD", str(other))
    assert "the card of another computer (Another, 2 cores): unset it, or say --output" in refused("calibrate")
    monkeypatch.delenv("HWLIMITS_CARD")
    assert "no card can be kept in" in refused("calibrate", "--output", thesis / "card.json")
    with monkeypatch.context() as patched:
        patched.setattr("tempfile.TemporaryFile", no_permission)
        assert "(Permission denied): say --output FILE" in refused("calibrate")
    assert calibration == [], "all of it is told before the minute, not after"
    place.parent.mkdir(exist_ok=True)
    place.write_text("{ damaged")
    assert run("calibrate").exit_code == 0, "a damaged card in its usual place is made anew"
    assert Card.read(place) == planted_card(scale=2)


# cards


def test_cards_pools_and_draws(tmp_path, monkeypatch):
    paths = [tmp_path / f"{name}.json" for name in "abc"]
    for scale, path in zip((1, 2, 6), paths, strict=True):
        planted_card(scale, cpu=f"CPU {path.stem}").write(path)
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    picture = tmp_path / "class.png"
    done = run("cards", *paths, damaged, "--plot", picture, "--json")
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0].startswith(f"hwlimits: not pooled: {damaged} is no machine card")
    found = json.loads(done.stdout)
    assert [row["fp32_flops_per_s"] for row in found["cards"]] == [200e9, 400e9, 1200e9]
    assert found["median"]["peak_flops_per_s"] == statistics.median([200e9, 400e9, 1200e9])
    assert found["median"]["bandwidths_bytes_per_s"] == {"L2": 800e9, "DRAM": 80e9}
    assert list(found["refused"]) == ["damaged.json"]
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("cards", *paths).stdout
    assert re.search(r"^b\.json +2 +2 +80 GB/s +400 G +1\.6 T +5$", shown, re.MULTILINE)
    assert all(len(line) <= 80 for line in shown.splitlines())
    alone = run("cards", *paths, "--threads", 1).stdout
    assert re.search(r"^a\.json +2 +1 +20 GB/s +100 G +5$", re.sub("CPU a ", "", alone), re.MULTILINE)


def test_no_readable_card_is_one_sentence(tmp_path):
    path = tmp_path / "x.json"
    assert "there is no machine card to pool (x.json: " in refused("cards", path)
    planted_card().write(path)
    assert "none of the 1 cards has a peak of 'bf16'" in refused("cards", path, "--precision", "bf16")
    assert refused("cards", path, "--threads", 7).endswith(" with 7 threads; there are some with 1, 2 threads")
    assert "the plot can't be written to" in refused("cards", path, "--plot", tmp_path / "none" / "x.png")
    assert run("cards", path, "--plot", tmp_path / "x.pdf").exit_code == 2


# doctor


def checked() -> dict[str, checks.Check]:
    return {check.name: check for check in checks.look()}


def test_doctor_names_every_requirement_and_this_installation_is_ready(place):
    found = result("doctor")
    assert found["ready"] is True
    names = {check["name"] for check in found["checks"]}
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["course"]]
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in wanted} <= names
    versions = {check["name"]: check["found"] for check in found["checks"]}
    assert versions["numpy"] == metadata.version("numpy")
    assert versions["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert str(place.parent) in versions["MNIST"]
    assert not place.parent.exists(), "nothing was downloaded or made"
    assert "The course can run." in run("doctor").stdout


def test_a_missing_and_an_old_package_are_told_with_the_line_that_gets_them(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "scipy":
            raise metadata.PackageNotFoundError(name)
        return "1.26.4" if name == "numpy" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = checked()
    assert found["scipy"] == checks.Check(
        "scipy", "missing", "not installed", 'make setup, or: python -m pip install "scipy>=1.14"'
    )
    assert (found["numpy"].status, found["numpy"].found) == ("missing", "1.26.4, and >=2.0 is needed")
    done = run("doctor")
    assert done.exit_code == 1
    assert "The course can't run yet" in done.stdout
    assert json.loads(run("doctor", "--json").stdout)["ready"] is False


def test_an_installation_without_a_checkout_has_its_requirements_in_its_metadata(monkeypatch, tmp_path):
    class Metadata(dict):
        def get_all(self, name, default):
            return ["numpy>=2.1", 'jupyterlab>=4.4; extra == "course"', 'ruff>=0.12; extra == "dev"']

    monkeypatch.setattr(checks, "CHECKOUT", tmp_path)
    monkeypatch.setattr(metadata, "metadata", lambda name: Metadata({"Requires-Python": ">=3.11,<3.14"}))
    monkeypatch.setattr(metadata, "version", lambda name: "0.1")
    found = {check.name: check for check in checks._packages()}
    assert set(found) == {"numpy", "jupyterlab"}
    assert found["numpy"].how == 'python -m pip install "numpy>=2.1"', "there is no Makefile"
    assert checks._python()[0] == "ok"


def test_what_else_stops_the_course_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("HWLIMITS_MNIST", str(tmp_path / "gone.npz"))
    assert (checked()["MNIST"].status, run("doctor").exit_code) == ("missing", 1)
    monkeypatch.delenv("HWLIMITS_MNIST")
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    assert checked()["Python"].status == "missing"


def test_a_kernel_of_another_python_is_found(monkeypatch, tmp_path):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    kernel = {"argv": ["/usr/other/bin/python3", "-m", "ipykernel_launcher"], "display_name": "x", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(kernel))
    assert checked()["kernel of JupyterLab"].status == "ok"
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found = checked()["kernel of JupyterLab"]
    assert (found.status, found.found) == ("missing", "python3 runs /usr/other/bin/python3, not this Python")
    assert str(folder) in found.how


def test_doctor_on_the_card_and_on_what_can_t_be_told(monkeypatch, place):
    assert checked()["machine card"].how == "hwlimits calibrate"
    planted_card().write(place)
    assert checked()["machine card"].status == "ok"
    planted_card(cpu="Another").write(place)
    assert "is of another computer (Another, 2 cores)" in checked()["machine card"].found
    place.write_text("{")
    assert (checked()["machine card"].status, "damaged" in checked()["machine card"].found) == ("note", True)
    monkeypatch.setitem(sys.modules, "psutil", None)
    memory = checked()["memory"]
    assert (memory.status, "can't be told (ModuleNotFoundError" in memory.found) == ("note", True)


def test_without_tools_doctor_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    found = checked()
    assert (found["C compiler"].status, found["C compiler"].found) == ("note", "none")
    assert (found["GPU"].status, "list_physical_devices" in found["GPU"].how) == ("note", True)


def test_a_gpu_is_named_without_its_number(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "GPU 0: NVIDIA T4 (UUID: GPU-1234)"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert (checked()["GPU"].status, checked()["GPU"].found) == ("ok", "GPU 0: NVIDIA T4")


# errors and streams


def test_a_fault_in_the_program_keeps_its_traceback(monkeypatch):
    def broken(kind=None):
        raise ValueError("a fault")

    monkeypatch.setattr("hwlimits.devices.devices", broken)
    assert isinstance(run("devices").exception, ValueError)


def test_every_error_of_the_library_is_a_sentence(monkeypatch):
    from hwlimits.machine.ledger import LedgerError
    from hwlimits.roofline import RooflineError
    from hwlimits.training.mnist import MnistError

    for kind in (LedgerError, RooflineError, MnistError):

        def failing(kind_of_device=None, kind=kind):
            raise kind("what was asked,\nand why not")

        monkeypatch.setattr("hwlimits.devices.devices", failing)
        assert refused("devices") == "hwlimits: what was asked, and why not"


def test_as_a_program_it_exits_and_speaks_the_same_way(chain):
    wrong = process("devices", "h100")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "hwlimits: 'h100' may be any of h100-pcie, h100-sxm: name one.\n"
    # stderr is one line though TensorFlow has been loaded
    counted = process("cost", "lenet-300-100", "--json")
    assert counted.returncode == 0
    assert len(counted.stderr.splitlines()) == 1
    assert json.loads(counted.stdout)["total"]["macs"] == 784 * 300 + 300 * 100 + 100 * 10


def test_a_terminal_that_knows_ascii_alone_gets_ascii(chain, place):
    planted_card().write(place)
    done = process("cost", chain, PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "1x1x1x8" in done.stdout
    assert "about 1.3 us." in done.stdout
    assert "\x1b" not in done.stdout
    assert process("--help", PYTHONIOENCODING="ascii").stdout.isascii()
    odd = "größe\udcff.keras"  # a name of bytes that are no UTF-8
    assert process("cost", odd, PYTHONIOENCODING="ascii").returncode == 2


def test_text_that_a_stream_lacks_is_spelled():
    assert "3 µs × 2 – ok… ж".encode("ascii", "hwlimits" if _registered() else "") == b"3 us x 2 - ok... ?"


def _registered() -> bool:
    import codecs

    codecs.register_error("hwlimits", terminal._spelled)
    return True


def test_a_reader_that_leaves_early_is_no_error():
    for arguments in (["devices", "--json"], ["devices"], ["--help"], ["devices", "t4"], ["--version"]):
        command = [sys.executable, "-m", "hwlimits.cli", *arguments]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait() == 1
        child.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence():
    for arguments in (["devices", "--json"], ["devices", "t4"], ["--version"]):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "hwlimits.cli", *arguments]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("hwlimits: the result can't be written: ")


def test_json_that_is_none_is_a_fault():
    with pytest.raises(ValueError, match="not JSON compliant"):
        terminal.write_json({"time_s": float("nan")})
