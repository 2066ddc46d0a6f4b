import time

import numpy as np
import pytest

from hwlimits.bandwidth import Stage
from hwlimits.machine.timing import Timing
from hwlimits.training import input_pipeline, mnist
from hwlimits.training.input_pipeline import (
    STAGES,
    VARIANTS,
    PipelineError,
    Starvation,
    TrainingStep,
    Wait,
    augment,
    dataset,
    epoch,
    measure,
    predict,
    stages,
    starvation,
    write_shards,
)
from hwlimits.training.keras import keras, tf

pytestmark = pytest.mark.alone

IMAGES, SHARDS = 100, 3

each_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """100 images in three files of unequal length."""
    return write_shards(tmp_path_factory.mktemp("shards"), images=IMAGES, shards=SHARDS, enlarge=4)


def delivered(made):
    """ids, images and labels of an epoch, in the order in which they came."""
    return [np.concatenate([part.numpy() for part in column]) for column in zip(*made, strict=True)]


# what is delivered


def test_the_files_hold_the_sample_s_images(files):
    """Read with TensorFlow's own reader and undone by NumPy: every pixel stands enlarge x enlarge times."""
    sample, numbers = mnist.load("mnist-5k"), []
    for k, file in enumerate(files):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            number = features["id"].int64_list.value[0]
            large = tf.io.decode_png(features["image"].bytes_list.value[0]).numpy()[..., 0]
            assert large.shape == (112, 112)
            np.testing.assert_array_equal(large, sample.x_train[number].repeat(4, 0).repeat(4, 1))
            assert features["label"].int64_list.value[0] == sample.y_train[number]
            assert number % SHARDS == k
            numbers.append(number)
    assert sorted(numbers) == list(range(IMAGES))


def test_what_is_decoded_is_the_original(files):
    """Averaging over what was repeated gives it back."""
    sample = mnist.load("mnist-5k")
    records = tf.data.TFRecordDataset([str(file) for file in files])
    for number, image, label in records.map(input_pipeline.decode).as_numpy_iterator():
        np.testing.assert_allclose(image, mnist.scale(sample.x_train[number : number + 1])[0], atol=1e-6)
        assert label == sample.y_train[number]


@each_variant
def test_every_image_is_delivered_once_in_an_order_that_stays(files, variant):
    made = dataset(files, variant, cores=2, batch=32)
    ids, images, labels = delivered(made)
    assert sorted(ids) == list(range(IMAGES))
    again = delivered(made)  # the second epoch, which "cache" takes from memory
    for one, other in zip((ids, images, labels), again, strict=True):
        np.testing.assert_array_equal(one, other)
    if variant != "interleave":  # file after file; interleave takes from two files in turn
        np.testing.assert_array_equal(ids, np.concatenate([np.arange(k, IMAGES, SHARDS) for k in range(SHARDS)]))


def test_interleave_takes_from_as_many_files_as_cores_in_turn(files):
    ids, _, _ = delivered(dataset(files, "interleave", cores=3, batch=32))
    np.testing.assert_array_equal(ids, np.arange(IMAGES))


def test_all_variants_deliver_the_same_images(files):
    """The augmentation depends on the id, not on who makes it or when."""
    found = {}
    for variant in VARIANTS:
        ids, images, labels = delivered(dataset(files, variant, cores=2, batch=32))
        order = np.argsort(ids)
        found[variant] = images[order], labels[order]
    for variant in VARIANTS[1:]:
        for one, other in zip(found[variant], found["sequential"], strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_augmentation_moves_and_brightens():
    """A lone pixel moves by at most two, and the background's level changes by at most a tenth."""
    image = np.zeros((28, 28, 1), np.float32)
    image[14, 14] = 0.5
    places = set()
    for number in range(30):
        _, moved, _ = augment(tf.constant(number, tf.int64), image, 0)
        row, column = np.unravel_index(np.argmax(moved[..., 0]), (28, 28))
        assert abs(row - 14) <= 2
        assert abs(column - 14) <= 2
        assert abs(float(np.max(moved)) - 0.5) <= 0.1 + 1e-6
        places.add((row, column))
    assert len(places) > 8


def test_an_image_that_comes_twice_or_never_is_said(files):
    twice = dataset(files, "sequential", cores=1, batch=32).concatenate(dataset(files[:1], "sequential", cores=1))
    with pytest.raises(PipelineError, match="image 0 was delivered 2 times in one epoch"):
        epoch(twice, Wait(0))
    with pytest.raises(PipelineError, match="image 1 was delivered 0 times in one epoch"):
        epoch(dataset(files[:1], "sequential", cores=1, batch=32), Wait(0))


# the model of it

ALONE = {name: Stage(name, s) for name, s in zip(STAGES, (1.0, 8.0, 2.0, 1.0, 6.0), strict=True)}


@pytest.mark.parametrize(
    ("variant", "item_s", "bound"),
    [
        ("sequential", 18.0, "read + decode + augment + batch + train"),
        ("prefetch", 12.0, "read + decode + augment + batch"),  # 6 of train beside 12 of the rest
        ("parallel map", 9.0, "2 cores"),  # 10 / 2 for decoding, 6 for train, but 18 of work on two cores
        ("interleave", 9.0, "2 cores"),
        ("cache", 9.0, "2 cores"),
    ],
)
def test_predictions_by_hand(variant, item_s, bound):
    found = predict(variant, ALONE, 2)
    assert (found.item_s, found.bound) == (item_s, bound)
    many = {"sequential": 18.0, "prefetch": 12.0, "parallel map": 6.0, "interleave": 6.0, "cache": 6.0}
    assert predict(variant, ALONE, 8).item_s == many[variant]


def test_later_epochs_of_a_cache_by_hand():
    later = predict("cache", ALONE, 2).cached("decode")
    assert (later.item_s, later.bound) == (6.0, "train")
    assert later.limits == {"cache + augment + batch": 3.0, "train": 6.0, "2 cores": 4.5}


def test_a_consumer_that_waits_leaves_the_cores():
    alone = ALONE | {"train": Stage("train", 6.0, cpu_s=0.0)}
    assert predict("parallel map", ALONE, 2).bound == "2 cores"
    found = predict("parallel map", alone, 2)
    assert (found.item_s, found.bound) == (6.0, "train")
    assert found.limits["2 cores"] == 6.0, "12 of work on two cores: just enough"


# measured: ratios only, with a consumer whose time is known


def test_stages_alone_and_variants_together(files):
    """A consumer that waits far longer than the rest works: without overlap the times add up, with it they don't."""
    alone = stages(files, Wait(0.1), batch=50, repeats=3)
    assert tuple(alone) == STAGES
    assert alone["train"].item_s >= 0.1 / 50
    assert alone["train"].cpu_s < 0.2 * alone["train"].item_s, "waiting is no work"
    assert alone["decode"].item_s > alone["batch"].item_s
    assert alone["decode"].cpu_s > 0
    found = measure(files, "prefetch", Wait(0.1), cores=2, batch=50)
    assert found.images == IMAGES
    assert found.first is None
    assert found.first_item_s == found.item_s >= 0.1 / 50
    work_s = sum(stage.processor_s for stage in alone.values())
    assert 0.3 < found.cpu_item_s / work_s < 3, "the work together is that of the stages alone"


def test_a_cache_spares_the_work_of_later_epochs(files):
    """Seen in what is decoded, not only in the time: the cached epochs call nothing of the first stages."""
    found = measure(files, "cache", Wait(0), cores=2, batch=50)
    assert found.first is not None
    assert found.first_item_s > found.item_s
    made = dataset(files, "cache", cores=2, batch=50)
    epoch(made, Wait(0))
    for file in files:
        file.rename(file.with_suffix(".gone"))
    try:
        assert len(epoch(made, Wait(0))) == IMAGES, "the files are gone, and nothing is missing"
        with pytest.raises(tf.errors.NotFoundError):
            epoch(dataset(files, "cache", cores=2, batch=50), Wait(0))
    finally:
        for file in files:
            file.with_suffix(".gone").rename(file)


def test_prefetch_works_while_the_consumer_waits(files):
    """When the consumer comes back for the second batch, it is there already: that is what prefetching is."""
    waits = {}
    for variant in ("sequential", "prefetch"):
        made = dataset(files, variant, cores=2, batch=50)
        epoch(made, Wait(0))
        batches = iter(made)
        next(batches)
        time.sleep(0.5)
        begun = time.perf_counter()
        next(batches)
        waits[variant] = time.perf_counter() - begun
    assert waits["prefetch"] < 0.5 * waits["sequential"]


# who waits for whom


@pytest.mark.parametrize(
    ("variant", "cores", "found_s", "predicted", "measured", "bound"),
    [
        ("sequential", 2, 24.0, 12 / 18, 18 / 24, "read + decode + augment + batch + train"),
        ("prefetch", 2, 15.0, 6 / 12, 9 / 15, "read + decode + augment + batch"),
        ("parallel map", 2, 12.0, 3 / 9, 6 / 12, "2 cores"),
        ("parallel map", 8, 8.0, 0.0, 2 / 8, "train"),
        ("cache", 2, 8.0, 0.0, 2 / 8, "train"),  # its first epoch would be bound by the cores: 9
    ],
)
def test_shares_of_waiting_by_hand(files, monkeypatch, variant, cores, found_s, predicted, measured, bound):
    found, asked, consumer = input_pipeline.Measured(variant, IMAGES, Timing((IMAGES * found_s,)), 1.0), [], Wait(0)

    def give(what):
        return lambda *args, **options: (asked.append((args, options)), what)[1]

    monkeypatch.setattr(input_pipeline, "stages", give(ALONE))
    monkeypatch.setattr(input_pipeline, "measure", give(found))
    got = starvation(iter(files), variant, consumer, cores=cores, batch=50, repeats=4)
    assert asked == [
        ((files, consumer), {"batch": 50, "repeats": 4}),
        ((files, variant, consumer), {"cores": cores, "batch": 50, "repeats": 4}),
    ]
    assert (got.predicted, got.measured) == (pytest.approx(predicted), pytest.approx(measured))
    assert got.bound == bound
    assert str(got) == f"waits {measured:.0%} of the time, predicted {predicted:.0%}; bound by {bound}"


def test_who_has_nothing_to_do_waits_and_who_is_slow_does_not(files):
    idle = starvation(files, "prefetch", Wait(0), cores=2, batch=50)
    assert idle.predicted > 0.8
    assert idle.measured > 0.8
    busy = starvation(files, "prefetch", Wait(0.1), cores=2, batch=50)
    assert busy.predicted < 0.1
    assert busy.measured < 0.5, "only the first of two batches is waited for"
    assert busy.bound == "train"


def test_who_waits_may_train(files):
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    assert isinstance(starvation(files, "prefetch", TrainingStep(model), cores=2, batch=50), Starvation)
    assert int(model.optimizer.iterations) > 0


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"batch": 0}, r"^starvation\(batch=0\): must be a whole number, at least 1$"),
        ({"batch": -1}, r"^starvation\(batch=-1\): must be"),
        ({"batch": 2.5}, r"^starvation\(batch=2.5\): must be"),
        ({"cores": 0}, r"^starvation\(cores=0\): must be"),
        ({"repeats": 0}, r"^starvation\(repeats=0\): must be"),
        ({"variant": "magic"}, "^input pipeline 'magic' is not one of sequential"),
        ({"files": []}, r"^starvation\(files=\[\]\): there is nothing to read; give at least one file"),
    ],
)
def test_what_can_t_be_starved_is_said_before_anything_is_measured(files, monkeypatch, asked, text):
    def never(*args, **options):
        pytest.fail("something was measured")

    for name in ("stages", "measure"):
        monkeypatch.setattr(input_pipeline, name, never)
    with pytest.raises(PipelineError, match=text):
        starvation(**{"files": files, "variant": "prefetch", "consumer": never, "cores": 2, "batch": 50} | asked)


def test_files_without_images_are_said(tmp_path):
    file = tmp_path / "empty.tfrecord"
    tf.io.TFRecordWriter(str(file)).close()
    with pytest.raises(PipelineError, match=r"^starvation\(batch=50\): the files' 0 images are no whole number of ba"):
        starvation([file], "prefetch", Wait(0), cores=2, batch=50)


def test_stages_take_files_that_come_once(files, monkeypatch):
    opened, true = [], tf.data.TFRecordDataset
    monkeypatch.setattr(tf.data, "TFRecordDataset", lambda names: (opened.append(list(names)), true(names))[1])
    assert tuple(stages((file for file in files), Wait(0), batch=50, repeats=3)) == STAGES
    assert opened == [[str(file) for file in files]] * 2, "once to keep the records, once to time the reading"


def test_a_training_step_trains(files):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    before = [w.copy() for w in model.get_weights()]
    epoch(dataset(files, "prefetch", cores=2, batch=50), TrainingStep(model))
    assert any((w != b).any() for w, b in zip(model.get_weights(), before, strict=True))
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda files: dataset(files, "magic", cores=1), "'magic' is not one of sequential, prefetch, parallel map"),
        (lambda files: predict("magic", ALONE, 1), "'magic' is not one of"),
        (lambda files: dataset(files, "cache", cores=0), r"dataset\(cores=0\): must be a whole number, at least 1"),
        (
            lambda files: starvation(files, "cache", Wait(0), cores=1),
            r"^starvation\(batch=64\): the files' 100 images are",
        ),
        (lambda files: dataset(files, "cache", cores=1, batch=2.5), r"dataset\(batch=2.5\)"),
        (lambda files: dataset([], "cache", cores=1), r"^dataset\(files=\[\]\): there is nothing to read; give at"),
        (lambda files: stages([], Wait(0)), r"^stages\(files=\[\]\): there is nothing to read"),
        (lambda files: stages(files, Wait(0), batch=0), r"^stages\(batch=0\): must be a whole number, at least 1$"),
        (lambda files: write_shards("nowhere", images=0), r"write_shards\(images=0\)"),
        (lambda files: write_shards("nowhere", images=2, shards=3), "at least one image a file, and at most 4,000"),
        (lambda files: write_shards("nowhere", images=4001), r"write_shards\(images=4001, shards=4\)"),
    ],
)
def test_what_can_t_be_asked(files, call, text):
    with pytest.raises(PipelineError, match=text):
        call(files)
