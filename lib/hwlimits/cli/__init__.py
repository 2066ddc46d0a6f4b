"""The command `hwlimits`: what is here, what a model costs, how fast it could run, and what bounds it.

Results go to stdout, everything else to stderr; --json gives every result to another program. What
a reader can put right is one sentence and exit code 2. Nothing heavy is imported before a command
needs it, so that `hwlimits --help` is there at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hwlimits import __version__
from hwlimits.cli import evaluating, pooling, sweeping, terminal
from hwlimits.cli.options import Batch, Json, Length, Model
from hwlimits.cli.terminal import CliError, note
from hwlimits.units import quantity


class _Sentences(typer.core.TyperGroup):
    """Commands whose expected errors, those that this library defines, are one sentence and exit code 2."""

    def main(self, *args, **kwargs):
        """Run a command, and end the process as it says."""
        try:
            return super().main(*args, **kwargs)
        except Exception as error:
            if not any(kind.__module__.startswith("hwlimits.") for kind in type(error).__mro__):
                raise  # a fault in the program keeps its traceback
            note(str(error))
            sys.exit(2)


app = typer.Typer(
    cls=_Sentences,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        terminal.write(__version__)
        raise typer.Exit


@app.callback()
def hwlimits(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """How hardware limits shape AI models: what is here, what a model costs, and what bounds it.

    Example: hwlimits cost resnet-50
    """


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is here, what is missing, and how to get it.

    Exit code 1 if the course can't run.

    Example: hwlimits doctor
    """
    from hwlimits.cli import checks

    found = checks.look()
    ready = all(check.status != checks.MISSING for check in found)
    if as_json:
        terminal.write_json({"ready": ready, "checks": [vars(check) for check in found]})
    else:
        terminal.write_table(
            ("", "what", "found"), [(c.status, c.name, " - ".join(filter(None, (c.found, c.how)))) for c in found], 3
        )
        terminal.write("\nThe course can run." if ready else "\nThe course can't run yet: see what is missing above.")
    if not ready:
        raise typer.Exit(1)


@app.command()
def calibrate(
    quick: Annotated[bool, typer.Option("--quick", help="About 30 s instead of 120, and less exact.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the card here, not to its usual place.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure this computer and keep its machine card.

    It takes about two minutes, in which the computer had better do nothing else.
    Interrupted, it leaves the card that there was.

    Example: hwlimits calibrate --output my-card.json
    """
    path = _place_for_card(output)
    from hwlimits.machine.calibrate import calibrate

    bar = sys.stderr.isatty()
    if not bar:
        note("measuring this computer, about " + ("30 s" if quick else "two minutes"))
    try:
        card = calibrate(quick=quick, progress=bar)
    except KeyboardInterrupt:
        note(f"interrupted; {path} is as it was")
        raise
    try:
        card.write(path)
    except OSError as error:
        raise CliError(f"the card can't be kept in {path}: {error.strerror}") from None
    note(f"the card is kept in {path}")
    if as_json:
        terminal.write(path.read_text(encoding="utf-8").rstrip())
    else:
        terminal.write_card(card)


def _place_for_card(output: Path | None) -> Path:
    """Where a new card goes: nothing that is not this computer's to overwrite, and a place that can be written."""
    import tempfile

    from hwlimits.machine.card import Card, CardError, stored_path

    path = output or stored_path()
    if path.exists() and (output or os.environ.get("HWLIMITS_CARD")):
        try:
            old = Card.read(path)
        except CardError:
            raise CliError(
                f"{path} is there and is no machine card that can be read: name another file, or remove it"
            ) from None
        if not output and not old.same_computer():
            raise CliError(
                f"HWLIMITS_CARD names {path}, the card of another computer ({old.name}): unset it, or say --output FILE"
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise CliError(f"no card can be kept in {path.parent} ({error.strerror}): say --output FILE") from None
    return path


@app.command()
def cost(
    model: Annotated[
        str | None, typer.Argument(help="A .keras, .h5 or .tflite file, or a name of the zoo (--zoo lists them).")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples in one call.")] = 1,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the numbers: float64, float32 (default), float16, bfloat16, int8. A .tflite has its own."
        ),
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Every length that the model leaves open, such as tokens.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Hold it against this device of the registry, not this computer.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Precision of the peak, such as bf16. Default: that of the numbers.")
    ] = None,
    threads: Annotated[
        str | None, typer.Option(metavar="N|all", help="Threads of this computer: 1, or all (default).")
    ] = None,
    zoo: Annotated[bool, typer.Option("--zoo", help="List the names of the model zoo.")] = False,
    as_json: Json = False,
) -> None:
    """What a model costs, its least time, and what bounds it.

    Layer by layer: MACs, FLOPs, parameters, and bytes: inputs, weights and outputs, each moved once.
    Least times are those of this computer's machine card; with --device, of a device's data sheet.
    No code in a model file is run.

    A layer that can't be counted is named on stderr, and the exit code is 2.
    What could be counted is printed all the same, with --json, too.

    Example: hwlimits cost resnet-50 --batch 8 --device t4 --precision fp16
    """
    from hwlimits.cli import bounds

    if zoo:
        names = bounds.zoo_names()
        terminal.write_json(names) if as_json else terminal.write("\n".join(names))
        return
    if model is None:
        raise typer.BadParameter("name a model file or a network of the zoo (--zoo lists them)", param_hint="MODEL")
    found = bounds.look(model, batch, dtype, length, device, precision, threads)
    if found.hint:
        note(found.hint)
    terminal.write_json(found.record()) if as_json else terminal.write_cost(found)
    bounds.check_complete(model, found.count)


@app.command()
def predict(
    model: Model,
    device: Annotated[
        str | None, typer.Option(help="A device of the registry. Default: this computer, as its card has it.")
    ] = None,
    batch: Batch = 1,
    precision: Annotated[
        str | None, typer.Option(help="Precision of weights, activations and peak. Default: the model's own.")
    ] = None,
    length: Length = None,
    as_json: Json = False,
) -> None:
    """How long a model takes and how much memory it needs, layer by layer.

    On a device of the registry that is the least time, for no run reaches a data sheet.
    A layer that can't be counted is named on stderr, and the exit code is 2.

    Example: hwlimits predict resnet-50 --device t4 --precision int8
    """
    from hwlimits.cli import bounds, predicting

    entry = None
    if device is not None:
        from hwlimits import devices as registry

        entry = registry.device(device)  # a wrong name is told before TensorFlow is loaded
    asked = predicting.ask(model, batch, length)
    found = predicting.on(entry, asked, precision) if entry else predicting.here(asked, precision)
    terminal.write_json(found.record()) if as_json else predicting.write(found, model, entry)
    bounds.check_complete(model, asked.found.count)


@app.command()
def fit(
    model: Model,
    batch: Batch = 1,
    precision: Annotated[
        str | None, typer.Option(help="Precision to run in. Default: on each device its fastest of those that export.")
    ] = None,
    latency: Annotated[str | None, typer.Option(metavar="TIME", help="Most time for a call, such as 10ms.")] = None,
    throughput: Annotated[float | None, typer.Option(metavar="N", help="Fewest examples a second.")] = None,
    power: Annotated[float | None, typer.Option(metavar="W", help="Most watts, by the data sheet.")] = None,
    price: Annotated[float | None, typer.Option(metavar="USD", help="Most dollars.")] = None,
    data_per_day: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Data that come every day, such as 500GB.")
    ] = None,
    examples_per_day: Annotated[float | None, typer.Option(metavar="N", help="Examples that come every day.")] = None,
    example_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes of one example as it comes, such as 150kB.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(metavar="LINK", help="The link they come over, such as ethernet-1g.")
    ] = None,
    length: Length = None,
    as_json: Json = False,
) -> None:
    """Which devices hold and run a model, cheapest first, and why each of the others does not.

    Compute, memory, network and budget, by data sheets: a device that is refused can't do it, one
    that is listed may still fail.
    A layer that can't be counted is named on stderr, and the exit code is 2.

    Example: hwlimits fit resnet-50 --latency 10ms --power 30
    """
    from hwlimits.cli import bounds, fitting

    limits = fitting.limits(latency, throughput, power, price)
    load = fitting.load(data_per_day, examples_per_day, example_size, network)
    found, count = fitting.look(model, batch, length, precision, limits, load)
    terminal.write_json(found.record()) if as_json else fitting.write(found, model)
    bounds.check_complete(model, count)


@app.command()
def devices(
    name: Annotated[str | None, typer.Argument(help="One device or link, with every number and its source.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, such as gpu, tpu, edge, laptop-cpu.")] = None,
    links: Annotated[bool, typer.Option("--links", help="Links (PCIe, NVLink, Ethernet, ...), not devices.")] = False,
    as_json: Json = False,
) -> None:
    """Published hardware: peaks, memory, power, links, with sources.

    Example: hwlimits devices h100-sxm
    """
    from hwlimits import devices as registry

    if name is not None:
        if kind is not None:
            raise typer.BadParameter("NAME is one entry, --kind are many: leave one out", param_hint="--kind")
        entry = _entry(name, links)
        terminal.write_json(terminal.entry_record(entry)) if as_json else terminal.write_entry(entry)
        return
    kinds = registry.LINK_KINDS if links else registry.DEVICE_KINDS
    if kind is not None and kind not in kinds:
        if kind in registry.LINK_KINDS:
            raise CliError(f"--kind {kind}: that is a kind of link: say --links, too")
        if kind in registry.DEVICE_KINDS:
            raise CliError(f"--kind {kind}: that is a kind of device: leave --links out")
        raise CliError(f"--kind {kind}: there is no such kind; kinds are {', '.join(kinds)}")
    entries = [link for link in registry.links() if kind in (None, link.kind)] if links else registry.devices(kind)
    if as_json:
        terminal.write_json([terminal.entry_record(entry) for entry in entries])
    elif links:
        rows = [(e.name, e.kind, e.title, e.year, quantity(e.bytes_per_s, "B/s")) for e in entries]
        terminal.write_table(("link", "kind", "title", "year", "one direction"), rows, 3)
    else:
        terminal.write_devices(entries)


def _entry(name: str, links: bool):
    """The device or link of that name, or the link alone; an error names what is near among all that it may be."""
    from hwlimits import devices as registry

    what, lists = "link", "`hwlimits devices --links` lists all."
    entries = registry.links()
    if not links:
        what, lists = "device or link", "`hwlimits devices` lists all devices, with --links all links."
        entries = [*registry.devices(), *entries]
    return registry._find({entry.name: entry for entry in entries}, name, what, lists)


app.command()(pooling.cards)
app.command()(sweeping.sweep)
app.command()(evaluating.evaluate)


def main() -> None:
    """The program: streams that can print any text, then the command."""
    terminal.prepare_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app(prog_name="hwlimits")
