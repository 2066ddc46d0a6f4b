"""Pruning by tfmot: the schedule is Zhu and Gupta's, the zeros are there, and a run that pruned nothing is caught."""

import numpy as np
import pytest

from hwlimits.training import fit, prune
from hwlimits.training.keras import keras, tfmot
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
    with pytest.raises(prune.PruningError, match=r"dense1: 0.0 % of the weights are zero, 90.0 % were asked for"):
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
    with pytest.raises(prune.PruningError, match="no layer 'dense9' in article_cnn; it has conv1, conv2"):
        prune.prunable(article_cnn(), {"dense9": 0.5}, ramp_steps=1, steps_per_epoch=1)


@pytest.mark.parametrize("share", [0, 1, 90, -0.5])
def test_a_sparsity_is_a_share(share):
    with pytest.raises(prune.PruningError, match="a share of zeros between 0 and 1"):
        prune.prunable(article_cnn(), {"dense1": share}, ramp_steps=1, steps_per_epoch=1)
