"""Answers of compressed networks against loops over every output, shapes against these, networks that can't be."""

import numpy as np
import pytest

from hwlimits.compressed import (
    Layer,
    Network,
    NetworkError,
    Tensor,
    answers,
    error_rate,
    output_shapes,
    sort_channels,
    tensor_shapes,
    work,
)


def network_of(layers, input_shape=(9, 8, 2), seed=0):
    generator = np.random.default_rng(seed)
    shapes = tensor_shapes(input_shape, layers)
    return Network(input_shape, tuple(layers), tuple(Tensor(generator.integers(-4, 5, s), 0.25) for s in shapes))


def by_hand(network, image):
    """One image through loops over outputs; and how many products were made."""
    tensors, x, products = iter([t.codes * t.step for t in network.tensors]), image.astype(float), 0
    for layer in network.layers:
        if layer.kind == "flatten":
            x = x.ravel()
        elif layer.kind == "global_mean":
            x = np.array([x[:, :, c].sum() / x[:, :, c].size for c in range(x.shape[2])])
        elif layer.kind.endswith("pool"):
            k = layer.kernel
            of = np.max if layer.kind == "max_pool" else np.mean
            rows, columns = x.shape[0] // k, x.shape[1] // k
            x = np.array(
                [
                    [of(x[i * k : i * k + k, j * k : j * k + k], axis=(0, 1)) for j in range(columns)]
                    for i in range(rows)
                ]
            )
        else:
            kernel = next(tensors)
            if layer.kind == "separable":
                point = next(tensors)
                kernel = np.array(
                    [
                        [
                            [[kernel[i, j, c] * w for w in point[c]] for c in range(len(point))]
                            for j in range(layer.kernel)
                        ]
                        for i in range(layer.kernel)
                    ]
                )
            gain = next(tensors) if layer.gain else np.ones(layer.units)
            bias = next(tensors)
            for _ in range(layer.times):
                if layer.kind == "dense":
                    y = np.array([sum(x[i] * kernel[i, u] for i in range(len(x))) for u in range(layer.units)])
                    products += kernel.size
                else:
                    y, made = convolved(x, kernel, layer)
                    products += made
                y = y * gain + bias
                y = y + x if layer.residual else y
                x = np.where(y > 0, y, 0) if layer.relu else y
    return x, products


def convolved(x, kernel, layer):
    k, before = layer.kernel, (layer.kernel - 1) // 2 if layer.same else 0
    pad = layer.kernel - 1 if layer.same else 0
    rows, columns = ((side + pad - k) // layer.stride + 1 for side in x.shape[:2])
    y, products = np.zeros((rows, columns, layer.units)), 0
    for i, j in np.ndindex(rows, columns):
        for di, dj in np.ndindex(k, k):
            at = i * layer.stride + di - before, j * layer.stride + dj - before
            products += kernel[di, dj].size
            if 0 <= at[0] < x.shape[0] and 0 <= at[1] < x.shape[1]:
                y[i, j] += x[at] @ kernel[di, dj]
    return y, products


NETWORKS = {
    "valid": [Layer("conv", 3, 3, relu=True)],
    "even kernel, same": [Layer("conv", 3, 4, same=True)],
    "stride": [Layer("conv", 3, 3, stride=2, same=True), Layer("conv", 2, 2, stride=2)],
    "gain": [Layer("conv", 3, 3, gain=True, relu=True), Layer("flatten"), Layer("dense", 4, gain=True)],
    "separable": [Layer("separable", 5, 3, gain=True), Layer("separable", 2, 3, same=True, relu=True)],
    "pools": [Layer("max_pool", kernel=2), Layer("mean_pool", kernel=3)],
    "residual, again": [Layer("conv", 2, 3, same=True, relu=True, residual=True, times=3)],
    "smaller each time": [Layer("conv", 2, 3, times=3)],
    "means": [Layer("conv", 4, 3), Layer("global_mean"), Layer("dense", 3, relu=True)],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_answers_shapes_and_work_are_those_of_loops(name):
    network = network_of(NETWORKS[name])
    images = np.random.default_rng(1).random((3, *network.input_shape))
    found = answers(network, images)
    hand = [by_hand(network, image) for image in images]
    np.testing.assert_allclose(found, [y for y, _ in hand], rtol=1e-9, atol=1e-9)
    assert found.shape[1:] == output_shapes(network.input_shape, network.layers)[-1]
    assert work(network.input_shape, network.layers)[0] == hand[0][1]


def test_codebooks_stand_for_their_values():
    tensor = Tensor(np.array([0, 2, 1]), None, np.array([0.0, 0.5, -3.0]))
    assert tensor.values.tolist() == [0.0, -3.0, 0.5]


def test_errors_are_counted():
    network = Network(
        (1, 2, 1),
        (Layer("flatten"), Layer("dense", 2)),
        (Tensor(np.eye(2, dtype=int), 1.0), Tensor(np.zeros(2, int), 1.0)),
    )
    images = np.array([[[9, 1]], [[1, 9]], [[9, 1]]], np.uint8)
    assert error_rate(network, images, np.array([0, 1, 1])) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([Layer("lstm")], "the kinds are conv, separable"),
        ([Layer("dense", 3)], "put a flatten layer before it"),
        ([Layer("flatten"), Layer("conv", 3, 3)], "it needs height, width and channels"),
        ([Layer("conv", 3, 10)], "a filter of 10 x 10 is larger than what is left"),
        ([Layer("max_pool", kernel=9)], "a pool of 9 x 9 is larger than that"),
        ([Layer("conv", 3, 3, times=2)], "it must have as many filters as there are channels, 2"),
        ([Layer("conv", 3, 3, residual=True)], "height, width and channels must stay as they are"),
        ([Layer("conv", 0, 3)], "0 filters, 1 times: must be at least 1"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, said):
    with pytest.raises(NetworkError, match=said):
        tensor_shapes((9, 8, 2), layers)


@pytest.mark.parametrize(("residual", "times"), [(True, 2), (True, 1), (False, 2)])
def test_sorted_channels_compute_the_same(residual, times):
    layers = (
        Layer("conv", 5, 3, gain=True, relu=True),
        Layer("separable", 6, 2, gain=True, relu=True),
        Layer("conv", 4, 2),
        Layer("conv", 4, 3, same=True, residual=residual, times=times),
        Layer("conv", 3, 2, relu=True),
        Layer("flatten"),
        Layer("dense", 7, gain=True, relu=True),
        Layer("dense", 5),
    )
    network = network_of(layers)
    found = sort_channels(network)
    images = np.random.default_rng(1).random((4, 9, 8, 2))
    assert np.allclose(answers(found, images), answers(network, images), rtol=1e-12, atol=1e-12)
    biases = [t.codes for t, shape in zip(found.tensors, tensor_shapes((9, 8, 2), layers), strict=True)]
    assert [bool((np.diff(biases[at]) >= 0).all()) for at in (2, 6, 12, 15)] == [True] * 4
    before = [t.codes for t in network.tensors]
    assert [bool((np.diff(before[at]) >= 0).all()) for at in (2, 6, 12, 15)] == [False] * 4
    for at in (8, 10, 17):  # around the layer that adds its input or is applied again, and the classes
        assert np.array_equal(biases[at], before[at])
