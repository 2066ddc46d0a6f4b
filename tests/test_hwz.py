"""Networks through the file and back; its bytes part by part; files that are damaged or mean harm."""

import math
import os
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hwlimits import compressed, hwz, network_bits
from hwlimits.bits import CodingError, Writer
from hwlimits.coding import CODES, GAP_CODES, entropy_bits
from hwlimits.compressed import Layer, Network, Tensor, tensor_shapes

EVERY = [
    (code, gaps)
    for code in CODES
    for gaps in (None, *GAP_CODES)
    if (code, gaps) == ("contexts", None) or code != "contexts"
]
SMALL = (Layer("conv", 10, 3, relu=True), Layer("max_pool", kernel=2), Layer("separable", 14, 3, gain=True, relu=True))
SMALL += (
    Layer("max_pool", kernel=2),
    Layer("conv", 5, 3, same=True, gain=True),
    Layer("global_mean"),
    Layer("dense", 10),
)


def codes_of(shape, seed=0, steps=1.5, limit=7):
    codes = np.round(np.random.default_rng(seed).normal(size=shape) * steps)
    return np.clip(codes, -limit, limit).astype(np.int64)


def network_of(layers=SMALL, input_shape=(28, 28, 1), **changes):
    shapes = tensor_shapes(input_shape, layers)
    tensors = [Tensor(codes_of(s, i, **changes), hwz.grid_step(-20 - 2 * i)) for i, s in enumerate(shapes)]
    return Network(input_shape, tuple(layers), tuple(tensors))


def same(a, b):
    assert (a.input_shape, a.layers) == (b.input_shape, b.layers)
    for one, other in zip(a.tensors, b.tensors, strict=True):
        assert np.array_equal(one.codes, other.codes)
        assert one.codes.shape == other.codes.shape
        assert one.step == other.step
        assert one.values.tobytes() == other.values.tobytes()
    return True


# --- the same again --------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "gaps"), EVERY)
def test_a_network_comes_back_by_every_code(code, gaps):
    network = network_of()
    assert same(hwz.loads(hwz.dumps(network, code, gaps)), network)


layers_any = st.lists(
    st.one_of(
        st.builds(
            Layer,
            st.sampled_from(["conv", "separable"]),
            st.integers(1, 20),
            st.integers(1, 5),
            st.integers(1, 3),
            *[st.booleans()] * 4,
            st.integers(1, 3),
        ),
        st.builds(Layer, st.sampled_from(["max_pool", "mean_pool"]), kernel=st.integers(1, 3)),
        st.builds(Layer, st.just("dense"), st.integers(1, 20), gain=st.booleans(), relu=st.booleans()),
        st.builds(Layer, st.sampled_from(["flatten", "global_mean"])),
    ),
    max_size=5,
)
finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_any_network_comes_back(data):
    input_shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)) | st.just((28, 28, 1)))
    layers = ()
    for layer in data.draw(layers_any):  # those that fit
        try:
            compressed.output_shapes(input_shape, (*layers, layer))
        except compressed.NetworkError:
            continue
        layers += (layer,)
    tensors = []
    for i, shape in enumerate(tensor_shapes(input_shape, layers)):
        if data.draw(st.booleans()):
            step = data.draw(st.integers(-127, 127).map(hwz.grid_step) | finite)
            limit = data.draw(st.sampled_from([1, 7, 300]))
            assume(abs(step) <= float(np.finfo(np.float32).max) / limit)
            tensors.append(Tensor(codes_of(shape, i, limit / 2, limit), step))
        else:
            book = data.draw(
                st.lists(
                    st.floats(width=data.draw(st.sampled_from([16, 32])), allow_nan=False, allow_infinity=False),
                    min_size=1,
                    max_size=9,
                )
            )
            codes = np.random.default_rng(i).integers(0, len(book), shape)
            tensors.append(Tensor(codes, None, np.array(book, np.float32)))
    network = Network(input_shape, layers, tuple(tensors))
    code, gaps = data.draw(st.sampled_from(EVERY))
    content = hwz.dumps(network, code, gaps)
    assert same(hwz.loads(content), network)
    assert sum(hwz.breakdown(network, code, gaps).values()) == pytest.approx(8 * len(content))


def test_steps_of_the_grid_are_powers_and_short():
    for k in range(-127, 128):
        assert hwz.grid_step(k) == pytest.approx(2 ** (k / 8), rel=1e-15)
    layers = (Layer("flatten"), Layer("dense", 2))
    sizes = {}
    for step in (hwz.grid_step(-30), math.pi):
        tensors = tuple(Tensor(codes_of(s), step) for s in tensor_shapes((1, 3, 1), layers))
        network = Network((1, 3, 1), layers, tensors)
        assert hwz.loads(hwz.dumps(network)).tensors[0].step == step
        sizes[step] = hwz.breakdown(network)["steps"]
    assert sizes[hwz.grid_step(-30)] <= 23
    assert sizes[math.pi] == 1 + 2 * 66


def test_files_are_written_whole_and_read(tmp_path):
    path, network = tmp_path / "small.hwz", network_of()
    assert hwz.write(path, network) == path.stat().st_size == len(hwz.dumps(network))
    assert same(hwz.read(path), network)
    broken = Network((28, 28, 1), SMALL, network.tensors[1:])
    with pytest.raises(CodingError, match=r"small.hwz: dumps: tensors of .*, and the layers need"):
        hwz.write(path, broken)
    assert same(hwz.read(path), network), "the file that was there is as it was"
    assert os.listdir(tmp_path) == ["small.hwz"]


# --- sizes -----------------------------------------------------------------------------------------


def test_a_small_network_is_its_codes_and_few_bytes_more():
    layers = (Layer("conv", 8, 3, relu=True), Layer("max_pool", kernel=2), Layer("conv", 10, 3, relu=True))
    layers += (Layer("max_pool", kernel=2), Layer("conv", 5, 3, relu=True), Layer("global_mean"), Layer("dense", 10))
    network = network_of(layers, steps=2.8)
    assert 1250 < network.parameters < 1350
    entropy = sum(entropy_bits(tensor.codes) for tensor in network.tensors)
    assert entropy / network.parameters == pytest.approx(3.5, abs=0.1)
    parts = hwz.breakdown(network)
    assert parts["header"] == 56
    assert parts["layers"] <= 8 * 12
    assert parts["steps"] <= 10 * len(network.tensors)
    assert len(hwz.dumps(network)) < min(620, entropy / 8 + 50)


def test_contexts_are_the_shortest_for_a_small_network():
    sizes = {(code, gaps): len(hwz.dumps(network_of(), code, gaps)) for code, gaps in EVERY}
    assert min(sizes, key=sizes.get) == ("contexts", None)


def test_the_parts_are_named():
    assert list(hwz.breakdown(network_of()))[:5] == ["header", "layers", "steps", "0 3x3x1x10", "1 10"]


# --- what can't be written -------------------------------------------------------------------------

DENSE = (Layer("flatten"), Layer("dense", 2))


def dense(step=1.0, book=None, codes=None, layers=DENSE, input_shape=(1, 3, 1)):
    kernel = np.ones((3, 2), int) if codes is None else codes
    return Network(input_shape, layers, (Tensor(kernel, step, book), Tensor(np.zeros(2, int), 1.0)))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (dense(step=np.inf), "tensor 0: the step inf is no finite number"),
        (dense(step=None), "tensor 0: the step None is no finite number"),
        (dense(step=1e39), r"tensor 0: with the step 1e\+39 its weights are beyond float32"),
        (dense(codes=np.ones((3, 2))), "tensor 0: codes of type float64 must be integers of 32 bits"),
        (dense(codes=np.full((3, 2), 2**31)), "tensor 0: codes of type int64 must be integers of 32 bits"),
        (dense(book=np.array([0.1])), "tensor 0: its codebook has values that are not float32; round it before"),
        (dense(book=np.zeros(1)), "tensor 0: codes from 1 to 1 of 1 values"),
        (dense(book=np.array([np.nan])), r"tensor 0: a codebook of \(1,\) must be finite numbers"),
        (dense(layers=(Layer("flatten", 3), DENSE[1])), "layer 0, Layer.*, has what a flatten layer does not use"),
        (dense(layers=DENSE[1:]), "layer 0, dense, on .*put a flatten layer before it"),
        (dense(input_shape=(1, 3, 10**6)), "sizes up to 1,000,000; 65,536 is the most"),
    ],
)
def test_a_network_that_could_not_be_read_is_refused(network, said):
    with pytest.raises(CodingError, match=said):
        hwz.dumps(network)


def test_unknown_codes_are_refused():
    with pytest.raises(CodingError, match="choose from rice, huffman, rans, contexts"):
        hwz.dumps(network_of(), "zip")
    with pytest.raises(CodingError, match="contexts code zeros without gaps; leave gaps out"):
        hwz.dumps(network_of(), "contexts", "rice")
    for wrong in (-1, 2.5, True):
        with pytest.raises(CodingError, match="must be a whole number, at least 0"):
            hwz.loads(hwz.dumps(network_of()), wrong)


# --- damage ------------------------------------------------------------------------------------------


def signed(body, version=1):
    return b"HZ" + bytes([version]) + zlib.crc32(body).to_bytes(4, "big") + body


def outcome(content, max_parameters=3000):
    try:
        network = hwz.loads(content, max_parameters)
    except CodingError as error:
        return "error" if str(error).startswith("loads: ") else f"another error: {error}"
    if network.parameters > max_parameters:
        return "too many"
    shapes = tensor_shapes(network.input_shape, network.layers)
    return "network" if [t.codes.shape for t in network.tensors] == shapes else "wrong shapes"


def test_every_truncation_and_altered_bits_are_seen(tmp_path):
    content = hwz.dumps(network_of())
    for n in range(len(content)):
        with pytest.raises(CodingError, match=r"^loads: \d+ bytes (whose checksum is not theirs|that do not begin as)"):
            hwz.loads(content[:n])
    for bit in range(0, 8 * len(content), 3):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(
            CodingError, match="checksum is not theirs|do not begin as|this program reads version 1 alone"
        ):
            hwz.loads(altered)
    path = tmp_path / "cut.hwz"
    path.write_bytes(content[:-1])
    with pytest.raises(
        CodingError, match=r"cut.hwz: loads: \d+ bytes whose checksum is not theirs; truncated or altered"
    ):
        hwz.read(path)
    with pytest.raises(CodingError, match=r"none.hwz can't be read: No such file"):
        hwz.read(tmp_path / "none.hwz")


def test_another_version_is_refused_by_its_number():
    with pytest.raises(CodingError, match="^loads: version 2, and this program reads version 1 alone"):
        hwz.loads(signed(hwz.dumps(network_of())[7:], version=2))


CONTENTS = {
    key: hwz.dumps(network_of(), *key)[7:]
    for key in (("contexts", None), ("rans", "rice"), ("huffman", None), ("rice", None))
}


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(list(CONTENTS)),
    st.lists(st.tuples(st.integers(0, 399), st.integers(0, 7)), max_size=3),
    st.integers(0, 900),
)
def test_damage_under_a_right_checksum_ends_in_an_error_or_in_a_network(key, flips, length):
    body = bytearray(CONTENTS[key])
    for byte, bit in flips:
        body[byte % (40 if bit % 2 else len(body))] ^= 1 << bit  # the layers, half of the time
    assert outcome(signed(bytes(body[:length]))) in ("error", "network")


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_end_in_an_error_or_in_a_network(body):
    assert outcome(signed(body), 300) in ("error", "network")


def size(n):
    """A size's fields."""
    return (n - 1) // 8 + 1, ((n - 1) % 8, 3)


def hostile(*fields, usual=1, count=2):
    """Layers as one who means harm would write them: (value, bits), and gammas for what is alone."""
    out = Writer()
    out.fixed(1, 1)
    out.fixed(usual, 1)
    for field in (*fields[: 0 if usual else 3], *size(count), *fields[0 if usual else 3 :]):
        if isinstance(field, tuple):
            out.fixed(*field)
        else:
            out.gamma([field])
    return signed(out.content() + bytes(40))


KIND = {kind: (int(prefix, 2), len(prefix)) for kind, prefix in network_bits.PREFIXES.items()}
CONV = (KIND["conv"], *size(8), (0, 1), (1, 1), (0, 2))  # 8 filters, same, not usual
DENSE_1 = (KIND["flatten"], KIND["dense"], *size(1), (0, 2))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (hostile(count=2**60), "are promised and .* bits are left"),
        (hostile(KIND["flatten"]), "0 bytes|bytes are left when all is decoded"),
        (hostile(KIND["flatten"], KIND["dense"], *size(2**40), (0, 2), count=3), "is the most"),
        (
            hostile(KIND["flatten"], KIND["dense"], *size(16_000), (0, 2), count=3),
            "parameters, and max_parameters is 3,000; raise",
        ),
        (hostile(*CONV, 3, 1, (0, 2), 2**62), "65,536 is the most"),
        (hostile(*CONV, 3, 1, (0, 2), 60_000), "applied again more than 1,024 times"),
        (hostile(*CONV, 60_000, 1, (0, 2), 1), "multiply-accumulates and .* numbers at once for an image"),
        (hostile(60_000, 60_000, 8, *CONV, 3, 1, (0, 2), 1, usual=0), "numbers at once for an image"),
        (hostile(9, 9, 9, KIND["dense"], *size(1), (0, 2), usual=0), "put a flatten layer before it"),
        (hostile(*DENSE_1, (0, 1), (2, 2), 2**30, count=3), "promised"),
        (hostile(*DENSE_1, (0, 1), (1, 2), (0x7FF0, 16), (0, 48), count=3), "a step of inf"),
        (hostile(*DENSE_1, (1, 1), 900, count=3), r"beyond 127"),
        (signed(bytes([0b01100000]) + bytes(40)), "contexts are never written so"),
    ],
)
def test_hostile_files_are_refused_at_once_and_in_little_memory(content, said):
    tracemalloc.start()
    with pytest.raises(CodingError, match=f"^loads: .*({said})"):
        hwz.loads(content, 3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_file_whose_weights_are_beyond_float32_is_damaged(monkeypatch):
    """It can't be written, so the check on writing is taken away."""
    from hwlimits import network_bits

    with monkeypatch.context() as patch:
        patch.setattr(network_bits, "beyond_float32", lambda codes, step: False)
        content = hwz.dumps(dense(step=3.5e38))
    with pytest.raises(CodingError, match="weights beyond float32; the content is damaged"):
        hwz.loads(content)
    assert hwz.loads(hwz.dumps(dense(step=3.4e38))).tensors[0].values.max() == np.float32(3.4e38)
