"""Filters that are really removed: a smaller Keras model with the outputs of the masked one.

A mask of zeros leaves the multiplications where they are. A filter of zeros can be taken out, and with it what
the next layer multiplies its output by. Masked means that the filter's weights and its bias are 0; what leaves
the layer there is then one number everywhere, f(0) of its activation, and what later layers make of it:

    relu, tanh and the like        f(0) = 0: nothing is left of it
    sigmoid, softplus, ...         f(0) = 1/2, log 2, ...
    batch normalization            its shift: beta - gamma mean / sqrt(variance + epsilon), at inference
    depthwise convolution          its bias, and the sum of its weights times what comes in

The next convolution or dense layer has that number in its bias. Where this would be wrong it is refused: at the
border of a padded convolution, for example, where some of the inputs are the padding's 0 instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hwlimits.pruning import PruningError
from hwlimits.training import layer_graph
from hwlimits.training.keras import keras

# f(x) of each element for itself; a softmax, for one, is not of this kind
ELEMENTWISE = {
    "linear", "relu", "relu6", "leaky_relu", "sigmoid", "hard_sigmoid", "tanh", "elu", "selu", "gelu", "swish", "silu",
    "softplus", "softsign", "exponential", "mish",
}  # fmt: skip
ACTIVATION_LAYERS = {"Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU"}
# a channel that is one number everywhere leaves them as it came
CHANNELWISE = {
    "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "UpSampling2D", "Cropping2D",
    "Dropout", "SpatialDropout2D", "GaussianNoise",
}  # fmt: skip
SIZES = {"Conv2D": "filters", "Dense": "units"}


class _Channels(NamedTuple):
    """What is known of a tensor's last axis: which channels are kept, and the number that the others are (float64)."""

    keep: np.ndarray
    constant: np.ndarray

    @property
    def whole(self) -> bool:
        return bool(self.keep.all())

    @property
    def gone(self) -> np.ndarray:
        """The constants of the removed channels, 0 for the others."""
        return np.where(self.keep, 0.0, self.constant)


class _Smaller(NamedTuple):
    """A layer with fewer channels: what changes in its configuration, its weights, and its output's channels."""

    changes: dict
    weights: list[np.ndarray]
    output: _Channels


def mask_filters(model: keras.Model, keep: Mapping[str, np.ndarray]) -> keras.Model:
    """A copy of the model in which the filters that are not kept are 0, weights and bias.

    keep   booleans (filters,) by name of a Conv2D or Dense layer, True for a filter that stays:
           `pruning.mask(pruning.unit_scores(pruning.magnitude(kernel), "filter"), sparsity)`
    """
    _check("mask_filters", model, keep)
    masked = keras.models.clone_model(model)
    masked.set_weights(model.get_weights())
    for name, filters in keep.items():
        layer = masked.get_layer(name)
        layer.set_weights([w * np.asarray(filters) for w in layer.get_weights()])
    return masked


def remove_filters(model: keras.Model, keep: Mapping[str, np.ndarray]) -> keras.Model:
    """The model without the filters that are not kept: at inference its outputs are those of `mask_filters`.

    keep   booleans (filters,) by name of a Conv2D or Dense layer, True for a filter that stays

    Known to what follows such a layer: Conv2D, DepthwiseConv2D, Dense, BatchNormalization, pooling, Flatten,
    Dropout, activations that look at each element for itself, ZeroPadding2D, Concatenate, and Add where the
    same filters are removed from everything it adds. Outputs differ by rounding, since sums are shorter.

    Raises PruningError, and names the layer, for: a layer that is not there or is neither Conv2D nor Dense; a mask
    of another shape, or that keeps nothing; removed filters that reach the model's output, a kind of layer that is
    not known, a sum with other filters removed on its other side, or padding of which the filter's constant is not 0.

    >>> from hwlimits.training.models import article_cnn
    >>> remove_filters(article_cnn(), {"conv2": np.arange(64) < 16, "dense1": np.arange(64) < 32}).count_params()
    18106
    """
    _check("remove_filters", model, keep)
    inputs, outputs = layer_graph.reads(model, "remove_filters", PruningError)
    found: dict[str, _Smaller] = {}
    for name in inputs:  # every layer comes after what it reads
        layer = model.get_layer(name)
        before = [found[source].output for source in inputs[name]] or [_all_of(layer.input_shape)]
        found[name] = _smaller(layer, before, keep.get(name))
    for name in outputs:
        if not found[name].output.whole:
            raise PruningError(
                f"remove_filters: removed filters reach {name}, the output of {model.name}, whose size is what the "
                "model answers; keep them"
            )

    def rebuild(layer):
        return type(layer).from_config({**layer.get_config(), **found[layer.name].changes})

    smaller = keras.models.clone_model(model, clone_function=rebuild)
    for layer in smaller.layers:
        layer.set_weights(found[layer.name].weights)
    return smaller


# --- layer by layer ----------------------------------------------------------------------------


def _smaller(layer: keras.layers.Layer, inputs: list[_Channels], own: np.ndarray | None) -> _Smaller:
    kind, weights = type(layer).__name__, layer.get_weights()
    if own is None and all(channels.whole for channels in inputs):
        return _Smaller({}, weights, _all_of(layer.output_shape))
    if getattr(layer, "data_format", None) == "channels_first":
        raise PruningError(f"remove_filters: {layer.name} has its channels first; they must be the last axis")
    channels = inputs[0]
    if kind in SIZES:
        return _heavy(layer, channels, own)
    if kind == "DepthwiseConv2D":
        return _depthwise(layer, channels)
    if kind == "BatchNormalization":
        return _batch_norm(layer, channels)
    if kind in CHANNELWISE:
        return _Smaller({}, weights, channels)
    if kind in ACTIVATION_LAYERS:
        return _Smaller({}, weights, channels._replace(constant=_activated(layer, channels.constant)))
    if kind == "Flatten":
        places = int(np.prod(layer.input_shape[1:-1]))
        return _Smaller({}, weights, _Channels(*(np.tile(part, places) for part in channels)))
    if kind == "ZeroPadding2D":
        _refuse_at_border(layer, channels)
        return _Smaller({}, weights, channels)
    if kind == "Concatenate" and layer.axis in (-1, len(layer.output_shape) - 1):
        return _Smaller({}, weights, _Channels(*(np.concatenate(parts) for parts in zip(*inputs, strict=True))))
    if kind == "Add":
        if any(not np.array_equal(channels.keep, other.keep) for other in inputs):
            raise PruningError(
                f"remove_filters: {layer.name} adds tensors of which other filters are removed; in a residual "
                "connection all that is added must lose the same, or keep all"
            )
        return _Smaller({}, weights, channels._replace(constant=sum(other.constant for other in inputs)))
    raise PruningError(
        f"remove_filters: removed filters reach {layer.name}, and what a {kind} makes of them is not known here; "
        "keep them, or put a Conv2D or Dense layer before it"
    )


def _heavy(layer: keras.layers.Layer, channels: _Channels, own: np.ndarray | None) -> _Smaller:
    """A Conv2D or Dense layer: fewer inputs, whose constants go to the bias, and fewer filters of its own."""
    kernel, *rest = layer.get_weights()
    if getattr(layer, "groups", 1) > 1:
        raise PruningError(f"remove_filters: {layer.name} has {layer.groups} groups of filters; only one is known here")
    _refuse_at_border(layer, channels)
    window = tuple(range(kernel.ndim - 2))
    from_constants = channels.gone @ kernel.sum(axis=window, dtype=np.float64)
    keep = np.ones(kernel.shape[-1], bool) if own is None else np.asarray(own)
    use_bias = bool(rest) or bool(from_constants[keep].any())
    bias = from_constants + (rest[0] if rest else 0)
    weights = [kernel[..., channels.keep, :][..., keep], *([bias[keep]] if use_bias else [])]
    zero = np.zeros(keep.size)
    constant = zero if keep.all() else _activated(layer, zero)
    changes = {SIZES[type(layer).__name__]: int(keep.sum()), "use_bias": use_bias}
    return _Smaller(changes, weights, _Channels(keep, constant))


def _depthwise(layer: keras.layers.Layer, channels: _Channels) -> _Smaller:
    kernel, *rest = layer.get_weights()  # (height, width, channels, multiplier)
    _refuse_at_border(layer, channels)
    multiplier = kernel.shape[-1]
    keep = channels.keep.repeat(multiplier)
    constant = (channels.gone[:, None] * kernel.sum(axis=(0, 1), dtype=np.float64)).ravel() + (rest[0] if rest else 0)
    weights = [kernel[:, :, channels.keep], *(bias[keep] for bias in rest)]
    return _Smaller({}, weights, _Channels(keep, _activated(layer, constant)))


def _batch_norm(layer: keras.layers.Layer, channels: _Channels) -> _Smaller:
    weights, last = layer.get_weights(), len(layer.input_shape) - 1
    if list(layer.axis) != [last] or any(w.shape != channels.keep.shape for w in weights):
        raise PruningError(f"remove_filters: {layer.name} normalizes another axis than the last, or by renormalization")
    given = iter(weights)
    gamma = next(given) if layer.scale else 1.0
    beta = next(given) if layer.center else 0.0
    mean, variance = (w.astype(np.float64) for w in given)
    constant = (channels.constant - mean) * gamma / np.sqrt(variance + layer.epsilon) + beta
    return _Smaller({}, [w[channels.keep] for w in weights], channels._replace(constant=constant))


def _activated(layer: keras.layers.Layer, constant: np.ndarray) -> np.ndarray:
    """f of the constants, f being the layer's activation or the layer itself."""
    activation = getattr(layer, "activation", None) or layer.call
    name = getattr(activation, "__name__", str(activation))
    if activation != layer.call and name not in ELEMENTWISE:
        raise PruningError(
            f"remove_filters: the activation {name} of {layer.name} is not known to look at each element for itself; "
            "keep what reaches it"
        )
    return np.asarray(activation(keras.backend.constant(constant, "float32")), np.float64)


def _refuse_at_border(layer: keras.layers.Layer, channels: _Channels) -> None:
    """Padding is 0, and a filter's constant is not: near the border the sum would be another."""
    pads = type(layer).__name__ == "ZeroPadding2D"
    pads |= getattr(layer, "padding", None) == "same" and max(layer.kernel_size) > 1
    if pads and channels.gone.any():
        first = int(np.flatnonzero(channels.gone)[0])
        raise PruningError(
            f"remove_filters: {layer.name} pads with 0, and the removed filter {first} before it gives "
            f"{channels.gone[first]:.3g} everywhere; keep it, or use padding 'valid'"
        )


# --- shared ------------------------------------------------------------------------------------


def _all_of(shape: tuple | list) -> _Channels:
    size = (shape[0] if isinstance(shape, list) else shape)[-1] or 0
    return _Channels(np.ones(size, bool), np.zeros(size))


def _check(function: str, model: keras.Model, keep: Mapping[str, np.ndarray]) -> None:
    if not getattr(model, "_is_graph_network", False):
        raise PruningError(f"{function}: {model.name} is no Sequential or functional model of which the input is known")
    layers = {layer.name: layer for layer in model.layers}
    for name, filters in keep.items():
        if name not in layers:
            raise PruningError(f"{function}: no layer {name!r} in {model.name}; it has {', '.join(layers)}")
        kind = type(layers[name]).__name__
        if kind not in SIZES:
            raise PruningError(f"{function}: {name} is a {kind}; filters are removed from Conv2D and Dense layers")
        filters, size = np.asarray(filters), layers[name].output_shape[-1]
        if filters.dtype != bool or filters.shape != (size,):
            raise PruningError(
                f"{function}: {name} needs booleans of shape ({size},), one for each filter; "
                f"got {filters.dtype} {filters.shape}"
            )
        if not filters.any():
            raise PruningError(
                f"{function}: no filter of {name} is kept, so nothing would get through; keep one at least"
            )
