"""JAX, imported when it is used; its device; compiling, and calls that a timer can time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hwlimits.xla.precisions import XlaError

BLOCK = 2**20 + 7  # random numbers drawn; longer data repeat them, shifted from row to row


def jax_module():
    """JAX. Raises XlaError that names the extra where it is not installed."""
    try:
        import jax
    except ImportError:
        raise XlaError(
            "hwlimits.xla needs JAX, and it is not installed here: pip install 'hwlimits[accelerators]' "
            "(for an NVIDIA GPU jax[cuda13], for a TPU jax[tpu], beside it)."
        ) from None
    return jax


@functools.cache
def random_block(kind: str, seed: int) -> np.ndarray:
    """Random numbers of one of XLA's types: 'f32' and 'bf16' normal, 's8' even from -127 to 127. Not to be changed."""
    random = np.random.default_rng(seed)
    if kind == "s8":
        return random.integers(-127, 128, BLOCK, dtype=np.int8)
    values = random.standard_normal(BLOCK, dtype=np.float32)
    return values.astype(jax_module().numpy.bfloat16) if kind == "bf16" else values


def compiled(function: Callable, *arguments, **options) -> tuple[Any, float]:
    """A function compiled for the arguments' shapes, and the seconds of XLA's compilation (tracing not counted).

    options   of `jax.jit`: donate_argnums names arguments whose memory the results may take, gone after a call
    """
    lowered = jax_module().jit(function, **options).lower(*arguments)
    start = time.perf_counter()
    program = lowered.compile()
    return program, time.perf_counter() - start


def calling(program: Callable, *arguments) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """A call to time, and the `sync` for `measure`.

    A GPU or TPU runs calls in their order, so that the last one's end is that of all, and launching hides behind
    running. XLA's CPU client may run two calls side by side: there each is waited for.
    """
    jax = jax_module()
    if jax.devices()[0].platform == "cpu":
        return lambda: jax.block_until_ready(program(*arguments)), jax.block_until_ready
    return lambda: program(*arguments), jax.block_until_ready


def device() -> dict:
    """What JAX says of its first device: platform, kind, platform version, number, an NVIDIA GPU's capability."""
    one = jax_module().devices()[0]
    return {
        "platform": one.platform,
        "kind": one.device_kind,
        "platform_version": one.client.platform_version,
        "devices": len(jax_module().devices()),
        "compute_capability": getattr(one, "compute_capability", None),
    }
