"""A training step as TensorFlow will run it: the operations, what each waits for, and the bytes of each tensor.

The step is traced twice. With the batch left open it is run once on two examples, which gives the graph after
TensorFlow's own optimizer (fused operations, common parts merged) in the order in which its executor meets
it; traced with the batch asked for, and not run, it gives the shape of every tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from hwlimits.training.keras import eager, tf

FEW = 2  # examples that the graph is made with


@dataclass(frozen=True)
class Operation:
    """One node: `inputs` are (operation, which output), `after` the operations it must wait for besides.

    detail   of an Einsum its equation, such as 'abc,cde->abde'; of a normalization its layout, 'NHWC' or 'NCHW'
    """

    name: str
    kind: str
    inputs: tuple[tuple[str, int], ...]
    after: tuple[str, ...]
    detail: str = ""


@dataclass(frozen=True)
class StepGraph:
    """The operations of a step, and of each output (operation, which) its bytes and its shape at the batch asked for.

    What the optimizer made up has a name that the trace lacks, and no size: it is small (folded shapes, merged casts).
    """

    operations: tuple[Operation, ...]
    bytes: dict[tuple[str, int], int]
    shapes: dict[tuple[str, int], tuple[int, ...]]

    def size(self, output: tuple[str, int]) -> int:
        return self.bytes.get(output, 0)


def batch_specs(model, batch: int | None) -> tuple[list, list]:
    """The inputs and labels that a compiled model trains on, as TensorSpecs.

    A label is a class number where the loss is 'sparse_...', else a number for each of the output's.
    """
    inputs = [tf.TensorSpec((batch, *t.shape[1:]), t.dtype) for t in model.inputs]
    sparse = "sparse" in str(getattr(model.loss, "name", model.loss)).lower()
    labels = [
        tf.TensorSpec((batch, *t.shape[1:-1]), tf.int32) if sparse else tf.TensorSpec((batch, *t.shape[1:]), tf.float32)
        for t in model.outputs
    ]
    return inputs, labels


def made_up(specs: list, largest: int = 2) -> list:
    """Tensors to train on: real numbers uniform in [0, 1), whole ones from 0 to `largest` - 1."""
    found = []
    for spec in specs:
        if spec.dtype.is_floating:
            found.append(tf.random.stateless_uniform(spec.shape, (0, 1), dtype=spec.dtype))
        else:
            found.append(tf.random.stateless_uniform(spec.shape, (0, 2), 0, largest, dtype=spec.dtype))
    return found


def train_step(model, batch: int | None):
    """A training step of a compiled model as a tf.function, for this batch or, with None, for any."""
    inputs, labels = batch_specs(model, batch)

    def step(*given):
        x, y = list(given[: len(inputs)]), list(given[len(inputs) :])
        return model.train_step((x[0] if len(x) == 1 else x, y[0] if len(y) == 1 else y))

    return tf.function(step, input_signature=[*inputs, *labels], autograph=False)


def step_graph(model, batch: int) -> StepGraph:
    """The graph of a compiled tf_keras model's training step. The model's weights are what they were, afterwards."""
    inputs, labels = batch_specs(model, FEW)
    few = [*made_up(inputs), *made_up(labels)]
    model.optimizer.build(model.trainable_variables)
    with _kept(model):
        train_step(model, None)(*few)  # makes what is made once: metrics
        eager.context().enable_graph_collection()
        try:
            train_step(model, None)(*few)
            record = eager.context().export_run_metadata()
        finally:
            eager.context().disable_graph_collection()
    function = max(record.function_graphs, key=lambda f: sum(len(p.node) for p in f.partition_graphs))
    nodes = [node for part in function.partition_graphs for node in part.node]
    graph = train_step(model, batch).get_concrete_function().graph
    sizes, shapes = {}, {}
    for operation in graph.get_operations():
        for i, tensor in enumerate(operation.outputs):
            if tensor.shape.is_fully_defined() and tensor.dtype not in (tf.resource, tf.variant, tf.string):
                shapes[operation.name, i] = tuple(tensor.shape)
                sizes[operation.name, i] = prod(tensor.shape) * tensor.dtype.size
    return StepGraph(tuple(map(_operation, nodes)), sizes, shapes)


def _operation(node) -> Operation:
    inputs = [given.partition(":") for given in node.input if not given.startswith("^")]
    after = tuple(given[1:] for given in node.input if given.startswith("^"))
    told_by = "equation" if node.op == "Einsum" else "data_format"
    detail = node.attr[told_by].s.decode() if told_by in node.attr else ""
    return Operation(node.name, node.op, tuple((name, int(i or 0)) for name, _, i in inputs), after, detail)


@contextmanager
def _kept(model) -> Iterator[None]:
    """Weights, optimiser state and metrics are put back."""
    variables = [*model.variables, *model.optimizer.variables]
    before = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        model.reset_metrics()
