"""A model's time and memory on a device, predicted: what `hwlimits predict` answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwlimits.cli.bounds import Counted, counted, stored_card
from hwlimits.cli.terminal import CliError, is_wide, write_table, write_text
from hwlimits.machine.predict import Prediction, bytes_per_number, precision_of
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
    """The prediction on this computer, in LiteRT with one thread, from its machine card.

    A Keras model is converted: to float32, or with `precision` int8 to int8, on made-up inputs, for its speed only.
    """
    card, hint = stored_card()
    if card is None:
        raise CliError(hint)
    asked.check(precision)
    from hwlimits.training.litert import LiteRTError
    from hwlimits.training.predictions import predict

    file, batch = asked.found.loaded, asked.found.count.batch
    converted = "" if asked.in_file else f"converted to LiteRT, {precision or 'fp32'}"
    if converted:
        file = _converted(asked, precision)
    try:
        found = predict(file, card, model=asked.found.count.name, batch=batch)
    except LiteRTError as error:
        raise CliError(f"{asked.model}: {error}") from None
    return replace(found, notes=(*found.notes, converted)) if converted else found


def _converted(asked: Asked, precision: str | None):
    from hwlimits.training import prediction_models

    forms = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
    form = forms.get(precision_of(precision or "fp32"))
    if form is None:
        raise CliError(
            f"--precision {precision}: on this computer a model runs in LiteRT, in one of {', '.join(forms)}; "
            "for a published device say --device NAME, too"
        )
    from hwlimits.training.stderr import caught_stderr

    with caught_stderr():  # the converter writes what it does
        try:
            return prediction_models.export(asked.found.loaded, form)
        except Exception as error:  # whatever in a model has no form in LiteRT
            reason = " ".join(str(error).split())[:200]
    raise CliError(f"{asked.model} can't be converted to LiteRT in {form}: {reason}. Say --device NAME for a device.")


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
        caches = ", if its caches kept what they can," if at_least else ""
        lines.append(f"Interval: from {quantity(found.low_s, 's')}{caches} {high}.")
    if found.weight_bytes is not None:
        parts = (
            f"{quantity(found.weight_bytes, 'B')} of weights, {quantity(found.activation_bytes, 'B')} of activations"
        )
        there = device.numbers.get("memory.capacity") if device else None
        of = f", of {quantity(there.value, 'B')}" if there else ""
        lines.append(f"Memory: {parts}, together {quantity(found.memory_bytes, 'B')}{of}.")
    return lines + [f"{text[0].upper()}{text[1:]}." for text in found.notes]
