"""L1 while training, against its closed form: on an orthonormal design each weight is thresholded for itself."""

import numpy as np
import pytest

from hwlimits.pruning import PruningError
from hwlimits.training import l1
from hwlimits.training.keras import keras
from hwlimits.training.models import article_cnn

N, INPUTS, OUTPUTS = 32, 8, 4
STRENGTH = 0.1


def problem():
    """X with X^T X / N = 1 and the least-squares solution W: mean square error is |w - W|² / OUTPUTS and a constant."""
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.normal(size=(N, INPUTS)))[0] * np.sqrt(N)
    solution = rng.normal(size=(INPUTS, OUTPUTS)) * 0.3
    noise = rng.normal(size=(N, OUTPUTS))
    noise -= x @ x.T @ noise / N  # what no weights explain
    return x.astype("float32"), (x @ solution + noise).astype("float32"), solution


def train(model, *callbacks, rate=0.2, steps=300):
    x, y, _ = problem()
    model.compile(keras.optimizers.SGD(rate), "mse")
    model.fit(x, y, batch_size=N, epochs=steps, verbose=0, shuffle=False, callbacks=list(callbacks))
    return model.get_layer("a").kernel.numpy()


def linear():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((INPUTS,)), keras.layers.Dense(OUTPUTS, use_bias=False, name="a")], name="linear"
    )
    return model


def thresholded(solution, by):
    return np.sign(solution) * np.maximum(np.abs(solution) - by, 0)


def test_proximal_training_ends_at_the_closed_form_with_its_zeros():
    """The gradient of |w - W|² / OUTPUTS is 2 (w - W) / OUTPUTS: it balances the price at OUTPUTS strength / 2."""
    _, _, solution = problem()
    expected = thresholded(solution, OUTPUTS * STRENGTH / 2)
    found = train(linear(), l1.Proximal({"a": STRENGTH}))
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(found == 0, expected == 0)
    assert 0.2 < np.mean(found == 0) < 0.8


def test_the_penalty_ends_near_it_and_leaves_hardly_a_zero():
    _, _, solution = problem()
    expected = thresholded(solution, OUTPUTS * STRENGTH / 2)
    rate = 0.05
    found = train(l1.penalised(linear(), {"a": STRENGTH}), rate=rate)
    assert found == pytest.approx(expected, abs=2 * rate * STRENGTH)
    small = expected == 0
    assert np.mean(found[small] == 0) < 0.1
    assert np.abs(found[small]).max() < 2 * rate * STRENGTH


def test_whole_filters_go_at_the_closed_form_of_the_group_lasso():
    _, _, solution = problem()
    solution_norms = np.linalg.norm(solution, axis=0)
    price = (np.sort(solution_norms)[1] + np.sort(solution_norms)[2]) / OUTPUTS  # between the second and the third
    found = train(linear(), l1.Proximal({"a": price}, "filter"))
    left = np.maximum(solution_norms - OUTPUTS * price / 2, 0) / solution_norms
    assert found == pytest.approx(solution * left, abs=1e-5)
    assert (found == 0).all(axis=0).sum() == 2
    assert (found == 0).any(axis=0).sum() == 2


def test_the_rate_is_that_of_the_step_where_it_decays():
    """One step from the solution, where the gradient is 0: the weights move by rate times strength."""
    x, y, solution = problem()
    model = linear()
    model.get_layer("a").kernel.assign(solution)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.125])
    model.compile(keras.optimizers.SGD(schedule), "mse")
    model.fit(x, y, batch_size=N, verbose=0, callbacks=[l1.Proximal({"a": STRENGTH})])
    moved = np.abs(solution - model.get_layer("a").kernel.numpy())
    assert moved[np.abs(solution) > 0.1] == pytest.approx(0.5 * STRENGTH, abs=1e-5)


def test_the_model_given_is_left_as_it_was_and_other_layers_are_free():
    model = article_cnn()
    copy = l1.penalised(model, {"dense1": 1e-3})
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), copy.get_weights(), strict=True))
    assert model.get_layer("dense1").kernel_regularizer is None
    assert [layer.name for layer in copy.layers if getattr(layer, "kernel_regularizer", None)] == ["dense1"]
    assert float(sum(copy.losses)) == pytest.approx(1e-3 * np.abs(model.get_layer("dense1").kernel.numpy()).sum())


@pytest.mark.parametrize(
    ("strength", "said"),
    [
        ({"x": 0.1}, "no layer 'x' in article_cnn; it has conv1, pool1"),
        ({"pool1": 0.1}, "pool1 is a MaxPooling2D, which has no kernel"),
        ({"conv1": -1}, "the strength of conv1 is -1; it must be 0 or above"),
        ({"conv1": float("nan")}, "the strength of conv1 is nan"),
    ],
)
def test_errors_say_what_to_do(strength, said):
    with pytest.raises(PruningError) as caught:
        l1.penalised(article_cnn(), strength)
    assert said in str(caught.value)
    callback = l1.Proximal(strength)
    callback.set_model(article_cnn())
    with pytest.raises(PruningError) as caught:
        callback.on_train_begin()
    assert said in str(caught.value)
