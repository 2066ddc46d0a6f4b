"""`hwlimits cards`: a class's machine cards and ledgers side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import hwlimits.cli.terminal as terminal
from hwlimits.cli.options import Json
from hwlimits.cli.terminal import CliError, note


def cards(
    files: Annotated[list[str], typer.Argument(help="Machine cards, made by `hwlimits calibrate --output FILE`.")],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw all of them as one roofline plot.")
    ] = None,
    ledgers: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The class's ledgers, files of `ledger.save`, one a student.")
    ] = None,
    errors: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw how far off the predictions in the ledgers were.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Precision of the rooflines.")] = "fp32",
    threads: Annotated[str, typer.Option(metavar="N|all", help="Threads: 1, or all usable cores.")] = "all",
    as_json: Json = False,
) -> None:
    """Machine cards of a class side by side, their median roofline, and how far off the class's predictions were.

    A file that is no card, or no ledger, is named on stderr, and the others are kept.

    Example: hwlimits cards *.json --plot class.png --ledgers ledgers --errors errors.png
    """
    import matplotlib

    matplotlib.use("Agg")  # a terminal has no window
    from hwlimits.machine.pool import pool

    for option, place in (("--plot", plot), ("--errors", errors)):
        if place is not None and place.suffix.lower() != ".png":
            raise typer.BadParameter(f"{place} must end in .png", param_hint=option)
    if errors is not None and ledgers is None:
        raise typer.BadParameter("there are no predictions to draw: give --ledgers FOLDER, too", param_hint="--errors")
    used = terminal.threads(threads)
    predictions = None if ledgers is None else _ledgers(ledgers)
    found = pool(files)
    for why in found.refused.values():
        note(f"not pooled: {why}")
    median = found.median_roofline(precision, used)
    if plot is not None:
        _draw(found.rooflines(precision, used), median, plot)
    if errors is not None:
        _write(predictions.figure()[0], errors)
    if as_json:
        rooflines = {"median": terminal.roofline_record(median)}
        more = {} if predictions is None else {"predictions": predictions.rows(), "no_ledgers": predictions.refused}
        terminal.write_json({"cards": found.rows(used), **rooflines, "refused": found.refused, **more})
    else:
        terminal.write_pool(found, median, precision, used)
        if predictions is not None:
            terminal.write_predictions(predictions)


def _ledgers(folder: Path):
    """The ledgers of a folder; what is none is named on stderr."""
    from hwlimits.machine.class_ledgers import class_ledgers

    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder of ledgers", param_hint="--ledgers")
    found = class_ledgers(sorted(folder.glob("*.json")))
    for name, why in found.refused.items():
        note(f"no ledger: {name}: {why}")
    return found


def _draw(each: list, median, path: Path) -> None:
    """Draw a card with all its levels of memory; of a class DRAM alone, and all levels of the median."""
    from hwlimits import plots

    if len(each) > 1:
        each = [replace(one, bandwidths={"DRAM": one.bandwidth("DRAM")}) for one in each] + [median]
    _write(plots.roofline(each)[0], path)


def _write(figure, path: Path) -> None:
    from hwlimits import plots

    try:
        path.write_bytes(plots.png(figure))
    except OSError as error:
        raise CliError(f"the plot can't be written to {path}: {error.strerror}") from None
    note(f"the plot is in {path}")
