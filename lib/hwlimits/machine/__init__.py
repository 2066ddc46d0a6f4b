"""This computer: what it can do, how long a thing takes on it, what was predicted, and what made a stored number."""

from hwlimits.machine.card import Card, CardError, card
from hwlimits.machine.ledger import Ledger
from hwlimits.machine.timing import Comparison, Timing, compare, measure

__all__ = ["Card", "CardError", "Comparison", "Ledger", "Timing", "card", "compare", "measure"]
