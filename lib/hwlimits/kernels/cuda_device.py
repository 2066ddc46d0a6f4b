"""The one door to numba's CUDA: on a GPU where there is one, in numba's simulator where there is none.

The simulator runs each thread of a kernel as a thread of Python: right and slow, so that a kernel can be read, run
and tested anywhere. It says nothing about speed. NUMBA_ENABLE_CUDASIM=1 asks for it on a computer with a GPU.

Beside `cuda` stand three instructions that numba has no name for; the simulator has the same ones in Python, and a
shuffle, which only the simulator lacks. A 16-byte load of an index that is no multiple of 4 is an error in both.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import warnings
from importlib import metadata

import numba
import numpy as np
from numba import float32

WARP = 32
GRID_Y_MOST = 65_535  # blocks along a grid's second axis (CUDA C++ Programming Guide, "Technical Specifications")


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
    if not SIMULATED:
        cause = os.environ.get("NUMBA_ENABLE_CUDASIM")
        cause = f"NUMBA_ENABLE_CUDASIM={cause} forbids the simulator" if cause else "numba.cuda was imported before it"
        return (
            f"No NVIDIA GPU here, and hwlimits.kernels can't run its kernels in numba's simulator, because {cause}: "
            "start Python again with NUMBA_ENABLE_CUDASIM=1."
        )
    if count():
        return "NUMBA_ENABLE_CUDASIM=1 asks for the simulator: the kernels run there, and no time is measured."
    return "No NVIDIA GPU here: the kernels run in numba's simulator, and times are those stored with the course."


def check_packages(load=importlib.import_module) -> None:
    """Raise ImportError if numba's CUDA and NumPy do not fit each other, which else the first kernel would show.

    Seen: numba-cuda 0.30.4 asks NumPy for `row_stack`, which 2.5 has no more.
    """
    try:
        load("numba.cuda.np.arrayobj")
    except ModuleNotFoundError:
        pass  # a numba that keeps it elsewhere
    except AttributeError as error:
        found = " and ".join(
            f"{d.name} {d.version}" for d in map(metadata.distribution, _installed("numba-cuda", "numpy"))
        )
        raise ImportError(
            f"hwlimits.kernels: {found} do not fit each other ({error}), so no kernel can be compiled for this GPU: "
            "install a newer numba-cuda or an older NumPy, e.g. pip install 'numpy<2.5'"
        ) from error


def _installed(*names: str) -> list[str]:
    return [name for name in names if any(metadata.distributions(name=name))]


if available():
    check_packages()
if not SIMULATED and not available():
    warnings.warn(why_not(), RuntimeWarning, stacklevel=2)  # else the first kernel dies of a driver that is not there


def check_grid_y(what: str, size: int, name: str, each: int) -> None:
    """Raise ValueError if `size` of what `name` says, `each` of them a block, do not fit on a grid's second axis."""
    if size > (most := GRID_Y_MOST * each):
        raise ValueError(
            f"{what}: there are {size:,} {name}, and a GPU's grid holds {GRID_Y_MOST:,} blocks of {each}, "
            f"{most:,} {name}, along its second axis; split them into several calls"
        )


if SIMULATED:

    def _check_aligned(what, index):
        if index % 4:
            raise ValueError(f"{what}: index {index} is no multiple of 4, a misaligned address on a GPU; align it to 4")

    def load4(array, index):
        """Four neighbours of a flat float32 array, `index` a multiple of 4: one 16-byte load."""
        _check_aligned("load4", index)
        return array[index], array[index + 1], array[index + 2], array[index + 3]

    def store4(array, index, values):
        """The same the other way: one 16-byte store."""
        _check_aligned("store4", index)
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

    @cuda.jit(device=True)
    def shuffle_down(value, step):
        """`value` of the lane `step` further, through shared memory: every thread of the block must come here."""
        values = cuda.shared.array(1024, float32)
        t = cuda.threadIdx.x
        values[t] = value
        cuda.syncthreads()
        found = values[t + step] if t % WARP + step < WARP else value
        cuda.syncthreads()
        return found

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
            operands = ", ".join(f"${i}" for i in range(4))
            form = ir.FunctionType(word, [word] * 3)
            instruction = ir.InlineAsm(form, f"dp4a.s32.s32 {operands};", "=r,r,r,r", side_effect=False)
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

    @cuda.jit(device=True)
    def shuffle_down(value, step):
        """`value` of the lane `step` further in the same warp: one instruction (shfl.down)."""
        return cuda.shfl_down_sync(0xFFFFFFFF, value, step)
