"""Gradient and curvature of a layer, against finite differences of the loss and of single examples' gradients."""

import numpy as np
import pytest

from hwlimits import pruning
from hwlimits.pruning import PruningError
from hwlimits.training import gradients
from hwlimits.training.keras import keras, tf
from hwlimits.training.models import article_cnn

N = 300  # more than one batch
LAYERS = ("conv", "hidden")


@pytest.fixture(scope="module")
def network():
    """Smooth, so that differences are derivatives, and in float64, so that they can be small."""
    keras.utils.set_random_seed(1)
    keras.backend.set_floatx("float64")
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((4, 4, 1)), layers.Conv2D(2, 2, strides=2, activation="tanh", name="conv"), layers.Dropout(0.5),
        layers.Flatten(), layers.Dense(2, "tanh", name="hidden"), layers.Dense(3, "softmax"),
    ])  # fmt: skip
    random = np.random.default_rng(0)
    yield model, random.normal(size=(N, 4, 4, 1)), random.integers(0, 3, N)
    keras.backend.set_floatx("float32")


def losses(model, x, y):
    return -np.log(model(x, training=False).numpy()[np.arange(len(y)), y])


def moved(model, name, change):
    """The loss of each example with the layer's kernel changed."""
    model, x, y = model
    kernel = model.get_layer(name).kernel
    before = kernel.numpy()
    kernel.assign(before + change)
    found = losses(model, x, y)
    kernel.assign(before)
    return found


def slopes(network, name, step=1e-4):
    """Central differences: the gradient of each example's loss, (examples, weights)."""
    shape = network[0].get_layer(name).kernel.shape
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape) * step
    return np.stack([(moved(network, name, u) - moved(network, name, -u)) / (2 * step) for u in units], axis=1)


def hessian(network, name, step=1e-3):
    """Second differences of the mean loss, (weights, weights)."""
    shape = network[0].get_layer(name).kernel.shape
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape) * step

    def mean(change):
        return moved(network, name, change).mean()

    found = np.zeros((len(units), len(units)))
    for i, a in enumerate(units):
        for j, b in enumerate(units[: i + 1]):
            found[i, j] = found[j, i] = (mean(a + b) - mean(a - b) - mean(b - a) + mean(-a - b)) / (4 * step**2)
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_is_the_slope_of_the_mean_loss(network, name):
    found = gradients.gradient(network[0], name, *network[1:])
    assert found.ravel() == pytest.approx(slopes(network, name).mean(axis=0), abs=1e-6)
    assert np.abs(found).max() > 1e-3


@pytest.mark.parametrize("name", LAYERS)
def test_the_fisher_information_is_the_mean_of_the_examples_squared_slopes(network, name):
    found = gradients.fisher_diagonal(network[0], name, *network[1:])
    assert found.ravel() == pytest.approx(np.mean(slopes(network, name) ** 2, axis=0), rel=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_the_hessian_s_diagonal_is_within_what_its_docstring_says(network, name):
    samples, exact = 400, hessian(network, name)
    found = gradients.hessian_diagonal(network[0], name, *network[1:], samples=samples)
    others = exact - np.diag(np.diag(exact))
    deviation = np.sqrt((others**2).sum(axis=1) / samples)
    assert (np.abs(found.ravel() - np.diag(exact)) < 4.5 * deviation + 1e-5).all()
    assert deviation.max() < 0.2 * np.abs(np.diag(exact)).max(), "else the bound would let anything through"
    again = gradients.hessian_diagonal(network[0], name, *network[1:], samples=samples, seed=1)
    assert not np.array_equal(found, again)


def test_a_diagonal_hessian_takes_one_random_vector():
    """Inputs that are single ones: each weight meets examples of its own."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False, name="a")])
    x = np.eye(4, dtype=np.float32)[[0, 1, 1, 2]]
    found = gradients.hessian_diagonal(model, "a", x, np.zeros((4, 1)), keras.losses.mse, samples=1)
    assert found.ravel().tolist() == [0.5, 1.0, 0.5, 0.0]


def test_second_order_tells_what_the_loss_does_at_a_quadratic_minimum():
    """One weight of a least-squares fit taken out: h w² / 2 is exact where the loss is quadratic."""
    x = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 3)))[0].astype(np.float32)  # a diagonal Hessian
    y = x @ np.float32([[0.5], [-2.0], [0.1]])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False, name="a")])
    kernel = model.get_layer("a").kernel
    kernel.assign([[0.5], [-2.0], [0.1]])
    curvature = gradients.hessian_diagonal(model, "a", x, y, keras.losses.mse, samples=1)
    expected = pruning.second_order(kernel.numpy(), curvature).ravel()
    for i in range(3):
        without = kernel.numpy().copy()
        without[i] = 0
        assert expected[i] == pytest.approx(np.mean((x @ without - y) ** 2), rel=1e-4)


def test_the_model_is_left_as_it_was(network):
    before = network[0].get_weights()
    gradients.hessian_diagonal(network[0], "conv", *network[1:], samples=2)
    gradients.fisher_diagonal(network[0], "conv", *network[1:])
    for a, b in zip(before, network[0].get_weights(), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("function", ["gradient", "hessian_diagonal", "fisher_diagonal"])
def test_errors_say_what_to_do(function):
    call, x, y = getattr(gradients, function), np.zeros((2, 28, 28, 1)), np.zeros(2)
    with pytest.raises(PruningError, match=f"{function}: no layer 'dense9' in article_cnn; it has conv1"):
        call(article_cnn(), "dense9", x, y)
    with pytest.raises(PruningError, match=f"{function}: pool1 is a MaxPooling2D, which has no kernel"):
        call(article_cnn(), "pool1", x, y)
    with pytest.raises(PruningError, match=f"{function}: 2 examples and 1 labels; give as many of both, one at least"):
        call(article_cnn(), "conv1", x, y[:1])
    with pytest.raises(PruningError, match=f"{function}: 0 examples and 0 labels"):
        call(article_cnn(), "conv1", x[:0], y[:0])


def test_no_random_vector_is_refused():
    with pytest.raises(PruningError, match=r"hessian_diagonal\(samples=0\): give at least 1 random vector"):
        gradients.hessian_diagonal(article_cnn(), "conv1", np.zeros((1, 28, 28, 1)), np.zeros(1), samples=0)
    with pytest.raises(PruningError, match=r"hessian_diagonal\(samples=1.5\): give at least 1 random vector"):
        gradients.hessian_diagonal(article_cnn(), "conv1", np.zeros((1, 28, 28, 1)), np.zeros(1), samples=1.5)


@pytest.mark.parametrize("of", [gradients.gradient, gradients.hessian_diagonal, gradients.fisher_diagonal])
def test_a_loss_of_all_examples_together_is_refused(of):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="a")])
    said = rf"{of.__name__}: the loss of 3 examples has the shape \(\); it must be one number for each"
    with pytest.raises(PruningError, match=said):
        of(model, "a", np.ones((3, 2), np.float32), np.ones((3, 1), np.float32), keras.losses.MeanSquaredError())


def test_a_straight_loss_has_no_curvature():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="a")])
    x = np.ones((3, 2), np.float32)
    assert not gradients.hessian_diagonal(
        model, "a", x, x[:, :1], lambda y, p: tf.reduce_sum(p, axis=-1), samples=2
    ).any()
