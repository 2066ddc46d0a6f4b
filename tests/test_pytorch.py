"""The appendix's PyTorch: against Keras, against PyTorch's own counter and observers, and in exact integers.

Where PyTorch is not installed, what needs it is left out, and that it is asked for by name is tested all the same.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from hwlimits import compute, pruning, pytorch
from hwlimits.counting import CountError
from hwlimits.pytorch import TorchError, int8
from hwlimits.quantization import Quantization, affine, symmetric
from hwlimits.quantization import quantize as codes_of

IMAGE = (1, 28, 28)


@pytest.fixture(scope="session")
def torch():
    module = pytest.importorskip("torch", reason="PyTorch is not installed: make pytorch")
    module.set_num_threads(1)  # sums in one order
    return module


# --- without PyTorch ----------------------------------------------------------------------------


def test_importing_it_loads_no_torch():
    program = "import sys, hwlimits.pytorch; print('torch' in sys.modules, 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "ask",
    [
        pytorch.torch_module,
        pytorch.article_cnn,
        pytorch.eight_bits_are_exact,
        lambda: pytorch.deterministic(0),
        lambda: pytorch.images(np.zeros((1, 28, 28, 1))),
        lambda: pytorch.cost(None, IMAGE),
        lambda: pytorch.counted_by_torch(None, IMAGE),
        lambda: pytorch.quantize(None, np.zeros((1, 28, 28, 1))),
        lambda: pytorch.train(None, np.zeros((1, 28, 28, 1)), [0], epochs=1),
        lambda: pytorch.correct(None, np.zeros((1, 28, 28, 1)), [0]),
    ],
)
def test_without_it_the_error_names_the_command_and_the_extra(monkeypatch, ask):
    monkeypatch.setitem(sys.modules, "torch", None)
    int8.eight_bits_are_exact.cache_clear()
    says = r"hwlimits.pytorch needs PyTorch, .* not installed here: make pytorch, or pip install 'hwlimits\[pytorch\]'"
    with pytest.raises(TorchError, match=says):
        ask()


# --- networks and layouts -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras_cnn():
    """Keras' model with random weights and biases, so that no bias is 0 and no two rows are alike."""
    from hwlimits.training.models import article_cnn

    model, random = article_cnn(), np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.1, w.shape).astype(np.float32) for w in model.get_weights()])
    return model


@pytest.fixture
def cnn(torch, keras_cnn):
    model = pytorch.article_cnn()
    pytorch.from_keras(model, keras_cnn.get_weights())
    return model.eval()


def digits(n=20, seed=1):
    return np.random.default_rng(seed).random((n, 28, 28, 1)).astype(np.float32)


def test_both_give_the_same_outputs(torch, keras_cnn, cnn):
    x = digits()
    with torch.no_grad():
        found = cnn(pytorch.images(x)).numpy()
    expected = keras_cnn(x).numpy()
    assert np.ptp(expected, axis=0).max() > 0.05, "the outputs tell images apart"
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_transposition_alone_gives_another_network(torch, keras_cnn, cnn):
    """The negative control: what is missing is the order of the flattened inputs."""
    dense = keras_cnn.get_layer("dense1").get_weights()[0]
    with torch.no_grad():
        cnn.dense1.weight.copy_(torch.from_numpy(dense.T.copy()))
        found = cnn(pytorch.images(digits())).numpy()
    assert np.abs(found - keras_cnn(digits()).numpy()).max() > 0.01


def test_weights_go_to_pytorch_and_back(keras_cnn, cnn):
    back = pytorch.to_keras(cnn)
    assert len(back) == 8
    for there, here in zip(keras_cnn.get_weights(), back, strict=True):
        np.testing.assert_array_equal(there, here)


def test_the_layers_are_those_of_the_keras_model(keras_cnn, cnn):
    assert sum(p.numel() for p in cnn.parameters()) == keras_cnn.count_params() == 121_930
    assert list(pytorch.kernels(cnn)) == [layer.name for layer in keras_cnn.layers if layer.weights]
    assert pytorch.state_bytes(cnn) == 4 * 121_930


def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone(torch):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two, other = pytorch.article_cnn(3), pytorch.article_cnn(3), pytorch.article_cnn(4)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.dense1.weight, two.dense1.weight)
    assert not torch.equal(one.dense1.weight, other.dense1.weight)


def test_weights_that_do_not_fit_change_nothing(torch, keras_cnn):
    model, weights = pytorch.article_cnn(), keras_cnn.get_weights()
    before = model.conv1.weight.clone()
    with pytest.raises(TorchError, match="from_keras: 7 arrays for 4 layers; a kernel and a bias for each are needed"):
        pytorch.from_keras(model, weights[:-1])
    weights[4] = weights[4].T
    says = r"dense1 takes a kernel \(1600, 64\) and a bias \(64,\) in Keras' layout, not \(64, 1600\) and \(64,\)"
    with pytest.raises(TorchError, match=says):
        pytorch.from_keras(model, weights)
    assert torch.equal(model.conv1.weight, before)
    pytorch.by_magnitude(model, {"dense1": 0.5})
    with pytest.raises(TorchError, match=r"from_keras: dense1 is pruned and held by its mask; finish\(model\) first"):
        pytorch.from_keras(model, keras_cnn.get_weights())
    no_bias = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
    with pytest.raises(TorchError, match="to_keras: 0 has no bias, and Keras' pairs of kernel and bias need one"):
        pytorch.to_keras(no_bias, (2,))
    with pytest.raises(TorchError, match=r"images of the shape \(2, 28, 28\): give \(n, height, width, channels\)"):
        pytorch.images(np.zeros((2, 28, 28)))
    with pytest.raises(TorchError, match="layer '0' is a BatchNorm2d: its weights have no layout here; Conv2d, Linear"):
        pytorch.kernels(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))


# --- counting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_the_count_is_that_of_keras_but_for_the_bytes_of_activations(torch, keras_cnn, cnn, batch):
    from hwlimits.training.cost import cost

    here, there = pytorch.cost(cnn, IMAGE, batch), cost(keras_cnn, batch)
    assert here.total.macs == there.total.macs == batch * 2_528_000
    assert here.total.flops == there.total.flops
    assert here.total.parameters == there.total.parameters == 121_930
    assert here.trainable_parameters == there.trainable_parameters
    ours, keras_rows = ({row.name: row.cost for row in count.layers} for count in (here, there))
    for name in ("conv1", "conv2", "dense1", "dense2"):
        assert ours[name].macs == keras_rows[name].macs
        assert ours[name].bytes == keras_rows[name].bytes
    for name in ("pool1", "pool2", "flatten"):
        assert ours[name] == keras_rows[name]
    # in Keras an activation is part of its layer; here it reads and writes each of its numbers
    activated = 26 * 26 * 32 + 11 * 11 * 64 + 64 + 10
    assert here.total.bytes - there.total.bytes == batch * 2 * 4 * activated


# layer, input of one example, MACs, other FLOPs, parameters, by hand
BY_HAND = {
    "conv": (
        lambda nn: nn.Conv2d(4, 8, (3, 5), stride=2, padding=1, groups=2), (4, 9, 11),
        5 * 5 * 8 * 3 * 5 * 2, 5 * 5 * 8, 8 * 3 * 5 * 2 + 8,
    ),
    "dilated, no bias": (
        lambda nn: nn.Conv2d(1, 2, 3, dilation=2, bias=False), (1, 10, 10), 6 * 6 * 2 * 9, 0, 18,
    ),
    "1d": (lambda nn: nn.Conv1d(2, 3, 4), (2, 10), 7 * 3 * 4 * 2, 7 * 3, 2 * 4 * 3 + 3),
    "3d": (lambda nn: nn.Conv3d(1, 2, 2), (1, 3, 3, 3), 8 * 2 * 8, 8 * 2, 16 + 2),
    "linear at 5 places": (lambda nn: nn.Linear(6, 7), (5, 6), 5 * 42, 5 * 7, 49),
    "max pool": (lambda nn: nn.MaxPool2d(3, stride=2, padding=1), (2, 8, 8), 0, 2 * 4 * 4 * 9, 0),
    "average pool": (lambda nn: nn.AvgPool2d((2, 4)), (2, 8, 8), 0, 2 * 4 * 2 * 8, 0),
    "global average": (lambda nn: nn.AdaptiveAvgPool2d(1), (3, 7, 5), 0, 3 * 35, 0),
    "batch norm": (lambda nn: nn.BatchNorm2d(3), (3, 4, 4), 0, 2 * 48, 12),
    "layer norm": (lambda nn: nn.LayerNorm(8), (5, 8), 0, 5 * (8 * 8 + 3), 16),
    "gelu": (lambda nn: nn.GELU(), (10,), 0, 50, 0),
    "gelu by tanh": (lambda nn: nn.GELU(approximate="tanh"), (10,), 0, 130, 0),
    "prelu": (lambda nn: nn.PReLU(3), (3, 2), 0, 12, 3),
    "log softmax": (lambda nn: nn.LogSoftmax(-1), (10,), 0, 50, 0),
    "dropout": (lambda nn: nn.Dropout(), (10,), 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_a_layer_by_hand(torch, name):
    build, shape, macs, other, parameters = BY_HAND[name]
    model = torch.nn.Sequential(build(torch.nn))
    found = pytorch.cost(model, shape, batch=2, dtype="int8").total
    assert (found.macs, found.other_flops, found.parameters) == (2 * macs, 2 * other, parameters)
    outputs = model.eval()(torch.zeros(2, *shape)).numel()
    moved = (2 * np.prod(shape) + parameters, outputs) if name != "dropout" else (0, 0)
    assert (found.bytes_read, found.bytes_written) == moved


def test_torch_s_counter_counts_two_flops_a_mac_and_nothing_else(torch, cnn):
    ours, theirs = pytorch.cost(cnn, IMAGE, 2), pytorch.counted_by_torch(cnn, IMAGE, 2)
    assert theirs == {row.name: 2 * row.cost.macs for row in ours.layers if row.cost.macs} | {
        "total": 2 * 2 * 2_528_000
    }
    assert ours.total.flops - theirs["total"] == ours.total.other_flops > 0


@pytest.mark.parametrize("name", [name for name, row in BY_HAND.items() if row[2]])
def test_torch_s_counter_agrees_on_single_layers(torch, name):
    build, shape, macs, *_ = BY_HAND[name]
    assert pytorch.counted_by_torch(torch.nn.Sequential(build(torch.nn)), shape) == {"0": 2 * macs, "total": 2 * macs}


def test_where_torch_s_counter_says_nothing_ours_names_the_layer(torch):
    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(8, 8, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    assert pytorch.counted_by_torch(Last(), (5, 8)) == {"total": 0}
    with pytest.raises(
        CountError, match=r"'lstm' \(LSTM\) calls .*, which is no layer that is counted here; count that"
    ):
        pytorch.cost(Last(), (5, 8))
    encoder = torch.nn.Sequential(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    assert pytorch.counted_by_torch(encoder, (5, 8)) == {"total": 0}
    with pytest.raises(CountError, match="no layer that is counted here"):
        pytorch.cost(encoder, (5, 8))


def test_an_operation_between_layers_is_refused_and_a_view_is_not(torch):
    class Skip(torch.nn.Module):
        def __init__(self, join):
            super().__init__()
            self.inner, self.join = torch.nn.Linear(8, 8), join

        def forward(self, x):
            return self.join(x, self.inner(x))

    with pytest.raises(CountError, match=r"the model itself \(Skip\) calls add\.?.*, which is no layer"):
        pytorch.cost(Skip(lambda x, y: x + y), (8,))
    with pytest.raises(CountError, match=r"the model itself \(Skip\) calls relu"):
        pytorch.cost(Skip(lambda x, y: torch.nn.functional.relu(y)), (8,))
    assert pytorch.cost(Skip(lambda x, y: y.reshape(-1, 2, 4).transpose(1, 2)), (8,)).total.macs == 64


def test_a_layer_of_one_s_own_is_not_taken_for_pytorch_s(torch):
    class Linear(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    with pytest.raises(CountError, match=r"'0' \(Linear\) calls"):
        pytorch.cost(torch.nn.Sequential(Linear(4, 4)), (4,))


@pytest.mark.parametrize(
    ("build", "shape", "says"),
    [
        (lambda nn: nn.AdaptiveAvgPool2d(3), (1, 7, 7), r"AdaptiveAvgPool2d from \(7, 7\) to \(3, 3\): its"),
        (lambda nn: nn.BatchNorm2d(1, track_running_stats=False), (1, 4, 4), "BatchNorm2d without running statistics"),
        (lambda nn: nn.MaxPool2d(2, return_indices=True), (1, 4, 4), r"layer '0' \(MaxPool2d\): .* one output alone"),
    ],
)  # fmt: skip
def test_what_a_known_layer_can_not_be_counted_for(torch, build, shape, says):
    with pytest.raises(CountError, match=says):
        pytorch.cost(torch.nn.Sequential(build(torch.nn)), shape)


def test_counting_leaves_the_model_as_it_was(torch):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.Dropout(),
        torch.nn.BatchNorm2d(2),
        torch.nn.Flatten(),
        torch.nn.GRUCell(72, 2),
    )
    model[1].eval()
    before = model[2].running_mean.clone()
    with pytest.raises(CountError, match="GRUCell"):
        pytorch.cost(model, (1, 8, 8))
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert torch.equal(model[2].running_mean, before)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_a_shared_layer_has_its_parameters_once(torch):
    shared = torch.nn.Linear(4, 4)
    found = pytorch.cost(torch.nn.Sequential(shared, torch.nn.ReLU(), shared), (4,))
    assert (found.total.macs, found.total.parameters, found.trainable_parameters) == (32, 20, 20)
    assert found.layers[2].cost.bytes == found.layers[0].cost.bytes == 4 * (20 + 8)


def test_bad_questions_are_refused(cnn):
    with pytest.raises(CountError, match="dtype 'fp8' is not one that is counted"):
        pytorch.cost(cnn, IMAGE, dtype="fp8")
    with pytest.raises(CountError, match="batch=0"):
        pytorch.cost(cnn, IMAGE, batch=0)


# --- training -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(torch, tiny):
    from hwlimits.training import mnist

    model = pytorch.article_cnn(0)
    pytorch.train(model, mnist.scale(tiny.x_train), tiny.y_train, epochs=6, learning_rate=2e-3)
    return model, mnist.scale(tiny.x_train), mnist.scale(tiny.x_test), tiny.y_test


def test_training_reads_digits_and_repeats(torch, trained, tiny):
    model, x, x_test, y_test = trained
    right = pytorch.correct(model, x_test, y_test)
    assert right.dtype == bool
    assert right.mean() > 0.7
    with torch.no_grad():
        answers = [int(model(pytorch.images(one[None])).argmax()) for one in x_test]
    np.testing.assert_array_equal(right, np.array(answers) == y_test)
    one, two, other = (pytorch.article_cnn(0) for _ in range(3))
    for copy, seed in ((one, 0), (two, 0), (other, 1)):
        pytorch.train(copy, x[:128], tiny.y_train[:128], epochs=1, seed=seed)
    assert torch.equal(one.conv2.weight, two.conv2.weight)
    assert not torch.equal(one.conv2.weight, other.conv2.weight)


def test_an_interruption_keeps_the_steps_done(torch, tiny):
    model, heard = pytorch.article_cnn(0), []

    def stop(step):
        heard.append(step)
        if step == 3:
            raise KeyboardInterrupt

    before = model.conv1.weight.clone()
    with pytest.raises(KeyboardInterrupt):
        pytorch.train(model, tiny.x_train[:256, ..., None] / 255, tiny.y_train[:256], epochs=1, batch=32, at_step=stop)
    assert heard == [1, 2, 3]
    assert not torch.equal(model.conv1.weight, before)


def test_its_loss_is_minus_the_logarithm_of_the_right_probability(torch, tiny):
    """The same steps, with the loss written out: a softmax of the softmax would take others."""
    x, y = tiny.x_train[:96, ..., None] / 255, tiny.y_train[:96]
    found, expected = pytorch.article_cnn(0), pytorch.article_cnn(0)
    pytorch.train(found, x, y, epochs=1, batch=32, seed=5, learning_rate=1e-3)
    optimizer = torch.optim.Adam(expected.parameters(), lr=1e-3)
    for chosen in np.random.default_rng((5, 0)).permutation(96).reshape(3, 32):
        optimizer.zero_grad()
        probabilities = expected(pytorch.images(x[chosen]))
        (-torch.log(probabilities[torch.arange(32), torch.tensor(y[chosen].astype(int))]).mean()).backward()
        optimizer.step()
    for there, here in zip(expected.parameters(), found.parameters(), strict=True):
        assert float((there - here).detach().abs().mean()) < 1e-5


def test_a_model_without_a_softmax_is_not_trained(torch):
    with pytest.raises(TorchError, match="train: the last layer is a Linear, and a Softmax is what is left out"):
        pytorch.train(pytorch.article_cnn()[:-1], digits(2), [0, 1], epochs=1)


# --- pruning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8, 0.9, 0.99])
def test_its_masks_are_ours_where_no_weights_tie(cnn, sparsity):
    expected = {n: pruning.mask(pruning.magnitude(k), sparsity) for n, k in pytorch.kernels(cnn).items()}
    pytorch.by_magnitude(cnn, dict.fromkeys(expected, sparsity))
    found = pytorch.masks(cnn)
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask)
    assert pytorch.zeros(cnn) == {name: float(np.mean(~mask)) for name, mask in expected.items()}


def test_ties_and_halves_are_where_they_differ(torch):
    model = torch.nn.Sequential(torch.nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0, 1.0, 2.0]]))
    pytorch.by_magnitude(model, {"0": 0.5})
    assert pytorch.masks(model)["0"].sum() == 2, "PyTorch takes two of the three that tie"
    assert pruning.mask([1.0, 1.0, 1.0, 2.0], 0.5).sum() == 4, "ours takes none of them"
    model = torch.nn.Sequential(torch.nn.Linear(15, 1))
    kept = pruning.mask(pruning.magnitude(pytorch.kernels(model)["0"]), 0.9).sum()
    pytorch.by_magnitude(model, {"0": 0.9})
    assert (pytorch.masks(model)["0"].sum(), kept) == (1, 2), "one and a half: both round to the even number, of zeros"


def test_a_mask_of_ours_is_held_with_its_axes(torch, cnn):
    kernels = pytorch.kernels(cnn)
    by_filter = pruning.mask(pruning.magnitude(kernels["conv2"]), 0.5, unit="filter")
    two_of_four = pruning.n_m_mask(pruning.magnitude(kernels["dense1"]), 2, 4)
    pytorch.hold(cnn, {"conv2": by_filter, "dense1": two_of_four})
    with torch.no_grad():
        channels = cnn[:5](pytorch.images(digits()))  # conv2 and its ReLU
    without = cnn.conv2.bias.detach().numpy()[~by_filter.any(axis=(0, 1, 2))]
    gone = channels.numpy()[:, ~by_filter.any(axis=(0, 1, 2))]
    assert gone.shape[1] == 32
    np.testing.assert_allclose(gone, np.broadcast_to(np.maximum(without, 0)[:, None, None], gone.shape), atol=1e-6)
    rows = (cnn.dense1.weight.detach().numpy() != 0).reshape(64, 400, 4)
    assert (rows.sum(axis=2) == 2).all()
    np.testing.assert_array_equal(pytorch.masks(cnn)["dense1"], two_of_four)


def step(torch, model, by=None):
    """One step of training with a momentum that was there before."""
    optimizer = by or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.zero_grad()
    loss = torch.nn.CrossEntropyLoss()(model[:-1](pytorch.images(digits(32))), torch.arange(32) % 10)
    loss.backward()
    optimizer.step()
    return optimizer


def test_zeros_hold_through_training_and_grow_back_without_the_mask(torch, cnn):
    warm = step(torch, cnn)
    del warm
    pytorch.by_magnitude(cnn, {"conv2": 0.9, "dense1": 0.9})
    before, masks = pytorch.kernels(cnn), pytorch.masks(cnn)
    optimizer = step(torch, cnn)
    step(torch, cnn, optimizer)
    cnn(pytorch.images(digits(1)))  # the product with the mask is made at a call
    after = pytorch.kernels(cnn)
    for name, mask in masks.items():
        assert (after[name][~mask] == 0).all()
        assert (after[name][mask] != before[name][mask]).any(), "the others move"
    zeros = pytorch.zeros(cnn)
    pytorch.finish(cnn)
    assert pytorch.zeros(cnn) == zeros, "finish keeps the zeros"
    assert pytorch.masks(cnn) == {}
    step(torch, cnn)
    assert pytorch.zeros(cnn)["conv2"] < 0.5, "nothing holds them any more"


def test_a_pruned_state_takes_twice_the_bytes_until_it_is_finished(cnn):
    pytorch.by_magnitude(cnn, {"conv2": 0.9, "dense1": 0.9})
    assert pytorch.state_bytes(cnn) == 4 * (121_930 + 18_432 + 102_400)
    pytorch.finish(cnn)
    assert pytorch.state_bytes(cnn) == 4 * 121_930


def test_a_pruned_network_counts_as_the_dense_one(torch, cnn):
    before = pytorch.cost(cnn, IMAGE).rows()
    pytorch.by_magnitude(cnn, {"conv2": 0.9})
    assert pytorch.cost(cnn, IMAGE).rows() == before
    assert pytorch.counted_by_torch(cnn, IMAGE)["total"] == 2 * 2_528_000


def test_pruning_that_can_not_be_done_is_refused(cnn):
    with pytest.raises(
        TorchError, match="no layer named 'conv9' with a kernel; choose from conv1, conv2, dense1, dense2"
    ):
        pytorch.by_magnitude(cnn, {"conv9": 0.5})
    with pytest.raises(TorchError, match=r"by_magnitude\(conv1=1.0\): must be a share, at least 0 and below 1"):
        pytorch.by_magnitude(cnn, {"conv2": 0.5, "conv1": 1.0})
    with pytest.raises(TorchError, match=r"hold: dense2 has a kernel \(64, 10\) and its mask \(10, 64\)"):
        pytorch.hold(cnn, {"dense2": np.ones((10, 64), bool)})
    assert pytorch.masks(cnn) == {}, "nothing was pruned"


# --- int8 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantized(trained):
    model, x, *_ = trained
    return pytorch.quantize(model, x[:200])


def test_the_weights_are_really_int8(torch, trained, quantized):
    model, *_ = trained
    assert [layer.name for layer in quantized.layers] == ["conv1", "conv2", "dense1", "dense2"]
    for layer in quantized.layers:
        kernel = model.get_submodule(layer.name).weight.detach().numpy()
        assert layer.packed.dtype == torch.int8
        assert layer.packed.element_size() == 1
        assert layer.codes.dtype == np.int8
        np.testing.assert_array_equal(layer.codes, codes_of(kernel, layer.weights))
        steps = np.abs(kernel / layer.weights.scale.reshape(-1, *[1] * (kernel.ndim - 1)) - layer.codes)
        assert steps.max() < 0.501
    weights, outputs = 9 * 32 + 9 * 32 * 64 + 1600 * 64 + 64 * 10, 32 + 64 + 64 + 10
    assert quantized.weights_bytes == weights + outputs * (4 + 4)


def test_scales_and_zero_points_are_those_of_torch_s_observers(torch, trained, quantized):
    observers = pytest.importorskip("torch.ao.quantization.observer", reason="this PyTorch has no observers any more")
    model, x, *_ = trained
    wide = PER_CHANNEL = {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric, "ch_axis": 0}
    narrow = PER_CHANNEL | {"quant_min": -127, "quant_max": 127}
    for layer in quantized.layers:
        for options, ratio in ((narrow, 1), (wide, 127 / 127.5)):
            observer = observers.PerChannelMinMaxObserver(**options)
            observer(model.get_submodule(layer.name).weight.detach())
            scale, zero_point = observer.calculate_qparams()
            np.testing.assert_allclose(scale.numpy(), layer.weights.scale * ratio, rtol=1e-6)
            assert not zero_point.any()
            assert not layer.weights.zero_point.any()
    activations = pytorch.images(x[:200])
    for name, part in (("conv1", model[:0]), ("conv2", model[:3]), ("dense1", model[:7]), ("dense2", model[:9])):
        observer = observers.MinMaxObserver(dtype=torch.quint8)
        observer(part(activations).detach())
        scale, zero_point = observer.calculate_qparams()
        (layer,) = (layer for layer in pytorch.quantize(model, x[:200], 8).layers if layer.name == name)
        np.testing.assert_allclose(float(scale), layer.input.scale, rtol=1e-6)
        assert int(zero_point) == layer.input.zero_point
    signed = torch.randn(1000) + 1
    observer = observers.MinMaxObserver(dtype=torch.quint8)
    observer(signed)
    scale, zero_point = observer.calculate_qparams()
    ours = affine(float(signed.min()), float(signed.max()), signed=False)
    np.testing.assert_allclose(float(scale), ours.scale, rtol=1e-6)
    assert int(zero_point) == ours.zero_point != 0


def windows(x, size):
    """All windows of (n, channels, height, width), as (n, height, width, channels * size * size)."""
    found = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    return found.reshape(*found.shape[:3], -1)


@pytest.mark.parametrize("bits", [8, 7])
def test_every_step_is_that_of_exact_integers(torch, trained, bits):
    """Convolutions, products, pools and roundings in NumPy's int64, on the codes that the operators made."""
    model, x, x_test, _ = trained
    if bits == 8 and not pytorch.eight_bits_are_exact():
        pytest.skip("this processor's sums of 8 bits are not exact")
    network = pytorch.quantize(model, x[:200], bits)
    first, second, third, last = network.layers
    assert [layer.output for layer in network.layers] == [second.input, third.input, last.input, None]
    codes = codes_of(np.moveaxis(x_test[:30], -1, 1), first.input)
    for layer, step in ((first, 0), (second, 2)):
        sums = windows(codes.astype(np.int64) - layer.input.zero_point, 3) @ layer.codes.reshape(len(layer.codes), -1).T
        expected = rounded(sums.transpose(0, 3, 1, 2), layer, axis=1)
        found = network.steps[step](torch.from_numpy(codes)).numpy()
        assert found.dtype == np.uint8
        assert found.max() <= 2**bits - 1
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert np.mean(found == expected) > 0.9995, "a half may be rounded either way"
        codes = network.steps[step + 1](torch.from_numpy(found)).numpy()
        n, c, h, w = found.shape
        pooled = found[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
        np.testing.assert_array_equal(codes, pooled)
    codes = codes.reshape(len(codes), -1)
    sums = (codes.astype(np.int64) - third.input.zero_point) @ third.codes.T.astype(np.int64)
    found = network.steps[5](torch.from_numpy(codes)).numpy()
    expected = rounded(sums, third, axis=1)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.mean(found == expected) > 0.995
    sums = (found.astype(np.int64) - last.input.zero_point) @ last.codes.T.astype(np.int64)
    logits = sums * (np.float64(last.input.scale) * last.weights.scale) + last.bias.numpy()
    np.testing.assert_allclose(network(pytorch.images(x_test[:30])).numpy(), logits, rtol=1e-4, atol=1e-4)


def rounded(sums, layer, axis):
    """Codes of exact sums: the scales, the bias, ReLU, and the next layer's codes."""
    form = [1] * sums.ndim
    form[axis] = -1
    numbers = sums * (np.float64(layer.input.scale) * layer.weights.scale).reshape(form) + layer.bias.numpy().reshape(
        form
    )
    steps = np.rint(np.maximum(numbers, 0) / np.float64(layer.output.scale)) + layer.output.zero_point
    return np.clip(steps, 0, layer.output.highest).astype(int)


def test_few_answers_change(trained, quantized):
    model, _, x_test, y_test = trained
    before, after = pytorch.correct(model, x_test, y_test), pytorch.correct(quantized, x_test, y_test)
    assert np.mean(before != after) <= 0.03
    ruined = pytorch.quantize(model, x_test[:1] * 1e-3)  # scales from an image that is all but black
    assert pytorch.correct(ruined, x_test, y_test).mean() < before.mean() - 0.2, "the scales do matter"


@pytest.mark.parametrize(
    ("code", "exact"), [(255, {"True": None, "False": None}), (127, {"True": None})], ids=["8 bits", "7 bits"]
)
def test_seven_bits_are_exact_also_without_vnni(torch, code, exact):
    """oneDNN asked to do without this processor's newer instructions, in a process of its own."""
    found = without_vnni(f"print(int8._largest_sums({code}))")
    assert found.split()[-1] in exact
    if code == 255 and pytorch.eight_bits_are_exact() and found.split()[-1] == "True":
        pytest.skip("this oneDNN or processor has no way of adding up in 16 bits")


def test_where_eight_bits_are_not_exact_seven_are_taken(torch, monkeypatch, trained):
    model, x, x_test, y_test = trained
    monkeypatch.setattr(int8, "eight_bits_are_exact", lambda: False)
    network = pytorch.quantize(model, x[:200])
    assert {layer.input.bits for layer in network.layers} == {7}
    assert {layer.input.highest for layer in network.layers} == {127}
    assert pytorch.correct(network, x_test, y_test).mean() > pytorch.correct(model, x_test, y_test).mean() - 0.05


def without_vnni(statement):
    program = f"from hwlimits import pytorch\nfrom hwlimits.pytorch import int8\n{statement}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_can_not_be_quantized_is_refused_by_name(torch, monkeypatch, cnn):
    nn, x = torch.nn, digits(4)
    known = "known are Conv2d, Linear, ReLU, MaxPool2d, Flatten, Softmax"
    with pytest.raises(TorchError, match=f"quantize: layer '1' is a BatchNorm2d; {known}"):
        pytorch.quantize(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), x)
    with pytest.raises(TorchError, match="quantize: '1' follows no Conv2d or Linear, which it would be part of"):
        pytorch.quantize(nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(1, 2, 3)), x)
    with pytest.raises(TorchError, match="quantize: the softmax '0' is not the last layer"):
        pytorch.quantize(nn.Sequential(nn.Softmax(1), nn.Conv2d(1, 2, 3)), x)
    with pytest.raises(TorchError, match="quantize: '0' pads by 'same' of zeros; give numbers, zeros"):
        pytorch.quantize(nn.Sequential(nn.Conv2d(1, 2, 3, padding="same")), x)
    with pytest.raises(TorchError, match=r"quantize\(activation_bits=4\): 8, or 7 where a processor has no VNNI"):
        pytorch.quantize(cnn, x, 4)
    monkeypatch.setattr(int8, "NAMES", ("qconv2d_pointwise", "qconv9_prepack"))
    with pytest.raises(TorchError, match=r"PyTorch .* has no operator onednn::qconv9_prepack here: .* x86-64; try"):
        pytorch.quantize(cnn, x)


@pytest.mark.parametrize("bits", [8, 7])
def test_what_is_beyond_the_range_gets_the_highest_code(torch, trained, bits):
    model, x, *_ = trained
    network = pytorch.quantize(model, 0.2 * x[:50], bits)  # dark images, and now bright ones
    codes = torch.from_numpy(codes_of(np.moveaxis(x[:50], -1, 1), network.layers[0].input))
    highest = []
    for step in network.steps[:-1]:
        codes = step(codes)
        highest.append(int(codes.max()))
    assert max(highest) == highest[0] == 2**bits - 1


def test_a_relu_before_floats_is_there_too(torch):
    """Between codes it would be hard to miss: the lowest code stands for 0."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 20), torch.nn.ReLU())
    found = pytorch.quantize(model, digits(50))(pytorch.images(digits(50))).numpy()
    with torch.no_grad():
        expected = model(pytorch.images(digits(50))).numpy()
    assert (expected == 0).any()
    np.testing.assert_allclose(found, expected, atol=0.03 * expected.max())


def test_a_layer_without_a_bias_is_quantized_too(torch):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 3, bias=False))
    x = digits(50)
    with torch.no_grad():
        expected = model(pytorch.images(x)).numpy()
    found = pytorch.quantize(model, x)(pytorch.images(x)).numpy()
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_torch_s_counter_does_not_see_int8(torch, quantized):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        quantized(pytorch.images(digits(1)))
    assert counter.get_total_flops() == 0


def test_the_course_s_own_quantization_is_what_it_uses(trained):
    """The scale of a channel is its largest weight over 127, and codes are narrow."""
    model, x, *_ = trained
    kernel = model.conv1.weight.detach().numpy()
    layer = pytorch.quantize(model, x[:10]).layers[0]
    assert isinstance(layer.weights, Quantization)
    np.testing.assert_array_equal(layer.weights.scale, symmetric(np.abs(kernel).max(axis=(1, 2, 3)), axis=0).scale)
    assert (layer.weights.lowest, layer.weights.highest) == (-127, 127)


def test_the_formulas_are_those_of_compute(torch):
    nn = torch.nn
    pairs = [
        (nn.Conv2d(3, 8, 3), (3, 9, 9), compute.conv((9, 9, 3), 8, 3, batch=2)),
        (nn.Linear(5, 7), (5,), compute.dense(5, 7, batch=2)),
        (nn.MaxPool2d(2), (3, 8, 8), compute.pooling((8, 8, 3), 2, batch=2)),
        (nn.ReLU(), (3, 8), compute.activation((3, 8), "relu", batch=2)),
        (nn.BatchNorm2d(3), (3, 4, 4), compute.batch_norm((4, 4, 3), batch=2)),
    ]
    for layer, shape, expected in pairs:
        assert pytorch.cost(nn.Sequential(layer), shape, batch=2).total == expected
