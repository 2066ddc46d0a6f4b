"""What computing costs in joules: by operation and byte, by power and time, and as an estimate in CO2. Chapter 11.

Three ways to an energy, and what each is worth:

by operation     so many MACs, so many bytes from each memory, each at its price in a published table (Horowitz
                 2014, 45 nm). It says *where* energy goes. It is no prediction of a device: fetching and decoding
                 instructions, wires, leakage, cooling and the power supply are in no row of it (`LEFT_OUT`)
power x time     a data sheet's watts times a *measured* time: a ceiling, where the watts are a limit that the device
                 keeps. A data sheet's watts times a least time bounds nothing: the time may be longer, the power lower
measured         counters in the processor (`hwlimits.machine.power`), where the computer shows them

>>> from hwlimits.compute import dense
>>> one = dense(1600, 64)
>>> found = of_cost(one, "fp32")
>>> found.movement_j["DRAM"].low > 10 * found.arithmetic_j   # at batch 1 the weights are read for one MAC each
True
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Real
from types import MappingProxyType

from hwlimits import data
from hwlimits.counting import Cost
from hwlimits.devices import Device, device
from hwlimits.units import quantity

J_PER_KWH = 3.6e6
HOROWITZ = "45 nm"  # the process of the table that is complete; "7 nm" has some of its rows
LEFT_OUT = (
    "left out: caches and on-chip memory unless given in moved_bytes, fetching and decoding instructions, registers, "
    "wires between the units, leakage, the power supply and the cooling"
)
# What a precision's products are summed in: as the matrix units of the registry do it.
_SUMMED_IN = {"fp32": "fp32", "fp16": "fp32", "int8": "int32", "int32": "int32"}
# Which watts of a data sheet are a limit that the device keeps, which only over a while, and which are no limit.
_POWERS = {
    "maximum": (True, "stated as the most that it draws"),
    "supply": (True, "what its supply is made for; the device itself draws less"),
    "board": (None, "the limit of the whole board over a while: for milliseconds it may draw more"),
    "TDP": (None, "a limit over a while, which firmware may be set to exceed: for shorter it may draw more"),
    "measured maximum": (False, "the most that was measured in some programs; another may draw more"),
    "typical": (False, "what it typically draws; a busy program draws more"),
    "base": (False, "at the base clock; with a boost it draws more"),
}


class EnergyError(ValueError):
    """An energy that can't be told as asked; the text says what can."""


@dataclass(frozen=True)
class Range:
    """Joules from `low` to `high`; the same where the source has one number."""

    low: float
    high: float

    def __mul__(self, times: float) -> Range:
        return Range(self.low * times, self.high * times)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)


@dataclass(frozen=True)
class Energy:
    """The energy of a count: of its arithmetic, and of its bytes by the memory that they come from.

    `arithmetic_j` in joules; `movement_j`: level -> Range. `left_out` says what no row of the table has.
    """

    arithmetic_j: float
    movement_j: Mapping[str, Range]
    process: str
    left_out: str = LEFT_OUT

    @property
    def total_j(self) -> Range:
        """Arithmetic and bytes: what is counted, at the table's prices; a chip takes more (`left_out`)."""
        return sum(self.movement_j.values(), Range(self.arithmetic_j, self.arithmetic_j))

    @property
    def moving_share(self) -> Range:
        """Share of the total that is moved bytes, for the low and the high prices; 0 for what costs nothing."""
        total = self.total_j
        return Range(*(1 - self.arithmetic_j / t if t else 0.0 for t in (total.low, total.high)))


def processes() -> tuple[str, ...]:
    """The processes that the table has rows of, the oldest first.

    >>> processes()
    ('45 nm', '7 nm')
    """
    return tuple(_table())


def price_j(what: str, process: str = HOROWITZ) -> Range:
    """Joules of one operation ("fp32 multiply"), or of one access of a memory ("DRAM"; `access_bytes` has its width).

    Source: data/papers.yaml, with each row's own. Raises EnergyError that lists the rows of the process.

    >>> price_j("fp32 multiply").low, price_j("DRAM").high
    (3.7e-12, 2.6e-09)
    """
    return _row(what, process)[0]


def access_bytes(level: str, process: str = HOROWITZ) -> int:
    """Bytes that one access of a memory brings. Raises EnergyError for what is no memory.

    >>> access_bytes("DRAM")
    8
    """
    width = _row(level, process)[1]
    if width is None:
        raise EnergyError(f"{level!r} is an operation, no memory; memories are {', '.join(levels(process))}")
    return width


def levels(process: str = HOROWITZ) -> tuple[str, ...]:
    """The memories of the table, from the nearest.

    >>> levels()
    ('SRAM 8 KiB', 'SRAM 32 KiB', 'SRAM 1 MiB', 'DRAM')
    """
    return tuple(what for what, (_, width) in _rows(process).items() if width is not None)


def byte_j(level: str, process: str = HOROWITZ) -> Range:
    """Joules of one byte from a memory, if all bytes of each access are used. Raises EnergyError as `access_bytes`.

    >>> byte_j("SRAM 8 KiB").low
    1.25e-12
    """
    return price_j(level, process) * (1 / access_bytes(level, process))


def mac_j(precision: str, process: str = HOROWITZ) -> float:
    """Joules of one multiply-accumulate: the product in `precision`, the sum in what matrix units sum it in.

    fp32 and fp16 are summed in fp32, int8 and int32 in int32. Raises EnergyError for other precisions: the
    table has no price for them, and none is put in for another.

    >>> round(mac_j("fp32") / mac_j("int8"), 2)   # 3.7 + 0.9 over 0.2 + 0.1
    15.33
    """
    if not isinstance(precision, str) or precision not in _SUMMED_IN:
        raise EnergyError(f"no energy of a MAC in {precision!r} is in the table; it has {', '.join(_SUMMED_IN)}")
    parts = (f"{precision} multiply", f"{_SUMMED_IN[precision]} add")
    return sum(price_j(part, process).low for part in parts)


def of_cost(cost: Cost, precision: str, moved_bytes: Mapping[str, float] | None = None) -> Energy:
    """The energy of a count by the table for 45 nm: MACs and bytes at their prices.

    precision     of the products (`mac_j`); count the layer in the same type, or its bytes are another one's
    moved_bytes   level -> bytes; None: all of the count's bytes from DRAM, each once, and none from caches

    `other_flops` are priced as additions in the type of the sums, which is too little for an exponential.
    Raises EnergyError for a precision or a level that the table doesn't have, and for bytes below 0.

    >>> of_cost(Cost(macs=1000, bytes_read=8), "int8").total_j.low   # 1,000 x 0.3 pJ and one access
    1.6e-09
    """
    moved = {"DRAM": float(cost.bytes)} if moved_bytes is None else dict(moved_bytes)
    for level, amount in moved.items():
        if not (_is_number(amount) and 0 <= amount < math.inf):
            raise EnergyError(f"of_cost: {amount!r} bytes from {level}: must be a number from 0 up")
    arithmetic = cost.macs * mac_j(precision) + cost.other_flops * price_j(f"{_SUMMED_IN[precision]} add").low
    return Energy(arithmetic, MappingProxyType({k: byte_j(k) * n for k, n in moved.items()}), HOROWITZ)


# --- power and time ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerTime:
    """A data sheet's power times a time.

    ceiling   True: no more than that; None: no more over a while; False: bounds nothing. `why` says it in words
    """

    joules: float
    power_w: float
    what: str
    ceiling: bool | None
    why: str


def power_time(found: Device | str, time_s: float) -> PowerTime:
    """The most that a device takes in a *measured* time, as far as its data sheet says so.

    For a predicted least time it is no bound: the run takes longer, and its power is not known.
    Raises DeviceError where no power is published, EnergyError for a time that is not above 0.

    >>> power_time("jetson-orin-nx", 0.002).joules, power_time("jetson-orin-nx", 0.002).ceiling
    (0.05, True)
    """
    found = device(found) if isinstance(found, str) else found
    if not (_is_number(time_s) and 0 < time_s < math.inf):
        raise EnergyError(f"power_time({found.name}, time_s={time_s!r}): a time is a number above 0")
    power = found.number("power")
    ceiling, why = _POWERS[power.what]
    return PowerTime(power.value * time_s, power.value, power.what, ceiling, why)


def flops_per_joule(found: Device | str, precision: str) -> float:
    """Published peak over published power: FLOP (OP for integers) for a joule, if both were reached at once.

    A figure to compare data sheets by, not an efficiency that a program sees. Raises DeviceError where the
    registry lacks either.

    >>> round(flops_per_joule("t4", "fp16") / 1e9)
    929
    """
    found = device(found) if isinstance(found, str) else found
    return found.peak_flops_per_s(precision) / found.power_w


# --- CO2 ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Co2:
    """An estimate in grams of CO2 equivalent: on the world's mean grid, and on the lowest and the highest one.

    Those are the lowest and the highest that the quotation names, not of all countries. It prints as what it is: an
    estimate with its range.
    """

    low_g: float
    world_g: float
    high_g: float
    low_place: str
    high_place: str
    year: int
    left_out: str = "left out: making and scrapping the device, losses of the grid, the hour of the day"

    def __str__(self) -> str:
        low, world, high = (quantity(g, "g") for g in (self.low_g, self.world_g, self.high_g))
        return (
            f"estimate: {world} of CO2 equivalent ({low} in {self.low_place}, {high} in {self.high_place}, {self.year})"
        )


def co2(joules: float, *, overhead: float = 1.0) -> Co2:
    """Grams of CO2 equivalent for so many joules of electricity: an estimate, with the range over grids.

    overhead   energy of the building over that of the computers in it (PUE); 1 for a computer on a desk

    The range over places is the larger part of what is not known; it is not an interval of confidence.
    Source: data/papers.yaml, grid_carbon. Raises EnergyError for joules below 0 and an overhead below 1.

    >>> print(co2(3.6e6))
    estimate: 481 g of CO2 equivalent (30 g in Norway, 713 g in India, 2023)
    """
    if not (_is_number(joules) and 0 <= joules < math.inf):
        raise EnergyError(f"co2(joules={joules!r}): must be a number from 0 up")
    if not (_is_number(overhead) and 1 <= overhead < math.inf):
        raise EnergyError(f"co2(overhead={overhead!r}): a building takes at least what its computers take: 1 or more")
    rows = sorted(data.papers("grid_carbon"), key=lambda row: row["g_per_kwh"])
    (world,) = (row for row in rows if row["place"] == "world")
    used_kwh = joules * overhead / J_PER_KWH
    low, middle, high = (row["g_per_kwh"] * used_kwh for row in (rows[0], world, rows[-1]))
    return Co2(low, middle, high, rows[0]["place"], rows[-1]["place"], world["year"])


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


# --- the table ---------------------------------------------------------------------------------


@cache
def _table() -> dict[str, dict[str, tuple[Range, int | None]]]:
    table: dict[str, dict[str, tuple[Range, int | None]]] = {}
    for row in data.papers("energy_per_operation"):
        price = Range(*(float(f"{row[end]}e-12") for end in ("low_pj", "high_pj")))
        table.setdefault(row["process"], {})[row["what"]] = (price, row.get("bytes"))
    return table


def _rows(process: str) -> dict[str, tuple[Range, int | None]]:
    if process not in _table():
        raise EnergyError(f"no table for the process {process!r}; there are {', '.join(processes())}")
    return _table()[process]


def _row(what: str, process: str) -> tuple[Range, int | None]:
    rows = _rows(process)
    if what not in rows:
        raise EnergyError(f"the table for {process} has no {what!r}; it has {', '.join(rows)}")
    return rows[what]
