"""Students: their answers beside Keras and `compressed`, what codes cost, and gradients by hand."""

import numpy as np
import pytest

from hwlimits import coding, hwz
from hwlimits.compressed import Layer, NetworkError, answers
from hwlimits.training import student as module
from hwlimits.training.keras import keras, tf
from hwlimits.training.student import SLOWNESS, Student

SHAPE = (11, 10, 2)
LAYERS = (
    Layer("conv", 4, 3, 2, same=True, gain=True, relu=True),
    Layer("separable", 4, 3, same=True, gain=True, relu=True, residual=True, times=2),
    Layer("mean_pool", kernel=2),
    Layer("conv", 3, 2, same=True),
    Layer("flatten"),
    Layer("dense", 5, gain=True, relu=True),
    Layer("dense", 3),
)
OTHERS = (Layer("conv", 3, 3, 2, relu=True), Layer("max_pool", kernel=2), Layer("global_mean"), Layer("dense", 4))
SMALL = (Layer("flatten"), Layer("dense", 3))


def images(shape=SHAPE, n=6):
    return np.random.default_rng(0).random((n, *shape), dtype=np.float32)


def lived(layers=LAYERS, shape=SHAPE, seed=0):
    """A student whose gains, biases and moving means are not what it began with."""
    found, rng = Student(shape, layers, seed), np.random.default_rng(seed)
    for value in found.values:
        if value.shape.rank == 1:
            value.assign_add(rng.normal(0, 0.3, value.shape).astype(np.float32))
    for mean, variance in found.norms:
        mean.assign(rng.normal(0, 0.3, mean.shape))
        variance.assign(rng.uniform(0.5, 2, variance.shape))
    return found


def small(weights, bits=4, step=0.5):
    """A dense student of 2 inputs with these weights (2, 3), quantized by that step."""
    found = Student((1, 2, 1), SMALL, 0)
    found.quantize(bits)
    found.values[0].assign(np.asarray(weights, np.float32))
    found.log_steps[0].assign(SLOWNESS * np.log2(step))
    return found


# --- answers ------------------------------------------------------------------------------------


def test_a_float_student_answers_as_keras_layers_do_and_its_moving_means_move_as_theirs():
    layers = (
        Layer("conv", 4, 3, same=True, gain=True, relu=True), Layer("separable", 5, 3, gain=True, relu=True),
        Layer("max_pool", kernel=2), Layer("conv", 6, 2, 2, relu=True), Layer("mean_pool", kernel=2),
        Layer("flatten"), Layer("dense", 7, relu=True), Layer("dense", 3),
    )  # fmt: skip
    student, kind = lived(layers, (13, 14, 2)), keras.layers
    norm = {"momentum": module.MOMENTUM, "epsilon": module.EPSILON}
    first, second = kind.BatchNormalization(**norm), kind.BatchNormalization(**norm)
    model = keras.Sequential(
        [
            keras.Input((13, 14, 2)), kind.Conv2D(4, 3, padding="same", use_bias=False), first, kind.ReLU(),
            kind.SeparableConv2D(5, 3, use_bias=False), second, kind.ReLU(), kind.MaxPooling2D(2),
            kind.Conv2D(6, 2, 2, activation="relu"), kind.AveragePooling2D(2), kind.Flatten(),
            kind.Dense(7, "relu"), kind.Dense(3),
        ]
    )  # fmt: skip
    values = [value.numpy() for value in student.values]
    moving = [[part.numpy() for part in norm] for norm in student.norms]
    values[3], values[4] = values[3][..., None], values[4][None, None]  # Keras has axes for a multiplier and for 1 x 1
    model.set_weights([values[0], *values[1:3], *moving[0], *values[3:5], *values[5:7], *moving[1], *values[7:]])
    x = images((13, 14, 2))
    assert student.logits(x).numpy() == pytest.approx(model(x).numpy(), rel=1e-4, abs=1e-4)
    found, expected = student.logits(x, training=True).numpy(), model(x, training=True).numpy()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    for found, expected in zip(student.norms, (first, second), strict=True):
        assert found[0].numpy() == pytest.approx(expected.moving_mean.numpy(), rel=1e-4, abs=1e-5)
        assert found[1].numpy() == pytest.approx(expected.moving_variance.numpy(), rel=1e-4)


def test_a_dense_layer_is_normalised_by_its_batch():
    student = lived((Layer("flatten"), Layer("dense", 3, gain=True)), (1, 4, 1))
    x, (kernel, gain, bias) = images((1, 4, 1), 9), (value.numpy() for value in student.values)
    before = [part.numpy() for part in student.norms[0]]
    y = x.reshape(9, 4) @ kernel
    expected = (y - y.mean(axis=0)) / np.sqrt(y.var(axis=0) + module.EPSILON) * gain + bias
    assert student.logits(x, training=True).numpy() == pytest.approx(expected, abs=1e-5)
    for found, old, new in zip(student.norms[0], before, (y.mean(axis=0), y.var(axis=0, ddof=1)), strict=True):
        assert found.numpy() == pytest.approx(module.MOMENTUM * old + (1 - module.MOMENTUM) * new, abs=1e-6)


@pytest.mark.parametrize(("layers", "shape"), [(LAYERS, SHAPE), (OTHERS, (9, 8, 1))])
def test_the_file_gives_the_answers_of_the_student_and_the_very_weights_it_went_forward_with(layers, shape):
    student = lived(layers, shape)
    student.quantize(4)
    student.fold(5)
    network = student.network()
    back = hwz.loads(hwz.dumps(network))
    assert (back.input_shape, back.layers) == (shape, layers)
    for i, (ours, theirs) in enumerate(zip(network.tensors, back.tensors, strict=True)):
        assert np.array_equal(ours.codes, theirs.codes)
        assert ours.step == theirs.step
        forward, _ = student._coded(i)
        step = 2.0 ** (round(float(student.log_steps[i]) / SLOWNESS * 8) / 8)
        assert np.array_equal(np.rint(forward.numpy() / step), ours.codes)
        assert forward.numpy() == pytest.approx(ours.codes * step, rel=1e-6)
    # steps of kernels are in their gains' steps; what they make together is the same
    for layer, kernels, gain, bias in student._weighted():
        product = np.prod([2.0 ** (round(float(student.log_steps[i]) / SLOWNESS * 8) / 8) for i in kernels])
        if gain is None:
            assert back.tensors[kernels[0]].step == pytest.approx(product)
        else:
            assert [back.tensors[i].step for i in kernels] == [1.0] * len(kernels)
            own = 2.0 ** (round(float(student.log_steps[gain]) / SLOWNESS * 8) / 8)
            assert back.tensors[gain].step == pytest.approx(product * own)
        assert back.tensors[bias].values.shape == (layer.units,)
    x = images(shape)
    assert answers(back, x) == pytest.approx(student.logits(x).numpy(), rel=1e-4, abs=1e-4)


def test_a_step_of_a_half_eighth_is_rounded_in_the_network_as_on_the_way_forward():
    student = small([[1.0, 0.3, -2.0], [0.1, -0.7, 0.0]])
    for eighths in np.arange(-40, 8) + 0.5:
        student.log_steps[0].assign(eighths / 8 * SLOWNESS)
        assert student.network().tensors[0].values == pytest.approx(student._coded(0)[0].numpy(), rel=1e-6)


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(NetworkError, match="layer 0, dense, on"):
        Student(SHAPE, (Layer("dense", 3),), 0)


def test_kernels_begin_as_he_et_al_draw_them_and_the_seed_says_how():
    layers = (Layer("conv", 50, 5), Layer("separable", 300, 7), Layer("flatten"), Layer("dense", 100))
    first, again, other = (Student((12, 12, 20), layers, seed) for seed in (1, 1, 2))
    for i, fan_in in ((0, 500), (2, 49), (3, 50), (5, 1200)):
        values = first.values[i].numpy()
        assert values.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
        assert np.array_equal(values, again.values[i].numpy())
        assert not np.array_equal(values, other.values[i].numpy())
    assert all(not first.values[i].numpy().any() for i in (1, 4, 6))


# --- codes --------------------------------------------------------------------------------------


def test_the_first_step_is_that_of_esser_et_al_over_the_weights_that_are_left():
    """2 <|w|> / sqrt(Q), section 2.1; what pruning took does not count."""
    student = Student((1, 2, 1), SMALL, 0)
    student.values[0].assign([[1.0, -2.0, 3.0], [4.0, 50.0, -6.0]])
    student.masks[0].assign([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    student.quantize(4)
    assert 2 ** (float(student.log_steps[0]) / SLOWNESS) == pytest.approx(2 * 16 / 5 / np.sqrt(7))
    student.masks[0].assign(tf.zeros((2, 3)))
    student.quantize(4)
    assert not student.network().tensors[0].codes.any()


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_codes_are_symmetric_about_zero_and_have_their_bits(bits):
    student = small(np.linspace(-100, 100, 6).reshape(2, 3), bits)
    codes = student.network().tensors[0].codes
    assert (codes.min(), codes.max()) == (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize("bits", [1, 17, 4.0, True])
@pytest.mark.parametrize("function", ["quantize", "fold"])
def test_bits_that_can_not_be_are_refused(bits, function):
    with pytest.raises(ValueError, match=rf"{function}\(bits={bits}\): must be a whole number from 2 to 16"):
        getattr(Student((1, 2, 1), SMALL, 0), function)(bits)


def test_a_step_goes_in_eighths_of_an_octave_but_where_normalisation_follows():
    student = lived()
    student.quantize(4)
    for i, value in enumerate(student.values):
        if value.shape.rank == 1:
            continue
        forward, codes = (part.numpy().ravel() for part in student._coded(i))
        used = np.flatnonzero(np.rint(codes))
        eighths = 8 * np.log2(forward[used] / np.rint(codes[used]))
        exact = 8 * float(student.log_steps[i]) / SLOWNESS
        assert eighths == pytest.approx(exact if i in (0, 3, 4, 9) else round(exact), abs=1e-3), i


# --- gradients ----------------------------------------------------------------------------------


def test_weights_and_steps_have_the_gradients_of_esser_et_al():
    """Equations 3 to 5: to a weight straight through, 0 where it is cut off; to a step round(v/s) - v/s, or +-Q."""
    weights = np.array([[0.3, -0.8, 1.2], [9.0, -7.0, 0.9]])
    student, pull = small(weights, bits=4, step=0.5), np.random.default_rng(0).normal(size=(2, 3))
    student.masks[0].assign([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(student._coded(0)[0] * pull.astype(np.float32))
    of_weights, of_log = tape.gradient(loss, [student.values[0], student.log_steps[0]])
    ratio = weights * student.masks[0].numpy() / 0.5
    inside = np.abs(ratio) < 7
    assert of_weights.numpy() == pytest.approx(pull * inside * student.masks[0].numpy(), abs=1e-6)
    of_step = np.where(inside, np.rint(ratio) - ratio, np.clip(ratio, -7, 7))
    assert float(of_log) == pytest.approx((pull * of_step).sum() * 0.5 * np.log(2) / SLOWNESS, rel=1e-4)


def cost_by_hand(codes):
    """(zero, first, further) in bits: each count and one more."""
    magnitudes = np.abs(np.rint(codes))
    used, total = (magnitudes > 0).sum(), magnitudes.sum()
    share, more = (used + 1) / (codes.size + 2), (total - used + 1) / (total + 2)
    return -np.log2(1 - share), 1 - np.log2(share) - np.log2(1 - more), -np.log2(more)


def test_the_rate_is_what_the_codes_cost_and_its_gradient_what_one_more_unit_would():
    codes = np.array([[0.2, -0.3, 1.8], [3.3, 0.4, -0.1]])
    student = small(codes * 0.5)
    zero, first, further = cost_by_hand(codes)
    magnitude = np.abs(codes)
    expected = zero + (first - zero) * np.minimum(magnitude, 1) + further * np.maximum(magnitude - 1, 0)
    with tf.GradientTape() as tape:
        bits = student.rate_bits()
    of_weights, of_log = tape.gradient(bits, [student.values[0], student.log_steps[0]])
    slope = np.where(magnitude < 1, first - zero, further) * np.sign(codes)
    assert float(bits) == pytest.approx(expected.sum(), rel=1e-5)
    assert of_weights.numpy() == pytest.approx(slope / 0.5, rel=1e-5)
    assert float(of_log) == pytest.approx(-(slope * codes).sum() * np.log(2) / SLOWNESS, rel=1e-4)


def test_a_one_costs_no_less_than_a_zero():
    codes = np.array([[1.0, -1.0, 1.0], [1.0, 1.0, 0.0]])
    zero, first, _ = cost_by_hand(codes)
    assert first < zero
    assert float(small(codes * 0.5).rate_bits()) == pytest.approx(6 * zero, rel=1e-5)


@pytest.mark.parametrize(("share", "more"), [(0.1, 0.2), (0.4, 0.6)])
def test_the_rate_of_geometric_codes_is_their_entropy(share, more):
    """An ideal code's length is n H in the mean; rate_bits gets it from the codes alone."""
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((200, 100)) < share, rng.geometric(1 - more, (200, 100)), 0)
    codes = codes * rng.choice((-1, 1), codes.shape)
    student = Student((1, 200, 1), (Layer("flatten"), Layer("dense", 100)), 0)
    student.quantize(8)
    student.values[0].assign(codes / 4)
    student.log_steps[0].assign(-2.0 * SLOWNESS)
    assert np.array_equal(student.network().tensors[0].codes, codes)

    def entropy(p):
        return -p * np.log2(p) - (1 - p) * np.log2(1 - p)

    ideal = codes.size * (entropy(share) + share * (1 + entropy(more) / (1 - more)))
    assert float(student.rate_bits()) == pytest.approx(ideal, rel=0.02)
    assert float(student.rate_bits()) == pytest.approx(coding.entropy_bits(codes), rel=0.01)


def test_the_distance_is_that_of_what_goes_forward_as_codes():
    student = small([[0.6, -0.3, 1.0], [0.0, 0.7, 9.0]])  # in steps of a half: 1.2, -0.6, 2, 0, 1.4, cut off at 7
    student.values[1].assign([0.3, 0.3, 0.3])
    assert float(student.distance()) == pytest.approx(0.2**2 + 0.4**2 + 0.4**2, rel=1e-5)
    with tf.GradientTape() as tape:
        distance = student.distance()
    of_weights, of_bias = tape.gradient(distance, student.values)
    assert of_weights.numpy() == pytest.approx(2 * np.array([[0.2, 0.4, 0], [0, 0.4, 0]]) / 0.5, abs=1e-5)
    assert of_bias is None  # biases are no codes yet
    student.fold(5)
    student.log_steps[1].assign(SLOWNESS * -2.0)
    assert float(student.distance()) == pytest.approx(0.36 + 3 * 0.2**2, rel=1e-5)


# --- folding ------------------------------------------------------------------------------------


def test_folding_leaves_answers_and_codes_as_they_are(monkeypatch):
    student, x = lived(), images()
    student.quantize(4)
    before, codes = student.logits(x).numpy(), [t.codes for t in student.network().tensors]
    monkeypatch.setattr(Student, "_goes_as_codes", lambda self, i: self.values[i].shape.rank > 1)  # gains stay floats
    student.fold(5)
    assert student.logits(x).numpy() == pytest.approx(before, rel=1e-4, abs=1e-5)
    for value, old, now in zip(student.values, codes, student.network().tensors, strict=True):
        if value.shape.rank > 1:
            assert np.array_equal(old, now.codes)


@pytest.mark.parametrize("bits", [4, 5])
def test_folding_cuts_no_gain_and_no_bias_off_and_wastes_less_than_an_eighth_of_an_octave(bits):
    student = lived()
    student.quantize(4)
    student.fold(bits)
    for i, value in enumerate(student.values):
        if value.shape.rank == 1:
            step, most = 2 ** (float(student.log_steps[i]) / SLOWNESS), 2 ** (bits - 1) - 1
            largest = np.abs(value.numpy()).max() / step
            assert most * 2 ** (-1 / 8) * 0.9999 <= largest <= most * 1.0001


def test_a_student_is_folded_once():
    student = lived()
    student.fold(5)
    with pytest.raises(ValueError, match=r"fold\(\): this student is folded already"):
        student.fold(5)


def test_what_a_form_learns():
    student = lived()
    assert len(student.trainable()) == len(student.values)
    student.quantize(3)
    assert len(student.trainable()) == 2 * len(student.values)
