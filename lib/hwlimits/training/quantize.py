"""Quantization-aware training by tensorflow-model-optimization, keeping the zeros of pruning."""

from __future__ import annotations

from hwlimits.training.keras import keras, tfmot


def aware(model: keras.Model) -> keras.Model:
    """The model with simulated int8 in its forward pass, to be trained further.

    Weights that are zero stay zero: plain quantization-aware training lets them grow back, and
    the pruning is lost. The scheme is Default8BitPrunePreserve of tfmot's collaborative API.
    """
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    return tfmot.quantization.keras.quantize_apply(annotated, scheme)
