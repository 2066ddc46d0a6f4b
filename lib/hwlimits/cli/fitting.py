"""Which devices of the registry hold and run a model: what `hwlimits fit` answers."""

from __future__ import annotations

import math
import re
from collections import Counter

from hwlimits.cli import predicting, terminal
from hwlimits.cli.terminal import CliError
from hwlimits.counting import ModelCost
from hwlimits.machine import selection
from hwlimits.machine.predict import LEFT_OUT
from hwlimits.machine.selection import DAY_S, Candidate, Fit, Limits, Load
from hwlimits.units import quantity

_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0}
_SIZES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15,
          "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip


def with_unit(option: str, text: str | None, units: dict[str, float]) -> float | None:
    """A number with its unit, in base units.

    Raises CliError without a unit, and for a number that is not above 0.

    >>> with_unit("--latency", "10 ms", {"s": 1.0, "ms": 1e-3})
    0.01
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d+))?\s*([a-zA-Zµ]+)", text.strip())
    scale = {name.lower(): size for name, size in units.items()}.get(found[3].lower()) if found else None
    if scale is None or not float(found[1]):
        raise CliError(f"{option} {text}: a number above 0 with its unit ({', '.join(units)})")
    return float(found[1]) * 10 ** int(found[2] or 0) * scale


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
    asked = predicting.ask(model, batch, length)
    asked.check(precision)
    exports = (asked.found.precision,) if asked.in_file else selection.EXPORTS
    count = asked.found.count
    found = selection.fit(count, precision=precision, exports=exports, limits=limited, load=loaded, **asked.sizes)
    return found, count


def write(found: Fit, model: str) -> None:
    """Print what fits, cheapest first, why the others do not, and what the numbers mean."""
    wide = terminal.is_wide()
    if found.fits:
        more = ["examples/s", "weights", "activations"] if wide else ["memory"]
        heads = ["fits", *(["kind"] if wide else []), "precision", "bound", "at least", *more, "power", "price"]
        fed = any(each.fed is not None for each in found.fits)
        heads += ["fed"] if fed else []
        terminal.write_table(heads, [_row(each, wide, fed) for each in found.fits], 4 if wide else 3)
        terminal.write("")
    if found.others:
        rows = [(each.device.name, _why(each, wide)) for each in found.others]
        terminal.write_table(("does not fit", "why"), rows, 2)
        terminal.write("")
    terminal.write_text("\n".join(_summary(found, model)))


def _why(each: Candidate, wide: bool) -> str:
    """Every reason; on a narrow terminal the first, and of the others what they are about."""
    first, *others = each.reasons
    if wide or not others:
        return "; ".join(reason.text for reason in each.reasons)
    return f"{first.text} (and {', '.join(dict.fromkeys(reason.kind for reason in others))})"


def _row(each: Candidate, wide: bool, fed: bool) -> list[str]:
    predicted = each.prediction
    parts = (predicted.weight_bytes, predicted.activation_bytes) if wide else (predicted.memory_bytes,)
    row = [each.device.name, *([each.device.kind] if wide else []), each.precision]
    row += [predicting.bound(predicted.bound, predicted.time_s), quantity(predicted.time_s, "s")]
    row += [quantity(predicted.examples_per_s)] if wide else []
    row += [*(quantity(part, "B") for part in parts), "?" if each.power_w is None else quantity(each.power_w, "W")]
    row += ["?" if each.price_usd is None else f"{each.price_usd:,.5g} USD"]
    return row + (["" if each.fed is None else f"{100 * each.fed:.2g}%"] if fed else [])


def _summary(found: Fit, model: str) -> list[str]:
    total = len(found.fits) + len(found.others)
    head = f"{model}, batch {found.batch}: {len(found.fits)} of {total} devices hold and run it{_asked(found.limits)}"
    if found.others:
        why = Counter(each.reasons[0].kind for each in found.others)
        head += f"; the others are refused by {', '.join(f'{kind} ({n})' for kind, n in why.items())}"
    lines = [f"{head}.", *_of_load(found)]
    lines.append(
        "Refused is what a data sheet rules out, or does not say. What is listed may still fail: times are least times, "
        "at the published peak, and the smaller the model, the more they leave out."
    )
    lines.append(f"{LEFT_OUT[0].upper()}{LEFT_OUT[1:]}.")
    lines.append(
        "Cheapest first: by price, then power, then time. ?: not published, and so after those with a number. A price "
        "may be of a board, of a processor alone or of a launch: `hwlimits devices NAME` says which, with its source."
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
            f"It brings at most {rate} examples/s. fed: the share of its own least-time throughput that a device gets "
            "over it; below 100% the device waits for data."
        )
    return lines
