"""The capstone: a model file under a budget of bytes, milliseconds and accuracy, scored; and a leaderboard of many.

    python -m hwlimits.training.capstone FOLDER --bytes 60000 --latency-ms 0.5 --accuracy 0.95 [--deflated] [--json]

Each limit gives a ratio that is 1 or more where it is kept: limit / bytes, limit / latency, accuracy / limit. The
score is their geometric mean, or 0 if a limit is missed. A latency whose samples scatter (NOISY), or that was taken
while the A/A control was off, decides nothing: its ratio counts as 1, its limit is neither kept nor missed, and the
file gets no place. Scores that 5 % of one ratio would bring together are a tie.

What is refused `submissions` says. **Not guarded against**: a network that was trained on the held-out images, or has
learnt them by heart (score on images that nobody has seen, `--images`); one that is good at just these by luck (see
the interval); a file whose submitter is not its maker (only equal files are told).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hwlimits.machine.provenance import provenance
from hwlimits.machine.timing import AA_TOLERANCE, Timing, measure
from hwlimits.training import mnist
from hwlimits.training.capstone_score import TIE, Budget, Score
from hwlimits.training.evaluate import THREADS
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.report import markdown
from hwlimits.training.submissions import SubmissionError, check_images, examine, file_of
from hwlimits.units import seconds

ROUNDS, ATTEMPTS = 10, 3
COLUMNS = ("place", "name", "score", "file_bytes", "deflated_bytes", "accuracy", "accuracy_low", "accuracy_high",
           "latency_s", "latency_iqr_s", "disturbed", "missed", "said")  # fmt: skip


def score(
    path: str | Path, budget: Budget, images: np.ndarray, labels: np.ndarray, *, attempts: int = ATTEMPTS
) -> Score:
    """The score of one .tflite file on held-out `images` uint8 (n, height, width) with `labels` (n,) from 0 up.

    A noisy latency is measured again, `attempts` times in all; the last one stands.
    Raises SubmissionError for a file that can't be scored.
    """
    content, right = examine(Path(path), images, labels)
    runner = LiteRTFile(content).runner(images[:1], threads=THREADS)
    for _ in range(attempts):
        latency = measure(runner)
        if not latency.noisy:
            break
    return _score(Path(path).stem, budget, content, right, len(images), latency)


@dataclass(frozen=True)
class Leaderboard:
    """Scores, the best first; what was rejected, and why; and the A/A control of the latencies, 1 if all was still."""

    budget: Budget
    scores: tuple[Score, ...]
    rejected: dict[str, str]
    aa_ratio: float

    @cached_property
    def places(self) -> list[str]:
        """'1', '2', ...; '2=' in a tie with the first of that place; '' without a place."""
        ranked = [s.value for s in self.scores if s.value and not s.disturbed]
        firsts: list[int] = []
        for i, value in enumerate(ranked):
            tied = i > 0 and ranked[firsts[-1]] < value * TIE
            firsts.append(firsts[-1] if tied else i)
        found = iter(f"{first + 1}{'=' if firsts.count(first) > 1 else ''}" for first in firsts)
        return [next(found) if s.value and not s.disturbed else "" for s in self.scores]

    @cached_property
    def said(self) -> list[str]:
        """Beside each score: what it says itself, and who handed in the same file."""
        first = {s.digest: s.name for s in reversed(self.scores) if s.digest}
        same = [first.get(s.digest, s.name) for s in self.scores]
        return [
            "; ".join([*s.said, *([f"the same file as {name}"] if name != s.name else [])])
            for s, name in zip(self.scores, same, strict=True)
        ]

    def rows(self) -> list[dict]:
        """A dictionary with COLUMNS for each submission; where there is no number, None."""
        found = []
        for place, s, said in zip(self.places, self.scores, self.said, strict=True):
            numbers = (s.value, s.file_bytes, s.deflated_bytes, s.accuracy, *s.interval, s.latency.median_s)
            rest = (s.latency.iqr_s, s.disturbed, " ".join(s.missed), said)
            found.append(dict(zip(COLUMNS, (place, s.name, *numbers, *rest), strict=True)))
        empty = dict.fromkeys(COLUMNS) | {"place": ""}
        return found + [empty | {"name": n, "said": f"not scored: {why}"} for n, why in self.rejected.items()]

    def markdown(self) -> str:
        """The limits, the A/A control and a table."""
        size = "bytes after deflate" if self.budget.deflated else "bytes"
        limits = f"At most {self.budget.file_bytes:,} {size} and {seconds(self.budget.latency_s)} for one image, "
        limits += f"at least {100 * self.budget.accuracy:g} % right. A/A control of the latencies: {self.aa_ratio:.3f}."
        numbers = [s.shown for s in self.scores]
        numbers += [dict.fromkeys(("score", "bytes", "deflated", "right %", "one image"), "")] * len(self.rejected)
        table = [
            {"place": row["place"], "name": _cell(row["name"]), **shown, "": _cell(row["said"])}
            for row, shown in zip(self.rows(), numbers, strict=True)
        ]
        return limits + "\n\n" + (markdown(table) if table else "There are no submissions.")

    def csv(self) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.rows():  # a name that begins like a formula is one for a spreadsheet
            writer.writerow(row | {"name": ("'" if row["name"][0] in "=+-@" else "") + row["name"]})
        return out.getvalue()

    def json(self, command: str) -> str:
        """All of it, with what made it: `command` is what was typed."""
        limits = asdict(self.budget) | {"aa_ratio": self.aa_ratio}
        return json.dumps({"provenance": provenance(command), "budget": limits, "rows": self.rows()}, indent=1)

    _repr_markdown_ = markdown


def leaderboard(
    folder: str | Path,
    budget: Budget,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    attempts: int = ATTEMPTS,
) -> Leaderboard:
    """Score what is in a folder: for each student a .tflite file, or a folder that holds one.

    Latencies are taken in turns, there and back, with one file twice as a control, so that a computer that slows
    down does so for all. Without images it takes MNIST's test images, or the sample's where there is no network.
    Raises NotADirectoryError if there is no such folder, ValueError for images without labels; what can't be scored
    is in `rejected`.
    """
    if not (folder := Path(folder)).is_dir():
        raise NotADirectoryError(f"leaderboard: {folder} is no folder; give the one that the submissions are in")
    if (images is None) != (labels is None):
        raise ValueError("leaderboard: images and labels come together, and one of them is missing")
    if images is None:
        data = mnist.load("best")
        images, labels = data.x_test, data.y_test
    check_images(images, labels)
    found, rejected = {}, {}
    for entry in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        name = _printable(entry.name.removesuffix(".tflite"))
        while name in found or name in rejected:  # anna/ and anna.tflite are two
            name += "'"
        try:
            found[name] = examine(file_of(entry), images, labels)
        except (SubmissionError, OSError) as error:
            rejected[name] = _printable(str(error))
    runners = [LiteRTFile(content).runner(images[:1], threads=THREADS) for content, _ in found.values()]
    latencies, aa_ratio = _in_turns(runners, attempts) if runners else ([], 1.0)
    steady = abs(aa_ratio - 1) <= AA_TOLERANCE
    scores = [
        _score(name, budget, content, right, len(images), latency, steady)
        for (name, (content, right)), latency in zip(found.items(), latencies, strict=True)
    ]
    scores.sort(key=lambda s: (s.value == 0, s.disturbed, -s.value, s.name))
    return Leaderboard(budget, tuple(scores), rejected, aa_ratio)


def _score(name, budget, content, right, images, latency, steady=True) -> Score:
    file = LiteRTFile(content)
    digest = hashlib.sha256(content).hexdigest()
    return Score(name, budget, file.raw_bytes, file.deflated_bytes, right, images, latency, steady, digest)


def _in_turns(runners: Sequence[Callable], attempts: int) -> tuple[list[Timing], float]:
    """Latencies sampled in rounds, every second round backwards, and that of the first over itself."""
    runners = [*runners, runners[0]]
    for _ in range(attempts):
        samples: list[list[float]] = [[] for _ in runners]
        for turn in range(ROUNDS):
            for i in range(len(runners))[:: -1 if turn % 2 else 1]:
                samples[i] += measure(runners[i], repeats=3).samples_s
        *found, again = (Timing(tuple(s)) for s in samples)
        aa_ratio = found[0].median_s / again.median_s
        if abs(aa_ratio - 1) <= AA_TOLERANCE and not any(t.noisy for t in found):
            break
    return found, aa_ratio


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _cell(text: str) -> str:
    """Text that stays in its cell of a Markdown table, and is no HTML."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _own_images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["x_test"], arrays["y_test"]
    except (TypeError, KeyError, ValueError, zipfile.BadZipFile):  # one array alone, other names, no arrays, damaged
        raise ValueError(f"--images {path}: a file .npz with the arrays x_test and y_test is wanted") from None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.capstone", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for each student a .tflite file, or a folder that holds one")
    parser.add_argument("--bytes", type=int, required=True, metavar="N", help="the file has at most so many")
    parser.add_argument("--latency-ms", type=float, required=True, metavar="T", help="for one image, at most")
    parser.add_argument("--accuracy", type=float, required=True, metavar="A", help="share of images right, at least")
    parser.add_argument("--deflated", action="store_true", help="count the bytes after deflate")
    parser.add_argument("--data", choices=("best", "mnist", "mnist-5k"), default="best", help="test images of this set")
    parser.add_argument("--images", type=Path, metavar="FILE.npz", help="or your own: arrays x_test (uint8) and y_test")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, with what made it")
    form.add_argument("--csv", action="store_true", help="a table without what made it")
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(given)
    try:
        budget = Budget(options.bytes, options.latency_ms / 1e3, options.accuracy, options.deflated)
        if options.images:
            images, labels = _own_images(options.images)
        else:
            data = mnist.load(options.data)
            images, labels = data.x_test, data.y_test
        board = leaderboard(options.folder, budget, images, labels)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    command = " ".join([parser.prog, *given])
    print(board.json(command) if options.json else board.csv() if options.csv else board.markdown())


if __name__ == "__main__":
    main()
