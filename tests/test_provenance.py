import subprocess
from importlib.metadata import version

import pytest

from hwlimits.machine.memory import peak_bytes
from hwlimits.machine.provenance import commit, machine, provenance, versions


def test_record_is_complete_and_names_no_path():
    record = provenance("make results-case-study", seeds=range(3), note="x")
    assert record["seeds"] == [0, 1, 2]
    assert record["note"] == "x"
    assert record["versions"]["numpy"] == version("numpy")
    assert record["machine"]["cores"] >= 1
    assert "/home" not in str(record)


def test_commit_is_git_s():
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    if not head:
        pytest.skip("not a git checkout")
    assert commit().removesuffix("+changes") == head


def test_a_package_that_is_not_there_is_said():
    assert versions(["no-such-package"])["no-such-package"] == "not installed"


def test_int8_instructions_are_those_the_system_lists():
    assert set(machine()["int8_instructions"]) <= {"avx_vnni", "avx512_vnni", "asimddp", "i8mm", "amx_int8"}


@pytest.mark.parametrize("megabytes", [20, 200])
def test_peak_memory_is_that_of_a_known_array(megabytes):
    found = peak_bytes("import numpy as np", f"x = np.ones({megabytes}_000_000, np.uint8); del x")
    assert found == pytest.approx(megabytes * 1e6, rel=0.05, abs=1e6)


def test_a_failing_measurement_says_why():
    with pytest.raises(RuntimeError, match="no_such_name"):
        peak_bytes("pass", "no_such_name")
