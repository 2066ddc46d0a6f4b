"""MNIST, from the best place there is, and always saying which.

In this order: the file that HWLIMITS_MNIST names; the cache; a download; and with no network the
5,000 images that come with the course. What is loaded says so in `source`, because an accuracy
on 1,000 images and one on 10,000 are two different claims.

The full set is known by its arrays, not by its archive: two compressors give two archives of the
same images. `ARRAYS_SHA256` is the digest of x_train, y_train, x_test, y_test, in this order.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
from filelock import FileLock

from hwlimits import data

ARRAYS_SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
SAMPLE_SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
MIRRORS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "https://s3.amazonaws.com/img-datasets/mnist.npz",
)
FULL_SHAPES = {
    "x_train": (60_000, 28, 28), "y_train": (60_000,), "x_test": (10_000, 28, 28), "y_test": (10_000,)
}  # fmt: skip
SAMPLE_SHAPES = {"images": (5_000, 28, 28), "labels": (5_000,)}
WHAT_TO_DO = (
    "Remove the file or fetch it again; or unset HWLIMITS_MNIST and let the course download MNIST; "
    "without a network it then uses the 5,000 images that come with it."
)


class MnistError(ValueError):
    """A file that should be MNIST is not: the message names it and says what to do."""


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 (n, height, width) or (n, height, width, channels), and labels (n,) from 0 up.

    `source` says what they are: 'mnist' (all 70,000 images), 'mnist-5k' (the sample; 4,000 to
    train, 1,000 to test), or whatever your own images are called.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    source: str

    def hold_out(self, images: int = 5_000) -> ImageSet:
        """The same training set with its last `images` put in place of the test images.

        Choices are made on these, so that the test images stay unread until the end.
        """
        if not 0 < images < len(self.x_train):
            raise ValueError(f"hold_out({images}): there are {len(self.x_train):,} training images")
        cut = len(self.x_train) - images
        x, y = self.x_train, self.y_train
        return ImageSet(x[:cut], y[:cut], x[cut:], y[cut:], f"{self.source}, {images} held out")


def scale(images: np.ndarray) -> np.ndarray:
    """uint8 images to float32 (n, height, width, channels) in [0, 1], what the networks take.

    >>> scale(np.full((2, 28, 28), 255, np.uint8)).shape
    (2, 28, 28, 1)
    """
    if images.ndim == 3:
        images = images[..., None]
    return images.astype(np.float32) / 255


def load(source: str = "best") -> ImageSet:
    """Load MNIST: 'best' takes the best there is, 'mnist-5k' always the sample, 'mnist' all of it or nothing.

    Raises MnistError for a file that is truncated, corrupt or of another shape. What is missing
    is no error: the next place in the order is tried (but a file named by HWLIMITS_MNIST must be
    there: to ask for one and get another would be a surprise).

    >>> sample = load("mnist-5k")
    >>> len(sample.x_train), len(sample.x_test), sample.source
    (4000, 1000, 'mnist-5k')
    """
    if source not in ("best", "mnist", "mnist-5k"):
        raise ValueError(f"load({source!r}): the source is 'best', 'mnist' or 'mnist-5k'")
    if source == "mnist-5k":
        return _sample()
    named = os.environ.get("HWLIMITS_MNIST")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise MnistError(f"HWLIMITS_MNIST names {named}, and there is no such file. {WHAT_TO_DO}")
        return _full(path)
    cached = _writable(cache_folder()) / "mnist.npz"
    with FileLock(str(cached) + ".lock"):  # a second process waits, and finds the file
        if cached.exists():
            try:
                return _full(cached)
            except MnistError as error:
                cached.unlink()
                raise MnistError(f"{error} It has been removed from the cache: run the same again.") from None
        found = _download(cached)
    if found:
        return found
    if source == "mnist":
        raise MnistError(
            "all of MNIST was asked for, and no mirror answers: set HWLIMITS_MNIST, or connect to a network"
        )
    print("MNIST: no network; using the 5,000 images that come with the course (source: mnist-5k)")
    return _sample()


def cache_folder() -> Path:
    """Where downloads are kept: HWLIMITS_CACHE, or the system's usual place."""
    return Path(os.environ.get("HWLIMITS_CACHE") or pooch.os_cache("hwlimits"))


def _writable(folder: Path) -> Path:
    """The folder, made if need be; where that can't be, a temporary one for this process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        print(f"MNIST: no cache in {folder} ({error.strerror}); set HWLIMITS_CACHE to a folder that can be written")
        return Path(tempfile.mkdtemp(prefix="hwlimits-"))


def _download(target: Path) -> ImageSet | None:
    """Fetch MNIST into `target`; None if no mirror answers. A file is moved there once it is right."""
    refused = None
    for url in MIRRORS:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            arrived = Path(folder) / "mnist.npz"
            try:
                pooch.HTTPDownloader(progressbar=True, timeout=10)(url, str(arrived), None)
            except Exception as error:  # every client error means the same here: not from this mirror
                print(f"MNIST: no answer from {url} ({type(error).__name__})")
                continue
            try:
                found = _full(arrived)
            except MnistError as error:
                refused = MnistError(f"The download from {url} is not MNIST. {error}")
                continue
            os.replace(arrived, target)
            return found
    if refused:
        raise refused
    return None


def _full(path: Path) -> ImageSet:
    arrays = _read(path, FULL_SHAPES, ARRAYS_SHA256)
    return ImageSet(*arrays.values(), source="mnist")


def _sample() -> ImageSet:
    """Every fifth image of a digit is a test image: 400 to train and 100 to test of each.

    The file is sorted by digit; here the digits take turns, so that any part of the images has all.
    """
    images, labels = _read(data.path("mnist-5k.npz"), SAMPLE_SHAPES, SAMPLE_SHA256).values()
    turns = np.stack([np.flatnonzero(labels == digit) for digit in range(10)], axis=1)  # (500, 10)
    test = np.arange(len(turns)) % 5 == 4
    train, test = turns[~test].ravel(), turns[test].ravel()
    return ImageSet(images[train], labels[train], images[test], labels[test], "mnist-5k")


def _read(path: Path, shapes: dict[str, tuple[int, ...]], expected: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file, after their shapes and digest; headers are read before data."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name, shape in shapes.items():
                with archive.open(f"{name}.npy") as member:
                    found = _header(member)
                    if found != (shape, np.dtype(np.uint8)):
                        raise MnistError(
                            f"{path}: {name} has shape {found[0]} and type {found[1]}, "
                            f"expected {shape} uint8; its digest was not computed "
                            f"(expected {expected}, of the file {_file_digest(path)}). {WHAT_TO_DO}"
                        )
                    size = int(np.prod(shape))
                    content = member.read(size + 1)
                if len(content) != size:
                    raise ValueError(f"{name} holds {len(content)} bytes or more, not {size}")
                arrays[name] = np.frombuffer(content, np.uint8).reshape(shape)
    except MnistError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and the system each have errors of their own
        raise MnistError(
            f"{path} can't be read as MNIST ({type(error).__name__}: {error}). Expected arrays with the SHA-256 "
            f"{expected}; found a file with the SHA-256 {_file_digest(path)}. {WHAT_TO_DO}"
        ) from None
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(array)
    if digest.hexdigest() != expected:
        raise MnistError(
            f"{path} is not MNIST: expected arrays with the SHA-256 {expected}, "
            f"found {digest.hexdigest()}. {WHAT_TO_DO}"
        )
    return arrays


def _header(member) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError(f"an array of npy version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    if fortran:
        raise ValueError("an array in Fortran order")
    return shape, dtype


def _file_digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unknown, {error}"
