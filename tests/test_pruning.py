"""Scores against the losses they foretell, masks against counting by hand, L1's step against a minimiser."""

import itertools
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from hwlimits import pruning
from hwlimits.pruning import PruningError, Schedule, global_masks, magnitude, mask, n_m_mask, unit_scores

SHAPES = [(6, 4), (8, 12), (3, 3, 4, 8), (1, 1, 8, 4)]
UNITS = ["weight", "filter", (2, 2), (1, 4), (2, 1)]
shares = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 0.9375])  # exact in single precision
few_values = st.lists(st.integers(-4, 4), min_size=1, max_size=40)  # many ties


def kernel_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def units_of(shape, unit):
    """The indices of each unit's weights, listed one by one."""
    found = {}
    for index in np.ndindex(*shape):
        *window, i, o = index
        if unit == "weight":
            key = index
        elif unit == "filter":
            key = o
        else:
            key = (*window, i // unit[0], o // unit[1])
        found.setdefault(key, []).append(index)
    return list(found.values())


# --- scores ------------------------------------------------------------------------------------


def test_sigma_is_that_of_all_weights_of_the_layer():
    weights = kernel_of((3, 3, 2, 4))
    found = pruning.magnitude_over_sigma(weights)
    assert found == pytest.approx(np.abs(weights) / statistics.pstdev(weights.ravel()))


def test_sigma_changes_nothing_in_a_layer_and_much_between_layers():
    layers = {"small": kernel_of((6, 4)) / 100, "large": kernel_of((6, 4), seed=1)}
    for weights in layers.values():
        assert np.array_equal(mask(magnitude(weights), 0.5), mask(pruning.magnitude_over_sigma(weights), 0.5))
    by_magnitude = global_masks({n: magnitude(w) for n, w in layers.items()}, 0.5)
    by_sigma = global_masks({n: pruning.magnitude_over_sigma(w) for n, w in layers.items()}, 0.5)
    assert by_magnitude["small"].sum() == 1, "only its best is left"
    assert by_sigma["small"].sum() > 8


def test_first_order_is_the_change_of_a_loss_that_is_linear():
    weights, slope = kernel_of((5, 3)), kernel_of((5, 3), seed=1)
    loss = lambda w: np.sum(slope * w)  # noqa: E731
    for index, score in np.ndenumerate(pruning.first_order(weights, slope)):
        without = weights.copy()
        without[index] = 0
        assert score == pytest.approx(abs(loss(without) - loss(weights)))


def test_second_order_is_the_rise_of_a_loss_that_is_a_parabola():
    weights, curvature = kernel_of((5, 3)), np.abs(kernel_of((5, 3), seed=1))
    loss = lambda w: np.sum(curvature * (w - weights) ** 2) / 2  # noqa: E731, least at the weights
    for index, score in np.ndenumerate(pruning.second_order(weights, curvature)):
        without = weights.copy()
        without[index] = 0
        assert score == pytest.approx(loss(without))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_s_score_is_the_sum_over_its_weights(shape, unit):
    scores = magnitude(kernel_of(shape))
    by_hand = [sum(scores[index] for index in unit_) for unit_ in units_of(shape, unit)]
    assert np.sort(unit_scores(scores, unit).ravel()) == pytest.approx(np.sort(by_hand))


def test_a_filter_s_score_is_its_l1_norm_in_the_order_of_the_filters():
    kernel = kernel_of((3, 3, 4, 8))
    by_hand = [np.linalg.norm(kernel[..., f].ravel(), 1) for f in range(8)]
    assert unit_scores(magnitude(kernel), "filter") == pytest.approx(by_hand)


# --- masks -------------------------------------------------------------------------------------


def stays(scores, others, stay):
    """Kept are those that fewer than `stay` score above."""
    return [sum(other > score for other in others) < stay for score in scores]


@settings(deadline=None)
@given(few_values, shares)
def test_ties_stay_together_and_no_lower_score_stays_before_a_higher_one(values, sparsity):
    scores = magnitude(np.array(values, float))
    stay = max(1, round(len(values) * (1 - Fraction(sparsity))))
    assert mask(scores, sparsity).tolist() == stays(scores, scores, stay)


@pytest.mark.parametrize(
    ("n", "sparsity", "stay"),
    # halves go to the even number, but 1 - 0.9 is above a tenth in single precision; one stays at least
    [(10, 0.5, 5), (5, 0.5, 2), (7, 0.5, 4), (15, 0.9, 2), (25, 0.9, 3), (35, 0.9, 4), (10, 0.97, 1), (3, 0.0, 3)],
)
def test_how_many_stay(n, sparsity, stay):
    assert mask(np.arange(float(n)), sparsity).sum() == stay


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_units_stay_or_go_whole_and_the_lowest_go(shape, unit, sparsity):
    scores = magnitude(kernel_of(shape))
    found, units = mask(scores, sparsity, unit), units_of(shape, unit)
    assert found.shape == shape
    assert found.dtype == bool
    sums = [sum(scores[index] for index in unit_) for unit_ in units]
    stay = max(1, round(len(units) * (1 - Fraction(str(sparsity)))))
    expected = stays(sums, sums, stay)
    for unit_, keep in zip(units, expected, strict=True):
        assert {bool(found[index]) for index in unit_} == {keep}


@settings(deadline=None)
@given(few_values, shares, shares)
def test_more_sparsity_takes_more_of_the_same(values, one, other):
    scores = magnitude(np.array(values, float))
    less, more = sorted([one, other])
    assert not np.any(mask(scores, more) & ~mask(scores, less))


def test_a_mask_of_filter_scores_names_the_filters():
    kernel = kernel_of((3, 3, 4, 8))
    keep = mask(unit_scores(magnitude(kernel), "filter"), 0.5)
    assert np.array_equal(mask(magnitude(kernel), 0.5, "filter"), np.broadcast_to(keep, kernel.shape))


@pytest.mark.parametrize("unit", ["weight", "filter", (2, 1)])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.6, 0.8])
def test_global_masks_take_the_lowest_means_wherever_they_are(unit, sparsity):
    layers = {"wide": magnitude(kernel_of((3, 3, 4, 8))), "narrow": 1.3 * magnitude(kernel_of((4, 6), seed=1))}
    means = {n: [np.mean([s[i] for i in u]) for u in units_of(s.shape, unit)] for n, s in layers.items()}
    every = sum(means.values(), [])
    stay = round(len(every) * (1 - Fraction(str(sparsity))))
    found = global_masks(layers, sparsity, unit)
    for name, scores in layers.items():
        expected = stays(means[name], every, stay)
        expected[int(np.argmax(means[name]))] = True  # the best of its layer
        for unit_, keep in zip(units_of(scores.shape, unit), expected, strict=True):
            assert {bool(found[name][index]) for index in unit_} == {keep}
    assert sum(m.size for m in found.values()) == 3 * 3 * 4 * 8 + 4 * 6


def test_each_layer_keeps_its_best_unit():
    layers = {"large": 10 + magnitude(kernel_of((4, 6))), "small": magnitude(kernel_of((4, 6)))}
    found = global_masks(layers, 0.5, "filter")
    assert found["large"].all()
    assert found["small"].any(axis=0).sum() == 1
    assert found["small"].all(axis=0).argmax() == layers["small"].sum(axis=0).argmax()


@pytest.mark.parametrize("shape", [(8, 3), (3, 3, 4, 2), (12, 1)])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 4)])
def test_n_of_m_are_those_with_the_largest_sum(shape, n, m):
    scores = magnitude(kernel_of(shape))
    found = n_m_mask(scores, n, m)
    for *window, output in np.ndindex(*shape[:-2], shape[-1]):
        for first in range(0, shape[-2], m):
            at = (*window, slice(first, first + m), output)
            best = max(itertools.combinations(range(m), n), key=lambda kept, at=at: sum(scores[at][list(kept)]))
            assert tuple(np.flatnonzero(found[at])) == best


def test_of_equal_scores_the_first_n_stay():
    assert n_m_mask(np.ones((4, 1))).ravel().tolist() == [True, True, False, False]


def test_masks_are_applied_to_a_copy():
    weights = {"kernel": np.float32([[1, -2], [3, 4]]), "bias": np.float32([5, 6])}
    found = pruning.apply(weights, {"kernel": np.array([[True, False], [False, True]])})
    assert found["kernel"].tolist() == [[1, 0], [0, 4]]
    assert found["kernel"].dtype == np.float32
    assert found["bias"].tolist() == [5, 6]
    assert weights["kernel"].tolist() == [[1, -2], [3, 4]]


# --- schedules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 9, 10, 11, 35, 60, 110, 111, 500])
def test_the_schedule_is_the_published_polynomial(step):
    schedule = Schedule(0.9, initial=0.2, begin_step=10, ramp_steps=100, frequency=10)
    left = 1 - Fraction(min(max(step - 10, 0), 100), 100)
    assert schedule.sparsity(step) == pytest.approx(float(Fraction(9, 10) - Fraction(7, 10) * left**3))


def test_a_ramp_s_masks_are_made_until_its_end_and_constant_ones_for_ever():
    steps = range(40)
    assert [t for t in steps if Schedule(0.9, begin_step=3, ramp_steps=21, frequency=7).due(t)] == [3, 10, 17, 24]
    assert [t for t in steps if Schedule(0.9, ramp_steps=20, frequency=7).due(t)] == [0, 7, 14]
    assert [t for t in steps if Schedule(0.9, begin_step=12, frequency=9).due(t)] == [12, 21, 30, 39]


def test_a_constant_schedule_holds_from_its_first_step():
    schedule = Schedule(0.6, begin_step=5)
    assert [schedule.sparsity(t) for t in (0, 4, 5, 6, 999)] == [0, 0, 0.6, 0.6, 0.6]


def descend(target):
    """A trainer: some gradient steps towards `target`, masks applied after each."""

    def train(weights, masks):
        for _ in range(50):
            weights = {n: w + 0.2 * (target[n] - w) for n, w in weights.items()}
            weights = pruning.apply(weights, masks)
        return weights

    return train


def test_rounds_rewind_and_prune_what_the_last_one_left():
    start = {"a": kernel_of((10, 10)), "b": kernel_of((5, 8), seed=1), "bias": np.zeros(8)}
    target = {n: kernel_of(w.shape, seed=2) for n, w in start.items()}
    starts = []

    def train(weights, masks):
        starts.append((weights, masks))
        return descend(target)(weights, masks)

    rounds = list(pruning.rewinding(start, train, ["a", "b"], rounds=4, left_per_round=0.5))
    assert [masks["a"].sum() for masks, _ in rounds] == [100, 50, 25, 12, 6]  # 12.5 goes to the even number
    assert [masks["b"].sum() for masks, _ in rounds] == [40, 20, 10, 5, 2]
    for (first, masks), (yielded, trained) in zip(starts, rounds, strict=True):
        for name in ("a", "b"):
            assert np.array_equal(masks[name], yielded[name])
            assert np.array_equal(first[name], np.where(masks[name], start[name], 0)), "back to where it started"
            assert trained[name] == pytest.approx(np.where(masks[name], target[name], 0), abs=1e-3)
        assert np.array_equal(first["bias"], start["bias"])
        assert trained["bias"] == pytest.approx(target["bias"], abs=1e-3)
    for (before, trained), (after, _) in itertools.pairwise(rounds):
        for name in ("a", "b"):
            assert not np.any(after[name] & ~before[name]), "nothing comes back"
            size = np.abs(trained[name])
            assert size[after[name]].min() > size[before[name] & ~after[name]].max(), "the smallest go"


def test_rounds_go_by_the_scores_that_are_given():
    start = {"w": np.arange(1.0, 11.0)}
    upside_down = lambda weights: {"w": -weights["w"]}  # noqa: E731
    turn = lambda weights, masks: {"w": np.where(masks["w"], 11 - weights["w"], 0)}  # noqa: E731
    rounds = pruning.rewinding(start, turn, ["w"], rounds=1, left_per_round=0.5, scores=upside_down)
    assert list(rounds)[1][0]["w"].tolist() == [False] * 5 + [True] * 5, "the trained weights are scored"


def test_a_trainer_that_lets_zeros_grow_back_is_caught():
    grow = lambda weights, masks: {n: w + 1 for n, w in weights.items()}  # noqa: E731
    with pytest.raises(PruningError, match="2 pruned weights of w grew back in round 1; train must apply"):
        list(pruning.rewinding({"w": np.arange(10.0)}, grow, ["w"], rounds=2))


class Stops:
    """Calls a function, and is interrupted in its place at one call, once."""

    def __init__(self, function, at):
        self.function, self.at, self.calls = function, at, 0

    def __call__(self, *given):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.function(*given)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_rewinding_that_was_stopped_goes_on_with_the_round_it_was_in(at):
    """Training 1 to 5; what comes out is what comes out of rounds that nobody stopped."""
    start = {"w": np.random.default_rng(0).standard_normal((6, 7)), "b": np.ones(7)}

    def train(weights, masks):
        return {"w": (weights["w"] * 1.5 + 0.25) * masks["w"], "b": weights["b"] + masks["w"].sum()}

    def rounds(train, **options):
        return list(pruning.rewinding(start, train, ["w"], rounds=4, left_per_round=0.5, **options))

    wanted, stops = rounds(train), Stops(train, at)
    with pytest.raises(KeyboardInterrupt):
        rounds(stops, keep="tickets")
    found = rounds(stops, keep="tickets")
    assert stops.calls == 5 + 1, "no round is trained twice but the one that was stopped"
    for (masks, trained), (wanted_masks, wanted_trained) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(masks["w"], wanted_masks["w"])
        for name in trained:
            np.testing.assert_array_equal(trained[name], wanted_trained[name])


def test_rewinding_left_by_its_loop_goes_on_and_other_weights_begin_anew():
    start, stops = {"w": np.arange(1.0, 11)}, Stops(lambda w, m: pruning.apply(w, m), None)
    for _ in pruning.rewinding(start, stops, ["w"], rounds=2, keep="left"):
        break  # an error in the loop's body
    assert len(list(pruning.rewinding(start, stops, ["w"], rounds=2, keep="left"))) == 3
    assert stops.calls == 3
    next(pruning.rewinding(start, stops, ["w"], rounds=2, keep="left"))
    list(pruning.rewinding({"w": np.arange(2.0, 12)}, stops, ["w"], rounds=2, keep="left"))
    assert stops.calls == 3 + 1 + 3


@pytest.mark.parametrize("at", [1, 3, 4])
def test_sensitivity_that_was_stopped_goes_on(at):
    weights = {"a": np.array([3.0, 4.0]), "b": np.array([1.0, 2.0])}
    stops = Stops(lambda w: float(w["a"].sum() * 10 + w["b"].sum()), at)
    asked = (["a", "b"], [0.0, 0.5, 0.5])
    with pytest.raises(KeyboardInterrupt):
        pruning.sensitivity(weights, stops, *asked, keep="scan")
    found = pruning.sensitivity(weights, stops, *asked, keep="scan")
    assert found == {"a": {0.0: 73.0, 0.5: 43.0}, "b": {0.0: 73.0, 0.5: 72.0}}
    assert stops.calls == 4 + 1, "no setting twice but the one that was stopped"
    stops.at = stops.calls + 2
    with pytest.raises(KeyboardInterrupt):
        pruning.sensitivity(weights, stops, *asked, keep="scan")
    before = stops.calls
    pruning.sensitivity(weights | {"b": np.array([1.0, 5.0])}, stops, *asked, keep="scan")
    assert stops.calls == before + 4, "other weights begin anew"


def test_sensitivity_prunes_one_layer_at_a_time():
    weights = {"a": np.array([[1.0, 2.0], [3.0, 5.0]]), "b": np.array([[7.0, 11.0]]), "bias": np.array([13.0])}
    total = lambda w: float(sum(v.sum() for v in w.values()))  # noqa: E731
    found = pruning.sensitivity(weights, total, ["a", "b"], [0.0, 0.5])
    assert found == {"a": {0.0: 42, 0.5: 42 - 1 - 2}, "b": {0.0: 42, 0.5: 42 - 7}}
    found = pruning.sensitivity(weights, total, ["a"], [0.5], "filter")
    assert found == {"a": {0.5: 42 - 1 - 3}}
    assert weights["a"].tolist() == [[1, 2], [3, 5]]


# --- L1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", [-3.0, -1.0, -0.3, 0.0, 0.2, 0.7, 2.5])
def test_soft_threshold_minimises_what_it_says(w):
    least = optimize.minimize_scalar(lambda v: (v - w) ** 2 / 2 + 0.7 * abs(v), bounds=(-5, 5), method="bounded")
    assert pruning.soft_threshold(np.array([w]), 0.7)[0] == pytest.approx(least.x, abs=1e-5)


@pytest.mark.parametrize("unit", ["filter", (2, 1)])
def test_the_threshold_of_units_minimises_over_their_norms(unit):
    weights = kernel_of((4, 3))
    units = units_of(weights.shape, unit)

    def cost(flat):
        v = flat.reshape(weights.shape)
        norms = sum(np.sqrt(sum(v[i] ** 2 for i in u)) for u in units)
        return np.sum((v - weights) ** 2) / 2 + 1.2 * norms

    found = pruning.soft_threshold(weights, 1.2, unit)
    zeros = [all(found[i] == 0 for i in u) for u in units]
    assert any(zeros)
    assert not all(zeros)
    rng = np.random.default_rng(1)  # the cost is convex: no other point near or far may be lower
    for size in (1e-4, 1e-2, 1):
        for _ in range(200):
            assert cost(found.ravel()) <= cost(found.ravel() + size * rng.normal(size=weights.size))


def test_a_gradient_step_on_l1_leaves_small_numbers_and_the_proximal_step_zeros():
    rate, strength, plain, proximal = 0.1, 1.0, np.array([0.537]), np.array([0.537])
    for _ in range(100):
        plain = plain - rate * strength * np.sign(plain)
        proximal = pruning.soft_threshold(proximal, rate * strength)
    assert 0 < abs(plain[0]) < rate * strength
    assert proximal[0] == 0


# --- errors ------------------------------------------------------------------------------------

ONES = np.ones((4, 6))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mask(ONES, 1.0), "sparsity=1.0 must be a share, at least 0 and below 1"),
        (lambda: mask(ONES, -0.1), "sparsity=-0.1"),
        (lambda: mask(ONES, float("nan")), "sparsity=nan"),
        (lambda: global_masks({"a": ONES}, 90), "sparsity=90"),
        (lambda: global_masks({}, 0.5), "no scores were given"),
        (lambda: global_masks({"a": ONES, "b": ONES * np.nan}, 0.5), "24 of 24 b are NaN or infinite"),
        (lambda: mask(np.array([1, np.nan, np.inf]), 0.5), "2 of 3 scores are NaN or infinite. Did training diverge?"),
        (lambda: mask(np.array([]), 0.5), "scores must be numbers, one at least; got float64 (0,)"),
        (lambda: magnitude(np.array(["a"])), "weights must be numbers"),
        (lambda: magnitude(np.array([1j])), "got complex128 (1,)"),
        (lambda: mask(ONES, 0.5, "filters"), "unit 'filters' is none; choose 'weight', 'filter' or a block"),
        (lambda: mask(ONES, 0.5, (0, 2)), "unit (0, 2) is none"),
        (lambda: mask(ONES, 0.5, (2, 2, 2)), "unit (2, 2, 2) is none"),
        (lambda: mask(ONES, 0.5, (3, 2)), "blocks of 3 inputs by 2 outputs do not fill 4 by 6"),
        (lambda: mask(ONES, 0.5, (2, 4)), "blocks of 2 inputs by 4 outputs do not fill 4 by 6"),
        (lambda: mask(np.ones(4), 0.5, "filter"), "scores of shape (4,) have no inputs and outputs"),
        (lambda: n_m_mask(np.ones((6, 4))), "4 must divide the inputs, the last axis but one of (6, 4)"),
        (lambda: n_m_mask(np.ones(4)), "the last axis but one of (4,); leave the layer dense"),
        (lambda: n_m_mask(ONES, 4, 4), "n of m stay, whole numbers with 0 < n < m"),
        (lambda: n_m_mask(ONES, 0, 2), "n_m_mask(n=0, m=2)"),
        (lambda: n_m_mask(ONES, 1.0, 2), "n_m_mask(n=1.0, m=2)"),
        (lambda: pruning.magnitude_over_sigma(ONES), "sigma=0.0): must be above 0; equal weights have none"),
        (lambda: pruning.magnitude_over_sigma(ONES, -1), "sigma=-1.0"),
        (lambda: pruning.first_order(ONES, ONES[0]), "weights and gradient differ in shape, (4, 6) and (6,)"),
        (lambda: pruning.second_order(ONES, np.nan * ONES), "24 of 24 curvature are NaN"),
        (lambda: pruning.apply({"a": ONES}, {"b": ONES}), "no weights named 'b'; choose from a"),
        (lambda: pruning.apply({"a": ONES}, {"a": ONES[0]}), "a has shape (4, 6) and its mask (6,)"),
        (lambda: Schedule(1.0), "final=1.0 must be a share"),
        (lambda: Schedule(0.5, initial=-1), "initial=-1 must be a share"),
        (lambda: Schedule(0.5, frequency=0), "frequency must be a whole number, at least 1"),
        (lambda: Schedule(0.5, ramp_steps=1.5), "ramp_steps must be a whole number, at least 0"),
        (lambda: Schedule(0.5, begin_step=-1), "Schedule(begin_step=-1)"),
        (lambda: next(pruning.rewinding({}, dict, ["a"], rounds=1)), "no weights named 'a'"),
        (lambda: next(pruning.rewinding({}, dict, [], rounds=1, left_per_round=0)), "1 - left_per_round=1"),
        (lambda: pruning.sensitivity({}, sum, ["a"], [0.5]), "no weights named 'a'"),
        (lambda: pruning.soft_threshold(ONES, -1), "threshold=-1): must be 0 or above"),
    ],
)
def test_errors_say_what_to_do(call, said):
    with pytest.raises(PruningError) as caught:
        call()
    assert said in str(caught.value)
