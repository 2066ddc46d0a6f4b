"""The decoder that runs: against Keras' layers with the same weights, with and without its cache; what it refuses."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from hwlimits.decoder import RunningDecoder, decoding, gelu_tanh, normalized, softmax
from hwlimits.transformer import Decoder, TransformerError

SMALL = Decoder("small", vocabulary=61, width=24, layers=3, heads=4, inner=40, bias=False, positions=20)


@pytest.fixture
def tokens():
    return np.random.default_rng(1).integers(0, SMALL.vocabulary, (2, 9))


def lively(decoder):
    """Weights large enough that each part matters, and norms that are not 1."""
    random = np.random.default_rng(5)
    for name, array in decoder.weights.items():
        array[...] = random.normal(1 if "norm" in name else 0, 0.3, array.shape)
    return decoder


def keras_scores(weights, tokens):
    """Scores of every position, from Keras' own attention, normalization and dense layers."""
    from hwlimits.training.keras import keras, tf

    layers, width, heads = keras.layers, SMALL.width, SMALL.heads

    def with_weights(layer, x, *arrays, **options):
        layer(x, *([x] if isinstance(layer, layers.MultiHeadAttention) else []), **options)
        layer.set_weights(arrays)
        return layer(x, *([x] if isinstance(layer, layers.MultiHeadAttention) else []), **options)

    def norm(x, name):
        return with_weights(layers.LayerNormalization(epsilon=1e-5, center=False), x, weights[name])

    x = tf.constant(weights["table"][tokens] + weights["positions"][: tokens.shape[1]])
    for i in range(SMALL.layers):
        query, key, value = (a.reshape(width, heads, -1) for a in np.split(weights[f"{i}.qkv"], 3, axis=1))
        out = weights[f"{i}.out"].reshape(heads, -1, width)
        attention = layers.MultiHeadAttention(heads, width // heads, use_bias=False)
        x = x + with_weights(attention, norm(x, f"{i}.norm1"), query, key, value, out, use_causal_mask=True)
        inner = with_weights(layers.Dense(SMALL.inner, use_bias=False), norm(x, f"{i}.norm2"), weights[f"{i}.up"])
        inner = tf.nn.gelu(inner, approximate=True)
        x = x + with_weights(layers.Dense(width, use_bias=False), inner, weights[f"{i}.down"])
    return norm(x, "norm").numpy() @ weights["table"].T


def test_it_says_what_keras_layers_say(tokens):
    decoder = lively(RunningDecoder(SMALL, sequences=2))
    expected = keras_scores(decoder.weights, tokens)
    np.testing.assert_allclose(decoder.step(tokens), expected[:, -1], rtol=1e-3, atol=1e-3)
    decoder.forget()
    for i in range(tokens.shape[1]):
        scores = decoder.step(tokens[:, i : i + 1])
        np.testing.assert_allclose(scores, expected[:, i], rtol=1e-3, atol=1e-3, err_msg=f"token {i}")


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_the_cache_changes_nothing(tokens, cut):
    whole, parts = (lively(RunningDecoder(SMALL, sequences=2)) for _ in range(2))
    expected = whole.step(tokens)
    parts.step(tokens[:, :cut])
    np.testing.assert_allclose(parts.step(tokens[:, cut:]), expected, rtol=1e-4, atol=1e-4)
    assert whole.length == parts.length == 9


def test_texts_side_by_side_do_not_see_each_other(tokens):
    both = lively(RunningDecoder(SMALL, sequences=2)).step(tokens)
    for row, scores in zip(tokens, both, strict=True):
        np.testing.assert_allclose(lively(RunningDecoder(SMALL)).step(row[None])[0], scores, rtol=1e-4, atol=1e-4)


def test_later_tokens_change_nothing_before_them(tokens):
    decoder = lively(RunningDecoder(SMALL, sequences=2))
    first = decoder.step(tokens[:, :5])
    decoder.step(tokens[:, 5:])
    decoder.forget(4)
    np.testing.assert_allclose(decoder.step(tokens[:, 4:5]), first, rtol=1e-4, atol=1e-4)


def test_it_has_the_parameters_that_were_counted():
    decoder = RunningDecoder(SMALL)
    assert sum(array.size for array in decoder.weights.values()) == SMALL.parameters
    assert {array.dtype for array in decoder.weights.values()} == {np.dtype(np.float32)}
    assert decoder._keys.nbytes + decoder._values.nbytes == SMALL.cache_bytes(SMALL.positions, number_bytes=4)
    assert decoder.step(np.zeros((1, 3), int)).dtype == np.float32, "nothing widens to float64 on the way"


def test_what_is_timed_writes_the_same_token_each_time():
    write_one = decoding(lively(RunningDecoder(SMALL, sequences=2)), 7)
    np.testing.assert_array_equal(write_one(), write_one())


def test_what_is_timed_begins_anew_whatever_was_there(tokens):
    used, fresh = (lively(RunningDecoder(SMALL, sequences=2)) for _ in range(2))
    used.step(tokens)
    scores, wanted = decoding(used, 12)(), decoding(fresh, 12)()
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)
    assert used.length == 13, "one token behind the others"
    with pytest.raises(TransformerError, match=re.escape("step: 20 + 1 tokens, and small has 20 positions")):
        decoding(used, 20)


def test_parts_against_scipy():
    x = np.random.default_rng(0).normal(0, 2, (5, 7))
    np.testing.assert_allclose(softmax(x.copy()), special.softmax(x, axis=-1))
    np.testing.assert_allclose(gelu_tanh(x), x * special.ndtr(x), atol=1e-3)
    y = normalized(x, np.full(7, 2.0))
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=1), 2, rtol=1e-4)


def test_parts_at_their_limits():
    """A row without a variance is all zeros; one of 1e-5 is halved by epsilon; large numbers don't overflow."""
    np.testing.assert_array_equal(normalized(np.full((1, 4), 3.0), np.ones(4)), np.zeros((1, 4)))
    small = np.array([[-1.0, 1.0]]) * np.sqrt(1e-5)
    np.testing.assert_allclose(normalized(small, np.ones(2)), [[-np.sqrt(0.5), np.sqrt(0.5)]])
    np.testing.assert_array_equal(softmax(np.array([[1000.0, 1000.0], [0.0, -1000.0]])), [[0.5, 0.5], [1.0, 0.0]])


def test_a_seed_gives_the_same_weights_and_another_one_others():
    first, again, other = (RunningDecoder(SMALL, seed=seed).weights["0.qkv"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert np.std(first) == pytest.approx(0.02, rel=0.1)
    assert abs(np.mean(first)) < 0.002


def by_hand(decoder, tokens):
    """Scores after the last token of one text, number by number, by loops over positions and heads."""
    w, d = decoder.weights, SMALL.head_width

    def norm(v, factor):
        return (v - v.mean()) / np.sqrt(v.var() + 1e-5) * factor

    x = [w["table"][t] + w["positions"][i] for i, t in enumerate(tokens)]
    for layer in range(SMALL.layers):
        qkv = [norm(v, w[f"{layer}.norm1"]) @ w[f"{layer}.qkv"] for v in x]
        for i in reversed(range(len(x))):
            heads = []
            for h in range(SMALL.heads):
                q, k, v = (slice(part * SMALL.width + h * d, part * SMALL.width + (h + 1) * d) for part in range(3))
                shares = special.softmax([qkv[i][q] @ qkv[j][k] / np.sqrt(d) for j in range(i + 1)])
                heads.append(sum(share * qkv[j][v] for j, share in enumerate(shares)))
            x[i] = x[i] + np.concatenate(heads) @ w[f"{layer}.out"]
            u = norm(x[i], w[f"{layer}.norm2"]) @ w[f"{layer}.up"]
            x[i] = x[i] + 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))) @ w[f"{layer}.down"]
    return norm(x[-1], w["norm"]) @ w["table"].T


@pytest.mark.parametrize("length", [1, 2, 7])
def test_scores_number_by_number(tokens, length):
    decoder = lively(RunningDecoder(SMALL))
    found = decoder.step(tokens[:1, :length])
    np.testing.assert_allclose(found[0], by_hand(decoder, tokens[0, :length]), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": True}, "it has biases; what runs here has learned positions"),
        ({"gated": True, "rms": True}, "it has a gate, RMS normalization;"),
        ({"positions": 0}, "it has no learned positions"),
        ({"tied": False}, "it has a table of its own for scores"),
        ({"key_heads": 2}, "it has fewer key heads"),
        ({"activation": "relu"}, "it has relu"),
        ({"head_width": 5}, "its 4 heads of 5 must fill its width, 24"),
    ],
)
def test_a_decoder_of_another_kind_is_refused(change, message):
    with pytest.raises(TransformerError, match=re.escape(message)):
        RunningDecoder(replace(SMALL, **change))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(3, int), "tokens have shape (3,); it must be (1, new)"),
        (np.zeros((2, 3), int), "tokens have shape (2, 3); it must be (1, new)"),
        (np.zeros((1, 0), int), "tokens have shape (1, 0)"),
        (np.zeros((1, 21), int), "0 + 21 tokens, and small has 20 positions"),
        (np.full((1, 3), 61), "whole numbers from 0 to 60"),
        (np.full((1, 3), -1), "whole numbers from 0 to 60"),
        (np.zeros((1, 3)), "whole numbers from 0 to 60"),
    ],
)
def test_tokens_that_can_not_be(tokens, message):
    decoder = RunningDecoder(SMALL)
    with pytest.raises(TransformerError, match=re.escape(message)):
        decoder.step(tokens)
    assert decoder.length == 0


def test_no_more_can_be_forgotten_than_is_there():
    with pytest.raises(TransformerError, match=re.escape("forget(length=1): the cache has 0 tokens")):
        RunningDecoder(SMALL).forget(1)


@pytest.mark.parametrize("length", [1.5, True, -1, "1", None])
def test_a_length_to_keep_is_a_whole_number(tokens, length):
    decoder = RunningDecoder(SMALL, sequences=2)
    decoder.step(tokens)
    with pytest.raises(TransformerError, match=re.escape(f"forget(length={length!r}): ")):
        decoder.forget(length)
    assert decoder.length == 9


@pytest.mark.parametrize("sequences", [0, -1, 1.0, True, "2"])
def test_it_has_room_for_one_text_at_least(sequences):
    message = f"RunningDecoder 'small'(sequences={sequences!r}): must be a whole number, at least 1"
    with pytest.raises(TransformerError, match=re.escape(message)):
        RunningDecoder(SMALL, sequences)
