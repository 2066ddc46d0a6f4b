"""Ways of reading: all read the same, cold is cold or says why, and the prediction is the sum of its steps."""

import mmap
import zlib

import numpy as np
import pytest

from hwlimits.machine import reading


@pytest.fixture
def found(tmp_path):
    rows = np.random.default_rng(0).integers(0, 4, (500, 104), np.uint8)  # 104: a multiple of 8; four values compress
    return reading.write(tmp_path, rows)


def test_both_files_hold_the_rows(found):
    assert np.array_equal(np.fromfile(found.raw, np.uint8).reshape(found.array.shape), found.array)
    assert zlib.decompress(found.deflated.read_bytes()) == found.array.tobytes()
    assert 2 < found.deflated_ratio < 4.1  # two bits of entropy in eight


@pytest.mark.parametrize("way", reading.WAYS)
def test_every_way_touches_every_byte(found, way, monkeypatch):
    sums = []
    monkeypatch.setattr(reading, "_sum", lambda array, plain=reading._sum: sums.append(plain(array)))
    result = reading.read(found, way)
    assert sums == [int(found.array.view(np.uint64).sum(dtype=np.uint64))]
    assert result.bytes == found.array.nbytes
    assert result.seconds > 0
    assert not result.cold


def test_rows_read_the_rows_asked_for(found, monkeypatch):
    seen = []
    monkeypatch.setattr(reading, "_sum", lambda array: seen.append(np.array(array)))
    order = np.random.default_rng(1).permutation(500)[:40]
    result = reading.read_rows(found, order)
    assert np.array_equal(np.array(seen), found.array[order])
    assert result.bytes == 40 * 104


def test_a_tail_that_is_no_multiple_of_eight_is_summed():
    assert (
        reading._sum(np.arange(11, dtype=np.uint8)) == int(np.arange(8, dtype=np.uint8).view(np.uint64)[0]) + 8 + 9 + 10
    )


def test_cold_is_not_claimed_where_the_system_keeps_the_file(found, monkeypatch):
    monkeypatch.setattr(reading, "forget", lambda descriptor, blocks: "the file stayed in memory")
    assert reading.read(found, "raw", cold=True).cold is False
    assert reading.why_not_forgotten(found.raw) == "the file stayed in memory"
    monkeypatch.setattr(reading, "forget", lambda descriptor, blocks: "")
    assert reading.read(found, "raw", cold=True).cold is True


@pytest.mark.parametrize("cold", [True, False])
def test_the_prediction_is_the_sum_of_the_steps(found, cold):
    rates = {"source_bytes_per_s": 1e6, "memory_bytes_per_s": 1e7, "inflate_bytes_per_s": 1e5, "new_bytes_per_s": 2e6}
    data, file = found.array.nbytes, found.deflated.stat().st_size
    by_hand = {
        "in memory": data / 1e7,
        "raw": data / 1e6 + data / 2e6 + data / 1e7,
        "mapped": cold * data / 1e6 + data / 1e7,
        "deflated": file / 1e6 + file / 2e6 + data / 2e6 + data / 1e5 + data / 1e7,
    }
    assert {way: reading.predicted_s(found, way, cold=cold, **rates) for way in reading.WAYS} == pytest.approx(by_hand)


def test_new_memory_is_asked_of_the_system_each_time():
    """Counted and not timed: memory used before costs no page fault, new memory one for each page."""
    resource = pytest.importorskip("resource", reason="page faults are counted on Linux and macOS alone")

    def faults(call):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    size_bytes = 2**25
    written = np.ones(size_bytes, np.uint8)

    def once():
        with mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as new:
            new.write(written)

    new_pages = faults(once)  # as many as there are pages, or large pages where the system gives those
    assert faults(lambda: written.fill(2)) < 0.1 * new_pages
    assert faults(lambda: reading.new_memory_rate(size_bytes)) >= 0.9 * 5 * new_pages


def test_the_rate_of_new_memory_is_that_of_the_middle_time(monkeypatch):
    clock = iter([0, 3.0, 10, 11.0, 20, 22.0, 30, 39.0, 40, 41.5])
    monkeypatch.setattr(reading.time, "perf_counter", lambda: next(clock))
    assert reading.new_memory_rate(4096) == 4096 / 2.0


def test_inflating_takes_time(found):
    assert 1e6 < reading.inflate_rate(found.array) < 1e11


def test_a_wrong_way_is_refused(found):
    with pytest.raises(ValueError, match="choose from raw, mapped, deflated, in memory"):
        reading.read(found, "tape")
    with pytest.raises(ValueError, match="what is in memory is never cold"):
        reading.read(found, "in memory", cold=True)
