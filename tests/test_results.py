"""The stored results: complete, made by their script, consistent in themselves, and reproduced from their files."""

import json
import re

import numpy as np
import pytest

from hwlimits import data
from hwlimits.training import case_study, choices, report
from hwlimits.training import mnist as mnist_data
from hwlimits.training.evaluate import accuracy_interval, mcnemar, right_answers
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.recipe import STAGES

STORED = case_study.stored()
RUNS = STORED["runs"]
SEEDS = STORED["provenance"]["seeds"]
OWN = case_study.stored("case_study_own")


@pytest.mark.parametrize("name", sorted(path.name for path in data.path("results").glob("*.json")))
def test_every_result_says_what_made_it(name):
    made_by = json.loads(data.path(f"results/{name}").read_text())["provenance"]
    assert {"command", "commit", "date", "machine", "seeds", "versions"} <= set(made_by)
    assert re.fullmatch(r"[0-9a-f]{40}", made_by["commit"]), "made from a commit, with nothing changed"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", made_by["date"])
    assert made_by["command"].startswith(("make ", "python -m hwlimits."))
    assert made_by["machine"]["cpu"]


def test_every_stage_has_every_seed_on_all_the_images():
    assert len(SEEDS) >= 5
    assert {(run["stage"], run["seed"]) for run in RUNS} == {(s, n) for s in STAGES for n in SEEDS}
    assert {(run["dataset"], run["test_images"]) for run in RUNS} == {("mnist", 10_000)}


@pytest.mark.parametrize(
    ("run", "runs"),
    [pytest.param(run, runs, id=f"{engine}-{run['stage']}-{run['seed']}")
     for engine, runs in (("tfmot", RUNS), ("own", OWN["runs"])) for run in runs],
)  # fmt: skip
def test_a_record_agrees_with_itself(run, runs):
    wrong = run["wrong"]
    assert run["test_accuracy"] == pytest.approx(1 - len(wrong) / 10_000)
    assert (run["test_accuracy_low"], run["test_accuracy_high"]) == pytest.approx(
        accuracy_interval(10_000 - len(wrong), 10_000)
    )
    baseline = next(r for r in runs if r["stage"] == "baseline_15" and r["seed"] == run["seed"])
    assert run["mcnemar_vs_baseline"] == pytest.approx(mcnemar(right_answers(baseline), right_answers(run)))
    for batch in (1, 128):
        assert run[f"latency_batch{batch}_verdict"] != "VOID"
        assert abs(run[f"latency_batch{batch}_aa_control"] - 1) <= 0.03
        assert run[f"latency_batch{batch}_iqr_s"] >= 0
    assert run["keras_disagreement"] <= 0.005


def test_the_targets_are_met():
    accuracy = report.mean(RUNS, "quantized", "test_accuracy")
    smaller = report.mean(RUNS, "baseline_15", "deflated_bytes") / report.mean(RUNS, "quantized", "deflated_bytes")
    assert accuracy >= 0.992
    assert smaller >= 15
    assert all(run["int8_weights"] == (run["stage"] == "quantized") for run in RUNS)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_int8_file_is_the_one_that_was_measured(seed):
    file = LiteRTFile.read(data.path(f"results/case_study/quantized-seed{seed}.tflite"))
    run = next(r for r in RUNS if r["stage"] == "quantized" and r["seed"] == seed)
    assert file.raw_bytes == run["raw_bytes"]
    assert file.deflated_bytes == run["deflated_bytes"]
    assert file.nonzero_parameters == run["nonzero_parameters"]
    assert file.int8_weights
    # the heavy tensors hold the zeros that were asked for
    sparsity = {"conv2": file.layers[1], "dense1": file.layers[2]}
    for name, share in case_study.SPARSITY.items():
        assert np.mean(sparsity[name].weights == 0) >= share - 0.005


@pytest.mark.parametrize("seed", SEEDS)
def test_the_int8_file_gets_the_accuracy_that_is_stored(seed):
    mnist = mnist_data.load()
    if mnist.source != "mnist":
        pytest.skip("needs all of MNIST: set HWLIMITS_MNIST")
    file = LiteRTFile.read(data.path(f"results/case_study/quantized-seed{seed}.tflite"))
    run = next(r for r in RUNS if r["stage"] == "quantized" and r["seed"] == seed)
    right = file.predict(mnist.x_test) == mnist.y_test
    # kernels of another processor may round otherwise: a few images in ten thousand
    assert np.mean(right) == pytest.approx(run["test_accuracy"], abs=0.0005)


def test_the_recipe_in_the_code_is_the_one_that_was_chosen():
    found = json.loads(data.path("results/case_study_choices.json").read_text())
    chosen = choices.CANDIDATES[found["chosen"]]
    assert chosen["sparsity"] == case_study.SPARSITY
    assert chosen.get("shift_pixels", case_study.SHIFT_PIXELS) == case_study.SHIFT_PIXELS
    assert {row["candidate"] for row in found["candidates"]} == set(choices.CANDIDATES)
    best = max(row["held_out_accuracy_mean"] for row in found["candidates"])
    near = [row for row in found["candidates"] if round(best - row["held_out_accuracy_mean"], 6) <= choices.WITHIN]
    assert min(near, key=lambda row: np.mean(row["deflated_bytes"]))["candidate"] == found["chosen"]


def test_the_own_engine_has_its_stages_and_seeds():
    assert OWN["provenance"]["engine"] == "own"
    stages = {stage for recipe in case_study.recipes_of("own").values() for stage in recipe.stages.values()}
    wanted = {(stage, seed) for stage in stages for seed in case_study.FULL_SEEDS["own"]}
    assert {(run["stage"], run["seed"]) for run in OWN["runs"]} == wanted
    assert {(run["dataset"], run["test_images"]) for run in OWN["runs"]} == {("mnist", 10_000)}


def test_the_own_engine_does_what_tfmot_s_does():
    """Without tfmot: as accurate within a quarter of a percent, the same zeros, a file as small."""
    seeds = case_study.FULL_SEEDS["own"]
    theirs = [run for run in RUNS if run["seed"] in seeds]
    for stage in ("pruned", "quantized"):
        accuracies = [report.mean(runs, stage, "test_accuracy") for runs in (OWN["runs"], theirs)]
        assert accuracies[0] == pytest.approx(accuracies[1], abs=0.0025)
        assert accuracies[0] >= 0.992
        sizes = [report.mean(runs, stage, "deflated_bytes") for runs in (OWN["runs"], theirs)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
        nonzero = [report.mean(runs, stage, "nonzero_parameters") for runs in (OWN["runs"], theirs)]
        assert nonzero[0] == pytest.approx(nonzero[1], rel=0.05)
    assert all(run["int8_weights"] for run in OWN["runs"] if run["stage"] == "quantized")
