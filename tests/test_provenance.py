import csv
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from hwlimits.machine.memory import peak_bytes
from hwlimits.machine.provenance import commit, machine, provenance, store_table, versions

module = sys.modules["hwlimits.machine.provenance"]
ROOT = Path(__file__).parents[1]


def test_record_is_complete_and_names_no_path():
    record = provenance("make results-case-study", seeds=range(3), note="x")
    assert record["seeds"] == [0, 1, 2]
    assert record["note"] == "x"
    assert record["versions"]["numpy"] == version("numpy")
    assert record["machine"]["cores"] >= 1
    assert "/home" not in str(record)


def test_a_table_is_stored_with_what_made_it(tmp_path):
    rows = [{"of": "a, b", "time_s": 1 / 3, "n": 1234567}, {"n": 2, "of": "é", "time_s": 1e-9}]
    table = tmp_path / "table.csv"
    store_table(table, (name for name in ("n", "of", "time_s")), rows, {"command": "x"})
    assert table.read_bytes() == 'n,of,time_s\n1234567,"a, b",0.333333\n2,é,1e-09\n'.encode()
    assert [float(row["time_s"]) for row in csv.DictReader(table.read_text().splitlines())] == [0.333333, 1e-9]
    assert json.loads(table.with_suffix(".json").read_text()) == {"provenance": {"command": "x"}}


def test_a_row_of_another_table_leaves_the_stored_one(tmp_path):
    table = tmp_path / "table.csv"
    store_table(table, ["n"], [{"n": 1}], {})
    with pytest.raises(ValueError, match="fields not in fieldnames: 'm'"):
        store_table(table, ["n"], [{"n": 2}, {"n": 3, "m": 4}], {})
    assert table.read_text() == "n\n1\n"


def test_commit_is_git_s():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        assert commit() == "unknown"
        return
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert commit().removesuffix("+changes") == head


def test_a_stranger_s_repository_is_not_named(tmp_path, monkeypatch):
    """The package installed in an environment inside another project's checkout."""
    installed = tmp_path / ".venv" / "lib" / "hwlimits" / "machine"
    installed.mkdir(parents=True)
    if shutil.which("git"):
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(module, "__file__", str(installed / "provenance.py"))
    assert commit() == "unknown"
    with pytest.raises(module.DirtyTree, match="this is unknown: commit the changes first"):
        module.require_clean_commit()


def test_a_package_that_is_not_there_is_said():
    assert versions(["no-such-package"])["no-such-package"] == "not installed"


CPUINFO = "processor : 0\nmodel name : Planted CPU 3000\nflags : fpu avx2 {}\n\nprocessor : 1\nflags : fpu\n"


@pytest.mark.parametrize(
    ("flags", "found"),
    [("avx512_vnni avx_vnni", ["avx512_vnni", "avx_vnni"]), ("avx512f", []), ("amx_int8", ["amx_int8"])],
)
def test_int8_instructions_are_those_the_system_lists(monkeypatch, flags, found):
    monkeypatch.setattr(module, "_cpuinfo", lambda: CPUINFO.format(flags).splitlines())
    assert machine()["int8_instructions"] == found
    assert machine()["cpu"] == "Planted CPU 3000"


@pytest.mark.parametrize(("says", "found"), [("hw.optional.arm.FEAT_DotProd: 1", ["FEAT_DotProd"]), ("", None)])
def test_where_there_is_no_cpuinfo_the_system_is_asked_or_it_is_unknown(monkeypatch, says, found):
    monkeypatch.setattr(module, "_cpuinfo", list)
    monkeypatch.setattr(module, "_sysctl", lambda: says)
    assert machine()["int8_instructions"] == found


@pytest.mark.parametrize("way", ["the system's mark", "sampling"])
@pytest.mark.parametrize("megabytes", [20, 200])
def test_peak_memory_is_that_of_a_known_array(megabytes, way, monkeypatch):
    if way == "sampling":  # as on systems without /proc
        monkeypatch.setenv("HWLIMITS_TEST_NO_PROC", "1")
    found = peak_bytes("import numpy as np", f"x = np.ones({megabytes}_000_000, np.uint8); y = x.sum(); del x")
    assert found == pytest.approx(megabytes * 1e6, rel=0.05, abs=1e6)


def test_a_failing_measurement_says_why():
    with pytest.raises(RuntimeError, match="no_such_name"):
        peak_bytes("pass", "no_such_name")
