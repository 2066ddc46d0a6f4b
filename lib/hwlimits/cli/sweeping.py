"""`hwlimits sweep`: the tasks of a grid file, and a table of their results."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import hwlimits.cli.terminal as terminal
from hwlimits.cli.options import Json


def sweep(
    grid: Annotated[Path, typer.Argument(help="A YAML file: the task, and its settings.")],
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask cluster, as tcp://host:port. Default: this computer.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of this computer. Default: one for each usable core.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where results are kept. Default: build/sweeps/GRID.")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a task that fails is tried again.")] = 0,
    as_json: Json = False,
) -> None:
    """Run a task with many settings, on this computer or a Dask cluster.

    The file says task: module:function, and settings: fixed, axes (every combination), points.
    Results are kept one by one: the same command goes on where it was interrupted.
    Tasks that fail are named on stderr after all others are finished, and the exit code is 2.

    Example: hwlimits sweep grid.yaml --workers 2
    """
    from hwlimits.sweep import SweepError, read_grid, run

    sys.path.append(os.getcwd())  # a task may be the reader's own; the workers look where this process does
    task, settings = read_grid(grid)
    if scheduler is not None and workers is not None:
        raise SweepError("--workers is for this computer, and the cluster of --scheduler has its own: leave one out")
    place = folder or Path("build", "sweeps", grid.stem)
    done = run(task, settings, place, scheduler=scheduler, workers=workers, retries=retries, say=terminal.note)
    if as_json:
        terminal.write_json(
            [{"settings": d.settings, "row": d.row, "seconds": d.seconds, "folder": str(d.folder)} for d in done]
        )
        return
    names = list({name: None for d in done for name in d.settings})
    columns = list({name: None for d in done for name in d.row})
    rows = [[*(d.settings.get(n, "") for n in names), *(d.row.get(c, "") for c in columns)] for d in done]
    terminal.write_table([*names, *columns], rows, len(names))
