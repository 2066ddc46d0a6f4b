"""Times of matrix products on JAX's first device, of results and precisions that were checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwlimits.machine.timing import Comparison, Timing, compare, measure
from hwlimits.xla.engine import calling, compiled, device, jax_module, random_block
from hwlimits.xla.precisions import INT8_DEEPEST, PRECISIONS, XlaError, lacks, multiplied_types, product_error, whole


@dataclass(frozen=True)
class Product:
    """A measured product of (batch, m, k) and (batch, k, n): `flops` counts 2 m k n each, padding not counted.

    `multiplied` is the type that the compiled program multiplies, None where its text does not tell.
    `error` is the largest of a sub-block over the root of the sum of squared terms: see EXACT and COARSE.
    """

    shape: tuple[int, int, int]
    batch: int
    precision: str
    timing: Timing
    compile_s: float
    multiplied: str | None
    error: float

    @property
    def flops(self) -> int:
        return 2 * self.batch * int(np.prod(self.shape))

    @property
    def flops_per_s(self) -> float:
        return self.flops / self.timing.median_s


def _sides(size: int | Sequence[int]) -> tuple[int, int, int]:
    shape = tuple(size) if isinstance(size, Sequence | np.ndarray) else (size,) * 3
    if len(shape) != 3 or not all(map(whole, shape)):
        raise XlaError(f"a product of size {size!r}: give n, or (m, k, n), each a whole number from 1.")
    return tuple(map(int, shape))


def _prepared(size, precision: str, batch: int):
    """(call, sync, compile_s, multiplied, error) of a product that was checked."""
    m, k, n = _sides(size)
    if not whole(batch):
        raise XlaError(f"a batch of {batch!r} products: give how many, a whole number from 1.")
    jax, here = jax_module(), device()
    why = lacks(precision, here["platform"], here["compute_capability"])
    if why:
        raise XlaError(f"a {precision} product can't be measured here: {why}; ask for another precision.")
    if precision == "int8" and k > INT8_DEEPEST:
        raise XlaError(f"an int8 product with k = {k:,} may leave int32: k is at most {INT8_DEEPEST:,}.")
    kind, jax_precision, _ = PRECISIONS[precision]
    out = jax.numpy.int32 if precision == "int8" else None
    a, b = np.resize(random_block(kind, 0), (batch, m, k)), np.resize(random_block(kind, 1), (batch, k, n))
    on_device = [jax.device_put(x if batch > 1 else x[0]) for x in (a, b)]

    def product(a, b):
        return jax.numpy.matmul(a, b, precision=jax_precision, preferred_element_type=out)

    program, compile_s = compiled(product, *on_device)
    types = multiplied_types(program.as_text() or "")
    if types - {kind}:
        raise XlaError(
            f"a {precision} product can't be measured here: XLA compiles it for {here['platform']} ({here['kind']}) "
            f"to one of {', '.join(sorted(types))}; ask for that precision, whose time it would be."
        )
    got = np.asarray(program(*on_device)).reshape(batch, m, n)
    rows, columns = (np.unique(np.linspace(0, side - 1, 16).astype(int)) for side in (m, n))
    errors = [
        product_error(precision, a[i][rows], b[i][:, columns], got[i][np.ix_(rows, columns)]) for i in {0, batch - 1}
    ]
    return *calling(program, *on_device), compile_s, (kind if types else None), max(errors)


def matrix_product(size: int | Sequence[int], precision: str = "float32", *, batch: int = 1, **timing) -> Product:
    """Time of a jitted a @ b of random data on JAX's first device, after a check of the result.

    size        n, or (m, k, n);  precision   of PRECISIONS;  batch   independent products in one call
    timing      options of hwlimits.machine.timing.measure

    Raises XlaError for a size or a batch that is no whole number from 1, for a precision that the device lacks, for
    one that XLA widens before it multiplies, and for a wrong result.
    """
    prepared = _prepared(size, precision, batch)
    return _product(size, precision, batch, prepared, timing)


def compare_products(
    a, b, precision: str = "float32", *, batch: int = 1, rounds: int = 5, attempts: int = 2, **timing
) -> tuple[Product, Product, Comparison]:
    """Products of two sizes, each as `matrix_product` gives it, and their times interleaved with an A/A control.

    rounds, attempts   options of hwlimits.machine.timing.compare. Each product is compiled once.
    """
    prepared = [_prepared(size, precision, batch) for size in (a, b)]
    one, other = (_product(size, precision, batch, each, timing) for size, each in zip((a, b), prepared, strict=True))
    (call_a, sync, *_), (call_b, *_) = prepared
    return one, other, compare(call_a, call_b, rounds=rounds, attempts=attempts, sync=sync)


def _product(size, precision: str, batch: int, prepared, timing: dict) -> Product:
    call, sync, compile_s, multiplied, error = prepared
    took = measure(call, sync=sync, **timing)
    return Product(_sides(size), int(batch), precision, took, compile_s, multiplied, error)
