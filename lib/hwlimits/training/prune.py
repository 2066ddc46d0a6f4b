"""Magnitude pruning during training, by tensorflow-model-optimization, with the check it lacks.

tfmot updates its masks every `frequency` steps, 100 unless told otherwise. A run shorter than
that ends with a sparsity of zero and says nothing, so `check_sparsity` belongs behind every run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwlimits.training.keras import keras, tfmot

UPDATES_PER_EPOCH = 12
TOLERANCE = 0.005  # a mask keeps a whole number of weights


class PruningError(RuntimeError):
    """Pruning did not do what was asked."""


def prunable(
    model: keras.Model, sparsity: Mapping[str, float], *, ramp_steps: int, steps_per_epoch: int
) -> keras.Model:
    """Wrap the layers named in `sparsity` so that training prunes them to it.

    sparsity    share of zeros by layer name, each in (0, 1); the other layers stay dense
    ramp_steps  optimiser steps over which the sparsity rises from 0, by the cubic polynomial of
                Zhu and Gupta (2017, arXiv 1710.01878, equation 1); 0 prunes at once and holds

    `model` itself is left as it is. Train the result with `callbacks()`, then `strip` it.
    """
    names = {layer.name for layer in model.layers}
    for name, share in sparsity.items():
        if name not in names:
            raise PruningError(f"prunable: no layer {name!r} in {model.name}; it has {', '.join(sorted(names))}")
        if not 0 < share < 1:
            raise PruningError(f"prunable: sparsity of {name} is {share}; it is a share of zeros between 0 and 1")
    frequency = max(1, steps_per_epoch // UPDATES_PER_EPOCH)

    def wrap(layer):
        if layer.name not in sparsity:
            return layer
        target = sparsity[layer.name]
        if ramp_steps:
            schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, target, 0, ramp_steps, power=3, frequency=frequency)
        else:
            schedule = tfmot.sparsity.keras.ConstantSparsity(target, 0, frequency=frequency)
        return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule)

    copy = keras.models.clone_model(model)  # the wrapped layers hold their variables: not those of `model`
    copy.set_weights(model.get_weights())
    return keras.models.clone_model(copy, clone_function=wrap)


def callbacks() -> list[keras.callbacks.Callback]:
    """What a training run of a `prunable` model needs."""
    return [tfmot.sparsity.keras.UpdatePruningStep()]


def strip(model: keras.Model) -> keras.Model:
    """The plain model again, with the zeros in its weights."""
    return tfmot.sparsity.keras.strip_pruning(model)


def layer_sparsity(model: keras.Model) -> dict[str, float]:
    """Share of zeros in each layer's kernel, by layer name."""
    kernels = {layer.name: layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")}
    return {name: float(np.mean(kernel == 0)) for name, kernel in kernels.items()}


def check_sparsity(found: Mapping[str, float], wanted: Mapping[str, float]) -> None:
    """Raise PruningError if a layer has not the share of zeros that was asked for.

    >>> check_sparsity({"dense1": 0.0}, {"dense1": 0.9})
    Traceback (most recent call last):
    ...
    hwlimits.training.prune.PruningError: dense1: 0.0 % of the weights are zero, 90.0 % were asked for. ...
    """
    for name, share in wanted.items():
        if name not in found or abs(found[name] - share) > TOLERANCE:
            raise PruningError(
                f"{name}: {100 * found.get(name, float('nan')):.1f} % of the weights are zero, "
                f"{100 * share:.1f} % were asked for. Was the run shorter than one update of the masks, "
                "or trained without callbacks()?"
            )
