"""From a Keras layer's configuration and shapes to its formula: the layers that do the work.

Convolutions, products, attention, recurrence. Each translator takes a `LayerCall` and returns the Cost.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from hwlimits import compute
from hwlimits.compute import Cost
from hwlimits.training.cost_calls import LayerCall, NoFormula, activation_name, formula, reading


@formula("Conv1D", "Conv2D", "Conv3D")
def _conv(call):
    x, options = call.image(len(call.layer.kernel_size))
    layer = call.layer
    return compute.conv(
        x, layer.filters, layer.kernel_size, strides=layer.strides, padding=layer.padding,
        dilation=layer.dilation_rate, groups=layer.groups, bias=layer.use_bias, activation=activation_name(layer),
        **options,
    )  # fmt: skip


@formula("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise_conv(call):
    x, options = call.image(len(call.layer.kernel_size))
    layer = call.layer
    return compute.conv(
        x, x[-1] * layer.depth_multiplier, layer.kernel_size, strides=layer.strides, padding=layer.padding,
        dilation=layer.dilation_rate, groups=x[-1], bias=layer.use_bias, activation=activation_name(layer), **options,
    )  # fmt: skip


@formula("SeparableConv1D", "SeparableConv2D")
def _separable_conv(call):
    x, options = call.image(len(call.layer.kernel_size))
    layer = call.layer
    return compute.separable_conv(
        x, layer.filters, layer.kernel_size, depth_multiplier=layer.depth_multiplier, strides=layer.strides,
        padding=layer.padding, dilation=layer.dilation_rate, bias=layer.use_bias, activation=activation_name(layer),
        **options,
    )  # fmt: skip


@formula("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _conv_transpose(call):
    x, options = call.image(len(call.layer.kernel_size))
    layer = call.layer
    return compute.conv_transpose(
        x, layer.filters, layer.kernel_size, strides=layer.strides, padding=layer.padding,
        dilation=layer.dilation_rate, output_padding=layer.output_padding, bias=layer.use_bias,
        activation=activation_name(layer), **options,
    )  # fmt: skip


@formula("LocallyConnected1D", "LocallyConnected2D")
def _local_conv(call):
    x, options = call.image(len(call.layer.kernel_size))
    layer = call.layer
    return compute.local_conv(
        x, layer.filters, layer.kernel_size, strides=layer.strides, padding=layer.padding, bias=layer.use_bias,
        activation=activation_name(layer), **options,
    )  # fmt: skip


@formula("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def _conv_lstm(call):
    cell = call.layer.cell
    _, steps, *x = call.shape
    x = (*x[1:], x[0]) if cell.data_format == "channels_first" else x
    return _with_states(call, compute.conv_lstm(
        x, cell.filters, cell.kernel_size, steps, strides=cell.strides, padding=cell.padding,
        dilation=cell.dilation_rate, bias=cell.use_bias, return_sequences=call.layer.return_sequences,
        activation=activation_name(cell), recurrent_activation=activation_name(cell, "recurrent_activation"),
        **call.options,
    ))  # fmt: skip


@formula("Dense")
def _dense(call):
    layer = call.layer
    return compute.dense(
        call.shape[-1], layer.units, positions=prod(call.shape[1:-1]), bias=layer.use_bias,
        activation=activation_name(layer), **call.options,
    )  # fmt: skip


@formula("EinsumDense")
def _einsum_dense(call):
    layer = call.layer
    return compute.einsum_dense(
        layer.equation, call.shape[1:], tuple(layer.kernel.shape), tuple(call.outputs[0].shape)[1:],
        bias_elements=0 if layer.bias is None else prod(layer.bias.shape), activation=activation_name(layer),
        **call.options,
    )  # fmt: skip


@formula("Embedding")
def _embedding(call):
    layer = call.layer
    return compute.embedding(prod(call.shape[1:]), layer.output_dim, layer.input_dim, **call.options)


@formula("MultiHeadAttention", "GroupedQueryAttention")
def _attention(call):
    config = call.layer.get_config()
    if config.get("use_gate"):
        raise NoFormula("use_gate")
    query, value = call.arguments["query"], call.arguments["value"]
    key = value if call.arguments.get("key") is None else call.arguments["key"]
    attended = config.get("attention_axes") or range(1, len(query.shape) - 1)
    attended = [axis % len(query.shape) for axis in attended]
    batch = prod(n for axis, n in enumerate(query.shape[:-1]) if axis not in attended)
    if "head_dim" in config:
        heads, key_heads = config["num_query_heads"], config["num_key_value_heads"]
        key_dim = value_dim = config["head_dim"]
    else:
        heads = key_heads = config["num_heads"]
        key_dim, value_dim = config["key_dim"], config["value_dim"]
    width = config.get("output_shape") or query.shape[-1]
    cost = compute.attention(
        prod(query.shape[axis] for axis in attended), query.shape[-1], heads, key_dim, value_dim=value_dim,
        keys=prod(key.shape[axis] for axis in attended), value_features=value.shape[-1], key_features=key.shape[-1],
        output_features=width if isinstance(width, int) else prod(width), key_heads=key_heads,
        bias=config["use_bias"], batch=batch, dtype=call.dtype,
    )  # fmt: skip
    return reading(call, cost, query, value, key)


@formula("Attention", "AdditiveAttention")
def _plain_attention(call):
    if len(call.shape) != 3 or getattr(call.layer, "score_mode", "dot") != "dot":
        raise NoFormula("score_mode")
    query, value, key = (*call.inputs, call.inputs[1])[:3]
    formula = compute.dot_attention if type(call.layer).__name__ == "Attention" else compute.additive_attention
    cost = formula(
        query.shape[1], value.shape[1], query.shape[2], value.shape[2], scale=call.layer.use_scale, **call.options
    )
    return reading(call, cost, query, value, key)


@formula("RNN", "LSTM", "GRU", "SimpleRNN")
def _recurrent(call):
    layer = call.layer
    steps, batch = call.shape[1], call.shape[0]
    if getattr(layer, "time_major", False):
        steps, batch = batch, steps
    cells = layer.cell.cells if type(layer.cell).__name__ == "StackedRNNCells" else [layer.cell]
    options = {"batch": batch, "dtype": call.dtype}
    width, total = call.shape[2], Cost()
    for cell in cells:
        last = cell is cells[-1]
        total += _cell(cell, width, steps, {**options, "return_sequences": not last or layer.return_sequences})
        width = cell.units
    # between stacked cells nothing moves
    inner = batch * steps * sum(cell.units for cell in cells[:-1]) * compute.bytes_per_element(call.dtype)
    total = replace(total, bytes_read=total.bytes_read - inner, bytes_written=total.bytes_written - inner)
    return _with_states(call, total)


def _cell(cell, inputs: int, steps: int, options: dict) -> Cost:
    kind = type(cell).__name__
    if type(cell).__module__.split(".")[0] not in ("tf_keras", "keras"):
        raise NoFormula(kind)
    if kind not in ("LSTMCell", "GRUCell", "SimpleRNNCell"):
        raise NoFormula(kind)
    options = {"bias": cell.use_bias, "activation": activation_name(cell), **options}
    if kind == "SimpleRNNCell":
        return compute.simple_rnn(inputs, cell.units, steps, **options)
    options["recurrent_activation"] = activation_name(cell, "recurrent_activation")
    if kind == "LSTMCell":
        return compute.lstm(inputs, cell.units, steps, **options)
    return compute.gru(inputs, cell.units, steps, reset_after=cell.reset_after, **options)


def _with_states(call: LayerCall, cost: Cost) -> Cost:
    """Initial states that are given as tensors are read, too."""
    given = call.arguments.get("initial_state")
    states = [*call.inputs[1:], *(given if isinstance(given, (list, tuple)) else [given])]
    read = sum(prod(state.shape) for state in states if state is not None)
    return cost + Cost(bytes_read=read * compute.bytes_per_element(call.dtype))
