"""Which devices of the registry hold and run a model: what `hwlimits fit` answers."""

from __future__ import annotations

import math
import re
from collections import Counter

from hwlimits.cli.predicting import ask, bound
from hwlimits.cli.terminal import CliError, is_wide, write_table, write_text
from hwlimits.counting import ModelCost
from hwlimits.machine import selection
from hwlimits.machine.predict import LEFT_OUT
from hwlimits.machine.selection import DAY_S, Candidate, Fit, Limits, Load
from hwlimits.units import quantity

_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0}
_SIZES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15,
          "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip

FOR_ALL = 130  # characters from which on a table has all its columns
MANY = 4  # devices refused for the very same reason are named in one sentence


def with_unit(option: str, text: str | None, units: dict[str, float]) -> float | None:
    """A number with its unit, in base units.

    Raises CliError without a unit, and for a number that is not above 0.

    >>> with_unit("--latency", "10 ms", {"s": 1.0, "ms": 1e-3})
    0.01
    """
    if text is None:
        return None
    found = re.fullmatch(r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-zµ]+)", text.strip().lower())
    scale = {name.lower(): size for name, size in units.items()}.get(found[2]) if found else None
    if scale is None or not 0 < float(found[1]) < math.inf:
        raise CliError(f"{option} {text}: a number above 0 with its unit ({', '.join(units)})")
    return float(found[1]) * scale


def _positive(option: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise CliError(f"{option} {value:g}: a number above 0")
    return value


def limits(latency: str | None, throughput: float | None, power: float | None, price: float | None) -> Limits:
    """The limits that the options ask for. Raises CliError for one that can't be."""
    return Limits(
        with_unit("--latency", latency, _TIMES),
        _positive("--throughput", throughput),
        _positive("--power", power),
        _positive("--price", price),
    )


def load(data_per_day: str | None, examples_per_day: float | None, example: str | None, network: str | None):
    """The data and the link that the options name; None where they name none. Raises CliError, and DeviceError."""
    from hwlimits import devices as registry

    link = None if network is None else registry.link(network)
    day, each = with_unit("--data-per-day", data_per_day, _SIZES), with_unit("--example-size", example, _SIZES)
    examples = _positive("--examples-per-day", examples_per_day)
    if None not in (day, examples, each):
        raise CliError("--data-per-day, --examples-per-day and --example-size: two give the third, leave one out")
    if link is not None and day is None and each is None:
        raise CliError(f"--network {network}: say what comes over it with --data-per-day or --example-size")
    return None if (day, examples, each, link) == (None,) * 4 else Load(day, examples, each, link)


def look(
    model: str, batch: int, length: int | None, precision: str | None, limited: Limits, loaded: Load | None
) -> tuple[Fit, ModelCost]:
    """Count a model and hold it against the registry. Raises the errors of the parts."""
    asked = ask(model, batch, length)
    asked.check(precision)
    exports = (asked.found.precision,) if asked.in_file else selection.EXPORTS
    count = asked.found.count
    found = selection.fit(count, precision=precision, exports=exports, limits=limited, load=loaded, **asked.sizes)
    return found, count


def write(found: Fit, model: str) -> None:
    """Print what fits, cheapest first, why the others do not, and what the numbers mean."""
    if found.fits:
        fed = any(each.fed is not None for each in found.fits)
        rows = [_row(each, fed) for each in found.fits]
        write_table(list(rows[0]), [row.values() for row in rows], 4 if "kind" in rows[0] else 3)
        write_text("")
    if found.others:
        _write_others(found.others)
    write_text("\n".join(_summary(found, model)))


def _write_others(others: tuple[Candidate, ...]) -> None:
    """Print why devices do not fit: a row each, and a sentence for what is said of many."""
    same: dict[str, list[str]] = {}
    for each in others:
        same.setdefault(_why(each), []).append(each.device.name)
    alone = [(name, why) for why, names in same.items() if len(names) < MANY for name in names]
    if alone:
        write_table(("does not fit", "why"), alone, 2)
        write_text("")
    for why, names in same.items():
        if len(names) >= MANY:
            write_text(f"Does not fit ({why}): {', '.join(names)}.\n")


def _why(each: Candidate) -> str:
    """Every reason; on a narrow terminal the first, and of the others what they are about."""
    first, *others = each.reasons
    if is_wide() or not others:
        return "; ".join(reason.text for reason in each.reasons)
    about = (reason.text.partition(": ")[0] if reason.kind == "not known" else reason.kind for reason in others)
    return f"{first.text} (and {', '.join(dict.fromkeys(about))})"


def _row(each: Candidate, fed: bool) -> dict[str, str]:
    """A row of the table by its heads, with as many columns as the terminal has room for."""
    predicted, wide, wider = each.prediction, is_wide(), is_wide(FOR_ALL)
    row = {"fits": each.device.name} | ({"kind": each.device.kind} if wider else {})
    row |= {"precision": each.precision, "bound": bound(predicted.bound, predicted.time_s)}
    row |= {"at least": quantity(predicted.time_s, "s")}
    row |= {"examples/s": quantity(predicted.examples_per_s)} if wide else {}
    if wider:
        row |= {
            "weights": quantity(predicted.weight_bytes, "B"),
            "activations": quantity(predicted.activation_bytes, "B"),
        }
    elif wide or not fed:
        row |= {"memory": quantity(predicted.memory_bytes, "B")}
    row |= {"power": "?" if each.power_w is None else quantity(each.power_w, "W")}
    row |= {"USD": "?" if each.price_usd is None else f"{each.price_usd:,.6g}"}
    return row | ({"fed": "" if each.fed is None else _percent(each.fed)} if fed else {})


def _percent(share: float) -> str:
    return "<0.1%" if share < 0.001 else f"{100 * share:.2g}%" if share < 0.1 else f"{share:.0%}"


def _summary(found: Fit, model: str) -> list[str]:
    total = len(found.fits) + len(found.others)
    head = f"{model}, batch {found.batch}: {len(found.fits)} of {total} devices hold and run it{_asked(found.limits)}"
    if found.others:
        why = Counter(each.reasons[0].kind for each in found.others)
        head += f"; the others are refused by {', '.join(f'{kind} ({n})' for kind, n in why.items())}"
    priced = [each for each in found.fits if each.price_usd is not None]
    if priced:
        head += f"; the cheapest whose price is known is {priced[0].device.name}, {priced[0].price_usd:,.6g} USD"
    lines = [f"{head}.", *_of_load(found)]
    lines.append(
        "Refused is what a data sheet rules out, or does not say. What is listed may still fail: times are least "
        "times, at the published peak, and the smaller the model, the more they leave out."
    )
    lines.append(f"{LEFT_OUT[0].upper()}{LEFT_OUT[1:]}.")
    lines.append(
        "Cheapest first: by price, then power, then time. ?: not published; such a price or power comes last, and a "
        "time beside such a bound is the arithmetic's alone. A price may be of a board, of a processor alone or of a "
        "launch: `hwlimits devices NAME` says which, with its source."
    )
    if any(each.precision.startswith("int8") for each in found.fits):
        lines.append("int8 needs a quantized model (chapter 05), whose accuracy has to be measured.")
    return lines


def _asked(limits: Limits) -> str:
    said = [
        (limits.latency_s, f"within {quantity(limits.latency_s, 's')}"),
        (limits.examples_per_s, f"at {quantity(limits.examples_per_s)} examples/s"),
        (limits.power_w, f"on {quantity(limits.power_w, 'W')}"),
        (limits.price_usd, f"for {limits.price_usd or 0:,.6g} USD"),
    ]
    texts = [text for value, text in said if value is not None]
    return " " + ", ".join(texts) if texts else ""


def _of_load(found: Fit) -> list[str]:
    load, lines = found.load, []
    if load is None:
        return lines
    if load.examples_per_day is not None:
        rate = quantity(load.examples_per_day / DAY_S)
        lines.append(f"{quantity(load.examples_per_day)} examples a day are {rate} a second.")
    if load.bytes_per_day is not None:
        year = quantity(365 * load.bytes_per_day, "B")
        lines.append(f"{quantity(load.bytes_per_day, 'B')} of data a day; {year} for each year that they are kept.")
    share = load.link_share()
    if share is not None:
        hours = quantity(share * 24)
        lines.append(
            f"{load.link.name} ({quantity(load.link.bytes_per_s, 'B/s')}) takes {hours} hours to move a day's data: "
            f"{share:.3g} of the link."
        )
    if load.link is not None and load.bytes_per_example is not None:
        rate = quantity(load.link.bytes_per_s / load.bytes_per_example)
        lines.append(
            f"{load.link.name} brings at most {rate} examples/s. fed: the share of its least-time throughput that a "
            "device gets over it; below 100% the device waits for data. Its own links slow it, too, where the registry "
            "has them."
        )
    return lines
