"""TensorFlow's executor, replayed: in which order it runs a graph, and what is in memory meanwhile.

An operation starts when all that it waits for is there. Its thread goes on with what has become ready: small
operations and the last of the others; the rest it puts on its own stack, from which it takes the newest
when it has nothing else, and an idle thread the oldest. So with one thread the gradients of the weights
wait until those of the activations have gone all the way to the first layer, and what they need waits
with them. A tensor's memory is taken when its operation starts, and given back when its last reader is done.

Source: tensorflow/core/common_runtime/executor.cc (ScheduleReady), Eigen's NonBlockingThreadPool.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from math import prod, sqrt

from hwlimits.training.step_graph import Operation, StepGraph

VIEWS = {"Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient", "PreventGradient", "EnsureShape", "IdentityN"}
NO_MEMORY = {"_Arg", "Placeholder", "ReadVariableOp", "Const", "VarHandleOp"}  # the caller's, a variable's, the graph's
SMALL = VIEWS | {"Const", "Shape", "ShapeN", "Size", "Rank", "NoOp", "_Arg", "_Retval", "Placeholder", "VarHandleOp"}
# Kernels that write their result where an input was, if nobody else will read it: their first input ...
_FIRST = (
    "Abs BiasAdd ClipByValue Cos Elu EluGrad Erf Exp Expm1 FusedBatchNormV3 Inv LeakyRelu LeakyReluGrad Log Log1p "
    "LogSoftmax MaxPoolGrad Neg Pow Reciprocal Relu Relu6 Relu6Grad ReluGrad Rsqrt Selu SeluGrad Sigmoid Sign Sin "
    "Softmax Softplus Softsign Sqrt Square Tanh"
)
# ... or any
_ANY = (
    "Add AddN AddV2 DivNoNan Maximum Minimum Mul RealDiv RsqrtGrad Select SelectV2 SigmoidGrad SqrtGrad "
    "SquaredDifference Sub TanhGrad"
)
LAUNCH_BYTES, LAUNCH_MACS = 8_000, 25_000  # guesses: a core moves or multiplies so much while an operation is launched
_LOOP = "Enter Exit LoopCond NextIteration PartitionedCall StatefulPartitionedCall StatelessWhile While"
_IN_PLACE_FIRST, _IN_PLACE_ANY, _LOOPS = (frozenset(names.split()) for names in (_FIRST, _ANY, _LOOP))
_IMAGES = {"FusedBatchNormV3": 2, "FusedBatchNormGradV3": 3}  # that it reads and writes, the large ones
_ASKS_SHAPE = {"Shape", "ShapeN", "Size", "Rank"}


class StepError(ValueError):
    """The step's graph can't be replayed: it has a loop, or calls what can't be looked into."""


@dataclass(frozen=True)
class Run:
    """What a replay found: `peak_bytes` of tensors and workspaces together, at the operation `at`.

    kept_bytes   of the tensors that the forward pass leaves for the backward pass
    alive        at the peak: (operation, bytes), the largest first
    """

    peak_bytes: int
    at: str
    kept_bytes: int
    alive: tuple[tuple[str, int], ...]


Listener = Callable[[str, object, int], None]  # ("take" or "give", which, bytes)


def replay(graph: StepGraph, *, threads: int = 1, l3_bytes: int = 2**25, listener: Listener | None = None) -> Run:
    """Run the graph on paper, with as many threads as TensorFlow would use.

    l3_bytes   of the processor's last cache, by which TensorFlow's convolutions size their workspace
    listener   is told of every block that is taken and given back, in order

    With one thread the order is TensorFlow's. With several it depends on how long each operation takes, of
    which there is but a guess here.
    Raises StepError for a graph with a loop or a call of another graph in it.
    """
    if loop := next((o for o in graph.operations if o.kind in _LOOPS), None):
        raise StepError(
            f"the step has a loop ({loop.kind} {loop.name!r}), as recurrent layers have: what it keeps depends on how "
            "often it runs. Make the layer with unroll=True to have it counted."
        )
    return _Replay(graph, threads, l3_bytes, listener or (lambda *_: None)).run()


class _Replay:
    def __init__(self, graph: StepGraph, threads: int, l3_bytes: int, listener: Listener):
        self.graph, self.l3_bytes, self.tell = graph, l3_bytes, listener
        self.operations = {o.name: o for o in graph.operations}
        self.readers: dict[tuple[str, int], int] = Counter(i for o in graph.operations for i in o.inputs)
        # what an operation sets free: first those that read its outputs, then those that only wait for it
        self.next: dict[str, list[Operation]] = {o.name: [] for o in graph.operations}
        self.then: dict[str, list[Operation]] = {o.name: [] for o in graph.operations}
        self.waits: dict[str, int] = {}
        for o in graph.operations:
            reads, after = dict.fromkeys(name for name, _ in o.inputs), dict.fromkeys(o.after)
            self.waits[o.name] = len(reads) + len(after)
            for name in reads:
                self.next[name].append(o)
            for name in after:
                self.then[name].append(o)
        self.outputs: dict[str, list[int]] = {}
        for name, i in {*self.readers, *graph.bytes}:
            self.outputs.setdefault(name, []).append(i)
        self.buffer: dict[tuple[str, int], tuple[str, int]] = {}  # a tensor -> whose memory it is
        self.references: dict[tuple[str, int], int] = Counter()
        self.size: dict[tuple[str, int], int] = {}
        self.for_backward: set[tuple[str, int]] = set()
        self.live = self.peak = 0
        self.at, self.alive = "", ()
        self.inline = [deque() for _ in range(threads)]
        self.stacks = [deque() for _ in range(threads)]

    def run(self) -> Run:
        roots = [o for o in self.graph.operations if not self.waits[o.name]]
        for i, operation in enumerate(roots):
            self.stacks[i % len(self.stacks)].append(operation)
        running: dict[int, list] = {}  # thread -> [operation, launches left]
        while True:
            for thread in range(len(self.stacks)):
                if thread not in running and (operation := self._take(thread)):
                    self._start(operation)
                    running[thread] = [operation, _duration(operation, self.graph)]
            if not running:
                break
            thread = min(running, key=lambda t: running[t][1])
            operation, passed = running.pop(thread)
            for other in running.values():
                other[1] -= passed
            self._schedule(thread, self._finish(operation))
        kept = sum(self.size[b] for b in self.for_backward)
        return Run(self.peak, self.at, kept, self.alive)

    def _take(self, thread: int) -> Operation | None:
        if self.inline[thread]:
            return self.inline[thread].popleft()
        if self.stacks[thread]:
            return self.stacks[thread].popleft()
        return next((stack.pop() for stack in self.stacks if stack), None)

    def _start(self, o: Operation) -> None:
        reads_last = len(o.inputs) > 1 and self.references[self.buffer[o.inputs[1]]] == 1
        if work := workspace_bytes(o, self.graph, self.l3_bytes, reads_last=reads_last):
            self._grow((o.name, -1), work)
        for i in sorted(self.outputs.get(o.name, ())):
            home = self._home(o, i)
            if home not in self.size:
                self._grow(home, 0 if o.kind in NO_MEMORY else self.graph.size((o.name, i)))
            self.buffer[o.name, i] = home
            self.references[home] += 1  # the operation's own, until it is done
        if self.live > self.peak:
            self.peak, self.at = self.live, o.name
            blocks = [(b, s) for b, s in self.size.items() if s > 2**20 and (self.references[b] or b[1] < 0)]
            self.alive = tuple(sorted(((name, s) for (name, _), s in blocks), key=lambda x: -x[1]))

    def _home(self, o: Operation, i: int) -> tuple[str, int]:
        """Whose memory an output is: an input's, or its own."""
        if o.kind in VIEWS and o.inputs:
            return self.buffer[o.inputs[i if o.kind == "IdentityN" else 0]]
        candidates = o.inputs[:1] if o.kind in _IN_PLACE_FIRST else o.inputs if o.kind in _IN_PLACE_ANY else ()
        if i == 0:
            for given in candidates:
                home = self.buffer[given]
                if self.references[home] == 1 and self.size[home] == self.graph.size((o.name, 0)) > 0:
                    return home
        return o.name, i

    def _finish(self, o: Operation) -> list[Operation]:
        """Give back what nobody reads any more; the operations that are ready now."""
        backward = o.name.startswith("gradient_tape")
        if (o.name, -1) in self.size:
            self._shrink((o.name, -1))
        for i in self.outputs.get(o.name, ()):
            home = self.buffer[o.name, i]
            self.references[home] += self.readers[o.name, i] - 1
            if not self.references[home]:
                self._shrink(home)
        for given in o.inputs:
            home = self.buffer[given]
            if backward and o.kind not in _ASKS_SHAPE and not home[0].startswith("gradient_tape"):
                self.for_backward.add(home)
            self.references[home] -= 1
            if not self.references[home]:
                self._shrink(home)
        ready = []
        for user in (*self.next[o.name], *self.then[o.name]):
            self.waits[user.name] -= 1
            if not self.waits[user.name]:
                ready.append(user)
        return ready

    def _schedule(self, thread: int, ready: list[Operation]) -> None:
        large = [o for o in ready if o.kind not in SMALL]
        self.inline[thread].extend(o for o in ready if o.kind in SMALL)
        if large and not self.inline[thread]:
            self.inline[thread].append(large.pop())
        for operation in large:
            self.stacks[thread].appendleft(operation)

    def _grow(self, block: tuple[str, int], size: int) -> None:
        self.size[block] = size
        self.live += size
        if size:
            self.tell("take", block, size)

    def _shrink(self, block: tuple[str, int]) -> None:
        self.live -= self.size[block]
        if self.size[block]:
            self.tell("give", block, self.size[block])
        if block[1] < 0:
            del self.size[block]


def workspace_bytes(o: Operation, graph: StepGraph, l3_bytes: int, *, reads_last: bool = False) -> int:
    """What a kernel takes beside its tensors while it runs, where it is much and is all written.

    MaxPoolGrad finds the largest again: where each was, as int64, and the pooled values, in the place of the
    first ones if it is their last reader (`reads_last`). The gradients of a
    convolution write images out as columns (im2col) for as many examples as the last cache holds. An Einsum
    brings its operands into the order of a batched matrix product, and the product into that of its result; a
    normalization with the channels in front (as Keras' LayerNormalization is made) brings them to the end and back.
    (Eigen's products ask for room for their packed blocks, too, of which they write little.)
    """
    if o.kind == "MaxPoolGrad":
        pooled = graph.shapes.get(o.inputs[1])
        return 0 if pooled is None else prod(pooled) * (8 if reads_last else 4 + 8)
    if o.kind in ("Conv2DBackpropFilter", "Conv2DBackpropInput"):
        gradient = graph.shapes.get(o.inputs[2])
        weights = graph.shapes.get((o.name, 0) if o.kind == "Conv2DBackpropFilter" else o.inputs[1])
        if gradient is None or weights is None:
            return 0
        (batch, *places, filters), window = gradient, prod(weights[:-1])
        columns = prod(places) * window
        example = columns + prod(places) * filters + window * filters
        return 4 * columns * min(batch, max(1, -(-l3_bytes // 4 // example)))
    if o.kind in _IMAGES and o.detail == "NCHW":
        return _IMAGES[o.kind] * graph.size((o.name, 0))
    if o.kind == "Einsum":
        moved = zip((*o.inputs, (o.name, 0)), _reordered(o.detail), strict=True)
        return sum(graph.size(tensor) for tensor, copied in moved if copied)
    return 0


def _reordered(equation: str) -> list[bool]:
    """Which operands of an Einsum, and whether its result, are not in the order of a matrix product.

    >>> _reordered("abc,cde->abde"), _reordered("aecd,abcd->acbe")
    ([False, False, False], [True, True, True])
    """
    given, result = equation.replace("...", "").split("->")
    operands = given.split(",")
    ids = {label: i for i, label in enumerate(dict.fromkeys("".join(operands) + result))}
    shared = set(operands[0]).intersection(*operands[1:]) if len(operands) > 1 else set()

    def kind(label: str) -> int:  # batch, free, contracted, summed
        return (0 if label in result else 2) if label in shared else (1 if label in result else 3)

    moved = []
    for labels in operands:
        order = sorted(labels, key=lambda x: (kind(x), ids[x]))
        swapped = sorted(labels, key=lambda x: ({1: 2, 2: 1}.get(kind(x), kind(x)), ids[x]))
        moved.append(list(labels) not in (order, swapped))
    product = sorted(shared & set(result), key=ids.get)
    for labels in operands:
        product += sorted((x for x in labels if kind(x) == 1), key=ids.get)
    return [*moved, list(result) != product]


def _duration(o: Operation, graph: StepGraph) -> float:
    """A guess of how long an operation takes, in launches of one, by which threads pass each other."""
    moved = sum(map(graph.size, o.inputs)) + sum(graph.size((o.name, i)) for i in range(8))
    out, macs = graph.shapes.get((o.name, 0)), 0
    shapes = [graph.shapes.get(i) for i in o.inputs]
    if out and "MatMul" in o.kind and all(shapes[:2]):
        macs = prod(out) * sqrt(prod(shapes[0]) * prod(shapes[1]) / max(1, prod(out)) / max(1, prod(out[:-2])))
    elif "Conv2D" in o.kind or "Depthwise" in o.kind:
        gradient, weights = out, shapes[1] if len(shapes) > 1 else None
        if "Backprop" in o.kind:
            gradient, weights = shapes[2], out if "Filter" in o.kind else shapes[1]
        if gradient and weights:
            macs = prod(gradient[:-1]) * prod(weights)
    return 1 + moved / LAUNCH_BYTES + macs / LAUNCH_MACS
