"""The model of the machine, against a machine that is made up and so known."""

import numpy as np
import pytest

from hwlimits.machine.latency import (
    NOISE,
    Family,
    Latency,
    LatencyError,
    Point,
    Work,
    coordinates,
    point_of,
    record_of,
    reuse_distances,
)

INVOKE_S, OPERATOR_S = 5e-7, 5e-8
CACHE_BYTES = 4e6


def rate_bytes_per_s(size):
    """A machine with one cache: 40 GB/s within it, 10 GB/s far beyond, something between where it is just too small."""
    return 1e10 + 3e10 / (1 + (size / CACHE_BYTES) ** 2)


def dense(inputs, outputs, rows=1, form="float32"):
    size = 4 * inputs * outputs
    reads = (("x", 4 * rows * inputs), ("w", size))
    return Work("d", "FULLY_CONNECTED", form, (rows, inputs, outputs, 1.0, 1.0), rows * inputs * outputs, reads,
                (("y", 4 * rows * outputs),))  # fmt: skip


def true_s(work):
    """Arithmetic at 50 GMAC/s, less where few outputs are computed; or the bytes."""
    efficiency = work.shape[2] / (work.shape[2] + 8)
    return max(work.amount / (5e10 * efficiency), work.bytes / rate_bytes_per_s(work.bytes))


def points(works, noise=0.0, seed=0):
    random = np.random.default_rng(seed)
    return tuple(Point(w, INVOKE_S + true_s(w) * float(np.exp(noise * random.standard_normal()))) for w in works)


GRID = [dense(k, n, m) for k in (64, 256, 512, 1024, 2048, 4096) for n in (64, 256, 1024, 4096) for m in (1, 8, 64)]
MACHINE = Latency(points(GRID), INVOKE_S, OPERATOR_S)


def test_a_measured_operator_is_predicted_as_measured():
    """Within two of the deviations that a single time is believed to have."""
    for work in GRID[::5]:
        assert MACHINE.estimate(work).hot_s == pytest.approx(true_s(work) + OPERATOR_S, rel=2 * NOISE)


@pytest.mark.parametrize("shape", [(96, 80, 1), (700, 500, 1), (1500, 300, 16), (3000, 2000, 32), (128, 128, 50)])
def test_operators_between_the_measured_ones(shape):
    work = dense(*shape)
    assert MACHINE.estimate(work).time_s == pytest.approx(true_s(work), rel=0.3)


def test_noise_in_the_points_is_smoothed_and_told():
    quiet, loud = (Family(points(GRID, noise), INVOKE_S) for noise in (0.0, 0.3))
    assert loud.error > 1.5 * quiet.error


def test_left_out_errors_are_those_of_really_leaving_out():
    """The closed form against the family fitted without the point, where mean and rate are kept as they were."""
    family = Family(points(GRID, 0.1), INVOKE_S)
    for i in (0, 17, 40):
        rest = [p for j, p in enumerate(family.points) if j != i]
        other = object.__new__(Family)
        other.__dict__ |= {"overhead_s": family.overhead_s, "rate": family.rate, "mean": family.mean, "error": 0.0}
        from hwlimits.machine.latency import _covariance

        other._at = np.array([coordinates(p.work) for p in rest])
        other._inverse = np.linalg.inv(_covariance(other._at, other._at) + NOISE**2 * np.eye(len(rest)))
        factors = np.log([p.time_s / family._plain_s(p.work) for p in rest]) - family.mean
        other._weights = other._inverse @ factors
        missed = np.log(family.points[i].time_s / other.estimate(family.points[i].work)[0])
        assert family.left_out_errors[i] == pytest.approx(missed, rel=1e-6, abs=1e-9)


def test_far_from_all_measured_the_error_is_the_familys_spread():
    near, far = MACHINE.estimate(GRID[0]), MACHINE.estimate(dense(10**6, 10**6, 10**6))
    assert far.error > near.error
    assert far.error == pytest.approx(0.4, rel=0.05)


def test_cold_weights_cost_the_difference_of_the_two_rates():
    work = dense(700, 300)  # less than a megabyte: hot, it comes from the cache
    hot, cold = MACHINE.estimate(work), MACHINE.estimate(work, {"w": 1e9})
    weights = dict(work.reads)["w"]
    assert cold.hot_s == hot.hot_s
    assert cold.cold_s == pytest.approx(weights * (1 / 1e10 - 1 / 4e10), rel=0.15)
    assert MACHINE.estimate(work, {"w": 1000.0}).cold_s == 0


def test_the_curve_never_rises():
    sizes, rates = MACHINE.curve
    assert (np.diff(sizes) >= 0).all()
    assert (np.diff(rates) <= 0).all()
    assert rates[-1] == pytest.approx(1e10, rel=0.05)


@pytest.mark.parametrize(
    ("work", "bound"), [(dense(64, 8), "overhead"), (dense(4096, 4096), "memory"), (dense(512, 1024, 64), "compute")]
)
def test_bounds(work, bound):
    slow = Latency(MACHINE.points, INVOKE_S, 1e-7)
    assert slow.estimate(work).bound == bound


def test_a_kind_that_is_not_measured_takes_one_alike_or_says_that_it_is_a_guess():
    shape = (4096.0, 64.0, 1.0, 1.0)
    relu = [Work("r", "RELU", "float32", (n, 64.0, 1.0, 1.0), 8 * n) for n in (64, 1024, 4096)]
    join = [Work("c", "CONCATENATION", "float32", (n, 64.0, 1.0, 1.0), 8 * n) for n in (64, 1024, 4096)]
    both = tuple(Point(w, INVOKE_S + w.amount / (2e10 if w.kind == "RELU" else 1e9)) for w in relu + join)
    machine = Latency(MACHINE.points + both, INVOKE_S, OPERATOR_S)
    alike = machine.estimate(Work("a", "ABS", "float32", shape, 8 * 4096))
    guess = machine.estimate(Work("b", "BITCAST", "float32", shape, 8 * 4096))
    assert alike.known
    assert alike.hot_s == pytest.approx(8 * 4096 / 2e10, rel=0.1)
    assert not guess.known
    assert guess.error == 1


def by_brute_force(works):
    """For each read, the bytes of the distinct tensors touched since the tensor's last touch, itself among them."""
    touches = [
        (t, n, i, read) for i, w in enumerate(works) for read, ts in ((True, w.reads), (False, w.writes)) for t, n in ts
    ]
    twice = touches + touches
    found = [{} for _ in works]
    for position in range(len(touches), len(twice)):
        tensor, _, i, read = twice[position]
        if not read:
            continue
        start = next(
            p for p in range(position - 1, -1, -1) if twice[p][0] == tensor and (p < len(touches) or twice[p][2] < i)
        )
        end = next(p for p in range(position, -1, -1) if p == len(touches) or twice[p - 1][2] < i)
        found[i][tensor] = float(sum({t: n for t, n, _, _ in twice[start:end]}.values()))
    return found


def test_reuse_distances_against_brute_force():
    random = np.random.default_rng(0)
    for _ in range(20):
        works, alive = [], ["input"]
        size = {"input": 10}
        for i in range(8):
            new = f"t{i}"
            size[new] = int(random.integers(1, 100))
            size[f"w{i}"] = int(random.integers(1, 100))
            given = list({str(random.choice(alive)) for _ in range(2)}) + [f"w{i}"]
            works.append(
                Work(new, "ADD", "float32", (1, 1, 1), 1, tuple((t, size[t]) for t in given), ((new, size[new]),))
            )
            alive.append(new)
        assert reuse_distances(works) == by_brute_force(works)


def test_a_weight_was_last_read_a_round_ago():
    works = [dense(64, 64), dense(64, 64)]
    works = [
        Work(f"{i}", w.kind, w.form, w.shape, w.amount, (("x", 10), (f"w{i}", 1000)), ((f"y{i}", 5),))
        for i, w in enumerate(works)
    ]
    assert reuse_distances(works)[0]["w0"] == 10 + 1000 + 5 + 1000 + 5


def test_a_point_survives_its_record():
    point = MACHINE.points[3]
    again = point_of(record_of(point))
    assert (again.time_s, again.work.shape, again.work.bytes, again.work.family) == (
        point.time_s, point.work.shape, point.work.bytes, "product"
    )  # fmt: skip


GOOD = record_of(MACHINE.points[0])


@pytest.mark.parametrize(
    "row",
    [None, [], "x", GOOD[:-1], [*GOOD[:6], -1.0, 0.0], [*GOOD[:6], float("nan"), 0.0], [*GOOD[:2], [], *GOOD[3:]],
     [*GOOD[:3], 0, *GOOD[4:]], [*GOOD[:4], ["many"], *GOOD[5:]], [*GOOD[:6], 1e30, 0.0],
     [*GOOD[:2], [1.0] * 99, *GOOD[3:]]],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_named(row):
    with pytest.raises(LatencyError, match="^operator time .* makes no sense"):
        point_of(row)


def test_a_machine_without_points_says_what_to_do():
    with pytest.raises(LatencyError, match=r"no operator times: `hwlimits calibrate` measures them"):
        Latency((), INVOKE_S, OPERATOR_S).estimate(GRID[0])
    few = Latency(points([dense(8, 8, 8)] * 4), INVOKE_S, OPERATOR_S)
    with pytest.raises(LatencyError, match="no times of dense layers of several sizes"):
        few.estimate(dense(8, 8, 8))
