"""The one door to TensorFlow and Keras.

tensorflow-model-optimization prunes and quantizes Keras 2 models only; since TensorFlow 2.16,
`tf.keras` is Keras 3, and its models are refused. So the course uses the package tf_keras, and
every module gets it here:

    from hwlimits.training.keras import keras, tf, tfmot
"""

import importlib
import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # for packages that look at tf.keras
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from hwlimits.training.stderr import caught_stderr

with caught_stderr():  # a dozen lines on GPUs and libraries that it looked for; an error still gets out
    import tensorflow as tf
    import tf_keras as keras

    tf.config.list_physical_devices()  # the look for a GPU, which complains where there is none
tf.get_logger().setLevel("ERROR")

# Loaded when asked for, as each takes seconds: tfmot, Keras 3 (on TensorFlow), the format of a profile, and what
# keeps the graphs that TensorFlow has optimized.
_LATER = {
    "tfmot": "tensorflow_model_optimization",
    "keras3": "keras",
    "xplane": "tensorflow.tsl.profiler.protobuf.xplane_pb2",
    "eager": "tensorflow.python.eager.context",
}
__all__ = ["deterministic", "keras", "tf", "use_threads", *_LATER]


def __getattr__(name: str):
    """One of the modules that are loaded later."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # for Keras 3, whatever the reader's own keras.json says
    with caught_stderr():
        return importlib.import_module(_LATER[name])


def use_threads(threads: int) -> None:
    """Let TensorFlow use that many threads, and run one operation at a time if it is one.

    Call it before TensorFlow has run anything; it raises RuntimeError after that.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def deterministic(seed: int, threads: int = 1) -> None:
    """Make training repeatable bit for bit on one machine: seeds, operations, threads.

    A sum over two threads depends on who comes first. One thread a process costs little here,
    and two processes then use two cores. Call it before TensorFlow has run anything.
    """
    use_threads(threads)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
