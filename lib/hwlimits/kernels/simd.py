"""Vector registers from Python: the few LLVM instructions that numba's loops can't ask for.

numba vectorises a plain loop by itself, but it can't be told to keep a block of numbers in
registers while a loop runs: an array of accumulators stays in memory, and each step then waits
for a store and a load. An `@intrinsic` writes LLVM's instructions directly. Its accumulators are
values of vector type, one for each register, and LLVM keeps them there as long as there are
registers enough.
"""

from __future__ import annotations

import platform

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

INDEX = ir.IntType(64)
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
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


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


def _element(builder, address, index, element):
    return builder.gep(pointer(builder, address, element), [index])
