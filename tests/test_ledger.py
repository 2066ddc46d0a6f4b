import json

import numpy as np
import pytest

from hwlimits.machine import Ledger, Timing
from hwlimits.machine.ledger import LedgerError
from hwlimits.machine.timing import Comparison


@pytest.fixture
def ledger():
    made = Ledger()
    made.predict("layer", 2e-5, "s")
    return made


def test_ratio_is_measured_over_predicted(ledger):
    assert ledger.measure("layer", Timing((1e-5,) * 3)).ratio == pytest.approx(0.5)


def test_a_call_is_timed(ledger):
    entry = ledger.measure("layer", lambda: sum(range(100)), bound="compute")
    assert entry.measured > 0
    assert entry.bound == "compute"


def test_measuring_what_was_not_predicted_is_refused(ledger):
    with pytest.raises(LedgerError, match=r"measure\('other'\): predict it first; predictions so far: 'layer'"):
        ledger.measure("other", 1.0)


def test_a_prediction_can_change_until_it_is_measured(ledger):
    ledger.predict("layer", 3e-5, "s")
    ledger.measure("layer", 3e-5)
    with pytest.raises(LedgerError, match="it was measured already"):
        ledger.predict("layer", 3.1e-5, "s")
    assert ledger.entries[0].predicted == 3e-5


@pytest.mark.parametrize("value", [np.float32(2.5), np.int64(3), 4])
def test_any_real_number_is_a_prediction(value):
    ledger = Ledger()
    ledger.predict("x", value, "s")
    assert ledger.entries[0].predicted == float(value)


def test_to_measure_until_it_fits_is_seen(ledger):
    ledger.measure("layer", 9e-5)
    ledger.measure("layer", 2e-5)
    assert "20 µs (measured 2 times)" in ledger.table()


def test_a_comparison_needs_a_prediction_of_a_ratio(ledger):
    sample = Timing((1.0, 1.0, 1.0))
    with pytest.raises(LedgerError, match="a comparison is a ratio, in ×; the prediction is in 's'"):
        ledger.measure("layer", Comparison(sample, sample, 2.0, 1.9, 2.1, 1.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "fast", None, True])
def test_a_prediction_is_a_finite_number(value):
    with pytest.raises(LedgerError, match="finite number"):
        Ledger().predict("x", value, "s")


def test_a_time_needs_a_prediction_in_seconds():
    ledger = Ledger()
    ledger.predict("size", 100, "kB")
    with pytest.raises(LedgerError, match="a time is in s, the prediction is in 'kB'"):
        ledger.measure("size", Timing((1.0, 1.0, 1.0)))


def test_a_bound_is_one_of_four(ledger):
    with pytest.raises(LedgerError, match="'magic' is not one of compute, memory, overhead, noise"):
        ledger.measure("layer", 1.0, bound="magic")


def test_a_void_comparison_is_shown_and_counted():
    ledger = Ledger()
    ledger.predict("speed-up", 4, "x")
    sample = Timing((1.0, 1.0, 1.0))
    ledger.measure("speed-up", Comparison(sample, sample, 2.0, 1.9, 2.1, aa_ratio=1.2, attempts=3))
    assert ledger.voids == 1
    assert "| speed-up | 4 x | VOID |  |  |" in ledger.table()
    assert "1 of 1 comparisons void." in ledger.table()
    ledger.measure("speed-up", 2.0)
    assert ledger.voids == 0, "a second, valid measurement counts"
    ledger.measure("speed-up", 2.0, void=True)
    assert ledger.entries[0].ratio is None, "a void comparison proves no prediction right or wrong"


def test_compare_needs_a_prediction_too():
    with pytest.raises(LedgerError, match="predict it first"):
        Ledger().compare("speed-up", print, print)


def test_a_noisy_time_is_bound_by_noise(ledger):
    assert ledger.measure("layer", Timing((1.0, 2.0, 3.0))).bound == "noise"


def test_the_table_and_the_file_hold_the_same(ledger, tmp_path):
    ledger.measure("layer", 1e-5, bound="memory")
    assert "| layer | 20 µs | 10 µs | 0.50 | memory |" in ledger.table()
    ledger.save(tmp_path / "ledger.json")
    assert json.loads((tmp_path / "ledger.json").read_text())[0] == {
        "name": "layer",
        "predicted": 2e-5,
        "unit": "s",
        "measured": 1e-5,
        "bound": "memory",
        "void": False,
        "times_measured": 1,
        "ratio": 0.5,
    }
