"""What 8, 4 and 2 bits leave of the accuracy: quantized after training, and while training by either engine.

    make results-qat      makes data/results/qat_bits.csv

For each seed one network is trained plainly, on the article's settings for five epochs, and everything starts from it.
After training its ranges come from `hwlimits.calibration`, with 500 training images; quantization-aware training goes
on for two epochs, at the learning rate of the case study's last phase; and so does a control, without codes, or what
two epochs bring would be taken for what the codes cost. Bits are those of kernels and of what is between
the layers; input and answers have 8. Accuracies are those of the Keras models with codes in their forward pass.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from hwlimits import data
from hwlimits.machine.provenance import provenance, require_clean_commit, store_table
from hwlimits.training.case_study import Training, train_all
from hwlimits.training.evaluate import accuracy_interval
from hwlimits.training.mnist import scale
from hwlimits.training.recipe import Phase, Recipe

SEEDS, BITS, ENGINES = (0, 1, 2), (8, 4, 2), ("tfmot", "own")
BUILD = "build/qat-bits"
CALIBRATION_IMAGES = 500
BASELINE_EPOCHS, QAT_EPOCHS = 5, 2
# `epochs` counts all that the network was trained for. `low` and `high` are the ends of a 95 % interval of the
# accuracy. The engine of what is quantized after training is ours; networks of 32 bits have none, 'float32', which all
# start from, and 'control'.
COLUMNS = ("seed", "bits", "method", "engine", "test_accuracy", "low", "high", "epochs")


def control(share: float = 1.0) -> Recipe:
    """The plain training, and as many epochs behind it as the quantization-aware ones have, without codes."""
    more = Phase(QAT_EPOCHS, 3e-4, share=share)
    phases = (*recipe(share=share).phases, more)
    return Recipe("control", 32, 0, phases, {BASELINE_EPOCHS + QAT_EPOCHS: "control"})


def recipe(engine: str | None = None, bits: int = 8, share: float = 1.0) -> Recipe:
    """The plain training, or that and quantization-aware training behind it; on a share of the training images."""
    plain = Phase(BASELINE_EPOCHS, 1e-3, decay=False, share=share)
    if engine is None:
        return Recipe("plain", 32, 0, (plain,), {BASELINE_EPOCHS: "plain"})
    last = Phase(QAT_EPOCHS, 3e-4, "quantize", share=share, bits=bits)
    stages = {BASELINE_EPOCHS + QAT_EPOCHS: "aware"}
    return Recipe(f"{engine}-{bits}", 32, 0, (plain, last), stages, engine)


class QatTraining(Training):
    """A training of `recipe`, which leaves lines of the table, rows.json."""

    module: ClassVar[str] = "hwlimits.training.qat_bits"

    @property
    def done(self) -> bool:
        """The lines are there, and of a plain training what others start from."""
        return all((self.folder / name).exists() for name in ("rows.json", "phase-0.npz"))

    @property
    def plain(self) -> QatTraining:
        """The training that this one starts from."""
        return QatTraining(recipe(share=self.recipe.phases[0].share), self.seed, self.data, self.build)

    def rows(self) -> list[dict]:
        return json.loads((self.folder / "rows.json").read_text(encoding="utf-8"))

    def run(self) -> None:
        """Train in this process, go on from what is there, and write the lines."""
        from hwlimits.training import fit, quantize
        from hwlimits.training.keras import deterministic
        from hwlimits.training.models import article_cnn

        deterministic(self.seed)
        images = self.load()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.recipe.stages.get(BASELINE_EPOCHS) != "plain":
            shutil.copy(self.plain.folder / "phase-0.npz", self.folder / "phase-0.npz")

        def line(model, bits, method, engine) -> dict:
            answers = model.predict(scale(images.x_test), batch_size=500, verbose=0).argmax(axis=1)
            right = int(np.sum(answers == images.y_test))
            ends = accuracy_interval(right, len(answers))
            values = (self.seed, bits, method, engine, right / len(answers), *ends, self.recipe.epochs)
            return dict(zip(COLUMNS, values, strict=True))

        def at_stage(stage, model):
            if stage == "aware":
                lines = [line(model, self.recipe.phases[-1].bits, "qat", self.recipe.engine)]
            elif stage == "control":
                lines = [line(model, 32, "control", "none")]
            else:
                seen = scale(images.x_train[:CALIBRATION_IMAGES])
                lines = [line(model, 32, "float32", "none")]
                for bits in BITS:
                    for method in quantize.METHODS:
                        lines.append(line(quantize.calibrated(model, seen, bits, method), bits, f"ptq_{method}", "own"))
            part = self.folder / "rows.part"
            part.write_text(json.dumps(lines), encoding="utf-8")
            os.replace(part, self.folder / "rows.json")

        fit.run(
            article_cnn(), self.recipe, images, self.seed, self.folder, at_stage,
            lambda epoch: print(f"epoch {epoch}", flush=True),
        )  # fmt: skip


def run(
    seeds: Iterable[int] = SEEDS,
    source: str = "mnist",
    *,
    bits: Sequence[int] = BITS,
    engines: Sequence[str] = ENGINES,
    share: float = 1.0,
    build: str = BUILD,
) -> list[dict]:
    """The lines of the table. What is trained already is kept in `build`; an interrupted training goes on there.

    source   'mnist' or 'mnist-5k'
    bits     of the quantization-aware trainings; after training it is always all of `BITS`
    engines  of the quantization-aware trainings
    share    of the training images
    """
    plain = [QatTraining(recipe(share=share), seed, source, build) for seed in seeds]
    train_all(plain)
    aware = [
        QatTraining(recipe(engine, n, share), start.seed, source, build)
        for start in plain
        for n in bits
        for engine in engines
    ]
    aware += [QatTraining(control(share), start.seed, source, build) for start in plain]
    train_all(aware)
    return sorted((line for t in (*plain, *aware) for line in t.rows()), key=lambda line: (line["seed"], -line["bits"]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.qat_bits", description=__doc__.split("\n")[0])
    parser.add_argument("--train", metavar="JSON", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.train:
        QatTraining.from_json(options.train).run()
        return
    require_clean_commit()
    made_by = provenance("make results-qat", seeds=SEEDS)
    store_table(data.path("results") / "qat_bits.csv", COLUMNS, run(), made_by)


if __name__ == "__main__":
    main()
