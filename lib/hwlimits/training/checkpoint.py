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
