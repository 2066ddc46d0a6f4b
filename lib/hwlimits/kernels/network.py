"""A whole network of sparse layers as one call: a plan of steps over one piece of memory.

A row of `sparse.pixel_rows` is any weighted sum of shifted planes of an image, so one kernel is a pointwise,
a full and a depthwise convolution: only the offsets differ. Planes lie one after the other (channels first);
between two rows of a plane there is room for the padding, which a row shares with the one below it, so that
a convolution writes where the next one reads. What calling costs, about a microsecond for each function that
numba compiled, is paid once a network and not once a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hwlimits.kernels.gemm import aligned
from hwlimits.kernels.sparse import LANES, VECTORS, compress
from hwlimits.kernels.steps import CLEAR, DOT, FIELDS, LAY, MEAN, POOL, ROWS, STRIDED, run

IN_L2 = 32 << 10  # floats that a convolution reads and finds there again
BEHIND = 8 * LANES  # elements behind an image that a step may touch, twice the STRIDED_REGISTERS of `strided_rows`
NO_PADS = (0, 0), (0, 0)


@dataclass(frozen=True)
class Convolution:
    """A convolution, its bias, and the bounds of its activation (ReLU: low = 0; ReLU6: high = 6 as well).

    weights    float32 (height, width, inputs, outputs); depthwise: (height, width, channels, 1). Zeros are skipped.
    padding    'valid', 'same' as TensorFlow has it (an odd row or column goes below and to the right), or rows and
               columns of zeros ((top, bottom), (left, right))
    depthwise  each channel has a window of its own
    block      outputs that share their zeros: 1, 2 or 4
    """

    weights: np.ndarray
    bias: np.ndarray
    stride: int = 1
    padding: str | tuple[tuple[int, int], tuple[int, int]] = "valid"
    low: float = -np.inf
    high: float = np.inf
    depthwise: bool = False
    block: int = 1


@dataclass(frozen=True)
class MaxPool:
    """The largest of each `size` x `size` pixels, side by side; what does not fill a window is left out.

    A NaN comes through from a window's first pixel alone: anywhere else it is not larger than what was found.
    """

    size: int = 2


@dataclass(frozen=True)
class GlobalMean:
    """The mean of each channel."""


@dataclass(frozen=True)
class Dense:
    """A dense layer: weights float32 (inputs, outputs), for inputs in the order height, width, channels."""

    weights: np.ndarray
    bias: np.ndarray
    low: float = -np.inf
    high: float = np.inf
    block: int = 1


Layer = Convolution | MaxPool | GlobalMean | Dense


@dataclass(frozen=True)
class _Place:
    """Where an image lies: element (c, y, x) at `at` + c * plane + y * pitch + x; around it zeros, as `pads` says."""

    channels: int
    height: int
    width: int
    at: int
    plane: int
    pitch: int
    pads: tuple = NO_PADS


@dataclass
class _Plan:
    """Steps, and what they work on, as they grow while the layers are gone through.

    A step reads what the one before wrote, so two parts of the memory take turns, and what was just written is
    still in a cache; `begins` is where the parts begin, `parts` how large they have to be. The image that the
    network is called with has a part of its own, the first one, so that it can be run again.
    """

    begins: tuple[int, ...]
    parts: list = field(default_factory=lambda: [0, 0, 0])
    turn: int = 0
    steps: list = field(default_factory=list)
    bounds: list = field(default_factory=list)
    values: list = field(default_factory=list)
    offsets: list = field(default_factory=list)
    starts: list = field(default_factory=list)
    biases: list = field(default_factory=list)

    def step(self, *numbers: int, low: float = -np.inf, high: float = np.inf) -> None:
        self.steps.append([*numbers, *[0] * (FIELDS - len(numbers))])
        self.bounds.append([low, high])

    def memory(self, elements: int) -> int:
        turn, self.turn = self.turn, 2 if self.turn == 1 else 1
        self.parts[turn] = max(self.parts[turn], -(-elements // LANES) * LANES + BEHIND)
        return self.begins[turn]

    def rows(self, matrix: np.ndarray, bias: np.ndarray, places: np.ndarray, block: int) -> tuple[int, ...]:
        """Append a matrix (outputs, inputs); input i of block of rows b is at places[b, i]. Where its parts begin."""
        if np.shape(bias) != (len(matrix),):
            raise ValueError(f"has {len(matrix)} outputs and a bias {np.shape(bias)}; it takes one for each")
        rows = compress(np.ascontiguousarray(matrix, np.float32), block)
        row = np.repeat(np.arange(len(rows.starts) - 1), np.diff(rows.starts))
        offsets = np.broadcast_to(places, (len(rows.starts) - 1, matrix.shape[1]))[row, rows.columns]
        parts = ((self.values, rows.values), (self.offsets, offsets.astype(np.int32)),
                 (self.starts, rows.starts), (self.biases, np.asarray(bias, np.float32)))  # fmt: skip
        begins = tuple(sum(map(len, kept)) for kept, _ in parts)
        for kept, new in parts:
            kept.append(new)
        return begins

    def image(self, channels: int, height: int, width: int, pitch: int, pads=NO_PADS) -> _Place:
        """Room for an image, with room around it that stays zero."""
        (top, bottom), (left, right) = pads
        before = top * pitch + left
        plane = before + max((height + bottom) * pitch + right, (height - 1) * pitch + width + LANES)
        plane = -(-plane // LANES) * LANES
        at = self.memory(channels * plane) + before
        return _Place(channels, height, width, at, plane, pitch, pads)


class Network:
    """Layers for images of one shape (height, width, channels), one image at a time, one thread.

    channels_first  the images come as planes, (channels, height, width), and need not be laid out anew

    Raises ValueError for a layer that does not fit what comes to it.

    >>> edges = np.array([[[[-1.0]], [[1.0]]]], np.float32)
    >>> Network([Convolution(edges, np.zeros(1))], (1, 3, 1))(np.array([[[1], [2], [4]]], np.float32)).ravel()
    array([1., 2.], dtype=float32)
    """

    def __init__(self, layers: Sequence[Layer], shape: tuple[int, int, int], *, channels_first: bool = False):
        if not layers:
            raise ValueError("Network: needs a layer")
        self.layers, self.shape, self._channels_first = tuple(layers), tuple(shape), channels_first
        sizes = self._plan((0, 0, 0))[0].parts
        plan, self._out = self._plan((0, sizes[0], sizes[0] + sizes[1]))
        self._memory = aligned(sum(sizes))  # every step writes all that the next one reads
        self._input = self._memory[: int(np.prod(shape))].reshape(shape)
        parts = (plan.values, plan.offsets, plan.starts, plan.biases)
        dtypes = (np.float32, np.int32, np.int64, np.float32)
        self._parts = [np.concatenate([np.empty(0, d), *p]).astype(d) for p, d in zip(parts, dtypes, strict=True)]
        self._steps = np.array(plan.steps, np.int64).reshape(-1, FIELDS)
        self._bounds = np.array(plan.bounds, np.float32).reshape(-1, 2)

    def _plan(self, begins: tuple[int, ...]) -> tuple[_Plan, _Place]:
        plan = _Plan(begins)
        if self._channels_first:
            channels, height, width = self.shape
            x, column = _Place(channels, height, width, 0, height * width, width), 1
        else:  # a pixel's channels lie side by side
            height, width, channels = self.shape
            x, column = _Place(channels, height, width, 0, 1, width * channels), channels
        plan.memory(height * width * channels)
        for number, layer in enumerate(self.layers):
            try:
                x = _add(plan, self.layers[number:], x, column)
            except ValueError as error:
                raise ValueError(f"Network: layer {number} ({type(layer).__name__}) {error}") from None
            column = 1
        return plan, x

    @property
    def nbytes(self) -> int:
        """Values, places and biases of all layers: what takes the place of the dense weights."""
        return sum(part.nbytes for part in self._parts)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The last layer's output for an image of the network's shape: (height, width, channels), or (outputs,).

        The second is that of Dense and GlobalMean, and of a 1 x 1 convolution of a single pixel, which is a Dense.
        """
        if np.shape(image) != self.shape:
            raise ValueError(f"Network: an image of shape {np.shape(image)}; this network takes {self.shape}")
        self._input[:] = image
        self.invoke()
        out = self._out
        if out.plane == 1:
            return self._memory[out.at : out.at + out.channels].copy()
        strides = (4 * out.pitch, 4, 4 * out.plane)
        shape = (out.height, out.width, out.channels)
        return np.lib.stride_tricks.as_strided(self._memory[out.at :], shape, strides).copy()

    def invoke(self) -> None:
        """Run once more on the last image: what is timed beside an interpreter whose input is set."""
        run(self._steps, self._bounds, *self._parts, self._memory)


def _add(plan: _Plan, layers: Sequence[Layer], x: _Place, column: int) -> _Place:
    """Append the first of `layers` to the plan; the others say what room its output needs."""
    layer, rest = layers[0], layers[1:]
    if isinstance(layer, Convolution):
        return _add_convolution(plan, layers, x, column)
    if isinstance(layer, Dense):
        return _add_dense(plan, layer, x, column)
    if column != 1:
        x = _lay(plan, x, column, x.width, NO_PADS, 1)
    if isinstance(layer, GlobalMean):
        out = _Place(x.channels, 1, 1, plan.memory(x.channels), 1, 1)
        plan.step(MEAN, x.channels, x.height, x.width, x.at, x.plane, x.pitch, out.at)
        return out
    if layer.size < 1:
        raise ValueError(f"has size = {layer.size}; it is 1 or more")
    height, width = x.height // layer.size, x.width // layer.size
    if not height or not width:
        raise ValueError(f"takes {layer.size} x {layer.size} pixels, and there are {x.height} x {x.width}")
    out = _room(plan, rest, x.channels, height, width, None)
    plan.step(POOL, x.channels, height, width, x.at, x.plane, x.pitch, out.at, out.plane, out.pitch, layer.size)
    _clear_pads(plan, out)
    return out


def _add_dense(plan: _Plan, layer: Dense, x: _Place, column: int) -> _Place:
    if layer.weights.ndim != 2 or layer.weights.shape[0] != x.channels * x.height * x.width:
        raise ValueError(f"has weights {layer.weights.shape}, for {x.height} x {x.width} x {x.channels} inputs")
    y, row, c = np.ogrid[: x.height, : x.width, : x.channels]
    places = (c * x.plane + y * x.pitch + row * column).ravel()
    begins = plan.rows(layer.weights.T, layer.bias, places, layer.block)
    out = _Place(layer.weights.shape[1], 1, 1, plan.memory(layer.weights.shape[1]), 1, 1)
    plan.step(DOT, *begins, layer.weights.shape[1] // layer.block, layer.block, x.at, out.at,
              low=layer.low, high=layer.high)  # fmt: skip
    return out


def _add_convolution(plan: _Plan, layers: Sequence[Layer], x: _Place, column: int) -> _Place:
    layer = layers[0]
    if layer.weights.ndim != 4:
        raise ValueError(f"has weights {layer.weights.shape}; they are (height, width, inputs, outputs)")
    if layer.stride < 1:
        raise ValueError(f"has stride = {layer.stride}; it is 1 or more")
    kernel_height, kernel_width, inputs, outputs = layer.weights.shape
    if inputs != x.channels or (layer.depthwise and outputs != 1):
        raise ValueError(f"has weights {layer.weights.shape}, and {x.channels} channels come to it")
    stride, pads = layer.stride, _pads(layer, x.height, x.width)
    height, width = _output(layer, x.height, x.width)
    if height < 1 or width < 1:
        raise ValueError(f"has a window of {kernel_height} x {kernel_width}, larger than {x.height} x {x.width} pixels")
    if (x.height, x.width, kernel_height, kernel_width) == (1, 1, 1, 1) and not layer.depthwise and not np.any(pads):
        return _add_dense(plan, Dense(layer.weights[0, 0], layer.bias, layer.low, layer.high, layer.block), x, column)
    if layer.block not in VECTORS:
        raise ValueError(f"has block = {layer.block}; a convolution's is one of {', '.join(map(str, VECTORS))}")
    if layer.depthwise and layer.block != 1:
        raise ValueError(
            f"has block = {layer.block}; a depthwise convolution's is 1: each channel has zeros of its own"
        )
    fits = column == 1 and x.pads == pads and x.pitch >= _pitch(layers, x.height, x.width, 1)
    in_place = fits and _in_place(layer)
    phases = 1 if in_place else stride
    if not in_place:
        x = _lay(plan, x, column, _pitch(layers, x.height, x.width, phases), pads, stride)
    first = x.at - (pads[0][0] * x.pitch + pads[1][0] if phases == 1 else 0)
    ky, kx, c = np.ogrid[:kernel_height, :kernel_width, :inputs]
    planes = c * phases**2 + ky % phases * phases + kx % phases
    places = (planes * x.plane + ky // phases * x.pitch + kx // phases).reshape(-1, inputs)
    if layer.depthwise:  # row c has the window of channel c, and nothing of the others
        matrix, places, outputs = layer.weights.reshape(-1, inputs).T, places.T, inputs
    else:
        matrix, places = layer.weights.reshape(-1, outputs).T, places.ravel()
    if outputs % layer.block:
        raise ValueError(f"has {outputs} outputs, and block = {layer.block} does not divide them")
    begins = plan.rows(matrix, layer.bias, places, layer.block)
    bounds = {"low": layer.low, "high": layer.high}
    if phases == stride:
        out = _room(plan, layers[1:], outputs, height, width, x.pitch)
        pixels = (height - 1) * x.pitch + width
        plan.step(ROWS, *begins, outputs // layer.block, layer.block, first, out.at, out.plane, pixels,
                  _run_of_pixels(layer, pixels), **bounds)  # fmt: skip
    else:
        out = _room(plan, layers[1:], outputs, height, width, None)
        plan.step(STRIDED, *begins, outputs, 1, first, out.at, out.plane, x.pitch, out.pitch, height, width, **bounds)
    _clear_pads(plan, out)
    return out


def _in_place(layer: Convolution) -> bool:
    """Whether a layer can read an image where it lies. Others with a stride have it laid out by its phases."""
    return layer.stride == 1 or (layer.stride == 2 and layer.depthwise and layer.block == 1)


def _clear_pads(plan: _Plan, out: _Place) -> None:
    """Zeros around an image that was just written, and over what a kernel computed between two rows."""
    if out.pads != NO_PADS:
        (top, _), (left, _) = out.pads
        start = out.at - top * out.pitch - left
        plan.step(CLEAR, out.channels, out.height, out.width, start, out.plane, out.pitch, top * out.pitch + left)


def _run_of_pixels(layer: Convolution, pixels: int) -> int:
    """Pixels that all outputs do before any goes on: what they read then fits the second-level cache."""
    if layer.depthwise:  # each output reads a channel of its own
        return pixels
    vectors = VECTORS[layer.block] * LANES
    return max(1, IN_L2 // (layer.weights.shape[2] * vectors)) * vectors


def _lay(plan: _Plan, x: _Place, column: int, pitch: int, pads, stride: int) -> _Place:
    """Copy an image to where it has room for its padding; with a stride, into one image for each phase of it."""
    (top, bottom), (left, _) = pads
    if stride == 1:
        out = plan.image(x.channels, x.height, x.width, pitch, pads)
        start = out.at - top * pitch - left
    else:
        out = plan.image(x.channels * stride**2, -(-(top + x.height + bottom) // stride), pitch, pitch)
        start = out.at
    plan.step(LAY, x.channels, x.height, x.width, x.at, x.plane, x.pitch, column, start, out.plane, out.pitch,
              stride, top, left)  # fmt: skip
    return out


def _room(plan: _Plan, rest: Sequence[Layer], channels: int, height: int, width: int, pitch: int | None) -> _Place:
    """Room for an output, with the padding of a convolution that reads it where it lies; `pitch`, if it is given."""
    pads = NO_PADS
    if rest and isinstance(rest[0], Convolution) and _in_place(rest[0]):
        pads = _pads(rest[0], height, width)
        pitch = pitch or _pitch(rest, height, width, 1)
    return plan.image(channels, height, width, pitch or width, pads)


def _pitch(layers: Sequence[Layer], height: int, width: int, phases: int) -> int:
    """Elements from a row to the next that convolutions need, as far as they pass them on; the first has `phases`."""
    pitch = 0
    for number, layer in enumerate(layers):
        if not isinstance(layer, Convolution) or (number and not _in_place(layer)):
            break
        left, right = _pads(layer, height, width)[1]
        needed = width + max(left, right) if phases == 1 else -(-(left + width + right) // phases)
        pitch = max(pitch, needed)
        if phases == 1 and layer.stride > 1:  # its output has rows of its own
            break
        height, width = _output(layer, height, width)
        phases = 1
    return pitch


def _pads(layer: Convolution, height: int, width: int):
    """((top, bottom), (left, right)) rows and columns of zeros."""
    if layer.padding == "valid":
        return NO_PADS
    if layer.padding != "same":
        try:
            (top, bottom), (left, right) = layer.padding
            pads = (int(top), int(bottom)), (int(left), int(right))
            if min(*pads[0], *pads[1]) < 0:
                raise ValueError
            return pads
        except (TypeError, ValueError):
            raise ValueError(
                f"has padding = {layer.padding!r}; choose 'valid', 'same' or ((top, bottom), (left, right))"
            ) from None
    found = []
    for size, window in zip((height, width), layer.weights.shape, strict=False):
        total = max(0, (-(-size // layer.stride) - 1) * layer.stride + window - size)
        found.append((total // 2, total - total // 2))
    return tuple(found)


def _output(layer: Convolution, height: int, width: int) -> tuple[int, int]:
    pads = _pads(layer, height, width)
    windows = layer.weights.shape
    return tuple((n + sum(p) - k) // layer.stride + 1 for n, p, k in zip((height, width), pads, windows, strict=False))
