"""L1-regularised training: a price on every |w|, so that weights go to 0 while the model trains.

There are two ways to pay it. As a *penalty* in the loss, as the article has it, its gradient moves every weight
towards 0 by the same step, which jumps over 0 and back: many small weights, hardly a zero, so a threshold
(`pruning.mask`) has to follow. As a *proximal step* after the optimiser's it stops at 0: zeros that are exact, and
`pruning.soft_threshold` is all there is to it. Both minimise loss + strength Σ|w|.
"""

from __future__ import annotations

from collections.abc import Mapping

from hwlimits import pruning
from hwlimits.pruning import PruningError
from hwlimits.training.keras import keras
from hwlimits.training.prune import layer_with_kernel


def penalised(model: keras.Model, strength: Mapping[str, float]) -> keras.Model:
    """A copy of the model with the penalty strength Σ|w| on the kernels of the layers named.

    Raises PruningError for a layer that is not there or has no kernel, and for a strength below 0.

    >>> from hwlimits.training.models import article_cnn
    >>> float(penalised(article_cnn(), {"dense1": 1e-3}).get_layer("dense1").kernel_regularizer.l1)
    0.0010000000474974513
    """
    _check("penalised", model, strength)

    def with_price(layer):
        config = layer.get_config()
        if layer.name in strength:
            config["kernel_regularizer"] = keras.regularizers.L1(strength[layer.name])
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=with_price)
    copy.set_weights(model.get_weights())
    return copy


class Proximal(keras.callbacks.Callback):
    """A callback that moves the kernels named towards 0 by learning rate times strength after every step.

    strength   the price by layer name
    unit       'weight', or 'filter': then whole filters become 0 (group lasso), ready for `remove_filters`, but
               for their biases

    With gradient descent this is the proximal gradient method, and minimises loss + strength Σ|w| (of filters: the
    sum of their Euclidean norms). Adam scales each weight's step and the threshold is not scaled with it, so the
    same strength weighs more there where gradients are large.

    Source: Parikh and Boyd, "Proximal Algorithms" (2014), section 4.2.
    """

    def __init__(self, strength: Mapping[str, float], unit: pruning.Unit = "weight"):
        super().__init__()
        self.strength, self.unit = dict(strength), unit

    def on_train_begin(self, logs=None):
        _check("Proximal", self.model, self.strength)

    def on_train_batch_end(self, batch, logs=None):
        rate = float(self.model.optimizer.learning_rate)
        for name, strength in self.strength.items():
            kernel = self.model.get_layer(name).kernel
            kernel.assign(pruning.soft_threshold(kernel.numpy(), rate * strength, self.unit))


def _check(function: str, model: keras.Model, strength: Mapping[str, float]) -> None:
    for name, price in strength.items():
        layer_with_kernel(function, model, name)
        if not 0 <= price < float("inf"):
            raise PruningError(f"{function}: the strength of {name} is {price}; it must be 0 or above")
