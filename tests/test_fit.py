"""Training in phases: what it is fed, and that an interruption changes nothing."""

import contextlib

import numpy as np
import pytest

from hwlimits.training import fit
from hwlimits.training.keras import keras, tf
from hwlimits.training.mnist import ImageSet, scale
from hwlimits.training.models import article_cnn
from hwlimits.training.recipe import Phase, Recipe

SPARSITY = {"conv2": 0.8, "dense1": 0.9}
RECIPE = Recipe(
    "small", 32, 1,
    (Phase(1, 2e-3), Phase(2, 2e-3, "prune", sparsity=SPARSITY), Phase(1, 1e-3, "hold", sparsity=SPARSITY),
     Phase(2, 3e-4, "quantize")),
    {4: "pruned", 6: "quantized"},
)  # fmt: skip


class Interrupted(Exception):
    pass


def train(folder, tiny, stop_at=None):
    """Train; stop before the epoch `stop_at`. Returns the weights of each stage that was reached."""
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(7)
    reached = {}

    def at_epoch(epoch):
        if epoch == stop_at:
            raise Interrupted

    with contextlib.suppress(Interrupted):
        fit.run(article_cnn(), RECIPE, tiny, 7, folder, lambda s, m: reached.update({s: m.get_weights()}), at_epoch)
    return reached


def test_a_run_interrupted_anywhere_ends_with_the_same_weights(tiny, tmp_path):
    whole = train(tmp_path / "whole", tiny)
    pieces = {}
    for stop_at in (0, 2, 3, 4, 5, None):  # in each phase, and between two
        pieces |= train(tmp_path / "pieces", tiny, stop_at)
    assert set(whole) == set(pieces) == {"pruned", "quantized"}
    for stage in whole:
        for a, b in zip(whole[stage], pieces[stage], strict=True):
            assert np.array_equal(a, b), stage


def test_an_optimiser_that_is_kept_makes_two_phases_one(tiny, tmp_path):
    """Two phases with one optimiser train as one phase does; with a fresh one they don't. Interrupted or not."""
    plain = {"learning_rate": 1e-3, "decay": False}

    def weights(name, phases, stop_at=None):
        keras.utils.set_random_seed(7)
        recipe = Recipe(name, 32, 0, phases, {})

        def at_epoch(epoch):
            if epoch == stop_at:
                raise Interrupted

        return fit.run(article_cnn(), recipe, tiny, 7, tmp_path / name, lambda *_: None, at_epoch).get_weights()

    tf.config.experimental.enable_op_determinism()
    one = weights("one", (Phase(2, **plain),))
    kept = (Phase(1, **plain), Phase(1, fresh=False, **plain))
    with pytest.raises(Interrupted):
        weights("kept", kept, stop_at=1)
    assert all(np.array_equal(a, b) for a, b in zip(one, weights("kept", kept), strict=True))
    fresh = weights("fresh", (Phase(1, **plain), Phase(1, **plain)))
    assert not all(np.array_equal(a, b) for a, b in zip(one, fresh, strict=True))


def test_a_quantized_network_that_is_done_is_read_again(tiny, tmp_path):
    recipe = Recipe("coded", 64, 0, (Phase(1, 1e-3), Phase(1, 1e-3, "quantize")), {}, "own")
    keras.utils.set_random_seed(7)
    arguments = (recipe, tiny, 7, tmp_path, lambda *_: None)
    trained = fit.run(article_cnn(), *arguments)
    again = fit.run(article_cnn(), *arguments)
    assert len(trained.get_weights()) > len(article_cnn().get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(trained.get_weights(), again.get_weights(), strict=True))


def test_only_a_plain_phase_can_keep_its_optimiser():
    with pytest.raises(ValueError, match="only a dense phase with a constant rate"):
        Phase(1, 1e-3, "prune", fresh=False)


def test_each_epoch_has_all_images_once_and_an_order_of_its_own(tiny):
    first, labels = fit.epoch_images(tiny, 480, 0, seed=1, epoch=0)
    again, _ = fit.epoch_images(tiny, 480, 0, seed=1, epoch=0)
    other, _ = fit.epoch_images(tiny, 480, 0, seed=1, epoch=1)
    assert first.dtype == np.float32
    assert first.shape == (480, 28, 28, 1)
    assert (first.min(), first.max()) == (0, 1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    sort = lambda images: sorted(image.tobytes() for image in images)  # noqa: E731
    assert sort(first) == sort(other) == sort(scale(tiny.x_train))
    assert np.array_equal(np.bincount(labels), np.bincount(tiny.y_train))


def test_shifts_move_the_digit_whole_and_both_ways(tiny):
    images, _ = fit.epoch_images(tiny, 480, 2, seed=1, epoch=0)
    order = np.random.default_rng([1, 0]).permutation(480)
    moves = set()
    for image, original in zip(images[..., 0], tiny.x_train[order] / np.float32(255), strict=True):
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(image, shifted(original, down, right))
        ]
        assert found, "an image is not a shift of its original"
        moves.add(found[0])
    assert len(moves) == 25


def shifted(image, down, right):
    moved = np.zeros_like(image)
    rows, columns = np.mgrid[:28, :28]
    inside = (rows + down >= 0) & (rows + down < 28) & (columns + right >= 0) & (columns + right < 28)
    moved[rows[inside] + down, columns[inside] + right] = image[inside]
    return moved


def test_a_share_takes_the_first_images(tiny):
    _, labels = fit.epoch_images(tiny, 240, 0, seed=1, epoch=0)
    assert np.array_equal(np.bincount(labels, minlength=10), np.bincount(tiny.y_train[:240], minlength=10))


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="the forms are dense, prune, hold and quantize"):
        Phase(1, 1e-3, "squeeze")


def test_images_of_another_size_and_with_colours_are_shifted_alike():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (50, 12, 10, 3)).astype(np.uint8)
    data = ImageSet(images, np.arange(50) % 10, images[:5], np.arange(5), "colours")
    moved, _ = fit.epoch_images(data, 50, 1, seed=0, epoch=0)
    order = np.random.default_rng([0, 0]).permutation(50)
    assert moved.shape == (50, 12, 10, 3)
    # the inner part of a shifted image is found in its original, three colours together
    for image, original in zip(moved, images[order] / np.float32(255), strict=True):
        places = [(d, r) for d in (0, 1, 2) for r in (0, 1, 2)]
        assert any(np.array_equal(image[1:-1, 1:-1], original[d : d + 10, r : r + 8]) for d, r in places)
