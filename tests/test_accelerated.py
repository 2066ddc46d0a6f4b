"""A training step in each precision, with and without XLA: what it computes, and that it is what was asked for."""

import contextlib
import dataclasses
import os
import random
import subprocess
import sys
import types

import numpy as np
import pytest

from hwlimits.machine.timing import Comparison, Timing
from hwlimits.training import accelerated, in_force
from hwlimits.training.accelerated import (
    AcceleratedError,
    StepTimes,
    compare,
    gpus,
    grow_memory,
    training_step,
    wait,
)
from hwlimits.training.in_force import products
from hwlimits.training.keras import keras, tf

ROUNDOFF = {"float32": 2.0**-24, "mixed_float16": 2.0**-11, "mixed_bfloat16": 2.0**-8}
BATCH = 8

each_way = pytest.mark.parametrize(
    ("precision", "xla"), [(p, xla) for p in ROUNDOFF for xla in (False, True)], ids=lambda v: str(v)
)


def small(hidden=None):
    """Six inputs, five hidden units (or the layer given), three classes."""
    hidden = hidden or keras.layers.Dense(5, activation="tanh", name="hidden")
    return keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(3, activation="softmax")], name="small")


def descent(rate=1.0):
    return keras.optimizers.SGD(rate)


@pytest.fixture(scope="module")
def steps():
    """One step of the small network each way, by (precision, xla)."""
    return {
        (p, xla): training_step(small, BATCH, p, xla=xla, optimizer=descent())
        for p in ROUNDOFF
        for xla in (False, True)
    }


def by_hand(weights, x, y):
    """Loss and gradients of the small network in float64, by the chain rule."""
    w1, b1, w2, b2 = (np.asarray(w, float) for w in weights)
    hidden = np.tanh(x @ w1 + b1)
    scores = np.exp(hidden @ w2 + b2)
    shares = scores / scores.sum(axis=1, keepdims=True)
    loss = -np.log(shares[np.arange(len(y)), y]).mean()
    back = (shares - np.eye(3)[y]) / len(y)
    back_hidden = (back @ w2.T) * (1 - hidden**2)
    return loss, [x.T @ back_hidden, back_hidden.sum(axis=0), hidden.T @ back, back.sum(axis=0)]


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


# what a step computes


@each_way
def test_loss_and_gradients_are_those_of_the_chain_rule_within_the_precision(steps, precision, xla):
    """At a rate of 1, plain descent takes the gradient away: the weights tell it, unscaled."""
    step = steps[precision, xla]
    random = np.random.default_rng(0)
    before = [random.normal(size=w.shape).astype(np.float32) for w in step.model.get_weights()]
    step.model.set_weights(before)
    loss, gradients = by_hand(before, *(t.numpy() for t in step.given))
    found = float(wait(step())[0])
    taken = flat(before) - flat(step.model.get_weights())
    error = np.linalg.norm(taken - flat(gradients)) / np.linalg.norm(flat(gradients))
    unit = ROUNDOFF[precision]
    assert abs(found - loss) < 4 * unit * loss
    assert error < 8 * unit
    assert error > unit / 16, "better than this precision can be: it is not in force"


@each_way
def test_what_is_returned_is_read_after_the_step(steps, precision, xla):
    """Reading it waits for the update, as it is a part of it."""
    step = steps[precision, xla]
    before = step.model.get_weights()[0][0, 0]
    result = step()
    assert (result.dtype, result.shape) == (tf.float32, (2,))
    after = step.model.get_weights()[0][0, 0]
    assert wait(result)[1] == after
    assert after != before
    assert isinstance(wait(result), np.ndarray)


def test_the_first_weights_depend_on_the_seed_alone(steps):
    losses = {way: step.first_loss for way, step in steps.items()}
    for (precision, _), loss in losses.items():
        assert loss == pytest.approx(losses["float32", False], rel=8 * ROUNDOFF[precision])
    other = training_step(small, BATCH, optimizer=descent(), seed=1)
    assert abs(other.first_loss - losses["float32", False]) > 1e-3


# that it is what was asked for


@each_way
def test_types_scaling_and_xla_are_as_asked(steps, precision, xla):
    step = steps[precision, xla]
    kind = precision.removeprefix("mixed_")
    assert [layer.compute_dtype for layer in step.model.layers] == [kind, "float32"]
    assert {v.dtype for v in step.model.variables} == {tf.float32}
    assert step.model.output.dtype == tf.float32
    assert isinstance(step.model.optimizer, keras.mixed_precision.LossScaleOptimizer) == (kind == "float16")
    expected = {kind: 2, "float32": 3} if kind != "float32" else {"float32": 5}
    assert dict(products(step)) == expected, "two forward, two gradients of weights, one of what is between"
    attributes = step.function.get_concrete_function(*step.given).function_def.attr
    assert attributes["_XlaMustCompile"].b == xla


def opaque():
    """A network with Python code in its midst, which XLA can't compile."""
    inputs = keras.Input((6,))
    x = keras.layers.Lambda(lambda x: tf.ensure_shape(tf.numpy_function(lambda v: v, [x], x.dtype), (BATCH, 6)))(inputs)
    x = keras.layers.Dense(5, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x), name="opaque")


def test_xla_compiles_all_of_it_or_says_that_it_can_not():
    assert np.isfinite(training_step(opaque, BATCH).first_loss)
    with pytest.raises(AcceleratedError, match="^opaque with xla=True: XLA can't compile it"):
        training_step(opaque, BATCH, xla=True)


class KeepsXla(keras.optimizers.SGD):
    """What Keras does where there is a GPU: the update is compiled, whatever was asked of the rest."""

    jit_compile = property(lambda self: True, lambda self, value: None)


class IgnoresPolicy(keras.layers.Dense):
    """Says that it computes in the policy's type, and casts."""

    def call(self, x):
        return tf.cast(tf.matmul(tf.cast(x, tf.float32), tf.cast(self.kernel, tf.float32)), self.compute_dtype)


def test_a_network_that_was_built_before_is_seen():
    built = small()
    with pytest.raises(
        AcceleratedError, match="layer 'hidden' computes in float32, not in float16; build the model anew"
    ):
        training_step(lambda: built, BATCH, "mixed_float16")


def test_a_layer_that_only_says_so_is_seen():
    with pytest.raises(AcceleratedError, match=r"the graph's products are \{'float32': 5\}, not in bfloat16"):
        training_step(lambda: small(IgnoresPolicy(5)), BATCH, "mixed_bfloat16")


def headed(*hidden, last="dense"):
    """Small again, its softmax a layer of its own or the last Dense layer's."""
    head = [keras.layers.Dense(3, name="scores"), keras.layers.Activation("softmax")]
    if last == "dense":
        head = [keras.layers.Dense(3, activation="softmax")]
    return keras.Sequential([keras.Input((6,)), *hidden, *head], name="headed")


class TooWide(keras.layers.Dense):
    """An output layer that says float32 and multiplies in float64."""

    def call(self, x):
        scores = tf.matmul(tf.cast(x, tf.float64), tf.cast(self.kernel, tf.float64))
        return tf.nn.softmax(tf.cast(scores, tf.float32))


@pytest.mark.parametrize(
    ("network", "text"),
    [
        # as many products in float32 as an output layer has, but they are another's: the output layer has none
        (
            lambda: headed(IgnoresPolicy(5), last="softmax"),
            r"\{'float32': 2, 'bfloat16': 3\}, not in bfloat16 but for the output layer's, 'activation",
        ),
        (lambda: headed(keras.layers.Dense(5), IgnoresPolicy(5)), r"\{'bfloat16': 2, 'float32': 6\}, not in"),
        (
            lambda: keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), TooWide(3)]),
            r"\{'bfloat16': 2, 'float64': 3\}, not in",
        ),
        (lambda: headed(), r"\{'float32': 2\}, not in bfloat16"),
        (
            lambda: headed(keras.Sequential([keras.layers.Dense(5, dtype="float32", name="within")]), last="softmax"),
            "layer 'within' computes in float32, not in bfloat16",
        ),
    ],
)
def test_only_the_output_layer_s_own_products_stay_in_float32(network, text):
    with pytest.raises(AcceleratedError, match=text):
        training_step(network, BATCH, "mixed_bfloat16")


def test_a_model_within_a_model_trains_in_two_bytes():
    step = training_step(lambda: headed(keras.Sequential([keras.layers.Dense(5)])), BATCH, "mixed_bfloat16")
    assert dict(products(step)) == {"bfloat16": 2, "float32": 3}
    step = training_step(lambda: headed(keras.layers.Dense(5), last="softmax"), BATCH, "mixed_bfloat16")
    assert dict(products(step)) == {"bfloat16": 5}, "a softmax has no product"


def test_weights_in_two_bytes_are_seen():
    with pytest.raises(AcceleratedError, match="the weights are bfloat16, float32; they have to stay float32"):
        training_step(lambda: small(keras.layers.Dense(5, dtype="bfloat16")), BATCH, "mixed_bfloat16")


def test_an_optimizer_that_compiles_itself_is_told_not_to():
    chosen = descent()
    chosen.jit_compile = True  # as Keras sets it where there is a GPU
    assert training_step(small, BATCH, optimizer=chosen).model.optimizer is chosen


def test_an_optimizer_within_one_that_scales_the_loss_is_told_so_too():
    inner = descent()
    inner.jit_compile = True
    chosen = keras.mixed_precision.LossScaleOptimizer(inner)
    assert training_step(small, BATCH, "mixed_float16", optimizer=chosen).model.optimizer is chosen
    assert inner.jit_compile is False


def test_clustering_that_is_on_for_all_of_tensorflow_is_seen(steps):
    try:
        tf.config.optimizer.set_jit(True)
        with pytest.raises(AcceleratedError, match="xla=False.: XLA compiles it, or a part of it"):
            in_force.check(steps["float32", False])
    finally:
        tf.config.optimizer.set_jit(False)


def test_an_output_in_two_bytes_is_seen(monkeypatch):
    monkeypatch.setattr(accelerated, "_with_float32_output", lambda model: model)
    with pytest.raises(AcceleratedError, match="the output is bfloat16; its loss needs float32"):
        training_step(small, BATCH, "mixed_bfloat16")


def test_an_update_that_xla_compiles_unasked_is_seen():
    with pytest.raises(AcceleratedError, match="xla=False.: XLA compiles it, or a part of it"):
        training_step(small, BATCH, optimizer=KeepsXla(0.1))


@pytest.mark.parametrize(
    ("way", "change", "text"),
    [
        (("float32", False), {"xla": True}, r"precision='float32', xla=True\): XLA compiles nothing of it$"),
        (("float32", True), {"xla": False}, "XLA compiles it, or a part of it$"),
        (("float32", False), {"precision": "mixed_bfloat16"}, "layer 'hidden' computes in float32, not in bfloat16"),
        (("mixed_float16", False), {"optimizer": descent()}, "the loss is not scaled; float16 needs it, nothing else$"),
        (("float32", False), {"optimizer": keras.mixed_precision.LossScaleOptimizer(descent())}, "the loss is scaled"),
    ],
)
def test_a_step_that_is_another_than_it_says_is_seen(steps, monkeypatch, way, change, text):
    step = steps[way]
    in_force.check(step)
    for name, value in change.items():
        monkeypatch.setattr(step.model if name == "optimizer" else step, name, value)
    with pytest.raises(AcceleratedError, match=text):
        in_force.check(step)


def test_what_xla_was_given_is_read(steps, monkeypatch):
    step = steps["mixed_bfloat16", True]
    other = steps["float32", True].function.experimental_get_compiler_ir(*step.given)
    monkeypatch.setattr(step.function, "experimental_get_compiler_ir", lambda *given: other)
    with pytest.raises(AcceleratedError, match="what XLA compiled has no bfloat16 in it: 'HloModule"):
        in_force.check(step)


def test_the_builder_s_weights_are_kept():
    def eighths():
        built = small()
        built.set_weights([np.full(w.shape, 0.125) for w in built.get_weights()])
        return built

    step = training_step(eighths, BATCH, optimizer=descent(0.0))
    assert (flat(step.model.get_weights()) == 0.125).all()
    assert step.first_loss == pytest.approx(np.log(3)), "all classes alike"


@pytest.mark.parametrize("fails", [False, True])
def test_random_numbers_of_python_and_numpy_go_on_as_before(fails):
    def build():
        if fails:
            raise RuntimeError("no network")
        return small()

    def drawn():
        return random.random(), np.random.random()

    random.seed(5)
    np.random.seed(5)
    expected = drawn()
    random.seed(5)
    np.random.seed(5)
    with pytest.raises(RuntimeError, match="no network") if fails else contextlib.nullcontext():
        training_step(build, BATCH)
    assert drawn() == expected


def branched():
    inputs = keras.Input((6,))
    return keras.Model(inputs, [keras.layers.Dense(3, activation="softmax")(inputs) for _ in range(2)], name="two")


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    ("network", "text"),
    [
        (branched, r"^training_step\('two'\): the model has 2 outputs .* and a step trains on one; give a Sequential"),
        (
            lambda: keras.Sequential([keras.layers.Dense(3)], name="open"),
            r"^training_step\('open'\): the model has no ou",
        ),
        (
            lambda: keras.Sequential([keras.Input((6,)), small()], name="outer"),
            r"^training_step\('outer'\): its last layer 'small' is a model, of which no layer can be kept in float32",
        ),
        (
            lambda: keras.Sequential([keras.Input((6,)), keras.layers.Softmax()], name="fixed"),
            r"^training_step\('fixed'\): the model has no weights to train$",
        ),
    ],
)
def test_models_that_can_t_be_asked(network, text, precision):
    with pytest.raises(AcceleratedError, match=text):
        training_step(network, BATCH, precision)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_outputs_that_are_no_probabilities_are_refused(activation):
    def scores():
        return keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(3, activation, kernel_initializer="ones")], name="scores"
        )

    with pytest.raises(AcceleratedError, match=r"the outputs of an example sum to \d.*, not to 1, .* with a softmax$"):
        training_step(scores, BATCH, optimizer=descent(0.0))


@pytest.mark.parametrize("before", ["float32", "mixed_bfloat16"])
def test_the_global_policy_is_left_as_it_was(before):
    def broken():
        assert keras.mixed_precision.global_policy().name == "mixed_float16"
        raise RuntimeError("no network")

    keras.mixed_precision.set_global_policy(before)
    try:
        with pytest.raises(RuntimeError, match="no network"):
            training_step(broken, BATCH, "mixed_float16")
        assert keras.mixed_precision.global_policy().name == before
        step = training_step(small, BATCH, "float32")
        assert step.model.layers[0].compute_dtype == "float32"
        assert keras.mixed_precision.global_policy().name == before
    finally:
        keras.mixed_precision.set_global_policy(None)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True)])
def test_tensorfloat_32_is_on_only_where_asked_and_set_back(steps, monkeypatch, before, precision, allowed):
    enabled, enable = (
        tf.config.experimental.tensor_float_32_execution_enabled,
        tf.config.experimental.enable_tensor_float_32_execution,
    )
    usual, seen = enabled(), []

    def broken(*given):
        seen.append(enabled())
        raise RuntimeError("no step")

    step = steps["float32", False]
    monkeypatch.setattr(step, "function", broken)
    monkeypatch.setattr(step, "precision", precision)
    try:
        enable(before)
        with pytest.raises(RuntimeError, match="no step"):
            step()
        assert seen == [allowed]
        assert enabled() == before
    finally:
        enable(usual)


def with_gpus(monkeypatch, *details):
    found = [types.SimpleNamespace(name=f"/physical_device:GPU:{i}") for i in range(len(details))]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: found)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[found.index(gpu)])


@pytest.mark.parametrize(
    ("capabilities", "there"),
    [((), False), (((7, 5),), False), (((8, 0),), True), (((9, 0), (7, 0)), False), ((None,), False)],
)
def test_tensorfloat_32_is_refused_where_no_gpu_has_it(monkeypatch, capabilities, there):
    details = [{"device_name": f"card {c}"} | ({"compute_capability": c} if c else {}) for c in capabilities]
    with_gpus(monkeypatch, *details)
    assert accelerated._has_tf32() == there
    if not there:
        names = ", ".join(d["device_name"] for d in details) or "no GPU"
        with pytest.raises(AcceleratedError, match="only NVIDIA GPUs of compute capability 8.0 and up") as error:
            training_step(small, BATCH, "tf32")
        assert f"TensorFlow finds {names} here; take 'float32'" in str(error.value)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (
            {"precision": "float64"},
            r"^training_step\(precision='float64'\): choose one of float32, tf32, mixed_float16, mix",
        ),
        ({"batch": 0}, r"^training_step\(batch=0\): must be a whole number, at least 1$"),
        ({"batch": True}, r"batch=True"),
        ({"batch": 2.5}, r"batch=2.5"),
    ],
)
def test_what_can_t_be_asked(asked, text):
    with pytest.raises(AcceleratedError, match=text):
        training_step(small, **{"batch": BATCH} | asked)


@pytest.mark.parametrize(
    ("name", "in_two_bytes"),
    [
        ("mobilenet-like", 3 * (1 + 5 * 2)),
        ("transformer", 3 * 2 * (4 + 2 + 2)),
    ],  # 2 layers: 4 + 2 of attention, 2 dense
)
def test_the_course_s_networks_train_in_two_bytes(name, in_two_bytes):
    """Depthwise convolutions, normalizations, attention; whole numbers as inputs."""
    step = training_step(name, 2, "mixed_bfloat16")
    assert step.network == name
    assert dict(products(step)) == {"bfloat16": in_two_bytes, "float32": 3}
    before = [v.numpy() for v in step.model.non_trainable_variables]
    assert np.isfinite(wait(step())).all()
    after = [v.numpy() for v in step.model.non_trainable_variables]
    assert all((a != b).any() for a, b in zip(before, after, strict=True)), "a normalization sees that it is trained"


def test_a_batch_may_be_numpy_s_whole_number():
    step = training_step(small, np.int64(4))
    assert step.given[0].shape == (4, 6)
    assert type(step.batch) is int


def loud(factor):
    """The small network with its inputs made large: gradients of the scaled loss overflow float16 at first."""
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, name="hidden")(keras.layers.Rescaling(factor)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x), name="loud")


def test_steps_that_overflow_are_not_taken_for_steps():
    step = training_step(lambda: loud(1000.0), BATCH, "mixed_float16", optimizer=descent(1e-6))
    scale, before = float(step.model.optimizer.loss_scale), step.model.get_weights()
    wait(step())
    assert float(step.model.optimizer.loss_scale) == scale < 2**15
    assert all((a != b).any() for a, b in zip(before, step.model.get_weights(), strict=True))
    with pytest.raises(AcceleratedError, match="^loud in mixed_float16: the loss is nan, so this is no training to"):
        training_step(lambda: loud(1e9), BATCH, "mixed_float16")


# times


def test_times_are_taken_with_waiting(steps, monkeypatch):
    """A call returns before a GPU has done its work: the timer gets what waits."""
    took, asked = Timing((0.25, 0.5, 0.75)), {}

    def measure(call, **options):
        asked.update(options, call=call)
        return took

    monkeypatch.setattr(accelerated.timing, "measure", measure)
    step = steps["mixed_bfloat16", True]
    times = step.times(repeats=7)
    assert (asked["call"], asked["sync"], asked["repeats"]) == (step, wait, 7)
    assert times == StepTimes("small", 8, "mixed_bfloat16", True, times.device, step.first_s, took)
    assert times.device == (gpus() or ["CPU"])[0]
    assert (times.step_s, times.examples_per_s) == (0.5, 16.0)
    shown = str(dataclasses.replace(times, device="CPU", first_s=1.234))
    assert shown == f"small, batch 8, mixed_bfloat16 with XLA on CPU: {took}, the first 1.23 s"


def test_times_of_a_step(steps):
    times = steps["float32", False].times(repeats=3)
    assert len(times.timing.samples_s) == 3
    assert times.step_s > 0
    assert times.first_s > 0


def test_times_of_no_training_are_refused():
    with pytest.raises(
        AcceleratedError, match="^small in float32: the loss is (nan|inf), so this is no training to time"
    ):
        training_step(small, BATCH, optimizer=descent(float("inf")))
    step = training_step(small, BATCH, optimizer=descent())
    step.model.optimizer.learning_rate.assign(float("inf"))
    with pytest.raises(
        AcceleratedError, match="^small in float32: the loss is (nan|inf), so this is no training to time"
    ):
        step.times(repeats=3)


class BadFirst(keras.layers.Layer):
    """Makes the first loss infinite and leaves gradients and weights alone."""

    def build(self, shape):
        self.calls = self.add_weight("calls", initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.add_loss(tf.where(self.calls == 0, np.inf, 0.0))
            self.calls.assign_add(1.0)
        return x


def test_a_first_step_that_was_no_training_is_refused():
    with pytest.raises(AcceleratedError, match="^headed in float32: the loss is inf, so this is no training to time"):
        training_step(lambda: headed(BadFirst(), keras.layers.Dense(5)), BATCH)


def test_steps_are_compared_in_turns_with_waiting(steps, monkeypatch):
    asked = {}
    true = accelerated.timing.compare

    def spy(a, b, **options):
        asked.update(options, a=a, b=b)
        return true(a, b, attempts=1, **options)

    monkeypatch.setattr(accelerated.timing, "compare", spy)
    a, b = steps["float32", False], steps["float32", True]
    found = compare(a, b, rounds=3)
    assert isinstance(found, Comparison)
    assert len(found.a.samples_s) == 3
    assert (asked["a"], asked["b"], asked["sync"]) == (a, b, wait)


# GPUs


def test_without_a_gpu_there_is_nothing_to_do(monkeypatch):
    with_gpus(monkeypatch)
    assert gpus() == []
    assert grow_memory() == 0
    assert accelerated.NOT_MEASURED == "not measured: TensorFlow finds no GPU here"


def test_gpus_have_names(monkeypatch):
    with_gpus(monkeypatch, {"device_name": "NVIDIA H100 80GB HBM3"}, {})
    assert gpus() == ["NVIDIA H100 80GB HBM3", "/physical_device:GPU:1"]


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])  # TensorFlow raises both, the second for a split GPU
def test_memory_that_can_t_grow_is_said(monkeypatch, kind):
    def refuse(gpu, grows):
        raise kind("not now")

    with_gpus(monkeypatch, {})
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", refuse)
    with pytest.raises(AcceleratedError, match=r"GPU:0 can't be set to grow any more \(not now\); restart the kernel"):
        grow_memory()


PRETENDED = """
from hwlimits.training.keras import eager, tf
from hwlimits.training.accelerated import AcceleratedError, grow_memory
gpu = eager.PhysicalDevice("/physical_device:GPU:7", "GPU")
context = eager.context()
context._physical_devices.append(gpu)
context._visible_device_list.append(gpu)
assert grow_memory() == 1
assert tf.config.experimental.get_memory_growth(gpu) is True
context._physical_devices.remove(gpu)
context._visible_device_list.remove(gpu)
del context._memory_growth_map[gpu]
tf.zeros(1) + 1
context._physical_devices.append(gpu)
try:
    grow_memory()
except AcceleratedError as error:
    print(error)
"""


def test_memory_grows_if_it_is_asked_before_anything_has_run():
    """With a GPU that TensorFlow is made to believe in: its own rules decide, in a process where nothing has run."""
    done = subprocess.run(
        [sys.executable, "-c", PRETENDED],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "grow_memory(): /physical_device:GPU:7 can't be set to grow any more (Physical devices cannot be modified "
        "after being initialized); restart the kernel, and call this before TensorFlow makes its first tensor"
    )


def test_keras_follows_its_floatx_as_before():
    """A policy that is set, be it float32's, would be followed in its place."""
    training_step("lenet", 2, "mixed_bfloat16")
    before = keras.backend.floatx()
    try:
        keras.backend.set_floatx("float64")
        assert keras.layers.Dense(1).compute_dtype == "float64"
    finally:
        keras.backend.set_floatx(before)
