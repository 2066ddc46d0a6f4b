"""What the course states and this project could not run: data/not_run_here.yaml read, checked, written as a page."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "data" / "not_run_here.yaml"
FIELDS = {"id", "what", "why", "said", "names", "instead", "shown_by", "run", "see"}
# Words by which a text says that something was not run; each of them must be of an entry.
REFUSALS = re.compile(
    r"(?<!\bdoes )\b(?:not|never) (?:been )?(?:run|tried)\b|(?<!all of MNIST )(?<!figures were )\bat hand\b"
    r"|\bno TPU here\b|\bThe course has none\b"
)


class NotRunError(ValueError):
    """An entry that can't be; the text names it and says what to do."""


@dataclass(frozen=True)
class Entry:
    """Something that was not run.

    said       (file, words) pairs: where it is used, and what says so there
    names      what texts call it: regular expressions
    instead    what was done in its place; shown_by: tests and stored results
    run, see   what a reader who has it should run, and expect
    """

    id: str
    what: str
    why: str
    said: tuple[tuple[str, str], ...]
    names: tuple[re.Pattern, ...]
    instead: str
    shown_by: tuple[str, ...]
    run: str
    see: str


def read(file: Path = FILE) -> list[Entry]:
    """The entries in the file's order. Raises NotRunError for one that lacks a field, has another, or comes twice."""
    found: dict[str, Entry] = {}
    for number, row in enumerate(yaml.safe_load(file.read_text(encoding="utf-8"))["entries"], 1):
        where = f"{file.name}, {row.get('id') or f'entry {number}'}"
        missing = {key for key in FIELDS if not row.get(key)}
        if missing or set(row) - FIELDS:
            wrong = [f"no {key}" for key in sorted(missing)] + [f"{key} is no field" for key in set(row) - FIELDS]
            raise NotRunError(f"{where}: {'; '.join(wrong)}. An entry has {', '.join(sorted(FIELDS))}.")
        if row["id"] in found:
            raise NotRunError(f"{where} is there already; join the two entries.")
        for said in row["said"]:
            if set(said) != {"file", "words"}:
                raise NotRunError(f"{where}: said has {sorted(said)}; give file and words.")
        said = tuple((s["file"], one_line(s["words"])) for s in row["said"])
        try:
            names = tuple(re.compile(name) for name in row["names"])
        except re.error as error:
            raise NotRunError(f"{where}: a name is no regular expression: {error}.") from None
        texts = {key: one_line(row[key]) for key in ("what", "why", "instead", "see")}
        shown_by, run = tuple(row["shown_by"]), row["run"].strip("\n")
        found[row["id"]] = Entry(row["id"], said=said, names=names, shown_by=shown_by, run=run, **texts)
    return list(found.values())


def one_line(text: str) -> str:
    return " ".join(text.split())


def faults(entries: list[Entry], texts: dict[str, str]) -> list[str]:
    """What is wrong between the entries and the texts, by file; empty where each mention belongs to an entry.

    Words stand literally in their file. A text that says "not run" (REFUSALS) does so in the words of an entry. Prose
    (of .md files) that has one of the names is of a file in which an entry with that name says that it was not run.

    >>> faults([], {"a.md": "It has not been run on a Mac."})
    ['a.md: "It has not been run on a Mac." is of no entry of not_run_here.yaml']
    """
    flat = {file: one_line(text) for file, text in texts.items()}
    found = []
    for entry in entries:
        for file, words in entry.said:
            if words not in flat.get(file, ""):
                found.append(f"{entry.id}: {file} does not say {words!r}")
    for file, text in flat.items():
        spans = []
        for words in {words for entry in entries for of, words in entry.said if of == file}:
            spans += [(at.start(), at.end()) for at in re.finditer(re.escape(words), text)]
        for at in REFUSALS.finditer(text):
            if not any(start <= at.start() and at.end() <= end for start, end in spans):
                around = text[max(0, at.start() - 40) : at.end() + 40]
                found.append(f'{file}: "{around}" is of no entry of not_run_here.yaml')
    for file, text in ((file, text) for file, text in texts.items() if file.endswith(".md")):
        shown = prose(text)
        for name in {name.pattern: name for entry in entries for name in entry.names}.values():
            owners = [entry for entry in entries if name in entry.names]
            seen = name.search(shown)
            if seen and not any(of == file for entry in owners for of, _ in entry.said):
                ids = ", ".join(entry.id for entry in owners)
                found.append(f"{file} names {seen[0]!r}, and no entry with that name ({ids}) has words of that file")
    return found


def prose(text: str) -> str:
    """A text without its code, quotations and buttons: what remains is what the course itself says.

    >>> prose("[![Colab](a.svg)](b) On a TPU\\n```\\nmacOS\\n```\\n> Kaggle\\nand `Binder`.").split()
    ['On', 'a', 'TPU', 'and', '.']
    """
    text = re.sub(r"\A---\n.*?^---$|^(`{3,}|~{3,}|:{3,}).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^>.*$|\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def page(entries: list[Entry], chapters: Collection[str]) -> str:
    """The page "Not run here" as MyST Markdown.

    chapters   names of the book's chapters, such as 01_compute: only these are linked
    """
    lines = [
        "# Not run here",
        "",
        f"{len(entries)} things that the course states or offers, and that this project could not run: why, where "
        "it is used and what is said there, what was done instead, and what a reader who has it should run and expect. "
        "A report of how it went is welcome, above all one that differs.",
    ]
    for entry in entries:
        lines += ["", f"## {entry.what}", "", f"Not run here: {entry.why}.", ""]
        lines += [f"- {linked(file, chapters)}: “{unmarked(words)}”" for file, words in entry.said]
        shown = ", ".join(f"`{path}`" for path in entry.shown_by)
        lines += ["", f"**Instead.** {entry.instead} ({shown})", "", "**If you have it.**", ""]
        lines += ["```text", *entry.run.split("\n"), "```", "", entry.see]
    return "\n".join([*lines, ""])


def linked(file: str, chapters: Collection[str]) -> str:
    name = Path(file).stem
    if file.startswith("chapters/text/") and name in chapters:
        return f"{{doc}}`Chapter {name[:2]} </chapters/{name}>`"
    return f"`{file}`"


def unmarked(words: str) -> str:
    """Quoted words without what marks them in their file."""
    return re.sub(r"[*`]+|\[([^\]]*)\]\([^)]*\)", r"\1", words)
