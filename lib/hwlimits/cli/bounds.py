"""A model file or a network of the zoo, counted and held against a roofline: what `hwlimits cost` answers."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace

from hwlimits.cli.terminal import CliError, roofline_record, threads
from hwlimits.counting import Cost, LayerCost, ModelCost
from hwlimits.roofline import Roofline

PRECISIONS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8"}
_CALL = {"LiteRT": "invoke", "TensorFlow": "call"}  # what a machine card calls a runtime's cost of a call
CALIBRATE = "`hwlimits calibrate` measures this computer, and then says how fast the model could run here"


@dataclass(frozen=True)
class Found:
    """A model's count and, where there is one, the roofline it is held against.

    overhead_s   what the runtime takes for a call beside its arithmetic, where the machine card has it
    runtime      whose overhead that is
    hint         what to do where there is no roofline
    """

    model: str
    count: ModelCost
    roofline: Roofline | None = None
    hint: str = ""
    runtime: str = ""
    overhead_s: float | None = None

    def time_s(self, layer: LayerCost) -> float | None:
        """The least time of a layer whose data come from the farthest memory; None without a roofline."""
        return self.roofline and self.roofline.time_s(layer.cost)

    def bound(self, layer: LayerCost) -> str | None:
        """What bounds a layer; None where nothing is computed or moved, and without a roofline."""
        return self.roofline.bound(layer.cost) if self.time_s(layer) else None

    def least_times_s(self) -> dict[str, float]:
        """The least time of the layers one by one, by the level of memory that all data come from."""
        if self.roofline is None:
            return {}
        layers = self.count.layers
        return {
            level: sum(self.roofline.time_s(layer.cost, level) for layer in layers)
            for level in self.roofline.bandwidths
        }

    def shares(self) -> dict[str, float]:
        """Of the least time, the share of the layers that arithmetic bounds and of those that memory bounds."""
        times = {"compute": 0.0, "memory": 0.0}
        for layer in self.count.layers:
            if self.bound(layer):
                times[self.bound(layer)] += self.time_s(layer)
        total_s = sum(times.values())
        return {bound: time / total_s for bound, time in times.items()} if total_s else {}

    def total_bound(self) -> str | None:
        """What bounds the model: the runtime's overhead if it takes longer, else what bounds most of its time."""
        shares = self.shares()
        if not shares:
            return None
        if self.overhead_s and self.overhead_s > list(self.least_times_s().values())[-1]:
            return "overhead"
        return max(shares, key=shares.get)

    def record(self) -> dict:
        """Everything, as JSON can hold it."""
        count, times = self.count, self.least_times_s()
        layers = [
            {"name": x.name, "kind": x.kind, "output_shape": x.output_shape, **_costs(x.cost), "note": x.note,
             "least_time_s": self.time_s(x), "bound": self.bound(x)}
            for x in count.layers
        ]  # fmt: skip
        total = {
            **_costs(count.total),
            "trainable_parameters": count.trainable_parameters,
            "least_time_s": list(times.values())[-1] if times else None,
            "least_time_s_by_level": times,
            "time_shares": self.shares(),
            "overhead_s": self.overhead_s,
            "bound": self.total_bound(),
        }
        return {
            "model": self.model,
            "name": count.name,
            "batch": count.batch,
            "dtype": count.dtype,
            "total": total,
            "layers": layers,
            "not_counted": dict(count.not_counted),
            "roofline": self.roofline and roofline_record(self.roofline),
        }


def _costs(cost: Cost) -> dict:
    return {
        "macs": cost.macs, "other_flops": cost.other_flops, "flops": cost.flops, "parameters": cost.parameters,
        "bytes_read": cost.bytes_read, "bytes_written": cost.bytes_written, "bytes": cost.bytes,
        "flops_per_byte": cost.intensity,
    }  # fmt: skip


def check_complete(model: str, count: ModelCost) -> None:
    """Raise CliError that names what could not be counted, if anything: the result was printed without it."""
    if count.not_counted:
        reasons = "; ".join(f"{name} ({why})" for name, why in count.not_counted.items())
        raise CliError(f"{model}: not everything could be counted: {reasons}. The totals are without it.")


def zoo_names() -> tuple[str, ...]:
    """Names of the model zoo; loads TensorFlow."""
    from hwlimits.training import zoo

    return zoo.NAMES


def look(
    model: str,
    batch: int = 1,
    dtype: str | None = None,
    length: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    of_threads: str | None = None,
) -> Found:
    """Count a model and find its roofline; the arguments are the options of `hwlimits cost`.

    Raises the errors of the parts: a file that is no model, a name that is not known, a precision that there is not.
    """
    if device is not None and of_threads is not None:
        raise CliError("--threads is about this computer; a device of the registry has one peak: leave one of them out")
    count_of_threads = None if of_threads is None else threads(of_threads)
    entry = None
    if device is not None:
        from hwlimits import devices

        entry = devices.device(device)  # a wrong name is told before TensorFlow is loaded
    found = counted(model, batch, dtype, length)
    count, runtime, wanted = found.count, found.runtime, precision or found.precision
    if entry is not None:
        if precision is None and wanted not in entry.precisions:
            raise CliError(
                f"{entry.name} has no published peak for {wanted}; choose with --precision one of "
                f"{', '.join(entry.precisions) or 'none: it has no peak at all'}"
            )
        return Found(model, count, Roofline.of_device(entry, wanted))
    card, hint = stored_card()
    if card is None:
        return Found(model, count, hint=hint)
    from hwlimits.machine.card import CardError

    try:
        roofline = card.roofline(wanted, count_of_threads or "all")
    except CardError as error:
        if precision or of_threads:
            raise
        return Found(model, count, hint=f"no least times: {error}")
    return Found(model, count, roofline, "", runtime, _overhead_s(card, count, runtime))


@dataclass(frozen=True)
class Counted:
    """A model's count, what it was counted from, and the runtime that it is for; `precision` is its arithmetic's."""

    count: ModelCost
    loaded: object
    runtime: str
    input_shapes: dict | None = None

    @property
    def precision(self) -> str:
        return PRECISIONS.get(self.count.dtype, self.count.dtype)


def counted(model: str, batch: int = 1, dtype: str | None = None, length: int | None = None) -> Counted:
    """Count a model file or a network of the zoo; the count has the type that most of its arithmetic is done in."""
    if "tensorflow" not in sys.modules:  # shapes alone are needed: no graphics card, which others may be using
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from hwlimits.training import model_files

    if length is not None and re.fullmatch(r"[\w-]+", model) and model in zoo_names():
        from hwlimits.training import zoo

        try:
            loaded = zoo.build(model, sequence_length=length)
        except zoo.ZooError as error:
            why = str(error).removeprefix(f"build({model!r}, sequence_length={length}): ")
            raise CliError(f"--length {length}: {why}") from None
        length = None
    else:
        loaded = model_files.load(model)
        if type(loaded).__name__ == "LiteRTFile":
            return Counted(_count_litert(model, loaded, batch, dtype, length), loaded, "LiteRT")
    from hwlimits.training import cost

    _check_batch(model, loaded, batch)
    shapes = _shapes(model, loaded, length)
    return Counted(cost.cost(loaded, batch, dtype or "float32", input_shapes=shapes), loaded, "TensorFlow", shapes)


def _check_batch(model: str, loaded, batch: int) -> None:
    for tensor in getattr(loaded, "inputs", None) or []:
        fixed = tuple(tensor.shape)[0]
        if fixed not in (None, batch):
            raise CliError(f"{model} was built for a batch of {fixed} alone: say --batch {fixed}")


def _count_litert(model: str, file, batch: int, dtype: str | None, length: int | None) -> ModelCost:
    from hwlimits.training import operators

    if dtype is not None or length is not None:
        option = "--dtype" if dtype is not None else "--length"
        raise CliError(f"{model}: a .tflite file has its own types and lengths: leave {option} out")
    try:
        count = operators.cost(file, batch, name=os.path.basename(model))
        macs: dict[str, int] = {}
        for operator in operators.operators(file, batch):
            if operator.cost.macs and operator.inputs:
                kind = operator.inputs[0].dtype
                macs[kind] = macs.get(kind, 0) + operator.cost.macs
    except operators.LiteRTError as error:
        raise CliError(f"{model}: {error}") from None
    arithmetic = max(macs, key=macs.get) if macs else count.dtype
    return replace(count, dtype=arithmetic)


def _shapes(model: str, loaded, length: int | None) -> dict | None:
    """The shapes of the inputs with `length` for what they leave open; None if they leave nothing open."""
    inputs = getattr(loaded, "inputs", None) or []
    names = getattr(loaded, "input_names", None) or [tensor.name for tensor in inputs]
    shapes = {name: tuple(tensor.shape)[1:] for name, tensor in zip(names, inputs, strict=True)}
    still_open = [name for name, shape in shapes.items() if None in shape]
    if still_open and length is None:
        raise CliError(
            f"{model}: input {still_open[0]!r} has the shape {shapes[still_open[0]]} without the batch, with a length "
            "open: say for which to count with --length N"
        )
    if length is not None and inputs and not still_open:
        raise CliError(f"{model}: its inputs leave no length open: leave --length out")
    return {name: tuple(length if n is None else n for n in shape) for name, shape in shapes.items()} or None


def stored_card():
    """This computer's stored card, or None and what to do."""
    from hwlimits.machine.card import Card, stored_path

    path = stored_path()
    if not path.exists():
        return None, f"this computer has no machine card: {CALIBRATE}"
    card = Card.read(path)
    if not card.same_computer():
        return None, f"the stored card, {path}, is of another computer ({card.name}): {CALIBRATE}"
    return card, ""


def _overhead_s(card, count: ModelCost, runtime: str) -> float | None:
    """What the runtime takes for the call and for each operator that does something, as far as the card has them."""
    measured = {n.of: n.value for n in card.numbers if n.quantity == "overhead"}
    call_s = measured.get(f"{runtime.lower()}_{_CALL[runtime]}")
    if call_s is None:
        return None
    working = sum(bool(layer.cost.bytes) for layer in count.layers)
    return call_s + working * measured.get(f"{runtime.lower()}_operator", 0.0)
