"""Training in phases, the same bit for bit whether it was interrupted or not.

A recipe is a list of phases; each starts from the plain weights that the last one ended with,
changes the model (prunes it, quantizes it, or leaves it) and trains it, with an optimiser of its
own unless it says otherwise. The order of the images and their shifts are drawn from (seed,
epoch), and after each epoch weights and optimiser are saved: to resume is to go on.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hwlimits.training import checkpoint, prune, quantize
from hwlimits.training.distill import Teacher
from hwlimits.training.keras import keras
from hwlimits.training.mnist import ImageSet, scale
from hwlimits.training.recipe import Phase, Recipe


def run(
    model: keras.Model,
    recipe: Recipe,
    data: ImageSet,
    seed: int,
    folder: Path,
    at_stage: Callable[[str, keras.Model], None],
    at_epoch: Callable[[int], None] = lambda epoch: None,
    teacher: Teacher | None = None,
) -> keras.Model:
    """Train `model` by `recipe` and call `at_stage(stage, model)` where the recipe says so.

    `folder` holds what is needed to go on after an interruption. Pruned models arrive at
    `at_stage` stripped, quantization-aware ones as they are. `at_epoch` hears of each epoch. With a
    `teacher` the model learns from its answers, too, to the images as they are shifted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = 0
    for number, phase in enumerate(recipe.phases):
        model = _fit_phase(model, recipe, number, done, data, seed, folder, at_stage, at_epoch, teacher)
        done += phase.epochs
    return model


def _fit_phase(model, recipe, number, done, data, seed, folder, at_stage, at_epoch, teacher):
    """One phase. Its end is saved, so that a run that goes on later starts the next phase from there."""
    phase, ended = recipe.phases[number], folder / f"phase-{number}.npz"
    if ended.exists():
        if phase.form == "quantize":  # its ranges are among the weights
            model = _shape(model, recipe, phase, 1)
        model.set_weights(checkpoint.restore(ended)[: len(model.get_weights())])
        return model
    count = round(phase.share * len(data.x_train))
    steps = math.ceil(count / recipe.batch)
    model = _shape(model, recipe, phase, steps)
    rate = phase.learning_rate
    if phase.decay:
        rate = keras.optimizers.schedules.CosineDecay(rate, phase.epochs * steps, alpha=0.01)
    model.compile(keras.optimizers.Adam(rate), teacher.loss if teacher else "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    if not phase.fresh:
        checkpoint.assign(model, checkpoint.restore(folder / f"phase-{number - 1}.npz"))
    start = _resume(model, folder, number)
    pruned = phase.form in ("prune", "hold")
    for epoch in range(start, phase.epochs):
        at_epoch(done + epoch)
        images, labels = epoch_images(data, count, recipe.shift_pixels, seed, done + epoch)
        if teacher:
            labels = teacher.targets(images, labels)
        model.fit(
            images, labels, batch_size=recipe.batch, shuffle=False, verbose=0,
            callbacks=prune.callbacks(recipe.engine) if pruned else [],
        )  # fmt: skip
        gc.collect()  # `fit` leaves its data set in a cycle of references: 0.2 GB an epoch on all of MNIST
        stage = recipe.stages.get(done + epoch + 1)
        if stage:
            at_stage(stage, prune.strip(model) if pruned else model)
        checkpoint.save(folder / "epoch.npz", [np.array([number, epoch + 1]), *checkpoint.state(model)])
    at_epoch(done + phase.epochs)
    state = checkpoint.state(model)
    if pruned:
        model = prune.strip(model)
        prune.check_sparsity(prune.layer_sparsity(model), phase.sparsity)
        state = model.get_weights()
    checkpoint.save(ended, state)
    return model


def epoch_images(data: ImageSet, count: int, shift_pixels: int, seed: int, epoch: int):
    """Images float32 (count, height, width, channels) in [0, 1] and labels, shuffled and shifted for one epoch.

    Each image moves by up to `shift_pixels` in both directions; what moves in is black.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(count)
    images, labels = data.x_train[order], data.y_train[order]
    if shift_pixels:
        height, width = images.shape[1:3]
        margins = [(0, 0), (shift_pixels,) * 2, (shift_pixels,) * 2] + [(0, 0)] * (images.ndim - 3)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, margins), (height, width), axis=(1, 2))
        down, right = rng.integers(0, 2 * shift_pixels + 1, (2, count))
        images = windows[np.arange(count), down, right]
        if images.ndim == 4:  # a window's own axes come last: channels back behind them
            images = np.moveaxis(images, 1, -1)
    return scale(images), labels.astype(np.int32)


def _shape(model: keras.Model, recipe: Recipe, phase: Phase, steps_per_epoch: int) -> keras.Model:
    if phase.form == "dense":
        return model
    if phase.form == "quantize":
        pruned_before = any(other.sparsity for other in recipe.phases)
        return quantize.aware(model, recipe.engine, bits=phase.bits, keep_zeros=pruned_before)
    ramp = phase.epochs * steps_per_epoch if phase.form == "prune" else 0
    steps = {"ramp_steps": ramp, "steps_per_epoch": steps_per_epoch}
    return prune.prunable(model, phase.sparsity, **steps, engine=recipe.engine)


def _resume(model: keras.Model, folder: Path, number: int) -> int:
    """Load the state saved in this phase, if there is one; the number of epochs already done."""
    saved = folder / "epoch.npz"
    if not saved.exists():
        return 0
    where, *state = checkpoint.restore(saved)
    if where[0] != number:
        return 0
    checkpoint.assign(model, state)
    return int(where[1])
