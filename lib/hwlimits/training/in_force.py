"""Whether a training step is what it was asked to be: its precision and XLA, read from the graph that TensorFlow runs.

A flag that was passed proves little: a layer with a type of its own ignores Keras' policy, and Keras compiles an
optimizer with XLA unasked where there is a GPU.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from hwlimits.training.keras import keras, tf

_PRODUCT = re.compile(r"MatMul|Conv[123]?[Dd]|Einsum")
_SUM_ERROR = 1e-2  # of a softmax's shares in float32, whatever the number of classes: a thousandth of that
_HLO_TYPES = {"float32": "f32[", "float16": "f16[", "bfloat16": "bf16["}


class AcceleratedError(ValueError):
    """A way to train that can't be had here, or that is not in force though it was asked for; the text says which."""


def products(step) -> Counter:
    """How many products and convolutions of the traced step, backward pass included, are of which type.

    Of a first convolution the gradient for the network's own input is counted, too: it is traced, and dropped later.
    """
    return Counter(kind for _, kind in _named_products(step))


def output_layer(model: keras.Model) -> keras.layers.Layer:
    """The layer whose output is the model's.

    Raises AcceleratedError where none is: for a model that is not built of layers, that has several outputs or whose
    last layer is itself a model.
    """
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1:
        raise AcceleratedError(
            f"training_step({model.name!r}): the model has {len(outputs) or 'no'} outputs that are known before it is "
            "called, and a step trains on one; give a Sequential that begins with an Input, or a Model of one output"
        )
    last = outputs[0]._keras_history.layer
    if isinstance(last, keras.Model):
        raise AcceleratedError(
            f"training_step({model.name!r}): its last layer {last.name!r} is a model, of which no layer can be kept in "
            "float32; put the output layer into the outer model"
        )
    return last


def _named_products(step) -> list[tuple[str, str]]:
    """Name and type of each product of the traced step; a name begins with those of the model and its layer."""
    graph = step.function.get_concrete_function(*step.given).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return [(node.name, tf.as_dtype(node.attr["T"].type).name) for node in nodes if _PRODUCT.search(node.op)]


def check(step) -> None:
    """Raise AcceleratedError unless precision and XLA are in force in what TensorFlow runs."""
    model, asked = step.model, f"training_step(precision={step.precision!r}, xla={step.xla})"
    last = output_layer(model)
    wanted = step.precision.removeprefix("mixed_") if step.precision.startswith("mixed") else "float32"
    granted = {id(layer) for layer in last._flatten_layers()}
    for layer in model._flatten_layers(include_self=False):
        computes = not isinstance(layer, keras.layers.InputLayer) and id(layer) not in granted
        if computes and layer.compute_dtype != wanted:
            raise AcceleratedError(
                f"{asked}: layer {layer.name!r} computes in {layer.compute_dtype}, not in {wanted}; build the model "
                "anew in the function that is given, and name no type there"
            )
    if model.output.dtype != tf.float32:
        raise AcceleratedError(f"{asked}: the output is {model.output.dtype.name}; its loss needs float32")
    _check_shares(step, asked)
    kept = {v.dtype.name for v in model.trainable_variables}
    if kept != {"float32"}:
        raise AcceleratedError(f"{asked}: the weights are {', '.join(sorted(kept))}; they have to stay float32")
    scaled = isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer)
    if scaled != (wanted == "float16"):
        raise AcceleratedError(f"{asked}: the loss is {'' if scaled else 'not '}scaled; float16 needs it, nothing else")
    of_last = f"{model.name}/{last.name}/"
    due = [
        (kind, "float32" if name.removeprefix("gradient_tape/").startswith(of_last) else wanted)
        for name, kind in _named_products(step)
    ]
    if (wanted, wanted) not in due or any(kind != wants for kind, wants in due):
        but = "" if wanted == "float32" else f" but for the output layer's, {last.name!r}"
        raise AcceleratedError(f"{asked}: the graph's products are {dict(products(step))}, not in {wanted}{but}")
    compiled = _compiled(step)
    if compiled != step.xla:
        raise AcceleratedError(f"{asked}: XLA compiles {'it, or a part of it' if compiled else 'nothing of it'}")
    if step.xla:
        text = step.function.experimental_get_compiler_ir(*step.given)(stage="hlo")
        if not text.startswith("HloModule") or _HLO_TYPES[wanted] not in text:
            raise AcceleratedError(f"{asked}: what XLA compiled has no {wanted} in it: {text[:60]!r}")


def _check_shares(step, asked: str) -> None:
    """Raise AcceleratedError unless the outputs are shares of a whole, as the loss takes them to be.

    Those that are no finite numbers are let through: the loss tells that better.
    """
    *x, _ = step.given
    sums = tf.reduce_sum(step.model(x[0] if len(x) == 1 else x, training=False), axis=-1).numpy()
    off = np.abs(sums[np.isfinite(sums)] - 1)
    if off.size and off.max() > _SUM_ERROR:
        raise AcceleratedError(
            f"{asked}: the outputs of an example sum to {sums[np.isfinite(sums)][off.argmax()]:.3g}, not to 1, and the "
            "loss takes them for probabilities; end the model with a softmax"
        )


def _compiled(step) -> bool:
    """Whether XLA has to compile the step; without being asked to, whether it does so with any part of it."""
    whole = step.function.get_concrete_function(*step.given)
    must = "_XlaMustCompile"
    if step.xla:
        return whole.function_def.attr[must].b
    parts = whole.graph.as_graph_def().library.function
    return whole.function_def.attr[must].b or any(f.attr[must].b for f in parts) or bool(tf.config.optimizer.get_jit())
