"""The networks of the faster case study: the article's CNN with filters removed, with weights pruned, and both.

A tree of trainings. At its root is the article's CNN; a branch starts from the weights that another one ended with,
takes filters out of it or prunes its weights, and trains on, with the root as its teacher. All see the first 55,000
training images, shifted by up to two pixels; the last 5,000 are held out, for choices. A network that was designed
small and trained from scratch stands beside the tree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from hwlimits import pruning
from hwlimits.training import export, fit
from hwlimits.training.distill import Teacher
from hwlimits.training.keras import keras
from hwlimits.training.mnist import ImageSet, scale
from hwlimits.training.models import IMAGE_SHAPE, article_cnn
from hwlimits.training.recipe import Phase, Recipe
from hwlimits.training.remove_filters import remove_filters

SEED = 0
BATCH, SHIFT_PIXELS = 64, 2
EXAMPLES = 200  # training images from which an int8 file has the ranges of its activations
FULL_EPOCHS = {"base": 16, "narrow": 15, "prune": 3, "hold": 2, "designed": 15}
# What is left of the article's 32, 64 and 64 filters and units.
WIDTHS = {
    "12-24-48": {"conv1": 12, "conv2": 24, "dense1": 48},
    "16-32-64": {"conv1": 16, "conv2": 32},
    "8-16-32": {"conv1": 8, "conv2": 16, "dense1": 32},
}
SPARSITY = {"conv2": 0.7, "dense1": 0.8}  # of a network that is narrow already
FULL_SPARSITY = {"conv2": 0.92, "dense1": 0.95}


def designed_cnn() -> keras.Model:
    """A small CNN that steps instead of pooling: three convolutions with a stride, and one dense layer.

    Takes images float32 (n, 28, 28, 1) in [0, 1], gives class probabilities (n, 10).

    >>> designed_cnn().count_params()
    8578
    """
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            layers.Conv2D(8, 3, strides=2, activation="relu", name="conv1"),
            layers.Conv2D(16, 3, strides=2, activation="relu", name="conv2"),
            layers.Conv2D(24, 3, activation="relu", name="conv3"),
            layers.Flatten(name="flatten"),
            layers.Dense(10, activation="softmax", name="dense"),
        ],
        name="designed_cnn",
    )


@dataclasses.dataclass(frozen=True)
class Branch:
    """One training of the tree.

    name      of the network that it ends with
    phases    as in a Recipe
    parent    the branch that it starts from; None for `build`'s fresh weights
    widths    filters or units that are kept of the parent's layers, those of the largest L1 norm
    build     makes the model where there is no parent
    teacher   the branch whose answers it learns from, if any
    """

    name: str
    phases: tuple[Phase, ...]
    parent: Branch | None = None
    widths: dict[str, int] = dataclasses.field(default_factory=dict)
    build: Callable[[], keras.Model] = article_cnn
    teacher: Branch | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.name, BATCH, SHIFT_PIXELS, self.phases, {})

    def mark(self, source: str) -> str:
        """Ten digits that change with all that this training depends on, its parent's and its teacher's mark too."""
        before = [branch and branch.mark(source) for branch in (self.parent, self.teacher)]
        what = [source, self.recipe.identity(), before, self.widths, self.build.__name__, SEED]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]

    def folder(self, source: str, build: Path) -> Path:
        return build / f"{self.name}-{self.mark(source)}"

    def model(self, data: ImageSet, build: Path) -> keras.Model:
        """The trained model: its weights are read where it was trained before, and it is trained where not."""
        if self.parent:
            model = narrowed(self.parent.model(data, build), self.widths)
        else:
            keras.utils.set_random_seed(SEED)
            model = self.build()
        folder = self.folder(data.source, build)
        trained = (folder / f"phase-{len(self.phases) - 1}.npz").exists()
        teacher = None if trained or not self.teacher else Teacher(self.teacher.model(data, build))

        def at_epoch(epoch):
            if not trained:
                print(f"{self.name}: epoch {epoch} of {self.recipe.epochs}", file=sys.stderr, flush=True)

        return fit.run(model, self.recipe, data, SEED, folder, lambda *_: None, at_epoch, teacher)

    def record(self) -> dict:
        """What a result says of this training; optimiser, batch and shifts are the same for all."""
        return {
            "parent": self.parent and self.parent.name,
            "teacher": self.teacher and self.teacher.name,
            "widths": dict(self.widths),
            "phases": list(self.recipe.identity()["phases"]),
            "batch": BATCH,
            "shift_pixels": SHIFT_PIXELS,
        }


def narrowed(model: keras.Model, widths: dict[str, int]) -> keras.Model:
    """The model with so many filters of each layer named, those of the largest L1 norm; the others are removed.

    >>> narrowed(article_cnn(), WIDTHS["8-16-32"]).count_params()
    14410
    """
    keep = {}
    for name, width in widths.items():
        scores = pruning.unit_scores(pruning.magnitude(model.get_layer(name).kernel.numpy()), "filter")
        if not 0 < width <= scores.size:
            raise pruning.PruningError(f"narrowed: {width} filters of {name}, which has {scores.size}; keep 1 to all")
        keep[name] = pruning.mask(scores, 1 - width / scores.size)
    return remove_filters(model, keep) if keep else model


def branches(epochs: dict[str, int] | None = None) -> dict[str, Branch]:
    """The trainings by name. `epochs` are those of `FULL_EPOCHS` unless given: tests have fewer.

    >>> list(branches())[:3]
    ['base', '12-24-48', '12-24-48 sparse']
    """
    count = epochs or FULL_EPOCHS
    base = Branch("base", (Phase(count["base"], 2e-3),))
    found = [base]

    def sparse(parent: Branch, sparsity: dict[str, float]) -> Branch:
        pruning_phase = Phase(count["prune"], 1e-3, "prune", sparsity=sparsity)
        holding_phase = Phase(count["hold"], 1e-3, "hold", sparsity=sparsity)
        return Branch(f"{parent.name} sparse", (pruning_phase, holding_phase), parent, teacher=base)

    for name, widths in WIDTHS.items():
        dense = Branch(name, (Phase(count["narrow"], 2e-3),), base, widths, teacher=base)
        found += [dense, sparse(dense, SPARSITY)]
    found.append(sparse(base, FULL_SPARSITY))
    found.append(Branch("designed", (Phase(count["designed"], 2e-3),), build=designed_cnn))
    return {branch.name: branch for branch in found}


def files(tree: Mapping[str, Branch], data: ImageSet, build: Path) -> dict[str, dict[str, bytes]]:
    """LiteRT files of every network of a tree: 'float32', and of those without pruned weights 'int8'.

    The int8 files have their ranges from training images, without further training.
    """
    found = {}
    examples = [[image[None]] for image in scale(data.x_train[:EXAMPLES])]
    for name, branch in tree.items():
        model = branch.model(data, build)
        found[name] = {"float32": export.to_float32(model)}
        if not any(phase.sparsity for phase in branch.phases):
            found[name]["int8"] = export.after_training(model, "int8", examples)
    return found
