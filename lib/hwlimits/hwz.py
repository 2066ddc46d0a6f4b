"""The file `.hwz`: a compressed network in the fewest bytes, from which exactly its codes and values come back.

    bytes  what
    2      "HZ"
    1      version, 1
    4      CRC-32 of all that follows, the highest byte first
    ...    bits, the first of a byte its highest, to the end:

    bits   what
    1      1 for contexts; after a 0 come 2 bits code of the values: 0 rice, 1 huffman, 2 rans; and 2 bits code of the
           gaps: 0 none, 1 rice, 2 huffman, 3 rans
    1      1 for an input of (28, 28, 1); after a 0 come height, width, channels: number each
    ...    how many layers + 1: size
           for each layer
    ...    kind: 0 conv, 10 max_pool, 110 dense, 11100 separable, 11101 mean_pool, 11110 global_mean, 11111 flatten
    ...    conv, separable: units: size; 1 bit, 1 if all else is as in the last such layer (at first: kernel 3,
           stride 1, ReLU, gain; not same, not residual, once). After a 0: 1 bit same, 1 bit gain, 1 bit usual:
           kernel 3, stride 1, ReLU, not residual, once. After usual = 0: kernel, stride: number each; 1 bit ReLU,
           1 bit residual; times: number
    ...    dense: units: size; 1 bit ReLU, 1 bit gain
    ...    max_pool, mean_pool: 1 bit, 1 for kernel 2; after a 0 kernel: number
    1      1 if all tensors have steps of 2^(k / 8)
           for each tensor
    ...    after that 1: signed k less the k before of a tensor of its sort (two axes or more; the first with one axis
           after those; the others with one; 0 at first). After a 0:
    2      0 such a k; 1: step, a float64 in 64 bits; 2: codebook of float16, 3: of float32: length: number, values
           for each tensor, or for all together in contexts
    ...    codes; those of a codebook less the code of the value nearest to 0 (the first such)

A number from 1 on is in Elias' gamma code; a size n is (n - 1) // 8 + 1 as a number, then 3 bits of (n - 1); signed is
zigzag (0, -1, 1, -2 ...) + 1 as a number. The codes of the values are those of `hwlimits.coding`. Another version is
refused: whatever changes in the above, or in the models of `contexts`, makes a new one.

>>> from hwlimits.compressed import Layer, Tensor
>>> codes = np.arange(-3, 3).reshape(3, 2), np.array([1, -1])
>>> tensors = tuple(Tensor(c, 2.0**-3) for c in codes)
>>> content = dumps(Network((1, 3, 1), (Layer("flatten"), Layer("dense", 2)), tensors))
>>> len(content), loads(content).tensors[0].values[0].tolist()
(17, [-0.375, -0.25])
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path

import numpy as np

from hwlimits import coding, contexts
from hwlimits.bits import CodingError, Reader, Writer
from hwlimits.compressed import Layer, Network, NetworkError, Tensor, tensor_shapes, work

MAGIC = b"HZ"
VERSION = 1
HEADER_BYTES = len(MAGIC) + 1 + 4
MOST_MACS = 10**9  # multiply-accumulates for one image: about a second
MOST_NUMBERS = 1 << 24  # that a layer needs at once for one image: 128 MiB
MOST = 1 << 16  # of a layer's sizes, one by one
MOST_TIMES = 1 << 10  # that layers are applied, all together
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


def dumps(network: Network, code: str = "contexts", gaps: str | None = None) -> bytes:
    """The network as the content of a file.

    code, gaps   as for `hwlimits.coding.encode`

    Raises CodingError for a network that could not be read again: layers beyond the limits of `loads`, tensors that
    do not fit them, steps and codebooks that are no finite numbers.
    """
    return _dump(network, code, gaps)[0]


def breakdown(network: Network, code: str = "contexts", gaps: str | None = None) -> dict[str, float]:
    """Bits of each part of the file: 'header' (magic, version, checksum), 'layers', 'steps' (and codebooks), each
    tensor by number and shape, and 'end' (to fill the last byte). Their sum is that of the file.

    In contexts a tensor's bits are what its decisions are worth, -log2 of their probabilities; the end may then be
    less than 0 by what the coder's last number saves.
    """
    return _dump(network, code, gaps)[1]


def _dump(network: Network, code: str, gaps: str | None) -> tuple[bytes, dict[str, float]]:
    coding.check_code(code, gaps)
    if code == "contexts" and gaps is not None:
        raise CodingError(f"dumps(gaps={gaps!r}): contexts code zeros without gaps; leave gaps out")
    try:
        shapes = _checked(network.input_shape, network.layers)
    except (NetworkError, CodingError) as error:
        raise CodingError(f"dumps: {error}") from None
    found = [np.shape(tensor.codes) for tensor in network.tensors]
    if found != shapes:
        raise CodingError(f"dumps: tensors of {found}, and the layers need {shapes}")
    out = Writer()
    out.fixed(code == "contexts", 1)
    if code != "contexts":
        out.fixed(coding.CODES.index(code), 2)
        out.fixed(0 if gaps is None else 1 + coding.GAP_CODES.index(gaps), 2)
    out.fixed(tuple(network.input_shape) == (28, 28, 1), 1)
    if tuple(network.input_shape) != (28, 28, 1):
        out.gamma(network.input_shape)
    _write_size(out, len(network.layers) + 1)
    before = USUAL
    for number, layer in enumerate(network.layers):
        before = _write_layer(out, layer, number, before)
    parts = {"header": 8.0 * HEADER_BYTES, "layers": float(out.bits)}
    codes = _write_values(out, network.tensors)
    parts["steps"] = out.bits - parts["layers"]
    names = [f"{number} {'x'.join(map(str, shape))}" for number, shape in enumerate(shapes)]
    if code == "contexts":
        parts |= zip(names, contexts.write(out, codes), strict=True)
    else:
        for name, values in zip(names, codes, strict=True):
            start = out.bits
            coding.write(out, values, code, gaps)
            parts[name] = float(out.bits - start)
    content = out.content()
    content = MAGIC + bytes([VERSION]) + zlib.crc32(content).to_bytes(4, "big") + content
    parts["end"] = 8 * len(content) - sum(parts.values())
    return content, parts


def loads(content: bytes, max_parameters: int = 10_000_000) -> Network:
    """The network that `dumps` made the content from.

    max_parameters   how many weights you are ready for. A hundred bytes can rightly say a million zeros, so time
                     and memory are bounded by this (about 100 bytes and, in contexts, up to 0.1 ms a weight) and by the
                     content's length, whatever the content claims.

    Raises CodingError for content that is truncated, altered, of another version or no network; for more parameters
    than that; and for layers that would need more than MOST_MACS multiply-accumulates or MOST_NUMBERS numbers at once
    for the answer to one image.
    """
    if isinstance(max_parameters, bool) or not isinstance(max_parameters, Integral) or max_parameters < 0:
        raise CodingError(f"loads(max_parameters={max_parameters!r}): must be a whole number, at least 0")
    content = bytes(content)
    try:
        if content[: len(MAGIC)] != MAGIC or len(content) < HEADER_BYTES:
            raise CodingError(f"{len(content):,} bytes that do not begin as an .hwz file does")
        if content[len(MAGIC)] != VERSION:
            raise CodingError(f"version {content[len(MAGIC)]}, and this program reads version {VERSION} alone")
        body = content[HEADER_BYTES:]
        if zlib.crc32(body).to_bytes(4, "big") != content[HEADER_BYTES - 4 : HEADER_BYTES]:
            raise CodingError(f"{len(content):,} bytes whose checksum is not theirs; truncated or altered")
        return _load(Reader(body), int(max_parameters))
    except (CodingError, NetworkError) as error:
        raise CodingError(f"loads: {error}") from None


def _load(back: Reader, max_parameters: int) -> Network:
    code, gaps = "contexts", None
    if not back.fixed(1):
        code, gaps = coding.CODES[back.fixed(2)], (None, *coding.GAP_CODES)[back.fixed(2)]
        if code == "contexts":
            raise CodingError("contexts are never written so; the content is damaged")
    input_shape = (28, 28, 1) if back.fixed(1) else tuple(back.gamma() for _ in range(3))
    count = _read_size(back) - 1
    back.expect(count)
    layers, before = [], USUAL
    for _ in range(count):
        layer, before = _read_layer(back, before)
        layers.append(layer)
    layers = tuple(layers)
    shapes = _checked(input_shape, layers)
    parameters = sum(math.prod(shape) for shape in shapes)
    if parameters > max_parameters:
        raise CodingError(
            f"{parameters:,} parameters, and max_parameters is {max_parameters:,}; raise it if you trust the content"
        )
    values = _read_values(back, shapes)
    if code == "contexts":
        codes = contexts.read(back, shapes)
    else:
        codes = [coding.read(back, shape, code, gaps, signed=True) for shape in shapes]
        back.finish()
    return Network(input_shape, layers, tuple(_tensor(c, *v) for c, v in zip(codes, values, strict=True)))


def write(path: str | Path, network: Network, code: str = "contexts", gaps: str | None = None) -> int:
    """Write the network to a file, whole or not at all; its size in bytes.

    Raises CodingError as `dumps` does, and for a place that can't be written.
    """
    path = Path(path)
    try:
        content = dumps(network, code, gaps)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as part:
            try:
                part.write(content)
                part.close()
                os.chmod(part.name, 0o644)
                os.replace(part.name, path)
            except BaseException:
                os.unlink(part.name)
                raise
    except OSError as error:
        raise CodingError(f"{path} can't be written: {error.strerror}") from None
    except CodingError as error:
        raise CodingError(f"{path}: {error}") from None
    return len(content)


def read(path: str | Path, max_parameters: int = 10_000_000) -> Network:
    """The network of a file.

    Raises CodingError, with the file's name, as `loads` does, and for a file that can't be read.
    """
    try:
        return loads(Path(path).read_bytes(), max_parameters)
    except OSError as error:
        raise CodingError(f"{path} can't be read: {error.strerror}") from None
    except CodingError as error:
        raise CodingError(f"{path}: {error}") from None


def _checked(input_shape, layers) -> list[tuple[int, ...]]:
    """The tensors' shapes, of layers within the limits."""
    sizes = [*input_shape, *(n for layer in layers for n in (layer.units, layer.kernel, layer.stride, layer.times))]
    if max(sizes) > MOST or len(input_shape) != 3 or min(input_shape) < 1:
        raise CodingError(f"input of {tuple(input_shape)}, and sizes up to {max(sizes):,}; {MOST:,} is the most")
    if sum(layer.times for layer in layers) > MOST_TIMES + len(layers):
        raise CodingError(f"layers that are applied again more than {MOST_TIMES:,} times")
    macs, numbers = work(input_shape, layers)
    if macs > MOST_MACS or numbers > MOST_NUMBERS:
        raise CodingError(
            f"layers that take {macs:,} multiply-accumulates and {numbers:,} numbers at once for an image; "
            f"{MOST_MACS:,} and {MOST_NUMBERS:,} are the most"
        )
    return tensor_shapes(input_shape, layers)


# --- layers -----------------------------------------------------------------------------------------


def _write_layer(out: Writer, layer: Layer, number: int, before: Layer) -> Layer:
    """The layer that tells what the next convolution is likely to be."""
    prefix = PREFIXES[layer.kind]
    out.fixed(int(prefix, 2), len(prefix))
    if layer.kind in ("conv", "separable"):
        _write_size(out, layer.units)
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
        _write_size(out, layer.units)
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


def _read_layer(back: Reader, before: Layer) -> tuple[Layer, Layer]:
    prefix = ""
    while prefix not in PREFIXES.values():
        prefix += str(back.fixed(1))
    kind = next(kind for kind in PREFIXES if PREFIXES[kind] == prefix)
    if kind in ("conv", "separable"):
        units = _read_size(back)
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
        return Layer(kind, _read_size(back), relu=bool(back.fixed(1)), gain=bool(back.fixed(1))), before
    if kind in ("max_pool", "mean_pool"):
        return Layer(kind, kernel=2 if back.fixed(1) else back.gamma()), before
    return Layer(kind), before


def _write_size(out: Writer, size: int) -> None:
    out.gamma([(size - 1 >> 3) + 1])
    out.fixed(size - 1 & 7, 3)


def _read_size(back: Reader) -> int:
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


def _write_values(out: Writer, tensors: Sequence[Tensor]) -> list[np.ndarray]:
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
        codes.append(found)
    return codes


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


def _read_values(back: Reader, shapes: Sequence[tuple[int, ...]]) -> list[tuple]:
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


def _tensor(codes: np.ndarray, step: float | None, book: np.ndarray | None) -> Tensor:
    if book is not None:
        codes = codes + int(np.argmin(np.abs(book)))
        if codes.size and not 0 <= codes.min() <= codes.max() < book.size:
            raise CodingError(f"codes from {codes.min()} to {codes.max()} of {book.size} values; damaged")
    if codes.size and not -(2**31) <= codes.min() <= codes.max() < 2**31:
        raise CodingError("codes beyond 32 bits; the content is damaged")
    return Tensor(codes.astype(np.int32), step, book)
