"""The kernels of chapters 01 and 02 beside their peers, in turns, one thread: the first rows of `make bench`.

STREAM's loops stand beside the same loops in C, compiled here; the matrix product beside NumPy's
OpenBLAS. OpenBLAS chooses its kernels by the processor, and may not know a new one: where it has
faster ones than it chose, they are a peer of their own.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from hwlimits.kernels import gemm, stream
from hwlimits.kernels.simd import cpu_features
from hwlimits.machine.timing import Comparison, compare

COMPILER = os.environ.get("CC", "cc")
# The loop as it stands: without the third flag, a compiler may put a call of memcpy in the place of copy.
FLAGS = ("-O3", "-march=native", "-fno-tree-loop-distribute-patterns", "-shared", "-fPIC")
STREAM_BYTES = tuple(24 * 1024 * 4**i for i in range(8))  # the arrays together: from the first-level cache to memory
GEMM_SIZES = (48, 64, 96, 128, 256, 512, 1024)
STEPS_SIZE = 512  # at which the steps before the micro-kernel are shown
OPTIONS = {"rounds": 11, "attempts": 20}
COLUMNS = (
    "kernel", "size", "size_unit", "threads", "ours", "peer", "unit", "peer_name",
    "ratio", "ratio_low", "ratio_high", "aa_control", "verdict", "noisy",
)  # fmt: skip


def row(kernel: str, size: int, size_unit: str, work: float, unit: str, peer_name: str, found: Comparison) -> dict:
    """A line of the table; `work` is in the numerator of `unit`, and ratio is ours over the peer's speed."""
    speeds = (round(work / timing.median_s, 2) for timing in (found.b, found.a))
    ratios = (round(x, 4) for x in (found.ratio, found.low, found.high, found.aa_ratio))
    noisy = found.a.noisy or found.b.noisy
    values = (kernel, size, size_unit, 1, *speeds, unit, peer_name, *ratios, found.verdict, noisy)
    return dict(zip(COLUMNS, values, strict=True))


def compiled(folder: str) -> ctypes.CDLL:
    """stream.c, compiled with FLAGS. Raises SystemExit if there is no C compiler."""
    if not shutil.which(COMPILER):
        raise SystemExit(f"make bench compares with C, and there is no compiler {COMPILER!r}: install one, or set CC")
    library = Path(folder) / "stream.so"
    subprocess.run([COMPILER, *FLAGS, "-o", library, Path(__file__).with_name("stream.c")], check=True)
    return ctypes.CDLL(str(library))


def aligned(size: int) -> np.ndarray:
    """float64 from the start of a memory page on, so that no run is luckier than another."""
    buffer = np.ones(size + 512)
    start = (-buffer.ctypes.data % 4096) // 8
    return buffer[start : start + size]


def stream_rows(sizes=STREAM_BYTES, **options) -> Iterator[dict]:
    """The four loops at each size, beside C's."""
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(folder)
        for nbytes in sizes:
            for name, ours in stream.LOOPS.items():
                arrays = stream.REALS[name]
                a, b, out = (aligned(nbytes // 8 // arrays) for _ in range(3))
                b = b if arrays == 3 else a
                times = max(1, 1_000_000 // out.size)
                theirs, real, count = getattr(library, name), ctypes.c_double(3.0), ctypes.c_size_t
                pointer = [ctypes.c_void_p(x.ctypes.data) for x in (a, b, out)]
                arguments = (*pointer[:2], real, pointer[2], count(out.size), count(times))
                found = compare(
                    lambda f=theirs, x=arguments: f(*x),
                    lambda f=ours, x=(a, b, 3.0, out, times): f(*x),
                    **options,
                )
                yield row(name, nbytes, "bytes", arrays * out.nbytes * times / 1e9, "GB/s", f"C ({FLAGS[0]})", found)


def gemm_rows(sizes=GEMM_SIZES, steps_size: int | None = STEPS_SIZE, **options) -> Iterator[dict]:
    """`sgemm` beside NumPy's product, wrappers included; then the steps that lead to it."""
    peer = f"OpenBLAS {openblas()['version']} ({openblas()['architecture']} kernels)"
    random = np.random.default_rng(0)
    for n in sizes:
        a, b = random.standard_normal((2, n, n), dtype=np.float32)
        found = compare(lambda a=a, b=b: a @ b, lambda a=a, b=b: gemm.sgemm(a, b), **options)
        yield row("sgemm", n, "n", 2 * n**3 / 1e9, "GFLOP/s", peer, found)
    if steps_size:
        n = steps_size
        a, b, c = random.standard_normal((3, n, n), dtype=np.float32)
        for name, step in gemm.STEPS.items():
            found = compare(lambda: np.matmul(a, b, out=c), lambda f=step: f(a, b, c), **options | {"rounds": 5})
            yield row(f"sgemm ({name})", n, "n", 2 * n**3 / 1e9, "GFLOP/s", peer, found)


def openblas() -> dict:
    """The OpenBLAS that NumPy uses. Raises SystemExit if it uses another library."""
    found = [info for info in threadpool_info() if info.get("internal_api") == "openblas"]
    if not found:
        raise SystemExit("make bench compares with NumPy's OpenBLAS; this NumPy multiplies by another library")
    return next((info for info in found if "numpy" in info["filepath"]), found[0])  # SciPy brings one of its own


def better_core() -> str | None:
    """OpenBLAS's name of faster kernels than those that it chose here, if there are any."""
    chosen = openblas()["architecture"].lower()
    return "SkylakeX" if "avx512f" in cpu_features() and chosen in ("haswell", "zen", "sandybridge") else None


def other_core_rows(core: str) -> list[dict]:
    """The rows of `sgemm` beside OpenBLAS's other kernels, which it can only choose as it starts."""
    environment = os.environ | {"OPENBLAS_CORETYPE": core}
    command = [sys.executable, "-m", __spec__.name]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def all_rows(**options) -> Iterator[dict]:
    """Every row of this module, on one thread."""
    with threadpool_limits(1):
        yield from stream_rows(**options)
        yield from gemm_rows(**options)
        yield from other_core_rows(better_core()) if better_core() else ()


def tools() -> dict:
    """What the peers were made with, for the provenance of a table."""
    compiler = subprocess.run([COMPILER, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    return {"compiler": compiler, "flags": " ".join(FLAGS), "openblas": openblas()["version"]}


if __name__ == "__main__":  # for `other_core_rows`
    with threadpool_limits(1):
        print(json.dumps(list(gemm_rows(steps_size=None, **OPTIONS))))
