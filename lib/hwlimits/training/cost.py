"""A Keras model counted: which layers it calls, on which shapes, and what each call costs.

The model is traced once, on inputs without numbers, and every call of a layer is noted with its
tensors. `cost_layers` and `cost_light_layers` translate a layer into a formula of `hwlimits.compute`.
What has no formula (mathematics between layers, a layer of your own) is counted by its TensorFlow
operations (`cost_operations`); an operation that has no count is listed by name. Works for tf_keras
and for Keras 3 on TensorFlow; nested, shared and subclassed models, too.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from hwlimits.compute import Cost, CountError, LayerCost, ModelCost, bytes_per_element, examples
from hwlimits.training import (
    cost_layers,  # noqa: F401  enters its formulas
    cost_light_layers,  # noqa: F401  enters its formulas
    cost_operations,
)
from hwlimits.training.cost_calls import LayerCall, cost_of, unwrapped
from hwlimits.training.keras import tf

FREE = "no arithmetic, nothing moves"
BY_OPERATIONS = "counted by its operations"

# The classes whose __call__ every call of a layer, or of a Keras 3 operation, goes through.
_DOORS = ("tf_keras.src.engine.base_layer", "keras.src.layers.layer", "keras.src.ops.operation")


def cost(model, batch: int = 1, dtype: str = "float32", *, input_shapes=None) -> ModelCost:
    """What one call of a Keras model costs at inference, layer by layer.

    batch          examples in one call
    dtype          one of `compute.DTYPES`: the bytes that each number takes, weight or activation
    input_shapes   needed where the model leaves a length open: a shape without the batch, a list of
                   them in the order of `model.inputs`, or {input name: shape}

    A layer that is called twice has two rows, the second without parameters. Layers of a model
    within are 'outer/inner'. A wrapper of tfmot counts as the layer it wraps. What
    works out a mask, and nothing else, has no row; that a `Masking` layer sets its input to 0 is counted.

    Raises CountError where the model has no input shape, leaves a length open or was built for
    another batch, for an unknown dtype, and for Keras 3 on another backend than TensorFlow.

    >>> from hwlimits.training.models import article_cnn
    >>> cost(article_cnn()).total.macs
    2528000
    """
    bytes_per_element(dtype)  # an unknown one is refused before the work
    batch = examples(batch)
    if not _doors(model):
        raise CountError(f"cost() counts models of tf_keras and Keras 3; this is a {type(model).__name__}")
    if any(door.__module__.startswith("keras.") for door in _doors(model)):
        backend = sys.modules["keras"].config.backend()
        if backend != "tensorflow":
            raise CountError(
                f"model {model.name!r} is one of Keras 3 on {backend}; cost() traces TensorFlow: start Python with "
                "KERAS_BACKEND=tensorflow"
            )
    count = _Count(dtype)
    count.walk(_trace(model, _input_specs(model, batch, input_shapes)))
    return ModelCost(model.name, tuple(count.rows), count.not_counted, batch, dtype)


def _input_specs(model, batch: int, input_shapes):
    """The model's inputs as TensorSpecs, in the structure that its call takes."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        if input_shapes is None:
            raise CountError(
                f"model {model.name!r} has no input shape yet: give it without the batch, as in "
                "cost(model, input_shapes=(28, 28, 1))"
            )
        if isinstance(input_shapes, Mapping):
            return {name: tf.TensorSpec((batch, *shape), tf.float32) for name, shape in input_shapes.items()}
        specs = [tf.TensorSpec((batch, *shape), tf.float32) for shape in _listed(input_shapes)]
        return specs if len(specs) > 1 else specs[0]
    names = getattr(model, "input_names", None) or [tensor.name for tensor in inputs]
    if input_shapes is None:
        given = [None] * len(inputs)
    elif isinstance(input_shapes, Mapping):
        if unknown := [name for name in input_shapes if name not in names]:
            raise CountError(f"model {model.name!r} has no input {unknown[0]!r}; it has {', '.join(names)}")
        given = [input_shapes.get(name) for name in names]
    else:
        given = _listed(input_shapes)
        if len(given) != len(inputs):
            raise CountError(f"model {model.name!r} has {len(inputs)} inputs; input_shapes has {len(given)} shapes")
    specs = [_spec(model, *each, batch) for each in zip(names, inputs, given, strict=True)]
    structure = getattr(model, "input", None)  # a Sequential of Keras 3 that was never called has none
    return specs[0] if structure is None else tf.nest.pack_sequence_as(structure, specs)


def _listed(shapes) -> list[tuple]:
    """One shape or several, as a list."""
    return [tuple(shapes)] if all(isinstance(n, int) for n in shapes) else [tuple(shape) for shape in shapes]


def _spec(model, name: str, tensor, shape, batch: int):
    fixed, *lengths = tensor.shape
    where = f"input {name!r} of model {model.name!r}"
    if fixed not in (None, batch):
        raise CountError(f"{where} was built for a batch of {fixed} alone: ask for cost(model, batch={fixed})")
    if shape is not None:
        if len(shape) != len(lengths) or any(n not in (None, m) for n, m in zip(lengths, shape, strict=True)):
            raise CountError(f"{where} takes {tuple(lengths)} without the batch, not {tuple(shape)}")
        lengths = shape
    if None in lengths:
        raise CountError(
            f"{where} has the shape {tuple(lengths)} without the batch: its length number "
            f"{lengths.index(None) + 1} is open. Say for which to count, as in "
            f"cost(model, input_shapes={{{name!r}: {tuple(128 if n is None else n for n in lengths)}}})"
        )
    return tf.TensorSpec((batch, *lengths), tensor.dtype)


@dataclass
class _Call:
    """A call of a layer as it was traced: its operations are those from `first` to `last` of its graph."""

    layer: Any
    args: tuple
    kwargs: dict
    graph: Any
    first: int
    last: int = 0
    outputs: list = field(default_factory=list)
    children: list[_Call] = field(default_factory=list)

    def own_operations(self) -> list:
        """The operations that no layer called within has made."""
        taken = [(c.first, c.last) for c in self.children if c.graph is self.graph]
        indices = (i for i in range(self.first, self.last) if not any(a <= i < b for a, b in taken))
        every = self.graph.get_operations()
        return [every[i] for i in indices]


def _doors(layer) -> list[type]:
    return [c for c in type(layer).__mro__ if c.__module__ in _DOORS and "__call__" in vars(c)]


def _trace(model, specs) -> _Call:
    """The call of `model` on inputs of these shapes, with all the calls within it."""
    takes_training = "training" in inspect.signature(model.call).parameters
    roots: list[_Call] = []

    def run(inputs):
        roots.clear()  # TensorFlow may trace twice, if variables are made
        with _noting_calls(_doors(model), roots):
            return model(inputs, training=False) if takes_training else model(inputs)

    tf.function(run, autograph=False).get_concrete_function(specs)
    return roots[0]


@contextmanager
def _noting_calls(doors: list[type], roots: list[_Call]):
    """Note every layer's call while this lasts: Keras has no hook for it, so its __call__ is replaced and put back."""
    stack: list[_Call] = []
    originals = [door.__call__ for door in doors]

    def noting(original):
        def __call__(self, *args, **kwargs):
            if stack and stack[-1].layer is self:  # a class's __call__ that goes on to its parent's
                return original(self, *args, **kwargs)
            graph = tf.compat.v1.get_default_graph()
            call = _Call(self, args, kwargs, graph, graph.version)
            (stack[-1].children if stack else roots).append(call)
            stack.append(call)
            try:
                outputs = original(self, *args, **kwargs)
            finally:
                stack.pop()
            call.last, call.outputs = graph.version, _tensors(outputs)
            return outputs

        return __call__

    try:
        for door, original in zip(doors, originals, strict=True):
            door.__call__ = noting(original)
        yield
    finally:
        for door, original in zip(doors, originals, strict=True):
            door.__call__ = original


def _tensors(structure) -> list:
    return [x for x in tf.nest.flatten(structure) if isinstance(x, tf.Tensor)]


class _Count:
    """The rows of a model's table, and what it leaves out."""

    def __init__(self, dtype: str):
        self.dtype = dtype
        self.rows: list[LayerCost] = []
        self.not_counted: dict[str, str] = {}
        self._calls: dict[str, int] = {}
        self._seen: set[int] = set()

    def walk(self, call: _Call, path: str | None = None) -> None:
        """Enter a call: by its layer's formula, or else the layers called within and then its own operations.

        path   names of the layers around it; None for the model itself, whose name stands before nothing
        """
        layer, wrapped = unwrapped(call.layer)
        name = f"{path}/{layer.name}" if path else layer.name
        arguments, inputs = _arguments(call, layer)
        known = cost_of(LayerCall(call.layer, arguments, inputs, call.outputs, self.dtype)) if inputs else None
        if known is not None:
            new = self._new_weights(call.layer)
            parameters = known.parameters if wrapped and new else sum(prod(w.shape) for w in new) * (not wrapped)
            self._enter(name, call, replace(known, parameters=parameters), new, "" if known.bytes else FREE)
        elif type(layer).__name__ == "TimeDistributed":
            self._walk_each_step(call, inputs, name)
        else:
            masks = _only_masks(call)
            for child in call.children:
                if id(child) not in masks:
                    self.walk(child, "" if path is None else name)
            self._walk_own(call, name)

    def _walk_each_step(self, call: _Call, inputs: list, name: str) -> None:
        """The layer within, on all steps at once: batch and steps are both just examples to it."""
        specs = [tf.TensorSpec((x.shape[0] * x.shape[1], *x.shape[2:]), x.dtype) for x in inputs]
        self.walk(_trace(call.layer.layer, specs[0] if len(specs) == 1 else specs), name)

    def _walk_own(self, call: _Call, name: str) -> None:
        """What a layer does beside calling layers, if anything."""
        own, unknown = cost_operations.cost_of(call.own_operations(), call.outputs, self.dtype)
        new = self._new_weights(call.layer)
        own = replace(own, parameters=sum(prod(weight.shape) for weight in new))
        if call.children and own == Cost() and not unknown:
            return
        note = BY_OPERATIONS if own.bytes else FREE
        if unknown:
            reason = f"operations without a count: {', '.join(sorted(unknown))}"
            if any("While" in operation for operation in unknown):
                reason += " (a loop: its layers are counted for one pass)"
            note = f"not all counted: {reason}"
            self.not_counted[name] = reason
        self._enter(name, call, own, new, note)

    def _new_weights(self, layer) -> list:
        """The layer's weights that no row has yet."""
        weights = getattr(layer, "weights", [])  # an operation of Keras 3 has none
        new = [weight for weight in weights if id(weight) not in self._seen]
        self._seen |= {id(weight) for weight in new}
        return new

    def _enter(self, name: str, call: _Call, cost: Cost, new_weights: list, note: str) -> None:
        self._calls[name] = times = self._calls.get(name, 0) + 1
        layer, _ = unwrapped(call.layer)
        new = {id(weight) for weight in new_weights}
        weights = getattr(call.layer, "trainable_weights", [])
        trainable = sum(prod(weight.shape) for weight in weights if id(weight) in new)
        shapes = [tuple(tensor.shape) for tensor in call.outputs]
        self.rows.append(
            LayerCost(
                name if times == 1 else f"{name} (call {times})",
                type(layer).__name__,
                shapes[0] if len(shapes) == 1 else tuple(shapes),
                cost,
                trainable,
                note,
            )
        )


def _only_masks(call: _Call) -> set[int]:
    """The ids of the calls within that work out masks for their neighbours and nothing else.

    Keras 3 makes a call of each step of a mask (`NotEqual`, `Any`) where tf_keras does it out of sight.
    """
    own = {operation.name for operation in call.own_operations()}
    masks: set[int] = set()
    used = {id(tensor) for tensor in call.outputs}  # for more than a mask
    found = set()

    def is_only_mask(tensor) -> bool:
        if tensor.dtype != tf.bool or id(tensor) not in masks or id(tensor) in used:
            return False
        return not any(user.name in own for user in tensor.consumers())

    for child in reversed(call.children):  # what uses a tensor comes after what made it
        more = child.children or getattr(child.layer, "weights", [])
        if child.outputs and not more and all(map(is_only_mask, child.outputs)):
            found.add(id(child))
            masks |= {id(tensor) for tensor in _tensors((child.args, child.kwargs))}
        else:
            for name, value in {"args": child.args, **child.kwargs}.items():
                (masks if name.endswith("mask") else used).update(id(tensor) for tensor in _tensors(value))
    return found


def _arguments(call: _Call, layer) -> tuple[dict[str, Any], list]:
    """The call's arguments by name, and the tensors of the first."""
    try:
        arguments = inspect.signature(layer.call).bind_partial(*call.args, **call.kwargs).arguments
    except TypeError:  # a wrapper hands on what its layer doesn't take
        arguments = {str(i): value for i, value in enumerate(call.args)} | call.kwargs
    return arguments, _tensors(next(iter(arguments.values()), []))
