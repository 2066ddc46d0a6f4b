"""Dispatch, copies to the device, and the roofline of elementwise kernels, on JAX's first device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from hwlimits.machine.timing import Timing, measure
from hwlimits.roofline import Roofline
from hwlimits.xla.engine import calling, compiled, device, jax_module, random_block
from hwlimits.xla.precisions import XlaError, whole

FACTOR, ADDEND = np.float32(0.999), np.float32(0.002)  # x -> FACTOR x + ADDEND stays between 0 and 2
FLOAT_BYTES = 4
STEPS = (1, 4, 16, 32, 64, 128, 256)


def dispatch(**timing) -> dict[str, Timing]:
    """Time of an operation on eight numbers: 'round trip' waits for each, 'queued' only for the last of many."""
    jax = jax_module()
    x = jax.device_put(np.arange(8, dtype=np.float32))
    program, _ = compiled(lambda x: x + 1, x)
    if not np.array_equal(np.asarray(program(x)), np.arange(1, 9)):
        raise XlaError("adding 1 to the numbers 0 to 7 did not give 1 to 8.")
    sync = jax.block_until_ready
    return {
        "round trip": measure(lambda: sync(program(x)), sync=sync, **timing),
        "queued": measure(lambda: program(x), sync=sync, **timing),
    }


def host_to_device(size_bytes: int, **timing) -> Timing:
    """Time to copy an array in pageable host memory to the device (`jax.device_put`), waited for each time.

    On a CPU it is a copy within one memory, of an array that does not lie as XLA's do: one that does is taken over
    as it is, whatever `may_alias` says.
    """
    jax = jax_module()
    if not whole(size_bytes) or size_bytes % FLOAT_BYTES:
        raise XlaError(f"a copy of {size_bytes!r} bytes: give a multiple of {FLOAT_BYTES}, it copies float32.")
    shift = int(jax.devices()[0].platform == "cpu")
    host = np.resize(random_block("f32", 0), size_bytes // FLOAT_BYTES + shift)[shift:]

    def put():
        return jax.block_until_ready(jax.device_put(host, jax.devices()[0], may_alias=False))

    there = put()
    host[0] += 1  # a copy does not see it
    back = np.asarray(there)
    if back[0] == host[0] or not np.array_equal(back[1:], host[1:]):
        raise XlaError(f"device_put of {size_bytes:,} bytes gave no copy: what is there is not what was put.")
    return measure(put, sync=jax.block_until_ready, **timing)


def multiply_adds(x, factor, addend, steps: int):
    """x -> factor x + addend, `steps` times, element by element: 2 steps FLOPs on 4 bytes read and 4 written."""
    for _ in range(steps):  # unrolled, so that XLA makes one kernel of it
        x = x * factor + addend
    return x


def after_steps(x: np.ndarray, steps: int) -> np.ndarray:
    """What `multiply_adds` gives, in closed form and float64: f^s x + a (1 - f^s) / (1 - f)."""
    factor, addend = float(FACTOR), float(ADDEND)
    power = factor**steps
    return power * x.astype(np.float64) + addend * (1 - power) / (1 - factor)


def _checked(name: str, program, arguments, want: Callable[..., np.ndarray], **timing) -> Timing:
    ends = [np.r_[a[:1000], a[-1000:]] if np.ndim(a) else a for a in map(np.asarray, arguments)]
    got = np.asarray(program(*arguments))
    if not np.allclose(np.r_[got[:1000], got[-1000:]], want(*ends), rtol=1e-4, atol=1e-4):
        raise XlaError(f"the kernel {name!r} of {len(got):,} elements gave a wrong result.")
    call, sync = calling(program, *arguments)
    return measure(call, sync=sync, **timing)


def roofline(elements: int, steps: Sequence[int] = STEPS, peak_steps: int = 512, **timing) -> dict:
    """Elementwise float32 at rising intensity, beside min(peak, intensity x bandwidth) of the same device.

    elements     of each array: enough for it to lie in memory, not in a cache
    steps        multiply-adds per element: intensity is steps / 4 FLOP/byte
    peak_steps   those of the kernel that measures the peak

    Bandwidth is the triad's, a + s b, of 12 bytes an element (STREAM, McCalpin 1995); a copy's stands beside it.
    Returns bandwidths and peak, each with its timing, and `points`: intensity, FLOP/s, predicted, ratio, compile_s.
    """
    jax = jax_module()
    if not whole(elements):
        raise XlaError(f"roofline(elements={elements!r}): give how many an array has, a whole number from 1.")
    if not steps or not all(map(whole, (*steps, peak_steps))) or max(steps) >= peak_steps:
        asked = f"roofline(steps={tuple(steps)}, peak_steps={peak_steps})"
        raise XlaError(f"{asked}: give steps from 1 to below peak_steps.")
    host = np.abs(random_block("f32", 0)) % 1, np.abs(random_block("f32", 1)) % 1
    a, b = (jax.device_put(np.resize(x, elements)) for x in host)
    scalars = [jax.device_put(FACTOR), jax.device_put(ADDEND)]

    def run(name, function, arguments, want):
        program, compile_s = compiled(function, *arguments)
        return _checked(name, program, arguments, want, **timing), compile_s

    def kernel(count):
        return run(
            f"{count} multiply-adds",
            functools.partial(multiply_adds, steps=count),
            [a, *scalars],
            lambda x, *_: after_steps(x, count),
        )

    copied, _ = run("copy", jax.numpy.copy, [a], lambda x: x)
    triad, _ = run("triad", lambda a, b, s: a + s * b, [a, b, scalars[0]], lambda a, b, s: a + s * b)
    top, top_compile_s = kernel(peak_steps)
    bandwidth, peak = 3 * FLOAT_BYTES * elements / triad.median_s, 2 * peak_steps * elements / top.median_s
    roof = Roofline(device()["kind"], peak, {"memory": bandwidth})
    points = []
    for count in steps:
        took, compile_s = kernel(count)
        intensity = 2 * count / (2 * FLOAT_BYTES)
        rate, predicted = 2 * count * elements / took.median_s, roof.attainable_flops_per_s(intensity)
        points.append({
            "steps": count, "intensity": intensity, "flops_per_s": rate, "predicted_flops_per_s": predicted,
            "ratio": rate / predicted, "compile_s": compile_s, "timing": took,
        })  # fmt: skip
    return {
        "elements": elements,
        "copy": {"bytes_per_s": 2 * FLOAT_BYTES * elements / copied.median_s, "timing": copied},
        "triad": {"bytes_per_s": bandwidth, "timing": triad},
        "peak": {"flops_per_s": peak, "steps": peak_steps, "compile_s": top_compile_s, "timing": top},
        "points": points,
    }
