import contextlib
import copy
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits.data import cache_folder
from hwlimits.machine.card import Card, CardError, Number, card, stored_path
from hwlimits.machine.latency import Point, Work
from hwlimits.machine.pool import pool
from hwlimits.machine.provenance import machine, provenance
from hwlimits.machine.record import LEVELS, MAX_FILE_BYTES
from hwlimits.units import quantity

calibration = "hwlimits.machine.calibrate"

PEAKS = {("fp32", 1): 100e9, ("fp32", 4): 380e9, ("fp64", 1): 50e9, ("int8", 1): 210e9}
BANDWIDTHS = {("L1", 1): 400e9, ("L2", 1): 200e9, ("DRAM", 1): 20e9, ("L1", 4): 1600e9, ("DRAM", 4): 40e9}
OVERHEADS = {"litert_operator": 25e-9, "process_start": 0.012}
NOT_MEASURED = (
    "overhead tensorflow", "operators", "memory litert", "bandwidth disk_read", "bandwidth loopback",
    "overhead loopback", "overhead numba_import", "overhead tensorflow_import", "overhead threads_start",
    "overhead processes", "overhead dask_call",
)  # fmt: skip
LEFT_OUT = {"bandwidth L3": "the arrays did not fit"} | dict.fromkeys(NOT_MEASURED, "planted")


def record(**changes) -> dict:
    made = provenance("hwlimits calibrate")
    caches = [{"level": "L1", "bytes": 32768, "cores": 1, "count": 4}]
    made["machine"] |= {"usable_cores": 4, "cpu_quota": None, "caches": caches, **changes}
    return made


def example(scale: float = 1.0, **changes) -> Card:
    """A card with round numbers; `scale` makes another computer's, `changes` are to its machine."""
    numbers = [
        Number("peak", of, threads, scale * value, "OP/s" if of == "int8" else "FLOP/s", scale * 1e9, 9, "planted")
        for (of, threads), value in PEAKS.items()
    ]
    numbers += [Number("bandwidth", of, t, scale * v, "B/s", scale * 1e9, 9, "x") for (of, t), v in BANDWIDTHS.items()]
    numbers += [Number("overhead", of, 1, v, "s", v / 5, 9, "planted") for of, v in OVERHEADS.items()]
    return Card(tuple(numbers), record(**changes), LEFT_OUT)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """The place of this computer's card, empty."""
    monkeypatch.setenv("HWLIMITS_CACHE", str(tmp_path))
    monkeypatch.delenv("HWLIMITS_CARD", raising=False)
    return tmp_path / "machine-card.json"


@pytest.fixture
def calibrations(monkeypatch):
    """Calibration replaced by the example, and a list of how often it was called."""
    made = []

    def calibrate():
        made.append(example())
        return made[-1]

    __import__(calibration)
    monkeypatch.setattr(sys.modules[calibration], "calibrate", calibrate)
    return made


# numbers


def test_a_number_is_the_median_with_its_quartiles():
    samples = np.random.default_rng(0).uniform(1, 2, 31)
    number = Number.from_samples("overhead", "x", "s", samples, "planted")
    assert number.value == statistics.median(samples)
    assert number.iqr == pytest.approx(np.subtract(*np.percentile(samples, [75, 25])))
    assert number.n == 31


@pytest.mark.parametrize(
    ("samples", "busy", "noisy"),
    [([1.0, 1.0, 1.05], 1.0, False), ([1.0, 1.0, 1.3], 1.0, True), ([1.0, 1.0], 1.0, True), ([1.0] * 9, 0.5, True)],
    ids=["steady", "spread", "too few", "other programs ran"],
)
def test_a_number_that_can_t_be_trusted_is_marked(samples, busy, noisy):
    number = Number.from_samples("overhead", "x", "s", samples, "planted", busy=busy)
    assert number.noisy is noisy
    assert str(number).endswith("NOISY") is noisy


# what a card answers


def test_a_card_answers_with_its_numbers():
    here = example()
    assert here.peak_flops_per_s("fp32") == 100e9
    assert here.peak_flops_per_s("fp32", threads=4) == here.peak_flops_per_s("fp32", "all") == 380e9
    assert here.bandwidth_bytes_per_s("DRAM") == 20e9
    assert here.overhead_s("litert_operator") == 25e-9
    assert here.levels == ("L1", "L2", "DRAM")
    assert here.precisions == ("fp32", "fp64", "int8")
    assert here.threads == (1, 4)


def test_the_ridge_point_is_peak_over_bandwidth():
    assert example().ridge_point("fp32") == 5  # 100 GFLOP/s over 20 GB/s
    assert example().ridge_point("fp32", "L2") == 0.5
    assert example().ridge_point("fp32", "DRAM", threads="all") == 9.5


def test_the_roofline_has_the_card_s_numbers():
    roofline = example().roofline("fp32")
    assert roofline.peak_flops_per_s == 100e9
    assert dict(roofline.bandwidths) == {"L1": 400e9, "L2": 200e9, "DRAM": 20e9}
    assert list(roofline.bandwidths) == ["L1", "L2", "DRAM"], "from the nearest to the farthest"
    assert roofline.ridge_point("DRAM") == example().ridge_point("fp32")
    assert roofline.attainable_flops_per_s(2.0, "DRAM") == 40e9
    assert dict(example().roofline("fp32", "all").bandwidths) == {"L1": 1600e9, "DRAM": 40e9}


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda c: c.peak_flops_per_s("bf16"), "has no peak of 'bf16' with threads=1; it has fp32 with 1 thread, fp32"),
        (
            lambda c: c.bandwidth_bytes_per_s("L3"),
            r"no bandwidth of 'L3' with threads=1 \(bandwidth L3: the arrays did",
        ),
        (lambda c: c.bandwidth_bytes_per_s("L4"), "it has L1 with 1 thread, L2 with 1 thread, DRAM with 1 thread, L1"),
        (lambda c: c.peak_flops_per_s("fp32", threads=3), "no peak of 'fp32' with threads=3; it has"),
        (lambda c: c.overhead_s("coffee"), "it has litert_operator with 1 thread, process_start"),
        (lambda c: c.roofline("fp16"), "no peak of 'fp16'"),
    ],
)
def test_what_a_card_lacks_is_an_error_that_lists_what_it_has(ask, said):
    with pytest.raises(CardError, match=said):
        ask(example())


def test_the_table_shows_each_number_its_noise_and_what_is_missing():
    table = example(cpu="A | B\n<script>").table()
    assert "| peak fp32 | 4 | 380 GFLOP/s | 1 GFLOP/s | 9 |  |" in table
    assert "| overhead process_start | 1 | 12 ms | 2.4 ms | 9 | NOISY |" in table
    assert "Left out: bandwidth L3 (the arrays did not fit)." in table
    assert "**A \\| B &lt;script>**" in table, "a processor's name can't break the table"
    assert "limited to 1.5 cores' time by a container" in example(cpu_quota=1.5).table()
    assert "not told by the system" in example(caches=[]).table()
    assert example()._repr_markdown_() == repr(example()) == example().table()


# files


def test_a_card_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "folder" / "card.json"
    example().write(path)
    assert Card.read(path) == example()
    assert [p.name for p in path.parent.iterdir()] == ["card.json"]
    content = json.loads(path.read_text())
    assert content["schema"] == 1
    assert content["provenance"]["command"] == "hwlimits calibrate"
    assert [row["noisy"] for row in content["numbers"] if row["of"] == "process_start"] == [True]


def test_a_card_names_no_owner(tmp_path):
    example().write(tmp_path / "card.json")
    text = (tmp_path / "card.json").read_text()
    assert not re.search(rf"\b{re.escape(platform.node())}\b", text)
    assert str(Path.home()) not in text
    assert str(tmp_path) not in text


def operators(n: int) -> tuple[Point, ...]:
    """Operator times as a calibration has them: dense layers of n sizes."""
    sizes = [(1.0, 64.0 + i, 64.0, 1.0, 1.0) for i in range(n)]
    reads = (("in0", 4096), ("in1", 123456), ("in2", 256))
    return tuple(
        Point(Work("FULLY_CONNECTED", "FULLY_CONNECTED", "float32", s, int(64 * s[1]), reads, (("out0", 256),)),
              1.23456789012345e-05, 1.23456789012345e-07)
        for s in sizes
    )  # fmt: skip


def test_operators_are_read_as_they_were_written(tmp_path):
    """As many as a calibration measures, and more; the file stays below the limit."""
    path = tmp_path / "card.json"
    made = replace(example(), operators=operators(2000))
    made.write(path)
    assert Card.read(path) == made
    assert path.stat().st_size < MAX_FILE_BYTES
    assert len(json.loads(path.read_text())["operators"]) == 2000


@pytest.mark.parametrize(
    ("left_out", "why"), [({}, "it was made before"), ({"operators": "no LiteRT here"}, r"\(no LiteRT here\)")]
)
def test_a_card_without_operators_says_why_and_what_to_do(left_out, why):
    with pytest.raises(CardError, match=f"has no operator times .*{why}.*: `hwlimits calibrate` measures them"):
        _ = replace(example(), left_out=left_out).latency


def test_an_interrupted_write_leaves_the_old_card(tmp_path, monkeypatch):
    path = tmp_path / "card.json"
    example().write(path)
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        example(scale=2).write(path)
    assert Card.read(path) == example()
    assert [p.name for p in tmp_path.iterdir()] == ["card.json"]


def interrupt(*_):
    raise KeyboardInterrupt


def edited(change) -> str:
    content = {
        "schema": 1,
        "provenance": record(),
        "numbers": [vars(number) for number in example().numbers],
        "left_out": {},
    }
    content = copy.deepcopy(content)
    change(content)
    return json.dumps(content)


def first(**changes):
    return edited(lambda content: content["numbers"][0].update(changes))


def of_machine(**changes):
    return edited(lambda content: content["provenance"]["machine"].update(changes))


DAMAGED = {
    "empty": ("", "Expecting value"),
    "cut": (edited(lambda content: None)[:300], "is no machine card, or a damaged one"),
    "not text": (b"\xff\xfe\x00", "utf-8|decode"),
    "another JSON": ("[1, 2]", "lacks the number `schema`"),
    "deep": ("[" * 100_000, "is no machine card"),
    "large": (" " * 1_000_001, "more than 1,000,000 bytes"),
    "no numbers": (edited(lambda c: c.update(numbers=[])), "holds no numbers"),
    "a number of text": (edited(lambda c: c.update(numbers=["fast"])), "a number is 'fast'"),
    "no provenance": (edited(lambda c: c.pop("provenance")), "lacks the provenance"),
    "no date": (edited(lambda c: c["provenance"].pop("date")), "lacks the provenance"),
    "no reasons": (edited(lambda c: c.update(left_out=["L3"])), "no table of names and reasons"),
    "schema 0": (edited(lambda c: c.update(schema=0)), "schema 0 is none that ever was"),
    "schema text": (edited(lambda c: c.update(schema="1")), "lacks the number `schema`"),
    "schema true": (edited(lambda c: c.update(schema=True)), "lacks the number `schema`"),
    "NaN": (first(value=float("nan")), "peak fp32: its value nan is not a positive number"),
    "infinite": (first(value=float("inf")), "peak fp32: its value inf"),
    "huge integer": (first(value=10**400), "int too large"),
    "negative": (first(value=-1.0), "peak fp32: its value -1.0"),
    "zero": (first(value=0), "peak fp32: its value 0.0"),
    "bool": (first(value=True), "peak fp32: value is True"),
    "text": (first(value="1e9"), "peak fp32: value is '1e9'"),
    "iqr": (first(iqr=-1.0), "peak fp32: its iqr -1.0"),
    "unit": (first(unit="GFLOP/s"), "peak fp32: its unit 'GFLOP/s' is not FLOP/s or OP/s"),
    "unit of another quantity": (first(unit="s"), "its unit 's' is not"),
    "quantity": (first(quantity="beauty"), "is not one of peak, bandwidth, overhead"),
    "n true": (first(n=True), "peak fp32: n is True"),
    "threads": (first(threads=0), "threads 0 and n 9 are at least 1"),
    "n": (first(n=0), "threads 1 and n 0 are at least 1"),
    "busy": (first(busy=2.0), "busy 2.0 is no share"),
    "twice": (edited(lambda c: c["numbers"].append(c["numbers"][0])), "gives peak fp32 with 1 thread twice"),
    "cores": (of_machine(cores="many"), "machine: cores is 'many'"),
    "cpu": (of_machine(cpu=None), "machine: cpu is None"),
    "quota": (of_machine(cpu_quota=float("nan")), "machine: cpu_quota is nan"),
    "caches": (of_machine(caches=[{"level": "L1"}]), "caches is no list"),
    "operators": (edited(lambda c: c.update(operators={})), "`operators` is no list"),
    "an operator": (edited(lambda c: c.update(operators=[["RELU", 1]])), r"operator time \['RELU', 1\] makes no sense"),
    "unit of memory": (first(quantity="memory", of="litert", unit="s"), "memory litert: its unit 's' is not B"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_card_is_refused_in_one_sentence(kind, tmp_path):
    content, said = DAMAGED[kind]
    path = tmp_path / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CardError, match=said) as refused:
        Card.read(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
    assert "hwlimits calibrate" in str(refused.value)


def test_a_later_version_s_card_is_refused_and_not_called_damaged(tmp_path):
    path = tmp_path / "new.json"
    path.write_text(edited(lambda c: c.update(schema=2, numbers="of another form")))
    with pytest.raises(CardError, match="has schema 2 and was written by a later version") as refused:
        Card.read(path)
    assert "damaged" not in str(refused.value)


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_a_card_that_is_not_there_is_said(what, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CardError, match=f"{what} can't be read as a machine card: (No such file|Is a directory)"):
        Card.read(tmp_path / what)


WHOLE = json.loads(edited(lambda content: None))
PLACES = [("schema",), ("provenance",), ("left_out",), ("numbers",), ("numbers", 0), ("provenance", "machine")]
PLACES += [("numbers", 0, key) for key in WHOLE["numbers"][0]]
PLACES += [("provenance", "machine", key) for key in WHOLE["provenance"]["machine"]]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(place=st.sampled_from(PLACES), value=ANYTHING)
def test_any_value_in_any_place_gives_a_card_or_a_card_error(place, value, tmp_path_factory):
    content = copy.deepcopy(WHOLE)
    *way, last = place
    inner = content
    for step in way:
        inner = inner[step]
    inner[last] = value
    path = tmp_path_factory.getbasetemp() / "anything.json"
    path.write_text(json.dumps(content))
    with contextlib.suppress(CardError):
        Card.read(path).table()


# this computer's card


def test_the_stored_card_is_used(stored, calibrations):
    example().write(stored)
    assert card() == example()
    assert calibrations == []


@pytest.mark.parametrize(
    "lost",
    [
        "overhead processes",
        "overhead dask_call",
        "operators",
        "bandwidth disk_read",
        "overhead litert_operator",
        "overhead tensorflow",
        "overhead tensorflow_import",
    ],
)
def test_an_earlier_version_s_card_is_measured_anew(lost, stored, calibrations, capsys):
    """It lacks what that version did not measure, and does not say why."""
    old = example()
    numbers = tuple(n for n in old.numbers if f"{n.quantity} {n.of}" != lost)
    replace(old, numbers=numbers, left_out={k: v for k, v in LEFT_OUT.items() if k != lost}).write(stored)
    assert card() == Card.read(stored) == example()
    said = re.search(
        r"an earlier version's, which did not measure ([a-z_ ]+); measuring one now", capsys.readouterr().err
    )
    assert lost.startswith(said[1])


def test_a_card_without_any_memory_is_measured_anew(stored, calibrations):
    """A bandwidth of the disk is none of the memory."""
    levels = [*LEVELS, "L3"]
    numbers = tuple(n for n in example().numbers if not (n.quantity == "bandwidth" and n.of in levels))
    left_out = {name: why for name, why in LEFT_OUT.items() if name != "bandwidth L3"}
    replace(example(), numbers=numbers, left_out=left_out).write(stored)
    assert card() == example()
    assert len(calibrations) == 1


def test_a_named_card_of_an_earlier_version_is_taken_as_it_is(tmp_path, monkeypatch, calibrations):
    path = tmp_path / "mine.json"
    replace(example(), left_out={}).write(path)
    monkeypatch.setenv("HWLIMITS_CARD", str(path))
    assert card() == Card.read(path) == replace(example(), left_out={})
    assert calibrations == []


def test_operators_that_were_measured_are_not_missed(stored, calibrations):
    left_out = {name: why for name, why in LEFT_OUT.items() if name != "operators"}
    made = replace(example(), operators=operators(3), left_out=left_out)
    made.write(stored)
    assert card() == made
    assert calibrations == []


def test_without_a_card_one_is_measured_said_and_stored(stored, calibrations, capsys):
    assert card() == example()
    assert "this computer has no machine card yet; measuring one now" in capsys.readouterr().err
    assert Card.read(stored) == example()
    card()
    assert len(calibrations) == 1


def test_an_interrupted_calibration_says_how_to_go_on_and_stores_nothing(stored, monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("hwlimits.machine.calibrate.calibrate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        card()
    assert "interrupted; call it again in this program, and it goes on from there" in capsys.readouterr().err
    assert not stored.exists()


@pytest.mark.parametrize(
    "change", [{"cpu": "Other"}, {"cores": 999}, {"threads": 999}, {"os": "Linux other"}], ids=lambda c: next(iter(c))
)
def test_another_computer_s_stored_card_is_replaced(change, stored, calibrations, capsys):
    example(**change).write(stored)
    assert card() == example()
    assert "is of another computer" in capsys.readouterr().err
    assert Card.read(stored).same_computer()


def test_more_memory_is_still_the_same_computer(stored, calibrations):
    example(memory_bytes=1).write(stored)
    card()
    assert calibrations == []


def test_a_named_card_of_another_computer_is_refused_and_kept(tmp_path, monkeypatch, calibrations):
    path = tmp_path / "their.json"
    example(cpu="Other").write(path)
    monkeypatch.setenv("HWLIMITS_CARD", str(path))
    with pytest.raises(CardError, match="HWLIMITS_CARD names .*their.json, the card of another computer .Other, 4 cor"):
        card()
    assert Card.read(path).machine["cpu"] == "Other"
    assert calibrations == []


def test_a_named_place_is_where_the_card_is_stored(tmp_path, monkeypatch, calibrations):
    path = tmp_path / "new" / "mine.json"
    monkeypatch.setenv("HWLIMITS_CARD", str(path))
    card()
    assert Card.read(path) == example()


def test_a_damaged_stored_card_is_said_and_not_replaced(stored, calibrations):
    stored.write_text("{")
    with pytest.raises(CardError, match="machine-card.json is no machine card, or a damaged one"):
        card()
    assert stored.read_text() == "{"


def test_a_card_that_can_t_be_stored_is_used(tmp_path, monkeypatch, calibrations, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HWLIMITS_CARD", str(tmp_path / "file" / "card.json"))
    assert card() == example()
    assert "is used but not kept" in capsys.readouterr().err


def test_the_folders_are_the_course_s(monkeypatch):
    monkeypatch.delenv("HWLIMITS_CARD", raising=False)
    monkeypatch.setenv("HWLIMITS_CACHE", "~/cache")
    assert cache_folder() == Path.home() / "cache"
    assert stored_path() == Path.home() / "cache" / "machine-card.json"
    monkeypatch.setenv("HWLIMITS_CARD", "~/card.json")
    assert stored_path() == Path.home() / "card.json"


def test_reading_a_card_loads_neither_numba_nor_tensorflow():
    program = "import sys, hwlimits.machine, hwlimits.machine.calibrate, hwlimits.machine.pool; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"numba", "tensorflow", "matplotlib", "pooch"}
    assert example().same_computer()
    assert machine()["cpu"] == example().machine["cpu"]


# several cards


@pytest.fixture
def files(tmp_path):
    """Three computers' cards, one of them twice, and a damaged one."""
    for name, scale in (("a", 1.0), ("b", 2.0), ("c", 6.0)):
        example(scale, cpu=f"CPU {name}").write(tmp_path / f"{name}.json")
    (tmp_path / "again.json").write_bytes((tmp_path / "a.json").read_bytes())
    (tmp_path / "damaged.json").write_text("{")
    return [tmp_path / f"{name}.json" for name in ("a", "b", "c", "again", "damaged")]


def test_a_pool_keeps_the_good_cards_and_names_the_others(files):
    found = pool(files)
    assert list(found.cards) == ["a.json", "b.json", "c.json"]
    assert found.refused["again.json"] == "the same card as a.json"
    assert "damaged one" in found.refused["damaged.json"]
    table = found.table()
    assert "| a.json | CPU a | " in table
    assert "Not pooled: again.json (the same card as a.json)." in table


def test_a_pool_s_medians_and_quartiles_are_numpy_s(files):
    lines = {line.split(" | ")[0]: line.split(" | ") for line in pool(files).table(threads=1).splitlines()}
    assert lines["| card"][4:6] == ["DRAM", "fp32"]
    memory, peak = 20e9 * np.array([1, 2, 6]), 100e9 * np.array([1, 2, 6])
    for what, of in (("median", 50), ("lower quartile", 25), ("upper quartile", 75)):
        shown = lines[f"| **{what}**"]
        assert shown[4:6] == [quantity(np.percentile(memory, of), "B/s"), quantity(np.percentile(peak, of), "FLOP/s")]
    assert lines["| a.json"][6] == "5", "the ridge point: 100 GFLOP/s over 20 GB/s"


def test_a_pool_s_roofline_is_the_median_of_its_cards(files):
    found = pool(files)
    each = found.rooflines("fp32", threads=1)
    assert [one.peak_flops_per_s for one in each] == [100e9, 200e9, 600e9]
    assert each[0].name.startswith("a.json")
    median = found.median_roofline("fp32", threads=1)
    assert median.peak_flops_per_s == 200e9
    assert dict(median.bandwidths) == {"L1": 800e9, "L2": 400e9, "DRAM": 40e9}
    assert "3 computers" in median.name
    with pytest.raises(CardError, match="none of the 3 cards has a peak of 'bf16'"):
        found.median_roofline("bf16")
    asked = "has a peak of 'fp32' and DRAM's bandwidth with 3 threads; there are some with 1, 4 threads$"
    with pytest.raises(CardError, match=asked):
        found.median_roofline("fp32", threads=3)
    with pytest.raises(CardError, match="'fp64' and DRAM's bandwidth with all threads; there are some with 1 thread$"):
        found.median_roofline("fp64")


def test_without_dram_s_bandwidth_there_is_no_roofline():
    """Else L2 would be the farthest level, and pass for memory."""
    lacking = Card(tuple(n for n in example().numbers if n.of != "DRAM"), record(), {"bandwidth DRAM": "no memory"})
    with pytest.raises(CardError, match=r"no bandwidth of 'DRAM' with threads=1 \(bandwidth DRAM: no memory\)"):
        lacking.roofline("fp32")
    assert len(pool([example(), lacking]).rooflines("fp32", 1)) == 1


def test_a_level_that_one_computer_lacks_is_not_in_the_median():
    whole = example()
    flat = Card(tuple(n for n in whole.numbers if n.of != "L2"), record(cpu="Flat"), {})
    assert list(pool([whole, flat]).median_roofline("fp32", 1).bandwidths) == ["L1", "DRAM"]
    rows = pool([whole, flat]).rows()
    assert rows[0]["dram_bytes_per_s"] == 40e9
    assert rows[0]["fp64_flops_per_s"] is None, "measured with one thread only"
    assert "–" in pool([whole, flat]).table()


def test_two_computers_of_one_name_are_both_kept(tmp_path):
    for folder, scale in (("x", 1.0), ("y", 2.0)):
        example(scale).write(tmp_path / folder / "card.json")
    found = pool(tmp_path.glob("*/card.json"))
    assert sorted(found.cards) == ["card.json", "card.json (2)"]
    assert len(pool([example(), example(2.0)]).cards) == 2


def test_a_pool_of_nothing_is_an_error(tmp_path):
    with pytest.raises(CardError, match="no machine card to pool .no file was given"):
        pool([])
    with pytest.raises(CardError, match="no machine card to pool .x.json: .*can't be read as a machine card"):
        pool([tmp_path / "x.json"])


def test_levels_are_named_from_the_nearest_to_the_farthest():
    assert LEVELS == ("L1", "L2", "L3", "L4", "DRAM")
