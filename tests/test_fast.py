"""`make test-fast` is what its rule says: nothing of it can load TensorFlow, and no test that can't is forgotten."""

import subprocess
import sys
from pathlib import Path

import fast
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("source", "leads"),
    [
        ("import numpy\nfrom hwlimits import pruning, plots", set()),
        ("from hwlimits.training import mnist", set()),
        ("import tensorflow as tf", {"tensorflow"}),
        (
            "def test_it():\n    from hwlimits.training import fit",
            {"tensorflow", "tf_keras"},
        ),
        ("import hwlimits.xla.products", {"jax"}),
        ("from hwlimits.training.litert import LiteRTFile", {"ai_edge_litert"}),
    ],
)
def test_an_import_is_followed_to_its_end(source, leads):
    assert fast.leads_to(source) >= leads
    assert leads or not fast.leads_to(source)


def test_each_file_of_tests_is_fast_or_leads_to_something_heavy_or_is_named_with_a_reason():
    chosen = set(fast.files())
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        heavy = fast.leads_to(path.read_text(encoding="utf-8"))
        assert (name in chosen) != bool(heavy or name in fast.SLOW), name
    assert all((ROOT / name).exists() and why for name, why in fast.SLOW.items())
    assert {"tests/test_compute.py", "tests/test_repository.py", "lib/hwlimits/pruning.py"} <= chosen
    assert not {"tests/test_fit.py", "tests/test_case_study.py", "lib/hwlimits/training/keras.py"} & chosen
    assert {f"tests/notebooks/{name}" for name in fast.FORM} <= chosen


def test_collecting_them_all_loads_nothing_heavy():
    """Imports that no reader of sources sees, by name or by a plug-in, would show here."""
    program = (
        "import sys, pytest\n"
        "sys.path.insert(0, 'tests')\n"
        "import fast\n"
        "status = pytest.main(['--collect-only', '-qq', '-p', 'no:cacheprovider', *fast.files()])\n"
        "print('status', int(status), 'heavy', sorted(fast.HEAVY & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["status 0 heavy []"], done.stdout[-2000:] + done.stderr[-2000:]


def test_the_command_takes_its_files_from_the_rule():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "$$($(RUN) tests/fast.py)" in makefile
