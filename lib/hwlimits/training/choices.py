"""How the pipeline's recipe was chosen: trials on 5,000 held-out training images.

    make results-choices      makes data/results/case_study_choices.json

The test images play no part. Rule, fixed before the trials: of the candidates whose int8 file,
by the mean of the seeds, is within `WITHIN` of the best one's held-out accuracy, the smallest.
"""

from __future__ import annotations

import json

import numpy as np

from hwlimits import data
from hwlimits.machine.provenance import provenance, require_clean_commit
from hwlimits.training.case_study import Training, recipes, train_all
from hwlimits.training.litert import LiteRTFile

SEEDS = (100, 101)
WITHIN = 0.0005
CANDIDATES = {
    "90 % of every layer": {"sparsity": {"conv1": 0.9, "conv2": 0.9, "dense1": 0.9, "dense2": 0.9}},
    "90 %": {"sparsity": {"conv2": 0.80, "dense1": 0.93}},
    "90 %, no shifts": {"sparsity": {"conv2": 0.80, "dense1": 0.93}, "shift_pixels": 0},
    "90 %, shifts of 1 pixel": {"sparsity": {"conv2": 0.80, "dense1": 0.93}, "shift_pixels": 1},
    "93 %": {"sparsity": {"conv2": 0.85, "dense1": 0.95}},
    "95 %": {"sparsity": {"conv2": 0.88, "dense1": 0.97}},
}


def trial(label: str, seed: int) -> Training:
    return Training(recipes(**CANDIDATES[label])["pipeline"], seed, "held-out")


def main() -> None:
    require_clean_commit()
    made_by = provenance("make results-choices", seeds=SEEDS)
    train_all([trial(label, seed) for seed in SEEDS for label in CANDIDATES])
    rows = []
    for label in CANDIDATES:
        files = [LiteRTFile.read(trial(label, seed).folder / "quantized.tflite") for seed in SEEDS]
        held_out = trial(label, SEEDS[0]).load()
        accuracies = [float(np.mean(f.predict(held_out.x_test) == held_out.y_test)) for f in files]
        rows.append({
            "candidate": label,
            **CANDIDATES[label],
            "held_out_accuracy": accuracies,
            "held_out_accuracy_mean": float(np.mean(accuracies)),
            "deflated_bytes": [f.deflated_bytes for f in files],
        })  # fmt: skip
    best = max(row["held_out_accuracy_mean"] for row in rows)
    near = [row for row in rows if round(best - row["held_out_accuracy_mean"], 6) <= WITHIN]
    chosen = min(near, key=lambda row: np.mean(row["deflated_bytes"]))["candidate"]
    found = {
        "provenance": made_by,
        "rule": f"the smallest file within {WITHIN} of the best held-out accuracy",
        "held_out": "the last 5,000 of the 60,000 training images",
        "chosen": chosen,
        "candidates": rows,
    }
    target = data.path("results") / "case_study_choices.json"
    target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1), "\nchosen:", chosen)


if __name__ == "__main__":
    main()
