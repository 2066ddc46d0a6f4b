"""The network in int8, by the integer operators that PyTorch keeps: oneDNN's, on plain int8 and uint8 tensors.

PyTorch 2.13 warns that torch.quantize_per_tensor and the types qint8 and quint8 will be removed, and that all of
torch.ao.quantization will; what takes their place keeps codes in torch.int8 and scales beside them. Its convolution
and product on a CPU are torch.ops.onednn.qconv2d_pointwise and qlinear_pointwise, which are called here directly.
Scales, zero points and codes come from `hwlimits.quantization`: weights symmetric by output, activations affine.

On a processor without VNNI oneDNN adds two products in 16 bits, and cuts off what is beyond: codes of 8 bits can give
wrong sums there. Activations of 7 bits can't (2 x 127 x 127 < 2^15), and `quantize` takes 7 where 8 are not exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from hwlimits.pytorch.engine import TorchError, torch_module
from hwlimits.pytorch.networks import images as as_tensor
from hwlimits.quantization import Quantization, affine, symmetric
from hwlimits.quantization import quantize as codes_of

NAMES = ("qconv2d_pointwise", "qconv_prepack", "qlinear_pointwise", "qlinear_prepack")


@dataclass(frozen=True, eq=False)
class Int8Layer:
    """A convolution or dense layer on codes.

    weights   what its int8 codes mean;  input, output: the same of its uint8 activations, output None for float32
    packed    the codes as oneDNN keeps them;  bias float32, as these operators take it
    """

    name: str
    weights: Quantization
    input: Quantization
    output: Quantization | None
    packed: object
    bias: object
    call: Callable

    @property
    def codes(self) -> np.ndarray:
        """The int8 codes, out of oneDNN's own tensor again, (outputs, inputs, ...)."""
        dense = self.packed.to_dense().numpy()
        return dense.T if dense.ndim == 2 else dense

    @property
    def weights_bytes(self) -> int:
        """Codes, scales and biases."""
        return self.packed.numel() * self.packed.element_size() + self.weights.scale.nbytes + self.bias.numel() * 4


@dataclass(frozen=True, eq=False)
class Int8Network:
    """A network whose convolutions and products run on integers. Called with float32 images, it gives the logits."""

    layers: tuple[Int8Layer, ...]
    steps: tuple[Callable, ...]

    def __call__(self, x):
        torch = torch_module()
        first = self.layers[0].input
        codes = torch.from_numpy(codes_of(x.numpy(), first))
        for step in self.steps:
            codes = step(codes)
        return codes

    @property
    def weights_bytes(self) -> int:
        """Of all weights, their scales and the biases."""
        return sum(layer.weights_bytes for layer in self.layers)


def quantize(model, images: np.ndarray, activation_bits: int | None = None) -> Int8Network:
    """A trained torch.nn.Sequential of Conv2d, Linear, ReLU, MaxPool2d, Flatten and a last Softmax, in int8.

    images            (n, height, width, channels), some hundred that training had: the largest and smallest
                      activation on them set the scales
    activation_bits   8 or 7; None: 8 where this processor's sums are exact, else 7

    The softmax is left out: the logits have the same order. Raises TorchError for another layer, by name, for other
    bits, and where PyTorch has no such operators.
    """
    torch, operators = torch_module(), _operators()
    if activation_bits is None:
        activation_bits = 8 if eight_bits_are_exact() else 7
    if activation_bits not in (7, 8):
        raise TorchError(f"quantize(activation_bits={activation_bits!r}): 8, or 7 where a processor has no VNNI")
    known = ("Conv2d", "Linear", "ReLU", "MaxPool2d", "Flatten", "Softmax")
    named = list(model.named_children())
    for name, layer in named:
        if type(layer).__name__ not in known or list(layer.children()):
            raise TorchError(f"quantize: layer {name!r} is a {type(layer).__name__}; known are {', '.join(known)}")
    named = named[:-1] if isinstance(named[-1][1], torch.nn.Softmax) else named
    ranges, x = {}, as_tensor(images)
    with torch.no_grad():
        for name, layer in named:
            ranges[name] = affine(float(x.min()), float(x.max()), activation_bits, signed=False)  # of its input
            x = layer(x)
    weighted = [name for name, layer in named if hasattr(layer, "weight")]
    after = dict(zip(weighted, [*(ranges[name] for name in weighted[1:]), None], strict=True))
    layers, steps = [], []
    for i, (name, layer) in enumerate(named):
        if name in after:
            relu = i + 1 < len(named) and isinstance(named[i + 1][1], torch.nn.ReLU)
            layers.append(_layer(operators, name, layer, ranges[name], after[name], relu))
            steps.append(layers[-1].call)
        elif isinstance(layer, torch.nn.ReLU):
            if i == 0 or named[i - 1][0] not in after:
                raise TorchError(f"quantize: {name!r} follows no Conv2d or Linear, which it would be part of")
        elif isinstance(layer, torch.nn.Softmax):
            raise TorchError(f"quantize: the softmax {name!r} is not the last layer")
        elif isinstance(layer, torch.nn.MaxPool2d):
            steps.append(_pooled(layer))
        else:
            steps.append(layer)  # Flatten
    return Int8Network(tuple(layers), tuple(steps))


def _layer(operators, name: str, layer, of_input: Quantization, of_output: Quantization | None, relu: bool):
    """One layer's weights as codes, packed, and the call on codes."""
    torch = torch_module()
    kernel = layer.weight.detach().numpy()
    weights = symmetric(np.abs(kernel).reshape(len(kernel), -1).max(axis=1), axis=0)
    codes = torch.from_numpy(codes_of(kernel, weights))
    scales = torch.from_numpy(weights.scale.copy())
    zeros = torch.zeros(len(kernel), dtype=torch.int64)
    bias = torch.zeros(len(kernel)) if layer.bias is None else layer.bias.detach().clone()
    x_scale, x_zero = float(of_input.scale), int(of_input.zero_point)
    if of_output is None:
        out = (1.0, 0, torch.float32)
    else:
        out = (float(of_output.scale), int(of_output.zero_point), torch.uint8)
    post = ("relu" if relu else "none", [], "")
    highest = None if of_output is None else of_output.highest
    if isinstance(layer, torch.nn.Conv2d):
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise TorchError(
                f"quantize: {name!r} pads by {layer.padding!r} of {layer.padding_mode}; give numbers, zeros"
            )
        place = list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups
        packed = operators.qconv_prepack(codes, scales, x_scale, x_zero, *place, None)

        def run(x):
            return operators.qconv2d_pointwise(x, x_scale, x_zero, packed, scales, zeros, bias, *place, *out, *post)

    else:
        packed = operators.qlinear_prepack(codes, None)

        def run(x):
            return operators.qlinear_pointwise(x, x_scale, x_zero, packed, scales, zeros, bias, *out, *post)

    def call(x):
        y = run(x)
        return y if highest in (None, 255) else y.clamp(max=highest)  # the operators know codes of 8 bits

    return Int8Layer(name, weights, of_input, of_output, packed, bias, call)


def _pooled(layer) -> Callable:
    """The pool on codes: the largest code stands for the largest number. By way of int16, since PyTorch's
    max_pool2d refuses images of more than 255 numbers in uint8."""
    torch = torch_module()
    return lambda codes: layer(codes.to(torch.int16)).to(torch.uint8)


@cache
def eight_bits_are_exact() -> bool:
    """Whether this processor's int8 convolution and product give the exact sums of the largest codes, 255 x 127."""
    return _largest_sums(255)


def _largest_sums(code: int) -> bool:
    """Whether 72 products of `code` and 127 add up to 72 x code x 127, in a convolution and in a product."""
    torch, operators = torch_module(), _operators()
    one, no = torch.ones(16), torch.zeros(16, dtype=torch.int64)
    x = torch.full((1, 8, 3, 3), code, dtype=torch.uint8)
    w = torch.full((16, 8, 3, 3), 127, dtype=torch.int8)
    place, rest = ([1, 1], [0, 0], [1, 1], 1), (1.0, 0, torch.float32, "none", [], "")
    packed = operators.qconv_prepack(w, one, 1.0, 0, *place, None)
    conv = operators.qconv2d_pointwise(x, 1.0, 0, packed, one, no, None, *place, *rest)
    packed = operators.qlinear_prepack(w.flatten(1), None)
    product = operators.qlinear_pointwise(x.flatten(1), 1.0, 0, packed, one, no, None, *rest)
    exact = 72 * code * 127
    return bool((conv == exact).all() and (product == exact).all())


def _operators():
    torch = torch_module()
    missing = [name for name in NAMES if not hasattr(torch.ops.onednn, name)]
    if missing:
        raise TorchError(
            f"PyTorch {torch.__version__} has no operator onednn::{missing[0]} here: quantize by it needs a build with "
            "oneDNN, such as those for Linux and Windows on x86-64; try torch 2.13"
        )
    return torch.ops.onednn
