"""The compression frontier: how few bytes hold a network that reads digits with so many errors.

`train` is one point, a task of `hwlimits.sweep`: a teacher's answers, a student that is told what its codes cost, the
file `hwlimits.hwz` makes of it, and the error of what that file holds, read back. Choices are made with the last 5,000
training images held out; a point that is claimed learns from all 60,000, and the test images are used once for it.

    make results-frontier      the points of `POINTS`, three seeds: data/results/frontier.csv and frontier/*.hwz
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml
from filelock import FileLock

from hwlimits import data as files
from hwlimits import hwz
from hwlimits.compressed import Layer, error_rate, tensor_shapes
from hwlimits.machine import provenance
from hwlimits.sweep import Result, grid, run
from hwlimits.training import mnist, variants
from hwlimits.training.frontier_training import Settings
from hwlimits.training.frontier_training import train as train_student
from hwlimits.training.keras import use_threads

SEEDS = (0, 1, 2)
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

    >>> sum(int(np.prod(shape)) for shape in tensor_shapes((28, 28, 1), layers_of("lenet-5")))
    431080
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
    """
    settings = dict(settings)
    held_out, coding = settings.pop("held_out", 0), settings.pop("coding", "contexts")
    images = mnist.load(settings.pop("source", "best"))
    _one_thread()
    chosen = Settings(**settings)
    layers = layers_of(chosen.architecture)
    taught = _taught(images)
    learn = len(images.x_train) - held_out
    network = train_student(chosen, layers, taught, learn, folder).network()
    content = hwz.dumps(network, code=coding)
    network = hwz.loads(content)
    x, y = (images.x_train[learn:], images.y_train[learn:]) if held_out else (images.x_test, images.y_test)
    row = {
        "parameters": network.parameters,
        "nonzero": int(sum(np.count_nonzero(tensor.codes) for tensor in network.tensors)),
        "file_bytes": len(content),
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
