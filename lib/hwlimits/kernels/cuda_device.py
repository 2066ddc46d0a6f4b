"""The one door to numba's CUDA: on a GPU where there is one, in numba's simulator where there is none.

The simulator runs each thread of a kernel as a thread of Python: right and slow, so that a kernel can be read, run
and tested anywhere. It says nothing about speed. NUMBA_ENABLE_CUDASIM=1 asks for it on a computer with a GPU.

Beside `cuda` stand three instructions that numba has no name for; the simulator has the same ones in Python.
"""

from __future__ import annotations

import ctypes
import os

import numba
import numpy as np


def count() -> int:
    """GPUs that the NVIDIA driver of this computer lists; 0 without a driver.

    >>> count() >= 0
    True
    """
    for name in ("libcuda.so.1", "nvcuda.dll"):
        found = ctypes.c_int(0)
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(found)) == 0:
            return found.value
    return 0


def _imported():
    """numba.cuda, told to simulate if there is nothing else to run on; and whether it does."""
    asked = os.environ.get("NUMBA_ENABLE_CUDASIM")
    simulate = asked == "1" if asked else count() == 0
    if simulate:
        # numba's own target asks numba's settings, which may be read by now; NVIDIA's asks the environment.
        numba.config.ENABLE_CUDASIM = 1
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
    try:
        from numba import cuda
    finally:
        if simulate and not asked:
            del os.environ["NUMBA_ENABLE_CUDASIM"]
    return cuda, hasattr(cuda, "simulator") and cuda.api.__name__.endswith("simulator.api")


cuda, SIMULATED = _imported()


def available() -> bool:
    """True if kernels run on a GPU, False if in the simulator."""
    return not SIMULATED and count() > 0


def why_not() -> str:
    """A sentence for a reader without a GPU; empty for one with."""
    if available():
        return ""
    if count():
        return "NUMBA_ENABLE_CUDASIM=1 asks for the simulator: the kernels run there, and no time is measured."
    return "No NVIDIA GPU here: the kernels run in numba's simulator, and times are those stored with the course."


if SIMULATED:

    def load4(array, index):
        """Four neighbours of a flat float32 array, `index` a multiple of 4: one 16-byte load."""
        return array[index], array[index + 1], array[index + 2], array[index + 3]

    def store4(array, index, values):
        """The same the other way: one 16-byte store."""
        for i in range(4):
            array[index + i] = values[i]

    def dp4a(x, y, total):
        """total + the sum of four products of int8, the bytes of int32 `x` and `y`: one instruction from sm_61 on."""
        x, y = (np.array([v], np.int32).view(np.int8).astype(np.int32) for v in (x, y))
        return np.int32(total + int(np.dot(x, y)))

    def multiply_adds(count):
        """The function (x, f, s) that does x * f + s `count` times with each of a tuple of float32."""

        def steps(x, f, s):
            for _ in range(count):
                x = tuple(v * f + s for v in x)
            return x

        return steps

else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.cuda.extending import intrinsic

    _FOUR = ir.VectorType(ir.FloatType(), 4)

    def _address4(context, builder, array_type, array, index):
        data = context.make_array(array_type)(context, builder, value=array).data
        return builder.bitcast(builder.gep(data, [index]), _FOUR.as_pointer(data.type.addrspace))

    @intrinsic
    def load4(typing_context, array, index):
        """Four neighbours of a flat float32 array, `index` a multiple of 4: one 16-byte load (ld.v4.f32)."""

        def code(context, builder, signature, arguments):
            vector = builder.load(_address4(context, builder, signature.args[0], *arguments), align=16)
            lanes = [builder.extract_element(vector, ir.Constant(ir.IntType(32), i)) for i in range(4)]
            return context.make_tuple(builder, signature.return_type, lanes)

        return types.UniTuple(types.float32, 4)(array, types.int64), code

    @intrinsic
    def store4(typing_context, array, index, values):
        """The same the other way: one 16-byte store (st.v4.f32)."""

        def code(context, builder, signature, arguments):
            vector = ir.Constant(_FOUR, ir.Undefined)
            for i in range(4):
                lane = builder.extract_value(arguments[2], i)
                vector = builder.insert_element(vector, lane, ir.Constant(ir.IntType(32), i))
            builder.store(vector, _address4(context, builder, signature.args[0], *arguments[:2]), align=16)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.UniTuple(types.float32, 4)), code

    @intrinsic
    def dp4a(typing_context, x, y, total):
        """total + the sum of four products of int8, the bytes of int32 `x` and `y`: one instruction from sm_61 on."""

        def code(context, builder, signature, arguments):
            word = ir.IntType(32)
            instruction = ir.InlineAsm(
                ir.FunctionType(word, [word] * 3), "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", side_effect=False
            )
            return builder.call(instruction, arguments)

        return types.int32(types.int32, types.int32, types.int32), code

    def multiply_adds(count):
        """The function (x, f, s) that does x * f + s `count` times with each of a tuple of float32, written out."""

        @intrinsic
        def steps(typing_context, x, f, s):
            def code(context, builder, signature, arguments):
                lanes, f, s = arguments
                real = ir.FloatType()
                kind = ir.FunctionType(real, [real] * 3)
                fma = cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.f32")
                values = [builder.extract_value(lanes, i) for i in range(signature.return_type.count)]
                for _ in range(count):
                    values = [builder.call(fma, (value, f, s)) for value in values]
                return context.make_tuple(builder, signature.return_type, values)

            return x(x, types.float32, types.float32), code

        return steps
