"""Variants of the training images: turns, scales and shifts by hand; an epoch's choice; what a teacher answers."""

import numpy as np
import pytest

from hwlimits.training import variants
from hwlimits.training.keras import keras
from hwlimits.training.mnist import ImageSet, scale
from hwlimits.training.variants import Variants, prepare, vary


def varied_by(monkeypatch, image, turn=0.0, factor=1.0, shift=(0.0, 0.0)):
    """One image, turned, scaled and moved by just that."""

    class Drawn:
        answers = iter(([np.float64(turn)], [np.float64(factor)], [np.array(shift)]))

        def uniform(self, low, high, shape):
            return np.array(next(self.answers))

    monkeypatch.setattr(variants.np.random, "default_rng", lambda seed: Drawn())
    return vary(image[None], seed=0, variant=1)[0]


def picture(side=7):
    return np.random.default_rng(3).integers(1, 256, (side, side)).astype(np.uint8)


def test_variant_0_is_the_images_as_they_are():
    images = np.stack([picture(), picture() // 2])
    assert np.array_equal(vary(images, seed=5, variant=0), images)


def test_no_turn_no_scale_and_no_shift_change_nothing(monkeypatch):
    image = picture()
    assert np.array_equal(varied_by(monkeypatch, image), image)


@pytest.mark.parametrize("shift", [(1, 0), (0, -2), (2, 1)])
def test_a_shift_moves_the_image_and_leaves_black_behind(monkeypatch, shift):
    image, expected = picture(), np.zeros((7, 7), np.uint8)
    for row in range(7):
        for column in range(7):
            to = row + shift[0], column + shift[1]
            if min(to) >= 0 and max(to) < 7:
                expected[to] = image[row, column]
    assert np.array_equal(varied_by(monkeypatch, image, shift=shift), expected)


@pytest.mark.parametrize(("turn", "quarters"), [(90, -1), (180, 2), (-90, 1)])
def test_a_quarter_turn_is_that_of_numpy(monkeypatch, turn, quarters):
    image = picture()
    found = varied_by(monkeypatch, image, turn=turn).astype(int)
    inside = np.s_[1:-1, 1:-1]  # sin and cos are not quite 0 and 1: the edge may just be outside
    assert np.abs(found - np.rot90(image, quarters))[inside].max() <= 1


def test_a_scale_of_2_doubles_distances_from_the_middle(monkeypatch):
    image = picture(5)
    found = varied_by(monkeypatch, image, factor=2.0)
    assert np.array_equal(found[::2, ::2], image[1:4, 1:4])
    between = (image[2, 2].astype(float) + image[2, 3]) / 2
    assert abs(float(found[2, 3]) - between) <= 0.5


def test_half_a_pixel_is_halfway_between_two(monkeypatch):
    image = np.zeros((5, 5), np.uint8)
    image[2, 2] = 200
    found = varied_by(monkeypatch, image, shift=(0, 0.5))
    assert found[2].tolist() == [0, 0, 100, 100, 0]


def test_turns_scales_and_shifts_fill_their_ranges_and_do_not_leave_them(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        variants.ndimage, "affine_transform", lambda image, back, offset, **_: drawn.append((back, offset))
    )
    vary(np.zeros((1000, 28, 28), np.uint8), seed=0, variant=3)
    middle = np.array([13.5, 13.5])
    factors = np.array([np.linalg.det(back) ** -0.5 for back, _ in drawn])
    turns = np.rad2deg([np.arctan2(back[1, 0], back[0, 0]) for back, _ in drawn])
    shifts = np.array([np.linalg.solve(back, middle - offset) - middle for back, offset in drawn])
    for found, low, high in ((turns, -10, 10), (factors, 0.9, 1.1), (shifts[:, 0], -2, 2), (shifts[:, 1], -2, 2)):
        assert low <= found.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < found.max() <= high
        assert found.mean() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))


def test_the_same_seed_and_variant_give_the_same_images_and_others_do_not():
    images = np.stack([picture(), picture() // 2])
    first = vary(images, seed=1, variant=2)
    assert first.dtype == np.uint8
    assert first.shape == images.shape
    assert np.array_equal(first, vary(images, seed=1, variant=2))
    assert not np.array_equal(first, vary(images, seed=2, variant=2))
    assert not np.array_equal(first, vary(images, seed=1, variant=1))


# --- an epoch -----------------------------------------------------------------------------------


def told_apart(count=3, n=2000):
    """Images, labels and answers that say which image and which variant they are of."""
    image, variant = np.arange(n), np.arange(count)[:, None]
    images = np.zeros((count, n, 1, 3), np.uint8)
    images[..., 0, 0], images[..., 0, 1], images[..., 0, 2] = variant, image // 256, image % 256
    answers = np.stack(np.broadcast_arrays(variant, image), axis=-1).astype(np.float16)
    return Variants(images, answers, np.arange(n) % 10)


@pytest.mark.parametrize("plain_share", [0.0, 0.5, 1.0])
def test_an_epoch_has_each_image_once_with_its_own_label_and_its_own_variants_answer(plain_share):
    images, labels, answers = told_apart().epoch(0, 4, plain_share, 1500)
    which, image = images[:, 0, 0].astype(int), images[:, 0, 1].astype(int) * 256 + images[:, 0, 2]
    assert sorted(image) == list(range(1500))
    assert not np.array_equal(image, np.arange(1500))
    assert (labels.dtype, labels.tolist()) == (np.int32, (image % 10).tolist())
    assert np.array_equal(answers, np.stack([which, image], axis=1).astype(np.float16))
    assert np.mean(which == 0) == pytest.approx(plain_share, abs=5 * np.sqrt(plain_share * (1 - plain_share) / 1500))
    if plain_share < 1:
        assert np.mean(which[which > 0] == 1) == pytest.approx(0.5, abs=0.1)


def test_an_epoch_is_the_same_each_time_and_unlike_others():
    first, again, next_one, other = (told_apart().epoch(*of, 0.5, 2000)[2] for of in ((0, 1), (0, 1), (0, 2), (1, 1)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_one)
    assert not np.array_equal(first, other)


def test_images_without_variants_are_seen_as_they_are_or_not_at_all():
    alone = told_apart(count=1)
    assert (alone.epoch(0, 0, 1.0, 100)[0][:, 0, 0] == 0).all()
    with pytest.raises(ValueError, match=r"epoch\(plain_share=0.5\): these images have no variants"):
        alone.epoch(0, 0, 0.5, 100)


# --- the teacher --------------------------------------------------------------------------------


def test_the_teacher_has_the_parameters_that_it_says():
    model = variants.teacher_network()
    assert 150_000 < model.count_params() < 250_000
    assert model.output_shape == (None, 10)


@pytest.fixture
def prepared(tiny, tmp_path, monkeypatch):
    """A small teacher's answers, its data and folder; the labels that it must not see are no digits."""

    def network():
        return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])

    monkeypatch.setattr(variants, "teacher_network", network)
    monkeypatch.setattr(variants, "TEACHER_EPOCHS", 2)
    labels = np.where(np.arange(100) < 80, tiny.y_train[:100].astype(int), 99)
    data = ImageSet(tiny.x_train[:100], labels, tiny.x_test, tiny.y_test, "tiny")
    return prepare(data, 80, tmp_path / "teacher", variants=2), data, tmp_path / "teacher"


def test_a_teacher_is_trained_on_what_it_may_see_and_answers_to_all(prepared):
    found, data, folder = prepared
    assert found.images.shape == (3, 100, 28, 28)
    for variant in range(3):
        assert np.array_equal(found.images[variant], vary(data.x_train, 0, variant))
    model = variants.teacher_network()
    model.load_weights(folder / "teacher.weights.h5")
    expected = np.stack([model(scale(part)).numpy() for part in found.images])
    assert np.isfinite(expected).all()  # a loss with the label 99 is none
    assert found.answers.dtype == np.float16
    assert found.answers == pytest.approx(expected, rel=2e-3, abs=1e-3)
    assert sorted(p.name for p in folder.iterdir()) == ["answers.npy", "images.npy", "teacher.weights.h5"]


def test_what_is_there_is_read_and_not_made_again(prepared, monkeypatch):
    found, data, folder = prepared
    monkeypatch.setattr(variants, "_images", None)
    monkeypatch.setattr(variants, "_teacher", None)
    again = prepare(data, 80, folder, variants=2)
    assert isinstance(again.images, np.memmap)
    assert np.array_equal(again.answers, found.answers)
    with pytest.raises(ValueError, match=r"images.npy has \(3, 100, 28, 28\), and \(5, 100, 28, 28\) is wanted"):
        prepare(data, 80, folder, variants=4)


def test_a_teacher_that_is_trained_is_not_trained_again(prepared, monkeypatch):
    found, data, folder = prepared
    (folder / "answers.npy").unlink()
    monkeypatch.setattr(keras.Model, "fit", None)
    assert np.array_equal(prepare(data, 80, folder, variants=2).answers, found.answers)
