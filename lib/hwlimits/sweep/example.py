"""A task to try a sweep with, done in less than a second: the bytes of random codes in one code."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwlimits import coding


def random_codes(size: int, density: float, seed: int) -> np.ndarray:
    """Codes int64 (size / 100, 100) that are 0 but with the probability `density`, independently; otherwise of one
    size with the probability 1/2, of the next with 1/4, and so on, with either sign.

    >>> random_codes(200, 0.05, seed=1).shape
    (2, 100)
    """
    rng = np.random.default_rng(seed)
    shape = (size // 100, 100)
    return rng.geometric(0.5, shape) * rng.choice([-1, 1], shape) * (rng.random(shape) < density)


def coded(settings: dict, folder: Path) -> dict:
    """A row: `bytes` of `size` random codes of a `density` and `seed` in a `code` (with `gaps`), and their `entropy`
    in bytes. `folder` is not used: there is nothing to go on with.
    """
    codes = random_codes(settings["size"], settings["density"], settings["seed"])
    content = coding.encode(codes, settings["code"], gaps=settings.get("gaps"))
    return {"bytes": len(content), "entropy": coding.entropy_bits(codes) / 8}
