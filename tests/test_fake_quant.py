"""Fake quantization in TensorFlow: NumPy's numbers forward, the clipped surrogate's slope back."""

import numpy as np
import pytest

from hwlimits import quantization
from hwlimits.training import fake_quant
from hwlimits.training.keras import keras, tf

BITS = range(2, 17)


def numbers(low, high, scale, random):
    """Random numbers beyond both ends, those halfway between two codes, and the one just below a half."""
    width = max(abs(low), abs(high), 1e-30)
    halves = [*((np.arange(-50, 50) + 0.5) * scale), np.nextafter(np.float32(0.5), np.float32(0)) * scale]
    return np.append(random.normal(size=200) * width, halves).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
def test_a_tensor_becomes_what_numpy_makes_of_it(bits):
    random = np.random.default_rng(bits)
    ranges = [np.float32(np.sort(random.normal(size=2) * np.exp(3 * random.normal()))) for _ in range(8)]
    for low, high in [*ranges, (0, 6), (-1, 0), (0.5, 2), (-3, -1), (0, 0)]:
        q = quantization.affine(low, high, bits)
        found = [part.numpy() for part in fake_quant.affine(low, high, bits)]
        assert found == [q.scale, q.lowest - q.zero_point, q.highest - q.zero_point]
        x = numbers(low, high, q.scale, random)
        assert np.array_equal(fake_quant.fake_quantize(tf.constant(x), *found), quantization.fake_quantize(x, q))


@pytest.mark.parametrize("bits", BITS)
def test_channels_become_what_numpy_makes_of_them(bits):
    weights = np.random.default_rng(bits).normal(size=(3, 3, 4, 6)).astype(np.float32)
    weights[..., 2] = 0  # a channel that is pruned away
    magnitude = np.abs(weights).max(axis=(0, 1, 2))
    q = quantization.symmetric(magnitude, bits, axis=3)
    scale, lowest, highest = fake_quant.symmetric(magnitude, bits)
    assert np.array_equal(scale, q.scale)
    assert (lowest, highest) == (q.lowest, q.highest)
    found = fake_quant.fake_quantize(tf.constant(weights), scale, lowest, highest)
    assert np.array_equal(found, quantization.fake_quantize(weights, q))


def slope(x, *code):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(fake_quant.fake_quantize(x, *code) * tf.range(1.0, tf.size(x, tf.float32) + 1))
    return tape.gradient(total, x).numpy() / np.arange(1, x.shape[0] + 1)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("low", "high"), [(-1, 3), (0, 6), (-2, 0)])
def test_the_gradient_is_that_of_the_clipped_surrogate(bits, low, high):
    q = quantization.affine(low, high, bits)
    x = np.linspace(-4, 8, 997).astype(np.float32)
    x = x[(np.abs(x - q.low) > 2e-3) & (np.abs(x - q.high) > 2e-3)]  # at its corners the surrogate has no slope
    step = 1e-3
    surrogate = lambda x: np.clip(x.astype(np.float64), q.low, q.high)  # noqa: E731
    difference = (surrogate(x.astype(np.float64) + step) - surrogate(x.astype(np.float64) - step)) / (2 * step)
    found = slope(x, *fake_quant.affine(low, high, bits))
    assert found == pytest.approx(difference, abs=1e-6)
    assert {0.0, 1.0} == set(np.round(found, 6))


@pytest.mark.parametrize("bits", BITS)
def test_the_weight_that_spans_the_codes_learns_too(bits):
    """max / (max / 127) may be more than 127 in float32; its gradient passes nevertheless."""
    magnitudes = np.random.default_rng(bits).lognormal(size=500).astype(np.float32)
    scale, lowest, highest = fake_quant.symmetric(magnitudes, bits)
    for sign in (1, -1):
        assert (slope(sign * magnitudes, scale, lowest, highest) == 1).all()


def test_not_a_number_stays_one():
    assert np.isnan(fake_quant.fake_quantize(tf.constant([np.nan]), 0.5, -3.0, 3.0).numpy()).all()


def learnt(bits=8):
    return fake_quant.LearntRange(keras.layers.Layer(), "x", bits)


def test_a_learnt_range_is_the_mean_of_the_batches_and_later_forgets():
    random, seen = np.random.default_rng(0), learnt()
    batches = [np.float32(random.normal(size=50)) for _ in range(150)]
    low, high = 0.0, 0.0
    for n, batch in enumerate(batches, 1):
        seen(tf.constant(batch), True)
        share = max(1 / n, 1 - fake_quant.DECAY)
        low, high = low + share * (batch.min() - low), high + share * (batch.max() - high)
        if n in (1, 2, 100):
            assert float(seen.low) == pytest.approx(np.mean([b.min() for b in batches[:n]]), rel=1e-4)
            assert float(seen.high) == pytest.approx(np.mean([b.max() for b in batches[:n]]), rel=1e-4)
    assert (float(seen.low), float(seen.high)) == pytest.approx((low, high), rel=1e-4)
    before = seen.high.numpy()
    seen(tf.constant([100.0]), False)
    assert seen.high.numpy() == before, "it learns only while training"


def test_the_range_of_weights_follows_them_while_training():
    weights = tf.constant([[1.0, -4.0], [-2.0, 3.0]])
    channels = fake_quant.WeightRange(keras.layers.Layer(), "k", 4, 2)
    channels(weights, True)
    assert channels.magnitude.numpy().tolist() == [2, 4]
    channels(weights * 3, False)
    assert channels.magnitude.numpy().tolist() == [2, 4]
    whole = fake_quant.WeightRange(keras.layers.Layer(), "k", 4, None)
    assert np.array_equal(
        whole(weights, True), quantization.fake_quantize(weights.numpy(), quantization.symmetric(4.0, 4))
    )


def test_inside_a_graph_the_numbers_are_the_same():
    x = tf.constant(np.linspace(-2, 2, 101).astype(np.float32))
    code = fake_quant.affine(-1.0, 1.5, 4)
    assert np.array_equal(tf.function(fake_quant.fake_quantize)(x, *code), fake_quant.fake_quantize(x, *code))
