"""What the settings of the frontier do: a grid of them, each measured on 5,000 training images that were held out.

    make results-frontier-choices      makes data/results/frontier_choices.csv; resumes

The test images play no part. Trainings are short, a quarter of what the points of the frontier get, and have one seed:
what they tell is which setting matters much, not how far one gets, and no small difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hwlimits import data
from hwlimits.machine.provenance import provenance, require_clean_commit, store_table
from hwlimits.sweep import grid, run
from hwlimits.training import mnist
from hwlimits.training.frontier import CODES, train
from hwlimits.training.frontier_training import Settings

SEED = 100  # none of the frontier's own
HELD_OUT = 5_000
SHORT = {"epochs": 6, "quantized_epochs": 14, "folded_epochs": 3}
DENSE = {
    "architecture": "lenet-300-100", "learning_rate": 1e-3, "quantized_rate": 1e-3, "folded_rate": 2e-4, **SHORT,
}  # fmt: skip
CONVOLUTIONS = {
    "architecture": "cnn-8-10-12-14-16", "learning_rate": 1e-2, "quantized_rate": 4e-3, "folded_rate": 1e-3, **SHORT,
}  # fmt: skip
COLUMNS = (
    "architecture", "sparsity", "bits", "rate", "teacher", "plain_share", "seed", "coding",
    "parameters", "nonzero", "file_bytes", "held_out_error", "images",
)  # fmt: skip


def trials() -> list[dict]:
    """The settings of all trials: bits, price of a bit and pruning beforehand on a dense network; bits, price and
    teacher on a convolutional one."""
    pruned = {"sparsity": 0.9, "pruning_epochs": 4}
    dense = grid(DENSE, DENSE | pruned, bits=[3, 4], rate=[0.0, 1.5], seed=SEED, held_out=HELD_OUT)
    axes = {"bits": [2, 3, 4], "rate": [1.0, 4.0], "teacher": [0.0, 0.7]}
    return dense + grid(CONVOLUTIONS, **axes, seed=SEED, held_out=HELD_OUT)


def rows(settings: dict, found: dict) -> list[dict]:
    """A finished trial as the table's rows, one for each code that its file could be written in."""
    kept = {"sparsity": 0.0, "teacher": Settings.teacher, "plain_share": Settings.plain_share} | settings
    row = {name: kept[name] for name in COLUMNS[:7]}
    row |= {"parameters": found["parameters"], "nonzero": found["nonzero"]}
    row |= {"held_out_error": found["error"], "images": found["images"]}
    return [row | {"coding": code, "file_bytes": found[f"file_bytes_{code}"]} for code in CODES]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m hwlimits.training.frontier_choices", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--scheduler", help="a Dask scheduler's address; without it this computer's cores are used")
    options = parser.parse_args(arguments)
    require_clean_commit()
    mnist.load("mnist")  # or an error now: the table is not of the sample
    made_by = provenance("make results-frontier-choices", seeds=[SEED])
    done = run(train, trials(), Path("build/frontier"), scheduler=options.scheduler)
    table = [row for each in done for row in rows(each.settings, each.row)]
    store_table(data.path("results") / "frontier_choices.csv", COLUMNS, table, made_by)


if __name__ == "__main__":
    main()
