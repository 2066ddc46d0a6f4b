"""What is read from a file, against the Keras model it came from and hand-derived counts."""

import math
import zipfile
from collections import Counter

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from hwlimits.training import evaluate, export, litert
from hwlimits.training.keras import keras
from hwlimits.training.litert import LiteRTError, LiteRTFile, run_micro, to_input


@pytest.mark.parametrize("stage", ["dense", "pruned", "quantized"])
def test_the_layers_with_weights_in_order(compressed, stage):
    assert [layer.op for layer in compressed[1][stage].layers] == ["CONV_2D"] * 2 + ["FULLY_CONNECTED"] * 2


@pytest.mark.parametrize("stage", ["dense", "pruned"])
def test_parameters_are_those_of_the_keras_model(compressed, stage):
    model, file = compressed[0][stage], compressed[1][stage]
    assert file.parameter_count == model.count_params() == 121_930
    assert file.nonzero_parameters == sum(np.count_nonzero(w) for w in model.get_weights())
    for layer, name in zip(file.layers, ("conv1", "conv2", "dense1", "dense2"), strict=True):
        kernel = model.get_layer(name).kernel.numpy()
        assert np.array_equal(np.moveaxis(kernel, -1, 0), layer.weights)


def test_the_zeros_of_pruning_are_in_the_int8_file(compressed):
    conv1, conv2, dense1, dense2 = (np.mean(layer.weights == 0) for layer in compressed[1]["quantized"].layers)
    assert conv2 >= 0.8
    assert dense1 >= 0.9
    assert conv1 < 0.2
    assert dense2 < 0.2


def test_int8_is_in_every_heavy_tensor_and_only_there(compressed):
    assert compressed[1]["quantized"].int8_weights
    assert not compressed[1]["pruned"].int8_weights
    evaluate.check_int8(compressed[1]["quantized"].content)
    with pytest.raises(ValueError, match=r"CONV_2D .* has float32 weights, int8 was asked for"):
        evaluate.check_int8(compressed[1]["pruned"].content)


def test_the_deflated_size_is_the_one_a_zip_file_has(compressed, tmp_path):
    file = compressed[1]["quantized"]
    (tmp_path / "model.tflite").write_bytes(file.content)
    with zipfile.ZipFile(tmp_path / "model.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(tmp_path / "model.tflite")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        (member,) = archive.infolist()
    assert file.raw_bytes == (tmp_path / "model.tflite").stat().st_size
    assert file.deflated_bytes == member.compress_size + 6  # zlib's own header and checksum


def test_the_bytes_of_a_file_by_part_add_up(compressed):
    for stage in ("dense", "pruned", "quantized"):
        file = compressed[1][stage]
        found = file.bytes_by_part
        size = 1 if stage == "quantized" else 4
        assert found["weights"] == size * sum(layer.weights.size for layer in file.layers) == size * 121_760
        assert found["biases"] == 4 * 170
        assert sum(found.values()) == file.raw_bytes
        told = [d["quantization_parameters"] for d in file.interpreter(reference=True).get_tensor_details()]
        assert found["scales"] == sum(4 * len(q["scales"]) + 8 * len(q["zero_points"]) for q in told)
        assert 0 < found["description"] < 6_000


def test_weights_of_two_bytes_count_as_the_file_has_them(compressed):
    model, biases = compressed[0]["pruned"], 2 * 170
    found = LiteRTFile(export.after_training(model, "float16")).bytes_by_part
    assert (found["weights"], found["biases"]) == (2 * 121_760, biases)


def test_a_buffer_that_two_layers_share_is_counted_once(compressed):
    model = keras.models.clone_model(compressed[0]["pruned"])
    for name in ("conv2", "dense1"):  # both have 64 outputs, and the converter keeps equal constants once
        model.get_layer(name).bias.assign(np.arange(64.0))
    assert LiteRTFile(export.to_float32(model)).bytes_by_part["biases"] == 4 * (32 + 64), (
        "dense2's, all zero, is left out"
    )


def test_entropy_is_shannon_s_sum(compressed):
    file = compressed[1]["quantized"]
    bits = 0.0
    for values in file.parameters:
        counts = Counter(values.ravel().tolist())
        bits += -sum(n * math.log2(n / values.size) for n in counts.values())
    assert file.entropy_bytes == pytest.approx(bits / 8)
    assert file.entropy_bytes < file.deflated_bytes, "deflate does not beat the limit on weights like these"


def test_the_float_file_computes_what_keras_computes(compressed, tiny):
    expected = compressed[0]["pruned"].predict(tiny.x_test[..., None].astype(np.float32) / 255, verbose=0)
    assert compressed[1]["pruned"].outputs(tiny.x_test) == pytest.approx(expected, abs=1e-5)


def test_the_int8_file_answers_as_its_keras_model_but_for_rounding(compressed, tiny):
    keras_answers = compressed[0]["quantized"].predict(tiny.x_test[..., None].astype(np.float32) / 255, verbose=0)
    share = np.mean(compressed[1]["quantized"].predict(tiny.x_test) != keras_answers.argmax(axis=1))
    assert share <= 0.02


def test_another_model_is_not_taken_for_the_exported_one(compressed, tiny):
    other = compressed[1]["dense"].predict(tiny.x_test)
    with pytest.raises(ValueError, match="Was the right model exported"):
        evaluate.check_export((other + 1) % 10, other)


def test_batches_do_not_change_the_answers(compressed, tiny):
    file = compressed[1]["quantized"]
    assert np.array_equal(file.outputs(tiny.x_test, batch=7), file.outputs(tiny.x_test))


@pytest.mark.parametrize("stage", ["dense", "quantized"])
def test_what_is_timed_computes_the_whole_batch(compressed, tiny, stage):
    file = compressed[1][stage]
    run = file.runner(tiny.x_test[:16])
    run()
    interpreter = run.__self__
    computed = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert computed.shape == (16, 10)
    assert np.array_equal(computed, file.outputs(tiny.x_test[:16]))


def test_input_is_quantized_by_the_file_s_own_scale():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    details = {"dtype": np.int8, "quantization": (1 / 255, -128)}
    assert np.array_equal(to_input(images, details).ravel(), np.arange(-128, 128))
    assert to_input(images, {"dtype": np.float32}).max() == 1.0


def test_the_microcontroller_runtime_computes_what_the_reference_kernels_compute(compressed, tiny):
    """Tensor by tensor: convolutions and pooling alike to the bit; a dense layer may round a tie the other way."""
    runtime = litert.micro_runtime()
    if runtime is None:
        pytest.skip("tflite-micro is not installed here")
    file = compressed[1]["quantized"]
    keep_all = runtime.InterpreterConfig.kPreserveAllTensors
    micro = runtime.Interpreter.from_bytes(file.content, intrepreter_config=keep_all)
    plain = Interpreter(
        model_content=file.content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    plain.allocate_tensors()
    details = plain.get_input_details()[0]
    largest = dict.fromkeys(("Conv2D", "MaxPool", "MatMul"), 0)
    seen = set()
    for image in to_input(tiny.x_test[:40], details):
        micro.set_input(image[None], 0)
        micro.invoke()
        plain.set_tensor(details["index"], image[None])
        plain.invoke()
        for tensor in plain.get_tensor_details():
            kind = next((k for k in largest if k in tensor["name"]), None)
            if kind and tensor["dtype"] == np.int8 and tensor["shape"][0] == 1:
                theirs = micro.GetTensor(tensor["index"], 0)["tensor_data"].astype(int)
                off = np.abs(theirs - plain.get_tensor(tensor["index"]))
                largest[kind] = max(largest[kind], off.max())
                seen.add(tensor["index"])
    assert len(seen) == 6
    assert largest["Conv2D"] == largest["MaxPool"] == 0
    assert largest["MatMul"] <= 1


def test_the_arena_holds_the_largest_activations(compressed, tiny):
    if litert.micro_runtime() is None:
        pytest.skip("tflite-micro is not installed here")
    file = compressed[1]["quantized"]
    run = run_micro(file, tiny.x_test)
    same = run.outputs.argmax(axis=1) == file.outputs(tiny.x_test, reference=True).argmax(axis=1)
    assert np.mean(same) >= 0.98
    # conv1's output and its pooled copy are alive at once, one byte each; the rest is the runtime's own
    assert 26 * 26 * 32 + 13 * 13 * 32 <= run.arena_bytes < 40_000


def test_without_the_microcontroller_runtime_the_stage_says_so(compressed, tiny, monkeypatch):
    monkeypatch.setattr(litert, "micro_runtime", lambda: None)
    monkeypatch.setattr(evaluate, "micro_runtime", lambda: None)
    with pytest.raises(LiteRTError, match="tflite-micro is not installed"):
        run_micro(compressed[1]["quantized"], tiny.x_test)
    said = evaluate.micro_record(compressed[1]["quantized"].content, tiny)["micro"]
    assert said.startswith("not run: tflite-micro")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\0" * 100])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(LiteRTError, match=f"not a LiteRT file: its {len(content):,} bytes"):
        LiteRTFile(content)
