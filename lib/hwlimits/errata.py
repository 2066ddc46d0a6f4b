"""The errata of the article, and its reading list: tables of data/, read, checked and written as Markdown.

entries()     what is wrong in the article: its words, why, the correct form, the chapter, the test that proves it
reading()     every book and link of its sections 7 and 10: what it is for, what is wrong with it, the right one
markdown()    the errata as a page; reading_markdown() the list

The article is a text in three versions, one after the other in a file; the third has sections 2 and 3 alone, in
another wording, and breaks off. Its words are quoted literally, but for white space. A proof is the node of a test,
so that each correction is something that runs.

>>> entries()[0].quotes[0].section
'1.4.1'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any

import yaml

from hwlimits import data

KINDS = {
    "formula": "a formula or a number got by it",
    "listing": "code",
    "link": "an address",
    "claim": "a statement",
}
VERDICTS = {
    "right": "leads to what it says",
    "moved": "has another address today",
    "wrong": "leads to something else, or never led anywhere",
    "unknown": "could not be checked",
}
CHAPTERS = tuple(f"{n:02}" for n in range(12))
VERSIONS = (1, 2, 3)


class ErrataError(ValueError):
    """An entry of data/errata.yaml or data/reading.yaml that can't be; the text names it and says what to do."""


@dataclass(frozen=True)
class Quote:
    """Words of the article as they stand there: in which of its versions, and under which numbered heading.

    english   what they say; None for addresses and for code
    """

    words: str
    section: str
    versions: tuple[int, ...]
    english: str | None


@dataclass(frozen=True)
class Entry:
    """One mistake of the article.

    id        by which a test asks for its words
    title     one line
    kind      a key of KINDS
    quotes    at least one
    wrong     why it is wrong
    right     the correct form
    chapter   that corrects it, "00" to "11"; None where this page is the only place
    says      words of that chapter's text which do so
    proof     the node id of a test: tests/test_x.py::test_y
    """

    id: str
    title: str
    kind: str
    quotes: tuple[Quote, ...]
    wrong: str
    right: str
    chapter: str | None
    says: str | None
    proof: str


@dataclass(frozen=True)
class Reading:
    """A book or link of the article, or one that it lacks: `article` None then, and for a book without an address.

    use       what it is for
    verdict   a key of VERDICTS; None for what the article lacks
    url       the right address, None where there is none
    note      what is wrong, or has changed
    checked   where it was looked up: a stored copy of public pages or repositories, never the live web
    read      the day
    year      of publication, where it matters
    """

    name: str
    section: str | None
    article: str | None
    use: str
    verdict: str | None
    url: str | None
    note: str
    checked: str
    read: str
    year: int | None = None


@cache
def entries() -> tuple[Entry, ...]:
    """The entries of data/errata.yaml, in the article's order.

    Raises ErrataError for an entry without its fields, with an unknown kind, version, section or chapter, with an id
    that another one has, or with a proof that is no test's node id.
    """
    return _entries(_table("errata.yaml", "errata"))


def entry(id: str) -> Entry:
    """The entry of that id.

    >>> entry("efficiency-inverted").chapter
    '06'
    """
    for each in entries():
        if each.id == id:
            return each
    raise ErrataError(f"errata.yaml has no entry {id!r}; it has {', '.join(each.id for each in entries())}")


@cache
def reading() -> tuple[Reading, ...]:
    """The rows of data/reading.yaml.

    Raises ErrataError as `entries` does, for two rows of one name, for what is no day, year or address, and for a
    verdict that does not fit.
    """
    return _reading(_table("reading.yaml", "reading"))


def gpu_builds() -> tuple[Mapping[str, Any], ...]:
    """Rows of TensorFlow's table of tested builds for a GPU on Linux, newest first: tensorflow, python, cuda.

    >>> gpu_builds()[0]["cuda"]
    '11.2'
    """
    return tuple(_table("errata.yaml", "tested_builds"))


def markdown(chapter_url: Callable[[str], str] | None = None, found: Iterable[Entry] | None = None) -> str:
    """The errata as a page, in the article's order; `chapter_url` gives the address of a chapter's page.

    >>> print(markdown().split("\\n")[0])
    # What the article gets wrong
    """
    found = entries() if found is None else tuple(found)
    count = ", ".join(
        f"{sum(e.kind == kind for e in found)} {kind}{'s' * (sum(e.kind == kind for e in found) != 1)}"
        for kind in KINDS
        if any(e.kind == kind for e in found)
    )
    lines = [
        "# What the article gets wrong",
        "",
        f"The course follows an article, section by section, and corrects it where it is wrong: {count}. "
        "Each entry has its words, why they are wrong, the correct form, and the test that proves it; "
        "`python -m pytest` with the name of the test runs it.",
    ]
    for number, each in enumerate(found, 1):
        lines += ["", f"## {number}. {each.title}", ""]
        for quote in each.quotes:
            lines += [*_quoted(quote), ""]
        lines += [f"**Why it is wrong.** {each.wrong}", "", f"**Instead.** {each.right}", ""]
        lines += [f"{_chapter(each.chapter, chapter_url)} Proof: `{each.proof}`."]
    return "\n".join(lines) + "\n"


def reading_markdown(found: Iterable[Reading] | None = None) -> str:
    """The reading list as a page: what the article lists, put right, and what it lacks."""
    found = reading() if found is None else tuple(found)
    lines = ["# Reading", ""]
    lines += ["The books and links of the article's sections 7 and 10: what each is for, and the right address."]
    for title, rows in (
        ("From the article", [r for r in found if r.section]),
        ("What it lacks", [r for r in found if not r.section]),
    ):
        if rows:
            lines += ["", f"## {title}", ""]
            lines += ["| what | for | remark | looked up |", "|---|---|---|---|"]
            lines += [_reading_row(row) for row in rows]
    return "\n".join(lines) + "\n"


# --- reading the tables ------------------------------------------------------------------------


def _table(name: str, part: str) -> list[dict]:
    rows = yaml.safe_load(data.path(name).read_text(encoding="utf-8"))[part]
    _check(isinstance(rows, list), name, f"{part} must be a list")
    return rows


def _check(condition: bool, where: str, wrong: str) -> None:
    if not condition:
        raise ErrataError(f"{where}: {wrong}")


def _fields(where: str, row: Any, needed: set[str], optional: set[str] = frozenset()) -> None:
    _check(isinstance(row, dict), where, f"an entry is a mapping, and this is {row!r}")
    missing, unknown = needed - set(row), set(row) - needed - optional
    _check(not missing, where, f"lacks {', '.join(sorted(missing))}")
    _check(not unknown, where, f"has {', '.join(sorted(unknown))}; known are {', '.join(sorted(needed | optional))}")
    said = {field for field in ("english", "says") if row.get(field) is not None}
    for field in (needed | said) - {"quotes"}:
        if field != "section":
            _check(isinstance(row[field], str) and row[field].strip() != "", where, f"{field} must be words")
    number = row.get("section")
    _check(
        number is None or (isinstance(number, str) and bool(re.fullmatch(r"\d+(\.\d+)*", number))),
        where,
        f"section {number!r} is no number",
    )


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _quote(where: str, row: Any) -> Quote:
    _fields(where, row, {"words", "section"}, {"versions", "english"})
    versions = row.get("versions", [1, 2])
    known = isinstance(versions, list) and versions != [] and all(type(v) is int and v in VERSIONS for v in versions)
    once = known and len(set(versions)) == len(versions)
    _check(once, where, f"versions {versions!r}: a list of 1, 2, 3, each once")
    words, english = row["words"], row.get("english")
    foreign = "\n" not in words.strip() and bool(re.search(r"[\u4e00-\u9fff]", words))
    _check(
        foreign == (english is not None),
        where,
        f"{words!r}: Chinese words have their English beside them, and code has none",
    )
    return Quote(words, row["section"], tuple(versions), english)


def _entries(rows: list[dict]) -> tuple[Entry, ...]:
    found: dict[str, Entry] = {}
    for row in rows:
        where = f"errata.yaml, {row.get('id') if isinstance(row, dict) else row}"
        _fields(where, row, {"id", "title", "kind", "quotes", "wrong", "right", "proof"}, {"chapter", "says"})
        chapter, says = row.get("chapter"), row.get("says")
        _check(row["id"] not in found, where, "another entry has this id")
        _check(row["kind"] in KINDS, where, f"kind {row['kind']!r}: choose {', '.join(KINDS)}")
        _check(isinstance(row["quotes"], list) and row["quotes"] != [], where, "quotes must be a list of at least one")
        _check(chapter is None or chapter in CHAPTERS, where, f"chapter {chapter!r}: choose '00' to '11', or none")
        _check(says is None or chapter is not None, where, "says is of a chapter, and there is none")
        node = re.fullmatch(r"tests/test_\w+\.py::test_\w+", row["proof"])
        _check(bool(node), where, f"proof {row['proof']!r} is no node id: tests/test_x.py::test_y")
        quotes = tuple(_quote(where, each) for each in row["quotes"])
        _check(len(set(quotes)) == len(quotes), where, "two of its quotes are alike")
        title, wrong, right = (" ".join(row[field].split()) for field in ("title", "wrong", "right"))
        found[row["id"]] = Entry(row["id"], title, row["kind"], quotes, wrong, right, chapter, says, row["proof"])
    return tuple(found.values())


def _reading(rows: list[dict]) -> tuple[Reading, ...]:
    found = []
    for row in rows:
        where = f"reading.yaml, {row.get('name') if isinstance(row, dict) else row}"
        needed = {"name", "use", "note", "checked", "read"}
        _fields(where, row, needed, {"section", "article", "verdict", "url", "year"})
        section, verdict, url, article, year = map(row.get, ("section", "verdict", "url", "article", "year"))
        _check((section is None) == (verdict is None), where, "what the article has needs a section and a verdict")
        _check(row["name"] not in {other.name for other in found}, where, "another row has this name")
        _check(
            verdict is None or verdict in tuple(VERDICTS), where, f"verdict {verdict!r}: choose {', '.join(VERDICTS)}"
        )
        _check(_is_day(row["read"]), where, f"read {row['read']!r} is no day")
        for address in (url, article):
            there = isinstance(address, str) and re.fullmatch(r"https://\S+", address)
            _check(address is None or bool(there), where, f"{address!r} is no address")
        _check(year is None or (type(year) is int and 1900 <= year <= 2100), where, f"year {year!r} is no year")
        if verdict in ("moved", None):
            _check(url is not None and url != article, where, "needs the address that is right today")
        if verdict == "right":
            _check(article is None or url == article, where, "is right, so url is the article's")
        if verdict == "unknown":
            _check(url is None, where, "could not be checked, so it is recommended to nobody: leave url out")
        if verdict == "wrong":
            _check(url != article, where, "is wrong, so url is another one, or none")
        name, use, note, checked, read = (row[key] for key in ("name", "use", "note", "checked", "read"))
        found.append(Reading(name, section, article, use, verdict, url, note, checked, read, year))
    return tuple(found)


# --- Markdown ----------------------------------------------------------------------------------


def _quoted(quote: Quote) -> list[str]:
    where = f"Section {quote.section}, version{'s' * (len(quote.versions) > 1)} {_and(quote.versions)}:"
    words = quote.words.strip("\n")
    if "\n" in words:
        return [where, "", "```text", *words.splitlines(), "```"]
    literal = words.startswith(("$", "\\", "http")) or any(mark in words for mark in "_|*<>\\[]`")
    lines = [where, "", f"> {'`' + words + '`' if literal else words}"]
    return lines if quote.english is None else [*lines, ">", f"> *{quote.english}*"]


def _and(numbers: Iterable[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def _chapter(chapter: str | None, url: Callable[[str], str] | None) -> str:
    if chapter is None:
        return "Corrected here."
    name = f"chapter {chapter}"
    return f"Corrected in {name if url is None else f'[{name}]({url(chapter)})'}."


def _reading_row(row: Reading) -> str:
    name = f"[{row.name}]({row.url})" if row.url else row.name
    remark = {"moved": "Moved. ", "wrong": "Not as the article has it. ", "unknown": "Could not be checked. "}
    cells = (name, row.use, remark.get(row.verdict, "") + row.note, f"{row.checked} ({row.read})")
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
