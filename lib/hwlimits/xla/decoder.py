"""A decoder-only Transformer in JAX, with its KV cache: the shapes of `hwlimits.transformer`, on JAX's first device.

What `hwlimits.decoder` runs in NumPy, and Llama's kind beside it: RMS normalization, rotated queries and keys, shared
key heads, a gate, a table of its own for the scores. A compiled program has fixed shapes: it reads *all* of the cache
that was allocated, tokens or not, and masks what is not there. Weights are random: how long a step takes does not
depend on what it says.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwlimits.decoder import EPSILON
from hwlimits.transformer import Decoder, TransformerError
from hwlimits.xla.engine import compiled, device, jax_module
from hwlimits.xla.precisions import XlaError, lacks, multiplied_types, whole
from hwlimits.xla.programs import kernels, library_bytes

TYPES = {"float32": ("highest", 4), "bfloat16": ("default", 2)}  # JAX's precision, and bytes of a number
ACTIVATIONS = ("gelu_tanh", "silu")
ROTATION = 10_000.0  # the base of the angles (Su et al. 2021)


def shapes(model: Decoder) -> dict[str, tuple[int, ...]]:
    """Arrays of a decoder's weights by name; their numbers are `model.parameters`.

    Names are those of `hwlimits.decoder`, and 'i.gate' and 'head' (vocabulary, width) where there is one.
    Raises TransformerError for biases and for an activation that does not run here.

    >>> tiny = Decoder("tiny", 50, 8, 1, 2, 32, bias=False, positions=16)
    >>> shapes(tiny)["0.qkv"], sum(int(np.prod(shape)) for shape in shapes(tiny).values()) == tiny.parameters
    ((8, 24), True)
    """
    if model.bias or model.activation not in ACTIVATIONS:
        what = "biases" if model.bias else model.activation
        raise TransformerError(
            f"shapes({model.name!r}): it has {what}; what runs here has none, and one of {', '.join(ACTIVATIONS)}"
        )
    w, n, query = model.width, model.inner, model.heads * model.head_width
    keys = model.key_heads * model.head_width
    found: dict[str, tuple[int, ...]] = {"table": (model.vocabulary, w)}
    if model.positions:
        found["positions"] = (model.positions, w)
    for i in range(model.layers):
        found |= {f"{i}.norm1": (w,), f"{i}.qkv": (w, query + 2 * keys), f"{i}.out": (query, w)}
        found |= {f"{i}.norm2": (w,), f"{i}.up": (w, n), f"{i}.down": (n, w)}
        found |= {f"{i}.gate": (w, n)} if model.gated else {}
    return found | {"norm": (w,)} | ({} if model.tied else {"head": (model.vocabulary, w)})


def random_weights(model: Decoder, precision: str = "float32", seed: int = 0) -> dict[str, Any]:
    """Weights drawn on the device, in `precision`: normal with 0.02, norms 1. Raises XlaError as `require` does."""
    require(precision)
    jax, kind = jax_module(), np.dtype(jax_module().numpy.dtype(precision))

    @functools.partial(jax.jit, static_argnums=1)
    def draw(key, shape):  # in the type of the weights: what is wider would need its memory
        return jax.random.normal(key, shape, kind) * kind.type(0.02)

    wanted = shapes(model)
    keys = jax.random.split(jax.random.key(seed, impl="rbg"), len(wanted))
    return {
        name: jax.numpy.ones(shape, kind) if len(shape) == 1 else draw(key, shape)
        for (name, shape), key in zip(wanted.items(), keys, strict=True)
    }


def require(precision: str) -> None:
    """Raise XlaError for a precision that this module or the device has not."""
    if precision not in TYPES:
        raise XlaError(f"no decoder in {precision!r} here: there are {', '.join(TYPES)}.")
    here = device()
    why = lacks(precision, here["platform"], here["compute_capability"])
    if why:
        raise XlaError(f"a decoder in {precision} can't run here: {why}.")


def empty_cache(model: Decoder, sequences: int, capacity: int, precision: str = "float32") -> list[Any]:
    """Keys of each layer, then values of each, (sequences x key heads, capacity, head width): zeros on the device."""
    numpy = jax_module().numpy
    shape = (sequences * model.key_heads, capacity, model.head_width)
    return [numpy.zeros(shape, precision) for _ in range(2 * model.layers)]


def step(model: Decoder, weights: Mapping[str, Any], cache: list, tokens, past) -> tuple[list, Any, Any]:
    """The cache with `tokens` (sequences, new) behind its first `past`, the scores of what comes next, and the best.

    Scores are (sequences, vocabulary), the best token of each text (sequences, 1). To be traced by JAX: `past` may be
    an array, and what is asked must fit; `Program` sees to that.
    """
    jax = jax_module()
    numpy, kind = jax.numpy, weights["table"].dtype
    precision = TYPES[str(kind)][0]
    sequences, new = tokens.shape
    capacity, heads, shared, width = cache[0].shape[1], model.heads, model.key_heads, model.head_width
    at = past + numpy.arange(new)
    # Position j is seen by the new token i if j <= past + i; heads that share keys lie under each other.
    seen = numpy.tile(numpy.arange(capacity) <= at[:, None], (heads // shared, 1))

    def dense(x, name):
        return numpy.matmul(x, weights[name], precision=precision)

    def norm(x, name):
        x = x.astype("float32")
        if not model.rms:
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPSILON)
        return x.astype(kind) * weights[name]

    def rotated(x):  # (sequences, heads, new, width)
        angles = at[:, None] * ROTATION ** (-numpy.arange(0, width, 2) / width)
        cos, sin = (f(numpy.concatenate([angles, angles], 1)).astype("float32") for f in (numpy.cos, numpy.sin))
        left, right = numpy.split(x.astype("float32"), 2, axis=-1)
        return (x * cos + numpy.concatenate([-right, left], -1) * sin).astype(kind)

    def attention(i, x):
        query, key, value = numpy.split(
            dense(x, f"{i}.qkv").reshape(sequences, new, -1, width).swapaxes(1, 2), [heads, heads + shared], axis=1
        )
        if not model.positions:
            query, key = rotated(query), rotated(key)
        for j, x in ((i, key), (model.layers + i, value)):
            cache[j] = jax.lax.dynamic_update_slice(cache[j], x.reshape(-1, new, width), (0, past, 0))
        keys, values = cache[i], cache[model.layers + i]
        query = query.reshape(sequences * shared, -1, width)
        scores = (
            numpy.einsum("bqw,bcw->bqc", query, keys, precision=precision, preferred_element_type="float32")
            * width**-0.5
        )
        shares = jax.nn.softmax(numpy.where(seen, scores, -numpy.inf), axis=-1).astype(kind)
        mixed = numpy.einsum("bqc,bcw->bqw", shares, values, precision=precision)
        return mixed.reshape(sequences, heads, new, width).swapaxes(1, 2).reshape(sequences, new, -1)

    def feed_forward(i, x):
        activation = functools.partial(jax.nn.gelu, approximate=True) if model.activation != "silu" else jax.nn.silu
        inner = activation(dense(x, f"{i}.{'gate' if model.gated else 'up'}"))
        return inner * dense(x, f"{i}.up") if model.gated else inner

    cache = list(cache)
    x = weights["table"][tokens]
    if model.positions:
        x = x + weights["positions"][at]
    for i in range(model.layers):
        x = x + dense(attention(i, norm(x, f"{i}.norm1")), f"{i}.out")
        x = x + dense(feed_forward(i, norm(x, f"{i}.norm2")), f"{i}.down")
    scores = numpy.matmul(norm(x[:, -1], "norm"), weights["table" if model.tied else "head"].T, precision=precision)
    return cache, scores, scores.argmax(-1)[:, None].astype(tokens.dtype)


@dataclass(frozen=True)
class Program:
    """A step compiled for `new` tokens of each of `sequences` texts and a cache of `capacity` tokens.

    moved_bytes  what its kernels read and write: XLA's own cost analysis ('bytes accessed'), which knows nothing of
                 calls of libraries, and their arrays
    xla_flops    of the cost analysis, without libraries' products
    kernels      that one call starts, counted in the program's text
    multiplied   types that its products multiply, as far as the text tells
    temp_bytes   memory beside weights, cache and results
    """

    call: Any
    compile_s: float
    moved_bytes: float
    xla_flops: float
    kernels: int
    multiplied: tuple[str, ...]
    temp_bytes: int


def program(model: Decoder, weights: Mapping[str, Any], new: int, capacity: int, sequences: int = 1) -> Program:
    """Compile a step; its `call(weights, cache, tokens, past)` gives what `step` does, and takes the cache's memory.

    Raises TransformerError for sizes that are no whole numbers from 1, and for more tokens than there is room for.
    """
    given = {"new": new, "capacity": capacity, "sequences": sequences}
    for name, value in given.items():
        if not whole(value):
            raise TransformerError(f"program({name}={value!r}): must be a whole number, at least 1")
    if new > capacity or (model.positions and capacity > model.positions):
        room = f"{model.positions:,} positions" if new <= capacity else f"a cache of {capacity:,} tokens"
        raise TransformerError(f"program(new={new}, capacity={capacity}): {model.name} has {room}, too few for it")
    jax = jax_module()
    described = jax.ShapeDtypeStruct
    kind = weights["table"].dtype
    cache = [described((sequences * model.key_heads, capacity, model.head_width), kind)] * (2 * model.layers)
    made, compile_s = compiled(
        functools.partial(step, model), dict(weights), cache, described((sequences, new), np.int32),
        described((), np.int32), donate_argnums=1,
    )  # fmt: skip
    costs, text = made.cost_analysis() or {}, made.as_text() or ""
    return Program(
        made, compile_s, costs.get("bytes accessed", 0.0) + library_bytes(text), costs.get("flops", 0.0), kernels(text),
        tuple(sorted(multiplied_types(text))), int(getattr(made.memory_analysis(), "temp_size_in_bytes", 0)),
    )  # fmt: skip
