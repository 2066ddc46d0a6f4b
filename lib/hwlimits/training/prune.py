"""Magnitude pruning during training, by tensorflow-model-optimization or by the course itself.

Both engines make the masks of `hwlimits.pruning` at the same steps, and train to the same weights, bit for bit.
At the start of a step that is due, the masks are made from the weights as the optimiser left them; at the start
of every step the weights are multiplied by their masks. So a pruned weight moves by one step of the optimiser, and
can come back if that makes it large enough.

tfmot updates its masks every `frequency` steps, 100 unless told otherwise. A run shorter than that ends with a
sparsity of zero and says nothing, so `check_sparsity` belongs behind every run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwlimits import pruning
from hwlimits.pruning import PruningError, Schedule
from hwlimits.training.keras import keras

ENGINES = ("tfmot", "own")
UPDATES_PER_EPOCH = 12
TOLERANCE = 0.005  # a mask keeps a whole number of weights


def prunable(
    model: keras.Model,
    sparsity: Mapping[str, float],
    *,
    ramp_steps: int,
    steps_per_epoch: int,
    engine: str = "tfmot",
) -> keras.Model:
    """A copy of the model whose layers named in `sparsity` are pruned to it while they train.

    sparsity    share of zeros by layer name, each in (0, 1); the other layers stay dense
    ramp_steps  optimiser steps over which the sparsity rises from 0, by the cubic polynomial of
                Zhu and Gupta (2017, arXiv 1710.01878, equation 1); 0 prunes at once and holds
    engine      'tfmot', or 'own': the course's own, which loads nothing of tfmot

    Train the result with `callbacks(engine)`, then `strip` it. Masks and steps are among its weights, so that
    training resumes from `get_weights` and the optimiser's variables. A Keras clone of it is not pruned.
    Raises PruningError for a layer that is not there or has no kernel, and for another share or engine.
    """
    _known(engine)
    for name, share in sparsity.items():
        layer_with_kernel("prunable", model, name)
        if not 0 < share < 1:
            raise PruningError(f"prunable: sparsity of {name} is {share}; it is a share of zeros between 0 and 1")
    frequency = max(1, steps_per_epoch // UPDATES_PER_EPOCH)
    schedules = {n: Schedule(share, ramp_steps=ramp_steps, frequency=frequency) for n, share in sparsity.items()}
    copy = keras.models.clone_model(model)  # with variables of its own
    copy.set_weights(model.get_weights())
    if engine == "tfmot":
        return keras.models.clone_model(copy, clone_function=lambda layer: _wrap(layer, schedules.get(layer.name)))
    for name, schedule in schedules.items():
        layer = copy.get_layer(name)
        layer.pruning_schedule = schedule
        shape = layer.kernel.shape
        layer.pruning_mask = layer.add_weight("pruning_mask", shape, initializer="ones", trainable=False)
        layer.pruning_step = layer.add_weight("pruning_step", (), "int64", initializer="zeros", trainable=False)
    return copy


def layer_with_kernel(function: str, model: keras.Model, name: str) -> keras.layers.Layer:
    """The model's layer of that name. Raises PruningError if there is none, or it has no kernel."""
    layers = {layer.name: layer for layer in model.layers}
    if name not in layers:
        raise PruningError(f"{function}: no layer {name!r} in {model.name}; it has {', '.join(layers)}")
    if not hasattr(layers[name], "kernel"):
        raise PruningError(f"{function}: {name} is a {type(layers[name]).__name__}, which has no kernel to prune")
    return layers[name]


def callbacks(engine: str = "tfmot") -> list[keras.callbacks.Callback]:
    """What a training run of a `prunable` model needs."""
    _known(engine)
    if engine == "own":
        return [_Masks()]
    from hwlimits.training.keras import tfmot

    return [tfmot.sparsity.keras.UpdatePruningStep()]


def strip(model: keras.Model) -> keras.Model:
    """The plain model again, with the zeros in its weights; of either engine."""
    if any(type(layer).__name__ == "PruneLowMagnitude" for layer in model.layers):
        from hwlimits.training.keras import tfmot

        return tfmot.sparsity.keras.strip_pruning(model)
    plain = keras.models.clone_model(model)
    for layer, found in zip(plain.layers, model.layers, strict=True):
        layer.set_weights(found.get_weights()[: len(layer.weights)])  # mask and step come last
    for found in _pruned_layers(model):
        plain.get_layer(found.name).kernel.assign(found.kernel * found.pruning_mask)
    return plain


class _Masks(keras.callbacks.Callback):
    """Makes the masks of the engine 'own' when they are due, and multiplies the weights by them."""

    def on_train_begin(self, logs=None):
        if not _pruned_layers(self.model):
            raise PruningError(f"callbacks('own'): no layer of {self.model.name} is prunable; make it by prunable")
        executed_together = int(self.model._steps_per_execution)
        if executed_together > 1:
            raise PruningError(
                f"callbacks('own'): steps_per_execution is {executed_together}, and masks are held after every step; "
                "compile with 1"
            )

    def on_train_batch_begin(self, batch, logs=None):
        for layer in _pruned_layers(self.model):
            step = int(layer.pruning_step.assign_add(1))
            if layer.pruning_schedule.due(step):
                scores = pruning.magnitude(layer.kernel.numpy())
                layer.pruning_mask.assign(pruning.mask(scores, layer.pruning_schedule.sparsity(step)))
            _hold(layer)

    def on_test_begin(self, logs=None):  # an epoch's validation comes before the epoch's end
        self.on_epoch_end(None)

    def on_epoch_end(self, epoch, logs=None):
        for layer in _pruned_layers(self.model):
            _hold(layer)


def _pruned_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if hasattr(layer, "pruning_mask")]


def _hold(layer: keras.layers.Layer) -> None:
    layer.kernel.assign(layer.kernel * layer.pruning_mask)


def _wrap(layer: keras.layers.Layer, schedule: Schedule | None) -> keras.layers.Layer:
    """The layer in tfmot's wrapper, if it has a schedule."""
    from hwlimits.training.keras import tfmot

    if schedule is None:
        return layer
    final, ramp, frequency = schedule.final, schedule.ramp_steps, schedule.frequency
    if ramp:
        theirs = tfmot.sparsity.keras.PolynomialDecay(0.0, final, 0, ramp, power=3, frequency=frequency)
    else:
        theirs = tfmot.sparsity.keras.ConstantSparsity(final, 0, frequency=frequency)
    return tfmot.sparsity.keras.prune_low_magnitude(layer, theirs)


def _known(engine: str) -> None:
    if engine not in ENGINES:
        raise PruningError(f"engine {engine!r} is not known; choose 'tfmot' or 'own'")


def layer_sparsity(model: keras.Model) -> dict[str, float]:
    """Share of zeros in each layer's kernel, by layer name."""
    kernels = {layer.name: layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")}
    return {name: float(np.mean(kernel == 0)) for name, kernel in kernels.items()}


def check_sparsity(found: Mapping[str, float], wanted: Mapping[str, float]) -> None:
    """Raise PruningError if a layer has not the share of zeros that was asked for.

    >>> check_sparsity({"dense1": 0.0}, {"dense1": 0.9})
    Traceback (most recent call last):
    ...
    hwlimits.pruning.PruningError: dense1: 0.0 % of the weights are zero, 90.0 % were asked for. ...
    """
    for name, share in wanted.items():
        if name not in found or abs(found[name] - share) > TOLERANCE:
            raise PruningError(
                f"{name}: {100 * found.get(name, float('nan')):.1f} % of the weights are zero, "
                f"{100 * share:.1f} % were asked for. Was the run shorter than one update of the masks, "
                "or trained without callbacks()?"
            )
