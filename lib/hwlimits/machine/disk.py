"""How fast the disk under a folder writes and reads a file from end to end.

The file has no name (or goes when it is closed, where a system can't do that), so that nothing
stays behind, however the measurement ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hwlimits.machine.record import Number

BLOCK_BYTES = 2**23
SHARE_OF_FREE = 0.1  # of the space that is free, at most


class DiskError(RuntimeError):
    """The disk can't be measured: the message says why."""


def measure_disk(
    folder: str | Path, *, size_bytes: int, repeats: int, limit_s: float, tick: Callable[[str], None]
) -> tuple[list[Number], dict[str, str]]:
    """Rates at which a file is written and read, and what is left out and why.

    It is done `repeats` times, or until `limit_s` seconds are over:
    disk_write        until the data are on the disk (fsync)
    disk_read         from the disk: the system is told to forget the file first
    disk_read_cached  again at once, from the system's memory

    Raises DiskError if a tenth of the free space does not hold one block.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    blocks = int(min(size_bytes, SHARE_OF_FREE * free)) // BLOCK_BYTES
    if not blocks:
        raise DiskError(f"only {free:,} bytes are free, and a measurement takes a tenth of them at most")
    samples: dict[str, list[float]] = {"disk_write": [], "disk_read": [], "disk_read_cached": []}
    data, begun, why_not = os.urandom(BLOCK_BYTES), time.perf_counter(), ""  # random: some disks compress
    into = bytearray(BLOCK_BYTES)
    for done in range(repeats):
        if done and time.perf_counter() - begun > limit_s:
            break
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            tick("disk write")
            samples["disk_write"].append(_rate(blocks, lambda: _write(file, data, blocks)))
            tick("disk read")
            why_not = forget(file.fileno(), blocks)  # a system that is busy may keep a file once, and not the next time
            if not why_not:
                samples["disk_read"].append(_rate(blocks, lambda: _read(file, into, blocks)))
            else:
                _read(file, into, blocks)
            tick("disk read, cached")
            samples["disk_read_cached"].append(_rate(blocks, lambda: _read(file, into, blocks)))
    size = f"{blocks * BLOCK_BYTES:,} random bytes, {BLOCK_BYTES:,} at a time"
    how = {
        "disk_write": f"Write of a file of {size}, and fsync.",
        "disk_read": f"Read of a file of {size}, forgotten by the system; the host of a virtual disk may remember it.",
        "disk_read_cached": f"Read of a file of {size}, from the system's memory.",
    }
    numbers = [Number.from_samples("bandwidth", of, "B/s", s, how[of]) for of, s in samples.items() if s]
    return numbers, {} if samples["disk_read"] else {"bandwidth disk_read": why_not}


def _rate(blocks: int, call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return blocks * BLOCK_BYTES / (time.perf_counter() - start)


def _write(file, data: bytes, blocks: int) -> None:
    for _ in range(blocks):
        view = memoryview(data)
        while view:  # a raw write may take a part
            view = view[file.write(view) :]
    os.fsync(file.fileno())


def _read(file, into: bytearray, blocks: int) -> None:
    file.seek(0)
    left = blocks * BLOCK_BYTES
    while left:
        got = file.readinto(into)
        if not got:
            raise DiskError(f"the file ended {left:,} bytes too early")
        left -= got


def forget(descriptor: int, blocks: int) -> str:
    """Have the system forget a file's pages: '' if it did, otherwise why the next read is no read from the disk."""
    if not hasattr(os, "posix_fadvise"):
        return "this system offers no way to forget a file that it holds in memory"
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    if not hasattr(os, "RWF_NOWAIT"):
        return ""
    remembered = 0
    for block in range(blocks):
        try:  # answers only from memory
            remembered += bool(os.preadv(descriptor, [bytearray(1)], block * BLOCK_BYTES, os.RWF_NOWAIT))
        except BlockingIOError:
            pass
        except OSError:
            return "the folder's file system can't tell whether a read came from the disk or from memory"
    return (
        "the file stayed in memory: the folder's file system is memory, or keeps what it was told to forget"
        if remembered > blocks // 10
        else ""
    )
