"""A compressed network: its layers, the codes of its weights, and its answers, computed from these alone.

What `hwlimits.hwz` keeps in a file and the sweeps of chapter 09 train. A weight is a code (a small whole number)
times the step of its tensor, or the value that a codebook has for the code. Answers are computed in float64: two
computers then agree on which class is the largest, though their sums differ in the last digits.

>>> layers = (Layer("flatten"), Layer("dense", 2))
>>> [shape for shape in tensor_shapes((2, 2, 1), layers)]
[(4, 2), (2,)]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

KINDS = ("conv", "separable", "dense", "max_pool", "mean_pool", "global_mean", "flatten")
BATCH = 250  # images at once, but where the windows of a convolution would then be more than so many numbers:
MOST_NUMBERS = 1 << 26


class NetworkError(ValueError):
    """A network that can't be; the text says which layer and why."""


@dataclass(frozen=True)
class Layer:
    """One layer; images are (height, width, channels).

    kind      'conv', 'dense'; 'separable' (a filter for each channel, then 1 x 1 across channels, nothing between
              them); 'max_pool', 'mean_pool' (`kernel` x `kernel`, side by side; what is left over is dropped);
              'global_mean' (over height and width); 'flatten'
    units     filters of a convolution, or outputs of a dense layer
    kernel    side of the filter or of the pool
    stride    of a convolution
    same      True pads a convolution with zeros so that stride 1 keeps height and width; False pads nothing
    gain      each output channel is multiplied by a number of its own before the bias: what is left of normalisation
    relu      max(0, y) at the end
    residual  the layer's input is added, before the ReLU; shapes must be equal
    times     the layer is applied so many times, one after the other, with the same weights
    """

    kind: str
    units: int = 0
    kernel: int = 0
    stride: int = 1
    same: bool = False
    gain: bool = False
    relu: bool = False
    residual: bool = False
    times: int = 1


@dataclass(frozen=True)
class Tensor:
    """Codes (integers of the tensor's shape), and either a `step` to multiply them by or a `codebook` of float32."""

    codes: np.ndarray
    step: float | None = None
    codebook: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """The weights, float32."""
        if self.codebook is not None:
            return np.asarray(self.codebook, np.float32)[self.codes]
        return (self.codes * np.float64(self.step)).astype(np.float32)


@dataclass(frozen=True)
class Network:
    """Layers, and their tensors in order: of a convolution or dense layer its kernel, its gain if it has one, and its
    bias; of a separable one the filters (kernel, kernel, channels) and the 1 x 1 kernel (channels, units) before these.
    """

    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]

    @property
    def parameters(self) -> int:
        """How many weights and biases there are, zeros among them."""
        return sum(tensor.codes.size for tensor in self.tensors)


def tensor_shapes(input_shape: Sequence[int], layers: Sequence[Layer]) -> list[tuple[int, ...]]:
    """Shapes of the layers' tensors, in order: conv (kernel, kernel, channels, units), dense (inputs, units).

    Raises NetworkError for layers that do not fit what they are given.
    """
    return [shape for _, shapes in _walk(tuple(input_shape), layers) for shape in shapes]


def output_shapes(input_shape: Sequence[int], layers: Sequence[Layer]) -> list[tuple[int, ...]]:
    """What each layer gives for one image.

    >>> output_shapes((28, 28, 1), [Layer("conv", 8, 5, stride=2), Layer("max_pool", kernel=2), Layer("flatten")])
    [(12, 12, 8), (6, 6, 8), (288,)]
    """
    return [shape for shape, _ in _walk(tuple(input_shape), layers)]


def work(input_shape: Sequence[int], layers: Sequence[Layer]) -> tuple[int, int]:
    """Multiply-accumulates for one image, and the most numbers that a layer needs at once for it.

    A convolution needs its windows and its outputs; filters of a separable one are multiplied out before.

    >>> work((28, 28, 1), [Layer("conv", 8, 5, stride=2), Layer("flatten"), Layer("dense", 10)])
    (40320, 4752)
    """
    macs, most, shape = 0, math.prod(input_shape), tuple(input_shape)
    for layer, (after, shapes) in zip(layers, _walk(shape, layers), strict=True):
        if layer.kind == "dense":
            macs += math.prod(shapes[0])
        elif layer.kind in ("conv", "separable"):
            height, width, channels = shape
            for _ in range(layer.times):
                height, width = _sides(layer, height, width)
                window = layer.kernel**2 * channels
                macs += height * width * window * layer.units
                most = max(most, height * width * (window + layer.units))
                channels = layer.units
        most = max(most, math.prod(after))
        shape = after
    return macs, most


def _sides(layer: Layer, height: int, width: int) -> tuple[int, int]:
    """Height and width after a convolution; below 1 where its kernel is too large."""
    pad = layer.kernel - 1 if layer.same else 0
    return tuple((side + pad - layer.kernel) // layer.stride + 1 for side in (height, width))


def _walk(shape, layers):
    for number, layer in enumerate(layers):
        shape, shapes = _one(number, layer, shape)
        yield shape, shapes


def _one(number: int, layer: Layer, shape: tuple[int, ...]):
    """Output shape and tensor shapes of one layer."""

    def channels_of(layer: Layer) -> list[tuple[int]]:
        return [(layer.units,)] * (2 if layer.gain else 1)

    def wrong(why: str) -> NetworkError:
        return NetworkError(f"layer {number}, {layer.kind}, on {shape}: {why}")

    if layer.kind not in KINDS:
        raise wrong(f"the kinds are {', '.join(KINDS)}")
    if layer.kind == "flatten":
        return (math.prod(shape),), []
    if layer.kind == "dense":
        if len(shape) != 1 or layer.units < 1:
            raise wrong(f"a dense layer of {layer.units} units needs one axis; put a flatten layer before it")
        return (layer.units,), [(shape[0], layer.units), *channels_of(layer)]
    if len(shape) != 3:
        raise wrong("it needs height, width and channels")
    height, width, channels = shape
    if layer.kind == "global_mean":
        return (channels,), []
    if layer.kernel < 1 or layer.stride < 1:
        raise wrong(f"kernel {layer.kernel} and stride {layer.stride} must be at least 1")
    if layer.kind in ("max_pool", "mean_pool"):
        if min(height, width) < layer.kernel:
            raise wrong(f"a pool of {layer.kernel} x {layer.kernel} is larger than that")
        return (height // layer.kernel, width // layer.kernel, channels), []
    if layer.units < 1 or layer.times < 1:
        raise wrong(f"{layer.units} filters, {layer.times} times: must be at least 1")
    for time in range(layer.times):
        if time and channels != layer.units:
            raise wrong(f"to be applied again it must have as many filters as there are channels, {channels}")
        before = (height, width, layer.units)
        height, width = _sides(layer, height, width)
        if min(height, width) < 1:
            raise wrong(f"a filter of {layer.kernel} x {layer.kernel} is larger than what is left")
        if layer.residual and (height, width, channels) != before:
            raise wrong("to add the input, height, width and channels must stay as they are")
    side = (layer.kernel, layer.kernel)
    if layer.kind == "separable":
        return (height, width, layer.units), [(*side, channels), (channels, layer.units), *channels_of(layer)]
    return (height, width, layer.units), [(*side, channels, layer.units), *channels_of(layer)]


def answers(network: Network, images: np.ndarray) -> np.ndarray:
    """The last layer's numbers, float64 (n, classes), for images (n, height, width, channels).

    Raises NetworkError for images and tensors that do not fit the layers.
    """
    images = np.asarray(images)
    if images.shape[1:] != tuple(network.input_shape):
        raise NetworkError(f"answers: images of {images.shape[1:]}, and the network takes {network.input_shape}")
    shapes = tensor_shapes(network.input_shape, network.layers)
    found = [tensor.codes.shape for tensor in network.tensors]
    if found != shapes:
        raise NetworkError(f"answers: tensors of {found}, and the layers need {shapes}")
    tensors = [tensor.values.astype(np.float64) for tensor in network.tensors]
    batch = max(1, min(BATCH, MOST_NUMBERS // max(1, work(network.input_shape, network.layers)[1])))
    batches = [_forward(network.layers, tensors, images[i : i + batch]) for i in range(0, len(images), batch)]
    return (
        np.concatenate(batches) if batches else np.zeros((0, *output_shapes(network.input_shape, network.layers)[-1]))
    )


def error_rate(network: Network, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of uint8 images (n, height, width) that get another class than their label; pixels go in as 0 to 1."""
    images = images.reshape(len(images), *network.input_shape) / 255.0
    return float(np.mean(answers(network, images).argmax(axis=1) != labels))


def _forward(layers, tensors, x):
    x, tensors = x.astype(np.float64), iter(tensors)
    for layer in layers:
        if layer.kind == "flatten":
            x = x.reshape(len(x), -1)
        elif layer.kind == "global_mean":
            x = x.mean(axis=(1, 2))
        elif layer.kind in ("max_pool", "mean_pool"):
            n, height, width, channels = x.shape
            k = layer.kernel
            blocks = x[:, : height // k * k, : width // k * k].reshape(n, height // k, k, width // k, k, channels)
            x = (np.max if layer.kind == "max_pool" else np.mean)(blocks, axis=(2, 4))
        elif layer.kind == "dense":
            y = x @ next(tensors)
            y = (y * next(tensors) if layer.gain else y) + next(tensors)
            x = np.maximum(y, 0) if layer.relu else y
        else:
            kernel = next(tensors)
            if layer.kind == "separable":
                kernel = kernel[..., None] * next(tensors)
            gain = next(tensors) if layer.gain else 1.0
            bias = next(tensors)
            for _ in range(layer.times):
                y = _convolve(x, kernel, layer) * gain + bias
                y = y + x if layer.residual else y
                x = np.maximum(y, 0) if layer.relu else y
    return x


def _convolve(x, kernel, layer: Layer):
    k = layer.kernel
    if layer.same:  # what is odd goes to the end, as in TensorFlow at stride 1
        x = np.pad(x, [(0, 0), ((k - 1) // 2, k // 2), ((k - 1) // 2, k // 2), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))[:, :: layer.stride, :: layer.stride]
    n, height, width = windows.shape[:3]
    rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * height * width, -1)
    return (rows @ kernel.reshape(-1, kernel.shape[-1])).reshape(n, height, width, -1)


def sort_channels(network: Network) -> Network:
    """The same function with each layer's channels in the order of their biases, which then take fewer bits in a file.

    A permutation of n channels says nothing about what the network computes: log2(n!) bits, which a code for rising
    numbers saves. The last layer keeps its order, as classes have one; so does a layer that adds its input or is
    applied again, and what comes before it. Sums are added up in another order: answers may differ in the last digit.
    """
    layers, tensors = network.layers, list(network.tensors)
    sizes = [len(shapes) for _, shapes in _walk(network.input_shape, layers)]
    starts = np.cumsum([0, *sizes])
    weighted = [number for number, size in enumerate(sizes) if size]

    def take(at: int, order: np.ndarray, axis: int) -> None:
        tensors[at] = replace(tensors[at], codes=np.take(tensors[at].codes, order, axis))

    for number, following in pairwise(weighted):
        if any(layers[n].residual or layers[n].times > 1 for n in (number, following)):
            continue
        end, first = starts[number + 1], starts[following]
        order = np.argsort(tensors[end - 1].values, kind="stable")
        kernel = end - (3 if layers[number].gain else 2)
        for at in range(kernel, end):
            take(at, order, -1)
        if layers[following].kind == "conv":
            take(first, order, 2)
        elif layers[following].kind == "separable":
            take(first, order, 2)
            take(first + 1, order, 0)
        else:  # after a flatten layer a channel is at each place of the image
            places = tensors[first].codes.shape[0] // order.size
            take(first, (np.arange(places)[:, None] * order.size + order).ravel(), 0)
    return replace(network, tensors=tuple(tensors))
