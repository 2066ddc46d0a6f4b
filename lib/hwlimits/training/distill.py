"""Distillation: a smaller network learns from a larger one's answers, too.

A label says which digit it is; a trained network's answer says also which others it resembles. A *temperature* above 1
brings the small shares of that answer out: each probability to the power 1 / temperature, and normalised again.
"""

from __future__ import annotations

from numbers import Real

import numpy as np

from hwlimits.training.keras import keras, tf

TINY = 1e-30  # a probability below this counts as this: its logarithm stays finite, and so does the gradient


def softened(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, classes) at a temperature: softmax(log p / temperature), float32.

    Raises ValueError for a temperature that is not a number above 0.

    >>> softened(np.array([[0.9, 0.1]]), 2.0).round(2)
    array([[0.75, 0.25]], dtype=float32)
    """
    check_temperature("softened", temperature)
    kept = np.maximum(probabilities, TINY).astype(np.float64)
    powers = (kept / kept.max(axis=1, keepdims=True)) ** (1 / temperature)  # the largest is 1: no row sums to 0
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


class Teacher:
    """What a trained model adds to the labels: targets for a batch of images, and the loss that reads them.

    model        gives class probabilities (n, classes)
    temperature  at which both models' answers are compared
    weight       share of the loss that the teacher's answers have, the labels having the rest

        loss = (1 - weight) CE(label, p) + weight temperature² CE(teacher at temperature, p at temperature)

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015, arXiv 1503.02531), section 2. The
    square keeps the share of the gradients what it is at temperature 1.

    Raises ValueError for a temperature that is not above 0, or a weight outside [0, 1].
    """

    def __init__(self, model: keras.Model, temperature: float = 4.0, weight: float = 0.5):
        check_temperature("Teacher", temperature)
        if not 0 <= weight <= 1:
            raise ValueError(f"Teacher(weight={weight}): it is a share of the loss, from 0 to 1")
        self.model, self.temperature, self.weight = model, float(temperature), float(weight)

    def targets(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Float32 (n, 2 classes): labels as one-hot rows, beside the teacher's answers at the temperature."""
        answers = self.model.predict(images, batch_size=500, verbose=0)
        hard = np.eye(answers.shape[1], dtype=np.float32)[labels]
        return np.concatenate([hard, softened(answers, self.temperature)], axis=1)

    def loss(self, targets: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
        """The loss of each image, (n,), for `targets` and the student's probabilities."""
        hard, soft = tf.split(targets, 2, axis=1)
        log_p = tf.math.log(tf.maximum(answers, TINY))
        of_labels = -tf.reduce_sum(hard * log_p, axis=1)
        of_answers = -tf.reduce_sum(soft * tf.nn.log_softmax(log_p / self.temperature), axis=1)
        return (1 - self.weight) * of_labels + self.weight * self.temperature**2 * of_answers


def loss_of_logits(
    labels: tf.Tensor, logits: tf.Tensor, teacher_logits: tf.Tensor, temperature: float, weight: float
) -> tf.Tensor:
    """`Teacher.loss` of each image, (n,), for networks that end in logits (n, classes); labels (n,) from 0 up."""
    targets = tf.nn.softmax(teacher_logits / temperature)
    of_labels = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    of_answers = tf.nn.softmax_cross_entropy_with_logits(targets, logits / temperature)
    return (1 - weight) * of_labels + weight * temperature**2 * of_answers


def check_temperature(function: str, temperature: float) -> None:
    """Raise ValueError, in the name of `function`, for what is not a number above 0."""
    if not isinstance(temperature, Real) or not 0 < temperature < np.inf:
        raise ValueError(
            f"{function}(temperature={temperature!r}): must be a number above 0; 1 leaves answers as they are"
        )
