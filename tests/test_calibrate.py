import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from hwlimits.kernels import peak
from hwlimits.machine import disk, loopback, processor, throughput
from hwlimits.machine.calibrate import Part, calibrate, parts, reason, run
from hwlimits.machine.card import Card, Number
from hwlimits.machine.latency import Point, Work
from hwlimits.machine.processor import Cache
from hwlimits.machine.throughput import (
    Probe,
    aligned,
    arithmetic,
    bandwidth,
    dram_bytes,
    sample,
    together,
    working_set_bytes,
)

pytestmark = pytest.mark.alone

module = sys.modules["hwlimits.machine.calibrate"]


def quiet(_: str) -> None:
    """No bar."""


# the processor, as the system describes it


def plant(root, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")


def system(cpus: int, *, smt: int, l3_cores: int) -> dict[str, str]:
    """Linux's description of `cpus` logical processors, `smt` a core, `l3_cores` cores to a third-level cache."""
    files = {}
    for cpu in range(cpus):
        top = f"sys/devices/system/cpu/cpu{cpu}"
        core, ccx = cpu // smt, cpu // smt // l3_cores
        own = f"{core * smt}-{core * smt + smt - 1}" if smt > 1 else str(cpu)
        shared = f"{ccx * l3_cores * smt}-{(ccx + 1) * l3_cores * smt - 1}"
        files[f"{top}/topology/thread_siblings_list"] = own
        levels = [(1, "Data", "32K", own), (1, "Instruction", "64K", own)]
        levels += [(2, "Unified", "1024K", own), (3, "Unified", "16M", shared)]
        for index, (level, kind, size, cpu_list) in enumerate(levels):
            told = {"level": str(level), "type": kind, "size": size, "shared_cpu_list": cpu_list}
            files |= {f"{top}/cache/index{index}/{name}": text for name, text in told.items()}
    return files


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A planted system: linux(files, cpus) makes `processor` see it."""

    def see(files, cpus):
        plant(tmp_path, files)
        monkeypatch.setattr(processor, "ROOT", tmp_path)
        monkeypatch.setattr(processor, "usable_cpus", lambda: list(cpus))
        monkeypatch.setattr(processor.platform, "system", lambda: "Linux")

    return see


def test_caches_and_cores_of_a_planted_system(linux):
    """8 logical processors are 4 cores; two pairs of cores have a third-level cache each."""
    linux(system(8, smt=2, l3_cores=2), range(8))
    assert processor.usable_cores() == 4
    assert processor.caches() == [
        Cache("L1", 32 * 1024, cores=1, count=4),
        Cache("L2", 1024 * 1024, cores=1, count=4),
        Cache("L3", 16 * 1024**2, cores=2, count=2),
    ]


@pytest.mark.parametrize(
    ("cpus", "cores", "l3"),
    [([0, 1], 1, (1, 1)), ([0, 2], 2, (2, 1)), ([0, 4], 2, (1, 2)), ([5], 1, (1, 1)), (range(8), 4, (2, 2))],
    ids=["both threads of a core", "two cores", "two cores, two caches", "one thread", "all"],
)
def test_only_what_the_process_may_use_counts(linux, cpus, cores, l3):
    linux(system(8, smt=2, l3_cores=2), cpus)
    assert processor.usable_cores() == cores
    last = processor.caches()[-1]
    assert (last.cores, last.count) == l3


@pytest.mark.parametrize(
    ("files", "quota", "cores"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None, 4),
        ({"proc/self/cgroup": "0::/job/step", "sys/fs/cgroup/job/cpu.max": "200000 100000"}, 2.0, 2),
        ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/cpu.max": "20000 100000"}, 0.2, 1),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n0::/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3.0,
            3,
        ),
        ({"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, None, 4),
        ({}, None, 4),
    ],
    ids=["v2", "v2 without", "v2 above", "v2 small", "v1", "v1 without", "none"],
)
def test_a_container_s_share_of_time_limits_the_cores(linux, files, quota, cores):
    linux(system(8, smt=2, l3_cores=2) | files, range(8))
    assert processor.cpu_quota() == quota
    assert processor.usable_cores() == cores
    assert processor.describe()["cpu_quota"] == quota


def test_a_container_s_memory_is_what_it_leaves(linux):
    files = {"sys/fs/cgroup/box/memory.max": "1000000", "sys/fs/cgroup/box/memory.current": "400000"}
    linux(files | {"proc/self/cgroup": "0::/box"}, [0])
    assert processor.available_memory_bytes() == 600_000


def test_without_a_container_memory_is_the_system_s(linux):
    linux({"sys/fs/cgroup/memory.max": "max", "proc/self/cgroup": "0::/"}, [0])
    assert processor.available_memory_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_a_system_that_tells_nothing_has_no_caches_and_its_cores(linux):
    linux({}, [0, 1, 2])
    assert processor.caches() == []
    assert 1 <= processor.usable_cores() <= 3


def test_caches_of_a_mac(monkeypatch):
    told = "hw.perflevel0.l1dcachesize: 131072\nhw.perflevel0.l2cachesize: 12582912\nhw.perflevel0.cpusperl2: 4\n"
    told += "hw.l1dcachesize: 65536\nhw.machine: arm64\n"
    monkeypatch.setattr(processor, "_sysctl", lambda: told)
    monkeypatch.setattr(processor, "usable_cores", lambda: 8)
    monkeypatch.setattr(processor.platform, "system", lambda: "Darwin")
    assert processor.caches() == [Cache("L1", 131072, 1, 8), Cache("L2", 12582912, 4, 2)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="getconf tells cache sizes on Linux")
def test_caches_here_are_those_of_getconf():
    sizes = {cache.level: cache.bytes for cache in processor.caches()}
    for level, key in (("L1", "LEVEL1_DCACHE_SIZE"), ("L2", "LEVEL2_CACHE_SIZE"), ("L3", "LEVEL3_CACHE_SIZE")):
        told = subprocess.run(["getconf", key], capture_output=True, text=True).stdout.strip()
        if told.isdigit() and int(told) and level in sizes:
            assert int(told) % sizes[level] == 0, "the same, or for all caches of a socket together"
            assert int(told) == sizes[level] or level == "L3"


# where arrays are put


K, M = 2**10, 2**20
PROCESSORS = {
    "2 cores": [Cache("L1", 48 * K, 1, 2), Cache("L2", M, 1, 2), Cache("L3", 32 * M, 2, 1)],
    "server": [Cache("L1", 32 * K, 1, 28), Cache("L2", M, 1, 28), Cache("L3", 77 * M // 2, 28, 1)],
    "8 to a cache": [Cache("L1", 32 * K, 1, 64), Cache("L2", 512 * K, 1, 64), Cache("L3", 32 * M, 8, 8)],
    "no L3": [Cache("L1", 32 * K, 1, 4), Cache("L2", M, 4, 1)],
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("all_cores", [False, True])
def test_arrays_fit_their_level_and_not_the_nearer_one(name, all_cores):
    caches = PROCESSORS[name]
    threads = caches[0].count if all_cores else 1
    for level, cache in enumerate(caches):
        size = working_set_bytes(caches, level, threads)
        sharing = min(threads, cache.cores)
        assert size * sharing <= cache.bytes, "the threads that share it fit together"
        if level:
            assert size > caches[level - 1].bytes / min(threads, caches[level - 1].cores)


def test_a_level_that_gives_a_thread_no_more_than_the_nearer_one_is_left_out():
    caches = [Cache("L1", 32 * K, 1, 8), Cache("L2", 2 * M, 1, 8), Cache("L3", 12 * M, 8, 1)]
    assert working_set_bytes(caches, 2, 8) is None
    probes, left_out = bandwidth(caches, 8, 2**34)
    assert [p.of for p in probes if len(p.work) == 8] == ["L1", "L2", "DRAM"]
    assert "no larger than the cache before it" in left_out["bandwidth L3, 8 threads"]
    assert [p.of for p in probes if len(p.work) == 1] == ["L1", "L2", "L3", "DRAM"]


@pytest.mark.parametrize(
    ("l3_bytes", "count", "available", "wanted"),
    [
        (32 * M, 1, 2**35, 256 * M),  # small caches: at least 256 MiB
        (256 * M, 1, 2**35, 1024 * M),  # STREAM's rule
        (32 * M, 8, 2**35, 1024 * M),  # of all the caches
        (256 * M, 1, 2**31, 512 * M),  # memory for a quarter only
    ],
)
def test_arrays_for_dram_are_four_times_the_caches_if_memory_allows(l3_bytes, count, available, wanted):
    assert dram_bytes([Cache("L1", 32 * K, 1, 8), Cache("L3", l3_bytes, 8, count)], available) == wanted


def test_dram_is_left_out_where_arrays_would_sit_in_the_cache():
    probes, left_out = bandwidth([Cache("L1", 32 * K, 1, 2), Cache("L2", 256 * M, 2, 1)], 2, available_bytes=2**30)
    assert "DRAM" not in {p.of for p in probes}
    assert "would partly sit in caches of 268,435,456" in left_out["bandwidth DRAM"]


def test_without_a_word_on_caches_dram_is_still_measured():
    probes, _ = bandwidth([], 2, 2**34)
    assert [p.name for p in probes] == ["bandwidth DRAM, 1 thread", "bandwidth DRAM, 2 threads"]


@pytest.mark.parametrize("n", [8, 512, 683, 1000, 2048, 4096, 5461, 65536])
def test_arrays_begin_on_a_line_and_at_different_places_of_a_page(n):
    arrays = aligned(n, 3)
    starts = np.array([a.ctypes.data for a in arrays])
    assert all(starts % 64 == 0)
    assert [a.size for a in arrays] == [n] * 3
    for i in range(3):
        for j in range(i):
            apart = (starts[i] - starts[j]) % 4096
            assert min(apart, 4096 - apart) >= 256
            assert abs(starts[i] - starts[j]) >= arrays[0].nbytes


def test_the_triad_computes_and_counts_three_arrays():
    (probe,) = [p for p in bandwidth(PROCESSORS["2 cores"], 1, 2**34)[0] if p.of == "L1"]
    assert probe.work[0](5) == 5 * 3 * (48 * K // 2 // 3 // 8) * 8
    a, b, out = next(cell.cell_contents for cell in probe.work[0].__closure__ if isinstance(cell.cell_contents, list))
    np.testing.assert_array_equal(out, a + 3.0 * b)


# sampling


class Machine:
    """A computer with a clock of its own, which gets slower as it runs."""

    def __init__(self, slowdown=lambda now: 1.0):
        self.now, self.slowdown, self.order = 0.0, slowdown, []

    def clock(self):
        return self.now

    def probe(self, of: str, rate: float) -> Probe:
        def work(rounds):
            self.order.append(of)
            self.now += 100 * rounds / rate * self.slowdown(self.now)
            return 100 * rounds

        return Probe("peak", of, "FLOP/s", "planted", [work])


def test_a_rate_is_the_work_over_its_time():
    machine = Machine()
    numbers, failed = sample(
        [machine.probe("a", 5e6), machine.probe("b", 2e6)], repeats=5, sample_s=0.01, tick=quiet, clock=machine.clock
    )
    assert [n.value for n in numbers] == pytest.approx([5e6, 2e6])
    assert [n.n for n in numbers] == [5, 5]
    assert failed == {}


def test_samples_take_turns_forwards_and_backwards():
    machine, named = Machine(), []
    sample([machine.probe(of, 1e6) for of in "abc"], repeats=3, sample_s=1e-9, tick=named.append, clock=machine.clock)
    assert "".join(machine.order[-9:]) == "abccbaabc"
    assert len(named) == 4 * 3
    assert set(named) == {f"peak {of}, 1 thread" for of in "abc"}


def test_a_drifting_machine_treats_probes_alike():
    machine = Machine(slowdown=lambda now: 1 + 3 * now)
    probes = [machine.probe(of, 1e6) for of in "abcd"]
    numbers, _ = sample(probes, repeats=15, sample_s=0.01, tick=quiet, clock=machine.clock)
    values = [number.value for number in numbers]
    assert probes[0].samples[0] / probes[0].samples[-1] > 1.5, "the drift is there"
    assert max(values) / min(values) < 1.1


def test_a_probe_that_fails_leaves_the_others():
    machine = Machine()
    broken = Probe("peak", "bad", "FLOP/s", "planted", [lambda rounds: 1 / 0])
    probes = [machine.probe("a", 1e6), broken, machine.probe("b", 2e6)]
    numbers, failed = sample(probes, repeats=3, sample_s=0.01, tick=quiet, clock=machine.clock)
    assert [n.of for n in numbers] == ["a", "b"]
    assert isinstance(failed["peak bad, 1 thread"], ZeroDivisionError)


def test_threads_run_at_the_same_time():
    """Each call waits for the other: one after the other, they would wait for ever."""
    meet = threading.Barrier(2, timeout=5)
    work = [lambda: meet.wait() + 1] * 2
    assert together(work)[0] == 3  # arrivals 0 and 1, plus one each


def test_the_time_of_threads_is_from_the_first_start_to_the_last_end():
    amount, elapsed_s, busy = together([lambda: time.sleep(0.02) or 1, lambda: time.sleep(0.1) or 1])
    assert amount == 2
    assert elapsed_s >= 0.1
    assert busy < 0.5, "who sleeps has no processor"


def test_a_rate_measured_without_a_processor_is_noisy():
    """As when other programs run: the samples agree, and are wrong."""
    waits = Probe("peak", "x", "FLOP/s", "planted", [lambda rounds: time.sleep(0.01 * rounds) or rounds])
    (number,), _ = sample([waits], repeats=5, sample_s=0.005, tick=quiet)
    assert number.busy < 0.5
    assert number.noisy


# disk and network


def test_disk_leaves_nothing_behind(tmp_path):
    numbers, left_out = disk.measure_disk(tmp_path, size_bytes=2**25, repeats=3, limit_s=60, tick=quiet)
    assert list(tmp_path.iterdir()) == []
    found = {number.of: number for number in numbers}
    assert {"disk_write", "disk_read_cached"} <= set(found)
    assert ("disk_read" in found) != ("bandwidth disk_read" in left_out)
    assert all(number.unit == "B/s" for number in numbers)
    assert found["disk_write"].n == found["disk_read_cached"].n == 3
    assert "33,554,432 random bytes" in found["disk_write"].how


@pytest.mark.parametrize(("kept", "n"), [((1,), 2), ((0, 1, 2), None)])
def test_a_file_that_the_system_keeps_now_and_then_is_a_sample_less(monkeypatch, tmp_path, kept, n):
    turns = iter(range(3))
    monkeypatch.setattr(disk, "forget", lambda *_: "kept" if next(turns) in kept else "")
    numbers, left_out = disk.measure_disk(tmp_path, size_bytes=2**23, repeats=3, limit_s=60, tick=quiet)
    found = {number.of: number for number in numbers}
    assert left_out == ({} if n else {"bandwidth disk_read": "kept"})
    assert ("disk_read" in found) == bool(n)
    assert not n or found["disk_read"].n == n


def test_an_interrupted_disk_measurement_leaves_nothing_behind(tmp_path):
    def tick(what):
        if what == "disk read, cached":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk.measure_disk(tmp_path, size_bytes=2**23, repeats=3, limit_s=60, tick=tick)
    assert list(tmp_path.iterdir()) == []


def test_reading_at_the_speed_of_memory_agrees_with_a_plain_read(tmp_path):
    path = tmp_path / "plain"
    path.write_bytes(os.urandom(2**25))
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        path.read_bytes()
        rates.append(2**25 / (time.perf_counter() - start))
    numbers, _ = disk.measure_disk(tmp_path, size_bytes=2**25, repeats=5, limit_s=60, tick=quiet)
    (cached,) = [number.value for number in numbers if number.of == "disk_read_cached"]
    assert 0.1 < cached / max(rates) < 20


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="a file system in memory, where there is one")
def test_a_file_system_in_memory_has_no_cold_read():
    numbers, left_out = disk.measure_disk("/dev/shm", size_bytes=2**24, repeats=1, limit_s=60, tick=quiet)
    assert "disk_read" not in {number.of for number in numbers}
    assert "memory" in left_out["bandwidth disk_read"]


def test_a_system_that_can_t_forget_a_file_has_no_cold_read(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    _, left_out = disk.measure_disk(tmp_path, size_bytes=2**23, repeats=1, limit_s=60, tick=quiet)
    assert "no way to forget a file" in left_out["bandwidth disk_read"]


def test_a_file_that_stays_in_memory_is_noticed(tmp_path, monkeypatch):
    """Planted: a system that is told to forget the file and does not. Where it does, the read counts."""
    if not hasattr(os, "RWF_NOWAIT"):
        pytest.skip("this system can't tell")
    with open(tmp_path / "x", "w+b", buffering=0) as file:
        file.write(bytes(2**20))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
            pytest.skip("the temporary folder is in memory")
        except BlockingIOError:
            pass
        except OSError:
            pytest.skip("this file system can't tell")
    numbers, left_out = disk.measure_disk(tmp_path, size_bytes=2**25, repeats=1, limit_s=60, tick=quiet)
    assert "disk_read" in {number.of for number in numbers}
    assert left_out == {}
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None)
    numbers, left_out = disk.measure_disk(tmp_path, size_bytes=2**25, repeats=1, limit_s=60, tick=quiet)
    assert "disk_read" not in {number.of for number in numbers}
    assert left_out["bandwidth disk_read"].startswith("the file stayed in memory")


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(disk.DiskError, match="only 1,000,000 bytes are free"):
        disk.measure_disk(tmp_path, size_bytes=2**28, repeats=3, limit_s=60, tick=quiet)


def test_a_file_takes_a_tenth_of_the_free_space_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**28))
    numbers, _ = disk.measure_disk(tmp_path, size_bytes=2**28, repeats=1, limit_s=60, tick=quiet)
    assert f"{2**28 // 10 // 2**23 * 2**23:,} random bytes" in numbers[0].how


def test_a_slow_disk_is_measured_for_its_time_only(tmp_path):
    numbers, _ = disk.measure_disk(tmp_path, size_bytes=2**23, repeats=50, limit_s=0, tick=quiet)
    assert {number.n for number in numbers} == {1}
    assert all(number.noisy for number in numbers)


def test_loopback_is_measured_between_two_processes():
    before = set(psutil.Process().children())
    latency, rate = loopback.measure_loopback(repeats=3, round_trips=100, size_bytes=2**24 + 1, tick=quiet)
    assert (latency.quantity, latency.of, latency.unit) == ("overhead", "loopback", "s")
    assert (rate.quantity, rate.of, rate.unit) == ("bandwidth", "loopback", "B/s")
    assert 1e-7 < latency.value < 0.05
    assert 1e6 < rate.value < 1e12
    assert set(psutil.Process().children()) == before


def stand_in(folder, script: str) -> str:
    """A program in Python's place."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_process_that_does_not_answer_is_an_error_in_time(monkeypatch, tmp_path):
    monkeypatch.setattr(loopback, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(loopback.sys, "executable", stand_in(tmp_path, "exec sleep 60"))
    with pytest.raises(TimeoutError, match="the other process had not connected after 0.3 s"):
        loopback.measure_loopback(repeats=3, round_trips=10, size_bytes=10, tick=quiet)


def test_a_process_that_ends_says_how(monkeypatch, tmp_path):
    script = "echo Traceback >&2; echo 'ImportError: nothing here' >&2; exit 3"
    monkeypatch.setattr(loopback.sys, "executable", stand_in(tmp_path, script))
    with pytest.raises(ConnectionError, match="^the other process ended with status 3: ImportError: nothing here$"):
        loopback.measure_loopback(repeats=3, round_trips=10, size_bytes=10, tick=quiet)


def test_a_process_that_ends_while_it_is_measured_says_how(monkeypatch):
    before = {child.pid for child in psutil.Process().children()}  # what keeps books for process pools stays

    def tick(_):
        (child,) = (child for child in psutil.Process().children() if child.pid not in before)
        child.kill()

    with pytest.raises(ConnectionError, match="^the other process ended with status -9$"):
        loopback.measure_loopback(repeats=3, round_trips=10, size_bytes=10, tick=tick)


@pytest.mark.parametrize("said", [b"", b"x", bytes(loopback.TOKEN_BYTES)], ids=["nothing", "a byte", "another token"])
def test_a_stranger_who_connects_first_is_sent_away(monkeypatch, said):
    monkeypatch.setattr(loopback, "TOKEN_WITHIN_S", 0.3)
    strangers = []
    popen = subprocess.Popen

    def connect_first(command, **options):
        strangers.append(socket.create_connection(("127.0.0.1", int(command[-1]))))
        strangers[0].sendall(said)
        if len(said) == 1:
            strangers[0].shutdown(socket.SHUT_WR)
        return popen(command, **options)

    monkeypatch.setattr(loopback.subprocess, "Popen", connect_first)
    numbers = loopback.measure_loopback(repeats=3, round_trips=10, size_bytes=10, tick=quiet)
    assert [number.of for number in numbers] == ["loopback", "loopback"]
    with strangers[0] as stranger, contextlib.suppress(ConnectionResetError):
        stranger.settimeout(5)
        assert stranger.recv(1) == b"", "nothing was asked of it"


# the whole


def number(of: str, value: float = 1.0) -> Number:
    return Number("overhead", of, 1, value, "s", 0.01, 9, "planted")


def fails(_):
    raise PermissionError(13, "Permission denied", "/home/somebody/.cache")


def test_a_part_that_fails_leaves_its_reason_and_the_rest(capsys):
    todo = [
        Part(("overhead a",), 1, lambda tick: ([number("a")], {})),
        Part(("overhead b", "overhead c"), 2, fails),
        Part(("overhead d",), 3, lambda tick: ([number("d")], {"overhead e": "no room"})),
    ]
    numbers, left_out = run(todo, progress=False)
    assert [n.of for n in numbers] == ["a", "d"]
    denied = "PermissionError: Permission denied"
    assert left_out == {"overhead b": denied, "overhead c": denied, "overhead e": "no room"}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", [0.0, -1e-9, float("nan"), float("inf")])
def test_a_number_lost_in_noise_is_left_out(value):
    todo = [Part((), 1, lambda tick: ([number("a", value), number("b")], {}))]
    numbers, left_out = run(todo, progress=False)
    assert [n.of for n in numbers] == ["b"]
    assert left_out["overhead a"].startswith("it came out as ")


def test_an_interruption_is_no_failed_part():
    def interrupted(tick):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([Part(("a",), 1, interrupted)], progress=False)


@pytest.fixture
def interrupted_once(monkeypatch):
    """Three parts, the second of which is interrupted when it is first measured, and what was measured when."""
    begun = []

    def part(name):
        def measure(tick):
            begun.append(name)
            if begun.count("b") == 1 and name == "b":
                raise KeyboardInterrupt
            return [Number(name, name, 1, float(len(begun)), "s", 0.0, 3, "planted")], {f"{name} not": "planted"}

        return Part((name,), 1, measure)

    monkeypatch.setattr(module, "parts", lambda quick=False: [part(name) for name in "abc"])
    monkeypatch.setattr(module, "_kept", {False: {}, True: {}})
    return begun


def test_an_interrupted_calibration_goes_on(interrupted_once):
    with pytest.raises(KeyboardInterrupt):
        module.calibrate(progress=False)
    card = module.calibrate(progress=False)
    assert interrupted_once == ["a", "b", "b", "c"], "what was done is not measured again"
    assert [(n.quantity, n.value) for n in card.numbers] == [("a", 1.0), ("b", 3.0), ("c", 4.0)]
    assert set(card.left_out) == {"a not", "b not", "c not"}
    module.calibrate(progress=False)
    assert interrupted_once == ["a", "b", "b", "c", "a", "b", "c"], "one that ended leaves nothing to the next"


def test_a_quick_calibration_takes_nothing_from_one_that_is_not(interrupted_once):
    with pytest.raises(KeyboardInterrupt):
        module.calibrate(progress=False)
    module.calibrate(quick=True, progress=False)
    assert interrupted_once == ["a", "b", "a", "b", "c"]


@pytest.mark.parametrize(("later_s", "wanted"), [(module.KEPT_S - 1, 1), (module.KEPT_S + 1, 2)])
def test_what_was_measured_long_ago_is_measured_again(later_s, wanted):
    now, measured, kept = [0.0], [], {}

    def measure(tick):
        measured.append(now[0])
        return [], {}

    for now[0] in (100.0, 100.0 + later_s):
        run([Part(("a",), 1, measure)], progress=False, clock=lambda: now[0], kept=kept)
    assert len(measured) == wanted


def test_a_part_that_failed_is_tried_again():
    tried, kept = [], {}

    def fails(tick):
        tried.append(1)
        raise ValueError("no")

    for _ in range(2):
        _, left_out = run([Part(("a",), 1, fails)], progress=False, kept=kept)
    assert (len(tried), kept) == (2, {})
    assert left_out == {"a": "ValueError: no"}


def test_the_bar_names_what_is_measured_and_moves_with_time(capsys, monkeypatch):
    monkeypatch.setattr("hwlimits.progress.live", lambda: True)
    now = [0.0]
    shown = []

    def slow(tick):
        for seconds in (0, 5, 15, 40):  # longer than the 20 s expected
            now[0] = seconds
            tick("slow thing")
            shown.append(capsys.readouterr().err)
        return [number("a")], {}

    run([Part((), 20, slow), Part((), 20, lambda tick: ([], {}))], clock=lambda: now[0])
    end = capsys.readouterr().err
    assert "slow thing" in "".join(shown) + end
    assert "100%" in end
    assert "left" in end


class Bar:
    """Where the bar stood, after each change."""

    def __init__(self, total, disable, **_):
        self.n, self.total, self.disable, self.at = 0.0, total, disable, []

    def update(self, n):
        self.n += n
        self.at.append(self.n)

    def set_description_str(self, text, refresh):
        self.at.append(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.at.append("end")


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_stands_at_the_seconds_that_were_expected(monkeypatch, progress):
    """Within a part it moves with time to the part's end; after it, it stands there, however long the part took."""
    now, bars = [100.0], []
    monkeypatch.setattr("tqdm.tqdm", lambda **options: bars.append(Bar(**options)) or bars[-1])
    monkeypatch.setattr("hwlimits.progress.live", lambda: True)

    def takes(*moments):
        def measure(tick):
            for moment in moments:
                now[0] += moment
                tick("x")
            return [], {}

        return measure

    run([Part((), 20, takes(0, 5, 40)), Part((), 10, takes(3, 3))], progress, clock=lambda: now[0])
    (bar,) = bars
    assert (bar.total, bar.disable) == (30, not progress)
    assert bar.at == ["x", 0, "x", 5, "x", 20, 20, "x", 23, "x", 26, 30, "end"]


@pytest.mark.parametrize("quick", [True, False])
def test_a_card_is_put_together_of_what_the_parts_found(monkeypatch, quick):
    work = Work("RELU", "RELU", "float32", (8.0, 8.0, 1.0, 1.0), 64, (("in0", 32),), (("out0", 32),))
    points, numbers = (Point(work, 1e-6), Point(work, 2e-6)), (number("a"), number("b"))
    asked = []
    monkeypatch.setattr(module, "parts", lambda q: asked.append(q) or ["part"])
    mixed = [points[0], numbers[0], points[1], numbers[1]]
    monkeypatch.setattr(
        module, "run", lambda *a, kept: asked.append((*a, dict(kept))) or (mixed, {"overhead c": "why"})
    )
    monkeypatch.setattr(module, "describe", lambda: {"usable_cores": 77})
    found = calibrate(quick, progress=False)
    assert asked == [quick, (["part"], False, {})]
    assert (found.numbers, found.operators, found.left_out) == (numbers, points, {"overhead c": "why"})
    assert found.provenance["command"] == "hwlimits calibrate" + " --quick" * quick
    assert found.machine["usable_cores"] == 77


def test_points_need_no_unit_to_be_kept():
    work = Work("RELU", "RELU", "float32", (8.0, 8.0, 1.0, 1.0), 64, (("in0", 32),), (("out0", 32),))
    todo = [Part((), 1, lambda tick: ([Point(work, 1e-6)], {"a": "x"})), Part((), 1, lambda tick: ([], {"b": "y"}))]
    assert run(todo, progress=False) == ([Point(work, 1e-6)], {"a": "x", "b": "y"})


def test_every_part_says_what_it_gives_and_quick_ones_are_quicker():
    for slow, quick in zip(parts(), parts(quick=True), strict=True):
        assert slow.gives == quick.gives
        assert quick.expected_s < slow.expected_s
    gives = [name for part in parts() for name in part.gives]
    assert gives == [
        "peak", "bandwidth", "overhead litert", "overhead tensorflow", "operators", "memory litert", "bandwidth disk",
        "overhead loopback", "bandwidth loopback", "overhead process_start", "overhead numba_import",
        "overhead tensorflow_import", "overhead threads", "overhead processes", "overhead dask",
    ]  # fmt: skip


@pytest.mark.parametrize(("quick", "repeats", "sample_s"), [(True, 5, 0.01), (False, 15, 0.1)])
def test_arithmetic_and_memory_are_sampled_together(monkeypatch, quick, repeats, sample_s):
    def sample(probes, **options):
        asked.append((probes, options))
        return ["number"], {"peak int8, 1 thread": PermissionError(13, "Permission denied", "/home/somebody/x")}

    asked = []
    monkeypatch.setattr(throughput, "arithmetic", lambda cores: ([f"peak {cores}"], {"peak bf16": "no instruction"}))
    monkeypatch.setattr(throughput, "bandwidth", lambda *_: (["triad"], {"bandwidth L3": "no room"}))
    monkeypatch.setattr(throughput, "sample", sample)
    numbers, left_out = module._rates(3, quick, quiet)
    assert asked == [(["peak 3", "triad"], {"repeats": repeats, "sample_s": sample_s, "tick": quiet})]
    assert numbers == ["number"]
    assert left_out == {"peak bf16": "no instruction", "bandwidth L3": "no room",
                        "peak int8, 1 thread": "PermissionError: Permission denied"}  # fmt: skip


@pytest.mark.parametrize(("quick", "repeats", "size_bytes"), [(True, 3, (2**26, 2**25)), (False, 9, (2**28, 2**28))])
def test_disk_and_loopback_are_asked_for_less_when_it_must_be_quick(monkeypatch, quick, repeats, size_bytes):
    asked = []
    monkeypatch.setattr(
        disk, "measure_disk", lambda folder, **o: asked.append(o) or ([1], {"bandwidth disk_read": "x"})
    )
    monkeypatch.setattr(loopback, "measure_loopback", lambda **o: asked.append(o) or [2])
    assert module._disk(quick, quiet) == ([1], {"bandwidth disk_read": "x"})
    assert module._loopback(quick, quiet) == ([2], {})
    assert tuple(o["size_bytes"] for o in asked) == size_bytes
    assert asked[1]["repeats"] == repeats
    assert {o["tick"] for o in asked} == {quiet}


def test_a_reason_is_what_the_system_says_and_not_too_long():
    assert reason(OSError("no text of the system's")) == "OSError: no text of the system's"
    assert reason(FileNotFoundError(2, "No such file or directory", "/x/y")) == (
        "FileNotFoundError: No such file or directory"
    )
    assert len(reason(ValueError("much " * 1000))) == 300


def test_a_name_of_a_letter_or_two_is_no_secret(monkeypatch):
    """It would be cut out of the middle of words."""
    monkeypatch.setattr(module.platform, "node", lambda: "pc")
    monkeypatch.setattr(module.Path, "home", lambda: module.Path("/home/me"))
    assert reason(ValueError("some epcot")) == "ValueError: some epcot"
    monkeypatch.setattr(module.platform, "node", lambda: "tower")
    assert reason(ValueError("on tower, some")) == "ValueError: on …, some"
    monkeypatch.setattr(module.Path, "home", lambda: module.Path("/home/anna"))
    assert reason(ValueError("for anna")) == "ValueError: for …"


@pytest.mark.parametrize("quick", [True, False])
def test_operators_and_memory_come_from_the_last_line_of_a_process(monkeypatch, tmp_path, quick):
    row = ["RELU", "float32", [8, 8, 1, 1], 64, [32], [32], 1e-6, 1e-8]
    memory = vars(Number("memory", "litert", 1, 5e6, "B", 0.0, 3, "planted"))
    said = {"operators": [row], "numbers": [memory], "left_out": {"GELU int8": "see /home/somebody/log"}}
    (tmp_path / "said").write_text("a word before\n" + json.dumps(said) + "\n")
    script = f"echo $* > {tmp_path}/asked; cat {tmp_path}/said"
    monkeypatch.setattr(module.sys, "executable", stand_in(tmp_path, script))
    ticks = []
    found, left_out = module._operators(quick, ticks.append)
    assert [(p.work.kind, p.time_s) for p in found[:1]] == [("RELU", 1e-6)]
    assert found[1:] == [Number(**memory)]
    assert left_out == {"GELU int8": "see …"}
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:2] == ["-m", "hwlimits.training.operator_rates"]
    assert ("--quick" in asked) == quick
    assert set(ticks) == {"LiteRT operators"}


@pytest.mark.parametrize("quick", [True, False])
def test_what_handing_out_tasks_costs_comes_from_a_process(monkeypatch, tmp_path, quick):
    number = vars(Number("overhead", "dask_task", 1, 1e-3, "s", 0.0, 3, "planted"))
    (tmp_path / "said").write_text(json.dumps({"numbers": [number], "left_out": {"overhead threads": "in /home/x"}}))
    script = f"echo $* > {tmp_path}/asked; cat {tmp_path}/said"
    monkeypatch.setattr(module.sys, "executable", stand_in(tmp_path, script))
    assert module._handing_out(quick, quiet) == ([Number(**number)], {"overhead threads": "in …"})
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["-m", "hwlimits.sweep.handing_out", *(["--quick"] if quick else [])]


def test_who_a_process_has_started_ends_with_it(monkeypatch, tmp_path):
    """A pool's processes would stay for ever."""
    monkeypatch.setattr(module, "OPERATORS_LIMIT_S", 1.0)
    script = f"sleep 600 & echo $! > {tmp_path}/started; wait"
    monkeypatch.setattr(module.sys, "executable", stand_in(tmp_path, script))
    with pytest.raises(TimeoutError):
        module._handing_out(True, quiet)
    pid = int((tmp_path / "started").read_text())
    until = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


def test_a_process_that_ends_without_a_word_says_its_status(monkeypatch, tmp_path):
    monkeypatch.setattr(module.sys, "executable", stand_in(tmp_path, "exit 3"))
    with pytest.raises(RuntimeError, match="^it ended with status 3$"):
        module._operators(True, quiet)
    with pytest.raises(RuntimeError, match="^status 3$"):
        module._process_s("pass")


@pytest.mark.parametrize(("quick", "starts", "imports"), [(True, 5, (1, 1)), (False, 20, (5, 3))])
def test_imports_are_timed_without_the_start_of_a_process(monkeypatch, quick, starts, imports):
    """The first is not counted, for it reads the disk: where there is time for another."""
    ran = []

    def process_s(program):
        ran.append(program)
        first = ran.count(program) == 1
        return {"pass": 0.25}.get(program, 2.25) + (10 if first and not (quick and program != "pass") else 0)

    monkeypatch.setattr(module, "_process_s", process_s)
    numbers, left_out = module._processes(quick, quiet)
    assert left_out == {}
    assert {n.of: (n.value, n.n) for n in numbers} == {
        "process_start": (0.25, starts), "numba_import": (2.0, imports[0]), "tensorflow_import": (2.0, imports[1])
    }  # fmt: skip
    assert {n.iqr for n in numbers} == {0.0}


def test_a_reason_names_neither_folder_nor_computer_nor_user(monkeypatch):
    monkeypatch.setattr(module.platform, "node", lambda: "anna-laptop")
    monkeypatch.setattr(module.Path, "home", lambda: module.Path("/home/anna"))
    for error in (
        RuntimeError("no such file: /home/anna/x/y.txt, on anna-laptop for anna"),
        RuntimeError(r"no such file: C:\Users\anna\x.txt"),
        RuntimeError("'~/secret/place' is\nmissing"),
    ):
        said = reason(error)
        assert not {"anna", "home", "secret", "Users", "\n"} & set(said.replace("/", " ").replace("\\", " ").split(" "))
        assert "anna" not in said
        assert said.startswith("RuntimeError: ")


def test_without_its_process_the_operators_say_why(monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'Traceback' >&2\necho 'ImportError: no LiteRT here' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(fake))
    numbers, left_out = run([parts(quick=True)[1]], progress=False)
    assert numbers == []
    assert left_out == dict.fromkeys(
        ("overhead litert", "overhead tensorflow"), "RuntimeError: ImportError: no LiteRT here"
    )


OPERATORS = next(i for i, part in enumerate(parts(quick=True)) if "operators" in part.gives)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'ImportError: no LiteRT here' >&2; exit 1", "RuntimeError: ImportError: no LiteRT here"),
        ("echo hello", "RuntimeError: the process that measures them gave no result"),
        ("exit 0", "RuntimeError: the process that measures them gave no result"),
        ("""echo '{"operators": [["RELU", 1]], "numbers": [], "left_out": {}}'""", "LatencyError: operator time "),
    ],
    ids=["fails", "says no JSON", "says nothing", "says nonsense"],
)
def test_operator_times_that_can_t_be_had_are_left_out(monkeypatch, tmp_path, script, why):
    monkeypatch.setattr(module.sys, "executable", stand_in(tmp_path, script))
    found, left_out = run([parts(quick=True)[OPERATORS]], progress=False)
    assert found == []
    assert set(left_out) == {"operators", "memory litert"}
    assert all(text.startswith(why) for text in left_out.values()), left_out


def test_operators_that_never_end_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "OPERATORS_LIMIT_S", 0.5)
    monkeypatch.setattr(module.sys, "executable", stand_in(tmp_path, "exec sleep 60"))
    begun = time.monotonic()
    _, left_out = run([parts(quick=True)[1]], progress=False)
    assert time.monotonic() - begun < 30
    why = "TimeoutError: the process that measures them had not ended after 0.5 s"
    assert left_out == dict.fromkeys(("overhead litert", "overhead tensorflow"), why)


def test_a_process_that_never_ends_is_left_out(monkeypatch, tmp_path):
    """The import of numba hangs; the others are timed."""
    monkeypatch.setattr(module, "PROCESS_LIMIT_S", 0.5)
    script = 'case "$2" in *numba) exec sleep 60;; esac'
    monkeypatch.setattr(module.sys, "executable", stand_in(tmp_path, script))
    numbers, left_out = module._processes(True, quiet)
    assert [n.of for n in numbers] == ["process_start", "tensorflow_import"]
    why = "TimeoutError: python -c 'import numba' had not ended after 0.5 s"
    assert left_out == {"overhead numba_import": why}


def test_an_import_that_fails_is_left_out_and_the_others_are_timed(monkeypatch):
    took = {"pass": 0.01, "import numba": 0.5}

    def process_s(program):
        if program not in took:
            raise RuntimeError("ModuleNotFoundError: No module named 'tensorflow'")
        return took[program]

    monkeypatch.setattr(module, "_process_s", process_s)
    numbers, left_out = module._processes(False, quiet)
    assert {n.of: n.value for n in numbers} == {"process_start": 0.01, "numba_import": pytest.approx(0.49)}
    assert list(left_out) == ["overhead tensorflow_import"]


def test_a_process_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        module._process_s("import no_such_module")
    start = time.perf_counter()
    assert 0 < module._process_s("pass") < time.perf_counter() - start


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Card:
    """A quick calibration of this computer."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWLIMITS_CACHE", str(folder))
        found = calibrate(quick=True, progress=False)
    assert list(folder.iterdir()) == [], "nothing is written"
    return found


def test_a_calibration_gives_every_number_or_its_reason(here):
    wanted = {("peak", p, t) for p in ("fp32", "fp64", "int8") for t in {1, processor.usable_cores()}}
    levels = [cache.level for cache in processor.caches()] + ["DRAM"]
    wanted |= {("bandwidth", level, t) for level in levels for t in {1, processor.usable_cores()}}
    wanted |= {("bandwidth", of, 1) for of in ("disk_write", "disk_read", "disk_read_cached", "loopback")}
    names = ["litert_operator", "litert_builtin_operator", "litert_invoke", "tensorflow_operator", "tensorflow_call"]
    names += ["tensorflow_eager_operator", "loopback", "process_start", "numba_import", "tensorflow_import"]
    names += [f"{way}_{of}" for way in ("threads", "processes", "dask") for of in ("start", "call", "task")]
    wanted |= {("overhead", name, 1) for name in names} | {("memory", "litert", 1)}
    found = {(n.quantity, n.of, n.threads) for n in here.numbers}
    assert found <= wanted
    for quantity, of, threads in wanted - found:
        assert any(name.startswith(f"{quantity} {of}") for name in here.left_out), (of, threads)
    assert len(found) >= len(wanted) - 3, here.left_out
    assert all(n.how.endswith(".") and len(n.how) > 20 for n in here.numbers)


def test_a_calibration_says_what_made_it(here, tmp_path):
    assert here.provenance["command"] == "hwlimits calibrate --quick"
    assert here.provenance["versions"]["numba"] != "not installed"
    assert here.machine["usable_cores"] == processor.usable_cores()
    assert here.same_computer()
    here.write(tmp_path / "card.json")
    assert Card.read(tmp_path / "card.json") == here
    assert str(tmp_path.parent) not in json.dumps(here.provenance | here.left_out)


def test_memory_is_slower_the_farther_it_is(here):
    if here.levels[0] != "L1":
        pytest.skip("the system does not tell its caches")
    assert here.bandwidth_bytes_per_s("L1") >= here.bandwidth_bytes_per_s("DRAM")
    assert here.ridge_point("fp32", "L1") <= here.ridge_point("fp32", "DRAM")


AGAINST_NUMPY = """
import json, os, time
import numpy as np
from hwlimits.kernels import peak
from hwlimits.machine import throughput

def best(call, amount):
    start = time.perf_counter()
    call()
    return amount / (time.perf_counter() - start)

n = 768
a, b, c = (np.ones((n, n), np.float32) for _ in range(3))
done = peak.run("fp32", 100_000)
x, y, z = throughput.aligned(4_000_000, 3)
((triad,), _) = throughput.bandwidth([], 1, 2**33)
triad.work[0](1)
moved = triad.work[0](1)
rates = {"sgemm": [], "peak": [], "triad": [], "copy": []}
for _ in range(25):
    rates["sgemm"].append(best(lambda: np.matmul(a, b, out=c), 2 * n**3))
    rates["peak"].append(best(lambda: peak.run("fp32", 1_000_000), 10 * done))
    rates["triad"].append(best(lambda: triad.work[0](1), moved))
    rates["copy"].append(best(lambda: np.copyto(z, x), 2 * x.nbytes))
print(json.dumps({name: max(values) for name, values in rates.items()}))
"""


def test_rates_agree_with_numpy_s_in_the_same_run():
    """No matrix product is faster than the peak; a triad moves bytes about as fast as a copy. Best of 25, by turns."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AGAINST_NUMPY], capture_output=True, text=True, check=True, env=environment
    )
    best = json.loads(done.stdout)
    assert best["sgemm"] / best["peak"] < 1.05
    assert best["sgemm"] / best["peak"] > 0.1  # a library may lack kernels for this processor's widest registers
    assert 0.4 < best["triad"] / best["copy"] < 3


def test_a_rate_of_all_cores_counts_what_each_of_them_did():
    """Whether they are faster together is the processor's business: two may be halves of one core."""
    probes, _ = arithmetic(3)
    one, all_three = (next(p for p in probes if p.of == "fp32" and len(p.work) == n) for n in (1, 3))
    alone = one.work[0](2)
    assert alone == 20_000 * peak.CHAINS * peak.INSTRUCTIONS["fp32"].operations
    assert together([lambda w=w: w(2) for w in all_three.work])[0] == 3 * alone


def test_an_interrupted_calibration_ends_its_processes(monkeypatch):
    """Ctrl-C while the operators are measured: the child is gone, and so is the calibration."""
    started = []
    popen = subprocess.Popen

    def remember(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(module.subprocess, "Popen", remember)

    def tick(_):
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        module._operators(True, tick)
    assert started
    assert started[0].poll() is not None
