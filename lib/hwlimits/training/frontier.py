"""The compression frontier: how few bytes hold a network that reads digits with so many errors.

`train` is one point, a task of `hwlimits.sweep`: a teacher's answers, a student that is told what its codes cost, the
file `hwlimits.hwz` makes of it, and the error of what that file holds, read back. Choices are made with the last 5,000
training images held out; a point that is claimed learns from all 60,000, and the test images are used once for it.

    make results-frontier      the points of `POINTS`, three seeds: data/results/frontier.csv and frontier/*.hwz
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from hwlimits import coding, hwz
from hwlimits import data as files
from hwlimits.compressed import Layer, error_rate, sort_channels
from hwlimits.machine import provenance
from hwlimits.sweep import Result, run
from hwlimits.training import mnist, variants
from hwlimits.training.frontier_training import Settings
from hwlimits.training.frontier_training import train as train_student
from hwlimits.training.keras import use_threads

SEEDS = (0, 1, 2)
CODES = ("huffman", "rans", "contexts")  # whose sizes a row has, whatever its file is in
TEACHER_HELD_OUT = 5_000  # the teacher never sees these, whoever learns from it
COLUMNS = (
    "name", "architecture", "parameters", "nonzero", "file_bytes", "test_error", "test_images", "seed", "source",
    "max_bytes", "max_error", "counts", "bits", "rate", "sparsity", "teacher", "coding", "file",
)  # fmt: skip

# What is claimed: at most so many bytes with at most such a share of errors.
TARGETS = {
    "lenet-300-100": (17_774, 0.0164),
    "lenet-5": (8_621, 0.0080),
    "700 B": (700, 0.0100),
    "1,400 B": (1_400, 0.0069),
    "6 kB": (6_000, 0.0045),
}


def layers_of(architecture: str) -> tuple[Layer, ...]:
    """The layers by name: 'lenet-300-100', 'lenet-5' (Caffe's), or 'cnn-' and the filters of its five convolutions.

    The convolutions are 3 x 3: one, max pool, two, max pool, two (the first of them padded), the mean over the
    image, and a dense layer of ten.

    >>> [layer.units for layer in layers_of("lenet-5") if layer.units]
    [20, 50, 500, 10]
    """
    pool = Layer("max_pool", kernel=2)
    if architecture == "lenet-300-100":
        return (Layer("flatten"), Layer("dense", 300, relu=True), Layer("dense", 100, relu=True), Layer("dense", 10))
    if architecture == "lenet-5":
        dense = Layer("flatten"), Layer("dense", 500, relu=True), Layer("dense", 10)
        return (Layer("conv", 20, 5), pool, Layer("conv", 50, 5), pool, *dense)
    kind, *widths = architecture.split("-")
    if kind != "cnn" or len(widths) != 5 or not all(width.isdecimal() and int(width) for width in widths):
        raise ValueError(
            f"layers_of({architecture!r}): choose 'lenet-300-100', 'lenet-5' or 'cnn-a-b-c-d-e', filters by number"
        )
    convolutions = [
        Layer("conv", int(width), 3, same=number == 3, gain=True, relu=True) for number, width in enumerate(widths)
    ]
    first, second, third, fourth, fifth = convolutions
    return (first, pool, second, third, pool, fourth, fifth, Layer("global_mean"), Layer("dense", 10))


def train(settings: dict, folder: Path) -> Result:
    """One point. `settings`: those of `Settings`, and `held_out` training images, `coding`, `source` of the images.

    With `held_out` 0 the error is of the test images, otherwise of those held out. The row names which.
    Raises ValueError, before anything is trained, for settings that can't be.
    """
    settings = dict(settings)
    held_out, code = settings.pop("held_out", 0), settings.pop("coding", "contexts")
    source = settings.pop("source", "best")
    chosen = Settings(**settings)
    layers = layers_of(chosen.architecture)
    coding.check_code(code, None)
    images = mnist.load(source)
    if isinstance(held_out, bool) or not isinstance(held_out, int) or not 0 <= held_out < len(images.x_train):
        raise ValueError(f"train(held_out={held_out!r}): there are {len(images.x_train):,} training images")
    _one_thread()
    taught = _taught(images)
    learn = len(images.x_train) - held_out
    network = sort_channels(train_student(chosen, layers, taught, learn, folder).network())
    content = hwz.dumps(network, code=code)
    network = hwz.loads(content)
    x, y = (images.x_train[learn:], images.y_train[learn:]) if held_out else (images.x_test, images.y_test)
    row = {
        "parameters": network.parameters,
        "nonzero": int(sum(np.count_nonzero(tensor.codes) for tensor in network.tensors)),
        "file_bytes": len(content),
        **{f"file_bytes_{each}": len(hwz.dumps(network, code=each)) for each in CODES},
        "error": error_rate(network, x, y),
        "images": len(x),
        "of": "held out" if held_out else "test",
        "data": images.source,
    }
    return Result(row, {"network.hwz": content})


@functools.cache
def _one_thread() -> None:
    """Once a process: a sum over two threads depends on which ends first."""
    use_threads(1)


def _taught(images: mnist.ImageSet) -> variants.Variants:
    """The variants and the teacher's answers, in the cache: the first task that needs them makes them."""
    held_out = min(TEACHER_HELD_OUT, len(images.x_train) // 8)
    folder = files.cache_folder() / f"teacher-{images.source}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        return variants.prepare(images, len(images.x_train) - held_out, folder)


# How each point is trained. Found by single trainings with 5,000 training images held out (`--held-out`); what the
# settings do is shown by `make results-frontier-choices`.
POINTS = {
    "lenet-300-100": {
        "architecture": "lenet-300-100", "bits": 4, "rate": 3.0, "learning_rate": 1e-3, "quantized_rate": 1e-3,
        "folded_rate": 2e-4, "epochs": 20, "quantized_epochs": 60, "folded_epochs": 10,
    },
    "lenet-5": {
        "architecture": "lenet-5", "bits": 3, "rate": 1.2, "learning_rate": 1e-3, "quantized_rate": 1e-3,
        "folded_rate": 2e-4, "epochs": 5, "quantized_epochs": 30, "folded_epochs": 5,
    },
    "700 B": {
        "architecture": "cnn-8-10-12-14-16", "bits": 3, "rate": 3.8, "learning_rate": 1e-2, "quantized_rate": 4e-3,
        "folded_rate": 1e-3, "epochs": 12, "quantized_epochs": 70, "folded_epochs": 6, "plain_share": 0.8,
    },
    "1,400 B": {
        "architecture": "cnn-10-12-14-16-20", "bits": 3, "rate": 0.8, "learning_rate": 1e-2, "quantized_rate": 4e-3,
        "folded_rate": 1e-3, "epochs": 10, "quantized_epochs": 50, "folded_epochs": 6, "plain_share": 0.6,
    },
    "6 kB": {
        "architecture": "cnn-16-20-24-28-32", "bits": 3, "rate": 0.12, "learning_rate": 8e-3, "quantized_rate": 3e-3,
        "folded_rate": 1e-3, "epochs": 8, "quantized_epochs": 40, "folded_epochs": 5, "plain_share": 0.4,
    },
}  # fmt: skip


def measure(
    points: Sequence[str], seeds: Sequence[int] = SEEDS, held_out: int = 0, **sweep
) -> list[tuple[dict, bytes]]:
    """The table's rows and their files, of points by name, trained on a cluster; `sweep` goes to `sweep.run`.

    With `held_out` training images 'test_error' and 'test_images' are of these. Raises SweepError as `run` does.
    """
    settings = [dict(POINTS[name], seed=seed, held_out=held_out) for name in points for seed in seeds]
    named = [name for name in points for _ in seeds]
    found = []
    for name, done in zip(named, run(train, settings, **sweep), strict=True):
        content = (done.folder / "network.hwz").read_bytes()
        found.append((_row(name, done.settings, done.row), content))
    return found


def _row(name: str, settings: dict, row: dict) -> dict:
    chosen = Settings(**{key: value for key, value in settings.items() if key in Settings.__dataclass_fields__})
    most_bytes, most_error = TARGETS[name]
    return {
        "name": name,
        "architecture": chosen.architecture,
        "parameters": row["parameters"],
        "nonzero": row["nonzero"],
        "file_bytes": row["file_bytes"],
        "test_error": row["error"],
        "test_images": row["images"],
        "seed": chosen.seed,
        "source": "ours",
        "max_bytes": most_bytes,
        "max_error": most_error,
        "counts": "the file: layers, steps, gains, biases, codes, checksum",
        "bits": chosen.bits,
        "rate": chosen.rate,
        "sparsity": chosen.sparsity,
        "teacher": chosen.teacher,
        "coding": settings.get("coding", "contexts"),
        "file": f"frontier/{file_name(name, chosen.seed)}",
    }


def file_name(point: str, seed: int) -> str:
    """Where a point's file lies in data/results/frontier.

    >>> file_name("1,400 B", 2)
    '1400-b-2.hwz'
    """
    return f"{point.lower().replace(',', '').replace(' ', '-')}-{seed}.hwz"


def published() -> list[dict]:
    """The rows of data/papers.yaml, in the table's columns."""
    from hwlimits.training import frontier_report  # draws: a worker need not load that

    return [
        {
            "name": paper["name"],
            "architecture": paper["architecture"],
            "file_bytes": paper["file_bytes"],
            "test_error": paper["error"],
            "test_images": 10_000,
            "source": paper["source"],
            "counts": paper["counts"],
        }
        for paper in frontier_report.records()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.frontier", description=__doc__.split("\n")[0])
    parser.add_argument("--points", nargs="*", default=list(POINTS), choices=list(POINTS), help="only these")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--scheduler", help="a Dask scheduler's address; without it this computer's cores are used")
    parser.add_argument("--held-out", type=int, default=0, help="print the errors of so many training images instead")
    options = parser.parse_args(arguments)
    if not options.held_out:
        provenance.require_clean_commit()
        mnist.load("mnist")  # or an error now: the table is not of the sample
    made_by = provenance.provenance("make results-frontier", seeds=options.seeds)
    found = measure(
        options.points, options.seeds, options.held_out, folder=Path("build/frontier"), scheduler=options.scheduler
    )
    for row, _ in found:
        print(f"{row['name']:>15} seed {row['seed']}: {row['file_bytes']:>7,} bytes, {row['test_error']:.2%} errors")
    if options.held_out:
        return
    results = files.path("results")
    folder = results / "frontier"
    folder.mkdir(exist_ok=True)
    for row, content in found:
        (results / row["file"]).write_bytes(content)
    kept = [row for row, _ in found]
    provenance.store_table(results / "frontier.csv", COLUMNS, [*kept, *published()], made_by)


if __name__ == "__main__":
    from hwlimits.training import frontier  # other processes import `train` by this name; '__main__' is none of theirs

    frontier.main()
