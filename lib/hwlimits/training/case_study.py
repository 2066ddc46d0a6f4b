"""The MNIST case study, end to end: train, prune, fine-tune, quantize, export, measure the file.

    python -m hwlimits.training.case_study                one seed, the best data there is, a report
    python -m hwlimits.training.case_study --full         the stored result, five seeds
    ... --engine own                                      pruned and quantized without tfmot

Four recipes of 15 epochs each are trained, so that what compression does can be told from what
training longer does. Trainings run as processes of one thread each, as many as there are cores,
and go on where they were interrupted; when all are done, the files are measured one by one.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
from filelock import FileLock
from rich.console import Console

from hwlimits import data, progress
from hwlimits.machine.provenance import DirtyTree, provenance, require_clean_commit
from hwlimits.training import mnist as mnist_data
from hwlimits.training.mnist import ImageSet, MnistError, scale
from hwlimits.training.recipe import INT8_STAGES, STAGES, Phase, Recipe

BUILD = "build/case-study"
FULL_SEEDS = {"tfmot": (0, 1, 2, 3, 4), "own": (0, 1, 2)}
RESULTS = {"tfmot": "case_study", "own": "case_study_own"}
TRAINING_MEMORY_BYTES = 2_000_000_000  # one training on all of MNIST peaks at 1.7e9

# The pipeline's choices, made on held-out training images: data/results/case_study_choices.json.
SPARSITY = {"conv2": 0.85, "dense1": 0.95}
SHIFT_PIXELS = 2


def recipes(sparsity: dict[str, float] | None = None, shift_pixels: int = SHIFT_PIXELS) -> dict[str, Recipe]:
    """The recipes by name. The arguments are the pipeline's, and so the control's.

    article   section 5.2 as far as it can run: what prune_params and quantize_params leave, once
              the call that does not exist is taken out, is three fits in a row
    baseline  the article's network and settings, trained once
    pipeline  dense, prune, hold, quantize
    control   the pipeline's data, shifts, schedule and epochs, never pruned or quantized

    >>> {recipe.epochs for recipe in recipes().values()}
    {15}
    """
    sparsity = SPARSITY if sparsity is None else sparsity
    pipeline = (
        Phase(3, 2e-3),
        Phase(6, 2e-3, "prune", sparsity=sparsity),
        Phase(3, 1e-3, "hold", sparsity=sparsity),
        Phase(3, 3e-4, "quantize"),
    )
    control = tuple(dataclasses.replace(phase, form="dense", sparsity={}) for phase in pipeline)
    plain = {"learning_rate": 1e-3, "decay": False}
    # the last fit of the listing has no compile before it: its optimiser goes on
    article = (Phase(5, share=0.9, **plain), Phase(5, share=0.9, **plain), Phase(5, fresh=False, **plain))
    found = (
        Recipe("article", 32, 0, article, {15: "article"}),
        Recipe("baseline", 32, 0, (Phase(15, **plain),), {5: "baseline_5", 15: "baseline_15"}),
        Recipe("control", 64, shift_pixels, control, {15: "control"}),
        Recipe("pipeline", 64, shift_pixels, pipeline, {12: "pruned", 15: "quantized"}),
    )
    return {recipe.name: recipe for recipe in found}


def recipes_of(engine: str) -> dict[str, Recipe]:
    """The recipes that a run with this engine trains.

    With 'own' they are the pipeline by it, and the baseline, against which files are timed: article and control have
    nothing of either engine in them.

    >>> list(recipes_of("own"))
    ['baseline', 'pipeline']
    """
    if engine not in RESULTS:
        raise ValueError(f"recipes_of: engine {engine!r} is not known; choose 'tfmot' or 'own'")
    found = recipes()
    if engine == "tfmot":
        return found
    return {"baseline": found["baseline"], "pipeline": dataclasses.replace(found["pipeline"], engine=engine)}


@dataclasses.dataclass(frozen=True)
class Training:
    """One recipe with one seed on one data set, and the folder where its files are kept.

    `data` is 'mnist', 'mnist-5k' or 'held-out' (the last 5,000 training images of all of MNIST as
    test images); `build` is the folder under which that folder is made.
    """

    recipe: Recipe
    seed: int
    data: str = "mnist"
    build: str = BUILD

    module: ClassVar[str] = "hwlimits.training.case_study"  # what is run, with --train, in a process of its own

    @property
    def folder(self) -> Path:
        """Another recipe or other data has another folder, so that no run goes on with a stranger's files."""
        what = json.dumps([self.load().source, self.recipe.identity()], sort_keys=True)
        mark = hashlib.sha256(what.encode()).hexdigest()[:10]
        return Path(self.build) / f"{self.recipe.name}-{mark}" / f"seed-{self.seed}"

    @property
    def done(self) -> bool:
        return all((self.folder / f"{stage}.tflite").exists() for stage in self.recipe.stages.values())

    def load(self) -> ImageSet:
        return _load(self.data)

    def run(self) -> None:
        """Train in this process; writes STAGE.tflite and STAGE.npy, the Keras model's answers."""
        from hwlimits.training import export, fit
        from hwlimits.training.keras import deterministic
        from hwlimits.training.models import article_cnn

        deterministic(self.seed)
        mnist, folder = self.load(), self.folder
        folder.mkdir(parents=True, exist_ok=True)

        def at_stage(stage, model):
            answers = model.predict(scale(mnist.x_test), batch_size=500, verbose=0).argmax(axis=1)
            np.save(folder / f"{stage}.npy", answers.astype(np.uint8))
            part = folder / f"{stage}.part"
            part.write_bytes(export.to_int8(model) if stage in INT8_STAGES else export.to_float32(model))
            os.replace(part, folder / f"{stage}.tflite")

        def at_epoch(epoch):
            print(f"epoch {epoch}", flush=True)

        with FileLock(str(folder / ".lock")):  # a second run of the same training waits, and finds it done
            if not self.done:
                fit.run(article_cnn(), self.recipe, mnist, self.seed, folder, at_stage, at_epoch)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Training:
        fields = json.loads(text)
        recipe = fields.pop("recipe")
        recipe["phases"] = tuple(Phase(**phase) for phase in recipe["phases"])
        recipe["stages"] = {int(epoch): stage for epoch, stage in recipe["stages"].items()}
        return cls(Recipe(**recipe), **fields)


_loaded: dict[str, ImageSet] = {}


def _load(name: str) -> ImageSet:
    if name not in _loaded:
        _loaded[name] = mnist_data.load("mnist").hold_out() if name == "held-out" else mnist_data.load(name)
    return _loaded[name]


def default_jobs() -> int:
    """Trainings side by side: one a core, as far as the free memory carries them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    return max(1, min(cores, psutil.virtual_memory().available // TRAINING_MEMORY_BYTES))


def train_all(trainings: Iterable[Training], *, jobs: int | None = None) -> None:
    """Run trainings side by side, one thread each, with one progress bar over all their epochs.

    Trainings whose files are there already are left out. Raises RuntimeError with the last line
    that a failed training wrote, and the path of the rest.
    """
    wanted = [t for t in trainings if not t.done]
    total = sum(t.recipe.epochs for t in wanted)
    with progress.bar(total=total, desc="training", unit=" epochs", mininterval=1) as bar:
        running = []

        def one(training: Training) -> None:
            training.folder.mkdir(parents=True, exist_ok=True)
            log = training.folder / "log.txt"
            command = [sys.executable, "-m", training.module, "--train", training.to_json()]
            seen = 0
            with (
                open(log, "w", encoding="utf-8") as errors,
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
            ):
                running.append(child)
                for line in child.stdout:
                    if line.startswith("epoch "):
                        bar.update(int(line.split()[1]) - seen)
                        seen = int(line.split()[1])
            if child.returncode:
                last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                what = f"{training.recipe.name}, seed {training.seed}"
                why = (
                    " ".join(last)
                    if child.returncode > 0
                    else f"stopped by signal {-child.returncode} (9: out of memory?)"
                )
                raise RuntimeError(f"training {what} failed: {why} (the rest: {log})")

        with ThreadPoolExecutor(jobs or default_jobs()) as pool:
            try:
                for ended in as_completed([pool.submit(one, training) for training in wanted]):
                    ended.result()
            except BaseException:  # an interruption too: what is trained so far is kept, nothing runs on
                pool.shutdown(wait=False, cancel_futures=True)
                for child in running:
                    child.kill()
                raise


def measure_seed(trainings: Sequence[Training], attempts: int = 3) -> list[dict]:
    """Measure the files of one seed's trainings, each against baseline_15; a record a stage."""
    from hwlimits.training import evaluate
    from hwlimits.training.litert import LiteRTFile

    mnist = trainings[0].load()
    paths = {stage: t.folder / f"{stage}.tflite" for t in trainings for stage in t.recipe.stages.values()}
    files = {stage: paths[stage].read_bytes() for stage in STAGES if stage in paths}
    answers = {stage: LiteRTFile(content).predict(mnist.x_test) for stage, content in files.items()}
    right = {stage: given == mnist.y_test for stage, given in answers.items()}
    records = []
    for stage, content in progress.bar(files.items(), desc=f"measuring, seed {trainings[0].seed}", unit=" files"):
        record = {"stage": stage, "seed": trainings[0].seed}
        record |= evaluate.file_record(content, mnist, answers[stage])
        keras_answers = np.load(paths[stage].with_suffix(".npy"))
        record["keras_disagreement"] = evaluate.check_export(answers[stage], keras_answers)
        record["mcnemar_vs_baseline"] = evaluate.mcnemar(right["baseline_15"], right[stage])
        record |= evaluate.latency_record(content, files["baseline_15"], mnist.x_test, attempts)
        record |= evaluate.memory_record(content)
        if stage in ("pruned", "quantized"):
            evaluate.check_zeros(content, SPARSITY)
        if stage in INT8_STAGES:
            evaluate.check_int8(content)
            record |= evaluate.micro_record(content, mnist)
        records.append(record)
    return records


def run(
    seeds: Sequence[int] = (0,),
    source: str = "best",
    *,
    command: str,
    build: str | Path = BUILD,
    attempts: int = 3,
    keep: bool = False,
    engine: str = "tfmot",
) -> dict:
    """Train what is missing, measure every file, and return {"provenance": ..., "runs": [...]}.

    source    'best', 'mnist' or 'mnist-5k', as for `mnist.load`
    command   what a reader types to get the same, for the provenance
    build     where models are kept: an interrupted training goes on there
    attempts  how often a void comparison is tried before it is reported as void
    keep      True keeps measured seeds too, and measures none twice unless its files have changed
    engine    what prunes and quantizes, as for `recipes_of`
    """
    wanted = recipes_of(engine).values()
    more = {} if engine == "tfmot" else {"engine": engine}
    made_by = provenance(command, seeds=seeds, **more)  # before the work: the commit that is going to do it
    source = _load(source).source
    by_seed = {seed: [Training(recipe, seed, source, str(build)) for recipe in wanted] for seed in seeds}
    train_all([t for trainings in by_seed.values() for t in trainings])
    runs = []
    for seed, trainings in by_seed.items():
        files = sorted(path for t in trainings for path in t.folder.glob("*.tflite"))
        mark = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:10]
        kept = Path(build) / f"measured-seed-{seed}-{mark}.json"
        if keep and kept.exists():
            runs += json.loads(kept.read_text(encoding="utf-8"))
            continue
        measured = measure_seed(trainings, attempts)
        if keep and not voids(measured):
            _write(kept, json.dumps(measured))
        runs += measured
    return {"provenance": made_by, "runs": runs}


def voids(runs: Iterable[dict]) -> list[str]:
    """The stages with a comparison that is void, once for each."""
    return [r["stage"] for r in runs for batch in (1, 128) if r[f"latency_batch{batch}_verdict"] == "VOID"]


def _write(path: Path, text: str) -> None:
    """Write whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def stored(name: str = "case_study") -> dict:
    """A full-size result that comes with the course: five seeds on all of MNIST.

    Or 'case_study_own': three of the course's own engine; 'case_study_choices': the trials.

    >>> len(stored()["provenance"]["seeds"])
    5
    """
    return json.loads(data.path(f"results/{name}.json").read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.case_study", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--full", action="store_true", help="make data/results/case_study.json: five seeds, 70,000 images"
    )
    parser.add_argument("--engine", choices=tuple(RESULTS), default="tfmot", help="what prunes and quantizes")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="other seeds than the usual")
    parser.add_argument("--train", metavar="JSON", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.train:
        Training.from_json(options.train).run()
        return
    from hwlimits.training import report

    console, engine = Console(), options.engine
    suffix = "" if engine == "tfmot" else f" ENGINE={engine}"
    try:
        Path(BUILD).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=BUILD).close()
    except OSError as error:
        raise SystemExit(
            f"The case study keeps what it trains in {Path(BUILD).absolute()}, and can't write there "
            f"({error.strerror}): "
            "run it in a copy of the course that is yours."
        ) from None
    if not options.full:
        found = run(options.seeds or (0,), command="make case-study" + suffix, engine=engine)
        report.show(found, stored(), Path(BUILD) / "report.html", console)
        return
    try:
        require_clean_commit()
        _load("mnist")
    except (MnistError, DirtyTree) as error:
        console.print(str(error))
        raise SystemExit(2) from None
    settings = {"command": "make results-case-study" + suffix, "attempts": 5, "keep": True, "engine": engine}
    store(run(options.seeds or FULL_SEEDS[engine], "mnist", **settings))


def store(found: dict) -> None:
    """Write the full result into data/results of this checkout; of tfmot's engine, its int8 files too."""
    if void := voids(found["runs"]):
        raise SystemExit(f"not stored: void comparisons of {', '.join(void)}; run again on a quieter machine")
    target, engine = data.path("results"), found["provenance"].get("engine", "tfmot")
    (target / "case_study").mkdir(exist_ok=True)
    for seed in found["provenance"]["seeds"] if engine == "tfmot" else ():
        folder = Training(recipes()["pipeline"], seed).folder
        shutil.copy(folder / "quantized.tflite", target / "case_study" / f"quantized-seed{seed}.tflite")
    text = json.dumps(found, indent=1)
    # a list of numbers on one line: the file is read by people too
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    _write(target / f"{RESULTS[engine]}.json", text + "\n")


if __name__ == "__main__":
    main()
