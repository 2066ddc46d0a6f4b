"""The counts against arithmetic that is really carried out: numbers that count what is done to them."""

import itertools
import math
from math import prod

import numpy as np
import pytest

from hwlimits import compute
from hwlimits.compute import Cost, CountError, LayerCost, ModelCost, utilization, utilizations


class Number:
    """A number that counts operations; `Number.operations` is their tally by kind."""

    operations = {"multiply": 0, "other": 0}

    def __init__(self, value=0.5):
        self.value = float(value)

    @classmethod
    def array(cls, *shape):
        rng = np.random.default_rng(0)
        return np.array([cls(x) for x in rng.uniform(0.1, 1, prod(shape))], dtype=object).reshape(shape)

    def _done(self, value, kind="other"):
        Number.operations[kind] += 1
        return Number(value)

    def __mul__(self, other):
        return self._done(self.value * float(other), "multiply")

    __rmul__ = __mul__

    def __add__(self, other):
        return self._done(self.value + float(other))

    __radd__ = __add__

    def __sub__(self, other):
        return self._done(self.value - float(other))

    def __rsub__(self, other):
        return self._done(float(other) - self.value)

    def __truediv__(self, other):
        return self._done(self.value / float(other))

    def __rtruediv__(self, other):
        return self._done(float(other) / self.value)

    def __neg__(self):
        return self._done(-self.value)

    def __float__(self):
        return self.value


def exp(x):
    return x._done(math.exp(x.value))


def log(x):
    return x._done(math.log(x.value))


def erf(x):
    return x._done(math.erf(x.value))


def maximum(x, y):
    return x._done(max(float(x), float(y)))


def minimum(x, y):
    return x._done(min(float(x), float(y)))


def where_positive(x, otherwise):
    """x where it is above 0: the comparison is one operation, and `otherwise` is computed for the count."""
    other = otherwise(x)
    return x._done(x.value if x.value > 0 else other.value)


def absolute(x):
    return x._done(abs(x.value))


class tally:
    """What is done inside the block: multiplications and others."""

    def __enter__(self):
        self.before = dict(Number.operations)
        return self

    def __exit__(self, *_):
        self.multiply, self.other = (Number.operations[k] - self.before[k] for k in ("multiply", "other"))
        self.all = self.multiply + self.other


def test_the_counting_numbers_count():
    with tally() as done:
        (Number.array(2, 3) @ Number.array(3, 4)).sum()
    assert done.multiply == 2 * 3 * 4
    assert done.other == 2 * 2 * 4 + 7


# Convolutions, carried out tap by tap.


def starts(length, window, stride, padding, dilation):
    """Where the window begins, walking from left to right over the padded line."""
    span = dilation * (window - 1) + 1
    if padding == "causal":
        first, last = 1 - span, length - span
    elif padding == "valid":
        first, last = 0, length - span
    else:
        places = len(range(0, length, stride))
        missing = max((places - 1) * stride + span - length, 0)
        first, last = -(missing // 2), -(missing // 2) + (places - 1) * stride
    return list(range(first, last + 1, stride))


def carry_out_conv(x, weights, strides, padding, dilation, groups):
    """A convolution of x (length..., channels) with weights (tap..., channels / groups, filters)."""
    *lengths, channels = x.shape
    *kernel, per_group, filters = weights.shape
    axes = [starts(*each) for each in zip(lengths, kernel, strides, [padding] * 9, dilation, strict=False)]
    y = np.empty([len(a) for a in axes] + [filters], dtype=object)
    for place in np.ndindex(*y.shape):
        *position, out = place
        group = out // (filters // groups)
        total = 0
        for tap in np.ndindex(*kernel):
            at = [axes[i][p] + tap[i] * dilation[i] for i, p in enumerate(position)]
            inside = all(0 <= a < n for a, n in zip(at, lengths, strict=True))
            for c in range(per_group):
                value = x[(*at, group * per_group + c)] if inside else Number(0)  # the padding is multiplied, too
                total = weights[(*tap, c, out)] * value + total
        y[place] = total
    return y


CONVOLUTIONS = [
    # lengths, channels, filters, kernel, strides, padding, dilation, groups
    ((7,), 2, 3, (3,), (1,), "valid", (1,), 1),
    ((7,), 2, 4, (3,), (2,), "same", (1,), 2),
    ((8,), 3, 2, (3,), (1,), "causal", (2,), 1),
    ((8,), 3, 2, (2,), (3,), "causal", (1,), 1),
    ((5, 6), 3, 4, (3, 2), (1, 1), "valid", (1, 1), 1),
    ((5, 6), 2, 2, (3, 3), (2, 1), "same", (1, 1), 2),
    ((7, 6), 2, 3, (3, 2), (1, 1), "valid", (2, 3), 1),
    ((7, 6), 2, 3, (3, 3), (1, 1), "same", (2, 2), 1),
    ((6, 5), 4, 8, (3, 3), (2, 2), "valid", (1, 1), 4),  # depthwise with a multiplier of 2
    ((4, 4), 6, 4, (1, 1), (2, 2), "same", (1, 1), 2),
    ((3, 4, 5), 2, 2, (2, 3, 1), (1, 2, 1), "valid", (1, 1, 1), 1),
    ((3, 4, 3), 2, 2, (2, 2, 2), (2, 1, 2), "same", (1, 1, 1), 2),
    ((1, 1), 1, 1, (1, 1), (1, 1), "valid", (1, 1), 1),
    ((9, 3), 1, 1, (9, 3), (5, 5), "valid", (1, 1), 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_conv_counts_what_a_convolution_does(case, bias):
    lengths, channels, filters, kernel, strides, padding, dilation, groups = case
    x, weights = Number.array(*lengths, channels), Number.array(*kernel, channels // groups, filters)
    with tally() as done:
        y = carry_out_conv(x, weights, strides, padding, dilation, groups)
    cost = compute.conv(
        x.shape, filters, kernel, strides=strides, padding=padding, dilation=dilation, groups=groups, bias=bias,
        activation="relu",
    )  # fmt: skip
    assert cost.macs == done.multiply == done.other
    assert cost.other_flops == y.size * (1 + bias)
    assert cost.parameters == weights.size + bias * filters
    assert cost.bytes_read == 4 * (x.size + weights.size + bias * filters)
    assert cost.bytes_written == 4 * y.size
    assert compute.window_positions(lengths, kernel, strides, padding, dilation) == y.shape[:-1]


TRANSPOSED = [
    ((4,), 2, 3, (3,), (2,), "valid", (1,)),
    ((4, 3), 2, 3, (3, 2), (2, 1), "valid", (1, 1)),
    ((3, 3), 2, 2, (2, 3), (2, 2), "valid", (1, 2)),
    ((2, 3, 2), 2, 2, (3, 3, 2), (2, 1, 2), "valid", (1, 1, 1)),
    ((4, 3), 2, 3, (2, 2), (3, 2), "valid", (1, 1)),
]


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose_spreads_every_input(case):
    lengths, channels, filters, kernel, strides, padding, dilation = case
    x, weights, y = Number.array(*lengths, channels), Number.array(*kernel, channels, filters), {}
    with tally() as done:
        for position in np.ndindex(*lengths):
            for tap, c, out in itertools.product(np.ndindex(*kernel), range(channels), range(filters)):
                at = tuple(p * s + t * d for p, s, t, d in zip(position, strides, tap, dilation, strict=True))
                y[at, out] = x[(*position, c)] * weights[(*tap, c, out)] + y.get((at, out), 0)
    shape = [1 + max(at[axis] for at, _ in y) for axis in range(len(lengths))]
    # where a stride is longer than the kernel, Keras gives the whole stride to the last input as well
    shape = [max(n, length * s) for n, length, s in zip(shape, lengths, strides, strict=True)]
    cost = compute.conv_transpose(x.shape, filters, kernel, strides=strides, padding=padding, dilation=dilation)
    assert cost.macs == done.multiply
    assert cost.parameters == weights.size + filters
    assert cost.other_flops == prod(shape) * filters
    assert cost.bytes_written == 4 * prod(shape) * filters


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [1, 2])
def test_separable_conv_is_its_two_halves(padding, stride):
    x, depthwise = Number.array(6, 5, 3), Number.array(3, 2, 1, 6)
    with tally() as done:
        between = carry_out_conv(x, depthwise, (stride,) * 2, padding, (1, 1), 3)
        y = carry_out_conv(between, Number.array(1, 1, 6, 4), (1, 1), "valid", (1, 1), 1)
    cost = compute.separable_conv(x.shape, 4, (3, 2), depth_multiplier=2, strides=stride, padding=padding, batch=3)
    parameters = depthwise.size + 6 * 4 + 4
    assert cost.macs == 3 * done.multiply
    assert cost.parameters == parameters
    assert cost.bytes_read == 4 * (3 * x.size + parameters)
    assert cost.bytes_written == 4 * 3 * y.size


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("lengths", "kernel", "strides"), [((7,), (3,), (2,)), ((5, 6), (3, 2), (1, 2))])
def test_local_conv_has_a_weight_for_every_tap_inside(lengths, kernel, strides, padding):
    axes = [starts(n, k, s, padding, 1) for n, k, s in zip(lengths, kernel, strides, strict=True)]
    taps = sum(
        all(0 <= first + t < n for first, t, n in zip(place, tap, lengths, strict=True))
        for place in itertools.product(*axes)
        for tap in np.ndindex(*kernel)
    )
    cost = compute.local_conv((*lengths, 3), 4, kernel, strides=strides, padding=padding)
    places = prod(map(len, axes))
    assert cost.macs == taps * 3 * 4
    assert cost.parameters == taps * 3 * 4 + places * 4


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("lengths", "pool", "strides"),
    [((7,), 2, None), ((7, 8), (3, 2), (2, 2)), ((4, 5, 6), 2, 1), ((4, 4), (4, 4), None)],
)
def test_pooling_takes_one_operation_for_each_element_of_a_window(lengths, pool, strides, padding):
    pools = (pool,) * len(lengths) if isinstance(pool, int) else pool
    steps = pools if strides is None else (strides,) * len(lengths) if isinstance(strides, int) else strides
    operations = sum(
        1
        for _ in itertools.product(
            *(starts(n, p, s, padding, 1) for n, p, s in zip(lengths, pools, steps, strict=True))
        )
        for _ in np.ndindex(*pools)
        for _channel in range(3)
    )
    cost = compute.pooling((*lengths, 3), pool, strides=strides, padding=padding)
    assert cost.other_flops == operations
    assert (cost.macs, cost.parameters) == (0, 0)


def test_pooling_s_rule_is_that_of_an_average():
    with tally() as done:
        Number.array(9).sum() / 9
    assert compute.pooling((3, 3, 1), 3).other_flops == done.all


# Products.


@pytest.mark.parametrize(("positions", "inputs", "outputs"), [(1, 7, 3), (5, 2, 4)])
def test_dense_counts_what_a_product_does(positions, inputs, outputs):
    x, weights, b = Number.array(positions, inputs), Number.array(inputs, outputs), Number.array(outputs)
    with tally() as done:
        product = x @ weights
    with tally() as after:
        product + b
    cost = compute.dense(inputs, outputs, positions=positions, batch=2)
    assert cost.macs == 2 * done.multiply
    assert cost.other_flops == 2 * after.all
    assert cost.parameters == weights.size + b.size
    assert cost.bytes == 4 * (2 * x.size + weights.size + b.size + 2 * product.size)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ab,bc->ac", [(2, 3), (3, 4)]),
        ("abc,cde->abde", [(2, 3, 4), (4, 2, 3)]),
        ("bqhd,bkhd->bhqk", [(2, 3, 2, 4), (2, 5, 2, 4)]),
        ("abc,cd->abd", [(1, 5, 4), (4, 3)]),
        ("...x,xy->...y", [(2, 3, 4), (4, 5)]),
        ("...ab,...bc->...ac", [(2, 1, 3, 4), (5, 4, 2)]),
        ("ab,cd->abcd", [(2, 3), (4, 5)]),
        ("abc->cab", [(2, 3, 4)]),
    ],
)
def test_einsum_counts_what_numpy_multiplies(equation, shapes):
    with tally() as done:
        np.einsum(equation, *(Number.array(*shape) for shape in shapes), optimize=False)
    assert compute.einsum(equation, *shapes) == (done.multiply if len(shapes) == 2 else 0)


def test_einsum_dense_is_einsum_with_a_bias_and_an_activation():
    x, weights, b = Number.array(5, 6), Number.array(6, 2, 3), Number.array(2, 3)
    with tally() as done:
        y = np.einsum("bc,cde->bde", x, weights, optimize=False)
    cost = compute.einsum_dense(
        "abc,cde->abde", x.shape, weights.shape, y.shape, bias_elements=b.size, activation="relu"
    )
    assert cost.macs == done.multiply
    assert cost.other_flops == y.size * 2
    assert cost.parameters == weights.size + b.size


@pytest.mark.parametrize("axes", [(1, 0), (0, 1)])
def test_dot_multiplies_along_its_axes(axes):
    a, b = Number.array(*((2, 3) if axes == (1, 0) else (3, 2))), Number.array(*((3, 4) if axes == (1, 0) else (4, 3)))
    with tally() as done:
        np.tensordot(a, b, axes)
    assert compute.dot(a.shape, b.shape, axes).macs == done.multiply
    plain, normalized = (compute.dot(a.shape, b.shape, axes, normalize=n).other_flops for n in (False, True))
    vectors = a.size // 3 + b.size // 3  # each: square, sum, guard, 1/sqrt, multiply
    assert (plain, normalized) == (0, 3 * (a.size + b.size) + 2 * vectors)


def test_embedding_reads_the_rows_that_are_looked_up():
    cost = compute.embedding(lookups=5, features=8, vocabulary=1000, batch=2, dtype="float16")
    assert cost == Cost(parameters=8000, bytes_read=2 * 5 * (8 * 2 + 4), bytes_written=2 * 5 * 8 * 2)


# Attention and recurrence, carried out step by step.


@pytest.mark.parametrize(
    ("queries", "keys", "features", "heads", "key_dim", "value_dim", "output"),
    [(3, 3, 4, 2, 3, 3, 4), (3, 5, 4, 2, 3, 2, 6), (1, 4, 2, 1, 1, 2, 2)],
)
def test_attention_multiplies_what_it_says(queries, keys, features, heads, key_dim, value_dim, output):
    x, memory = Number.array(queries, features), Number.array(keys, 5)
    wq, wk, wv = (
        Number.array(features, heads, key_dim),
        Number.array(5, heads, key_dim),
        Number.array(5, heads, value_dim),
    )
    wo = Number.array(heads, value_dim, output)

    def product(equation, a, b):
        return np.einsum(equation, a, b, optimize=False)

    with tally() as done:
        q, k, v = product("te,ehd->thd", x, wq), product("se,ehd->shd", memory, wk), product("se,ehd->shd", memory, wv)
        scores = product("qhd,khd->hqk", q, k)
        y = product("thd,hdo->to", product("hqk,khd->qhd", scores, v), wo)
    cost = compute.attention(
        queries, features, heads, key_dim, value_dim=value_dim, keys=keys, value_features=5, output_features=output
    )
    biases = heads * (2 * key_dim + value_dim) + output
    parameters = wq.size + wk.size + wv.size + wo.size + biases
    assert cost.macs == done.multiply
    assert cost.parameters == parameters
    bias_adds = q.size + k.size + v.size + y.size
    assert cost.other_flops == bias_adds + q.size + 5 * scores.size  # with the scaling of q, and softmax
    assert cost.bytes_read == 4 * (x.size + memory.size + parameters)
    assert cost.bytes_written == 4 * y.size


def test_self_attention_reads_its_input_once_and_a_third_tensor_is_read_too():
    one = compute.attention(6, 8, 2, 4)
    two = compute.attention(6, 8, 2, 4, keys=6)
    three = compute.attention(6, 8, 2, 4, keys=6, key_features=8)
    assert one.macs == two.macs == three.macs
    assert two.bytes_read - one.bytes_read == three.bytes_read - two.bytes_read == 4 * 6 * 8


def test_grouped_queries_share_keys_and_values():
    full, grouped = compute.attention(6, 8, 4, 2, bias=False), compute.attention(6, 8, 4, 2, key_heads=1, bias=False)
    assert full.parameters - grouped.parameters == 2 * 8 * 3 * 2  # three heads less of keys and of values
    assert full.macs - grouped.macs == 6 * 2 * 8 * 3 * 2
    with pytest.raises(CountError, match="4 heads can't share 3 key heads"):
        compute.attention(6, 8, 4, 2, key_heads=3)


def test_dot_attention_and_additive_attention_multiply_what_they_say():
    q, k, v, weights = Number.array(3, 4), Number.array(5, 4), Number.array(5, 2), Number.array(4)
    with tally() as done:
        q @ k.T @ v
    cost = compute.dot_attention(3, 5, 4, 2, inputs=3)
    assert cost.macs == done.multiply
    assert cost.other_flops == 5 * 3 * 5
    assert cost.bytes_read == 4 * (q.size + k.size + v.size)
    with tally() as sums:
        added = q[:, None] + k
    with tally() as products:
        np.einsum("qkd,d->qk", added, weights, optimize=False) @ v
    cost = compute.additive_attention(3, 5, 4, 2, inputs=3)
    assert cost.macs == products.multiply
    assert cost.other_flops == sums.other + added.size * 5 + 5 * 3 * 5  # tanh, softmax
    unscaled = compute.additive_attention(3, 5, 4, 2, inputs=3, scale=False)
    assert unscaled.macs == 3 * 5 * 2
    assert unscaled.other_flops - cost.other_flops == 3 * 5 * (4 - 1)  # a sum of four


def sigma(x):
    return np.vectorize(lambda n: 1 / (1 + exp(-n)), otypes=[object])(x)


def tanh(x):
    def one(n):
        e = exp(2 * n)
        return (e - 1) / (e + 1)

    return np.vectorize(one, otypes=[object])(x)


class Recurrence:
    """A recurrent layer carried out; products and the rest tallied apart."""

    def __init__(self, inputs, units, gates, steps):
        self.w, self.u = Number.array(inputs, gates * units), Number.array(units, gates * units)
        self.b, self.b2 = Number.array(gates * units), Number.array(gates * units)
        self.x, self.units, self.products, self.rest = Number.array(steps, inputs), units, 0, 0

    def product(self, a, b):
        with tally() as done:
            found = a @ b
        self.products += done.multiply
        self.rest -= done.all  # it was counted by the tally around it
        return found

    def run(self, step):
        state = [Number.array(self.units)] * 2
        with tally() as done:
            for x in self.x:
                state = step(x, *state)
        self.rest += done.all
        return self


@pytest.mark.parametrize(("inputs", "units", "steps"), [(3, 2, 4), (1, 5, 2), (4, 4, 1)])
def test_lstm_counts_what_an_lstm_does(inputs, units, steps):
    cell = Recurrence(inputs, units, 4, steps)

    def step(x, h, c):
        i, f, g, o = np.split(cell.product(x, cell.w) + cell.product(h, cell.u) + cell.b, 4)
        c = sigma(f) * c + sigma(i) * tanh(g)
        return sigma(o) * tanh(c), c

    cell.run(step)
    cost = compute.lstm(inputs, units, steps)
    assert cost.macs == cell.products
    assert cost.other_flops == cell.rest
    assert cost.parameters == cell.w.size + cell.u.size + cell.b.size
    assert compute.lstm(inputs, units, steps, return_sequences=True).bytes_written == steps * cost.bytes_written


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize(("inputs", "units", "steps"), [(3, 2, 4), (1, 5, 2)])
def test_gru_counts_what_a_gru_does(inputs, units, steps, reset_after):
    cell = Recurrence(inputs, units, 3, steps)

    def step(x, h, _):
        xz, xr, xg = np.split(cell.product(x, cell.w) + cell.b, 3)
        if reset_after:
            hz, hr, hg = np.split(cell.product(h, cell.u) + cell.b2, 3)
            z, r = sigma(xz + hz), sigma(xr + hr)
            g = tanh(xg + r * hg)
        else:
            uz, ur, ug = np.split(cell.u, 3, axis=1)
            z, r = sigma(xz + cell.product(h, uz)), sigma(xr + cell.product(h, ur))
            g = tanh(xg + cell.product(r * h, ug))
        return z * h + (1 - z) * g, _

    cell.run(step)
    cost = compute.gru(inputs, units, steps, reset_after=reset_after)
    assert cost.macs == cell.products
    assert cost.other_flops == cell.rest
    assert cost.parameters == cell.w.size + cell.u.size + cell.b.size * (1 + reset_after)


def test_simple_rnn_counts_what_it_does():
    cell = Recurrence(3, 4, 1, 5)
    cell.run(lambda x, h, _: (tanh(cell.product(x, cell.w) + cell.product(h, cell.u) + cell.b), _))
    cost = compute.simple_rnn(3, 4, 5)
    assert (cost.macs, cost.other_flops) == (cell.products, cell.rest)


def test_conv_lstm_is_an_lstm_of_convolutions():
    x, h = Number.array(6, 5, 2), Number.array(4, 3, 3)
    with tally() as done:
        carry_out_conv(x, Number.array(3, 3, 2, 4 * 3), (1, 1), "valid", (1, 1), 1)
        carry_out_conv(h, Number.array(3, 3, 3, 4 * 3), (1, 1), "same", (1, 1), 1)
    cost = compute.conv_lstm((6, 5, 2), 3, 3, steps=7, recurrent_activation="sigmoid")
    assert cost.macs == 7 * done.multiply
    per_unit = compute.lstm(1, 1, 1).other_flops
    assert cost.other_flops == 7 * h.size * per_unit
    assert cost.parameters == 4 * 3 * (9 * (2 + 3) + 1)


# Element by element.

FORMULAS = {
    "linear": lambda x: x,
    "relu": lambda x: maximum(x, 0),
    "relu6": lambda x: minimum(maximum(x, 0), 6),
    "leaky_relu": lambda x: maximum(x, 0.2 * x),
    "prelu": lambda x: where_positive(x, lambda x: 0.3 * x),
    "thresholded_relu": lambda x: where_positive(x, lambda x: 0 * x),
    "elu": lambda x: where_positive(x, lambda x: 1.0 * (exp(x) - 1)),
    "celu": lambda x: where_positive(x, lambda x: 1.0 * (exp(x / 1.0) - 1)),
    "selu": lambda x: 1.0507009873554805 * where_positive(x, lambda x: 1.6732632423543772 * (exp(x) - 1)),
    "exponential": exp,
    "sigmoid": lambda x: 1 / (1 + exp(-x)),
    "log_sigmoid": lambda x: -log(1 + exp(-x)),
    "tanh": lambda x: (lambda e: (e - 1) / (e + 1))(exp(2 * x)),
    "softplus": lambda x: log(1 + exp(x)),
    "softsign": lambda x: x / (1 + absolute(x)),
    "silu": lambda x: x * FORMULAS["sigmoid"](x),
    "swish": lambda x: x * FORMULAS["sigmoid"](x),
    "mish": lambda x: x * FORMULAS["tanh"](FORMULAS["softplus"](x)),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + FORMULAS["tanh"](math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
    "hard_sigmoid": lambda x: minimum(maximum(1 / 6 * x + 0.5, 0), 1),
    "hard_silu": lambda x: x * FORMULAS["hard_sigmoid"](x),
    "hard_swish": lambda x: x * FORMULAS["hard_sigmoid"](x),
    "hard_tanh": lambda x: minimum(maximum(x, -1), 1),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_an_activation_takes_the_operations_of_its_formula(name):
    with tally() as done:
        FORMULAS[name](Number(-0.7))
    assert compute.activation_flops(name) == done.all


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_takes_five_operations_an_element(name):
    """Maximum, subtract, exp and sum are one an element; then a division, or the subtraction of one logarithm."""
    assert compute.activation((10, 7), name).other_flops == 5 * 70


def test_every_activation_of_the_table_is_tested():
    assert set(FORMULAS) | {"softmax", "log_softmax"} == set(compute.ACTIVATION_FLOPS)


def test_layer_norm_takes_the_operations_of_its_formula():
    rows, columns = 3, 5
    x, gamma, beta = Number.array(rows, columns), Number.array(columns), Number.array(columns)
    with tally() as done:
        for row in x:
            mean = row.sum() / columns
            difference = row - mean
            variance = (difference * difference).sum() / columns
            inverse = 1 / (variance + 1e-3) * 1.0  # 1/sqrt is two operations
            (row - mean) * inverse * gamma + beta
    cost = compute.layer_norm((rows, columns), columns)
    assert cost.other_flops == done.all
    assert cost.parameters == 2 * columns
    group = compute.layer_norm((rows, columns), rows * columns, scale=columns, center=0)
    assert group.other_flops == 7 * rows * columns + 3
    assert group.parameters == columns


def test_rms_and_unit_norm_take_the_operations_of_their_formulas():
    rows, columns = 3, 5
    x, gamma = Number.array(rows, columns), Number.array(columns)
    with tally() as rms:
        for row in x:
            inverse = 1 / ((row * row).sum() / columns + 1e-6) * 1.0
            row * inverse * gamma
    with tally() as unit:
        for row in x:
            inverse = 1 / maximum((row * row).sum(), 1e-12) * 1.0
            row * inverse
    assert compute.rms_norm((rows, columns), columns).other_flops == rms.all
    assert compute.unit_norm((rows, columns), columns).other_flops == unit.all


def test_batch_norm_is_one_factor_and_one_summand():
    x, factor, summand = Number.array(4, 4, 3), Number.array(3), Number.array(3)
    with tally() as done:
        x * factor + summand
    cost = compute.batch_norm(x.shape)
    assert cost.other_flops == done.all
    assert cost.parameters == 4 * 3
    assert compute.batch_norm(x.shape, scale=False, center=False).parameters == 2 * 3


@pytest.mark.parametrize(("kind", "operation"), [
    ("add", np.add), ("subtract", np.subtract), ("multiply", np.multiply),
    ("maximum", np.frompyfunc(maximum, 2, 1)), ("minimum", np.frompyfunc(minimum, 2, 1)), ("average", np.add),
])  # fmt: skip
@pytest.mark.parametrize("shapes", [[(4, 3), (4, 3)], [(4, 1), (1, 3), (4, 3)], [(2, 1, 3), (2, 4, 1)]])
def test_merge_takes_one_operation_for_each_tensor_after_the_first(kind, operation, shapes):
    arrays = [Number.array(*shape) for shape in shapes]
    with tally() as done:
        merged = arrays[0]
        for array in arrays[1:]:
            merged = operation(merged, array)
        if kind == "average":
            merged = merged / len(arrays)
    cost = compute.merge(kind, shapes)
    assert cost.other_flops == done.all
    assert cost.bytes == 4 * (sum(a.size for a in arrays) + merged.size)


def test_what_only_moves_computes_nothing():
    assert compute.merge("concatenate", [(4, 3), (4, 5)]) == Cost(bytes_read=128, bytes_written=128)
    assert compute.move(read=10, written=40, dtype="int8") == Cost(bytes_read=10, bytes_written=40)


# Batch and type of number, for every formula.

EACH = {
    "conv": lambda **o: compute.conv((8, 8, 4), 6, 3, groups=2, activation="elu", **o),
    "conv_transpose": lambda **o: compute.conv_transpose((4, 4, 3), 5, 3, strides=2, padding="same", **o),
    "separable_conv": lambda **o: compute.separable_conv((8, 8, 3), 5, 3, **o),
    "local_conv": lambda **o: compute.local_conv((8, 3), 5, 3, **o),
    "conv_lstm": lambda **o: compute.conv_lstm((8, 8, 3), 5, 3, 4, **o),
    "dense": lambda **o: compute.dense(9, 4, **o),
    "einsum_dense": lambda **o: compute.einsum_dense("ab,bc->ac", (9,), (9, 4), (4,), **o),
    "attention": lambda **o: compute.attention(5, 8, 2, 4, **o),
    "dot_attention": lambda **o: compute.dot_attention(5, 6, 8, **o),
    "additive_attention": lambda **o: compute.additive_attention(5, 6, 8, **o),
    "lstm": lambda **o: compute.lstm(3, 4, 5, **o),
    "gru": lambda **o: compute.gru(3, 4, 5, **o),
    "simple_rnn": lambda **o: compute.simple_rnn(3, 4, 5, **o),
    "dot": lambda **o: compute.dot((4, 3), (5, 3), (1, 1), **o),
    "activation": lambda **o: compute.activation((4, 3), "relu", **o),
    "batch_norm": lambda **o: compute.batch_norm((4, 3), **o),
    "layer_norm": lambda **o: compute.layer_norm((4, 3), 3, **o),
    "rms_norm": lambda **o: compute.rms_norm((4, 3), 3, **o),
    "unit_norm": lambda **o: compute.unit_norm((4, 3), 3, **o),
    "merge": lambda **o: compute.merge("add", [(4, 3), (4, 3)], **o),
    "move": lambda **o: compute.move(4, 8, **o),
    "pooling": lambda **o: compute.pooling((8, 8, 3), 2, **o),
}


@pytest.mark.parametrize("name", EACH)
def test_a_batch_multiplies_all_but_the_parameters(name):
    one, many = EACH[name](), EACH[name](batch=7)
    assert many.parameters == one.parameters
    assert (many.macs, many.other_flops) == (7 * one.macs, 7 * one.other_flops)
    assert many.bytes_written == 7 * one.bytes_written
    assert many.bytes_read - 4 * many.parameters == 7 * (one.bytes_read - 4 * one.parameters)
    assert many.intensity >= one.intensity
    with pytest.raises(CountError, match="batch=0: a batch has at least one example"):
        EACH[name](batch=0)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize(("dtype", "size"), [("float64", 8), ("float16", 2), ("bfloat16", 2), ("int8", 1)])
def test_the_type_of_number_changes_bytes_alone(name, dtype, size):
    plain, other = EACH[name](), EACH[name](dtype=dtype)
    assert other.bytes * 4 == plain.bytes * size
    assert (other.macs, other.other_flops, other.parameters) == (plain.macs, plain.other_flops, plain.parameters)
    with pytest.raises(CountError, match=r"dtype 'int4' is not one that is counted; choose from float64, float32"):
        EACH[name](dtype="int4")


# Published counts, from the papers' named dimensions.


def lenet_300_100():
    return compute.dense(784, 300) + compute.dense(300, 100) + compute.dense(100, 10)


def lenet_5_caffe():
    return (
        compute.conv((28, 28, 1), 20, 5) + compute.conv((12, 12, 20), 50, 5) + compute.dense(800, 500)
        + compute.dense(500, 10)
    )  # fmt: skip


def alexnet(groups, input_length, filters, classifier_input):
    one, two, three, four, five = filters
    first = compute.conv((input_length, input_length, 3), one, 11, strides=4)
    second = compute.conv((27, 27, one), two, 5, padding="same", groups=groups)
    third = compute.conv((13, 13, two), three, 3, padding="same")
    fourth = compute.conv((13, 13, three), four, 3, padding="same", groups=groups)
    fifth = compute.conv((13, 13, four), five, 3, padding="same", groups=groups)
    dense = compute.dense(classifier_input, 4096) + compute.dense(4096, 4096) + compute.dense(4096, 1000)
    return first + second + third + fourth + fifth + dense


@pytest.mark.parametrize(
    ("cost", "macs", "parameters"),
    [
        (lenet_300_100(), 266_200, 266_610),
        (lenet_5_caffe(), 2_293_000, 431_080),
        # torchvision pads 224 with 2 on each side: 228, of which 227 are reached
        (alexnet(1, 227, (64, 192, 384, 256, 256), 256 * 6 * 6), 714_188_480, 61_100_840),
        (alexnet(2, 227, (96, 256, 384, 384, 256), 256 * 6 * 6), 724_406_816, 60_965_224),
    ],
    ids=["LeNet-300-100", "LeNet-5 (Caffe)", "AlexNet (torchvision)", "AlexNet (Caffe, grouped)"],
)
def test_published_networks(cost, macs, parameters):
    assert (cost.macs, cost.parameters) == (macs, parameters)


def test_gpt2_s_block_is_what_nanogpt_s_table_says():
    """karpathy/nanoGPT, transformer_sizing.ipynb, 1024 positions: FLOPs without biases."""
    length, width, heads = 1024, 768, 12
    attention = compute.attention(length, width, heads, width // heads, bias=False)
    kqv, scores, reduce, proj = 3_623_878_656, 1_610_612_736, 1_610_612_736, 1_207_959_552
    assert 2 * attention.macs == kqv + scores + reduce + proj
    mlp = compute.dense(width, 4 * width, positions=length) + compute.dense(4 * width, width, positions=length)
    head = compute.dense(width, 50257, positions=length, bias=False)
    assert 12 * 2 * (attention.macs + mlp.macs) + 2 * head.macs == 291_648_307_200


# Costs as objects.


def test_costs_add_up():
    a, b = Cost(1, 2, 3, 4, 5), Cost(10, 20, 30, 40, 50)
    assert a + b == sum([a, b]) == Cost(11, 22, 33, 44, 55)
    assert (a.flops, a.bytes, a.intensity) == (4, 9, 4 / 9)
    assert Cost().intensity == 0
    with pytest.raises(TypeError):
        a + 1


def test_a_model_s_table_ends_with_its_total_and_names_what_it_leaves_out():
    first, second = compute.dense(4, 3), compute.dense(3, 2)
    layers = (LayerCost("a", "Dense", (1, 3), first, 15), LayerCost("b", "Dense", (1, 2), second, 0, "frozen"))
    model = ModelCost("tiny", layers, {"c": "no formula"})
    assert model.total == first + second
    assert model.trainable_parameters == 15
    a, b, total = model.rows()
    assert (a["layer"], a["macs"], a["note"], b["note"]) == ("a", 12, "", "frozen")
    assert (total["layer"], total["macs"], total["note"]) == ("total", 18, "without c")
    assert total["bytes"] == a["bytes"] + b["bytes"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: compute.conv((5, 5, 1), 2, 7), "a window of 7 with dilation 1 spans 7 and doesn't fit in 5"),
        (lambda: compute.conv((5, 5, 1), 2, 3, dilation=4), "a window of 3 with dilation 4 spans 9"),
        (lambda: compute.conv((5, 5, 4), 6, 3, groups=3), "3 groups must divide 4 channels and 6 filters"),
        (
            lambda: compute.conv((5, 5, 4), 6, 3, padding="full"),
            "padding 'full' is not one of 'valid', 'same', 'causal'",
        ),
        (lambda: compute.conv((5, 5, 4), 6, (3, 3, 3)), r"\(3, 3, 3\) given for 2 axes"),
        (lambda: compute.conv((5, 5, 4), 6, 3, strides=0), "strides=0 given for 2 axes: give one whole number of at"),
        (
            lambda: compute.conv_transpose((5, 4), 6, 3, padding="causal"),
            "padding 'causal' is not one of 'valid', 'same'",
        ),
        (lambda: compute.dense(4, 3, activation="sine"), "activation 'sine' has no count; known are linear, relu"),
        (lambda: compute.einsum("ab,bc->ac", (2, 3), (4, 5)), "'b' is 3 and 4"),
        (lambda: compute.einsum("ab,bc->ac", (2, 3, 4), (4, 5)), r"'ab' doesn't fit the shape \(2, 3, 4\)"),
        (lambda: compute.einsum("a,b,c->abc", (2,), (3,), (4,)), "with 3 arrays: one or two are counted"),
        (lambda: compute.dot((2, 3), (4, 5), (1, 0)), r"axis 1 of \(2, 3\) and axis 0 of \(4, 5\) differ"),
        (lambda: compute.merge("divide", [(2,), (2,)]), "merge 'divide' is not one of add, subtract"),
    ],
)
def test_errors_say_what_is_wrong(call, text):
    with pytest.raises(CountError, match=text):
        call()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: compute.conv((28, 28, 1), -4, 3), "conv(filters=-4): filters must be a whole number, at least 1"),
        (lambda: compute.conv((28, 28, 0), 4, 3), "conv(input_shape=(28, 28, 0)): input_shape must be whole numbers"),
        (lambda: compute.conv((28, 28, 1), 4, 3, groups=0), "conv(groups=0): groups must be a whole number"),
        (lambda: compute.conv((28,), 4, 3), "conv(input_shape=(28,)): must be (length..., channels)"),
        (lambda: compute.conv((28, 28, 1), 4, 2.5), "kernel=2.5 given for 2 axes: give one whole number of at least 1"),
        (lambda: compute.conv((28, 28, 1), 4, 3, strides=(1, "2")), "strides=(1, '2') given for 2 axes"),
        (
            lambda: compute.conv_transpose((7, 7, 1), 4, 3, output_padding=(1,)),
            "output_padding=(1,) given for 2 axes: give one whole number of at least 0, or 2 of them",
        ),
        (lambda: compute.conv_transpose((7, 7, 1), 0, 3), "conv_transpose(filters=0)"),
        (lambda: compute.separable_conv((7, 7, 1), 4, 3, depth_multiplier=-1), "(depth_multiplier=-1)"),
        (lambda: compute.local_conv((7, 7, 1), 1.5, 3), "local_conv(filters=1.5)"),
        (lambda: compute.conv_lstm((7, 7, 1), 4, 3, steps=0), "conv_lstm(steps=0)"),
        (lambda: compute.pooling((7, 7), 0), "pool=0 given for 1 axes"),
        (lambda: compute.window_positions((7, -7), 3), "lengths=(7, -7) given for 2 axes"),
        (lambda: compute.dense(-3, 4), "dense(inputs=-3): inputs must be a whole number, at least 1"),
        (lambda: compute.dense(True, 4), "dense(inputs=True)"),
        (lambda: compute.dense(None, 4), "dense(inputs=None)"),
        (lambda: compute.dense(4, (4, 5)), "dense(outputs=(4, 5)): outputs must be a whole number"),
        (lambda: compute.dense(4, 4, positions=1.5), "dense(positions=1.5)"),
        (lambda: compute.dense(4, 4, batch=2.5), "batch=2.5: a batch has at least one example"),
        (lambda: compute.dense(4, 4, batch="2"), "batch='2': a batch has at least one example"),
        (lambda: compute.dense(4, 4, batch=True), "batch=True: a batch has at least one example"),
        (lambda: compute.embedding(-1, 2, 3), "embedding(lookups=-1): lookups must be a whole number, at least 1"),
        (lambda: compute.einsum("ab,bc->ac", (2, -3), (-3, 5)), "einsum(shape=(2, -3))"),
        (lambda: compute.einsum_dense("ab,bc->ac", (3,), (3, 5), (5,), bias_elements=-1), "bias_elements=-1"),
        (lambda: compute.dot((2, 3), (3, 4), axes=(1, 5)), "dot(axes=(1, 5)): (3, 4) has no axis 5; its axes are"),
        (lambda: compute.dot((2, 3), (3, 4), axes=(1, -2)), "axes=(1, -2) given for 2 axes"),
        (lambda: compute.activation((2, 2.5), "relu"), "activation(shape=(2, 2.5)): shape must be whole numbers, each"),
        (lambda: compute.batch_norm(()), "batch_norm(shape=()): the shape must have the channels at least"),
        (lambda: compute.layer_norm((4,), normalized=0), "layer_norm(normalized=0): normalized must be a whole number"),
        (
            lambda: compute.layer_norm((128, 768), normalized=500),
            "layer_norm(normalized=500): must divide the 98304 elements of (128, 768)",
        ),
        (
            lambda: compute.layer_norm((4,), 4, scale=-4),
            "layer_norm(scale=-4): scale must be a whole number, at least 0",
        ),
        (lambda: compute.rms_norm((4,), normalized=3), "rms_norm(normalized=3): must divide the 4 elements"),
        (lambda: compute.unit_norm((4,), normalized=-4), "unit_norm(normalized=-4)"),
        (lambda: compute.merge("add", []), "merge('add', shapes=[]): give the shape of one tensor at least"),
        (
            lambda: compute.merge("add", [(2,), (3,)]),
            "merge('add', shapes=[(2,), (3,)]): (3,) doesn't broadcast with (2,); lengths must be equal or 1",
        ),
        (lambda: compute.merge("add", [(2,), (-2,)]), "merge(shape=(-2,))"),
        (lambda: compute.move(2, -2), "move(written=-2): written must be a whole number, at least 0"),
        (lambda: compute.attention(4, 8, 0, 8), "attention(heads=0): heads must be a whole number, at least 1"),
        (lambda: compute.attention(4, 8, 2, 8, value_dim=0), "attention(value_dim=0)"),
        (lambda: compute.dot_attention(4, 6, 8, 0), "dot_attention(value_features=0)"),
        (lambda: compute.additive_attention(4, 6, 8, inputs=4), "additive_attention(inputs=4): one, two or three"),
        (lambda: compute.lstm(8, 16, steps=2.5), "lstm(steps=2.5): steps must be a whole number, at least 1"),
        (lambda: compute.gru(8, -16, steps=2), "gru(units=-16)"),
        (lambda: compute.simple_rnn(0, 16, steps=2), "simple_rnn(inputs=0)"),
        (
            lambda: compute.per_batch(batch=1, dtype="int8", read=-1, written=1),
            "per_batch(read=-1): read must be a whole number, at least 0",
        ),
    ],
)
def test_numbers_that_are_no_dimensions_are_refused_by_name(call, text):
    with pytest.raises(CountError) as error:
        call()
    assert text in str(error.value)


def test_numpy_s_integers_are_dimensions_and_don_t_overflow():
    found = compute.conv(np.array([28, 28, 1], np.uint8), np.uint8(200), np.uint8(3), batch=np.uint8(200))
    assert found == compute.conv((28, 28, 1), 200, 3, batch=200)
    assert all(type(number) is int for number in vars(found).values())
    found = compute.embedding(np.int8(100), np.int8(100), np.int8(100), batch=np.uint8(200))
    assert found == compute.embedding(100, 100, 100, batch=200)


# Utilization.


def test_utilization_is_achieved_over_peak():
    cost = Cost(macs=450, other_flops=100, bytes_read=300, bytes_written=100)
    found = utilization(cost, 2.0, 1000.0, 400.0, occupied_bytes=30, memory_bytes=120)
    assert (found.compute, found.bandwidth, found.memory) == (0.5, 0.5, 0.25)
    assert found.doubts == ()
    assert utilization(cost, 2.0, 1000.0, 400.0).memory is None


def test_a_share_above_one_is_returned_and_doubted():
    found = utilization(Cost(macs=500, bytes_read=100), 1.0, 500.0, 50.0)
    assert (found.compute, found.bandwidth) == (2.0, 2.0)
    assert found.doubts[0].startswith("compute utilization 2.00 is above 1: the peak is too low")
    assert "from a nearer level (a cache)" in found.doubts[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"time_s": 0}, r"utilization\(time_s=0\): must be above 0"),
        ({"time_s": float("nan")}, r"utilization\(time_s=nan\): must be above 0"),
        ({"peak_flops_per_s": -1}, r"utilization\(peak_flops_per_s=-1\)"),
        ({"bytes_per_s": 0}, r"utilization\(bytes_per_s=0\)"),
        ({"occupied_bytes": 5}, "occupied_bytes and memory_bytes together"),
        ({"occupied_bytes": 5, "memory_bytes": 0}, r"utilization\(memory_bytes=0\)"),
    ],
)
def test_utilization_refuses_what_can_t_be(arguments, text):
    with pytest.raises(CountError, match=text):
        utilization(Cost(macs=1), **{"time_s": 1, "peak_flops_per_s": 1, "bytes_per_s": 1, **arguments})


def test_utilizations_by_layer_and_in_total():
    layers = tuple(LayerCost(n, "Dense", (1, 3), Cost(macs=m, bytes_read=100)) for n, m in (("a", 50), ("b", 200)))
    found = utilizations(ModelCost("tiny", layers), {"a": 1.0, "b": 3.0}, 100.0, 100.0)
    assert found["a"].compute == pytest.approx(1.0)
    assert found["b"].compute == pytest.approx(400 / 3 / 100)
    assert found["total"].compute == pytest.approx(500 / 4 / 100)
    assert found["total"].bandwidth == pytest.approx(200 / 4 / 100)
    with pytest.raises(CountError, match="tiny has no layer 'c'; it has a, b"):
        utilizations(ModelCost("tiny", layers), {"c": 1.0}, 100.0, 100.0)
    with pytest.raises(CountError, match="no layer of tiny was timed"):
        utilizations(ModelCost("tiny", layers), {}, 100.0, 100.0)
