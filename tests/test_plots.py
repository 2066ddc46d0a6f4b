"""The course's figures: what is drawn is what was given, and what can't be drawn is said."""

import matplotlib.pyplot as plt
import pytest

from hwlimits import plots


def test_a_map_has_every_box_arrow_and_label():
    figure = plots.concept_map({"a": (0, 0), "b": (2, 0), "c": (1, 1)}, [("a", "b", "feeds"), ("b", "c", "")])
    (axes,) = figure.axes
    said = [text.get_text() for text in axes.texts]
    assert sorted(said) == ["", "", "a", "b", "c", "feeds"], "an annotation without text is an arrow"
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["a"] == (0, 0)
    assert places["feeds"] == (1, 0)
    plt.close(figure)


def test_boxes_do_not_cover_each_other():
    figure = plots.concept_map({"one\ntwo": (0, 0), "three": (1, 0), "four": (0, 1)}, [("one\ntwo", "three", "")])
    figure.canvas.draw()
    boxes = [t.get_bbox_patch().get_window_extent() for t in figure.axes[0].texts if t.get_text()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    plt.close(figure)


def test_an_arrow_to_nowhere_is_an_error():
    with pytest.raises(ValueError, match="an arrow goes to 'c'; the boxes are 'a', 'b'"):
        plots.concept_map({"a": (0, 0), "b": (1, 0)}, [("a", "c", "")])


def test_a_timeline_has_its_spans_in_its_unit():
    figure = plots.timeline({"first": [(0.001, 0.002)], "second": [(0.004, 0.001), (0.006, 0.001)]})
    (axes,) = figure.axes
    spans = [[path.get_extents().bounds for path in row.get_paths()] for row in axes.collections]
    assert [len(row) for row in spans] == [1, 2]
    assert spans[0][0][0] == pytest.approx(1)
    assert spans[0][0][2] == pytest.approx(2)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.get_xlabel() == "time (ms)"
    bottom, top = axes.get_ylim()
    assert bottom > top, "the first is at the top"
    plt.close(figure)
