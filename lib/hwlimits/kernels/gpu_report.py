"""What a GPU's benchmark says beside times: rates, a link, failures, the commit; and tiles from a text."""

from __future__ import annotations

import re

import numpy as np

from hwlimits import devices
from hwlimits.kernels import cuda_gemm
from hwlimits.machine.provenance import DirtyTree, commit
from hwlimits.machine.timing import Timing


def tiles_from(text: str, n: int) -> list[tuple[int, int, int]]:
    """Tiles of `vector_tiles` for n x n matrices, from "rows x columns x depth" with commas between them.

    Raises ValueError for a text that is none, and for tiles that `vector_tiles` or the matrices do not take.

    >>> tiles_from("128x128x16,64x64x16", 2048)
    [(128, 128, 16), (64, 64, 16)]
    """
    found = []
    for choice in filter(None, text.split(",")):
        sizes = choice.split("x")
        if len(sizes) != 3 or not all(size.isdecimal() for size in sizes):
            raise ValueError(f"tiles {choice!r} are not rows x columns x depth, as in 128x128x16")
        tiles = tuple(map(int, sizes))
        if fault := cuda_gemm.tiles_fault(*tiles):
            raise ValueError(fault)
        if odd := [name for name, size in zip(("rows", "columns", "depth"), tiles, strict=True) if n % size]:
            raise ValueError(
                f"tiles {choice}: {' and '.join(odd)} do not divide {n}, the side of the matrices that tiles are tried "
                "on; choose divisors of it, as in 128x128x16"
            )
        found.append(tiles)
    return found


def failure(kernel: str, stage: str, error: Exception, **more) -> dict:
    """What stands in for the row of a stage that fails or is wrong: it is not timed, and the others are."""
    told = str(error) if isinstance(error, ArithmeticError) else f"{type(error).__name__}: {error}"
    return {"kernel": kernel, "stage": stage, "failed": told, **more}


def speeds(timing: Timing, bytes_: int, flops: int) -> dict:
    """A timing's part of a row: seconds, and bytes and FLOPs a second; None for what there is nothing of."""
    t = timing.median_s
    rates = {"bytes_per_s": bytes_ / t if bytes_ else None, "flops_per_s": flops / t if flops else None}
    return {"median_s": t, "iqr_s": timing.iqr_s, "n": len(timing.samples_s), "loops": timing.loops, **rates}


def latency_and_bandwidth(rows: list[dict]) -> dict:
    """Latency (s) and bandwidth (bytes/s) that fit times of transfers: t = latency + bytes / bandwidth.

    Least squares of relative errors: small and large transfers count alike.

    >>> fit = latency_and_bandwidth([{"bytes": n, "median_s": 1e-5 + n / 2e10} for n in (1000, 10**6, 10**9)])
    >>> f"{fit['latency_s']:.2e} {fit['bytes_per_s']:.2e}"
    '1.00e-05 2.00e+10'
    """
    sizes, times = (np.array([row[name] for row in rows], float) for name in ("bytes", "median_s"))
    system = np.stack([1 / times, sizes / times], axis=1)
    (latency, slope), *_ = np.linalg.lstsq(system, np.ones(len(rows)), rcond=None)
    return {"latency_s": float(latency), "bytes_per_s": float(1 / slope)}


def registry_link(said: dict[str, str]) -> dict | None:
    """The registry's link of the generation and width that nvidia-smi tells; None if it tells none that is there."""
    name = f"pcie-{said.get('pcie.link.gen.max')}-x{said.get('pcie.link.width.max')}"
    try:
        found = devices.link(name)
    except devices.DeviceError:
        return None
    return {"name": name, "bytes_per_s": found.bytes_per_s}


def show(row: dict) -> str:
    """A row in a line."""
    speed = f"{row['bytes_per_s'] / 1e9:9.1f} GB/s" if row["bytes_per_s"] else " " * 14
    speed += f" {row['flops_per_s'] / 1e12:8.2f} TFLOP/s" if row["flops_per_s"] else " " * 17
    share = f" {row['share']:6.3f} of {row['baseline']} (A/A {row['aa_ratio']:.3f})" if "share" in row else ""
    tiles = "x".join(map(str, row.get("tiles", ())))
    return f"{row['kernel']:15} {row['stage']:20} {row['size']!s:20} {tiles:11} {row['median_s']:.3e} s {speed}{share}"


def commit_of(given: str | None) -> dict[str, str]:
    """The commit of this code for the provenance: the checkout's, or `given` where the checkout does not tell one.

    What the checkout says instead is kept beside it. Raises DirtyTree if nobody tells a commit, if both tell another
    one, or if files differ from the checkout's.
    """
    here = commit()
    if len(here) == 40 and given in (None, here):
        return {"commit": here}
    if here == "unknown" and given and re.fullmatch(r"[0-9a-f]{40}", given):
        return {"commit": given, "checkout": here}
    raise DirtyTree(
        f"A stored result names the commit that made it, and this is {here}, with --commit {given}: commit the changes "
        "first, or, outside a checkout, give its 40 hexadecimal digits with --commit."
    )
