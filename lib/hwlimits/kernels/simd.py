"""Vector registers from Python: the few LLVM instructions that numba's loops can't ask for.

numba vectorises a plain loop by itself, but it can't be told to keep a block of numbers in
registers while a loop runs: an array of accumulators stays in memory, and each step then waits
for a store and a load. An `@intrinsic` writes LLVM's instructions directly. Its accumulators are
values of vector type, one for each register, and LLVM keeps them there as long as there are
registers enough.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

INDEX = ir.IntType(64)
INT32 = ir.IntType(32)
ARM = platform.machine().lower() in ("arm64", "aarch64")


def cpu_features() -> set[str]:
    """Instruction sets that code is generated for, by LLVM's names: the host's, or NUMBA_CPU_FEATURES.

    >>> isinstance(cpu_features(), set)
    True
    """
    if config.CPU_FEATURES is not None:
        return {f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+")}
    if config.CPU_NAME == "generic":
        return set()
    try:
        return {name for name, there in llvm.get_host_cpu_features().items() if there}
    except RuntimeError:  # LLVM can't tell on some systems
        return set()


def _registers() -> tuple[int, int]:
    """Bytes in a vector register, and how many of them there are."""
    features = cpu_features()
    if "avx512f" in features:
        return 64, 32
    if "avx" in features:
        return 32, 16
    return 16, 32 if ARM else 16


REGISTER_BYTES, REGISTERS = _registers()
HAS_FMA = ARM or "fma" in cpu_features()


def _bytes(element) -> int:
    return {"float": 4, "double": 8, "i8": 1, "i32": 4}[str(element)]


def pointer(builder, address, element):
    """An address as a pointer to elements of that type."""
    return builder.inttoptr(address, element.as_pointer())


def load(builder, pointer, vector, offset=0):
    """A vector from `offset` elements behind `pointer`, which need not be aligned to it."""
    place = builder.gep(pointer, [INDEX(offset)])
    return builder.load(builder.bitcast(place, vector.as_pointer()), align=_bytes(vector.element))


def store(builder, value, pointer, offset=0):
    """Write a vector to `offset` elements behind `pointer`."""
    place = builder.bitcast(builder.gep(pointer, [INDEX(offset)]), value.type.as_pointer())
    builder.store(value, place, align=_bytes(value.type.element))


def splat(builder, value, vector):
    """A vector with `value` in each lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, INT32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(INT32, vector.count), None))


def fma(builder, a, b, c):
    """a * b + c in each lane: one instruction for two FLOPs a lane, rounded once (x86 before 2013: two, and twice)."""
    if not HAS_FMA:
        return builder.fadd(builder.fmul(a, b), c)
    name = f"llvm.fma.v{a.type.count}f{8 * _bytes(a.type.element)}"
    return builder.call(builder.module.declare_intrinsic(name, fnty=ir.FunctionType(a.type, [a.type] * 3)), [a, b, c])


def tile(rows: int, vectors: int):
    """The micro-kernel for a block of `rows` rows and `vectors` registers of columns, as an intrinsic:

    tile(depth, a, a_row, b, b_row, c, c_row, add)

    C[i, j] = [C[i, j] +] sum over p < depth of A[i, p] B[p, j] in float32; a, b and c are addresses,
    A[i, p] lies a_row * i + p elements behind a, B[p, j] b_row * p + j behind b, and C[i, j]
    c_row * i + j behind c. It takes rows * vectors registers for the sums, `vectors` for a row of B,
    and one for an element of A.
    """
    real = ir.FloatType()
    vector = ir.VectorType(real, REGISTER_BYTES // 4)
    lanes = [v * vector.count for v in range(vectors)]

    @intrinsic
    def micro_kernel(typing, depth, a, a_row, b, b_row, c, c_row, add):
        signature = types.void(*[types.intp] * 7, types.boolean)

        def emit(context, builder, signature, arguments):
            depth, a, a_row, b, b_row, c, c_row, add = arguments
            a_rows = [_element(builder, a, builder.mul(a_row, INDEX(i)), real) for i in range(rows)]
            c_rows = [_element(builder, c, builder.mul(c_row, INDEX(i)), real) for i in range(rows)]
            sums = [[cgutils.alloca_once(builder, vector) for _ in lanes] for _ in range(rows)]
            for each in sum(sums, []):
                builder.store(ir.Constant(vector, None), each)
            with cgutils.for_range(builder, depth) as loop:
                b_row_p = _element(builder, b, builder.mul(loop.index, b_row), real)
                b_p = [load(builder, b_row_p, vector, lane) for lane in lanes]
                for a_i, sums_i in zip(a_rows, sums, strict=True):
                    a_ip = splat(builder, builder.load(builder.gep(a_i, [loop.index])), vector)
                    for b_pj, sum_ij in zip(b_p, sums_i, strict=True):
                        builder.store(fma(builder, a_ip, b_pj, builder.load(sum_ij)), sum_ij)
            with builder.if_then(add):
                for c_i, sums_i in zip(c_rows, sums, strict=True):
                    for lane, sum_ij in zip(lanes, sums_i, strict=True):
                        before = load(builder, c_i, vector, lane)
                        builder.store(builder.fadd(before, builder.load(sum_ij)), sum_ij)
            for c_i, sums_i in zip(c_rows, sums, strict=True):
                for lane, sum_ij in zip(lanes, sums_i, strict=True):
                    store(builder, builder.load(sum_ij), c_i, lane)
            return context.get_dummy_value()

        return signature, emit

    return micro_kernel


def sparse_tile(rows: int, vectors: int, step: int = 1):
    """`rows` rows of a sparse matrix times `vectors` registers of columns of a dense one, as an intrinsic:

    sparse_tile(first, last, values, offsets, x, bias, low, high, y, y_row)

    y[r, j] = clip(bias[r] + sum over first <= i < last of values[rows * i + r] x[offsets[i] + j], low, high)
    in float32; values, offsets (int32), x, bias and y are addresses, and y[r, j] lies y_row * r + j elements
    behind y. All the rows have their nonzeros in the same places: each register of x that is loaded serves
    `rows` FMAs. It takes rows * vectors registers for the sums, one for x and one for a value.
    With step = 2, every second pixel of x is taken: x[offsets[i] + 2 j].
    """
    real = ir.FloatType()
    vector = ir.VectorType(real, REGISTER_BYTES // 4)
    lanes = [v * vector.count for v in range(vectors)]

    @intrinsic
    def kernel(typing, first, last, values, offsets, x, bias, low, high, y, y_row):
        signature = types.void(*[types.intp] * 6, types.float32, types.float32, types.intp, types.intp)

        def emit(context, builder, signature, arguments):
            first, last, values, offsets, x, bias, low, high, y, y_row = arguments
            x, bias, offsets = pointer(builder, x, real), pointer(builder, bias, real), pointer(builder, offsets, INT32)
            sums = [[cgutils.alloca_once(builder, vector) for _ in lanes] for _ in range(rows)]
            for r, sums_r in enumerate(sums):
                start = splat(builder, builder.load(builder.gep(bias, [INDEX(r)])), vector)
                for each in sums_r:
                    builder.store(start, each)
            with cgutils.for_range_slice(builder, first, last, INDEX(1)) as (i, _):
                values_i = _element(builder, values, builder.mul(i, INDEX(rows)), real)
                w = [splat(builder, builder.load(builder.gep(values_i, [INDEX(r)])), vector) for r in range(rows)]
                x_i = builder.gep(x, [builder.sext(builder.load(builder.gep(offsets, [i])), INDEX)])
                for v, lane in enumerate(lanes):
                    x_ij = _evens(builder, x_i, vector, 2 * lane) if step == 2 else load(builder, x_i, vector, lane)
                    for w_r, sums_r in zip(w, sums, strict=True):
                        builder.store(fma(builder, w_r, x_ij, builder.load(sums_r[v])), sums_r[v])
            low, high = splat(builder, low, vector), splat(builder, high, vector)
            for r, sums_r in enumerate(sums):
                y_r = _element(builder, y, builder.mul(y_row, INDEX(r)), real)
                for lane, each in zip(lanes, sums_r, strict=True):
                    store(builder, _clip(builder, builder.load(each), low, high), y_r, lane)
            return context.get_dummy_value()

        return signature, emit

    return kernel


def _evens(builder, pointer, vector, offset):
    """Every second element from `offset` behind a pointer on."""
    both = [load(builder, pointer, vector, offset + half) for half in (0, vector.count)]
    return builder.shuffle_vector(
        *both, ir.Constant(ir.VectorType(INT32, vector.count), [*range(0, 2 * vector.count, 2)])
    )


def halve(largest: bool):
    """Every second pixel of a row, or the largest of 2 x 2 pixels of two rows, as an intrinsic:

    halve(count, above, below, y)

    y[i] = above[2 i], or the largest of above[2 i], above[2 i + 1], below[2 i] and below[2 i + 1], for i < count;
    the three are addresses of float32. It works in whole registers: up to one register behind the end
    of y is written, and up to two behind those of `above` and `below` are read.
    """
    real = ir.FloatType()
    vector = ir.VectorType(real, REGISTER_BYTES // 4)

    @intrinsic
    def kernel(typing, count, above, below, y):
        signature = types.void(*[types.intp] * 4)

        def emit(context, builder, signature, arguments):
            count, above, below, y = arguments
            above, below, y = (pointer(builder, address, real) for address in (above, below, y))
            with cgutils.for_range_slice(builder, INDEX(0), count, INDEX(vector.count)) as (i, _):
                first = builder.mul(i, INDEX(2))
                above_i, below_i = builder.gep(above, [first]), builder.gep(below, [first])
                best = _evens(builder, above_i, vector, 0)
                others = [(above_i, 1), (below_i, 0), (below_i, 1)] if largest else []
                for other in [_evens(builder, row, vector, odd) for row, odd in others]:
                    best = builder.select(builder.fcmp_ordered(">", other, best), other, best)
                store(builder, best, builder.gep(y, [i]))
            return context.get_dummy_value()

        return signature, emit

    return kernel


def _clip(builder, value, low, high):
    """Between two bounds; NaN stays NaN."""
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


def sparse_dot(rows: int, chains: int, bits: int = 32):
    """`rows` rows of a sparse matrix times a vector, as an intrinsic: sparse_dot(first, last, values, offsets, x, y)

    y[r] = sum over first <= i < last of values[rows * i + r] x[offsets[i]] in float32; all but the bounds are
    addresses, offsets that of unsigned integers of so many bits. The sum is cut into `chains` sums, so that
    an FMA need not wait for the one before.
    """
    real = ir.FloatType()
    vector = ir.VectorType(real, rows)

    @intrinsic
    def kernel(typing, first, last, values, offsets, x, y):
        signature = types.void(*[types.intp] * 6)

        def emit(context, builder, signature, arguments):
            first, last, values, offsets, x, y = arguments
            x, offsets = pointer(builder, x, real), pointer(builder, offsets, ir.IntType(bits))
            sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * rows)) for _ in range(chains)]

            def add(i, total):
                column = builder.zext(builder.load(builder.gep(offsets, [i])), INDEX)
                w = load(builder, _element(builder, values, builder.mul(i, INDEX(rows)), real), vector)
                x_i = splat(builder, builder.load(builder.gep(x, [column])), vector)
                builder.store(fma(builder, w, x_i, builder.load(total)), total)

            whole = builder.sub(last, builder.srem(builder.sub(last, first), INDEX(chains)))
            with cgutils.for_range_slice(builder, first, whole, INDEX(chains)) as (i, _):
                for chain, total in enumerate(sums):
                    add(builder.add(i, INDEX(chain)), total)
            with cgutils.for_range_slice(builder, whole, last, INDEX(1)) as (i, _):
                add(i, sums[0])
            totals = [builder.load(total) for total in sums]
            while len(totals) > 1:  # in pairs
                totals = [builder.fadd(a, b) for a, b in zip(totals[::2], totals[1::2], strict=True)]
            store(builder, totals[0], pointer(builder, y, real))
            return context.get_dummy_value()

        return signature, emit

    return kernel


class Int8Dot(NamedTuple):
    """How this processor multiplies int8: `group` factors of a lane at a time, summed into its int32.

    unsigned  the left factors are uint8, so 128 has to be added to them, and what that adds taken off again
    add       (builder, sums, left, right) to sums + left . right, all of them vectors of int32
    """

    name: str
    group: int
    unsigned: bool
    add: Callable


def _vpmaddwd(builder, sums, left, right):
    bits = 32 * sums.type.count
    int16 = ir.VectorType(ir.IntType(16), 2 * sums.type.count)
    name = {512: "llvm.x86.avx512.pmaddw.d.512", 256: "llvm.x86.avx2.pmadd.wd", 128: "llvm.x86.sse2.pmadd.wd"}[bits]
    kernel = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(sums.type, [int16, int16]))
    return builder.add(sums, builder.call(kernel, [builder.bitcast(left, int16), builder.bitcast(right, int16)]))


def _vpdpbusd(builder, sums, left, right):
    name = f"llvm.x86.avx512.vpdpbusd.{32 * sums.type.count}"
    kernel = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(sums.type, [sums.type] * 3))
    return builder.call(kernel, [sums, left, right])


def _sdot(builder, sums, left, right):
    int8 = ir.VectorType(ir.IntType(8), 16)
    kernel = builder.module.declare_intrinsic(
        "llvm.aarch64.neon.sdot.v4i32.v16i8", fnty=ir.FunctionType(sums.type, [sums.type, int8, int8])
    )
    return builder.call(kernel, [sums, builder.bitcast(left, int8), builder.bitcast(right, int8)])


def _plain(group: int, unsigned: bool):
    """The same by instructions that every processor has: each part of a lane is shifted to its place and multiplied."""

    def add(builder, sums, left, right):
        bits = 32 // group
        down = ir.Constant(sums.type, [32 - bits] * sums.type.count)
        for part in range(group):
            up = ir.Constant(sums.type, [32 - bits * (part + 1)] * sums.type.count)
            a = (builder.lshr if unsigned else builder.ashr)(builder.shl(left, up), down)
            b = builder.ashr(builder.shl(right, up), down)
            sums = builder.add(sums, builder.mul(a, b))
        return sums

    return add


INT8_DOTS = {
    "vpdpbusd": Int8Dot("vpdpbusd", 4, True, _vpdpbusd),
    "sdot": Int8Dot("sdot", 4, False, _sdot),
    "vpmaddwd": Int8Dot("vpmaddwd", 2, False, _vpmaddwd),
    "plain pairs": Int8Dot("plain pairs", 2, False, _plain(2, False)),
    "plain quads": Int8Dot("plain quads", 4, True, _plain(4, True)),  # vpdpbusd's arithmetic, for its tests
}


def _int8_dot() -> Int8Dot:
    features = cpu_features()
    if ("avx512vnni" if REGISTER_BYTES == 64 else "avxvnni") in features:
        return INT8_DOTS["vpdpbusd"]
    if ARM:
        return INT8_DOTS["sdot" if "dotprod" in features else "plain pairs"]
    return INT8_DOTS["vpmaddwd" if platform.machine().lower() in ("x86_64", "amd64") else "plain pairs"]


INT8_DOT = _int8_dot()


def int8_tile(dot: Int8Dot, rows: int, vectors: int):
    """The integer product of a block of `rows` rows and `vectors` registers of columns, as an intrinsic:

    int8_tile(depth, a, a_row, b, c, c_row)

    C[i, j] = sum over p < depth of A[i, p] . B[p, j] in int32, where A[i, p] and B[p, j] are groups of
    `dot.group` factors in 32 bits; a, b and c are addresses, A[i, p] lies a_row * i + p groups behind a,
    B[p, j] columns * p + j behind b, and C[i, j] c_row * i + j behind c.
    """
    vector = ir.VectorType(INT32, REGISTER_BYTES // 4)
    lanes = [v * vector.count for v in range(vectors)]

    @intrinsic
    def kernel(typing, depth, a, a_row, b, c, c_row):
        signature = types.void(*[types.intp] * 6)

        def emit(context, builder, signature, arguments):
            depth, a, a_row, b, c, c_row = arguments
            a_rows = [_element(builder, a, builder.mul(a_row, INDEX(i)), INT32) for i in range(rows)]
            b = pointer(builder, b, INT32)
            sums = [[cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in lanes] for _ in range(rows)]
            with cgutils.for_range(builder, depth) as loop:
                b_row = builder.gep(b, [builder.mul(loop.index, INDEX(vectors * vector.count))])
                b_p = [load(builder, b_row, vector, lane) for lane in lanes]
                for a_i, sums_i in zip(a_rows, sums, strict=True):
                    a_ip = splat(builder, builder.load(builder.gep(a_i, [loop.index])), vector)
                    for b_pj, sum_ij in zip(b_p, sums_i, strict=True):
                        builder.store(dot.add(builder, builder.load(sum_ij), a_ip, b_pj), sum_ij)
            for i, sums_i in enumerate(sums):
                c_i = _element(builder, c, builder.mul(c_row, INDEX(i)), INT32)
                for lane, sum_ij in zip(lanes, sums_i, strict=True):
                    store(builder, builder.load(sum_ij), c_i, lane)
            return context.get_dummy_value()

        return signature, emit

    return kernel


def _element(builder, address, index, element):
    return builder.gep(pointer(builder, address, element), [index])
