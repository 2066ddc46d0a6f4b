"""Keras layers with codes in their forward pass, and the model rebuilt of them: the course's own engine of QAT.

What is rounded is what LiteRT keeps as integers: the input, every kernel, and what each fused operator puts out (a
layer and its ReLU are one operator). Biases are 32 bits there, and stay as they are. Conv2D and DepthwiseConv2D have
a scale for each channel; Dense has one, since the converter refuses several scales of the kernel that it transposes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hwlimits.quantization import QuantizationError
from hwlimits.training import layer_graph
from hwlimits.training.fake_quant import LearntRange, WeightRange
from hwlimits.training.keras import keras

OUTER_BITS = 8  # of input and answers: pixels have as many, and of few codes too many answers would be equal
AFTER, BEFORE = ("linear", "relu", "relu6"), ("softmax", "sigmoid", "tanh")  # rounded after or before the activation
MOVES = ("MaxPooling2D", "Flatten", "Reshape", "Dropout", "ZeroPadding2D", "Permute")  # hand codes on as they are
ROUNDED = ("AveragePooling2D", "GlobalAveragePooling2D", "Add", "Concatenate", "ReLU", "Activation")
FUSES = ("Conv2D", "DepthwiseConv2D", "Dense", "Add", "AveragePooling2D")  # LiteRT has a ReLU in these operators
ENDS = ("Softmax", "Activation")  # those of BEFORE as layers: LiteRT has fixed codes for what they put out


class Coded(keras.layers.Layer):
    """Hands its input on, rounded to codes of a learnt range."""

    def __init__(self, bits: int = 8, **config):
        super().__init__(**config)
        self.bits = bits

    def build(self, input_shape):
        super().build(input_shape)
        self.output_range = LearntRange(self, "output", self.bits)

    def call(self, inputs, training=False):
        return self.output_range(inputs, training)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}


class _Heavy:
    """A layer with a kernel: its zeros held, its kernel and its output rounded. The Keras layer comes second in line.

    bits          of the kernel
    output_bits   of the output; None where the layer behind it rounds
    """

    attribute = "kernel"

    def __init__(self, *, bits: int = 8, output_bits: int | None = 8, **config):
        super().__init__(**config)
        self.bits, self.output_bits = bits, output_bits

    def build(self, input_shape):
        super().build(input_shape)
        kernel = getattr(self, self.attribute)
        self.kept = self.add_weight("kept", kernel.shape, initializer="ones", trainable=False)
        self.weight_range = WeightRange(self, "kernel", self.bits, self.channels(kernel.shape))
        if self.output_bits:
            self.output_range = LearntRange(self, "output", self.output_bits)

    def channels(self, shape) -> int | None:
        """How many scales the kernel has along its last axis."""
        return int(shape[-1])

    def flat(self, kernel):
        """The kernel with its channels along the last axis."""
        return kernel

    def call(self, inputs, training=False):
        kernel = getattr(self, self.attribute) * self.kept
        coded = self.weight_range(self.flat(kernel), training)
        outputs = self.multiply(inputs, keras.backend.reshape(coded, kernel.shape))
        if self.use_bias:
            outputs = keras.backend.bias_add(outputs, self.bias)
        before = _activation(self) in BEFORE
        if before and self.output_bits:
            outputs = self.output_range(outputs, training)
        outputs = self.activation(outputs)
        return self.output_range(outputs, training) if self.output_bits and not before else outputs

    def get_config(self):
        return {**super().get_config(), "bits": self.bits, "output_bits": self.output_bits}


class CodedConv2D(_Heavy, keras.layers.Conv2D):
    """Conv2D with a scale for each filter."""

    def multiply(self, inputs, kernel):
        return self.convolution_op(inputs, kernel)


class CodedDepthwiseConv2D(_Heavy, keras.layers.DepthwiseConv2D):
    """DepthwiseConv2D with a scale for each output channel."""

    attribute = "depthwise_kernel"

    def channels(self, shape) -> int | None:
        return int(shape[-2] * shape[-1])

    def flat(self, kernel):
        height, width, channels, multiplier = kernel.shape
        return keras.backend.reshape(kernel, (height, width, 1, channels * multiplier))

    def multiply(self, inputs, kernel):
        settings = {"padding": self.padding, "dilation_rate": self.dilation_rate, "data_format": self.data_format}
        return keras.backend.depthwise_conv2d(inputs, kernel, self.strides, **settings)


class CodedDense(_Heavy, keras.layers.Dense):
    """Dense with one scale."""

    def channels(self, shape) -> int | None:
        return None

    def multiply(self, inputs, kernel):
        return keras.backend.dot(inputs, kernel)


HEAVY = {"Conv2D": CodedConv2D, "DepthwiseConv2D": CodedDepthwiseConv2D, "Dense": CodedDense}


def coded_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model that round something; none for a model that `rebuild` has not made."""
    return (layer for layer in model.layers if isinstance(layer, Coded | _Heavy))


def rebuild(model: keras.Model, bits: int, keep_zeros: bool) -> keras.Model:
    """A copy of the model that rounds to codes of `bits` bits; input and answers have 8.

    Layers keep their names. A BatchNormalization behind a layer with a kernel is folded into that. Weights that are
    zero now stay zero, if `keep_zeros`. Raises QuantizationError that names the layer for what is not known here.
    """
    if not getattr(model, "_is_graph_network", False):
        raise QuantizationError(f"aware: {model.name} is no Sequential or functional model of which the input is known")
    reads, outputs = layer_graph.reads(model, "aware", QuantizationError)
    readers = {name: [other for other in reads if name in reads[other]] for name in reads}
    last = _answering(model, reads, outputs)

    def relu_alone_reads(name: str) -> bool:
        return len(readers[name]) == 1 and name not in outputs and _is_relu(model.get_layer(readers[name][0]))

    tensors, inputs, weights = {}, {}, {}
    for name, before in reads.items():
        layer, kind = model.get_layer(name), type(model.get_layer(name)).__name__
        if not before:  # an input, or the first of a Sequential model
            own = kind == "InputLayer"
            shape = layer.input_shape[0] if own else layer.input_shape
            inputs[name] = keras.Input(batch_shape=shape, name=name if own else None)
            given = [Coded(OUTER_BITS, name=f"codes_of_input{len(inputs) - 1 or ''}")(inputs[name])]
            if own:
                tensors[name] = given[0]
                continue
        else:
            given = [tensors[source] for source in before]
        _check(layer, kind, name in outputs or all(_ends(model.get_layer(o)) for o in readers[name]))
        fused = kind in FUSES and _activation(layer) == "linear" and relu_alone_reads(name)
        this_bits = OUTER_BITS if name in last else bits
        if kind in HEAVY:
            behind = [model.get_layer(other) for other in readers[name]]
            folds = _folds(layer, behind, outputs)
            found = _with_norm(layer, behind[0]) if folds else _weights(layer)
            if folds:
                fused = relu_alone_reads(behind[0].name)
                this_bits = OUTER_BITS if behind[0].name in last else bits
            weights[name] = found
            settings = {"bits": bits, "output_bits": None if fused else this_bits, "use_bias": found[1] is not None}
            tensors[name] = HEAVY[kind].from_config({**layer.get_config(), **settings})(given[0])
        elif kind == "BatchNormalization":
            before_it = model.get_layer(before[0]) if before else None
            if before_it is None or not _folds(before_it, [model.get_layer(o) for o in readers[before[0]]], outputs):
                raise QuantizationError(
                    f"aware: {name} is a BatchNormalization that no layer before it can take in; put it behind a "
                    "Conv2D, DepthwiseConv2D or Dense without activation that nothing else reads and that is no output"
                )
            tensors[name] = given[0]
        else:
            made = type(layer).from_config(layer.get_config())(given if len(given) > 1 else given[0])
            rounds = kind in ROUNDED and not fused and not _ends(layer)
            tensors[name] = Coded(this_bits, name=f"codes_of_{name}")(made) if rounds else made
    # a functional model's inputs have an order of their own, not that of its layers
    order = list(inputs) if isinstance(model, keras.Sequential) else model.input_names
    copy = keras.Model([inputs[name] for name in order], [tensors[name] for name in outputs], name=model.name)
    for name, (kernel, bias) in weights.items():
        layer = copy.get_layer(name)
        getattr(layer, layer.attribute).assign(kernel)
        if bias is not None:
            layer.bias.assign(bias)
        layer.kept.assign((kernel != 0) if keep_zeros else np.ones_like(kernel))
        layer.weight_range.follow(layer.flat(getattr(layer, layer.attribute)))
    return copy


def _activation(layer) -> str:
    activation = getattr(layer, "activation", None)
    return "linear" if activation is None else getattr(activation, "__name__", type(activation).__name__)


def _is_relu(layer) -> bool:
    """Whether the layer is a ReLU that LiteRT has in other operators: to no end, or to 6."""
    if type(layer).__name__ == "ReLU":
        return not layer.negative_slope and not layer.threshold and layer.max_value in (None, 6)
    return type(layer).__name__ == "Activation" and _activation(layer) in ("relu", "relu6")


def _ends(layer) -> bool:
    """Whether the layer puts out what LiteRT has fixed codes for."""
    kind = type(layer).__name__
    return kind == "Softmax" or (kind == "Activation" and _activation(layer) in BEFORE)


def _answering(model: keras.Model, reads: dict[str, list[str]], outputs: list[str]) -> set[str]:
    """The layers that make the answers: the outputs, and what is before those of them that only hand codes on."""
    found = set(outputs)
    for name in reversed(list(reads)):
        layer = model.get_layer(name)
        hands_on = type(layer).__name__ in (*MOVES, "BatchNormalization") or _ends(layer)
        if name in found and (hands_on or _is_relu(layer)):
            found |= set(reads[name])
    return found


def _check(layer, kind: str, at_end: bool) -> None:
    """Raise QuantizationError for a layer that is not known here."""
    known = (*HEAVY, *MOVES, *ROUNDED, *ENDS, "BatchNormalization")
    if kind not in known:
        raise QuantizationError(
            f"aware: {layer.name} is a {kind}, which has no codes here; build the network of {', '.join(known)}"
        )
    if _activation(layer) not in AFTER + BEFORE:
        raise QuantizationError(
            f"aware: {layer.name} has the activation {_activation(layer)}; those with codes here are "
            f"{', '.join(AFTER + BEFORE)}"
        )
    if kind == "ReLU" and not _is_relu(layer):
        largest = "None" if layer.max_value is None else f"{layer.max_value:g}"
        raise QuantizationError(
            f"aware: {layer.name} is a ReLU with negative_slope={layer.negative_slope:g}, "
            f"threshold={layer.threshold:g}, max_value={largest}; take ReLU() or ReLU(6), which LiteRT has for integers"
        )
    if kind == "Add" and len(layer.input_shape) > 2:
        raise QuantizationError(
            f"aware: {layer.name} adds {len(layer.input_shape)} inputs; LiteRT's integers add two, so add them in pairs"
        )
    if np.any(np.not_equal(getattr(layer, "dilation_rate", 1), 1)):
        raise QuantizationError(
            f"aware: {layer.name} has the dilation {layer.dilation_rate}, which the converter leaves in float32; take 1"
        )
    if (_ends(layer) or _activation(layer) in BEFORE) and not at_end:
        raise QuantizationError(
            f"aware: {layer.name} ends in {_activation(layer) if kind != 'Softmax' else 'softmax'} and other layers "
            "read it; its codes are LiteRT's own, so it has to be the last"
        )
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise QuantizationError(f"aware: {layer.name} has its channels first; LiteRT has them last")
    if kind == "Dense" and len(layer.input_shape) != 2:
        raise QuantizationError(
            f"aware: {layer.name} reads numbers of the shape {layer.input_shape}; put a Flatten before it"
        )


def _weights(layer) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel and bias."""
    found = layer.get_weights()
    return found[0], (found[1] if layer.use_bias else None)


def _folds(layer, behind: list, outputs: list[str]) -> bool:
    """Whether a BatchNormalization over its channels is all that takes what a layer with a kernel puts out."""
    return (
        layer.name not in outputs
        and type(layer).__name__ in HEAVY
        and len(behind) == 1
        and type(behind[0]).__name__ == "BatchNormalization"
        and _activation(layer) == "linear"
        and list(behind[0].axis) == [len(layer.output_shape) - 1]
    )


def _with_norm(layer, norm) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a layer with the BatchNormalization behind it, as they are when nothing is trained."""
    kernel, bias = _weights(layer)
    given = iter(norm.get_weights())
    gamma = next(given) if norm.scale else 1.0
    beta = next(given) if norm.center else 0.0
    mean, variance = given
    factor = gamma / np.sqrt(variance + norm.epsilon)
    shape = kernel.shape[-2:] if type(layer).__name__ == "DepthwiseConv2D" else kernel.shape[-1:]
    return kernel * factor.reshape(shape), ((0.0 if bias is None else bias) - mean) * factor + beta
