"""`python -m hwlimits.xla`: measure JAX's first device, and write what was found, with what made it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hwlimits import xla
from hwlimits.machine.provenance import (
    PACKAGES,
    machine,
    provenance,
    require_clean_commit,
    result_folder,
    versions,
)
from hwlimits.machine.timing import Comparison, Timing, measure
from hwlimits.units import quantity, seconds
from hwlimits.xla.bandwidths import FLOAT_BYTES
from hwlimits.xla.engine import calling, compiled, jax_module
from hwlimits.xla.precisions import TILE

EXTRA_PACKAGES = ("jax", "jaxlib", "ml_dtypes", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu")
ITEM_BYTES = {"float32": 12, "tf32": 12, "bfloat16": 6, "int8": 6}  # of a, b and the product
BUDGET_S = 600.0
LARGEST_SIDE, SMALLEST_SIDE = 8192, 256
BATCH_BYTES = 2**29
MOST_ELEMENTS, FEWEST_ELEMENTS = 2**27, 2**24  # from 64 MiB an array: beyond a cache, below a GPU's memory
QUICK_ELEMENTS = 2**22


class Run:
    """Measurements by name, until the time is up: one that can't be made, or comes too late, is left out with why."""

    def __init__(self, budget_s: float, clock: Callable[[], float] = time.perf_counter):
        self.clock, self.end = clock, clock() + budget_s
        self.budget_s = budget_s
        self.left_out: dict[str, str] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` returns; None where it could not be."""
        if self.clock() > self.end:
            self.left_out[name] = f"the {self.budget_s:g} s given (--seconds) were over"
            return None
        start = self.clock()
        try:
            found = work()
        except Exception as error:  # one number less; the others can still be measured
            text = str(error).splitlines() or [""]
            self.left_out[name] = text[0] if isinstance(error, xla.XlaError) else f"{type(error).__name__}: {text[0]}"
            print(f"{name}: left out: {self.left_out[name]}", flush=True)
            return None
        print(f"{name}: {_shown(found)}  [{seconds(self.clock() - start)}]", flush=True)
        return found


def _shown(found: Any) -> str:
    if isinstance(found, xla.Product):
        return f"{found.timing}, {quantity(found.flops_per_s, 'FLOP/s')}, compiled in {seconds(found.compile_s)}"
    if isinstance(found, tuple):
        return "; ".join(_shown(one) for one in found)
    if isinstance(found, dict) and "points" in found:
        ratios = ", ".join(f"{point['ratio']:.2f}" for point in found["points"])
        rates = quantity(found["triad"]["bytes_per_s"], "B/s"), quantity(found["peak"]["flops_per_s"], "FLOP/s")
        return f"{rates[0]}, {rates[1]}; measured over predicted {ratios}"
    if isinstance(found, dict):
        return ", ".join(f"{name} {value}" for name, value in found.items())
    return str(found)


def plain(found: Any) -> Any:
    """Timings, comparisons and products as what JSON can hold, with the numbers that their properties tell.

    >>> plain({"t": Timing((1.0, 2.0, 3.0), 4)})
    {'t': {'median_s': 2.0, 'iqr_s': 1.0, 'samples': 3, 'loops': 4, 'noisy': True}}
    """
    if isinstance(found, Timing):
        named = {"median_s": found.median_s, "iqr_s": found.iqr_s, "samples": len(found.samples_s)}
        return named | {"loops": found.loops, "noisy": found.noisy}
    if isinstance(found, Comparison | xla.Product):
        fields = {field.name: plain(getattr(found, field.name)) for field in dataclasses.fields(found)}
        if isinstance(found, Comparison):
            return fields | {"verdict": found.verdict}
        waste = xla.padding_waste(found.shape)
        return fields | {"flops": found.flops, "flops_per_s": found.flops_per_s, f"waste_if_padded_to_{TILE}": waste}
    if isinstance(found, dict):
        return {name: plain(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [plain(value) for value in found]
    return found


def side_for(flops_per_s: float, target_s: float) -> int:
    """The side of a square product that takes about `target_s`: a multiple of 128 from 256 to 8192.

    >>> side_for(50e12, 0.02), side_for(1e9, 0.01), side_for(1e15, 1)
    (7936, 256, 8192)
    """
    side = (flops_per_s * target_s / 2) ** (1 / 3)
    return int(np.clip(side // TILE * TILE, SMALLEST_SIDE, LARGEST_SIDE))


def elements_for(bytes_per_s: float, target_s: float) -> int:
    """Elements, a power of two from 2^24 to 2^27, whose copy (read and written) takes about `target_s`.

    >>> elements_for(1e10, 0.05) == 2**25, elements_for(3e12, 0.05) == 2**27
    (True, True)
    """
    power = int(np.log2(max(bytes_per_s * target_s / (2 * FLOAT_BYTES), 1)))
    return int(np.clip(2**power, FEWEST_ELEMENTS, MOST_ELEMENTS))


def _guessed_bytes_per_s() -> float:
    x = jax_module().device_put(np.ones(QUICK_ELEMENTS, np.float32))
    call, sync = calling(compiled(lambda x: x * 2, x)[0], x)
    return 2 * x.nbytes / measure(call, sync=sync, repeats=3).median_s


def measured(quick: bool, budget_s: float, clock: Callable[[], float] = time.perf_counter) -> dict:
    """All measurements, the most telling first, for at most about `budget_s` seconds."""
    run, on_cpu = Run(budget_s, clock), xla.device()["platform"] == "cpu"
    options = {"repeats": 5 if quick else 11, "min_sample_s": 2e-3 if quick else 2e-2}
    found: dict[str, Any] = {"dispatch": run("dispatch", lambda: xla.dispatch(repeats=options["repeats"]))}

    if quick:
        line = {"elements": QUICK_ELEMENTS, "steps": (1, 4, 16), "peak_steps": 64}
    else:
        guess = run("first guess, bytes/s", _guessed_bytes_per_s)
        line = {"elements": elements_for(guess or 0.0, 0.02)}
        if on_cpu:  # whose ridge is at few FLOP/byte, and whose calls would take seconds
            line |= {"steps": (1, 2, 4, 8, 16, 32), "peak_steps": 64}
    found["roofline"] = run("roofline", lambda: xla.roofline(**line, **options))

    copies = []
    for power in range(12, 23 if quick else 29, 2):
        copies.append((2**power, run(f"copy of {2**power} bytes", lambda n=2**power: xla.host_to_device(n, **options))))
    found["host_to_device"] = [
        {"bytes": size, "bytes_per_s": size / took.median_s, "timing": took} for size, took in copies if took
    ]

    first = run("first guess, product", lambda: xla.matrix_product(512 if on_cpu else 2048, repeats=3))
    side = 256 if quick else side_for(first.flops_per_s if first else 0.0, 0.03 if on_cpu else 0.02)
    found["products"], found["comparisons"] = [], []
    batch_bytes = BATCH_BYTES // (64 if on_cpu else 1)
    for even, odd in [(side, side + 1), (128, 100)] if quick else [(side, side + 1), (1024, 1025), (128, 100)]:
        for precision in xla.PRECISIONS:
            batch = 1 if even == side else _batch(even, precision, batch_bytes)
            three = run(
                f"{precision} products of {even} and {odd}, batch {batch}",
                lambda a=even, b=odd, p=precision, n=batch: xla.compare_products(a, b, p, batch=n, **options),
            )
            if three:
                found["products"] += three[:2]
                sides = {"a_side": even, "b_side": odd, "batch": batch, "precision": precision}
                found["comparisons"].append(sides | plain(three[2]))
    return plain(found) | {"left_out": run.left_out}


def _batch(side: int, precision: str, most_bytes: int) -> int:
    return max(1, most_bytes // (ITEM_BYTES[precision] * side**2))


def file_name(device: dict, cpu: str, quick: bool = False, *, start: str = "xla") -> str:
    """Name of the result: <start>_<platform>_<device>.json; a CPU, which JAX calls 'cpu', by the system's name of it.

    A quick result has '_quick' behind its name: it does not take the place of a full one.

    >>> file_name({"platform": "gpu", "kind": "NVIDIA H100 80GB HBM3"}, "")
    'xla_gpu_nvidia-h100-80gb-hbm3.json'
    """
    kind = cpu if device["platform"] == "cpu" else device["kind"]
    kind = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    return f"{start}_{device['platform']}_{kind}{'_quick' if quick else ''}.json"


def made_by(command: str, commit: str | None, device: dict) -> dict:
    """The record of what made a result, with JAX's versions and device; `commit` where no git tells it.

    Raises XlaError for a commit that is not 40 hexadecimal digits.
    """
    if commit is not None and not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise xla.XlaError(f"--commit {commit!r} is no commit: give all 40 hexadecimal digits (git rev-parse HEAD).")
    installed = versions((*PACKAGES, *EXTRA_PACKAGES))
    found = {name: value for name, value in installed.items() if name not in EXTRA_PACKAGES or value != "not installed"}
    record = provenance(command, seeds=[0, 1], versions=found, device=device)
    if commit is not None:
        record |= {"commit": commit, "commit_in_checkout": record["commit"]}
    return record


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; give one, as 600") from None
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} s leave no time to measure anything; give more than 0")
    return value


def begin(
    prog: str, about: str, target: str, budget_s: float, arguments: list[str] | None
) -> tuple[argparse.Namespace, dict, dict]:
    """What each program of this package does first: the options given, JAX's device, and the result's provenance.

    It ends the program with a sentence, before minutes of work, where there is no JAX, the commit is not told, or the
    folder can't be written.
    """
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument(
        "--seconds", type=_seconds, default=budget_s, help="start nothing after so long (default: %(default)s)"
    )
    parser.add_argument("--commit", help="the commit that runs, where there is no git to ask")
    given = parser.parse_args(arguments)
    options = ["--quick"] if given.quick else []
    options += [f"--seconds {given.seconds:g}"] if given.seconds != budget_s else []
    command = " ".join([prog, "--out data/results", *options]) if options else target
    try:
        device = xla.device()
        record = made_by(command, given.commit, device)
        if given.commit is None and not given.quick:
            require_clean_commit()
        result_folder(given.out)
    except (RuntimeError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{device['kind']}, {device['platform_version'].splitlines()[0]}", flush=True)
    return given, device, record


def main(arguments: list[str] | None = None) -> None:
    given, device, record = begin("python -m hwlimits.xla", __doc__, "make xla-bench", BUDGET_S, arguments)
    found = measured(given.quick, given.seconds)
    target = given.out / file_name(device, machine()["cpu"], given.quick)
    result = {"provenance": record, "quick": given.quick} | found
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
