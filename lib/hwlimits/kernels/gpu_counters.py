"""The counters of the GPU's own profiler for each stage of the kernels: what a stage fixed, as the hardware saw it.

    python -m hwlimits.kernels.gpu_counters --out FOLDER      runs Nsight Compute (`ncu`), writes gpu_NAME_counters.json

Sectors of 32 bytes for each request of a warp: 4 are what 32 floats in a row need, 32 what 32 places far apart do.
Bank conflicts are turns that shared memory needed beside the first. Occupancy is the share of the warps that an SM
could have which it had.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

METRICS = {
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum": "load_sectors",
    "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum": "load_requests",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum": "store_sectors",
    "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum": "store_requests",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum": "shared_load_conflicts",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum": "shared_store_conflicts",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "launch__registers_per_thread": "registers",
    "smsp__inst_executed.sum": "instructions",
    "dram__bytes_read.sum": "dram_read_bytes",
    "dram__bytes_write.sum": "dram_write_bytes",
    "gpu__time_duration.sum": "time_ns",
}
SEPARATOR = "empty"  # the kernel before each stage
SIDE, PRODUCT = 4096, 1024


def stages() -> Iterable[tuple[str, str, object]]:
    """(kernel, stage, call) of everything that is counted, at sizes that a profiler has time for."""
    from hwlimits.kernels import cuda, cuda_conv, cuda_gemm

    random = np.random.default_rng(0)
    a, b = random.random((2, SIDE, SIDE), dtype=np.float32)
    x, y = random.random((2, PRODUCT, PRODUCT), dtype=np.float32)
    i, j = random.integers(-128, 128, (2, PRODUCT, PRODUCT), dtype=np.int8)
    images = random.random((256, 13, 13, 32), dtype=np.float32)
    weights, bias = random.random((3, 3, 32, 64), dtype=np.float32), random.random(64, dtype=np.float32)
    for stage in cuda.COPY:
        yield "copy", stage, lambda s=stage: cuda.copy(a.ravel(), s)
    for stage in cuda.TRIAD:
        yield "triad", stage, lambda s=stage: cuda.triad(a.ravel(), b.ravel(), 0.5, s)
    for stage in cuda.TOTAL:
        yield "total", stage, lambda s=stage: cuda.total(a.ravel(), s)
    for stage in cuda.TRANSPOSE:
        yield "transpose", stage, lambda s=stage: cuda.transpose(a, s)
    for stage in cuda.BIAS_RELU:
        yield "bias_relu", stage, lambda s=stage: cuda.bias_relu(a, b[0], s)
    for stage in cuda_gemm.STAGES:
        yield "product", stage, lambda s=stage: cuda_gemm.sgemm(x, y, s)
    for stage in cuda_gemm.INT8_STAGES:
        yield "int8", stage, lambda s=stage: cuda_gemm.int8_product(i, j, s)
    for stage in cuda_conv.STAGES:
        yield "conv2", stage, lambda s=stage: cuda_conv.conv2d(images, weights, bias, s)


def run() -> None:
    """Each stage once, and an empty kernel before each, by which its launches are found in the profile."""
    from hwlimits.kernels import cuda_peak

    for _, _, call in stages():
        cuda_peak.empty[1, 1]()
        call()


def read(text: str, names: Sequence[tuple[str, str]], separator: str = SEPARATOR) -> list[dict]:
    """Rows of counters, one for each stage: ncu's CSV (a line for each launch and metric), launches of a stage added.

    Occupancy and registers are those of the stage's longest launch. Raises ValueError if there are not as many stages.
    """
    lines = text[text.index('"ID"') :]
    launches: dict[int, dict] = {}
    for line in csv.DictReader(io.StringIO(lines)):
        launch = launches.setdefault(int(line["ID"]), {"function": line["Kernel Name"]})
        value = float(line["Metric Value"].replace(",", ""))
        launch[METRICS[line["Metric Name"]]] = value * UNITS.get(line["Metric Unit"], 1)
    groups: list[list[dict]] = []
    for _, launch in sorted(launches.items()):
        if separator in launch["function"]:
            groups.append([])
        else:
            groups[-1].append(launch)
    if len(groups) != len(names):
        raise ValueError(f"the profile has {len(groups)} stages, and {len(names)} were run")
    return [_row(kernel, stage, group) for (kernel, stage), group in zip(names, groups, strict=True)]


UNITS = {"Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6}


def _row(kernel: str, stage: str, launches: list[dict]) -> dict:
    longest = max(launches, key=lambda launch: launch["time_ns"])
    kept = {"occupancy_percent", "registers"}
    row = {"kernel": kernel, "stage": stage, "launches": len(launches)}
    for name in METRICS.values():
        row[name] = longest[name] if name in kept else sum(launch[name] for launch in launches)
    for kind in ("load", "store"):
        requests = row[f"{kind}_requests"]
        row[f"{kind}_sectors_per_request"] = row[f"{kind}_sectors"] / requests if requests else None
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    from hwlimits.kernels import gpu_tools
    from hwlimits.machine.provenance import commit, provenance

    parser = argparse.ArgumentParser(prog="python -m hwlimits.kernels.gpu_counters", description=__doc__.split("\n")[0])
    parser.add_argument("--run", action="store_true", help="run each stage once: what is profiled")
    parser.add_argument("--csv", type=Path, help="a profile that is there already, in ncu's CSV")
    parser.add_argument("--device", help="with --csv: the GPU's name")
    parser.add_argument("--out", type=Path, default=Path("data/results"))
    parser.add_argument("--commit", help="the commit of this code, where there is no checkout")
    options = parser.parse_args(arguments)
    if options.run:
        run()
        return
    names = [(kernel, stage) for kernel, stage, _ in stages()]
    if options.csv:
        text, device = options.csv.read_text(encoding="utf-8"), options.device
    else:
        if shutil.which("ncu") is None:
            raise SystemExit("there is no `ncu` on the path: Nsight Compute comes with NVIDIA's CUDA toolkit")
        command = ["ncu", "--csv", "--metrics", ",".join(METRICS), sys.executable, "-m", __spec__.name, "--run"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        device = gpu_tools.describe()["name"]
    made_by = provenance("python -m hwlimits.kernels.gpu_counters") | {"commit": options.commit or commit()}
    found = {"provenance": made_by, "device": device, "rows": read(text, names)}
    name = gpu_tools.slug(device)
    (options.out / f"gpu_{name}_counters.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
