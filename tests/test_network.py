"""Networks against float64 NumPy, in a memory full of NaN: whatever is read unwritten shows."""

import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest

from hwlimits.kernels.network import Convolution, Dense, GlobalMean, MaxPool, Network
from hwlimits.kernels.sparse import LANES

GUARD = 1024  # elements before and behind the memory that nothing may write
MARK = np.float32(1.25e30)


def weights(random, *shape, zeros=0.6):
    values = random.standard_normal(shape).astype(np.float32)
    return np.where(random.random(shape) < zeros, np.float32(0), values)


def pads_of(layer, sizes):
    if layer.padding == "valid":
        return [(0, 0), (0, 0)]
    if layer.padding != "same":
        return layer.padding
    found = []
    for size, window in zip(sizes, layer.weights.shape[:2], strict=True):
        missing, stride = 0, layer.stride  # as many as the last window lacks
        while (size + missing - window) // stride + 1 < -(-size // stride) or size + missing < window:
            missing += 1
        found.append((missing // 2, missing - missing // 2))
    return found


def reference(x, layers):
    """The layers in float64; with the sum of the terms' magnitudes, for the bound of the error."""
    x = x.astype(float)
    scale = np.abs(x)
    for layer in layers:
        if isinstance(layer, Convolution):
            x, scale = convolved(x, scale, layer)
        elif isinstance(layer, MaxPool):
            x, scale = (pooled(part, layer.size) for part in (x, scale))
        elif isinstance(layer, GlobalMean):
            x, scale = (np.array([part[..., c].mean() for c in range(part.shape[2])]) for part in (x, scale))
        else:
            w = layer.weights.astype(float)
            x = np.clip(x.ravel() @ w + layer.bias, layer.low, layer.high)
            scale = scale.ravel() @ np.abs(w) + np.abs(layer.bias)
    return x, scale


def convolved(x, scale, layer):
    x, scale = (part.reshape(1, 1, -1) if part.ndim == 1 else part for part in (x, scale))
    one = x.shape[:2] == layer.weights.shape[:2] == (1, 1) and not layer.depthwise
    pads = [*pads_of(layer, x.shape[:2]), (0, 0)]
    x, scale = np.pad(x, pads), np.pad(scale, pads)
    height, width, inputs, outputs = layer.weights.shape
    sizes = [(n - k) // layer.stride + 1 for n, k in zip(x.shape, (height, width), strict=False)]
    found = np.zeros((2, *sizes, inputs if layer.depthwise else outputs))
    w = layer.weights.astype(float)
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            at = slice(i * layer.stride, i * layer.stride + height), slice(j * layer.stride, j * layer.stride + width)
            for k, (part, factors) in enumerate(((x, w), (scale, np.abs(w)))):
                if layer.depthwise:
                    found[k, i, j] = (part[at] * factors[..., 0]).sum(axis=(0, 1))
                else:
                    found[k, i, j] = np.tensordot(part[at], factors, 3)
    y = np.clip(found[0] + layer.bias, layer.low, layer.high), found[1] + np.abs(layer.bias)
    return [part.ravel() for part in y] if one and not np.any(pads) else y


def pooled(x, size):
    height, width = x.shape[0] // size, x.shape[1] // size
    return np.array([[x[i * size : (i + 1) * size, j * size : (j + 1) * size].max(axis=(0, 1))
                      for j in range(width)] for i in range(height)])  # fmt: skip


def guarded(layers, shape, **options):
    """A network whose memory is NaN, between two guards."""
    network = Network(layers, shape, **options)
    size = network._memory.size
    whole = np.full(size + 2 * GUARD, MARK)
    network._memory = whole[GUARD : GUARD + size]
    network._input = network._memory[: np.prod(shape)].reshape(shape)
    network._memory[:] = np.nan
    return network, whole


def check(layers, shape, random, channels_first=False):
    x = random.standard_normal(shape).astype(np.float32)
    given = np.ascontiguousarray(x.transpose(2, 0, 1)) if channels_first else x
    network, whole = guarded(layers, given.shape, channels_first=channels_first)
    expected, scale = reference(x, layers)
    depth = sum(getattr(layer, "weights", np.ones(9)).size for layer in layers) + x.size
    for _ in range(2):  # the second time over what the first one left
        found = network(given)
        assert found.dtype == np.float32
        assert found.shape == expected.shape, layers
        assert np.all(np.abs(found - expected) <= 2.0**-24 * depth * (scale + 1e-3)), layers
    assert np.all(whole[:GUARD] == MARK), layers
    assert np.all(whole[-GUARD:] == MARK), layers


def random_layers(random, shape):
    """A few layers that fit each other, of any kind and option."""
    layers, (height, width, channels) = [], shape
    for _ in range(random.integers(1, 5)):
        if random.random() < 0.2:
            size = int(random.integers(1, 4))
            if min(height, width) >= size:
                layers.append(MaxPool(size))
                height, width = height // size, width // size
            continue
        window, stride = random.integers(1, 5, 2).tolist(), int(random.integers(1, 4))
        explicit = tuple(map(tuple, random.integers(0, 3, (2, 2)).tolist()))
        padding = ("same", "valid", explicit)[random.integers(3)]
        depthwise = bool(random.random() < 0.4)
        outputs = channels if depthwise else 4 * int(random.integers(1, 4))
        block = 1 if depthwise else int(random.choice([1, 2, 4]))
        low, high = ((-np.inf, np.inf), (0, 6), (-0.5, 1))[random.integers(3)]
        kernel = weights(random, *window, channels, 1 if depthwise else outputs)
        bias = random.standard_normal(outputs).astype(np.float32)
        layer = Convolution(kernel, bias, stride, padding, low, high, depthwise, block)
        pads = pads_of(layer, (height, width))
        sizes = [(n + sum(p) - k) // stride + 1 for n, p, k in zip((height, width), pads, window, strict=True)]
        if min(n + sum(p) - k for n, p, k in zip((height, width), pads, window, strict=True)) < 0:
            continue
        layers.append(layer)
        height, width, channels = *sizes, outputs
    if end := random.integers(3):
        if end == 1:
            layers.append(GlobalMean())
            height = width = 1
        kernel = weights(random, height * width * channels, 16)
        layers.append(Dense(kernel, weights(random, 16), 0, 9, int(random.choice([1, 2, 4, 8, 16]))))
        layers.append(Dense(weights(random, 16, 3), weights(random, 3)))
    return layers or [MaxPool(1)]


@pytest.mark.parametrize("seed", range(30))
def test_chains_of_any_layers(seed):
    random = np.random.default_rng(seed)
    for _ in range(6):
        shape = (*random.integers(1, 20, 2).tolist(), int(random.integers(1, 6)))
        check(random_layers(random, shape), shape, random, channels_first=bool(random.integers(2)))


WIDTHS = sorted({1, 2, 3, LANES - 1, LANES, LANES + 1, 2 * LANES + 1})
KINDS = {"full": (False, 1), "full by 2": (False, 2), "full by 4": (False, 4), "depthwise": (True, 1)}


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_convolution_of_every_small_width(kind, stride):
    """Alone and behind another layer, which leaves it an image where it lies."""
    random, (depthwise, block) = np.random.default_rng(0), KINDS[kind]
    for width in WIDTHS:
        for window, padding in ((1, "valid"), (2, "same"), (3, "same"), (3, ((1, 0), (2, 1))), (3, "valid")):
            if padding == "valid" and window > width:
                continue
            height = max(window, int(random.integers(1, 4)))
            kernel = weights(random, window, window, 4, 1 if depthwise else 8)
            bias = weights(random, 4 if depthwise else 8)
            layer = Convolution(kernel, bias, stride, padding, -1, 1, depthwise, block)
            check([layer], (height, width, 4), random)
            before = Convolution(weights(random, 1, 1, 3, 4), weights(random, 4))
            check([before, layer], (height, width, 3), random)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_runs_of_pixels_longer_than_the_registers_and_than_a_cache(block):
    """Each number of registers that a row of pixels can end with, and images that are cut into runs."""
    random = np.random.default_rng(0)
    for pixels in range(LANES, 20 * LANES, LANES - 1):
        check([Convolution(weights(random, 1, 1, 3, 4), weights(random, 4), block=block)], (1, pixels, 3), random)
    check([Convolution(weights(random, 1, 1, 200, 8), weights(random, 8), block=block)], (21, 41, 200), random)
    check([Convolution(weights(random, 1, 1, 2000, 8), weights(random, 8), block=block)], (9, 31, 2000), random)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_pool_and_a_mean_of_every_small_shape(size):
    random = np.random.default_rng(0)
    for width in range(size, 2 * size * LANES + 2):
        height = size + width % 4
        for layers in ([MaxPool(size)], [MaxPool(size), GlobalMean()], [GlobalMean()]):
            check(layers, (height, width, 1 + width % 3), random, channels_first=bool(width % 2))


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16])
def test_dense_layers_of_every_block(block):
    random = np.random.default_rng(0)
    for inputs in range(1, 12):
        layers = [Dense(weights(random, 2 * inputs, 32, zeros=0.3), weights(random, 32), -1, 2, block)]
        check(layers, (1, 2, inputs), random)
        check([MaxPool(1), *layers, Dense(weights(random, 32, 1), weights(random, 1))], (1, 2, inputs), random)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 5, 6, 7, 11])
def test_same_is_tensorflows(size, stride):
    from hwlimits.training.keras import tf

    random = np.random.default_rng(0)
    x = random.standard_normal((size, size + 1, 2)).astype(np.float32)
    for window in (1, 2, 3, 5):
        full, depthwise = weights(random, window, window, 2, 3), weights(random, window, window, 2, 1)
        steps = {"strides": [1, stride, stride, 1], "padding": "SAME"}
        for found, theirs in (
            (Convolution(full, np.zeros(3), stride, "same"), tf.nn.conv2d(x[None], full, **steps)),
            (Convolution(depthwise, np.zeros(2), stride, "same", depthwise=True),
             tf.nn.depthwise_conv2d(x[None], depthwise, **steps)),
        ):  # fmt: skip
            found = Network([found], x.shape)(x)
            np.testing.assert_allclose(found.ravel(), theirs[0].numpy().ravel(), rtol=1e-4, atol=1e-5)


def test_zeros_are_not_in_the_plan():
    random = np.random.default_rng(0)
    full, depthwise = weights(random, 3, 3, 8, 16, zeros=0.9), weights(random, 3, 3, 16, 1, zeros=0.5)
    dense = weights(random, 16, 10, zeros=0.8)
    layers = [Convolution(full, np.zeros(16)), Convolution(depthwise, np.zeros(16), depthwise=True), GlobalMean(),
              Dense(dense, np.zeros(10))]  # fmt: skip
    network = Network(layers, (9, 9, 8))
    nonzeros, rows = sum(map(np.count_nonzero, (full, depthwise, dense))), (16, 16, 10)
    values, offsets, starts, biases = network._parts
    assert values.size == offsets.size == nonzeros
    assert np.all(values != 0)
    assert (starts.size, biases.size) == (sum(rows) + 3, sum(rows))
    assert network.nbytes == 8 * nonzeros + 8 * (sum(rows) + 3) + 4 * sum(rows)
    by_four = Network([Convolution(full, np.zeros(16), block=4)], (9, 9, 8))
    kept = np.any(full.reshape(72, 4, 4) != 0, axis=2).sum()
    assert [part.size for part in by_four._parts] == [4 * kept, kept, 5, 16]


def test_what_is_skipped_is_not_touched():
    """A NaN reaches the outputs whose weight for it is not zero, and no other."""
    random = np.random.default_rng(0)
    kernel = weights(random, 1, 1, 6, 12)
    x = random.standard_normal((5, 7, 6)).astype(np.float32)
    x[2, 3, 4] = np.nan
    bad = np.zeros((5, 7, 12), bool)
    bad[2, 3] = kernel[0, 0, 4] != 0
    assert np.array_equal(np.isnan(Network([Convolution(kernel, np.zeros(12), low=0)], x.shape)(x)), bad)


def test_invoke_repeats_the_last_image_and_outputs_are_copies():
    random = np.random.default_rng(0)
    network = Network([Convolution(weights(random, 3, 3, 2, 4), np.zeros(4))], (6, 6, 2))
    x, other = random.standard_normal((2, 6, 6, 2)).astype(np.float32)
    first = network(x)
    kept = first.copy()
    assert not np.array_equal(network(other), first)
    assert np.array_equal(first, kept)
    assert np.array_equal(network(x.transpose(1, 0, 2).copy().transpose(1, 0, 2)), kept)
    chain = Network([*[Convolution(weights(random, 3, 3, 2, 2), np.zeros(2), padding="same")] * 5], (6, 6, 2))
    expected = chain(x)
    for _ in range(2):
        chain._memory[chain._input.size :] = np.nan
        chain.invoke()
        out = chain._memory[chain._out.at :]
        assert out[0] == expected[0, 0, 0], "the image is still there"
        assert np.array_equal(chain._input, x)


PROGRAM = """
import ctypes, mmap, sys
sys.path.insert(0, {tests!r})
import numpy as np
import test_network as t
libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
def fenced(network, at_end):
    bytes_ = network._memory.nbytes
    whole = -(-bytes_ // page) * page
    space = mmap.mmap(-1, whole + 2 * page)
    first = ctypes.addressof(ctypes.c_char.from_buffer(space))
    for fence in (first, first + page + whole):
        assert libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) == 0
    start = page + (whole - bytes_ if at_end else 0)
    network._memory = np.frombuffer(space, np.float32, bytes_ // 4, start)
    network._input = network._memory[: np.prod(network.shape)].reshape(network.shape)
    return space
for seed in range(150):
    random = np.random.default_rng(seed)
    shape = (*random.integers(1, 20, 2).tolist(), int(random.integers(1, 6)))
    for layers in (t.random_layers(random, shape), t.one_layer(random, shape)):
        network = t.Network(layers, shape)
        for at_end in (False, True):
            space = fenced(network, at_end)
            print(seed, at_end, *[type(l).__name__ for l in layers], file=sys.stderr, flush=True)
            network(np.ones(shape, np.float32))
"""


def one_layer(random, shape):
    """A depthwise convolution of stride 2 that reads where the layer before it has written."""
    bias = np.zeros(shape[2])
    before = [MaxPool(1) for _ in range(random.integers(1, 3))]  # in either part of the memory
    return [*before, Convolution(weights(random, 3, 3, shape[2], 1), bias, 2, "same", depthwise=True)]


@pytest.mark.skipif(platform.system() != "Linux", reason="the pages around the memory are closed by mprotect")
def test_nothing_outside_the_memory_is_read():
    """In a process of its own, which ends where a page before or behind the memory is read."""
    environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
    program = PROGRAM.format(tests=os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-1500:]


def convolution(*shape, **options):
    return Convolution(np.ones(shape, np.float32), np.zeros(shape[3]), **options)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([], "Network: needs a layer"),
        ([convolution(3, 3, 2, 4)],
         "Network: layer 0 (Convolution) has weights (3, 3, 2, 4), and 3 channels come to it"),
        ([MaxPool(2), convolution(4, 1, 3, 4)],
         "Network: layer 1 (Convolution) has a window of 4 x 1, larger than 3 x 4 pixels"),
        ([convolution(1, 5, 3, 4), convolution(1, 5, 4, 4)],
         "layer 1 (Convolution) has a window of 1 x 5, larger than 6 x 4"),
        ([convolution(3, 3, 3, 8, block=8)], "layer 0 (Convolution) has block = 8; a convolution's is one of 1, 2, 4"),
        ([convolution(3, 3, 3, 6, block=4)], "layer 0 (Convolution) has 6 outputs, and block = 4 does not divide them"),
        ([convolution(3, 3, 3, 4, depthwise=True)], "has weights (3, 3, 3, 4), and 3 channels come to it"),
        ([convolution(3, 3, 3, 4, padding="full")],
         "has padding = 'full'; choose 'valid', 'same' or ((top, bottom), (left, right))"),
        ([convolution(3, 3, 3, 4, padding=(1, 1))], "has padding = (1, 1); choose"),
        ([convolution(3, 3, 3, 4, padding=((0, -1), (0, 0)))], "has padding = ((0, -1), (0, 0)); choose"),
        ([convolution(3, 3, 3, 4, stride=0)], "layer 0 (Convolution) has stride = 0; it is 1 or more"),
        ([Convolution(np.ones((3, 3, 3, 4)), np.zeros(3))],
         "layer 0 (Convolution) has 4 outputs and a bias (3,); it takes one for each"),
        ([Convolution(np.ones((3, 3, 3, 1)), np.zeros(1), depthwise=True)],
         "layer 0 (Convolution) has 3 outputs and a bias (1,); it takes one for each"),
        ([Convolution(np.ones((3, 3, 4, 1)), np.zeros(4), depthwise=True, block=2)],
         "and 3 channels come to it"),
        ([Convolution(np.ones((3, 3, 3, 1)), np.zeros(3), depthwise=True, block=2)],
         "has block = 2; a depthwise convolution's is 1: each channel has zeros of its own"),
        ([Convolution(np.ones((3, 12)), np.zeros(12))],
         "layer 0 (Convolution) has weights (3, 12); they are (height, width, inputs, outputs)"),
        ([MaxPool(7)], "Network: layer 0 (MaxPool) takes 7 x 7 pixels, and there are 6 x 8"),
        ([MaxPool(0)], "Network: layer 0 (MaxPool) has size = 0; it is 1 or more"),
        ([Dense(np.ones((5, 2)), np.zeros(2))], "Network: layer 0 (Dense) has weights (5, 2), for 6 x 8 x 3 inputs"),
        ([GlobalMean(), Dense(np.ones((3, 2)), np.zeros(3))], "layer 1 (Dense) has 2 outputs and a bias (3,)"),
        ([GlobalMean(), Dense(np.ones((3, 6)), np.zeros(6), block=4)], "layer 1 (Dense) compress(block=4) of 6 rows"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(layers, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Network(layers, (6, 8, 3))


@pytest.mark.parametrize("shape", [(8, 6, 3), (6, 8), (1, 6, 8, 3)])
def test_an_image_of_another_shape_is_refused(shape):
    network = Network([MaxPool(2)], (6, 8, 3))
    said = f"Network: an image of shape {shape}; this network takes (6, 8, 3)"
    with pytest.raises(ValueError, match=re.escape(said)):
        network(np.zeros(shape, np.float32))
