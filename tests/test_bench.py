"""The benchmark of the kernels: its rows, its peers, and the stored table."""

import csv
import ctypes
import dataclasses
import json
import shutil
import subprocess

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from hwlimits import data
from hwlimits.kernels import bench, network, stream
from hwlimits.machine.timing import Comparison, Timing
from hwlimits.training import bench as compression

QUICK = {"rounds": 3, "attempts": 1, "min_sample_s": 1e-4}


def test_a_row_says_how_fast_each_is_and_the_ratio_in_speed():
    peer, ours = Timing((0.2,) * 3), Timing((0.1,) * 3)
    found = bench.row("triad", 24, "bytes", 10, "GB/s", "C", Comparison(peer, ours, 2.0, 1.9, 2.1, 1.001))
    assert (found["ours"], found["peer"], found["ratio"], found["aa_control"]) == (100, 50, 2.0, 1.001)
    assert found["verdict"] == "faster"
    assert tuple(found) == bench.COLUMNS


needs_compiler = pytest.mark.skipif(not shutil.which(bench.COMPILER), reason=f"no compiler {bench.COMPILER}")


@needs_compiler
def test_the_loops_in_c_compute_what_numba_s_do(tmp_path):
    library = bench.compiled(tmp_path)
    for name, ours in stream.LOOPS.items():
        a, b, theirs, out = (bench.aligned(1001) for _ in range(4))
        a[:], b[:] = range(1001), range(1000, -1, -1)
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (a, b, theirs)]
        getattr(library, name)(
            *pointers[:2], ctypes.c_double(3.0), pointers[2], ctypes.c_size_t(1001), ctypes.c_size_t(2)
        )
        ours(a, b, 3.0, out, 2)
        assert (theirs == out).all(), name


@needs_compiler
def test_rows_of_stream_have_every_loop_at_every_size():
    rows = list(bench.stream_rows((24 * 1024, 96 * 1024), **QUICK))
    assert [(r["kernel"], r["size"]) for r in rows] == [(k, s) for s in (24 * 1024, 96 * 1024) for k in stream.LOOPS]
    assert all(0.05 < r["ratio"] < 20 and r["threads"] == 1 for r in rows)


def test_rows_of_sgemm_end_with_the_steps():
    with threadpool_limits(1):
        rows = list(bench.gemm_rows((48,), steps_size=64, **QUICK))
    assert [r["kernel"] for r in rows] == [
        "sgemm", "sgemm (naive)", "sgemm (reordered)", "sgemm (blocked)", "sgemm (micro_kernel)"
    ]  # fmt: skip
    assert rows[1]["ours"] < rows[-1]["ours"]
    assert all("OpenBLAS" in r["peer_name"] for r in rows)


def test_no_compiler_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "COMPILER", "no-such-cc")
    with pytest.raises(SystemExit, match="there is no compiler 'no-such-cc': install one, or set CC"):
        bench.compiled(tmp_path)


@needs_compiler
def test_the_barrier_keeps_every_repetition(tmp_path):
    """Without it the compiler does one repetition of many, and C looks faster than memory is."""
    source = (data.path("results").parents[1] / "lib/hwlimits/kernels/stream.c").read_text()
    assert 'volatile("" ::: "memory")' in source
    command = [bench.COMPILER, *bench.FLAGS[:3], "-S", "-o", "-", "-x", "c", "-"]
    without = source.replace('__asm__ volatile("" ::: "memory");', "")  # where gcc does put memcpy in, but for a flag
    assert without != source
    assembly = subprocess.run(command, input=without, capture_output=True, text=True, check=True).stdout
    assert "memcpy" not in assembly


@pytest.fixture(scope="module")
def stored():
    with open(data.path("results/kernels.csv"), encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def test_every_stored_row_agrees_with_itself(stored):
    for r in stored:
        assert abs(float(r["aa_control"]) - 1) <= 0.03, r
        assert r["verdict"] in ("faster", "slower", "equal")
        assert r["threads"] == "1"
        # medians of times against the median of their ratios: not the same, and never far apart
        assert r["noisy"] == "True" or float(r["ours"]) / float(r["peer"]) == pytest.approx(float(r["ratio"]), rel=0.15)


def test_stream_reaches_c(stored):
    memory = [r for r in stored if r["kernel"] in stream.LOOPS and int(r["size"]) == max(bench.STREAM_BYTES)]
    assert {r["kernel"] for r in memory} == set(stream.LOOPS)
    assert all(float(r["ratio"]) >= 0.95 for r in stored if r["kernel"] in stream.LOOPS)
    assert len({r["size"] for r in stored if r["kernel"] == "triad"}) == len(bench.STREAM_BYTES), "the curve"


def test_sgemm_reaches_openblas(stored):
    ratios = {}
    for r in stored:
        if r["kernel"] == "sgemm":
            ratios.setdefault(r["peer_name"], {})[int(r["size"])] = float(r["ratio"])
    chosen = next(iter(ratios.values()))  # the kernels that OpenBLAS chooses by itself
    assert chosen[1024] >= 0.90
    assert all(chosen[n] >= 1.0 for n in (48, 64, 96, 128)), chosen


def test_rows_of_compression_name_their_peers():
    with threadpool_limits(1):
        rows = [
            *compression.int8_rows((16,), (("made up", 6, 4, 8, 3),), **QUICK),
            *compression.matvec_rows(((32, 40, 0.8),), **QUICK),
            *compression.pointwise_rows((0.5, 0.9), ((6, 8, 16), (4, 16, 16)), **QUICK),
            *compression.layer_rows(4, 16, 16, **QUICK),
        ]
    peers = [(r["kernel"].split(",")[0], r["peer_name"].split(" 0.")[0]) for r in rows]
    assert peers == [
        ("int8 matmul", "OpenBLAS"), ("int8 matmul", "LiteRT int8 FULLY_CONNECTED"),
        ("int8 convolution", "LiteRT int8 CONV_2D"), ("int8 convolution", "LiteRT float32 CONV_2D"),
        ("CSR matvec", "scipy.sparse CSR"), ("CSR matvec", "OpenBLAS"),
        ("16 x 1 blocks matvec", "scipy.sparse BSR"), ("16 x 1 blocks matvec", "OpenBLAS"),
        ("sparse convolution", "LiteRT float32, dense"), ("sparse convolution", "LiteRT float32, dense"),
        *[("sparse convolution", peer) for peer in ("scipy.sparse CSR", "OpenBLAS", "LiteRT float32, dense")] * 4,
    ]  # fmt: skip
    assert all(tuple(r) == bench.COLUMNS and r["threads"] == 1 for r in rows)


@pytest.mark.parametrize("block", [1, 16])
def test_pruned_weights_have_the_zeros_asked_for(block):
    weights = compression.pruned((64, 50), 0.9, np.random.default_rng(0), block)
    assert np.mean(weights == 0) == pytest.approx(0.9)
    blocks = (weights != 0).reshape(64 // block, block, 50)
    assert (blocks.all(axis=1) | ~blocks.any(axis=1)).all(), "a block is kept or not, whole"


def test_only_pointwise_layers_are_pruned():
    weights = np.random.default_rng(0).standard_normal((1, 1, 6, 8)).astype(np.float32)
    layer = network.Convolution(weights, np.zeros(8, np.float32))
    kept = compression._prune(layer, 0.5, np.random.default_rng(1)).weights
    assert np.count_nonzero(kept) == 24
    assert (kept[kept != 0] == weights[kept != 0]).all()
    head = dataclasses.replace(layer, block=2)
    depthwise = network.Convolution(np.ones((1, 1, 8, 1), np.float32), np.zeros(8), depthwise=True)
    stem = network.Convolution(np.ones((3, 3, 3, 8), np.float32), np.zeros(8))
    for other in (head, depthwise, stem, network.GlobalMean()):
        assert compression._prune(other, 0.5, None) is other


def made_up(zeros, ratio):
    return {"kernel": f"sparse convolution, made up, {100 * zeros:.0f} % zeros", "ratio": ratio}


def test_break_even_lies_between_the_sparsities_around_it():
    rows = [made_up(0.5, 0.5), made_up(0.7, 0.8), made_up(0.9, 4.0)]
    # relative times 2, 1.25, 0.25: 1 is a quarter of the way from the second to the third
    assert compression.measured_break_even(rows) == pytest.approx(0.7 + 0.2 * 0.25)
    with pytest.raises(ValueError, match=r"the ratio is never 1 between 0.5 and 0.7"):
        compression.measured_break_even(rows[:2])


def test_break_even_is_told_from_the_time_at_one_sparsity(monkeypatch):
    asked = []
    monkeypatch.setattr(compression, "pointwise_rows", lambda *a, **o: asked.append((a, o)) or iter([{"ratio": 0.8}]))
    # at 50 % zeros it takes 1.25 of the dense time: as long as that where 40 % of the weights are kept
    assert compression.predicted_break_even(rounds=7) == pytest.approx(0.6)
    assert asked == [(((0.5,), compression.MADE_UP), {"rounds": 7})]
    assert not set(compression.MADE_UP) & set(compression.POINTWISE)


def made_up_run(monkeypatch, folder, verdict="faster"):
    """`main` with rows that take no time, beside a stored table of an earlier run."""

    def rows(*kernels):
        return [dict.fromkeys(bench.COLUMNS, 1) | {"kernel": k, "verdict": verdict} for k in kernels]

    monkeypatch.setattr(compression, "require_clean_commit", lambda: None)
    monkeypatch.setattr(compression.data, "path", lambda name: folder)
    monkeypatch.setattr(compression, "provenance", lambda command, **more: {"command": command} | more)
    monkeypatch.setattr(compression.kernel_bench, "all_rows", lambda **options: iter(rows("triad", "sgemm (naive)")))
    monkeypatch.setattr(
        compression, "compression_rows", lambda file, **options: (rows("CSR matvec"), {"measured": 0.7})
    )
    monkeypatch.setattr(compression.zoo, "build", lambda name: None)
    monkeypatch.setattr(compression.export, "to_float32", lambda model: b"")
    monkeypatch.setattr(compression, "LiteRTFile", lambda content: None)


def test_the_rows_of_compression_can_be_measured_alone(monkeypatch, tmp_path):
    made_up_run(monkeypatch, tmp_path)
    compression.main([])
    whole = (tmp_path / "kernels.csv").read_text()
    made_by = json.loads((tmp_path / "kernels.json").read_text())["provenance"]
    assert [line.split(",")[0] for line in whole.splitlines()[1:]] == ["triad", "sgemm (naive)", "CSR matvec"]
    assert (made_by["command"], made_by["compression"]["command"]) == ("make bench", "make bench")
    monkeypatch.setattr(compression.kernel_bench, "all_rows", None)
    compression.main(["--compression"])
    assert (tmp_path / "kernels.csv").read_text() == whole
    made_by = json.loads((tmp_path / "kernels.json").read_text())["provenance"]
    assert (made_by["command"], made_by["compression"]["command"]) == ("make bench", "make bench-compression")
    assert made_by["compression"]["break_even"] == {"measured": 0.7}


def test_a_void_row_is_never_stored(monkeypatch, tmp_path):
    made_up_run(monkeypatch, tmp_path, "VOID")
    with pytest.raises(
        SystemExit, match="not stored: void comparisons of triad at 1, sgemm .naive. at 1, CSR matvec at 1"
    ):
        compression.main([])
    assert not list(tmp_path.iterdir())


def of(stored, kernel, peer=""):
    found = [r for r in stored if r["kernel"].startswith(kernel) and r["peer_name"].startswith(peer)]
    assert found, kernel
    return found


def zeros(row):
    return int(row["kernel"].split(" %")[0].split()[-1])


def test_sparse_layers_are_faster_than_dense_ones(stored):
    layers = {zeros(r): float(r["ratio"]) for r in of(stored, "sparse convolution, MobileNetV1's", "LiteRT")}
    assert layers[90] >= 2.5
    assert layers[95] >= 4.5
    whole = {zeros(r): float(r["ratio"]) for r in of(stored, "sparse MobileNetV1")}
    assert whole[90] >= 1.8


def test_csr_is_faster_than_scipy(stored):
    rows = of(stored, "CSR matvec", "scipy.sparse") + of(stored, "sparse convolution, 1 x 1", "scipy.sparse")
    assert len(rows) >= 8
    assert all(float(r["ratio"]) >= 1.5 for r in rows), [(r["kernel"], r["size"], r["ratio"]) for r in rows]


def test_the_sparsity_at_which_sparse_beats_dense_was_predicted(stored):
    made_by = json.loads(data.path("results/kernels.json").read_text(encoding="utf-8"))["provenance"]["compression"]
    found = made_by["break_even"]
    assert found["predicted"] == pytest.approx(found["measured"], rel=0.15)
    rows = of(stored, "sparse convolution, MobileNetV1's", "LiteRT")
    assert compression.measured_break_even(rows) == pytest.approx(found["measured"], abs=1e-3), "of the rows stored"


def test_int8_stands_beside_litert_and_openblas(stored):
    assert {r["peer_name"].split()[0] for r in of(stored, "int8 matmul")} == {"OpenBLAS", "LiteRT"}
    assert len({r["kernel"] for r in of(stored, "int8 convolution", "LiteRT int8")}) >= 3


def test_rows_of_sparse_layers_go_on_where_they_were_stopped(monkeypatch):
    """No clock: a comparison that counts, and is interrupted at the second of three shares of zeros."""
    drawn, calls = [], []

    def compare(theirs, ours, **options):
        calls.append(options)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return Comparison(Timing((1.0,) * 3), Timing((1.0,) * 3), float(len(calls)), 1.0, 1.0, 1.0)

    def layer(size, weights, block=1):
        drawn.append(weights)
        return made(size, weights, block)

    made = compression.pointwise_layer
    monkeypatch.setattr(compression, "compare", compare)
    monkeypatch.setattr(compression, "pointwise_layer", layer)
    asked = {"sparsities": (0.5, 0.5, 0.75), "layers": [(4, 8, 16)], "keep": "layers", "rounds": 3}
    with pytest.raises(KeyboardInterrupt):
        list(compression.pointwise_rows(**asked))
    rows = list(compression.pointwise_rows(**asked))
    assert [r["ratio"] for r in rows] == [1.0, 3.0, 4.0]
    assert [r["kernel"].split(", ")[-1] for r in rows] == ["50 % zeros", "50 % zeros", "75 % zeros"]
    again, calls[:] = list(drawn), [None, None]  # past the interruption
    drawn.clear()
    list(compression.pointwise_rows(**asked))
    wanted = [drawn[0], drawn[1], drawn[1], drawn[2]]  # the second was drawn, stopped, and drawn again
    for a, b in zip(again, wanted, strict=True):
        np.testing.assert_array_equal(a, b, err_msg="what is measured does not depend on where it was stopped")
