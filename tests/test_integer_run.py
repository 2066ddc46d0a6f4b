"""The integer kernels against LiteRT's, bit for bit: operators with everything drawn, networks tensor by tensor."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from int8_networks import SHAPES, STORED, drawn, int8
from integer_cases import CASES, Draw, one, write
from integer_moves import MOVES, move

from hwlimits import data
from hwlimits.quantization import quantize, symmetric
from hwlimits.training import integer_run, kernel_differences
from hwlimits.training.integer_operators import KERNELS, OPERATORS, OperatorError
from hwlimits.training.litert import micro_runtime
from hwlimits.training.litert_build import Spec, single

FILES = 12  # of each kind; more are tried by `python tests/test_integer_run.py`
ALL = CASES | MOVES


def check(kind, seed):
    file = ALL[kind](seed)
    inputs = integer_run.random_inputs(file, seed=seed)
    if inputs[0].size == 256:
        whole = np.arange(256, dtype=np.uint8) - (128 if inputs[0].dtype == np.int8 else 0)  # every code
        inputs = [whole.astype(np.uint8).view(inputs[0].dtype).reshape(inputs[0].shape)]
    ours, theirs = integer_run.run(file, inputs), integer_run.reference(file, inputs)
    assert all(ours[i].dtype == value.dtype for i, value in theirs.items())
    return integer_run.differences(file, ours, theirs), ours


@pytest.mark.parametrize("kind", ALL)
def test_operators_are_bit_exact(kind):
    values = set()
    for seed in range(FILES):
        found, ours = check(kind, seed)
        assert [d for d in found if d.differing] == [], seed
        values |= {value for d in found for value in np.unique(ours[d.index]).tolist()}
    few = {"ARG_MAX": 3, "ARG_MIN": 3, "FILL": 3, "REDUCE_PROD": 10}
    assert len(values) > few.get(kind, 10 if "4 bits" in kind else 20), (
        "outputs that are all the same would show nothing"
    )


def exact(file, inputs):
    (output,) = file._model.subgraphs[0].outputs
    np.testing.assert_array_equal(
        integer_run.run(file, inputs)[output], integer_run.reference(file, inputs)[output], strict=True
    )


def test_a_softmax_s_sum_is_of_rounded_exponentials():
    """Rows found where cutting instead of rounding gives another code: one in 10^5 does."""
    rows = np.array([[124, -4, -12, 53, -63, -47], [97, -5, 75, 12, 38, 47], [123, -111, -70, -57, -87, -88]], np.int8)
    d = Draw(0)
    x, _, _ = d.codes(rows.shape, 0.033663276582956314, 0)
    y, _, _ = d.codes(rows.shape, 1 / 256, -128)
    exact(write("SOFTMAX", d.build, [x], [x], [y], 2, "Softmax", beta=1.0), [rows])


@pytest.mark.parametrize(
    "scales",
    [(0.006695611868053675, 0.008765540085732937), (0.01340323407202959, 0.011076817288994789),
     (0.013703002594411373, 0.0019762448500841856), (0.03753835707902908, 0.0183725543320179)],
)  # fmt: skip
def test_tables_are_made_in_float32(scales):
    """Scales found where a quotient in float64, or numbers in float64, give another code: one in 2000 does."""
    d = Draw(0)
    (x, _, _), (y, _, _) = (d.codes((1, 256), s, z) for s, z in zip(scales, (0, -128), strict=True))
    exact(write("EXP", d.build, [x], [x], [y], 2), [np.arange(-128, 128, dtype=np.int8)[None]])


def test_the_ratio_of_a_product_s_scales_is_float32():
    """All products, at scales where a ratio in float64 gives other codes."""
    codes, d = np.arange(-128, 128, dtype=np.int8), Draw(0)
    x, _, _ = d.codes((256, 1), 0.041588906198740005, -128)
    y, _, _ = d.codes((1, 256), 0.07811196893453598, -128)
    z, _, _ = d.codes((256, 256), 0.08845715969800949, -128)
    exact(write("MUL", d.build, [x, y], [x, y], [z], 2, "Mul"), [codes[:, None], codes[None]])


def test_the_ratio_of_a_dense_layer_s_scales_is_float64():
    """Sums, as biases, at scales where a ratio in float32 gives other codes."""
    d, sums = Draw(0), np.array([-3857789, -1595630, 1595630, 3857789])
    scale, w_scale = np.float32(0.06732655316591263), np.float32(0.003428080352023244)
    x, _, _ = d.codes((1, 1), scale, 0)
    w = d.build.tensor((4, 1), "INT8", np.ones((4, 1)), scale=w_scale)
    bias = d.build.tensor((4,), "INT32", sums, scale=scale * w_scale)
    y, _, _ = d.codes((1, 4), 9.323360443115234, 0)
    exact(write("FULLY_CONNECTED", d.build, [x, w, bias], [x], [y], 4, "FullyConnected"), [np.zeros((1, 1), np.int8)])


def test_every_operator_of_the_table_is_held_against_litert():
    assert {kind.split()[0] for kind in ALL} == set(OPERATORS)


@pytest.mark.parametrize("name", [*SHAPES, *STORED])
def test_networks_are_bit_exact_tensor_by_tensor(int8_files, name):
    file = int8_files[name]
    for seed in range(2):
        inputs = integer_run.random_inputs(file, seed=seed)
        ours, theirs = integer_run.run(file, inputs), integer_run.reference(file, inputs)
        found = integer_run.differences(file, ours, theirs)
        assert len(found) == sum(len(op.outputs) for op in file._model.subgraphs[0].operators)
        assert [d for d in found if d.differing] == []
        assert all(ours[d.index].dtype == theirs[d.index].dtype for d in found)


@pytest.mark.parametrize("seed", [1, 3])
def test_networks_of_drawn_layers_are_bit_exact(seed):
    from hwlimits.training.keras import keras

    keras.utils.set_random_seed(seed)
    file = int8(drawn(seed), per_channel=seed != 3)
    inputs = integer_run.random_inputs(file, seed=seed)
    found = integer_run.differences(file, integer_run.run(file, inputs), integer_run.reference(file, inputs))
    assert [d for d in found if d.differing] == []


def test_a_batch_runs_as_its_examples_do(int8_files):
    file = int8_files[STORED[0]]
    inputs = integer_run.random_inputs(file, batch=3)
    together, output = integer_run.run(file, inputs), file._model.subgraphs[0].outputs[0]
    for i in range(3):
        np.testing.assert_array_equal(integer_run.run(file, [inputs[0][i : i + 1]])[output][0], together[output][i])


@pytest.mark.skipif(micro_runtime() is None, reason="tflite-micro has wheels for Linux on x86-64 only")
@pytest.mark.parametrize("name", ["mlp", "residual", "depthwise", "concatenation", *STORED[:2]])
def test_the_microcontroller_runtime_s_kernels_are_known_too(int8_files, name):
    file = int8_files[name]
    output = file._model.subgraphs[0].outputs[0]
    interpreter = micro_runtime().Interpreter.from_bytes(file.content)
    for seed in range(3):
        inputs = integer_run.random_inputs(file, seed=seed)
        interpreter.set_input(inputs[0], 0)
        interpreter.invoke()
        np.testing.assert_array_equal(integer_run.run(file, inputs, kernels="micro")[output], interpreter.get_output(0))


@pytest.mark.skipif(micro_runtime() is None, reason="tflite-micro has wheels for Linux on x86-64 only")
def test_where_the_microcontroller_runtime_differs():
    """Halves of a dense layer go up, and sums of codes below 0 are right."""
    files = [(CASES["SUM"](seed), integer_run.random_inputs(CASES["SUM"](seed), seed=seed)) for seed in range(6)]
    for file, given in [halving("FULLY_CONNECTED", (4, 1)), *files]:
        (output,) = file._model.subgraphs[0].outputs
        interpreter = micro_runtime().Interpreter.from_bytes(file.content)
        interpreter.set_input(given[0], 0)
        interpreter.invoke()
        ours, found = integer_run.run(file, given, kernels="micro")[output], interpreter.get_output(0)
        np.testing.assert_array_equal(ours.ravel(), found.ravel())
        assert np.any(found.ravel() != integer_run.reference(file, given)[output].ravel())


def test_the_converter_s_weights_are_symmetric_codes():
    """Scales and codes of a file, found again from the Keras weights that it came from."""
    from hwlimits.training.keras import keras

    keras.utils.set_random_seed(0)
    conv = keras.layers.Conv2D(8, 3)
    file = int8(keras.Sequential([keras.Input((8, 8, 3)), conv]))
    kernel = conv.kernel.numpy()
    q = symmetric(np.abs(kernel).max(axis=(0, 1, 2)), axis=3)
    np.testing.assert_array_equal(file.layers[0].weights, quantize(kernel, q).transpose(3, 0, 1, 2))
    scales = file._model.subgraphs[0].tensors[file._model.subgraphs[0].operators[0].inputs[1]].quantization.scale
    np.testing.assert_array_equal(scales, q.scale)


# --- the default kernels -----------------------------------------------------------------------

EXPLAINED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL", "MEAN", "QUANTIZE", "LEAKY_RELU")


@pytest.mark.parametrize("kind", EXPLAINED)
def test_xnnpack_s_kernels_round_as_it_is_said(kind):
    differing = 0
    for seed in range(15):
        file = CASES[kind](seed)
        (found,) = kernel_differences.by_operator(file, integer_run.random_inputs(file, seed=seed))
        assert found.unexplained == 0, (seed, found)
        assert found.by_xnnpack or kind == "LEAKY_RELU", "XNNPACK leaves some slopes and scales to LiteRT"
        assert found.largest <= 1
        assert 0 <= found.share == found.differing / found.size
        differing += found.differing
    if kind in (
        "MUL",
        "MEAN",
        "QUANTIZE",
        "LEAKY_RELU",
    ):  # where a step's difference is common enough to be sure to be met
        assert differing > 0


def halving(kind, shape):
    """A file of a convolution or a dense layer of one weight, 1, whose sums are halved, and the sums -3, -1, 1, 3."""
    d = Draw(0)
    x, _, _ = d.codes(shape, 1, 0)
    w = d.build.tensor((1, 1, 1, 1) if kind == "CONV_2D" else (1, 1), "INT8", np.ones(1), scale=1)
    y, _, _ = d.codes(shape, 2, 0)
    options = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1} if kind == "CONV_2D" else {}
    bias = d.build.tensor((1,), "INT32", np.zeros(1), scale=1)
    name = "Conv2D" if kind == "CONV_2D" else "FullyConnected"
    file = write(kind, d.build, [x, w, bias], [x], [y], 3 if kind == "CONV_2D" else 4, name, **options)
    return file, [np.arange(-3, 4, 2, dtype=np.int8).reshape(shape)]


def test_halves_show_each_way_of_rounding():
    """Sums of -3 to 3 at half their scale: LiteRT's convolution, its dense layer, XNNPACK's either."""

    def halved(kind, shape):
        file, given = halving(kind, shape)
        (y,) = file._model.subgraphs[0].outputs
        exact(file, given)
        default, by_xnnpack = kernel_differences._defaults(file, given)
        assert by_xnnpack
        np.testing.assert_array_equal(integer_run.run(file, given, kernels="xnnpack")[y], default[y])
        return integer_run.reference(file, given)[y].ravel().tolist(), default[y].ravel().tolist()

    assert halved("CONV_2D", (1, 4, 1, 1)) == ([-1, 0, 1, 2], [-2, 0, 0, 2])
    assert halved("FULLY_CONNECTED", (4, 1)) == ([-2, -1, 1, 2], [-2, 0, 0, 2])


def test_differences_grow_over_a_network_and_stay_steps(int8_files):
    file = int8_files["residual"]
    inputs = integer_run.random_inputs(file)
    alone = kernel_differences.by_operator(file, inputs)
    # XNNPACK's rounding of a sum of two tensors is not modelled: there a step may be left unexplained
    assert [d for d in alone if (d.unexplained and d.kind != "ADD") or d.largest > 1] == []
    together = kernel_differences.over_network(file, inputs)
    assert [d.kind for d in together] == [d.kind for d in alone]
    assert together[0].differing == alone[0].differing
    assert sum(d.differing for d in together) > sum(d.differing for d in alone) > 0
    assert max(d.largest for d in together) <= 4


def test_the_inputs_of_one_operator_are_those_of_the_whole_run(int8_files):
    """Its own output, once in the network and once alone; for operators of several inputs, too."""
    file = int8_files["concatenation"]
    known = integer_run.reference(file, integer_run.random_inputs(file))
    for index, operator in enumerate(file._model.subgraphs[0].operators):
        alone, sources = kernel_differences.single_operator(file, index)
        assert set(sources) <= {int(i) for i in operator.inputs}
        found = integer_run.reference(alone, [known[i] for i in sources])
        np.testing.assert_array_equal(found[int(operator.outputs[0])], known[int(operator.outputs[0])])


def test_an_operator_is_compared_on_what_it_gets_from_the_network(int8_files):
    """The first image's outputs are counted again, from LiteRT's two runs alone."""
    file = int8_files["gated"]
    inputs = integer_run.random_inputs(file, seed=5)
    known = integer_run.reference(file, inputs)
    for found in kernel_differences.by_operator(file, inputs):
        alone, sources = kernel_differences.single_operator(file, found.index)
        interpreter = alone.interpreter(None)
        interpreter.allocate_tensors()
        for i in sources:
            interpreter.set_tensor(i, known[i])
        interpreter.invoke()
        output = int(alone._model.subgraphs[0].outputs[0])
        steps = np.abs(interpreter.get_tensor(output).astype(int) - known[output])
        assert (found.size, found.differing, found.largest) == (steps.size, np.count_nonzero(steps), steps.max())


def stored_rows():
    with open(data.path("results/kernel_differences.csv"), encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def test_the_stored_differences_are_small_and_known():
    made_by = json.loads(data.path("results/kernel_differences.json").read_text())["provenance"]
    assert made_by["command"] == "python -m hwlimits.training.kernel_differences"
    rows = stored_rows()
    assert tuple(rows[0]) == kernel_differences.COLUMNS
    assert Counter(row["file"] for row in rows) == dict.fromkeys(STORED, len(rows) // len(STORED))
    for row in rows:
        alone, network = float(row["alone_differing_share"]), float(row["network_differing_share"])
        assert int(row["images"]) == kernel_differences.IMAGES
        assert int(row["outputs"]) % kernel_differences.IMAGES == 0
        assert 0 <= alone <= 0.01
        assert 0 <= network <= 0.1
        assert (alone > 0) == (float(row["alone_largest_steps"]) > 0)
        if row["operator"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            assert row["by_xnnpack"] == "True"
            assert float(row["explained_share"]) == 1
            assert float(row["alone_largest_steps"]) <= 1


def test_the_stored_differences_are_those_of_the_files():
    """A tenth of the images again: the same operators and outputs an image."""
    name = STORED[2]
    images = kernel_differences.mnist.load("mnist-5k").x_test[: kernel_differences.IMAGES // 10]
    stored = [row for row in stored_rows() if row["file"] == name]
    for row, again in zip(stored, kernel_differences.rows(name, images), strict=True):
        assert (row["operator"], int(row["outputs"])) == (again["operator"], 10 * again["outputs"])
        assert again["explained_share"] >= 0.99
        assert again["alone_differing_share"] == pytest.approx(float(row["alone_differing_share"]), abs=0.01)


# --- what is refused ---------------------------------------------------------------------------


def uint8_relu():
    d = Draw(0)
    x, y = (d.build.tensor((1, 4), "UINT8", scale=0.1, zero=3) for _ in range(2))
    return write("RELU", d.build, [x], [x], [y], 2)


def test_everything_that_is_not_known_is_named_in_one_error(int8_files):
    file = single(Spec("DIV", "int8", (1, 4, 4, 2)))
    with pytest.raises(OperatorError, match="the integer kernels don't have DIV: build the network of other layers"):
        integer_run.run(file, integer_run.random_inputs(file))
    file = single(Spec("FULLY_CONNECTED", "dynamic", (1, 8), 4))
    with pytest.raises(OperatorError, match=r"operator 0 \(FULLY_CONNECTED\) computes with float32: only int8 files"):
        integer_run.run(file, integer_run.random_inputs(file))
    for file, said in (
        (one(0, "ELU", version=1), "the integer kernels don't have ELU: build"),
        (move(Draw(0), "STRIDED_SLICE", (5,), [2], [2], [1], options="StridedSlice", offset=True), "ends that count"),
        (move(Draw(0), "GATHER", (2, 5), [[1], [2]], options="Gather", axis=1, batchDims=1), "places in each batch"),
        (move(Draw(0), "REDUCE_PROD", (2, 2), [0], options="Reducer"), "multiplies codes: only plain integers"),
        (uint8_relu(), r"operator 0 \(RELU\) computes with uint8: only int8 files run here"),
    ):
        with pytest.raises(OperatorError, match=said):
            integer_run.run(file, integer_run.random_inputs(file))
    file = int8_files[STORED[0]]
    with pytest.raises(OperatorError, match="the file has 1 inputs, and 0 were given"):
        integer_run.run(file, [])
    with pytest.raises(
        OperatorError, match=r"is int8 of the shape \[1, 28, 28, 1\], and float64 of the shape \[28, 28\] was"
    ):
        integer_run.run(file, [np.zeros((28, 28))])
    with pytest.raises(OperatorError, match=r"run\(kernels='cmsis'\): choose from reference, micro, xnnpack"):
        integer_run.run(file, integer_run.random_inputs(file), kernels="cmsis")


def test_tensors_of_different_shapes_are_no_comparison(int8_files):
    file = int8_files[STORED[0]]
    one, two = (integer_run.run(file, integer_run.random_inputs(file, batch)) for batch in (1, 2))
    with pytest.raises(OperatorError, match="of CONV_2D is .* here and .* there"):
        integer_run.differences(file, one, two)


def test_a_planted_step_is_seen(int8_files):
    """The comparison itself: one number of one tensor a step off."""
    file = int8_files[STORED[0]]
    inputs = integer_run.random_inputs(file)
    ours, theirs = integer_run.run(file, inputs), integer_run.reference(file, inputs)
    index = int(file._model.subgraphs[0].operators[2].outputs[0])
    ours[index] = ours[index].copy()
    ours[index].flat[7] += 1
    assert [(d.index, d.differing, d.largest) for d in integer_run.differences(file, ours, theirs) if d.differing] == [
        (index, 1, 1)
    ]


def test_kernels_by_name():
    assert set(KERNELS) == {"reference", "micro", "xnnpack"}


if __name__ == "__main__":  # hundreds of files of each kind: python tests/test_integer_run.py 300
    import sys

    for kind in ALL:
        wrong = [seed for seed in range(int(sys.argv[1])) if any(d.differing for d in check(kind, seed)[0])]
        print(kind, "exact" if not wrong else f"not exact: seeds {wrong}", flush=True)
