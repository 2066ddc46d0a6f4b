"""What attention and recurrence cost, from their named dimensions. Part of `hwlimits.compute`."""

from __future__ import annotations

from hwlimits.counting import Cost, CountError, activation_flops, per_batch, sizes


def attention(
    queries: int,
    features: int,
    heads: int,
    key_dim: int,
    *,
    value_dim: int | None = None,
    keys: int | None = None,
    value_features: int | None = None,
    key_features: int | None = None,
    output_features: int | None = None,
    key_heads: int | None = None,
    bias: bool = True,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """Multi-head attention with its four projections (Vaswani and others 2017, section 3.2).

    queries, features   positions that ask, and the width of each
    heads, key_dim      heads, and the width of a head's query and key; value_dim: of its value
    keys                positions that answer; None: the queries themselves (self-attention, one
                        input). Otherwise a second input of `value_features` is key and value, or,
                        with `key_features`, a second and a third
    output_features     width of the result; None: `features`
    key_heads           heads of keys and values, if fewer (grouped queries)

    The scores of a causal or padding mask are computed like all others, as engines do that have
    no kernel of their own for it; the mask itself is not counted.

    >>> attention(queries=128, features=768, heads=12, key_dim=64).macs  # a layer of BERT-base
    327155712
    """
    self_attention, separate_key = keys is None, key_features is not None
    queries, features, heads, key_dim = sizes(
        "attention", queries=queries, features=features, heads=heads, key_dim=key_dim
    )
    value_features = features if value_features is None else value_features
    value_dim, keys, key_heads, value_features, key_features, output_features = sizes(
        "attention",
        value_dim=key_dim if value_dim is None else value_dim,
        keys=queries if keys is None else keys,
        key_heads=heads if key_heads is None else key_heads,
        value_features=value_features,
        key_features=value_features if key_features is None else key_features,
        output_features=features if output_features is None else output_features,
    )
    if heads % key_heads:
        raise CountError(f"attention: {heads} heads can't share {key_heads} key heads evenly")

    projections = {  # inputs, outputs, positions
        "query": (features, heads * key_dim, queries),
        "key": (key_features, key_heads * key_dim, keys),
        "value": (value_features, key_heads * value_dim, keys),
        "output": (heads * value_dim, output_features, queries),
    }
    scores = heads * queries * keys
    macs = sum(i * o * positions for i, o, positions in projections.values())
    macs += scores * key_dim  # Q K'
    macs += scores * value_dim  # softmax(Q K') V
    other_flops = sum(bias * o * positions for _, o, positions in projections.values())
    other_flops += queries * heads * key_dim  # Q / sqrt(key_dim)
    other_flops += scores * activation_flops("softmax")
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=queries * features
        + (not self_attention) * keys * value_features
        + (separate_key and not self_attention) * keys * key_features,
        written=queries * output_features,
        macs=macs,
        other_flops=other_flops,
        parameters=sum((i + bias) * o for i, o, _ in projections.values()),
    )


def dot_attention(
    queries: int,
    keys: int,
    features: int,
    value_features: int | None = None,
    *,
    inputs: int = 2,
    scale: bool = False,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """Attention without projections: softmax(Q K') V, one head; `scale` is one learned factor of the scores.

    inputs   how many tensors come in: 1 (query, key and value are one), 2 (key and value are one), 3

    >>> dot_attention(queries=4, keys=6, features=8).macs == 2 * 4 * 6 * 8
    True
    """
    queries, keys, features, value_features = _attended(
        "dot_attention", queries, keys, features, value_features, inputs
    )
    scores = queries * keys
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=queries * features + (inputs > 1) * keys * value_features + (inputs > 2) * keys * features,
        written=queries * value_features,
        macs=scores * (features + value_features),
        other_flops=scores * (scale + activation_flops("softmax")),
        parameters=int(scale),
    )


def additive_attention(
    queries: int,
    keys: int,
    features: int,
    value_features: int | None = None,
    *,
    inputs: int = 2,
    scale: bool = True,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """Bahdanau's attention: scores v . tanh(q + k), then softmax and the weighted values.

    With `scale` v is learned and the score a product of vectors, which is MACs; without, a sum.
    `inputs` as in `dot_attention`.

    >>> additive_attention(queries=4, keys=6, features=8).macs == 2 * 4 * 6 * 8
    True
    """
    queries, keys, features, value_features = _attended(
        "additive_attention", queries, keys, features, value_features, inputs
    )
    scores = queries * keys
    add_and_tanh = 1 + activation_flops("tanh")
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=queries * features + (inputs > 1) * keys * value_features + (inputs > 2) * keys * features,
        written=queries * value_features,
        macs=scores * (scale * features + value_features),
        other_flops=scores * (features * add_and_tanh + (not scale) * (features - 1) + activation_flops("softmax")),
        parameters=scale * features,
    )


def _attended(function: str, queries, keys, features, value_features, inputs) -> tuple[int, ...]:
    """The dimensions of an attention without projections, checked; the values' width is `features` if not given."""
    if inputs not in (1, 2, 3):
        raise CountError(f"{function}(inputs={inputs!r}): one, two or three tensors come in")
    value_features = features if value_features is None else value_features
    return sizes(function, queries=queries, keys=keys, features=features, value_features=value_features)


def lstm_flops(activation: str | None, recurrent_activation: str | None, bias: bool) -> int:
    """Operations of an LSTM cell beside its products, per unit and step.

    Four gates, each a sum of two products and a bias; three `recurrent_activation`; the candidate
    and the cell state go through `activation`; f*c + i*g and o*tanh(c) are four more.
    """
    return 4 * (1 + bias) + 3 * activation_flops(recurrent_activation) + 2 * activation_flops(activation) + 4


def lstm(
    inputs: int,
    units: int,
    steps: int,
    *,
    bias: bool = True,
    return_sequences: bool = False,
    activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid",
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """Long short-term memory: four gates, each fed by the input and the previous output.

    The first step's zero state is multiplied like any other. The weights are read once: an engine
    whose cache can't hold them reads them again at every step.

    >>> lstm(inputs=8, units=16, steps=20).macs == 20 * 4 * 16 * (8 + 16)
    True
    """
    return _recurrent(
        "lstm", inputs, units, steps, 4, 4 * bias, lstm_flops(activation, recurrent_activation, bias),
        return_sequences, batch, dtype,
    )  # fmt: skip


def gru(
    inputs: int,
    units: int,
    steps: int,
    *,
    bias: bool = True,
    reset_after: bool = True,
    return_sequences: bool = False,
    activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid",
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """Gated recurrent unit: two gates and a candidate.

    With `reset_after` (Keras' default and cuDNN's) the reset gate multiplies after the product
    and there is a second bias; the MACs are the same.

    >>> gru(inputs=8, units=16, steps=20).parameters - gru(inputs=8, units=16, steps=20, reset_after=False).parameters
    48
    """
    biases = bias * (2 if reset_after else 1)
    # three sums of two products; the reset's product; z*h + (1 - z)*candidate
    per_unit = 3 * (1 + biases) + 1 + 4 + 2 * activation_flops(recurrent_activation) + activation_flops(activation)
    return _recurrent("gru", inputs, units, steps, 3, 3 * biases, per_unit, return_sequences, batch, dtype)


def simple_rnn(
    inputs: int,
    units: int,
    steps: int,
    *,
    bias: bool = True,
    return_sequences: bool = False,
    activation: str | None = "tanh",
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """Elman's recurrence: activation(W x + U h + b).

    >>> simple_rnn(inputs=8, units=16, steps=20).macs == 20 * 16 * (8 + 16)
    True
    """
    per_unit = 1 + bias + activation_flops(activation)
    return _recurrent("simple_rnn", inputs, units, steps, 1, bias, per_unit, return_sequences, batch, dtype)


def _recurrent(kind, inputs, units, steps, gates, biases, flops_per_unit, return_sequences, batch, dtype) -> Cost:
    inputs, units, steps = sizes(kind, inputs=inputs, units=units, steps=steps)
    weights = gates * units * (inputs + units)
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=steps * inputs,
        written=units * (steps if return_sequences else 1),
        macs=steps * weights,
        other_flops=steps * units * flops_per_unit,
        parameters=weights + units * biases,
    )
