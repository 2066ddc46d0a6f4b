"""Explorers: their numbers are the library's, with knobs and on a page, and what can't be is said."""

import sys
from fractions import Fraction
from html import escape, unescape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from chapters import CHAPTERS, code, read
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from scipy import sparse

from hwlimits import bandwidth, collectives, data, devices, quiz, systolic, widgets
from hwlimits.devices import DeviceError
from hwlimits.parallel import ParallelError
from hwlimits.quantization import QuantizationError
from hwlimits.roofline import Roofline, RooflineError
from hwlimits.widgets import explorer as explorers
from hwlimits.widgets import models

HERE = Roofline("here", 4e11, {"L1": 4e11, "L2": 2e11, "DRAM": 2e10})
MADE = {
    "roofline": lambda: widgets.roofline({"fp32": HERE}, ["t4", "tpu-v5e"]),
    "sparsity": lambda: widgets.sparsity(HERE),
    "bits": widgets.bits,
    "speedup": widgets.speedup,
    "allreduce": widgets.allreduce,
    "systolic": widgets.systolic,
}
each = pytest.mark.parametrize("made", MADE.values(), ids=MADE)


@pytest.fixture(autouse=True)
def closed():
    """Figures that a test drew and did not show."""
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """What would have been displayed."""
    found = []
    monkeypatch.setattr("IPython.display.display", lambda *things, **_: found.extend(things))
    return found


def knob(widget, label):
    (control,) = [c for c in widget.children if getattr(c, "description", None) == label]
    return control


# --- all of them -------------------------------------------------------------------------------


@each
def test_every_setting_has_an_answer_or_says_why_not(made):
    explorer = made()
    assert len(explorer.knobs) >= 3
    for turned in explorer.knobs:
        rows = explorer.sweep(turned.name)
        assert [row[turned.label] for row in rows] == list(turned.values)
        whole = [row for row in rows if explorers.WHY_NOT not in row]
        assert len(whole) == len(rows) or (explorer.question.startswith("What does a dense layer") and whole)
        assert all(set(row) == set(whole[0]) for row in whole)
        assert all(len(row) == 2 and len(row[explorers.WHY_NOT]) > 20 for row in rows if row not in whole)


@each
def test_a_page_has_the_figure_and_all_numbers(made, shown):
    explorer = made()
    explorer.show()
    image, text = shown
    assert len(image.alt) > 60
    assert image.data[:4] == b"\x89PNG"
    answer = explorer.at()
    assert answer.said in text.data
    for row in [*answer.rows, *(r for k in explorer.knobs for r in explorer.sweep(k.name))]:
        for name, value in row.items():
            assert explorers.cell(value, explorer.units.get(name, "")).replace("|", "/") in text.data
    assert text.data.count("<details>") == len(explorer.knobs) == text.data.count("</details>")


@each
def test_a_page_turns_each_knob_from_its_settings(made):
    """Not from the starts: sentence and folded tables are of the same machine."""
    explorer = made()

    def found(**settings):
        try:
            return explorer.at(**settings).found
        except ValueError as error:
            return {explorers.WHY_NOT: str(error)}

    turned, value = next(
        (knob, value)
        for knob in sorted(explorer.knobs, key=lambda knob: not knob.choice)
        for value in knob.values[::-1]
        if value != knob.start and explorers.WHY_NOT not in found(**{knob.name: value})
    )
    text = explorer.markdown(**{turned.name: value})
    for other in (knob for knob in explorer.knobs if knob is not turned):
        table = text.split(f"Turning: {escape(other.label)}</summary>")[1].split("</details>")[0]
        rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
        for setting, row in zip(other.values, rows, strict=True):
            for name, wanted in found(**{turned.name: value, other.name: setting}).items():
                assert explorers.cell(wanted, explorer.units.get(name, "")).replace("|", "/") in row


def test_a_sweep_says_which_settings_there_are():
    with pytest.raises(widgets.WidgetError, match="there is no knob 'colour'; there are serial, workers"):
        widgets.speedup().sweep("workers", colour="red")
    with pytest.raises(widgets.WidgetError, match="serial='half' is no number; the knob has "):
        widgets.speedup().sweep("workers", serial="half")


@each
def test_a_turned_knob_changes_what_is_shown_to_the_library_s_answer(made):
    explorer = made()
    widget = explorer.widget()
    page, settings = widget.children[-1], {}
    assert page.value == explorer.html()
    for turned in explorer.knobs:
        control, before = knob(widget, turned.label), page.value
        assert [value for _, value in control.options] == list(turned.values)
        settings[turned.name] = control.value = next(v for v in turned.values[::-1] if v != turned.start)
        assert page.value == explorer.html(**settings)
        assert page.value != before
    assert widget.children[0].value == f"<b>{escape(explorer.question)}</b>"


@each
def test_what_is_shown_can_be_read_without_seeing_the_figure(made):
    html = made().html()
    assert html.count("<img alt=") == 1
    assert len(html.split('<img alt="')[1].split('"')[0]) > 60
    assert '<th scope="col">' in html
    assert unescape(html).startswith(f'<p role="status">{made().at().said}</p>')


@each
def test_there_is_no_other_knob(made):
    with pytest.raises(widgets.WidgetError, match="there is no knob 'colour'; there are "):
        made().at(colour="red")
    with pytest.raises(widgets.WidgetError, match="there is no knob 'colour'; there are "):
        made().sweep("colour")


@each
def test_a_number_is_a_number(made):
    number = next(k.name for k in made().knobs if not k.choice)
    for bad in ("8", None, True):
        with pytest.raises(widgets.WidgetError, match=f"{number}={bad!r} is no number; the knob has "):
            made().at(**{number: bad})


def test_a_setting_that_cant_be_is_shown_as_the_library_s_sentence():
    widget = MADE["roofline"]().widget()
    knob(widget, "machine").value = "tpu-v5e"
    said = unescape(widget.children[-1].value)
    assert said == "<p role=\"alert\">tpu-v5e has no published peak for 'fp32'. It has bf16, int8, int4.</p>"
    knob(widget, "precision").value = "bf16"
    assert "<img" in widget.children[-1].value, "and goes when the setting can be"


def test_pages_are_made_without_knobs(monkeypatch, shown):
    monkeypatch.setenv(widgets.STATIC, "1")
    widgets.speedup()._ipython_display_()
    assert [type(thing).__name__ for thing in shown] == ["Image", "Markdown"]
    shown.clear()
    monkeypatch.setenv(widgets.STATIC, "0")
    widgets.speedup()._ipython_display_()
    assert [type(thing).__name__ for thing in shown] == ["VBox"]


def test_without_ipywidgets_there_is_the_page(monkeypatch, shown):
    monkeypatch.delenv(widgets.STATIC, raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    widgets.speedup()._ipython_display_()
    assert [type(thing).__name__ for thing in shown] == ["Image", "Markdown"]
    with pytest.raises(widgets.WidgetError, match=r"knobs need ipywidgets, which is not installed: .* or use show\(\)"):
        widgets.speedup().widget()


def test_a_knob_has_settings_and_a_start_among_them():
    with pytest.raises(widgets.WidgetError, match=r"knob 'x': settings \(1,\); give two or more that differ"):
        widgets.Knob("x", "x", (1,), start=1)
    with pytest.raises(widgets.WidgetError, match="give two or more that differ"):
        widgets.Knob("x", "x", (1, 1), start=1)
    with pytest.raises(widgets.WidgetError, match="knob 'x' can't start at 3; it has 1, 2"):
        widgets.Knob("x", "x", (1, 2), start=3)


def test_what_is_shown_is_escaped():
    answer = widgets.Answer("a < b", {}, [{"x": "<b>|"}], lambda: (plt.figure(), 'says "x"'))
    explorer = widgets.Explorer("?", [widgets.Knob("k", "<k>", (1, 2), start=1)], lambda k: answer, {})
    html = explorer.html()
    assert '<p role="status">a &lt; b</p>' in html
    assert 'alt="says &quot;x&quot;"' in html
    assert "<td>&lt;b&gt;|</td>" in html
    assert "Turning: &lt;k&gt;" in explorer.markdown()
    assert "| <b>/ |" in explorer.markdown()


STANDS_IN = {"roofline": "01", "allreduce": "03", "sparsity": "04", "bits": "05", "speedup": "06", "systolic": "07"}


@pytest.mark.parametrize(("name", "number"), STANDS_IN.items())
def test_a_chapter_has_its_explorer_as_a_page_shows_it(name, number):
    (path,) = [path for path in CHAPTERS if path.stem.startswith(number)]
    (cell,) = [c for c in code(read(path)) if c.source == f"from hwlimits import widgets\n\nwidgets.{name}()"]
    figure, text = cell.outputs
    explorer = getattr(widgets, name)()
    assert text.data["text/markdown"] == explorer.markdown(), "make execute"
    assert figure.metadata["image/png"]["alt"] == explorer.at().draw()[1]


def test_a_kernel_shows_knobs_or_the_page(tmp_path, monkeypatch):
    """In a kernel as JupyterLab starts it: a widget, whose state is stored beside its view; or figure and text."""
    monkeypatch.setenv("PYTHONPATH", str(Path(widgets.__file__).parents[2]))
    monkeypatch.delenv(widgets.STATIC, raising=False)
    cells = [
        "from hwlimits import quiz, widgets\nwidgets.speedup()",
        "quiz.show('00_start_here')",
        "import os\nos.environ[widgets.STATIC] = '1'\nwidgets.speedup()",
    ]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    view = "application/vnd.jupyter.widget-view+json"
    shown = [[set(output["data"]) for output in cell.outputs] for cell in notebook.cells]
    assert shown[:2] == [[{"text/plain", view}], [{"text/plain", view}]]
    assert shown[2] == [{"text/plain", "image/png"}, {"text/plain", "text/markdown"}]
    (state,) = notebook.metadata["widgets"].values()
    names = [model["model_name"] for model in state["state"].values()]
    assert names.count("SelectionSliderModel") == 3
    assert names.count("RadioButtonsModel") == len(quiz.questions("00_start_here"))


# --- each against the library, or counted again ------------------------------------------------


@pytest.mark.parametrize("batch", [1, 64, 4096])
@pytest.mark.parametrize(("precision", "element_bytes"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_the_roofline_by_hand(batch, precision, element_bytes):
    width, gpu = 1024, devices.device("t4")
    found = widgets.roofline().at(machine="t4", precision=precision, batch=batch, width=width)
    flops = 2 * batch * width**2 + batch * width  # the bias is an addition each
    moved = element_bytes * (width**2 + width + 2 * batch * width)
    computing_s, moving_s = flops / gpu.peak_flops_per_s(precision), moved / gpu.memory_bytes_per_s
    assert found.found["intensity"] == pytest.approx(flops / moved)
    assert found.found["time"] == pytest.approx(max(computing_s, moving_s))
    assert found.found["bound"] == ("memory" if moving_s > computing_s else "compute")
    assert found.found["share of peak"] == pytest.approx(min(1, computing_s / moving_s))
    assert found.found["images a second"] == pytest.approx(batch / max(computing_s, moving_s))
    (row,) = [r for r in found.rows if r["machine"] == "t4"]
    assert row["time"] == found.found["time"]
    assert row["ridge point"] == gpu.ridge_point(precision)
    faster, wider = max(computing_s / 2, moving_s), max(computing_s, moving_s / 2)
    for time_s in (faster, wider):
        assert explorers.cell(time_s, "s") in found.said


@pytest.mark.parametrize("width", [64, 1024])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_batch_at_which_compute_bounds_by_trying_all(precision, width):
    answer = MADE["roofline"]().at(machine="t4", precision=precision, width=width)
    (row,) = [r for r in answer.rows if r["machine"] == "t4"]
    gpu, element_bytes = devices.device("t4"), {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    b = np.arange(1, 5000)
    computing_s = (2 * b * width**2 + b * width) / gpu.peak_flops_per_s(precision)
    moving_s = element_bytes * (width**2 + width + 2 * b * width) / gpu.memory_bytes_per_s
    bound = b[computing_s >= moving_s]
    wanted = bound[0] if bound.size else "none"
    assert row["batch at which compute bounds"] == wanted
    assert answer.found["batch at which compute bounds"] == wanted
    if bound.size and wanted > 1:
        (at, before) = (MADE["roofline"]().at(machine="t4", precision=precision, width=width, batch=b).found["bound"]
                        for b in (wanted, wanted - 1))  # fmt: skip
        assert (at, before) == ("compute", "memory")


def test_a_narrow_layer_s_compute_never_bounds():
    """Each image brings its own bytes: 64 outputs of 64 inputs are at most 129 / 4 FLOP/byte in float16."""
    t4 = widgets.roofline(machines=["t4", "h100-sxm"]).at(machine="t4", precision="fp16", width=64)
    assert t4.found["batch at which compute bounds"] == "none"
    assert widgets.roofline({"fp32": HERE}).at(precision="bf16", machine="h100-sxm").rows[0].keys() == {
        "machine", "bound"
    }  # fmt: skip


def test_the_roofline_s_setting_is_the_figure_s_point():
    answer = MADE["roofline"]().at(batch=8)
    figure, _ = answer.draw()
    (point,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert point.get_xdata()[0] == pytest.approx(answer.found["intensity"])
    row = next(r for r in answer.rows if r["machine"] == "this computer")
    assert point.get_ydata()[0] == pytest.approx(row["attainable"])
    assert len(figure.axes[0].lines) == 2 * len(HERE.bandwidths) + 1


def test_a_machine_without_a_precision_says_so_beside_the_others():
    rows = {r["machine"]: r for r in MADE["roofline"]().at(precision="bf16", machine="tpu-v5e").rows}
    assert rows["t4"] == {"machine": "t4", "bound": "no bf16 published"}
    assert rows["this computer"] == {"machine": "this computer", "bound": "no bf16 given"}
    with pytest.raises(widgets.WidgetError, match="roofline at bf16 is not given; given are fp32"):
        MADE["roofline"]().at(precision="bf16", machine="this computer")


@pytest.mark.parametrize("bad", [HERE, {}, {"fp32": 1e9}, {"fp99": HERE}])
def test_a_roofline_of_here_is_one_for_each_precision(bad):
    with pytest.raises(widgets.WidgetError, match="give a Roofline for each precision"):
        widgets.roofline(bad)
    with pytest.raises(DeviceError, match="No device 'abacus'"):
        widgets.roofline(machines=["abacus"])


@pytest.mark.parametrize("zeros", [0.5, 0.9, 0.99])
def test_sparse_forms_packed_for_real(zeros):
    width, random = 512, np.random.default_rng(0)
    matrix = random.standard_normal((width, width)).astype(np.float32)
    matrix.flat[random.permutation(width * width)[: round(zeros * width * width)]] = 0
    csr = sparse.csr_matrix(matrix)
    found = widgets.sparsity().at(zeros=zeros, width=width, form="float32").found
    assert found["dense"] == matrix.nbytes
    assert found["bitmap"] == np.packbits(matrix != 0).nbytes + matrix[matrix != 0].nbytes
    assert found["CSR"] == csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes


@pytest.mark.parametrize(
    ("form", "bitmap", "csr"),
    [("float32", 1 / 32, 1 / 2), ("float16", 1 / 16, 2 / 3), ("int8", 1 / 8, 4 / 5), ("int4", 1 / 4, 8 / 9)],
)
def test_from_how_many_zeros_on_a_sparse_form_pays_by_hand(form, bitmap, csr):
    """A bit for each weight, or four bytes for each that is left; row starts are left out."""
    (row,) = [row for row in widgets.sparsity().sweep("form") if row["format"] == form]
    assert row["a bitmap pays from"] == pytest.approx(bitmap)
    assert row["CSR pays from"] == pytest.approx(csr)
    table = widgets.sparsity().markdown().split("Turning: format")[1]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {form} ")]
    assert f"| {100 * bitmap:.3g}% | {100 * csr:.3g}% |" in line


def test_sparse_speeds_are_those_that_were_measured():
    import csv
    import json

    with open(data.path("results/kernels.csv"), newline="") as table:
        rows = [r for r in csv.DictReader(table) if "pointwise layers, 90 % zeros" in r["kernel"]]
    answer = widgets.sparsity().at(zeros=0.9)
    assert answer.found["speed-up, measured"] == pytest.approx(float(rows[0]["ratio"]))
    stored = json.loads(data.path("results/kernels.json").read_text())["provenance"]["compression"]["break_even"]
    assert f"skipping pays from {stored['measured']:.0%} on" in answer.said
    assert widgets.sparsity().at(zeros=0.99).found["speed-up, measured"] is None, "nothing was measured there"
    figure, _ = answer.draw()
    drawn = {round(z, 2): t for z, t in zip(*figure.axes[0].lines[0].get_data(), strict=True)}
    for row in answer.rows:
        if row["speed-up, measured"] and row["zeros"] in drawn:
            assert 1 / drawn[row["zeros"]] == pytest.approx(row["speed-up, measured"])


def test_the_card_s_promise_is_chapter_04_s():
    found = widgets.sparsity(HERE).at(zeros=0.75)
    dense_s, sparse_s = 2 / HERE.peak_flops_per_s, 0.25 * 4 / HERE.bandwidths["L2"]
    assert found.found["speed-up, from the card"] == pytest.approx(dense_s / sparse_s)
    assert f"from {1 - HERE.bandwidths['L2'] / (2 * HERE.peak_flops_per_s):.0%} on." in found.said
    assert widgets.sparsity(HERE, "L1").at().found["speed-up, from the card"] == pytest.approx(
        2 * widgets.sparsity(HERE).at().found["speed-up, from the card"]
    )
    assert widgets.sparsity(HERE).at(zeros=1).found["speed-up, from the card"] is None, "no time is no speed-up"


def test_what_sparsity_cant_be():
    with pytest.raises(widgets.WidgetError, match="zeros=1.5; a share is from 0 to 1"):
        widgets.sparsity().at(zeros=1.5)
    with pytest.raises(widgets.WidgetError, match="form='fp32' is not one of float32, float16, int8, int4"):
        widgets.sparsity().at(form="fp32")
    with pytest.raises(widgets.WidgetError, match="give a Roofline, such as"):
        widgets.sparsity(4e11)
    with pytest.raises(widgets.WidgetError, match="has one level of memory; say which is meant"):
        widgets.sparsity(Roofline("flat", 1e11, {"DRAM": 1e10}))
    with pytest.raises(RooflineError, match="has no level 'L4'"):
        widgets.sparsity(HERE, "L4")


@pytest.mark.parametrize("scales", ["one", "one for each channel"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_error_by_looking_for_the_nearest_of_all_codes(bits, scales):
    random = np.random.default_rng(1)
    x = random.standard_normal((64, 4)) * [0.1, 1, 3, 10]
    explorer = widgets.bits({"x": x, "other": x + 1})
    found = explorer.at(bits=bits, numbers="x", scales=scales).found
    most = np.abs(x).max(axis=0) if scales != "one" else np.full(4, np.abs(x).max())
    codes = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
    levels = codes * (most / codes.max())[:, None]  # (channels, codes)
    nearest = levels[np.arange(4), np.abs(x[:, :, None] - levels).argmin(axis=2)]
    wanted_db = 10 * np.log10(np.sum(x**2) / np.sum((x - nearest) ** 2))
    assert found["error, found"] == pytest.approx(wanted_db, abs=1e-3)
    assert found["largest step"] == pytest.approx((most / codes.max()).max(), rel=1e-6)
    assert found["bytes"] == x.size * bits // 8 + 4 * (1 if scales == "one" else 4)


@pytest.mark.parametrize("scales", ["one", "one for each channel"])
@pytest.mark.parametrize("range_", ["min and max", "99.9 %", "least error"])
@pytest.mark.parametrize("bits", [2, 8, 12, 16])
def test_clipped_is_what_loses_more_than_rounding_does(bits, range_, scales):
    x = np.random.default_rng(2).standard_normal((256, 4)) * [0.1, 1, 3, 10]
    explorer = widgets.bits({"x": x, "other": x + 1})
    found = explorer.at(bits=bits, numbers="x", range=range_, scales=scales).found
    codes = models._codes(x, bits, range_, scales)
    over = np.abs(np.round(x / np.asarray(codes.scale, float))) > 2 ** (bits - 1) - 1
    assert found["clipped"] == over.mean()
    if range_ == "min and max":
        assert found["clipped"] == 0, "the codes span all of them"


def test_the_expected_error_is_a_step_s_and_six_decibels_a_bit():
    rows = {r["bits"]: r for r in widgets.bits().at().rows}
    assert rows["8"]["error, as expected"] - rows["7"]["error, as expected"] == pytest.approx(20 * np.log10(2))
    assert rows["8"]["error, found"] == pytest.approx(rows["8"]["error, as expected"], abs=0.5)
    assert rows["3"]["bytes"] is None, "nothing packs three bits"
    assert widgets.bits().at(range="least error").found["error, as expected"] is None


def test_where_channels_differ_and_where_tails_are_long():
    """What the knobs are to teach: the scale for each channel, the range that leaves something out."""
    explorer = widgets.bits()

    def error(**settings):
        return explorer.at(**settings).found["error, found"]

    assert error(numbers="channels that differ", bits=4, scales="one for each channel") > error(
        numbers="channels that differ", bits=4, scales="one"
    )
    tail = {"numbers": "a long tail", "bits": 4}
    assert error(**tail, range="least error") > error(**tail, range="min and max")
    assert explorer.at(**tail, range="99.9 %").found["clipped"] > 0 == explorer.at(**tail).found["clipped"]


def test_what_bits_cant_be():
    with pytest.raises(QuantizationError, match=r"bits=1\): choose a whole number from 2 to 16"):
        widgets.bits().at(bits=1)
    for bad in (np.ones(4), np.zeros((4, 4)), np.ones((4, 4), int)):
        with pytest.raises(widgets.WidgetError, match="floats with channels along the last axis are needed"):
            widgets.bits({"bad": bad, "good": np.eye(3)})
    with pytest.raises(widgets.WidgetError, match="1 arrays; a knob needs two to choose from"):
        widgets.bits({"alone": np.eye(3)})


@pytest.mark.parametrize("workers", [1, 3, 4096])
def test_the_laws_in_exact_arithmetic(workers):
    s = Fraction(1, 5)
    found = widgets.speedup().at(serial=0.2, workers=workers, coherency=0.001).found
    assert found["Amdahl"] == pytest.approx(float(1 / (s + (1 - s) / workers)))
    assert found["Gustafson"] == pytest.approx(float(s + (1 - s) * workers))
    pairs = workers * (workers - 1)
    assert found["USL"] == pytest.approx(float(workers / (1 + s * (workers - 1) + Fraction(1, 1000) * pairs)))
    assert found["efficiency"] == pytest.approx(found["Amdahl"] / workers)
    assert found["Amdahl's end"] == 5


def test_the_peak_is_where_more_workers_are_slower():
    explorer = widgets.speedup()
    peak = explorer.at(serial=0.02, coherency=1e-4).found["USL's peak"]
    speeds = {p: explorer.at(serial=0.02, coherency=1e-4, workers=p).found["USL"] for p in range(1, 400)}
    assert abs(max(speeds, key=speeds.get) - peak) <= 1
    assert "without an end" in explorer.at(serial=0.0).said
    with pytest.raises(ParallelError, match=r"amdahl\(serial=1.5\): a share is from 0 to 1"):
        explorer.at(serial=1.5)


def test_the_figure_of_the_laws_is_the_table():
    answer = widgets.speedup().at()
    figure, _ = answer.draw()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for name in ("Amdahl", "Gustafson", "USL"):
        assert list(lines[name].get_xdata()) == [r["workers"] for r in answer.rows]
        assert list(lines[name].get_ydata()) == [r[name] for r in answer.rows]


@pytest.mark.parametrize("elements", [1, 1000, 100_000])
@pytest.mark.parametrize("processes", [2, 3, 8])
def test_all_reduces_counted_message_by_message(processes, elements):
    link = bandwidth.LinkModel(1e-5, 1e9)
    explorer = widgets.allreduce(here=link)
    answer = explorer.at(link="this computer", processes=processes, elements=elements)
    times = {}
    for row in answer.rows:
        counted = collectives.schedule(row["algorithm"], processes, elements).cost()
        times[row["algorithm"]] = counted.steps * 1e-5 + 4 * counted.critical / 1e9
        assert row["steps"] == counted.steps
        assert row["most sent by one"] == 4 * max(counted.sent)
        assert row["sent by all"] == 4 * sum(counted.sent)
        assert row["time"] == pytest.approx(times[row["algorithm"]])
    assert answer.found["time"] == pytest.approx(min(times.values()))
    assert times[answer.found["fastest"]] == pytest.approx(min(times.values()))


def test_the_figure_of_the_all_reduces_goes_through_the_setting():
    answer = widgets.allreduce().at(elements=10**5)
    figure, _ = answer.draw()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    at = list(lines["ring"].get_xdata()).index(4 * 10**5)
    for row in answer.rows:
        assert lines[row["algorithm"]].get_ydata()[at] == pytest.approx(row["time"])


def test_what_an_all_reduce_cant_be():
    with pytest.raises(bandwidth.BandwidthError, match="processes=0"):
        widgets.allreduce().at(processes=0)
    with pytest.raises(bandwidth.BandwidthError, match="elements=1.5"):
        widgets.allreduce().at(elements=1.5)
    with pytest.raises(widgets.WidgetError, match=r"give a bandwidth.LinkModel, such as bandwidth.fit\(...\).link"):
        widgets.allreduce(here=1e9)
    with pytest.raises(DeviceError, match="No link 'string'"):
        widgets.allreduce(links=["string"])
    assert widgets.allreduce().at(processes=1).found["time"] == 0


@pytest.mark.parametrize("dataflow", systolic.DATAFLOWS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 16, 16), (9, 5, 17)])
def test_the_array_s_cycles_counted_by_running_it(m, k, n, dataflow):
    answer = widgets.systolic().at(side=4, dataflow=dataflow, m=m, k=k, n=n)
    run = systolic.multiply(systolic.Array(4, 4, dataflow), np.ones((m, k), int), np.ones((k, n), int))
    assert (run.product == k).all()
    assert answer.found["cycles"] == len(run.busy)
    assert answer.found["utilisation"] == pytest.approx(run.busy.sum() / (16 * len(run.busy)))
    (row,) = [r for r in answer.rows if (r["side"], r["dataflow"]) == (4, dataflow)]
    assert row["cycles"] == answer.found["cycles"]
    figure, text = answer.draw()
    assert list(figure.axes[0].lines[0].get_ydata()) == list(run.busy)
    assert f"in each of {run.cycles} cycles" in text


def test_what_an_array_cant_be():
    with pytest.raises(systolic.SystolicError, match=r"rows=0\): must be a whole number"):
        widgets.systolic().at(side=0)
    with pytest.raises(widgets.WidgetError, match="dataflow='row-stationary' is not one of weight-stationary, output"):
        widgets.systolic().at(dataflow="row-stationary")


# --- what else is said, tabled and drawn, counted by hand -----------------------------------------


@pytest.mark.parametrize(("precision", "element_bytes"), [("fp16", 2), ("int8", 1)])
def test_every_machine_s_row_of_the_roofline_by_hand(precision, element_bytes):
    batch, width = 32, 256
    answer = widgets.roofline(machines=["t4", "h100-sxm", "a100-80gb-sxm"]).at(
        machine="t4", precision=precision, batch=batch, width=width
    )
    flops, moved = 2 * batch * width**2 + batch * width, element_bytes * (width**2 + width + 2 * batch * width)
    for row in answer.rows:
        device = devices.device(row["machine"])
        peak, bandwidth_ = device.peak_flops_per_s(precision), device.memory_bytes_per_s
        assert (row["peak"], row["bandwidth"]) == (peak, bandwidth_)
        assert row["ridge point"] == pytest.approx(peak / bandwidth_)
        assert row["attainable"] == pytest.approx(min(peak, flops / moved * bandwidth_))
        assert row["time"] == pytest.approx(max(flops / peak, moved / bandwidth_))
        assert row["bound"] == ("compute" if flops / moved > peak / bandwidth_ else "memory")
    chosen = answer.rows[0]
    assert f"{flops / moved:.3g} FLOP/byte, and the ridge point is at {chosen['ridge point']:.3g}, so" in answer.said
    assert f"{chosen['attainable'] / chosen['peak']:.1%} of the peak" in answer.said


def test_bounds_of_the_rows_differ_where_the_machines_do():
    """Ridge points of 20 here and of 25 of a T4, in float32; 45 images of 4096 have an intensity of 22."""
    rows = widgets.roofline({"fp32": HERE}, ["t4", "h100-sxm"]).at(
        machine="this computer", precision="fp32", batch=45, width=4096
    ).rows  # fmt: skip
    assert {r["machine"]: r["bound"] for r in rows}["this computer"] != {r["machine"]: r["bound"] for r in rows}["t4"]


@pytest.mark.parametrize(("processes", "elements"), [(8, 1), (5, 10**7)])
def test_what_is_said_of_an_all_reduce_by_hand(processes, elements):
    link = bandwidth.LinkModel(1e-5, 1e9)
    answer = widgets.allreduce(here=link).at(link="this computer", processes=processes, elements=elements)
    best = min(answer.rows, key=lambda row: row["time"])
    assert answer.found["fastest"] == best["algorithm"]
    assert answer.found["latency's share"] == pytest.approx(best["steps"] * 1e-5 / best["time"])
    assert f", of which {best['steps'] * 1e-5 / best['time']:.0%} are latency." in answer.said
    # each process has to hand on all that the others lack: (p - 1)/p of the array, out and back
    assert answer.found["least bytes"] == pytest.approx(4 * 2 * (processes - 1) / processes * elements, rel=0.2)
    for row in answer.rows:
        assert row["over the fastest"] == pytest.approx(row["time"] / best["time"])
        assert row["most sent by one"] * processes >= row["sent by all"]
    figure, text = answer.draw()
    (point,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([4 * elements], [best["time"]])
    assert f"from 4 to 4 GB: {answer.rows[0]['algorithm']} " in text
    assert f"The setting, {best['algorithm']}: " in text


@pytest.mark.parametrize("dataflow", systolic.DATAFLOWS)
def test_the_table_of_arrays_and_what_is_said_by_running_them(dataflow):
    m, k, n = 3, 5, 6
    answer = widgets.systolic().at(side=4, dataflow=dataflow, m=m, k=k, n=n)
    for row in answer.rows:
        if row["side"] > 16:
            continue
        array = systolic.Array(row["side"], row["side"], row["dataflow"])
        run = systolic.multiply(array, np.ones((m, k), int), np.ones((k, n), int))
        assert row["cycles"] == run.cycles
        assert row["utilisation"] == pytest.approx(run.busy.sum() / (array.cells * run.cycles))
        kept = {"weight-stationary": (k, n), "output-stationary": (m, n), "input-stationary": (m, k)}[row["dataflow"]]
        folds = -(-kept[0] // row["side"]) * -(-kept[1] // row["side"])
        assert row["folds"] == folds
        assert row["empty cells"] == pytest.approx(1 - kept[0] * kept[1] / (folds * array.cells))
    (mine,) = [r for r in answer.rows if (r["side"], r["dataflow"]) == (4, dataflow)]
    assert {name: mine[name] for name in answer.found} == dict(answer.found)
    assert f"Without a wait it would be {6} cycles." in answer.said, "90 products among 16 cells, rounded up"
    run = systolic.multiply(systolic.Array(4, 4, dataflow), np.ones((m, k), int), np.ones((k, n), int))
    figure, text = answer.draw()
    assert text.endswith(f"none in {sum(busy == 0 for busy in run.busy)} cycles.")
    assert [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_label() == "all cells"] == [16]


def test_the_forms_of_small_numbers_and_the_smallest_are_said():
    found = widgets.sparsity().at(zeros=0.75, width=256, form="int8")
    left = 256 * 256 // 4
    assert found.found["dense"] == 256 * 256
    assert found.found["bitmap"] == 256 * 256 // 8 + left
    assert found.found["CSR"] == left + 4 * left + 4 * 257
    assert "75% zeros in 256 × 256 int8 weights: bitmap is the smallest form" in found.said
    # a bitmap costs 1/8 B for each weight, CSR 4 B for each that is left: where that is what zeros save
    assert "A bitmap pays from 12% zeros on, CSR from 80%." in found.said
    assert "dense is the smallest form" in widgets.sparsity().at(zeros=0.0).said


def test_the_figure_of_the_zeros_has_the_setting_and_the_card():
    answer = widgets.sparsity(HERE).at(zeros=0.6)
    figure, text = answer.draw()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["the setting"].get_xdata()) == [0.6, 0.6]
    card = lines["from the card of this computer"]
    dense_s, sparse_s = 2 / HERE.peak_flops_per_s, 4 / HERE.bandwidths["L2"]
    assert (list(card.get_xdata()), list(card.get_ydata())) == ([0, 1], [pytest.approx(sparse_s / dense_s), 0])
    assert f"From the card: {sparse_s / dense_s:.2f} without zeros" in text
    measured = next(line for label, line in lines.items() if label.startswith("measured"))
    assert set(measured.get_xdata()) <= {row["zeros"] for row in answer.rows}, "each measurement has a row"


def test_what_lies_outside_of_the_codes_is_counted_on_both_sides():
    """Of 1,000 numbers of each of two channels one is far out, above or below; 99.9 % leave them out."""
    x = np.tile(np.linspace(-1, 1, 1000)[:, None], (1, 2))
    x[0, 0], x[-1, 1] = -50, 50
    explorer = widgets.bits({"x": x, "other": x + 1})
    for settings in ({}, {"scales": "one for each channel"}):
        found = explorer.at(numbers="x", range="99.9 %", bits=8, **settings).found
        limit = np.array([np.quantile(np.abs(c), 0.999) for c in (x.T if settings else [x])])
        assert found["clipped"] >= np.mean(np.abs(x) > 2) == 2 / 2000
        assert found["largest step"] < 50 / 127 or settings, limit
        assert found["error, as expected"] is None
    assert explorer.at(numbers="x", bits=8).found["clipped"] == 0
    assert explorer.at(numbers="x", scales="one for each channel").found["error, as expected"] is None


def test_each_row_of_bits_is_that_many_bits_and_the_figure_is_the_table():
    explorer = widgets.bits()
    answer = explorer.at(bits=9)
    assert [int(row["bits"]) for row in answer.rows] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16]
    for row in answer.rows:
        alone = explorer.at(bits=int(row["bits"])).found
        assert {name: row[name] for name in alone} == dict(alone)
    figure, _ = answer.draw()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["found"].get_xdata()) == [int(row["bits"]) for row in answer.rows]
    assert list(lines["found"].get_ydata()) == [row["error, found"] for row in answer.rows]
    assert 5 < np.diff(lines["found"].get_ydata()[4:7]).mean() < 7, "six decibels a bit"


def test_made_up_channels_differ_and_arrays_of_four_axes_keep_their_channels():
    random = np.random.default_rng(0)
    kernel = random.standard_normal((3, 3, 5, 4)) * [1, 10, 100, 1000]
    explorer = widgets.bits({"kernel": kernel, "flat": kernel.reshape(-1, 4)})
    settings = {"bits": 4, "scales": "one for each channel"}
    assert explorer.at(numbers="kernel", **settings).found == explorer.at(numbers="flat", **settings).found
    assert explorer.at(numbers="kernel", **settings).found["largest step"] == pytest.approx(
        np.abs(kernel[..., 3]).max() / 7
    )
    gains = [
        widgets.bits().at(numbers=numbers, **settings).found["error, found"]
        - widgets.bits().at(numbers=numbers, bits=4).found["error, found"]
        for numbers in ("channels that differ", "a bell curve")
    ]
    assert gains[0] > gains[1] + 1, "the widths of the made-up channels are what a scale for each is good for"


def test_the_least_error_is_sought_at_the_bits_of_the_setting():
    """Brute force: of 200 ranges for one scale, none is better by a tenth of a decibel."""
    x = np.random.default_rng(2).standard_t(3, (400, 2))
    explorer = widgets.bits({"x": x, "other": x + 1})
    for bits in (3, 5):
        steps = np.linspace(0.02, 1, 200) * np.abs(x).max() / (2 ** (bits - 1) - 1)
        most = 2 ** (bits - 1) - 1
        errors = [np.sum((x - s * np.clip(np.round(x / s), -most, most)) ** 2) for s in steps]
        best_db = 10 * np.log10(np.sum(x**2) / min(errors))
        found = explorer.at(numbers="x", bits=bits, range="least error").found["error, found"]
        assert best_db - 0.1 < found < best_db + 0.1


def test_what_is_said_of_workers_by_hand():
    answer = widgets.speedup().at(serial=0.04, workers=12, coherency=1e-4)
    amdahl, peak = 1 / (0.04 + 0.96 / 12), np.sqrt(0.96 / 1e-4)
    assert f"The same problem: {amdahl:.3g} times as fast (Amdahl), and never more than 25." in answer.said
    assert "more than 98 make it slower" in answer.said
    assert answer.found["USL's peak"] == pytest.approx(peak, abs=1)
    assert [row["workers"] for row in answer.rows] == sorted({12, *(2**i for i in range(13))})
    figure, text = answer.draw()
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert points == [(12, answer.found[name]) for name in ("Gustafson", "Amdahl", "USL")]
    assert f"At 12: Amdahl {amdahl:.3g}; " in text


def test_cells_and_columns_by_hand():
    assert explorers.cell(12345) == "12,345"
    assert explorers.cell(0.5) == "0.5"
    assert explorers.cell(float("inf"), "×") == "infinite"
    assert explorers.cell(float("-inf")) == "-infinite"
    assert explorers.cell(0.0123, "%") == "1.23%"
    assert explorers.cell(20.04, "dB") == "20 dB"
    assert explorers.cell(0.00012, "dB") == "0.00012 dB", "no prefix"
    knob = widgets.Knob("k", "time", (1e-3, 2.0), start=2.0, unit="s")
    assert knob.labels == ("1 ms", "2 s")
    assert not knob.choice
    assert widgets.Knob("k", "k", ("a", "b"), start="a").choice
    rows = [{"x": 1}, {"x": 2, "only here": 0.5}]
    answer = widgets.Answer("So.", {"f": 1e-3}, rows, lambda: (plt.figure(), "a figure of nothing"))
    explorer = widgets.Explorer("Why?", [knob], lambda k: answer, {"only here": "%", "f": "s"})
    assert "| x | only here |\n| --- | --- |\n| 1 |  |\n| 2 | 50% |" in explorer.markdown()
    assert "| time | f |\n| --- | --- |\n| 1 ms | 1 ms |\n| 2 s | 1 ms |" in explorer.markdown()
    assert explorer.html().count("<tr>") == 3
    assert '<th scope="col">only here</th>' in explorer.html()


def test_a_page_shows_the_setting_that_was_asked_for(shown):
    widgets.speedup().show(serial=0.5)
    assert "50.0% serial" in shown[1].data
    assert "50.0%" in shown[0].alt
