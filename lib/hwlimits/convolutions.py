"""What convolutions and pooling cost, from their dimensions. Part of `hwlimits.compute`."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

import numpy as np

from hwlimits.counting import Cost, CountError, activation_flops, bytes_per_element, each, examples, per_batch, sizes
from hwlimits.sequences import lstm_flops


def window_positions(
    lengths: Sequence[int],
    window: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilation: int | Sequence[int] = 1,
) -> tuple[int, ...]:
    """Where a window comes to lie along each axis: the output's lengths.

    padding   'valid' (inside only), 'same' or 'causal' (as many as the input has, over the stride)

    Raises CountError for another padding, and for a window that doesn't fit.

    >>> window_positions((28, 28), 3), window_positions((28, 28), 3, strides=2, padding="same")
    ((26, 26), (14, 14))
    """
    if padding not in ("valid", "same", "causal"):
        raise CountError(f"padding {padding!r} is not one of 'valid', 'same', 'causal'")
    axes, found = len(lengths), []
    windows = each("window", window, axes), each("strides", strides, axes), each("dilation", dilation, axes)
    for length, k, s, d in zip(each("lengths", lengths, axes), *windows, strict=True):
        span = d * (k - 1) + 1
        places = length if padding != "valid" else length - span + 1
        if places < 1:
            raise CountError(
                f"a window of {k} with dilation {d} spans {span} and doesn't fit in {length} without padding; "
                "take a smaller one, or padding='same'"
            )
        found.append(ceil(places / s))
    return tuple(found)


def _image(function: str, input_shape: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Lengths and channels of one example, if it has both."""
    (shape,) = sizes(function, input_shape=input_shape)
    if len(shape) < 2:
        raise CountError(f"{function}(input_shape={input_shape!r}): must be (length..., channels)")
    return shape[:-1], shape[-1]


def conv(
    input_shape: Sequence[int],
    filters: int,
    kernel: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    activation: str | None = None,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """A convolution over any number of axes: MACs = output places x filters x kernel taps x channels / groups.

    input_shape   (length..., channels); groups = channels makes it depthwise

    The full kernel counts at every place, also where it overlaps the padding.
    Raises CountError for a kernel that doesn't fit and for groups that don't divide.

    >>> conv((112, 112, 64), filters=64, kernel=3, padding="same", groups=64).macs == 112 * 112 * 64 * 9
    True
    """
    lengths, channels = _image("conv", input_shape)
    filters, groups = sizes("conv", filters=filters, groups=groups)
    if channels % groups or filters % groups:
        raise CountError(f"conv: {groups} groups must divide {channels} channels and {filters} filters")
    kernel = each("kernel", kernel, len(lengths))
    outputs = prod(window_positions(lengths, kernel, strides, padding, dilation)) * filters
    weights_per_output = prod(kernel) * channels // groups
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=prod(lengths) * channels,
        written=outputs,
        macs=outputs * weights_per_output,
        other_flops=outputs * (bias + activation_flops(activation)),
        parameters=filters * (weights_per_output + bias),
    )


def conv_transpose(
    input_shape: Sequence[int],
    filters: int,
    kernel: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilation: int | Sequence[int] = 1,
    output_padding: int | Sequence[int] | None = None,
    bias: bool = True,
    activation: str | None = None,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """A transposed convolution: every input value is spread over kernel taps x filters.

    The full kernel counts at every place, also where its result is cut off (padding 'same').
    `output_padding` as in Keras: None is the length that the stride suggests.

    >>> conv_transpose((7, 7, 64), filters=32, kernel=3, strides=2, padding="same").macs == 7 * 7 * 64 * 9 * 32
    True
    """
    if padding not in ("valid", "same"):
        raise CountError(f"padding {padding!r} is not one of 'valid', 'same'")
    lengths, channels = _image("conv_transpose", input_shape)
    (filters,), axes = sizes("conv_transpose", filters=filters), len(lengths)
    kernel, strides = each("kernel", kernel, axes), each("strides", strides, axes)
    dilation = each("dilation", dilation, axes)
    if output_padding is not None:
        output_padding = each("output_padding", output_padding, axes, least=0)
    places = 1
    for i, length in enumerate(lengths):
        span = dilation[i] * (kernel[i] - 1) + 1
        if output_padding is not None:
            cut = 2 * (span // 2) if padding == "same" else 0
            places *= (length - 1) * strides[i] + span - cut + output_padding[i]
        elif padding == "same":
            places *= length * strides[i]
        else:
            places *= length * strides[i] + max(span - strides[i], 0)
    weights = prod(kernel) * channels * filters
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=prod(lengths) * channels,
        written=places * filters,
        macs=prod(lengths) * weights,
        other_flops=places * filters * (bias + activation_flops(activation)),
        parameters=weights + bias * filters,
    )


def separable_conv(
    input_shape: Sequence[int],
    filters: int,
    kernel: int | Sequence[int],
    *,
    depth_multiplier: int = 1,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilation: int | Sequence[int] = 1,
    bias: bool = True,
    activation: str | None = None,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """A depthwise convolution, then a 1x1 convolution, in one layer: what lies between them moves nothing.

    >>> separable_conv((28, 28, 32), filters=64, kernel=3, padding="same").macs == 28 * 28 * (32 * 9 + 32 * 64)
    True
    """
    lengths, channels = _image("separable_conv", input_shape)
    filters, depth_multiplier = sizes("separable_conv", filters=filters, depth_multiplier=depth_multiplier)
    between = channels * depth_multiplier
    kernel = each("kernel", kernel, len(lengths))
    options = {"batch": batch, "dtype": dtype}
    places = window_positions(lengths, kernel, strides, padding, dilation)
    depthwise = conv(
        input_shape, between, kernel, strides=strides, padding=padding, dilation=dilation, groups=channels,
        bias=False, **options,
    )  # fmt: skip
    pointwise = conv((*places, between), filters, 1, bias=bias, activation=activation, **options)
    inner_bytes = examples(batch) * prod(places) * between * bytes_per_element(dtype)
    both = depthwise + pointwise
    return Cost(
        both.macs, both.other_flops, both.parameters, both.bytes_read - inner_bytes, both.bytes_written - inner_bytes
    )


def local_conv(
    input_shape: Sequence[int],
    filters: int,
    kernel: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    bias: bool = True,
    activation: str | None = None,
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """A locally connected layer: a convolution with weights of its own at every place.

    A tap over the padding has no weight and isn't counted here.

    >>> local_conv((8, 8, 3), filters=4, kernel=3, bias=False).parameters == 6 * 6 * 4 * 9 * 3
    True
    """
    lengths, channels = _image("local_conv", input_shape)
    (filters,) = sizes("local_conv", filters=filters)
    kernel, strides = each("kernel", kernel, len(lengths)), each("strides", strides, len(lengths))
    places = window_positions(lengths, kernel, strides, padding)
    taps_inside = 1
    for n, length, k, s in zip(places, lengths, kernel, strides, strict=True):
        before = max((n - 1) * s + k - length, 0) // 2 if padding == "same" else 0
        starts = np.arange(n) * s - before
        taps_inside *= int((np.minimum(starts + k, length) - np.maximum(starts, 0)).sum())
    weights, outputs = taps_inside * channels * filters, prod(places) * filters
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=prod(lengths) * channels,
        written=outputs,
        macs=weights,
        other_flops=outputs * (bias + activation_flops(activation)),
        parameters=weights + bias * outputs,
    )


def conv_lstm(
    input_shape: Sequence[int],
    filters: int,
    kernel: int | Sequence[int],
    steps: int,
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilation: int | Sequence[int] = 1,
    bias: bool = True,
    return_sequences: bool = False,
    activation: str | None = "tanh",
    recurrent_activation: str | None = "hard_sigmoid",
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """A convolutional LSTM (Shi and others 2015, without peepholes): an LSTM whose products are convolutions.

    input_shape   (length..., channels) of one of the `steps` images

    The input's convolution is as given; that of the previous output has stride 1 and padding 'same'.

    >>> conv_lstm((8, 8, 3), 4, 3, steps=5).macs == 5 * 4 * 4 * 9 * 6 * 6 * (3 + 4)
    True
    """
    lengths, channels = _image("conv_lstm", input_shape)
    filters, steps = sizes("conv_lstm", filters=filters, steps=steps)
    kernel = each("kernel", kernel, len(lengths))
    places = prod(window_positions(lengths, kernel, strides, padding, dilation))
    weights = 4 * filters * prod(kernel) * (channels + filters)
    return per_batch(
        batch=batch,
        dtype=dtype,
        read=steps * prod(lengths) * channels,
        written=places * filters * (steps if return_sequences else 1),
        macs=steps * places * weights,
        other_flops=steps * places * filters * lstm_flops(activation, recurrent_activation, bias),
        parameters=weights + 4 * filters * bias,
    )


def pooling(
    input_shape: Sequence[int],
    pool: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str = "valid",
    batch: int = 1,
    dtype: str = "float32",
) -> Cost:
    """Maximum or average pooling: one operation for each place and element of the window, as TensorFlow's profiler.

    strides   None: as wide as the window, so that windows don't overlap

    >>> pooling((28, 28, 32), 2).other_flops == 14 * 14 * 32 * 2 * 2
    True
    """
    lengths, channels = _image("pooling", input_shape)
    pool = each("pool", pool, len(lengths))
    outputs = prod(window_positions(lengths, pool, pool if strides is None else strides, padding)) * channels
    return per_batch(
        batch=batch, dtype=dtype, read=prod(lengths) * channels, written=outputs, other_flops=outputs * prod(pool)
    )
