"""What is trained over replicas: the same batches however many there are, one after the other."""

import types

import numpy as np
import pytest

from hwlimits.training import distribute, mnist
from hwlimits.training.keras import tf
from hwlimits.training.placement import DistributeError, Hardware, Plan, Settings, choose


@pytest.fixture(scope="module")
def data():
    return mnist.load("mnist-5k")


def context(workers, index, replicas_each=1):
    """What tf.distribute tells the dataset function of worker number `index`."""
    replicas = workers * replicas_each
    return types.SimpleNamespace(
        num_input_pipelines=workers, input_pipeline_id=index,
        get_per_replica_batch_size=lambda batch: batch // replicas,
    )  # fmt: skip


def first_batches(data, settings, workers, replicas_each, count):
    """The first global batches, put together from what each replica of each worker gets."""
    dataset, _ = distribute.batches(data, settings, workers * replicas_each)
    parts = []
    for index in range(workers):
        taken = dataset(context(workers, index, replicas_each)).take(count * replicas_each)
        parts.append([(x.numpy(), y.numpy()) for x, y in taken])
    batches = []
    for step in range(count):
        mine = [part for each in parts for part in each[step * replicas_each : (step + 1) * replicas_each]]
        batches.append((np.concatenate([x for x, _ in mine]), np.concatenate([y for _, y in mine])))
    return batches


@pytest.mark.parametrize(("workers", "replicas_each"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_global_batches_do_not_depend_on_who_shares_them(data, workers, replicas_each):
    settings = Settings(batch=8, images=50, seed=3)
    alone = first_batches(data, settings, 1, 1, 7)
    shared = first_batches(data, settings, workers, replicas_each, 7)
    for (x, y), (other_x, other_y) in zip(alone, shared, strict=True):
        assert x.shape == (8, 28, 28, 1)
        assert np.array_equal(x, other_x)
        assert np.array_equal(y, other_y)


def test_an_epoch_has_each_image_once_and_each_epoch_another_order(data):
    settings = Settings(batch=5, images=50)
    dataset, steps = distribute.batches(data, settings, 1)
    assert steps == 10
    taken = [x.numpy() for x, _ in dataset(context(1, 0)).take(20)]
    for epoch in (taken[:10], taken[10:]):
        seen = sorted(image.tobytes() for batch in epoch for image in batch)
        assert seen == sorted(image.tobytes() for image in mnist.scale(data.x_train[:50]))
    assert not np.array_equal(taken[0], taken[10])


def test_batches_say_that_they_do_not_end(data):
    """Otherwise workers ask each other in every step whether there is one more."""
    dataset, _ = distribute.batches(data, Settings(batch=8, images=50), 2)
    assert dataset(context(2, 1)).cardinality() == tf.data.INFINITE_CARDINALITY


def test_seeds_have_orders_of_their_own(data):
    orders = [first_batches(data, Settings(batch=50, images=50, seed=seed), 1, 1, 1)[0][1] for seed in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_batches_that_can_not_be(data):
    with pytest.raises(DistributeError, match="^a batch of 64 is not to be divided among 3 replicas$"):
        distribute.batches(data, Settings(), 3)
    with pytest.raises(DistributeError, match="^a batch of 64 needs as many images; there are 63$"):
        distribute.batches(data, Settings(images=63), 1)


def test_what_is_there_is_looked_up():
    found = distribute.look({"TPU_NAME": "grpc://10.0.0.2:8470", "TF_CONFIG": ""})
    gpus = len(tf.config.list_physical_devices("GPU"))
    assert found == Hardware("grpc://10.0.0.2:8470", gpus)
    assert distribute.look({}) == Hardware(None, gpus)


def test_without_anything_the_strategy_is_that_of_one_replica():
    assert distribute.strategy(Plan("Strategy", "")).num_replicas_in_sync == 1


def test_a_training_that_was_cut_off_goes_on(data, tmp_path):
    class CutOff(RuntimeError):
        pass

    class Count(distribute.keras.callbacks.Callback):
        def __init__(self, last=None):
            super().__init__()
            self.steps, self.last = 0, last

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == self.last:
                raise CutOff

    settings = Settings(epochs=2, batch=50, images=500, save_steps=4)
    over = tf.distribute.get_strategy()
    with pytest.raises(CutOff):
        distribute.train(over, settings, data, tmp_path, [Count(14)])
    rest = Count()
    distribute.train(over, settings, data, tmp_path, [rest])
    assert rest.steps == 20 - 12  # the last checkpoint was after step 12


@pytest.mark.parametrize(("gpus", "expected"), [(0, "RING"), (2, "AUTO")])
def test_a_ring_between_processors_and_what_is_best_between_gpus(monkeypatch, gpus, expected):
    asked = []
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda **how: asked.append(how))
    hardware = Hardware(gpus=gpus, workers=("a:1", "b:1"))
    distribute.strategy(choose(hardware), hardware)
    assert asked[0]["communication_options"].implementation.value == expected


def test_an_all_reduce_is_timed_and_its_sum_looked_at(monkeypatch):
    alone = tf.distribute.get_strategy()
    found = distribute.all_reduce_times_s(alone, 1000, repeats=3)
    assert len(found) == 3, "those that warm up are not among them"
    assert all(0 < s < 10 for s in found)
    two = types.SimpleNamespace(
        run=alone.run, experimental_local_results=alone.experimental_local_results, num_replicas_in_sync=2
    )
    with pytest.raises(DistributeError, match=r"^an all-reduce of ones among 2 replicas gave \[1\. 1\. 1\.\]$"):
        distribute.all_reduce_times_s(two, 3)
