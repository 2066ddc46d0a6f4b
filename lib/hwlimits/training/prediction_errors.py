"""How wrong the predictions of this computer are: a table, its provenance and the card it was made from.

    python -m hwlimits.training.prediction_errors      data/results/prediction_errors.{csv,json}, prediction_card.json
    ... --again      the same predictions by today's code, from the stored card; what was measured stays

The operators of a calibration and the networks are timed in turn, in the same minutes: a computer that
is slower for a while is so for both. Of the rounds the half counts in which the operators, taken together,
were fastest; the networks have no say in which. The card is made of the operators alone, and the prediction of the card
alone: from the stored card anyone can make the predictions again. Beside them stand what others say of the
same files with the same measured peak and bandwidth.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from hwlimits import data, progress
from hwlimits.machine.calibrate import parts, run
from hwlimits.machine.latency import Point
from hwlimits.machine.processor import describe
from hwlimits.machine.provenance import PACKAGES, commit, provenance, require_clean_commit, store_table, versions
from hwlimits.machine.record import Card, Number
from hwlimits.training import operators, prediction_models
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.operator_rates import SAMPLE_S, Turns, points, prepare, runtime_memory, specs
from hwlimits.training.operator_times import peak_memory_bytes, runner
from hwlimits.training.predictions import predict

COMMAND = "make results-predictions"
ROUNDS = 24
NETWORK_S = 0.03  # of one sample of a network
RESULTS = "prediction_errors"
CARD = "prediction_card.json"
FORMS = ("float32", "int8")
COLUMNS = ("set", "model", "precision", "operators", "predicted_s", "low_s", "high_s", "measured_s", "measured_iqr_s",
           "measured_over_predicted", "roofline_s", "flops_over_peak_s", "mlsysim_s", "mlsysim_full_efficiency_s",
           "bound", "predicted_memory_bytes", "measured_memory_bytes")  # fmt: skip


def files(names: Iterable[str], forms: Iterable[str], folder: Path) -> dict[tuple[str, str], LiteRTFile]:
    """The networks' files, made when they are not in the folder yet; making some takes minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in names:
        for form in forms:
            path = folder / f"{name}.{form}.tflite"
            if not path.exists():
                content = prediction_models.export(prediction_models.build(name), form).content
                part = path.with_suffix(".part")
                part.write_bytes(content)
                part.rename(path)
            found[name, form] = LiteRTFile.read(path)
    return found


Times = dict[tuple[str, str], tuple[float, float]]  # (network, form) -> median and IQR in s


def measure(networks: dict[tuple[str, str], LiteRTFile], rounds: int = ROUNDS) -> tuple[Card, Times]:
    """This computer's card, and the times of the networks taken in turn with those of the card's operators."""
    record = provenance(COMMAND)
    record["machine"] |= describe()
    found, left_out = run([part for part in parts() if "operators" not in part.gives], progress=True)
    known, calls, refused = prepare(specs())
    turns, whole = Turns(calls, SAMPLE_S), Turns({key: runner(file) for key, file in networks.items()}, NETWORK_S)
    for _ in progress.bar(range(rounds), desc="rounds", unit="round"):
        turns.round()
        whole.round()
    numbers = (*(x for x in found if isinstance(x, Number)), runtime_memory(3))
    operators_: tuple[Point, ...] = points(known, turns)
    steady = turns.steady_rounds()
    times = {key: whole.median_and_iqr_s(key, steady) for key in networks}
    return Card(numbers, record, left_out | refused, operators_), times


def row(
    key: tuple[str, str], file: LiteRTFile, card: Card, measured: tuple[float, float], memory_bytes: int | None = None
) -> dict:
    """One line of the table; times in s, from LiteRT with one thread and a batch of one. Memory is measured if None."""
    name, form = key
    predicted = predict(file, card, model=name)
    count = operators.cost(file, name=name)
    roofline = card.roofline("fp32" if form == "float32" else "int8")
    held_out = name in prediction_models.HELD_OUT
    peer = {e: mlsysim_s(name, count, form, roofline, e) for e in (None, 1.0)}
    return {
        "set": "held out" if held_out else "developed on",
        "model": name,
        "precision": form,
        "operators": len(predicted.layers),
        "predicted_s": predicted.time_s,
        "low_s": predicted.low_s,
        "high_s": predicted.high_s,
        "measured_s": measured[0],
        "measured_iqr_s": measured[1],
        "measured_over_predicted": measured[0] / predicted.time_s,
        "roofline_s": sum(roofline.time_s(layer.cost) for layer in count.layers),
        "flops_over_peak_s": count.total.flops / roofline.peak_flops_per_s,
        "mlsysim_s": peer[None],
        "mlsysim_full_efficiency_s": peer[1.0],
        "bound": predicted.bound,
        "predicted_memory_bytes": predicted.memory_bytes,
        "measured_memory_bytes": peak_memory_bytes(file) if memory_bytes is None else memory_bytes,
    }


def mlsysim_s(name: str, count, form: str, roofline, efficiency: float | None = None) -> float:
    """What mlsysim's engine says of the same model on a machine of the same peak and bandwidth.

    efficiency   its factor for the share of the peak that is reached; None: its default. Its activations
                 are a tenth of the weights, its overhead that of its hardware's default.
    """
    from mlsysim.core.units import Q_, ureg
    from mlsysim.engine.engine import Engine
    from mlsysim.hardware.types import ComputeCore, HardwareNode, MemoryHierarchy
    from mlsysim.models.types import CNNWorkload

    precision = {"float32": "fp32", "int8": "int8"}[form]
    peak = Q_(roofline.peak_flops_per_s, "flop/s")
    hardware = HardwareNode(
        name="this computer",
        release_year=2026,
        compute=ComputeCore(peak_flops=peak, precision_flops={precision: peak}),
        memory=MemoryHierarchy(capacity=Q_(24, "GB"), bandwidth=Q_(roofline.bandwidth(), "byte/s")),
    )
    workload = CNNWorkload(
        name=name,
        architecture="CNN",
        parameters=Q_(count.total.parameters, "count"),
        inference_flops=Q_(count.total.flops, "flop"),
    )
    options = {} if efficiency is None else {"efficiency": efficiency}
    found = Engine.solve(workload, hardware, batch_size=1, precision=precision, **options)
    return float(found.latency.to(ureg.s).magnitude)


def summary(rows: list[dict]) -> str:
    """Mean and largest error of each predictor, by set."""
    lines = []
    for which in dict.fromkeys(r["set"] for r in rows):
        chosen = [r for r in rows if r["set"] == which]
        for column in ("predicted_s", "roofline_s", "flops_over_peak_s", "mlsysim_s", "mlsysim_full_efficiency_s"):
            errors = [abs(float(r[column]) / float(r["measured_s"]) - 1) for r in chosen]
            lines.append(
                f"{which}, {len(chosen)} files, {column.removesuffix('_s')}: mean error {statistics.mean(errors):.1%}, "
                f"largest {max(errors):.1%}"
            )
        inside = sum(float(r["low_s"]) <= float(r["measured_s"]) <= float(r["high_s"]) for r in chosen)
        lines.append(f"{which}: {inside} of {len(chosen)} measured times are within their interval")
    return "\n".join(lines)


def again(say: Callable[[str], None] = print) -> None:
    """Predict anew from the stored card, beside the stored measurements."""
    require_clean_commit()
    folder = data.path("results")
    card = Card.read(folder / CARD)
    with open(folder / f"{RESULTS}.csv", encoding="utf-8") as stored:
        old = list(csv.DictReader(stored))
    rows = []
    for r in old:
        key = r["model"], r["precision"]
        measured = float(r["measured_s"]), float(r["measured_iqr_s"])
        file = files([key[0]], [key[1]], Path("build/predictions"))[key]
        rows.append(row(key, file, card, measured, int(r["measured_memory_bytes"])))
    record = json.loads((folder / f"{RESULTS}.json").read_text(encoding="utf-8"))["provenance"]
    said = summary(rows)
    record |= {"summary": said.splitlines(), "predicted_again_at": commit()}
    store_table(folder / f"{RESULTS}.csv", COLUMNS, rows, record)
    say(said)


def main(say: Callable[[str], None] = print) -> None:
    require_clean_commit()
    names = (*prediction_models.DEVELOPED_ON, *prediction_models.HELD_OUT)
    networks = files(names, FORMS, Path("build/predictions"))
    runnable, refused = {}, {}
    for key, file in networks.items():
        try:
            runner(file)
            runnable[key] = file
        except Exception as error:  # some int8 files of this converter don't run in this runtime: said in the record
            refused[" ".join(key)] = " ".join(str(error).split())[:200]
    card, times = measure(runnable)
    rows = [row(key, file, card, times[key]) for key, file in progress.bar(runnable.items(), desc="predict")]
    said = summary(rows)
    record = provenance(COMMAND, card=CARD, rounds=ROUNDS, refused=refused, summary=said.splitlines())
    record["versions"] |= versions([*PACKAGES, "mlsysim"])
    card.write(data.path("results") / CARD)
    store_table(data.path("results") / f"{RESULTS}.csv", COLUMNS, rows, record)
    say(said)


if __name__ == "__main__":
    again() if sys.argv[1:] == ["--again"] else main()
