"""The registry of published hardware: what data sheets promise, each number with its unit, source and date.

gpu = device("h100-sxm")
gpu.peak_flops_per_s("bf16")              # dense, in FLOP/s
gpu.ridge_point("bf16")                   # FLOP/byte above which it is bound by compute
gpu.number("memory.bandwidth").source     # where the number was read

The numbers stand in data/devices.yaml, which is read when first asked for. They are published
peaks, an upper bound; what this computer does is measured, by hwlimits.machine. Everything is in
base units (FLOP/s, OP/s for integers, B/s, B, W, USD), one multiply-accumulate is two operations,
and a peak is dense: what needs half of the weights to be zero is kept apart, as `Number.sparse`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from types import MappingProxyType
from typing import Any

import yaml

from hwlimits import data

DEVICE_KINDS = ("laptop-cpu", "desktop-cpu", "server-cpu", "gpu", "laptop-gpu", "tpu", "accelerator", "soc", "edge",
                "microcontroller")  # fmt: skip
LINK_KINDS = ("pcie", "nvlink", "ethernet", "infiniband", "ici", "usb")
UNITS = ("FLOP/s", "OP/s", "B/s", "B", "W", "USD", "Hz", "s", "bit", "bit/s", "T/s", "1")
DIRECTIONS = ("per direction", "both directions")
FORMATS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int16", "int8", "int4", "npu")
SUFFIXES = ("matrix", "vector", "acc16", "dla", "npu")
REQUIRED = ("peaks", "memory.capacity", "memory.bandwidth", "power")

# What the words of NumPy and TensorFlow are called here.
_DTYPES = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
_DEVICE_FIELDS = {"power": "W", "price": "USD", "cores": "1", "clock": "Hz",
                  "memory.capacity": "B", "memory.bandwidth": "B/s", "memory.bus_width": "bit",
                  "memory.data_rate": "bit/s", "memory.flash": "B",
                  "caches.L1": "B", "caches.L2": "B", "caches.L3": "B", "caches.on_chip": "B"}  # fmt: skip
_LINK_FIELDS = {"bandwidth": "B/s", "total": "B/s", "lanes": "1", "lane_rate": ("T/s", "B/s"), "encoding": "1",
                "latency": "s"}  # fmt: skip
_NUMBER_KEYS = {"value", "unit", "source", "read", "note", "dense", "sparse", "direction", "derived", "inputs", "per",
                "what"}  # fmt: skip


class DeviceError(ValueError):
    """Something asked for is not in the registry, or the registry itself is malformed."""


@dataclass(frozen=True)
class Source:
    """Where a number was read, and when."""

    title: str
    url: str
    read: date


@dataclass(frozen=True)
class Number:
    """One published number in base units. It prints as value and unit.

    `dense` is True for a peak and None elsewhere; `sparse` is the figure with 2:4 sparsity where
    one is published. `direction` is said of links. A number that no source prints is `derived`:
    the formula, over its `inputs`. `per` says whose cache it is, `what` which power it is.
    """

    value: float
    unit: str
    sources: tuple[Source, ...]
    read: date
    note: str = ""
    dense: bool | None = None
    sparse: float | None = None
    direction: str | None = None
    derived: str | None = None
    inputs: Mapping[str, float] = field(default_factory=dict)
    per: str | None = None
    what: str | None = None

    @property
    def source(self) -> Source:
        """The first source; a derived number may have several, in `sources`."""
        return self.sources[0]

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.unit}"


@dataclass(frozen=True)
class _Entry:
    """What a device and a link have in common: a name, and numbers by field."""

    name: str
    title: str
    kind: str
    year: int
    numbers: Mapping[str, Number]
    aliases: tuple[str, ...] = ()
    note: str = ""

    def number(self, field: str) -> Number:
        """The number of a field such as "power" or "memory.bandwidth", with its unit and source.

        Raises DeviceError that lists the fields there are, or says why this one is missing.
        """
        if field in self.numbers:
            return self.numbers[field]
        why = getattr(self, "absent", {}).get(field)
        raise DeviceError(
            f"{self.name} has no {field!r}" + (f": {why}. " if why else ". ") + f"It has {', '.join(self.numbers)}."
        )


@dataclass(frozen=True)
class Device(_Entry):
    """A processor, or a board with one, and what is published of it."""

    memory_kind: str = ""
    links: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions with a published peak, such as ("fp32", "fp16", "int8")."""
        return tuple(name.removeprefix("peaks.") for name in self.numbers if name.startswith("peaks."))

    def peak_flops_per_s(self, precision: str) -> float:
        """Published dense peak in FLOP/s, or OP/s for an integer precision.

        Raises DeviceError that lists the precisions there are: none is ever put in for another.

        >>> device("v100-sxm2").peak_flops_per_s("fp16")
        125000000000000.0
        >>> device("v100-sxm2").peak_flops_per_s("int8")
        Traceback (most recent call last):
        ...
        hwlimits.devices.DeviceError: v100-sxm2 has no published peak for 'int8'. It has fp64, fp32, fp16, fp16-vector.
        """
        name = _DTYPES.get(str(precision).lower(), str(precision).lower())
        if f"peaks.{name}" not in self.numbers:
            raise DeviceError(
                f"{self.name} has no published peak for {precision!r}. It has {', '.join(self.precisions)}."
            )
        return self.numbers[f"peaks.{name}"].value

    @property
    def memory_bytes(self) -> float:
        """Capacity of the main memory in bytes (printed GB are 1e9, printed GiB 2**30)."""
        return self.number("memory.capacity").value

    @property
    def memory_bytes_per_s(self) -> float:
        """Bandwidth of the main memory in bytes/s."""
        return self.number("memory.bandwidth").value

    @property
    def power_w(self) -> float:
        """Power in watts; `number("power").what` says which (TDP, board, maximum, ...)."""
        return self.number("power").value

    def ridge_point(self, precision: str) -> float:
        """Arithmetic intensity, in FLOP/byte, from which on the peak is the limit and not the memory.

        >>> round(device("t4").ridge_point("fp16"))
        203
        """
        return self.peak_flops_per_s(precision) / self.memory_bytes_per_s


@dataclass(frozen=True)
class Link(_Entry):
    """A connection between devices, or between a device and its host."""

    @property
    def bytes_per_s(self) -> float:
        """Bandwidth in bytes/s in one direction, after line encoding and before packet overhead."""
        return self.number("bandwidth").value

    @property
    def latency_s(self) -> float:
        """Latency in s; DeviceError where none is published, which is the rule."""
        return self.number("latency").value


def device(name: str) -> Device:
    """The device of that name or alias, in any case and with or without hyphens.

    Raises DeviceError: unknown (with near names), or the alias of several (with their names).

    >>> device("H100-SXM").title
    'NVIDIA H100 SXM5 80 GB'
    >>> device("h100")
    Traceback (most recent call last):
    ...
    hwlimits.devices.DeviceError: 'h100' may be any of h100-pcie, h100-sxm: name one.
    """
    return _find(_registry()[0], name, "device", "`hwlimits devices` lists all.")


def link(name: str) -> Link:
    """The link of that name or alias, written as loosely; raises DeviceError as `device` does."""
    return _find(_registry()[1], name, "link", "`hwlimits.devices.links()` lists all.")


def devices(kind: str | None = None) -> list[Device]:
    """All devices, or those of one kind (`DEVICE_KINDS`), by kind, year and name.

    Raises DeviceError for a kind that there is not.

    >>> [d.name for d in devices("tpu")]
    ['tpu-v2', 'tpu-v3', 'tpu-v4', 'tpu-v5e', 'tpu-v5p', 'tpu-v6e', 'tpu7x']
    """
    if kind is not None and kind not in DEVICE_KINDS:
        raise DeviceError(f"devices({kind!r}): there is no such kind; kinds are {', '.join(DEVICE_KINDS)}.")
    found = [d for d in _registry()[0].values() if kind in (None, d.kind)]
    return sorted(found, key=lambda d: (DEVICE_KINDS.index(d.kind), d.year, d.name))


def links() -> list[Link]:
    """All links, by kind, bandwidth and name."""
    return sorted(_registry()[1].values(), key=lambda k: (LINK_KINDS.index(k.kind), k.bytes_per_s, k.name))


def _plain(name: str) -> str:
    """A name without case, hyphens and spaces: RTX 4090, rtx4090 and rtx-4090 are one."""
    return re.sub(r"[\s_-]+", "", str(name).lower())


def _find(entries: Mapping[str, Any], name: str, what: str, hint: str) -> Any:
    wanted = _plain(name)
    found = [key for key in entries if _plain(key) == wanted]
    found = found or sorted(key for key, entry in entries.items() if wanted in map(_plain, entry.aliases))
    if len(found) == 1:
        return entries[found[0]]
    if found:
        raise DeviceError(f"{name!r} may be any of {', '.join(found)}: name one.")
    near = sorted(key for key in entries if wanted and wanted in _plain(key))
    near += [key for key in difflib.get_close_matches(str(name).lower(), entries, cutoff=0.5) if key not in near]
    raise DeviceError(f"No {what} {name!r}" + (f"; near it: {', '.join(near[:6])}. " if near else ". ") + hint)


@cache
def _registry() -> tuple[Mapping[str, Device], Mapping[str, Link]]:
    return _parse(data.path("devices.yaml").read_text(encoding="utf-8"))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML in which 3.35e12 is a number, as in YAML 1.2, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping with each key once."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise DeviceError(f"devices.yaml, line {node.start_mark.line + 1}: {key!r} is there twice.")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _parse(text: str) -> tuple[Mapping[str, Device], Mapping[str, Link]]:
    """Devices and links of a YAML document; DeviceError says which entry and which field is wrong."""
    try:
        document = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise DeviceError(f"devices.yaml is no valid YAML: {' '.join(str(error).split())}.") from None
    for part in ("sources", "devices", "links"):
        _check(isinstance(document, dict) and isinstance(document.get(part), dict), part, "section", "is no mapping")
    sources = {key: _source(key, entry) for key, entry in document["sources"].items()}
    link_entries = {name: _link(name, entry, sources) for name, entry in document["links"].items()}
    device_entries = {name: _device(name, entry, sources) for name, entry in document["devices"].items()}
    for name, entry in device_entries.items():
        for linked in entry.links:
            _check(linked in link_entries, name, "links", f"{linked!r} is none of the links")
    return MappingProxyType(device_entries), MappingProxyType(link_entries)


def _check(condition: bool, entry: str, field: str, wrong: str) -> None:
    if not condition:
        raise DeviceError(f"devices.yaml: {entry}: {field}: {wrong}.")


def _source(key: str, entry: Any) -> Source:
    _check(isinstance(entry, dict) and set(entry) == {"title", "url", "read"}, key, "source", "needs title, url, read")
    _check(re.match(r"https?://", str(entry["url"])) is not None, key, "url", f"{entry['url']!r} is no address")
    _check(isinstance(entry["read"], date), key, "read", f"{entry['read']!r} is no date")
    return Source(**entry)


def _device(name: str, entry: dict, sources: dict[str, Source]) -> Device:
    known = {"title", "kind", "year", "aliases", "peaks", "memory", "caches", "power", "price", "cores", "clock",
             "links", "absent", "note"}  # fmt: skip
    common = _common(name, entry, known, DEVICE_KINDS)
    for group in ("peaks", "memory", "caches", "absent"):
        _check(isinstance(entry.get(group, {}), dict), name, group, "is no mapping")
    numbers, absent = {}, entry.get("absent", {})
    for precision, content in entry.get("peaks", {}).items():
        where = f"peaks.{precision}"
        base, _, suffix = precision.partition("-")
        _check(base in FORMATS and suffix in ("", *SUFFIXES), name, where, "is no precision known here")
        unit = "FLOP/s" if base[:2] in ("fp", "tf", "bf") else "OP/s"
        numbers[where] = _number(name, where, content, sources, unit)
        _check(numbers[where].dense is True, name, where, "must say dense: true, and be it")
    kind = entry.get("memory", {}).get("kind", "")
    for group in ("memory", "caches", None):
        for key, content in (entry.get(group, {}) if group else entry).items():
            where = f"{group}.{key}" if group else key
            if where in ("memory.kind", *known - {"power", "price", "cores", "clock"}):
                continue
            _check(where in _DEVICE_FIELDS, name, where, "is no field known here")
            numbers[where] = _number(name, where, content, sources, _DEVICE_FIELDS[where])
            _check(group != "caches" or bool(numbers[where].per), name, where, "must say `per`: core, cluster or chip")
    for required in REQUIRED:
        there = any(key == required or key.startswith(f"{required}.") for key in numbers)
        _check(there != (required in absent), name, required, "is neither there nor `absent` with a reason, or both")
    return Device(**common, numbers=MappingProxyType(numbers), memory_kind=kind, absent=MappingProxyType(absent),
                  links=tuple(entry.get("links", ())))  # fmt: skip


def _link(name: str, entry: dict, sources: dict[str, Source]) -> Link:
    common = _common(name, entry, {"title", "kind", "year", "aliases", "note", *_LINK_FIELDS}, LINK_KINDS)
    numbers = {key: _number(name, key, entry[key], sources, unit) for key, unit in _LINK_FIELDS.items() if key in entry}
    _check("bandwidth" in numbers, name, "bandwidth", "is missing")
    for key, direction in (("bandwidth", "per direction"), ("total", "both directions")):
        _check(key not in numbers or numbers[key].direction == direction, name, key, f"must say direction: {direction}")
    return Link(**common, numbers=MappingProxyType(numbers))


def _common(name: str, entry: Any, known: set[str], kinds: tuple[str, ...]) -> dict[str, Any]:
    _check(re.fullmatch(r"[a-z0-9]+([-.][a-z0-9]+)*", name) is not None, name, "name", "must be in kebab case")
    _check(isinstance(entry, dict), name, "entry", "is no mapping")
    _check(not set(entry) - known, name, ", ".join(map(str, set(entry) - known)), "is no field known here")
    for key, kind in (("title", str), ("kind", str), ("year", int)):
        _check(isinstance(entry.get(key), kind), name, key, f"must be there, as {kind.__name__}")
    _check(entry["kind"] in kinds, name, "kind", f"{entry['kind']!r} is none of {', '.join(kinds)}")
    aliases = tuple(entry.get("aliases", ()))
    return {"name": name, "aliases": aliases, "note": entry.get("note", "")} | {
        key: entry[key] for key in ("title", "kind", "year")
    }


def _number(name: str, where: str, entry: Any, sources: dict[str, Source], unit: str | tuple[str, ...]) -> Number:
    _check(isinstance(entry, dict), name, where, f"must be a mapping with value, unit and source, is {entry!r}")
    _check(not set(entry) - _NUMBER_KEYS, name, where, f"{set(entry) - _NUMBER_KEYS} is not known here")
    for key in ("value", "sparse"):
        value = entry.get(key, 1)
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        _check(good and ("value" in entry), name, where, f"{key} must be a positive number, is {entry.get(key)!r}")
    said = str(entry.get("unit"))
    units = (unit,) if isinstance(unit, str) else unit
    _check(said in UNITS and said in units, name, where, f"unit must be {' or '.join(units)}, is {said!r}")
    keys = entry.get("source", [])
    keys = [keys] if isinstance(keys, str) else keys
    _check(bool(keys) and all(key in sources for key in keys), name, where, f"source {keys!r} is not among the sources")
    direction = entry.get("direction")
    _check(direction is None or direction in DIRECTIONS, name, where, f"direction {direction!r} is unknown")
    own = tuple(sources[key] for key in keys)
    rest = {key: entry[key] for key in _NUMBER_KEYS & set(entry) - {"value", "unit", "source", "read", "inputs"}}
    inputs = MappingProxyType(entry.get("inputs", {}))
    read = entry.get("read", max(source.read for source in own))
    return Number(float(entry["value"]), said, own, read, inputs=inputs, **rest)
