"""The machine card: what this computer can do, measured once and kept.

here = card()                              # measured now if there is none, about two minutes
here.peak_flops_per_s("fp32")              # one thread
here.bandwidth_bytes_per_s("DRAM", "all")  # as many threads as there are usable cores
here                                       # a table: every number with its spread
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hwlimits.data import cache_folder
from hwlimits.machine.record import Card, CardError, Number

__all__ = ["Card", "CardError", "Number", "card", "stored_path"]


def card() -> Card:
    """This computer's card: the stored one, or one that is measured now (about two minutes) and stored.

    It is stored in the course's cache folder, or where HWLIMITS_CARD says. A card that an earlier version
    of the course has stored, without what this one measures, is measured anew; one that HWLIMITS_CARD
    names is taken as it is. Raises CardError if the stored file is damaged, or if HWLIMITS_CARD names the
    card of another computer.
    """
    from hwlimits.machine.calibrate import calibrate, not_measured

    path = stored_path()
    if path.exists():
        found = Card.read(path)
        lacking = [] if os.environ.get("HWLIMITS_CARD") else not_measured(found)
        if found.same_computer() and not lacking:
            return found
        if found.same_computer():
            why = f"the stored card is an earlier version's, which did not measure {', '.join(lacking)}"
        elif os.environ.get("HWLIMITS_CARD"):
            raise CardError(
                f"HWLIMITS_CARD names {path}, the card of another computer ({found.name}): unset it, "
                "let it name a new file, or look at that card with Card.read."
            )
        else:
            why = f"the stored card is of another computer ({found.name})"
    else:
        why = "this computer has no machine card yet"
    print(f"hwlimits: {why}; measuring one now, about two minutes.", file=sys.stderr)
    try:
        found = calibrate()
    except KeyboardInterrupt:
        print("hwlimits: interrupted; call it again in this program, and it goes on from there.", file=sys.stderr)
        raise
    try:
        found.write(path)
    except OSError as error:
        print(f"hwlimits: the card is used but not kept in {path} ({error.strerror}).", file=sys.stderr)
    return found


def stored_path() -> Path:
    """Where this computer's card is kept: HWLIMITS_CARD, or machine-card.json in the course's cache folder."""
    named = os.environ.get("HWLIMITS_CARD")
    return Path(os.path.expanduser(named)) if named else cache_folder() / "machine-card.json"
