"""Make chapters/index.ipynb, from which the chapters open, out of what the chapters say of themselves: `make index`.

A chapter's first cell has its number, its question, what it needs and how long it takes. Nothing of that is written
twice: the index has the chapters' own words, and adds up their minutes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell, new_notebook

from hwlimits import quiz

CHAPTERS = Path(__file__).resolve().parent
INDEX = CHAPTERS / "index.ipynb"
LABS = CHAPTERS.parent / "labs" / "release"

APPENDIX = "Appendix"  # in place of a number; it comes behind all numbers
TITLE = re.compile(r"^# (\d\d) · (.+?): (.+)$", re.MULTILINE)
APPENDIX_TITLE = re.compile(rf"^# ({APPENDIX}) · (.+?): (.+)$", re.MULTILINE)
NEEDS = re.compile(r"^\*\*You need\*\* (.+)$", re.MULTILINE)
TIME = re.compile(r"^\*\*Time\*\* (\d+) minutes; your computer works for about (\d+) of them\.$", re.MULTILINE)


@dataclass(frozen=True)
class Chapter:
    """What a chapter says of itself. `needs` are its words, `before` the numbers of the chapters that it names.

    An appendix is a chapter with "Appendix" as its number.
    """

    stem: str
    number: str
    title: str
    question: str
    needs: str
    before: tuple[str, ...]
    minutes: int
    computing_minutes: int


def header(stem: str, opening: str) -> Chapter:
    """A chapter from its notebook's name and its first cell.

    Raises ValueError that says which part is missing, and for a chapter that needs itself or a later one.
    """
    found = {}
    appendix = stem.startswith("appendix_")
    form, title = (f"# {APPENDIX} · Title: question", APPENDIX_TITLE) if appendix else ("# NN · Title: question", TITLE)
    for what, pattern in ((form, title), ("**You need** ...", NEEDS), ("**Time** ...", TIME)):
        if not (match := pattern.search(opening)):
            raise ValueError(f"{stem}: its first cell has no line of the form {what!r}")
        found[what[:3]] = match.groups()
    (number, title, question), (needs,), (minutes, computing) = found.values()
    before = named(needs)
    if late := [name for name in before if name >= number]:
        raise ValueError(f"{stem}: it needs chapter {', '.join(late)}, which does not come before it")
    return Chapter(stem, number, title, question, needs, before, int(minutes), int(computing))


NUMBER = r"\d\d(?!\d|\.\d)"  # 3.11 is no chapter
JOINED = r"(?:, and |[,;] | and | or | to )"
REMARK = r" \([^)]*\)"
# Behind the word: a number, and more of them where no unit follows, such as GB or minutes.
BEHIND = rf"\b[Cc]hapters? ({NUMBER}(?:{REMARK})?(?:{JOINED}{NUMBER}(?:{REMARK}|(?= (?:and|or|to|for)\b|[,;.:]|$)))*)"
IN_BRACKETS = rf"[(\[]({NUMBER}(?:{JOINED}{NUMBER})*)[)\]]"


def named(needs: str) -> tuple[str, ...]:
    """The chapters that a sentence names, by their two digits, those of 'NN to MM' between them, too.

    They stand behind the word chapter, or alone in brackets; other numbers, as in 16 GB, are none.
    """
    found = set()
    for part in re.findall(BEHIND, needs) + re.findall(IN_BRACKETS, needs):
        numbers = re.sub(REMARK, "", part)
        found |= set(re.findall(r"\d\d", numbers))
        for first, last in re.findall(r"(\d\d) to (\d\d)", numbers):
            found |= {f"{i:02}" for i in range(int(first), int(last) + 1)}
    return tuple(sorted(found))


def chapters(folder: Path = CHAPTERS) -> list[Chapter]:
    """The chapters of a folder, in their order. Raises ValueError for one that needs a chapter that is not there."""
    found = _headers(folder, "[0-9][0-9]_*.ipynb")
    _check(found, found)
    return found


def appendices(folder: Path = CHAPTERS) -> list[Chapter]:
    """What a folder has beside the chapters, which need none of it. Raises ValueError as `chapters` does."""
    found = _headers(folder, "appendix_*.ipynb")
    _check(found, chapters(folder))
    return found


def _headers(folder: Path, pattern: str) -> list[Chapter]:
    return [header(p.stem, nbformat.read(p, as_version=4).cells[0].source) for p in sorted(folder.glob(pattern))]


def _check(found: Sequence[Chapter], all_chapters: Sequence[Chapter]) -> None:
    there = {c.number for c in all_chapters}
    for chapter in found:
        if missing := set(chapter.before) - there:
            raise ValueError(f"{chapter.stem}: it needs chapter {', '.join(sorted(missing))}, which is not there")


def way_to(chapter: Chapter, all_chapters: Sequence[Chapter]) -> list[Chapter]:
    """The chapter and all that it needs, and what those need, in their order."""
    by_number = {c.number: c for c in [*all_chapters, chapter]}  # no other needs an appendix
    wanted, found = [chapter.number], set()
    while wanted:
        number = wanted.pop()
        if number not in found:
            found.add(number)
            wanted += by_number[number].before
    return [by_number[number] for number in sorted(found)]


def hours(minutes: int) -> str:
    """Minutes as hours and minutes.

    >>> hours(95), hours(35), hours(120)
    ('1 h 35', '35 min', '2 h 00')
    """
    return f"{minutes // 60} h {minutes % 60:02}" if minutes >= 60 else f"{minutes} min"


def index(folder: Path = CHAPTERS, labs: Path = LABS):
    """The index as a notebook, without code."""
    found, more = chapters(folder), appendices(folder)
    links = {c.stem: f"[{c.number}]({c.stem}.ipynb)" for c in [*found, *more]}
    whole, computing = sum(c.minutes for c in found), sum(c.computing_minutes for c in found)
    intro = (
        "# How hardware limits shape AI models\n\n"
        "A course in which you predict a number, measure it on this computer, and explain the difference. "
        f"[Start here]({found[0].stem}.ipynb): it measures this computer once, and the other chapters use what it "
        "found. Open a chapter by its number, go from cell to cell with Shift + Enter, and write down your own "
        "prediction where a cell asks for it.\n\n"
        f"All {len(found)} chapters take about {hours(whole)}, of which the computer works for {hours(computing)}. "
        f"{'The appendix is not in this sum. ' * bool(more)}"
        "A cell that works long shows how far it is; it can be interrupted (■)."
    )
    rows = ["| chapter | question | time | computing | with all that it needs |", "|---|---|---|---|---|"]
    for c in [*found, *more]:
        way = way_to(c, found)
        name = f"{c.number}{':' * (c.number == APPENDIX)} {c.title}"
        steps = ", ".join(links[p.stem] for p in way if p is not c) or "nothing before it"
        total = hours(sum(p.minutes for p in way))
        rows.append(
            f"| [{name}]({c.stem}.ipynb) | {c.question} | {hours(c.minutes)} | "
            f"{hours(c.computing_minutes)} | {total}: {steps} |"
        )
    needs = ["## What a chapter needs\n", *(f"- **{links[c.stem]}** {c.needs}" for c in [*found, *more])]
    closing = ["## At the end of each chapter\n"]
    for c in [*found, *more]:
        parts = [f"{len(quiz.questions(c.stem))} questions to check yourself"] if c.stem in quiz.chapters() else []
        if (labs / c.stem).is_dir():
            parts.append(f"[a lab](../labs/release/{c.stem}/{c.stem}.ipynb)")
        closing.append(f"- **{links[c.stem]}** {', '.join(parts) or 'problems with answers'}")
    made = "*This page is made by `make index` from the first cells of the chapters.*"
    texts = [intro, "\n".join(rows), "\n".join(needs), "\n".join(closing), made]
    notebook = new_notebook(cells=[new_markdown_cell(text) for text in texts])
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"index-{i}"  # the same each time
    # No text beside it: it is made, and not edited.
    notebook.metadata = {
        "jupytext": {"formats": "ipynb"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> None:
    """Write the index; with --check, say in one sentence whether the one that is there is out of step."""
    made = nbformat.writes(index()) + "\n"
    if "--check" in sys.argv[1:]:
        if not INDEX.exists() or INDEX.read_text(encoding="utf-8") != made:
            raise SystemExit("chapters/index.ipynb is not what the chapters say: run make index")
        return
    INDEX.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
