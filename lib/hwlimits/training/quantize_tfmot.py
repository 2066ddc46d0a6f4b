"""Quantization-aware training by tensorflow-model-optimization: its 8 bits, and fewer by a QuantizeConfig."""

from __future__ import annotations

from hwlimits.quantization import QuantizationError
from hwlimits.training.keras import keras, tfmot

_theirs = tfmot.quantization.keras
OUTER_BITS = 8  # of the answers; tfmot gives as many to the input
KERNELS = {"Conv2D": "kernel", "Dense": "kernel", "DepthwiseConv2D": "depthwise_kernel"}


def aware(model: keras.Model, bits: int = 8, keep_zeros: bool = True) -> keras.Model:
    """As `quantize.aware`, which checks the arguments.

    Raises QuantizationError for zeros kept at fewer than 8 bits, and for layers that only 8 bits are known for.
    """
    if bits == 8:
        annotated = _theirs.quantize_annotate_model(model)
        if not keep_zeros:
            return _theirs.quantize_apply(annotated)
        scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
        return _theirs.quantize_apply(annotated, scheme)
    if keep_zeros:
        raise QuantizationError(
            f"aware(bits={bits}): tfmot keeps zeros at 8 bits only; say keep_zeros=False, or engine='own'"
        )
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())

    def annotate(layer):
        if not layer.weights:
            return layer
        kind = type(layer).__name__
        if kind not in KERNELS:
            raise QuantizationError(f"aware(bits={bits}): {layer.name} is a {kind}; tfmot quantizes it to 8 bits only")
        return _theirs.quantize_annotate_layer(layer, FewBits(bits, OUTER_BITS if layer is copy.layers[-1] else bits))

    annotated = _theirs.quantize_annotate_model(keras.models.clone_model(copy, clone_function=annotate))
    with _theirs.quantize_scope({"FewBits": FewBits, "FilterWeights": FilterWeights}):
        return _theirs.quantize_apply(annotated)


class FilterWeights(_theirs.quantizers.LastValueQuantizer):
    """Weights of a convolution: a scale for each along the last axis, as tfmot's own for 8 bits has it."""

    def build(self, tensor_shape, name, layer):
        def end(which, value):
            start = keras.initializers.Constant(value)
            return layer.add_weight(f"{name}_{which}", (tensor_shape[-1],), initializer=start, trainable=False)

        return {"min_var": end("min", -6.0), "max_var": end("max", 6.0)}


class FewBits(_theirs.QuantizeConfig):
    """tfmot's configuration for 8 bits with other numbers of them, of the kernel and of the output."""

    def __init__(self, bits: int, output_bits: int):
        self.bits, self.output_bits = bits, output_bits

    def get_weights_and_quantizers(self, layer):
        kind = type(layer).__name__
        quantizer = _theirs.quantizers.LastValueQuantizer if kind == "Dense" else FilterWeights
        scheme = {"per_axis": kind != "Dense", "symmetric": True, "narrow_range": True}
        return [(getattr(layer, KERNELS[kind]), quantizer(self.bits, **scheme))]

    def get_activations_and_quantizers(self, layer):
        scheme = {"per_axis": False, "symmetric": False, "narrow_range": False}
        return [(layer.activation, _theirs.quantizers.MovingAverageQuantizer(self.output_bits, **scheme))]

    def set_quantize_weights(self, layer, quantize_weights):
        setattr(layer, KERNELS[type(layer).__name__], quantize_weights[0])

    def set_quantize_activations(self, layer, quantize_activations):
        layer.activation = quantize_activations[0]

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {"bits": self.bits, "output_bits": self.output_bits}
