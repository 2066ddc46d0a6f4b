"""What coders are measured on: integer weights of made-up networks by their seeds, and those of stored ones.

An input is a list of int8 tensors, the weights of one model. Made-up weights are Laplace or normal, as trained ones
nearly are; what a real network has besides, such as inputs that no weight uses, is in `rows` and in the stored ones.
"""

from __future__ import annotations

import numpy as np

from hwlimits import data
from hwlimits.sharing import share
from hwlimits.training.litert import LiteRTFile

SEED = 0
# shape, share of weights that pruning left, bits of a code: Han, Mao and Dally, "Deep Compression" (2016), tables
LENET_300_100 = (((784, 300), 0.08, 6), ((300, 100), 0.09, 6), ((100, 10), 0.26, 6))
LENET_5 = (
    ((5, 5, 1, 20), 0.66, 8), ((5, 5, 20, 50), 0.12, 8), ((800, 500), 0.08, 5), ((500, 10), 0.19, 5),
)  # fmt: skip
CNNS = (
    ((3, 3, 1, 6), (3, 3, 6, 8), (3, 3, 8, 10), (10, 10)),
    ((3, 3, 1, 8), (3, 3, 8, 12), (3, 3, 12, 16), (16, 32), (32, 10)),
    ((3, 3, 1, 16), (3, 3, 16, 24), (3, 3, 24, 40), (40, 20), (20, 10)),
)
RANDOM_SHARES = (0.01, 0.05, 0.2)  # of weights that are not 0
STORED = {
    "case study, int8": "results/case_study/quantized-seed0.tflite",
    "faster CNN, int8": "results/fast_cnn.tflite",
}


def made_up() -> dict[str, list[np.ndarray]]:
    """Inputs by name that the seed alone makes: the same integers on every computer with this NumPy."""
    random = np.random.default_rng(SEED)
    found = {}
    for layers in CNNS:
        tensors = [four_bits(random, shape) for shape in layers]
        found[f"dense CNN, {sum(t.size for t in tensors):,} codes of 4 bits"] = tensors
    for kept in RANDOM_SHARES:
        found[f"784 x 300, {100 * kept:g} % not 0"] = [pruned(random, (784, 300), kept)]
    found["784 x 300, 2 % not 0, a third of the rows empty"] = [rows(random)]
    for name, layers in (("LeNet-300-100", LENET_300_100), ("LeNet-5", LENET_5)):
        found[f"{name} as in Deep Compression"] = [shared(random, *layer) for layer in layers]
    return found


def stored() -> dict[str, list[np.ndarray]]:
    """The weights of the stored files: int8 of LiteRT's, and the codes of the frontier's .hwz files."""
    found = {
        name: [layer.weights for layer in LiteRTFile.read(data.path(file)).layers] for name, file in STORED.items()
    }
    return found | frontier()


def frontier() -> dict[str, list[np.ndarray]]:
    """The kernels in data/results/frontier/*-0.hwz, one seed's file of each point, by the files' names; empty without.

    Weights alone, as in the other inputs: the entropy of a dozen biases leaves out the table it needs.
    """
    files = sorted((data.path("results") / "frontier").glob("*-0.hwz"))
    if not files:
        return {}
    from hwlimits import hwz  # not at the top: until there are such files, nothing needs it

    return {file.name: [t.codes for t in hwz.read(file).tensors if t.codes.ndim > 1] for file in files}


def four_bits(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal weights quantized to codes from -7 to 7, the largest weight at the end."""
    weights = random.normal(size=shape)
    return np.round(7 * weights / np.abs(weights).max()).astype(np.int8)


def pruned(random: np.random.Generator, shape: tuple[int, ...], kept: float) -> np.ndarray:
    """Codes from -7 to 7 of Laplace weights at random places; `kept` is the share that is not 0."""
    sizes = 1 + np.minimum(random.geometric(0.4, size=shape) - 1, 6)
    signs = random.choice([-1, 1], size=shape)
    return np.where(random.random(shape) < kept, signs * sizes, 0).astype(np.int8)


def rows(random: np.random.Generator) -> np.ndarray:
    """784 x 300 codes of which 98 % are 0: a third of the rows wholly, as the pixels at an image's edge are, and
    of the others as many as it takes."""
    codes = pruned(random, (784, 300), 0.03)
    codes[random.permutation(784)[: 784 // 3]] = 0
    return codes


def shared(random: np.random.Generator, shape: tuple[int, ...], kept: float, bits: int) -> np.ndarray:
    """Laplace weights, the smaller ones pruned, in a codebook of 2**bits values; a code is the place of its value
    beside 0: -1 is the next one below, 1 the next one above."""
    weights = random.laplace(size=shape)
    weights[np.abs(weights) < np.quantile(np.abs(weights), 1 - kept)] = 0
    found = share(weights, 2**bits)
    order = np.argsort(np.argsort(found.codebook))
    places = order - order[np.flatnonzero(found.codebook == 0)[0]]
    narrow = places.min() >= -128 and places.max() <= 127
    return places.astype(np.int8 if narrow else np.int16)[found.codes]
