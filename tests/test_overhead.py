import json
import os
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from hwlimits.machine.card import Number
from hwlimits.training import overhead
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.operators import operators
from hwlimits.training.overhead import litert_calls, litert_chain, slopes, tensorflow_calls

BUILTIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


class Machine:
    """A computer with a clock of its own: a call of n operators takes `call_s` + n `operator_s`."""

    def __init__(self, call_s: float, operator_s: float, slowdown=lambda now: 1.0):
        self.now, self.call_s, self.operator_s, self.slowdown = 0.0, call_s, operator_s, slowdown

    def clock(self):
        return self.now

    def calls(self, lengths, power=1.0):
        def call(n):
            self.now += (self.call_s + n**power * self.operator_s) * self.slowdown(self.now)

        return {n: lambda n=n: call(n) for n in lengths}


def test_the_slope_is_the_operator_and_the_intercept_the_call():
    machine = Machine(call_s=3e-6, operator_s=2e-8)
    slope, intercept, stray = slopes(machine.calls((1, 50, 200)), rounds=5, sample_s=1e-3, clock=machine.clock)
    assert slope == pytest.approx([2e-8] * 5)
    assert intercept == pytest.approx([3e-6] * 5)
    assert stray < 1e-6


def test_noise_leaves_the_median_slope_near():
    rng = np.random.default_rng(0)
    machine = Machine(3e-6, 2e-8, slowdown=lambda now: rng.lognormal(0, 0.1))
    slope, _, _ = slopes(machine.calls((1, 50, 100, 200)), rounds=31, sample_s=1e-4, clock=machine.clock)
    assert np.median(slope) == pytest.approx(2e-8, rel=0.1)


def test_what_is_no_line_strays_from_it():
    """A planted cost that grows with the square of n."""
    machine = Machine(3e-6, 2e-8)
    *_, stray = slopes(machine.calls((1, 50, 100, 200), power=2.0), rounds=3, sample_s=1e-3, clock=machine.clock)
    assert stray > 0.1


def test_two_lengths_make_no_check_of_a_line():
    with pytest.raises(ValueError, match="2 lengths make no check of a line; give at least 3"):
        slopes(Machine(1, 1).calls((1, 2)), rounds=3, sample_s=1e-3)


@pytest.mark.parametrize("n", [1, 7, 50])
def test_a_litert_chain_has_its_operators(n):
    """Counted by the interpreter, and by the course's reader of files."""
    content = litert_chain(n)
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=BUILTIN)
    assert [op["op_name"] for op in interpreter._get_ops_details()] == ["CONV_2D"] * n
    assert [operator.cost.macs for operator in operators(LiteRTFile(content))] == [overhead.CHANNELS**2] * n


@pytest.mark.parametrize("kernels", [OpResolverType.AUTO, BUILTIN], ids=["XNNPACK", "own"])
def test_each_convolution_of_a_chain_runs(kernels):
    """Each adds one, so the answer counts them; run again, it is the same."""
    calls = litert_calls((1, 3, 20), kernels)
    assert sorted(calls) == [1, 3, 20]
    for call in calls.values():
        call()


def test_a_chain_that_does_not_run_whole_is_seen(monkeypatch):
    """Planted: every convolution reads the input, so only the last one counts."""
    honest = overhead._convolution
    monkeypatch.setattr(overhead, "_convolution", lambda source, target: honest(2, target))
    with pytest.raises(RuntimeError, match=r"a chain of 5 convolutions that add one gave 1\.0"):
        litert_calls((1, 5), BUILTIN)


@pytest.fixture(scope="module")
def tf():
    from hwlimits.training.keras import tf

    return tf


def test_tensorflow_runs_each_operator_of_its_chain(tf):
    calls = tensorflow_calls((1, 5, 40))
    assert calls[40]().numpy() == 2.0
    for n in (1, 5, 40):

        @tf.function
        def chain(x, n=n):
            for _ in range(n):
                x = tf.maximum(x, 2.0)
            return x

        assert overhead._nodes_run(lambda chain=chain: chain(tf.constant(1.0))) == n


@pytest.mark.parametrize("name", ["add", "tanh"])
def test_a_chain_that_tensorflow_rewrites_is_seen(tf, name):
    """Additions become one AddN, tanh one composed operator: their slope would be next to nothing."""
    operator = tf.add if name == "add" else lambda x, y: tf.tanh(x)
    with pytest.raises(RuntimeError, match="of a chain of 40 operators, TensorFlow's optimiser left 1"):
        tensorflow_calls((40,), operator)


def test_a_tensorflow_that_can_t_count_its_nodes_is_believed(tf, monkeypatch):
    monkeypatch.setattr(overhead.importlib, "import_module", lambda name: None)
    called = []
    assert overhead._nodes_run(lambda: called.append(1)) is None
    assert called == [1]
    assert sorted(tensorflow_calls((2,))) == [2]


def test_litert_numbers_say_what_they_are():
    numbers = {number.of: number for number in overhead.litert_numbers(rounds=3, sample_s=1e-3)}
    assert set(numbers) == {"litert_operator", "litert_invoke", "litert_builtin_operator"}
    assert all(n.unit == "s" and n.quantity == "overhead" and n.threads == 1 and n.n == 3 for n in numbers.values())
    assert 0 < numbers["litert_operator"].value < 1e-4
    assert "XNNPACK's kernels, the default" in numbers["litert_operator"].how
    assert "of the line" in numbers["litert_operator"].how


def test_without_tensorflow_litert_is_still_measured(tmp_path):
    """A planted tensorflow that fails to load, as where it has no wheel."""
    (tmp_path / "tensorflow.py").write_text("raise ImportError('planted: no TensorFlow here')\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "hwlimits.training.overhead", "--quick"],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert {Number(**row).of for row in found["numbers"]} == {
        "litert_operator", "litert_builtin_operator", "litert_invoke"
    }  # fmt: skip
    assert found["left_out"] == {"overhead tensorflow": "ImportError: planted: no TensorFlow here"}
