"""How many of which device: the cheapest mix that serves so many examples a second, on so many watts. Chapter 11.

Which device is cheapest is one question, which *devices* are is another: a load seldom is a whole number of the best
one, and the remainder may be served by something smaller. It is an integer program (a covering knapsack, which is
NP-hard: Garey and Johnson 1979, problem MP9); SciPy's solver (HiGHS) finds its optimum for the sizes of a rack.

>>> big, small = Offer("big", examples_per_s=100, power_w=300, price_usd=1000), Offer("small", 10, 15, 150)
>>> cheapest([big, small], examples_per_s=210).counts
{'big': 2, 'small': 1}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np

MOST = 10**6  # devices: to the solver, sums that differ by less than a millionth are equal


class FleetError(ValueError):
    """A load that no mix serves, or numbers that can't be; the text says which."""


@dataclass(frozen=True)
class Offer:
    """One kind of device, as one buys it: what it serves, what it draws, what it costs.

    Raises FleetError for a number that is not above 0.
    """

    name: str
    examples_per_s: float
    power_w: float
    price_usd: float

    def __post_init__(self):
        for what in ("examples_per_s", "power_w", "price_usd"):
            value = getattr(self, what)
            if not (_is_number(value) and value > 0):
                raise FleetError(f"offer {self.name!r}: {what} is {value!r}; it must be a number above 0")

    def cost_usd(self, hours: float, usd_per_kwh: float) -> float:
        """Price, and electricity for so many hours at its full power. Raises FleetError for numbers below 0.

        >>> Offer("card", 1, 500, 1000).cost_usd(hours=8760, usd_per_kwh=0.2)
        1876.0
        """
        for what, value in (("hours", hours), ("usd_per_kwh", usd_per_kwh)):
            if not (_is_number(value) and value >= 0):
                raise FleetError(f"offer {self.name!r}: {what} is {value!r}; it must be a number from 0 up")
        return self.price_usd + self.power_w / 1000 * hours * usd_per_kwh


@dataclass(frozen=True)
class Fleet:
    """How many of each offer (those of none are left out), and their sums."""

    counts: Mapping[str, int]
    examples_per_s: float
    power_w: float
    price_usd: float
    cost_usd: float


def cheapest(
    offers: Iterable[Offer],
    examples_per_s: float,
    *,
    power_w: float | None = None,
    hours: float = 0.0,
    usd_per_kwh: float = 0.0,
) -> Fleet:
    """The mix of the least cost that serves a load, all running side by side; of equal ones the one of less power.

    Loads, watts and costs that differ by less than a millionth are equal to the solver.

    power_w               the most that all may draw together; None: no limit
    hours, usd_per_kwh    electricity that is paid as well as the price; 0: the price alone

    Raises FleetError for no offers, two of one name, a number that can't be, an offer of which a million would not
    serve the load (the solver could not tell a fleet from one of a device less), and where the watts are too few: with
    the least that the load takes.
    """
    offers = list(offers)
    for offer in offers:
        if not isinstance(offer, Offer):
            raise FleetError(f"cheapest: {offer!r} is no Offer: give a list of them")
    names = [offer.name for offer in offers]
    if not offers or len(set(names)) < len(names):
        raise FleetError(
            f"cheapest: {len(offers)} offers called {', '.join(names)}: give one or more, each a name of its own"
        )
    for what, value, least in (("examples_per_s", examples_per_s, None), ("power_w", power_w, None),
                               ("hours", hours, 0), ("usd_per_kwh", usd_per_kwh, 0)):  # fmt: skip
        if value is None and what == "power_w":
            continue
        if not (_is_number(value) and (value > 0 or value == least)):
            raise FleetError(f"cheapest({what}={value!r}): must be a number {'from 0 up' if least == 0 else 'above 0'}")
    least = min(offers, key=lambda offer: offer.examples_per_s)
    if examples_per_s / least.examples_per_s > MOST:
        raise FleetError(
            f"cheapest: {examples_per_s:g} examples/s would take {examples_per_s / least.examples_per_s:g} of "
            f"{least.name!r} alone, and the most that can be told apart are {MOST:,}: leave it out, or give larger ones"
        )
    costs = np.array([offer.cost_usd(hours, usd_per_kwh) for offer in offers])
    served = np.array([offer.examples_per_s for offer in offers]) / examples_per_s
    watts = np.array([offer.power_w for offer in offers])
    rows = [(served, 1.0, np.inf)]
    if power_w is not None:
        rows.append((watts / power_w, -np.inf, 1.0))
    counts = _solve(costs / costs.max(), rows)
    if counts is None:
        least = watts @ _solve(watts / watts.max(), rows[:1])
        raise FleetError(f"no mix serves {examples_per_s:g} examples/s on {power_w:g} W: it takes {least:g} W at least")
    spent = float(costs @ counts)
    frugal = _solve(watts / watts.max(), [*rows, (costs / spent, -np.inf, 1 + 1e-9)])
    if frugal is not None and costs @ frugal <= spent * (1 + 1 / MOST):
        counts = frugal
    return Fleet(
        {name: int(n) for name, n in zip(names, counts, strict=True) if n},
        examples_per_s=float(served @ counts * examples_per_s),
        power_w=float(watts @ counts),
        price_usd=float(sum(offer.price_usd * n for offer, n in zip(offers, counts, strict=True))),
        cost_usd=float(costs @ counts),
    )


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _solve(weights: np.ndarray, rows: list[tuple[np.ndarray, float, float]]) -> np.ndarray | None:
    """Whole numbers that keep to every row (low <= coefficients . counts <= high), of the least weight; or None."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes longer to import than all else here

    limits = [LinearConstraint(np.atleast_2d(a), low, high) for a, low, high in rows]
    found = milp(
        weights,
        constraints=limits,
        integrality=np.ones(len(weights)),
        bounds=Bounds(0, np.inf),
        options={"mip_rel_gap": 0},  # by default it stops at a ten-thousandth of the optimum
    )
    return None if found.x is None else np.rint(found.x)
