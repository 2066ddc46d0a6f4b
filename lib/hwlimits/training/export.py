"""From a Keras model to a LiteRT file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hwlimits.quantization import QuantizationError
from hwlimits.training import fake_quant, quantized_layers
from hwlimits.training.keras import keras, tf
from hwlimits.training.litert_parser import OP_NAMES, parse
from hwlimits.training.stderr import caught_stderr


def to_float32(model: keras.Model) -> bytes:
    """A LiteRT file with float32 weights and activations."""
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def to_int8(model: keras.Model) -> bytes:
    """A LiteRT file with int8 weights, activations, input and output, int32 biases.

    `model` comes from quantization-aware training (`quantize.aware`, of either engine): its ranges are learnt, so
    the converter needs no calibration images. Raises QuantizationError for codes of fewer than 8 bits, for ranges of
    the own engine that nothing was learnt of, and where the converter leaves an operator in float32, which it does
    without a word.
    """
    for layer in quantized_layers.coded_layers(model):
        if layer.bits != 8:
            raise QuantizationError(f"to_int8: {layer.name} has codes of {layer.bits} bits; a file of int8 has 8")
        if hasattr(layer, "output_range") and not float(layer.output_range.batches):
            raise QuantizationError(
                f"to_int8: {layer.name} has learnt no range yet; train the model, or use quantize.calibrated"
            )
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings(), fake_quant.converters_own():
        # the converter misses the calibration statistics that QAT makes needless
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        content = converter.convert()
    _check_integers(content)
    return content


def _check_integers(content: bytes) -> None:
    """Raise QuantizationError that names the first operator of a file that reads or puts out float32."""
    model, found = parse(content), []
    for graph in model.subgraphs:
        for operator in graph.operators:
            tensors = [graph.tensors[i] for i in (*operator.outputs, *operator.inputs) if i >= 0]
            if any(tensor.type == schema.TensorType.FLOAT32 for tensor in tensors):
                code = model.operatorCodes[operator.opcodeIndex]
                kind = OP_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
                found.append((kind, tensors[0].name.decode(errors="replace")))
    if found:
        # a DEQUANTIZE is there for the operator behind it, which is the one to be told
        kind, name = min(found, key=lambda operator: operator[0] in ("QUANTIZE", "DEQUANTIZE"))
        raise QuantizationError(
            f"to_int8: the file has the operator {kind} ({name}) in float32; "
            "make the model by quantize.aware, of layers that its engine has codes for"
        )


def after_training(model: keras.Model, form: str, examples: Iterable[list[np.ndarray]] | None = None) -> bytes:
    """A LiteRT file of a trained model in a smaller form, without further training.

    form      'float16': weights of two bytes, which become float32 when the file is loaded;
              'dynamic': int8 weights, activations float32 between the layers;
              'int8': weights, activations, input and output
    examples  for 'int8': inputs, each a list of arrays with a batch of one, from whose ranges the
              scales of the activations come

    Raises ValueError for another form, and for 'int8' without examples.
    """
    if form not in ("float16", "dynamic", "int8"):
        raise ValueError(f"after_training(form={form!r}): choose float16, dynamic or int8")
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif form == "int8":
        if examples is None:
            raise ValueError("after_training(form='int8') needs examples: the ranges of the activations come from them")
        examples = list(examples)
        converter.representative_dataset = lambda: iter(examples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings(), caught_stderr():  # the converter prints how it quantizes
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        return converter.convert()
