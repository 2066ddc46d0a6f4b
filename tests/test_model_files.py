"""Model files of both Keras, whole, damaged and hostile. A canary file proves that no code of a file has run."""

import copy
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwlimits.training import export, model_files, zoo
from hwlimits.training.cost import cost
from hwlimits.training.keras import keras, keras3, tf
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.model_files import ModelFileError, load
from hwlimits.training.operators import operators

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


def layered(k):
    """A model with the things that configurations differ in: shared layers, a model within, wrappers, cells, merges."""
    layers = k.layers
    one = k.Input((6, 4), name="one")
    inner = k.Sequential([k.Input((4,)), layers.Dense(3, "gelu"), layers.Dropout(0.1)], name="inner")
    shared = layers.Dense(4, kernel_regularizer="l2", kernel_constraint=k.constraints.MaxNorm(2))
    x = layers.Add()([shared(one), shared(layers.LayerNormalization()(one))])
    x = layers.TimeDistributed(inner)(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.Bidirectional(layers.LSTM(2, return_sequences=True))(x)
    x = layers.RNN(layers.GRUCell(3), return_sequences=True)(x)
    x = layers.Conv1D(4, 2, activation="relu", kernel_initializer=k.initializers.HeNormal())(x)
    return k.Model(one, [layers.Softmax()(x), layers.Dense(2)(layers.GlobalAveragePooling1D()(x))], name="layered")


def with_mathematics_2():
    x = keras.Input((4, 6))
    y = tf.nn.relu(2.0 * x + 1.0)
    y = tf.concat([y, 1.0 - y], axis=-1)[:, 1:3]
    y = tf.reduce_mean(tf.matmul(y, y, transpose_b=True), axis=-1, keepdims=True)
    return keras.Model(x, keras.layers.Dense(3)(y))


def with_mathematics_3():
    x = keras3.Input((4, 6))
    y = keras3.ops.relu(2.0 * x + 1.0)
    y = keras3.ops.concatenate([y, 1.0 - y], axis=-1)[:, 1:3]
    y = keras3.ops.mean(keras3.ops.matmul(y, keras3.ops.transpose(y, (0, 2, 1))), axis=-1, keepdims=True)
    return keras3.Model(x, keras3.layers.Dense(3)(y))


def mixed_3():
    x = keras3.Input((5,))
    return keras3.Model(x, keras3.layers.Dense(3, dtype="mixed_float16")(x))


MODELS = {
    "tf_keras layered": lambda: layered(keras),
    "tf_keras mathematics": with_mathematics_2,
    "tf_keras article": lambda: zoo.build("article-cnn"),
    "Keras 3 layered": lambda: layered(keras3),
    "Keras 3 mathematics": with_mathematics_3,
    "Keras 3 mixed": mixed_3,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    found = MODELS[request.param]()
    found.compile("adam", "mse")
    return found


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that hostile code would write; none may be there in the end."""
    path = tmp_path / "canary"
    monkeypatch.chdir(tmp_path)
    yield path
    assert not path.exists(), "code of the file has run"


# --- what is loaded ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_counts_as_the_model_that_was_saved(model, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    model.save(path)
    found = load(path)
    assert type(found).__module__.split(".")[0] == type(model).__module__.split(".")[0]
    assert found.count_params() == model.count_params()
    before, after = cost(model), cost(found)
    assert [(x.kind, x.output_shape, x.cost) for x in after.layers] == [
        (x.kind, x.output_shape, x.cost) for x in before.layers
    ]
    assert after.not_counted.keys() == before.not_counted.keys()


@pytest.mark.parametrize("name", ["mobilenet-v2", "efficientnet-b0"])
def test_networks_of_the_zoo_survive_being_saved(name, tmp_path):
    model = zoo.build(name)
    model.save(tmp_path / "model.keras")
    assert cost(load(tmp_path / "model.keras")).total == cost(model).total


def test_the_weights_are_not_loaded(tmp_path):
    zoo.build("lenet-300-100").save(tmp_path / "model.keras")
    assert not any(np.any(w) for w in load(tmp_path / "model.keras").get_weights())


def test_a_litert_file_and_a_name_of_the_zoo(tmp_path, monkeypatch):
    content = export.to_float32(zoo.build("lenet-300-100"))
    (tmp_path / "lenet.tflite").write_bytes(content)
    found = load(tmp_path / "lenet.tflite")
    assert isinstance(found, LiteRTFile)
    assert sum(x.cost.macs for x in operators(found)) == 266_200
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenet-5-caffe").mkdir()
    assert load("lenet-5-caffe").count_params() == 431_080
    with pytest.raises(ModelFileError, match="this is a folder"):
        load("./lenet-5-caffe")


def test_the_content_says_what_a_file_is_not_its_name(tmp_path):
    zoo.build("lenet-300-100").save(tmp_path / "model.keras")
    (tmp_path / "model.keras").rename(tmp_path / "model.tflite")
    assert load(str(tmp_path / "model.tflite")).count_params() == 266_610


# --- what is no model file ---------------------------------------------------------------------


def pytorch(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02.")


def archive_of(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"{}")

    return write


def weights_only(path):
    zoo.build("lenet-300-100").save_weights(path)


def another_hdf5(path):
    with h5py.File(path, "w") as file:
        file["temperature"] = np.zeros(3)


def saved_model(path):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"")


NO_MODELS = {
    "model.h5 ": (lambda path: path.write_bytes(b""), "the file is empty"),
    "model.keras": (lambda path: path.write_bytes(b"not a model"), r"no \.keras file, whatever its name says"),
    "notes.txt": (lambda path: path.write_text("hello"), "no model file known here: it starts with b'hello'"),
    "folder": (lambda path: path.mkdir(), "this is a folder, no file"),
    "saved": (saved_model, "a SavedModel"),
    "pipe": (os.mkfifo, "a device or a pipe"),
    "model.pt": (pytorch, "a PyTorch file: to read its pickle is to run its code"),
    "old.pt": (lambda path: path.write_bytes(pickle.dumps([1])), "a pickle, as PyTorch writes them"),
    "model.onnx": (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch"), "an ONNX model"),
    "arrays.npz": (lambda path: np.savez(path, x=1), "a zip archive without config.json"),
    "part.keras": (archive_of("config.json", "metadata.json"), r"without model\.weights\.h5"),
    "weights.h5": (weights_only, r"weights alone \(save_weights\)"),
    "other.h5": (another_hdf5, "weights alone|no Keras model"),
    "short.tflite": (lambda path: path.write_bytes(b"\x1c\0\0\0TFL3"), "a damaged LiteRT file"),
}


@pytest.mark.parametrize("name", NO_MODELS)
def test_what_is_no_model_file_is_named(name, tmp_path):
    make, says = NO_MODELS[name]
    make(tmp_path / name)
    with pytest.raises(ModelFileError, match=says) as error:
        load(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing.keras", r"nothing\.keras: there is no such file"),
        ("resnet50", "there is no such file, and no network of the zoo is called so: did you mean resnet-50"),
        ("", "no path of a model file"),
        ("a\0b", "no path of a model file"),
        ("x" * 5000 + ".h5", "can't be read: File name too long"),
    ],
)
def test_what_is_not_there_is_said(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match=says):
        load(name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said(tmp_path):
    (tmp_path / "model.keras").touch(0o000)
    with pytest.raises(ModelFileError, match="can't be read: Permission denied"):
        load(tmp_path / "model.keras")


# --- hostile configurations --------------------------------------------------------------------


def marshalled(canary):
    """A Lambda layer's code as both Keras store it."""
    layer = keras.layers.Lambda(eval(f"lambda x: (open({str(canary)!r}, 'w').close(), x)[1]"))
    return layer.get_config()["function"]


def dense(**options):
    layer = {"module": "keras.layers", "class_name": "Dense", "registered_name": None,
             "config": {"name": "dense", "units": 3}}  # fmt: skip
    return layer | {"config": layer["config"] | options}


def thing(module, class_name, config=None, **more):
    return {"module": module, "class_name": class_name, "config": config or {}, "registered_name": None} | more


def tf_function(name, *args):
    layer = thing("keras.src.layers.core.tf_op_layer", "TFOpLambda", {"name": "op", "function": name})
    return layer | {"registered_name": "TFOpLambda", "name": "op", "inbound_nodes": [["input", 0, 0, *args]]}


LAMBDA, OUTSIDE, UNKNOWN = "is a Lambda", "code from outside Keras", "which this course does not load"
REACHES = "reaches outside its folder"


def hostile(canary):
    """Name -> (a layer, what is said of it). All of them have worked, or nearly, against some version of Keras."""
    code = marshalled(canary)
    a_lambda = thing("keras.layers", "Lambda", {"name": "evil", "function": code})
    stored = {"class_name": "__lambda__", "config": {"value": code[0]}}
    run = {"class_name": "function", "module": "os", "config": "system", "registered_name": "system"}
    return {
        "Lambda": (a_lambda, "evil is a Lambda: Python code stored in the file"),
        "Lambda by another module": (thing("keras.src.layers.core.lambda_layer", "Lambda", {}), LAMBDA),
        "Lambda without a module": ({"class_name": "Lambda", "config": {"function": code}}, LAMBDA),
        "Lambda in TimeDistributed": (thing("keras.layers", "TimeDistributed", {"layer": a_lambda}), LAMBDA),
        "Lambda in Bidirectional": (
            thing("keras.layers", "Bidirectional", {"layer": dense(), "backward_layer": a_lambda}), LAMBDA),
        "Lambda in a model within": (thing("keras", "Sequential", {"name": "inner", "layers": [a_lambda]}),
                                     "inner.*/evil is a Lambda"),
        "Lambda as a cell": (thing("keras.layers", "RNN", {"cell": a_lambda}), LAMBDA),
        "Lambda among cells": (thing("keras.layers", "RNN", {"cell": thing("keras.layers", "StackedRNNCells",
                               {"cells": [a_lambda]})}), LAMBDA),
        "lambda as an activation": (dense(activation=stored), "activation is a Lambda"),
        "lambda as an initializer": (dense(kernel_initializer=stored), LAMBDA),
        "lambda in an initializer": (
            dense(kernel_initializer=thing("keras.initializers", "Constant", {"value": stored})), LAMBDA),
        "lambda in build_config": (dense() | {"build_config": {"input_shape": stored}}, LAMBDA),
        "lambda in a call": (tf_function("math.add", {"y": stored}), LAMBDA),
        "os.system as an activation": (dense(activation=run), OUTSIDE),
        "os.system as a class": (thing("os", "system", {"command": f"touch {canary}"}), OUTSIDE),
        "subprocess.Popen": (thing("subprocess", "Popen", {"args": ["touch", str(canary)]}), OUTSIDE),
        "builtins.eval": (thing("builtins", "eval", {"source": "1"}), OUTSIDE),
        "eval as a function": (dense(activation=run | {"module": "builtins", "config": "eval"}), "eval, which is none"),
        "a function as a layer": (run | {"module": "builtins", "config": "exec"}, "the function exec, not one of"),
        "get_file": (dense(activation=run | {"module": "keras.utils", "config": "get_file"}), "which is none of"),
        "enable_unsafe_deserialization": (dense(activation=run | {"module": "keras.config",
            "config": "enable_unsafe_deserialization"}), "enable_unsafe_deserialization, which is none"),
        "tensorflow": (thing("tensorflow", "Module"), OUTSIDE),
        "keras_nlp": (thing("keras_nlp.models", "Backbone"), OUTSIDE),
        "a module that begins like keras": (thing("keras_evil.layers", "Dense"), OUTSIDE),
        "keras' own import of os": (thing("keras.src.utils.file_utils.os", "system"), UNKNOWN),
        "keras.utils": (thing("keras.utils", "get_file", {"origin": "http://localhost"}), UNKNOWN),
        "a custom class": (thing("my_module", "MyLayer", registered_name="mine>MyLayer"), OUTSIDE),
        "a custom class by its other name": (dense() | {"registered_name": "evil>Dense"}, "the custom class evil>"),
        "io.write_file": (tf_function("io.write_file", {"contents": "x", "filename": str(canary)}),
                          "calls tf.io.write_file: only plain arithmetic"),
        "raw_ops": (tf_function("raw_ops.WriteFile"), r"calls tf\.raw_ops\.WriteFile"),
        "py_function": (tf_function("py_function"), r"calls tf\.py_function"),
        "load_op_library": (tf_function("load_op_library"), r"calls tf\.load_op_library"),
        "compat.v1": (tf_function("compat.v1.py_func"), r"calls tf\.compat\.v1\.py_func"),
        "no function": (tf_function(["os", "system"]), "only plain arithmetic"),
        "TensorFlowOpLayer": (thing("keras.layers", "TensorFlowOpLayer", {"node_def": "..."}), UNKNOWN),
        "ClassMethod": (thing("keras.layers", "ClassMethod", {"cls_ref": "x"}), UNKNOWN),
        "TFSMLayer": (thing("keras.layers", "TFSMLayer", {"filepath": "x"}), UNKNOWN),
        "TorchModuleWrapper": (thing("keras.layers", "TorchModuleWrapper", {"module": "x"}), UNKNOWN),
        "StringLookup": (thing("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}), UNKNOWN),
        "TextVectorization": (thing("keras.layers", "TextVectorization", {"standardize": stored}), UNKNOWN),
        "another's initializer": (dense(kernel_initializer=thing("numpy", "load", {"file": "x"})), OUTSIDE),
        "a regularizer by a wrong name": (dense(kernel_regularizer="os.system"), "which is none of Keras'"),
        "an activation by a wrong name": (dense(activation="deserialize"), "deserialize, which is none of"),
        "bytes": (dense(units={"class_name": "__bytes__", "config": {"value": "x"}}), "__bytes__, which this course"),
        "a type": (dense(units={"class_name": "__typespec__", "spec_name": "x", "module": "os", "config": []}),
                   "__typespec__, which this course"),
        "objects in an array": (
            dense(units={"class_name": "__numpy__", "config": {"value": [stored], "dtype": "float32"}}),
            "an array that is not of numbers"),
        "an array of objects": (dense(units={"class_name": "__numpy__", "config": {"value": [1], "dtype": "object"}}),
                                "__numpy__, which this course"),
        "no class": (thing("keras.layers", ["Dense"]), "of no class"),
        "no arguments": (thing("keras.layers", "Dense", ["units"]), "has no arguments"),
        "a call on nothing": (tf_function("math.add") | {"inbound_nodes": [["_CONSTANT_VALUE", -1, [[1.0]], {"y": 1}]]},
                              "called without the output of another layer"),
        "deep": (thing("keras.layers", "TimeDistributed", {"layer": nested(100)}), "nested more than 60 deep"),
    }  # fmt: skip


def nested(depth):
    inner = dense()
    for _ in range(depth):
        inner = thing("keras.layers", "TimeDistributed", {"layer": inner})
    return inner


HOSTILE = list(hostile("canary"))


def sequential(*layers):
    start = thing("keras.layers", "InputLayer", {"batch_input_shape": [None, 4], "name": "input"})
    return {"module": "keras", "class_name": "Sequential", "registered_name": None,
            "config": {"name": "model", "layers": [start, *layers]}}  # fmt: skip


def weights(*shapes):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for i, shape in enumerate(shapes):
            file[f"layers/{i}/vars/0"] = np.zeros(shape, np.float32)
    return content.getvalue()


def write_keras(path, config, version="2.21.0", held=None, compression=zipfile.ZIP_STORED, **extra):
    content = config if isinstance(config, bytes | str) else json.dumps(config)
    members = {"metadata.json": json.dumps({"keras_version": version}), "config.json": content,
               "model.weights.h5": weights((4, 3), (3,)) if held is None else held} | extra  # fmt: skip
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return path


def write_h5(path, config, version="2.21.0"):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config if isinstance(config, bytes | str) else json.dumps(config)
        file.attrs["keras_version"] = version
        file["model_weights/dense/kernel"] = np.zeros((4, 3))
        file["model_weights/dense/bias"] = np.zeros(3)
    return path


def test_the_harmless_model_around_them_loads(tmp_path):
    for version in ("2.21.0", "3.15.1"):
        config = sequential(dense())
        if version[0] == "3":
            config["config"]["layers"][0]["config"] = {"batch_shape": [None, 4], "name": "input"}
        assert load(write_keras(tmp_path / "a.keras", config, version)).count_params() == 15
        assert load(write_h5(tmp_path / "a.h5", config, version)).count_params() == 15


@pytest.mark.parametrize("name", HOSTILE)
def test_no_code_of_a_file_is_run(name, canary, tmp_path):
    layer, says = hostile(canary)[name]
    for version in ("2.21.0", "3.15.1"):
        if layer["class_name"] == "TFOpLambda" and version[0] == "3":
            says = "which this course does not load|Lambda"
        with pytest.raises(ModelFileError, match=says):
            load(write_keras(tmp_path / "model", sequential(dense(), copy.deepcopy(layer)), version))
    with pytest.raises(ModelFileError, match=says):
        load(write_h5(tmp_path / "model", sequential(dense(), copy.deepcopy(layer)), version))


@pytest.mark.parametrize("name", ["Lambda", "TorchModuleWrapper", "TFSMLayer"])
def test_as_keras_itself_writes_them(name, canary, tmp_path):
    """A Lambda layer saved by each Keras, in each format."""
    if name != "Lambda":
        assert hasattr(keras3.layers, name), "the list of dangerous layers is of this Keras"
        return
    for k in (keras, keras3):
        x = k.Input((4,))
        model = k.Model(x, k.layers.Lambda(eval(f"lambda x: (open({str(canary)!r}, 'w').close(), x)[1]"))(x))
        canary.unlink()  # it ran when the model was made
        for suffix in (".keras", ".h5"):
            path = tmp_path / f"{k.__name__}{suffix}"
            model.save(path)
            canary.unlink(missing_ok=True)
            with pytest.raises(ModelFileError, match="is a Lambda: Python code stored in the file"):
                load(path)


def test_a_class_of_your_own_is_refused(tmp_path):
    class Mine(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Mine()
    model(np.zeros((1, 4)))
    model.save(tmp_path / "mine.keras")
    with pytest.raises(ModelFileError, match=r"the model is of a class of its own \(Mine\)"):
        load(tmp_path / "mine.keras")


def test_a_layer_that_the_process_has_registered_is_not_used_either(tmp_path, canary):
    @keras.saving.register_keras_serializable("evil")
    class Dense(keras.layers.Dense):
        def __init__(self, **options):
            canary.touch()
            super().__init__(**options)

    with pytest.raises(ModelFileError, match="the custom class evil>Dense"):
        load(write_keras(tmp_path / "a.keras", sequential(dense() | {"registered_name": "evil>Dense"})))
    with keras.saving.custom_object_scope({"Dense": Dense}):
        load(write_keras(tmp_path / "a.keras", sequential(dense())))


def test_a_pickle_in_place_of_the_weights_is_not_opened(tmp_path, canary):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    content = pickle.dumps(Evil())
    with pytest.raises(ModelFileError, match="HDF5"):
        load(write_keras(tmp_path / "a.keras", sequential(dense()), held=content))
    load(write_keras(tmp_path / "b.keras", sequential(dense()), **{"assets/data.bin": content}))


# --- absurd sizes ------------------------------------------------------------------------------


def functional(layers, outputs):
    return {"module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional",
            "config": {"name": "m", "layers": layers, "input_layers": [["input", 0, 0]],
                       "output_layers": [[outputs, 0, 0]]}}  # fmt: skip


def circle(*nodes):
    """Two layers, the first fed by the second."""
    start = thing("keras.layers", "InputLayer", {"batch_input_shape": [None, 4], "name": "input"})
    calls = [{"name": name, "inbound_nodes": [[[source, node, 0, {}]]]} for name, source, node in nodes]
    layers = [dense(name=call["name"]) | call for call in calls]
    return functional([start | {"name": "input", "inbound_nodes": []}, *layers], nodes[-1][0])


def twice(depth):
    """A model that calls a model twice, which calls a model twice, ...: 2 ** depth calls from a short text."""
    model = sequential(dense())
    for i in range(depth):
        start = thing("keras.layers", "InputLayer", {"batch_input_shape": [None, 4], "name": "input"})
        layer = model | {"name": "inner", "inbound_nodes": [[["input", 0, 0, {}]], [["inner", 0, 0, {}]]]}
        model = functional([start | {"name": "input", "inbound_nodes": []}, layer], "inner")
        model["config"]["name"] = f"m{i}"
    return model


ABSURD = {
    "units": (sequential(dense(units=10**12)), "asks for .* weights and more, and the file holds 15"),
    "more units than a number has": (sequential(dense(units=10**30)), "can't build|asks for"),
    "negative units": (sequential(dense(units=-3)), "Keras can't build its configuration"),
    "no units": (sequential(dense(units=None)), "Keras can't build its configuration"),
    "vocabulary": (sequential(thing("keras.layers", "Embedding", {"input_dim": 10**9, "output_dim": 10**6})),
                   "asks for"),
    "a recurrence": (sequential(thing("keras.layers", "RepeatVector", {"n": 3}),
                                thing("keras.layers", "LSTM", {"units": 10**9})), "asks for"),
    "filters": (sequential(thing("keras.layers", "Reshape", {"target_shape": [2, 2]}),
                           thing("keras.layers", "Conv1D", {"filters": 10**14, "kernel_size": 1})), "asks for"),
    "another weight": (sequential(dense(units=4)), r"asks for a weight \[4, 4\]|asks for"),
    "two calls of two calls of two": (twice(13), "its layers are called .* times; up to 5,000"),
    "a billion parts": (functional(
        [thing("keras.layers", "InputLayer", {"batch_input_shape": [None, 10**9], "name": "input"}, inbound_nodes=[],
               name="input"), tf_function("split", {"num_or_size_splits": 10**9, "axis": 1})], "op"),
        "splits something into more than 5,000 parts"),
    "a circle": (circle(("a", "b", 0), ("b", "a", 0)), "wait for each other, or for one that there is not"),
    "a call that there is not": (circle(("a", "input", 0), ("b", "a", 7)), "or for one that there is not"),
    "a layer that there is not": (circle(("a", "other", 0)), "can't build its configuration"),
    "ten thousand layers": (sequential(*[dense()] * 10_000), "its layers are called 10,001 times"),
    "no shape": (thing("keras", "Sequential", {"name": "m", "layers": [dense()]}), "not say what shape its input has"),
    "no layers": (thing("keras", "Sequential", {"name": "m"}), "can't build"),
}  # fmt: skip


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_configurations_are_refused_before_memory_is_taken(name, tmp_path):
    config, says = ABSURD[name]
    for write in (write_keras, write_h5):
        start = time.process_time()
        with pytest.raises(ModelFileError, match=says):
            load(write(tmp_path / "a", config))
        assert time.process_time() - start < 20


def test_a_variable_that_is_too_large_is_never_made():
    budget = model_files._Budget(10, tf)
    made = []
    budget.create(
        lambda **options: made.append(options["initial_value"]().shape), initial_value=lambda: tf.ones((2, 3))
    )
    assert made == [(2, 3)]
    with pytest.raises(ValueError, match="too many weights"):
        budget.create(lambda **_: pytest.fail("made all the same"), initial_value=lambda: tf.ones((10**6, 10**6)))


def test_a_recurrent_layer_is_not_unrolled_a_million_times(tmp_path):
    steps = thing("keras.layers", "RepeatVector", {"n": 1_000_000})
    lstm = thing("keras.layers", "LSTM", {"units": 3, "unroll": True})
    found = load(write_keras(tmp_path / "a.keras", sequential(steps, lstm), held=weights((4, 12), (3, 12), (12,))))
    assert found.count_params() == 4 * 3 * (4 + 3 + 1)


def test_keras_3_is_stopped_as_well(tmp_path):
    config = sequential(dense(units=10**12))
    config["config"]["layers"][0]["config"] = {"batch_shape": [None, 4], "name": "input"}
    with pytest.raises(ModelFileError, match="asks for .* weights and more, and the file holds 15"):
        load(write_keras(tmp_path / "a.keras", config, "3.15.1"))
    assert keras3.layers.Dense(2)(np.zeros((1, 4))).shape == (1, 2), "and works on as before"


# --- hostile archives and HDF5 files -----------------------------------------------------------


def bomb(path):
    write_keras(path, sequential(dense()), compression=zipfile.ZIP_DEFLATED, held=b"\0" * 30_000_000)


def large_config(path):
    write_keras(path, b"[" + b"1," * 9_000_000 + b"1]")


def twice_the_same(path):
    write_keras(path, sequential(dense()))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", json.dumps(sequential(dense(units=9))))


def encrypted(path):
    write_keras(path, sequential(dense()))
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(mark)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(mark, place + 4)
    path.write_bytes(content)


def wrong_size(path):
    """The directory says that the weights are longer than what is stored."""
    write_keras(path, sequential(dense()))
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 2**31 - 1, 2**31 - 1)
    path.write_bytes(content)


def flipped_weights(path):
    write_keras(path, sequential(dense()))
    content = bytearray(path.read_bytes())
    content[content.find(b"\x89HDF") + 900] ^= 1
    path.write_bytes(content)


ARCHIVES = {
    "bomb": (bomb, r"would unpack from [\d,]+ to 30,000,000 bytes.*not unpacked"),
    "large configuration": (large_config, "its config.json has 18,000,003 bytes"),
    "twice": (twice_the_same, "two members of one name"),
    "encrypted": (encrypted, "is encrypted: decrypt it first"),
    "upwards": (lambda path: write_keras(path, sequential(dense()), **{"../../evil": b"x"}), REACHES),
    "absolute": (lambda path: write_keras(path, sequential(dense()), **{"/tmp/evil": b"x"}), REACHES),
    "backwards": (lambda path: write_keras(path, sequential(dense()), **{"..\\evil": b"x"}), REACHES),
    "lzma": (lambda path: write_keras(path, sequential(dense()), compression=zipfile.ZIP_LZMA), "packed in a way"),
    "wrong size": (wrong_size, "damaged"),
    "flipped weights": (flipped_weights, "damaged .keras file .*CRC"),
    "no JSON": (lambda path: write_keras(path, b"{"), "its config.json is no JSON"),
    "a list": (lambda path: write_keras(path, b"[]"), "its config.json holds list, not a configuration"),
    "not even text": (lambda path: write_keras(path, b"\xff\xfe\x00"), "its config.json is no JSON"),
    "deep JSON": (lambda path: write_keras(path, b"[" * 100_000), "its config.json is no JSON"),
    "a long number": (lambda path: write_keras(path, b'{"a": ' + b"1" * 10_000 + b"}"), "its config.json is no JSON"),
    "an empty configuration": (lambda path: write_keras(path, b"{}"), "a class of its own"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives_are_refused(name, tmp_path, monkeypatch):
    make, says = ARCHIVES[name]
    make(tmp_path / "model.keras")
    monkeypatch.setattr(model_files.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ModelFileError, match=says):
        load(tmp_path / "model.keras")
    assert os.listdir(tmp_path) == ["model.keras"], "nothing is left behind"


def external_link(file):
    file["layers/x"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file):
    file["layers/x"] = h5py.SoftLink("/layers/0")


def virtual(file):
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (10,))
    file.create_virtual_dataset("layers/x", layout)


def external_storage(file):
    file.create_dataset("layers/x", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def packed(file):
    file.create_dataset("layers/x", (1000, 1000), "f4", compression="gzip")


def never_written(file):
    file.create_dataset("layers/x", (10**6, 10**6), "f4")


def around(file):
    file["layers/x"] = file["/layers"]


def deep(file):
    file.create_group("/".join(["g"] * 200))


HDF5 = {
    external_link: "is a link to somewhere else",
    soft_link: "is a link to somewhere else",
    virtual: "keeps its data in another file",
    external_storage: "keeps its data in another file",
    packed: "is compressed inside the file",
    never_written: r"has the shape \[1000000, 1000000\] and only 0 bytes",
    deep: "nested more than 100 deep",
}


@pytest.mark.parametrize("change", HDF5, ids=lambda change: change.__name__)
def test_hostile_hdf5_is_refused(change, tmp_path):
    content = io.BytesIO(weights((4, 3), (3,)))
    with h5py.File(content, "a") as file:
        change(file)
    with pytest.raises(ModelFileError, match=HDF5[change]):
        load(write_keras(tmp_path / "a.keras", sequential(dense()), held=content.getvalue()))
    path = write_h5(tmp_path / "a.h5", sequential(dense()))
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(ModelFileError, match=HDF5[change]):
        load(path)


def test_a_group_that_holds_itself_is_walked_once(tmp_path):
    content = io.BytesIO(weights((4, 3), (3,)))
    with h5py.File(content, "a") as file:
        around(file)
    assert load(write_keras(tmp_path / "a.keras", sequential(dense()), held=content.getvalue())).count_params() == 15


@pytest.mark.parametrize("ending", ["import os; os.kill(os.getpid(), 11)", "while True: pass"])
def test_hdf5_may_end_its_process_or_never_end(ending, tmp_path, monkeypatch):
    """The C library does both on damaged files; here it is played."""
    (tmp_path / "reader.py").write_text(ending)
    monkeypatch.setattr(model_files.h5_reader, "__file__", str(tmp_path / "reader.py"))
    monkeypatch.setattr(model_files, "READ_TIMEOUT_S", 2)
    with pytest.raises(ModelFileError, match="ended the process that read it|had not ended after 2 s"):
        load(write_h5(tmp_path / "a.h5", sequential(dense())))


# --- random damage -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One small file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    write_keras(folder / "a.keras", sequential(dense()))
    write_h5(folder / "a.h5", sequential(dense()))
    (folder / "a.tflite").write_bytes(export.to_float32(zoo.build("lenet-300-100")))
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".tflite"])
@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_is_refused_or_harmless(suffix, data, good, tmp_path):
    content = good[suffix]
    changed = bytearray(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=10)):
        if place < len(changed):
            changed[place] = data.draw(st.integers(0, 255))
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(changed)
    try:
        load(path)
    except ModelFileError as error:
        said = str(error)
        assert "\n" not in said, said


def test_a_litert_file_is_loaded_and_counted_without_tensorflow(good, tmp_path):
    (tmp_path / "a.tflite").write_bytes(good[".tflite"])
    program = (
        "import sys\nfrom hwlimits.training import model_files, operators\n"
        f"print(operators.cost(model_files.load({str(tmp_path / 'a.tflite')!r})).total.macs)\n"
        "print('tensorflow' in sys.modules, 'tf_keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["266200", "False", "False"]
