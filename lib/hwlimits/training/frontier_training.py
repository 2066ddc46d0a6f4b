"""Training of one point of the frontier, in phases: float, pruned, quantized, folded; with a teacher's answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from hwlimits import progress
from hwlimits.compressed import Layer
from hwlimits.training import checkpoint, distill
from hwlimits.training.keras import keras, tf
from hwlimits.training.student import MOST_BITS, Student
from hwlimits.training.variants import Variants

BATCH = 128
SETTLING = 200  # batches: the moving means forget what was before


@dataclass(frozen=True)
class Settings:
    """How a student is trained. The learning rates fall to 0 by half a cosine in each phase;
    the rate of bits rises over the first half of the quantized one, damping over the second.

    epochs        with float weights; then pruning_epochs, quantized_epochs (kernels as codes) and folded_epochs (all
                  as codes); learning_rate is that of the first two, quantized_rate and folded_rate of the others
    sparsity      share of all kernels' weights that the pruning phase makes zero; those stay that are largest beside
                  their own tensor's root mean square
    bits          of a kernel's code; bias_bits: of a gain's or a bias'
    rate          loss for each bit of the kernels' codes, in nats of all 60,000 images together
    temperature   of the teacher's answers; teacher: their weight in the loss (0: labels alone)
    plain_share   of the images that are seen as they are
    damping       loss for each squared distance of a weight to its code, in steps; keeps weights from going back and
                  forth between two codes

    Raises ValueError that names the setting, for one that can't be.
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

    def __post_init__(self):
        whole = dict.fromkeys(("epochs", "pruning_epochs", "quantized_epochs", "folded_epochs", "seed"), (0, np.inf))
        for name, (low, high) in (whole | dict.fromkeys(("bits", "bias_bits"), (2, MOST_BITS))).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
                raise ValueError(f"Settings({name}={value!r}): must be a whole number {_range(low, high)}")
        distill.check_temperature("Settings", self.temperature)
        for name, high in (("teacher", 1), ("plain_share", 1), ("rate", np.inf), ("damping", np.inf)):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= value <= high or value == np.inf:
                raise ValueError(f"Settings({name}={value!r}): must be a number {_range(0, high)}")
        for name in ("learning_rate", "quantized_rate", "folded_rate"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 < value < np.inf:
                raise ValueError(f"Settings({name}={value!r}): must be a number above 0")
        if not isinstance(self.sparsity, Real) or not 0 <= self.sparsity < 1:
            raise ValueError(f"Settings(sparsity={self.sparsity!r}): must be a share from 0 up and below 1")
        if self.sparsity and not self.pruning_epochs:
            raise ValueError(
                f"Settings(sparsity={self.sparsity}, pruning_epochs=0): nothing would be pruned; give it epochs"
            )


def train(
    settings: Settings,
    layers: tuple[Layer, ...],
    variants: Variants,
    learn: int,
    folder: Path,
    at_epoch: Callable[[str, int, Student], None] = lambda phase, epoch, student: None,
    input_shape: tuple[int, int, int] = (28, 28, 1),
) -> Student:
    """A quantized and folded student that learnt from the first `learn` images.

    folder     where each phase is kept after each epoch: the same call goes on from there
    at_epoch   is given the phase, the epoch in it (from 0) and the student, after each epoch that is trained

    Raises ValueError for more images than there are, and for a folder that has another training.
    """
    if isinstance(learn, bool) or not isinstance(learn, Integral) or not 0 < learn <= len(variants.labels):
        raise ValueError(f"train(learn={learn!r}): there are {len(variants.labels):,} images; choose 1 or more of them")
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
            if student.norms and not (folder / "fold.npz").exists():
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
    start = _restore(saved, state, epochs)
    run = _epoch_function(settings, student, optimizer, trainable)
    for epoch in progress.bar(range(start, epochs), desc=name, unit="epoch", initial=start, total=epochs):
        if name == "prune":
            _prune(student, settings.sparsity * (1 - (1 - (epoch + 1) / epochs) ** 3))
        images, labels, answers = variants.epoch(settings.seed, done + epoch, settings.plain_share, learn)
        images = images.reshape(len(images), *student.input_shape)
        done_share = (epoch + 1) / epochs if name == "quantize" else 1.0
        rate_now = settings.rate * min(1.0, 2 * done_share) / 60_000
        damping = settings.damping * max(0.0, 2 * done_share - 1)
        weights = tf.constant(rate_now, tf.float32), tf.constant(damping, tf.float32)
        run(tf.constant(images), tf.constant(labels), tf.constant(answers), *weights)
        checkpoint.save(saved, [np.array(epoch + 1), *(variable.numpy() for variable in state)])
        at_epoch(name, epoch, student)


def _epoch_function(settings, student, optimizer, trainable):
    @tf.function
    def epoch(images, labels, answers, rate, damping):
        count = tf.shape(images)[0]
        for start in tf.range(0, count, BATCH):
            part = slice(start, tf.minimum(start + BATCH, count))
            x = tf.cast(images[part], tf.float32) / 255.0
            taught = tf.cast(answers[part], tf.float32)
            with tf.GradientTape() as tape:
                logits = student.logits(x, training=True)
                losses = distill.loss_of_logits(labels[part], logits, taught, settings.temperature, settings.teacher)
                loss = tf.reduce_mean(losses)
                if student.quantized and settings.rate:
                    loss += rate * student.rate_bits()
                if student.quantized and settings.damping:
                    loss += damping * student.distance()
            gradients = tape.gradient(loss, trainable)
            optimizer.apply_gradients(zip(gradients, trainable, strict=True))

    return epoch


def _prune(student: Student, sparsity: float) -> None:
    """Masks of all kernels together: the share `sparsity` of the weights that are smallest beside their tensor's."""
    if not sparsity:
        return
    kernels = [i for i, value in enumerate(student.values) if value.shape.rank > 1]
    weights = [(student.values[i] * student.masks[i]).numpy() for i in kernels]
    scores = [np.abs(w) / max(float(np.sqrt(np.mean(w[w != 0] ** 2))) if w.any() else 0.0, 1e-9) for w in weights]
    level = np.quantile(np.concatenate([s.ravel() for s in scores]), sparsity)
    for i, score in zip(kernels, scores, strict=True):
        student.masks[i].assign((score > level).astype(np.float32))


def _restore(path: Path, state, epochs: int) -> int:
    if not path.exists():
        return 0
    epoch, *arrays = checkpoint.restore(path)
    if [a.shape for a in arrays] != [tuple(variable.shape) for variable in state] or not 0 < epoch <= epochs:
        raise ValueError(f"train: {path} is of another training; remove it, or give this one a folder of its own")
    for variable, array in zip(state, arrays, strict=True):
        variable.assign(array)
    return int(epoch)


def _range(low: float, high: float) -> str:
    return f"from {low} up" if high == np.inf else f"from {low} to {high}"
