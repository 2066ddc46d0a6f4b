"""The training images, turned, scaled and moved a little, and what a teacher answers to each: made once, read often.

Dozens of small networks learn from the same teacher. Asking it anew for each image of each epoch would cost more than
the small network's own training; so a fixed set of variants is drawn, the teacher answers once, and a student's epoch
picks one variant for each image. Variant 0 is the image as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from hwlimits.training.keras import keras
from hwlimits.training.mnist import ImageSet, scale

VARIANTS = 12
TURN_DEGREES, SCALE_SHARE, SHIFT_PIXELS = 10.0, 0.1, 2.0
TEACHER_EPOCHS, TEACHER_BATCH = 14, 128


def vary(images: np.ndarray, seed: int, variant: int) -> np.ndarray:
    """Images uint8 (n, height, width), each turned, scaled and moved at random about its middle; variant 0 unchanged.

    Up to 10 degrees, 10 % and 2 pixels, uniformly; linear interpolation, black where nothing was. The same seed and
    variant give the same images.

    >>> vary(np.eye(5, dtype=np.uint8)[None] * 255, seed=0, variant=1)[0].max() > 100
    np.True_
    """
    if variant == 0:
        return images
    rng = np.random.default_rng([seed, variant])
    n, middle = len(images), (np.array(images.shape[1:]) - 1) / 2
    turns = np.deg2rad(rng.uniform(-TURN_DEGREES, TURN_DEGREES, n))
    scales = rng.uniform(1 - SCALE_SHARE, 1 + SCALE_SHARE, n)
    shifts = rng.uniform(-SHIFT_PIXELS, SHIFT_PIXELS, (n, 2))
    varied = np.empty_like(images)
    for i, (turn, factor, shift) in enumerate(zip(turns, scales, shifts, strict=True)):
        back = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / factor
        ndimage.affine_transform(images[i], back, middle - back @ (middle + shift), order=1, output=varied[i])
    return varied


@dataclass(frozen=True)
class Variants:
    """images uint8 (variants, n, height, width); answers float16 (variants, n, classes), the teacher's logits."""

    images: np.ndarray
    answers: np.ndarray
    labels: np.ndarray

    def epoch(self, seed: int, epoch: int, plain_share: float, count: int):
        """Images, labels and answers of one epoch, shuffled: the first `count` images, each in a variant of its own.

        plain_share   of the images, as they are; the others in one of the variants from 1 on

        Raises ValueError for a share below 1 of images that have no other variant.
        """
        if plain_share < 1 and len(self.images) < 2:
            raise ValueError(f"epoch(plain_share={plain_share}): these images have no variants; draw some, or take 1")
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(count)
        which = np.where(rng.random(count) < plain_share, 0, rng.integers(1, max(2, len(self.images)), count))
        return self.images[which, order], self.labels[order].astype(np.int32), self.answers[which, order]


def teacher_network() -> keras.Model:
    """A CNN of 0.2 million parameters that gives logits for images float32 (n, 28, 28, 1) in [0, 1]."""
    layers = keras.layers

    def convolution(filters):
        return [layers.Conv2D(filters, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU()]

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *convolution(24),
            *convolution(24),
            layers.MaxPooling2D(2),
            *convolution(64),
            *convolution(64),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(128, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )


def prepare(data: ImageSet, learn: int, folder: Path, seed: int = 0, variants: int = VARIANTS) -> Variants:
    """Draw the variants, train a teacher on the first `learn` images and keep its answers to all.

    What is in the folder is read, not made again. The arrays are mapped, not loaded: several trainings share them.

    Raises ValueError for a folder with arrays of other images or another number of variants.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = _kept(folder / "images.npy", lambda: _images(data, seed, variants))
    answers = _kept(folder / "answers.npy", lambda: _answers(_teacher(data, images, learn, folder, seed), images))
    for name, found, wanted in (("images", images.shape, (variants + 1, *data.x_train.shape)),
                                ("answers", answers.shape[:2], (variants + 1, len(data.x_train)))):  # fmt: skip
        if found != wanted:
            raise ValueError(f"prepare: {folder / name}.npy has {found}, and {wanted} is wanted; remove the folder")
    return Variants(images, answers, data.y_train)


def _images(data, seed, variants):
    return np.stack([vary(data.x_train, seed, variant) for variant in range(variants + 1)])


def _teacher(data, images, learn, folder, seed):
    keras.utils.set_random_seed(seed)
    model = teacher_network()
    kept = folder / "teacher.weights.h5"
    if kept.exists():
        model.load_weights(kept)
        return model
    steps = -(-learn // TEACHER_BATCH)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, TEACHER_EPOCHS * steps, alpha=0.01)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    for epoch in range(TEACHER_EPOCHS):
        rng = np.random.default_rng([seed, epoch])
        order, which = rng.permutation(learn), rng.integers(0, len(images), learn)
        model.fit(scale(images[which, order]), data.y_train[order], TEACHER_BATCH, shuffle=False, verbose=0)
    part = folder / "part.weights.h5"
    model.save_weights(part)
    os.replace(part, kept)
    return model


def _answers(model, images):
    return np.stack([model.predict(scale(part), batch_size=500, verbose=0).astype(np.float16) for part in images])


def _kept(path: Path, make) -> np.ndarray:
    """The array of a file, mapped; made first if the file is not there, and written whole or not at all."""
    if not path.exists():
        part = path.with_suffix(".part.npy")
        np.save(part, make())
        os.replace(part, path)
    return np.load(path, mmap_mode="r")
