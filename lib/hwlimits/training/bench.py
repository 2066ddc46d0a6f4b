"""The course's kernels beside their peers, in turns, one thread: `make bench` writes data/results/kernels.csv.

Here are the kernels of compression, beside LiteRT, scipy.sparse and OpenBLAS; those of chapters 01 and 02 are in
hwlimits.kernels.bench. A sparse layer is measured as a network runs it: its input set, its memory there.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse as scipy_sparse
from threadpoolctl import threadpool_limits

from hwlimits import data, progress
from hwlimits.kernels import bench as kernel_bench
from hwlimits.kernels import int8, stream
from hwlimits.kernels.bench import COLUMNS, OPTIONS, openblas, row, tools
from hwlimits.kernels.network import Convolution, Network
from hwlimits.kernels.simd import INT8_DOT
from hwlimits.kernels.sparse import compress, matvec
from hwlimits.machine.provenance import provenance, require_clean_commit, store_table
from hwlimits.machine.timing import compare
from hwlimits.training import export, zoo
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_build import Spec, single
from hwlimits.training.sparse_network import sparse_network

# (height and width, inputs, outputs) of the 13 pointwise layers of MobileNetV1
POINTWISE = (
    (112, 32, 64), (56, 64, 128), (56, 128, 128), (28, 128, 256), (28, 256, 256), (14, 256, 512),
    *[(14, 512, 512)] * 5, (7, 512, 1024), (7, 1024, 1024),
)  # fmt: skip
# An early, a middle and a late one. Like MobileNetV1's late layers, two have a number of pixels that leaves part of
# the last register empty: layers of 96, 24 and 12 pixels a side fill them all, and promise a break-even too low.
MADE_UP = ((100, 48, 80), (26, 192, 320), (13, 640, 640))
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
MATVECS = (
    (64, 1600, 0.95),
    (256, 256, 0.9),
    (1024, 1024, 0.9),
    (4096, 1024, 0.9),
    (4096, 4096, 0.9),
    (4096, 4096, 0.95),
)
# A matrix of the size of a cache takes several readings until it is in there again after the other one's turn.
MATVEC_SAMPLE_S = 0.03
INT8_SIZES = (64, 128, 256, 512, 1024)
# name, height and width, inputs, outputs, window
INT8_CONVOLUTIONS = (
    ("article's conv2", 13, 32, 64, 3), ("ResNet-50, 3 x 3", 28, 128, 128, 3),
    ("MobileNetV1, pointwise", 14, 512, 512, 1), ("MobileNetV1, pointwise", 56, 128, 128, 1),
)  # fmt: skip
IN_A_ROW = 5  # runs of a layer before the next one's turn


def pruned(shape: Sequence[int], sparsity: float, random: np.random.Generator, block: int = 1) -> np.ndarray:
    """Random float32 weights (outputs, inputs) with that share of zeros, in blocks of `block` outputs."""
    rows, columns = shape
    places = random.permutation(rows // block * columns) >= round(sparsity * (rows // block * columns))
    kept = np.repeat(places.reshape(rows // block, columns), block, axis=0)
    return np.where(kept, random.standard_normal(shape), 0).astype(np.float32)


def matvec_rows(sizes=MATVECS, **options) -> Iterator[dict]:
    """Sparse matrix times vector: CSR beside scipy.sparse, blocks beside its block format and the dense product."""
    random = np.random.default_rng(0)
    options = {"min_sample_s": MATVEC_SAMPLE_S} | options
    for m, k, sparsity in sizes:
        x = random.standard_normal(k).astype(np.float32)
        for block in (1, 16):
            dense = pruned((m, k), sparsity, random, block)
            ours, scipys = compress(dense, block), scipy_sparse.csr_matrix(dense)
            if block > 1:
                scipys = scipy_sparse.bsr_matrix(dense, blocksize=(block, 1))
            work = 2 * np.count_nonzero(dense) / 1e9
            kernel = f"{'CSR' if block == 1 else '16 x 1 blocks'} matvec, {100 * sparsity:.0f} % zeros, {m} rows"
            for peer, call in (
                (f"scipy.sparse {scipys.format.upper()}", lambda a=scipys, x=x: a @ x),
                (f"OpenBLAS {openblas()['version']}, dense", lambda a=dense, x=x: a @ x),
            ):
                found = compare(call, lambda a=ours, x=x: matvec(a, x), **options)
                yield row(kernel, k, "columns", work, "GFLOP/s of nonzeros", peer, found)


def pointwise_rows(sparsities=SPARSITIES, layers=POINTWISE, *, keep: str | None = None, **options) -> Iterator[dict]:
    """The 13 pointwise layers of MobileNetV1, ours sparse, LiteRT's dense: each as often in a row as the other.

    keep   a name under which rows stay in memory if it is stopped: the same call then measures the others
    """
    random = np.random.default_rng(0)
    interpreters = [single(Spec("CONV_2D", "float32", (1, n, n, k), m)).interpreter() for n, k, m in layers]
    work = sum(2 * n * n * k * m for n, k, m in layers) / 1e9

    def run(calls):
        for call in calls:
            for _ in range(IN_A_ROW):
                call()

    about = tuple(sparsities), tuple(layers), tuple(sorted(options.items()))
    with progress.kept(keep, about, total=len(sparsities), unit="row") as done:
        for i, sparsity in enumerate(progress.bar(sparsities, desc="sparse layers", unit="comparison")):
            weights = [pruned((m, k), sparsity, random) for _, k, m in layers]  # drawn in any case: the same each time
            if i not in done:
                networks = [pointwise_layer(n, w) for (n, _, _), w in zip(layers, weights, strict=True)]
                ours, theirs = [n.invoke for n in networks], [i.invoke for i in interpreters]
                found = compare(lambda a=theirs: run(a), lambda b=ours: run(b), **options)
                kernel = f"sparse convolution, MobileNetV1's pointwise layers, {100 * sparsity:.0f} % zeros"
                unit, peer = "GFLOP/s with zeros", "LiteRT float32, dense"
                done[i] = row(kernel, len(layers), "layers", IN_A_ROW * work, unit, peer, found)
            yield done[i]


def pointwise_layer(size: int, weights: np.ndarray, block: int = 1) -> Network:
    """One layer with weights (outputs, inputs) on random planes (inputs, size, size)."""
    outputs, inputs = weights.shape
    layer = Convolution(weights.T.reshape(1, 1, inputs, outputs), np.zeros(outputs), low=0.0, block=block)
    network = Network([layer], (inputs, size, size), channels_first=True)
    network(np.random.default_rng(0).standard_normal(network.shape).astype(np.float32))
    return network


def layer_rows(size: int = 14, inputs: int = 512, outputs: int = 512, **options) -> Iterator[dict]:
    """One pointwise layer, of single weights and of blocks, beside every peer: a matrix times a matrix of pixels."""
    random = np.random.default_rng(0)
    pixels = random.standard_normal((inputs, size * size)).astype(np.float32)
    litert = single(Spec("CONV_2D", "float32", (1, size, size, inputs), outputs)).interpreter()
    for sparsity in (0.9, 0.95):
        for block in (1, 4):
            weights = pruned((outputs, inputs), sparsity, random, block)
            network, csr = pointwise_layer(size, weights, block), scipy_sparse.csr_matrix(weights)
            work = 2 * np.count_nonzero(weights) * size * size / 1e9
            kernel = f"sparse convolution, {block} x 1 blocks, {100 * sparsity:.0f} % zeros, {outputs} outputs"
            for peer, call in (
                ("scipy.sparse CSR", lambda a=csr: a @ pixels),
                (f"OpenBLAS {openblas()['version']}, dense", lambda a=weights: a @ pixels),
                ("LiteRT float32, dense", litert.invoke),
            ):
                found = compare(call, network.invoke, **options)
                yield row(kernel, inputs, "inputs", work, "GFLOP/s of nonzeros", peer, found)


def network_rows(file: LiteRTFile, sparsities=(0.8, 0.9, 0.95), **options) -> Iterator[dict]:
    """A whole MobileNetV1, its 13 pointwise layers pruned: stem, depthwise layers and head are ours, too."""
    dense = sparse_network(file)
    image = np.random.default_rng(0).standard_normal(dense.shape).astype(np.float32)
    interpreter = file.interpreter()
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], image[None])
    random = np.random.default_rng(0)
    for sparsity in sparsities:
        network = Network([_prune(layer, sparsity, random) for layer in dense.layers], dense.shape)
        network(image)
        found = compare(interpreter.invoke, network.invoke, **options)
        kernel = f"sparse MobileNetV1, {100 * sparsity:.0f} % zeros in its pointwise layers"
        yield row(kernel, 1, "images", 1.0, "images/s", "LiteRT float32, dense", found)


def _prune(layer, sparsity: float, random: np.random.Generator):
    """Random zeros in a pointwise layer; any other is left as it is."""
    pointwise = isinstance(layer, Convolution) and layer.weights.shape[:2] == (1, 1) and not layer.depthwise
    if not pointwise or layer.block > 1:  # the head has blocks: it is a dense layer
        return layer
    kept = pruned(layer.weights.shape[3:1:-1], sparsity, random).T.reshape(layer.weights.shape) != 0
    return dataclasses.replace(layer, weights=layer.weights * kept)


def int8_rows(sizes=INT8_SIZES, convolutions=INT8_CONVOLUTIONS, **options) -> Iterator[dict]:
    """The int8 product beside LiteRT's dense layer and float32's sgemm; the convolution beside LiteRT's two."""
    random = np.random.default_rng(0)
    for n in sizes:
        a, b = random.integers(-128, 128, (2, n, n)).astype(np.int8)
        packed, floats = int8.pack(b), (a.astype(np.float32), b.astype(np.float32))
        litert = single(Spec("FULLY_CONNECTED", "int8", (n, n), n)).interpreter(None)
        for peer, call in (
            (f"OpenBLAS {openblas()['version']} sgemm, float32", lambda x=floats: x[0] @ x[1]),
            ("LiteRT int8 FULLY_CONNECTED", litert.invoke),
        ):
            found = compare(call, lambda a=a, b=packed: int8.matmul(a, b), **options)
            yield row("int8 matmul", n, "n", 2 * n**3 / 1e9, "GOP/s", peer, found)
    for name, n, inputs, outputs, window in convolutions:
        weights = random.integers(-127, 128, (outputs, window, window, inputs)).astype(np.int8)
        layer = int8.convolution(weights, np.zeros(outputs, np.int32), x_scale=0.05, x_zero=-10, w_scale=0.01,
                                 y_scale=0.05, y_zero=-10, padding="same")  # fmt: skip
        x = random.integers(-128, 128, (n, n, inputs)).astype(np.int8)
        for form in ("int8", "float32"):
            litert = single(Spec("CONV_2D", form, (1, n, n, inputs), outputs, window)).interpreter()
            found = compare(litert.invoke, lambda f=layer, x=x: f(x), **options)
            work = 2 * n * n * window * window * inputs * outputs / 1e9
            yield row(f"int8 convolution, {name}", n, "pixels a side", work, "GOP/s", f"LiteRT {form} CONV_2D", found)


def predicted_break_even(layers=MADE_UP, sparsity: float = 0.5, **options) -> float:
    """The share of zeros from which on sparse layers are the faster, told from layers that no network has.

    A sparse layer's time goes with the weights that are kept, a dense one's with all of them. So if the sparse kernel
    takes r times the dense one's at `sparsity`, it takes as long where the share kept is (1 - sparsity) / r.
    """
    (found,) = pointwise_rows((sparsity,), layers, **options)
    return 1 - (1 - sparsity) * found["ratio"]


def measured_break_even(rows: Sequence[dict]) -> float:
    """Where the ratio of `pointwise_rows` is 1: the relative time, between two of its sparsities, on a line."""
    zeros = [float(r["kernel"].split(",")[-1].split("%")[0]) / 100 for r in rows]
    times = [1 / float(r["ratio"]) for r in rows]  # of the sparse kernels, in times of the dense ones
    if not times[-1] <= 1 <= times[0]:
        raise ValueError(f"measured_break_even: the ratio is never 1 between {zeros[0]} and {zeros[-1]}")
    return float(np.interp(-1.0, [-t for t in times], zeros))


def compression_rows(file: LiteRTFile, **options) -> tuple[list[dict], dict[str, float]]:
    """Every row of this module, and the break-even as it was predicted, before any row was measured, and measured."""
    with threadpool_limits(1):
        predicted = predicted_break_even(**options)
        sources = (int8_rows, matvec_rows, layer_rows, lambda **options: network_rows(file, **options))
        made = (row for rows_of in sources for row in rows_of(**options))
        rows = list(progress.bar(made, desc="kernels", unit="comparison"))
        sparse = list(pointwise_rows(**options))
    return rows + sparse, {"predicted": predicted, "measured": measured_break_even(sparse)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all rows, or those of compression alone, and store them unless a comparison came out void.

    The two kinds of rows may come from two runs, so each has a provenance of its own: the one of compression stands
    within the other, under its name.
    """
    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.bench")
    parser.add_argument("--compression", action="store_true", help="keep the stored rows of the loops and of sgemm")
    options = parser.parse_args(arguments)
    require_clean_commit()
    table = data.path("results") / "kernels.csv"
    if options.compression:
        with open(table, encoding="utf-8", newline="") as stored:
            rows = [r for r in csv.DictReader(stored) if r["kernel"].split(" ")[0] in (*stream.LOOPS, "sgemm")]
        made_by = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))["provenance"]
    else:
        made_by = provenance("make bench", **tools())
        rows = list(progress.bar(kernel_bench.all_rows(**OPTIONS), desc="kernels", unit="comparison"))
    command = "make bench-compression" if options.compression else "make bench"
    made_by["compression"] = provenance(command, openblas=openblas()["version"], int8_instruction=INT8_DOT.name)
    found, break_even = compression_rows(LiteRTFile(export.to_float32(zoo.build("mobilenet-v1"))), **OPTIONS)
    if void := [f"{r['kernel']} at {r['size']}" for r in rows + found if r["verdict"] == "VOID"]:
        raise SystemExit(f"not stored: void comparisons of {', '.join(void)}; run again on a quieter machine")
    made_by["compression"]["break_even"] = break_even
    store_table(table, COLUMNS, rows + found, made_by)


if __name__ == "__main__":
    main()
