"""The glossary, English and Chinese: read from data/glossary.yaml, checked, and written as a page with links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "data" / "glossary.yaml"
HAN = re.compile(r"[\u4e00-\u9fff]")
LONGEST = 14  # Chinese characters; what is longer between parentheses is a sentence and no term


class GlossaryError(ValueError):
    """A glossary that can't be; the text names the entry and says what to do."""


@dataclass(frozen=True)
class Term:
    """A word of the course.

    chinese   one form or several that are in use
    short     an abbreviation that English texts use
    article   the section of the article that defines it
    """

    english: str
    chinese: tuple[str, ...]
    meaning: str
    short: str | None = None
    article: str | None = None


def read(file: Path = FILE) -> list[Term]:
    """The terms, in the alphabet's order. Raises GlossaryError for an entry that lacks something or comes twice."""
    terms, seen = [], set()
    for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
        name = entry.get("en") or f"entry {len(terms) + 1}"
        unknown = set(entry) - {"en", "zh", "meaning", "short", "article"}
        missing = {"en", "zh", "meaning"} - {key for key, value in entry.items() if value}
        if unknown or missing:
            wrong = [f"no {key}" for key in sorted(missing)] + [f"{key} is no field" for key in sorted(unknown)]
            raise GlossaryError(
                f"{file.name}, {name}: {'; '.join(wrong)}. "
                "An entry has en, zh and meaning, and may have short and article."
            )
        chinese = (entry["zh"],) if isinstance(entry["zh"], str) else tuple(entry["zh"])
        for form in chinese:
            if not HAN.search(form):
                raise GlossaryError(f"{file.name}, {name}: {form!r} under zh has no Chinese character; write the term.")
        twice = seen & {name.lower(), *chinese}
        if twice:
            raise GlossaryError(f"{file.name}, {name}: {sorted(twice)[0]} is there already; join the two entries.")
        seen |= {name.lower(), *chinese}
        terms.append(Term(name, chinese, entry["meaning"], entry.get("short"), entry.get("article")))
    order = [term.english.lower() for term in terms]
    for before, after in zip(order, order[1:], strict=False):
        if before > after:
            raise GlossaryError(f"{file.name}: {after} stands behind {before}; sort the entries by the alphabet.")
    return terms


def in_parentheses(text: str) -> set[str]:
    """The Chinese terms that a text gives between parentheses, as chapters do at first use.

    Full-width ones count behind an English word; behind a Chinese one they hold a remark.

    >>> sorted(in_parentheses("to read a roofline (屋顶线); *IQR* (四分位距) and training (量化感知训练, QAT)"))
    ['四分位距', '屋顶线', '量化感知训练']
    >>> sorted(in_parentheses("a roofline（屋顶线）; *IQR* (四分\\n位距); 文章（没有测过）"))
    ['四分位距', '屋顶线']
    """
    found = set()
    for plain, wide in re.findall(r"\(([^()（）]*)\)|(?<=[A-Za-z*])[ \n]?（([^()（）]*)）", text):
        if "\n\n" in plain + wide:  # no bracket goes on in another paragraph
            continue
        inside = re.sub(rf"(?<={HAN.pattern})\n(?={HAN.pattern})", "", plain + wide).replace("\n", " ")
        for piece in re.split(r"[,;，、；]", inside):
            term = re.sub(r"^\*[^*]*\*|^below .*", "", piece.strip()).strip()
            if HAN.search(term) and len(HAN.findall(term)) <= LONGEST and not re.search(r"[\"“”=：:。]", term):
                found.add(term)
    return found


def where(name: str) -> str:
    """A link to a chapter as the glossary has it: by its number, or as the appendix.

    >>> where("01_compute"), where("appendix_pytorch")
    ('{doc}`01 </chapters/01_compute>`', '{doc}`appendix </chapters/appendix_pytorch>`')
    """
    return f"{{doc}}`{name.partition('_')[0]} </chapters/{name}>`"


def page(terms: list[Term], chapters: dict[str, str]) -> str:
    """The glossary as MyST Markdown.

    chapters   the text of each by its name, such as 01_compute; an entry links those that give its Chinese form
    """
    given = {name: in_parentheses(text) for name, text in chapters.items()}
    lines = [
        "# Glossary",
        "",
        f"{len(terms)} terms in English and Chinese (术语表): those of section 1.4 of the article, and those of the "
        "chapters, which give both forms at first use.",
        "",
        ":::{glossary}",
    ]
    for term in terms:
        links = [where(name) for name in given if given[name] & set(term.chinese)]
        sources = [f"chapter{'s' * (len(links) > 1)} {', '.join(links)}"] * bool(links)
        sources += [f"section {term.article} of the article"] * bool(term.article)
        head = term.english + (f" ({term.short})" if term.short else "")
        where_from = "; ".join(sources)
        says = f"{term.meaning} {where_from[:1].upper()}{where_from[1:]}{'.' * bool(where_from)}".strip()
        lines += [head, *term.chinese, f"    {says}", ""]
    return "\n".join([*lines, ":::", ""])
