"""Operator times of a computer that is made up: a microsecond for a call, and a rate for each family."""

from math import prod

from hwlimits.machine.latency import DIMENSIONS, Point, Work
from hwlimits.training.operator_rates import specs

RATES = {"product": 1e10, "DEPTHWISE_CONV_2D": 2e9, "TRANSPOSE_CONV": 5e9, "BATCH_MATMUL": 5e9}
INVOKE_S = 1e-6


def time_s(work: Work) -> float:
    """Its true time on this computer, alone."""
    return INVOKE_S + work.done / RATES.get(work.family, 1e10)


def works_like(spec) -> Work:
    """The work of a measured operator, roughly, without making its file."""
    pixels = prod(spec.shape[1:-1]) / spec.stride**2 if len(spec.shape) == 4 else spec.shape[0]
    channels = spec.shape[-1]
    if spec.kind in ("CONV_2D", "FULLY_CONNECTED"):
        shape = (pixels, channels, spec.outputs, spec.window**2, 1.0)
        amount = prod(shape)
    elif spec.kind == "DEPTHWISE_CONV_2D":
        shape = (pixels, channels, spec.window**2, spec.stride**2, 1.0)
        amount = prod(shape[:3])
    elif spec.kind in DIMENSIONS:
        shape = (prod(spec.shape), channels, max(spec.window, 1) ** 2, spec.stride**2, 1.0)
        amount = 8 * prod(spec.shape)
    else:
        amount = 8 * prod(spec.shape)
        shape = (prod(spec.shape), channels, 1.0, 1.0)
    weights = 4 * channels * spec.outputs if spec.kind == "FULLY_CONNECTED" else 4
    return Work(spec.kind, spec.kind, spec.form, shape, max(int(amount), 1), (("x", 4), ("w", weights)), (("y", 4),))


def operators() -> tuple[Point, ...]:
    """The operators that a calibration measures."""
    return tuple(Point(work, time_s(work), 0.02 * time_s(work)) for work in map(works_like, specs()))
