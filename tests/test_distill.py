"""Distillation: temperatures, targets, and a loss with the gradient that the paper gives."""

import numpy as np
import pytest
from scipy import special

from hwlimits.training.distill import Teacher, loss_of_logits, softened
from hwlimits.training.keras import keras, tf


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(5, "softmax")])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_softened_is_the_softmax_of_the_logits_at_that_temperature(temperature):
    logits = np.random.default_rng(0).standard_normal((20, 10)) * 5
    found = softened(special.softmax(logits, axis=1), temperature)
    assert found.dtype == np.float32
    assert found == pytest.approx(special.softmax(logits / temperature, axis=1), rel=1e-5, abs=1e-7)


def test_softened_takes_a_probability_of_0():
    assert softened(np.array([[1.0, 0.0]]), 1.0) == pytest.approx(np.array([[1.0, 0.0]]))


def test_targets_are_one_hot_labels_beside_the_teacher_s_answers(model):
    images = np.random.default_rng(0).random((7, 4, 4, 1), dtype=np.float32)
    labels = np.array([0, 4, 2, 2, 1, 3, 0])
    found = Teacher(model, temperature=2.0).targets(images, labels)
    assert np.array_equal(found[:, :5].argmax(axis=1), labels)
    assert found[:, :5].sum() == 7
    assert found[:, 5:] == pytest.approx(softened(model(images).numpy(), 2.0))


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.0), (1.0, 1.0), (4.0, 0.5), (2.0, 0.9)])
def test_the_loss_has_the_gradient_of_equation_2(model, temperature, weight):
    """d loss / d logits = (1 - w) (p - label) + w T (p at T - teacher at T): Hinton et al. 2015, section 2.1."""
    random = np.random.default_rng(1)
    logits = random.standard_normal((6, 5)) * 3
    hard, soft = np.eye(5)[random.integers(0, 5, 6)], random.dirichlet(np.ones(5), 6)
    teacher = Teacher(model, temperature, weight)
    z = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = teacher.loss(tf.constant(np.hstack([hard, soft]), tf.float32), tf.nn.softmax(z))
    at_t = special.softmax(logits / temperature, axis=1)
    expected = (1 - weight) * (special.softmax(logits, axis=1) - hard) + weight * temperature * (at_t - soft)
    assert loss.shape == (6,)
    assert tape.gradient(loss, z).numpy() == pytest.approx(expected, abs=1e-4)
    of_labels, of_answers = (special.log_softmax(x, axis=1) for x in (logits, logits / temperature))
    by_hand = -(1 - weight) * (hard * of_labels).sum(1) - weight * temperature**2 * (soft * of_answers).sum(1)
    assert loss.numpy() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("logits", [[[1e3, 0.0]], [[0.0, 200.0]]])
def test_the_loss_stays_finite_where_an_answer_is_sure(model, logits):
    z = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = Teacher(model).loss(tf.constant([[0.0, 1.0, 0.5, 0.5]]), tf.nn.softmax(z))
    assert np.isfinite(loss.numpy()).all()
    assert np.isfinite(tape.gradient(loss, z).numpy()).all()


def test_a_teacher_refuses_what_is_no_temperature_or_share(model):
    with pytest.raises(ValueError, match=r"Teacher\(temperature=0\): must be a number above 0; 1 leaves answers"):
        Teacher(model, temperature=0)
    with pytest.raises(ValueError, match=r"Teacher\(weight=1.5\): it is a share of the loss, from 0 to 1"):
        Teacher(model, weight=1.5)


def test_a_temperature_near_0_leaves_the_largest_alone():
    assert softened(np.array([[0.5, 0.3, 0.2]]), 1e-4).tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), "4"])
def test_softened_and_a_teacher_refuse_what_is_no_temperature(model, temperature):
    with pytest.raises(ValueError, match=r"softened\(temperature=.*\): must be a number above 0"):
        softened(np.array([[0.5, 0.5]]), temperature)
    with pytest.raises(ValueError, match=r"Teacher\(temperature=.*\): must be a number above 0"):
        Teacher(model, temperature)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.0), (1.0, 1.0), (4.0, 0.5)])
def test_the_loss_of_logits_is_a_teacher_s(model, temperature, weight):
    random = np.random.default_rng(2)
    logits, taught = (random.standard_normal((6, 5)).astype(np.float32) * 3 for _ in range(2))
    labels = random.integers(0, 5, 6)
    targets = np.hstack([np.eye(5)[labels], softened(special.softmax(taught, axis=1), temperature)])
    expected = Teacher(model, temperature, weight).loss(tf.constant(targets, tf.float32), tf.nn.softmax(logits))
    found = loss_of_logits(labels, logits, taught, temperature, weight)
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-4)
