"""A PyTorch model counted by the course's conventions, and by PyTorch's own counter.

The model is called once on zeros. Hooks see each call of a layer with its tensors, and the formulas are those of
`hwlimits.compute`; what is no layer (an addition in `forward`, a function of torch.nn.functional) is seen as the
operation it is. A layer or operation without a formula stops the count, by name: a zero would look like a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from hwlimits import compute
from hwlimits.counting import Cost, CountError, LayerCost, ModelCost, activation_flops, bytes_per_element, examples
from hwlimits.pytorch.engine import torch_module

FREE = "no arithmetic, nothing moves"
# Layers that do one thing to each element, by the names of `ACTIVATION_FLOPS`.
_ACTIVATIONS = {
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "PReLU": "prelu", "ELU": "elu", "CELU": "celu",
    "SELU": "selu", "Sigmoid": "sigmoid", "LogSigmoid": "log_sigmoid", "Tanh": "tanh", "Softplus": "softplus",
    "Softsign": "softsign", "SiLU": "silu", "Mish": "mish", "GELU": "gelu", "Hardsigmoid": "hard_sigmoid",
    "Hardswish": "hard_swish", "Hardtanh": "hard_tanh", "Softmax": "softmax", "LogSoftmax": "log_softmax",
}  # fmt: skip
_NOTHING = {"Flatten", "Unflatten", "Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d"}
# Operations of PyTorch that give the same numbers under another shape.
_VIEWS = {"view", "_unsafe_view", "reshape", "permute", "transpose", "t", "squeeze", "unsqueeze", "expand", "detach",
          "alias"}  # fmt: skip


def cost(model, input_shape: Sequence[int], batch: int = 1, dtype: str = "float32") -> ModelCost:
    """What one call of a PyTorch model costs at inference, layer by layer, as `hwlimits.training.cost` has it of Keras.

    input_shape   of one example, in PyTorch's order: (channels, height, width) of an image
    batch         examples in one call
    dtype         one of `compute.DTYPES`: the bytes that each number takes, weight or activation

    A ReLU is a layer of its own here, and moves its numbers as one; in Keras it is part of the layer before it. So
    MACs, FLOPs and parameters are Keras', and bytes are more. A pruned layer counts as the dense layer that it is.
    The model is called in `eval` mode, without gradients, and put back into the mode it was in.
    Raises CountError, with the layer's name, for a layer or an operation that has no formula here.
    """
    bytes_per_element(dtype)
    batch = examples(batch)
    torch = torch_module()
    rows: list[LayerCost] = []
    within: list[tuple[str, Callable | None]] = []  # the layers that are being called, the innermost last
    seen: set[int] = set()

    class Outside(torch.utils._python_dispatch.TorchDispatchMode):
        """Sees every operation, and refuses those that no known layer makes."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            operation = function._schema.name.removeprefix("aten::")
            if not any(formula for _, formula in within) and operation not in _VIEWS:
                where = next((repr(name) for name, _ in reversed(within) if name), "the model itself")
                raise CountError(
                    f"{where} ({_kind_of(model, within)}) calls {operation}, which is no layer that is counted here; "
                    "count that part by the formulas of hwlimits.compute"
                )
            return function(*args, **(kwargs or {}))

    def entering(name, formula):
        return lambda layer, inputs: within.append((name, formula))

    def leaving(name, formula):
        def hook(layer, inputs, output):
            within.pop()
            if formula is not None and not any(outer for _, outer in within):
                rows.append(_row(name, layer, inputs, output, formula, dtype, seen))

        return hook

    hooks, training = [], {layer: layer.training for layer in model.modules()}
    try:
        model.eval()
        for name, layer in model.named_modules():
            formula = formula_of(layer)
            hooks.append(layer.register_forward_pre_hook(entering(name, formula), prepend=True))
            hooks.append(layer.register_forward_hook(leaving(name, formula)))
        with torch.no_grad():
            x = torch.zeros(batch, *input_shape)
            with Outside():
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, mode in training.items():
            layer.training = mode
    return ModelCost(type(model).__name__, tuple(rows), {}, batch, dtype)


def counted_by_torch(model, input_shape: Sequence[int], batch: int = 1) -> dict[str, int]:
    """FLOPs of each layer by torch.utils.flop_counter.FlopCounterMode, and of all, 'total'.

    It counts matrix products, convolutions and attention, two FLOPs a MAC, and nothing else: no bias, activation,
    pooling or normalization. An operation that it has no formula for is 0, and it does not say so: torch.nn.LSTM, the
    fast path of TransformerEncoderLayer and int8 operators are among them. A layer that it gives nothing is left out.
    """
    torch = torch_module()
    from torch.utils.flop_counter import FlopCounterMode

    mode, top = model.training, type(model).__name__
    try:
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(examples(batch), *input_shape))
    finally:
        model.train(mode)
    by_layer = {name: sum(of.values()) for name, of in counter.get_flop_counts().items()}
    leaves = {name for name, layer in model.named_modules() if name and not list(layer.children())}
    counted = {name: by_layer.get(f"{top}.{name}", 0) for name in leaves}
    in_order = [name for name, _ in model.named_modules() if counted.get(name)]
    return {name: counted[name] for name in in_order} | {"total": counter.get_total_flops()}


def formula_of(layer) -> Callable | None:
    """The formula (layer, input, output, bytes a number) -> Cost of one of PyTorch's own layers; None without one."""
    torch = torch_module()
    name = type(layer).__name__
    if getattr(torch.nn, name, None) is not type(layer):  # a layer of the reader's own, of whatever name
        return None
    if name in _ACTIVATIONS:
        return _activation
    if name in _NOTHING:
        return _nothing
    return _FORMULAS.get(name)


def _row(name, layer, inputs, output, formula, dtype, seen) -> LayerCost:
    torch = torch_module()
    tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
    if len(tensors) != 1 or not isinstance(output, torch.Tensor):
        raise CountError(f"layer {name!r} ({type(layer).__name__}): counted with one input and one output alone")
    whole = formula(layer, tensors[0], output, bytes_per_element(dtype))
    new = layer not in seen
    seen.add(layer)
    trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad) if new else 0
    counted = whole if new else Cost(whole.macs, whole.other_flops, 0, whole.bytes_read, whole.bytes_written)
    kind = type(layer).__name__
    return LayerCost(name or kind, kind, tuple(output.shape), counted, trainable, "" if whole.bytes else FREE)


def _kind_of(model, within) -> str:
    named = dict(model.named_modules())
    return type(named[within[-1][0]]).__name__ if within else type(model).__name__


# --- the formulas: whole calls, with the batch in the tensors -----------------------------------


def _cost(x, y, size: int, parameters: int = 0, macs: int = 0, other_flops: int = 0) -> Cost:
    return Cost(macs, other_flops, parameters, (x.numel() + parameters) * size, y.numel() * size)


def _conv(layer, x, y, size) -> Cost:
    taps = prod(layer.kernel_size) * layer.in_channels // layer.groups
    bias = layer.bias is not None
    parameters = layer.weight.numel() + bias * layer.out_channels
    return _cost(x, y, size, parameters, y.numel() * taps, y.numel() * bias)


def _linear(layer, x, y, size) -> Cost:
    bias = layer.bias is not None
    parameters = layer.weight.numel() + bias * layer.out_features
    return _cost(x, y, size, parameters, y.numel() * layer.in_features, y.numel() * bias)


def _activation(layer, x, y, size) -> Cost:
    kind = type(layer).__name__
    name = "gelu_tanh" if kind == "GELU" and layer.approximate == "tanh" else _ACTIVATIONS[kind]
    parameters = layer.weight.numel() if kind == "PReLU" else 0
    return _cost(x, y, size, parameters, other_flops=y.numel() * activation_flops(name))


def _pool(layer, x, y, size) -> Cost:
    axes, window = int(type(layer).__name__[-2]), layer.kernel_size
    taps = prod(window) if isinstance(window, Sequence) else window**axes
    return _cost(x, y, size, other_flops=y.numel() * taps)


def _adaptive_pool(layer, x, y, size) -> Cost:
    if any(n % m for n, m in zip(x.shape[2:], y.shape[2:], strict=True)):
        raise CountError(
            f"{type(layer).__name__} from {tuple(x.shape[2:])} to {tuple(y.shape[2:])}: its windows differ in size "
            "unless the one divides the other, and have no formula"
        )
    return _cost(x, y, size, other_flops=x.numel())


def _batch_norm(layer, x, y, size) -> Cost:
    if layer.running_mean is None:
        raise CountError(f"{type(layer).__name__} without running statistics works them out at each call: not counted")
    parameters = layer.num_features * (2 + 2 * layer.affine)
    return _cost(x, y, size, parameters, other_flops=2 * y.numel())


def _layer_norm(layer, x, y, size) -> Cost:
    normalized, affine = prod(layer.normalized_shape), layer.elementwise_affine
    center = normalized if affine and layer.bias is not None else 0
    of_one = compute.layer_norm((x.numel(),), normalized, scale=normalized * affine, center=center)
    return _cost(x, y, size, of_one.parameters, other_flops=of_one.other_flops)


def _nothing(layer, x, y, size) -> Cost:
    return Cost()


_FORMULAS = {
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _conv),
    **dict.fromkeys((f"{kind}Pool{n}d" for kind in ("Max", "Avg") for n in (1, 2, 3)), _pool),
    **dict.fromkeys((f"AdaptiveAvgPool{n}d" for n in (1, 2, 3)), _adaptive_pool),
    **dict.fromkeys((f"BatchNorm{n}d" for n in (1, 2, 3)), _batch_norm),
    "Linear": _linear,
    "LayerNorm": _layer_norm,
}
