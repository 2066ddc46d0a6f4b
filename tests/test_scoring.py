"""Images scored over a cluster: whole, in order, and as the file alone scores them, though a worker dies."""

import os
import signal
import types

import numpy as np
import psutil
import pytest

from hwlimits import data
from hwlimits.sweep import SweepError
from hwlimits.training import mnist, scoring
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.scoring import score

FILE = "results/case_study/quantized-seed0.tflite"


@pytest.fixture(scope="module")
def images():
    return mnist.load("mnist-5k").x_train


def test_scores_are_whole_and_in_order_though_a_worker_dies(images):
    killed, counted = [], []

    def kill_one(done, parts):
        counted.append((done, parts))
        if done == 3:
            started = [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
            assert len(started) == 2
            killed.append(started[-1].pid)
            os.kill(killed[0], signal.SIGKILL)

    path = data.path(FILE)
    found = score(path, images[:2010], part=50, workers=2, at_part=kill_one)
    assert killed
    assert not psutil.pid_exists(killed[0])
    assert counted == [(done, 41) for done in range(1, 42)]
    expected = LiteRTFile.read(path).outputs(images[:2010])
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert not np.array_equal(expected[:50], expected[50:100]), "an order that is wrong would be seen"


def test_a_part_that_is_lost_behind_its_end_is_waited_for(monkeypatch):
    """A worker that dies between the end of a part and its way here: Dask has it done again, and `result` waits."""
    lost = {"status": "lost", "exception": lambda: None}
    futures = [_Future(**lost, result=lambda number=number: np.full(2, number)) for number in (0, 1)]
    client = types.SimpleNamespace(submit=lambda *what, pure: futures[int(what[2][0])], loop=None)
    monkeypatch.setattr("distributed.as_completed", lambda numbers, loop: reversed(list(numbers)))
    found = scoring._gather(client, b"", [np.array([0]), np.array([1])], lambda done, parts: None)
    assert [list(part) for part in found] == [[0, 0], [1, 1]]


class _Future(types.SimpleNamespace):
    __hash__ = object.__hash__


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 28, 28)), np.zeros((28, 28), np.uint8), np.zeros((0, 28, 28), np.uint8)]
)
def test_what_are_no_images(wrong):
    with pytest.raises(ValueError, match=r"^score\(images .*\): uint8 images \(n, height, width\) are needed$"):
        score(data.path(FILE), wrong)


@pytest.mark.parametrize("part", [0, -1, 2.5, True])
def test_a_part_is_a_number_of_images(images, part):
    with pytest.raises(ValueError, match=r"^score\(part=.*\): a whole number of at least 1 is needed$"):
        score(data.path(FILE), images, part=part)


def test_a_file_that_is_not_there_is_said_before_a_cluster_is_made(images, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_cluster", None)
    with pytest.raises(FileNotFoundError, match=r"nothing\.tflite"):
        score(tmp_path / "nothing.tflite", images)


def test_a_file_that_is_none_fails_with_its_part_and_reason(images, tmp_path):
    (tmp_path / "wrong.tflite").write_bytes(b"no model")
    with pytest.raises(SweepError, match="^part 0 of 1 can't be scored: "):
        score(tmp_path / "wrong.tflite", images[:20], workers=1)


def test_a_scheduler_that_is_not_there(images):
    with pytest.raises(SweepError, match="^no Dask scheduler answers at tcp://127.0.0.1:9 "):
        score(data.path(FILE), images, scheduler="tcp://127.0.0.1:9")
