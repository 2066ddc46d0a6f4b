"""Input pipelines of tf.data over real files: what each stage takes alone, and what they do together.

with tempfile.TemporaryDirectory() as folder:
    files = write_shards(folder)                      # MNIST as PNGs of a camera's size, in TFRecord files
    train = TrainingStep(article_cnn())
    alone = stages(files, train)                      # seconds an image: read, decode, augment, batch, train
    expected = predict("prefetch", alone, cores=2)    # a hwlimits.bandwidth.Pipeline, with what bounds it
    found = measure(files, "prefetch", train, cores=2)

The variants do the same to the same images, and each image is delivered once; they differ in what
happens at the same time. tf.data's own optimisations are off: they would add a prefetch, or change
the number of threads while we look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwlimits import progress
from hwlimits.bandwidth import Pipeline, Section, Stage
from hwlimits.machine import timing
from hwlimits.training import mnist
from hwlimits.training.keras import keras, tf

SIDE = 28
STAGES = ("read", "decode", "augment", "batch", "train")
VARIANTS = ("sequential", "prefetch", "parallel map", "interleave", "cache")
SHIFT = 2  # pixels, at most, by which an augmented image is moved

_FEATURES = {
    "id": tf.io.FixedLenFeature((), tf.int64),
    "label": tf.io.FixedLenFeature((), tf.int64),
    "image": tf.io.FixedLenFeature((), tf.string),
}


class PipelineError(ValueError):
    """A pipeline that can't be built as asked, or that lost or repeated an image; the text says which."""


def _check_counts(asked: str, **counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PipelineError(f"{asked}({name}={value!r}): must be a whole number, at least 1")


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        raise PipelineError(f"input pipeline {variant!r} is not one of {', '.join(VARIANTS)}")


def _names(asked: str, files: Iterable[Path]) -> list[str]:
    """The files' names, as TensorFlow takes them; `files` may be a generator, which gives them once."""
    names = [str(file) for file in files]
    if not names:
        raise PipelineError(f"{asked}(files=[]): there is nothing to read; give at least one file of `write_shards`")
    return names


def write_shards(folder: str | Path, *, images: int = 512, shards: int = 4, enlarge: int = 16) -> list[Path]:
    """Write images of MNIST's sample as PNG into TFRecord files, and return these.

    Each pixel is repeated `enlarge` x `enlarge` times: a camera's images are larger than what a
    network takes, and most of the work is to decode them. Image number i goes to file i mod `shards`.

    Raises PipelineError for numbers that are not whole and above 0, and for more images than there are.
    """
    _check_counts("write_shards", images=images, shards=shards, enlarge=enlarge)
    sample = mnist.load("mnist-5k")
    if not shards <= images <= len(sample.x_train):
        raise PipelineError(
            f"write_shards(images={images}, shards={shards}): give at least one image a file, and at most "
            f"{len(sample.x_train):,} in all"
        )
    files = [Path(folder) / f"images-{k:02}-of-{shards:02}.tfrecord" for k in range(shards)]
    for k, file in enumerate(files):
        with tf.io.TFRecordWriter(str(file)) as writer:
            for i in range(k, images, shards):
                large = np.kron(sample.x_train[i], np.ones((enlarge, enlarge), np.uint8))
                writer.write(_record(i, int(sample.y_train[i]), tf.io.encode_png(large[..., None]).numpy()))
    return files


def _record(number: int, label: int, png: bytes) -> bytes:
    def whole(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
    features = {"id": whole(number), "label": whole(label), "image": image}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def decode(record):
    """A record to (id, image float32 (28, 28, 1) in [0, 1], label): unpack the PNG, average to the network's size."""
    found = tf.io.parse_single_example(record, _FEATURES)
    large = tf.cast(tf.io.decode_png(found["image"], channels=1), tf.float32)
    return found["id"], tf.image.resize(large, (SIDE, SIDE), method="area") / 255, found["label"]


def augment(number, image, label):
    """The image moved by up to SHIFT pixels each way and a little brighter or darker, depending on its id alone."""
    seed = tf.stack([number, 0])
    wide = tf.pad(image, [[SHIFT, SHIFT], [SHIFT, SHIFT], [0, 0]])
    moved = tf.image.stateless_random_crop(wide, (SIDE, SIDE, 1), seed)
    return number, tf.clip_by_value(tf.image.stateless_random_brightness(moved, 0.1, seed), 0, 1), label


class TrainingStep:
    """A consumer: one step of training on each batch. The model is compiled if it is not yet."""

    def __init__(self, model: keras.Model):
        if not getattr(model, "optimizer", None):
            model.compile("adam", "sparse_categorical_crossentropy")
        self.model = model

    def __call__(self, images, labels) -> None:
        self.model.train_on_batch(images, labels)


class Wait:
    """A consumer that waits for so many seconds a batch and computes nothing: how the host sees an accelerator.

    It is no accelerator: nothing is learned. It leaves the cores to the other stages.
    """

    def __init__(self, batch_s: float):
        self.batch_s = batch_s

    def __call__(self, images, labels) -> None:
        time.sleep(self.batch_s)


def dataset(files: Iterable[Path], variant: str, *, cores: int, batch: int = 64) -> tf.data.Dataset:
    """One epoch of batches (ids, images, labels), in an order that does not change.

    sequential    one after the other, when the consumer asks
    prefetch      the batches are made by another thread while the consumer works
    parallel map  moreover, `cores` images are decoded and augmented at a time
    interleave    `cores` files are read and decoded at a time; one thread augments
    cache         decoded in parallel and kept in memory; later epochs only augment, in one thread

    Raises PipelineError for another variant, for no files, or for `cores` or `batch` below 1.
    """
    names = _names("dataset", files)
    _check_variant(variant)
    _check_counts("dataset", cores=cores, batch=batch)
    if variant == "interleave":
        found = tf.data.Dataset.from_tensor_slices(names).interleave(
            lambda name: tf.data.TFRecordDataset(name).map(decode),
            cycle_length=cores, num_parallel_calls=cores, deterministic=True,
        ).map(augment)  # fmt: skip
    else:
        found = tf.data.TFRecordDataset(names)
        if variant == "parallel map":
            found = found.map(lambda record: augment(*decode(record)), num_parallel_calls=cores, deterministic=True)
        elif variant == "cache":
            found = found.map(decode, num_parallel_calls=cores, deterministic=True).cache().map(augment)
        else:
            found = found.map(decode).map(augment)
    found = found.batch(batch)
    return _plain(found if variant == "sequential" else found.prefetch(2), cores)


def _plain(found: tf.data.Dataset, cores: int) -> tf.data.Dataset:
    """With nothing done behind our back, and `cores` threads to run what was asked for."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.threading.private_threadpool_size = cores
    options.threading.max_intra_op_parallelism = 1
    return found.with_options(options)


def predict(variant: str, alone: Mapping[str, Stage], cores: int) -> Pipeline:
    """The variant as sections that work at the same time; for "cache" that of the first epoch.

    alone   what `stages` measured. The pipeline of later epochs is `.cached("decode")` of this one.
    """
    _check_variant(variant)
    read, unpack, change, collect, train = (alone[name] for name in STAGES)
    sections = {
        "sequential": [Section([read, unpack, change, collect, train])],
        "prefetch": [Section([read, unpack, change, collect]), Section([train])],
        "parallel map": [Section([read]), Section([unpack, change], cores), Section([collect]), Section([train])],
        "interleave": [Section([read, unpack], cores), Section([change, collect]), Section([train])],
        "cache": [Section([read]), Section([unpack], cores), Section([change, collect]), Section([train])],
    }
    return Pipeline(sections[variant], cores)


def stages(files: Iterable[Path], consumer: Callable, *, batch: int = 64, repeats: int = 5) -> dict[str, Stage]:
    """Seconds, and seconds of processor time, that each stage alone takes for an image; medians of `repeats`.

    A stage is run between memory and batches; what that takes without the stage is taken away. One
    thread does it; the training step uses as many as TensorFlow has.

    Raises PipelineError for no files, or for `batch` or `repeats` below 1.
    """
    names = _names("stages", files)
    _check_counts("stages", batch=batch, repeats=repeats)
    records = list(tf.data.TFRecordDataset(names).as_numpy_iterator())
    decoded = _columns(tf.data.Dataset.from_tensor_slices(records).map(decode))
    memory = {
        "records": tf.data.Dataset.from_tensor_slices(records),
        "images": tf.data.Dataset.from_tensor_slices(decoded),
    }

    def drained(made: tf.data.Dataset) -> tuple[float, float]:
        made = _plain(made.batch(batch), 1)
        return _alone(lambda: [None for _ in made], len(records), repeats)

    wanted = memory | {
        "read": tf.data.TFRecordDataset(names),
        "decode": memory["records"].map(decode),
        "augment": memory["images"].map(augment),
    }
    took = progress.each(wanted, lambda name: drained(wanted[name]), desc="stages", unit="stage")
    times = {
        "read": (took["read"], took["records"]),
        "decode": (took["decode"], took["images"]),
        "augment": (took["augment"], took["images"]),
        "batch": (took["images"], (0.0, 0.0)),
    }
    found = {
        name: Stage(name, *(max(0.0, with_it - without) for with_it, without in zip(*pair, strict=True)))
        for name, pair in times.items()
    }
    _, images, labels = (column[:batch] for column in decoded)
    images, labels = tf.constant(images), tf.constant(labels)
    item_s, cpu_s = _alone(lambda: consumer(images, labels), len(images), repeats)
    return found | {"train": Stage("train", item_s, cpu_s)}


def _columns(made: tf.data.Dataset) -> tuple[np.ndarray, ...]:
    """All elements of a dataset of tuples, as one array for each place of the tuple."""
    return tuple(np.stack(column) for column in zip(*made.as_numpy_iterator(), strict=True))


def _alone(call: Callable, items: int, repeats: int) -> tuple[float, float]:
    """Median seconds of a call, and processor seconds of all threads, divided by its items."""
    took, cpu_s = _timed(call, repeats)
    return took.median_s / items, cpu_s / items


def _timed(call: Callable, repeats: int, tick: Callable[[], object] = lambda: None) -> tuple[timing.Timing, float]:
    """The call's times, and the median of the processor seconds of all threads meanwhile.

    `tick` hears of each call, within its time: what a bar takes is far below a thousandth of an epoch.
    """
    cpu = []

    def counted() -> None:
        begun = time.process_time()
        call()
        cpu.append(time.process_time() - begun)
        tick()

    return timing.measure(counted, repeats=repeats, min_sample_s=0.02), float(np.median(cpu))


@dataclass(frozen=True)
class Measured:
    """Epochs of a variant. `item_s` is the median epoch over its images; `first` is the first epoch's, with "cache".

    cpu_item_s   processor seconds of an image in such an epoch, of all threads of this process
    """

    variant: str
    images: int
    epoch: timing.Timing
    cpu_item_s: float
    first: timing.Timing | None = None

    @property
    def item_s(self) -> float:
        return self.epoch.median_s / self.images

    @property
    def first_item_s(self) -> float:
        """Of the first epoch; any other variant's epochs are all alike."""
        return (self.first or self.epoch).median_s / self.images


def measure(
    files: Iterable[Path], variant: str, consumer: Callable, *, cores: int, batch: int = 64, repeats: int = 3
) -> Measured:
    """Time epochs of a variant with its consumer, each epoch delivering every image once.

    Raises PipelineError if one is missing or comes twice.
    """
    files, first = list(files), None
    made = dataset(files, variant, cores=cores, batch=batch)
    with progress.bar(desc=variant, unit="epoch") as bar:  # how many in all, `timing.measure` finds as it goes
        images = len(epoch(made, consumer))
        bar.update()
        if variant == "cache":
            fresh = [dataset(files, variant, cores=cores, batch=batch) for _ in range(max(3, repeats))]
            samples = []
            for each in fresh:
                begun = time.perf_counter()
                epoch(each, consumer)
                samples.append(time.perf_counter() - begun)
                bar.update()
            first = timing.Timing(tuple(samples))
        took, cpu_s = _timed(lambda: epoch(made, consumer), repeats, bar.update)
    return Measured(variant, images, took, cpu_s / images, first)


def epoch(made: tf.data.Dataset, consumer: Callable) -> np.ndarray:
    """Give every batch to the consumer; returns the ids (n,) in the order in which they came.

    Raises PipelineError unless they are 0 to n - 1, each once.
    """
    came = []
    for ids, images, labels in made:
        consumer(images, labels)
        came.append(ids.numpy())
    ids = np.concatenate(came) if came else np.empty(0, np.int64)
    times = np.bincount(ids, minlength=len(ids))
    if (times != 1).any():
        odd = int(np.argmax(times != 1))
        raise PipelineError(f"image {odd} was delivered {times[odd]} times in one epoch, and each should be once")
    return ids


@dataclass(frozen=True)
class Starvation:
    """The share of the time in which a consumer waits for its input: predicted from the stages alone, and measured.

    bound   what the predicted pipeline is as slow as
    """

    predicted: float
    measured: float
    bound: str

    def __str__(self) -> str:
        return f"waits {self.measured:.0%} of the time, predicted {self.predicted:.0%}; bound by {self.bound}"


def starvation(
    files: Iterable[Path], variant: str, consumer: Callable, *, cores: int, batch: int = 64, repeats: int = 3
) -> Starvation:
    """How much of the time the consumer waits: 1 - its step alone / what the pipeline takes for a batch.

    consumer   a TrainingStep of a model on the accelerator, or Wait(step_s) for one that was measured elsewhere

    With "cache" it is that of later epochs. Raises PipelineError as `measure` does, before anything is measured where
    it can be told then, and unless the images are a whole number of batches: a step on fewer takes another time.
    """
    files = list(files)
    names = _names("starvation", files)
    _check_variant(variant)
    _check_counts("starvation", cores=cores, batch=batch, repeats=repeats)
    images = sum(1 for _ in tf.data.TFRecordDataset(names))
    if not images or images % batch:
        raise PipelineError(
            f"starvation(batch={batch}): the files' {images} images are no whole number of batches; take a batch that "
            "divides them"
        )
    alone = stages(files, consumer, batch=batch, repeats=repeats)
    expected = predict(variant, alone, cores)
    if variant == "cache":
        expected = expected.cached("decode")
    found = measure(files, variant, consumer, cores=cores, batch=batch, repeats=repeats)
    step_s = alone["train"].item_s
    return Starvation(1 - step_s / expected.item_s, 1 - step_s / found.item_s, expected.bound)
