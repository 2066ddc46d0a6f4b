"""A training in a cell: it is model.fit, by steps written out here; stopped and gone on with, bit for bit the same."""

import re

import numpy as np
import pytest

from hwlimits import progress
from hwlimits.training import live
from hwlimits.training.keras import keras
from hwlimits.training.live import LiveError

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((70, 5)).astype(np.float32)
Y = (X.sum(axis=1) > 0).astype(np.int32)


def network(seed=0, rate=0.05, by=None):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.layers.Dense(6, activation="relu", input_shape=(5,)), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(by or keras.optimizers.Adam(rate), loss, run_eagerly=True)  # no graph to make: soon done
    return model


class StopIn(keras.callbacks.Callback):
    """Interrupts the step number `step`, counted over all epochs, once."""

    def __init__(self, step):
        super().__init__()
        self.step, self.seen = step, 0

    def on_train_batch_begin(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.step:
            raise KeyboardInterrupt


def weights(model):
    return [w.copy() for w in model.get_weights()]


def test_it_is_gradient_descent_as_written_out():
    """A linear layer by plain steps of NumPy: the batches of 32, 32 and 6, in the order that (seed, epoch) draws."""
    model = keras.Sequential([keras.layers.Dense(1, input_shape=(5,))])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    w, b = (a.astype(np.float64) for a in model.get_weights())
    losses = live.fit(model, X, Y, epochs=3, batch_size=32, seed=4)
    wanted = []
    for epoch in range(3):
        order, lost = np.random.default_rng([4, epoch]).permutation(70), 0.0
        for start in (0, 32, 64):
            part = order[start : start + 32]
            error = (X[part] @ w + b)[:, 0] - Y[part]
            lost += np.sum(error**2)
            w = w - 0.1 * 2 * X[part].T @ error[:, None] / len(part)
            b = b - 0.1 * 2 * error.mean()
        wanted.append(lost / 70)
    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)


@pytest.mark.parametrize(("kind", "step"), [("Adam", 1), ("Adam", 4), ("Adam", 9), ("SGD", 8)])  # of 9, 3 an epoch
def test_a_training_that_was_stopped_ends_as_one_that_was_not(step, kind):
    def by():  # Adam's rate falls with its steps, so the number of these has to be kept as well
        rate = keras.optimizers.schedules.CosineDecay(0.05, 9)
        return keras.optimizers.Adam(rate) if kind == "Adam" else keras.optimizers.SGD(0.05, momentum=0.9)

    whole = network(by=by())
    losses = live.fit(whole, X, Y, epochs=3, batch_size=32)
    model = network(by=by())
    with pytest.raises(KeyboardInterrupt):
        live.fit(model, X, Y, epochs=3, batch_size=32, callbacks=[StopIn(step)], keep="net")
    # the cell is run again: another model, with other weights if something is kept
    again = network(seed=0 if step < 4 else 9, by=by())
    counted = StopIn(None)
    assert live.fit(again, X, Y, epochs=3, batch_size=32, callbacks=[counted], keep="net") == losses
    assert counted.seen == 9 - 3 * ((step - 1) // 3), "whole epochs are not trained again"
    for a, b in zip(weights(again), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_end_that_was_reached_is_forgotten():
    model = network()
    live.fit(model, X, Y, epochs=1, keep="end")
    counted = StopIn(None)
    live.fit(model, X, Y, epochs=1, keep="end", callbacks=[counted])
    assert counted.seen == 2


@pytest.mark.parametrize("change", ["labels", "epochs", "seed", "layers", "optimizer", "name"])
def test_another_training_takes_nothing_of_it(change):
    with pytest.raises(KeyboardInterrupt):
        live.fit(network(), X, Y, epochs=3, batch_size=32, callbacks=[StopIn(5)], keep="one")
    model = network(by=keras.optimizers.SGD(0.1) if change == "optimizer" else None)
    if change == "layers":
        model = keras.Sequential([keras.layers.Dense(2, input_shape=(5,))])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    options = {"epochs": 4 if change == "epochs" else 3, "seed": change == "seed"}
    counted = StopIn(None)
    live.fit(
        model, X, 1 - Y if change == "labels" else Y, **options, batch_size=32, callbacks=[counted],
        keep="other" if change == "name" else "one",
    )  # fmt: skip
    assert counted.seen == 3 * options["epochs"]
    progress.forget("one")


def test_the_bar_counts_steps(monkeypatch):
    bars = []

    class Bar:
        def __init__(self, **options):
            self.options, self.steps = options, 0
            bars.append(self)

        def update(self):
            self.steps += 1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(progress, "bar", Bar)
    with pytest.raises(KeyboardInterrupt):
        live.fit(network(), X, Y, epochs=3, batch_size=32, callbacks=[StopIn(5)], keep="bar")
    live.fit(network(), X, Y, epochs=3, batch_size=32, keep="bar", desc="the net")
    first, second = bars
    assert (first.options["total"], first.options["initial"], first.steps) == (9, 0, 4)
    assert (second.options["total"], second.options["initial"], second.steps) == (9, 3, 6)
    assert second.options["desc"] == "the net"


def test_nothing_is_written_where_nobody_looks(capfd):
    live.fit(network(), X, Y, epochs=2)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "fit(epochs=0): must be a whole number, at least 1"),
        ({"epochs": 1.5}, "fit(epochs=1.5): must be a whole number, at least 1"),
        ({"batch_size": True}, "fit(batch_size=True): must be a whole number, at least 1"),
        ({"labels": Y[:3]}, "fit: 70 images and 3 labels; give one label for each of 1 or more"),
        ({"images": X[:0], "labels": Y[:0]}, "fit: 0 images and 0 labels; give one label for each"),
        ({"model": keras.Sequential([keras.layers.Dense(2)])}, "the model has no optimiser yet; compile it first"),
    ],
)
def test_what_can_not_be(change, message):
    options = {"model": network(), "images": X, "labels": Y, "epochs": 1} | change
    with pytest.raises(LiveError, match=re.escape(message)):
        live.fit(options.pop("model"), options.pop("images"), options.pop("labels"), **options)
