"""int8 with and without the processor's own instructions for it: the same kernels, the same computer, compiled twice.

What an instruction is worth shows where it is left out. A fresh process lets numba generate code for this processor,
or for one that is the same but for its int8 dot products (VNNI on x86, the dot product on ARM); it measures peaks, and
the int8 matrix product beside float32's, in turns. Where the processor has no such instruction, both are the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass

import numpy as np

from hwlimits.kernels.simd import cpu_features
from hwlimits.machine.timing import Comparison, Timing, compare, measure

DOT_PRODUCTS = frozenset({"avx512vnni", "avxvnni", "avxvnniint8", "dotprod", "i8mm"})  # LLVM's names
CHUNK = 100_000  # steps of a peak's chains in a call: about a millisecond


@dataclass(frozen=True)
class Peaks:
    """The instruction that multiplies int8, and two peaks of one thread; a multiply-add is two operations."""

    instruction: str
    fp32_flops_per_s: float
    int8_ops_per_s: float


def features(without: bool = False) -> str:
    """Instruction sets for NUMBA_CPU_FEATURES: the host's, or those without the int8 dot products.

    >>> "+avx512vnni" in features(without=True) or "+dotprod" in features(without=True)
    False
    """
    mine = cpu_features()
    left_out = DOT_PRODUCTS & mine if without else set()
    return ",".join([f"+{name}" for name in sorted(mine - left_out)] + [f"-{name}" for name in sorted(left_out)])


def peaks(without: bool = False) -> Peaks:
    """Peaks of this processor's float32 and int8 arithmetic, `without` its int8 dot products or with all it has.

    Each is the best of its samples.

    Raises RuntimeError with what the measuring process said if it fails.
    """
    return Peaks(**_child("peaks", without))


def product(n: int = 512, without: bool = False) -> Comparison:
    """The int8 product of n × n matrices against float32's: time of `gemm.sgemm` over time of `int8.matmul`.

    Raises ValueError for n below 1, RuntimeError as `peaks`.
    """
    if n < 1:
        raise ValueError(f"product(n={n}): a matrix has at least one row")
    found = _child(f"product {n}", without)
    a, b = (Timing(tuple(found.pop(name)["samples_s"])) for name in ("a", "b"))
    return Comparison(a=a, b=b, **found)


def _child(what: str, without: bool) -> dict:
    command = [sys.executable, "-m", __name__, *what.split()]
    environment = os.environ | {"NUMBA_CPU_FEATURES": features(without)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"int8_instructions: the measuring process failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _peaks() -> Peaks:
    from hwlimits.kernels import peak

    missing = "int8" not in peak.PRECISIONS
    fp32 = _rate(peak.run, "fp32")
    # a processor that has no instruction for pairs either widens to int32 and does what it does in float32
    return Peaks(
        *(("none", fp32, fp32) if missing else (peak.INSTRUCTIONS["int8"].name, fp32, _rate(peak.run, "int8")))
    )


def _rate(run, precision: str) -> float:
    operations = run(precision, CHUNK)
    # the best sample: another program can only take from a peak, and two of them are compared here
    return operations / min(measure(lambda: run(precision, CHUNK), repeats=31).samples_s)


def _product(n: int) -> Comparison:
    from hwlimits.kernels import gemm, int8

    random = np.random.default_rng(0)
    a, b = random.integers(-128, 128, (2, n, n)).astype(np.int8)
    x, y, packed = a.astype(np.float32), b.astype(np.float32), int8.pack(b)
    return compare(lambda: gemm.sgemm(x, y), lambda: int8.matmul(a, packed), rounds=11)


if __name__ == "__main__":
    print(json.dumps(asdict(_peaks() if sys.argv[1] == "peaks" else _product(int(sys.argv[2])))))
