"""Quantization-aware training keeps the zeros; the plain kind does not, which is why this one is used."""

import numpy as np
import pytest

from hwlimits.training import evaluate, export, fit, quantize
from hwlimits.training.keras import keras, tfmot
from hwlimits.training.litert import LiteRTFile


def one_epoch(model, tiny):
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    images, labels = fit.epoch_images(tiny, 480, 0, 0, 0)
    model.fit(images, labels, batch_size=32, verbose=0)
    return export.to_int8(model)


def test_zeros_survive_and_without_the_scheme_they_grow_back(compressed, tiny):
    pruned = compressed[0]["pruned"]
    wanted = {"conv2": 0.8, "dense1": 0.9}
    evaluate.check_zeros(one_epoch(quantize.aware(pruned), tiny), wanted)
    plain = one_epoch(tfmot.quantization.keras.quantize_model(pruned), tiny)
    assert np.mean(LiteRTFile(plain).layers[1].weights == 0) < 0.5
    with pytest.raises(ValueError, match=r"conv2: \d.* % of the file's weights are zero, 80.0 % were asked for"):
        evaluate.check_zeros(plain, wanted)
