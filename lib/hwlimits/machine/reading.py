"""Reading a data set: as a raw file, mapped into memory, compressed, or from memory; cold and warm, in order and not.

What a way of reading waits for is the slowest that its bytes pass through: the disk, where the system
does not remember the file; the copy from the system's memory, where it does; and the decompression. The
machine card has the first two, the third is measured here on the data themselves.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwlimits.machine.disk import BLOCK_BYTES, forget

WAYS = ("raw", "mapped", "deflated", "in memory")
DEFLATE_LEVEL = 6  # what numpy.savez_compressed uses


@dataclass(frozen=True)
class DataSet:
    """Rows of numbers on disk, raw and deflated: `array` (rows, numbers) is what both hold."""

    array: np.ndarray
    raw: Path
    deflated: Path

    @property
    def deflated_ratio(self) -> float:
        """Raw bytes over compressed bytes."""
        return self.array.nbytes / self.deflated.stat().st_size


@dataclass(frozen=True)
class Reading:
    """How long it took to read and sum everything once. `cold` says that the file came from the disk."""

    way: str
    cold: bool
    seconds: float
    bytes: int

    @property
    def bytes_per_s(self) -> float:
        """Of the data, not of the file."""
        return self.bytes / self.seconds


def write(folder: str | Path, array: np.ndarray) -> DataSet:
    """Store rows in a folder in both forms, until they are on the disk."""
    folder = Path(folder)
    found = DataSet(np.ascontiguousarray(array), folder / "rows.bin", folder / "rows.z")
    for path, content in (
        (found.raw, found.array.data),
        (found.deflated, zlib.compress(found.array.data, DEFLATE_LEVEL)),
    ):
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return found


def read(found: DataSet, way: str, *, cold: bool = False) -> Reading:
    """Read all rows in one of WAYS, in order, and sum each number once.

    cold   from the disk: the system is told to forget the file first. The result says whether it did.

    Raises ValueError for another way, and for a cold reading of what is in memory.
    """
    if way not in WAYS or (cold and way == "in memory"):
        raise ValueError(f"read({way!r}, cold={cold}): choose from {', '.join(WAYS)}; what is in memory is never cold")
    path = found.deflated if way == "deflated" else found.raw
    was_cold = cold and not why_not_forgotten(path)
    start = time.perf_counter()
    if way == "in memory":
        content = found.array
    elif way == "mapped":
        content = np.memmap(path, np.uint8, "r")
    else:
        content = path.read_bytes()
    _sum(np.frombuffer(zlib.decompress(content) if way == "deflated" else content, np.uint8))
    return Reading(way, was_cold, time.perf_counter() - start, found.array.nbytes)


def read_rows(found: DataSet, rows: np.ndarray, *, cold: bool = False) -> Reading:
    """Read these rows from the mapped raw file, one after the other, and sum them.

    In order, the system reads ahead; in a random order it can't, and from a disk each row is a wait of its own.
    """
    was_cold = cold and not why_not_forgotten(found.raw)
    start = time.perf_counter()
    mapped = np.memmap(found.raw, found.array.dtype, "r", shape=found.array.shape)
    for row in rows:
        _sum(mapped[row])
    return Reading("mapped rows", was_cold, time.perf_counter() - start, len(rows) * found.array[0].nbytes)


def predicted_s(
    found: DataSet,
    way: str,
    *,
    cold: bool,
    source_bytes_per_s: float,
    memory_bytes_per_s: float,
    inflate_bytes_per_s: float,
    new_bytes_per_s: float,
) -> float:
    """Seconds for a way of reading: its steps one after the other, each its bytes over its rate.

    source_bytes_per_s    of the file: 'disk_read' of the card, cold, or 'disk_read_cached', warm
    memory_bytes_per_s    of summing what is in memory: 'DRAM' of the card
    inflate_bytes_per_s   of decompression, in bytes of data: `inflate_rate`
    new_bytes_per_s       of memory that the system hands out for the first time: `new_memory_rate`

    A mapped file is summed where the system has it: warm, nothing is copied.
    """
    data, file = found.array.nbytes, found.deflated.stat().st_size
    sum_s = data / memory_bytes_per_s
    return {
        "in memory": sum_s,
        "raw": data / source_bytes_per_s + data / new_bytes_per_s + sum_s,
        "mapped": (data / source_bytes_per_s if cold else 0.0) + sum_s,
        "deflated": file / source_bytes_per_s + (file + data) / new_bytes_per_s + data / inflate_bytes_per_s + sum_s,
    }[way]


def new_memory_rate(size_bytes: int = 2**25) -> float:
    """Bytes a second of memory written for the first time: the system clears each page (4 KiB, mostly) before.

    It is asked of the system itself: what the allocator hands out may have been used before.
    """
    times = []
    for _ in range(5):
        start = time.perf_counter()
        with mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as new:
            ctypes.memset((ctypes.c_char * size_bytes).from_buffer(new), 0, size_bytes)
            times.append(time.perf_counter() - start)
    return size_bytes / sorted(times)[2]


def inflate_rate(array: np.ndarray, sample_bytes: int = 2**22) -> float:
    """Bytes of data that this core decompresses in a second, on the first rows of the data themselves."""
    packed = zlib.compress(array.data[: max(1, sample_bytes // array[0].nbytes)], DEFLATE_LEVEL)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        content = zlib.decompress(packed)
        times.append(time.perf_counter() - start)
    return len(content) / sorted(times)[2]


def why_not_forgotten(path: Path) -> str:
    """Have the system forget a file's pages: '' if it did, otherwise why the next reading is not from the disk."""
    with open(path, "rb") as file:
        return forget(file.fileno(), -(-path.stat().st_size // BLOCK_BYTES))


def _sum(array: np.ndarray) -> int:
    """Touch every byte, eight at a time: as fast as memory is, or nearly."""
    flat = array.reshape(-1).view(np.uint8)
    whole = flat.size // 8 * 8
    return int(flat[:whole].view(np.uint64).sum()) + int(flat[whole:].sum())
