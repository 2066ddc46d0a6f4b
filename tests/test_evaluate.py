"""The statistics and the verdicts; what is read from files is in test_litert.py."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from hwlimits.training.evaluate import (
    accuracy_interval,
    before_after,
    check_export,
    file_record,
    latency_record,
    mcnemar,
    paired,
    recall_per_digit,
)


@pytest.mark.parametrize(("correct", "total"), [(9920, 10_000), (975, 1000), (0, 50), (50, 50), (1, 3)])
def test_interval_is_wilson_s_closed_form(correct, total):
    z, p = 1.959963984540054, correct / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    assert accuracy_interval(correct, total) == pytest.approx((centre - half, centre + half), abs=1e-9)


@pytest.mark.parametrize(("correct", "total"), [(11, 10), (-1, 10), (0, 0)])
def test_an_impossible_count_is_refused(correct, total):
    with pytest.raises(ValueError, match="can't be"):
        accuracy_interval(correct, total)


def test_mcnemar_is_the_sum_of_the_binomial_tail():
    rng = np.random.default_rng(0)
    a, b = rng.random(1000) < 0.97, rng.random(1000) < 0.98
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, k = only_a + only_b, min(only_a, only_b)
    tail = 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    found = mcnemar(a, b)
    assert (found["only_a_right"], found["only_b_right"]) == (only_a, only_b)
    assert found["p_value"] == pytest.approx(min(1, tail))


def test_mcnemar_of_equal_answers_shows_nothing():
    answers = np.array([True, False, True])
    assert mcnemar(answers, answers)["p_value"] == 1.0


def test_mcnemar_needs_the_same_images():
    with pytest.raises(ValueError, match="both need the same images"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


def test_recall_is_counted_by_the_true_digit():
    labels = np.repeat(np.arange(10), 4)
    predicted = labels.copy()
    predicted[:1] = 6  # one of four zeros taken for a six
    assert recall_per_digit(labels, predicted) == [0.75] + [1.0] * 9


def test_paired_is_student_s_interval_of_the_differences():
    after, before = [0.994, 0.9935, 0.9951, 0.9942, 0.9938], [0.9931, 0.9928, 0.9940, 0.9939, 0.9935]
    found = paired(after, before)
    low, high = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found["low"], found["high"], found["n"]) == (pytest.approx(low), pytest.approx(high), 5)
    assert found["mean"] == pytest.approx(np.mean(after) - np.mean(before))


@pytest.mark.parametrize(("after", "before"), [([1.0], [1.0]), ([1.0, 1.0], [1.0])])
def test_paired_needs_seeds_on_both_sides(after, before):
    with pytest.raises(ValueError, match="needs the same seeds"):
        paired(after, before)


def test_an_export_that_answers_otherwise_is_refused():
    answers = np.zeros(1000, int)
    off = answers.copy()
    off[:5] = 1
    assert check_export(off, answers) == 0.005
    off[:6] = 1
    with pytest.raises(ValueError, match=r"answers otherwise than its Keras model on 0.60 %"):
        check_export(off, answers)


def record(wrong=range(10), **changes):
    base = {
        "stage": "baseline_15", "dataset": "mnist", "test_images": 1000, "wrong": [[i, 0] for i in wrong],
        "test_accuracy": 1 - len(wrong) / 1000,
        "raw_bytes": 400, "deflated_bytes": 300, "nonzero_parameters": 100, "effective_macs": 1000,
    }  # fmt: skip
    for batch in (1, 128):
        base |= {
            f"latency_batch{batch}_median_s": 1e-4,
            f"latency_batch{batch}_speedup": 1.0,
            f"latency_batch{batch}_verdict": "equal",
        }
    return base | changes


def verdicts(after, before=None):
    return {row[0]: row[3] for row in before_after(before or record(), after)}


def test_nothing_is_a_gain_that_was_not_shown():
    same = verdicts(record(wrong=range(5)))  # five more right, none lost: p = 0.0625
    assert same["accuracy"] == "no difference shown (McNemar p = 0.062)"
    assert same["latency, batch 1"] == "no difference"
    assert same["file, raw (bytes)"] == "no difference"


def test_accuracy_is_compared_between_the_two_that_were_given():
    assert verdicts(record(wrong=range(4)))["accuracy"] == "gain of 0.60 points (McNemar p = 0.031)"
    other = record(wrong=range(20), stage="control")
    assert verdicts(record(), other)["accuracy"].startswith("gain of 1.00 points")
    assert verdicts(record(), other)["latency, batch 1"] == "not interleaved"


def test_a_void_speed_up_is_no_speed_up():
    after = record(latency_batch1_speedup=3.0, latency_batch1_verdict="VOID")
    assert verdicts(after)["latency, batch 1"] == "VOID: no verdict"


def test_losses_are_said_as_plainly_as_gains():
    after = record(wrong=range(20), raw_bytes=800, latency_batch1_speedup=0.5, latency_batch1_verdict="slower")
    found = verdicts(after)
    assert found["file, raw (bytes)"] == "2.00x more"
    assert found["accuracy"].startswith("loss of 1.00 points")
    assert found["latency, batch 1"] == "0.50x, slower"


def test_two_test_sets_are_not_compared():
    with pytest.raises(ValueError, match="tested on mnist and on mnist-5k; needs the same images"):
        before_after(record(), record(dataset="mnist-5k"))


def test_latency_needs_a_whole_batch(compressed):
    content = compressed[1]["dense"].content
    with pytest.raises(ValueError, match="3 images, a batch needs 128"):
        latency_record(content, content, np.zeros((3, 28, 28), np.uint8))


# conv1 maps 28x28x1 to 26x26x32 by 3x3, conv2 13x13x32 to 11x11x64, dense1 5*5*64 = 1,600 to 64, dense2 64 to 10;
# each weight of a convolution is used at each place of its output image
PLACES = [26 * 26, 11 * 11, 1, 1]
MACS = 26 * 26 * 32 * 3 * 3 * 1 + 11 * 11 * 64 * 3 * 3 * 32 + 1600 * 64 + 64 * 10


@pytest.mark.parametrize("stage", ["dense", "pruned", "quantized"])
def test_macs_are_those_counted_by_hand_and_effective_macs_leave_out_the_zeros(compressed, tiny, stage):
    file = compressed[1][stage]
    every_digit = dataclasses.replace(tiny, y_test=np.arange(10))
    record = file_record(file.content, every_digit, every_digit.y_test)
    assert record["macs"] == MACS
    nonzero = [sum(1 for w in layer.weights.ravel().tolist() if w) for layer in file.layers]
    assert record["effective_macs"] == sum(p * n for p, n in zip(PLACES, nonzero, strict=True))
    assert (record["effective_macs"] < MACS / 2) == (stage != "dense")
