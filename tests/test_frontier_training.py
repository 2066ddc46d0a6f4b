"""Training of a point: settings, what each phase does, the loss by hand, and going on after a stop."""

import numpy as np
import pytest
from scipy import special

from hwlimits.compressed import Layer
from hwlimits.training import frontier_training
from hwlimits.training.frontier_training import Settings, train
from hwlimits.training.keras import keras, tf
from hwlimits.training.student import SLOWNESS, Student
from hwlimits.training.variants import Variants

SHAPE = (6, 6, 1)
LAYERS = (Layer("conv", 6, 3, gain=True, relu=True), Layer("flatten"), Layer("dense", 3))
RATES = {"learning_rate": 0.05, "quantized_rate": 0.02, "folded_rate": 0.01, "rate": 0.5}
ALL = Settings("test", epochs=2, pruning_epochs=2, sparsity=0.6, quantized_epochs=2, folded_epochs=1, bits=3, **RATES)
PLAIN = Settings("test", epochs=1, quantized_epochs=0, plain_share=1.0, seed=2)


@pytest.fixture(scope="module", autouse=True)
def repeatable():
    tf.config.experimental.enable_op_determinism()


def taught(n=150, shape=SHAPE[:2]):
    """Images of three kinds, and what a teacher that is mostly right says of them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    images = rng.integers(0, 100, (2, n, *shape)).astype(np.uint8)
    for i, label in enumerate(labels):
        images[:, i, label] += 100
    answers = np.eye(3)[labels] * 4 + rng.normal(0, 1, (2, n, 3))
    return Variants(images, answers.astype(np.float16), labels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A whole training: the student, and after each epoch which phase, codes and masks it was in."""
    seen = []

    def at_epoch(phase, epoch, student):
        forms = student.quantized, student.folded
        masked = np.concatenate([mask.numpy().ravel() for mask in student.masks if mask.shape.rank > 1]) == 0
        codes = np.concatenate([t.codes.ravel() for t in student.network().tensors if t.codes.ndim > 1])
        seen.append((phase, epoch, forms, masked, codes))

    return train(ALL, LAYERS, taught(), 140, tmp_path_factory.mktemp("whole"), at_epoch, SHAPE), seen


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"epochs": -1}, r"Settings\(epochs=-1\): must be a whole number from 0 up"),
        ({"quantized_epochs": 2.0}, r"Settings\(quantized_epochs=2.0\): must be a whole number from 0 up"),
        ({"pruning_epochs": True}, r"Settings\(pruning_epochs=True\): must be a whole number from 0 up"),
        ({"folded_epochs": None}, r"Settings\(folded_epochs=None\): must be a whole number from 0 up"),
        ({"seed": -1}, r"Settings\(seed=-1\): must be a whole number from 0 up"),
        ({"bits": 1}, r"Settings\(bits=1\): must be a whole number from 2 to 16"),
        ({"bits": 17}, r"Settings\(bits=17\): must be a whole number from 2 to 16"),
        ({"bias_bits": 1}, r"Settings\(bias_bits=1\): must be a whole number from 2 to 16"),
        ({"rate": -0.5}, r"Settings\(rate=-0.5\): must be a number from 0 up"),
        ({"rate": float("inf")}, r"Settings\(rate=inf\): must be a number from 0 up"),
        ({"damping": float("nan")}, r"Settings\(damping=nan\): must be a number from 0 up"),
        ({"plain_share": 1.5}, r"Settings\(plain_share=1.5\): must be a number from 0 to 1"),
        ({"learning_rate": 0}, r"Settings\(learning_rate=0\): must be a number above 0"),
        ({"quantized_rate": "1e-3"}, r"Settings\(quantized_rate='1e-3'\): must be a number above 0"),
        ({"folded_rate": -1.0}, r"Settings\(folded_rate=-1.0\): must be a number above 0"),
        ({"temperature": 0}, r"Settings\(temperature=0\): must be a number above 0; 1 leaves answers as they are"),
        ({"teacher": 1.1}, r"Settings\(teacher=1.1\): must be a number from 0 to 1"),
        ({"sparsity": 1.0, "pruning_epochs": 1}, r"Settings\(sparsity=1.0\): must be a share from 0 up and below 1"),
        ({"sparsity": 0.9}, r"Settings\(sparsity=0.9, pruning_epochs=0\): nothing would be pruned; give it epochs"),
    ],
)
def test_settings_that_can_not_be_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        Settings(**{"architecture": "test", "epochs": 1, "quantized_epochs": 1} | wrong)


@pytest.mark.parametrize("learn", [0, 151, 10.0, True])
def test_images_that_are_not_there_are_refused(learn, tmp_path):
    with pytest.raises(ValueError, match=rf"train\(learn={learn}\): there are 150 images; choose 1 or more of them"):
        train(PLAIN, LAYERS, taught(), learn, tmp_path, input_shape=SHAPE)


# --- phases -------------------------------------------------------------------------------------


def test_the_phases_come_in_order_and_each_in_its_form(trained):
    student, seen = trained
    assert [(phase, epoch, forms) for phase, epoch, forms, _, _ in seen] == [
        ("float", 0, (False, False)), ("float", 1, (False, False)),
        ("prune", 0, (False, False)), ("prune", 1, (False, False)),
        ("quantize", 0, (True, False)), ("quantize", 1, (True, False)), ("fold", 0, (True, True)),
    ]  # fmt: skip
    assert (student.quantized, student.folded, student.bits) == (True, True, 3)


def test_pruning_reaches_its_sparsity_by_a_cubic_and_what_is_pruned_stays_so(trained):
    """Zhu and Gupta 2017: s (1 - (1 - t)^3); all kernels together."""
    _, seen = trained
    shares = [masked.mean() for *_, masked, _ in seen]
    size = seen[0][3].size
    assert shares[:2] == [0, 0]
    assert shares[2] == pytest.approx(0.6 * (1 - 0.5**3), abs=1 / size)
    assert shares[3:] == pytest.approx([0.6] * 4, abs=1 / size)
    assert (seen[2][3] <= seen[3][3]).all()
    for *_, masked, codes in seen[4:]:
        assert np.array_equal(masked, seen[3][3])
        assert not codes[masked].any()
        assert np.abs(codes).max() <= 3


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.95])
def test_the_smallest_weights_beside_their_tensor_s_go(sparsity):
    student = Student(SHAPE, LAYERS, 0)
    student.values[0].assign(1000 * student.values[0])  # what a gain undoes says nothing
    frontier_training._prune(student, sparsity)
    values = [student.values[i].numpy() for i in (0, 3)]
    scores = np.concatenate([(np.abs(v) / np.sqrt((v**2).mean())).ravel() for v in values])
    masks = np.concatenate([student.masks[i].numpy().ravel() for i in (0, 3)])
    assert (masks == 0).sum() == pytest.approx(sparsity * masks.size, abs=1)
    assert sparsity or masks.all()
    if sparsity:
        assert scores[masks == 0].max() <= scores[masks == 1].min()
    for i in (1, 2, 4):
        assert student.masks[i].numpy().all()


def test_a_kernel_of_zeros_does_not_stop_the_pruning_of_others():
    student = Student(SHAPE, LAYERS, 0)
    student.masks[0].assign(tf.zeros_like(student.masks[0]))
    frontier_training._prune(student, 0.9)
    assert 0 < student.masks[3].numpy().mean() < 1


def test_the_rate_rises_in_the_first_half_and_the_damping_in_the_second(monkeypatch, tmp_path):
    weights, epochs = [], []

    def recorder(*_):
        return lambda images, labels, answers, rate, damping: weights.append((float(rate), float(damping)))

    class Recorded(Variants):
        def epoch(self, seed, epoch, plain_share, count):
            epochs.append((seed, epoch, plain_share, count))
            return super().epoch(seed, epoch, plain_share, count)

    monkeypatch.setattr(frontier_training, "_epoch_function", recorder)
    settings = Settings("test", 1, 4, rate=6.0, damping=0.5, folded_epochs=1, plain_share=0.25, seed=7)
    variants = taught()
    train(
        settings, LAYERS, Recorded(variants.images, variants.answers, variants.labels), 90, tmp_path, input_shape=SHAPE
    )
    assert np.array(weights)[1:] == pytest.approx(
        np.array([[5e-5, 0], [1e-4, 0], [1e-4, 0.25], [1e-4, 0.5], [1e-4, 0.5]]), rel=1e-6
    )
    # each epoch once; what the means are taken of before the fold is what comes next
    assert epochs == [(7, epoch, 0.25, 90) for epoch in (0, 1, 2, 3, 4, 5, 5)]


def test_means_and_variances_are_taken_anew_of_codes_as_they_are_before_the_fold(monkeypatch):
    image = taught().images[:, :1]
    same = Variants(np.repeat(image[:1], 600, axis=1), np.zeros((1, 600, 3), np.float16), np.zeros(600, int))
    monkeypatch.setattr(frontier_training, "BATCH", 2)
    student = Student(SHAPE, LAYERS, 0)
    student.quantize(3)
    mean, variance = student.norms[0]
    mean.assign([100.0] * 6)
    variance.assign([1e4] * 6)
    frontier_training._settle(student, Settings("test", 1, 1, plain_share=1.0), same, 0, 600)
    outputs = tf.nn.conv2d(image[0, :, :, :, None].astype(np.float32) / 255, student._coded(0)[0], 1, "VALID").numpy()
    assert mean.numpy() == pytest.approx(outputs.mean(axis=(0, 1, 2)), abs=0.01)  # 100 x 0.95^200 is 0.0035
    assert variance.numpy() == pytest.approx(outputs.repeat(2, axis=0).var(axis=(0, 1, 2), ddof=1), abs=0.5)
    assert mean.numpy() != pytest.approx(outputs.mean(axis=(0, 1, 2)), abs=0.001)  # no more than 200 batches


# --- the loss -----------------------------------------------------------------------------------


def one_step(monkeypatch, tmp_path, settings):
    """What a step of plain gradient descent at rate 1 takes from a dense student's values; images, labels, answers."""
    monkeypatch.setattr(frontier_training.keras.optimizers, "Adam", keras.optimizers.SGD)
    layers, variants = (Layer("flatten"), Layer("dense", 3)), taught()
    before = Student(SHAPE, layers, settings.seed)
    if settings.quantized_epochs:
        before.quantize(settings.bits)
    after = train(settings, layers, variants, 100, tmp_path, input_shape=SHAPE)
    images, labels, answers = variants.epoch(settings.seed, 0, settings.plain_share, 100)
    taken = [old.numpy() - new.numpy() for old, new in zip(before.values, after.values, strict=True)]
    return taken, before, images.reshape(100, -1) / 255, labels, answers.astype(np.float64)


@pytest.mark.parametrize(("temperature", "weight"), [(2.0, 0.7), (4.0, 1.0), (1.0, 0.0)])
def test_a_step_goes_down_the_gradient_of_labels_and_teacher(monkeypatch, tmp_path, temperature, weight):
    """d loss / d logits = (1 - w) (p - label) + w T (p at T - teacher at T): Hinton et al. 2015, section 2.1."""
    rates = {"learning_rate": 1.0, "plain_share": 0.5, "temperature": temperature, "teacher": weight}
    settings = Settings("test", epochs=1, quantized_epochs=0, **rates)
    taken, before, x, labels, answers = one_step(monkeypatch, tmp_path, settings)
    logits = x @ before.values[0].numpy()
    soft = special.softmax(logits / temperature, axis=1) - special.softmax(answers / temperature, axis=1)
    of_logits = (1 - weight) * (special.softmax(logits, axis=1) - np.eye(3)[labels]) + weight * temperature * soft
    assert taken[0] == pytest.approx(x.T @ of_logits / 100, abs=1e-5)
    # the bias is 0 before, and folding leaves it
    assert taken[1] == pytest.approx(of_logits.mean(axis=0), abs=1e-5)


def test_a_quantized_step_has_the_teacher_the_labels_and_the_bits_in_it(monkeypatch, tmp_path):
    """Distillation with quantization: the same gradient, at the codes, straight through; and the rate's."""
    settings = Settings("test", 0, 1, bits=3, rate=600.0, quantized_rate=1.0, temperature=3.0, teacher=0.4)
    taken, before, x, labels, answers = one_step(monkeypatch, tmp_path, settings)
    with tf.GradientTape() as tape:
        coded, codes = before._coded(0)
        bits = before.rate_bits()
    of_bits = tape.gradient(bits, before.values[0]).numpy()
    logits = x @ coded.numpy()
    soft = special.softmax(logits / 3, axis=1) - special.softmax(answers / 3, axis=1)
    of_logits = 0.6 * (special.softmax(logits, axis=1) - np.eye(3)[labels]) + 0.4 * 3 * soft
    inside = np.abs(codes.numpy()) < 3
    assert np.abs(of_bits).max() > 0
    assert taken[0] == pytest.approx(x.T @ of_logits / 100 * inside + 0.01 * of_bits, abs=1e-5)


# --- going on -----------------------------------------------------------------------------------


class StoppedError(Exception):
    """What a training is stopped by, after each epoch."""


def test_a_training_that_is_stopped_after_each_epoch_ends_as_one_that_was_not(trained, tmp_path):
    stops = []

    def stop(phase, epoch, student):
        stops.append((phase, epoch))
        raise StoppedError

    found = None
    while found is None:
        try:
            found = train(ALL, LAYERS, taught(), 140, tmp_path, stop, SHAPE)
        except StoppedError:
            continue
    assert stops == [(phase, epoch) for phase, epoch, *_ in trained[1]]
    for ours, expected in zip(found.variables, trained[0].variables, strict=True):
        assert np.array_equal(ours.numpy(), expected.numpy()), ours.name
    # another time nothing is trained
    train(ALL, LAYERS, taught(), 140, tmp_path, stop, SHAPE)
    assert len(stops) == len(trained[1])


def test_a_folder_of_another_training_is_refused(tmp_path):
    train(PLAIN, LAYERS, taught(), 10, tmp_path, input_shape=SHAPE)
    other = (*LAYERS[:-1], Layer("dense", 3, gain=True))
    with pytest.raises(ValueError, match=r"train: .*float\.npz is of another training; remove it, or give this one"):
        train(PLAIN, other, taught(), 10, tmp_path, input_shape=SHAPE)


def test_a_longer_training_s_folder_is_refused(tmp_path):
    train(Settings("test", 2, 0), LAYERS, taught(), 10, tmp_path, input_shape=SHAPE)
    with pytest.raises(ValueError, match="is of another training"):
        train(Settings("test", 1, 0), LAYERS, taught(), 10, tmp_path, input_shape=SHAPE)


def test_seeds_give_students_of_their_own_and_steps_are_learnt(trained, tmp_path):
    student, _ = trained
    other = Student(SHAPE, LAYERS, ALL.seed + 1)
    assert not np.array_equal(other.values[0].numpy(), Student(SHAPE, LAYERS, ALL.seed).values[0].numpy())
    eighths = float(student.log_steps[3]) / SLOWNESS * 8  # a dense layer's without gain: no fold has rounded it
    assert abs(eighths - round(eighths)) > 1e-3


def test_the_student_learnt(trained):
    variants = taught()
    x = variants.images[0, :140].reshape(-1, *SHAPE).astype(np.float32) / 255
    assert np.mean(trained[0].logits(x).numpy().argmax(axis=1) == variants.labels[:140]) > 0.5
