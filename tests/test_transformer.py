"""A decoder's counts by hand, by its arrays and from Keras; bounds beside published speeds; what can't be."""

import math
import re
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits import compute, data, devices, transformer
from hwlimits.counting import Cost, CountError
from hwlimits.devices import DeviceError
from hwlimits.roofline import Roofline
from hwlimits.transformer import (
    MODELS,
    Decoder,
    TransformerError,
    balance,
    forecast,
    most_sequences,
    on_devices,
)

LLAMA, GPT_2, MISTRAL = MODELS["llama-2-7b"], MODELS["gpt-2"], MODELS["mistral-7b"]
TINY = Decoder("tiny", vocabulary=50, width=8, layers=2, heads=2, inner=32, positions=64)
MACHINE = Roofline("made up", 1e12, {"memory": 1e11})

# --- parameters ---


def test_gpt_2_by_hand():
    """Radford et al. 2019, table 2: 117 M in print, 124 M in the checkpoint, whose arrays are these."""
    table, positions = 50_257 * 768, 1024 * 768
    attention = 768 * 2304 + 2304 + 768 * 768 + 768
    feed_forward = 768 * 3072 + 3072 + 3072 * 768 + 768
    assert GPT_2.parameters == table + positions + 12 * (attention + feed_forward + 4 * 768) + 2 * 768
    assert round(GPT_2.parameters / 1e6) == 124
    assert round(MODELS["distilgpt2"].parameters / 1e6) == 82, "as its README says"


def arrays_of_llama(vocabulary, width, layers, heads, key_heads, inner):
    """The arrays of a Llama's checkpoint by their names there."""
    head = width // heads
    layer = {
        "q_proj": (heads * head, width), "k_proj": (key_heads * head, width), "v_proj": (key_heads * head, width),
        "o_proj": (width, heads * head), "gate_proj": (inner, width), "up_proj": (inner, width),
        "down_proj": (width, inner), "input_layernorm": (width,), "post_attention_layernorm": (width,),
    }  # fmt: skip
    around = {"embed_tokens": (vocabulary, width), "norm": (width,), "lm_head": (vocabulary, width)}
    return around | {f"{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}


@pytest.mark.parametrize(
    ("name", "dimensions", "published_billions"),
    [
        ("llama-2-7b", (32_000, 4096, 32, 32, 32, 11_008), 6.74),
        ("llama-2-70b", (32_000, 8192, 80, 64, 8, 28_672), 68.98),
        ("mistral-7b", (32_000, 4096, 32, 32, 8, 14_336), 7.24),
        ("llama-3.1-8b", (128_256, 4096, 32, 32, 8, 14_336), 8.03),
    ],
)
def test_llamas_array_by_array(name, dimensions, published_billions):
    arrays = arrays_of_llama(*dimensions)
    model, total = MODELS[name], sum(map(math.prod, arrays.values()))
    assert model.parameters == total
    assert round(total / 1e9, 2) == published_billions
    assert model.read_parameters == total - math.prod(arrays["embed_tokens"])
    assert sum(model.parts.values()) == total
    assert model.weights_bytes(2) == 2 * total
    # what multiplies a token: all but the table and the norms, each once
    matrices = [s for n, s in arrays.items() if len(s) == 2 and n != "embed_tokens"]
    assert model.step(1, 0).macs == sum(map(math.prod, matrices)) + 2 * dimensions[2] * dimensions[1]


def test_the_cache_by_hand():
    """Half a MiB a token of Llama-2-7B in fp16: two numbers for each of 32 layers x 32 heads x 128."""
    assert LLAMA.cache_bytes(1) == 2 * 32 * 32 * 128 * 2 == 2**19
    assert LLAMA.cache_bytes(4096) == 2**31
    assert MISTRAL.cache_bytes(1) == 2**17
    assert GPT_2.cache_bytes(1024, sequences=3, number_bytes=4) == 3 * 1024 * 2 * 12 * 768 * 4
    assert LLAMA.cache_bytes(0) == 0
    assert LLAMA.cache_bytes(10, number_bytes=0.5) == 10 * 2**17


# --- arithmetic ---


@pytest.mark.parametrize("tokens", [1, 5, 16])
def test_prefill_is_what_counting_the_keras_model_gives(tokens):
    """The other count goes through Keras' layers; that model has no biases, and gelu with the error function."""
    from hwlimits.training import cost, zoo

    total = cost.cost(zoo.build("gpt-2-124m", sequence_length=tokens)).total
    model = replace(GPT_2, bias=False, activation="gelu")
    step = model.step(tokens, scored=tokens)
    assert model.parameters == total.parameters
    assert step.macs == total.macs
    assert step.other_flops == total.other_flops


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(0, 20), st.integers(1, 9))
def test_steps_add_up(new, past, sequences):
    """One token after the other multiplies as often as all at once, less the half of the scores that a mask hides."""
    together = TINY.step(new, past, scored=new)
    singly = sum((TINY.step(1, past + i) for i in range(new)), Cost())
    hidden = TINY.layers * 2 * TINY.heads * TINY.head_width * (new * (new - 1) // 2)
    assert singly.macs + hidden == together.macs
    assert singly.bytes_read >= together.bytes_read, "weights are read again by each step"
    seen = TINY.step(new, past, scored=new, causal=True)
    assert (seen.macs, seen.other_flops) == (singly.macs, singly.other_flops), "and with causal=True exactly as often"
    assert seen.bytes == together.bytes
    several = TINY.step(new, past, sequences)
    assert several.macs == sequences * TINY.step(new, past).macs
    assert several.bytes <= sequences * TINY.step(new, past).bytes


def test_rotation_and_gate_are_counted():
    gated = replace(TINY, positions=0, gated=True, bias=False, rms=True, activation="silu")
    plain = replace(gated, gated=False)
    per_layer_macs = 8 * 32
    assert gated.step(1).macs - plain.step(1).macs == 2 * per_layer_macs
    assert gated.step(1).other_flops - plain.step(1).other_flops == 2 * 32, "one product for each inner element"
    learned = replace(plain, positions=64)
    assert plain.step(1).other_flops - learned.step(1).other_flops == 2 * 3 * (8 + 8) - 8


def test_bytes_of_a_step_array_by_array():
    """Decode of two texts with five tokens each, by adding up what must be touched."""
    model = replace(TINY, tied=False)
    everything = model.parameters - 50 * 8 - 64 * 8  # but the tables
    rows = 2 * 8 + 8  # each text's embedding, one position
    cost = model.step(1, past=5, sequences=2, weight_bytes=1, number_bytes=2)
    assert cost.bytes_read == (everything + rows) * 1 + 2 * 5 * (2 * 2 * 8) * 2
    assert cost.bytes_written == 2 * 1 * (2 * 2 * 8) * 2 + 2 * 50 * 2
    tied = TINY.step(1, past=5, sequences=2, weight_bytes=1, number_bytes=2)
    assert tied.bytes_read == TINY.parameters - 64 * 8 + 8 + 2 * 5 * 32 * 2, "the table is read once, rows and all"
    assert TINY.step(4, scored=0).macs == TINY.step(4, scored=1).macs - 50 * 8


def test_without_scores_the_table_of_the_output_is_not_read():
    sizes = {"weight_bytes": 1, "number_bytes": 2}
    for model in (TINY, replace(TINY, tied=False)):
        blind = model.step(3, past=5, sequences=2, scored=0, **sizes)
        everything = model.parameters - 50 * 8 * (1 if model.tied else 2) - 64 * 8
        assert blind.bytes_read == everything + (2 * 3 + 3) * 8 + 2 * 5 * (2 * 2 * 8) * 2
        assert blind.bytes_written == 2 * 3 * (2 * 2 * 8) * 2


@pytest.mark.parametrize("tied", [True, False])
def test_no_more_rows_than_the_table_has_are_read(tied):
    """60 tokens of a vocabulary of 50: the whole table at most, which the scores of a tied one read anyway."""
    model = replace(TINY, tied=tied)
    blind, seen = (model.step(60, scored=scored, weight_bytes=1) for scored in (0, 1))
    assert seen.bytes_read == model.parameters - 4 * 8
    assert seen.bytes_read - blind.bytes_read == (0 if tied else 50 * 8)


# --- time ---


def test_a_forecast_by_hand():
    """1 TFLOP/s and 100 GB/s: the times are FLOPs and bytes over these, whichever is longer."""
    made = forecast(LLAMA, MACHINE, prompt=512, generated=102, sequences=1)
    middle = LLAMA.step(1, 562)  # the first of 102 tokens comes from the prefill: 101 steps, behind 512 to 612 tokens
    assert made.step_s == pytest.approx(middle.bytes / 1e11)
    assert made.step_bound == "memory"
    assert made.prefill_s == pytest.approx(LLAMA.step(512, causal=True).flops / 1e12)
    assert made.prefill_bound == "compute"
    assert made.total_s == pytest.approx(made.prefill_s + sum(LLAMA.step(1, 512 + i).bytes / 1e11 for i in range(101)))
    assert made.tokens_per_s == pytest.approx(1 / made.step_s)
    assert made.needed_bytes == 2 * LLAMA.parameters + 613 * 2**19, "nobody reads the last token's keys and values"


@pytest.mark.parametrize("prompt", [1, 7, 40])
@pytest.mark.parametrize("generated", [1, 2, 3, 10, 25])
def test_a_forecast_bounds_the_tokens_written_one_by_one(prompt, generated):
    """Token by token from the empty cache each score that a mask leaves is computed once: no prefill can do less."""
    machine, sizes = Roofline("slow", 1e9, {"memory": 1e12}), {"weight_bytes": 1e-9, "number_bytes": 1e-9}
    made = forecast(TINY, machine, prompt=prompt, generated=generated, **sizes)  # next to no bytes: FLOPs alone
    singly = sum((TINY.step(1, i, scored=int(i == prompt - 1), **sizes) for i in range(prompt)), Cost())
    assert made.prefill_s == pytest.approx(machine.time_s(singly))
    steps_s = [machine.time_s(TINY.step(1, prompt + i, **sizes)) for i in range(generated - 1)]
    half_a_token = 0.5 * (machine.time_s(TINY.step(1, 21, **sizes)) - machine.time_s(TINY.step(1, 20, **sizes)))
    assert made.total_s - made.prefill_s == pytest.approx(sum(steps_s), abs=(generated - 1) * half_a_token * 1.001)


def test_a_text_of_one_token_takes_no_step():
    made = forecast(TINY, MACHINE, prompt=64, generated=1)
    assert made.total_s == made.prefill_s
    assert made.needed_bytes == TINY.weights_bytes() + TINY.cache_bytes(64)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 64), st.sampled_from([0.5, 1, 2, 4]), st.sampled_from(sorted(MODELS)))
def test_smaller_weights_are_never_slower_and_more_texts_never_less(sequences, weight_bytes, name):
    def made(n, size):
        return forecast(MODELS[name], MACHINE, prompt=64, generated=32, sequences=n, weight_bytes=size)

    here = made(sequences, weight_bytes)
    assert made(sequences, weight_bytes / 2).step_s <= here.step_s
    assert made(sequences + 1, weight_bytes).tokens_per_s >= here.tokens_per_s * (1 - 1e-12)
    assert made(sequences + 1, weight_bytes).step_s >= here.step_s


@pytest.mark.parametrize("past", [0, 16, 60])
def test_balance_is_where_the_bound_changes(past):
    machine = Roofline("wide", 1e12, {"memory": 5e10})
    found = balance(TINY, machine, past)
    if found == math.inf:
        assert machine.bound(TINY.step(1, past, sequences=10**6)) == "memory"
    else:
        assert machine.bound(TINY.step(1, past, sequences=math.floor(found))) == "memory"
        assert machine.bound(TINY.step(1, past, sequences=math.ceil(found) + 1)) == "compute"


def test_long_texts_never_balance():
    h100 = Roofline.of_device(devices.device("h100-sxm"), "bf16")
    assert 290 < balance(LLAMA, h100, 0) < 310, "FLOPs a byte of its ridge point: 295, and a little for the rest"
    assert balance(LLAMA, h100, 1024) == math.inf
    assert balance(MODELS["llama-2-70b"], h100, 1024) < math.inf, "ten times the FLOPs, and five eighths of the cache"


def test_most_sequences_fit_and_one_more_does_not():
    for tokens in (1, 100, 4096):
        n = most_sequences(LLAMA, 80e9, tokens)
        assert LLAMA.weights_bytes() + LLAMA.cache_bytes(tokens, n) <= 80e9
        assert LLAMA.weights_bytes() + LLAMA.cache_bytes(tokens, n + 1) > 80e9
    assert most_sequences(LLAMA, 8e9, 100) == 0


def test_rows_of_devices():
    rows = on_devices(LLAMA, ["h100-sxm", "t4", "apple-m1", "rp2040"], prompt=512, generated=128)
    by_name = {row["device"]: row for row in rows}
    h100 = devices.device("h100-sxm")
    assert by_name["h100-sxm"]["precision"] == "bf16"
    assert by_name["h100-sxm"]["step_s"] == pytest.approx(LLAMA.step(1, 575).bytes / h100.memory_bytes_per_s)
    assert by_name["t4"]["precision"] == "fp16", "it has no bf16"
    assert by_name["t4"]["fits"], "13.5 GB and 0.3 of cache in 16"
    assert not on_devices(LLAMA, ["t4"], prompt=3000, generated=3000)[0]["fits"]
    assert "apple-m1 has no published peak for 'bf16'" in by_name["apple-m1"]["why"]
    assert "tokens_per_s" not in by_name["apple-m1"]
    (named,) = on_devices(LLAMA, ["apple-m1"], precisions=("fp32",), prompt=512, generated=128, weight_bytes=0.625)
    assert named["step_bound"] == "memory"
    assert not named["why"]
    with pytest.raises(DeviceError, match="No device 'h1000'"):
        on_devices(LLAMA, ["h1000"], prompt=1, generated=1)


def test_a_device_without_a_capacity_has_its_forecast():
    """How fast this processor is is published; how much memory it takes no page says that was read."""
    (row,) = on_devices(LLAMA, ["epyc-7742"], precisions=("fp32",), prompt=9, generated=9)
    assert row["fits"] is None
    assert row["precision"] == "fp32"
    assert row["why"].startswith("epyc-7742 has no 'memory.capacity'")
    machine = Roofline.of_device(devices.device("epyc-7742"), "fp32")
    assert row["tokens_per_s"] == forecast(LLAMA, machine, prompt=9, generated=9).tokens_per_s


def test_a_device_without_a_bandwidth_says_so():
    (row,) = on_devices(GPT_2, ["rp2040"], precisions=("int16",), prompt=1, generated=1)
    assert "rp2040 has no 'memory.bandwidth'" in row["why"]


# --- published ---


def test_no_published_speed_beats_its_bound():
    rows = data.papers("decoding_rates")
    assert len(rows) >= 5
    for row in rows:
        machine = Roofline.of_device(devices.device(row["device"]), "bf16")
        made = forecast(
            MODELS[row["network"]], machine, prompt=row["prompt"], generated=row["generated"],
            weight_bytes=row["weight_bytes"],
        )  # fmt: skip
        assert made.step_bound == "memory"
        assert 0.25 < row["tokens_per_s"] / made.tokens_per_s < 1, row
        assert isinstance(row["read"], date)
        assert re.search(r"github|arXiv", row["source"])


# --- what can't be ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: replace(TINY, width=0), "Decoder 'tiny'(width=0): must be a whole number, at least 1"),
        (lambda: replace(TINY, layers=2.0), "Decoder 'tiny'(layers=2.0): must be a whole number"),
        (lambda: replace(TINY, positions=-1), "Decoder 'tiny'(positions=-1): must be a whole number, at least 0"),
        (lambda: Decoder("odd", 10, 10, 1, 3, 4), "3 heads don't divide a width of 10; give head_width"),
        (lambda: replace(TINY, key_heads=3), "2 heads can't share 3 key heads evenly"),
        (lambda: TINY.step(0), "step(new=0): must be a whole number, at least 1"),
        (lambda: TINY.step(True), "step(new=True): must be a whole number, at least 1"),
        (lambda: TINY.step(1, past=-1), "step(past=-1): must be a whole number, at least 0"),
        (lambda: TINY.step(5, past=60), "tiny has 64 positions, so it can't take 65 tokens"),
        (lambda: TINY.step(2, scored=3), "step(new=2, scored=3): no more can be scored than is new"),
        (lambda: TINY.step(1, weight_bytes=0), "step(weight_bytes=0): bytes of a number are above 0"),
        (lambda: TINY.step(1, number_bytes=math.inf), "step(number_bytes=inf): bytes of a number are above 0"),
        (lambda: TINY.weights_bytes("fp16"), "weights_bytes(weight_bytes='fp16'): bytes of a number"),
        (lambda: TINY.cache_bytes(1.5), "cache_bytes(tokens=1.5): must be a whole number, at least 0"),
        (lambda: forecast(TINY, MACHINE, prompt=0, generated=1), "forecast(prompt=0): must be a whole number"),
        (lambda: most_sequences(TINY, 1e6, 0), "a text without tokens takes no memory; give at least 1"),
        (
            lambda: forecast(GPT_2, MACHINE, prompt=1000, generated=40),
            "forecast(prompt=1000, generated=40): gpt-2 has 1,024 positions, so it can't take 1,039 tokens",
        ),
        (lambda: TINY.cache_bytes(65), "cache_bytes(tokens=65): tiny has 64 positions, so it can't take 65 tokens"),
        (lambda: most_sequences(TINY, 1e6, 65), "most_sequences(tokens=65): tiny has 64 positions, so"),
        (lambda: most_sequences(TINY, math.nan, 9), "most_sequences(memory_bytes=nan): must be a number, at least 0"),
        (lambda: most_sequences(TINY, math.inf, 9), "most_sequences(memory_bytes=inf): must be a number, at least 0"),
        (lambda: most_sequences(TINY, "80", 9), "most_sequences(memory_bytes='80'): must be a number, at least 0"),
        (lambda: most_sequences(TINY, -1, 9), "most_sequences(memory_bytes=-1): must be a number, at least 0"),
        (lambda: most_sequences(TINY, True, 9), "most_sequences(memory_bytes=True): must be a number, at least 0"),
        (lambda: most_sequences(TINY, 1e6, 1.5), "most_sequences(tokens=1.5): must be a whole number"),
        (
            lambda: on_devices(TINY, ["t4"], precisions="fp16", prompt=1, generated=1),
            "on_devices(precisions='fp16'): give names in a list, such as ['fp16']",
        ),
        (
            lambda: on_devices(TINY, ["t4"], precisions=(), prompt=1, generated=1),
            "on_devices(precisions=()): give names in a list, at least one",
        ),
        (
            lambda: on_devices(TINY, "t4", prompt=1, generated=1),
            "on_devices(names='t4'): give names in a list, such as",
        ),
        (lambda: replace(TINY, gated=2), "Decoder 'tiny'(gated=2): must be True or False"),
        (lambda: replace(TINY, bias="no"), "Decoder 'tiny'(bias='no'): must be True or False"),
        (lambda: replace(TINY, rms=1), "Decoder 'tiny'(rms=1): must be True or False"),
        (lambda: replace(TINY, tied=None), "Decoder 'tiny'(tied=None): must be True or False"),
    ],
)
def test_what_can_not_be(call, message):
    with pytest.raises(TransformerError, match=re.escape(message)):
        call()


def test_generators_of_names_and_precisions_are_taken():
    rows = on_devices(LLAMA, iter(["t4", "l4"]), precisions=iter(["fp16"]), prompt=1, generated=1)
    assert [row["precision"] for row in rows] == ["fp16", "fp16"]
    assert on_devices(LLAMA, [], prompt=1, generated=1) == []


def test_an_unknown_activation_is_refused_when_the_decoder_is_made():
    with pytest.raises(CountError, match="activation 'swiglu' has no count"):
        replace(TINY, activation="swiglu")


def test_every_public_name_is_here():
    assert transformer.MODELS is MODELS
    assert all(name == model.name for name, model in MODELS.items())


# --- counted again, without the library's own formulas of layers ---


def by_hand(model, new, past, scored=1):
    """(parameters, MACs, other FLOPs) of a step, operation by operation.

    Other FLOPs of an element: a bias 1; activations and softmax what `counting` says of one; a norm 8 with factor and
    summand, 7 without a summand, 4 by the root mean square, and 3 a row more.
    """
    w, h, k, d, f, b = model.width, model.heads, model.key_heads, model.head_width, model.inner, model.bias
    flops = compute.ACTIVATION_FLOPS
    norms = w * (1 if model.rms or not b else 2)
    norm_flops = new * ((4 if model.rms else 8 if b else 7) * w + 3)
    matrices = [(w, h * d), (w, k * d), (w, k * d), (h * d, w), (w, f), (f, w)] + [(w, f)] * model.gated
    parameters = model.layers * (sum((i + b) * o for i, o in matrices) + 2 * norms) + norms
    parameters += model.vocabulary * w * (1 if model.tied else 2) + model.positions * w
    scores = h * new * (past + new)
    macs = model.layers * (sum(new * i * o for i, o in matrices) + 2 * scores * d) + scored * model.vocabulary * w
    layer = 2 * norm_flops + sum(new * o * b for _, o in matrices) + new * f * flops[model.activation]
    layer += new * h * d + scores * flops["softmax"] + 2 * new * w  # the scale, the shares, two sums with the stream
    layer += new * f if model.gated else 0
    if not model.positions:  # a rotation turns pairs: x cos - y sin and x sin + y cos, three operations a number
        layer += 3 * new * (h * d + k * d)
    return parameters, macs, model.layers * layer + norm_flops + (new * w if model.positions else 0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"head_width": 5},
        {"head_width": 3, "key_heads": 1},
        {"bias": False},
        {"bias": False, "rms": True, "positions": 0, "gated": True, "activation": "silu", "tied": False},
        {"rms": True, "positions": 0, "key_heads": 1, "head_width": 6, "inner": 20, "tied": False},
        {"gated": True, "inner": 12, "key_heads": 1},
    ],
)
@pytest.mark.parametrize(("new", "past", "scored"), [(1, 0, 1), (1, 7, 1), (5, 3, 2)])
def test_a_step_of_any_kind_operation_by_operation(change, new, past, scored):
    model = replace(TINY, **{"head_width": None, "key_heads": None} | change)
    step = model.step(new, past, scored=scored)
    assert (step.parameters, step.macs, step.other_flops) == by_hand(model, new, past, scored)


def test_the_last_position_can_be_used():
    assert TINY.step(4, past=60).macs > 0
    assert TINY.step(64).macs > 0
    assert forecast(TINY, MACHINE, prompt=60, generated=5).needed_bytes > 0, "the 65th token is written, not read"
    with pytest.raises(TransformerError, match="it can't take 65 tokens"):
        forecast(TINY, MACHINE, prompt=60, generated=6)
    assert most_sequences(TINY, 1e9, 64) > 0


def test_a_forecast_of_several_texts_in_small_numbers_by_hand():
    sizes = {"weight_bytes": 0.5, "number_bytes": 1}
    made = forecast(LLAMA, MACHINE, prompt=32, generated=11, sequences=3, **sizes)
    prefill, middle = LLAMA.step(32, 0, 3, causal=True, **sizes), LLAMA.step(1, 36, 3, **sizes)
    assert made.prefill_s == pytest.approx(max(prefill.flops / 1e12, prefill.bytes / 1e11))
    assert prefill.flops == 3 * LLAMA.step(32, causal=True).flops
    assert made.step_s == pytest.approx(max(middle.flops / 1e12, middle.bytes / 1e11))
    assert made.needed_bytes == math.ceil(LLAMA.parameters / 2) + 3 * 42 * 2 * 32 * 4096
    assert made.tokens_per_s == pytest.approx(3 / made.step_s)
    assert (made.machine, made.sequences) == ("made up", 3)


def test_most_sequences_in_small_numbers():
    """Four bits a weight and a byte a number: half a MiB becomes a quarter of one, for each token."""
    left = 8e9 - LLAMA.parameters / 2
    assert most_sequences(LLAMA, 8e9, 1000, weight_bytes=0.5, number_bytes=1) == int(left // (1000 * 2**18))
    assert most_sequences(LLAMA, 8e9, 1000, weight_bytes=0.5) == int(left // (1000 * 2**19))
