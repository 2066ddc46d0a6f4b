"""The model of the machine, against a machine that is made up and so known."""

from dataclasses import replace
from math import dist, exp, log, log2, sqrt

import numpy as np
import pytest

from hwlimits.machine.latency import (
    LENGTH,
    LIKE,
    NOISE,
    SPREAD,
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


@pytest.mark.parametrize(("outputs", "vectors"), [(1, 8), (8, 8), (9, 16), (20, 24), (64, 64)])
def test_whole_vectors_of_outputs_are_computed(outputs, vectors):
    work = dense(7, outputs, 3)
    assert work.done == 3 * 7 * vectors
    assert work.bytes == 4 * (3 * 7 + 7 * outputs + 3 * outputs), "read and written"
    for kind, shape in (("ADD", (63.0, 7.0, 1.0, 1.0)), ("DEPTHWISE_CONV_2D", (9.0, 7.0, 9.0, 1.0, 1.0))):
        assert replace(work, kind=kind, shape=shape).done == work.amount, "others have no such vectors"


@pytest.mark.parametrize(
    ("kind", "shape", "at"),
    [
        # what is empty of a tile of 16 and of 32 outputs, of 8 input channels under a window, and of a vector
        ("CONV_2D", (196, 3, 20, 9, 1),
         [log2(196), log2(3), log2(20), 1.5 * log2(9), 0, 4 * log2(32 / 20), 4 * log2(32 / 20), 2 * log2(8 / 3), 3]),
        ("CONV_2D", (196, 3, 40, 1, 1),
         [log2(196), log2(3), log2(40), 0, 0, 4 * log2(48 / 40), 4 * log2(64 / 40), 0, 0]),
        ("FULLY_CONNECTED", (1, 100, 64, 1, 1), [0, log2(100), 6, 0, 0, 0, 0, 0, 0]),
        ("DEPTHWISE_CONV_2D", (49, 32, 25, 4, 1), [log2(49), 5, 4 * log2(25), 3, 0]),
        ("MAX_POOL_2D", (288, 8, 4, 4, 1), [log2(288), 3, 4, 2, 0]),
        ("AVERAGE_POOL_2D", (288, 8, 4, 0.5, 1), [log2(288), 3, 4, 0, 0]),
        ("ADD", (288, 8, 1, 2.0**30), [log2(288), 3, 0, 30]),
    ],
)  # fmt: skip
def test_coordinates_by_hand(kind, shape, at):
    assert coordinates(Work("w", kind, "float32", shape, 1)) == pytest.approx(at)


def test_a_family_by_hand():
    """The best rate, and the factors between the measured operators, against kriging written out number by number."""
    times = [3e-6, 2.5e-6, 9e-6, 0.4e-6]  # of a call's overhead alone 5e-7: the last one took less
    works = [dense(k, 4, m) for k, m in ((64, 8), (256, 1), (512, 8), (64, 1))]
    family = Family([Point(w, t) for w, t in zip(works, times, strict=True)], INVOKE_S)
    done = [8 * 64 * 8, 256 * 8, 8 * 512 * 8, 64 * 8]
    rate = max(done[0] / 2.5e-6, done[1] / 2e-6, done[2] / 8.5e-6, done[3] / (0.05 * 0.4e-6))
    assert family.rate == pytest.approx(rate)

    def alike(a, b):
        r = sqrt(3) * dist(coordinates(a), coordinates(b)) / LENGTH
        return SPREAD**2 * (1 + r) * exp(-r)

    factors = [log(t / (INVOKE_S + d / rate)) for t, d in zip(times, done, strict=True)]
    mean = sum(factors) / 4
    between = np.array([[alike(a, b) + NOISE**2 * (a is b) for b in works] for a in works])
    asked = dense(100, 4, 3)
    near = np.array([alike(asked, w) for w in works])
    factor = mean + near @ np.linalg.solve(between, np.array(factors) - mean)
    time_s, error = family.estimate(asked)
    assert time_s == pytest.approx((INVOKE_S + 100 * 8 * 3 / rate) * exp(factor))
    left_out = sqrt(sum(x * x for x in family.left_out_errors) / 4)
    assert error == pytest.approx(max(sqrt(SPREAD**2 - near @ np.linalg.solve(between, near)), left_out))


def test_close_to_measured_operators_the_error_is_that_of_left_out_ones():
    family = Family(points(GRID, 0.3), INVOKE_S)
    assert family.estimate(GRID[30])[1] == pytest.approx(np.linalg.norm(family.left_out_errors) / sqrt(len(GRID)))


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


READ = {2**15: 1.6e12, 2**16: 40e9, 2**18: 20e9, 2**20: 30e9, 2**22: 10e9}  # bytes of weights to bytes/s


def reader(size, rate, **form):
    """A dense layer that reads its weights at this rate; the fastest takes less than a call's overhead."""
    work = dense(64, size // 256, **form)
    return Point(work, 4.096e-7 if rate == READ[2**15] else INVOKE_S + size / rate)


def test_the_curve_is_of_dense_layers_of_one_row_in_float32():
    others = [reader(2**24, 1e13, form="int8"), reader(2**24, 1e13, rows=8), reader(2**13, 1e13)]
    others.append(Point(replace(others[0].work, kind="CONV_2D", form="float32"), 1e-6))
    machine = Latency((*others, *(reader(size, rate) for size, rate in READ.items())), INVOKE_S, OPERATOR_S)
    sizes, rates = machine.curve
    assert sizes.tolist() == list(READ)
    assert rates == pytest.approx([1.6e12, 40e9, 30e9, 30e9, 10e9]), "a larger set is not read faster than a smaller"
    for size, rate in ((0, 1.6e12), (2**17, sqrt(40e9 * 30e9)), (2**21, sqrt(30e9 * 10e9)), (2**30, 10e9)):
        assert machine.seconds_per_byte(size) == pytest.approx(1 / rate)


def test_what_a_call_costs_is_not_counted_again_for_each_operator():
    """An operator that is measured in less than a call of nothing costs what an operator does, and no less."""
    small = [replace(dense(64, n), amount=64 * n) for n in (8, 16, 24)]
    machine = Latency(tuple(Point(w, 0.5 * INVOKE_S) for w in small) + points(GRID), INVOKE_S, OPERATOR_S)
    assert machine.estimate(small[0]).hot_s == OPERATOR_S


def test_tensors_of_which_nothing_is_known_are_as_near_as_in_the_measurement():
    work = dense(700, 300)
    assert MACHINE.estimate(work, {"x": 1.0}).cold_s == 0
    assert MACHINE.estimate(work, {"x": 1e9, "w": 1.0}).cold_s == pytest.approx(
        700 * 4 * (1 / 1e10 - 1 / 4e10), rel=0.15
    )
    estimate = MACHINE.estimate(work, {"w": 1e9})
    assert estimate.time_s == estimate.hot_s + estimate.cold_s > estimate.hot_s


def test_drift_is_the_median_operator_s():
    machine = Latency(tuple(Point(GRID[0], t, t * share) for t, share in ((1, 0.1), (5, 0.27), (2, 0.9))), 0, 0)
    assert machine.drift == pytest.approx(0.27 / 1.35)
    assert np.subtract(*np.percentile(np.random.default_rng(0).normal(5, 1, 10**5), [75, 25])) == pytest.approx(
        1.35, rel=0.01
    )


def light(kind, form="float32", count=4):
    """Measured operators of a kind that isn't arithmetic, at 1 GB/s."""
    works = [Work(kind, kind, form, (n, 64.0, 1.0, 1.0), 8 * n) for n in (64, 256, 1024, 4096)[:count]]
    return [Point(w, INVOKE_S + w.amount / 1e9) for w in works]


def window(kind, form="float32"):
    works = [Work(kind, kind, form, (n, 64.0, 9.0, 1.0, 1.0), 576 * n) for n in (64, 256, 1024)]
    return [Point(w, INVOKE_S + w.amount / 1e9) for w in works]


JOIN = light("CONCATENATION")


@pytest.mark.parametrize(
    ("measured", "asked", "taken", "known"),
    [
        (light("MUL") + light("PRELU"), ("PRELU", "float32"), ("PRELU", "float32"), True),
        (light("MUL") + light("PRELU", count=2), ("PRELU", "float32"), ("MUL", "float32"), True),
        (light("MUL") + light("PRELU", count=3), ("PRELU", "float32"), ("PRELU", "float32"), True),
        (light("RELU"), ("RELU", "int8"), ("RELU", "float32"), False),
        (light("RELU"), ("ABS", "int8"), ("RELU", "float32"), False),
        (light("RELU"), ("ABS", "dynamic"), ("RELU", "float32"), True),
        (light("ABS") + light("RELU", "int8"), ("ABS", "int8"), ("RELU", "int8"), True),
        (window("DEPTHWISE_CONV_2D"), ("DEPTHWISE_CONV_2D", "dynamic"), ("DEPTHWISE_CONV_2D", "float32"), True),
        (list(points(GRID[:9])), ("CONV_2D", "dynamic"), ("FULLY_CONNECTED", "float32"), False),
        (list(points(GRID[:9])), ("CONV_2D", "float32"), ("FULLY_CONNECTED", "float32"), True),
        (light("RELU"), ("TANH", "float32"), ("CONCATENATION", "float32"), False),
    ],
)  # fmt: skip
def test_the_family_that_an_operator_takes(measured, asked, taken, known):
    """Its own; one alike; the same in float32, which for light operators beside int8 weights is its own."""
    machine = Latency((*JOIN, *measured), INVOKE_S, OPERATOR_S)
    family, own = machine.family(Work("w", *asked, (100.0, 64.0, 8.0, 1.0, 1.0), 100))
    first = family.points[0].work
    assert ((first.kind, first.form), own) == (taken, known)
    assert family.overhead_s == INVOKE_S


def test_kinds_that_stand_in_are_measured_and_have_as_many_numbers():
    from hwlimits.machine.latency import DIMENSIONS
    from hwlimits.training.operator_rates import ALIKE

    assert set(LIKE.values()) <= {*ALIKE, "SOFTMAX", "DEQUANTIZE"}
    assert not {*LIKE, *LIKE.values()} & set(DIMENSIONS)


@pytest.mark.parametrize(
    ("work", "distances", "bound"),
    [
        (Work("a", "ADD", "float32", (1e6, 64.0, 1.0, 1.0), 10**6, (("x", 10**6),)), {}, "memory"),
        (Work("d", "DEPTHWISE_CONV_2D", "float32", (256, 64.0, 9.0, 1.0, 1.0), 147_456, (("x", 99),)), {}, "compute"),
        (Work("t", "TRANSPOSE_CONV", "float32", (256, 64.0, 9.0, 1.0, 1.0), 147_456, (("x", 99),)), {}, "compute"),
        (Work("b", "BATCH_MATMUL", "float32", (256, 64.0, 9.0, 1.0, 1.0), 147_456, (("x", 99),)), {}, "compute"),
        (dense(1024, 1, 64), {}, "compute"),  # by whole vectors, and not by the outputs that are wanted
        (dense(512, 128, 8), {}, "compute"),
        (dense(512, 128, 8), {"w": 1e9}, "memory"),  # the same, whose weights come from far away
        (dense(64, 40), {}, "memory"),  # 0.26 microseconds: more than an operator costs, less than a call
    ],
)
def test_what_bounds_by_hand(work, distances, bound):
    """Products at 50 GMAC/s or less, other arithmetic at 1 GMAC/s, bytes at 40 or 10 GB/s."""
    others = [p for kind in ("DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL") for p in window(kind)]
    machine = Latency((*MACHINE.points, *others, *light("ADD")), INVOKE_S, OPERATOR_S)
    assert machine.estimate(work, distances).bound == bound


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
    again = point_of(record_of(replace(point, iqr_s=1e-8)))
    assert (again.time_s, again.iqr_s, again.work.shape, again.work.family) == (
        point.time_s, 1e-8, point.work.shape, "product"
    )  # fmt: skip
    assert again.work.reads == (("in0", point.work.reads[0][1]), ("in1", point.work.reads[1][1]))
    assert again.work.writes == (("out0", point.work.writes[0][1]),)
    assert again.work.bytes == point.work.bytes


GOOD = record_of(MACHINE.points[0])


@pytest.mark.parametrize(
    "row",
    [None, [], "x", GOOD[:-1], [*GOOD[:6], -1.0, 0.0], [*GOOD[:6], float("nan"), 0.0], [*GOOD[:2], [], *GOOD[3:]],
     [*GOOD[:3], 0, *GOOD[4:]], [*GOOD[:4], ["many"], *GOOD[5:]], [*GOOD[:6], 1e30, 0.0],
     [*GOOD[:2], [1.0] * 99, *GOOD[3:]], [*GOOD[:2], GOOD[2][:4], *GOOD[3:]], ["ADD", *GOOD[1:]],
     [*GOOD[:2], [0.0, *GOOD[2][1:]], *GOOD[3:]], [*GOOD[:4], [], [], *GOOD[6:]], [*GOOD[:3], float("inf"), *GOOD[4:]],
     [*GOOD[:7], -1e-9], [*GOOD[:7], float("nan")], [*GOOD[:7], 1e15]],
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
    two = Latency((*few.points, *(reader(size, READ[size]) for size in (2**16, 2**18))), INVOKE_S, OPERATOR_S)
    with pytest.raises(LatencyError, match="no times of dense layers of several sizes"):
        two.estimate(dense(8, 8, 8))
