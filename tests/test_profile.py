"""The profile of a training step: against a trace written by hand, and of a real step."""

import numpy as np
import pytest

from hwlimits.training import profile as module
from hwlimits.training.keras import keras, xplane
from hwlimits.training.profile import ProfileError, profile, read


def trace(events, line="tf_Compute/1", steps=((0, 100),)):
    """An .xplane.pb with (name, start µs, duration µs) on one line, and the steps on another."""
    space = xplane.XSpace()
    plane = space.planes.add(name="/host:CPU")
    for number, (where, found) in enumerate(((line, events), ("python", [(module.STEP, *s) for s in steps]))):
        row = plane.lines.add(name=where, timestamp_ns=5_000_000_000)
        for i, (name, start, duration) in enumerate(found):
            key = 1000 * number + i
            plane.event_metadata[key].name = name
            row.events.add(metadata_id=key, offset_ps=start * 10**6, duration_ps=duration * 10**6)
    return space.SerializeToString()


OPERATIONS = [
    ("net/conv/Relu:_FusedConv2D", 10, 20),
    ("gradient_tape/net/conv/Conv2DBackpropFilter:Conv2DBackpropFilter", 40, 25),
    ("gradient_tape/net/conv/ReluGrad:ReluGrad", 70, 5),
    ("Adam/sub:Sub", 80, 1),
    ("ExecutorState::Process", 0, 99),
]


def test_operations_are_put_to_their_layer_and_part():
    found = read(trace(OPERATIONS), ["conv"])
    assert found.step_s == (pytest.approx(100e-6),)
    assert found.seconds() == {
        ("conv", "forward"): pytest.approx(20e-6),
        ("conv", "backward"): pytest.approx(30e-6),
        ("", "other"): pytest.approx(1e-6),
    }
    first = found.middle[0]
    assert (first.name, first.kind, first.start_s) == ("net/conv/Relu", "_FusedConv2D", 0)
    assert found.middle[1].start_s == pytest.approx(30e-6)


def test_operations_outside_a_step_are_left_out_and_the_middle_step_is_the_median():
    steps = ((0, 30), (35, 40), (200, 10))
    found = read(trace(OPERATIONS, steps=steps), ["conv"])
    assert [len(events) for events in found.events] == [1, 2, 0]
    assert found.middle == found.events[0]


@pytest.mark.parametrize(("events", "line"), [([], "tf_Compute"), (OPERATIONS, "python2")])
def test_a_profile_without_operations_is_an_error(events, line):
    with pytest.raises(ProfileError, match="the profile holds 1 steps and 0 operations"):
        read(trace(events, line), ["conv"])


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((16, 16, 3))
    hidden = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(hidden)))
    model.compile("sgd", "mse")
    return model


def test_without_a_folder_nothing_stays(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    found = profile(model, np.ones((32, 16, 16, 3), "f"), np.ones((32, 2), "f"), steps=2)
    assert len(found.step_s) == 2
    assert found.folder == ""
    assert list(tmp_path.glob("hwlimits-profile-*")) == []


def test_a_real_training_step(model, tmp_path):
    before = [w.copy() for w in model.get_weights()]
    found = profile(model, np.ones((32, 16, 16, 3), "f"), np.ones((32, 2), "f"), steps=3, folder=str(tmp_path))
    assert len(found.step_s) == len(found.events) == 3
    assert found.folder == str(tmp_path)
    seconds = found.seconds()
    for layer in ("conv", "dense"):
        assert seconds[layer, "forward"] > 0
        assert seconds[layer, "backward"] > 0
    assert list(tmp_path.rglob("*.xplane.pb")), "it stays for TensorBoard"
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)), "the model trained"
