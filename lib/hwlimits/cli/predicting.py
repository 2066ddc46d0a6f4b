"""A model's time and memory on a device, predicted: what `hwlimits predict` answers."""

from __future__ import annotations

from dataclasses import dataclass

from hwlimits.cli.bounds import Counted, counted
from hwlimits.cli.terminal import CliError, is_wide, write_table, write_text
from hwlimits.machine.predict import Prediction, bytes_per_number
from hwlimits.units import quantity


@dataclass(frozen=True)
class Asked:
    """A counted model with what it takes in memory, in bytes of the count's own type."""

    model: str
    found: Counted
    weight_bytes: int | None = None
    activation_bytes: int | None = None

    @property
    def in_file(self) -> bool:
        """Whether its types are those of a file, and so can't be chosen."""
        return self.found.runtime == "LiteRT"

    def check(self, precision: str | None) -> None:
        """Refuse a precision that is none of the file's; another unit for the same numbers is no other precision."""
        own = self.found.precision
        if precision is None or not self.in_file:
            return
        if bytes_per_number(precision) != bytes_per_number(own) or ("int" in precision) != ("int" in own):
            raise CliError(
                f"{self.model} computes in {own}, as a .tflite file it can't do so in {precision}: export it again, "
                "or leave --precision out"
            )

    @property
    def sizes(self) -> dict:
        """The arguments of a prediction that say what it takes in memory."""
        return {"weight_bytes": self.weight_bytes, "activation_bytes": self.activation_bytes}


def ask(model: str, batch: int, length: int | None) -> Asked:
    """Count a model, and find what it takes in memory. Raises the errors of `bounds.counted`."""
    from hwlimits.storage import peak_live_bytes

    found = counted(model, batch, None, length)
    if found.runtime != "LiteRT":
        from hwlimits.training.memory import inference_buffers

        buffers = inference_buffers(found.loaded, batch, found.count.dtype, input_shapes=found.input_shapes)
        return Asked(model, found, activation_bytes=peak_live_bytes(buffers))
    from hwlimits.training.arena import arena_buffers
    from hwlimits.training.litert import LiteRTError

    file_bytes = len(found.loaded.content)
    try:
        return Asked(model, found, file_bytes, peak_live_bytes(arena_buffers(found.loaded, batch, scratch=False)))
    except LiteRTError:
        return Asked(model, found, file_bytes)


def on(device, asked: Asked, precision: str | None) -> Prediction:
    """The prediction on a device of the registry."""
    from hwlimits.machine.predict import on_device

    asked.check(precision)
    wanted = precision or asked.found.precision
    if precision is None and wanted not in device.precisions:
        raise CliError(
            f"{device.name} has no published peak for {wanted}; choose with --precision one of "
            f"{', '.join(device.precisions) or 'none: it has no peak at all'}"
        )
    return on_device(asked.found.count, device, wanted, **asked.sizes)


def here(asked: Asked, precision: str | None) -> Prediction:
    """The prediction on this computer, from its machine card."""
    raise CliError(
        "a prediction on this computer is not here yet: say --device NAME (`hwlimits devices` lists them); "
        "`hwlimits cost` gives the least time on this computer"
    )


def write(found: Prediction, model: str, device=None) -> None:
    """Print a prediction: a row a layer, the total, and what it means."""
    wide = is_wide()
    heads = ["layer", *(["kind"] if wide else []), "time", "share", "bound"]
    total_s = found.time_s
    rows = []
    for x in found.layers:
        share = f"{x.time_s / total_s:.1%}" if total_s else ""
        rows.append([x.name, *([x.kind] if wide else []), quantity(x.time_s, "s"), share, bound(x.bound, x.time_s)])
    if found.overhead_s is not None:
        rows.append(["the call", *([""] if wide else []), quantity(found.overhead_s, "s"), "", "overhead"])
    rows.append(["total", *([""] if wide else []), quantity(total_s, "s"), "", bound(found.bound, total_s)])
    write_table(heads, rows, 2 if wide else 1, total=True)
    write_text("\n" + "\n".join(_summary(found, model, device)))


def bound(name: str, time_s: float) -> str:
    """A bound as a table has it: what takes time and has none is not known."""
    return name or ("?" if time_s else "")


def _summary(found: Prediction, model: str, device) -> list[str]:
    where = device.title if device else found.device
    at_least = "at least " if found.overhead_s is None else ""
    lines = [
        f"{model} on {where}, {found.precision}, batch {found.batch}: {at_least}{quantity(found.time_s, 's')} a call, "
        f"{'at most ' if at_least else ''}{quantity(found.examples_per_s)} examples/s."
    ]
    if shares := {name: share for name, share in found.shares().items() if name}:
        split = ", ".join(f"{share:.0%} {name}" for name, share in shares.items())
        lines.append(f"Bound by {found.bound}: of the time {split}.")
    if found.low_s is not None:
        high = f"to {quantity(found.high_s, 's')}" if found.high_s is not None else "upwards"
        lines.append(f"Interval: from {quantity(found.low_s, 's')}, if its caches kept what they can, {high}.")
    if found.weight_bytes is not None:
        parts = (
            f"{quantity(found.weight_bytes, 'B')} of weights, {quantity(found.activation_bytes, 'B')} of activations"
        )
        there = device.numbers.get("memory.capacity") if device else None
        of = f", of {quantity(there.value, 'B')}" if there else ""
        lines.append(f"Memory: {parts}, together {quantity(found.memory_bytes, 'B')}{of}.")
    return lines + [f"{text[0].upper()}{text[1:]}." for text in found.notes]
