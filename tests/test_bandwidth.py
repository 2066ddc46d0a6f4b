import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from hwlimits import devices
from hwlimits.bandwidth import (
    BandwidthError,
    LinkModel,
    Pipeline,
    Section,
    Stage,
    fit,
    pipelined_s,
)

# links


def test_a_message_s_time_by_hand():
    """10 Gbit/s and 20 us: a kilobyte takes 20 us and eight tenths, a gigabyte 0.8 s."""
    link = LinkModel(20e-6, 10e9 / 8)
    assert link.time_s(1000) == pytest.approx(20.8e-6)
    assert link.time_s(10**9) == pytest.approx(0.80002)
    np.testing.assert_allclose(link.time_s(np.array([0, 1000])), [20e-6, 20.8e-6])
    assert link.half_size_bytes == pytest.approx(25_000)
    assert link.effective_bytes_per_s(25_000) == pytest.approx(10e9 / 16), "half of the bandwidth"
    assert str(link) == "link: 20 µs + bytes / (1.25 GB/s), half of it at 25,000 B"


@pytest.mark.parametrize(("latency", "rate"), [(-1e-6, 1e9), (math.nan, 1e9), (1e-6, 0), (1e-6, math.inf), (1e-6, -5)])
def test_a_link_that_can_t_be(latency, rate):
    with pytest.raises(BandwidthError, match="must be a number"):
        LinkModel(latency, rate)


def test_links_of_the_registry():
    """One has a latency; the others have none, and that is not zero."""
    published = devices.link("ici-v5e")
    assert LinkModel.of_link(published) == LinkModel(published.latency_s, published.bytes_per_s, published.title)
    ethernet = devices.link("ethernet-1g")
    with pytest.raises(BandwidthError, match=r"no latency of ethernet-1g is published, and it is not zero: measure"):
        LinkModel.of_link(ethernet)
    assert LinkModel.of_link(ethernet, latency_s=5e-5).time_s(125_000_000) == pytest.approx(1.00005)
    assert LinkModel.of_link(published, latency_s=2e-6).latency_s == 2e-6, "one that was measured goes first"
    without = [link.name for link in devices.links() if "latency" not in link.numbers]
    assert without
    for name in without:
        with pytest.raises(BandwidthError):
            LinkModel.of_link(devices.link(name))


# the fit

SIZES = [4**k for k in range(14)]


def times(latency_s, rate, noise=0.0, seed=0, sizes=SIZES):
    exact = latency_s + np.asarray(sizes) / rate
    return exact * np.exp(np.random.default_rng(seed).normal(0, noise, len(sizes)))


@pytest.mark.parametrize(("latency", "rate"), [(2e-5, 5e9), (1e-6, 4.5e11), (5e-3, 1e6)])
def test_exact_times_give_the_link_back(latency, rate):
    found = fit(SIZES, times(latency, rate))
    assert found.link.latency_s == pytest.approx(latency, rel=1e-6)
    assert found.link.bytes_per_s == pytest.approx(rate, rel=1e-6)
    assert found.latency_interval_s == pytest.approx((latency, latency))
    assert found.outside == {}
    assert "every size within 25%" in str(found)


def test_the_fit_is_scipy_s_where_no_size_is_odd():
    """Weighted least squares with the times as standard deviations, to within what Huber's weights change."""
    measured = times(3e-5, 2e9, noise=0.05)
    (alpha, beta), _ = curve_fit(lambda m, a, b: a + b * m, SIZES, measured, sigma=measured, p0=(1e-5, 1e-9))
    found = fit(SIZES, measured)
    assert found.link.latency_s == pytest.approx(alpha, rel=0.02)
    assert found.link.bytes_per_s == pytest.approx(1 / beta, rel=0.02)


def test_small_messages_count():
    """Plain least squares does not see the latency beside the largest message; the relative one does."""
    measured = times(3e-5, 2e9, noise=0.1, seed=3)
    plain = np.polyfit(SIZES, measured, 1)[1]
    found = fit(SIZES, measured).link.latency_s
    assert abs(found / 3e-5 - 1) < 0.1 < abs(plain / 3e-5 - 1)


def test_one_size_far_off_does_not_move_the_fit_and_is_named():
    measured = times(3e-5, 2e9, noise=0.02)
    measured[9] *= 6
    found = fit(SIZES, measured)
    assert found.link.latency_s == pytest.approx(3e-5, rel=0.06)
    assert found.link.bytes_per_s == pytest.approx(2e9, rel=0.06)
    assert list(found.outside) == [SIZES[9]]
    assert "does not hold at 262,144 B (5.90 times the model)" in str(found)


def test_two_regimes_are_said():
    """Large messages that leave a cache move at a third of the rate: no two numbers explain both."""
    measured = np.where(np.asarray(SIZES) < 2**20, times(1e-5, 6e9), times(1e-5, 2e9))
    found = fit(SIZES, measured)
    assert found.outside
    low, high = found.bandwidth_interval
    assert high > 1.2 * low, "and the interval is wide"


def test_the_intervals_hold_what_they_should():
    """95 % intervals of 60 noisy sets: a bootstrap over 14 messages is somewhat too narrow, not by much."""
    held = np.zeros(2)
    for seed in range(60):
        found = fit(SIZES, times(2e-5, 3e9, noise=0.1, seed=seed), draws=300)
        low, high = found.latency_interval_s
        slow, fast = found.bandwidth_interval
        held += [low <= 2e-5 <= high, slow <= 3e9 <= fast]
    assert (held >= 0.8 * 60).all()


def test_a_size_measured_several_times_has_one_ratio():
    found = fit([*SIZES, 1, 1], [*times(2e-5, 1e9), 2e-5, 4e-5])
    assert list(found.ratios) == SIZES
    assert found.ratios[1] == pytest.approx(1, abs=0.02), "the median of three"


@pytest.mark.parametrize(
    ("sizes", "seconds", "text"),
    [
        ([1, 2], [1e-6, 1e-6], "give one time for each of at least 3 different sizes"),
        ([1, 1, 1, 2], [1e-6] * 4, "at least 3 different sizes"),
        ([1, 2, 3], [1e-6, 1e-6], "3 sizes and 2 times"),
        ([1, 2, 3], [1e-6, 0, 1e-6], "every time must be above 0 s"),
        ([1, 2, 3], [1e-6, math.nan, 1e-6], "every time must be above 0 s"),
        ([1, -2, 3], [1e-6, 1e-6, 1e-6], "no size below 0 bytes"),
        ([1, 100, 10_000], [3e-5, 2e-5, 1e-5], "measure messages both much smaller and much larger"),
        ([10**6, 2 * 10**6, 4 * 10**6], [1e-3, 2.5e-3, 6e-3], "give a latency of -"),
    ],
)
def test_what_can_t_be_fitted(sizes, seconds, text):
    with pytest.raises(BandwidthError, match=text):
        fit(sizes, seconds)


# pipelines: an independent reference is a simulation of every item


def simulated_s(sections, items):
    """When the last item is done: sections with their workers, buffers without end, a processor for each."""
    arrival = [0.0] * items
    for seconds, workers in sections:
        free = [0.0] * workers
        for i in range(items):
            worker = min(range(workers), key=free.__getitem__)
            free[worker] = arrival[i] = max(arrival[i], free[worker]) + seconds
        arrival.sort()
    return arrival[-1]


def on_cores_s(stages, cores, items):
    """The same on so many cores: a greedy schedule, the item that is farthest going first, no section twice at once."""
    now, running, at, busy = 0.0, [], [0] * items, set()
    ready = list(range(items))
    while ready or running:
        for item in sorted(ready, key=lambda i: (-at[i], i)):
            if len(running) < cores and at[item] not in busy:
                ready.remove(item)
                busy.add(at[item])
                running.append((now + stages[at[item]], item))
        now, item = min(running)
        running.remove((now, item))
        busy.remove(at[item])
        at[item] += 1
        if at[item] < len(stages):
            ready.append(item)
    return now


def test_no_overlap_is_the_sum_and_full_overlap_the_slowest():
    stages = [Stage("read", 1.0), Stage("decode", 3.0), Stage("train", 2.0)]
    alone = Pipeline([Section(stages)], cores=4)
    assert alone.epoch_s(100) == pytest.approx(simulated_s([(6.0, 1)], 100)) == 600
    apart = Pipeline([Section([s]) for s in stages], cores=4)
    assert (apart.item_s, apart.bound, apart.items_per_s) == (3.0, "decode", 1 / 3)
    assert apart.epoch_s(100) == pytest.approx(simulated_s([(1, 1), (3, 1), (2, 1)], 100)) == 6 + 99 * 3
    assert apart.starved == pytest.approx(1 / 3)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_against_the_simulation(workers):
    """In the long run; the start differs by less than one item's way."""
    stages = [Stage("read", 0.5), Stage("decode", 3.0), Stage("train", 1.2)]
    found = Pipeline([Section([stages[0]]), Section([stages[1]], workers), Section([stages[2]])], cores=16)
    simulated = simulated_s([(0.5, 1), (3.0, workers), (1.2, 1)], 3000)
    assert found.epoch_s(3000) == pytest.approx(simulated, rel=0.002)
    assert found.bound == ("decode" if workers < 3 else "train")


@pytest.mark.parametrize("seconds", [(1.0, 3.0, 2.0), (1.0, 1.0, 1.0), (2.0, 2.5, 0.5), (0.1, 5.0, 4.0)])
@pytest.mark.parametrize("cores", [1, 2, 3])
def test_cores_bound_as_a_schedule_on_them_does(seconds, cores):
    """No schedule beats the limit, and a greedy one comes within a quarter of it."""
    found = Pipeline([Section([Stage(str(i), s)]) for i, s in enumerate(seconds)], cores)
    reached = on_cores_s(seconds, cores, 300) / 300
    assert found.item_s <= reached * 1.0001
    assert reached < 1.25 * found.item_s
    assert cores > 1 or found.item_s == sum(seconds)


@pytest.mark.parametrize("batch", [1, 4, 10])
@pytest.mark.parametrize("seconds", [(3.0, 2.0), (2.0, 3.0), (1.0, 1.0)])
def test_an_epoch_of_batches_against_the_simulation(batch, seconds):
    """Two sections that hand over batches are two that hand over single items, as much longer each."""
    found = Pipeline([Section([Stage("make", seconds[0])]), Section([Stage("train", seconds[1])])], cores=2)
    simulated = simulated_s([(batch * s, 1) for s in seconds], 40 // batch)
    assert found.epoch_s(40, batch) == pytest.approx(simulated)


def test_who_waits_needs_no_core():
    waits = Stage("accelerator", 3.0, cpu_s=0.0)
    found = Pipeline([Section([Stage("decode", 2.0)]), Section([waits])], cores=1)
    assert (found.item_s, found.bound) == (3.0, "accelerator")
    works = Pipeline([Section([Stage("decode", 2.0)]), Section([Stage("train", 3.0)])], cores=1)
    assert (works.item_s, works.bound) == (5.0, "1 core")
    several = Pipeline([Section([Stage("decode", 2.0)]), Section([Stage("train", 3.0, cpu_s=6.0)])], cores=2)
    assert (several.item_s, several.bound) == (4.0, "2 cores"), "a stage that uses two threads takes both"


def test_a_cache_takes_the_place_of_what_comes_before():
    read, decode, train = Stage("read", 1.0), Stage("decode", 3.0), Stage("train", 2.0)
    first = Pipeline([Section([read]), Section([decode], 2), Section([train])], cores=8)
    later = first.cached("decode")
    assert (first.item_s, later.item_s, later.bound) == (2.0, 2.0, "cache + train")
    assert [s.name for s in later.stages] == ["cache", "train"]
    alone = Pipeline([Section([read, decode, train])], cores=8)
    assert alone.cached("decode", Stage("from memory", 0.25)).item_s == 2.25
    assert alone.cached("read").item_s == 5.0
    with pytest.raises(BandwidthError, match=r"cached\(after='train'\): the stages before the last are read, decode"):
        alone.cached("train")


def test_a_batch_shares_the_fixed_cost():
    for batch in (1, 8, 128):
        assert Stage.of_batch("train", 0.064, 0.001, batch).item_s * batch == pytest.approx(0.064 + 0.001 * batch)


def test_pieces_against_the_simulation():
    """Two sections, the link and the processor; each piece pays the latency."""
    link = LinkModel(0.01, 1e6)
    for compute_s in (0.1, 1.0, 7.0):
        for pieces in (1, 2, 5, 40):
            stages = [(0.01 + 1e6 / pieces / 1e6, 1), (compute_s / pieces, 1)]
            assert pipelined_s(compute_s, link, 1e6, pieces) == pytest.approx(simulated_s(stages, pieces))
    assert pipelined_s(1.0, link, 1e6) == pytest.approx(2.01)
    best = min(range(1, 200), key=lambda k: pipelined_s(1.0, link, 1e6, k))
    assert 5 < best < 20, "too many pieces pay too many latencies"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Stage("decode", -1.0), r"Stage 'decode'\(item_s=-1.0\): must be a number of at least 0"),
        (lambda: Stage("decode", 1.0, cpu_s=math.nan), "cpu_s=nan"),
        (lambda: Section([]), "give at least one stage"),
        (lambda: Section([Stage("a", 1.0)], workers=0), r"Section\(workers=0\): must be a whole number, at least 1"),
        (lambda: Pipeline([], 1), "give at least one stage"),
        (lambda: Pipeline([Section([Stage("a", 1.0)]), Section([Stage("a", 2.0)])], 1), "each a name of its own"),
        (lambda: Pipeline([Section([Stage("a", 1.0)])], cores=0.5), r"Pipeline\(cores=0.5\): must be a whole number"),
        (lambda: pipelined_s(1.0, LinkModel(0, 1), 1, pieces=0), r"pipelined_s\(pieces=0\)"),
        (lambda: pipelined_s(-1.0, LinkModel(0, 1), 1), r"pipelined_s\(compute_s=-1.0\)"),
        (lambda: Stage.of_batch("a", 1.0, 1.0, 0), r"of_batch\(batch=0\)"),
        (lambda: Pipeline([Section([Stage("a", 1.0)])], 1).epoch_s(0), r"epoch_s\(items=0\)"),
        (lambda: Pipeline([Section([Stage("a", 1.0)])], 1).epoch_s(3, batch=4), r"epoch_s\(items=3\): .* at least 4"),
    ],
)
def test_what_can_t_be_a_pipeline(make, text):
    with pytest.raises(BandwidthError, match=text):
        make()


def test_rows_say_what_bounds():
    rows = Pipeline([Section([Stage("a", 1.0)]), Section([Stage("b", 2.0)])], cores=2).rows()
    assert [(r["what"], r["item_s"], r["bounds"]) for r in rows] == [
        ("a", 1.0, False),
        ("b", 2.0, True),
        ("2 cores", 1.5, False),
    ]
