"""Quantization-aware training keeps the zeros; the plain kind does not, which is why this one is used. Two engines."""

import subprocess
import sys

import numpy as np
import pytest

from hwlimits import calibration, quantization
from hwlimits.quantization import QuantizationError
from hwlimits.training import evaluate, export, fit, mnist, quantize
from hwlimits.training.keras import keras, tfmot
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.models import article_cnn


def one_epoch(model, tiny):
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    images, labels = fit.epoch_images(tiny, 480, 0, 0, 0)
    model.fit(images, labels, batch_size=32, verbose=0)
    return export.to_int8(model)


def test_zeros_survive_and_without_the_scheme_they_grow_back(compressed, tiny):
    pruned = compressed[0]["pruned"]
    wanted = {"conv2": 0.8, "dense1": 0.9}
    evaluate.check_zeros(one_epoch(quantize.aware(pruned), tiny), wanted)
    plain = one_epoch(tfmot.quantization.keras.quantize_model(pruned), tiny)
    assert np.mean(LiteRTFile(plain).layers[1].weights == 0) < 0.5
    with pytest.raises(ValueError, match=r"conv2: \d.* % of the file's weights are zero, 80.0 % were asked for"):
        evaluate.check_zeros(plain, wanted)


def test_the_case_study_s_zeros_are_kept_and_in_the_file(compressed, tiny):
    wanted = {"conv2": 0.8, "dense1": 0.9}
    aware = quantize.aware(compressed[0]["pruned"], "own")
    before = {name: aware.get_layer(name).kernel.numpy() != 0 for name in wanted}
    aware.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    aware.fit(mnist.scale(tiny.x_train), tiny.y_train.astype(int), batch_size=32, verbose=0)
    for name, kept in before.items():
        assert not aware.get_layer(name).kernel.numpy()[~kept].any()
    content = export.to_int8(aware)
    evaluate.check_zeros(content, wanted)
    evaluate.check_int8(content)
    file = LiteRTFile(content)
    answers = aware.predict(mnist.scale(tiny.x_test), verbose=0).argmax(axis=1)
    assert np.mean(file.predict(tiny.x_test) != answers) <= 0.02


def test_without_the_mask_zeros_grow_back(tiny, compressed):
    aware = quantize.aware(compressed[0]["pruned"], "own", keep_zeros=False)
    aware.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    aware.fit(mnist.scale(tiny.x_train), tiny.y_train.astype(int), batch_size=32, verbose=0)
    assert np.mean(aware.get_layer("conv2").kernel.numpy() == 0) < 0.5


def test_few_bits_of_tfmot_are_as_many_codes(tiny):
    aware = quantize.aware(article_cnn(), "tfmot", bits=4, keep_zeros=False)
    aware.compile("sgd", "sparse_categorical_crossentropy")
    images = mnist.scale(tiny.x_train[:32])
    aware.fit(images, np.zeros(32), verbose=0)
    for variable in aware.weights:  # in so few steps tfmot's ranges have hardly left -6 to 6
        for name, value in (("post_activation_min", 0), ("activation_min", -0.3), ("activation_max", 0.3)):
            if name in variable.name:
                variable.assign(value)
                break
    kinds = {layer.name.removeprefix("quant_"): layer for layer in aware.layers}
    between = keras.Model(aware.input, [kinds[name].output for name in ("conv1", "conv2", "dense1", "dense2")])
    *found, answers = between(images, training=False)
    counts = [len(np.unique(value)) for value in found]
    assert max(counts) <= 16
    assert min(counts) > 4
    assert len(np.unique(answers)) > 16


def test_calibrated_ranges_are_those_of_the_calibration(tiny):
    keras.utils.set_random_seed(0)
    model, images = article_cnn(), mnist.scale(tiny.x_train[:300])
    first = keras.Model(model.input, model.get_layer("conv1").output).predict(images, verbose=0)
    logits = keras.Sequential([*model.layers[:-1], keras.layers.Dense(10)])
    logits.build(model.input_shape)
    logits.layers[-1].set_weights(model.layers[-1].get_weights())
    last = logits.predict(images, verbose=0)
    kernel = model.get_layer("conv2").kernel.numpy()
    widest = quantize.calibrated(model, images, 4)
    nearest = quantize.calibrated(model, images, 4, "mean_square_error")
    seen = widest.get_layer("conv1").output_range
    assert (float(seen.low), float(seen.high)) == pytest.approx(calibration.min_max(first), rel=1e-5)
    seen = widest.get_layer("dense2").output_range
    assert (float(seen.low), float(seen.high)) == pytest.approx(calibration.min_max(last), rel=1e-4)
    magnitude = widest.get_layer("conv2").weight_range.magnitude.numpy()
    assert magnitude == pytest.approx(np.abs(kernel).max(axis=(0, 1, 2)))
    histogram = calibration.Histogram()
    histogram.add(first)
    assert float(nearest.get_layer("conv1").output_range.high) == pytest.approx(
        calibration.mean_square_error(histogram, 4)[1], rel=1e-3
    )
    found = nearest.get_layer("conv2").weight_range.magnitude.numpy()
    for channel in range(0, 64, 9):
        weights = kernel[..., channel]
        error = lambda m, w=weights: np.sum((w - quantization.fake_quantize(w, quantization.symmetric(m, 4))) ** 2)  # noqa: E731
        assert error(found[channel]) <= min(error(magnitude[channel] * share) for share in (0.6, 0.75, 0.9, 1)) * 1.001


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"engine": "mine"}, "engine 'mine' is not known; choose 'tfmot' or 'own'"),
        ({"bits": 1}, r"aware\(bits=1\): the engines have codes of 2 to 8 bits, a whole number"),
        ({"bits": 2.5}, r"aware\(bits=2.5\): the engines have codes of 2 to 8 bits"),
        ({"bits": 16}, r"aware\(bits=16\): the engines have codes of 2 to 8 bits"),
        ({"bits": 4}, r"aware\(bits=4\): tfmot keeps zeros at 8 bits only; say keep_zeros=False, or engine='own'"),
    ],
)
def test_what_an_engine_does_not_have_is_refused(arguments, said):
    with pytest.raises(QuantizationError, match=said):
        quantize.aware(article_cnn(), **arguments)


def test_another_method_is_refused():
    with pytest.raises(QuantizationError, match=r"calibrated\(method='best'\): choose from min_max, mean_square_error"):
        quantize.calibrated(article_cnn(), np.zeros((1, 28, 28, 1)), method="best")


def test_tfmot_s_few_bits_are_for_layers_that_they_are_known_for():
    model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2DTranspose(2, 2, name="up")])
    with pytest.raises(QuantizationError, match="up is a Conv2DTranspose; tfmot quantizes it to 8 bits only"):
        quantize.aware(model, bits=4, keep_zeros=False)


def test_the_own_engine_s_whole_pipeline_loads_nothing_of_tfmot(tmp_path):
    """Pruned, held, quantized, exported, in a process where tfmot can't be loaded."""
    program = (
        "import sys; sys.modules['tensorflow_model_optimization'] = None\n"
        "from hwlimits.training import case_study\n"
        "from hwlimits.training.recipe import Phase, Recipe\n"
        "zeros = {'conv2': 0.8, 'dense1': 0.9}\n"
        "phases = [Phase(1, 2e-3, form, sparsity=zeros, share=0.1) for form in ('prune', 'hold')]\n"
        "phases = (*phases, Phase(1, 1e-3, 'quantize', share=0.1))\n"
        "recipe = Recipe('own', 32, 1, phases, {2: 'pruned', 3: 'quantized'}, engine='own')\n"
        f"training = case_study.Training(recipe, 0, 'mnist-5k', {str(tmp_path)!r})\n"
        "training.run()\n"
        "from hwlimits.training import evaluate\n"
        "content = (training.folder / 'quantized.tflite').read_bytes()\n"
        "evaluate.check_zeros(content, zeros); evaluate.check_int8(content)\n"
        "print([m for m in sys.modules if m.startswith('tensorflow_model_optimization.')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"
