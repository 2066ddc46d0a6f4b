"""What a stage of the case study is worth: measured on its file, reported with its uncertainty.

An accuracy is a share of a few thousand images, so it comes with a 95 % interval; two models
tested on the same images are compared on the images where they differ (McNemar); a claim over
seeds is a mean of differences, paired by seed, with the spread of them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from hwlimits.machine.memory import peak_bytes
from hwlimits.machine.timing import compare
from hwlimits.training.litert import LiteRTFile, micro_runtime, run_micro
from hwlimits.training.mnist import ImageSet
from hwlimits.training.operators import operators

THREADS = 1
BATCHES = (1, 128)
KERAS_DISAGREEMENT = 0.005  # share of images where a file may answer otherwise than its Keras model


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of an accuracy (Wilson 1927), as shares of 1.

    >>> low, high = accuracy_interval(9_920, 10_000)
    >>> round(low, 4), round(high, 4)
    (0.9901, 0.9936)
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"accuracy_interval({correct}, {total}): {correct} right answers out of {total} can't be")
    interval = stats.binomtest(correct, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> dict:
    """Exact McNemar test of two models on the same images; the arguments are booleans (n,).

    Only the images where one is right and the other wrong count: if the models are equally
    good, each is as likely to be the right one. McNemar 1947; exact binomial, two-sided.

    >>> a = np.array([True] * 90 + [False] * 10)
    >>> b = np.array([True] * 100)
    >>> mcnemar(a, b)
    {'only_a_right': 0, 'only_b_right': 10, 'p_value': 0.001953125}
    """
    if right_a.shape != right_b.shape:
        raise ValueError(f"mcnemar: {right_a.shape} and {right_b.shape} answers; both need the same images")
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p_value": float(p)}


def recall_per_digit(labels: np.ndarray, predicted: np.ndarray) -> list[float]:
    """Share of each digit's images that were recognised, digits 0 to 9."""
    return [float(np.mean(predicted[labels == digit] == digit)) for digit in range(10)]


def paired(after: Sequence[float], before: Sequence[float]) -> dict:
    """Mean of the differences after - before, paired by seed, with its 95 % interval (Student's t).

    >>> found = paired([0.994, 0.993, 0.995], [0.993, 0.993, 0.993])
    >>> round(found["mean"], 4), found["low"] < 0 < found["high"]
    (0.001, True)
    """
    if len(after) != len(before) or len(after) < 2:
        raise ValueError(
            f"paired: {len(after)} and {len(before)} values; needs the same seeds on both sides, two or more"
        )
    difference = np.asarray(after, float) - np.asarray(before, float)
    mean = float(difference.mean())
    half = float(stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / math.sqrt(len(difference)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(difference)}


def file_record(content: bytes, mnist: ImageSet, predicted: np.ndarray) -> dict:
    """All that can be said of a file without timing it. `predicted`: its answers to the test images."""
    file = LiteRTFile(content)
    labels = mnist.y_test
    right = predicted == labels
    low, high = accuracy_interval(int(right.sum()), len(labels))
    macs = {operator.name: operator.cost.macs for operator in operators(file)}
    # a weight works as often as any other of its layer, at each place of the image once
    effective = sum(macs[x.name] * int(np.count_nonzero(x.weights)) // x.weights.size for x in file.layers)
    wrong = np.flatnonzero(~right)
    return {
        "dataset": mnist.source,
        "test_images": len(labels),
        "test_accuracy": float(right.mean()),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
        "recall_per_digit": recall_per_digit(labels, predicted),
        "wrong": [[int(i), int(predicted[i])] for i in wrong],
        "parameters": file.parameter_count,
        "nonzero_parameters": file.nonzero_parameters,
        "raw_bytes": file.raw_bytes,
        "deflated_bytes": file.deflated_bytes,
        "entropy_bytes": round(file.entropy_bytes, 1),
        "macs": sum(macs.values()),
        "effective_macs": effective,
        "int8_weights": file.int8_weights,
    }


def latency_record(content: bytes, baseline: bytes, images: np.ndarray, attempts: int = 3) -> dict:
    """Latency at batch 1 and 128, one thread, interleaved with the baseline's file.

    `images` uint8, at least 128. A void comparison is stored as void, never as a speed-up.
    """
    record: dict = {"latency_threads": THREADS}
    for batch in BATCHES:
        if len(images) < batch:
            raise ValueError(f"latency_record: {len(images)} images, a batch needs {batch}")
        runners = [LiteRTFile(c).runner(images[:batch], threads=THREADS) for c in (baseline, content)]
        comparison = compare(*runners, attempts=attempts)
        prefix = f"latency_batch{batch}"
        record |= {
            f"{prefix}_median_s": comparison.b.median_s,
            f"{prefix}_iqr_s": comparison.b.iqr_s,
            f"{prefix}_baseline_median_s": comparison.a.median_s,
            f"{prefix}_speedup": comparison.ratio,
            f"{prefix}_speedup_low": comparison.low,
            f"{prefix}_speedup_high": comparison.high,
            f"{prefix}_aa_control": comparison.aa_ratio,
            f"{prefix}_verdict": comparison.verdict,
            f"{prefix}_noisy": comparison.b.noisy,
            f"{prefix}_attempts": comparison.attempts,
        }
    return record


def memory_record(content: bytes) -> dict:
    """Peak resident memory that loading and running the file adds to a fresh process, by batch."""
    record = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        prepare = f"import numpy as np; from hwlimits.training.litert import LiteRTFile; path = {str(path)!r}"
        for batch in BATCHES:
            work = f"LiteRTFile.read(path).runner(np.zeros(({batch}, 28, 28), np.uint8))()"
            record[f"peak_memory_batch{batch}_bytes"] = peak_bytes(prepare, work)
    return record


def micro_record(content: bytes, mnist: ImageSet) -> dict:
    """The int8 file in the microcontroller runtime, on the same test images, and how far it is from LiteRT."""
    if micro_runtime() is None:
        return {"micro": "not run: tflite-micro has wheels for Linux on x86-64 only"}
    file, labels = LiteRTFile(content), mnist.y_test
    run = run_micro(file, mnist.x_test)
    steps = np.abs(run.outputs.astype(int) - file.outputs(mnist.x_test, reference=True))
    return {
        "micro": {
            "test_images": len(labels),
            "test_accuracy": float(np.mean(run.outputs.argmax(axis=1) == labels)),
            "arena_bytes": run.arena_bytes,
            "outputs_unlike_reference": int(np.count_nonzero(steps)),
            "largest_difference_steps": int(steps.max()),
        }
    }


def check_export(file_answers: np.ndarray, keras_answers: np.ndarray) -> float:
    """Share of images on which a file and its Keras model differ; ValueError above the stated share.

    >>> check_export(np.array([1, 2, 3]), np.array([1, 2, 3]))
    0.0
    """
    share = float(np.mean(file_answers != keras_answers))
    if share > KERAS_DISAGREEMENT:
        raise ValueError(
            f"the exported file answers otherwise than its Keras model on {100 * share:.2f} % of the images; "
            f"at most {100 * KERAS_DISAGREEMENT} % may be rounding. Was the right model exported?"
        )
    return share


def check_int8(content: bytes) -> None:
    """Raise ValueError unless the weights of every heavy layer of a file are int8."""
    for layer in LiteRTFile(content).layers:
        if layer.weights.dtype != np.int8:
            raise ValueError(
                f"{layer.op} {layer.name} has {layer.weights.dtype} weights, int8 was asked for. "
                "Was the model made by quantize.aware and exported by export.to_int8?"
            )


def check_zeros(content: bytes, sparsity: Mapping[str, float]) -> None:
    """Raise ValueError unless the layers named in `sparsity` have at least that share of zeros in the file."""
    for name, share in sparsity.items():
        (layer,) = (layer for layer in LiteRTFile(content).layers if name in layer.name)
        found = float(np.mean(layer.weights == 0))
        if found < share - 0.005:
            raise ValueError(
                f"{name}: {100 * found:.1f} % of the file's weights are zero, {100 * share:.1f} % were asked for. "
                "Did quantization-aware training let them grow back? quantize.aware keeps them."
            )


def before_after(before: Mapping, after: Mapping) -> list[tuple[str, str, str, str]]:
    """The report of an optimisation: rows of (what, before, after, verdict), from two run records.

    A verdict says 'less', 'faster' or 'gain' only where the measurement shows it: sizes and counts
    by more than 1 %, accuracy by McNemar (p < 0.05), speed by an interleaved comparison that is
    not void; and records are interleaved with baseline_15 alone, so with another `before` there
    is no verdict on speed.

    Raises ValueError if the two were tested on different images.
    """
    if (before["dataset"], before["test_images"]) != (after["dataset"], after["test_images"]):
        raise ValueError(
            f"before_after: tested on {before['dataset']} and on {after['dataset']}; needs the same images"
        )
    rows = []
    for what, key in (
        ("file, raw (bytes)", "raw_bytes"), ("file, deflated (bytes)", "deflated_bytes"),
        ("parameters not zero", "nonzero_parameters"), ("multiply-accumulates, effective", "effective_macs"),
    ):  # fmt: skip
        ratio = before[key] / after[key]
        said = f"{ratio:.2f}x less" if ratio > 1 else f"{1 / ratio:.2f}x more"
        rows.append((what, f"{before[key]:,}", f"{after[key]:,}", said if abs(ratio - 1) > 0.01 else "no difference"))
    for batch in BATCHES:
        prefix = f"latency_batch{batch}"
        times = [f"{1e6 * record[f'{prefix}_median_s']:.1f} µs" for record in (before, after)]
        verdict, ratio = after[f"{prefix}_verdict"], after[f"{prefix}_speedup"]
        said = {"VOID": "VOID: no verdict", "equal": "no difference"}.get(verdict, f"{ratio:.2f}x, {verdict}")
        rows.append(
            (f"latency, batch {batch}", *times, said if before["stage"] == "baseline_15" else "not interleaved")
        )
    test = mcnemar(*(right_answers(record) for record in (before, after)))
    change = after["test_accuracy"] - before["test_accuracy"]
    said = f"{'gain' if change > 0 else 'loss'} of {100 * abs(change):.2f} points"
    said = said if test["p_value"] < 0.05 else "no difference shown"
    accuracies = [f"{100 * record['test_accuracy']:.2f} %" for record in (before, after)]
    rows.append(("accuracy", *accuracies, f"{said} (McNemar p = {test['p_value']:.2g})"))
    return rows


def right_answers(record: Mapping) -> np.ndarray:
    """Booleans (n,): which test images a record's file got right."""
    right = np.ones(record["test_images"], dtype=bool)
    right[[image for image, _ in record["wrong"]]] = False
    return right
