"""Report and figures, from records that the test writes."""

import io
import re

import pytest
from rich.console import Console

from hwlimits import plots
from hwlimits.training import report


def record(stage, seed, accuracy, **changes):
    base = {
        "stage": stage, "seed": seed, "dataset": "mnist", "test_images": 10_000, "test_accuracy": accuracy,
        "test_accuracy_low": accuracy - 0.002, "test_accuracy_high": accuracy + 0.002,
        "recall_per_digit": [accuracy] * 10, "nonzero_parameters": 121_930, "raw_bytes": 491_000,
        "deflated_bytes": 450_000, "entropy_bytes": 246_000.0, "macs": 2_528_000, "effective_macs": 2_528_000,
        "wrong": [], "mcnemar_vs_baseline": {"p_value": 0.5}, "keras_disagreement": 0.0, "latency_threads": 1,
        "peak_memory_batch1_bytes": 5_000_000, "peak_memory_batch128_bytes": 20_000_000,
    }  # fmt: skip
    for batch in (1, 128):
        prefix = f"latency_batch{batch}"
        base |= {f"{prefix}_median_s": 3e-5 * batch, f"{prefix}_iqr_s": 1e-6, f"{prefix}_speedup": 1.0,
                 f"{prefix}_noisy": False, f"{prefix}_verdict": "equal"}  # fmt: skip
    return base | changes


def runs(seeds):
    made = []
    for seed in seeds:
        made += [record("baseline_15", seed, 0.990), record("control", seed, 0.994 + seed / 1e4)]
        small = {"deflated_bytes": 25_000, "raw_bytes": 129_000, "latency_batch1_verdict": "faster",
                 "latency_batch1_speedup": 2.25, "latency_batch128_verdict": "VOID",
                 "micro": {"test_images": 10_000, "test_accuracy": 0.9935, "arena_bytes": 30_176,
                           "outputs_unlike_reference": 0, "largest_difference_steps": 0}}  # fmt: skip
        made.append(record("quantized", seed, 0.9935, **small))
    return made


def test_values_are_taken_by_seed():
    both = runs([1, 0])
    assert report.of(both, "control", "test_accuracy") == [0.994, 0.9941]
    assert report.difference(both, "quantized", "control")["mean"] == pytest.approx(-0.00055)
    with pytest.raises(KeyError, match="no runs of stage 'pruned'; there are baseline_15, control, quantized"):
        report.of(both, "pruned", "seed")


def test_one_seed_has_an_interval_and_several_have_a_range():
    one, several = report.rows(runs([0])), report.rows(runs([0, 1, 2]))
    assert one[2]["accuracy %"] == "99.35 [99.15, 99.55]"
    assert several[1]["accuracy %"] == "99.41 (99.40 to 99.42)"
    assert one[0]["effective MACs"] == "2.53 of 2.53 M"
    assert several[1]["McNemar"] == "0 better, 0 worse"
    sure = [r | {"mcnemar_vs_baseline": {"p_value": 0.01}} for r in runs([0, 1, 2])]
    assert report.rows(sure)[1]["McNemar"] == "3 better, 0 worse"


def test_a_void_is_shown_as_void_and_counted():
    row = report.rows(runs([0]))[2]
    assert row["batch 1"].endswith("2.25x")
    assert row["batch 128"].endswith("VOID")
    figure, alt = report.stages_figure([r | {"latency_batch1_verdict": "VOID"} for r in runs([0])])
    assert alt.count("latency VOID") == 3
    assert not figure.axes[2].patches[0].get_fill(), "no solid bar for a time that means nothing"
    assert any("1 of 6 speed comparisons are VOID" in note for note in report.notes(runs([0])))
    assert ("latency, batch 128", "3840.0 µs", "3840.0 µs", "VOID: no verdict") in report.comparison(runs([0]))


def test_the_sample_is_never_passed_for_the_full_set():
    sample = [r | {"dataset": "mnist-5k", "test_images": 1000} for r in runs([0])]
    assert report.notes(sample)[0].startswith("source: mnist-5k (the 5,000-image sample: intervals are wide)")
    assert report.notes(runs([0]))[0].startswith("source: mnist (all of MNIST)")


def test_one_seed_says_what_compression_alone_does():
    assert any("against the control): no difference shown (McNemar p = 1)" in note for note in report.notes(runs([0])))


def test_several_seeds_say_what_compression_does():
    assert any("final minus control): -0.06 points [" in note for note in report.notes(runs([0, 1, 2])))


def test_the_page_stands_alone_and_every_figure_has_its_text(tmp_path):
    found = {"provenance": {"command": "make case-study"}, "runs": runs([0])}
    console = Console(width=160, record=True, file=io.StringIO())
    report.show(found, {"provenance": {}, "runs": runs([0, 1])}, tmp_path / "report.html", console)
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 4
    assert all(re.search(r'alt="[^"]{40,}"', image) for image in images)
    said = console.export_text()
    assert "pruned and int8" in said
    assert "Recall of each digit" in said


def both_engines(seeds, change=0.0):
    small = {"deflated_bytes": 25_000, "nonzero_parameters": 10_000, "wrong": [[3, 1]]}
    tfmot = [record(stage, seed, 0.99 + seed / 1e4, **small) for seed in seeds for stage in ("pruned", "quantized")]
    other = {"deflated_bytes": 26_000, "wrong": [[3, 1], *([i, 0] for i in range(10, 30))]}
    own = [r | other | {"test_accuracy": r["test_accuracy"] + change} for r in tfmot]
    return own, tfmot


def test_the_engines_are_compared_on_the_seeds_that_both_have():
    own, tfmot = both_engines([0, 1, 2], -0.001)
    rows = report.engines(own, [*tfmot, *both_engines([7])[1]])
    assert [(row["stage"], row["what"]) for row in rows[3:]] == [
        ("pruned and int8", "accuracy"), ("pruned and int8", "deflated bytes"),
        ("pruned and int8", "parameters not zero"),
    ]  # fmt: skip
    accuracy, size, zeros = rows[3:]
    assert (accuracy["tfmot"], accuracy["own"]) == ("99.01 %", "98.91 %")
    assert accuracy["own against tfmot"] == "-0.10 points [-0.100, -0.100]"
    assert (size["tfmot"], size["own"], size["own against tfmot"]) == ("25,000", "26,000", "+4.0 %")
    assert zeros["own against tfmot"] == "+0.0 %"


def test_engines_of_one_seed_are_compared_by_image():
    rows = report.engines(*both_engines([0]))
    assert rows[3]["own against tfmot"] == "McNemar p = 1.9e-06"  # 20 images that one alone gets right: 2^-19


def test_engines_on_other_images_or_seeds_are_not_compared(tmp_path):
    own, tfmot = both_engines([0])
    with pytest.raises(ValueError, match="0 seeds in common, tested on mnist; needs the same seeds and images"):
        report.engines(own, both_engines([1])[1])
    sample = [r | {"dataset": "mnist-5k"} for r in own]
    with pytest.raises(ValueError, match="1 seeds in common, tested on mnist, mnist-5k"):
        report.engines(sample, tfmot)


def test_a_run_of_the_own_engine_stands_beside_the_stored_result(tmp_path):
    def said(runs, full):
        console = Console(width=200, record=True, file=io.StringIO())
        found = {"provenance": {"engine": "own"}, "runs": runs}
        report.show(found, {"provenance": {}, "runs": full}, tmp_path / "report.html", console)
        return console.export_text()

    own = [r for r in runs([0]) if r["stage"] != "control"]
    own.insert(1, record("pruned", 0, 0.993))
    full = [*runs([0, 1]), record("pruned", 0, 0.993), record("pruned", 1, 0.993)]
    assert "The course's own engine beside tfmot's stored result" in said(own, full)
    assert "own against tfmot" in (tmp_path / "report.html").read_text()
    sample = [r | {"dataset": "mnist-5k", "test_images": 1000} for r in own]
    assert "Not compared with tfmot's stored result" in said(sample, full)


def test_several_seeds_without_a_control_have_no_claim_on_it():
    own = [r for r in runs([0, 1]) if r["stage"] != "control"]
    assert not any("minus control" in note or "control minus" in note for note in report.notes(own))


def test_markdown_has_a_row_for_each_stage():
    lines = report.markdown(report.rows(runs([0]))).splitlines()
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1


def test_a_figure_without_a_text_is_refused():
    figure, _ = plots.subplots()
    with pytest.raises(ValueError, match="say in a sentence what the figure shows"):
        plots.show(figure, " ")


def test_labels_carry_units_and_the_palette_is_the_course_s():
    figure, alt = report.stages_figure(runs([0, 1]))
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert labels == ["deflated file (kB)", "test accuracy (%)", "latency ÷ plain's, batch 1 (1 = 30 µs)"]
    assert "pruned and int8: 25 kB, 99.35 %, 0.44 of the plain latency" in alt
    figure, alt = report.digits_figure(runs([0]))
    assert figure.axes[0].get_xlabel() == "digit"
    assert plots.png(figure).startswith(b"\x89PNG")
