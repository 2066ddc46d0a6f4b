"""Times of operators: each operator of a file is run, with its own shape and batch; what can't be is said."""

import pytest

from hwlimits import data
from hwlimits.machine.timing import Timing
from hwlimits.training import export
from hwlimits.training.keras import keras
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.models import article_cnn
from hwlimits.training.operator_times import operator_times, peak_memory_bytes, runner
from hwlimits.training.operators import operators

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def file():
    return LiteRTFile(export.to_float32(article_cnn()))


def test_every_operator_is_timed_once_in_order(file):
    times, left_out = operator_times(file, batch=2, repeats=3, progress=False)
    named = [operator.name for operator in operators(file, 2)]
    assert list(times) + list(left_out) == [n for n in named if n in times] + [n for n in named if n in left_out]
    assert {"CONV_2D", "FULLY_CONNECTED"} <= {o.kind for o in operators(file) if o.name in times}
    assert all(timing.median_s > 0 for timing in times.values())


def test_an_operator_with_more_work_takes_longer(file):
    """conv2 has 11 times the MACs of conv1, 64 images have 64 times the work of one: far beyond any noise."""
    conv1, conv2 = [o.name for o in operators(file) if o.kind == "CONV_2D"]
    one, _ = operator_times(file, batch=1, repeats=5, progress=False)
    many, _ = operator_times(file, batch=64, repeats=5, progress=False)
    assert many[conv2].median_s > 4 * one[conv2].median_s
    assert many[conv2].median_s > many[conv1].median_s


def test_what_was_timed_is_kept_when_it_is_stopped(file, monkeypatch):
    """No clock: a measurement that counts its calls, and is interrupted at the third."""
    calls = []

    def measure(call, **options):
        calls.append(options["repeats"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Timing((float(len(calls)),) * 3)

    monkeypatch.setattr("hwlimits.training.operator_times.measure", measure)
    with pytest.raises(KeyboardInterrupt):
        operator_times(file, repeats=3, keep="operators")
    times, left_out = operator_times(file, repeats=3, keep="operators")
    assert [t.median_s for t in times.values()] == [1.0, 2.0, *range(4, len(times) + 2)]
    assert len(times) + len(left_out) == len(operators(file))
    operator_times(file, repeats=3, keep="operators")
    assert len(calls) == 2 * len(times) + 1, "all anew after an end"


def test_an_operator_that_cannot_run_alone_is_named_with_its_reason():
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.Reshape((12,)), keras.layers.Dense(2)])
    file = LiteRTFile(export.to_float32(model))
    times, left_out = operator_times(file, repeats=3, progress=False)
    assert set(times) | set(left_out) == {o.name for o in operators(file)}
    assert all(reason.startswith("operator ") for reason in left_out.values())


def test_made_up_inputs_have_the_file_s_shapes_and_types(file):
    runner(file, batch=3)()
    embedding = keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(7, 2)])
    runner(LiteRTFile(export.to_float32(embedding)))()  # index 0 is in the table
    runner(LiteRTFile.read(data.path("results/case_study/quantized-seed0.tflite")))()


def test_memory_holds_the_file_and_grows_with_the_batch(file):
    """128 images need conv1's output, 128 x 26 x 26 x 32 floats, 11 MB, beside what one needs."""
    one, many = peak_memory_bytes(file), peak_memory_bytes(file, batch=128)
    assert one > file.raw_bytes
    assert many - one > 0.8 * 127 * 26 * 26 * 32 * 4
