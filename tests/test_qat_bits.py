"""The comparison of bits in small: its lines, what they start from, and that nothing is trained twice."""

import csv

import numpy as np
import pytest

from hwlimits import data
from hwlimits.training import qat_bits
from hwlimits.training.evaluate import accuracy_interval


def test_every_network_of_a_seed_starts_from_the_same_one():
    plain = qat_bits.recipe()
    for engine in qat_bits.ENGINES:
        for bits in qat_bits.BITS:
            found = qat_bits.recipe(engine, bits)
            assert found.phases[:-1] == plain.phases
            assert (found.batch, found.shift_pixels, found.engine) == (plain.batch, plain.shift_pixels, engine)
            assert (found.phases[-1].form, found.phases[-1].bits) == ("quantize", bits)
            assert qat_bits.QatTraining(found, 1, "mnist-5k").plain.recipe == plain


def test_a_small_run_has_all_the_lines_and_trains_nothing_twice(tmp_path):
    settings = {"bits": (4,), "engines": ("own",), "share": 0.1, "build": str(tmp_path)}
    found = qat_bits.run((0,), "mnist-5k", **settings)
    after = {(bits, f"ptq_{m}", "own") for bits in (8, 4, 2) for m in ("min_max", "mean_square_error")}
    assert {(r["bits"], r["method"], r["engine"]) for r in found} == {
        (32, "float32", "none"), (32, "control", "none"), *after, (4, "qat", "own"),
    }  # fmt: skip
    by = {(r["bits"], r["method"], r["engine"]): r for r in found}
    for row in found:
        assert list(row) == list(qat_bits.COLUMNS)
        right = round(1000 * row["test_accuracy"])
        assert (row["low"], row["high"]) == pytest.approx(accuracy_interval(right, 1000))
        assert row["epochs"] == (7 if row["method"] in ("qat", "control") else 5)
    plain = by[32, "float32", "none"]["test_accuracy"]
    assert plain > 0.7
    assert by[8, "ptq_min_max", "own"]["test_accuracy"] == pytest.approx(plain, abs=0.01)
    assert by[4, "qat", "own"]["test_accuracy"] > 0.7
    (start,) = tmp_path.glob("plain-*/seed-0/phase-0.npz")
    for copy in (*tmp_path.glob("own-4-*/seed-0/phase-0.npz"), *tmp_path.glob("control-*/seed-0/phase-0.npz")):
        with np.load(start) as a, np.load(copy) as b:
            assert all(np.array_equal(a[name], b[name]) for name in a.files)
    assert len(list(tmp_path.glob("*/seed-0/phase-0.npz"))) == 3
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert qat_bits.run((0,), "mnist-5k", **settings) == found
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def table():
    with open(data.path("results/qat_bits.csv"), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def mean_accuracy(table, bits, method, engine):
    return np.mean([float(r["test_accuracy"]) for r in table
                    if (int(r["bits"]), r["method"], r["engine"]) == (bits, method, engine)])  # fmt: skip


def test_the_stored_table_has_every_line(table):
    wanted = {(seed, 32, method, "none") for seed in qat_bits.SEEDS for method in ("float32", "control")}
    for seed in qat_bits.SEEDS:
        for bits in qat_bits.BITS:
            wanted |= {(seed, bits, f"ptq_{m}", "own") for m in ("min_max", "mean_square_error")}
            wanted |= {(seed, bits, "qat", engine) for engine in qat_bits.ENGINES}
    assert list(table[0]) == list(qat_bits.COLUMNS)
    found = [(int(r["seed"]), int(r["bits"]), r["method"], r["engine"]) for r in table]
    assert sorted(found) == sorted(wanted)


def test_the_stored_lines_are_of_all_the_test_images(table):
    for row in table:
        right = float(row["test_accuracy"]) * 10_000
        assert right == pytest.approx(round(right), abs=1e-6)
        assert (float(row["low"]), float(row["high"])) == pytest.approx(
            accuracy_interval(round(right), 10_000), abs=1e-5
        )
        total = qat_bits.BASELINE_EPOCHS + (qat_bits.QAT_EPOCHS if row["method"] in ("qat", "control") else 0)
        assert int(row["epochs"]) == total


def test_what_the_stored_table_shows(table):
    plain, control = (mean_accuracy(table, 32, method, "none") for method in ("float32", "control"))
    assert control > plain > 0.985
    # 8 bits cost nothing that this many images could show, beside a network that trained as long
    for method, engine, start in (
        ("ptq_min_max", "own", plain), ("ptq_mean_square_error", "own", plain),
        ("qat", "tfmot", control), ("qat", "own", control),
    ):  # fmt: skip
        assert abs(mean_accuracy(table, 8, method, engine) - start) < 0.0025, (method, engine)
    # with three codes it is the range that counts: one chosen by its error, untrained, is ahead of a trained wide one
    two_bits = [mean_accuracy(table, 2, *how) for how in (
        ("ptq_mean_square_error", "own"), ("qat", "own"), ("qat", "tfmot"), ("ptq_min_max", "own"),
    )]  # fmt: skip
    assert two_bits == sorted(two_bits, reverse=True)
