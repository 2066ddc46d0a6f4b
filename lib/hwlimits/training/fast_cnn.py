"""The case study's CNN, faster: routes from the article's network to one that takes a third of the time.

    python -m hwlimits.training.fast_cnn                  train what is missing, measure, data/results/fast_cnn.json

A route is a network of `fast_cnn_training` and what runs it: LiteRT on its float32 or its int8 file, or the course's
own kernels, which skip zeros. Each is timed at batch 1 with one thread, in turns with LiteRT on the article's network
in float32, and its accuracy is that of the very executable that is timed.

The rule, fixed before a test image was seen: of the routes with a held-out accuracy of `HELD_OUT_ACCURACY` and a
comparison that is not void, the fastest. It then has to have `TEST_ACCURACY` in `TIME_SHARE` of the time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from hwlimits import data, progress
from hwlimits.kernels.bench import OPTIONS
from hwlimits.kernels.simd import INT8_DOT
from hwlimits.machine.provenance import DirtyTree, provenance, require_clean_commit
from hwlimits.machine.timing import compare
from hwlimits.training.evaluate import accuracy_interval, mcnemar
from hwlimits.training.litert import LiteRTFile, to_input
from hwlimits.training.mnist import ImageSet, MnistError, load, scale
from hwlimits.training.operators import operators
from hwlimits.training.sparse_network import sparse_network

BUILD = Path("build/fast-cnn")
BASELINE, DESIGNED = "base", "designed"  # two of the networks: the article's own, and the one that was designed small
HELD_OUT_ACCURACY, TEST_ACCURACY, TIME_SHARE = 0.993, 0.992, 1 / 3
RULE = (
    f"the fastest route with a held-out accuracy of at least {HELD_OUT_ACCURACY}; on test images it must then have "
    f"{TEST_ACCURACY}, in a third of the baseline's time"
)
ENGINES = ("LiteRT float32", "LiteRT int8", "kernels float32")


class FastCnnError(ValueError):
    """A choice that can't be made; the text says why."""


@dataclasses.dataclass(frozen=True)
class Executable:
    """A network and what runs it, one image at a time, one thread. The kernels leave a softmax at the end out.

    scores   of the ten classes, for an image uint8 (height, width)
    invoke   runs once more on the last image, and gives nothing back: what is timed
    """

    scores: Callable[[np.ndarray], np.ndarray]
    invoke: Callable[[], None]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The digit seen in each of `images` uint8 (n, height, width)."""
        return np.array([self.scores(image).argmax() for image in images])


def executable(content: bytes, engine: str) -> Executable:
    """The file, run by one of `ENGINES`. Raises FastCnnError for another engine, or for a file of the other kind."""
    if engine not in ENGINES:
        raise FastCnnError(f"executable(engine={engine!r}): choose one of {', '.join(ENGINES)}")
    file = LiteRTFile(content)
    if file.int8_weights != engine.endswith("int8"):
        raise FastCnnError(
            f"executable(engine={engine!r}): the weights of the file are {file.layers[0].weights.dtype}; "
            "take the engine that is for them"
        )
    if engine == "kernels float32":
        network = sparse_network(file)
        return Executable(lambda image: network(scale(image[None])[0]), network.invoke)
    interpreter = file.interpreter(1)
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()

    def scores(image):
        interpreter.set_tensor(given["index"], to_input(image[None], given))
        interpreter.invoke()
        return interpreter.get_tensor(found["index"])[0]

    return Executable(scores, interpreter.invoke)


def routes(files: Mapping[str, Mapping[str, bytes]]) -> list[tuple[str, str, bytes]]:
    """(network, engine, file) of every route: a network's files, the float32 one by LiteRT and by the kernels."""
    return [(name, engine, kinds[engine.split()[1]]) for name, kinds in files.items() for engine in ENGINES
            if engine.split()[1] in kinds]  # fmt: skip


def accuracy_record(prefix: str, predicted: np.ndarray, labels: np.ndarray) -> dict:
    """Accuracy on the images called `prefix`, with its 95 % interval.

    >>> accuracy_record("test", np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))["test_accuracy"]
    0.75
    """
    right = int(np.sum(predicted == labels))
    low, high = accuracy_interval(right, len(labels))
    return {
        f"{prefix}_images": len(labels),
        f"{prefix}_accuracy": right / len(labels),
        f"{prefix}_accuracy_low": low,
        f"{prefix}_accuracy_high": high,
    }


def file_record(content: bytes) -> dict:
    """Sizes of a file, its parameters, and its multiply-accumulates with and without those by 0."""
    file = LiteRTFile(content)
    macs = {operator.name: operator.cost.macs for operator in operators(file)}
    # a weight works as often as any other of its layer, at each place of the image once
    effective = sum(macs[x.name] * int(np.count_nonzero(x.weights)) // x.weights.size for x in file.layers)
    return {
        "raw_bytes": file.raw_bytes,
        "deflated_bytes": file.deflated_bytes,
        "parameters": file.parameter_count,
        "nonzero_parameters": file.nonzero_parameters,
        "macs": sum(macs.values()),
        "effective_macs": effective,
    }


def latency_record(baseline: Callable[[], None], invoke: Callable[[], None], **options) -> dict:
    """Time of a route in turns with the baseline's; `ratio` is the baseline's time over the route's.

    `baseline` and `invoke` run once on an image that was given to them before. A void comparison is stored as void.
    """
    found = compare(baseline, invoke, **options)
    return {
        "median_s": found.b.median_s,
        "iqr_s": found.b.iqr_s,
        "baseline_median_s": found.a.median_s,
        "ratio": found.ratio,
        "ratio_low": found.low,
        "ratio_high": found.high,
        "aa_control": found.aa_ratio,
        "verdict": found.verdict,
        "noisy": found.a.noisy or found.b.noisy,
        "attempts": found.attempts,
    }


def choose(found: Sequence[Mapping]) -> int:
    """Which of the routes is taken, by the rule above; no test image has a part in it.

    Raises FastCnnError if none has the held-out accuracy, or none of those was timed well.

    >>> a, b = {"held_out_accuracy": 0.9934, "ratio": 3.5}, {"held_out_accuracy": 0.9928, "ratio": 5.0}
    >>> choose([route | {"network": "narrow", "verdict": "faster"} for route in (a, b)])
    0
    """
    routes = {n: route for n, route in enumerate(found) if route["network"] not in (BASELINE, DESIGNED)}
    right = {n: route for n, route in routes.items() if route["held_out_accuracy"] >= HELD_OUT_ACCURACY}
    if not right:
        best = max((route["held_out_accuracy"] for route in routes.values()), default=float("nan"))
        raise FastCnnError(
            f"choose: no route has a held-out accuracy of {HELD_OUT_ACCURACY}, the best of them {best:.4f}; "
            "train longer, or remove less"
        )
    timed = {n: route for n, route in right.items() if route["verdict"] != "VOID"}
    if not timed:
        raise FastCnnError(
            f"choose: all {len(right)} routes that are right often enough are VOID; measure again in quiet"
        )
    return max(timed, key=lambda n: timed[n]["ratio"])


def measure(files: Mapping[str, Mapping[str, bytes]], held_out: ImageSet, test: ImageSet, **options) -> dict:
    """Every route's record, and the one that is chosen before the test images are looked at.

    files      {network: {'float32' or 'int8': content}}, with `BASELINE` among the networks
    held_out   its test images are those that choices are made on
    options    of `timing.compare`
    """
    baseline = executable(files[BASELINE]["float32"], "LiteRT float32")
    baseline.scores(held_out.x_test[-1])  # the image that every other run has had last when it is timed
    runs, found = [], []
    for network, engine, content in progress.bar(routes(files), desc="routes", unit=" routes"):
        run = executable(content, engine)
        record = {"network": network, "engine": engine, **file_record(content)}
        record |= accuracy_record("held_out", run.predict(held_out.x_test), held_out.y_test)
        with threadpool_limits(1):
            record |= latency_record(baseline.invoke, run.invoke, **options)
        runs.append(run)
        found.append(record)
    chosen = choose(found)
    right = baseline.predict(test.x_test) == test.y_test
    for run, record in zip(runs, found, strict=True):
        predicted = run.predict(test.x_test)
        record |= accuracy_record("test", predicted, test.y_test)
        record["mcnemar_vs_baseline"] = mcnemar(right, predicted == test.y_test)
    apart = [record for record in found if record["network"] == DESIGNED]
    return {
        "dataset": test.source,
        "rule": RULE,
        "chosen": {key: found[chosen][key] for key in ("network", "engine")},
        "routes": [record for record in found if record["network"] != DESIGNED],
        "designed_apart": apart,
    }


def chosen_route(result: Mapping) -> dict:
    """The record of the route that a result of `measure` has chosen."""
    (found,) = (r for r in result["routes"] if {k: r[k] for k in ("network", "engine")} == result["chosen"])
    return found


def stored() -> dict:
    """The result that comes with the course: all of MNIST, one seed.

    >>> stored()["dataset"]
    'mnist'
    """
    return json.loads(data.path("results/fast_cnn.json").read_text(encoding="utf-8"))


def stored_run() -> Executable:
    """The chosen route, as it comes with the course: its file, run by its engine.

    >>> stored_run().scores(np.zeros((28, 28), np.uint8)).shape
    (10,)
    """
    return executable(data.path("results/fast_cnn.tflite").read_bytes(), stored()["chosen"]["engine"])


def store(result: dict, chosen: bytes, folder: Path) -> None:
    """Write a result, and the file of its chosen route beside it: fast_cnn.json, fast_cnn.tflite.

    Raises SystemExit with their names if comparisons are void: nothing is written.
    """
    void = [f"{r['network']} by {r['engine']}" for r in result["routes"] + result["designed_apart"]
            if r["verdict"] == "VOID"]  # fmt: skip
    if void:
        raise SystemExit(f"not stored: void comparisons of {', '.join(void)}; run again on a quieter machine")
    for name, content in (("tflite", chosen), ("json", (json.dumps(result, indent=1) + "\n").encode())):
        part = folder / "fast_cnn.part"
        part.write_bytes(content)
        os.replace(part, folder / f"fast_cnn.{name}")


def main(arguments: Sequence[str] | None = None) -> None:
    from hwlimits.training import fast_cnn_training
    from hwlimits.training.keras import deterministic

    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.fast_cnn", description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=Path, default=BUILD, help="where trained networks are kept (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        require_clean_commit()
        test = load("mnist")
    except (MnistError, DirtyTree) as error:
        raise SystemExit(str(error)) from None
    made_by = provenance(
        "make results-fast-cnn", seeds=[fast_cnn_training.SEED], threads=1, int8_instruction=INT8_DOT.name
    )
    deterministic(fast_cnn_training.SEED)
    held_out = test.hold_out()
    tree = fast_cnn_training.branches()
    files = fast_cnn_training.files(tree, held_out, options.build)
    trainings = {"training_images": len(held_out.x_train), "trainings": {n: b.record() for n, b in tree.items()}}
    result = {"provenance": made_by, **trainings} | measure(files, held_out, test, **OPTIONS)
    chosen = chosen_route(result)
    store(result, files[chosen["network"]][chosen["engine"].split()[1]], data.path("results"))
    for record in result["routes"] + result["designed_apart"]:
        print(summary(record))
    print("chosen:", summary(chosen))


def summary(record: Mapping) -> str:
    """One line on a route."""
    return (
        f"{record['network']:16} {record['engine']:16} {1e6 * record['median_s']:6.1f} µs "
        f"{record['ratio']:5.2f}x [{record['ratio_low']:.2f}, {record['ratio_high']:.2f}] "
        f"held-out {100 * record['held_out_accuracy']:.2f} %, test {100 * record['test_accuracy']:.2f} %"
    )


if __name__ == "__main__":
    main()
