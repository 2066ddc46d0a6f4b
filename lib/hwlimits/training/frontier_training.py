"""Training of one point of the frontier, in phases: float, pruned, quantized, folded; with a teacher's answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwlimits.compressed import Layer
from hwlimits.training.keras import keras, tf
from hwlimits.training.student import Student
from hwlimits.training.variants import Variants

BATCH = 128
SETTLING = 200  # batches: the moving means forget what was before


@dataclass(frozen=True)
class Settings:
    """How a student is trained. The learning rates fall to 0 by half a cosine in each phase;
    the rate of bits rises over the first half of the quantized one.

    sparsity      share of all kernels' weights that the pruning phase makes zero, largest magnitudes kept
    bits          of a kernel's code; bias_bits: of a gain's or a bias'
    rate          loss for each bit of the kernels' codes, in nats of all 60,000 images together
    temperature   of the teacher's answers; teacher: their weight in the loss (0: labels alone)
    plain_share   of the images that are seen as they are
    damping       loss for each squared distance of a weight to its code, in steps; keeps weights from going back and
                  forth between two codes
    """

    architecture: str
    epochs: int
    quantized_epochs: int
    bits: int = 4
    rate: float = 0.0
    sparsity: float = 0.0
    pruning_epochs: int = 0
    learning_rate: float = 5e-3
    quantized_rate: float = 2e-3
    temperature: float = 2.0
    teacher: float = 0.7
    plain_share: float = 0.5
    folded_epochs: int = 0
    folded_rate: float = 1e-3
    damping: float = 0.0
    bias_bits: int = 5
    seed: int = 0


def train(
    settings: Settings,
    layers: tuple[Layer, ...],
    variants: Variants,
    learn: int,
    folder: Path,
    at_epoch: Callable[[str, int, Student], None] = lambda phase, epoch, student: None,
    input_shape: tuple[int, int, int] = (28, 28, 1),
) -> Student:
    """A quantized student that learnt from the first `learn` images; resumes at the last whole epoch in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    student = Student(input_shape, layers, settings.seed)
    phases = [
        ("float", settings.epochs, settings.learning_rate),
        ("prune", settings.pruning_epochs, settings.learning_rate),
        ("quantize", settings.quantized_epochs, settings.quantized_rate),
        ("fold", settings.folded_epochs, settings.folded_rate),
    ]
    done = 0
    for name, epochs, rate in phases:
        if name == "quantize":
            student.quantize(settings.bits)
        if name == "fold":
            if not (folder / "fold.npz").exists():
                _settle(student, settings, variants, done, learn)
            student.fold(settings.bias_bits)
        if epochs:
            _phase(settings, student, name, epochs, rate, done, variants, learn, folder, at_epoch)
        done += epochs
    return student


def _settle(student: Student, settings: Settings, variants: Variants, epoch: int, learn: int) -> None:
    """Take the normalisation's means and variances anew, of the codes as they are.

    Codes go back and forth from step to step, and a moving mean over these is that of no network. Source: Nagel et
    al., "Overcoming oscillations in quantization-aware training" (2022, arXiv 2203.11086), section 3.3.
    """
    images, _, _ = variants.epoch(settings.seed, epoch, settings.plain_share, learn)
    for start in range(0, min(len(images), SETTLING * BATCH), BATCH):
        part = images[start : start + BATCH].reshape(-1, *student.input_shape)
        student.logits(tf.constant(part, tf.float32) / 255.0, training=True)


def _phase(settings, student, name, epochs, rate, done, variants, learn, folder, at_epoch):
    steps = -(-learn // BATCH)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * steps, alpha=0.0))
    trainable = student.trainable()
    optimizer.build(trainable)
    state = [*student.variables, *optimizer.variables]
    saved = folder / f"{name}.npz"
    start = _restore(saved, state)
    run = _epoch_function(settings, student, optimizer, trainable, name, len(variants.answers[0, 0]))
    for epoch in range(start, epochs):
        if name == "prune":
            _prune(student, settings.sparsity * (1 - (1 - (epoch + 1) / epochs) ** 3))
        images, labels, answers = variants.epoch(settings.seed, done + epoch, settings.plain_share, learn)
        images = images.reshape(len(images), *student.input_shape)
        done_share = (epoch + 1) / epochs if name == "quantize" else 1.0
        rate_now = settings.rate * min(1.0, 2 * done_share) / 60_000
        damping = settings.damping * max(0.0, 2 * done_share - 1)
        weights = tf.constant(rate_now, tf.float32), tf.constant(damping, tf.float32)
        run(tf.constant(images), tf.constant(labels), tf.constant(answers), *weights)
        _save(saved, epoch + 1, state)
        at_epoch(name, epoch, student)


def _epoch_function(settings, student, optimizer, trainable, name, classes):
    temperature, weight = settings.temperature, settings.teacher

    @tf.function
    def epoch(images, labels, answers, rate, damping):
        count = tf.shape(images)[0]
        for start in tf.range(0, count, BATCH):
            part = slice(start, tf.minimum(start + BATCH, count))
            x = tf.cast(images[part], tf.float32) / 255.0
            targets = tf.nn.softmax(tf.cast(answers[part], tf.float32) / temperature)
            with tf.GradientTape() as tape:
                logits = student.logits(x, training=True)
                hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels[part], logits)
                soft = tf.nn.softmax_cross_entropy_with_logits(targets, logits / temperature)
                loss = tf.reduce_mean((1 - weight) * hard + weight * temperature**2 * soft)
                if student.quantized and settings.rate:
                    loss += rate * student.rate_bits()
                if student.quantized and settings.damping:
                    loss += damping * student.distance()
            gradients = tape.gradient(loss, trainable)
            optimizer.apply_gradients(zip(gradients, trainable, strict=True))

    return epoch


def _prune(student: Student, sparsity: float) -> None:
    """Masks of all kernels together: the share `sparsity` of the weights that are smallest beside their tensor's."""
    kernels = [i for i, value in enumerate(student.values) if value.shape.rank > 1]
    weights = [(student.values[i] * student.masks[i]).numpy() for i in kernels]
    scores = [np.abs(w) / max(float(np.sqrt(np.mean(w[w != 0] ** 2))), 1e-9) for w in weights]
    level = np.quantile(np.concatenate([s.ravel() for s in scores]), sparsity)
    for i, score in zip(kernels, scores, strict=True):
        student.masks[i].assign((score > level).astype(np.float32))


def _save(path: Path, epoch: int, state) -> None:
    part = path.with_suffix(".part.npz")
    np.savez(part, np.array(epoch), *(variable.numpy() for variable in state))
    os.replace(part, path)


def _restore(path: Path, state) -> int:
    if not path.exists():
        return 0
    with np.load(path) as saved:
        for i, variable in enumerate(state):
            variable.assign(saved[f"arr_{i + 1}"])
        return int(saved["arr_0"])
