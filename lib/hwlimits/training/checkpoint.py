"""Arrays of a training in a file that is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def save(path: Path, arrays: Iterable[np.ndarray]) -> None:
    """Write the arrays in their order, as .npz: what is interrupted keeps a name of its own, .part.npz."""
    part = path.with_suffix(".part.npz")
    np.savez(part, *arrays)
    os.replace(part, path)


def restore(path: Path) -> list[np.ndarray]:
    """The arrays that `save` wrote, in that order."""
    with np.load(path) as arrays:
        return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]


def state(model) -> list[np.ndarray]:
    """A Keras model's weights, then its optimiser's variables, as arrays that later steps don't change."""
    return model.get_weights() + [v.numpy().copy() for v in model.optimizer.variables]


def assign(model, arrays: list[np.ndarray]) -> None:
    """Put what `state` gave back into a model that is built and compiled alike."""
    weights = len(model.get_weights())
    model.set_weights(arrays[:weights])
    for variable, value in zip(model.optimizer.variables, arrays[weights:], strict=True):
        variable.assign(value)
