"""Small models and data that several tests share; TensorFlow is loaded only where one is asked for."""

import os

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")  # kernels for a GPU run in the simulator, with a GPU and without

import numpy as np
import pytest

from hwlimits.training import mnist as mnist_data
from hwlimits.training.mnist import ImageSet


@pytest.fixture(scope="session")
def tiny():
    """480 training and 100 test images of the sample."""
    sample = mnist_data.load("mnist-5k")
    train, test = np.arange(0, 4000, 4000 // 480)[:480], np.arange(0, 1000, 10)
    parts = sample.x_train[train], sample.y_train[train], sample.x_test[test], sample.y_test[test]
    return ImageSet(*parts, "tiny")


@pytest.fixture(scope="session")
def int8_files():
    """The int8 files of the tests by name: those of the case study, and seven small networks."""
    from int8_networks import SHAPES, STORED, int8

    from hwlimits import data
    from hwlimits.training.keras import keras
    from hwlimits.training.litert import LiteRTFile

    found = {}
    for name, build in SHAPES.items():
        keras.utils.set_random_seed(0)  # the same networks in every run
        found[name] = int8(build())
    return found | {name: LiteRTFile.read(data.path(name)) for name in STORED}


@pytest.fixture(scope="session")
def compressed(tiny, tmp_path_factory):
    """A pipeline run in small: (stage to Keras model, stage to LiteRT file)."""
    from hwlimits.training import export, fit
    from hwlimits.training.keras import keras, tf
    from hwlimits.training.litert import LiteRTFile
    from hwlimits.training.models import article_cnn
    from hwlimits.training.recipe import Phase, Recipe

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    sparsity = {"conv2": 0.8, "dense1": 0.9}
    phases = (
        Phase(2, 2e-3),
        Phase(2, 2e-3, "prune", sparsity=sparsity),
        Phase(1, 1e-3, "hold", sparsity=sparsity),
        Phase(1, 3e-4, "quantize"),
    )
    recipe = Recipe("pipeline", 32, 1, phases, {2: "dense", 5: "pruned", 6: "quantized"})
    models, files = {}, {}

    def at_stage(stage, model):
        models[stage] = model
        files[stage] = LiteRTFile((export.to_int8 if stage == "quantized" else export.to_float32)(model))

    fit.run(article_cnn(), recipe, tiny, 0, tmp_path_factory.mktemp("fit"), at_stage)
    return models, files
