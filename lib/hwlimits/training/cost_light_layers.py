"""From a Keras layer's configuration and shapes to its formula: the layers that mostly move data.

Normalization, pooling, activations, merges, copies. Each translator takes a `LayerCall` and returns the Cost.
"""

from __future__ import annotations

from math import prod

from hwlimits import compute
from hwlimits.training.cost_calls import NoFormula, activation_name, formula, reading


def _axes(call) -> list[int]:
    """The axes that a normalization names, counted from the front."""
    axis = call.layer.axis
    return [a % len(call.shape) for a in (axis if isinstance(axis, (list, tuple)) else [axis])]


@formula("BatchNormalization")
def _batch_norm(call):
    channels = prod(call.shape[axis] for axis in _axes(call))
    x = (prod(call.shape[1:]) // channels, channels)
    return compute.batch_norm(x, scale=call.layer.scale, center=call.layer.center, **call.options)


@formula("LayerNormalization")
def _layer_norm(call):
    if getattr(call.layer, "rms_scaling", False):
        raise NoFormula("rms_scaling")
    normalized = prod(call.shape[axis] for axis in _axes(call))
    learned = {"scale": normalized * call.layer.scale, "center": normalized * call.layer.center}
    return compute.layer_norm(call.shape[1:], normalized, **learned, **call.options)


@formula("GroupNormalization")
def _group_norm(call):
    channels = call.shape[_axes(call)[0]]
    groups = channels if call.layer.groups == -1 else call.layer.groups
    learned = {"scale": channels * call.layer.scale, "center": channels * call.layer.center}
    return compute.layer_norm(call.shape[1:], prod(call.shape[1:]) // groups, **learned, **call.options)


@formula("RMSNormalization")
def _rms_norm(call):
    return compute.rms_norm(call.shape[1:], prod(call.shape[axis] for axis in _axes(call)), **call.options)


@formula("UnitNormalization")
def _unit_norm(call):
    return compute.unit_norm(call.shape[1:], prod(call.shape[axis] for axis in _axes(call)), **call.options)


@formula(*(f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)))
def _pooling(call):
    x, options = call.image()
    layer = call.layer
    return compute.pooling(x, layer.pool_size, strides=layer.strides, padding=layer.padding, **options)


@formula(*(f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)))
def _global_pooling(call):
    x, options = call.image()
    return compute.pooling(x, x[:-1], **options)


@formula("Activation")
def _activation(call):
    name = activation_name(call.layer)
    if name in (None, "linear"):
        return compute.Cost()
    return compute.activation(call.shape[1:], name, **call.options)


@formula("ELU", "Softmax", "ThresholdedReLU", "LeakyReLU")
def _activation_layer(call):
    names = {"ELU": "elu", "Softmax": "softmax", "ThresholdedReLU": "thresholded_relu", "LeakyReLU": "leaky_relu"}
    return compute.activation(call.shape[1:], names[type(call.layer).__name__], **call.options)


@formula("PReLU")
def _prelu(call):
    shared = call.layer.shared_axes or ()
    parameters = prod(n for axis, n in enumerate(call.shape) if axis and axis not in shared)
    return compute.activation(call.shape[1:], "prelu", parameters=parameters, **call.options)


@formula("ReLU")
def _relu(call):
    layer = call.layer
    n = prod(call.shape[1:])
    flops = 1 + sum(bool(option) for option in (layer.negative_slope, layer.max_value, layer.threshold))
    return compute.move(n, n, flops_per_output=flops, **call.options)


@formula("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "Concatenate")
def _merge(call):
    shapes = [tuple(tensor.shape)[1:] for tensor in call.inputs]
    if len({len(shape) for shape in shapes}) != 1:
        raise NoFormula("ranks")
    return reading(call, compute.merge(type(call.layer).__name__.lower(), shapes, **call.options), *call.inputs)


@formula("Dot")
def _dot(call):
    a, b = (tuple(tensor.shape) for tensor in call.inputs)
    axes = call.layer.axes
    axes = (axes, axes) if isinstance(axes, int) else axes
    axes = (axes[0] % len(a) - 1, axes[1] % len(b) - 1)
    cost = compute.dot(a[1:], b[1:], axes, normalize=call.layer.normalize, **call.options)
    return reading(call, cost, *call.inputs)


@formula("Masking")
def _masking(call):
    # x != mask_value ? x : 0, as a comparison and a product; the mask that goes with it is not counted
    elements = prod(call.shape[1:])
    return compute.move(elements, elements, flops_per_output=2, **call.options)


@formula("Permute", "RepeatVector", *(f"{kind}{n}D" for kind in ("ZeroPadding", "UpSampling") for n in (1, 2, 3)))
def _copy(call):
    flops = {"nearest": 0, "bilinear": 9}  # bilinear: three of a + t (b - a)
    interpolation = getattr(call.layer, "interpolation", "nearest")
    if interpolation not in flops:
        raise NoFormula(interpolation)
    elements = prod(call.shape[1:]), prod(call.outputs[0].shape[1:])
    return compute.move(*elements, flops_per_output=flops[interpolation], **call.options)


@formula("Cropping1D", "Cropping2D", "Cropping3D", "CenterCrop")
def _crop(call):
    if any(after > before for before, after in zip(call.shape, call.outputs[0].shape, strict=True)):
        raise NoFormula("a crop that enlarges")
    kept = prod(call.outputs[0].shape[1:])
    return compute.move(kept, kept, **call.options)
