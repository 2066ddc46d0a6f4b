"""The energy that this computer took, by its processor's counters (RAPL, in Linux's powercap), where it shows them.

why = why_not_measured()                  # "" where it can be measured, else one sentence
measure(lambda: x @ w).joules             # energy of one call: everything that the processor's packages took meanwhile

A package's counter counts the whole package: other programs, and what it takes when idle. So `measure` turns
windows with the call and windows without it about, and gives both. DRAM is a counter of its own where there is one;
psys (the whole platform) contains the packages, and is left out of the sum. Virtual machines and containers
mostly show no counters, and macOS and Windows have no powercap: then nothing is estimated in their place.

Source: the kernel's documentation, "Power Capping Framework"; counters are renewed about every millisecond.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from hwlimits import devices
from hwlimits.machine.timing import NOISY_ABOVE

POWERCAP = Path("/sys/class/powercap")
STILL_S = 0.05  # in which a counter moves, if it moves at all: even an idle package takes a thousand of its steps
WINDOW_S = 0.25  # some hundred renewals of a counter, so that its step is below a hundredth
SUMMED = ("package", "dram")  # the zones that do not contain each other
AS_ROOT = "sudo chmod -R a+r /sys/class/powercap"


class NotMeasured(RuntimeError):
    """The energy can't be measured here; the text says why."""


@dataclass(frozen=True)
class Zone:
    """One counter: its name ('package-0', 'dram'), its files' folder, and the microjoules at which it starts anew."""

    name: str
    folder: Path
    range_uj: int

    def read_uj(self) -> int:
        """The counter now, in microjoules. Raises NotMeasured where it may not be read."""
        return _number(self.folder / "energy_uj")

    def between_j(self, before_uj: int, after_uj: int) -> float:
        """Joules between two readings; a counter that is lower than before has started anew, once."""
        return (after_uj - before_uj + (self.range_uj if after_uj < before_uj else 0)) * 1e-6


def zones(root: Path = POWERCAP) -> list[Zone]:
    """The counters whose sum is the processor's and its memory's energy. Raises NotMeasured where there are none.

    Zones of `intel-rapl-mmio` show the same packages by another way, and are left out.
    """
    if not root.is_dir():
        raise NotMeasured(
            f"energy is not measured here: there is no {root}. Linux on a processor of Intel or AMD has it; "
            "a virtual machine, a container, macOS and Windows show none"
        )
    folders = sorted(f for f in root.glob("intel-rapl:*") if (f / "energy_uj").exists())
    found = [Zone(_words(f / "name"), f, _number(f / "max_energy_range_uj")) for f in folders]
    summed = [zone for zone in found if zone.name.startswith(SUMMED)]
    if not summed:
        there = ", ".join(zone.name for zone in found) or "no counter at all"
        raise NotMeasured(f"energy is not measured here: {root} has no counter of a package; it has {there}")
    for zone in summed:
        zone.read_uj()  # may it be read? Better known now than after the work
    return summed


def why_not_measured(root: Path = POWERCAP, *, sleep: Callable[[float], None] = time.sleep) -> str:
    """One sentence that says why energy can't be measured on this computer; empty where it can.

    Counters are read twice, `STILL_S` apart: some virtual machines have the files, and nothing counts in them.

    >>> why_not_measured(Path("/nowhere")).partition(":")[0]
    'energy is not measured here'
    """
    try:
        counters = zones(root)
        before = [zone.read_uj() for zone in counters]
        sleep(STILL_S)
        if before == [zone.read_uj() for zone in counters]:
            raise _still(counters)
    except NotMeasured as error:
        return str(error)
    return ""


def _still(counters: list[Zone]) -> NotMeasured:
    names = " + ".join(zone.name for zone in counters)
    return NotMeasured(
        f"energy is not measured here: the counters stand still ({names}), as in some virtual machines; 0 J would be "
        "no measurement"
    )


def _words(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise NotMeasured(f"energy is not measured here: {path} can't be read ({error})") from None


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError:
        raise NotMeasured(
            f"energy is not measured here: {path} may be read by root alone, as the counters tell of other programs' "
            f"secrets (CVE-2020-8694). On a computer of your own: {AS_ROOT}"
        ) from None
    except (OSError, ValueError) as error:
        raise NotMeasured(f"energy is not measured here: {path} can't be read as a number ({error})") from None


@dataclass(frozen=True)
class Reading:
    """What windows with a call and windows without it took.

    samples_j   joules of one call, a window each; everything that the counters saw meanwhile
    idle_w      watts in the windows between, in which this program slept
    call_s      seconds of one call
    counters    their names
    """

    samples_j: tuple[float, ...]
    idle_w: float
    call_s: float
    counters: tuple[str, ...]

    @property
    def joules(self) -> float:
        """Median energy of one call, what the processor takes when idle included."""
        return statistics.median(self.samples_j)

    @property
    def iqr_j(self) -> float:
        """Interquartile range of the samples."""
        low, high = np.percentile(self.samples_j, [25, 75])
        return float(high - low)

    @property
    def above_idle_j(self) -> float:
        """Median energy less what would have been taken anyway; below 0 is noise, and is shown as it is."""
        return self.joules - self.idle_w * self.call_s

    @property
    def noisy(self) -> bool:
        return self.iqr_j > NOISY_ABOVE * self.joules

    def __str__(self) -> str:
        mark = " NOISY" if self.noisy else ""
        return (
            f"{self.joules:.3g} J a call (IQR {self.iqr_j:.2g}, n = {len(self.samples_j)}){mark}, "
            f"{self.above_idle_j:.3g} J above idle at {self.idle_w:.3g} W, from {' + '.join(self.counters)}"
        )


def measure(
    fn: Callable[[], Any],
    *,
    repeats: int = 10,
    window_s: float = WINDOW_S,
    root: Path = POWERCAP,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Reading:
    """Energy of a call: `repeats` windows of at least `window_s` with as many calls as fit, between idle ones.

    Raises NotMeasured where there are no counters or none moves, and for a window in which one may have started anew
    twice; ValueError for repeats that are no whole number from 3 on, and windows that are no number above 0.
    """
    if isinstance(repeats, bool) or not isinstance(repeats, Integral) or repeats < 3:
        raise ValueError(f"measure(repeats={repeats!r}): ask for at least 3 windows")
    if isinstance(window_s, bool) or not isinstance(window_s, Real) or not 0 < window_s < math.inf:
        raise ValueError(f"measure(window_s={window_s!r}): must be a number above 0")
    counters = zones(root)
    fn()  # the first call may load or compile
    joules, seconds, idle_j, idle_s = [], [], 0.0, 0.0
    for _ in range(repeats):
        took_j, took_s, _ = _window(lambda: sleep(window_s), 0.0, counters, clock)
        idle_j, idle_s = idle_j + took_j, idle_s + took_s
        took_j, took_s, calls = _window(fn, window_s, counters, clock)
        joules.append(took_j / calls)
        seconds.append(took_s / calls)
    if not idle_j and not any(joules):
        raise _still(counters)
    return Reading(tuple(joules), idle_j / idle_s, statistics.median(seconds), tuple(z.name for z in counters))


def _window(fn, window_s: float, counters: list[Zone], clock) -> tuple[float, float, int]:
    """Joules, seconds and calls of one window: at least one call."""
    before = [zone.read_uj() for zone in counters]
    start, calls = clock(), 0
    while True:
        fn()
        calls += 1
        took_s = clock() - start
        if took_s >= window_s:
            break
    after = [zone.read_uj() for zone in counters]
    shortest_s = min(zone.range_uj for zone in counters) * 1e-6 / most_watts()
    if took_s > shortest_s:
        raise NotMeasured(
            f"a window took {took_s:.3g} s: at {most_watts():g} W a counter starts anew every {shortest_s:.3g} s, and "
            "may have done so unseen; measure a shorter call"
        )
    return sum(zone.between_j(*pair) for zone, *pair in zip(counters, before, after, strict=True)), took_s, calls


def most_watts() -> float:
    """Twice the largest power that the registry has of a processor: no counter's package is taken to draw more."""
    kinds = ("laptop-cpu", "desktop-cpu", "server-cpu")
    return 2 * max(d.power_w for kind in kinds for d in devices.devices(kind) if "power" in d.numbers)
