"""Arena plans of LiteRT files beside the microcontroller runtime's own, and the tensors beside the file's graph."""

import re

import numpy as np
import pytest
from int8_networks import SHAPES, STORED

from hwlimits.allocation import plan
from hwlimits.storage import peak_live_bytes
from hwlimits.training import export
from hwlimits.training.arena import SCRATCH, arena_buffers
from hwlimits.training.keras import tf
from hwlimits.training.litert import LiteRTError, LiteRTFile, micro_runtime
from hwlimits.training.models import article_cnn
from hwlimits.training.stderr import caught_stderr


@pytest.fixture
def files(int8_files):
    return int8_files


def planned_by_the_runtime(file: LiteRTFile) -> int:
    """tflite-micro's own report: the arena's head is what it planned."""
    interpreter = micro_runtime().Interpreter.from_bytes(file.content)
    with caught_stderr() as report:
        interpreter.print_allocations()
    return int(re.search(r"Arena allocation head (\d+) bytes", report())[1])


@pytest.mark.skipif(micro_runtime() is None, reason="tflite-micro has wheels for Linux on x86-64 only")
@pytest.mark.parametrize("name", [*SHAPES, *STORED])
def test_never_above_the_microcontroller_runtime(files, name):
    """Equal, even: the same buffers, the same algorithm."""
    planned = plan(arena_buffers(files[name])).total_bytes
    assert planned <= planned_by_the_runtime(files[name])
    assert planned == planned_by_the_runtime(files[name])


def test_the_case_study_s_arena_by_hand(files):
    """The first convolution's output and what pooling makes of it live together; all else fits beside."""
    assert plan(arena_buffers(files[STORED[0]])).total_bytes == 26 * 26 * 32 + 13 * 13 * 32 == 27_040


def test_scratch_is_named_and_can_be_left_out(files):
    scratch = [b for b in arena_buffers(files["transposed"]) if b.name.startswith(SCRATCH)]
    assert [(b.bytes, b.first == b.last) for b in scratch] == [(16 * 16 * 8 * 4, True)]  # int32 sums of the output
    assert not [b for b in arena_buffers(files["transposed"], scratch=False) if b.name.startswith(SCRATCH)]
    assert [b.bytes for b in arena_buffers(files["residual"]) if b.name.startswith(SCRATCH)] == [16 * 4]


def test_lifetimes_against_the_interpreter_s_graph(files):
    """Each tensor's steps, from what LiteRT itself says its operators read and write."""
    file = files["residual"]
    interpreter = file.interpreter()
    tensors = {t["index"]: t for t in interpreter.get_tensor_details()}
    written = {details["index"]: 0 for details in interpreter.get_input_details()}
    read = dict(written)
    operations = [o for o in interpreter._get_ops_details() if o["op_name"] != "DELEGATE"]
    for step, operation in enumerate(operations, 1):
        written |= {int(i): step for i in operation["outputs"]}
        read |= {int(i): step for i in (*operation["inputs"], *operation["outputs"]) if int(i) in written}
    read |= {details["index"]: len(operations) for details in interpreter.get_output_details()}
    expected = {tensors[i]["name"]: (int(np.prod(tensors[i]["shape"])), step, read[i]) for i, step in written.items()}
    assert {b.name: (b.bytes, b.first, b.last) for b in arena_buffers(file, scratch=False)} == expected


def test_the_batch_multiplies_every_tensor():
    file = LiteRTFile(export.to_float32(article_cnn()))
    one, eight = (peak_live_bytes(arena_buffers(file, batch)) for batch in (1, 8))
    assert eight == 8 * one == 8 * 4 * 27_040


def test_a_size_that_depends_on_the_data_is_refused():
    @tf.function(input_signature=[tf.TensorSpec((8,))])
    def positive(x):
        return tf.boolean_mask(x, x > 0)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([positive.get_concrete_function()])
    with caught_stderr():
        content = converter.convert()
    with pytest.raises(LiteRTError, match="has no size before the file runs: nothing can be planned with it"):
        arena_buffers(LiteRTFile(content), batch=8)
