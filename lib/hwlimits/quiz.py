"""Check yourself: a few questions at the end of each chapter, of data/quizzes.yaml, whose numbers are computed.

`show("01_compute")` puts questions with buttons where a kernel and ipywidgets are; else, and on pages, each option is
folded text that says whether it is right and why. A text of the file has its numbers as {expressions}, which are worked
out with the library when a quiz is read: none of them is typed, except what a question gives.

>>> questions("01_compute")[0].options[questions("01_compute")[0].right]
'389,376'
"""

from __future__ import annotations

import importlib
import json
import math
import re
import string
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from numbers import Integral, Real
from typing import Any

import numpy as np
import yaml

from hwlimits import data

# What an expression may name: these modules of the library, and a few functions.
MODULES = (
    "bandwidth", "coding", "collectives", "compute", "convolutions", "decomposition", "devices", "huffman", "parallel",
    "pruning", "quantization", "roofline", "scaling", "scheduling", "sequences", "storage", "systolic", "units",
)  # fmt: skip
FEWEST, MOST = 4, 6  # questions of a chapter
OPTIONS = (3, 4)
LETTERS = "ABCD"


class QuizError(ValueError):
    """A chapter without a quiz, or a question that can't be; the text says which and what is wrong."""


@dataclass(frozen=True)
class Question:
    """A question as it is put: `reasons[i]` says why `options[i]` is right, or wrong; `right` is the one that is."""

    ask: str
    options: tuple[str, ...]
    reasons: tuple[str, ...]
    right: int

    def verdict(self, chosen: int) -> str:
        """What is said to someone who chose an option, by its number from 0.

        Raises QuizError for an option that isn't there.
        """
        if isinstance(chosen, bool) or not isinstance(chosen, Integral) or not 0 <= chosen < len(self.options):
            raise QuizError(f"verdict({chosen!r}): the question has options 0 to {len(self.options) - 1}")
        return f"{'Right' if chosen == self.right else 'No'}: {self.reasons[chosen]}"


def chapters() -> list[str]:
    """The chapters that have a quiz, by the names of their notebooks."""
    return sorted(_file())


def questions(chapter: str) -> list[Question]:
    """The questions of a chapter, by its notebook's name ('04_pruning').

    Raises QuizError for a chapter without a quiz, and for a question that is not well made.
    """
    if chapter not in _file():
        raise QuizError(f"no quiz for {chapter!r}; there is one for each of {', '.join(chapters())}")
    found = _file()[chapter]
    if not isinstance(found, list) or not FEWEST <= len(found) <= MOST:
        raise QuizError(f"quizzes.yaml: {chapter}: a chapter has {FEWEST} to {MOST} questions")
    return [question(entry, f"{chapter}, question {i + 1}") for i, entry in enumerate(found)]


def question(entry: Mapping[str, Any], where: str = "a question") -> Question:
    """One entry of the file: `ask`, `let` (names for its expressions), `right`, `why`, `wrong` ([text, why] each).

    Where the right option stands among the others is drawn from the texts: always the same place, and no
    rule to learn.
    Raises QuizError for a missing or empty part, an expression that fails, and two options that read alike, as
    "4" and "4.0" do.

    >>> made = question({"ask": "{n} × {n}?", "let": {"n": 3}, "right": "{n * n}", "why": "A square.",
    ...                  "wrong": [["{2 * n}", "That is a sum."], ["{n}", "That is one side."]]})
    >>> made.ask, made.verdict(made.right), sorted(made.options)
    ('3 × 3?', 'Right: A square.', ['3', '6', '9'])
    """
    parts = {"ask", "right", "why", "wrong"}
    if not isinstance(entry, Mapping) or not parts <= set(entry) <= parts | {"let"}:
        raise QuizError(f"quizzes.yaml: {where}: its parts are {', '.join(sorted(parts))}, and let if need be")
    wrong = entry["wrong"]
    pairs = isinstance(wrong, list) and all(isinstance(w, list) and len(w) == 2 for w in wrong)
    if not pairs or len(wrong) + 1 not in OPTIONS:
        raise QuizError(f"quizzes.yaml: {where}: {OPTIONS[0] - 1} or {OPTIONS[1] - 1} wrong options, each [text, why]")
    for part, text in [("ask", entry["ask"]), ("why", entry["why"]), *(("why", why) for _, why in wrong)]:
        if not isinstance(text, str) or not text.strip():
            raise QuizError(f"quizzes.yaml: {where}: {part} must be words, and it is {text!r}")
    for text in (entry["right"], *(text for text, _ in wrong)):
        if isinstance(text, bool) or not isinstance(text, str | Real) or not str(text).strip():
            raise QuizError(f"quizzes.yaml: {where}: an option must be words or a number, and it is {text!r}")
    names = _names(entry.get("let", {}), where)
    options = [[fill(text, names, where) for text in pair] for pair in ([entry["right"], entry["why"]], *wrong)]
    for text, why in options:
        if not text.strip() or not why.strip():
            raise QuizError(
                f"quizzes.yaml: {where}: an option and its reason must be words, and they are {text!r} and {why!r}"
            )
    if len({_as_read(text) for text, _ in options}) < len(options):
        raise QuizError(f"quizzes.yaml: {where}: two options read alike: {', '.join(text for text, _ in options)}")
    place = zlib.crc32(f"{entry['ask']}{entry['right']}".encode()) % len(options)
    options.insert(place, options.pop(0))
    texts, reasons = zip(*options, strict=True)
    return Question(fill(entry["ask"], names, where), texts, reasons, place)


def _as_read(text: str) -> str:
    """A text without what makes no other answer of it: how its numbers are written, and white space.

    >>> _as_read("1,000 MB") == _as_read("1000.0  MB"), _as_read("1 MB") == _as_read("1 Mb")  # megabits
    (True, False)
    """
    number = re.compile(r"\d[\d,]*(\.\d+)?([eE][+-]?\d+)?")
    return " ".join(number.sub(lambda found: repr(float(found[0].replace(",", ""))), text).split())


def fill(text: str, names: Mapping[str, Any], where: str = "a text") -> str:
    """A text with its {expressions} worked out, each in the format that may follow a colon, as in a format string.

    Raises QuizError that has the expression and what went wrong.

    >>> fill("{storage.at_rest_bytes(1000, 'int4'):,} bytes", {**library()})
    '500 bytes'
    """
    filled = []
    try:
        for literal, expression, form, conversion in string.Formatter().parse(str(text)):
            filled.append(literal)
            if expression is not None:
                if conversion or not expression.strip():
                    raise ValueError(f"{expression!r} is no expression")
                filled.append(format(_evaluate(expression, names), form))
    except Exception as error:
        raise QuizError(f"quizzes.yaml: {where}: {text!r}: {type(error).__name__}: {error}") from None
    return "".join(filled)


@cache
def library() -> Mapping[str, Any]:
    """What expressions may name."""
    found = {name: importlib.import_module(f"hwlimits.{name}") for name in MODULES}
    return found | {
        "np": np, "math": math, "quantity": found["units"].quantity, "seconds": found["units"].seconds,
        "stored": stored, "mean": lambda values: float(np.mean(list(values))), "min": min, "max": max, "sum": sum,
        "abs": abs, "round": round, "range": range, "next": next, "len": len, "int": int, "float": float,
    }  # fmt: skip


def stored(name: str) -> Any:
    """What a JSON file of data/results holds: the stored measurements.

    >>> sorted(stored("case_study"))
    ['provenance', 'runs']
    """
    return json.loads(data.path(f"results/{name}.json").read_text(encoding="utf-8"))


def _names(let, where: str) -> dict[str, Any]:
    """The names of `let`, in order: a number is one, a text is an expression that may use the names before it."""
    names = dict(library())
    if not isinstance(let, Mapping):
        raise QuizError(f"quizzes.yaml: {where}: let is a mapping from names to numbers or expressions")
    for name, value in let.items():
        try:
            names[name] = _evaluate(value, names) if isinstance(value, str) else value
        except Exception as error:
            raise QuizError(f"quizzes.yaml: {where}: {name} = {value}: {type(error).__name__}: {error}") from None
    return names


def _evaluate(expression: str, names: Mapping[str, Any]):
    """An expression of the course's own data file; it sees the names given, and no builtins."""
    return eval(expression.strip(), {"__builtins__": {}, **names})


@cache
def _file() -> Mapping[str, Any]:
    return yaml.safe_load(data.path("quizzes.yaml").read_text(encoding="utf-8"))


# --- as it is shown ----------------------------------------------------------------------------


def markdown(chapter: str) -> str:
    """The quiz as text: each option is folded, and says whether it is right, and why, when it is opened."""
    parts = []
    for number, q in enumerate(questions(chapter), 1):
        parts.append(f"**{number}.** {q.ask}")
        for i, option in enumerate(q.options):
            parts.append(f"<details><summary>{LETTERS[i]}. {escape(option)}</summary>\n\n{q.verdict(i)}\n\n</details>")
    return "\n\n".join(parts)


def widget(chapter: str):
    """The quiz with buttons: an ipywidgets box. What is said follows a choice; counted is the first one.

    Raises WidgetError where ipywidgets is not installed.
    """
    from hwlimits.widgets import WidgetError

    try:
        import ipywidgets
    except ImportError:
        raise WidgetError("buttons need ipywidgets, which is not installed: use show(), or markdown()") from None
    asked, first, rows = questions(chapter), {}, []
    score = ipywidgets.HTML()

    def count() -> None:
        right = sum(asked[i].right == chosen for i, chosen in first.items())
        score.value = f'<p role="status">{right} of {len(asked)} right at the first try, {len(first)} answered.</p>'

    for i, q in enumerate(asked):
        options = [(f"{LETTERS[k]}. {text}", k) for k, text in enumerate(q.options)]
        buttons = ipywidgets.RadioButtons(options=options, value=None, layout={"width": "max-content"})
        said = ipywidgets.HTML()

        def answered(change, i=i, q=q, said=said) -> None:
            if change["new"] is None:
                return
            first.setdefault(i, change["new"])
            said.value = f'<p role="status">{escape(q.verdict(change["new"]))}</p>'
            count()

        buttons.observe(answered, names="value")
        rows += [ipywidgets.HTML(f"<b>{i + 1}.</b> {escape(q.ask)}"), buttons, said]
    count()
    return ipywidgets.VBox([*rows, score])


def show(chapter: str) -> None:
    """Display the quiz of a chapter in a notebook: with buttons, or as text (see `hwlimits.widgets.STATIC`)."""
    from IPython.display import Markdown, display

    from hwlimits.widgets.explorer import static

    display(Markdown(markdown(chapter)) if static() else widget(chapter))
