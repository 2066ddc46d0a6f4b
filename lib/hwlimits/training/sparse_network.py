"""A float32 LiteRT file as a network of the course's own sparse kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hwlimits.kernels.network import Convolution, Dense, GlobalMean, Layer, MaxPool, Network
from hwlimits.kernels.sparse import BLOCKS
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_parser import LiteRTError
from hwlimits.training.litert_shapes import Call, calls

_BOUNDS = {
    schema.ActivationFunctionType.NONE: (-np.inf, np.inf),
    schema.ActivationFunctionType.RELU: (0.0, np.inf),
    schema.ActivationFunctionType.RELU6: (0.0, 6.0),
}
_PADDING = {schema.Padding.SAME: "same", schema.Padding.VALID: "valid"}
_FOLDED = ("RESHAPE", "SQUEEZE")  # the elements stay where they are


def sparse_network(file: LiteRTFile, blocks: Mapping[int, int] | None = None) -> Network:
    """The network that a float32 file holds, its zeros skipped; a softmax at its end is left out.

    blocks  outputs that share their zeros (1, 2, 4; dense layers also 8 and 16), by the number of a layer
            among `file.layers`; those not named have 1, and dense layers with hardly a zero the most that fits

    Raises LiteRTError for a file that is not float32, not a chain, or has an operator that no kernel is for.
    """
    blocks, layers, pads = dict(blocks or {}), [], "valid"
    model = file._model
    found, shapes = calls(model, 1)
    found, heavy = [call for call in found if not call.folded], 0
    for number, call in enumerate(found):
        if number and call.inputs[0] != found[number - 1].outputs[0]:
            raise LiteRTError(
                f"sparse_network: {_name(call)} does not take what the operator before it gives: no chain"
            )
        if call.kind == "SOFTMAX" and number == len(found) - 1:
            break
        if call.kind == "PAD":
            pads = tuple(map(tuple, np.reshape(call.integers(1), (-1, 2))[1:3].tolist()))
        elif call.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            layer = file.layers[heavy]
            layers.append(_weighted(call, layer, pads, blocks.pop(heavy, _block(call, layer.weights))))
            heavy, pads = heavy + 1, "valid"
        elif call.kind not in _FOLDED:
            layers.append(_light(call))
        if pads != "valid" and call.kind != "PAD":
            raise LiteRTError(f"sparse_network: a PAD stands before {_name(call)}; it is read before a convolution")
    if blocks:
        raise LiteRTError(f"sparse_network: blocks for layers {sorted(blocks)}, and the file has {heavy}: 0 and up")
    _, *shape = shapes[model.subgraphs[0].inputs[0]]
    try:
        return Network(layers, (*shape, 1)[:3])  # a grey image may come without its channel
    except ValueError as error:
        raise LiteRTError(f"sparse_network: {error}") from None


def _weighted(call: Call, layer, padding, block: int) -> Layer:
    if layer.weights.dtype != np.float32:
        raise LiteRTError(f"sparse_network: the weights of {_name(call)} are {layer.weights.dtype}; it takes float32")
    bias = layer.bias if layer.bias.size else np.zeros(_outputs(call, layer), np.float32)
    low, high = _bounds(call)
    if call.kind == "FULLY_CONNECTED":
        return Dense(layer.weights.T, bias, low, high, block)
    stride, across = call.option("strideH"), call.option("strideW")
    if stride != across or call.option("dilationHFactor", 1) != 1 or call.option("dilationWFactor", 1) != 1:
        raise LiteRTError(f"sparse_network: {_name(call)} has a dilation, or another stride down than across")
    depthwise = call.kind == "DEPTHWISE_CONV_2D"
    if depthwise and call.option("depthMultiplier") != 1:
        raise LiteRTError(f"sparse_network: {_name(call)} gives several outputs for each channel")
    if padding == "valid":
        padding = _PADDING[call.option("padding")]
    elif call.option("padding") != schema.Padding.VALID:
        raise LiteRTError(f"sparse_network: {_name(call)} is padded twice")
    # (outputs, height, width, inputs), or (1, height, width, channels), to Keras's order
    weights = np.moveaxis(layer.weights, 0, 3)
    return Convolution(weights, bias, stride, padding, low, high, depthwise, block)


def _block(call: Call, weights: np.ndarray) -> int:
    """A place for each weight is as many bytes again: not worth it where no weight is zero."""
    vector = call.kind == "FULLY_CONNECTED" or call.shapes[0][1:3] == weights.shape[1:3] == (1, 1)
    if not vector or np.mean(weights == 0) > 0.5:
        return 1
    return max(block for block in BLOCKS if len(weights) % block == 0)


def _outputs(call: Call, layer) -> int:
    return layer.weights.shape[3 if call.kind == "DEPTHWISE_CONV_2D" else 0]


def _light(call: Call) -> Layer:
    if call.kind == "MEAN" and sorted(call.integers(1)) == [1, 2]:
        return GlobalMean()
    if call.kind == "MAX_POOL_2D":
        sizes = {call.option(name) for name in ("filterHeight", "filterWidth", "strideH", "strideW")}
        if len(sizes) == 1 and call.option("padding") == schema.Padding.VALID and _bounds(call)[0] == -np.inf:
            return MaxPool(sizes.pop())
    raise LiteRTError(f"sparse_network: no kernel for {_name(call)} as it stands")


def _bounds(call: Call) -> tuple[float, float]:
    activation = call.option("fusedActivationFunction")
    if activation not in _BOUNDS:
        raise LiteRTError(f"sparse_network: {_name(call)} has an activation that is neither none, ReLU nor ReLU6")
    return _BOUNDS[activation]


def _name(call: Call) -> str:
    return f"operator {call.index} ({call.kind})"
