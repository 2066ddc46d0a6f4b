"""This computer: how long a thing takes on it, what was predicted, and what made a stored number."""

from hwlimits.machine.ledger import Ledger
from hwlimits.machine.timing import Comparison, Timing, compare, measure

__all__ = ["Comparison", "Ledger", "Timing", "compare", "measure"]
