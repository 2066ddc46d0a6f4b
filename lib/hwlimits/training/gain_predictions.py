"""Faster, slower or equal? Optimisations of known networks, predicted from a card before they are measured.

    python -m hwlimits.training.gain_predictions      data/results/gain_predictions.{csv,json}

For each network its float32 file against four others made from it: float16 weights, dynamic range, int8, and
nine tenths of the weights pruned. The prediction is the quotient of two predicted times; the measurement is
an interleaved comparison with an A/A control. Equal is closer than one part in twenty, in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hwlimits import data, progress
from hwlimits.machine.card import card as this_card
from hwlimits.machine.provenance import provenance, require_clean_commit, store_table
from hwlimits.machine.record import Card
from hwlimits.machine.timing import EQUAL_WITHIN, Comparison, compare
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.operator_times import runner
from hwlimits.training.prediction_errors import CARD, files
from hwlimits.training.prediction_models import FORMS, GAINS
from hwlimits.training.predictions import predict

COMMAND = "make results-gains"
RESULTS = "gain_predictions"
OPTIMISATIONS = FORMS[1:]
COLUMNS = ("model", "optimisation", "predicted", "measured", "sign_right", "predicted_speedup", "measured_speedup",
           "low", "high", "aa_control", "attempts")  # fmt: skip


def verdict(speedup: float) -> str:
    """'faster', 'slower' or 'equal' for a quotient of times.

    >>> [verdict(s) for s in (1.2, 1.04, 0.9)]
    ['faster', 'equal', 'slower']
    """
    if speedup > 1 + EQUAL_WITHIN:
        return "faster"
    return "slower" if speedup < 1 - EQUAL_WITHIN else "equal"


@dataclass(frozen=True)
class Gain:
    """One network, one optimisation: the predicted speed-up, and the measured comparison of before and after."""

    model: str
    optimisation: str
    predicted: float
    measured: Comparison

    def row(self) -> dict:
        """A line of the table."""
        found = self.measured
        return {
            "model": self.model,
            "optimisation": self.optimisation,
            "predicted": verdict(self.predicted),
            "measured": found.verdict,
            "sign_right": verdict(self.predicted) == found.verdict,
            "predicted_speedup": self.predicted,
            "measured_speedup": found.ratio,
            "low": found.low,
            "high": found.high,
            "aa_control": found.aa_ratio,
            "attempts": found.attempts,
        }


def predicted_speedup(before: LiteRTFile, after: LiteRTFile, card: Card) -> float:
    """Predicted time of one file over that of another: above 1, the other is faster."""
    return predict(before, card).time_s / predict(after, card).time_s


def summary(rows: list[dict]) -> str:
    """How many signs were right, and how many "not faster" each time would have had right."""
    right = sum(row["sign_right"] for row in rows)
    never = sum(row["measured"] in ("equal", "slower") for row in rows)
    void = sum(row["measured"] == "VOID" for row in rows)
    return (
        f"{right} of {len(rows)} right ({right / len(rows):.0%}); answering 'not faster' each time has {never} right, "
        f"and does not tell equal from slower; {void} void"
    )


def stored_card() -> Card:
    """The card that the table of errors was made with, if it is of this computer; else this computer's."""
    path = data.path("results") / CARD
    if path.exists() and (found := Card.read(path)).same_computer():
        return found
    return this_card()


def main(say: Callable[[str], None] = print) -> None:
    require_clean_commit()
    card = stored_card()
    made = files(GAINS, FORMS, Path("build/predictions"))
    todo = [(model, form) for model in GAINS for form in OPTIMISATIONS]
    predicted = {key: predicted_speedup(made[key[0], "float32"], made[key], card) for key in todo}  # before any is run
    rows = []
    for model, form in progress.bar(todo, desc="gains"):
        found = compare(runner(made[model, "float32"]), runner(made[model, form]), rounds=11, attempts=6)
        rows.append(Gain(model, form, predicted[model, form], found).row())
    said = summary(rows)
    made_by = provenance(COMMAND, card_date=card.provenance["date"], summary=said)
    store_table(data.path("results") / f"{RESULTS}.csv", COLUMNS, rows, made_by)
    say(said)


if __name__ == "__main__":
    main()
