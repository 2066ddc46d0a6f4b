"""Quantization-aware training keeps the zeros; the plain kind does not, which is why this one is used."""

import numpy as np
import tensorflow_model_optimization as tfmot

from hwlimits.training import export, fit, quantize
from hwlimits.training.keras import keras
from hwlimits.training.litert import LiteRTFile


def one_epoch(model, tiny):
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    images, labels = fit.epoch_images(tiny, 480, 0, 0, 0)
    model.fit(images, labels, batch_size=32, verbose=0)
    return [np.mean(layer.weights == 0) for layer in LiteRTFile(export.to_int8(model)).layers]


def test_zeros_survive_and_without_the_scheme_they_grow_back(compressed, tiny):
    pruned = compressed[0]["pruned"]
    _, conv2, dense1, _ = one_epoch(quantize.aware(pruned), tiny)
    assert conv2 >= 0.8
    assert dense1 >= 0.9
    _, conv2, dense1, _ = one_epoch(tfmot.quantization.keras.quantize_model(pruned), tiny)
    assert conv2 < 0.5
    assert dense1 < 0.85
