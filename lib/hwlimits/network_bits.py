"""What a network's codes belong to, as bits: its layers, and the steps or codebooks of its tensors.

The first part of an .hwz file; `hwlimits.hwz` says how each bit is meant.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from hwlimits.bits import CodingError, Reader, Writer
from hwlimits.compressed import Layer, Tensor

MOST = 1 << 16  # of a layer's sizes, one by one
MOST_EXPONENT = 127  # of a step 2^(k / 8)
PREFIXES = {
    "conv": "0", "max_pool": "10", "dense": "110", "separable": "11100", "mean_pool": "11101",
    "global_mean": "11110", "flatten": "11111",
}  # fmt: skip
USUAL = Layer("conv", kernel=3, gain=True, relu=True)  # what a first convolution is likely to be
EIGHTHS = (  # 2^(j / 8), rounded correctly: pow need not be
    1.0,
    1.0905077326652577,
    1.189207115002721,
    1.2968395546510096,
    1.4142135623730951,
    1.5422108254079407,
    1.681792830507429,
    1.8340080864093424,
)


def grid_step(k: int) -> float:
    """2^(k / 8), the same on every computer.

    >>> grid_step(-24), grid_step(4) == math.sqrt(2)
    (0.125, True)
    """
    return math.ldexp(EIGHTHS[k % 8], k // 8)


# --- layers -----------------------------------------------------------------------------------------


def write_layer(out: Writer, layer: Layer, number: int, before: Layer) -> Layer:
    """The layer that tells what the next convolution is likely to be."""
    prefix = PREFIXES[layer.kind]
    out.fixed(int(prefix, 2), len(prefix))
    if layer.kind in ("conv", "separable"):
        write_size(out, layer.units)
        again = replace(before, kind=layer.kind, units=layer.units) == layer
        out.fixed(again, 1)
        if not again:
            usual = (layer.kernel, layer.stride, layer.relu, layer.residual, layer.times) == (3, 1, True, False, 1)
            out.fixed(layer.same, 1)
            out.fixed(layer.gain, 1)
            out.fixed(usual, 1)
            if not usual:
                out.gamma([layer.kernel, layer.stride])
                out.fixed(layer.relu, 1)
                out.fixed(layer.residual, 1)
                out.gamma([layer.times])
        return layer
    if layer.kind == "dense":
        write_size(out, layer.units)
        out.fixed(layer.relu, 1)
        out.fixed(layer.gain, 1)
        kept = Layer("dense", layer.units, relu=layer.relu, gain=layer.gain)
    elif layer.kind in ("max_pool", "mean_pool"):
        out.fixed(layer.kernel == 2, 1)
        if layer.kernel != 2:
            out.gamma([layer.kernel])
        kept = Layer(layer.kind, kernel=layer.kernel)
    else:
        kept = Layer(layer.kind)
    if kept != layer:
        raise CodingError(f"dumps: layer {number}, {layer}, has what a {layer.kind} layer does not use; leave it out")
    return before


def read_layer(back: Reader, before: Layer) -> tuple[Layer, Layer]:
    """The next layer, and the one that tells what the next convolution is likely to be."""
    prefix = ""
    while prefix not in PREFIXES.values():
        prefix += str(back.fixed(1))
    kind = next(kind for kind in PREFIXES if PREFIXES[kind] == prefix)
    if kind in ("conv", "separable"):
        units = read_size(back)
        if back.fixed(1):
            layer = replace(before, kind=kind, units=units)
            return layer, layer
        same, gain, usual = bool(back.fixed(1)), bool(back.fixed(1)), back.fixed(1)
        layer = Layer(kind, units, 3, same=same, gain=gain, relu=True)
        if not usual:
            kernel, stride, relu, residual = back.gamma(), back.gamma(), bool(back.fixed(1)), bool(back.fixed(1))
            layer = Layer(kind, units, kernel, stride, same, gain, relu, residual, back.gamma())
        return layer, layer
    if kind == "dense":
        return Layer(kind, read_size(back), relu=bool(back.fixed(1)), gain=bool(back.fixed(1))), before
    if kind in ("max_pool", "mean_pool"):
        return Layer(kind, kernel=2 if back.fixed(1) else back.gamma()), before
    return Layer(kind), before


def write_size(out: Writer, size: int) -> None:
    """A number from 1 up: short below 9, as gamma of its eights and three bits."""
    out.gamma([(size - 1 >> 3) + 1])
    out.fixed(size - 1 & 7, 3)


def read_size(back: Reader) -> int:
    """The next that `write_size` wrote."""
    return (back.gamma() - 1 << 3) + back.fixed(3) + 1


# --- what the codes stand for -----------------------------------------------------------------------


def _sorts(axes: Iterable[int]) -> Iterator[int]:
    """For each tensor 0, 1 or 2: two axes or more; the first with one axis after those; another with one."""
    sort = 0
    for n in axes:
        sort = 0 if n > 1 else min(sort + 1, 2)
        yield sort


def _exponent(tensor: Tensor) -> int | None:
    """k of a step 2^(k / 8)."""
    if tensor.codebook is not None or not tensor.step or not 2.0**-20 < tensor.step < 2.0**20:
        return None
    k = round(8 * math.log2(tensor.step))
    return k if abs(k) <= MOST_EXPONENT and grid_step(k) == float(tensor.step) else None


def write_values(out: Writer, tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """The codes, as they are to be coded."""
    exponents, before, codes = [_exponent(tensor) for tensor in tensors], [0, 0, 0], []
    all_usual = None not in exponents
    out.fixed(all_usual, 1)
    for number, (tensor, k, sort) in enumerate(
        zip(tensors, exponents, _sorts(np.ndim(tensor.codes) for tensor in tensors), strict=True)
    ):
        found = np.asarray(tensor.codes)
        if found.dtype.kind not in "iu" or (
            found.size and not -(2**31) <= int(found.min()) <= int(found.max()) < 2**31
        ):
            raise CodingError(f"dumps: tensor {number}: codes of type {found.dtype} must be integers of 32 bits")
        found = found.astype(np.int64)
        if k is not None:
            if not all_usual:
                out.fixed(0, 2)
            difference = k - before[sort]
            before[sort] = k
            out.gamma([(2 * difference if difference >= 0 else -2 * difference - 1) + 1])
        elif tensor.codebook is None:
            step = float(np.nan if tensor.step is None else tensor.step)
            if not math.isfinite(step):
                raise CodingError(f"dumps: tensor {number}: the step {tensor.step} is no finite number")
            out.fixed(1, 2)
            out.fixed(int.from_bytes(struct.pack(">d", step), "big"), 64)
        else:
            found = found - _write_book(out, tensor, number, found)
        if tensor.codebook is None and beyond_float32(found, tensor.step):
            raise CodingError(f"dumps: tensor {number}: with the step {tensor.step} its weights are beyond float32")
        codes.append(found)
    return codes


def beyond_float32(codes: np.ndarray, step: float) -> bool:
    """True if codes x step is more than a float32 can hold, somewhere.

    >>> beyond_float32(np.array([1, -300]), 2.0**120), beyond_float32(np.array([1, -200]), 2.0**120)
    (True, False)
    """
    largest = max(abs(int(codes.max())), abs(int(codes.min()))) if codes.size else 0
    return largest > 0 and abs(step) > float(np.finfo(np.float32).max) / largest


def _write_book(out: Writer, tensor: Tensor, number: int, codes: np.ndarray) -> int:
    """The code of the value nearest to 0."""
    book = np.asarray(tensor.codebook)
    if book.ndim != 1 or not 1 <= book.size <= MOST or not np.isfinite(book).all():
        raise CodingError(f"dumps: tensor {number}: a codebook of {book.shape} must be finite numbers on one axis")
    if (book.astype(np.float32) != book).any():
        raise CodingError(f"dumps: tensor {number}: its codebook has values that are not float32; round it before")
    if codes.size and not 0 <= codes.min() <= codes.max() < book.size:
        raise CodingError(f"dumps: tensor {number}: codes from {codes.min()} to {codes.max()} of {book.size} values")
    with np.errstate(over="ignore"):
        short = bool((book.astype(np.float16).astype(np.float32) == book).all())
    out.fixed(2 if short else 3, 2)
    out.gamma([book.size])
    content = book.astype(">f2").view(">u2") if short else book.astype(">f4").view(">u4")
    out.codes(content, np.full(book.size, 16 if short else 32))
    return int(np.argmin(np.abs(book)))


def read_values(back: Reader, shapes: Sequence[tuple[int, ...]]) -> list[tuple]:
    """For each tensor a step or None, and a codebook or None."""
    all_usual, before, found = back.fixed(1), [0, 0, 0], []
    for sort in _sorts(map(len, shapes)):
        way = 0 if all_usual else back.fixed(2)
        if way == 0:
            zigzag = back.gamma() - 1
            before[sort] += zigzag >> 1 ^ -(zigzag & 1)
            if abs(before[sort]) > MOST_EXPONENT:
                raise CodingError(f"a step of 2^({before[sort]} / 8), beyond {MOST_EXPONENT}; the content is damaged")
            found.append((grid_step(before[sort]), None))
        elif way == 1:
            step = struct.unpack(">d", back.fixed(64).to_bytes(8, "big"))[0]
            if not math.isfinite(step):
                raise CodingError(f"a step of {step}; the content is damaged")
            found.append((step, None))
        else:
            found.append((None, _read_book(back, 16 if way == 2 else 32)))
    return found


def _read_book(back: Reader, bits: int) -> np.ndarray:
    length = back.gamma()
    back.expect(length, bits)
    if length > MOST:
        raise CodingError(f"a codebook of {length:,} values; {MOST:,} is the most")
    raw = np.array([back.fixed(bits) for _ in range(length)], np.uint16 if bits == 16 else np.uint32)
    book = raw.view(np.float16 if bits == 16 else np.float32).astype(np.float32)
    if not np.isfinite(book).all():
        raise CodingError("a codebook with what are no finite numbers; the content is damaged")
    return book
