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
import math
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
MODULE = "hwlimits.kernels.gpu_counters"
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

    Occupancy and registers are those of the stage's longest launch. Raises ValueError for a text that is no whole
    profile of `--run`: no header, a counter that is missing or no number, a launch before the first empty kernel, a
    stage without a launch, or another number of stages.
    """
    if (start := text.find('"ID"')) < 0:
        raise ValueError(
            'the profile has no header, a line that starts with "ID"; give what `ncu --csv` printed, whole'
        )
    launches: dict[int, dict] = {}
    for line in csv.DictReader(io.StringIO(text[start:])):
        if missing := [name for name in COLUMNS if line.get(name) is None]:
            raise ValueError(f"a line of the profile has no {missing[0]!r}; give what `ncu --csv` printed, whole")
        if line["Metric Name"] in METRICS:
            launch = launches.setdefault(int(line["ID"]), {"function": line["Kernel Name"]})
            launch[METRICS[line["Metric Name"]]] = _number(line)
    groups: list[list[dict]] = []
    for number, launch in sorted(launches.items()):
        if separator in launch["function"]:
            groups.append([])
            continue
        if not groups:
            raise ValueError(
                f"launch {number} of the profile, {launch['function']!r}, comes before the first {separator!r}, which "
                "starts a stage; profile the whole of --run"
            )
        if missing := [metric for metric, name in METRICS.items() if name not in launch]:
            raise ValueError(
                f"launch {number} of the profile, {launch['function']!r}, has no {missing[0]}; profile with all METRICS"
            )
        groups[-1].append(launch)
    if len(groups) != len(names):
        raise ValueError(f"the profile has {len(groups)} stages, and {len(names)} were run")
    for (kernel, stage), group in zip(names, groups, strict=True):
        if not group:
            raise ValueError(f"stage {stage!r} of {kernel!r} has no launch in the profile; profile the whole of --run")
    return [_row(kernel, stage, group) for (kernel, stage), group in zip(names, groups, strict=True)]


def _number(line: dict) -> float:
    try:
        value = float(line["Metric Value"].replace(",", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{line['Metric Name']} of launch {line['ID']} of the profile, {line['Kernel Name']!r}, is "
            f"{line['Metric Value']!r}, which is no number; this GPU may lack the counter, or not let it be read"
        )
    return value * UNITS.get(line["Metric Unit"], 1)


COLUMNS = ("ID", "Kernel Name", "Metric Name", "Metric Unit", "Metric Value")
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


def profiled() -> str:
    """What ncu prints of `--run`, in CSV. Raises RuntimeError, with ncu's own words, if it fails or is not there."""
    if shutil.which("ncu") is None:
        raise RuntimeError(
            "there is no `ncu` on the path: install Nsight Compute, which comes with NVIDIA's CUDA toolkit"
        )
    command = ["ncu", "--csv", "--metrics", ",".join(METRICS), sys.executable, "-m", MODULE, "--run"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("==ERROR==")]
    if done.returncode or errors:
        told = " ".join(errors or said[-1:]) or "nothing"
        raise RuntimeError(f"ncu ended with status {done.returncode} and said: {told}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    from hwlimits.kernels import gpu_report, gpu_tools
    from hwlimits.kernels.cuda_device import available, why_not
    from hwlimits.machine.provenance import provenance, result_folder

    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.split("\n")[0])
    parser.add_argument("--run", action="store_true", help="run each stage once: what is profiled")
    parser.add_argument("--csv", type=Path, help="a profile that is there already, in ncu's CSV")
    parser.add_argument("--device", help="with --csv: the GPU's name")
    parser.add_argument("--out", type=Path, default=Path("data/results"))
    parser.add_argument("--commit", help="the commit of this code, where there is no checkout")
    options = parser.parse_args(arguments)
    if bool(options.csv) != bool(options.device):
        parser.error(
            "--csv PROFILE and --device NAME, that of the GPU that was profiled, go together: give both or none"
        )
    if not options.csv and not available():
        print(f"python -m {MODULE} profiles a GPU. {why_not()}", file=sys.stderr)
        return 2
    if options.run:
        run()
        return 0
    try:
        made_by = provenance(f"python -m {MODULE}") | gpu_report.commit_of(options.commit)
        result_folder(options.out)  # before minutes of work
        text = options.csv.read_text(encoding="utf-8") if options.csv else profiled()
        device = options.device or gpu_tools.describe()["name"]
        rows = read(text, [(kernel, stage) for kernel, stage, _ in stages()])
    except (RuntimeError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    found = {"provenance": made_by, "device": device, "rows": rows}
    path = options.out / f"gpu_{gpu_tools.slug(device)}_counters.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows)} rows in {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
