"""The processor as this process may use it: cores, caches, memory, and what a container allows of them.

A container or a job scheduler may allow a few of a computer's cores, a share of their time and a
part of its memory. What is measured here is measured within these limits, so they are on the card.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

ROOT = Path("/")  # a test puts a planted system here


@dataclass(frozen=True)
class Cache:
    """A data cache. `bytes` is the size of one, which `cores` of the usable cores share; there are `count` of them."""

    level: str
    bytes: int
    cores: int
    count: int


def usable_cpus() -> list[int]:
    """Numbers of the logical processors on which this process may run.

    >>> len(usable_cpus()) >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count() or 1))


def usable_cores() -> int:
    """How many threads can each have a core, or a whole core's time, to themselves: at least 1.

    The smallest of: the cores to which the allowed logical processors belong, those the system
    counts, and the whole cores in a container's share of time.
    """
    cpus = usable_cpus()
    siblings = {_read(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in cpus}
    cores = min(len(cpus), psutil.cpu_count(logical=False) or len(cpus)) if None in siblings else len(siblings)
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota() -> float | None:
    """Cores' worth of time that a container may use (1.5 is one core and a half); None without a limit."""
    quotas = []
    for folder in _cgroups("cpu"):
        if text := _read(f"{folder}/cpu.max"):  # version 2
            limit, period = text.split()
        else:
            limit, period = _read(f"{folder}/cpu.cfs_quota_us"), _read(f"{folder}/cpu.cfs_period_us")
        if limit and period and limit not in ("max", "-1"):
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def available_memory_bytes() -> int:
    """Bytes that can be taken without swapping: the system's count, or what a container leaves of its limit."""
    left = [psutil.virtual_memory().available]
    for folder in _cgroups("memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, used = _read(f"{folder}/{limit}"), _read(f"{folder}/{used}")
            if limit and used and limit != "max":
                left.append(max(0, int(limit) - int(used)))
    return min(left)


def caches() -> list[Cache]:
    """The data caches from the nearest to the farthest, as the system reports them; empty where it does not.

    Linux's /sys and macOS' sysctl are read. Processors whose cores differ are described by the first usable one.

    >>> [cache.level for cache in caches()] in ([], ["L1"], ["L1", "L2"], ["L1", "L2", "L3"], ["L1", "L2", "L3", "L4"])
    True
    """
    return _caches_of_macos() if platform.system() == "Darwin" else _caches_of_linux()


def describe() -> dict:
    """What the machine card says of the processor beside its model: usable cores, a share of time, caches."""
    return {"usable_cores": usable_cores(), "cpu_quota": cpu_quota(), "caches": [asdict(cache) for cache in caches()]}


def _caches_of_linux() -> list[Cache]:
    cpus = usable_cpus()
    core_of = {cpu: _read(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in cpus}
    found: dict[str, Counter] = {}  # level: how many usable cores each of its caches serves
    sizes: dict[str, int] = {}
    for cpu in cpus:
        for index in range(8):
            folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            kind, level, size, shared = (_read(f"{folder}/{n}") for n in ("type", "level", "size", "shared_cpu_list"))
            if kind not in ("Data", "Unified") or not level or not size or not shared:
                continue
            sizes.setdefault(f"L{level}", _bytes(size))
            found.setdefault(f"L{level}", Counter())
            if cpu == min(c for c in cpus if core_of[c] == core_of[cpu]):  # a core's second thread adds no core
                found[f"L{level}"][shared] += 1
    return [Cache(level, sizes[level], max(served.values()), len(served)) for level, served in sorted(found.items())]


def _caches_of_macos() -> list[Cache]:
    """The fast cores' caches, by `sysctl`; Apple's processors have no third level that it lists."""
    values = {}
    for line in _sysctl().splitlines():
        name, _, value = line.partition(": ")
        if value.strip().isdigit():
            values[name] = int(value)
    cores, found = usable_cores(), []
    for level, key in (("L1", "l1dcachesize"), ("L2", "l2cachesize"), ("L3", "l3cachesize")):
        size = values.get(f"hw.perflevel0.{key}") or values.get(f"hw.{key}")
        if size:
            sharing = min(cores, values.get(f"hw.perflevel0.cpusper{level.lower()}", 1))
            found.append(Cache(level, size, sharing, -(-cores // sharing)))
    return found


def _sysctl() -> str:
    try:
        return subprocess.run(["sysctl", "hw"], capture_output=True, text=True).stdout
    except OSError:
        return ""


def _bytes(size: str) -> int:
    """A size as /sys writes it.

    >>> _bytes("48K"), _bytes("32M"), _bytes("512")
    (49152, 33554432, 512)
    """
    scale = {"K": 2**10, "M": 2**20, "G": 2**30}.get(size[-1], 1)
    return int(size.rstrip("KMG")) * scale


def _cgroups(controller: str) -> list[str]:
    """Folders that may hold a limit, from this process's own control group up (a container sees its own as the top)."""
    folders = []
    for line in (_read("proc/self/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controller in controllers.split(","):
            base = "sys/fs/cgroup" if number == "0" else f"sys/fs/cgroup/{controller}"
            parts = [part for part in path.split("/") if part]
            folders += ["/".join([base, *parts[:n]]) for n in range(len(parts), -1, -1)]
    return folders


def _read(name: str) -> str | None:
    try:
        return (ROOT / name).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
