"""The one door to TensorFlow and Keras.

tensorflow-model-optimization prunes and quantizes Keras 2 models only; since TensorFlow 2.16,
`tf.keras` is Keras 3, and its models are refused. So the course uses the package tf_keras, and
every module gets it here:

    from hwlimits.training.keras import keras, tf, tfmot
"""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # for packages that look at tf.keras
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from hwlimits.training.stderr import caught_stderr

with caught_stderr():  # a dozen lines on GPUs and libraries that it looked for; an error still gets out
    import tensorflow as tf
    import tf_keras as keras

    tf.config.list_physical_devices()  # the look for a GPU, which complains where there is none
tf.get_logger().setLevel("ERROR")

__all__ = ["deterministic", "keras", "keras3", "tf", "tfmot"]  # noqa: F822


def __getattr__(name: str):
    """Loaded when asked for, as each takes seconds: `tfmot`, tensorflow-model-optimization; `keras3`, on TensorFlow."""
    if name not in ("keras3", "tfmot"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    with caught_stderr():
        if name == "keras3":
            os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the reader's own keras.json says
            import keras as keras3

            return keras3
        import tensorflow_model_optimization as tfmot
    return tfmot


def deterministic(seed: int, threads: int = 1) -> None:
    """Make training repeatable bit for bit on one machine: seeds, operations, threads.

    A sum over two threads depends on who comes first. One thread a process costs little here,
    and two processes then use two cores. Call it before TensorFlow has run anything.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
