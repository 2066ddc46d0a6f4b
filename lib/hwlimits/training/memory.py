"""The memory that a Keras model needs while it works: predicted from its traced graph."""

from __future__ import annotations

from math import prod

from hwlimits.compute import bytes_per_element, examples
from hwlimits.storage import Buffer
from hwlimits.training.cost import _Call, _input_specs, _trace

VIEWS = {"Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient", "PreventGradient", "EnsureShape"}


def inference_buffers(model, batch: int = 1, dtype: str = "float32", *, input_shapes=None) -> list[Buffer]:
    """A Keras model's inputs and activations at inference, each from the step that makes it to its last use.

    One step is one call of an innermost layer, with its bias and activation, as engines fuse them; or one
    operation between layers. What is only reshaped is the same memory. Inside a layer (the gates of an
    LSTM, the image between the halves of a separable convolution) nothing is counted, and no weight is.

    dtype          of every real number among them, one of `compute.DTYPES`; others keep their own size
    input_shapes   as for `cost.cost`, where the model leaves a length open

    Raises CountError as `cost.cost` does.

    >>> from hwlimits.storage import peak_live_bytes
    >>> from hwlimits.training.models import article_cnn
    >>> peak_live_bytes(inference_buffers(article_cnn(), dtype="int8")) == 26 * 26 * 32 + 13 * 13 * 32
    True
    """
    width = bytes_per_element(dtype)
    call = _trace(model, _input_specs(model, examples(batch), input_shapes))
    graph = call.graph
    group = _groups(call)
    inner = {id(t) for _, t in graph.captures}
    root: dict[str, str] = {}  # a tensor -> the one whose memory it is
    tensors, made, used, step_of = {}, {}, {}, {}
    depends: set[str] = set()
    for operation in graph.get_operations():
        if operation.type == "Placeholder":
            if id(operation.outputs[0]) not in inner:
                _note(operation.outputs[0], 0, tensors, made, used, root, depends)
            continue
        given = [t.name for t in operation.inputs if t.name in depends]
        if not given:
            continue  # of weights and constants alone
        step = step_of.setdefault(group.get(operation.name, operation.name), len(step_of) + 1)
        for name in given:
            used[root[name]] = max(used[root[name]], step)
        for tensor in operation.outputs:
            _note(tensor, step, tensors, made, used, root, depends)
            if operation.type in VIEWS:
                root[tensor.name] = root[given[0]]
    for tensor in call.outputs:
        if tensor.name in root:
            used[root[tensor.name]] = len(step_of)
    crossing = _crossing(graph, group, call.outputs, root)
    buffers = []
    for name, tensor in tensors.items():
        if root[name] == name and (name in crossing or made[name] == 0):
            size = width if tensor.dtype.is_floating else tensor.dtype.size
            buffers.append(Buffer(name, prod(tensor.shape) * size, made[name], used[name]))
    return buffers


def _note(tensor, step: int, tensors, made, used, root, depends) -> None:
    if tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool:
        tensors[tensor.name], root[tensor.name] = tensor, tensor.name
        made[tensor.name] = used[tensor.name] = step
        depends.add(tensor.name)


def _groups(call: _Call, found: dict[str, str] | None = None) -> dict[str, str]:
    """Operation -> the innermost layer's call that it belongs to."""
    found = {} if found is None else found
    if call.children:
        for child in call.children:
            _groups(child, found)
    else:
        found |= dict.fromkeys((operation.name for operation in call.own_operations()), f"{call.first} {id(call)}")
    return found


def _crossing(graph, group: dict[str, str], outputs, root: dict[str, str]) -> set[str]:
    """Tensors that leave the call which made them, or the model."""
    found = {root[t.name] for t in outputs if t.name in root}
    for operation in graph.get_operations():
        if operation.type in VIEWS:
            continue
        here = group.get(operation.name, operation.name)
        for tensor in operation.inputs:
            if tensor.name in root:
                maker = graph.get_tensor_by_name(root[tensor.name]).op.name
                if group.get(maker, maker) != here:
                    found.add(root[tensor.name])
    return found
