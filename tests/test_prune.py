"""Pruning while training: tfmot's masks are the reference's, both engines end with the same weights, and a run that
pruned nothing is caught."""

import subprocess
import sys

import numpy as np
import pytest

from hwlimits import pruning
from hwlimits.pruning import PruningError, Schedule
from hwlimits.training import fit, prune
from hwlimits.training.keras import keras, tf, tfmot
from hwlimits.training.models import article_cnn

SPARSITY = {"dense1": 0.9}


def train(model, tiny, epochs=1, callbacks=()):
    model.compile("adam", "sparse_categorical_crossentropy")
    images, labels = fit.epoch_images(tiny, 480, 0, 0, 0)
    model.fit(images, labels, batch_size=32, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def test_sparsity_is_reached_and_only_where_asked(tiny):
    model = article_cnn()
    before = model.get_weights()
    wrapped = prune.prunable(model, SPARSITY, ramp_steps=15, steps_per_epoch=15)
    plain = prune.strip(train(wrapped, tiny, epochs=2, callbacks=prune.callbacks()))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)), "left as it was"
    found = prune.layer_sparsity(plain)
    prune.check_sparsity(found, SPARSITY)
    assert found["conv2"] < 0.01
    assert [layer.name for layer in plain.layers] == [layer.name for layer in article_cnn().layers]


def test_tfmot_s_own_frequency_prunes_nothing_in_a_short_run_and_the_check_says_so(tiny):
    """The trap that the check is for: 15 steps, masks updated each 100."""
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.9, 0, 15)
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(article_cnn(), pruning_schedule=schedule)
    plain = prune.strip(train(wrapped, tiny, callbacks=prune.callbacks()))
    with pytest.raises(PruningError, match=r"dense1: 0.0 % of the weights are zero, 90.0 % were asked for"):
        prune.check_sparsity(prune.layer_sparsity(plain), SPARSITY)


@pytest.mark.parametrize("step", [0, 5, 10, 20, 40])
def test_the_schedule_is_the_published_polynomial(step):
    wrapped = prune.prunable(article_cnn(), SPARSITY, ramp_steps=20, steps_per_epoch=120)
    schedule = wrapped.get_layer("prune_low_magnitude_dense1").pruning_schedule
    progress = min(1, step / 20)
    assert float(schedule(step)[1]) == pytest.approx(0.9 + (0 - 0.9) * (1 - progress) ** 3, abs=1e-6)


def test_the_smallest_weights_go():
    model = article_cnn()
    before = np.abs(model.get_layer("dense1").kernel.numpy())
    wrapped = prune.prunable(model, SPARSITY, ramp_steps=0, steps_per_epoch=1)
    wrapped.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")  # nothing moves, masks apply
    wrapped.fit(np.zeros((8, 28, 28, 1)), np.zeros(8), batch_size=4, verbose=0, callbacks=prune.callbacks())
    kept = prune.strip(wrapped).get_layer("dense1").kernel.numpy() != 0
    assert before[kept].min() >= before[~kept].max()


def test_zeros_stay_while_the_sparsity_is_held(compressed):
    # the pruned stage is trained one epoch further under "hold"
    prune.check_sparsity(prune.layer_sparsity(compressed[0]["pruned"]), {"conv2": 0.8, "dense1": 0.9})


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(
        PruningError,
        match="no layer 'dense9' in article_cnn; it has conv1, pool1, conv2, pool2, flatten, dense1, dense2",
    ):
        prune.prunable(article_cnn(), {"dense9": 0.5}, ramp_steps=1, steps_per_epoch=1)


@pytest.mark.parametrize("share", [0, 1, 90, -0.5])
def test_a_sparsity_is_a_share(share):
    with pytest.raises(PruningError, match="a share of zeros between 0 and 1"):
        prune.prunable(article_cnn(), {"dense1": share}, ramp_steps=1, steps_per_epoch=1)


def test_a_layer_without_a_kernel_is_refused():
    with pytest.raises(PruningError, match="pool1 is a MaxPooling2D, which has no kernel to prune"):
        prune.prunable(article_cnn(), {"pool1": 0.5}, ramp_steps=1, steps_per_epoch=1)


# --- the reference, and the course's own engine ------------------------------------------------

SMALL = {"conv": 0.7, "dense": 0.85}


def small_cnn():
    keras.utils.set_random_seed(3)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(7, 5, strides=4, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(11, activation="relu", name="dense"),
            layers.Dense(10, activation="softmax", name="last"),
        ],
        name="small_cnn",
    )


class Recorder(keras.callbacks.Callback):
    """The kernels as the optimiser leaves them, and the masks, after each step."""

    def __init__(self, read):
        super().__init__()
        self.read, self.steps = read, []

    def on_train_begin(self, logs=None):
        self.steps.append(self.read(self.model))

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.read(self.model))


def kernels_and_masks(model):
    wrapped = [model.get_layer(f"prune_low_magnitude_{name}") for name in SMALL]
    return {w.layer.name: (w.layer.kernel.numpy(), w.pruning_vars[0][1].numpy()) for w in wrapped}


def own_kernels_and_masks(model):
    layers = [model.get_layer(name) for name in SMALL]
    return {layer.name: (layer.kernel.numpy(), layer.pruning_mask.numpy()) for layer in layers}


def fit_small(model, tiny, *callbacks, epochs=1, compiled=False, rate=5e-3):
    if not compiled:
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    images, labels = fit.epoch_images(tiny, 480, 0, 0, 0)
    model.fit(images, labels, batch_size=20, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


@pytest.mark.parametrize("engine", prune.ENGINES)
@pytest.mark.parametrize("ramp_steps", [0, 17])
def test_masks_are_the_reference_s_at_every_step(tiny, ramp_steps, engine):
    """24 steps, masks due at each third: made by `pruning.mask` of the weights that the step before ended with."""
    recorder = Recorder(kernels_and_masks if engine == "tfmot" else own_kernels_and_masks)
    model = prune.prunable(small_cnn(), SMALL, ramp_steps=ramp_steps, steps_per_epoch=36, engine=engine)
    fit_small(model, tiny, *prune.callbacks(engine), recorder, rate=0.1)  # so that pruned weights come back
    assert len(recorder.steps) == 1 + 24
    for name, share in SMALL.items():
        masks = [step[name][1] for step in recorder.steps]
        assert masks[0].all()
        made = [t for t in range(1, 25) if not np.array_equal(masks[t], masks[t - 1])]
        for t in range(1, 25):
            if t % 3 == 0 and (not ramp_steps or t <= ramp_steps):
                left = (1 - t / ramp_steps) ** 3 if ramp_steps else 0
                reference = pruning.mask(pruning.magnitude(recorder.steps[t - 1][name][0]), share * (1 - left))
                assert np.array_equal(masks[t], reference), (name, t)
            else:
                assert t not in made, (name, t)
        assert made[0] == 3
        assert len(made) > 4, "masks that hardly change would show nothing"


@pytest.mark.parametrize("ramp_steps", [0, 17])
def test_both_engines_end_with_the_same_weights(tiny, ramp_steps):
    tf.config.experimental.enable_op_determinism()
    found = {}
    for engine in prune.ENGINES:
        given = small_cnn()
        model = prune.prunable(given, SMALL, ramp_steps=ramp_steps, steps_per_epoch=24, engine=engine)
        plain = prune.strip(fit_small(model, tiny, *prune.callbacks(engine), epochs=2))
        for a, b in zip(given.get_weights(), small_cnn().get_weights(), strict=True):
            assert np.array_equal(a, b), "left as it was"
        prune.check_sparsity(prune.layer_sparsity(plain), SMALL)
        assert type(plain) is keras.Sequential
        assert [w.name for w in plain.weights] == [w.name for w in small_cnn().weights]
        found[engine] = plain.get_weights()
    for theirs, own in zip(found["tfmot"], found["own"], strict=True):
        assert np.array_equal(theirs, own)
    assert not np.array_equal(found["own"][0], small_cnn().get_weights()[0]), "nothing was trained"


def test_the_own_engine_resumes_bit_for_bit(tiny):
    """Stopped between two updates of the masks: what counts is the mask, the step and the optimiser."""
    tf.config.experimental.enable_op_determinism()

    def start():
        model = prune.prunable(small_cnn(), SMALL, ramp_steps=40, steps_per_epoch=84, engine="own")  # every 7 steps
        model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
        model.optimizer.build(model.trainable_variables)
        return model

    whole = fit_small(start(), tiny, *prune.callbacks("own"), epochs=2, compiled=True)
    first = fit_small(start(), tiny, *prune.callbacks("own"), compiled=True)
    second = start()
    second.set_weights(first.get_weights())
    for variable, value in zip(second.optimizer.variables, first.optimizer.variables, strict=True):
        variable.assign(value)
    fit_small(second, tiny, *prune.callbacks("own"), compiled=True)
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(a, b)
    assert [int(layer.pruning_step) for layer in second.layers if hasattr(layer, "pruning_step")] == [48, 48]


def test_validation_sees_masked_weights(tiny):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            seen.append(float(np.mean(self.model.get_layer("dense").kernel.numpy() == 0)))

    model = prune.prunable(small_cnn(), SMALL, ramp_steps=0, steps_per_epoch=24, engine="own")
    model.compile("adam", "sparse_categorical_crossentropy")
    images, labels = fit.epoch_images(tiny, 480, 0, 0, 0)
    model.fit(images, labels, batch_size=20, verbose=0, validation_data=(images[:20], labels[:20]), callbacks=[
        *prune.callbacks("own"), Look(),
    ])  # fmt: skip
    assert seen == pytest.approx([0.85], abs=0.005)


def test_a_mask_holds_in_what_is_stripped_whatever_the_weights_are():
    model = prune.prunable(small_cnn(), SMALL, ramp_steps=0, steps_per_epoch=1, engine="own")
    keep = np.arange(11) % 2 == 0
    model.get_layer("dense").pruning_mask.assign(np.broadcast_to(keep, model.get_layer("dense").kernel.shape))
    plain = prune.strip(model)
    assert np.array_equal((plain.get_layer("dense").kernel.numpy() != 0).all(axis=0), keep)
    assert not plain.get_layer("dense").kernel.numpy()[:, ~keep].any()


def test_the_own_engine_loads_nothing_of_tfmot():
    program = (
        "import sys, numpy as np\n"
        "from hwlimits.training import prune\n"
        "from hwlimits.training.keras import keras\n"
        "model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(10, name='a')])\n"
        "model = prune.prunable(model, {'a': 0.5}, ramp_steps=0, steps_per_epoch=1, engine='own')\n"
        "model.compile('sgd', 'mse')\n"
        "model.fit(np.ones((4, 6)), np.ones((4, 10)), verbose=0, callbacks=prune.callbacks('own'))\n"
        "prune.check_sparsity(prune.layer_sparsity(prune.strip(model)), {'a': 0.5})\n"
        "print([m for m in sys.modules if m.startswith('tensorflow_model_optimization')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_engine_is_refused():
    with pytest.raises(PruningError, match="engine 'mine' is not known; choose 'tfmot' or 'own'"):
        prune.prunable(small_cnn(), SMALL, ramp_steps=0, steps_per_epoch=1, engine="mine")
    with pytest.raises(PruningError, match="engine 'mine'"):
        prune.callbacks("mine")


def test_masks_of_a_model_that_has_none_are_refused(tiny):
    with pytest.raises(PruningError, match="no layer of small_cnn is prunable; make it by prunable"):
        fit_small(small_cnn(), tiny, *prune.callbacks("own"))


def test_steps_executed_together_are_refused(tiny):
    model = prune.prunable(small_cnn(), SMALL, ramp_steps=0, steps_per_epoch=1, engine="own")
    model.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=4)
    with pytest.raises(PruningError, match="steps_per_execution is 4, and masks are held after every step"):
        fit_small(model, tiny, *prune.callbacks("own"), compiled=True)


@pytest.mark.parametrize("n", [5, 15, 25, 35, 99, 1001, 18432])
@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.999])
def test_as_many_stay_as_in_tfmot(n, sparsity):
    weights = np.random.default_rng(0).permutation(n).astype(np.float32) + 1
    stay = max(1, int(tf.round(tf.cast(n, tf.float32) * (1 - tf.constant(sparsity, tf.float32)))))
    assert pruning.mask(weights, sparsity).sum() == stay


def tfmot_pruning(weights, **pattern):
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    settings = {"block_size": (1, 1), "block_pooling_type": "AVG", **pattern}
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.6, 0)
    implementation = pruning_impl.Pruning(lambda: 1, [(tf.constant(weights), None, None)], schedule, **settings)
    return implementation._maybe_update_block_mask(tf.constant(weights))[1].numpy().astype(bool)


@pytest.mark.parametrize("block", [(1, 4), (4, 1), (2, 2)])
def test_block_masks_are_tfmot_s(block):
    weights = np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32)
    assert np.array_equal(tfmot_pruning(weights, block_size=block), pruning.mask(np.abs(weights), 0.6, block))


@pytest.mark.parametrize("shape", [(24, 16), (3, 3, 8, 5)])
def test_n_m_masks_are_tfmot_s(shape):
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert np.array_equal(tfmot_pruning(weights, sparsity_m_by_n=(2, 4)), pruning.n_m_mask(np.abs(weights)))


@pytest.mark.parametrize("step", [0, 1, 10, 13, 20, 40])
def test_schedules_are_tfmot_s(step):
    theirs = tfmot.sparsity.keras
    for own, other in (
        (Schedule(0.9, initial=0.2, begin_step=4, ramp_steps=18, frequency=3),
         theirs.PolynomialDecay(0.2, 0.9, 4, 22, frequency=3)),
        (Schedule(0.9, frequency=10), theirs.ConstantSparsity(0.9, 0, frequency=10)),
    ):  # fmt: skip
        due, sparsity = other(step)
        assert own.due(step) == bool(due)
        assert own.sparsity(step) == pytest.approx(float(sparsity), abs=1e-6)
