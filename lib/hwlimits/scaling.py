"""A paper plan: how long a step of data-parallel training takes on n devices of the registry, and what it is worth.

A step is the arithmetic of each device's examples and the all-reduce of the gradients, as far as it does not
hide behind the backward pass. Devices come from `hwlimits.devices`, links too; what one step of a collective costs
beside its bytes is published in no data sheet, and comes from data/papers.yaml. What share of the peak a network
reaches in training no data sheet says either: `utilization` is asked for, and `reached` computes it from a throughput.

>>> h100s = Cluster.of_links("nvlink-4", "infiniband-ndr", per_node=8)
>>> [level.size for level in h100s.levels(64)], [level.size for level in Torus.of_link("ici-v5p").levels(4096)]
([8, 8], [16, 16, 16])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Protocol

from hwlimits import collectives, data, devices
from hwlimits.bandwidth import LinkModel
from hwlimits.counting import Cost
from hwlimits.parallel import ParallelError, efficiency, speedup

PASSES = 3  # forward passes that a training step is worth: the backward pass takes about two (Kaplan et al. 2020)


# --- networks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """Groups of `size` members, each with a link of its own. A member is a device, or a group of the level below.

    ring   True: the all-reduce is a ring's; False: whichever is the fastest, where a link reaches all others
    """

    size: int
    link: LinkModel
    ring: bool = True


class Network(Protocol):
    """What joins n devices: levels, the innermost first."""

    def levels(self, count: int) -> list[Level]: ...


@dataclass(frozen=True)
class Cluster:
    """Nodes of `per_node` devices, joined by `inner`; between nodes each device has a link `outer` of its own."""

    inner: LinkModel
    outer: LinkModel
    per_node: int

    @classmethod
    def of_links(cls, inner: str, outer: str, per_node: int, links_per_node: int | None = None) -> Cluster:
        """Links of the registry by name, with the latencies of data/papers.yaml.

        links_per_node   of the outer ones, whose bandwidth the node's devices share; None: one for each device

        >>> Cluster.of_links("nvlink-2", "infiniband-edr", per_node=4, links_per_node=2).outer.bytes_per_s / 1e9
        6.25
        """
        links = per_node if links_per_node is None else links_per_node
        per_node, links = _whole("Cluster.of_links", per_node=per_node, links_per_node=links)
        one = link_model(outer)
        return cls(link_model(inner), replace(one, bytes_per_s=one.bytes_per_s * links / per_node), per_node)

    def levels(self, count: int) -> list[Level]:
        """Raises ParallelError for more devices than a node has that do not fill whole nodes."""
        (count,) = _whole("levels", count=count)
        if count <= self.per_node:
            return [Level(count, self.inner)]
        if count % self.per_node:
            raise ParallelError(f"levels(count={count}): give whole nodes of {self.per_node} devices")
        return [Level(self.per_node, self.inner), Level(count // self.per_node, self.outer, ring=False)]


@dataclass(frozen=True)
class Torus:
    """Devices on a grid that closes to a ring along each axis, such as the chips of a TPU pod.

    lane        one of a device's links, in one direction; two belong to each axis
    closes_at   length from which on an axis is a ring. On a shorter one the ring runs up and down a line, over one
                link each way, and has half of the bandwidth

    The axes work at the same time, each on a part of the array (Ying et al. 2018).
    """

    lane: LinkModel
    axes: int
    closes_at: int

    @classmethod
    def of_link(cls, name: str) -> Torus:
        """The interconnect of a chip of the registry: as many axes as half of its lanes.

        Rings close on multiples of 4 where there are three axes, and on 16 where there are two ("How to Scale Your
        Model", chapter on TPUs).
        """
        link = devices.link(name)
        lane = LinkModel(_latency_s(link), link.number("lane_rate").value, link.title)
        axes = int(link.number("lanes").value) // 2
        return cls(lane, axes, closes_at=4 if axes == 3 else 16)

    def levels(self, count: int) -> list[Level]:
        """Raises ParallelError for a count that is no power of two: the grid is then not known."""
        (count,) = _whole("levels", count=count)
        if count & (count - 1):
            raise ParallelError(f"levels(count={count}): the grid is laid out for powers of two only")
        sizes = [1] * self.axes
        for _ in range(count.bit_length() - 1):
            sizes[sizes.index(min(sizes))] *= 2  # as near to a cube as can be
        together = sum(self.lane.bytes_per_s * (2 if size >= self.closes_at else 1) for size in sizes if size > 1)
        link = LinkModel(self.lane.latency_s, together, self.lane.name) if together else self.lane
        return [Level(size, link) for size in sizes if size > 1] or [Level(1, link)]


def link_model(name: str) -> LinkModel:
    """A link of the registry with the latency of a collective's step over its kind, from data/papers.yaml.

    Raises DeviceError for an unknown link, and ParallelError for a kind whose latency nobody published.

    >>> link_model("nvlink-4").latency_s
    3.4e-06
    """
    link = devices.link(name)
    return LinkModel.of_link(link, _latency_s(link))


def _latency_s(link: devices.Link) -> float:
    known = {row["kind"]: row["latency_s"] for row in data.papers("collective_latencies")}
    if link.kind not in known:
        raise ParallelError(f"{link.name}: no latency is known of a {link.kind} link; known are {', '.join(known)}")
    return known[link.kind]


def all_reduce_s(elements: int, levels: Sequence[Level], element_bytes: int = 4) -> float:
    """Seconds of an all-reduce level by level: sums spread over each group, all-reduced across groups, and collected.

    A ring's first half leaves each member with the sum of one part, which is all that goes to the next level; its
    second half collects. So level i all-reduces a part as small as the groups below are large.

    >>> link = LinkModel(latency_s=0.0, bytes_per_s=1e9)
    >>> one, two = [Level(16, link)], [Level(4, link), Level(4, link)]
    >>> round(all_reduce_s(2**20, one) * 1e3, 3), round(all_reduce_s(2**20, two) * 1e3, 3)  # 2 x 15/16 of the bytes
    (7.864, 7.864)
    """
    (elements,) = _whole("all_reduce_s", elements=elements)
    total_s = 0.0
    for level in levels:
        if level.ring:
            total_s += collectives.cost("ring", level.size, elements).time_s(level.link, element_bytes)
        else:
            total_s += collectives.fastest(level.size, elements, level.link, element_bytes)[1]
        elements = math.ceil(elements / level.size)
    return total_s


# --- plans -------------------------------------------------------------------------------------


def exposed_s(backward_s: float, bucket_s: float, buckets: int = 1) -> float:
    """Seconds that a step ends after its arithmetic, if gradients are sent in buckets while others are computed.

    backward_s   of the backward pass; the buckets' gradients are ready after equal parts of it
    bucket_s     of the all-reduce of one bucket; they go one after the other (Li et al. 2020, "PyTorch Distributed")

    The last bucket can't hide: max(bucket_s, buckets bucket_s - (1 - 1 / buckets) backward_s).

    >>> exposed_s(backward_s=10.0, bucket_s=8.0), exposed_s(10.0, 1.0, buckets=8), exposed_s(10.0, 2.0, buckets=8)
    (8.0, 1.0, 7.25)
    """
    (buckets,) = _whole("exposed_s", buckets=buckets)
    sent_s = 0.0
    for i in range(1, buckets + 1):
        sent_s = max(sent_s, backward_s * i / buckets) + bucket_s
    return sent_s - backward_s


def plan(
    example: Cost,
    device: str,
    network: Network,
    counts: Iterable[int],
    *,
    batch: int,
    utilization: float,
    precision: str = "bf16",
    strong: bool = False,
    buckets: int = 1,
    element_bytes: int = 4,
) -> list[dict[str, Any]]:
    """Rows of a plan, one for each number of devices: what a step takes, and its speed-up and efficiency.

    example       forward pass of one example: its FLOPs and its parameters (`hwlimits.training.cost`)
    device        name in the registry, whose dense peak at `precision` is taken
    batch         examples on each device; or, `strong`, of the whole step, whatever the number of devices
    utilization   share of the peak that the arithmetic reaches, the same in all rows: with few examples on a device it
                  is less, and the plan of a strong scaling too good
    buckets       of gradients, each sent as soon as it is ready; 1 sends all after the backward pass
    element_bytes   of a gradient as it is sent

    A row: devices, examples (on a device), compute_s, all_reduce_s, exposed_s, step_s, examples_per_s, speedup,
    efficiency. The speed-up is that of examples per second over those of one device. Not in it: the input pipeline,
    the optimiser's own time, devices that wait for the slowest, flows that share a switch.

    Raises ParallelError for a utilization that is not a share, and for a batch that the devices don't divide.

    >>> network = Cluster.of_links("nvlink-4", "infiniband-ndr", per_node=8)
    >>> rows = plan(Cost(macs=10**9, parameters=10**7), "h100-sxm", network, [1, 8], batch=64, utilization=0.3)
    >>> [(row["devices"], round(row["efficiency"], 3)) for row in rows]
    [(1, 1.0), (8, 0.864)]
    """
    (batch,) = _whole("plan", batch=batch)
    if not 0 < utilization <= 1:
        raise ParallelError(f"plan(utilization={utilization}): a share of the peak is above 0 and at most 1")
    rate = devices.device(device).peak_flops_per_s(precision) * utilization
    alone_s = PASSES * example.flops * batch / rate  # of `batch` examples on one device
    rows = []
    for count in counts:
        (count,) = _whole("plan", devices=count)
        if strong and batch % count:
            raise ParallelError(f"plan: {count} devices can't share a batch of {batch} examples evenly")
        examples = batch // count if strong else batch
        compute_s = alone_s / count if strong else alone_s
        levels, piece = network.levels(count), math.ceil(example.parameters / buckets)
        bucket_s = all_reduce_s(piece, levels, element_bytes) if count > 1 else 0.0
        waits_s = exposed_s(compute_s * (1 - 1 / PASSES), bucket_s, buckets) if count > 1 else 0.0
        step_s = compute_s + waits_s
        serial_s = alone_s if strong else alone_s * count  # one device, for as many examples
        rows.append({
            "devices": count, "examples": examples, "compute_s": compute_s, "all_reduce_s": buckets * bucket_s,
            "exposed_s": waits_s, "step_s": step_s, "examples_per_s": examples * count / step_s,
            "speedup": speedup(serial_s, step_s), "efficiency": efficiency(serial_s, step_s, count),
        })  # fmt: skip
    return rows


def reached(example: Cost, device: str, examples_per_s: float, precision: str = "bf16") -> float:
    """The share of a device's dense peak that training so many examples a second on it is.

    >>> round(reached(Cost(macs=3_857_973_248), "tpu-v3", 1.05e6 / 1024), 3)  # Ying et al. 2018
    0.193
    """
    return PASSES * example.flops * examples_per_s / devices.device(device).peak_flops_per_s(precision)


def published() -> list[dict[str, Any]]:
    """What others measured, with its sources: the rows `data_parallel_scaling` of data/papers.yaml.

    >>> [row["efficiency"] for row in published() if row["name"] == "Mikami et al. 2018"]
    [0.9162]
    """
    return data.papers("data_parallel_scaling")


def _whole(function: str, **given) -> tuple[int, ...]:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ParallelError(f"{function}({name}={value!r}): must be a whole number, at least 1")
    return tuple(int(value) for value in given.values())
