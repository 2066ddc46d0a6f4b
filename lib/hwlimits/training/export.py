"""From a Keras model to a LiteRT file."""

from __future__ import annotations

import warnings

from hwlimits.training.keras import keras, tf


def to_float32(model: keras.Model) -> bytes:
    """A LiteRT file with float32 weights and activations."""
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def to_int8(model: keras.Model) -> bytes:
    """A LiteRT file with int8 weights, activations, input and output, int32 biases.

    `model` comes from quantization-aware training (`quantize.aware`): its ranges are learnt, so
    the converter needs no calibration images.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():  # the converter misses the calibration statistics that QAT makes needless
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        return converter.convert()
