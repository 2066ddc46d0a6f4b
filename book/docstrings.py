"""The library's docstrings as reStructuredText, which Sphinx's autodoc wants.

The library writes its docstrings to be read in a terminal: plain paragraphs, `code` in single backticks, names and
what they mean in two columns, doctests, tables with bars, indented program text. Read as reStructuredText, a lone
asterisk or bar would be a mistake, and two columns would be one line of prose. So each block is told by its form and
written anew, and what has a meaning in reStructuredText alone is escaped.

>>> print("\\n".join(to_rst(["|w| of `conv_1`: 2 * large.", "", "axis   of the sum", "size   in bytes"])))
\\|w\\| of ``conv_1``: 2 \\* large.
<BLANKLINE>
``axis``
    of the sum
``size``
    in bytes
<BLANKLINE>
"""

from __future__ import annotations

import re

SPECIAL = re.compile(r"[\\*_|`]")
EMPHASIS = re.compile(r"(?<![\w*\\])\*(\w(?:[^*`]*\w)?)\*(?![\w*])")
TWO_COLUMNS = re.compile(r"(\S+(?: \S+)*) {2,}(\S.*)")
# What begins a list, an option, a field, a directive or a doctest at the start of a paragraph.
OPENING = re.compile(r"[-+•]|\.\.|>>>|:|/\w|\(?(?:\d+|[a-zA-Z#]|[ivxlcdmIVXLCDM]+)[.)](?:\s|$)|[!-/:-@\[-`{-~]{4,}$")


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring, indentation already taken off, as lines of reStructuredText."""
    out = []
    for block in blocks(lines):
        out += [*form_of(block)(block), ""]
    return out


def blocks(lines: list[str]) -> list[list[str]]:
    """Runs of lines with no empty one between them; a doctest begins its own."""
    found, block = [], []
    for line in [*lines, ""]:
        begins_doctest = line.startswith(">>>") and block and not any(b.startswith(">>>") for b in block)
        if block and (not line.strip() or begins_doctest):
            found.append(block)
            block = []
        if line.strip():
            block.append(line.rstrip())
    return found


def form_of(block: list[str]):
    """The function that writes a block of this form."""
    first = block[0]
    if first.startswith(">>>"):
        return list
    if first.startswith("- "):
        return bullets
    if len(block) > 1 and re.fullmatch(r"\|[-| ]+\|", block[1]):
        return table
    flush = [line for line in block if not line.startswith(" ")]
    if flush and flush[0] is first and all(TWO_COLUMNS.fullmatch(line) for line in flush):
        return columns
    if len(flush) < len(block) or any("  " in line.strip() for line in block):
        return program
    return paragraph


def escaped(text: str) -> str:
    r"""A line of prose: `code` becomes a literal, *emphasis* stays, and nothing else has a meaning.

    >>> print(escaped("`a_b`s of 2 * n_1, the *cost*; see `cost`."))
    ``a_b``\ s of 2 \* n\_1, the \ *cost*\ ; see ``cost``.
    """
    out = ""
    for at, part in enumerate(re.split(r"`([^`]+)`", text)):
        if at % 2:
            before = r"\ " if out and not re.search(r"[\s([{<'\"/:-]$", out) else ""
            out += f"{before}``{part}``"
        else:
            after = r"\ " if at and part and not re.match(r"[\s'\")\]}>/:.,;!?-]", part) else ""
            for i, piece in enumerate(EMPHASIS.split(part)):
                kept = SPECIAL.sub(r"\\\g<0>", piece)
                after += rf"\ *{kept}*\ " if i % 2 else kept
            out += after
    return out.replace("::", r":\:")


def paragraph(block: list[str]) -> list[str]:
    text = " ".join(line.strip() for line in block)
    return [("\\" if OPENING.match(text) else "") + escaped(text)]


def bullets(block: list[str]) -> list[str]:
    items = []
    for line in block:
        if line.startswith("- "):
            items.append(line[2:])
        else:
            items[-1] += " " + line.strip()
    return ["- " + paragraph([item])[0] for item in items]


def columns(block: list[str]) -> list[str]:
    rows = []
    for line in block:
        if line.startswith(" "):
            rows[-1][1].append(line)
        else:
            name, meaning = TWO_COLUMNS.fullmatch(line).groups()
            rows.append((name, [meaning]))
    return [text for name, meaning in rows for text in (f"``{name}``", "    " + paragraph(meaning)[0])]


def table(block: list[str]) -> list[str]:
    """Cells between bars; a row without its first cell goes on with the row above."""
    rows = []
    for line in [block[0], *block[2:]]:
        cells = [cell.strip() for cell in re.sub(r"^\||\|$", "", line.strip()).split("|")]
        if rows and not cells[0]:
            rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    out = [".. list-table::", "   :header-rows: 1", ""]
    for cells in rows:
        out += [f"   {'* -' if i == 0 else '  -'} {escaped(cell)}".rstrip() for i, cell in enumerate(cells)]
    return out


def program(block: list[str]) -> list[str]:
    return ["::", "", *("    " + line for line in block)]


def setup(app) -> dict:
    """For Sphinx: each docstring goes through `to_rst`."""

    def rewrite(app, what, name, obj, options, lines):
        lines[:] = to_rst(lines)

    app.connect("autodoc-process-docstring", rewrite)
    return {"parallel_read_safe": True, "version": "1"}
