"""How few bytes hold a tensor of integers: its entropy, and codes that come near it, tables and all.

`encode` makes bytes from which `decode` has the array again, with its type and shape: whatever the decoder needs is in
them, and is counted. For three of the codes the symbols are the array's values, one by one and without order
(*order-0*), so `entropy_bits` is what none of them is shorter than, but for the table that tells which values are
frequent.

    'rice'      no table; good where small values are frequent, as in the gaps between the weights that pruning left
    'huffman'   whole bits for each value: at least one, even where a value is nearly certain
    'rans'      fractions of bits
    'contexts'  no table: probabilities that are learnt from the values before, and from where in the array they are;
                the shortest, and the slowest

With `gaps` the zeros are left out, as Deep Compression does: the lengths of their runs go in one code and the values
that are not 0 in another.

>>> weights = np.array([[0, 0, 3, 0], [0, -1, 0, 0]], np.int8)
>>> decode(encode(weights, "rans", gaps="rice"), max_symbols=8)
array([[ 0,  0,  3,  0],
       [ 0, -1,  0,  0]], dtype=int8)
"""

from __future__ import annotations

import math
import zlib
from numbers import Integral

import numpy as np

from hwlimits import contexts, huffman, rans
from hwlimits.bits import CodingError, Reader, Writer

CODES = ("rice", "huffman", "rans", "contexts")
GAP_CODES = CODES[:3]  # for the gaps; contexts tell by themselves where zeros are likely
DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
MOST_AXES = 64  # NumPy's own limit


def entropy_bits(values: np.ndarray) -> float:
    """Bits of all the values at their order-0 entropy: sum over the different values of count * log2(all / count).

    Divided by the size it is the entropy of a value. No table is in it: where almost each value is different, as in
    float32, it says little. Source: Shannon, "A mathematical theory of communication" (1948).

    >>> entropy_bits([0, 0, 1, 1])
    4.0
    """
    _, counts = np.unique(values, return_counts=True)
    return float(np.sum(counts * np.log2(counts.sum() / counts)))


def encode(values: np.ndarray, code: str = "rans", *, gaps: str | None = None) -> bytes:
    """The array as bytes: checksum (4), type, shape, tables, and its values in a code.

    values   integers of any type and shape
    code     of the values: 'rice', 'huffman', 'rans' or 'contexts'
    gaps     None, or the code of how many zeros come before each value that is not 0: 'rice', 'huffman' or 'rans'

    Raises CodingError for an unknown code and for what is no array of integers.

    >>> [len(encode(np.array([0, 0, 0, 7] * 1000), code)) for code in CODES]
    [1884, 512, 423, 421]
    """
    check_code(code, gaps)
    values = np.asarray(values)
    if values.dtype.name not in DTYPES:
        raise CodingError(f"encode: values of type {values.dtype} are no integers; quantize them first")
    out = Writer()
    out.fixed(CODES.index(code), 2)
    out.fixed(0 if gaps is None else 1 + CODES.index(gaps), 2)
    out.fixed(DTYPES.index(values.dtype.name), 3)
    out.number(values.ndim)
    for length in values.shape:
        out.number(length)
    write(out, values, code, gaps)
    content = out.content()
    return zlib.crc32(content).to_bytes(4, "big") + content


def decode(content: bytes, max_symbols: int) -> np.ndarray:
    """The array that `encode` made the content from.

    max_symbols   how many values you are ready for. A few bytes can rightly say a thousand million zeros, so time
                  and memory are bounded by this (tens of bytes a value) and by the content's length, whatever
                  the content claims.

    Raises CodingError for more values than that, and for content that is truncated, altered or no code at all.

    >>> decode(encode([1, 2, 2]), max_symbols=3)
    array([1, 2, 2])
    """
    if isinstance(max_symbols, bool) or not isinstance(max_symbols, Integral) or max_symbols < 0:
        raise CodingError(f"decode(max_symbols={max_symbols!r}): must be a whole number, at least 0")
    content = bytes(content)
    if len(content) < 4 or zlib.crc32(content[4:]).to_bytes(4, "big") != content[:4]:
        raise CodingError(f"decode: {len(content):,} bytes whose checksum is not theirs; truncated, altered or no code")
    try:
        return _decode(Reader(content[4:]), int(max_symbols))
    except CodingError as error:
        raise CodingError(f"decode: {error}") from None


def _decode(back: Reader, max_symbols: int) -> np.ndarray:
    code, gaps, dtype = CODES[back.fixed(2)], (None, *GAP_CODES)[back.fixed(2)], np.dtype(DTYPES[back.fixed(3)])
    axes = back.number()
    if axes > MOST_AXES:
        raise CodingError(f"an array of {axes:,} axes; {MOST_AXES} is the most, so the content is damaged")
    shape = tuple(back.number() for _ in range(axes))
    size = math.prod(shape)
    if size > max_symbols:
        raise CodingError(f"{size:,} values, and max_symbols is {max_symbols:,}; raise it if you trust the content")
    try:
        np.broadcast_to(dtype.type(), shape)
    except (ValueError, OverflowError):  # (0, 2**63, 2**63): no values, and yet too large
        raise CodingError(f"the shape {shape} is none of an array; the content is damaged") from None
    values = _as(dtype, read(back, shape, code, gaps, signed=dtype.kind == "i"))
    back.finish()
    return values


def check_code(code: str, gaps: str | None) -> None:
    """Raise CodingError unless there is such a code, and such a one for the gaps."""
    if code not in CODES:
        raise CodingError(f"encode(code={code!r}): choose from {', '.join(CODES)}")
    if gaps is not None and gaps not in GAP_CODES:
        raise CodingError(f"encode(gaps={gaps!r}): choose from {', '.join(GAP_CODES)}, or None")


def write(out: Writer, values: np.ndarray, code: str, gaps: str | None) -> None:
    """The values alone, as `encode` has them: without checksum, type and shape."""
    values = values.astype(np.uint64 if values.dtype.kind == "u" else np.int64)
    if gaps is not None:
        flat = values.ravel()
        at = np.flatnonzero(flat)
        out.number(at.size)
        _write(out, gaps, (np.diff(at, prepend=-1) - 1).astype(np.uint64))
        values = flat[at]
    if code == "contexts":
        contexts.write(out, [values])
    else:
        _write(out, code, values.ravel())


def read(back: Reader, shape: tuple[int, ...], code: str, gaps: str | None, signed: bool) -> np.ndarray:
    """What `write` wrote, int64 or uint64. Bound the shape's size before: memory and time are in proportion to it.

    Raises CodingError for content that can't be.
    """
    if gaps is None:
        return _values(back, shape, code, signed)
    size, nonzero = math.prod(shape), back.number()
    if nonzero > size:
        raise CodingError(f"{nonzero:,} of {size:,} values can't be other than 0; the content is damaged")
    zeros = _read(back, gaps, nonzero, signed=False)
    if sum(zeros.tolist()) + nonzero > size:
        raise CodingError(f"gaps that go beyond the {size:,} values; the content is damaged")
    values = np.zeros(size, np.int64 if signed else np.uint64)
    values[np.cumsum(zeros.astype(np.int64) + 1) - 1] = _values(back, (nonzero,), code, signed)
    return values.reshape(shape)


def _values(back: Reader, shape: tuple[int, ...], code: str, signed: bool) -> np.ndarray:
    if code != "contexts":
        return _read(back, code, math.prod(shape), signed).reshape(shape)
    return contexts.read(back, [shape], np.int64 if signed else np.uint64)[0]


def _as(dtype: np.dtype, values: np.ndarray) -> np.ndarray:
    limits = np.iinfo(dtype)
    if values.size and (int(values.min()) < limits.min or int(values.max()) > limits.max):
        raise CodingError(f"values that {dtype} does not have; the content is damaged")
    return values.astype(dtype)


# --- values in a code: int64 or uint64, one axis ------------------------------------------------


def _write(out: Writer, code: str, values: np.ndarray) -> None:
    if values.size == 0:
        return
    if code == "rice":
        out.rice(_zigzag(values) if values.dtype.kind == "i" else values)
        return
    symbols, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = int(symbols[0])
    out.number(symbols.size)
    out.fixed(first < 0, 1)
    out.number(abs(first))
    out.gamma(np.diff(symbols.view(np.uint64)))  # modulo 2**64: right where int64 itself would overflow
    (huffman if code == "huffman" else rans).write(out, indices, counts)


def _read(back: Reader, code: str, count: int, signed: bool) -> np.ndarray:
    if count == 0:
        return np.zeros(0, np.int64 if signed else np.uint64)
    if code == "rice":
        values = np.array(back.rice(count), np.uint64)
        return _unzigzag(values) if signed else values
    different = back.number()
    if not 1 <= different <= count:
        raise CodingError(f"{count:,} values, {different:,} of them different; the content is damaged")
    negative, first = back.fixed(1), back.number()
    symbols = [-first if negative else first]
    for _ in range(different - 1):
        symbols.append(symbols[-1] + back.gamma())
    limits = np.iinfo(np.int64 if signed else np.uint64)
    if symbols[0] < limits.min or symbols[-1] > limits.max:
        raise CodingError(f"values from {symbols[0]} to {symbols[-1]}, beyond {limits.dtype}; the content is damaged")
    indices = (huffman if code == "huffman" else rans).read(back, different, count)
    return np.array(symbols, limits.dtype)[indices]


def _zigzag(values: np.ndarray) -> np.ndarray:
    """0, -1, 1, -2, 2 ... as 0, 1, 2, 3, 4: small numbers whatever their sign."""
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def _unzigzag(values: np.ndarray) -> np.ndarray:
    return ((values >> np.uint64(1)) ^ (np.uint64(0) - (values & np.uint64(1)))).view(np.int64)
