"""The comparison of bits in small: its lines, what they start from, and that nothing is trained twice."""

import numpy as np
import pytest

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
        (32, "float32", "none"), *after, (4, "qat", "own"),
    }  # fmt: skip
    by = {(r["bits"], r["method"], r["engine"]): r for r in found}
    for row in found:
        assert list(row) == list(qat_bits.COLUMNS)
        right = round(1000 * row["test_accuracy"])
        assert (row["low"], row["high"]) == pytest.approx(accuracy_interval(right, 1000))
        assert row["epochs"] == (7 if row["method"] == "qat" else 5)
    plain = by[32, "float32", "none"]["test_accuracy"]
    assert plain > 0.7
    assert by[8, "ptq_min_max", "own"]["test_accuracy"] == pytest.approx(plain, abs=0.01)
    assert by[4, "qat", "own"]["test_accuracy"] > 0.7
    (start,) = tmp_path.glob("plain-*/seed-0/phase-0.npz")
    (copy,) = tmp_path.glob("own-4-*/seed-0/phase-0.npz")
    with np.load(start) as a, np.load(copy) as b:
        assert all(np.array_equal(a[name], b[name]) for name in a.files)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert qat_bits.run((0,), "mnist-5k", **settings) == found
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
