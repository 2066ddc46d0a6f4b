"""What was not run here: an entry's words stand in their files, and nothing of that kind is named without an entry."""

import re
from dataclasses import replace
from pathlib import Path

import not_run
import pytest
import yaml

ROOT = Path(__file__).parents[2]
ENTRIES = not_run.read()
PATTERNS = (
    "chapters/text/*.md", "labs/source/*/*.md", "labs/teaching/*.md", "labs/README.md", "clusters/*",
    "book/*.md", "peers/*.md", "README.md", "CONTRIBUTING.md", ".github/workflows/*.yml",
)  # fmt: skip
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in PATTERNS
    for path in sorted(ROOT.glob(pattern))
}


def test_every_mention_belongs_to_an_entry_and_every_entry_s_words_stand_in_their_file():
    assert len(TEXTS) > 40
    assert len(ENTRIES) >= 25
    assert not_run.faults(ENTRIES, TEXTS) == []


@pytest.mark.parametrize(
    ("file", "planted", "said"),
    [
        ("chapters/text/01_compute.md", "The kernels have not been run yet.", "The kernels have not been run yet"),
        ("chapters/text/01_compute.md", "No phone was at hand.", "is of no entry"),
        ("chapters/text/02_storage.md", "On macOS pages are larger.", "names 'macOS', and no entry with that name"),
        ("chapters/text/04_pruning.md", "In Colab say so.", "names 'Colab'"),
        ("chapters/text/05_quantization.md", "Submit it to SLURM.", "names 'SLURM'"),
        ("chapters/text/08_case_study.md", "A Cloud TPU takes it.", "names 'TPU'"),
        ("labs/teaching/03_bandwidth.md", "Under Kubernetes", "names 'Kubernetes'"),
    ],
)
def test_a_mention_without_an_entry_is_seen(file, planted, said):
    (fault,) = not_run.faults(ENTRIES, TEXTS | {file: f"{TEXTS[file]}\n\n{planted}\n"})
    assert file in fault
    assert said in fault


def test_each_entry_is_needed_by_its_words():
    """Without an entry its own words are a mention of nothing, or its names are; one with other words is seen too."""
    first = ENTRIES[0]
    file, words = first.said[0]
    assert not_run.faults([replace(first, said=((file, words + " at all"),)), *ENTRIES[1:]], TEXTS)[0] == (
        f"cloud-tpu: {file} does not say {words + ' at all'!r}"
    )
    for gone in ("slurm", "microcontroller", "jupyterhub", "rapl", "hosted-ci"):
        left = [entry for entry in ENTRIES if entry.id != gone]
        names = [name for entry in ENTRIES if entry.id == gone for name in entry.names]
        said = " ".join(words for entry in ENTRIES if entry.id == gone for _, words in entry.said)
        assert not_run.faults(left, TEXTS) or not not_run.REFUSALS.search(said) and names, gone


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_what_shows_it_and_what_is_run_are_there(entry):
    for path in entry.shown_by:
        assert (ROOT / path).is_file(), path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", entry.run):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for module in re.findall(r"-m (hwlimits[\w.]*)", entry.run):
        path = ROOT / "lib" / Path(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for program in re.findall(r'python -c "(.*)"', entry.run):
        compile(program, entry.id, "exec")
    for file in re.findall(r"\b(?:clusters|data|labs)/[\w./-]+\.\w+", entry.run):
        assert (ROOT / file).is_file(), file


def test_what_the_issue_lists_is_there():
    said = " ".join(entry.what for entry in ENTRIES)
    things = (
        "Cloud TPU", "Edge TPU", "TensorFlow on a GPU", "Colab", "Kaggle", "Binder", "macOS", "Linux subsystem",
        "SLURM", "Kubernetes", "Several computers", "RAPL", "Hosted CI", "other than an H100", "VNNI",
    )  # fmt: skip
    assert [thing for thing in things if thing not in said] == []


def test_the_page_has_each_entry_with_its_words_and_links_only_chapters_of_the_book():
    page = not_run.page(ENTRIES, {"07_gpu_tpu"})
    assert page.startswith("# Not run here\n\n")
    for entry in ENTRIES:
        assert f"\n## {entry.what}\n" in page
        assert entry.see in page
        for _, words in entry.said:
            assert not_run.unmarked(words) in page
    assert "{doc}`Chapter 07 </chapters/07_gpu_tpu>`: “This has not been run on a TPU, and" in page
    assert "- `chapters/text/06_parallel.md`: “" in page
    assert page.count("```") == 2 * len(ENTRIES)


def test_an_entry_that_can_not_be_is_refused_by_name(tmp_path):
    def refused(**changes):
        row = {"id": "moon", "what": "The moon", "why": "far", "said": [{"file": "a.md", "words": "no moon"}],
               "names": ["moon"], "instead": "a lamp", "shown_by": ["x"], "run": "look up", "see": "light"}  # fmt: skip
        row = {key: value for key, value in (row | changes).items() if value is not None}
        rows = [row, row] if changes == {} else [row]
        (tmp_path / "t.yaml").write_text(yaml.safe_dump({"entries": rows}), encoding="utf-8")
        with pytest.raises(not_run.NotRunError) as error:
            not_run.read(tmp_path / "t.yaml")
        return str(error.value)

    assert refused(why=None).startswith("t.yaml, moon: no why. An entry has ")
    assert refused(colour="grey").startswith("t.yaml, moon: colour is no field.")
    assert refused(said=[{"file": "a.md"}]) == "t.yaml, moon: said has ['file']; give file and words."
    assert refused(names=["("]).startswith("t.yaml, moon: a name is no regular expression: ")
    assert refused() == "t.yaml, moon is there already; join the two entries."
