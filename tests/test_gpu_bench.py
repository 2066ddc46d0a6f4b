"""The benchmark of a GPU, in the simulator with small sizes, under a clock that a test turns."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from hwlimits.kernels import cuda_conv, cuda_gemm, cuda_peak, gpu_bench, gpu_counters, gpu_report, gpu_tools
from hwlimits.machine.provenance import DirtyTree

ROW = gpu_bench.Bench.row


@pytest.fixture
def bench(monkeypatch):
    """The benchmark with sizes for the simulator; a row is run once, and timed by nobody."""
    small = gpu_bench.Bench.__new__(gpu_bench.Bench)
    small.rounds, small.elements, small.products_sizes, small.images = 1, 64, (16,), 1
    small.transfer_sizes, small.peak_threads, small.peak_steps = (64, 256), cuda_peak.THREADS, 1
    small.tiles, small.clock, small.random = [(8, 16, 8)], time.perf_counter, np.random.default_rng(0)
    monkeypatch.setattr(gpu_bench.Bench, "row", once)
    monkeypatch.setattr(cuda_conv, "LAYERS", {"conv": (4, 4, 2, 2, 3)})
    monkeypatch.setattr(cuda_gemm, "STAGES", ("naive", "register_tiles", "vector_tiles"))  # seconds less
    return small


# (bytes, FLOPs) of a row, counted by hand, and the work beside it as a share of its own: 64 elements, 8 x 8, products
# of 16 x 16, int8 of 1 byte in and 4 out, a convolution of 4 x 4 x 2 with 3 x 3 x 2 x 2 weights to 2 x 2 x 2.
WORK = {
    "copy": ((64 * 8, 0), 1),
    "triad": ((64 * 12, 64 * 2), 2 / 3),
    "total": ((64 * 4, 0), 2),
    "transpose": ((64 * 8, 0), 1),
    "bias_relu": ((64 * 8, 0), 1),
    "product": ((256 * 12, 16 * 16 * 16 * 2), None),
    "int8_product": ((256 * 6, 16 * 16 * 16 * 2), 1),
    "conv": ((4 * (32 + 36 + 2 + 8), 8 * 18 * 2), None),
}


def once(self, kernel, stage, size, run, *, bytes_=0, flops=0, beside=None, error=0.0, **more):
    run()
    beside = None if beside is None else beside[3] / {"bytes": bytes_, "flops": flops}[beside[2]]
    return {
        "kernel": kernel,
        "stage": stage,
        "error_of_bound": error,
        "work": (bytes_, flops),
        "beside": beside,
        **more,
    }


@pytest.mark.parametrize("section", ["memory", "matrices", "products", "sweep", "int8", "convolutions", "transfers"])
def test_each_section_of_the_benchmark_checks_its_kernels(section, bench):
    rows = list(gpu_bench.SECTIONS[section](bench))
    assert rows
    for row in rows:
        work, beside = WORK.get(row["kernel"], (row["work"], None))
        assert row["work"] == work
        assert row["beside"] == beside
    assert all(row["error_of_bound"] <= 1 for row in rows)


def test_a_wrong_stage_is_recorded_and_the_next_one_goes_on(bench, monkeypatch):
    launch = cuda_gemm.launch
    monkeypatch.setattr(cuda_gemm, "launch", lambda stage, *rest: None if stage == "bytes" else launch(stage, *rest))
    wrong, right = gpu_bench.SECTIONS["int8"](bench)
    assert wrong["failed"].startswith("int8 bytes: 4,096 of 4,096 elements are wrong")
    assert (right["stage"], "failed" in right) == ("dp4a", False)


class Clock:
    """Seconds that pass only when work is done."""

    now_s = 0.0

    def __call__(self):
        return self.now_s

    def work(self, took_s):
        def run():
            self.now_s += took_s

        return run


@pytest.fixture
def timed(bench):
    bench.rounds, bench.clock = 3, Clock()
    return bench


def test_a_row_has_the_rates_of_its_own_time(timed):
    row = ROW(timed, "copy", "vector", 3, timed.clock.work(0.5), bytes_=24, flops=6, tiles=[8])
    assert (row["median_s"], row["n"], row["loops"]) == (0.5, 9, 1)
    assert (row["bytes_per_s"], row["flops_per_s"]) == (48.0, 12.0)
    assert (row["kernel"], row["stage"], row["size"], row["tiles"]) == ("copy", "vector", 3, [8])
    assert (row["bytes"], row["flops"]) == (24, 6)
    assert "  48.0 GB/s" in gpu_report.show(row | {"bytes_per_s": 48e9})


@pytest.mark.parametrize(("unit", "work", "share"), [("bytes", 8, 4 * 3), ("flops", 12, 4 / 2)])
def test_a_share_is_that_of_the_other_s_rate(timed, unit, work, share):
    """The row takes 0.5 s for 24 bytes and 6 FLOPs, the other 2 s for its `work`: rates of 48 and 12, and work / 2."""
    beside = "other", timed.clock.work(2.0), unit, work
    row = ROW(timed, "k", "s", 1, timed.clock.work(0.5), bytes_=24, flops=6, beside=beside, error=0.25)
    assert share == row[f"{unit}_per_s"] / (work / 2)
    assert (row["share"], row["share_low"], row["share_high"]) == pytest.approx((share,) * 3)
    assert (row["baseline"], row["baseline_s"], row["median_s"]) == ("other", 2.0, 0.5)
    assert (row["aa_ratio"], row["void"], row["noisy"], row["error_of_bound"]) == (1.0, False, False, 0.25)


def test_a_tile_that_fails_loses_no_other(bench, monkeypatch):
    launch = cuda_gemm.launch

    def failing(stage, a, b, c, tiles):
        if tiles == (8, 8, 4):
            raise RuntimeError("out of resources")
        launch(stage, a, b, c, tiles)

    monkeypatch.setattr(cuda_gemm, "launch", failing)
    bench.tiles = [(8, 8, 4), (8, 16, 8)]
    failed, right = gpu_bench.SECTIONS["sweep"](bench)
    assert failed["failed"] == "RuntimeError: out of resources"
    assert (failed["tiles"], right["tiles"]) == ([8, 8, 4], [8, 16, 8])


def test_the_roofline_counts_the_flops_that_its_kernels_do(bench, monkeypatch):
    """Two threads, factors that bring every chain to its limit soon; multiply-adds counted as they are done."""
    done, real = [], cuda_peak.multiply_adds

    def counted(count):
        body = real(count)

        def steps(x, f, s):
            done.append(count * len(x))
            return body(x, f, s)

        return steps

    def row(self, kernel, stage, size, run, *, bytes_=0, flops=0, error=0.0):
        done.clear()
        run()
        return {"stage": stage, "flops": flops, "counted": 2 * sum(done), "bytes": bytes_, "error": error}

    monkeypatch.setattr(cuda_peak, "multiply_adds", counted)
    for name in ("fma_peak", "intensity"):
        monkeypatch.setattr(cuda_peak, name, getattr(cuda_peak, name).__wrapped__)
    monkeypatch.setattr(cuda_peak, "THREADS", 2)
    monkeypatch.setattr(cuda_peak, "FACTOR", 0.5)
    monkeypatch.setattr(cuda_peak, "SUMMAND", 0.25)
    monkeypatch.setattr(gpu_bench, "INTENSITIES", (1, 3))
    monkeypatch.setattr(gpu_bench.Bench, "row", row)
    bench.peak_threads, bench.peak_steps = 4, 20
    rows = list(gpu_bench.SECTIONS["roofline"](bench))
    assert [one["stage"] for one in rows] == ["peak", "1 FMA", "3 FMA"]
    assert all(one["flops"] == one["counted"] > 0 for one in rows)
    assert [one["bytes"] for one in rows] == [0, 64 * 8, 64 * 8]
    assert all(one["error"] <= 1 for one in rows)


def test_launches_are_those_of_the_empty_kernel(bench):
    queued, waited = gpu_bench.SECTIONS["launches"](bench)
    assert (queued["stage"], waited["stage"]) == ("one after the other", "waited for")
    assert (queued["work"], waited["bytes"], waited["flops"]) == ((0, 0), 0, 0)
    assert waited["median_s"] > 0
    assert cuda_peak.empty.fn.__name__ == gpu_counters.SEPARATOR, "by its name a profile is cut into stages"


def test_the_clock_tells_seconds_of_the_device_s_milliseconds(monkeypatch):
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    fake = SimpleNamespace(event=lambda: event, event_elapsed_time=lambda start, end: 250.0)
    monkeypatch.setattr(gpu_tools, "cuda", fake)
    clock = gpu_tools.EventClock()
    assert [clock(), clock()] == [0.25, 0.5]


@pytest.fixture
def fake(monkeypatch):
    """A computer with a GPU, whose benchmark has one section; the section's rows are the fixture's value."""
    rows = [ROW_OF_COPY]
    monkeypatch.setattr(gpu_bench, "available", lambda: True)
    described = {"name": "Fake 1", "compute_capability": "9.0", "multiprocessors": 1, "nvidia_smi": {}}
    monkeypatch.setattr(gpu_bench, "describe", lambda: described)
    monkeypatch.setattr(gpu_bench, "smi", dict)
    monkeypatch.setattr(gpu_bench, "Bench", lambda *arguments: arguments)
    monkeypatch.setattr(gpu_bench, "SECTIONS", {"memory": lambda bench: iter(rows)})
    monkeypatch.setattr(gpu_report, "commit", lambda: "a" * 40)
    return rows


ROW_OF_COPY = {
    "kernel": "copy", "stage": "vector", "size": 1, "median_s": 1.0, "bytes_per_s": 8.0, "flops_per_s": None,
}  # fmt: skip


def test_the_benchmark_writes_its_rows_and_quick_ones_elsewhere(fake, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert gpu_bench.main(["--out", str(out)]) == 0
    assert [path.name for path in out.iterdir()] == ["gpu_fake-1.json"]
    found = json.loads((out / "gpu_fake-1.json").read_text())
    assert found["rows"] == [{"section": "memory", **ROW_OF_COPY}]
    assert found["provenance"]["quick"] is False
    assert found["provenance"]["commit"] == "a" * 40
    assert gpu_bench.main(["--out", str(out), "--quick"]) == 0
    assert json.loads((out / "gpu_fake-1_quick.json").read_text())["provenance"]["quick"] is True
    assert len(list(out.iterdir())) == 2


def test_a_failure_is_stored_and_is_the_exit_status(fake, tmp_path, capsys):
    fake.append(gpu_report.failure("product", "vector_tiles", RuntimeError("no"), tiles=[8, 8, 4]))
    assert gpu_bench.main(["--out", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "gpu_fake-1.json").read_text())
    failed = {"section": "memory", "stage": "vector_tiles", "tiles": [8, 8, 4], "error": "RuntimeError: no"}
    assert (found["failures"], len(found["rows"])) == ([failed], 1)


def test_what_could_not_be_stored_is_not_measured(fake, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_bench, "describe", lambda: pytest.fail("nothing is measured"))
    (tmp_path / "file").write_text("mine")
    assert gpu_bench.main(["--out", str(tmp_path / "file")]) == 2
    says = f"--out {tmp_path / 'file'} can't be a folder (File exists): name one that is, or can be made.\n"
    assert capsys.readouterr().err == says
    monkeypatch.setattr(gpu_report, "commit", lambda: "a" * 40 + "+changes")
    assert gpu_bench.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("A stored result names the commit that made it, and this is aaaa")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("tiles", "says"),
    [
        ("256x128x8", "make depth a multiple of 16"),
        ("8x8", "rows x columns"),
        ("96x96x12", "tiles 96x96x12: rows and columns and depth do not divide 4096, the side"),
        ("128x96x24", "tiles 128x96x24: columns and depth do not divide 4096"),
    ],
)
def test_the_benchmark_refuses_tiles(tiles, says, capsys):
    with pytest.raises(SystemExit):
        gpu_bench.main(["--tiles", tiles])
    assert says in capsys.readouterr().err


def test_the_link_of_the_registry_is_found_by_what_the_driver_tells():
    found = gpu_report.registry_link({"pcie.link.gen.max": "5", "pcie.link.width.max": "16"})
    assert found["name"] == "pcie-5-x16"
    assert found["bytes_per_s"] == pytest.approx(63.0e9, rel=0.01)
    assert gpu_report.registry_link({}) is None


def test_a_result_names_a_commit_or_is_not_made(monkeypatch):
    ours, other = "a" * 40, "b" * 40
    monkeypatch.setattr(gpu_report, "commit", lambda: ours)
    assert gpu_report.commit_of(None) == {"commit": ours}
    with pytest.raises(DirtyTree, match=f"this is {ours}, with --commit {other}"):
        gpu_report.commit_of(other)
    monkeypatch.setattr(gpu_report, "commit", lambda: "unknown")
    assert gpu_report.commit_of(other) == {"commit": other, "checkout": "unknown"}
    for no_commit in ("b" * 39, "b" * 41, "g" * 40, ""):
        with pytest.raises(DirtyTree, match=f"with --commit {no_commit}: commit the changes"):
            gpu_report.commit_of(no_commit)
    monkeypatch.setattr(gpu_report, "commit", lambda: ours + "+changes")
    with pytest.raises(DirtyTree, match=rf"this is {ours}\+changes, with --commit {other}"):
        gpu_report.commit_of(other)
    with pytest.raises(DirtyTree, match="give its 40 hexadecimal digits with --commit"):
        gpu_report.commit_of(None)


def test_without_a_gpu_the_benchmark_says_so_and_writes_nothing(tmp_path):
    command = [sys.executable, "-m", "hwlimits.kernels.gpu_bench", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("make gpu-bench measures a GPU. ")
    assert not list(tmp_path.iterdir())
