"""Operators of a LiteRT file against hand counts, the Keras model's count, and the interpreter itself."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits.counting import ACTIVATION_FLOPS
from hwlimits.training import export, quantize, zoo
from hwlimits.training.cost import cost as keras_cost
from hwlimits.training.keras import keras, tf
from hwlimits.training.litert import LiteRTError, LiteRTFile
from hwlimits.training.litert_shapes import windows
from hwlimits.training.operators import FREE, SHAPES_ONLY, cost, cut, operators

layers = keras.layers


def with_random_weights(model):
    """Zeros would be folded away by the converter: biases, and the shift of a normalization."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 1, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def stack(shape, *ls):
    return with_random_weights(keras.Sequential([keras.Input(shape), *ls]))


@pytest.fixture(scope="module")
def article():
    """The article's CNN as float32 and as int8."""
    model = with_random_weights(zoo.build("article-cnn"))
    found = {"float32": export.to_float32(model), "int8": export.to_int8(quantize.aware(model))}
    return {name: LiteRTFile(content) for name, content in found.items()}


@pytest.fixture(scope="module")
def transformer():
    """A decoder layer in small, with the operators of a large one: 2 × 5 tokens, width 8, 2 heads."""
    tokens, memory = keras.Input((5,), dtype="int32"), keras.Input((7, 8))
    table = layers.Embedding(11, 8)
    x = layers.Rescaling(2.0, zoo._sinusoids(5, 8).tolist())(table(tokens))
    x = zoo._after(x, zoo._attention("self", 2, 8)(x, x, use_causal_mask=True))
    x = zoo._after(x, zoo._attention("cross", 2, 8)(x, memory))
    x = zoo._after(x, zoo._feed_forward(x, 16, 8, "gelu"))
    model = keras.Model([tokens, memory], layers.Softmax()(zoo._tied(table, x)))
    return with_random_weights(model), LiteRTFile(export.to_float32(model))


SMALL = {
    "grouped": lambda: stack((9, 8, 8), layers.Conv2D(16, 3, 2, groups=4, padding="same", activation="relu6")),
    "separable": lambda: stack((9, 8, 3), layers.SeparableConv2D(6, (3, 2), depth_multiplier=2)),
    "dilated": lambda: stack((12, 12, 3), layers.Conv2D(4, 3, dilation_rate=2, padding="same", activation="relu")),
    "transposed": lambda: stack((8, 7, 3), layers.Conv2DTranspose(4, 3, strides=2, activation="relu")),
    "1-D": lambda: stack((16, 3), layers.Conv1D(4, 3, padding="causal"), layers.MaxPooling1D(2), layers.Flatten()),
    "3-D": lambda: stack((6, 7, 5, 3), layers.Conv3D(4, (3, 2, 1), strides=(1, 2, 1), padding="same")),
    "einsum": lambda: stack((7, 8), layers.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de")),
    "dense": lambda: stack((7, 8), layers.Dense(6, "tanh"), layers.GlobalAveragePooling1D(), layers.Dense(2)),
    "norms": lambda: stack((6, 6, 4), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(4, 3),
                           layers.LayerNormalization(), layers.AveragePooling2D(2), layers.Dense(3, "sigmoid")),
    "odds": lambda: stack((8, 8, 3), layers.PReLU(), layers.UpSampling2D(2), layers.Cropping2D(1),
                          layers.Permute((2, 1, 3)), layers.ZeroPadding2D(1), layers.LeakyReLU(),
                          layers.GlobalMaxPooling2D(), layers.Dense(4, "elu"), layers.Dense(4, "softplus"),
                          layers.Dense(4, "swish")),
}  # fmt: skip


@pytest.fixture(scope="module", params=SMALL)
def small(request):
    model = SMALL[request.param]()
    return model, LiteRTFile(export.to_float32(model))


def interpreter(content, batch=None, **options):
    found = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        num_threads=1,
        **options,
    )
    for details in found.get_input_details() if batch else ():
        found.resize_tensor_input(details["index"], (batch, *details["shape"][1:]))
    found.allocate_tensors()
    return found


def run(content, batch=None):
    """The file run on random inputs, all of its tensors kept."""
    rng = np.random.default_rng(1)
    found = interpreter(content, batch, experimental_preserve_all_tensors=True)
    for details in found.get_input_details():
        high = 2 if details["dtype"] == np.int32 else 100
        found.set_tensor(details["index"], rng.integers(0, high, details["shape"]).astype(details["dtype"]))
    found.invoke()
    return found


# --- counts ------------------------------------------------------------------------------------


def test_the_article_s_cnn_by_hand(article):
    """One line an operator: MACs; other FLOPs; parameters; elements read and written."""
    conv1, conv2 = 26 * 26 * 32, 11 * 11 * 64
    pool1, pool2 = 13 * 13 * 32, 5 * 5 * 64
    w1, w2, w3, w4 = 3 * 3 * 1 * 32, 3 * 3 * 32 * 64, 1600 * 64, 64 * 10
    by_hand = [
        ("CONV_2D", conv1 * 9, conv1 * 2, w1, 32, 28 * 28, conv1),  # bias and ReLU
        ("MAX_POOL_2D", 0, pool1 * 4, 0, 0, conv1, pool1),
        ("CONV_2D", conv2 * 9 * 32, conv2 * 2, w2, 64, pool1, conv2),
        ("MAX_POOL_2D", 0, pool2 * 4, 0, 0, conv2, pool2),
        ("RESHAPE", 0, 0, 0, 0, 0, 0),
        ("FULLY_CONNECTED", w3, 64 * 2, w3, 64, 1600, 64),
        ("FULLY_CONNECTED", w4, 10, w4, 10, 64, 10),
        ("SOFTMAX", 0, 50, 0, 0, 10, 10),
    ]
    for name, width in (("float32", 4), ("int8", 1)):  # a bias is float32 or int32: four bytes either way
        for found, (kind, macs, flops, weights, biases, read, written) in zip(
            operators(article[name]), by_hand, strict=True
        ):
            expected = (kind, macs, flops, weights + biases, (weights + read) * width + biases * 4, written * width)
            c = found.cost
            assert (found.kind, c.macs, c.other_flops, c.parameters, c.bytes_read, c.bytes_written) == expected
            assert found.counted
    assert operators(article["int8"])[4].note == FREE


def test_macs_are_those_of_the_keras_model(small):
    model, file = small
    assert cost(file).total.macs == keras_cost(model).total.macs
    assert not cost(file).not_counted


def test_macs_of_attention_are_those_of_the_keras_model(transformer):
    model, file = transformer
    width, inner, t, m, vocabulary = 8, 16, 5, 7, 11
    by_hand = 4 * t * width**2 + 2 * t * t * width  # self-attention
    by_hand += 2 * t * width**2 + 2 * m * width**2 + 2 * t * m * width  # cross-attention
    by_hand += 2 * t * width * inner + t * width * vocabulary
    assert cost(file).total.macs == keras_cost(model).total.macs == by_hand
    assert not cost(file).not_counted


def test_rows_that_the_file_leaves_open_are_found(transformer):
    """Behind a RESHAPE worked out at run time the file says one row, where there are five."""
    wide = [x for x in operators(transformer[1]) if x.kind == "FULLY_CONNECTED" and x.outputs[0].shape == (5, 16)]
    graph = transformer[1]._model.subgraphs[0]
    names = {t.name.decode(): t for t in graph.tensors}
    assert len(wide) == 1
    assert tuple(names[wide[0].outputs[0].name].shape) == (1, 16)
    assert wide[0].cost.macs == 5 * 8 * 16


@pytest.mark.parametrize("batch", [1, 3])
def test_every_shape_and_size_is_the_interpreter_s(small, transformer, batch):
    for file in (small[1], transformer[1]):
        ran = run(file.content, batch)
        there = {t["name"]: t["index"] for t in ran.get_tensor_details()}
        for found in operators(file, batch):
            for tensor in (*found.inputs, *found.outputs):
                array = ran.get_tensor(there[tensor.name])
                assert (tensor.shape, tensor.bytes, tensor.dtype) == (array.shape, array.nbytes, array.dtype.name)


def test_a_batch_multiplies_work_and_data_but_not_weights(article, transformer):
    for file in (article["float32"], article["int8"], transformer[1]):
        for one, eight in zip(operators(file), operators(file, batch=8), strict=True):
            assert eight.cost.macs == 8 * one.cost.macs
            assert eight.cost.other_flops in (8 * one.cost.other_flops, one.cost.other_flops)
            assert eight.cost.parameters == one.cost.parameters
            assert eight.cost.bytes_written in (8 * one.cost.bytes_written, one.cost.bytes_written)
    one, eight = operators(article["int8"])[0].cost, operators(article["int8"], 8)[0].cost
    assert eight.bytes_read - one.bytes_read == 7 * 28 * 28
    assert eight.other_flops == 8 * one.other_flops


def test_layer_normalization_in_its_operators():
    """Mean, squared distance, mean, epsilon, 1/sqrt, scale, two products, shift: 9 an element and 4 a row."""
    rows, width = 5, 8
    file = LiteRTFile(export.to_float32(stack((rows, width), layers.LayerNormalization(epsilon=1e-6))))
    flops = {}
    for found in operators(file):
        flops[found.kind] = flops.get(found.kind, 0) + found.cost.other_flops
    n = rows * width
    assert flops == {
        "MEAN": 2 * n, "SQUARED_DIFFERENCE": 2 * n, "ADD": rows + n, "RSQRT": 2 * rows, "MUL": 3 * n, "SUB": n,
    }  # fmt: skip


def test_an_lstm_in_one_operator():
    steps, inputs, units = 10, 6, 5
    x = keras.Input((steps, inputs), batch_size=1)
    model = with_random_weights(keras.Model(x, layers.LSTM(units, return_sequences=True)(x)))
    file = LiteRTFile(export.to_float32(model))
    (found,) = [o for o in operators(file) if o.kind == "UNIDIRECTIONAL_SEQUENCE_LSTM"]
    expected = keras_cost(model).total
    assert found.cost.macs == expected.macs == steps * 4 * units * (inputs + units)
    assert found.cost.other_flops == expected.other_flops
    assert found.cost.parameters == 4 * units * (inputs + units + 1)


def test_an_lstm_of_another_form_is_listed_not_guessed():
    x = keras.Input((4, 3), batch_size=1)
    file = LiteRTFile(export.to_float32(with_random_weights(keras.Model(x, layers.LSTM(2, return_sequences=True)(x)))))
    place = next(o.index for o in operators(file) if o.kind == "UNIDIRECTIONAL_SEQUENCE_LSTM")

    def with_peepholes(model):
        op = model.subgraphs[0].operators[place]
        op.inputs = [op.inputs[13] if i == 9 else x for i, x in enumerate(op.inputs)]  # a vector for the cell state

    found = operators(repacked(file, with_peepholes))[place]
    assert not found.counted
    assert "peepholes" in found.note


def test_float16_weights_are_two_bytes_and_unpacked_by_operators_of_their_own():
    model = stack((16,), layers.Dense(8, "relu"), layers.Dense(4))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations, converter.target_spec.supported_types = [tf.lite.Optimize.DEFAULT], [tf.float16]
    found = operators(LiteRTFile(converter.convert()))
    unpacked = [x for x in found if x.kind == "DEQUANTIZE"]
    weights = sum(x.cost.parameters for x in unpacked)
    assert weights == model.count_params() == sum(x.cost.parameters for x in found)
    assert sum(x.cost.bytes_read for x in unpacked) == 2 * weights
    assert sum(x.cost.macs for x in found) == 16 * 8 + 8 * 4


def test_a_table_is_counted_once_and_only_its_rows_are_read(transformer):
    model, file = transformer
    found = operators(file)
    (table,) = [x for x in found if x.kind == "GATHER" and x.inputs[0].shape == (11, 8)]
    assert table.cost.bytes_read == 5 * 4 + 5 * 8 * 4  # indices and rows
    total = sum(x.cost.parameters for x in found)
    constants = 5 * 8 + 8 + 5 * 5  # the sinusoids, the scale and the causal mask are constants of the file, too
    assert model.count_params() <= total <= model.count_params() + constants


def test_what_only_works_out_shapes_costs_nothing_and_says_so(transformer):
    notes = {x.note for x in operators(transformer[1]) if x.kind in ("SHAPE", "REDUCE_PROD", "PACK")}
    assert notes == {SHAPES_ONLY}


def repacked(file, change):
    """The file after `change` to its model."""
    model = schema.ModelT.InitFromPackedBuf(file.content, 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return LiteRTFile(bytes(builder.Output()))


def of_kind(index, kind, name=None):
    def change(model):
        op = model.subgraphs[0].operators[index]
        model.operatorCodes.append(
            schema.OperatorCodeT(
                builtinCode=getattr(schema.BuiltinOperator, kind), deprecatedBuiltinCode=32, customCode=name
            )
        )
        op.opcodeIndex = len(model.operatorCodes) - 1
        op.builtinOptions, op.builtinOptionsType = None, 0

    return change


@pytest.mark.parametrize(
    ("kind", "name", "called"),
    [("CUSTOM", b"my_op", "CUSTOM my_op"), ("WHILE", None, "WHILE"), ("COMPLEX_ABS", None, "COMPLEX_ABS")],
)
def test_what_is_not_counted_is_listed_by_name(article, kind, name, called):
    changed = repacked(article["float32"], of_kind(2, kind, name))
    found = operators(changed)
    assert (found[2].kind, found[2].counted, found[2].cost.flops) == (called, False, 0)
    assert found[2].cost.parameters == 3 * 3 * 32 * 64 + 64, "its parameters are known all the same"
    assert [why for why in cost(changed).not_counted.values() if called in why]
    assert len(cost(changed).layers) == 8


def test_a_kind_without_a_formula_is_listed_where_its_shapes_are_known(article):
    def change(model):
        of_kind(2, "COMPLEX_ABS")(model)
        for tensor in model.subgraphs[0].tensors:
            tensor.shapeSignature = None

    file = repacked(article["float32"], change)
    found = operators(file)
    assert [(x.kind, x.note) for x in found if not x.counted] == [
        ("COMPLEX_ABS", "this kind of operator has no formula here")
    ]
    assert found[2].cost.bytes_written == 11 * 11 * 64 * 4
    whole = cost(article["float32"]).total
    assert cost(file).total.macs == whole.macs - 11 * 11 * 64 * 3 * 3 * 32


def test_behind_a_shape_that_is_not_known_nothing_is_guessed(article):
    def change(model):
        of_kind(0, "CUSTOM", b"my_op")(model)

    later = operators(repacked(article["float32"], change), batch=1)
    assert not any(x.counted for x in later if x.kind in ("CONV_2D", "MAX_POOL_2D"))
    assert later[2].note == "its shapes depend on the data"


def test_a_batch_that_the_file_is_not_made_for_is_refused(article):
    def fix(model):
        for tensor in model.subgraphs[0].tensors:
            tensor.shapeSignature = None
        model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape = [2, 28, 28, 1]

    with pytest.raises(LiteRTError, match=r"batch=5 was asked for, and input .* of the file is for a batch of 2"):
        operators(repacked(article["float32"], fix), batch=5)
    for batch in (0, -1, 2.0, True):
        with pytest.raises(LiteRTError, match="a batch has at least one example"):
            operators(article["float32"], batch=batch)


@pytest.mark.parametrize("size", range(1, 14))
@pytest.mark.parametrize("window", range(1, 5))
@pytest.mark.parametrize("stride", range(1, 4))
def test_windows_are_tensorflow_s(size, window, stride):
    for dilation in (1, 2) if stride == 1 else (1,):
        for code, padding in ((schema.Padding.SAME, "SAME"), (schema.Padding.VALID, "VALID")):
            if padding == "VALID" and dilation * (window - 1) + 1 > size:
                continue
            x, w = np.zeros((1, size, 1), np.float32), np.zeros((window, 1, 1), np.float32)
            there = tf.nn.conv1d(x, w, stride, padding, dilations=dilation).shape[1]
            assert windows(size, window, stride, dilation, code) == there


def test_activations_have_one_count_for_both_kinds_of_model():
    for name, kind in (("sigmoid", "LOGISTIC"), ("tanh", "TANH"), ("gelu", "GELU"), ("elu", "ELU")):
        found = operators(LiteRTFile(export.to_float32(stack((6,), layers.Activation(name)))))
        assert [x.cost.other_flops for x in found if x.kind == kind] == [6 * ACTIVATION_FLOPS[name]]


# --- one operator cut out ----------------------------------------------------------------------


def run_in_parts(file, whole):
    """Each operator as a file of its own, fed with what the ones before it gave; how many ran."""
    graph = file._model.subgraphs[0]
    index = {t.name.decode(): i for i, t in enumerate(graph.tensors)}
    values = {i: whole.get_tensor(i) for i in graph.inputs}
    ran = 0
    for op in operators(file):
        if op.note == SHAPES_ONLY:
            continue
        part = interpreter(cut(file, op.index).content)
        for details in part.get_input_details():
            part.set_tensor(details["index"], values[index[details["name"]]])
        part.invoke()
        ran += 1
        for details in part.get_output_details():
            i = index[details["name"]]
            values[i] = part.get_tensor(details["index"])
            assert values[i].dtype == whole.get_tensor(i).dtype
            assert values[i].tobytes() == whole.get_tensor(i).tobytes(), f"{op.index} {op.kind}"
    return ran


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_the_parts_one_by_one_give_the_same_bytes_as_the_whole(article, name):
    assert run_in_parts(article[name], run(article[name].content)) == 8


def test_the_parts_of_other_networks_too(small, transformer):
    for file in (small[1], transformer[1]):
        assert run_in_parts(file, run(file.content)) >= 1


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_a_part_runs_with_the_kernels_that_are_timed(article, name):
    """XNNPACK's, and for a batch."""
    part = cut(article[name], 2, batch=4)
    ran = part.interpreter(4)
    details = ran.get_input_details()[0]
    assert tuple(details["shape"]) == (4, 13, 13, 32)
    ran.set_tensor(details["index"], np.ones(details["shape"], details["dtype"]))
    ran.invoke()
    assert ran.get_tensor(ran.get_output_details()[0]["index"]).shape == (4, 11, 11, 64)
    (counted,) = operators(part, batch=4)
    assert counted.cost == operators(article[name], batch=4)[2].cost


def test_what_can_t_be_cut_out_is_said(article, transformer):
    for index in (8, -1, 2.0, True):
        with pytest.raises(LiteRTError, match="the file has operators 0 to 7"):
            cut(article["float32"], index)
    shape = next(x.index for x in operators(transformer[1]) if x.kind == "SHAPE")
    with pytest.raises(LiteRTError, match=r"\(SHAPE\) can't be cut out: works out a shape"):
        cut(transformer[1], shape)
    with pytest.raises(LiteRTError, match=r"\(WHILE\) can't be cut out: it calls another graph"):
        cut(repacked(article["float32"], of_kind(2, "WHILE")), 2)
    unknown = repacked(article["float32"], of_kind(0, "CUSTOM", b"my_op"))
    with pytest.raises(LiteRTError, match="can't be cut out: the shape of .* depends on the data"):
        cut(unknown, 1)


# --- damaged files -----------------------------------------------------------------------------


def answered(content):
    """Count the file: what LiteRTError says, if that. Any other error fails the test."""
    try:
        file = LiteRTFile(content)
        found = operators(file)
        for op in found[:3]:
            cut(file, op.index)
    except LiteRTError as error:
        return str(error)
    return ""


@given(st.data())
@settings(max_examples=150, deadline=2000, derandomize=True)
def test_no_damage_gets_past_the_reader(article, transformer, data):
    content = data.draw(st.sampled_from([article["int8"].content, transformer[1].content]))
    # what is not weights stands at the end and at the beginning of the file
    places = st.integers(0, 3000) | st.integers(len(content) - 6000, len(content) - 1)
    changed = bytearray(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    for place in data.draw(st.lists(places, max_size=8)):
        if place < len(changed):
            changed[place] = data.draw(st.integers(0, 255))
    assert len(answered(bytes(changed))) < 1000


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=2000, derandomize=True)
def test_garbage_behind_the_mark_is_refused(content):
    with pytest.raises(LiteRTError):
        operators(LiteRTFile(b"\x1c\0\0\0TFL3" + content))


def tensor_change(**values):
    def change(model):
        for name, value in values.items():
            setattr(model.subgraphs[0].tensors[model.subgraphs[0].operators[0].outputs[0]], name, value)

    return change


def operator_change(**values):
    def change(model):
        for name, value in values.items():
            setattr(model.subgraphs[0].operators[0], name, value)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (tensor_change(shape=[2**30, 2**30, 1, 1], shapeSignature=None), "has the shape"),
        (tensor_change(shape=[1, -5, 26, 32], shapeSignature=None), "has the shape"),
        (tensor_change(shape=[1, 25, 26, 32], shapeSignature=None), r"gives \[1, 26, 26, 32\], where the file says"),
        (tensor_change(shapeSignature=[-1, 26]), "and the signature"),
        (tensor_change(buffer=4_000), "has no buffer"),
        (tensor_change(type=99), "of type 99, which there is not"),
        (operator_change(opcodeIndex=77), "an operator is of no kind"),
        (operator_change(inputs=[0, 1, 5_000]), "uses a tensor that is none of its"),
        (operator_change(outputs=[-1]), "uses a tensor that is none of its"),
        (operator_change(inputs=[0]), r"operator 0 \(CONV_2D\) makes no sense"),
        (operator_change(inputs=[]), r"operator 0 \(CONV_2D\) makes no sense"),
        (operator_change(builtinOptions=schema.ReshapeOptionsT(), builtinOptionsType=17), "makes no sense"),
        (lambda model: setattr(model, "subgraphs", []), "it has no graph"),
        (lambda model: setattr(model.buffers[3], "data", [1, 2, 3]), "bytes and has 3"),
        (lambda model: setattr(model.operatorCodes[0], "builtinCode", 9_999), "there is no operator number 9999"),
    ],
)
def test_damage_is_named(article, change, says):
    with pytest.raises(LiteRTError, match=says):
        operators(repacked(article["float32"], change))


def test_a_few_bytes_that_stand_for_a_billion_tensors_are_refused_at_once():
    """Vectors of offsets may point at one table again and again: 20,000 graphs of 20,000 tensors in 160 kB."""
    many = 20_000
    builder = flatbuffers.Builder(1024)

    def again(table):
        builder.StartVector(4, many, 4)
        for _ in range(many):
            builder.PrependUOffsetTRelative(table)
        return builder.EndVector()

    schema.TensorStart(builder)
    tensors = again(schema.TensorEnd(builder))
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graphs = again(schema.SubGraphEnd(builder))
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    with pytest.raises(LiteRTError, match=r"it speaks of .* tables in 1\d\d,\d\d\d bytes"):
        operators(LiteRTFile(bytes(builder.Output())))
