"""Plans of data-parallel training: the all-reduce by levels carried out, rows by hand, the published rows checked."""

import re
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits import collectives, data, devices, scaling
from hwlimits.bandwidth import LinkModel
from hwlimits.counting import Cost
from hwlimits.devices import DeviceError
from hwlimits.parallel import ParallelError
from hwlimits.scaling import Cluster, Level, Torus, all_reduce_s, exposed_s, link_model, plan, published, reached

# ResNet-50 of Keras at 224 x 224: tests/test_zoo.py holds both against the published counts
RESNET_50 = Cost(macs=3_857_973_248, parameters=25_636_712)
H100S = Cluster.of_links("nvlink-4", "infiniband-ndr", per_node=8)
V5P = Torus.of_link("ici-v5p")
COUNTS = [1, 2, 4, 8, 64, 512, 4096]
SLOW, FAST = LinkModel(1e-5, 1e9), LinkModel(1e-6, 1e10)

# the all-reduce, level by level


def carried_out(arrays, inner, outer):
    """A ring's first half in each group, an all-reduce of each part across the groups, the ring's second half.

    Returns the arrays after it, and (steps, critical elements) of each level, counted on the messages.
    """
    devices_, n = arrays.shape
    now, counted = arrays.reshape(outer, inner, n).copy(), []
    ring = collectives.schedule("ring", inner, n).steps()
    cut = collectives.cuts(n, inner)

    def go(steps):
        for step in steps:
            carried = [(m, now[:, m.source, m.start : m.stop].copy()) for m in step]
            for m, values in carried:
                place = now[:, m.target, m.start : m.stop]
                place[:] = place + values if m.kind == "add" else values

    go(ring[: inner - 1])
    critical = sum(max(m.elements for m in step) for step in ring)
    counted.append((len(ring), critical))
    for member in range(inner):  # after p - 1 steps a member has the whole sum of the part after its own
        part = slice(cut[(member + 1) % inner], cut[(member + 1) % inner + 1])
        across = collectives.schedule("ring", outer, part.stop - part.start)
        now[:, member, part] = across.simulate(now[:, member, part])
        if member == inner - 1:  # it has part 0, the largest
            counted.append((across.cost().steps, across.cost().critical))
    go(ring[inner - 1 :])
    return now.reshape(devices_, n), counted


@pytest.mark.parametrize(("inner", "outer", "n"), [(4, 2, 32), (3, 3, 20), (2, 5, 31), (8, 4, 100)])
def test_level_by_level_is_an_all_reduce_and_costs_what_it_says(inner, outer, n):
    arrays = np.random.default_rng(n).integers(-9, 10, (inner * outer, n))
    after, counted = carried_out(arrays, inner, outer)
    np.testing.assert_array_equal(after, np.broadcast_to(arrays.sum(axis=0), arrays.shape))
    seconds = sum(
        steps * link.latency_s + critical * 4 / link.bytes_per_s
        for (steps, critical), link in zip(counted, (FAST, SLOW), strict=True)
    )
    assert all_reduce_s(n, [Level(inner, FAST), Level(outer, SLOW)]) == pytest.approx(seconds)


@given(sizes=st.lists(st.sampled_from([2, 4, 8, 16]), min_size=1, max_size=3), element_bytes=st.sampled_from([2, 4]))
@settings(max_examples=40, deadline=None)
def test_on_equal_links_the_levels_send_what_one_ring_does(sizes, element_bytes):
    """Without latency: 2 (p - 1) / p of the bytes in all, the lower bound, however p is cut into levels."""
    link, n = LinkModel(0.0, 1e9), 2**20
    bound = collectives.lower_bound(int(np.prod(sizes)), n) * element_bytes / 1e9
    assert all_reduce_s(n, [Level(size, link) for size in sizes], element_bytes) == pytest.approx(bound)


def test_the_outermost_level_of_a_cluster_takes_the_fastest():
    few = all_reduce_s(64, H100S.levels(4096))
    inner = collectives.cost("ring", 8, 64).time_s(H100S.inner)
    assert few == pytest.approx(inner + collectives.fastest(512, 8, H100S.outer)[1])
    assert few < inner + collectives.cost("ring", 512, 8).time_s(H100S.outer) / 10, "a ring pays 1,022 latencies"


# networks


def test_clusters():
    assert H100S.levels(5) == [Level(5, H100S.inner)]
    assert H100S.levels(24) == [Level(8, H100S.inner), Level(3, H100S.outer, ring=False)]
    assert H100S.inner.bytes_per_s == devices.link("nvlink-4").bytes_per_s
    assert H100S.outer.bytes_per_s == devices.link("infiniband-ndr").bytes_per_s
    shared = Cluster.of_links("nvlink-2", "infiniband-edr", per_node=4, links_per_node=1)
    assert shared.outer.bytes_per_s == devices.link("infiniband-edr").bytes_per_s / 4, "four devices share one"
    assert shared.outer.latency_s == link_model("infiniband-edr").latency_s


def test_a_torus_is_as_near_to_a_cube_as_can_be():
    sizes = {count: [level.size for level in V5P.levels(count)] for count in (1, 2, 8, 16, 64, 512, 1024, 4096)}
    assert sizes == {1: [1], 2: [2], 8: [2, 2, 2], 16: [4, 2, 2], 64: [4, 4, 4], 512: [8, 8, 8], 1024: [16, 8, 8],
                     4096: [16, 16, 16]}  # fmt: skip
    assert [level.size for level in Torus.of_link("ici-v3").levels(1024)] == [32, 32], "the full pod of v3"


def test_a_closed_torus_has_all_links_of_a_chip():
    link = devices.link("ici-v5p")
    assert {level.link.bytes_per_s for level in V5P.levels(64)} == {link.bytes_per_s}
    lane = link.number("lane_rate").value
    assert V5P.levels(2)[0].link.bytes_per_s == lane, "one link and no ring"
    assert V5P.levels(8)[0].link.bytes_per_s == 3 * lane
    assert V5P.levels(16)[0].link.bytes_per_s == 4 * lane
    flat, lane = Torus.of_link("ici-v5e"), devices.link("ici-v5e").number("lane_rate").value
    assert [flat.levels(count)[0].link.bytes_per_s / lane for count in (16, 128, 256)] == [2, 3, 4], "rings of 16 alone"


# a step


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(1, 30))
def test_what_shows_of_the_all_reduce_is_the_closed_form(backward_s, bucket_s, buckets):
    found = exposed_s(backward_s, bucket_s, buckets)
    assert found == pytest.approx(max(bucket_s, buckets * bucket_s - (1 - 1 / buckets) * backward_s), abs=1e-9)
    assert exposed_s(backward_s, bucket_s) == pytest.approx(bucket_s), "one bucket hides nothing"


def test_a_plan_by_hand():
    """64 H100s, 256 images each, at a fifth of the peak; gradients in fp32, all after the backward pass."""
    row = plan(RESNET_50, "h100-sxm", H100S, [64], batch=256, utilization=0.2)[0]
    peak = devices.device("h100-sxm").number("peaks.bf16").value
    compute = 3 * 2 * 3_857_973_248 * 256 / (0.2 * peak)
    n, part = 25_636_712, 25_636_712 // 8
    nvlink, ndr = devices.link("nvlink-4").bytes_per_s, devices.link("infiniband-ndr").bytes_per_s
    inside = 14 * 3.4e-6 + 14 / 8 * n * 4 / nvlink
    across = 6 * 9.6e-6 + 14 / 8 * part * 4 / ndr  # halving and doubling: 2 x 3 steps among 8 nodes
    assert row["compute_s"] == pytest.approx(compute)
    assert row["all_reduce_s"] == pytest.approx(inside + across, rel=1e-6)
    assert row["exposed_s"] == pytest.approx(row["all_reduce_s"])
    assert row["step_s"] == pytest.approx(compute + inside + across)
    assert row["efficiency"] == pytest.approx(compute / (compute + inside + across))
    assert row["speedup"] == pytest.approx(64 * row["efficiency"])
    assert row["examples_per_s"] == pytest.approx(64 * 256 / row["step_s"])


@pytest.mark.parametrize(("device", "network"), [("h100-sxm", H100S), ("tpu-v5p", V5P)])
def test_what_every_plan_keeps(device, network):
    weak = plan(RESNET_50, device, network, COUNTS, batch=128, utilization=0.3)
    strong = plan(RESNET_50, device, network, COUNTS, batch=8192, utilization=0.3, strong=True)
    hidden = plan(RESNET_50, device, network, COUNTS, batch=128, utilization=0.3, buckets=4)
    slow = plan(RESNET_50, device, network, COUNTS, batch=128, utilization=0.1)
    assert [row["devices"] for row in weak] == COUNTS
    assert weak[0]["efficiency"] == strong[0]["efficiency"] == 1
    assert {row["examples"] for row in weak} == {128}
    assert [row["examples"] for row in strong] == [8192 // n for n in COUNTS]
    for rows in (weak, strong, hidden):
        assert all(0 < row["efficiency"] <= 1 for row in rows)
        assert all(row["step_s"] == pytest.approx(row["compute_s"] + row["exposed_s"]) for row in rows)
    assert np.all(np.diff([row["efficiency"] for row in strong]) < 0), "less to compute, the same to send"
    for a, b, c in zip(weak[1:], hidden[1:], slow[1:], strict=True):
        assert a["efficiency"] < b["efficiency"], "four buckets of a large array hide most of it"
        assert a["efficiency"] < c["efficiency"], "slower arithmetic scales better"


def test_sixty_four_devices_of_a_batch_of_their_own_are_those_of_the_whole():
    """Weak scaling with 128 each and strong scaling of 64 x 128 are the same step."""
    weak = plan(RESNET_50, "h100-sxm", H100S, [64], batch=128, utilization=0.3)
    strong = plan(RESNET_50, "h100-sxm", H100S, [64], batch=64 * 128, utilization=0.3, strong=True)
    assert weak[0] == pytest.approx(strong[0])


def test_what_was_reached_gives_the_throughput_back():
    share = reached(RESNET_50, "h100-sxm", 5000.0)
    row = plan(RESNET_50, "h100-sxm", H100S, [1], batch=100, utilization=share)[0]
    assert row["examples_per_s"] == pytest.approx(5000)


# what was published


def test_published_rows_are_numbers_with_sources():
    rows = published()
    assert len(rows) >= 10
    for row in rows + data.papers("collective_latencies"):
        assert row["source"]
        assert isinstance(row["read"], date)
    for row in rows:
        assert isinstance(row["devices"], int)
        assert row["efficiency"] is None or 0 < row["efficiency"] < 1
        assert all(isinstance(row[k], int | float | None) for k in ("images_per_s", "minutes"))
        assert any(row[k] for k in ("efficiency", "images_per_s", "minutes")), row["name"]
    for row in data.papers("collective_latencies"):
        assert row["kind"] in devices.LINK_KINDS
        assert 1e-7 < row["latency_s"] < 1e-4


def test_times_to_train_do_not_scale_as_throughput_does():
    """MLPerf 3.0 on H100s: from 8 to 64 and to 3,584 devices, 5 and 74 times as fast: epochs and batches are in it."""
    minutes = {row["devices"]: row["minutes"] for row in published() if row["name"] == "MLPerf Training 3.0"}
    assert minutes[8] / minutes[64] == pytest.approx(5.05, abs=0.01)
    assert minutes[8] / minutes[3584] == pytest.approx(73.6, abs=0.1)


# errors


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: H100S.levels(12), "levels(count=12): give whole nodes of 8 devices"),
        (lambda: H100S.levels(0), "levels(count=0): must be a whole number, at least 1"),
        (lambda: V5P.levels(12), "levels(count=12): the grid is laid out for powers of two only"),
        (lambda: Cluster.of_links("nvlink-4", "infiniband-ndr", 0), "Cluster.of_links(per_node=0): must be a whole"),
        (lambda: Cluster.of_links("nvlink-4", "infiniband-ndr", 8, 0), "Cluster.of_links(links_per_node=0): must be"),
        (
            lambda: link_model("usb-2"),
            "usb-2: no latency is known of a usb link; known are nvlink, pcie, infiniband, ethernet, ici",
        ),
        (lambda: all_reduce_s(0, []), "all_reduce_s(elements=0): must be a whole number, at least 1"),
        (
            lambda: plan(RESNET_50, "h100-sxm", H100S, [1], batch=1, utilization=1.1),
            "plan(utilization=1.1): a share of the peak is above 0 and at most 1",
        ),
        (
            lambda: plan(RESNET_50, "h100-sxm", H100S, [64], batch=100, utilization=0.5, strong=True),
            "plan: 64 devices can't share a batch of 100 examples evenly",
        ),
        (lambda: plan(RESNET_50, "h100-sxm", H100S, [1], batch=0, utilization=0.5), "plan(batch=0): must be a whole"),
        (lambda: exposed_s(1, 1, buckets=0), "exposed_s(buckets=0): must be a whole number, at least 1"),
    ],
)
def test_errors_say_what_was_asked(call, text):
    with pytest.raises(ParallelError, match=re.escape(text)):
        call()


def test_no_device_and_no_precision_is_put_in_for_another():
    with pytest.raises(DeviceError, match="No device 'h1000'"):
        plan(RESNET_50, "h1000", H100S, [1], batch=1, utilization=0.5)
    with pytest.raises(DeviceError, match="tpu-v5p has no published peak for 'fp16'"):
        plan(RESNET_50, "tpu-v5p", V5P, [1], batch=1, utilization=0.5, precision="fp16")
    assert scaling.PASSES == 3
