"""The time of each operator of a LiteRT file, measured with the kernel that the whole file uses.

Each operator is cut out and run alone on numbers of its own shape and type. Alone, its inputs are
in a cache more often than in the whole; what the sum of the operators and the whole differ by
shows how much that matters.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hwlimits.machine.memory import peak_bytes
from hwlimits.machine.timing import Timing, measure
from hwlimits.progress import each
from hwlimits.training.litert import LiteRTError, LiteRTFile
from hwlimits.training.operators import cut, operators


def runner(file: LiteRTFile, *, batch: int | None = None, threads: int = 1) -> Callable[[], None]:
    """A call that runs a file on made-up inputs, to be timed: any file, whatever its inputs are.

    `batch`, if given, replaces the first dimension of each input. Real numbers are uniform in [0, 1), int8
    any value; int32 and int64, which mostly are indices, are 0, the one value that always is one.
    """
    interpreter = file.interpreter(batch, threads=threads)
    random = np.random.default_rng(0)
    for details in interpreter.get_input_details():
        shape, dtype = details["shape"], details["dtype"]
        if np.issubdtype(dtype, np.floating):
            values = random.random(shape)
        elif dtype in (np.int8, np.uint8):
            values = random.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape)
        else:
            values = np.zeros(shape)
        interpreter.set_tensor(details["index"], values.astype(dtype))
    return interpreter.invoke


def operator_times(
    file: LiteRTFile, *, batch: int = 1, threads: int = 1, repeats: int = 15, progress: bool = True,
    keep: str | None = None,
) -> tuple[dict[str, Timing], dict[str, str]]:  # fmt: skip
    """Times by the operator's name, in order of execution; and which could not be run alone, and why.

    progress   a bar over the operators, as `hwlimits.progress.live` has it
    keep       a name under which times stay in memory if it is stopped: the same call then does the other operators
    """

    def one(operator) -> Timing | str:
        try:
            part = runner(cut(file, operator.index, batch), threads=threads)
        except LiteRTError as error:
            return str(error)
        return measure(part, repeats=repeats, min_sample_s=5e-4)

    todo = {operator.index: operator for operator in operators(file, batch)}
    found = each(
        todo, lambda index: one(todo[index]), desc="operators", unit="operator", shown=progress, keep=keep,
        about=(zlib.crc32(file.content), batch, threads, repeats),
    )  # fmt: skip
    times = {todo[i].name: timing for i, timing in found.items() if isinstance(timing, Timing)}
    return times, {todo[i].name: why for i, why in found.items() if isinstance(why, str)}


def peak_memory_bytes(file: LiteRTFile, *, batch: int | None = None, threads: int = 1) -> int:
    """Bytes that loading a file and running it once add to a fresh process, at most."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(file.content)
        return peak_bytes(
            "from hwlimits.training.operator_times import LiteRTFile, runner",
            f"runner(LiteRTFile.read({str(path)!r}), batch={batch}, threads={threads})()",
        )
