"""A machine card with round numbers, so that labs need no calibration to be checked."""

import pytest
from book_site import site  # noqa: F401
from browsing import browser  # noqa: F401

from hwlimits.machine.card import Card, Number
from hwlimits.machine.provenance import provenance

NUMBERS = {
    ("peak", "FLOP/s"): {"fp32": 60e9, "fp64": 30e9},
    ("peak", "OP/s"): {"int8": 120e9},
    ("bandwidth", "B/s"): {
        "L1": 200e9, "L2": 100e9, "L3": 40e9, "DRAM": 12e9, "loopback": 2e9, "disk_read": 1e9, "disk_write": 5e8,
        "disk_read_cached": 5e9,
    },
    ("overhead", "s"): {
        "litert_operator": 2e-7, "litert_builtin_operator": 4e-7, "litert_invoke": 1e-6, "tensorflow_operator": 1e-5,
        "tensorflow_call": 1e-4, "tensorflow_eager_operator": 2e-5, "loopback": 2e-5, "process_start": 0.02,
        "numba_import": 0.3, "tensorflow_import": 3.0, "threads_start": 1e-4, "threads_call": 1e-4,
        "threads_task": 2e-5, "processes_start": 1.0, "processes_call": 1e-3, "processes_task": 2e-4,
        "dask_start": 1.5, "dask_call": 1e-2, "dask_task": 3e-3,
    },
}  # fmt: skip


def card_of_round_numbers() -> Card:
    """Of this computer, as far as its name goes. With two threads, peaks are doubled and bandwidths as large."""
    made = provenance("hwlimits calibrate")
    made["machine"] |= {"usable_cores": 2, "cpu_quota": None, "caches": []}
    numbers = []
    for (quantity, unit), values in NUMBERS.items():
        for of, value in values.items():
            numbers.append(Number(quantity, of, 1, value, unit, value / 100, 9, "planted"))
            if quantity in ("peak", "bandwidth") and of in ("fp32", "fp64", "int8", "L1", "L2", "L3", "DRAM"):
                both = 1.2 * value if of == "DRAM" else 2 * value
                numbers.append(Number(quantity, of, 2, both, unit, value / 100, 9, "planted"))
    return Card(tuple(numbers), made, {})


@pytest.fixture
def planted_card_file(tmp_path, monkeypatch):
    """The file of a planted card, which is this computer's while the test runs; what is written goes beside it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "machine-card.json"
    card_of_round_numbers().write(path)
    monkeypatch.setenv("HWLIMITS_CARD", str(path))
    monkeypatch.chdir(tmp_path)  # a lab writes beside its notebook
    return path
