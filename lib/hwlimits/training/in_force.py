"""Whether a training step is what it was asked to be: its precision and XLA, read from the graph that TensorFlow runs.

A flag that was passed proves little: a layer with a type of its own ignores Keras' policy, and Keras compiles an
optimizer with XLA unasked where there is a GPU.
"""

from __future__ import annotations

import re
from collections import Counter

from hwlimits.training.keras import keras, tf

_PRODUCT = re.compile(r"MatMul|Conv[123]?[Dd]|Einsum")
_HLO_TYPES = {"float32": "f32[", "float16": "f16[", "bfloat16": "bf16["}
_LAST_LAYER = 3  # products of the output layer, which stays float32: forward, and a gradient each for input and weights


class AcceleratedError(ValueError):
    """A way to train that can't be had here, or that is not in force though it was asked for; the text says which."""


def products(step) -> Counter:
    """How many products and convolutions of the traced step, backward pass included, are of which type.

    Of a first convolution the gradient for the network's own input is counted, too: it is traced, and dropped later.
    """
    graph = step.function.get_concrete_function(*step.given).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return Counter(tf.as_dtype(node.attr["T"].type).name for node in nodes if _PRODUCT.search(node.op))


def check(step) -> None:
    """Raise AcceleratedError unless precision and XLA are in force in what TensorFlow runs."""
    model, asked = step.model, f"training_step(precision={step.precision!r}, xla={step.xla})"
    wanted = step.precision.removeprefix("mixed_") if step.precision.startswith("mixed") else "float32"
    for layer in model.layers[:-1]:
        if not isinstance(layer, keras.layers.InputLayer) and layer.compute_dtype != wanted:
            raise AcceleratedError(
                f"{asked}: layer {layer.name!r} computes in {layer.compute_dtype}, not in {wanted}; build the model "
                "anew in the function that is given, and name no type there"
            )
    if model.output.dtype != tf.float32:
        raise AcceleratedError(f"{asked}: the output is {model.output.dtype.name}; its loss needs float32")
    kept = {v.dtype.name for v in model.trainable_variables}
    if kept != {"float32"}:
        raise AcceleratedError(f"{asked}: the weights are {', '.join(sorted(kept))}; they have to stay float32")
    scaled = isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer)
    if scaled != (wanted == "float16"):
        raise AcceleratedError(f"{asked}: the loss is {'' if scaled else 'not '}scaled; float16 needs it, nothing else")
    count = products(step)
    others = count.total() - count[wanted]
    if not count[wanted] or others > (0 if wanted == "float32" else _LAST_LAYER) or others > count["float32"]:
        raise AcceleratedError(f"{asked}: the graph's products are {dict(count)}, not in {wanted}")
    compiled = _compiled(step)
    if compiled != step.xla:
        raise AcceleratedError(f"{asked}: XLA compiles {'it, or a part of it' if compiled else 'nothing of it'}")
    if step.xla:
        text = step.function.experimental_get_compiler_ir(*step.given)(stage="hlo")
        if not text.startswith("HloModule") or _HLO_TYPES[wanted] not in text:
            raise AcceleratedError(f"{asked}: what XLA compiled has no {wanted} in it: {text[:60]!r}")


def _compiled(step) -> bool:
    """Whether XLA has to compile the step; without being asked to, whether it does so with any part of it."""
    whole = step.function.get_concrete_function(*step.given)
    must = "_XlaMustCompile"
    if step.xla:
        return whole.function_def.attr[must].b
    parts = whole.graph.as_graph_def().library.function
    return whole.function_def.attr[must].b or any(f.attr[must].b for f in parts) or bool(tf.config.optimizer.get_jit())
