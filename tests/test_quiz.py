"""Check-yourself quizzes: their numbers are computed, the right option is right by hand, and a choice is answered."""

import re
import sys
from html import unescape

import pytest
import yaml
from chapters import CHAPTERS, code, read, typed_measurements

from hwlimits import data, quiz, widgets

RAW = yaml.safe_load(data.path("quizzes.yaml").read_text(encoding="utf-8"))
ALL = [(chapter, i) for chapter in quiz.chapters() for i in range(len(RAW[chapter]))]
each = pytest.mark.parametrize(("chapter", "number"), ALL, ids=[f"{c}-{i + 1}" for c, i in ALL])
KIB = 2**10

# The right option of each question that asks for a number, worked out here without the library.
BY_HAND = {
    ("00_start_here", 1): 5 * 6,
    ("00_start_here", 2): 4 * (4096**2 + 2 * 4096) / 20e9 * 1e3,  # ms
    ("01_compute", 1): 2 * 26 * 26 * 32 * 9,
    ("01_compute", 2): (2 * 1600 * 64 + 64) / (4 * (1600 * 64 + 64 + 1600 + 64)),
    ("01_compute", 3): 1,
    ("01_compute", 4): next(b for b in range(1, 999) if (2 * 4096 + 1) * b / 2 / (4096 + 1 + 2 * b) >= 65e12 / 320e9),
    ("02_storage", 1): 16,
    ("02_storage", 2): 1_000_000 / 8 + 100_000,
    ("02_storage", 3): 102 / 21,
    ("02_storage", 4): 100 + 400,
    ("03_bandwidth", 1): 50 + 50,
    ("03_bandwidth", 2): 2 * 7 / 8 * 100,
    ("04_pruning", 2): 100 * 2 / 3,
    ("04_pruning", 3): 64 / 36,
    ("04_pruning", 5): 90 * (1 - 0.5**3),
    ("05_quantization", 1): round(0.75 / (2 / 255) - 1),
    ("05_quantization", 2): 4 * 6.02,
    ("05_quantization", 3): 6.02,
    ("05_quantization", 4): 2,
    ("06_parallel", 1): 10 / 4 / 4,
    ("06_parallel", 2): 1 / 0.05,
    ("06_parallel", 3): (0.4 - 0.25) / 0.75,
    ("06_parallel", 4): 7 / 23,
    ("06_parallel", 5): 2 - 1 / 4,
    ("07_gpu_tpu", 1): 32,
    ("07_gpu_tpu", 2): 100 * 1000**2 / 1024**2,
    ("07_gpu_tpu", 3): 128 + 128 + 128 + 100 - 2,
    ("07_gpu_tpu", 4): 989.4e12 / 3.35e12,
    ("07_gpu_tpu", 5): 100 * (1 - 15 / 45),
    ("08_case_study", 1): 100 * (1 - 0.99 * 102_400 / 2_528_000),
    ("08_case_study", 3): 0.2026,  # scipy.stats.binomtest(20, 50).pvalue
    ("09_frontier", 1): 400_000 * (0.05 + 0.2864) / 8,
    ("09_frontier", 2): 32 / (0.0808 + 0.04),
    ("09_frontier", 4): 1,
    ("10_scenarios", 1): 2 * 32 * 4096 * 2 / KIB,
    ("10_scenarios", 2): 14e9 / 3.35e12 * 1e3,  # ms
    ("10_scenarios", 3): 989.4e12 / 3.35e12,
    ("10_scenarios", 4): 100 * 0.99**10,
    ("10_scenarios", 5): 4,
    ("11_choosing", 1): (989.4 / 125) / (3.35 / 0.9),
    ("11_choosing", 2): 1 / (0.7 + 0.15),
    ("11_choosing", 3): 70 / 1000,
}  # fmt: skip


@each
def test_the_right_option_by_hand(chapter, number):
    question = quiz.questions(chapter)[number]
    right = question.options[question.right]
    said = re.search(r"-?\d[\d,]*\.?\d*", right)
    if (chapter, number + 1) not in BY_HAND:
        texts = {("03_bandwidth", 3): "6 ms become 4 ms", ("03_bandwidth", 4): "recursive-doubling"}
        measured = {("04_pruning", 4), ("05_quantization", 5), ("08_case_study", 4)}
        wanted = texts.get((chapter, number + 1), right)
        assert right == wanted
        assert not said or (chapter, number + 1) in measured | set(texts), f"{right!r} is not worked out by hand"
        return
    got = float(said[0].replace(",", ""))
    digits = len(said[0].split(".")[1]) if "." in said[0] else 0
    wanted = BY_HAND[chapter, number + 1]
    assert got == pytest.approx(wanted, abs=0.51 * 10**-digits, rel=2e-3), right


@pytest.mark.parametrize(
    ("chapter", "number", "asked"),
    [
        ("00_start_here", 4, "a time was predicted from the bandwidth of DRAM, and the measured one is 0.7 times that"),
        ("01_compute", 1, "How many FLOPs does it do, without a bias?"),  # its products alone are as many as its MACs
        ("11_choosing", 3, "measured. How much energy does an image take at most, over a while?"),
    ],
)
def test_a_question_says_what_its_answer_takes_for_given(chapter, number, asked):
    """What is 0.7 of a prediction, time or rate? Which power bounds which energy? One option alone may be right."""
    assert asked in quiz.questions(chapter)[number - 1].ask


def test_the_reason_has_the_codes_that_the_zero_point_goes_with():
    """A zero point of -1 for a range about 0: there is a code more below 0 than above."""
    question = quiz.questions("05_quantization")[0]
    assert "plus the zero point -1" in question.reasons[question.right]
    assert sum("Signed codes go from −128 to 127" in reason for reason in question.reasons) == 1
    said = " ".join(question.reasons)
    assert "as many below" not in said


def test_a_pipeline_fills_in_fewer_slots_than_it_has_stages():
    """Counted in a schedule: stage s of p does microbatch k in slot s + k."""
    p, m = 8, 16
    busy = {(s, s + k) for s in range(p) for k in range(m)}
    slots = 1 + max(slot for _, slot in busy)
    assert (slots, slots - m) == (m + p - 1, p - 1)
    reasons = quiz.questions("06_parallel")[3].reasons
    assert sum(reason == "Filling takes p − 1 slots of m + p − 1, not p." for reason in reasons) == 1


@pytest.mark.parametrize(
    ("number", "chapter", "wanted"),
    [(4, "04_pruning", "63%"), (5, "05_quantization", "3.79"), (4, "08_case_study", "1.00")],
)
def test_what_was_measured_is_read_from_the_results(number, chapter, wanted, monkeypatch):
    """As stored now; and when the stored number changes, so does the quiz."""
    question = quiz.questions(chapter)[number - 1]
    assert wanted in question.options[question.right]
    stored = quiz.stored

    def changed(name):
        found = stored(name)
        for run in found.get("runs", []):
            run["raw_bytes"] *= 2 if run["stage"] == "baseline_15" else 1
            run["latency_batch1_speedup"] *= 2
        if "compression" in found["provenance"]:
            found["provenance"]["compression"]["break_even"]["measured"] = 0.4321
        return found

    names = dict(quiz.library()) | {"stored": changed}
    monkeypatch.setattr(quiz, "library", lambda: names)
    changed_question = quiz.questions(chapter)[number - 1]
    assert wanted not in changed_question.options[changed_question.right]


@each
def test_no_measurement_is_typed(chapter, number):
    entry = RAW[chapter][number]
    for text in [entry["ask"], entry["right"], entry["why"], *(t for pair in entry["wrong"] for t in pair)]:
        raw = re.sub(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", "…", text)
        assert typed_measurements(raw) == [], text


@each
def test_every_option_can_be_read_and_says_why(chapter, number):
    question = quiz.questions(chapter)[number]
    assert question.ask[-1] in "?."
    assert len(set(question.options)) == len(question.options) == len(question.reasons)
    assert all(len(option) <= 90 for option in question.options), "a button's label does not wrap"
    assert all(len(reason) >= 10 and reason[-1] == "." for reason in question.reasons)
    assert not any(c in text for c in "{}$`<" for text in (question.ask, *question.options, *question.reasons)), (
        "shown as text and as HTML"
    )


def test_each_chapter_has_a_quiz():
    assert {path.stem for path in CHAPTERS} <= set(quiz.chapters())
    numbers = [name[:2] for name in quiz.chapters()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_closes_with_its_quiz_as_it_is_now(path):
    """The stored output is the quiz as text: a page has it without a kernel, and it is in step with the file."""
    last = code(read(path))[-1]
    assert last.source == f'from hwlimits import quiz\n\nquiz.show("{path.stem}")'
    (output,) = last.outputs
    assert output.data["text/markdown"] == quiz.markdown(path.stem), "make execute"


def test_the_right_option_has_no_place_of_its_own():
    places = [quiz.questions(chapter)[number].right for chapter, number in ALL]
    assert max(places.count(place) for place in range(3)) <= 0.6 * len(places)
    for chapter in quiz.chapters():
        assert len({q.right for q in quiz.questions(chapter)}) > 1, chapter


# --- as it is shown ----------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr("IPython.display.display", lambda *things, **_: found.extend(things))
    return found


def test_as_text_each_option_is_folded_and_says_whether_it_is_right(monkeypatch, shown):
    monkeypatch.setenv(widgets.STATIC, "1")
    quiz.show("04_pruning")
    (text,) = shown
    options = sum(len(q.options) for q in quiz.questions("04_pruning"))
    assert text.data.count("<details><summary>") == text.data.count("</details>") == options
    folded = re.findall(r"<summary>([A-D])\. (.*?)</summary>\n\n(Right|No): (.*?)\n\n</details>", text.data)
    assert len(folded) == options
    found = iter(folded)
    for question in quiz.questions("04_pruning"):
        assert question.ask in text.data
        for i, option in enumerate(question.options):
            wanted = ("ABCD"[i], option, "Right" if i == question.right else "No", question.reasons[i])
            assert next(found) == wanted


def test_a_choice_is_answered_and_the_first_one_counts(monkeypatch, shown):
    monkeypatch.delenv(widgets.STATIC, raising=False)
    quiz.show("04_pruning")
    (box,) = shown
    asked = quiz.questions("04_pruning")
    *rows, score = box.children
    assert len(rows) == 3 * len(asked)
    assert "0 of 5 right at the first try, 0 answered" in score.value
    for i, question in enumerate(asked):
        head, buttons, said = rows[3 * i : 3 * i + 3]
        assert unescape(head.value) == f"<b>{i + 1}.</b> {question.ask}"
        assert [label for label, _ in buttons.options] == [f"{'ABCD'[k]}. {t}" for k, t in enumerate(question.options)]
        assert (buttons.value, said.value) == (None, "")
        wrong = next(k for k in range(len(question.options)) if k != question.right)
        if i:  # the first question is answered rightly at once
            buttons.value = wrong
            assert unescape(said.value) == f'<p role="status">No: {question.reasons[wrong]}</p>'
        buttons.value = question.right
        assert unescape(said.value) == f'<p role="status">Right: {question.reasons[question.right]}</p>'
        assert f"1 of 5 right at the first try, {i + 1} answered" in score.value
    rows[1].value = None
    assert "1 of 5 right at the first try, 5 answered" in score.value, "nothing chosen is no answer"


def test_without_ipywidgets_there_is_the_text(monkeypatch, shown):
    monkeypatch.delenv(widgets.STATIC, raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    quiz.show("00_start_here")
    assert shown[0].data == quiz.markdown("00_start_here")
    with pytest.raises(widgets.WidgetError, match=r"buttons need ipywidgets, .* use show\(\), or markdown\(\)"):
        quiz.widget("00_start_here")


# --- what can't be -----------------------------------------------------------------------------

GOOD = {"ask": "?", "right": "{1 + 1}", "why": "w", "wrong": [["{2 + 1}", "w"], ["{x}", "w"]], "let": {"x": 5}}


def test_a_chapter_without_a_quiz_is_said():
    with pytest.raises(quiz.QuizError, match="no quiz for '99_end'; there is one for each of 00_start_here, 01_"):
        quiz.questions("99_end")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"why": None}, None),
        ({"hint": "x"}, "its parts are ask, right, why, wrong, and let if need be"),
        ({"wrong": [["one", "w"]]}, r"2 or 3 wrong options, each \[text, why\]"),
        ({"wrong": ["one", "two"]}, r"2 or 3 wrong options, each \[text, why\]"),
        ({"wrong": [["2", "w"], ["{x}", "w"]]}, "two options read alike: 2, 2, 5"),
        ({"right": "{1 / 0}"}, r"'\{1 / 0\}': ZeroDivisionError: division by zero"),
        ({"right": "{y}"}, r"'\{y\}': NameError: name 'y' is not defined"),
        ({"right": "{}"}, "ValueError: '' is no expression"),
        ({"right": "{open('x')}"}, "NameError: name 'open' is not defined"),
        ({"right": "{x!r}"}, "is no expression"),
        ({"let": {"x": "1 +"}}, r"x = 1 \+: SyntaxError"),
        ({"let": [1]}, "let is a mapping"),
        ({"ask": None}, "ask must be words, and it is None"),
        ({"ask": " "}, "ask must be words, and it is ' '"),
        ({"why": ""}, "why must be words, and it is ''"),
        ({"why": 5}, "why must be words, and it is 5"),
        ({"why": "{''}"}, "an option and its reason must be words, and they are '2' and ''"),
        ({"right": ""}, "an option must be words or a number, and it is ''"),
        ({"right": None}, "an option must be words or a number, and it is None"),
        ({"right": True}, "an option must be words or a number, and it is True"),
        ({"wrong": [["3", ""], ["4", "w"]]}, "why must be words, and it is ''"),
        ({"wrong": [["3", None], ["4", "w"]]}, "why must be words, and it is None"),
        ({"wrong": [["{2.0}", "w"], ["4", "w"]]}, "two options read alike: 2, 2.0, 4"),
        (
            {"right": "1,000 MB", "wrong": [["1000.0  MB", "w"], ["4", "w"]]},
            "two options read alike: 1,000 MB, 1000.0  MB",
        ),
        ({"right": "n = 4", "wrong": [["n = 4.00", "w"], ["4", "w"]]}, "two options read alike"),
    ],
)
def test_a_question_that_is_not_well_made_is_said(change, message):
    assert quiz.question(GOOD).options[quiz.question(GOOD).right] == "2"
    if message is None:
        entry = {k: v for k, v in GOOD.items() if k not in change}
        message = "its parts are"
    else:
        entry = GOOD | change
    with pytest.raises(quiz.QuizError, match=f"quizzes.yaml: here: .*{message}"):
        quiz.question(entry, "here")


def test_numbers_that_differ_are_not_alike():
    for other in ("-2", "2.5", "20", "2e1", "2 MB", "1/2"):
        assert other in quiz.question(GOOD | {"wrong": [[other, "w"], ["{x}", "w"]]}).options


@pytest.mark.parametrize("chosen", [-1, 3, 9, 1.0, True, "A", None])
def test_an_option_that_is_not_there_has_no_verdict(chosen):
    message = re.escape(f"verdict({chosen!r}): the question has options 0 to 2")
    with pytest.raises(quiz.QuizError, match=message):
        quiz.question(GOOD).verdict(chosen)


def test_too_few_questions_are_said(monkeypatch):
    monkeypatch.setattr(quiz, "_file", lambda: {"01_x": [GOOD] * 3})
    with pytest.raises(quiz.QuizError, match="01_x: a chapter has 4 to 6 questions"):
        quiz.questions("01_x")


def test_too_many_questions_are_said_and_a_bad_one_by_its_number(monkeypatch):
    monkeypatch.setattr(
        quiz, "_file", lambda: {"01_x": [GOOD] * 7, "00_y": [GOOD, GOOD | {"right": "{y}"}, GOOD, GOOD]}
    )
    with pytest.raises(quiz.QuizError, match="01_x: a chapter has 4 to 6 questions"):
        quiz.questions("01_x")
    with pytest.raises(quiz.QuizError, match="00_y, question 2: '{y}': NameError"):
        quiz.questions("00_y")
    assert quiz.chapters() == ["00_y", "01_x"]
