"""A Keras model's layers as a systolic array has to multiply them, and their cycles beside those of SCALE-Sim.

    layers(article_cnn())                    # what hwlimits.systolic counts and sizes
    python -m hwlimits.training.systolic_layers

The command counts every layer of the case study's network and of ResNet-50 three times and writes
data/results/systolic.csv: by the closed form, by multiplying on the array, cycle by cycle, and by the package
scalesim (extra `peers`). SCALE-Sim's count is that of its compute model, without memory that stalls, as ours is.
Of an output-stationary array it does not count the cycles in which the sums leave the grid: `draining` are those.
"""

from __future__ import annotations

import numpy as np

from hwlimits import data
from hwlimits.machine.provenance import PACKAGES, provenance, require_clean_commit, store_table, versions
from hwlimits.systolic import Array, Layer, SystolicError, multiply
from hwlimits.training.keras import keras

ARRAYS = tuple(
    Array(side, side, dataflow) for side in (128, 256) for dataflow in ("weight-stationary", "output-stationary")
)
COLUMNS = (
    "network", "batch", "layer", "m", "k", "n", "rows", "columns", "dataflow", "cycles", "counted_cycles",
    "scalesim_cycles", "draining_cycles", "utilization", "padding", "scalesim_padding",
)  # fmt: skip


def layers(model: keras.Model, batch: int = 1) -> list[Layer]:
    """The convolutions and dense layers of a model, in its order; all else does no products.

    A convolution in groups, or one channel at a time, is as many products.

    Raises SystolicError for a layer that multiplies in another way, for one that is called more than once, for an image
    of open size, and for a model without products.

    >>> from hwlimits.training.models import article_cnn
    >>> [(layer.m, layer.k, layer.n) for layer in layers(article_cnn())]
    [(676, 9, 32), (121, 288, 64), (1, 1600, 64), (1, 64, 10)]
    """
    found = []
    for layer in model._flatten_layers(include_self=False):
        if len(layer.inbound_nodes) > 1 and layer.weights:
            raise SystolicError(f"layers({model.name!r}): {layer.name} is called more than once; build it twice")
        if _without_products(layer):
            continue
        if type(layer) not in _PRODUCTS:
            raise SystolicError(
                f"layers({model.name!r}): {layer.name} is a {type(layer).__name__}, which is not counted as products; "
                f"these are: {', '.join(kind.__name__ for kind in _PRODUCTS)}"
            )
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            raise SystolicError(
                f"layers({model.name!r}): {layer.name} has its channels first; build it with "
                "data_format='channels_last'"
            )
        if None in layer.input_shape[1:]:
            raise SystolicError(
                f"layers({model.name!r}): {layer.name} has an input of open size, {layer.input_shape[1:]}; build the "
                "model with the size of its images"
            )
        found.append(_PRODUCTS[type(layer)](layer, batch))
    if not found:
        raise SystolicError(f"layers({model.name!r}): it has no convolution and no dense layer")
    return found


def _without_products(layer) -> bool:
    operation = getattr(layer, "function", None)  # of a layer that Keras makes of an operation of TensorFlow
    if "matmul" in getattr(operation, "__name__", "") or "einsum" in getattr(operation, "__name__", ""):
        return False
    return isinstance(layer, (keras.Model, *_NO_PRODUCTS)) or not (layer.weights or isinstance(layer, _MORE_PRODUCTS))


def _convolution(layer, batch: int) -> Layer:
    (_, height, width, filters), kernel = layer.output_shape, layer.kernel.shape
    m, k = batch * height * width, int(np.prod(kernel[:3]))
    return Layer(layer.name, m, k, filters // layer.groups, layer.groups, _elements(layer, batch))


def _depthwise(layer, batch: int) -> Layer:
    (_, height, width, _), (rows, columns, channels, multiplier) = layer.output_shape, layer.depthwise_kernel.shape
    return Layer(layer.name, batch * height * width, rows * columns, multiplier, channels, _elements(layer, batch))


def _dense(layer, batch: int) -> Layer:
    m = batch * int(np.prod(layer.output_shape[1:-1], dtype=int))
    return Layer(layer.name, m, *layer.kernel.shape, inputs=_elements(layer, batch))


def _elements(layer, batch: int) -> int:
    return batch * int(np.prod(layer.input_shape[1:]))


_PRODUCTS = {
    keras.layers.Conv2D: _convolution,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.Dense: _dense,
}
_NO_PRODUCTS = (
    keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.Normalization, keras.layers.PReLU,
    keras.layers.GroupNormalization, keras.layers.Embedding,
)  # fmt: skip
_MORE_PRODUCTS = (keras.layers.Dot, keras.layers.Attention, keras.layers.AdditiveAttention)  # without weights


def scalesim_counts(array: Array, m: int, k: int, n: int) -> tuple[int, float]:
    """(cycles, share of the grid that stays empty) by SCALE-Sim's compute model. Raises SystolicError without it."""
    try:
        from scalesim.compute.systolic_compute_os import systolic_compute_os
        from scalesim.compute.systolic_compute_ws import systolic_compute_ws
        from scalesim.scale_config import scale_config
    except ImportError:
        raise SystolicError("SCALE-Sim is not installed here: pip install 'hwlimits[peers]'") from None
    config = scale_config()
    config.array_rows, config.array_cols, config.valid_conf_flag = array.rows, array.columns, True
    model = systolic_compute_ws() if array.dataflow == "weight-stationary" else systolic_compute_os()
    first, second = m * k, m * k + k * n  # its operands are matrices of addresses
    model.set_params(
        config_obj=config,
        ifmap_op_mat=np.arange(first).reshape(m, k),
        filter_op_mat=np.arange(first, second).reshape(k, n),
        ofmap_op_mat=np.arange(second, second + m * n).reshape(m, n),
    )
    model.create_demand_matrices()
    (cycles,) = {len(demand) for demand in model.get_demand_matrices()}
    return cycles, 1 - float(model.get_avg_mapping_efficiency())


def row(network: str, batch: int, layer: Layer, array: Array) -> dict:
    """One layer on one array, counted three times. Raises RuntimeError if the array's product is not NumPy's."""
    m, k, n = layer.m, layer.k, layer.n
    random = np.random.default_rng(0)
    a, b = random.integers(-127, 128, (m, k)), random.integers(-127, 128, (k, n))
    run = multiply(array, a, b)
    if not np.array_equal(run.product, np.rint(a.astype(float) @ b)):  # below 2^53, so exact
        raise RuntimeError(f"{layer.name} on {array}: the product is wrong")
    theirs, empty = scalesim_counts(array, m, k, n)
    drains = array.dataflow == "output-stationary"
    return {
        "network": network, "batch": batch, "layer": layer.name, "m": m, "k": k, "n": n,
        "rows": array.rows, "columns": array.columns, "dataflow": array.dataflow,
        "cycles": layer.cycles(array), "counted_cycles": layer.times * run.cycles,
        "scalesim_cycles": layer.times * theirs,
        "draining_cycles": layer.times * array.folds(m, k, n) * array.rows if drains else 0,
        "utilization": array.utilization(m, k, n), "padding": array.padding(m, k, n), "scalesim_padding": empty,
    }  # fmt: skip


def networks() -> dict[tuple[str, int], list[Layer]]:
    """The networks of the table by name and batch: the case study's with one image and with 128, ResNet-50 with one."""
    from hwlimits.training.models import article_cnn

    resnet = keras.applications.ResNet50(weights=None)
    return {("case study", batch): layers(article_cnn(), batch) for batch in (1, 128)} | {
        ("ResNet-50", 1): layers(resnet)
    }


def main() -> None:
    require_clean_commit()
    record = provenance(
        "make results-systolic", seeds=[0], versions=versions((*PACKAGES, "scalesim"))
    )  # before the work: what is going to do it
    found = []
    for (network, batch), todo in networks().items():
        for layer in todo:
            for array in ARRAYS:
                found.append(row(network, batch, layer, array))
                print(" ".join(str(found[-1][name]) for name in COLUMNS[:12]), flush=True)
    store_table(data.path("results") / "systolic.csv", COLUMNS, found, record)


if __name__ == "__main__":
    main()
