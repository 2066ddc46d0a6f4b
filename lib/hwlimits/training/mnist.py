"""MNIST, from the best place there is, and always saying which.

In this order: the file that HWLIMITS_MNIST names; the cache; a download; and with no network the
5,000 images that come with the course. What is loaded says so in `source`, because an accuracy
on 1,000 images and one on 10,000 are two different claims.

The full set is known by its arrays, not by its archive: two compressors give two archives of the
same images. `ARRAYS_SHA256` is the digest of x_train, y_train, x_test, y_test, in this order.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
from filelock import FileLock, Timeout

from hwlimits import data, progress

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
MAX_FILE_BYTES = 100_000_000  # uncompressed, the arrays are 55 MB
LOCK_TIMEOUT_S = 600
CHUNK_BYTES = 16_384
SLOW_AFTER_S, SLOW_BYTES_PER_S = 30, 2_000
WHAT_TO_DO = (
    "Remove the file or fetch it again; or unset HWLIMITS_MNIST and let the course download MNIST; "
    "without a network it then uses the 5,000 images that come with it."
)


class MnistError(ValueError):
    """A file that should be MNIST is not: the message names it and says what to do."""


class UnreadableError(MnistError):
    """A file could not be read, so nothing is known of its content."""


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
    if named := os.environ.get("HWLIMITS_MNIST"):
        return _named(named)
    found = _from_cache_or_download(data.cache_folder() / "mnist.npz")
    if found:
        return found
    if source == "mnist":
        raise MnistError(
            "all of MNIST was asked for, and no mirror gave it: set HWLIMITS_MNIST, or connect to a network"
        )
    print("MNIST: using the 5,000 images that come with the course (source: mnist-5k)")
    return _sample()


def _named(name: str) -> ImageSet:
    path = Path(os.path.expanduser(name))
    try:
        there = "no such file" if not path.exists() else None if path.is_file() else "no file, but a folder or a device"
    except OSError as error:
        there = error.strerror
    if there:
        raise MnistError(f"HWLIMITS_MNIST names {name}, and there is {there}. {WHAT_TO_DO}")
    return _full(path)


def _from_cache_or_download(cached: Path) -> ImageSet | None:
    """The cached file, or a download that is then cached; None if there is neither.

    A file is read without the lock: it is put in its place whole. The lock is for the download:
    a second process waits, and finds the file. A cache that can't be used stops nobody.
    """
    with ExitStack() as held:
        try:
            if cached.is_file():
                return _cached(cached)
            cached.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(f"{cached}.lock", timeout=LOCK_TIMEOUT_S))
        except (OSError, Timeout) as error:
            print(f"MNIST: no cache in {cached.parent} ({error}); set HWLIMITS_CACHE to a folder that can be written")
            content = _download()
            return content and _full(content)
        if cached.is_file():
            return _cached(cached)
        content = _download()
        if content is None:
            return None
        try:
            part = cached.with_suffix(".part")  # one name: what a killed process leaves, the next one replaces
            part.write_bytes(content.getbuffer())
            os.replace(part, cached)
        except OSError as error:
            print(f"MNIST: not kept in {cached.parent} ({error})")
        return _full(content)


def _cached(path: Path) -> ImageSet:
    try:
        return _full(path)
    except UnreadableError:
        raise  # nothing is known of its content: it stays
    except MnistError as error:
        path.unlink()
        raise MnistError(f"{error} It has been removed from the cache: run the same again.") from None


class _Arriving(io.BytesIO):
    """A download in memory, given up if it grows too large or comes too slowly."""

    def __init__(self):
        super().__init__()
        self.started = time.monotonic()

    def write(self, chunk) -> int:
        elapsed_s = time.monotonic() - self.started
        if self.tell() + len(chunk) > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES:,} bytes")
        if elapsed_s > SLOW_AFTER_S and self.tell() < elapsed_s * SLOW_BYTES_PER_S:
            raise ValueError(f"{self.tell():,} bytes came in {elapsed_s:.0f} s")
        return super().write(chunk)


def _download() -> io.BytesIO | None:
    """MNIST from the first mirror that has it; None if no mirror answers. MnistError if one sends something else."""
    refused = None
    for url in MIRRORS:
        arriving = _Arriving()
        try:
            pooch.HTTPDownloader(progressbar=progress.live(), timeout=10, chunk_size=CHUNK_BYTES)(url, arriving, None)
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            print(f"MNIST: not from {url} ({type(error).__name__}: {_clip(error, 120)})")
            continue
        try:
            _full(arriving)
        except MnistError as error:
            refused = MnistError(
                f"The download from {url} is not MNIST; nothing was kept. {error} "
                'Or take the sample that comes with the course: load("mnist-5k").'
            )
            continue
        return arriving
    if refused:
        raise refused
    return None


def _full(source: Path | io.BytesIO) -> ImageSet:
    arrays = _read(source, FULL_SHAPES, ARRAYS_SHA256)
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


def _read(source: Path | io.BytesIO, shapes: dict[str, tuple[int, ...]], expected: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file, once their sizes, shapes and digest are right; headers are read before data."""
    name = "The file" if isinstance(source, io.BytesIO) else str(source)
    try:
        size = len(source.getbuffer()) if isinstance(source, io.BytesIO) else source.stat().st_size
        if size > MAX_FILE_BYTES:
            raise MnistError(f"{name} has {size:,} bytes; MNIST has at most {MAX_FILE_BYTES:,}. {WHAT_TO_DO}")
        arrays = _arrays(source, shapes)
    except (PermissionError, MemoryError, InterruptedError) as error:
        raise UnreadableError(f"{name} can't be read ({type(error).__name__}: {error}). {WHAT_TO_DO}") from None
    except MnistError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and the system each have errors of their own
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO):
            raise UnreadableError(f"{name} can't be read ({error}). {WHAT_TO_DO}") from None
        raise MnistError(
            f"{name} can't be read as MNIST ({type(error).__name__}: {_clip(error)}). Expected arrays with the SHA-256 "
            f"{expected}; found a file with the SHA-256 {_file_digest(source)}. {WHAT_TO_DO}"
        ) from None
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(array)
    if digest.hexdigest() != expected:
        raise MnistError(
            f"{name} is not MNIST: expected arrays with the SHA-256 {expected}, "
            f"found {digest.hexdigest()}. {WHAT_TO_DO}"
        )
    return arrays


def _arrays(source: Path | io.BytesIO, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    arrays = {}
    with zipfile.ZipFile(source) as archive:
        for name, shape in shapes.items():
            # zipfile can't bound what the other methods unpack to
            if archive.getinfo(f"{name}.npy").compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is compressed in a way that no npz file is")
            with archive.open(f"{name}.npy") as member:
                version = np.lib.format.read_magic(member)
                if version != (1, 0):
                    raise ValueError(f"{name} is of npy version {version}")
                found, fortran, dtype = np.lib.format.read_array_header_1_0(member)
                if (found, fortran, dtype) != (shape, False, np.dtype(np.uint8)):
                    raise ValueError(f"{name} has shape {found} and type {dtype}, expected {shape} and uint8")
                size = int(np.prod(shape))
                content = member.read(size + 1)
            if len(content) != size:
                raise ValueError(f"{name} holds {'more' if len(content) > size else 'less'} than {size} bytes")
            arrays[name] = np.frombuffer(content, np.uint8).reshape(shape)
    return arrays


def _file_digest(source: Path | io.BytesIO) -> str:
    if isinstance(source, io.BytesIO):
        return hashlib.sha256(source.getbuffer()).hexdigest()
    try:
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unknown, {error}"


def _clip(error: Exception, longest: int = 300) -> str:
    """One line of an error's text: some quote the file's bytes."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else text[:longest] + "..."
