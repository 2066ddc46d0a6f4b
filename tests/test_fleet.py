"""Fleets against all mixes tried one by one, and what can't be served."""

import itertools
import math

import numpy as np
import pytest

from hwlimits import fleet
from hwlimits.fleet import FleetError, Offer


def tried(offers, load, power_w=None, hours=0.0, usd_per_kwh=0.0):
    """The least (cost, watts) of all mixes that serve the load, by trying them; None if none does."""
    most = [math.ceil(load / o.examples_per_s) for o in offers]
    best = None
    for counts in itertools.product(*(range(n + 1) for n in most)):
        served = sum(n * o.examples_per_s for n, o in zip(counts, offers, strict=True))
        watts = sum(n * o.power_w for n, o in zip(counts, offers, strict=True))
        if served < load or (power_w is not None and watts > power_w):
            continue
        paid = sum(
            n * (o.price_usd + o.power_w / 1000 * hours * usd_per_kwh) for n, o in zip(counts, offers, strict=True)
        )
        best = min(best or (math.inf,), (paid, watts))
    return best


@pytest.mark.parametrize("seed", range(40))
def test_no_mix_is_cheaper(seed):
    random = np.random.default_rng(seed)
    offers = [
        Offer(f"o{i}", int(random.integers(1, 30)), int(random.integers(1, 60)), int(random.integers(1, 40)))
        for i in range(int(random.integers(1, 4)))
    ]
    load = int(random.integers(1, 90))
    limit = int(random.integers(20, 300)) if seed % 2 else None
    running = {"hours": 1000.0, "usd_per_kwh": 0.25} if seed % 3 == 0 else {}
    best = tried(offers, load, limit, **running)
    if best is None:
        with pytest.raises(FleetError, match="no mix serves"):
            fleet.cheapest(offers, load, power_w=limit, **running)
        return
    found = fleet.cheapest(offers, load, power_w=limit, **running)
    by_name = {o.name: o for o in offers}
    assert found.cost_usd == pytest.approx(best[0])
    assert found.power_w == pytest.approx(best[1])
    assert found.examples_per_s == pytest.approx(sum(n * by_name[k].examples_per_s for k, n in found.counts.items()))
    assert found.price_usd == pytest.approx(sum(n * by_name[k].price_usd for k, n in found.counts.items()))
    assert found.examples_per_s >= load
    assert all(n > 0 for n in found.counts.values())


BIG, SMALL = Offer("big", 100, 300, 1000), Offer("small", 10, 15, 150)


def test_a_mix_is_cheaper_than_either_alone():
    alone = [fleet.cheapest([o], 210).price_usd for o in (BIG, SMALL)]
    mixed = fleet.cheapest([BIG, SMALL], 210)
    assert (mixed.counts, mixed.price_usd) == ({"big": 2, "small": 1}, 2150)
    assert mixed.price_usd < min(alone) == 3000


def test_too_few_watts_for_the_cheap_one_choose_the_frugal_one():
    assert fleet.cheapest([BIG, SMALL], 200).counts == {"big": 2}
    assert fleet.cheapest([BIG, SMALL], 200, power_w=500).counts == {"big": 1, "small": 10}
    assert fleet.cheapest([BIG, SMALL], 200, power_w=320).counts == {"small": 20}


def test_electricity_may_turn_the_choice():
    hungry, frugal = Offer("hungry", 10, 500, 100), Offer("frugal", 10, 50, 900)
    assert fleet.cheapest([hungry, frugal], 10).counts == {"hungry": 1}
    found = fleet.cheapest([hungry, frugal], 10, hours=3 * 8766, usd_per_kwh=0.2)
    assert found.counts == {"frugal": 1}
    assert found.cost_usd == pytest.approx(900 + 0.050 * 3 * 8766 * 0.2)
    assert found.price_usd == 900


def test_of_equal_costs_the_one_of_less_power():
    one, other = Offer("one", 10, 80, 100), Offer("other", 10, 20, 100)
    assert fleet.cheapest([one, other], 10).counts == {"other": 1}
    assert fleet.cheapest([other, one], 10).counts == {"other": 1}


@pytest.mark.parametrize("seed", range(6))
def test_costs_that_differ_by_less_than_the_solver_s_own_gap_are_told_apart(seed):
    """Large prices that are nearly in proportion to what is served: the best mix is ahead of others by a hair."""
    random = np.random.default_rng(seed)
    rates = random.permutation([7, 11, 13])
    offers = [Offer(f"o{r}", int(r), 10, float(100_000 * r + random.integers(1, 40))) for r in rates]
    best = tried(offers, 97)
    assert fleet.cheapest(offers, 97).cost_usd == pytest.approx(best[0], rel=2e-6)


def test_offers_may_come_from_a_generator():
    assert fleet.cheapest((o for o in (BIG, SMALL)), 210).counts == {"big": 2, "small": 1}


def test_as_many_as_can_be_told_apart():
    """A million devices: one less would not do, and is seen to be less."""
    one = Offer("one", 1, 1, 1)
    assert fleet.cheapest([one], 1_000_000).counts == {"one": 1_000_000}
    assert fleet.cheapest([one], 999_999).counts == {"one": 999_999}
    assert fleet.cheapest([one, Offer("more", 1000, 999, 999)], 1_000_000).counts == {"more": 1000}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: fleet.cheapest([], 1), "cheapest: 0 offers called : give one or more, each a name of its own"),
        (lambda: fleet.cheapest([BIG, BIG], 1), "2 offers called big, big: give one or more"),
        (lambda: fleet.cheapest([BIG], 0), "cheapest(examples_per_s=0): must be a number above 0"),
        (lambda: fleet.cheapest([BIG], math.nan), "cheapest(examples_per_s=nan): must be a number above 0"),
        (lambda: fleet.cheapest([BIG], 1, power_w=0), "cheapest(power_w=0): must be a number above 0"),
        (lambda: fleet.cheapest([BIG], 1, hours=-1), "cheapest(hours=-1): must be a number from 0 up"),
        (lambda: fleet.cheapest([BIG], 1, usd_per_kwh=-0.1), "cheapest(usd_per_kwh=-0.1): must be a number from 0 up"),
        (lambda: fleet.cheapest([BIG, SMALL], 200, power_w=200),
         "no mix serves 200 examples/s on 200 W: it takes 300 W at least"),
        (lambda: fleet.cheapest([BIG], True), "cheapest(examples_per_s=True): must be a number above 0"),
        (lambda: fleet.cheapest([BIG], None), "cheapest(examples_per_s=None): must be a number above 0"),
        (lambda: fleet.cheapest([BIG], "5"), "cheapest(examples_per_s='5'): must be a number above 0"),
        (lambda: fleet.cheapest([BIG], 1, power_w="5"), "cheapest(power_w='5'): must be a number above 0"),
        (lambda: fleet.cheapest([BIG], 1, power_w=False), "cheapest(power_w=False): must be a number above 0"),
        (lambda: fleet.cheapest([BIG], 1, hours=None), "cheapest(hours=None): must be a number from 0 up"),
        (lambda: fleet.cheapest([BIG], 1, hours=True), "cheapest(hours=True): must be a number from 0 up"),
        (lambda: fleet.cheapest([BIG], 1, usd_per_kwh=math.nan), "cheapest(usd_per_kwh=nan): must be a number"),
        (lambda: fleet.cheapest(["big"], 1), "cheapest: 'big' is no Offer"),
        (lambda: fleet.cheapest([Offer("a", 1, 1, 1)], 1e10),
         "cheapest: 1e+10 examples/s would take 1e+10 of 'a' alone, and the most that can be told apart are 1,000,000"),
        (lambda: fleet.cheapest([Offer("a", 1, 1, 1), Offer("b", 1e9, 1, 1)], 1e10),
         "1e+10 of 'a' alone, and the most that can be told apart are 1,000,000: leave it out, or give larger ones"),
        (lambda: BIG.cost_usd(-5, 0.1), "offer 'big': hours is -5; it must be a number from 0 up"),
        (lambda: BIG.cost_usd(1, math.nan), "offer 'big': usd_per_kwh is nan; it must be a number from 0 up"),
        (lambda: Offer("typed", "1", 1, 1), "offer 'typed': examples_per_s is '1'; it must be a number above 0"),
        (lambda: Offer("free", 1, 1, 0), "offer 'free': price_usd is 0; it must be a number above 0"),
        (lambda: Offer("idle", 0, 1, 1), "offer 'idle': examples_per_s is 0"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_in_a_sentence(call, text):
    with pytest.raises(FleetError) as error:
        call()
    assert text in str(error.value)
