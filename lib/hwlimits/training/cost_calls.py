"""One call of a Keras layer, and the table of the formulas that count it.

A formula is found by the layer's class name, so that tf_keras and Keras 3 share one table; it is
entered with `@formula` in `cost_layers` and `cost_light_layers`. It raises NoFormula where its layer
is set to something that it doesn't have: then the TensorFlow operations of the layer are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from hwlimits import compute
from hwlimits.compute import ACTIVATION_FLOPS, Cost

FORMULAS: dict[str, Callable[[LayerCall], Cost]] = {}

# Nothing is computed at inference, and the output is the input's memory. (A QuantizeLayer simulates
# for training what the exported file has as its number format.)
FREE = {
    "InputLayer", "Flatten", "Reshape", "Identity", "Dropout", "SpatialDropout1D", "SpatialDropout2D",
    "SpatialDropout3D", "AlphaDropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization", "QuantizeLayer",
}  # fmt: skip

# tfmot's wrappers: what they add is for training and gone in the exported model.
TRAINING_WRAPPERS = {"PruneLowMagnitude", "QuantizeWrapper", "QuantizeWrapperV2", "ClusterWeights", "ClusterWeightsMHA"}


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer: its tensors, all shapes known, the batch in front.

    arguments   name -> tensor, list of tensors or value, by the signature of the layer's `call`
    inputs      the tensors of the first argument; outputs: of the result
    """

    layer: Any
    arguments: dict[str, Any]
    inputs: list
    outputs: list
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first input."""
        return tuple(self.inputs[0].shape)

    @property
    def options(self) -> dict:
        return {"batch": self.shape[0], "dtype": self.dtype}

    def image(self, axes: int | None = None) -> tuple[tuple[int, ...], dict]:
        """Shape of one example with the channels last, and the options.

        axes   lengths beside the channels, None: all; what lies in front of them is all batch
        """
        axes = len(self.shape) - 2 if axes is None else axes
        batch, x = self.shape[: -axes - 1], self.shape[-axes - 1 :]
        if getattr(self.layer, "data_format", None) == "channels_first":
            x = (*x[1:], x[0])
        return x, {"batch": prod(batch), "dtype": self.dtype}


class NoFormula(Exception):
    """The layer is set to something that its formula doesn't have."""


def cost_of(call: LayerCall) -> Cost | None:
    """The layer's cost by its formula; None if there is none that fits.

    A formula fits if it arrives at the output's size and the parameters that the layer has.
    """
    layer, wrapped = unwrapped(call.layer)
    package = type(layer).__module__.split(".")[0]
    translate = FORMULAS.get(type(layer).__name__)
    if package not in ("tf_keras", "keras", "tensorflow_model_optimization") or not translate:
        return None
    if not hasattr(layer, "weights"):  # an operation of Keras 3 that has the name of a layer
        return None
    if any(None in (t.shape if t.shape.rank is not None else [None]) for t in [*call.inputs, *call.outputs]):
        return None
    try:
        cost = translate(replace(call, layer=layer))
    except NoFormula:
        return None
    if cost == Cost():  # nothing computed, nothing moved
        return cost
    size = compute.bytes_per_element(call.dtype)
    first, *others = (prod(tensor.shape) for tensor in call.outputs)
    has = sum(prod(weight.shape) for weight in layer.weights)
    if cost.bytes_written != first * size or (not wrapped and cost.parameters != has):
        return None
    return cost + Cost(bytes_written=sum(others) * size)  # states, scores


def unwrapped(layer) -> tuple[Any, bool]:
    """The layer that tfmot has made ready for training, and whether it has: what it added is not counted."""
    if not type(layer).__module__.startswith("tensorflow_model_optimization"):
        return layer, False
    return (layer.layer if type(layer).__name__ in TRAINING_WRAPPERS else layer), True


def formula(*class_names: str):
    """Enter a translator for the layers of these classes."""

    def enter(translate):
        FORMULAS.update(dict.fromkeys(class_names, translate))
        return translate

    return enter


def activation_name(layer, which: str = "activation") -> str | None:
    """The name of a layer's activation function, if it is one that Keras or TensorFlow brings."""
    function = getattr(layer, which)
    if type(function).__name__ == "QuantizeAwareActivation":
        function = function.activation
    if function is None or type(function).__name__ == "NoOpActivation":
        return None
    name = getattr(function, "__name__", "")
    package = str(getattr(function, "__module__", "")).split(".")[0]
    if name not in ACTIVATION_FLOPS or package not in ("tf_keras", "keras", "tensorflow"):
        raise NoFormula(name)
    return name


def reading(call: LayerCall, cost: Cost, *tensors) -> Cost:
    """The cost with each of the tensors read once, however many arguments it is."""
    distinct = {id(tensor): prod(tensor.shape) for tensor in tensors}
    size = compute.bytes_per_element(call.dtype)
    return replace(cost, bytes_read=(sum(distinct.values()) + cost.parameters) * size)


FORMULAS |= dict.fromkeys(FREE, lambda call: Cost())
