"""The sweep's example: its codes against their own distribution, its row against the coder."""

import numpy as np
import pytest

from hwlimits import coding
from hwlimits.sweep import example, grid, run


@pytest.mark.parametrize("density", [0.02, 0.2])
def test_codes_are_as_frequent_as_said(density):
    codes = example.random_codes(100_000, density, seed=0)
    assert codes.shape == (1000, 100)
    for magnitude in (1, 2, 3):
        expected = density / 2**magnitude
        assert np.mean(np.abs(codes) == magnitude) == pytest.approx(expected, abs=5 * (expected / 100_000) ** 0.5)
    signs = np.sign(codes[codes != 0])
    assert abs(signs.mean()) < 5 / signs.size**0.5


def test_a_row_is_what_the_coder_makes(tmp_path):
    row = example.coded({"size": 500, "density": 0.1, "seed": 3, "code": "rans", "gaps": "rice"}, tmp_path)
    codes = example.random_codes(500, 0.1, 3)
    assert row["bytes"] == len(coding.encode(codes, "rans", gaps="rice"))
    _, counts = np.unique(codes, return_counts=True)
    assert row["entropy"] == pytest.approx(-np.sum(counts * np.log2(counts / 500)) / 8)


def test_it_runs_in_a_sweep_once(tmp_path):
    said = []
    points = grid(size=300, density=[0.1], seed=0, code=["rice", "huffman"])
    first = run(example.coded, points, tmp_path, workers=1, say=said.append)
    again = run(example.coded, points, tmp_path, workers=1, say=said.append)
    assert [done.row for done in first] == [done.row for done in again]
    assert said[-1] == "2 of 2 are there already"
