"""One training step on a GPU, or on whatever TensorFlow runs on: in each precision, with XLA or without.

    grow_memory()                                     # before anything else has run
    step = training_step("resnet-like", 512, "mixed_float16", xla=True)
    print(step.times())
    print(compare(training_step("resnet-like", 512, "float32"), step))

A flag that was passed is not yet a way that is in force: a layer with a type of its own ignores the policy, Keras
compiles an optimizer with XLA unasked where there is a GPU, and a GPU multiplies float32 in fewer bits. So a step is
refused unless what was asked for stands in the graph that TensorFlow runs (`in_force`). How long the accelerator waits
for its input is `input_pipeline.starvation`.

Mixed precision: Micikevicius et al., "Mixed precision training" (ICLR 2018), as Keras has it: layers compute in two
bytes, variables stay float32, and for float16 the loss is scaled so that small gradients do not vanish.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from hwlimits.machine import timing
from hwlimits.training import networks
from hwlimits.training.in_force import AcceleratedError, check, output_layer
from hwlimits.training.keras import keras, tf
from hwlimits.training.step_graph import batch_specs, made_up

NOT_MEASURED = "not measured: TensorFlow finds no GPU here"
PRECISIONS = ("float32", "tf32", "mixed_float16", "mixed_bfloat16")


def gpus() -> list[str]:
    """Names of the GPUs that TensorFlow finds; [] where there is none. Nothing is initialised by looking."""
    found = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in found]


def grow_memory() -> int:
    """Let TensorFlow take each GPU's memory as it needs it, not all of it at once; returns how many GPUs.

    It is what TensorFlow 1 called `config.gpu_options.allow_growth = True`. Without a GPU nothing is done.
    Raises AcceleratedError where TensorFlow has run something already: its allocators can't be changed any more.
    """
    found = tf.config.list_physical_devices("GPU")
    for gpu in found:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError) as error:
            raise AcceleratedError(
                f"grow_memory(): {gpu.name} can't be set to grow any more ({error}); restart the kernel, and call this "
                "before TensorFlow makes its first tensor"
            ) from None
    return len(found)


@dataclass(frozen=True)
class StepTimes:
    """Times of a training step of `batch` examples. `first_s` is the first one: traced, with XLA compiled, and run."""

    network: str
    batch: int
    precision: str
    xla: bool
    device: str
    first_s: float
    timing: timing.Timing

    @property
    def step_s(self) -> float:
        return self.timing.median_s

    @property
    def examples_per_s(self) -> float:
        return self.batch / self.step_s

    def __str__(self) -> str:
        way = f"{self.precision}{' with XLA' if self.xla else ''}"
        return (
            f"{self.network}, batch {self.batch}, {way} on {self.device}: {self.timing}, the first {self.first_s:.2f} s"
        )


class Step:
    """A training step that is in force as asked. Each call trains `model` once more on the same made-up batch.

    A call returns float32 (2,), maybe before it is computed: the loss, and a weight as it is after the step. To read
    it as NumPy is to wait for all of the step (`wait`); the loss alone is there before the gradients are.
    """

    def __init__(self, model: keras.Model, network: str, batch: int, precision: str, xla: bool):
        self.model, self.network, self.batch, self.precision, self.xla = model, network, batch, precision, xla
        inputs, labels = batch_specs(model, batch)
        self.given = [*made_up(inputs), *made_up(labels)]
        self.function = tf.function(self._train, jit_compile=xla, autograph=False)
        begun = time.perf_counter()
        try:
            self.first_loss = float(wait(self())[0])
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if not xla:
                raise
            raise AcceleratedError(
                f"{network} with xla=True: XLA can't compile it ({error.message.split(chr(10))[0]})"
            ) from None
        self.first_s = time.perf_counter() - begun
        check(self)
        self._until_updated()

    def _until_updated(self) -> None:
        """Train until a step changes the weights: one whose scaled loss overflows is skipped, and is no step.

        The scale starts high and is halved each time. (Keras' count of iterations goes on when a step is skipped.) At a
        scale of 1 Keras takes what comes, which may be no number; so one more step is looked at.
        """
        scale = np.inf
        while self._loss_scale() < scale:
            scale = self._loss_scale()
            self()
        self._must_be_finite(self.first_loss)
        self._must_be_finite(float(wait(self())[0]))

    def _loss_scale(self) -> float:
        return float(getattr(self.model.optimizer, "loss_scale", 1.0))

    def _must_be_finite(self, loss: float) -> None:
        if not np.isfinite(loss):
            raise AcceleratedError(
                f"{self.network} in {self.precision}: the loss is {loss}, so this is no training to time; take smaller "
                "inputs, a smaller learning rate or another precision"
            )

    def _train(self, *given):
        *x, y = given
        with tf.GradientTape() as tape:
            found = self.model(x[0] if len(x) == 1 else x, training=True)
            loss = self.model.compute_loss(x, y, found)
        weights = self.model.trainable_variables
        self.model.optimizer.minimize(loss, weights, tape=tape)
        return tf.stack([tf.cast(loss, tf.float32), tf.cast(tf.reshape(weights[0], [-1])[0], tf.float32)])

    def __call__(self):
        with _tf32(self.precision == "tf32"):
            return self.function(*self.given)

    def times(self, repeats: int = 30) -> StepTimes:
        """Times of the step, which is trained meanwhile.

        Raises AcceleratedError if the loss is no finite number then: what was timed is no training.
        """
        took = timing.measure(self, repeats=repeats, min_sample_s=5e-3, sync=wait)
        last = self()
        self._must_be_finite(float(wait(last)[0]))
        kind = tf.DeviceSpec.from_string(last.device).device_type
        device = gpus()[0] if kind == "GPU" else kind
        return StepTimes(self.network, self.batch, self.precision, self.xla, device, self.first_s, took)


def training_step(
    network: str | Callable[[], keras.Model],
    batch: int,
    precision: str = "float32",
    *,
    xla: bool = False,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    seed: int = 0,
) -> Step:
    """A training step of a network at a batch in a precision, with or without XLA; checked to be just that.

    network     a name of `networks.NAMES`, or a function that builds a model for class numbers as labels, its one
                output the classes' probabilities; its weights are kept, and it is not trained itself
    precision   float32         products in float32, TensorFloat-32 off
                tf32            as float32, but a GPU rounds what it multiplies to 11 significant bits; TensorFlow's
                                default where a GPU has it (compute capability 8.0 and up), an error elsewhere
                mixed_float16, mixed_bfloat16   Keras' policies of that name; the output layer stays float32

    The first weights depend on `seed` alone, and the optimizer, if one is given, is used up. Keras' global policy, and
    the random numbers of Python and NumPy, are left as they were, whatever happens; TensorFlow's seed is set.
    Raises AcceleratedError for a precision or batch that can't be, and where the step is not as asked.

    >>> step = training_step("lenet", 4, "mixed_bfloat16")
    >>> step.model.layers[0].compute_dtype, step.model.layers[0].kernel.dtype.name
    ('bfloat16', 'float32')
    """
    if precision not in PRECISIONS:
        raise AcceleratedError(f"training_step(precision={precision!r}): choose one of {', '.join(PRECISIONS)}")
    if isinstance(batch, bool) or not isinstance(batch, Integral) or batch < 1:
        raise AcceleratedError(f"training_step(batch={batch!r}): must be a whole number, at least 1")
    if precision == "tf32" and not _has_tf32():
        raise AcceleratedError(
            "training_step(precision='tf32'): only NVIDIA GPUs of compute capability 8.0 and up multiply in "
            f"TensorFloat-32, and TensorFlow finds {', '.join(gpus()) or 'no GPU'} here; take 'float32'"
        )
    with _policy(precision if precision.startswith("mixed") else "float32"), _seeded(seed):
        built = networks.build(network) if isinstance(network, str) else network()
        model = _with_float32_output(built)
        chosen = keras.optimizers.get(optimizer)
        for each in (chosen, getattr(chosen, "inner_optimizer", chosen)):  # what scales the loss has one within
            each.jit_compile = False  # else Keras compiles its update with XLA unasked, where there is a GPU
        model.compile(chosen, "sparse_categorical_crossentropy")
        return Step(model, network if isinstance(network, str) else model.name, int(batch), precision, xla)


def wait(result) -> np.ndarray:
    """What a step returned, as NumPy; so it is computed. The `sync` of a timer."""
    return result.numpy()


def compare(a: Step, b: Step, *, rounds: int = 20) -> timing.Comparison:
    """Time of a step over that of another, interleaved, with an A/A control (`machine.timing.compare`)."""
    return timing.compare(a, b, rounds=rounds, min_sample_s=5e-3, sync=wait)


def _with_float32_output(model: keras.Model) -> keras.Model:
    """The model anew, its last layer in float32: a softmax in two bytes loses what the loss is about.

    The weights are those of the model given. Raises AcceleratedError for a model without an output layer or weights.
    """
    last = output_layer(model)
    if not model.trainable_variables:
        raise AcceleratedError(f"training_step({model.name!r}): the model has no weights to train")

    def again(layer):
        config = layer.get_config()
        return type(layer).from_config(config | {"dtype": "float32"} if layer is last else config)

    anew = keras.models.clone_model(model, clone_function=again)
    anew.set_weights(model.get_weights())
    return anew


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Everything that a builder may draw from begins at `seed`; Python's and NumPy's numbers go on as before, after."""
    python, numpy = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _policy(name: str) -> Iterator[None]:
    before = keras.mixed_precision.global_policy()
    # Unless another one was set, Keras follows `floatx`; a policy of that name, once set, would follow it no more.
    followed = before.name == keras.backend.floatx()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(None if followed else before)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """TensorFloat-32 allowed or not: TensorFlow keeps one switch for all, so each call sets it and sets it back."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _has_tf32() -> bool:
    details = [tf.config.experimental.get_device_details(g) for g in tf.config.list_physical_devices("GPU")]
    return bool(details) and all(d.get("compute_capability", (0, 0)) >= (8, 0) for d in details)
