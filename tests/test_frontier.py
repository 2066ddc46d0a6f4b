"""The points of the frontier: architectures, a small sweep from training to table, published rows, the stored table."""

import csv
import dataclasses
import os
import runpy

import numpy as np
import pytest
from typer.testing import CliRunner

from hwlimits import compressed, hwz
from hwlimits import data as files
from hwlimits.bits import CodingError
from hwlimits.cli import app
from hwlimits.compressed import tensor_shapes
from hwlimits.data import cache_folder
from hwlimits.machine import provenance
from hwlimits.sweep import runs, settings
from hwlimits.training import frontier
from hwlimits.training import mnist as mnist_data
from hwlimits.training.frontier import COLUMNS, POINTS, SEEDS, TARGETS, file_name, layers_of, measure, published
from hwlimits.training.variants import vary

SMALL = {"architecture": "cnn-4-4-4-6-6", "quantized_epochs": 1, "rate": 0.5, "source": "mnist-5k"}


# --- architectures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("lenet-300-100", 266_610),
        ("lenet-5", 431_080),  # Caffe's, as Deep Compression and MIRACLE count it
        # kernels 3 x 3, then a gain and a bias for each filter; a dense layer of ten
        ("cnn-1-2-3-4-5", 9 * (1 + 2 + 6 + 12 + 20) + 2 * 15 + 10 * 6),
    ],
)
def test_an_architecture_has_its_parameters(architecture, parameters):
    shapes = tensor_shapes((28, 28, 1), layers_of(architecture))
    assert sum(int(np.prod(shape)) for shape in shapes) == parameters


def test_the_sides_of_a_cnn_s_images():
    sides = [shape[0] for shape in compressed.output_shapes((28, 28, 1), layers_of("cnn-1-2-3-4-5"))]
    assert sides == [26, 13, 11, 9, 4, 4, 2, 5, 10]  # at the end five means, and ten answers


@pytest.mark.parametrize(
    "name", ["lenet", "cnn-8-10-12-14", "cnn-8-10-12-14-0", "cnn-8-10-x-14-16", "mlp-1-2-3-4-5", ""]
)
def test_an_architecture_that_is_not_known_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"layers_of\('{name}'\): choose 'lenet-300-100', 'lenet-5' or 'cnn-a-b-c-d-e'"
    ):
        layers_of(name)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"architecture": "cnn"}, ValueError, "layers_of"),
        ({"bits": 1}, ValueError, "bits=1"),
        ({"coding": "zip"}, CodingError, "'zip'.*choose from rice, huffman, rans, contexts"),
        ({"held_out": 4000}, ValueError, r"train\(held_out=4000\): there are 4,000 training images"),
        ({"held_out": -1}, ValueError, r"train\(held_out=-1\): there are 4,000 training images"),
        ({"source": "cifar"}, ValueError, "load"),
        ({"epoch": 3}, TypeError, "'epoch'"),
    ],
)
def test_a_point_that_can_not_be_is_refused_before_anything_is_trained(monkeypatch, tmp_path, wrong, error, text):
    monkeypatch.setattr(frontier, "_one_thread", lambda: None)
    monkeypatch.setattr(frontier, "_taught", None)
    with pytest.raises(error, match=text):
        frontier.train(SMALL | {"epochs": 1} | wrong, tmp_path)


# --- from training to table ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two points measured in a sweep of one worker, on the sample: rows with files, and the sweep's folder.

    The teacher is made up: it is mostly right, and sure of nothing.
    """
    sample, cache = mnist_data.load("mnist-5k"), tmp_path_factory.mktemp("cache")
    folder, rng = cache / "teacher-mnist-5k", np.random.default_rng(0)
    folder.mkdir()
    count = frontier.variants.VARIANTS + 1
    images = np.broadcast_to(sample.x_train, (count, *sample.x_train.shape)).copy()
    images[1, :100] = vary(sample.x_train[:100], 0, 1)
    answers = np.eye(10)[sample.y_train] * 8 + rng.normal(0, 1, (count, len(sample.y_train), 10))
    np.save(folder / "images.npy", images)
    np.save(folder / "answers.npy", answers.astype(np.float16))
    patch = pytest.MonkeyPatch()
    patch.setenv("HWLIMITS_CACHE", str(cache))
    patch.setitem(POINTS, "700 B", SMALL | {"epochs": 2, "folded_epochs": 1, "learning_rate": 0.02})
    patch.setitem(POINTS, "lenet-300-100", SMALL | {"architecture": "lenet-300-100", "epochs": 0, "coding": "rans"})
    build = tmp_path_factory.mktemp("build")
    try:
        found = measure(["700 B"], [1], folder=build, workers=1)
        held_out = measure(["lenet-300-100"], [0], 500, folder=build, workers=1)
        patch.setattr(runs.cluster, "local", None)  # nothing is left to compute
        again = measure(["700 B"], [1], folder=build, workers=1)
    finally:
        patch.undo()
    assert again == found
    return found[0], held_out[0], sample


def test_a_row_says_what_was_trained_and_what_its_file_holds(swept):
    (row, content), _, sample = swept
    network = hwz.loads(content)
    assert list(row) == list(COLUMNS)
    assert network.layers == layers_of("cnn-4-4-4-6-6")
    expected = {
        "name": "700 B", "architecture": "cnn-4-4-4-6-6", "parameters": network.parameters, "file_bytes": len(content),
        "nonzero": sum(int((tensor.codes != 0).sum()) for tensor in network.tensors), "test_images": 1000, "seed": 1,
        "source": "ours", "max_bytes": 700, "max_error": 0.01, "bits": 4, "rate": 0.5, "sparsity": 0.0, "teacher": 0.7,
        "coding": "contexts", "file": "frontier/700-b-1.hwz",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["test_error"] == compressed.error_rate(network, sample.x_test, sample.y_test)
    assert row["test_error"] < 0.6  # of ten digits: it learnt something
    assert len(hwz.dumps(network, "contexts")) == len(content)


def test_held_out_images_are_the_last_ones_and_the_code_is_the_one_asked_for(swept):
    _, (row, content), sample = swept
    network = hwz.loads(content)
    assert (row["test_images"], row["coding"], row["parameters"]) == (500, "rans", 266_610)
    assert row["test_error"] == compressed.error_rate(network, sample.x_train[-500:], sample.y_train[-500:])
    assert content == hwz.dumps(network, "rans") != hwz.dumps(network, "rice")


def test_the_command_writes_table_and_files_and_for_choices_neither(swept, monkeypatch, tmp_path, capsys):
    found, asked = swept[0], []

    def measured(points, seeds, held_out, **sweep):
        asked.append((points, seeds, held_out, sweep["scheduler"]))
        return [found]

    monkeypatch.setattr(frontier, "measure", measured)
    monkeypatch.setattr(files, "path", lambda name, real=files.path: tmp_path if name == "results" else real(name))
    monkeypatch.setattr(provenance, "require_clean_commit", lambda: None)
    monkeypatch.setattr(frontier.mnist, "load", lambda source: asked.append(source))
    frontier.main(["--points", "700 B", "--seeds", "1", "--held-out", "500"])
    assert list(tmp_path.iterdir()) == []
    assert asked == [(["700 B"], [1], 500, None)]
    frontier.main(["--points", "700 B", "--scheduler", "tcp://there:8786"])
    assert asked[1:] == ["mnist", (["700 B"], [0, 1, 2], 0, "tcp://there:8786")]
    assert f"700 B seed 1: {len(found[1]):>7,} bytes" in capsys.readouterr().out
    assert (tmp_path / "frontier" / "700-b-1.hwz").read_bytes() == found[1]
    with open(tmp_path / "frontier.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert (rows[0]["file_bytes"], float(rows[0]["test_error"])) == (str(len(found[1])), found[0]["test_error"])
    assert [row["source"] for row in rows[1:]] == [row["source"] for row in published()]


def test_as_a_program_its_task_is_one_that_other_processes_can_import(monkeypatch):
    class Asked(Exception):
        pass

    def ask(task, points, **how):
        raise Asked(settings.task_name(task), len(points))

    monkeypatch.setattr(frontier, "run", ask)
    monkeypatch.setattr("sys.argv", ["frontier", "--held-out", "5000", "--points", "6 kB", "--seeds", "3", "4"])
    with pytest.warns(RuntimeWarning, match="found in sys.modules"), pytest.raises(Asked) as asked:  # as it is here
        runpy.run_module("hwlimits.training.frontier", run_name="__main__")
    assert asked.value.args == ("hwlimits.training.frontier:train", 2)


def test_a_file_has_a_name_of_its_own_for_each_point_and_seed():
    names = {file_name(point, seed) for point in TARGETS for seed in SEEDS}
    assert len(names) == 15
    assert {"lenet-300-100-0.hwz", "700-b-1.hwz", "6-kb-2.hwz"} <= names


def test_the_claims_are_so_many_times_smaller_than_float32():
    assert TARGETS["lenet-300-100"][0] == 4 * 266_610 // 60
    assert TARGETS["lenet-5"][0] == 4 * 431_080 // 200
    assert set(POINTS) == set(TARGETS)


def test_the_published_rows_are_those_of_the_papers():
    rows = {(row["name"], row["architecture"]): (row["file_bytes"], row["test_error"]) for row in published()}
    wanted = {
        ("Deep Compression", "lenet-300-100"): (27_000, 0.0158), ("Deep Compression", "lenet-5"): (44_000, 0.0074),
        ("MIRACLE lowest error", "lenet-5"): (3_030, 0.0069),
        ("MIRACLE highest compression", "lenet-5"): (1_520, 0.0096),
        ("MIRACLE early repository", "lenet-5"): (1_150, 0.0098),
        ("BitNetMCU 64", "CNN of 4-bit weights"): (11_000, 0.0045),
    }  # fmt: skip
    assert {name: rows[name] for name in wanted} == wanted
    for row in published():
        assert set(row) <= set(COLUMNS)
        assert row["source"] != "ours"
        assert row["counts"]


# --- the stored table ---------------------------------------------------------------------------


def stored():
    """The rows of data/results/frontier.csv that are ours, and the others."""
    try:
        path = files.path("results/frontier.csv")
    except FileNotFoundError:
        pytest.skip("data/results/frontier.csv is not there: `make results-frontier` makes it")
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    return [row for row in rows if row["source"] == "ours"], [row for row in rows if row["source"] != "ours"]


def of_point(name):
    return [row for row in stored()[0] if row["name"] == name]


def test_the_stored_table_has_the_published_rows():
    expected = [{name: str(row.get(name, "")) for name in COLUMNS} for row in published()]
    for found, row in zip(stored()[1], expected, strict=True):
        assert float(found.pop("test_error")) == float(row.pop("test_error"))
        assert found == row


@pytest.mark.parametrize("name", TARGETS)
def test_each_claim_is_held_by_the_mean_error_of_three_seeds_and_the_largest_of_their_files(name):
    rows, (most_bytes, most_error) = of_point(name), TARGETS[name]
    assert sorted(int(row["seed"]) for row in rows) == list(SEEDS)
    assert {(int(row["max_bytes"]), float(row["max_error"])) for row in rows} == {(most_bytes, most_error)}
    assert {int(row["test_images"]) for row in rows} == {10_000}
    assert max(int(row["file_bytes"]) for row in rows) <= most_bytes
    assert sum(round(float(row["test_error"]) * 10_000) for row in rows) <= round(3 * 10_000 * most_error)
    assert len({row["architecture"] for row in rows}) == 1
    if name in ("lenet-300-100", "lenet-5"):
        assert rows[0]["architecture"] == name


@pytest.mark.parametrize("name", TARGETS)
def test_each_stored_file_is_what_its_row_says(name):
    for row in of_point(name):
        path = files.path(f"results/{row['file']}")
        assert path.name == file_name(name, int(row["seed"]))
        assert path.stat().st_size == int(row["file_bytes"])
        network = hwz.read(path)
        assert network.layers == layers_of(row["architecture"])
        assert network.parameters == int(row["parameters"])
        assert sum(int(np.count_nonzero(tensor.codes)) for tensor in network.tensors) == int(row["nonzero"])


def test_the_command_says_that_the_sample_is_no_test_of_a_network_that_has_seen_it(monkeypatch):
    sample = mnist_data.load("mnist-5k")
    path = files.path(f"results/{of_point('700 B')[0]['file']}")
    wrong = round(1000 * compressed.error_rate(hwz.read(path), sample.x_test, sample.y_test))
    said = {}
    for source in ("mnist-5k", "mnist"):
        monkeypatch.setattr(mnist_data, "load", lambda s=source: dataclasses.replace(sample, source=s))
        result = CliRunner().invoke(app, ["evaluate", str(path)])
        assert result.exit_code == 0, result.output
        said[source] = " ".join(result.output.split())
        assert f"{wrong} of 1,000 test images are wrong, {wrong / 1000:.2%} ({source})." in said[source]
    assert "this is no test of it" in said["mnist-5k"]
    assert "this is no test of it" not in said["mnist"]


@pytest.fixture(scope="module")
def all_of_mnist():
    if not os.environ.get("HWLIMITS_MNIST") and not (cache_folder() / "mnist.npz").is_file():
        pytest.skip("all of MNIST is not on this computer: name the file in HWLIMITS_MNIST")
    return mnist_data.load("mnist")


@pytest.mark.parametrize("name", TARGETS)
def test_each_stored_file_alone_gives_the_error_that_is_claimed(name, all_of_mnist):
    for row in of_point(name):
        network = hwz.read(files.path(f"results/{row['file']}"))
        error = compressed.error_rate(network, all_of_mnist.x_test, all_of_mnist.y_test)
        assert error == float(row["test_error"]), row["file"]
