"""Which weights go, and when: chapter 04's scores, masks and schedules.

Pruning has three parts. A *score* says how important each weight is; a *mask* keeps the units (weights,
filters or blocks) with the highest scores; a *schedule* says at which step of training how many are to go.
Any score goes with any mask. A mask is an array of booleans, True where the weight stays, and it has to be
applied again after every step of training: a zero that nothing holds gets a gradient and grows back.

Kernels have Keras' layout: (inputs, outputs) for a dense layer, (height, width, inputs, outputs) for a
convolution. A *filter* is all that leads to one output, the last axis. (Reshape a depthwise kernel (height,
width, channels, multiplier) to (height, width, 1, channels * multiplier) first.)

>>> kernel = np.array([[0.1, -3.0, 0.2], [0.3, 1.0, -2.0]])
>>> mask(magnitude(kernel), sparsity=0.5)
array([[False,  True, False],
       [False,  True,  True]])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from hwlimits.progress import bar, digest, each, kept

Unit = str | tuple[int, int]
Arrays = Mapping[str, np.ndarray]


class PruningError(ValueError):
    """Pruning that can't be done as asked, or that wasn't; the text says what to do."""


# --- scores: how important is a weight? --------------------------------------------------------


def magnitude(weights: np.ndarray) -> np.ndarray:
    """|w|: a weight is as important as it is large, whatever its sign.

    >>> magnitude([1.0, -2.0])
    array([1., 2.])
    """
    return np.abs(_numbers("magnitude", weights=weights))


def magnitude_over_sigma(weights: np.ndarray, sigma: float | None = None) -> np.ndarray:
    """|w| / sigma, the article's importance; `sigma` is the standard deviation of the layer's weights unless given.

    Within a layer sigma is one number, so the order is that of `magnitude`. It matters in `global_masks`, where a
    layer of small weights would otherwise go first. Raises PruningError where sigma is 0: all weights are equal.

    The article's two weights, 1 and -2, score the same, so neither goes before the other. (It keeps the sign and
    gets 2 and -2, and the larger weight goes.)

    >>> magnitude_over_sigma(1.0, sigma=0.5), magnitude_over_sigma(-2.0, sigma=1.0)
    (np.float64(2.0), np.float64(2.0))
    """
    weights = _numbers("magnitude_over_sigma", weights=weights)
    sigma = float(np.std(weights, dtype=np.float64) if sigma is None else sigma)
    if not 0 < sigma < np.inf:
        raise PruningError(f"magnitude_over_sigma(sigma={sigma}): must be above 0; equal weights have none")
    return np.abs(weights) / sigma


def first_order(weights: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """|g w|: how much the loss changes, to first order, when w becomes 0.

    gradient   dL/dw at these weights, over enough examples that it says something

    Where training has ended the gradient is near 0 and this says little: it is for weights that still move.
    Molchanov et al. 2019 (arXiv 1906.10771) take its square, which ranks weights alike.

    >>> first_order(np.array([1.0, -2.0]), gradient=np.array([3.0, 0.5]))
    array([3., 1.])
    """
    return np.abs(np.multiply(*_alike("first_order", weights=weights, gradient=gradient)))


def second_order(weights: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """h w² / 2: how much the loss rises when w becomes 0, at a minimum and with the weights taken one by one.

    curvature   the diagonal of the Hessian, d²L/dw²

    LeCun, Denker and Solla, "Optimal Brain Damage" (1990), where it is the saliency.

    >>> second_order(np.array([1.0, -2.0]), curvature=np.array([8.0, 1.0]))  # the smaller weight matters more
    array([4., 2.])
    """
    weights, curvature = _alike("second_order", weights=weights, curvature=curvature)
    return curvature * weights**2 / 2


def unit_scores(scores: np.ndarray, unit: Unit) -> np.ndarray:
    """The sum of the scores of each unit's weights; with `magnitude`, the L1 norm of each filter or block.

    unit   'weight'; 'filter', for scores (outputs,); or a block (inputs, outputs), for scores with these two
           axes, the last of the kernel, shorter by as much. At each place of a convolution's window the blocks
           are of their own.

    Raises PruningError for blocks that do not fill the kernel.
    Source: Li et al., "Pruning Filters for Efficient ConvNets" (2017), section 3.1.

    >>> unit_scores(magnitude(np.array([[1.0, -2.0], [3.0, 0.5]])), "filter")
    array([4. , 2.5])
    """
    scores = _numbers("unit_scores", scores=scores)
    if unit == "weight":
        return scores
    if unit != "filter" and (isinstance(unit, str) or len(unit) != 2 or not all(n > 0 for n in unit)):
        raise PruningError(f"unit {unit!r} is none; choose 'weight', 'filter' or a block (inputs, outputs)")
    if scores.ndim < 2:
        raise PruningError(f"unit {unit!r}: scores of shape {scores.shape} have no inputs and outputs; give a kernel's")
    if unit == "filter":
        return scores.sum(axis=tuple(range(scores.ndim - 1)))
    height, width = unit
    *window, inputs, outputs = scores.shape
    if inputs % height or outputs % width:
        raise PruningError(
            f"unit {unit!r}: blocks of {height} inputs by {width} outputs do not fill {inputs} by {outputs}; "
            "take a block that divides both"
        )
    return scores.reshape(*window, inputs // height, height, outputs // width, width).sum(axis=(-3, -1))


# --- masks: which weights stay? ----------------------------------------------------------------


def mask(scores: np.ndarray, sparsity: float, unit: Unit = "weight") -> np.ndarray:
    """Booleans of the scores' shape, False for the share `sparsity` of the units that score lowest.

    unit   what stays or goes as one: see `unit_scores`

    Of n units, n (1 - sparsity) stay, rounded as in TensorFlow (single precision, halves to the even number), and
    one at least. Units that score the same as the last one that stays all stay: nothing says which of them
    should go. So the sparsity is less where scores tie, and a kernel of equal weights is left whole.

    Raises PruningError for a sparsity outside [0, 1) and for scores that are not finite.

    >>> mask(np.array([3.0, 1.0, 2.0, 1.0]), 0.5)
    array([ True, False,  True, False])
    >>> mask(np.array([2.0, 2.0]), 0.5)  # the article's two weights
    array([ True,  True])
    """
    scores = _numbers("mask", scores=scores)
    units = unit_scores(scores, unit)
    return _spread(units >= _threshold(units, sparsity), scores.shape, unit)


def global_masks(scores: Arrays, sparsity: float, unit: Unit = "weight") -> dict[str, np.ndarray]:
    """Masks of several layers that share one sparsity: the units that score lowest go, whichever layer they are in.

    Units of different sizes are compared by the mean of their weights' scores: by the sum, a filter that reads
    few inputs would go first. `sparsity` is a share of all units. Each layer keeps its best unit at least, since
    nothing gets through a layer of zeros; so a few units more may stay.

    >>> global_masks({"large": np.array([5.0, 6.0]), "small": np.array([1.0, 2.0, 3.0])}, 0.6)
    {'large': array([ True,  True]), 'small': array([False, False,  True])}
    >>> global_masks({"large": np.array([5.0, 6.0]), "small": np.array([1.0])}, 0.5)
    {'large': array([ True,  True]), 'small': array([ True])}
    """
    if not scores:
        raise PruningError("global_masks: no scores were given; give those of one layer at least")
    units = {}
    for name, values in scores.items():
        summed = unit_scores(_numbers("global_masks", **{name: values}), unit)
        units[name] = summed * (summed.size / np.size(values))  # the mean
    threshold = _threshold(np.concatenate([u.ravel() for u in units.values()]), sparsity)
    return {name: _spread(u >= min(threshold, u.max()), np.shape(scores[name]), unit) for name, u in units.items()}


def n_m_mask(scores: np.ndarray, n: int = 2, m: int = 4) -> np.ndarray:
    """Booleans with `n` True among every `m` successive inputs of each output: those that score highest.

    The form that sparse tensor cores need (2:4; Mishra et al. 2021, arXiv 2104.08378), along the axis that the
    matrix product sums over. It has to be exact, so of equal scores the first stays.

    Raises PruningError unless 0 < n < m, and m divides the inputs: leave such a layer dense.

    >>> n_m_mask(np.array([[4.0], [1.0], [3.0], [2.0]])).ravel()
    array([ True, False,  True, False])
    """
    scores = _numbers("n_m_mask", scores=scores)
    if not (isinstance(n, Integral) and isinstance(m, Integral) and 0 < n < m):
        raise PruningError(f"n_m_mask(n={n!r}, m={m!r}): n of m stay, whole numbers with 0 < n < m")
    if scores.ndim < 2 or scores.shape[-2] % m:
        raise PruningError(
            f"n_m_mask: {m} must divide the inputs, the last axis but one of {scores.shape}; leave the layer dense"
        )
    *window, inputs, outputs = scores.shape
    groups = scores.reshape(*window, inputs // m, m, outputs)
    best_first = np.argsort(-groups, axis=-2, kind="stable")
    keep = np.zeros(groups.shape, bool)
    np.put_along_axis(keep, best_first[..., :n, :], True, axis=-2)
    return keep.reshape(scores.shape)


def apply(weights: Arrays, masks: Arrays) -> dict[str, np.ndarray]:
    """The weights with zeros where a mask is False; those without a mask as they are. Nothing is changed in place.

    Call it after each step of training, so that the zeros stay.

    >>> apply({"kernel": np.array([1.0, -2.0]), "bias": np.array([3.0])}, {"kernel": np.array([False, True])})
    {'kernel': array([ 0., -2.]), 'bias': array([3.])}
    """
    _known(masks, weights)
    for name, keep in masks.items():
        if np.shape(keep) != np.shape(weights[name]):
            raise PruningError(f"apply: {name} has shape {np.shape(weights[name])} and its mask {np.shape(keep)}")
    return {n: np.where(masks[n], w, np.zeros_like(w)) if n in masks else w for n, w in weights.items()}


# --- schedules: when? --------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """At which steps of training the masks are made anew, and with which sparsity.

    final        the sparsity in the end
    ramp_steps   steps over which the sparsity rises from `initial` to `final`; 0 prunes at once and holds
    frequency    steps between two updates of the masks

    With a ramp the masks are as they are after its last update, which is before its end where `frequency` does
    not divide `ramp_steps`. Source: Zhu and Gupta, "To prune, or not to prune" (2017, arXiv 1710.01878), equation 1,
    with n Δt = ramp_steps and Δt = frequency.

    >>> [round(Schedule(0.9, ramp_steps=100).sparsity(t), 3) for t in (0, 25, 50, 100)]
    [0.0, 0.52, 0.787, 0.9]
    """

    final: float
    initial: float = 0.0
    begin_step: int = 0
    ramp_steps: int = 0
    frequency: int = 1
    power: float = 3

    def __post_init__(self):
        _share("final", self.final)
        _share("initial", self.initial)
        for name, least in (("begin_step", 0), ("ramp_steps", 0), ("frequency", 1)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise PruningError(f"Schedule({name}={value!r}): {name} must be a whole number, at least {least}")

    def sparsity(self, step: int) -> float:
        """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n Δt))³ on the ramp; `initial` before it, `final` after it."""
        if step < self.begin_step:
            return self.initial
        if self.ramp_steps == 0:
            return self.final
        progress = min(1.0, (step - self.begin_step) / self.ramp_steps)
        return self.final + (self.initial - self.final) * (1 - progress) ** self.power

    def due(self, step: int) -> bool:
        """True at the steps at which masks are made: t_0, t_0 + Δt, ... to the ramp's end; without one, for ever."""
        since = step - self.begin_step
        return since >= 0 and since % self.frequency == 0 and (self.ramp_steps == 0 or since <= self.ramp_steps)


def rewinding(
    weights: Arrays, train: Callable[[dict, dict], Arrays], layers: Sequence[str], *, rounds: int,
    left_per_round: float = 0.8, scores: Callable[[Arrays], Arrays] | None = None, keep: str | None = None,
) -> Iterator[tuple[dict, dict]]:  # fmt: skip
    """Train, prune the lowest-scoring weights of each layer, go back to `weights`, and again.

    Yields (masks, trained weights) of each round.

    weights          where every round starts: the initial weights (Frankle and Carbin, "The Lottery Ticket
                     Hypothesis", 2019) or those of an early step (Frankle et al. 2020, arXiv 1912.05671)
    train            train(weights, masks) gives the trained weights, zeros held: `apply` after each step
    layers           the names of the weights to prune; the others are trained and rewound with them
    left_per_round   the share of the weights still there that stays in each round
    scores           from trained weights to scores by name; `magnitude` unless given
    keep             a name under which trained rounds stay in memory if it is stopped: the same call then goes on

    Round 0 is dense, so rounds + 1 are yielded, and after round r a share left_per_round^r is left.
    Raises PruningError if `train` gives back other weights than zeros where a mask is False.

    >>> [masks["w"].sum() for masks, _ in rewinding({"w": np.arange(10.0)}, lambda w, m: w, ["w"], rounds=3)]
    [np.int64(10), np.int64(8), np.int64(6), np.int64(5)]
    """
    _share("1 - left_per_round", 1 - left_per_round)
    _known(layers, weights)
    masks = {name: np.ones(np.shape(weights[name]), bool) for name in layers}
    about = digest(weights), tuple(layers), rounds, left_per_round
    with kept(keep, about, total=rounds + 1, unit="round") as done:
        for number in bar(range(rounds + 1), desc="rewinding", unit="round"):
            trained = done[number] = done.get(number) or dict(train(apply(weights, masks), dict(masks)))
            for name, stays in masks.items():
                grown = int(np.count_nonzero(trained[name][~stays]))
                if grown:
                    raise PruningError(
                        f"rewinding: {grown} pruned weights of {name} grew back in round {number}; "
                        "train must apply(weights, masks) after each step"
                    )
            yield dict(masks), trained
            found = scores(trained) if scores else {name: magnitude(trained[name]) for name in layers}
            for name, stays in masks.items():
                masks[name] = stays.copy()
                masks[name][stays] = mask(np.asarray(found[name])[stays], 1 - left_per_round)


def sensitivity(
    weights: Arrays, accuracy: Callable[[dict], float], layers: Sequence[str], sparsities: Sequence[float],
    unit: Unit = "weight", keep: str | None = None,
) -> dict[str, dict[float, float]]:  # fmt: skip
    """The accuracy with one layer pruned alone, by magnitude and without retraining: {layer: {sparsity: accuracy}}.

    accuracy   accuracy(weights) of the whole network, `weights` with one layer pruned
    keep       a name under which accuracies stay in memory if it is stopped: the same call then does the others

    Retraining wins much back, so this ranks layers; it does not foretell what a pruned network will reach.

    >>> sensitivity({"a": np.array([3.0, 4.0])}, lambda w: float(w["a"].sum() / 7), ["a"], [0.0, 0.5])
    {'a': {0.0: 1.0, 0.5: 0.5714285714285714}}
    """
    _known(layers, weights)

    def one(setting):
        return accuracy(apply(weights, {setting[0]: mask(magnitude(weights[setting[0]]), setting[1], unit)}))

    settings = dict.fromkeys((name, sparsity) for name in layers for sparsity in sparsities)
    found = each(settings, one, desc="sensitivity", unit="network", keep=keep, about=(digest(weights), unit))
    return {name: {sparsity: found[name, sparsity] for sparsity in sparsities} for name in layers}


# --- L1: zeros from the training itself --------------------------------------------------------


def soft_threshold(weights: np.ndarray, threshold: float, unit: Unit = "weight") -> np.ndarray:
    """Weights moved towards 0 by `threshold`, and exactly 0 where they would pass it: the proximal step of L1.

    It is the v that minimises |v - w|² / 2 + threshold |v|. A gradient step on this penalty jumps over 0 and back:
    it leaves small numbers, no zeros. With a `unit` the units' Euclidean norms are moved, so that whole filters or
    blocks become 0 (group lasso).

    Source: Parikh and Boyd, "Proximal Algorithms" (2014), sections 6.5.2 and 6.5.1 (norms).

    >>> soft_threshold(np.array([3.0, -0.5, -2.0]), 1.0)
    array([ 2., -0., -1.])
    """
    weights = _numbers("soft_threshold", weights=weights)
    if not 0 <= threshold < np.inf:
        raise PruningError(f"soft_threshold(threshold={threshold}): must be 0 or above")
    norms = _spread(np.sqrt(unit_scores(np.square(weights), unit)), weights.shape, unit)
    left = np.maximum(norms - threshold, 0)
    return weights * np.divide(left, norms, out=np.zeros_like(left), where=norms > 0)


# --- checks and small parts --------------------------------------------------------------------


def _threshold(units: np.ndarray, sparsity: float) -> float:
    """The score of the last unit that stays."""
    _share("sparsity", sparsity)
    # In single precision, as tfmot counts: 15 weights at 0.9 leave 2, which in double precision would be 1.
    stay = round(np.float32(units.size) * (np.float32(1) - np.float32(sparsity)))
    stay = min(max(int(stay), 1), units.size) if sparsity else units.size
    return np.partition(units, units.size - stay, axis=None)[units.size - stay]


def _spread(values: np.ndarray, shape: tuple[int, ...], unit: Unit) -> np.ndarray:
    """One value for each weight, from one for each unit."""
    if isinstance(unit, str):
        return np.broadcast_to(values, shape).copy()
    return values.repeat(unit[0], axis=-2).repeat(unit[1], axis=-1)


def _numbers(function: str, **given) -> np.ndarray:
    ((name, values),) = given.items()
    values = np.asarray(values)
    if values.dtype.kind not in "fiu" or values.size == 0:
        raise PruningError(f"{function}: {name} must be numbers, one at least; got {values.dtype} {values.shape}")
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise PruningError(f"{function}: {wrong} of {values.size} {name} are NaN or infinite. Did training diverge?")
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _alike(function: str, **given) -> list[np.ndarray]:
    arrays = [_numbers(function, **{name: values}) for name, values in given.items()]
    if arrays[0].shape != arrays[1].shape:
        raise PruningError(
            f"{function}: {' and '.join(given)} differ in shape, {arrays[0].shape} and {arrays[1].shape}"
        )
    return arrays


def _share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise PruningError(f"{name}={value} must be a share, at least 0 and below 1")


def _known(names: Iterable[str], weights: Arrays) -> None:
    for name in names:
        if name not in weights:
            raise PruningError(f"there are no weights named {name!r}; choose from {', '.join(weights)}")
