"""Bytes at rest against NumPy's and SciPy's own, training by hand counts, liveness against a step-by-step count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from hwlimits import storage
from hwlimits.storage import Buffer, StorageError, chain_buffers, live_bytes, peak_live_bytes

lives = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12), st.integers(0, 5)), max_size=12)


def buffers_of(rows):
    return [Buffer(str(i), size, first, first + life) for i, (size, first, life) in enumerate(rows)]


# --- at rest -----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["float64", "float32", "float16", "int32", "int16", "int8"])
def test_dense_bytes_are_those_of_an_array(format):
    assert storage.at_rest_bytes(1001, format) == np.zeros(1001, format).nbytes


@pytest.mark.parametrize(("format", "bits"), [("int4", 4), ("int2", 2), ("binary", 1)])
def test_packed_bytes_are_those_of_packed_bits(format, bits):
    assert storage.at_rest_bytes(1001, format) == np.packbits(np.zeros((1001, bits), bool)).size


def test_scales_and_zero_points_by_hand():
    assert storage.at_rest_bytes(1600 * 64, "int8", scales=64, zero_points=True) == 1600 * 64 + 64 * 4 + 64
    assert storage.at_rest_bytes(10, "int4", scales=3, zero_points=True) == 5 + 12 + 2


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.sampled_from(["float32", "float64", "int8"]))
def test_csr_is_scipy_s(rows, columns, density, format):
    matrix = sparse.random_array((rows, columns), density=density, rng=np.random.default_rng(0)).tocsr()
    matrix = matrix.astype(format)
    held = matrix.data.nbytes + matrix.indices.astype(np.int32).nbytes + matrix.indptr.astype(np.int32).nbytes
    assert storage.csr_bytes(rows, columns, matrix.nnz, format) == held


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_bitmap_is_numpy_s(keep):
    mask, values = np.array(keep), np.ones(len(keep), np.float16)
    assert storage.bitmap_bytes(mask.size, mask.sum(), "float16") == np.packbits(mask).size + values[mask].nbytes


@pytest.mark.parametrize("format", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("index", ["int16", "int32"])
def test_break_even_is_where_the_sizes_cross(format, index):
    rows, columns = 1, 30_000  # one row: nothing but its numbers and indices
    dense = storage.at_rest_bytes(columns, format)
    for form, size in (
        ("bitmap", lambda n: storage.bitmap_bytes(columns, n, format)),
        ("csr", lambda n: storage.csr_bytes(rows, columns, n, format, index=index) - 2 * storage.FORMATS[index] // 8),
    ):
        nonzero = round(storage.break_even_density(format, form, index=index) * columns)
        assert size(nonzero - 8) < dense < size(nonzero + 8), form


# --- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "precision", "per_parameter"),
    [
        ("sgd", "float32", 8),
        ("momentum", "float32", 12),
        ("adam", "float32", 16),
        ("adam", "mixed", 16),
        ("sgd", "mixed", 8),
    ],
)
def test_bytes_a_parameter(optimizer, precision, per_parameter):
    """4 of weight, 4 of gradient, 4 a slot; mixed: 2 + 2, and 4 of master weight with the slots."""
    found = storage.training_memory(1000, 77, optimizer=optimizer, precision=precision)
    assert found.total_bytes == 1000 * per_parameter + 77


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Lion"])
def test_slots_are_keras_s(name):
    from hwlimits.training.keras import keras

    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5)])
    optimizer = getattr(keras.optimizers, name)()
    optimizer.build(model.trainable_variables)
    held = sum(int(np.prod(v.shape)) for v in optimizer.variables if v.shape.rank)
    # Keras' SGD keeps a velocity also where its momentum is 0 and nothing reads it
    expected = storage.OPTIMIZER_SLOTS["momentum" if name == "SGD" else name.lower()]
    assert held == expected * model.count_params()


def stepped(n, every):
    """A chain trained by a program that keeps a table of what it holds: its peak, and the layers that it ran."""
    kept = set(range(n)) if every is None else {i for i in range(n) if (i + 1) % every == 0 or i == n - 1}
    held, ran, peak = set(), [], 0

    def look():
        nonlocal peak
        peak = max(peak, len(held))

    for i in range(n):
        held.add(("a", i))
        ran.append(i)
        if i == n - 1:
            held.add(("g", i))
        look()
        if i and i - 1 not in kept:
            held.discard(("a", i - 1))
    for i in reversed(range(n)):
        if i and ("a", i - 1) not in held:
            start = max((c for c in kept if c < i), default=-1) + 1
            for j in range(start, i):
                held.add(("a", j))
                ran.append(j)
                look()
        if i:
            held.add(("g", i - 1))
        look()
        held -= {("a", i), ("g", i)}
    return peak, ran


@settings(deadline=None)
@given(st.integers(1, 30), st.one_of(st.none(), st.integers(1, 12)))
def test_a_chain_s_peak_is_that_of_a_program_that_does_it(n, every):
    peak, ran = stepped(n, every)
    assert peak_live_bytes(chain_buffers([1] * n, every=every)) == peak
    assert sorted(ran) == sorted([*range(n), *storage.recomputed_layers(n, every)])


@pytest.mark.parametrize("n", [4, 16, 49, 100])
def test_the_square_root_is_best(n):
    peaks = {k: peak_live_bytes(chain_buffers([1] * n, every=k)) for k in range(1, n + 1)}
    assert peaks[storage.best_every(n)] == min(peaks.values())
    assert min(peaks.values()) <= 2 * n**0.5 + 2 < peaks[1] + 3


def test_without_recomputation_every_activation_is_kept():
    assert peak_live_bytes(chain_buffers([5, 7, 11])) == 5 + 7 + 11 + 11 + 7


# --- lifetimes ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(lives)
def test_the_peak_is_the_largest_sum_over_steps(rows):
    buffers = buffers_of(rows)
    by_step = [sum(b.bytes for b in buffers if b.first <= t <= b.last) for t in range(20)]
    assert peak_live_bytes(buffers) == max(by_step)
    alive = live_bytes(buffers)
    assert all(alive[t] == by_step[t] for t in alive if t < 20)


def test_alignment_rounds_each_size_up():
    assert peak_live_bytes([Buffer("a", 17, 0, 1), Buffer("b", 1, 1, 1)], alignment=16) == 48


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: storage.at_rest_bytes(1, "int5"), "format 'int5' is not one that is known; choose from float64"),
        (lambda: storage.at_rest_bytes(-1, "int8"), "parameters=-1"),
        (lambda: storage.at_rest_bytes(1.5, "int8"), "parameters must be a whole number, at least 0"),
        (lambda: storage.bitmap_bytes(3, 4, "int8"), "4 of 3 numbers can't be other than 0"),
        (lambda: storage.csr_bytes(1, 40_000, 1, "int8", index="int16"), "int16 counts to 32,767"),
        (lambda: storage.break_even_density("int8", "coo"), "choose 'bitmap' or 'csr'"),
        (lambda: storage.training_memory(1, 1, optimizer="magic"), "known are sgd"),
        (lambda: storage.training_memory(1, 1, precision="int8"), "choose 'float32' or 'mixed'"),
        (lambda: chain_buffers([1, 2], every=0), "every must be a whole number, at least 1"),
        (lambda: Buffer("x", -1, 0, 1), "bytes must be a whole number of at least 0"),
        (lambda: Buffer("x", 1, 2, 1), "lives from step 2 to 1"),
    ],
)
def test_errors_say_what_to_do(call, said):
    with pytest.raises(StorageError) as caught:
        call()
    assert said in str(caught.value)
