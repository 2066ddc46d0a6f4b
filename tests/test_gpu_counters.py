"""Counters of a GPU's profiler: launches found by the empty kernel before them; what an H100 counted, and measured."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwlimits import data, devices
from hwlimits.kernels import cuda_device, gpu_counters, gpu_report

NAME = "gpu_nvidia-h100-80gb-hbm3"


def profile(launches):
    """ncu's CSV of launches: (function, {metric: (unit, value)})."""
    lines = ["==PROF== Connected to process 7", '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"']
    for number, (function, values) in enumerate(launches):
        for metric in gpu_counters.METRICS:
            unit, value = values.get(metric, ("", "0"))
            lines.append(f'"{number}","{function}","{metric}","{unit}","{value}"')
    return "\n".join(lines) + "\n"


def launch(function, requests, sectors, time, occupancy, unit="ns", registers="0", written=("byte", "0")):
    sectors_name, requests_name = list(gpu_counters.METRICS)[:2]
    return function, {
        sectors_name: ("sector", sectors), requests_name: ("request", requests),
        "gpu__time_duration.sum": (unit, time), "dram__bytes_read.sum": ("Kbyte", "1.5"),
        "launch__registers_per_thread": ("register/thread", registers), "dram__bytes_write.sum": written,
        "sm__warps_active.avg.pct_of_peak_sustained_active": ("%", occupancy),
    }  # fmt: skip


def test_launches_of_a_stage_are_added_and_its_longest_tells_the_occupancy():
    text = profile([
        ("empty[abi](int)", {}), launch("one", "1,000", "4,000", "900", "50.5"),
        ("empty[abi](int)", {}), launch("two", "10", "320", "2", "20", "us", "24", ("Mbyte", "2")),
        launch("three", "30", "960", "500", "90", "ns", "40", ("Gbyte", "3")),
    ])  # fmt: skip
    one, two = gpu_counters.read(text, [("copy", "a"), ("sum", "b")])
    assert (one["kernel"], one["stage"], one["launches"]) == ("copy", "a", 1)
    assert one["load_sectors_per_request"] == 4
    assert one["store_sectors_per_request"] is None
    assert (one["occupancy_percent"], one["dram_read_bytes"]) == (50.5, 1500)
    assert (two["launches"], two["load_sectors_per_request"], two["time_ns"]) == (2, 32, 2500)
    assert (two["occupancy_percent"], two["registers"]) == (20, 24)
    assert two["dram_write_bytes"] == 3_002_000_000
    with pytest.raises(ValueError, match="^the profile has 2 stages, and 1 were run$"):
        gpu_counters.read(text, [("copy", "a")])


@pytest.mark.parametrize(("unit", "ns"), [("ns", 7), ("us", 7e3), ("usecond", 7e3), ("ms", 7e6), ("msecond", 7e6)])
def test_times_of_a_profile_are_in_ns(unit, ns):
    (row,) = gpu_counters.read(profile([("empty", {}), launch("one", "1", "4", "7", "50", unit)]), [("copy", "a")])
    assert row["time_ns"] == ns


ONE = launch("one", "1", "4", "7", "50")
NO_NUMBER = launch("one", "1", "4", "n/a", "50")
WRONG = [
    (
        "==PROF== Disconnected\n",
        'the profile has no header, a line that starts with "ID"; give what `ncu --csv` printed',
    ),
    (
        profile([ONE, ("empty", {}), ONE]),
        "launch 0 of the profile, 'one', comes before the first 'empty', which starts",
    ),
    (
        profile([("empty", {}), NO_NUMBER]),
        "gpu__time_duration.sum of launch 1 of the profile, 'one', is 'n/a', which is",
    ),
    (profile([("empty", {})]), "stage 'a' of 'copy' has no launch in the profile; profile the whole of --run"),
    (profile([("empty", {}), ONE]).rsplit("\n", 2)[0], "launch 1 of the profile, 'one', has no gpu__time_duration.sum"),
    (profile([("empty", {}), ONE]) + '"2","cut', "a line of the profile has no 'Metric Name'; give what `ncu --csv`"),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_a_text_that_is_no_whole_profile_is_refused(text, says):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        gpu_counters.read(text, [("copy", "a")])
    assert str(error.value).startswith(says)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command with one stage, on a computer that has a GPU; and its arguments for a profile that is there."""
    monkeypatch.setattr(gpu_counters, "stages", lambda: [("copy", "a", None)])
    monkeypatch.setattr(cuda_device, "available", lambda: True)
    monkeypatch.setattr(gpu_report, "commit", lambda: "a" * 40)
    csv = tmp_path / "profile.csv"
    csv.write_text(profile([("empty", {}), ONE]), encoding="utf-8")
    return ["--csv", str(csv), "--device", "Fake 1", "--out", str(tmp_path / "new" / "folder")]


def test_counters_of_a_profile_are_stored_in_a_new_folder(command, capsys):
    assert gpu_counters.main(command) == 0
    found = json.loads(Path(command[-1], "gpu_fake-1_counters.json").read_text(encoding="utf-8"))
    assert (found["device"], found["provenance"]["commit"]) == ("Fake 1", "a" * 40)
    assert [(row["kernel"], row["stage"], row["time_ns"]) for row in found["rows"]] == [("copy", "a", 7)]


def test_what_can_t_be_stored_or_read_is_one_sentence(command, monkeypatch, tmp_path, capsys):
    def told(arguments):
        assert gpu_counters.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "with --commit junk: commit the changes first" in told([*command, "--commit", "junk"])
    (tmp_path / "file").write_text("")
    assert told([*command, "--out", str(tmp_path / "file")]).endswith("name one that is, or can be made.")
    assert "No such file" in told([*command, "--csv", str(tmp_path / "none.csv")])
    assert told([*command, "--csv", str(tmp_path / "file")]).startswith("the profile has no header")
    monkeypatch.setattr(gpu_report, "commit", lambda: "a" * 40 + "+changes")
    assert told(command).startswith("A stored result names the commit that made it, and this is aaaa")
    monkeypatch.setattr(cuda_device, "available", lambda: False)
    monkeypatch.setattr(gpu_counters, "run", lambda: pytest.fail("nothing is run"))
    says = "python -m hwlimits.kernels.gpu_counters profiles a GPU. "
    assert told(["--run"]).startswith(says)
    assert told([]).startswith(says)


@pytest.mark.parametrize("half", [slice(0, 2), slice(2, 4)])
def test_a_profile_and_its_device_go_together(command, half, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_counters.main(command[half])
    assert ended.value.code == 2
    assert "--csv PROFILE and --device NAME, that of the GPU that was profiled, go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "printed", "says"),
    [
        (1, "==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - no permission\n==PROF== Disconnected\n",
         "ncu ended with status 1 and said: ==ERROR== ERR_NVGPUCTRPERM - no permission"),
        (0, "==ERROR== ERR_NVGPUCTRPERM - no permission\n",
         "ncu ended with status 0 and said: ==ERROR== ERR_NVGPUCTRPERM - no permission"),
        (9, "first\nlast words\n", "ncu ended with status 9 and said: last words"),
        (9, "", "ncu ended with status 9 and said: nothing"),
    ],
)  # fmt: skip
def test_a_profiler_that_fails_is_heard(status, printed, says, command, monkeypatch, capsys):
    done = SimpleNamespace(returncode=status, stdout=printed, stderr="")
    monkeypatch.setattr(gpu_counters, "subprocess", SimpleNamespace(run=lambda *_, **__: done))
    monkeypatch.setattr(gpu_counters.shutil, "which", lambda name: None)
    assert gpu_counters.main(command[4:]) == 2
    assert capsys.readouterr().err.startswith("there is no `ncu` on the path: install Nsight Compute")
    monkeypatch.setattr(gpu_counters.shutil, "which", lambda name: name)
    assert gpu_counters.main(command[4:]) == 2
    assert capsys.readouterr().err == f"{says}\n"


@pytest.fixture(scope="module")
def measured():
    found = json.loads(data.path(f"results/{NAME}.json").read_text(encoding="utf-8"))
    assert found["failures"] == []
    return {(r["kernel"], r["stage"], str(r["size"])): r for r in found["rows"]}


@pytest.mark.parametrize(
    ("kernel", "stage", "size", "least"),
    [("triad", "vector", "67108864", 0.90), ("bias_relu", "vector", "[8192, 8192]", 0.85),
     ("product", "vector_tiles", "4096", 0.5), ("product", "vector_tiles", "8192", 0.5)],
)  # fmt: skip
def test_the_targets_are_met_on_an_h100(measured, kernel, stage, size, least):
    row = measured[kernel, stage, size]
    assert row["share_low"] >= least
    assert not row["void"]


def test_the_measured_peak_and_bandwidth_are_below_the_published_ones_and_near(measured):
    h100 = devices.device("h100-sxm")
    peak = max(row["flops_per_s"] for (kernel, *_), row in measured.items() if kernel == "roofline")
    assert 0.9 < peak / h100.peak_flops_per_s("fp32") < 1
    triad = measured["triad", "vector", "67108864"]["bytes_per_s"]
    assert 0.85 < triad / h100.memory_bytes_per_s < 1


@pytest.fixture(scope="module")
def counted():
    found = json.loads(data.path(f"results/{NAME}_counters.json").read_text(encoding="utf-8"))
    return {(r["kernel"], r["stage"]): r for r in found["rows"]}


def test_each_stage_fixed_what_it_says(counted):
    def of(name, *where):
        return counted[where][name]

    assert of("load_sectors_per_request", "copy", "strided") == 32  # a place of its own for each of 32 threads
    assert of("load_sectors_per_request", "copy", "coalesced") == 4  # 32 floats in a row
    assert of("load_sectors_per_request", "copy", "vector") == 16  # four times as many, in a quarter of the requests
    assert of("store_sectors_per_request", "transpose", "naive") == 32
    assert of("store_sectors_per_request", "transpose", "shared") == 4
    assert of("shared_load_conflicts", "transpose", "padded") < of("shared_load_conflicts", "transpose", "shared") / 100
    two, fused = (of("dram_read_bytes", "bias_relu", s) for s in ("two_kernels", "fused"))
    assert 1.9 < two / fused < 2.1
    assert of("instructions", "product", "vector_tiles") < of("instructions", "product", "naive") / 20
