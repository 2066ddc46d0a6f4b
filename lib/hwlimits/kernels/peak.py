"""The peak of this processor's arithmetic: nothing but multiply-adds, in registers, none waiting for another.

A chain x <- x * y + z has to wait for itself; with as many chains as the units have places for,
none of them stands idle, and what is measured is their number times their clock. No program that
computes something is faster; how close it comes is its utilisation.
"""

from __future__ import annotations

import platform
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from hwlimits.kernels.simd import INDEX, REGISTER_BYTES, REGISTERS, cpu_features, fma, splat

CHAINS = 3 * REGISTERS // 4


class Instruction(NamedTuple):
    """A multiply-add over a vector register: its name, what it takes, and its operations (two a MAC)."""

    name: str
    vector: ir.VectorType
    operations: int


def _multiply_adds() -> dict[str, Instruction]:
    float32 = ir.VectorType(ir.FloatType(), REGISTER_BYTES // 4)
    float64 = ir.VectorType(ir.DoubleType(), REGISTER_BYTES // 8)
    found = {
        "fp32": Instruction("fma", float32, 2 * float32.count),
        "fp64": Instruction("fma", float64, 2 * float64.count),
    }
    features, x86 = cpu_features(), platform.machine().lower() in ("x86_64", "amd64")
    int32 = ir.VectorType(ir.IntType(32), REGISTER_BYTES // 4)
    macs = REGISTER_BYTES  # one for each int8 of a register
    if x86 and ("avx512vnni" in features or "avxvnni" in features):
        found["int8"] = Instruction("vpdpbusd", int32, 2 * macs)
    elif x86:
        found["int8"] = Instruction("vpmaddwd and vpaddd on int8 widened to int16", int32, macs)
    elif "dotprod" in features:
        found["int8"] = Instruction("sdot", int32, 2 * macs)
    return found


INSTRUCTIONS = _multiply_adds()
PRECISIONS = tuple(INSTRUCTIONS)  # int8 is missing where the processor has no instruction for it that we know


def _multiply_add(builder, name, x, y, z):
    """One step of a chain: x becomes x * y + z, or x + (y . z) for int8."""
    if name == "fma":
        return fma(builder, x, y, z)
    int32, bits = x.type, 8 * REGISTER_BYTES
    if name == "vpdpbusd":
        return _call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", [x, y, z])
    if name == "sdot":
        int8 = ir.VectorType(ir.IntType(8), REGISTER_BYTES)
        y, z = builder.bitcast(y, int8), builder.bitcast(z, int8)
        return _call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", [x, y, z])
    int16 = ir.VectorType(ir.IntType(16), REGISTER_BYTES // 2)
    multiply = {
        64: "llvm.x86.avx512.pmaddw.d.512", 32: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.sse2.pmadd.wd"
    }[REGISTER_BYTES]  # fmt: skip
    # x itself is a factor, or LLVM would see that each step multiplies the same and do it once
    pairs = [builder.bitcast(value, int16) for value in (x, y)]
    return builder.add(x, _call(builder, multiply, pairs, int32))


def _call(builder, name, arguments, result=None):
    kind = ir.FunctionType(result or arguments[0].type, [a.type for a in arguments])
    return builder.call(builder.module.declare_intrinsic(name, fnty=kind), arguments)


def _chains(instruction: Instruction):
    """An intrinsic: CHAINS chains, `steps` steps each; the sum of their ends, so that none is left out."""
    element = instruction.vector.element
    as_numba = {"float": types.float32, "double": types.float64, "i32": types.int32}[str(element)]

    @intrinsic
    def run(typing, steps, y, z):
        signature = as_numba(types.intp, as_numba, as_numba)

        def emit(context, builder, signature, arguments):
            steps, y, z = arguments
            y, z = splat(builder, y, instruction.vector), splat(builder, z, instruction.vector)
            # begun apart from each other, or LLVM would see that they are the same chain
            starts = [ir.Constant(element, i) for i in range(CHAINS)]
            chains = [cgutils.alloca_once_value(builder, splat(builder, s, instruction.vector)) for s in starts]
            with cgutils.for_range(builder, steps):
                for x in chains:
                    builder.store(_multiply_add(builder, instruction.name.split()[0], builder.load(x), y, z), x)
            add = builder.add if as_numba == types.int32 else builder.fadd
            total = builder.load(chains[0])
            for x in chains[1:]:
                total = add(total, builder.load(x))
            return builder.extract_element(total, INDEX(0))

        return signature, emit

    return run


def _kernel(precision: str):
    chains = _chains(INSTRUCTIONS[precision])
    return njit(nogil=True)(lambda steps, y, z: chains(steps, y, z))


_FACTORS = {"fp32": (np.float32(0.5), np.float32(0.25)), "fp64": (0.5, 0.25), "int8": (np.int32(0x01010101),) * 2}
_KERNELS = {precision: _kernel(precision) for precision in PRECISIONS}


def run(precision: str, steps: int) -> int:
    """Do `steps` multiply-adds in each of the chains, in this thread, and give the number of operations done.

    A MAC is two operations. The GIL is released, so threads run this side by side.
    Raises ValueError for a precision that is not in `PRECISIONS`.

    >>> run("fp32", 1000) == 1000 * CHAINS * INSTRUCTIONS["fp32"].operations
    True
    """
    if precision not in INSTRUCTIONS:
        raise ValueError(f"peak.run({precision!r}): this processor's kernels are for {', '.join(PRECISIONS)}")
    _KERNELS[precision](steps, *_FACTORS[precision])
    return steps * CHAINS * INSTRUCTIONS[precision].operations
