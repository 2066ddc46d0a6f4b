"""The article's errata: the words stand in the article, the entries are whole, and each correction is computed.

The proofs run the article's own code where they can: `words(id)` are the lines quoted in data/errata.yaml.
"""

import ast
import csv
import hashlib
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwlimits import (
    collectives,
    compute,
    data,
    decomposition,
    devices,
    errata,
    parallel,
    pools,
    pruning,
    queueing,
    scheduling,
    storage,
    transformer,
)
from hwlimits.bandwidth import LinkModel
from hwlimits.counting import LayerCost, ModelCost
from hwlimits.errata import ErrataError
from hwlimits.machine import selection
from hwlimits.quantization import Quantization, affine, dequantize, fake_quantize, quantize, symmetric
from hwlimits.roofline import Roofline

ROOT = Path(__file__).parents[1]
ARTICLE = ROOT.parent / "shared" / "source" / "article.txt"
HASHES = Path(__file__).with_name("article_hashes.txt")
ENTRIES = errata.entries()
ROWS = errata.reading()
BETWEEN = re.compile(r"[\s,，。；：、（）()\[\]]+")  # what ends a piece of the article; pieces are what is hashed


def words(id: str, number: int = 0) -> str:
    return errata.entry(id).quotes[number].words


# --- the words stand in the article ------------------------------------------------------------


def pieces(text: str) -> list[str]:
    return [hashlib.sha256(p.encode()).hexdigest()[:8] for p in BETWEEN.split(text) if p]


def sections(text: str) -> dict[tuple[int, str], str]:
    """The article's text by version and numbered heading."""
    found: dict[tuple[int, str], str] = {}
    for version, part in enumerate(text.split("<|im_sep|>"), 1):
        section = "0"
        for line in part.splitlines():
            heading = re.match(r"#{1,4} (\d+(?:\.\d+)*)\.? ", line)
            section = heading[1] if heading else section
            found[version, section] = found.get((version, section), "") + line + "\n"
    return found


def stored_hashes() -> dict[tuple[int, str], list[str]]:
    lines = (line.split() for line in HASHES.read_text().splitlines() if not line.startswith("#"))
    return {(int(version), section): hashes for version, section, *hashes in lines}


def stands(wanted: list[str], text: list[str]) -> bool:
    return any(text[i : i + len(wanted)] == wanted for i in range(len(text) - len(wanted) + 1))


QUOTES = [(e.id, q.words, v, q.section) for e in ENTRIES for q in e.quotes for v in q.versions]
LINKS = [(r.name, r.article, v, r.section) for r in ROWS if r.article for v in (1, 2) if (v, r.name) not in {
    (1, "AI hardware industry report, version 2"), (2, "AI hardware industry report")}]  # fmt: skip


@pytest.mark.parametrize(("name", "said", "version", "section"), QUOTES + LINKS)
def test_the_words_stand_in_the_article(name, said, version, section):
    assert stands(pieces(said), stored_hashes()[version, section])
    if ARTICLE.exists():
        text = " ".join(sections(ARTICLE.read_text(encoding="utf-8"))[version, section].split())
        assert " ".join(said.split()) in text


def test_words_that_the_article_has_not_are_seen():
    there = stored_hashes()[1, "4.3"]
    said = words("raise-the-efficiency")
    assert stands(pieces(said), there)
    assert not stands(pieces(said.replace("减少", "增加")), there)
    assert not stands(pieces(said), stored_hashes()[1, "4.2"])


@pytest.mark.skipif(not ARTICLE.exists(), reason="the article's text is not here")
def test_the_hashes_are_the_article_s():
    found = {where: pieces(text) for where, text in sections(ARTICLE.read_text(encoding="utf-8")).items()}
    assert found == stored_hashes()


@pytest.mark.skipif(not ARTICLE.exists(), reason="the article's text is not here")
def test_every_link_of_sections_7_and_10_is_on_the_list():
    text = sections(ARTICLE.read_text(encoding="utf-8"))
    links = {url for (_, section), part in text.items() for url in re.findall(r"\]\((https?://[^)]+)\)", part)
             if section.split(".")[0] in ("7", "10")}  # fmt: skip
    assert links == {row.article for row in ROWS if row.article}
    books = [line for line in text[1, "7.1.1"].splitlines() if line.startswith("- 《")]
    assert len(books) == sum(row.section == "7.1.1" for row in ROWS)


# --- the entries are whole ---------------------------------------------------------------------


@pytest.mark.parametrize("each", ENTRIES, ids=lambda e: e.id)
def test_the_proof_is_a_test_and_the_chapter_says_so(each):
    path, name = each.proof.split("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    (test,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    asserts = [node for node in ast.walk(test) if isinstance(node, ast.Assert)]
    assert asserts or "pytest.raises" in ast.unparse(test)
    assert any(isinstance(node, ast.Call) for node in ast.walk(test)), "it computes something"
    if each.chapter is not None:
        texts = list((ROOT / "chapters" / "text").glob(f"{each.chapter}_*.md"))
        assert each.says or not texts, "a chapter that is there says it in words that can be found"
        assert all(each.says in text.read_text(encoding="utf-8") for text in texts)


def test_no_proof_here_is_for_nothing():
    """Each test below the line is the proof of an entry."""
    below = Path(__file__).read_text(encoding="utf-8").split("# --- pro" + "ofs")[1]
    there = set(re.findall(r"^def (test_\w+)", below, re.MULTILINE))
    assert there == {e.proof.split("::")[1] for e in ENTRIES if e.proof.startswith("tests/test_errata.py")}


# Quoted in a chapter's box as a question or in agreement; and formulas, which chapters write in their own signs.
NO_MISTAKES = (
    "硬件定制：设计针对特定任务的硬件加速器",
    "边缘计算：将模型部署到边缘设备，如手机和物联网设备，降低对中央硬件的依赖",
    "如何合理分配计算资源",
    "硬件异构性",
    "能耗问题",
)


def test_what_chapters_quote_has_an_entry():
    """Chinese words in a box "What the article says" stand in an entry's quotes."""
    squeeze = lambda text: re.sub(r"\s+", "", text)  # noqa: E731
    quoted = [squeeze(quote.words) for each in ENTRIES for quote in each.quotes]
    found = set()
    for path in sorted((ROOT / "chapters" / "text").glob("*.md")):
        for box in re.findall(r"^> \*\*What the article says.*$", path.read_text(encoding="utf-8"), re.MULTILINE):
            found |= {squeeze(said) for said in re.findall(r'"([\u4e00-\u9fff][^"=]*)"', box)}
    assert len(found) > 15
    assert {said for said in found if not any(said in words for words in quoted)} == set(NO_MISTAKES)


def test_the_mistakes_that_were_known_at_first_have_entries():
    wanted = {
        "importance-by-sign", "product-without-rounding", "three-factors", "efficiency-inverted", "prune-weights-stops",
        "zeros-grow-back", "integer-quantization", "tf1-sessions", "cuda-10-2", "tpu-lite", "credit-for-accuracy",
        "efficientnet-link",
    }  # fmt: skip
    assert wanted <= {e.id for e in ENTRIES}


def test_the_page_has_every_entry_with_its_words_and_its_proof():
    page = errata.markdown(lambda chapter: f"../chapters/{chapter}.html")
    assert len(re.findall(r"^## \d+\. ", page, re.MULTILINE)) == len(ENTRIES)
    for each in ENTRIES:
        assert each.title in page
        assert f"Proof: `{each.proof}`." in page
        assert each.right in page
        for quote in each.quotes:
            assert all(line in page for line in quote.words.strip().splitlines())
            assert quote.english is None or f"> *{quote.english}*" in page
    assert "Corrected in [chapter 04](../chapters/04.html)." in page
    assert "Corrected in chapter 04." in errata.markdown()
    listings = sum("\n" in quote.words.strip() for each in ENTRIES for quote in each.quotes)
    assert len(re.findall("^```", page, re.MULTILINE)) == 2 * listings


def test_the_reading_list_has_every_row_and_no_address_that_is_wrong():
    page = errata.reading_markdown()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) == len(ROWS)
    for row in ROWS:
        assert (f"[{row.name}]({row.url})" if row.url else f"| {row.name} |") in page
        if row.verdict in ("wrong", "unknown"):
            assert f"({row.article})" not in page, "nobody is sent there"


GOOD = {
    "id": "a", "title": "A", "kind": "claim", "quotes": [{"section": "1", "words": "x"}], "wrong": "w", "right": "r",
    "proof": "tests/test_a.py::test_a",
}  # fmt: skip
BOOK = {
    "name": "B", "use": "u", "note": "n", "checked": "c", "read": "2026-11-27", "section": "7.1.1", "verdict": "moved",
    "article": "https://a.b", "url": "https://c.d",
}  # fmt: skip


def quoting(**quote):
    return GOOD | {"quotes": [quote]}


@pytest.mark.parametrize(
    ("table", "rows", "said"),
    [
        ("errata", [GOOD, GOOD], "errata.yaml, a: another entry has this id"),
        ("errata", [{k: v for k, v in GOOD.items() if k != "proof"}], "errata.yaml, a: lacks proof"),
        ("errata", [GOOD | {"why": "x"}], "errata.yaml, a: has why; known are chapter, id, kind"),
        ("errata", [GOOD | {"kind": "typo"}], "kind 'typo': choose formula, listing, link, claim"),
        ("errata", [GOOD | {"right": " "}], "errata.yaml, a: right must be words"),
        ("errata", [GOOD | {"quotes": []}], "quotes must be a list of at least one"),
        ("errata", [quoting(section="1", words="x", versions=[4])], r"versions \[4\]: a list of 1, 2, 3, each once"),
        ("errata", [quoting(section="1", words="x", versions=1)], "versions 1: a list of 1, 2, 3, each once"),
        ("errata", [quoting(section="1", words="x", versions=None)], "versions None: a list of 1, 2, 3, each once"),
        ("errata", [quoting(section="1", words="x", versions=[True])], r"versions \[True\]: a list of 1, 2, 3"),
        ("errata", [quoting(section="1", words="x", versions=[1, 1])], r"versions \[1, 1\]: a list of 1, 2, 3"),
        ("errata", [quoting(section="1", words="效率", english=" ")], "errata.yaml, a: english must be words"),
        ("errata", [quoting(section="1", words="效率", english=5)], "errata.yaml, a: english must be words"),
        ("errata", [GOOD | {"quotes": GOOD["quotes"] * 2}], "errata.yaml, a: two of its quotes are alike"),
        ("errata", [GOOD | {"chapter": "01", "says": ""}], "errata.yaml, a: says must be words"),
        ("errata", [GOOD | {"chapter": 1}], "chapter 1: choose '00' to '11', or none"),
        ("errata", [quoting(section="one", words="x")], "section 'one' is no number"),
        ("errata", [quoting(section="1")], "errata.yaml, a: lacks words"),
        ("errata", [quoting(section="1", words="效率")], "'效率': Chinese words have their English beside them"),
        ("errata", [quoting(section="1", words="x = 1", english="x")], "'x = 1': .* and code has none"),
        ("errata", [GOOD | {"chapter": "12"}], "chapter '12': choose '00' to '11', or none"),
        ("errata", [GOOD | {"says": "x"}], "says is of a chapter, and there is none"),
        ("errata", [GOOD | {"proof": "test_a"}], "proof 'test_a' is no node id: tests/test_x.py::test_y"),
        ("errata", ["x"], "errata.yaml, x: an entry is a mapping, and this is 'x'"),
        ("reading", [BOOK | {"verdict": "gone"}], "verdict 'gone': choose right, moved, wrong, unknown"),
        ("reading", [BOOK | {"url": None}], "needs the address that is right today"),
        ("reading", [BOOK | {"url": "ftp://x"}], "'ftp://x' is no address"),
        ("reading", [BOOK | {"verdict": "right"}], "is right, so url is the article's"),
        ("reading", [BOOK | {"verdict": "unknown"}], "recommended to nobody: leave url out"),
        ("reading", [BOOK | {"verdict": "wrong", "url": "https://a.b"}], "is wrong, so url is another one, or none"),
        ("reading", [BOOK | {"section": None}], "needs a section and a verdict"),
        ("reading", [BOOK | {"read": "today"}], "read 'today' is no day"),
        ("reading", [BOOK | {"read": "2026-99-99"}], "read '2026-99-99' is no day"),
        ("reading", [BOOK | {"read": "20261127"}], "read '20261127' is no day"),
        ("reading", [BOOK | {"url": 5}], "reading.yaml, B: 5 is no address"),
        ("reading", [BOOK | {"year": True}], "year True is no year"),
        ("reading", [BOOK | {"year": "2020"}], "year '2020' is no year"),
        ("reading", [BOOK | {"year": 20}], "year 20 is no year"),
        ("reading", [BOOK | {"section": "foo"}], "section 'foo' is no number"),
        ("reading", [BOOK | {"section": 7.1}], "section 7.1 is no number"),
        ("reading", [BOOK | {"verdict": ["moved"]}], r"verdict \['moved'\]: choose right, moved, wrong, unknown"),
        ("reading", [BOOK, BOOK], "reading.yaml, B: another row has this name"),
        ("reading", {"a": 1}, "reading.yaml: reading must be a list"),
        ("errata", None, "errata.yaml: errata must be a list"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(monkeypatch, tmp_path, table, rows, said):
    path = tmp_path / f"{table}.yaml"
    path.write_text(yaml.safe_dump({table: rows}, allow_unicode=True), encoding="utf-8")
    monkeypatch.setattr(errata.data, "path", lambda name: path)
    read = {"errata": errata.entries, "reading": errata.reading}[table].__wrapped__
    with pytest.raises(ErrataError, match=said):
        read()


def test_an_unknown_id_is_told_which_there_are():
    with pytest.raises(ErrataError, match="errata.yaml has no entry 'typo'; it has map-without-memory, "):
        errata.entry("typo")


# --- proofs, in the order of the table ---------------------------------------------------------


class Standing:
    """What the article's listings call a model: arrays, and a record of what is done to them."""

    def __init__(self, weights):
        self.weights, self.fits = weights, 0

    def get_weights(self):
        return self.weights

    def set_weights(self, weights):
        self.weights = weights

    def fit(self, *_, **__):
        self.fits += 1


def run(listing: str, **names):
    """Execute lines of the article with these names; all names there are afterwards."""
    exec(compile(listing, "the article", "exec"), names)
    return names


def results(name: str) -> list[dict]:
    return list(csv.DictReader(data.path(f"results/{name}.csv").read_text(encoding="utf-8").splitlines()))


def case_study(stage: str, key: str) -> list:
    runs = json.loads(data.path("results/case_study.json").read_text(encoding="utf-8"))["runs"]
    return [run[key] for run in runs if run["stage"] == stage]


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_design_changes_the_efficiency_and_the_map_has_no_such_way():
    arrows = [line.split(" --> ") for line in words("map-without-memory", 1).split("\n") if line]
    reached = {"F"}  # AI模型设计; D is 计算效率
    for _ in arrows:
        reached |= {end for start, end in arrows if start in reached}
    assert reached == {"F", "E"}
    here = Roofline("any", 1e12, {"memory": 1e11})
    shares = [here.attainable_flops_per_s(compute.dense(1600, 64, batch=b).intensity) / 1e12 for b in (1, 100)]
    assert shares[0] < 0.1 < 0.9 < shares[1]


def test_codes_of_the_weights_alone_leave_float_products():
    weights, x = kernel(64, 32), kernel(5, 64, seed=1)
    w, a = symmetric(np.abs(weights).max()), affine(x.min(), x.max())
    codes, inputs = quantize(weights, w), quantize(x, a)
    assert (codes.dtype, (x @ codes).dtype) == (np.int8, np.float32)
    both = (inputs.astype(np.int32) - a.zero_point) @ codes.astype(np.int32)
    assert both.dtype == np.int32
    wanted = dequantize(inputs, a) @ dequantize(codes, w)
    assert float(a.scale) * float(w.scale) * both == pytest.approx(wanted, abs=1e-4)


def test_twice_the_peak_leaves_a_layer_that_waits_for_memory_as_it_is():
    slow, fast = (Roofline("any", peak, {"memory": 1e11}) for peak in (1e12, 2e12))
    one, many = compute.dense(1600, 64), compute.dense(1600, 64, batch=10_000)
    assert one.intensity == pytest.approx(0.5, rel=0.05)
    assert slow.time_s(one) == fast.time_s(one)
    assert slow.time_s(many) == pytest.approx(2 * fast.time_s(many))


def test_where_a_memory_is_too_small_an_allocation_fails():
    trace = [pools.Request("weights", 600), pools.Request("activations", 600)]
    assert pools.replay(trace, pools.FreeList(1200, alignment=1)).failure is None
    failure = pools.replay(trace, pools.FreeList(1000, alignment=1)).failure
    assert (failure.name, failure.free_bytes) == ("activations", 400)


def test_ten_times_the_bandwidth_leaves_a_small_message_as_it_is():
    link, wide = LinkModel(50e-6, 1e9), LinkModel(50e-6, 1e10)
    assert wide.time_s(8) == pytest.approx(link.time_s(8), rel=1e-3)
    assert link.time_s(10**9) / wide.time_s(10**9) == pytest.approx(10, rel=1e-2)


def test_the_larger_machine_does_more_and_is_used_less():
    layer = compute.dense(1600, 64)
    small, large = (Roofline.of_device(devices.device(name), "fp32") for name in ("raspberry-pi-4", "h100-sxm"))
    rates = [each.attainable_flops_per_s(layer.intensity) for each in (small, large)]
    assert rates[1] > 100 * rates[0]
    assert rates[1] / large.peak_flops_per_s < rates[0] / small.peak_flops_per_s


def test_smaller_weights_leave_the_memory_of_training_to_the_activations():
    parameters, image = 121_930, 4 * (26 * 26 * 32 + 13 * 13 * 32 + 11 * 11 * 64 + 5 * 5 * 64)
    whole = storage.training_memory(parameters, 128 * image)
    smaller = storage.at_rest_bytes(parameters, "float32") - storage.at_rest_bytes(parameters, "int8")
    assert smaller / whole.total_bytes < 0.03
    pruned = kernel(100, 100) * (np.arange(100) < 10)
    assert pruned.nbytes == kernel(100, 100).nbytes


def test_balancing_takes_from_the_busiest_and_nothing_from_the_total():
    assert collectives.cost("ring", 1, 1000).total == 0
    central, ring = (collectives.cost(name, 8, 1000) for name in ("naive", "ring"))
    assert max(ring.sent) < max(central.sent)
    assert ring.total == central.total == 2 * 7 * 1000


def test_the_gradient_of_l1_is_the_same_for_every_weight():
    weights, step = np.array([3.0, -0.01, 0.4]), 1e-6
    l1 = lambda w: np.sum(np.abs(w))  # noqa: E731
    slopes = [(l1(weights + step * e) - l1(weights - step * e)) / (2 * step) for e in np.eye(3)]
    assert np.abs(slopes) == pytest.approx(np.ones(3))
    loss = np.array([0.0, 7.0, 0.2])  # what the loss says of them is something else
    assert pruning.first_order(weights, loss) == pytest.approx([0, 0.07, 0.08])
    assert pruning.magnitude(weights) == pytest.approx([3, 0.01, 0.4]), "and the magnitude ranks the other way"


def test_a_penalty_of_strength_1_leaves_nothing_of_a_fit():
    x = kernel(200, 5)
    target = np.array([0.5, -0.3, 0.2, 0.1, -0.4])
    y = x @ target

    def fitted(strength):
        w = np.zeros(5)
        for _ in range(2000):  # proximal steps on the mean squared error
            w = pruning.soft_threshold(w - 0.1 * 2 * x.T @ (x @ w - y) / len(y), 0.1 * strength)
        return w

    assert fitted(0.001) == pytest.approx(target, abs=1e-2)
    assert np.count_nonzero(fitted(1.0)) <= 1


def test_zeros_are_stored_and_multiplied_like_other_numbers():
    weights = kernel(64, 64)
    kept = pruning.apply({"w": weights}, {"w": pruning.mask(pruning.magnitude(weights), 0.4)})["w"]
    assert np.count_nonzero(kept) < 0.61 * kept.size
    assert (kept.size, kept.nbytes) == (weights.size, weights.nbytes)
    assert storage.csr_bytes(64, 64, np.count_nonzero(kept), "float32") > kept.nbytes
    assert storage.break_even_density("float32", "csr") == 0.5


def test_prune_weights_stops_at_its_mask():
    listing = run(words("prune-weights-stops"), train_data=None, train_labels=None)["prune_weights"]
    model = Standing([kernel(3, 3), kernel(3)])
    with pytest.raises(ValueError, match="truth value of an array with more than one element is ambiguous"):
        listing(model, 0.05)
    assert model.fits == 0


def test_prune_weights_keeps_no_sign():
    weights = [0.5, -2.0, 0.01, -0.6]  # numbers, with which the line does run
    sizes = [abs(w) for w in weights]
    there = run(words("prune-weights-signs"), abs_weights=sizes, mask=[size > 0.1 for size in sizes])
    assert there["pruned_weights"] == [0.5, 2.0, 0, 0.6]
    layer = np.array(weights)
    assert list(layer * pruning.mask(pruning.magnitude(layer), 0.25)) == [0.5, -2.0, 0, -0.6]


def test_get_weights_gives_the_biases_too():
    from hwlimits.training.models import article_cnn

    weights = run(words("prune-weights-biases"), model=article_cnn())["weights"]
    biases = [w for w in weights if w.ndim == 1]
    assert len(biases) == len(weights) / 2 == 4
    assert 0.001 < sum(b.size for b in biases) / sum(w.size for w in weights) < 0.002


def test_zeros_grow_back_where_no_mask_holds_them():
    x, target = kernel(50, 8), kernel(8, seed=1)
    keep = pruning.mask(pruning.magnitude(target), 0.5)

    def trained(held):
        w = target * keep
        for _ in range(3):
            w = w - 0.05 * 2 * x.T @ (x @ (w - target)) / len(x)
            w = w * keep if held else w
        return w

    assert np.count_nonzero(trained(held=False) == 0) == 0
    assert np.array_equal(trained(held=True) != 0, keep)


def test_two_bits_stay_below_float32_in_every_stored_run():
    rows = results("qat_bits")
    for seed in {row["seed"] for row in rows}:
        best = {bits: max(float(r["test_accuracy"]) for r in rows if r["seed"] == seed and r["bits"] == bits
                          and r["method"] in ("float32", "qat")) for bits in ("32", "2")}  # fmt: skip
        assert best["2"] < best["32"] - 0.03


def test_parts_that_are_too_small_take_longer_than_the_whole():
    def makespan_s(parts):
        return scheduling.run("chunked", [1.0 / parts] * parts, [1, 1], overhead_s=1e-3).makespan_s

    assert makespan_s(20) < 0.6
    assert makespan_s(10_000) > 1.0


def test_a_training_step_in_parts_needs_the_sum_of_all():
    assert decomposition.data_bytes(121_930, devices=1) == 0
    assert decomposition.data_bytes(121_930, devices=2) == 4 * 121_930
    one, other = decomposition.average_gradients([np.ones(3), 3 * np.ones(3)], [1, 1]), np.ones(3)
    assert not np.array_equal(one, other), "a worker alone would step elsewhere"


def test_no_cloud_tpu_has_only_int8_and_the_edge_tpu_has_nothing_else():
    cloud, edge = devices.devices("tpu"), devices.device("coral-edge-tpu")
    assert all("bf16" in each.precisions for each in cloud)
    assert edge.precisions == ("int8",)
    with pytest.raises(devices.DeviceError, match="no published peak for 'bf16'"):
        edge.peak_flops_per_s("bf16")
    assert min(each.memory_bytes for each in cloud) >= 8e9


def test_more_threads_in_flight_can_be_the_slower_kernel():
    def stored(name):
        rows = json.loads(data.path(f"results/gpu_nvidia-h100-80gb-hbm3{name}.json").read_text(encoding="utf-8"))[
            "rows"
        ]
        return {
            row["stage"]: row for row in rows if row["kernel"] == "copy" and row.get("section", "memory") == "memory"
        }

    rates, counted = stored(""), stored("_counters")
    assert rates["strided"]["bytes_per_s"] < rates["coalesced"]["bytes_per_s"] / 10
    assert counted["strided"]["occupancy_percent"] > counted["coalesced"]["occupancy_percent"]
    fetched = [counted[stage]["load_sectors_per_request"] for stage in ("strided", "coalesced")]
    by_hand = [len({step * thread * 4 // 32 for thread in range(32)}) for step in (32, 1)]  # a sector has 32 bytes
    assert fetched == by_hand


def test_accelerators_have_most_of_their_peak_in_matrix_units():
    gaming = devices.device("rtx-4090")
    for name in ("a100-80gb-sxm", "h100-sxm", "mi300x"):
        each = devices.device(name)
        assert each.peak_flops_per_s("fp16") > 5 * each.peak_flops_per_s("fp32")
    a100 = devices.device("a100-80gb-sxm")
    assert a100.peak_flops_per_s("fp32") < gaming.peak_flops_per_s("fp32") / 4
    assert a100.peak_flops_per_s("fp16") > gaming.peak_flops_per_s("fp16")


def test_tensorflow_2_has_no_session():
    from hwlimits.training.keras import tf

    with pytest.raises(AttributeError, match="has no attribute 'ConfigProto'"):
        run(words("tf1-sessions"), tf=tf)
    assert not hasattr(tf, "Session")
    assert all(callable(f) for f in (tf.compat.v1.Session, tf.config.experimental.set_memory_growth))


def test_a_custom_gradient_is_a_gradient_on_any_device():
    from hwlimits.training.keras import tf

    source = words("custom-gradient") + "def f(x):\n    return x * x, lambda upstream: upstream * 100.0\n"
    f, x = run(source, tf=tf)["f"], tf.constant(3.0)
    with tf.device("/CPU:0"), tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    assert (float(y), float(tape.gradient(y, x))) == (9.0, 100.0), "the derivative is the one that was stated"
    assert "CPU" in y.device


def test_the_last_listing_is_no_python():
    with pytest.raises(SyntaxError):
        compile(words("breaks-off"), "the article", "exec")
    assert compile(words("breaks-off").strip() + "(): pass", "with an end", "exec")


def test_three_factors_for_8_bits_and_the_scales_they_belong_to():
    in_code = run(words("three-factors", 2), num_bits=8)["factor"]
    example = float.__truediv__(*map(float, re.search(r"(\d+)/(\d+)", words("three-factors", 1)).groups()))
    reciprocal = 1 / 8  # 量化位数的倒数
    assert len({in_code, example, reciprocal}) == 3
    assert affine(0, 1).scale == pytest.approx(example)
    assert in_code == Quantization(1 / 128).scale
    assert Quantization(in_code).high == pytest.approx(127 / 128)
    assert symmetric(3).scale == pytest.approx(3 * symmetric(1).scale)


def test_a_product_with_the_factor_rounds_to_0():
    weights, factor = np.array([0.75, -0.4, 0.9, 0.02]), 1 / 255
    assert np.all(np.round(weights * factor) == 0)
    q = Quantization(factor, bits=9)
    assert quantize(weights, q) == pytest.approx(np.round(weights / factor), abs=1)
    assert np.abs(dequantize(quantize(weights, q), q) - weights).max() <= factor / 2 + 1e-6


def test_quantize_weights_saves_nothing_and_the_network_says_one_thing():
    rng = np.random.default_rng(0)
    layers = [f(size=s).astype(np.float32) for s in (16, 12, 10) for f in (rng.normal,)]
    layers = [kernel(20, 16), layers[0], kernel(16, 12, seed=1), layers[1], kernel(12, 10, seed=2), layers[2]]
    model = Standing(layers)
    run(words("quantize-weights"))["quantize_weights"](model, 8)
    assert [w.nbytes for w in model.weights] == [w.nbytes for w in layers]
    assert {w.dtype for w in model.weights} == {np.dtype(np.float32)}
    assert all(np.array_equal(w * 128, old) for w, old in zip(model.weights, layers, strict=True)), "nothing is rounded"

    def answers(weights, x):
        w1, b1, w2, b2, w3, b3 = weights
        return (np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0) @ w3 + b3).argmax(axis=1)

    images = kernel(500, 20, seed=3)
    assert len(set(answers(layers, images))) > 5
    assert len(set(answers(model.weights, images))) == 1


def test_a_step_of_training_leaves_the_grid():
    x, y, q = kernel(50, 6), kernel(50, seed=1), symmetric(4)
    start = fake_quantize(kernel(6, seed=2), q)
    stepped = start - 0.01 * 2 * x.T @ (x @ start - y) / len(y)
    assert np.array_equal(fake_quantize(start, q), start)
    assert not np.any(fake_quantize(stepped, q) == stepped.astype(np.float32))


def test_by_its_sign_the_largest_weight_goes_first():
    w, sigma = np.array([1.0, -2.0]), np.array([0.5, 1.0])
    assert list(w / sigma) == [2, -2], "the article's numbers"
    assert [float(pruning.magnitude_over_sigma(a, sigma=s)) for a, s in zip(w, sigma, strict=True)] == [2, 2]
    weights = kernel(20, 20)
    keep = weights > np.quantile(weights, 0.5)  # signed values as importance
    assert np.all(weights[~keep] < weights[keep].min())
    assert not keep.ravel()[np.argmin(weights)], "the most negative one goes, however large"
    assert pruning.mask(pruning.magnitude(weights), 0.5).ravel()[np.argmin(weights)]


def test_a_single_weight_has_no_sigma():
    with pytest.raises(pruning.PruningError, match="must be above 0; equal weights have none"):
        pruning.magnitude_over_sigma(np.array([-2.0]))
    assert pruning.magnitude_over_sigma(np.array([-2.0, 1.0])) == pytest.approx(np.array([2, 1]) / 1.5)


def test_quantization_aware_training_keeps_float32_weights_and_adds_to_them():
    from hwlimits.training import quantize as coded
    from hwlimits.training.models import article_cnn

    plain = article_cnn()
    aware = coded.aware(plain, "own")
    kernels = [w for w in aware.trainable_weights if w.shape.rank > 1]
    assert {w.dtype.name for w in kernels} == {"float32"}
    assert sum(w.shape.num_elements() for w in kernels) == sum(w.size for w in plain.get_weights() if w.ndim > 1)
    assert aware.count_params() > plain.count_params()


def test_a_product_saves_no_byte_and_rounding_does():
    weights = kernel(1000)
    product = weights * np.float32(0.5)
    assert product.nbytes == weights.nbytes
    assert np.array_equal(product / np.float32(0.5), weights)
    assert len(np.unique(product)) == len(np.unique(weights)) > 990
    codes = quantize(weights, symmetric(np.abs(weights).max()))
    assert codes.nbytes == weights.nbytes / 4
    assert len(np.unique(codes)) < 255


def test_the_scale_follows_the_range_at_the_same_bits():
    assert affine(0, 6).scale == pytest.approx(6 * affine(0, 1).scale)
    assert affine(0, 15, bits=4).scale == pytest.approx(affine(0, 255, bits=8).scale)


def test_the_same_two_times_are_perfect_or_a_waste():
    serial_s, parallel_s = (int(n) for n in re.findall(r"(\d+)秒", words("efficiency-without-workers")))
    assert parallel.efficiency(serial_s, parallel_s, 2) == 1
    assert (1 - parallel.efficiency(serial_s, parallel_s, 16)) * 16 == pytest.approx(14)


def test_time_falls_while_efficiency_falls():
    workers = np.arange(1, 17)
    times = 10 / parallel.amdahl(workers, serial=0.1)
    right, article = parallel.efficiency(10, times, workers), times / 10
    assert np.all(np.diff(times) < 0)
    assert np.all(np.diff(right) < 0)
    assert np.argmax(article) == np.argmax(times) == 0, "its formula is highest where the program is slowest"


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_tensorflow_2_5_has_an_upper_bound_for_python():
    python, release = (re.search(r"[\d.]+", words("python-and-above", i))[0] for i in (0, 1))
    (row,) = [r for r in errata.gpu_builds() if r["tensorflow"] == release]
    low, high = map(version, row["python"].split("-"))
    assert low <= version(python) <= high < sys.version_info[:2]


def test_no_build_was_for_cuda_10_2():
    wanted = re.search(r"[\d.]+", words("cuda-10-2"))[0]
    builds = {r["tensorflow"]: r["cuda"] for r in errata.gpu_builds()}
    assert wanted == "10.2"
    assert wanted not in builds.values()
    assert version(builds["2.5"]) > version(wanted)
    assert all(version(a) >= version(b) for a, b in pairwise(builds.values()))


def test_the_listing_calls_what_it_has_not_defined():
    with pytest.raises(NameError, match="name 'prune_params' is not defined"):
        run(words("called-before-defined"), model=None)
    tree = ast.parse(words("called-before-defined"))
    assert {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call)} == {
        "prune_params",
        "quantize_params",
    }
    assert errata.entry("prune-params").quotes[0].section > errata.entry("called-before-defined").quotes[0].section


def test_prune_params_has_no_penalty_and_makes_no_zero():
    from hwlimits.training.keras import keras, tf

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3, activation="softmax")])
    x, y = kernel(40, 8), np.arange(40) % 3
    keras.utils.disable_interactive_logging()
    run(words("prune-params"), tf=tf, train_images=x, train_labels=y)["prune_params"](model)
    assert model.losses == []
    assert all(np.all(w != 0) for w in model.get_weights() if w.ndim > 1)
    names = {node.arg for node in ast.walk(ast.parse(words("prune-params"))) if isinstance(node, ast.keyword)}
    assert not {name for name in names if "regular" in name or "threshold" in name}


def test_tensorflow_has_no_integer_quantization():
    from hwlimits.training.keras import keras, tf

    with pytest.raises(AttributeError):
        run(words("integer-quantization"), tf=tf)
    module = keras.layers.experimental.preprocessing  # Keras 2 has it still
    assert [name for name in dir(module) if "quant" in name.lower()] == []
    assert "Rescaling" in dir(module)


def test_a_layer_s_input_can_not_be_assigned():
    from hwlimits.training.models import article_cnn

    with pytest.raises(AttributeError):
        run(words("assigned-input"), model=article_cnn(), Q=lambda tensor: tensor)
    assert article_cnn().layers[-2].name == "dense1"


def test_q_is_applied_to_an_input_and_to_no_parameter():
    tree = ast.parse(words("assigned-input"))
    (argument,) = [node.args for node in ast.walk(tree) if isinstance(node, ast.Call)][0]
    assert isinstance(argument, ast.Attribute)
    assert argument.attr == "input"
    assert not {"get_weights", "kernel", "weights"} & {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}


def test_accuracy_rises_without_compression():
    first, last = (float(n) / 100 for n in re.findall(r"([\d.]+)%", words("credit-for-accuracy")))
    assert min(case_study("baseline_5", "test_accuracy")) > first
    assert min(case_study("control", "test_accuracy")) > last
    assert np.mean(case_study("control", "test_accuracy")) > np.mean(case_study("quantized", "test_accuracy"))


def test_the_article_s_recipe_makes_nothing_smaller():
    for key in ("parameters", "nonzero_parameters", "macs", "raw_bytes"):
        assert set(case_study("article", key)) == set(case_study("baseline_5", key)), key
    assert max(case_study("quantized", "raw_bytes")) < min(case_study("article", "raw_bytes")) / 3
    assert set(case_study("quantized", "macs")) == set(case_study("article", "macs"))


def test_quantization_leaves_the_number_of_parameters_as_it_is():
    weights = kernel(300, 100)
    codes = quantize(weights, symmetric(np.abs(weights).max()))
    assert codes.size == weights.size
    assert compute.dense(300, 100, dtype="int8").parameters == compute.dense(300, 100).parameters
    assert set(case_study("quantized", "parameters")) == set(case_study("control", "parameters"))


def test_more_devices_never_were_more_efficient():
    published = [row["efficiency"] for row in data.papers("data_parallel_scaling") if row["efficiency"]]
    assert len(published) >= 3
    assert max(published) < 1
    several = [float(row["efficiency"]) for row in results("scaling") if row["efficiency"] and int(row["workers"]) > 1]
    assert len(several) > 50
    assert max(several) < 1.01, "two threads once came within its noise of 1"
    assert np.mean(np.array(several) < 0.99) > 0.9


def test_int8_has_the_macs_of_float32_and_a_quarter_of_the_bytes():
    for layer in (lambda d: compute.dense(1600, 64, dtype=d), lambda d: compute.conv((26, 26, 32), 64, 3, dtype=d)):
        assert layer("int8").macs == layer("float32").macs
        assert layer("int8").bytes == layer("float32").bytes / 4


def test_a_teacher_changes_the_error_and_not_the_size():
    rows = [row for row in results("frontier_choices") if row["coding"] == "rans"]
    setting = lambda row: [row[key] for key in ("architecture", "sparsity", "bits", "rate", "plain_share", "seed")]  # noqa: E731
    pairs = [
        (alone, taught) for alone in rows for taught in rows
        if alone["teacher"] == "0" != taught["teacher"] and setting(alone) == setting(taught)
    ]  # fmt: skip
    assert len(pairs) >= 4
    for alone, taught in pairs:
        assert alone["parameters"] == taught["parameters"]
        assert float(taught["held_out_error"]) < float(alone["held_out_error"]), "beside the same network without one"


def test_a_pool_occupies_more_and_a_plan_does_not():
    from hwlimits.allocation import plan
    from hwlimits.storage import Buffer, peak_live_bytes

    buffers = [Buffer("a", 60, 0, 1), Buffer("b", 40, 1, 2), Buffer("c", 90, 2, 3)]
    pool = pools.replay(pools.trace_of(buffers), pools.SizeClasses(10_000, classes=[64, 128]))
    assert pool.overhead > 0.5
    assert plan(buffers, alignment=1).total_bytes == peak_live_bytes(buffers)


def test_only_removed_filters_make_fewer_products():
    whole = compute.conv((13, 13, 32), 64, 3)
    assert compute.conv((13, 13, 32), 64, 3, dtype="int8").macs == whole.macs
    assert compute.conv((13, 13, 16), 32, 3).macs == whole.macs / 4
    assert set(case_study("pruned", "macs")) == set(case_study("baseline_5", "macs"))


def test_the_alexnet_of_the_article_has_other_authors_and_another_conference():
    conference, year, author = re.search(r"content_(\w+)_(\d+)/papers/(\w+?)_", words("alexnet-link")).groups()
    (row,) = [r for r in ROWS if r.name.startswith("AlexNet")]
    assert author not in row.note
    assert "Krizhevsky" in row.note
    assert conference not in row.url.lower()
    assert f"neurips.cc/paper/{year}/" in row.url


def test_a_convolutional_network_read_digits_before_alexnet():
    years = {row.name.split(":")[0]: row.year for row in ROWS if row.year}
    assert years["LeNet-5"] < years["AlexNet"]


def month(address: str) -> tuple[int, int]:
    """Year and month of an arXiv number, of the form that they have since 2007."""
    year, month = re.search(r"/(\d\d)(\d\d)\.\d{5}$", address).groups()
    return 2000 + int(year), int(month)


def test_the_link_to_efficientnet_is_younger_than_efficientnet():
    (row,) = [r for r in ROWS if r.name.startswith("EfficientNet:")]
    assert row.article == words("efficientnet-link")
    assert month(row.article) == (2021, 4)
    assert month(row.url)[0] == row.year == 2019


def test_compound_scaling_doubles_the_flops():
    alpha, beta, gamma = 1.2, 1.1, 1.15  # arXiv 1905.11946, section 3.3

    def flops(depth, width, resolution):
        size, filters = round(200 * resolution), round(1000 * width)
        return depth * compute.conv((size, size, filters), filters, 3, padding="same").macs

    assert flops(alpha, beta, gamma) / flops(1, 1, 1) == pytest.approx(alpha * beta**2 * gamma**2, rel=1e-3)
    assert alpha * beta**2 * gamma**2 == pytest.approx(2, rel=0.05)


def test_the_newest_research_is_older_than_the_tensorflow_it_asks_for():
    (release,) = [row.year for row in ROWS if row.name == "TensorFlow"]
    (transformer,) = [row for row in ROWS if row.article == words("newest-research", 1)]
    assert month(transformer.url)[0] <= release - 4
    assert transformer.verdict == "right"


def test_ridge_points_rose_in_one_step_and_stay_there():
    generations = [
        devices.device(n) for n in ("p100-sxm2", "v100-sxm2", "a100-80gb-sxm", "h100-sxm", "h200-sxm", "b200")
    ]
    ridges = np.array([Roofline.of_device(d, "fp16").ridge_point() for d in generations])
    assert ridges == pytest.approx([d.peak_flops_per_s("fp16") / d.memory_bytes_per_s for d in generations])
    assert ridges[1] > 4 * ridges[0], "most of it in one step"
    assert ridges[1:].min() > 4 * ridges[0], "and it does not go back"


def test_the_device_with_the_higher_peak_can_be_the_slower_one():
    one = compute.dense(4096, 4096)
    gaming, centre = (devices.device(name) for name in ("rtx-4090", "a100-80gb-sxm"))
    assert gaming.peak_flops_per_s("fp32") > centre.peak_flops_per_s("fp32")
    times = [Roofline.of_device(each, "fp32").time_s(one) for each in (gaming, centre)]
    assert times[0] > 1.5 * times[1]


def test_the_best_value_depends_on_what_is_paid_for():
    one = ModelCost("dense", (LayerCost("dense", "Dense", (1, 4096), compute.dense(4096, 4096, batch=64)),))
    priced = [c for c in selection.fit(one).fits if c.price_usd and c.power_w]
    wanted = {
        "price": lambda c: -c.price_usd,
        "speed": lambda c: c.prediction.examples_per_s,
        "a dollar": lambda c: c.prediction.examples_per_s / c.price_usd,
        "a joule": lambda c: c.prediction.examples_per_s / c.power_w,
    }
    assert len({max(priced, key=value).device.name for value in wanted.values()}) > 2


def test_a_fast_server_that_is_busy_is_late_and_with_half_the_requests_it_is_not():
    deadline_s = 0.06

    def late(rate_per_s, service_s):
        arrivals = queueing.poisson(rate_per_s, 20_000, seed=2)
        return np.mean(queueing.serve(arrivals, lambda batch: service_s).latencies_s > deadline_s)

    assert late(90, 0.010) > 0.05  # a sixth of the deadline, and busy for nine tenths of the time
    assert late(90, 0.005) < 0.001  # a model twice as fast
    assert late(45, 0.010) < 0.002  # half of the requests: nearly the same


def test_a_token_is_small_and_what_is_read_for_it_is_not():
    model, bytes_of_a_token = transformer.MODELS["llama-2-7b"], 2  # 32,000 tokens: two bytes tell which
    read = model.step(1, past=1000).bytes_read
    assert read > model.weights_bytes(2) * 0.97 > 1e9 * bytes_of_a_token


def test_the_reading_list_says_the_same_of_addresses_and_licences():
    found = {
        verdict: {r.article for r in ROWS if r.article and r.verdict == verdict} for verdict in ("unknown", "moved")
    }
    reports = {quote.words for quote in errata.entry("two-hosts").quotes}
    assert {quote.words for quote in errata.entry("addresses-without-content").quotes} == found["unknown"] - reports
    assert {quote.words for quote in errata.entry("addresses-that-moved").quotes} == found["moved"]
    assert all(r.url for r in ROWS if r.article in found["moved"])
    (editor,) = (r for r in ROWS if r.name == "Visual Studio Code")
    assert "Not quite 开源" in editor.note
    assert "开源" in words("vs-code-open-source")


def test_the_memory_of_training_grows_with_the_batch():
    parameters, image = 25_600_000, 80_000_000  # of the size of ResNet-50's
    needed = [storage.training_memory(parameters, batch * image) for batch in (1, 256)]
    assert needed[0].total_bytes - needed[0].activations_bytes == 16 * parameters
    assert needed[1].total_bytes > 40 * needed[0].total_bytes


def test_the_faster_program_can_use_the_machine_less():
    here = Roofline("any", 1e12, {"memory": 2e10})
    whole, smaller = compute.conv((13, 13, 32), 64, 3), compute.conv((13, 13, 16), 32, 3)
    assert here.time_s(smaller) < here.time_s(whole)
    assert smaller.flops / here.time_s(smaller) < whole.flops / here.time_s(whole)


def test_two_accuracies_within_their_intervals_show_nothing():
    from hwlimits.training.evaluate import accuracy_interval, mcnemar

    low, high = accuracy_interval(9_900, 10_000)
    assert 0.0015 < 0.99 - low < 0.0025
    assert 0.0015 < high - 0.99 < 0.0025
    right = np.arange(10_000) >= 100
    other = np.roll(right, 50)
    other[50:55] = True  # five more right
    assert other.sum() > right.sum()
    assert mcnemar(right, other)["p_value"] > 0.3


def test_the_two_versions_differ_in_the_host():
    one, two = (re.match(r"https://([^/]+)(/.*)", words("two-hosts", i)).groups() for i in (0, 1))
    assert one[1] == two[1]
    assert one[0] != two[0]
    assert len(two[0]) - len(one[0]) == 1
    assert [r.verdict for r in ROWS if r.article in (words("two-hosts", 0), words("two-hosts", 1))] == ["unknown"] * 2


def test_tensorflow_s_guides_have_no_page_of_that_name():
    pages = yaml.safe_load(data.path("errata.yaml").read_text(encoding="utf-8"))["tensorflow_guides"]
    base = "https://www.tensorflow.org/guide/"
    assert words("performance-guide").removeprefix(base) not in pages
    (row,) = [r for r in ROWS if r.article == words("performance-guide")]
    assert row.url.removeprefix(base) in pages
