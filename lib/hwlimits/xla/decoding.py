"""`python -m hwlimits.xla.decoding`: a Transformer's prefill and decode on JAX's device, predicted, then measured.

Three predictions of each step, made before it is timed: of the registry's published peaks; of the bandwidth and the
FLOP/s that the same JAX reached a moment before; and of those with what the compiled program says of itself, the
bytes that its kernels move (XLA's cost analysis) and how many kernels there are, each of which takes a while to start
and to end. FLOPs are of all attention scores, the masked ones too, as the program computes them: predictions of this
program, not bounds of any. It writes decoder_<platform>_<device>.json.
"""

from __future__ import annotations

import functools
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hwlimits import devices, xla
from hwlimits.counting import Cost
from hwlimits.machine.provenance import machine
from hwlimits.machine.timing import Timing, measure
from hwlimits.roofline import Roofline
from hwlimits.transformer import MODELS, Decoder
from hwlimits.units import seconds
from hwlimits.xla.__main__ import Run, begin, elements_for, file_name, plain
from hwlimits.xla.decoder import TYPES, Program, empty_cache, program, random_weights
from hwlimits.xla.engine import calling, compiled, jax_module, random_block
from hwlimits.xla.precisions import XlaError, lacks
from hwlimits.xla.programs import kernels

BUDGET_S = 130.0
REGISTRY = {  # what JAX calls a device -> its name in the registry
    "NVIDIA H100 80GB HBM3": "h100-sxm", "NVIDIA H100 PCIe": "h100-pcie", "NVIDIA H200": "h200-sxm",
    "NVIDIA A100-SXM4-40GB": "a100-40gb-sxm", "NVIDIA A100-SXM4-80GB": "a100-80gb-sxm", "NVIDIA L4": "l4",
    "Tesla T4": "t4", "Tesla V100-SXM2-16GB": "v100-sxm2", "TPU v4": "tpu-v4", "TPU v5 lite": "tpu-v5e",
}  # fmt: skip
FORMATS = {"float32": "fp32", "bfloat16": "bf16"}  # as the registry calls them
IN_USE_SHARE = (0.95, 1.5)  # of the weights' bytes, by what the device says is in use; the next wider type takes 2
FREE_SHARE = 0.95  # of the device's memory: more is not asked for
CHAIN = (32, 160)  # tiny products, one after the other, whose difference in time is that of the kernels between them
CHAIN_SIDE, CHAIN_FACTOR = 16, np.float32(0.999)

TINY = (
    Decoder("tiny-gpt", 512, 64, 2, 4, 256, bias=False, positions=64),
    Decoder("tiny-llama", 512, 64, 2, 4, 160, key_heads=2, gated=True, activation="silu", rms=True, bias=False,
            tied=False),
)  # fmt: skip
RUNS = {model.name: model for model in (*TINY, replace(MODELS["gpt-2"], bias=False), MODELS["llama-2-7b"])}


@dataclass(frozen=True)
class Said:
    """A finding with the words for it while it runs."""

    found: Any
    words: str

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Point:
    """A step to measure: `new` tokens of each of `sequences` texts behind `past` others, in a cache that they fill."""

    model: str
    new: int
    past: int = 0
    sequences: int = 1

    @property
    def phase(self) -> str:
        return "decode" if self.past else "prefill"

    def __str__(self) -> str:
        what = f"decode behind {self.past}" if self.past else f"prefill of {self.new}"
        return f"{self.model}, {what}, {self.sequences} text{'s' if self.sequences > 1 else ''}"


def points(platform: str, quick: bool) -> list[Point]:
    """What is measured on a CPU, and on a device with memory of its own: the most telling first.

    >>> [str(point) for point in points("gpu", False)[:2]]
    ['gpt-2, decode behind 128, 1 text', 'llama-2-7b, decode behind 128, 1 text']
    """
    if quick:
        rows = [(tiny.name, *row) for tiny in TINY for row in ((1, 31), (32,), (1, 63), (1, 31, 4))]
    elif platform == "cpu":
        rows = [("gpt-2", *row) for row in ((1, 128), (128,), (1, 128, 8), (1, 1023), (32,), (512,), (1, 512))]
    else:
        large, small = "llama-2-7b", "gpt-2"
        rows = [
            (small, 1, 128), (large, 1, 128), (large, 512), (large, 1, 512, 64), (large, 2048), (large, 1, 4095),
            (large, 1, 128, 8), (small, 1, 128, 64), (small, 512), (large, 1, 4095, 8), (small, 1, 1023),
            (large, 1, 128, 64), (large, 128), (small, 1, 1023, 64), (small, 128), (small, 1, 128, 8),
        ]  # fmt: skip
    return [Point(*row) for row in rows]


# --- what the device reaches, in the same JAX --------------------------------------------------


def kernel_time(lengths: Sequence[int] = CHAIN, **timing) -> Said:
    """Seconds from one kernel to the next where each does almost nothing and needs the one before it.

    The difference of two programs' times, chains of so many tiny products, over that of the kernels in their texts.
    Raises XlaError where the chain's result is wrong, or XLA made as many kernels of both.
    """
    jax, took, counts = jax_module(), [], []
    x = jax.device_put(np.ones((CHAIN_SIDE, CHAIN_SIDE), np.float32))
    w = jax.device_put(np.eye(CHAIN_SIDE, dtype=np.float32) * CHAIN_FACTOR)

    def chain(x, w, length):
        for _ in range(length):
            x = jax.numpy.matmul(x, w, precision="highest")
        return x

    for length in lengths:
        made, _ = compiled(functools.partial(chain, length=length), x, w)
        if not np.allclose(np.asarray(made(x, w)), float(CHAIN_FACTOR) ** length, rtol=1e-3):
            raise XlaError(f"a chain of {length} products gave a wrong result.")
        counts.append(kernels(made.as_text() or ""))
        call, sync = calling(made, x, w)
        took.append(measure(call, sync=sync, **timing))
    if counts[1] <= counts[0]:
        raise XlaError(f"XLA made {counts[1]} kernels of {lengths[1]} products and {counts[0]} of {lengths[0]}.")
    each_s = (took[1].median_s - took[0].median_s) / (counts[1] - counts[0])
    if each_s <= 0:
        raise XlaError(f"{lengths[1]} products took no longer than {lengths[0]}: the device did not hold still.")
    return Said({"kernel_s": each_s, "kernels": counts, "timings": took}, seconds(each_s))


def call_time(model: Decoder, weights, precision: str, **timing) -> Timing:
    """Time of a call that takes a step's arguments, in a cache of one token, and computes next to nothing."""
    jax = jax_module()
    arguments = (dict(weights), empty_cache(model, 1, 1, precision), jax.device_put(np.int32([[0]])), np.int32(0))
    made, _ = compiled(
        lambda weights, cache, tokens, past: (cache, tokens + past), *arguments, donate_argnums=1, keep_unused=True
    )
    state = {"cache": arguments[1], "tokens": arguments[2]}

    def once():
        state["cache"], state["tokens"] = made(arguments[0], state["cache"], state["tokens"], arguments[3])
        return state["tokens"]

    call, sync = calling(once)
    return measure(call, sync=sync, **timing)


# --- one step -----------------------------------------------------------------------------------


def predictions(
    cost: Cost, made: Program, published: Roofline | None, reached: Roofline, kernel_s: float, call_s: float
) -> dict[str, dict | None]:
    """Seconds of a step, three times, and what bounds it: 'compute', 'memory', or 'dispatch' of kernels and calls.

    >>> made = Program(None, 0.0, moved_bytes=2e9, xla_flops=0, kernels=100, multiplied=(), temp_bytes=0)
    >>> roof = Roofline("r", 1e12, {"memory": 1e12})
    >>> predictions(Cost(macs=10**6, bytes_read=10**9), made, None, roof, 1e-5, 1e-4)["program"]
    {'time_s': 0.003, 'bound': 'memory', 'compute_s': 2e-06, 'memory_s': 0.002, 'kernels_s': 0.001, 'call_s': 0.0001}
    """

    def by(roofline):
        return roofline and {"time_s": roofline.time_s(cost), "bound": roofline.bound(cost)}

    compute_s, memory_s = cost.flops / reached.peak_flops_per_s, made.moved_bytes / reached.bandwidth()
    kernels_s = made.kernels * kernel_s
    limits = {"compute": compute_s, "memory": memory_s, "dispatch": max(kernels_s, call_s)}
    whole = {
        "time_s": max(max(compute_s, memory_s) + kernels_s, call_s), "bound": max(limits, key=limits.get),
        "compute_s": compute_s, "memory_s": memory_s, "kernels_s": kernels_s, "call_s": call_s,
    }  # fmt: skip
    return {"published": by(published), "reached": by(reached), "program": whole}


class Step:
    """A compiled step with its weights, a cache full of random numbers, and tokens: to be checked, then timed."""

    def __init__(self, point: Point, made: Program, weights, precision: str):
        self.point, self.made, self.weights, self.model = point, made, weights, RUNS[point.model]
        jax = jax_module()
        random = np.random.default_rng(0)
        shape = (point.sequences, point.new)
        self.first, self.other = (
            jax.device_put(random.integers(0, self.model.vocabulary, shape, np.int32)) for _ in range(2)
        )
        self.past = jax.device_put(np.int32(point.past))
        self.tokens = self.first
        self.cache = empty_cache(self.model, point.sequences, point.past + point.new, precision)
        self.precision = precision

    def __call__(self):
        """Scores of one step; decode goes on with its own best token, in the same place; prefill starts again.

        The cache's memory goes from call to call: none can start before the last one has ended, or be left out.
        """
        self.cache, scores, best = self.made.call(self.weights, self.cache, self.tokens, self.past)
        if self.point.phase == "decode":
            self.tokens = best
        return scores

    def scores(self, tokens) -> np.ndarray:
        self.tokens = tokens
        return np.asarray(self().astype("float32"))

    def check(self) -> dict[str, bool]:
        """Raise XlaError unless scores are finite and depend on tokens and cache, and the cache is written in place."""
        before = self.cache[0]
        empty = self.scores(self.first)
        found = {"cache is updated in place": before.is_deleted(), "cache is written": bool(self._last().any())}
        written = self._last()
        if self.point.phase == "decode":
            self._fill()
        first, other = self.scores(self.first), self.scores(self.other)
        found |= {
            "scores are finite": bool(np.isfinite([empty, first, other]).all()),
            "scores differ": bool(np.ptp(first, axis=-1).min() > 0),
            "tokens matter": not np.array_equal(first, other),
            "each token's keys are its own": not np.array_equal(written, self._last()),
        }
        if self.point.phase == "decode":
            found["cache is read"] = not np.array_equal(empty, first)
        wrong = [name for name, is_so in found.items() if not is_so]
        if wrong:
            raise XlaError(f"{self.point}: it is not true that {', '.join(wrong)}: a time of it would mean nothing.")
        return found

    def _last(self) -> np.ndarray:
        """Keys of the last token in the first layer."""
        return np.asarray(self.cache[0][:, -1].astype("float32"))

    def _fill(self):
        """Numbers that differ from place to place and from head to head, made of one block: a cache may be large."""
        numpy, random = jax_module().numpy, np.random.default_rng(1)
        (heads, *shape), kind = self.cache[0].shape, self.cache[0].dtype
        block = numpy.asarray(np.resize(random_block("f32", 0), shape), kind)
        for i in range(len(self.cache)):
            self.cache[i] = None  # its memory is free for the new one
            self.cache[i] = block * numpy.asarray(random.uniform(0.5, 1.5, (heads, 1, 1)), kind)


def measured_step(point: Point, weights, precision: str, predicting: Callable, **timing) -> Said:
    """Everything of one step: counted, compiled, predicted, checked, and only then timed."""
    model, size = RUNS[point.model], TYPES[precision][1]
    cost = model.step(point.new, point.past, point.sequences, weight_bytes=size, number_bytes=size)
    cache_bytes = model.cache_bytes(point.past + point.new, point.sequences, size)
    room = _memory().get("bytes_limit")
    if room and _memory()["bytes_in_use"] + cache_bytes > FREE_SHARE * room:
        raise XlaError(f"{point}: a cache of {cache_bytes / 1e9:.1f} GB does not fit beside the weights.")
    made = program(model, weights, point.new, point.past + point.new, point.sequences)
    predicted = predicting(cost, made)
    run = Step(point, made, weights, precision)
    checks = run.check()
    call, sync = calling(run)
    took = measure(call, sync=sync, **timing)
    if not np.isfinite(np.asarray(run().astype("float32"))).all():
        raise XlaError(f"{point}: after its timing, scores are not finite any more.")
    ratios = {name: found and took.median_s / found["time_s"] for name, found in predicted.items()}
    program_says = {field: value for field, value in asdict(replace(made, call=None)).items() if field != "call"}
    row = {
        **asdict(point), "phase": point.phase, "flops": cost.flops, "bytes": cost.bytes, "intensity": cost.intensity,
        "cache_bytes": cache_bytes, "program": program_says, "predicted": predicted, "timing": took, "ratio": ratios,
        "tokens_per_s": point.sequences * point.new / took.median_s, "checks": checks,
    }  # fmt: skip
    return Said(row, f"{took}, {ratios['program']:.2f} of the program's prediction")


def _memory() -> dict[str, int]:
    return jax_module().devices()[0].memory_stats() or {}


def placed_weights(model: Decoder, precision: str) -> Said:
    """Weights on the device, and their bytes: counted, of the arrays, and by what the device says is in use.

    Raises XlaError where the three, as far as there are three, differ: then they are not of the type asked for.
    """
    gc.collect()  # what is not used any more is not to be freed meanwhile
    before = _memory().get("bytes_in_use")
    weights = jax_module().block_until_ready(random_weights(model, precision))
    in_use = None if before is None else _memory()["bytes_in_use"] - before
    found = {
        "type": ", ".join(sorted({str(array.dtype) for array in weights.values()})),
        "counted_bytes": model.weights_bytes(TYPES[precision][1]),
        "array_bytes": sum(array.nbytes for array in weights.values()), "in_use_bytes": in_use,
    }  # fmt: skip
    wrong = found["type"] != precision or found["array_bytes"] != found["counted_bytes"]
    low, high = (share * found["counted_bytes"] for share in IN_USE_SHARE)
    if wrong or (in_use is not None and not low <= in_use <= high):
        raise XlaError(f"{model.name}: weights were to be {precision} on the device, and are not: {found}.")
    return Said((weights, found), f"{found['array_bytes'] / 1e9:.3g} GB of {found['type']}")


def precision_here() -> str:
    """bfloat16 where the device multiplies it, float32 on a CPU and on older GPUs."""
    here = xla.device()
    on_cpu = here["platform"] == "cpu"  # which widens bfloat16 before it multiplies
    return "float32" if on_cpu or lacks("bfloat16", here["platform"], here["compute_capability"]) else "bfloat16"


def measured(
    quick: bool, budget_s: float, keep: Callable[[dict], None], clock: Callable[[], float] = time.perf_counter
) -> None:
    """Rates, then each step's predictions and time, for at most about `budget_s` seconds; all so far goes to `keep`."""
    run, here, precision = Run(budget_s, clock), xla.device(), precision_here()
    on_cpu = here["platform"] == "cpu"
    timing = {"repeats": 5 if quick or on_cpu else 9, "min_sample_s": 2e-3 if quick else 2e-2}
    name = REGISTRY.get(here["kind"])
    published = name and Roofline.of_device(devices.device(name), FORMATS[precision])
    elements = 2**22 if quick else elements_for(0 if on_cpu else 1e13, 0.05)
    line = run("bandwidth", lambda: xla.roofline(elements, (1,), 16, **timing))
    product = run(
        "product", lambda: xla.matrix_product(512 if quick else 2048 if on_cpu else 8192, precision, **timing)
    )
    kernel = run("kernel", lambda: kernel_time(**timing))
    found: dict[str, Any] = {
        "precision": precision, "registry": name, "bandwidth": line, "product": product,
        "kernel": kernel and kernel.found, "weights": {}, "call": {}, "points": [],
    }  # fmt: skip

    def keep_all():
        keep(plain(found) | {"left_out": run.left_out})

    if not (line and product):
        return keep_all()
    reached = Roofline(here["kind"], product.flops_per_s, {"memory": line["triad"]["bytes_per_s"]})
    weights: dict[str, Any] = {}
    for point in points(here["platform"], quick):
        model = RUNS[point.model]
        if model.name not in weights:
            placed = run(f"{model.name}: weights", lambda m=model: placed_weights(m, precision))
            weights[model.name], found["weights"][model.name] = placed.found if placed else (None, None)
            found["call"][model.name] = placed and run(
                f"{model.name}: call", lambda m=model: call_time(m, weights[m.name], precision, **timing)
            )
        if weights[model.name] is None:
            run.left_out[str(point)] = "its weights could not be had"
            continue
        call = found["call"][model.name]
        starts_s = kernel.found["kernel_s"] if kernel else 0.0, call.median_s if call else 0.0  # `left_out` has why

        def predicting(cost, made, point=point, starts_s=starts_s):
            predicted = predictions(cost, made, published, reached, *starts_s)
            told = ", ".join(f"{how} {seconds(one['time_s'])}" for how, one in predicted.items() if one)
            print(f"{point}: predicted: {told}", flush=True)
            return predicted

        one = run(str(point), lambda p=point, f=predicting: measured_step(p, weights[p.model], precision, f, **timing))
        found["points"] += [one.found] if one else []
        keep_all()
    return keep_all()


def main(arguments: list[str] | None = None) -> None:
    given, device, record = begin(
        "python -m hwlimits.xla.decoding", __doc__, "make results-decoder", BUDGET_S, arguments
    )
    target = given.out / file_name(device, machine()["cpu"], given.quick, start="decoder")

    def keep(found):  # after each step: what was measured is there whatever comes next
        result = {"provenance": record, "quick": given.quick} | found
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    measured(given.quick, given.seconds, keep)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
