"""The capstone's scores by hand, files by hand with answers by NumPy, and a folder in which much is wrong."""

import csv
import io
import json
import shutil

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from hwlimits import data
from hwlimits.machine.timing import Timing
from hwlimits.training import capstone, mnist, submissions
from hwlimits.training.capstone import Budget, Leaderboard, leaderboard, score
from hwlimits.training.capstone_score import Score
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_build import Spec, single
from hwlimits.training.litert_parser import LiteRTError, parse
from hwlimits.training.submissions import SubmissionError, answers, check_images, examine, file_of

QUIET, SCATTERED = Timing((2e-3,) * 5), Timing((1e-3, 2e-3, 3e-3, 4e-3))
IMAGES = np.random.default_rng(0).integers(0, 256, (200, 1, 1, 12)).astype(np.uint8)
CLASSES = 5
DENSE = single(Spec("FULLY_CONNECTED", "float32", (1, 1, 1, 12), CLASSES))
INT8 = single(Spec("FULLY_CONNECTED", "int8", (1, 1, 1, 12), CLASSES))
LABELS = (IMAGES.reshape(200, 12) / 255 @ DENSE.layers[0].weights.T).argmax(axis=1)


def changed(file, change):
    """A file after `change(model)`."""
    model = parse(file.content)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return LiteRTFile(bytes(builder.Output()))


def of(value, budget=Budget(1000, 1.0, 0.5), **more):  # noqa: B008
    """A score of about `value` that the bytes alone make."""
    return Score(f"{value}", budget, round(1000 / value**3), 1, 50, 100, Timing((1.0,) * 5), **more)


# -- budget and score


def test_the_score_is_the_geometric_mean_of_three_ratios():
    found = Score("a", Budget(8000, 8e-3, 0.45), 4000, 3000, 90, 100, QUIET)
    assert found.ratios == pytest.approx({"bytes": 2, "latency": 4, "accuracy": 2})
    assert found.value == pytest.approx(16 ** (1 / 3))
    assert found.kept == {"bytes": True, "latency": True, "accuracy": True}
    assert found.said == []
    deflated = Score("a", Budget(6000, 8e-3, 0.45, deflated=True), 9000, 3000, 90, 100, QUIET)
    assert deflated.ratios["bytes"] == 2


@pytest.mark.parametrize(
    ("budget", "missed"),
    [(Budget(3999, 1, 0.5), "bytes"), (Budget(4000, 1.9e-3, 0.5), "latency"), (Budget(4000, 1, 0.91), "accuracy")],
)
def test_a_limit_that_is_missed_makes_the_score_0(budget, missed):
    found = Score("a", budget, 4000, 3000, 90, 100, QUIET)
    assert (found.value, found.missed) == (0.0, [missed])
    assert f"{missed} limit missed" in found.said


def test_a_limit_that_is_just_reached_is_kept():
    assert Score("a", Budget(4000, 2e-3, 0.9), 4000, 3000, 90, 100, QUIET).value == 1.0


@pytest.mark.parametrize(("latency", "steady", "word"), [(SCATTERED, True, "NOISY"), (QUIET, False, "VOID")])
def test_a_disturbed_latency_decides_nothing_and_is_said(latency, steady, word):
    for limit_s in (1e-6, 1.0):  # missed by far, kept by far
        found = Score("a", Budget(8000, limit_s, 0.45), 4000, 3000, 90, 100, latency, steady)
        assert found.kept["latency"] is None
        assert found.value == pytest.approx(4 ** (1 / 3))
        assert any(f"latency {word}" in said and "measure again" in said for said in found.said)
    assert Score("a", Budget(3999, 1.0, 0.45), 4000, 3000, 90, 100, latency, steady).value == 0


def test_an_accuracy_near_its_limit_is_said():
    near = "on other images the accuracy could be on the other side of its limit"
    assert near in Score("a", Budget(8000, 1, 0.88), 4000, 3000, 90, 100, QUIET).said
    assert near in Score("a", Budget(8000, 1, 0.92), 4000, 3000, 90, 100, QUIET).said
    assert near not in Score("a", Budget(8000, 1, 0.7), 4000, 3000, 90, 100, QUIET).said
    low, high = Score("a", Budget(8000, 1, 0.7), 4000, 3000, 90, 100, QUIET).interval
    # Wilson, by hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)


def test_a_score_is_read_in_one_line():
    text = str(Score("anna", Budget(4000, 1, 0.88), 4001, 3000, 90, 100, QUIET))
    assert text.startswith(
        "anna; score 0.000; bytes 4,001; deflated 3,000; right % 90.00 [82.56, 94.48]; one image 2 ms"
    )
    assert "bytes limit missed" in text


@pytest.mark.parametrize("limits", [(0, 1, 0.5), (1, 0, 0.5), (1, 1, 0), (1, 1, 97), (1, float("nan"), 0.5)])
def test_a_budget_that_cannot_be_is_refused(limits):
    with pytest.raises(ValueError, match="bytes and seconds must be above 0, and accuracy is a share"):
        Budget(*limits)


# -- what a file may be


def test_answers_are_those_that_numpy_finds():
    np.testing.assert_array_equal(answers(DENSE, IMAGES, CLASSES), LABELS)
    codes = np.clip(np.round(IMAGES.reshape(200, 12) / 255 / 0.05 - 10), -128, 127)
    wanted = (codes + 10) * 0.05 @ INT8.layers[0].weights.astype(float).T * 0.01
    clear = np.diff(np.sort(np.clip(wanted, -5.9, 6.85), axis=1))[:, -1] > 0.11  # not within a step, not clipped
    assert clear.sum() > 100
    np.testing.assert_array_equal(answers(INT8, IMAGES, CLASSES)[clear], wanted.argmax(axis=1)[clear])


def not_a_number(file):
    weights = file.layers[0].weights
    return LiteRTFile(file.content.replace(weights.tobytes(), np.full_like(weights, np.nan).tobytes()))


def as_type(number):
    def change(model):
        for tensor in model.subgraphs[0].tensors:
            tensor.type = number if tensor.type == schema.TensorType.INT8 else tensor.type
            tensor.quantization = None

    return change


def without_scale(model):
    for tensor in model.subgraphs[0].tensors:
        tensor.quantization = None


TWO_GRAPHS = changed(DENSE, lambda model: model.subgraphs.append(model.subgraphs[0]))
PAD = single(Spec("PAD", "int8", (1, 1, 1, 12)))


@pytest.mark.parametrize(
    ("file", "reason"),
    [(single(Spec("FULLY_CONNECTED", "float32", (1, 1, 1, 11), CLASSES)), r"input has the shape \(1, 1, 1, 11\)"),
     (single(Spec("FULLY_CONNECTED", "float32", (1, 1, 1, 12), 6)), r"output has the shape \(1, 6\); \(1, 5\) is"),
     (single(Spec("ADD", "float32", (1, 1, 1, 12))), r"shape \(1, 1, 1, 12\), \(1, 1, 1, 12\); \(1, 1, 1, 12\) is"),
     (not_a_number(DENSE), "its answers to 200 of 200 images are no finite numbers"),
     (TWO_GRAPHS, "it has 2 graphs, so it branches or loops"),
     (changed(PAD, without_scale), "its input is int8 without a scale"),
     (changed(single(Spec("TRANSPOSE", "int8", (1, 1, 1, 12))), as_type(schema.TensorType.UINT8)),
      "its input is uint8; float32 or int8 is wanted")],
    ids=["input", "output", "two inputs", "nan", "graphs", "no scale", "uint8"],
)  # fmt: skip
def test_a_file_that_is_no_classifier_of_such_images_is_refused(file, reason):
    with pytest.raises(SubmissionError, match=reason):
        answers(file, IMAGES, CLASSES)


def test_other_answers_to_one_image_than_to_many_are_refused():
    class TwoFaced(LiteRTFile):
        wrong = 2

        def outputs(self, images, *, batch=500):
            found = super().outputs(images, batch=batch)
            if batch == 1:
                found[: self.wrong] *= -1
            return found

    with pytest.raises(SubmissionError, match="it answers 2 of 50 images otherwise when asked one at a time"):
        answers(TwoFaced(DENSE.content), IMAGES, CLASSES)
    TwoFaced.wrong = 1  # that could be rounding
    np.testing.assert_array_equal(answers(TwoFaced(DENSE.content), IMAGES, CLASSES), LABELS)


def test_what_is_no_model_is_the_parsers_to_refuse():
    with pytest.raises(LiteRTError, match="damaged"):
        answers(LiteRTFile(DENSE.content[:400]), IMAGES, CLASSES)


@pytest.mark.parametrize(
    ("images", "labels"),
    [(IMAGES.astype(np.float32), LABELS), (IMAGES, LABELS[:-1]), (IMAGES[:0], LABELS[:0]), (IMAGES[:, 0, 0], LABELS)],
)
def test_images_that_are_none_are_refused(images, labels):
    with pytest.raises(ValueError, match="uint8 images .n, height, width. and as many labels are needed"):
        check_images(images, labels)


# -- a process of its own


def test_a_file_is_tried_out_in_another_process(tmp_path):
    (tmp_path / "a.tflite").write_bytes(DENSE.content)
    labels = LABELS.copy()
    labels[:30] = (labels[:30] + 1) % CLASSES
    assert examine(tmp_path / "a.tflite", IMAGES, labels) == (DENSE.content, 170)


@pytest.mark.parametrize(
    ("program", "reason"),
    [("import os; os.kill(os.getpid(), 11)", r"running it ends the process \(exit status -11: it said nothing\)"),
     ("import sys; sys.exit('allocated 1 TB')", r"ends the process \(exit status 1: allocated 1 TB\)"),
     ("import time; time.sleep(60)", "200 images take it more than 0.5 s")],
)  # fmt: skip
def test_what_ends_or_holds_its_process_is_told(tmp_path, monkeypatch, program, reason):
    (tmp_path / "a.tflite").write_bytes(DENSE.content)
    monkeypatch.setattr(submissions, "PROGRAM", program)
    monkeypatch.setattr(submissions, "TIME_LIMIT_S", 0.5 if "sleep" in program else 60)
    with pytest.raises(SubmissionError, match=reason):
        examine(tmp_path / "a.tflite", IMAGES, LABELS)


def test_files_that_are_not_there_or_too_large_are_not_read(tmp_path, monkeypatch):
    with pytest.raises(SubmissionError, match="b.tflite is no file"):
        examine(tmp_path / "b.tflite", IMAGES, LABELS)
    (tmp_path / "a.tflite").write_bytes(DENSE.content)
    monkeypatch.setattr(submissions, "MAX_FILE_BYTES", 10)
    with pytest.raises(SubmissionError, match=r"bytes; 10 are read at most"):
        examine(tmp_path / "a.tflite", IMAGES, LABELS)


def test_a_folder_stands_for_the_one_file_in_it(tmp_path):
    with pytest.raises(SubmissionError, match="holds 0 .tflite files, and one is wanted"):
        file_of(tmp_path)
    (tmp_path / "a.tflite").touch()
    assert file_of(tmp_path) == file_of(tmp_path / "a.tflite") == tmp_path / "a.tflite"
    (tmp_path / "b.tflite").touch()
    with pytest.raises(SubmissionError, match="holds 2 .tflite files"):
        file_of(tmp_path)


def test_the_case_study_s_file_scores_what_its_parts_say(tmp_path):
    sample = mnist.load("mnist-5k")
    path = data.path("results/case_study/quantized-seed0.tflite")
    found = score(path, Budget(10**6, 1.0, 0.9), sample.x_test, sample.y_test)
    file = LiteRTFile.read(path)
    assert (found.file_bytes, found.deflated_bytes) == (path.stat().st_size, file.deflated_bytes)
    assert found.right == np.sum(file.predict(sample.x_test) == sample.y_test)
    assert found.name == "quantized-seed0"
    assert 0 < found.latency.median_s < 1
    assert found.value > 1


def test_a_noisy_latency_is_tried_again_and_the_last_one_stands(monkeypatch):
    timings = [SCATTERED, SCATTERED, QUIET, SCATTERED]
    monkeypatch.setattr(capstone, "examine", lambda *_: (DENSE.content, 150))
    monkeypatch.setattr(capstone, "measure", lambda runner: timings.pop(0))
    assert score("a", Budget(1, 1, 1), IMAGES, LABELS).latency == QUIET
    assert timings == [SCATTERED]
    timings[:] = [SCATTERED] * 9
    assert score("a", Budget(1, 1, 1), IMAGES, LABELS, attempts=2).disturbed
    assert len(timings) == 7


# -- the leaderboard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sound files, one of them twice and one in a folder, and six that are not."""
    folder = tmp_path_factory.mktemp("submissions")
    (folder / "anna.tflite").write_bytes(DENSE.content)
    (folder / "anna").mkdir()
    (folder / "anna" / "model.tflite").write_bytes(INT8.content)
    shutil.copy(folder / "anna.tflite", folder / "=b|<b>ob\n.tflite")
    (folder / "cut.tflite").write_bytes(DENSE.content[:500])
    (folder / "nan.tflite").write_bytes(not_a_number(DENSE).content)
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("my model will follow")
    (folder / ".hidden.tflite").write_text("not looked at")
    (folder / "gone.tflite").symlink_to(folder / "nowhere")
    return folder


@pytest.fixture(scope="module")
def board(folder):
    return leaderboard(folder, Budget(10**6, 10.0, 0.05), IMAGES, LABELS)


def test_each_submission_is_listed_and_bad_ones_with_the_reason(board):
    assert {s.name: s.right for s in board.scores} == {
        "anna'": 200, "=b|<b>ob?": 200, "anna": int(np.sum(answers(INT8, IMAGES, CLASSES) == LABELS)),
    }  # fmt: skip
    assert set(board.rejected) == {"cut", "nan", "empty", "notes.txt", "gone"}
    reasons = {"cut": "damaged", "nan": "no finite numbers", "empty": "holds 0", "notes.txt": "lack the mark TFL3",
               "gone": "no file"}  # fmt: skip
    for name, reason in reasons.items():
        assert reason in board.rejected[name]
    values = [s.value for s in board.scores if not s.disturbed]
    assert values == sorted(values, reverse=True)


def test_equal_files_are_told(board):
    said = dict(zip((s.name for s in board.scores), board.said, strict=True))
    pair = [s.name for s in board.scores if s.name != "anna"]
    assert f"the same file as {pair[0]}" in said[pair[1]]
    assert not any("same file" in said[name] for name in ("anna", pair[0]))


def test_the_markdown_table_has_a_line_for_each_and_whole_cells(board):
    head, empty, *table = board.markdown().splitlines()
    assert "At most 1,000,000 bytes and 10 s for one image, at least 5 % right" in head
    assert f"A/A control of the latencies: {board.aa_ratio:.3f}" in head
    assert len(table) == 2 + 8
    assert {line.replace("\\|", "").count("|") for line in table} == {9}
    assert "=b\\|&lt;b>ob?" in board._repr_markdown_()
    (line,) = (line for line in table[2:] if line.split(" | ")[1] == "anna")
    assert f"{len(INT8.content):,}" in line


def test_csv_and_json_have_the_same_rows(board):
    rows = list(csv.DictReader(io.StringIO(board.csv())))
    found = json.loads(board.json("a command"))
    assert list(rows[0]) == list(found["rows"][0]) == list(capstone.COLUMNS)
    assert [r["said"] for r in rows] == [r["said"] for r in found["rows"]]
    assert [r["name"] for r in found["rows"]] == [r["name"].removeprefix("'") for r in rows]
    assert "'=b|<b>ob?" in [r["name"] for r in rows]
    assert found["provenance"]["command"] == "a command"
    assert found["budget"] == {"file_bytes": 10**6, "latency_s": 10.0, "accuracy": 0.05, "deflated": False,
                               "aa_ratio": board.aa_ratio}  # fmt: skip
    first = board.scores[0]
    assert (float(rows[0]["score"]), int(rows[0]["file_bytes"])) == (first.value, first.file_bytes)
    assert found["rows"][-1]["score"] is None


def places(*scores):
    return Leaderboard(Budget(1000, 1.0, 0.5), scores, {}, 1.0).places


def test_places_ties_and_none():
    assert places(of(3), of(2), of(1)) == ["1", "2", "3"]
    assert places(of(3), of(2), of(1.98), of(1)) == ["1", "2=", "2=", "4"]
    assert places(of(3), of(2.93)) == ["1", "2"]
    # a tie is one with the first of the place: 2 and 1.95 are farther apart than that
    assert places(of(2), of(1.975), of(1.95)) == ["1=", "1=", "3"]
    missed = Score("x", Budget(1000, 1.0, 0.5), 1001, 1, 50, 100, QUIET)
    assert places(of(3), of(2, steady=False), missed) == ["1", "", ""]
    assert places() == []


def test_latencies_are_taken_in_turns_there_and_back(monkeypatch):
    order = []

    def slower_and_slower(runner, repeats):
        order.append(runner)
        return Timing((1 + 0.01 * len(order),) * repeats)

    monkeypatch.setattr(capstone, "measure", slower_and_slower)
    found, aa_ratio = capstone._in_turns(["a", "b"], attempts=1)
    assert order == ["a", "b", "a", "a", "b", "a"] * (capstone.ROUNDS // 2)
    assert len(found) == 2
    assert found[0].median_s == pytest.approx(found[1].median_s, rel=1e-9)
    assert aa_ratio == pytest.approx(1.0)


def test_a_computer_that_does_not_hold_still_gives_no_places(monkeypatch, tmp_path):
    calls = []

    def third_is_slow(runner, repeats):
        calls.append(runner)
        forth = (len(calls) - 1) // 3 % 2 == 0
        return Timing((1.1 if (len(calls) % 3 == (0 if forth else 1)) else 1.0,) * repeats)

    monkeypatch.setattr(capstone, "measure", third_is_slow)
    monkeypatch.setattr(capstone, "examine", lambda *_: (DENSE.content, 150))
    for name in "ab":
        (tmp_path / f"{name}.tflite").touch()
    board = leaderboard(tmp_path, Budget(10**6, 1e-9, 0.05), IMAGES, LABELS, attempts=2)
    assert board.aa_ratio == pytest.approx(1 / 1.1)
    assert len(calls) == 2 * 3 * capstone.ROUNDS
    assert board.places == ["", ""]
    assert all(s.kept["latency"] is None and s.value > 0 for s in board.scores)
    assert board.markdown().count("latency VOID (A/A control): it decides nothing, measure again") == 2


def test_the_best_come_first_then_those_without_a_place_then_those_with_no_score(monkeypatch, tmp_path):
    found = {"a": (DENSE.content, 200), "b": (INT8.content, 200), "c": (INT8.content, 200), "d": (INT8.content, 1)}
    assert len(INT8.content) < 0.9 * len(DENSE.content) or len(DENSE.content) < 0.9 * len(INT8.content)
    small, large = ("b", "a") if len(INT8.content) < len(DENSE.content) else ("a", "b")
    for name in found:
        (tmp_path / f"{name}.tflite").touch()
    monkeypatch.setattr(capstone, "examine", lambda path, *_: found[path.stem])
    monkeypatch.setattr(capstone, "_in_turns", lambda *_: ([QUIET, QUIET, SCATTERED, QUIET], 1.0))
    board = leaderboard(tmp_path, Budget(10**6, 1.0, 0.05), IMAGES, LABELS)
    assert [s.name for s in board.scores] == [small, large, "c", "d"]
    assert board.places == ["1", "2", "", ""]
    assert board.scores[-1].missed == ["accuracy"]


def test_a_folder_with_nothing_and_no_folder(tmp_path):
    board = leaderboard(tmp_path, Budget(1, 1, 1), IMAGES, LABELS)
    assert board.rows() == []
    assert "There are no submissions." in board.markdown()
    with pytest.raises(NotADirectoryError, match="is no folder; give the one that the submissions are in"):
        leaderboard(tmp_path / "a", Budget(1, 1, 1), IMAGES, LABELS)


def test_without_images_the_best_there_are_are_taken(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        mnist, "load", lambda source: asked.append(source) or mnist.ImageSet(*[IMAGES, LABELS] * 2, "x")
    )
    leaderboard(tmp_path, Budget(1, 1, 1))
    assert asked == ["best"]


def test_images_without_labels_are_no_images(tmp_path):
    with pytest.raises(ValueError, match="images and labels come together, and one of them is missing"):
        leaderboard(tmp_path, Budget(1, 1, 1), IMAGES)


@pytest.mark.parametrize("kind", ["one array", "other names", "damaged", "text"])
def test_the_command_refuses_a_file_of_other_things(kind, tmp_path, capsys):
    place = tmp_path / "secret.npz"
    if kind == "one array":
        with place.open("wb") as file:
            np.save(file, IMAGES)
    elif kind == "other names":
        np.savez(place, images=IMAGES)
    else:
        np.savez(place, x_test=IMAGES, y_test=LABELS)
        place.write_bytes(b"no arrays" if kind == "text" else place.read_bytes()[:500])
    with pytest.raises(SystemExit):
        capstone.main([str(tmp_path), *LIMITS, "--images", str(place)])
    assert "a file .npz with the arrays x_test and y_test is wanted" in capsys.readouterr().err


# -- the command


LIMITS = ["--bytes", "60000", "--latency-ms", "5000", "--accuracy", "0.9"]


def test_the_command_scores_on_images_of_your_own(tmp_path, capsys):
    np.savez(tmp_path / "secret.npz", x_test=IMAGES, y_test=LABELS)
    (tmp_path / "all" / "anna").mkdir(parents=True)
    (tmp_path / "all" / "anna" / "x.tflite").write_bytes(DENSE.content)
    given = [str(tmp_path / "all"), *LIMITS, "--images", str(tmp_path / "secret.npz"), "--deflated", "--json"]
    capstone.main(given)
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["accuracy"] == 1.0
    assert found["budget"]["latency_s"] == 5.0
    assert found["budget"]["deflated"]
    assert found["provenance"]["command"] == " ".join(["python -m hwlimits.training.capstone", *given])


def test_the_command_writes_markdown_or_csv(tmp_path, capsys):
    capstone.main([str(tmp_path), *LIMITS, "--data", "mnist-5k"])
    assert "There are no submissions." in capsys.readouterr().out
    capstone.main([str(tmp_path), *LIMITS, "--data", "mnist-5k", "--csv"])
    assert capsys.readouterr().out.strip() == ",".join(capstone.COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nowhere", *LIMITS, "--data", "mnist-5k"], "nowhere is no folder"),
     ([".", *LIMITS[:-1], "97"], "accuracy is a share"),
     ([".", *LIMITS, "--images", "nothing.npz"], "nothing.npz")],
)  # fmt: skip
def test_the_command_says_what_is_wrong_in_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as end:
        capstone.main(arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
