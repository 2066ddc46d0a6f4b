"""Bars: where they are drawn and where not; what is kept when something is stopped, and when it is forgotten."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from hwlimits import progress
from hwlimits.progress import ProgressError, bar, digest, each, forget, kept, live


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """An error stream that somebody looks at."""
    return looking_at(Terminal(), monkeypatch)


def looking_at(stream, monkeypatch):
    """What the module takes for the error stream; no page is made. (pytest puts its own in place of sys.stderr.)"""
    monkeypatch.delenv(progress.STATIC, raising=False)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream, modules=sys.modules))
    return stream


def stopped_at(number):
    """A function that squares, notes what it was asked, and is interrupted, once, where it is asked for `number`."""
    asked = []

    def square(n):
        asked.append(n)
        if n == number and asked.count(n) == 1:
            raise KeyboardInterrupt
        return n * n

    return square, asked


# --- where a bar is ---


def test_a_terminal_has_a_bar(terminal):
    assert live()
    assert list(bar([1, 2, 3], desc="counting", unit="number")) == [1, 2, 3]
    assert "counting: 100%" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


@pytest.mark.parametrize("static", ["1", "yes"])
def test_a_page_has_none(terminal, monkeypatch, static):
    monkeypatch.setenv(progress.STATIC, static)
    assert not live()
    assert list(bar([1, 2], desc="x")) == [1, 2]
    assert terminal.getvalue() == ""
    for off in ("", "0"):
        monkeypatch.setenv(progress.STATIC, off)
        assert live()


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_a_file_a_pipe_and_a_test_have_none(monkeypatch, stream):
    looking_at(stream, monkeypatch)
    assert not live()
    assert each([3], lambda n: n + 1, desc="x") == {3: 4}
    assert not stream or stream.getvalue() == ""


def test_a_bar_can_be_asked_not_to_be_shown(terminal):
    assert each([1, 2], lambda n: n, desc="x", shown=False) == {1: 1, 2: 2}
    assert terminal.getvalue() == ""


def test_a_live_notebook_has_a_bar_and_a_stored_one_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(progress.__file__).parents[1]))
    monkeypatch.delenv(progress.STATIC, raising=False)
    once = "from hwlimits import progress\nprogress.each([1, 2], lambda n: n * n, desc='squares')"
    stored = f"import os\nos.environ[{progress.STATIC!r}] = '1'\n{once}"
    notebook = new_notebook(cells=[new_code_cell(once), new_code_cell(stored)])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    first, second = ([(o.output_type, o.get("name")) for o in cell.outputs] for cell in notebook.cells)
    assert ("stream", "stderr") in first
    assert "squares: 100%" in "".join(o.text for o in notebook.cells[0].outputs if o.get("name") == "stderr")
    assert second == [("execute_result", None)], "the result, and no trace of a bar"


# --- what is kept ---


def test_each_stopped_goes_on_where_it_was():
    square, asked = stopped_at(3)
    for _ in range(2):
        try:
            found = each([1, 2, 3, 4], square, desc="x", keep="squares")
        except KeyboardInterrupt:
            assert asked == [1, 2, 3]
    assert found == {1: 1, 2: 4, 3: 9, 4: 16}
    assert list(found) == [1, 2, 3, 4]
    assert asked == [1, 2, 3, 3, 4], "what was done is not done again"
    each([1, 2, 3, 4], square, desc="x", keep="squares")
    assert asked[5:] == [1, 2, 3, 4], "an end that was reached is forgotten: the next time measures anew"


def test_an_error_keeps_what_was_done_too():
    tries = []

    def do(n):
        tries.append(n)
        if n == 2 and len(tries) < 3:
            raise OSError("the disk is full")
        return n

    with pytest.raises(OSError, match="the disk is full"):
        each([1, 2], do, desc="x", keep="an error")
    assert each([1, 2], do, desc="x", keep="an error") == {1: 1, 2: 2}
    assert tries == [1, 2, 2]


@pytest.mark.parametrize("change", ["things", "about", "keep", "no name"])
def test_what_is_about_something_else_is_not_taken(change):
    square, asked = stopped_at(2)
    with pytest.raises(KeyboardInterrupt):
        each([1, 2], square, desc="x", keep="a" if change != "no name" else None, about=7)
    things = [1, 2, 5] if change == "things" else [1, 2]
    keep = {"keep": "b", "no name": None}.get(change, "a")
    each(things, square, desc="x", keep=keep, about=8 if change == "about" else 7)
    assert asked == [1, 2, *things]
    forget("a")


def test_what_is_kept_can_be_forgotten():
    square, asked = stopped_at(2)
    with pytest.raises(KeyboardInterrupt):
        each([1, 2], square, desc="x", keep="gone")
    forget("gone")
    forget("gone")  # what is not there is no error
    each([1, 2], square, desc="x", keep="gone")
    assert asked == [1, 2, 1, 2]


def test_who_stops_it_is_told_what_is_kept(terminal):
    square, _ = stopped_at(3)
    with pytest.raises(KeyboardInterrupt):
        each([1, 2, 3, 4], square, desc="x", unit="square", keep="told")
    assert "\nStopped; 2 of 4 squares are kept: run this again, and it goes on.\n" in terminal.getvalue()
    each([1, 2, 3, 4], square, desc="again", keep="told")
    assert "again:  50%" in terminal.getvalue(), "the bar begins where it stopped"
    before = len(terminal.getvalue())
    with pytest.raises(KeyboardInterrupt):
        each([1, 2], stopped_at(1)[0], desc="x", keep="told")
    assert "Stopped" not in terminal.getvalue()[before:], "nothing is kept"
    forget("told")


def test_a_block_left_early_keeps():
    def numbers():
        with kept("generator", about=None) as done:
            for i in range(3):
                done.setdefault(i, i + len(done))
                yield done[i]

    for number in numbers():
        assert number == 0
        break
    with kept("generator", about=None) as done:
        assert done == {0: 0}
    with kept("generator", about=None) as done:
        assert done == {}


def test_a_digest_changes_with_name_value_shape_and_type():
    array = np.arange(6, dtype=np.float32)
    variants = [
        {"w": array}, {"v": array}, {"w": array + 1}, {"w": array.reshape(2, 3)}, {"w": array.astype(np.float64)},
        {"w": array, "b": array}, {"w": array[:0]}, {"w": array[::-1]}, {},
    ]  # fmt: skip
    assert len({digest(v) for v in variants}) == len(variants)
    assert digest({"w": array}) == digest({"w": array.copy()})
    assert digest({"w": array.reshape(2, 3).T}) == digest({"w": np.ascontiguousarray(array.reshape(2, 3).T)})


def test_what_can_not_be():
    with pytest.raises(ProgressError, match="each: 2 is there twice, and has one result; give each thing once"):
        each([1, 2, 2], abs, desc="x")
    for bad in ("", 3, True):
        with (
            pytest.raises(ProgressError, match=f"keep={bad!r}: give a name, such as 'my training', or None to keep"),
            kept(bad, about=None),
        ):
            pass
