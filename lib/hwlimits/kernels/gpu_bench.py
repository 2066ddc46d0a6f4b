"""Measures this computer's GPU with the course's kernels: `make gpu-bench` writes data/results/gpu_<device>.json.

Each kernel's output is poisoned and checked against NumPy before anything is timed. Times are those of the device's
events. What is compared is compared in turns, with an A/A control, by `machine.timing.compare`: memory kernels with
the driver's copy within the device, products with the vendor's library. Arrays are several times the L2 cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hwlimits.kernels import cuda, cuda_conv, cuda_gemm, cuda_peak
from hwlimits.kernels.cuda_device import available, why_not
from hwlimits.kernels.cuda_device import cuda as gpu
from hwlimits.kernels.gpu_report import (
    commit_of,
    failure,
    latency_and_bandwidth,
    registry_link,
    show,
    speeds,
    tiles_from,
)
from hwlimits.kernels.gpu_tools import (
    PACKAGES,
    EventClock,
    check,
    describe,
    poisoned,
    slug,
    smi,
    vendor_convolution,
    vendor_product,
)
from hwlimits.machine.provenance import DirtyTree, provenance, result_folder, versions
from hwlimits.machine.timing import compare, measure

COMMAND = "make gpu-bench"
SWEEP = "128x128x16,128x128x8,128x128x32,128x64x16,64x128x16,64x64x16,256x128x16,128x256x16"
INTENSITIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PRODUCTS, QUICK_PRODUCTS = (4096, 8192), (2048,)  # sides of matrices; all stages and tiles at the first one
TRANSFERS = tuple(4096 * 4**i for i in range(9))  # bytes: 4 KiB to 256 MiB
UNIT = 2.0**-24  # a float32 operation's relative error


class Bench:
    """The sections of the benchmark; each yields rows. Its sizes make it quick or long."""

    def __init__(self, quick: bool, tiles: list[tuple[int, int, int]], multiprocessors: int):
        self.rounds = 5 if quick else 15
        self.elements = 1 << (24 if quick else 26)  # 64 MiB or 256 MiB an array
        self.products_sizes = QUICK_PRODUCTS if quick else PRODUCTS
        self.images = 1024 if quick else 8192
        self.transfer_sizes = TRANSFERS[: 6 if quick else None]
        self.peak_threads, self.peak_steps = multiprocessors * 16 * cuda_peak.THREADS, 512
        self.tiles = tiles
        self.clock = EventClock()
        self.random = np.random.default_rng(0)

    def numbers(self, *shape: int) -> np.ndarray:
        """Random float32 between -1 and 1."""
        return self.random.random(shape, dtype=np.float32) * np.float32(2) - np.float32(1)

    def row(self, kernel, stage, size, run, *, bytes_=0, flops=0, beside=None, error=0.0, **more) -> dict:
        """Time `run`, beside another if there is one: (name, call, 'bytes' or 'flops', how many)."""
        row = {"kernel": kernel, "stage": stage, "size": size, "bytes": bytes_, "flops": flops, **more}
        if beside is None:
            timing = measure(run, repeats=3 * self.rounds, min_sample_s=5e-3, clock=self.clock)
        else:
            name, other, unit, work = beside
            found = compare(other, run, rounds=self.rounds, min_sample_s=5e-3, clock=self.clock)
            timing, scale = found.b, row[unit] / work
            row |= {"baseline": name, "baseline_s": found.a.median_s, "share": found.ratio * scale}
            row |= {"share_low": found.low * scale, "share_high": found.high * scale, "aa_ratio": found.aa_ratio}
            row |= {"void": found.void, "noisy": found.a.noisy or found.b.noisy}
        return row | speeds(timing, bytes_, flops) | {"error_of_bound": error}

    def memory(self) -> Iterator[dict]:
        """Copy, triad, sum: flat arrays."""
        n = self.elements
        a, b, s = self.numbers(n), self.numbers(n), np.float32(0.7)
        a_, b_, out, other = gpu.to_device(a), gpu.to_device(b), poisoned(n), poisoned(n)
        beside = "copy within the device, by the driver", lambda: other.copy_to_device(a_), "bytes", 8 * n
        yield self.row("copy", "driver", n, lambda: out.copy_to_device(a_), bytes_=8 * n, beside=beside)
        for stage, launch in cuda.COPY.items():
            out = poisoned(n)
            launch(a_, out)
            error = check(f"copy {stage}", out.copy_to_host(), a, 0)
            run = lambda f=launch, y=out: f(a_, y)  # noqa: E731
            yield self.row("copy", stage, n, run, bytes_=8 * n, beside=beside, error=error)
        exact = a.astype(float) + float(s) * b
        for stage, launch in cuda.TRIAD.items():
            out = poisoned(n)
            launch(a_, b_, s, out)
            error = check(f"triad {stage}", out.copy_to_host(), exact, 4 * UNIT)
            run = lambda f=launch, y=out: f(a_, b_, s, y)  # noqa: E731
            yield self.row("triad", stage, n, run, bytes_=12 * n, flops=2 * n, beside=beside, error=error)
        exact, bound = a.sum(dtype=float), (np.log2(n) + 4 * cuda.LOADS) * UNIT * np.abs(a).sum(dtype=float)
        for stage in cuda.TOTAL:
            start, result = cuda.totalling(stage, a_)
            result.copy_to_device(np.full(1, np.nan, np.float32))
            start()
            error = check(f"total {stage}", result.copy_to_host(), np.array([exact]), bound)
            yield self.row("total", stage, n, start, bytes_=4 * n, beside=beside, error=error)

    def matrices(self) -> Iterator[dict]:
        """Transpose, bias and ReLU: the same bytes in two dimensions."""
        rows = columns = int(self.elements**0.5)
        a, bias = self.numbers(rows, columns), self.numbers(columns)
        a_, bias_, other = gpu.to_device(a), gpu.to_device(bias), poisoned((rows, columns))
        moved = 8 * a.size
        beside = "copy within the device, by the driver", lambda: other.copy_to_device(a_), "bytes", moved
        for stage, launch in cuda.TRANSPOSE.items():
            out = poisoned((columns, rows))
            launch(a_, out)
            error = check(f"transpose {stage}", out.copy_to_host(), a.T, 0)
            run = lambda f=launch, y=out: f(a_, y)  # noqa: E731
            yield self.row("transpose", stage, [rows, columns], run, bytes_=moved, beside=beside, error=error)
        exact = np.maximum(a.astype(float) + bias, 0)
        for stage, launch in cuda.BIAS_RELU.items():
            out = poisoned((rows, columns))
            launch(a_, bias_, out)
            error = check(f"bias_relu {stage}", out.copy_to_host(), exact, 2 * UNIT)
            run = lambda f=launch, y=out: f(a_, bias_, y)  # noqa: E731
            # Of the two kernels, too, the bytes are those that the work needs: 8 an element.
            yield self.row("bias_relu", stage, [rows, columns], run, bytes_=moved, beside=beside, error=error)

    def products(self) -> Iterator[dict]:
        """float32 products beside the vendor's; all stages at the first size, the last ones at the others."""
        for n in self.products_sizes:
            stages = cuda_gemm.STAGES if n == self.products_sizes[0] else cuda_gemm.STAGES[2:]
            yield from self._products(n, [(stage, cuda_gemm.TILES) for stage in stages])

    def sweep(self) -> Iterator[dict]:
        """`vector_tiles` with other tiles."""
        yield from self._products(self.products_sizes[0], [("vector_tiles", tiles) for tiles in self.tiles])

    def _products(self, n: int, choices) -> Iterator[dict]:
        a, b = self.numbers(n, n), self.numbers(n, n)
        a_, b_, c_ = gpu.to_device(a), gpu.to_device(b), poisoned((n, n))
        rows = np.arange(256) * 257 % n  # every row of a tile, in tiles all over C
        exact = a[rows].astype(float) @ b.astype(float)
        bound = 2 * n * UNIT * (np.abs(a[rows]) @ np.abs(b)).astype(float)
        beside, flops = None, 2 * n**3
        if vendor := vendor_product(a_, b_, c_):
            name, call = vendor
            call()
            check(name, c_.copy_to_host()[rows], exact, bound)
            beside = name, call, "flops", flops
        for stage, tiles in choices:
            out = poisoned((n, n))
            run = lambda s=stage, t=tiles, y=out: cuda_gemm.launch(s, a_, b_, y, t)  # noqa: E731
            more = {"tiles": list(tiles)} if stage in ("register_tiles", "vector_tiles") else {}
            try:
                run()
                error = check(f"product {stage} {tiles}", out.copy_to_host()[rows], exact, bound)
            except Exception as wrong:  # of the compiler, the driver, or the check: the other tiles are worth having
                yield failure("product", stage, wrong, **more)
                continue
            yield self.row("product", stage, n, run, bytes_=12 * n * n, flops=flops, beside=beside, error=error, **more)

    def int8(self) -> Iterator[dict]:
        """int8 products, four factors a word, beside the same kernel with float32."""
        n = self.products_sizes[0]
        a, b = self.random.integers(-128, 128, (2, n, n), dtype=np.int8)
        x, y, out = self.numbers(n, n), self.numbers(n, n), poisoned((n, n))
        x_, y_, flops = gpu.to_device(x), gpu.to_device(y), 2 * n**3
        beside = "register_tiles, float32", lambda: cuda_gemm.launch("register_tiles", x_, y_, out), "flops", flops
        a_, b_ = gpu.to_device(cuda_gemm.words(a)), gpu.to_device(np.ascontiguousarray(cuda_gemm.words(b).T))
        rows = np.arange(256) * 257 % n
        exact = a[rows].astype(float) @ b.T.astype(float)  # integers below 2**53: exact
        for stage in cuda_gemm.INT8_STAGES:
            c = poisoned((n, n), np.int32)
            run = lambda s=stage, z=c: cuda_gemm.launch(s, a_, b_, z)  # noqa: E731
            run()
            try:
                error = check(f"int8 {stage}", c.copy_to_host()[rows], exact, 0)
            except ArithmeticError as wrong:  # the other stage is worth having
                yield failure("int8_product", stage, wrong)
                continue
            yield self.row("int8_product", stage, n, run, bytes_=6 * n * n, flops=flops, beside=beside, error=error)

    def convolutions(self) -> Iterator[dict]:
        """The case study's two convolutions, on many images."""
        images = self.images
        for layer, (height, width, channels, filters, edge) in cuda_conv.LAYERS.items():
            x, weights = self.numbers(images, height, width, channels), self.numbers(edge, edge, channels, filters)
            bias, shape = self.numbers(filters), (images, height - edge + 1, width - edge + 1, filters)
            some = np.linspace(0, images - 1, 16).astype(int)
            windows = np.lib.stride_tricks.sliding_window_view(x[some].astype(float), (edge, edge), (1, 2))
            exact = np.maximum(np.einsum("nhwcij,ijcf->nhwf", windows, weights.astype(float), optimize=True) + bias, 0)
            arguments = [gpu.to_device(z) for z in (x, weights, bias)]
            bound, flops = 2 * edge**2 * channels * (edge**2 * channels + 1) * UNIT, 2 * edge**2 * channels
            flops *= int(np.prod(shape))
            moved, beside = 4 * (x.size + weights.size + bias.size + int(np.prod(shape))), None
            if vendor := vendor_convolution(*arguments):
                name, call = vendor
                check(name, call().permute(0, 2, 3, 1).cpu().numpy()[some], exact, bound)
                beside = name, call, "flops", flops
            for stage in cuda_conv.STAGES:
                out = poisoned(shape)
                run = lambda s=stage, y=out, z=arguments: cuda_conv.launch(s, *z, y)  # noqa: E731
                run()
                error = check(f"{layer} {stage}", out.copy_to_host()[some], exact, bound)
                size = list(x.shape)
                yield self.row(layer, stage, size, run, bytes_=moved, flops=flops, beside=beside, error=error)

    def roofline(self) -> Iterator[dict]:
        """The peak, from registers; and points between the memory's and the peak's limit."""
        threads, steps = self.peak_threads, self.peak_steps
        out, kernel = poisoned(threads), cuda_peak.fma_peak()
        factors = gpu.to_device(np.float32([cuda_peak.FACTOR, cuda_peak.SUMMAND]))
        run = lambda: kernel[threads // cuda_peak.THREADS, cuda_peak.THREADS](factors, out, steps)  # noqa: E731
        run()
        f, s = (float(np.float32(x)) for x in (cuda_peak.FACTOR, cuda_peak.SUMMAND))
        fixed = s / (1 - f)  # all chains arrive there
        error = check(
            "fma_peak",
            out.copy_to_host(),
            np.full(threads, cuda_peak.CHAINS * fixed),
            2 * cuda_peak.CHAINS * UNIT / (1 - f),
        )
        flops = cuda_peak.peak_flops(threads, steps)
        yield self.row("roofline", "peak", threads, run, flops=flops, error=error)
        n, blocks = self.elements, self.elements // (cuda_peak.ELEMENTS * cuda_peak.THREADS)
        a = np.abs(self.numbers(n))
        a_ = gpu.to_device(a)
        for k in INTENSITIES:
            out, kernel = poisoned(n), cuda_peak.intensity(k)
            run = lambda f=kernel, y=out: f[blocks, cuda_peak.THREADS](a_, factors, y)  # noqa: E731
            run()
            exact = a * f**k + fixed * (1 - f**k)
            error = check(f"intensity {k}", out.copy_to_host(), exact, 2 * (k + 2) * UNIT)
            yield self.row("roofline", f"{k} FMA", n, run, bytes_=8 * n, flops=2 * k * n, error=error)

    def launches(self) -> Iterator[dict]:
        """The empty kernel: one after the other, and waited for each time, by the host's clock."""
        run = cuda_peak.empty[1, 1]
        yield self.row("launch", "one after the other", 1, run)
        timing = measure(lambda: (run(), gpu.synchronize()), repeats=3 * self.rounds)
        yield {"kernel": "launch", "stage": "waited for", "size": 1, "bytes": 0, "flops": 0} | speeds(timing, 0, 0)

    def transfers(self) -> Iterator[dict]:
        """Copies between host and device, as numba starts them: page-locked ('pinned') memory and other."""
        for memory, allocate in (("pinned", lambda n: gpu.pinned_array(n, np.uint8)), ("pageable", _pageable)):
            for nbytes in self.transfer_sizes:
                host, back, device = allocate(nbytes), allocate(nbytes), gpu.device_array(nbytes, np.uint8)
                host[:] = self.random.integers(0, 256, nbytes, dtype=np.uint8)
                back[:] = 0
                device.copy_to_device(host)
                device.copy_to_host(back)
                check(f"transfer {memory}", back[:: max(1, nbytes // 4096)], host[:: max(1, nbytes // 4096)], 0)
                to_device = lambda d=device, h=host: d.copy_to_device(h)  # noqa: E731
                to_host = lambda d=device, h=back: d.copy_to_host(h)  # noqa: E731
                yield self.row("host_to_device", memory, nbytes, to_device, bytes_=nbytes)
                yield self.row("device_to_host", memory, nbytes, to_host, bytes_=nbytes)


def _pageable(nbytes: int) -> np.ndarray:
    return np.empty(nbytes, np.uint8)


SECTIONS: dict[str, Callable[[Bench], Iterator[dict]]] = {
    name: getattr(Bench, name)
    for name in (
        "memory", "matrices", "products", "sweep", "int8", "convolutions", "roofline", "launches", "transfers",
    )
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/results"), help="folder of the result")
    parser.add_argument("--quick", action="store_true", help="small arrays, few rounds: does everything run?")
    parser.add_argument("--commit", help="the commit of this code, where there is no git checkout to tell it")
    parser.add_argument("--tiles", default=SWEEP, help=f"tiles to try, rows x columns x depth: {SWEEP}")
    parser.add_argument("--only", help=f"sections, with commas between them: {','.join(SECTIONS)}")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",") if options.only else list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        parser.error(f"there is no section {unknown[0]!r}; choose from {','.join(SECTIONS)}")
    try:
        tiles = tiles_from(options.tiles, (QUICK_PRODUCTS if options.quick else PRODUCTS)[0])
    except ValueError as fault:
        parser.error(str(fault))
    if not available():
        print(f"{COMMAND} measures a GPU. {why_not()}", file=sys.stderr)
        return 2
    try:
        made_by = commit_of(options.commit)
        result_folder(options.out)  # before minutes of work
    except (DirtyTree, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", ".*under-utilization.*")  # of launches that are meant to be small
    device = describe()
    print(f"{device['name']}, compute capability {device['compute_capability']}, {device['nvidia_smi']}", flush=True)
    bench, rows, failures = Bench(options.quick, tiles, device["multiprocessors"]), [], []
    for name in wanted:
        try:
            for row in SECTIONS[name](bench):
                if "failed" in row:
                    told = {key: row[key] for key in ("stage", "tiles") if key in row}
                    failures.append({"section": name, **told, "error": row["failed"]})
                    print(f"{name} {row['stage']} FAILED: {row['failed']}", flush=True)
                    continue
                rows.append({"section": name, **row})
                print(show(row), flush=True)
        except Exception:  # the other sections are worth having; the failure is stored, shown, and the exit status
            failures.append({"section": name, "error": traceback.format_exc(limit=-3)})
            print(f"{name} FAILED\n{traceback.format_exc(limit=-6)}", flush=True)
    record = provenance(COMMAND, seeds=[0], quick=options.quick) | made_by | {"versions": versions(PACKAGES)}
    result = {"provenance": record, "device": device | {"nvidia_smi_after": smi()}, "rows": rows, "failures": failures}
    result["transfers"] = [
        {"direction": kernel, "memory": memory, **latency_and_bandwidth(some)}
        for kernel in ("host_to_device", "device_to_host")
        for memory in ("pinned", "pageable")
        if len(some := [row for row in rows if (row["kernel"], row["stage"]) == (kernel, memory)]) > 1
    ]
    result["link"] = registry_link(device["nvidia_smi"])
    path = options.out / f"gpu_{slug(device['name'])}{'_quick' if options.quick else ''}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows)} rows in {path}; {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
