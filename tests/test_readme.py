"""The README: its picture is remade, its links lead somewhere, and what it quotes is what the programs say."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import picture
import pytest

from hwlimits import plots

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def pixels_that_differ(drawn) -> int:
    """From the stored picture; a dot has about a hundred."""
    made = matplotlib.image.imread(io.BytesIO(plots.png(drawn)))
    stored = matplotlib.image.imread(picture.FILE)
    assert made.shape == stored.shape
    return int((np.abs(made - stored).max(axis=-1) > 0.2).sum())


@pytest.fixture
def the_lock_s_matplotlib():
    if f"\nmatplotlib=={matplotlib.__version__} " not in (ROOT / "requirements.lock").read_text(encoding="utf-8"):
        pytest.skip("left out: another version of matplotlib may place a letter elsewhere")


@pytest.mark.usefixtures("the_lock_s_matplotlib")
def test_the_picture_is_made_by_its_script_from_the_stored_result():
    drawn, alt = picture.figure()
    assert pixels_that_differ(drawn) < 40
    assert f"![{alt}](book/_static/{picture.FILE.name})" in README


@pytest.mark.usefixtures("the_lock_s_matplotlib")
def test_another_result_is_another_picture(monkeypatch):
    found = picture.rows()
    found[0]["measured_s"] *= 30
    monkeypatch.setattr(picture, "rows", lambda: found)
    drawn, alt = picture.figure()
    assert pixels_that_differ(drawn) >= 80
    assert alt not in README


def test_the_words_of_the_picture_are_counted_from_the_table():
    with (ROOT / "data" / "results" / "prediction_errors.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ratios = [float(r["measured_over_predicted"]) for r in rows if r["set"] == "held out"]
    worst = max(max(r, 1 / r) - 1 for r in ratios)
    _, alt = picture.figure()
    assert f"of {len(ratios)} networks" in alt
    assert f"the worst by {100 * worst:.0f} %" in alt


def test_each_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(links) > 15
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for link in links:
        path, _, part = link.partition("#")
        assert (ROOT / path).exists(), link
        assert path or part in headings, link


# What the table of failures quotes, and the source that says it.
SAID = {
    "hwlimits needs Python 3.11, 3.12 or 3.13": "Makefile",
    "Python's venv module is missing": "Makefile",
    "TensorFlow has no wheels for Intel Macs": "Makefile",
    "hwlimits can't write '": "Makefile",
    "MNIST: not from": "lib/hwlimits/training/mnist.py",
    "is not MNIST": "lib/hwlimits/training/mnist.py",
    "stopped by signal": "lib/hwlimits/training/case_study.py",
    "tflite-micro is not installed": "lib/hwlimits/training/litert.py",
    "NOISY": "lib/hwlimits/machine/timing.py",
    "VOID": "lib/hwlimits/machine/timing.py",
}


@pytest.mark.parametrize("words", SAID)
def test_a_quoted_message_is_what_the_program_says(words):
    assert words in README
    source = (ROOT / SAID[words]).read_text(encoding="utf-8")
    assert words in source or words.replace("MNIST: not from", "not from") in source


def test_ten_failures_each_with_a_cause_and_what_to_do():
    table = re.search(r"\| what you see \| why \| what to do \|\n\|[-|]+\|\n((?:\|.*\n)+)", README)[1]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    assert len(rows) == 10
    assert all(len(row) == 3 and all(row) for row in rows)


def test_commands_of_the_readme_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert set(re.findall(r"`make ([a-z-]+)", README)) - {"pytorch"} <= targets
    listed = subprocess.run([sys.executable, "-m", "hwlimits.cli", "--help"], capture_output=True, text=True).stdout
    for command in re.findall(r"^    hwlimits ([a-z]+)", README, re.MULTILINE):
        assert f" {command} " in listed
