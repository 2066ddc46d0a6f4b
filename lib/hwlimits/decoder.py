"""A small decoder-only Transformer that runs, in NumPy, with its KV cache: what `hwlimits.transformer` counts.

Of GPT-2's kind (Radford et al. 2019): learned positions, layer normalization before each part, two matrices in the
feed-forward part, one table for tokens and scores. Weights are random: how long a step takes does not depend on
what it says.

>>> model = RunningDecoder(Decoder("tiny", 50, 8, 2, 2, 32, bias=False, positions=16))
>>> scores = model.step(np.array([[3, 1, 4]]))  # prefill
>>> scores = model.step(scores.argmax(axis=-1)[:, None])  # decode
>>> scores.shape, model.length
((1, 50), 4)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwlimits.transformer import Decoder, TransformerError, whole

EPSILON = 1e-5  # under the root of a variance, as in GPT-2


class RunningDecoder:
    """A decoder with random weights and room for `sequences` texts in its cache, float32.

    weights   name -> array; layer i has 'i.qkv' (width, 3 width), 'i.out', 'i.up', 'i.down' and two norms
    length    tokens of each text in the cache

    Raises TransformerError for a decoder of another kind than the module says, and for room for no text.
    """

    def __init__(self, model: Decoder, sequences: int = 1, seed: int = 0):
        other = [
            what
            for what, is_so in {
                "biases": model.bias, "a gate": model.gated, "RMS normalization": model.rms,
                "no learned positions": not model.positions, "a table of its own for scores": not model.tied,
                "fewer key heads": model.key_heads != model.heads,
                model.activation: model.activation != "gelu_tanh",
            }.items()
            if is_so
        ]  # fmt: skip
        if other:
            raise TransformerError(
                f"RunningDecoder({model.name!r}): it has {', '.join(other)}; what runs here has learned positions, "
                "gelu_tanh, one table and none of these"
            )
        if model.heads * model.head_width != model.width:
            raise TransformerError(
                f"RunningDecoder({model.name!r}): its {model.heads} heads of {model.head_width} must fill its width, "
                f"{model.width}"
            )
        (sequences,) = whole(f"RunningDecoder {model.name!r}", sequences=sequences)
        self.model, self.sequences, self.length = model, sequences, 0
        self.weights = _random_weights(model, np.random.default_rng(seed))
        shape = (model.layers, sequences, model.heads, model.positions, model.head_width)
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def forget(self, length: int = 0) -> None:
        """Keep only the first `length` tokens of each text in the cache.

        Raises TransformerError for what is no whole number, and for more tokens than the cache has.
        """
        (length,) = whole("forget", least=0, length=length)
        if length > self.length:
            raise TransformerError(f"forget(length={length}): the cache has {self.length} tokens")
        self.length = length

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Scores (sequences, vocabulary) of what comes after `tokens` (sequences, new), which go into the cache.

        Raises TransformerError for tokens of another shape or beyond the vocabulary, and for more than there is room.
        """
        tokens, model = np.asarray(tokens), self.model
        if tokens.ndim != 2 or len(tokens) != self.sequences or not tokens.size:
            raise TransformerError(f"step: tokens have shape {tokens.shape}; it must be ({self.sequences}, new)")
        new, past = tokens.shape[1], self.length
        if past + new > model.positions:
            raise TransformerError(f"step: {past} + {new} tokens, and {model.name} has {model.positions} positions")
        if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= model.vocabulary:
            raise TransformerError(f"step: tokens must be whole numbers from 0 to {model.vocabulary - 1}")
        w = self.weights
        # (texts x new, width): one product for all texts, so that each weight is read once
        x = (w["table"][tokens] + w["positions"][past : past + new]).reshape(-1, model.width)
        for i in range(model.layers):
            x = x + self._attention(i, normalized(x, w[f"{i}.norm1"]), new) @ w[f"{i}.out"]
            x = x + gelu_tanh(normalized(x, w[f"{i}.norm2"]) @ w[f"{i}.up"]) @ w[f"{i}.down"]
        self.length += new
        last = x.reshape(self.sequences, new, -1)[:, -1]
        return normalized(last, w["norm"]) @ w["table"].T

    def _attention(self, i: int, x: np.ndarray, new: int) -> np.ndarray:
        heads, past = self.model.heads, self.length
        qkv = (x @ self.weights[f"{i}.qkv"]).reshape(self.sequences, new, 3, heads, -1)
        query, key, value = qkv.transpose(2, 0, 3, 1, 4)  # (texts, heads, new, head width) each
        self._keys[i, :, :, past : past + new] = key
        self._values[i, :, :, past : past + new] = value
        keys, values = (a[i, :, :, : past + new] for a in (self._keys, self._values))
        scores = (query * np.float32(self.model.head_width**-0.5)) @ keys.swapaxes(-1, -2)
        if new > 1:
            future = np.arange(past + new) > past + np.arange(new)[:, None]
            scores = np.where(future, np.float32(-np.inf), scores)
        return (softmax(scores) @ values).transpose(0, 2, 1, 3).reshape(len(x), -1)


def decoding(decoder: RunningDecoder, length: int) -> Callable[[], np.ndarray]:
    """A call that writes one token behind `length` others, the same one each time: to be timed.

    Raises TransformerError where there is no room for it.
    """
    tokens = np.random.default_rng(0).integers(0, decoder.model.vocabulary, (decoder.sequences, length))
    decoder.forget()
    decoder.step(tokens)
    last = tokens[:, -1:]

    def write_one():
        decoder.forget(length)
        return decoder.step(last)

    write_one()
    return write_one


def normalized(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Layer normalization of each row, without a summand.

    >>> normalized(np.array([[1.0, 3.0]]), np.array([1.0, 10.0])).round(3)
    array([[-1., 10.]])
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.einsum("...i,...i->...", centred, centred)[..., None] / x.shape[-1]
    return centred / np.sqrt(variance + EPSILON) * factor


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution's share below x, by the hyperbolic tangent (Hendrycks and Gimpel 2016).

    >>> gelu_tanh(np.array([-10.0, 0.0, 1.0])).round(4)
    array([-0.    ,  0.    ,  0.8412])
    """
    root = np.sqrt(2 / np.pi).astype(x.dtype)
    return x * (np.tanh(root * (x + x.dtype.type(0.044715) * x * x * x)) + 1) * x.dtype.type(0.5)


def softmax(x: np.ndarray) -> np.ndarray:
    """Shares of each row's exponentials, in place.

    >>> softmax(np.array([[0.0, 0.0, -np.inf]]))
    array([[0.5, 0.5, 0. ]])
    """
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def _random_weights(model: Decoder, random: np.random.Generator) -> dict[str, np.ndarray]:
    w, n = model.width, model.inner

    def matrix(*shape):
        return random.standard_normal(shape, np.float32) * np.float32(0.02)

    found = {"table": matrix(model.vocabulary, w), "positions": matrix(model.positions, w)}
    for i in range(model.layers):
        found |= {
            f"{i}.qkv": matrix(w, 3 * w), f"{i}.out": matrix(w, w), f"{i}.up": matrix(w, n), f"{i}.down": matrix(n, w),
            f"{i}.norm1": np.ones(w, np.float32), f"{i}.norm2": np.ones(w, np.float32),
        }  # fmt: skip
    return found | {"norm": np.ones(w, np.float32)}
