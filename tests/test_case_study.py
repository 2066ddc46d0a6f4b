"""The case study's recipes and runner; the stored result is checked in test_results.py."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from hwlimits.training import case_study
from hwlimits.training.case_study import Training, recipes, train_all
from hwlimits.training.recipe import STAGES, Phase, Recipe

SHORT = Recipe("short", 64, 0, (Phase(2, 1e-3),), {1: "baseline_5", 2: "baseline_15"})


def test_no_recipe_trains_longer_than_the_article_s_fifteen_epochs():
    assert {recipe.epochs for recipe in recipes().values()} == {15}
    assert {s for recipe in recipes().values() for s in recipe.stages.values()} == set(STAGES)


def test_the_article_s_recipe_is_two_fits_on_nine_tenths_and_one_on_all():
    article = recipes()["article"]
    assert [round(phase.share * 60_000) for phase in article.phases] == [54_000, 54_000, 60_000]
    assert (article.batch, article.shift_pixels) == (32, 0)
    assert all(phase.form == "dense" and not phase.decay for phase in article.phases)
    # the listing compiles before its first two fits, and not before the third
    assert [phase.fresh for phase in article.phases] == [True, True, False]


def test_the_control_differs_from_the_pipeline_in_compression_alone():
    pipeline, control = recipes()["pipeline"], recipes()["control"]
    assert (pipeline.batch, pipeline.shift_pixels) == (control.batch, control.shift_pixels)
    for compressed, dense in zip(pipeline.phases, control.phases, strict=True):
        assert dataclasses.replace(compressed, form="dense", sparsity={}) == dense
    assert any(phase.form == "prune" for phase in pipeline.phases)


def test_a_training_survives_the_way_to_its_process():
    training = Training(recipes()["pipeline"], 3, "mnist-5k")
    assert Training.from_json(training.to_json()) == training
    assert Training.from_json(training.to_json()).folder == training.folder


def test_another_recipe_or_other_data_has_another_folder():
    folders = {
        Training(recipe, 0, data).folder.parent
        for recipe in (
            *recipes().values(),
            *recipes(sparsity={"dense1": 0.5}).values(),
            *recipes(shift_pixels=1).values(),
        )
        for data in ("mnist-5k",)
    }
    # article and baseline have no choices in them; the control has the shifts, the pipeline both
    assert len(folders) == 4 + 1 + 2


def test_the_folders_of_before_there_was_a_second_engine_are_those_of_today():
    """A build that is there already is found again: settings that a recipe leaves as they were aren't in its name."""
    names = [Training(recipe, 0, "mnist-5k").folder.parent.name for recipe in recipes().values()]
    assert names == ["article-5d0cbd58e2", "baseline-dac7cf2b00", "control-685dea2129", "pipeline-17d11899e9"]


def test_the_own_engine_trains_the_same_pipeline_beside_the_same_baseline():
    own, usual = case_study.recipes_of("own"), recipes()
    assert case_study.recipes_of("tfmot") == usual
    assert own == {"baseline": usual["baseline"], "pipeline": dataclasses.replace(usual["pipeline"], engine="own")}
    folders = [Training(found["pipeline"], 0, "mnist-5k").folder for found in (own, usual)]
    assert folders[0] != folders[1]
    again = Training.from_json(Training(own["pipeline"], 0, "mnist-5k").to_json())
    assert (again.recipe.engine, again.folder) == ("own", folders[0])
    with pytest.raises(ValueError, match="engine 'mine' is not known; choose 'tfmot' or 'own'"):
        case_study.recipes_of("mine")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], ((0,), "make case-study", "tfmot")),
        (["--engine", "own", "--seeds", "3", "4"], ([3, 4], "make case-study ENGINE=own", "own")),
        (["--full"], ((0, 1, 2, 3, 4), "make results-case-study", "tfmot")),
        (["--full", "--engine", "own"], ((0, 1, 2), "make results-case-study ENGINE=own", "own")),
    ],
)
def test_the_command_line_says_what_is_run(monkeypatch, arguments, wanted):
    asked = []

    def run(seeds, source="best", *, command, engine, **settings):
        asked.append((seeds, command, engine))
        return {"provenance": {"engine": engine}, "runs": []}

    monkeypatch.setattr(case_study, "run", run)
    monkeypatch.setattr(case_study, "store", lambda found: None)
    monkeypatch.setattr(case_study, "require_clean_commit", lambda: None)
    monkeypatch.setattr(case_study, "_load", lambda name: None)
    monkeypatch.setattr("hwlimits.training.report.show", lambda *arguments: None)
    case_study.main(arguments)
    assert asked == [wanted]


def test_a_folder_that_can_not_be_written_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(case_study, "run", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "build").write_text("a file stands where the folder would be")
    with pytest.raises(SystemExit) as refused:
        case_study.main([])
    assert str(refused.value) == (
        f"The case study keeps what it trains in {tmp_path / 'build' / 'case-study'}, and can't write there "
        "(Not a directory): run it in a copy of the course that is yours."
    )


def test_the_own_engine_s_result_has_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(case_study.data, "path", lambda name: tmp_path)
    case_study.store({"provenance": {"seeds": [0], "engine": "own"}, "runs": []})
    assert [path.name for path in tmp_path.glob("*.json")] == ["case_study_own.json"]


@pytest.fixture
def short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Training(SHORT, 0, "mnist-5k")


def test_a_training_is_run_once_and_leaves_files_that_can_be_measured(short):
    train_all([short])
    assert short.done
    written = {path.name: path.stat().st_mtime_ns for path in short.folder.iterdir()}
    assert {"baseline_5.tflite", "baseline_15.tflite", "baseline_15.npy"} <= set(written)
    train_all([short])
    assert written == {path.name: path.stat().st_mtime_ns for path in short.folder.iterdir()}
    five, fifteen = case_study.measure_seed([short])
    assert (five["stage"], fifteen["stage"], five["seed"], five["dataset"]) == (
        "baseline_5",
        "baseline_15",
        0,
        "mnist-5k",
    )
    for record in (five, fifteen):
        assert 0.7 < record["test_accuracy"] <= 1
        assert len(record["wrong"]) == round(1000 * (1 - record["test_accuracy"]))
        assert record["keras_disagreement"] <= 0.001
        assert record["nonzero_parameters"] <= record["parameters"] == 121_930
        assert 0 < record["latency_batch1_median_s"] < record["latency_batch128_median_s"]
        assert record["peak_memory_batch128_bytes"] > record["peak_memory_batch1_bytes"] > 491_252
    assert fifteen["mcnemar_vs_baseline"] == {"only_a_right": 0, "only_b_right": 0, "p_value": 1.0}
    assert fifteen["latency_batch1_verdict"] in ("equal", "VOID"), "a file against itself"


def test_a_killed_training_goes_on_where_it_was(short):
    short.folder.mkdir(parents=True)
    command = [sys.executable, "-m", "hwlimits.training.case_study", "--train", short.to_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        for line in child.stdout:
            if line.strip() == "epoch 1":  # the second epoch has begun
                child.kill()
                break
    assert not short.done
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["epoch", "1", "epoch", "2"], "not from the start"
    assert short.done
    whole = dataclasses.replace(short, recipe=dataclasses.replace(SHORT, name="whole"))
    train_all([whole])
    assert (short.folder / "baseline_15.tflite").read_bytes() == (whole.folder / "baseline_15.tflite").read_bytes()


def test_a_failed_training_is_named_with_its_reason(short):
    bad = dataclasses.replace(SHORT, phases=(Phase(2, 1e-3, "prune", sparsity={"dense9": 0.5}),))
    with pytest.raises(RuntimeError, match=r"training short, seed 0 failed: .*no layer 'dense9'"):
        train_all([dataclasses.replace(short, recipe=bad)])


def test_a_void_comparison_is_never_stored(monkeypatch):
    run = {"stage": "pruned", "latency_batch1_verdict": "equal", "latency_batch128_verdict": "VOID"}
    with pytest.raises(SystemExit, match="not stored: void comparisons of pruned"):
        case_study.store({"provenance": {"seeds": []}, "runs": [run]})


def refusal(capsys):
    with pytest.raises(SystemExit) as caught:
        case_study.main(["--full"])
    assert caught.value.code == 2
    return " ".join(capsys.readouterr().out.split())


def test_the_full_result_is_refused_without_the_full_set(monkeypatch, capsys):
    monkeypatch.setattr(case_study, "require_clean_commit", lambda: None)
    monkeypatch.setattr(case_study, "_load", lambda name: case_study.mnist_data.load(name))
    monkeypatch.setenv("HWLIMITS_MNIST", "/nowhere.npz")
    assert "there is no such file" in refusal(capsys)


def test_the_full_result_is_refused_from_code_that_no_commit_holds(monkeypatch, capsys):
    monkeypatch.setattr("hwlimits.machine.provenance.commit", lambda: "0" * 40 + "+changes")
    assert "commit the changes first" in refusal(capsys)


def test_measured_seeds_are_kept_until_a_file_changes_and_never_if_void(short, monkeypatch):
    monkeypatch.setattr(case_study, "recipes", lambda: {"short": SHORT})
    measured = []

    def measure(trainings, attempts):
        measured.append(trainings[0].seed)
        verdict = "VOID" if len(measured) == 1 else "equal"
        return [{"stage": "x", "latency_batch1_verdict": verdict, "latency_batch128_verdict": "equal"}]

    monkeypatch.setattr(case_study, "measure_seed", measure)
    again = lambda: case_study.run((0,), "mnist-5k", command="test", keep=True)["runs"]  # noqa: E731
    assert again()[0]["latency_batch1_verdict"] == "VOID"
    assert again()[0]["latency_batch1_verdict"] == "equal", "a void one is measured again"
    again()
    assert len(measured) == 2, "a good one is not"
    (short.folder / "baseline_5.tflite").write_bytes(b"another file")
    again()
    assert len(measured) == 3


def test_the_same_seed_starts_from_the_same_weights():
    program = (
        "from hwlimits.training.keras import deterministic; deterministic({})\n"
        "from hwlimits.training.models import article_cnn; print(float(abs(article_cnn().get_weights()[2]).sum()))"
    )

    def start(seed):
        done = subprocess.run([sys.executable, "-c", program.format(seed)], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert start(0) == start(0) != start(1)
    assert np.isfinite(start(0))
