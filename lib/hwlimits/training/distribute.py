"""Data-parallel training on what is there: a TPU, several workers, several GPUs, one GPU, or the processor.

    plan = choose(look())
    print(plan)                  # which strategy, and why
    train(strategy(plan), Settings(epochs=3), mnist.load(), folder)

The engine is tf.distribute: it copies the model to each replica, gives each an equal part of every batch, and sums
the gradients by an all-reduce before a step is made. Several workers are processes, on one computer or on many, that
find each other by TF_CONFIG; `hwlimits.training.workers` starts them here and starts them again when one dies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hwlimits.training.keras import keras, tf
from hwlimits.training.mnist import ImageSet, scale
from hwlimits.training.placement import DistributeError, Hardware, Plan, Settings, cluster

WARM_CALLS = 5  # a graph is made, connections are opened


def look(environment: Mapping[str, str] = os.environ) -> Hardware:
    """What this process can train on: TF_CONFIG, TPU_NAME and the GPUs that TensorFlow finds.

    Raises DistributeError for a TF_CONFIG that is no cluster of workers.
    """
    workers, index = cluster(environment.get("TF_CONFIG", ""))
    gpus = len(tf.config.list_physical_devices("GPU"))
    return Hardware(environment.get("TPU_NAME") or None, gpus, workers, index)


def strategy(plan: Plan, hardware: Hardware | None = None) -> tf.distribute.Strategy:
    """The strategy of a plan, ready to be trained with. For several workers it waits until all are there.

    Call it before TensorFlow has run anything. Raises what TensorFlow raises where the devices are not as planned.
    """
    if plan.name == "MultiWorkerMirroredStrategy":
        # On processors RING: chapter 03 counts its bytes. With GPUs TensorFlow chooses, and takes NCCL where it is.
        among = tf.distribute.experimental.CommunicationImplementation
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=among.AUTO if (hardware or look()).gpus else among.RING
        )
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    if plan.name == "TPUStrategy":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver((hardware or look()).tpu)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    if plan.name == "MirroredStrategy":
        return tf.distribute.MirroredStrategy()
    if plan.name == "OneDeviceStrategy":
        return tf.distribute.OneDeviceStrategy("/gpu:0")
    return tf.distribute.get_strategy()


def batches(data: ImageSet, settings: Settings, replicas: int):
    """(dataset function, steps of an epoch): the same global batches whatever the number of replicas.

    Every worker draws the same order, and takes its own part of each batch: with n workers the first of them has the
    first n-th. What is left of an epoch behind its last whole batch is not seen in that epoch.
    Raises DistributeError if the replicas do not divide the batch, or there are fewer images than a batch has.
    """
    count = len(data.x_train) if settings.images is None else min(settings.images, len(data.x_train))
    if settings.batch % replicas:
        raise DistributeError(f"a batch of {settings.batch} is not to be divided among {replicas} replicas")
    if count < settings.batch:
        raise DistributeError(f"a batch of {settings.batch} needs as many images; there are {count}")
    images, labels = scale(data.x_train[:count]), data.y_train[:count].astype(np.int32)

    def dataset(context):
        size = settings.batch // context.num_input_pipelines
        first = context.input_pipeline_id * size
        order = tf.data.Dataset.range(count).shuffle(count, seed=settings.seed).repeat()
        mine = order.batch(settings.batch, drop_remainder=True).map(lambda i: i[first : first + size])
        x, y = tf.constant(images), tf.constant(labels)
        parts = mine.map(lambda i: (tf.gather(x, i), tf.gather(y, i)))
        ours = parts.rebatch(context.get_per_replica_batch_size(settings.batch))
        # rebatch forgets that it does not end, and then workers ask each other in every step whether all have data
        return ours.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)).prefetch(2)

    return dataset, count // settings.batch


def train(
    over: tf.distribute.Strategy,
    settings: Settings,
    data: ImageSet,
    folder: Path | None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Train the case study's network over the replicas of a strategy.

    A training that was cut off goes on from its last checkpoint if it is started again with the same `folder`; without
    one it starts anew. Raises DistributeError as `batches` does.
    """
    from hwlimits.training.models import article_cnn

    keras.utils.set_random_seed(settings.seed)
    dataset, steps = batches(data, settings, over.num_replicas_in_sync)
    with over.scope():
        model = article_cnn()
        model.compile(keras.optimizers.Adam(settings.learning_rate), "sparse_categorical_crossentropy")
    if folder is not None:
        restore = keras.callbacks.BackupAndRestore(str(folder / "backup"), save_freq=settings.save_steps)
        callbacks = [restore, *callbacks]
    model.fit(
        over.distribute_datasets_from_function(dataset),
        epochs=settings.epochs, steps_per_epoch=steps, verbose=0, callbacks=list(callbacks),
    )  # fmt: skip
    return model


def all_reduce_times_s(over: tf.distribute.Strategy, elements: int, repeats: int = 30) -> list[float]:
    """Seconds of one all-reduce after the other, of `elements` float32, as this process sees them.

    It is what TensorFlow needs for what chapter 03 predicts from the link. All workers must call it alike.

    Raises DistributeError if a sum is not that of all replicas.

    >>> len(all_reduce_times_s(tf.distribute.get_strategy(), elements=10, repeats=3))
    3
    """

    @tf.function(autograph=False)
    def reduce(x):
        def one(x):
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, x * 1.0)  # on a device

        return over.run(one, args=(x,))

    ours, times = tf.ones(elements), []
    for _ in range(WARM_CALLS + repeats):
        begun = time.perf_counter()
        found = over.experimental_local_results(reduce(ours))[0].numpy()
        times.append(time.perf_counter() - begun)
        if not (found == over.num_replicas_in_sync).all():
            raise DistributeError(f"an all-reduce of ones among {over.num_replicas_in_sync} replicas gave {found[:3]}")
    return times[WARM_CALLS:]
