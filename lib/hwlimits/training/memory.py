"""The memory that a Keras model takes while it trains: predicted from its traced graph, and measured.

| part | when |
|---|---|
| parameters, optimiser state, the batch | before the step: they are there when it begins |
| activations, gradients, workspaces | in the step: `hwlimits.training.executor` replays it |
| what the allocator does not reuse | in the step: `hwlimits.heap` has glibc's rules, which Linux mostly has |

`python -m hwlimits.training.memory` predicts and measures the networks of `training.networks`, and
writes data/results/training_memory.csv, with what made it beside it. What a model takes at inference is
`inference_buffers`; what a LiteRT file takes, `training.arena.arena_buffers`.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from math import prod

from hwlimits import data
from hwlimits.compute import bytes_per_element, examples
from hwlimits.heap import LARGEST_THRESHOLD, Heap
from hwlimits.machine.memory import peak_bytes
from hwlimits.machine.processor import caches
from hwlimits.machine.provenance import provenance, require_clean_commit, store_table
from hwlimits.storage import Buffer
from hwlimits.training.arena import arena_buffers
from hwlimits.training.cost import _Call, _input_specs, _trace
from hwlimits.training.executor import VIEWS, replay
from hwlimits.training.step_graph import step_graph

__all__ = ["StepMemory", "arena_buffers", "inference_buffers", "measured_step_bytes", "step_memory"]

# measured_bytes is that of a process whose allocator returns what is given back; default_measured_bytes that of
# one which is left alone, beside resident_bytes, the prediction with the allocator's rules.
COLUMNS = (
    "model", "batch", "precision", "threads", "parameters_bytes", "optimizer_bytes", "activations_bytes",
    "predicted_bytes", "measured_bytes", "ratio", "resident_bytes", "default_measured_bytes", "default_ratio",
)  # fmt: skip


@dataclass(frozen=True)
class StepMemory:
    """What a training step takes, in bytes; the first two are there before it begins.

    activations_bytes   of the tensors that the forward pass leaves for the backward pass
    tensors_bytes       the most that tensors and workspaces take together at one moment, at the operation `at`
    resident_bytes      the same with what glibc's allocator fails to reuse, by the rules in `hwlimits.heap`: a
                        coarse estimate, mostly below what such a process grows by; elsewhere tensors_bytes
    not_counted         kinds of operations whose workspaces are missing: oneDNN's kernels, where TensorFlow uses them
    """

    parameters_bytes: int
    optimizer_bytes: int
    gradients_bytes: int
    activations_bytes: int
    tensors_bytes: int
    resident_bytes: int
    at: str
    not_counted: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return self.parameters_bytes + self.optimizer_bytes + self.resident_bytes


def step_memory(model, batch: int, *, threads: int = 1) -> StepMemory:
    """Predict a training step of a compiled tf_keras model on `batch` examples; nothing of that size is run.

    With one thread the order of the operations, and so the peak, is TensorFlow's own: it depends on the layers'
    names, so a model to be compared has to have the same (`keras.backend.reset_uids` before it is built).
    With several threads the order is one of many that happen.
    Raises StepError for a model with a loop (a recurrent layer that is not unrolled).
    """
    graph, heap = step_graph(model, examples(batch)), Heap(LARGEST_THRESHOLD)
    l3_bytes = max((cache.bytes for cache in caches()), default=2**23)

    def listen(what: str, block: object, size: int) -> None:
        heap.take(block, size) if what == "take" else heap.give(block)

    run = replay(graph, threads=threads, l3_bytes=l3_bytes, listener=listen)
    return StepMemory(
        parameters_bytes=_bytes_of(model.variables),
        optimizer_bytes=_bytes_of(model.optimizer.variables),
        gradients_bytes=_bytes_of(model.trainable_variables),
        activations_bytes=run.kept_bytes,
        tensors_bytes=run.peak_bytes,
        resident_bytes=heap.peak_bytes if _has_glibc() else run.peak_bytes,
        at=run.at,
        not_counted=tuple(sorted({o.kind for o in graph.operations if o.kind.startswith("_Mkl")})),
    )


def _bytes_of(variables) -> int:
    return sum(prod(v.shape) * v.dtype.size for v in variables)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


_PREPARE = """
from hwlimits.training.keras import tf, use_threads
if {threads}:
    use_threads({threads})
{build}
from hwlimits.training.step_graph import FEW, batch_specs, made_up, train_step
step = train_step(model, None)
def batch(n):
    inputs, labels = batch_specs(model, n)
    return [*made_up(inputs), *made_up(labels)]
step(*batch(FEW))
given = batch({batch})
from hwlimits.training.memory import settle
settle()
"""


def settle() -> None:
    """Bring glibc's allocator into the state that a process comes to that has worked for a while.

    A block of the largest size that counts is taken and given back, so that its threshold is where
    it ends anyway; and what is free goes back to the system, so that the step can't find it.
    """
    import ctypes

    import numpy as np

    np.empty(LARGEST_THRESHOLD - 2**16, np.uint8)
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def measured_step_bytes(build: str, batch: int, *, threads: int = 1, returning: bool = False) -> int:
    """Bytes by which a fresh process grows at most in one training step on `batch` examples.

    build       Python source that leaves a compiled tf_keras model under the name `model`
    threads     that TensorFlow uses; 0 for as many as it likes
    returning   with glibc told to map blocks from 64 KiB on one by one, so that each goes back to the system when
                it is given back: what the tensors take, without what the allocator does not reuse

    TensorFlow uses its own kernels. oneDNN's, which it prefers on some processors, take workspaces that the replay
    does not have: up to a third more was seen (`TF_ENABLE_ONEDNN_OPTS`).

    Before the step: model, optimiser state, batch, and one step on two examples, which traces the graph. In the
    step: all else. Raises RuntimeError with what the process said if it fails.
    """
    prepare = _PREPARE.format(threads=threads, build=build, batch=batch)
    environment = {"TF_ENABLE_ONEDNN_OPTS": "0"} | ({"MALLOC_MMAP_THRESHOLD_": str(2**16)} if returning else {})
    return peak_bytes(prepare, "{k: v.numpy() for k, v in step(*given).items()}", environment)


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
        if operation.type in VIEWS:
            for tensor in operation.outputs:
                root[tensor.name] = root[given[0]]
                depends.add(tensor.name)
            continue
        step = step_of.setdefault(group.get(operation.name, operation.name), len(step_of) + 1)
        for name in given:
            used[root[name]] = max(used[root[name]], step)
        for tensor in operation.outputs:
            _note(tensor, step, tensors, made, used, root, depends)
    for tensor in call.outputs:
        if tensor.name in root:
            used[root[tensor.name]] = len(step_of)
    crossing = _crossing(graph, group, call.outputs, root)
    buffers = []
    for name, tensor in tensors.items():
        if name in crossing or made[name] == 0:
            size = width if tensor.dtype.is_floating else tensor.dtype.size
            buffers.append(Buffer(name, prod(tensor.shape) * size, made[name], used[name]))
    return buffers


def _note(tensor, step: int, tensors, made, used, root, depends) -> None:
    if tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool:  # not a resource
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


def row(name: str) -> dict:
    """A line of the table: a network of `training.networks` predicted, and measured in two fresh processes."""
    from hwlimits.training import networks

    batch = networks.BATCHES[name]
    found = step_memory(networks.build(name), batch)
    source = f"from hwlimits.training import networks; model = networks.build({name!r})"
    returning, default = (measured_step_bytes(source, batch, returning=how) for how in (True, False))
    values = (
        name, batch, "float32", 1, found.parameters_bytes, found.optimizer_bytes, found.activations_bytes,
        found.tensors_bytes, returning, round(returning / found.tensors_bytes, 4),
        found.resident_bytes, default, round(default / found.resident_bytes, 4),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def main() -> None:
    """Predict and measure every network, and store the table."""
    from hwlimits.training import networks

    require_clean_commit()
    made_by = provenance("python -m hwlimits.training.memory", allocator=" ".join(platform.libc_ver()))
    rows = []
    for name in networks.NAMES:
        rows.append(row(name))
        print(rows[-1], file=sys.stderr, flush=True)
    store_table(data.path("results") / "training_memory.csv", COLUMNS, rows, made_by)


if __name__ == "__main__":
    main()
