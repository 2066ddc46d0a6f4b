"""A short training in a cell: with a bar, and if it is stopped, it goes on where its last epoch ended.

    model.compile("adam", "sparse_categorical_crossentropy")
    live.fit(model, images, labels, epochs=5, keep="the baseline")

is `model.fit` with images in an order that is drawn from (seed, epoch). Trainings of hours, by a recipe, are
`hwlimits.training.fit`'s: it keeps them in a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from hwlimits import progress
from hwlimits.training import checkpoint
from hwlimits.training.keras import keras


class LiveError(ValueError):
    """A training that can't be run as asked; the text says what to do."""


def fit(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, *, epochs: int, batch_size: int = 64,
    callbacks: Sequence[keras.callbacks.Callback] = (), seed: int = 0, keep: str | None = None, desc: str = "training",
) -> list[float]:  # fmt: skip
    """Train a compiled model; returns the loss of each epoch.

    keep    a name under which weights and optimiser stay in memory after each epoch. Stopped by an interrupt or an
            error and called again, with a model of the same layers, it goes on after the last epoch that was whole:
            the model that is given takes the weights kept, whatever its own are. The end bit for bit is that of a
            training that was never stopped, if the model draws no random numbers (dropout). Callbacks hear of the
            epochs that are run, in calls of `model.fit` of one epoch each.

    Raises LiveError for a model that is not compiled, for no images or another number of labels, and for epochs or a
    batch below 1.
    """
    if not getattr(model, "optimizer", None):
        raise LiveError("fit: the model has no optimiser yet; compile it first")
    if not len(images) or len(images) != len(labels):
        raise LiveError(f"fit: {len(images)} images and {len(labels)} labels; give one label for each of 1 or more")
    for name, value in {"epochs": epochs, "batch_size": batch_size}.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise LiveError(f"fit({name}={value!r}): must be a whole number, at least 1")
    if not model.built:
        model.build((None, *images.shape[1:]))
    model.optimizer.build(model.trainable_variables)
    steps = -(-len(images) // batch_size)
    shapes = tuple((v.name.split("/")[-1], tuple(v.shape)) for v in model.weights)
    # Keras numbers the names of layers anew in each model, so what identifies one is what its arrays are like.
    about = (
        shapes, type(model.optimizer).__name__, epochs, batch_size, seed,
        progress.digest({"images": images, "labels": labels}),
    )  # fmt: skip
    with (
        progress.kept(keep, about, total=epochs, unit="epoch") as done,
        progress.bar(desc=desc, unit="step", total=epochs * steps, initial=len(done) * steps) as bar,
    ):
        if done:
            checkpoint.assign(model, done[len(done) - 1][0])
        for epoch in range(len(done), epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(images))
            history = model.fit(
                images[order], labels[order], batch_size=batch_size, shuffle=False, verbose=0,
                initial_epoch=epoch, epochs=epoch + 1, callbacks=[*callbacks, _Ticks(bar)],
            )  # fmt: skip
            done[epoch] = checkpoint.state(model) if keep else None, float(history.history["loss"][-1])
            if epoch:
                done[epoch - 1] = None, done[epoch - 1][1]  # of states only the last one is needed
        return [loss for _, loss in done.values()]


class _Ticks(keras.callbacks.Callback):
    """Moves a bar with each step."""

    def __init__(self, bar):
        super().__init__()
        self.bar = bar

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
