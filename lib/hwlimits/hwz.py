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
(16, [-0.375, -0.25])
"""

from __future__ import annotations

import math
import os
import tempfile
import zlib
from numbers import Integral
from pathlib import Path

import numpy as np

from hwlimits import coding, contexts
from hwlimits.bits import CodingError, Reader, Writer
from hwlimits.compressed import Network, NetworkError, Tensor, tensor_shapes, work
from hwlimits.network_bits import (
    MOST,
    USUAL,
    beyond_float32,
    read_layer,
    read_size,
    read_values,
    write_layer,
    write_size,
    write_values,
)
from hwlimits.network_bits import (
    grid_step as grid_step,
)

MAGIC = b"HZ"
VERSION = 1
HEADER_BYTES = len(MAGIC) + 1 + 4
MOST_MACS = 10**9  # multiply-accumulates for one image: about a second
MOST_NUMBERS = 1 << 24  # that a layer needs at once for one image: 128 MiB
MOST_TIMES = 1 << 10  # that layers are applied, all together


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
    write_size(out, len(network.layers) + 1)
    before = USUAL
    for number, layer in enumerate(network.layers):
        before = write_layer(out, layer, number, before)
    parts = {"header": 8.0 * HEADER_BYTES, "layers": float(out.bits)}
    codes = write_values(out, network.tensors)
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
    count = read_size(back) - 1
    back.expect(count)
    layers, before = [], USUAL
    for _ in range(count):
        layer, before = read_layer(back, before)
        layers.append(layer)
    layers = tuple(layers)
    shapes = _checked(input_shape, layers)
    parameters = sum(math.prod(shape) for shape in shapes)
    if parameters > max_parameters:
        raise CodingError(
            f"{parameters:,} parameters, and max_parameters is {max_parameters:,}; raise it if you trust the content"
        )
    values = read_values(back, shapes)
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


def _tensor(codes: np.ndarray, step: float | None, book: np.ndarray | None) -> Tensor:
    if book is not None:
        codes = codes + int(np.argmin(np.abs(book)))
        if codes.size and not 0 <= codes.min() <= codes.max() < book.size:
            raise CodingError(f"codes from {codes.min()} to {codes.max()} of {book.size} values; damaged")
    if codes.size and not -(2**31) <= codes.min() <= codes.max() < 2**31:
        raise CodingError("codes beyond 32 bits; the content is damaged")
    if book is None and beyond_float32(codes, step):
        raise CodingError("weights beyond float32; the content is damaged")
    return Tensor(codes.astype(np.int32), step, book)
