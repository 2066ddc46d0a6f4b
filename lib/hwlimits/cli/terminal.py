"""How the command speaks: results on stdout as tables or JSON, sentences on stderr, on any terminal."""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from hwlimits.counting import Cost
from hwlimits.units import quantity

WIDE = 200  # characters, where no terminal sets a limit
FOR_MORE = 100  # characters from which on a table has its less important columns, too
_BOX = "    \n    \n -- \n    \n -- \n    \n    \n    \n"  # rules under the head and above a sum, in ASCII
_PLAIN = str.maketrans({"µ": "u", "×": "x", "–": "-", "—": "-", "…": "...", "’": "'"})


class CliError(ValueError):
    """What was asked of the command can't be done; the text says why, and what to do."""


def prepare_streams() -> None:
    """Let stdout and stderr print any text: what their encoding lacks is spelled in ASCII, or is a question mark."""
    codecs.register_error("hwlimits", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="hwlimits")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "replace").decode(), error.end


def note(text: str) -> None:
    """Say a sentence on stderr, on one line, whatever it quotes."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    print(f"hwlimits: {line}", file=sys.stderr, flush=True)


@contextmanager
def _delivery() -> Iterator[None]:
    """Within it a result is written, and at its end it has left: a full disk is told, a reader who left is not."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # typer ends quietly
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still held back would fail again at the end
        raise CliError(f"the result can't be written: {error.strerror}") from None


def write(text: str) -> None:
    """Print a result as it is."""
    with _delivery():
        print(text)


def write_text(text: str) -> None:
    """Print sentences, broken between words where a terminal is narrow."""
    with _delivery():
        _console().print(text, soft_wrap=_unlimited())


def write_json(result) -> None:
    """Print a result as JSON, in ASCII; a number that JSON does not have (NaN) is a fault, and an error."""
    write(json.dumps(result, indent=1, allow_nan=False))


def threads(text: str) -> int | str:
    """A number of threads, or 'all'.

    >>> threads("2"), threads("all")
    (2, 'all')
    """
    if text == "all":
        return text
    if not (text.isascii() and text.isdigit() and int(text)):
        raise CliError(f"--threads {text}: a number of threads from 1 up, or all")
    return int(text)


def _unlimited() -> bool:
    return not sys.stdout.isatty() and "COLUMNS" not in os.environ


def _console():
    from rich.console import Console

    # Files and pipes have no width. A name in brackets is a name, not markup.
    return Console(width=WIDE if _unlimited() else None, markup=False, highlight=False, emoji=False)


def is_wide(characters: int = FOR_MORE) -> bool:
    """Whether a table has room for its less important columns."""
    return _console().width >= characters


def write_table(heads: Sequence[str], rows: Iterable[Sequence], left: int = 1, total: bool = False) -> None:
    """Print a table; its first `left` columns are text, the others numbers. `total`: the last row is a sum."""
    from rich.box import Box
    from rich.table import Table

    table = Table(box=Box(_BOX, ascii=True), show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for i, head in enumerate(heads):
        text = i < left
        table.add_column(head, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    rows = [[str(cell) for cell in row] for row in rows]
    for i, row in enumerate(rows):
        table.add_row(*row, end_section=total and i == len(rows) - 2)
    with _delivery():
        _console().print(table)


def write_cost(found) -> None:
    """Print what `hwlimits.cli.bounds.look` found: a row a layer, the total, and what bounds it."""
    count, roofline = found.count, found.roofline
    wide = is_wide()
    heads = ["layer", *(["kind", "output"] if wide else []), "MACs", "FLOPs", "params", "bytes", "FLOP/B"]
    heads += ["at least", "bound"] if roofline else []
    rows = []
    for x in count.layers:
        more = " + ?" if x.name.split(" (call ")[0] in count.not_counted else ""
        row = [x.name, *([x.kind, _shape(x.output_shape)] if wide else []), *_numbers(x.cost, more)]
        rows.append(row + ([quantity(found.time_s(x), "s"), found.bound(x) or ""] if roofline else []))
    times = found.least_times_s()
    total = ["total", *(["", ""] if wide else []), *_numbers(count.total, " + ?" if count.not_counted else "")]
    total += [quantity(list(times.values())[-1], "s"), found.total_bound() or ""] if times else []
    write_table(heads, [*rows, total], 3 if wide else 1, total=True)
    write_text("\n" + _summary(found, times))


def _numbers(cost: Cost, and_more: str) -> list[str]:
    intensity = f"{cost.intensity:.3g}" if cost.bytes else ""
    return [quantity(cost.macs) + and_more, quantity(cost.flops) + and_more, quantity(cost.parameters),
            quantity(cost.bytes, "B"), intensity]  # fmt: skip


def _summary(found, times: dict[str, float]) -> str:
    count, total = found.count, found.count.total
    lines = [
        f"{found.model}, batch {count.batch}, {count.dtype}: {total.macs:,} MACs, {total.flops:,} FLOPs, "
        f"{total.parameters:,} parameters, {total.bytes:,} bytes read and written."
    ]
    if not times:
        return lines[0]
    roofline, level = found.roofline, list(times)[-1]
    nearer = "".join(f"; from {name} {quantity(s, 's')}" for name, s in reversed(list(times.items())[:-1]))
    lines.append(
        f"{roofline.name}: peak {quantity(roofline.peak_flops_per_s, 'FLOP/s')}, {level} "
        f"{quantity(roofline.bandwidth(), 'B/s')}, ridge point {roofline.ridge_point():.3g} FLOP/byte."
    )
    lines.append(f"At least {quantity(times[level], 's')} a call, layer by layer with all data from {level}{nearer}.")
    if found.overhead_s is not None:
        lines.append(
            f"{found.runtime}'s own work for a call and its operators: about {quantity(found.overhead_s, 's')}."
        )
    if shares := found.shares():
        split = f"{shares['compute']:.0%} of the least time is that of layers bound by compute"
        more = "; the overhead takes longer than that" if found.total_bound() == "overhead" else ""
        lines.append(f"Bound by {found.total_bound()}: {split}{more}.")
    return "\n".join(lines)


def _shape(shape) -> str:
    if shape and isinstance(shape[0], tuple):
        return ", ".join(_shape(each) for each in shape)
    return "×".join("?" if n is None else str(n) for n in shape or ())


def roofline_record(roofline) -> dict:
    """A roofline, as JSON can hold it."""
    return {
        "name": roofline.name,
        "peak_flops_per_s": roofline.peak_flops_per_s,
        "bandwidths_bytes_per_s": dict(roofline.bandwidths),
        "ridge_points_flops_per_byte": {level: roofline.ridge_point(level) for level in roofline.bandwidths},
    }


def write_devices(entries: Sequence) -> None:
    """Print devices, a table a kind: their dense peaks in the common formats, memory and power."""
    formats = ("fp32", "fp16", "bf16", "int8")
    heads = ["", *formats, "memory", "bandwidth", "power"]
    for kind in dict.fromkeys(entry.kind for entry in entries):
        rows = []
        for entry in (e for e in entries if e.kind == kind):
            numbers = [entry.numbers.get(f"peaks.{name}") for name in formats]
            numbers += [entry.numbers.get(name) for name in ("memory.capacity", "memory.bandwidth", "power")]
            units = ["", "", "", "", "B", "B/s", "W"]
            rows.append([entry.name, *(quantity(n and n.value, unit) for n, unit in zip(numbers, units, strict=True))])
        write_table([kind, *heads[1:]], rows)
        write("")
    write_text("Dense peaks in FLOP/s (int8 in OP/s). `hwlimits devices NAME` has every number of one, and its source.")


def write_entry(entry) -> None:
    """Print a device or a link: each number with its unit, what it is of, and its source."""
    sources: list = []
    rows, notes = [], []
    for field, number in entry.numbers.items():
        sources += [source for source in number.sources if source not in sources]
        said = ["dense" if number.dense else "", number.direction or "", number.what or ""]
        said += [f"per {number.per}" if number.per else "", "derived" if number.derived else ""]
        said += [f"{quantity(number.sparse)} sparse" if number.sparse else ""]
        cited = " ".join(f"[{sources.index(source) + 1}]" for source in number.sources)
        rows.append((field, ", ".join(filter(None, said)), cited, _value(number), number.read))
        if number.derived:
            notes.append(f"{field} = {number.derived}")
        notes += [f"{field}: {number.note}"] if number.note else []
    write_text(f"{entry.name}: {entry.title} ({entry.kind}, {entry.year})\n")
    write_table(("number", "", "source", "value", "read"), rows, 3)
    notes += [f"{field}: not here: {why}" for field, why in getattr(entry, "absent", {}).items()]
    notes += [entry.note] if entry.note else []
    write_text("\n".join(["", *notes]))
    for i, source in enumerate(sources, 1):
        write(f"[{i}] {source.title}, {source.url}")  # an address stays whole


def _value(number) -> str:
    """A number of the registry with its unit; money and what has no unit without a prefix."""
    if number.unit in ("bit", "USD", "1"):
        return f"{number.value:,.6g} {number.unit}".removesuffix(" 1")
    return quantity(number.value, number.unit)


def entry_record(entry) -> dict:
    """A device or a link, as JSON can hold it."""
    numbers = {}
    for field, number in entry.numbers.items():
        record = {name: value for name, value in vars(number).items() if value not in (None, "")}
        sources = [{"title": s.title, "url": s.url, "read": s.read.isoformat()} for s in number.sources]
        numbers[field] = record | {"sources": sources, "read": number.read.isoformat(), "inputs": dict(number.inputs)}
    rest = {name: value for name, value in vars(entry).items() if name not in ("numbers", "absent")}
    return rest | {"numbers": numbers, "absent": dict(getattr(entry, "absent", {}))}


def write_card(card) -> None:
    """Print a machine card: the computer, every number with its spread, and what was left out."""
    found = card.machine
    caches = ", ".join(f"{c['level']} {c['bytes'] // 1024:,} KiB" for c in found["caches"]) or "not told by the system"
    write_text(
        f"{card.name}, {found['memory_bytes'] / 2**30:.0f} GiB of memory, {found['os']}; caches: {caches}. "
        f"Measured on {card.provenance['date']}.\n"
    )
    rows = []
    for n in card.numbers:
        flag = "NOISY" if n.noisy else ""
        rows.append((f"{n.quantity} {n.of}", flag, n.threads, quantity(n.value, n.unit), quantity(n.iqr, n.unit), n.n))
    write_table(("what", "", "threads", "median", "IQR", "n"), rows, 2)
    for name, why in card.left_out.items():
        write_text(f"Left out: {name} ({why}).")


def write_predictions(found) -> None:
    """Print how far off a class's predictions were: a row each, the worst first."""

    def far(row) -> float:
        return abs(math.log(row["median"])) if row["students"] else -1.0

    rows = []
    for row in sorted(found.rows(), key=far, reverse=True):
        middle = [
            f"{row[name]:.2f}" if row["students"] else "" for name in ("median", "lower_quartile", "upper_quartile")
        ]
        rows.append([row["prediction"], row["students"], *middle, row["within_factor_2"], row["void"]])
    write_text("\nMeasured over predicted, by prediction:\n")
    write_table(("prediction", "students", "median", "quartiles", "", "within a factor of 2", "void"), rows, 1)


def write_pool(found, median, precision: str, of_threads: int | str) -> None:
    """Print a class's cards: a row each, and their median roofline."""
    wide = is_wide()
    heads = ["card", *(["processor"] if wide else []), "cores", "threads", "DRAM", *found.precisions, "ridge point"]
    rows = []
    for row in found.rows(of_threads):
        peaks = [quantity(row[f"{each}_flops_per_s"]) for each in found.precisions]
        ridge = row.get(f"{precision}_ridge_flops_per_byte")
        cells = [row["cores"], row["threads"], quantity(row["dram_bytes_per_s"], "B/s"), *peaks]
        rows.append([row["name"], *([row["cpu"]] if wide else []), *cells, "" if ridge is None else f"{ridge:.3g}"])
    write_table(heads, rows, 2 if wide else 1)
    levels = ", ".join(f"{level} {quantity(value, 'B/s')}" for level, value in median.bandwidths.items())
    write_text(
        f"\nPeaks in FLOP/s (int8 in OP/s). The ridge point, in FLOP/byte, is {precision}'s with DRAM.\n"
        f"{median.name}: peak {quantity(median.peak_flops_per_s, 'FLOP/s')}, {levels}, "
        f"ridge point {median.ridge_point():.3g} FLOP/byte."
    )
