"""The decoder in JAX: against NumPy's, against one without a cache; its bytes against XLA's own count; its checks."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hwlimits import data
from hwlimits.counting import Cost
from hwlimits.decoder import RunningDecoder
from hwlimits.machine.timing import Timing
from hwlimits.roofline import Roofline
from hwlimits.transformer import MODELS, Decoder, TransformerError
from hwlimits.xla import decoder, decoding, engine, programs
from hwlimits.xla.precisions import XlaError

SMALL = Decoder("small", vocabulary=61, width=24, layers=2, heads=4, inner=40, bias=False, positions=20)
LLAMA = Decoder("llama", vocabulary=61, width=24, layers=2, heads=4, inner=40, key_heads=2, head_width=8, gated=True,
                activation="silu", rms=True, bias=False, tied=False)  # fmt: skip
SHORT = {"repeats": 3, "min_sample_s": 1e-4}


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="JAX is not installed: pip install 'hwlimits[accelerators]'")


@pytest.fixture
def tokens():
    return np.random.default_rng(1).integers(0, 61, (2, 9), dtype=np.int32)


def lively(model):
    """Weights large enough that each part matters, and norms that are not 1."""
    random = np.random.default_rng(5)
    return {
        name: random.normal(1 if "norm" in name else 0, 0.3, shape).astype(np.float32)
        for name, shape in decoder.shapes(model).items()
    }


def scores(model, weights, tokens, parts, capacity, precision="float32"):
    """Scores after the last of `parts`, each so many tokens long and a step of its own."""
    cache, past = decoder.empty_cache(model, len(tokens), capacity, precision), 0
    made = {new: decoder.program(model, weights, new, capacity, len(tokens)) for new in set(parts)}
    for new in parts:
        cache, found, best = made[new].call(weights, cache, tokens[:, past : past + new], np.int32(past))
        past += new
    assert np.array_equal(np.asarray(best), np.asarray(found).argmax(-1)[:, None])
    return np.asarray(found.astype("float32"))


def without_cache(model, weights, tokens):
    """Llama's kind in float64, text by text and position by position: rotation as a product of complex numbers."""
    w = {name: array.astype(float) for name, array in weights.items()}
    half, group = model.head_width // 2, model.heads // model.key_heads

    def norm(x, name):
        return x / np.sqrt((x**2).mean() + 1e-5) * w[name]

    def turned(x, position):
        turns = np.exp(1j * position / 10_000 ** (2 * np.arange(half) / model.head_width))
        pairs = (x[..., :half] + 1j * x[..., half:]) * turns
        return np.concatenate([pairs.real, pairs.imag], -1)

    def one(text):
        stream = w["table"][text]
        for i in range(model.layers):
            split = [model.heads, model.heads + model.key_heads]
            qkv = [np.split((norm(x, f"{i}.norm1") @ w[f"{i}.qkv"]).reshape(-1, model.head_width), split)
                   for x in stream]  # fmt: skip
            for t, (query, _, _) in enumerate(qkv):
                mixed = []
                for head in range(model.heads):
                    q, at = turned(query[head], t), head // group
                    like = np.exp([q @ turned(qkv[s][1][at], s) / np.sqrt(model.head_width) for s in range(t + 1)])
                    mixed.append(sum(a * qkv[s][2][at] for s, a in enumerate(like / like.sum())))
                stream[t] += np.concatenate(mixed) @ w[f"{i}.out"]
            for t, x in enumerate(stream):
                x = norm(x, f"{i}.norm2")
                gate = x @ w[f"{i}.gate"]
                stream[t] += (gate / (1 + np.exp(-gate)) * (x @ w[f"{i}.up"])) @ w[f"{i}.down"]
        return norm(stream[-1], "norm") @ w["head"].T

    return np.array([one(text) for text in tokens])


def test_importing_it_loads_no_jax():
    program = "import sys, hwlimits.xla.decoding; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_without_jax_the_error_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(SystemExit) as ended:
        decoding.main(["--out", "nowhere"])
    assert ended.value.code == 2
    assert "hwlimits.xla needs JAX, and it is not installed here: pip install" in capsys.readouterr().err


@pytest.mark.parametrize("model", [*decoding.RUNS.values(), SMALL, LLAMA, MODELS["mistral-7b"]], ids=lambda m: m.name)
def test_its_arrays_have_the_counted_parameters(model):
    assert sum(int(np.prod(shape)) for shape in decoder.shapes(model).values()) == model.parameters


def test_names_and_shapes_are_numpys():
    assert {name: a.shape for name, a in RunningDecoder(SMALL).weights.items()} == decoder.shapes(SMALL)


def test_what_does_not_run_is_refused():
    with pytest.raises(TransformerError, match=r"^shapes\('small'\): it has biases; what runs here has none"):
        decoder.shapes(replace(SMALL, bias=True))
    with pytest.raises(TransformerError, match=r"^shapes\('small'\): it has relu; .* one of gelu_tanh, silu$"):
        decoder.shapes(replace(SMALL, activation="relu"))


@pytest.mark.parametrize(("parts", "capacity"), [((9,), 9), ((1,) * 9, 20), ((4, 5), 12), ((8, 1), 9)], ids=str)
def test_it_says_what_numpys_says_at_once_and_step_by_step(jax, tokens, parts, capacity):
    other = RunningDecoder(SMALL, sequences=2)
    other.weights = lively(SMALL)
    want = other.step(tokens)
    np.testing.assert_allclose(scores(SMALL, lively(SMALL), tokens, parts, capacity), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parts", [(9,), (1,) * 9, (4, 5)], ids=str)
def test_llamas_kind_says_what_it_says_without_a_cache(jax, tokens, parts):
    want = without_cache(LLAMA, lively(LLAMA), tokens)
    np.testing.assert_allclose(scores(LLAMA, lively(LLAMA), tokens, parts, 12), want, rtol=1e-3, atol=1e-3)


def test_bfloat16_says_nearly_the_same(jax, tokens):
    weights = {name: jax.numpy.asarray(a, "bfloat16") for name, a in lively(SMALL).items()}
    rounded = {name: np.asarray(a.astype("float32")) for name, a in weights.items()}
    want = scores(SMALL, rounded, tokens, (8, 1), 9)
    got = scores(SMALL, weights, tokens, (8, 1), 9, "bfloat16")
    assert 2.0**-12 < np.abs(got - want).max() / np.abs(want).max() < 2.0**-4


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"new": 0}, r"program\(new=0\): must be a whole number, at least 1"),
        ({"sequences": 1.5}, r"program\(sequences=1.5\): must be a whole number"),
        ({"new": 10}, r"program\(new=10, capacity=9\): small has a cache of 9 tokens, too few for it"),
        ({"capacity": 21}, r"program\(new=9, capacity=21\): small has 20 positions, too few for it"),
    ],
)
def test_programs_that_can_t_be(jax, given, text):
    with pytest.raises(TransformerError, match=text):
        decoder.program(SMALL, lively(SMALL), **({"new": 9, "capacity": 9} | given))


# --- its bytes ----------------------------------------------------------------------------------

WIDE = Decoder("wide", 1000, 256, 2, 4, 1024, bias=False, positions=1024)
BYTES = {"weight_bytes": 4, "number_bytes": 4}


@pytest.fixture(scope="module")
def wide_programs():
    pytest.importorskip("jax", reason="JAX is not installed: pip install 'hwlimits[accelerators]'")
    if engine.device()["platform"] != "cpu":
        pytest.skip("programs of another device than the CPU: other kernels, other bytes between them")
    weights = decoder.random_weights(WIDE)
    return {past: decoder.program(WIDE, weights, 1, past + 1) for past in (127, 511, 1023)}


@pytest.mark.parametrize("past", [127, 511, 1023])
def test_a_decode_steps_bytes_and_flops_are_those_of_xlas_analysis(wide_programs, past):
    counted, made = WIDE.step(1, past, **BYTES), wide_programs[past]
    assert counted.bytes < made.moved_bytes < 1.05 * counted.bytes, "5 %: activations between kernels"
    assert made.xla_flops == pytest.approx(counted.flops, rel=0.02)
    assert made.temp_bytes < WIDE.cache_bytes(past, number_bytes=4) / 4, "no copy of the cache"


def test_xla_sees_the_cache_grow_by_its_bytes(wide_programs):
    grown = wide_programs[1023].moved_bytes - wide_programs[127].moved_bytes
    assert 1 <= grown / WIDE.cache_bytes(1023 - 127, number_bytes=4) < 1.1, "10 %: scores and shares of each head"


def test_weights_are_on_the_device_in_their_type(jax):
    for precision, size in (("float32", 4), ("bfloat16", 2)):
        weights, found = decoding.placed_weights(LLAMA, precision).found
        assert {str(array.dtype) for array in weights.values()} == {precision}
        assert found["array_bytes"] == found["counted_bytes"] == size * LLAMA.parameters
        assert np.std(np.asarray(weights["0.up"].astype("float32"))) == pytest.approx(0.02, rel=0.1)
    with pytest.raises(XlaError, match="^no decoder in 'fp8' here: there are float32, bfloat16.$"):
        decoding.placed_weights(LLAMA, "fp8")


def test_weights_of_another_type_are_an_error(jax, monkeypatch):
    monkeypatch.setattr(decoding, "random_weights", lambda model, precision: decoder.random_weights(model, "float32"))
    with pytest.raises(XlaError, match="^llama: weights were to be bfloat16 on the device, and are not"):
        decoding.placed_weights(LLAMA, "bfloat16")


@pytest.mark.parametrize(("share", "wrong"), [(1.0, False), (0.94, True), (2.0, True)])
def test_weights_that_take_other_memory_than_theirs_are_an_error(jax, monkeypatch, share, wrong):
    in_use = iter([1000, 1000 + int(share * 4 * LLAMA.parameters)])
    monkeypatch.setattr(decoding, "_memory", lambda: {"bytes_in_use": next(in_use)})
    if wrong:
        with pytest.raises(XlaError, match="^llama: weights were to be float32 on the device, and are not"):
            decoding.placed_weights(LLAMA, "float32")
    else:
        assert decoding.placed_weights(LLAMA, "float32").found[1]["in_use_bytes"] > 0


CUBLAS = """
%fused (p: f32[4,8]) -> bf16[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %c = bf16[4,8]{1,0} convert(%p)
}
%called (q: bf16[4,8]) -> bf16[4,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  %r = bf16[4,8]{1,0} negate(%q)
  ROOT %s = bf16[4,8]{1,0} copy(%r)
}
ENTRY %main.4 (a: f32[4,8], b: bf16[8,3]) -> bf16[4,3] {
  %a = f32[4,8]{1,0} parameter(0), metadata={op_name="jit(f)/a(b)"}
  %b = bf16[8,3]{1,0} parameter(1)
  %fusion = bf16[4,8]{1,0} fusion(%a), kind=kLoop, calls=%fused
  %call = bf16[4,8]{1,0} call(%fusion), to_apply=%called
  %start = (bf16[4,8]{1,0}, bf16[4,8]{1,0}) copy-start(%call)
  %done = bf16[4,8]{1,0} copy-done(%start)
  %cublas-gemm.1 = (bf16[4,3]{1,0}, s8[4096]{0}) custom-call(%done, /*index=1*/%b), custom_call_target="__cublas$gemm"
  ROOT %get-tuple-element = bf16[4,3]{1,0} get-tuple-element(%cublas-gemm.1), index=0
}
"""


def test_kernels_of_a_programs_text_by_hand():
    assert programs.kernels(CUBLAS) == len(["fusion", "negate", "copy", "copy-start", "cublas-gemm"])
    assert programs.kernels("") == 0


def test_libraries_bytes_of_a_programs_text_by_hand():
    assert programs.library_bytes(CUBLAS) == 2 * (4 * 8 + 8 * 3 + 4 * 3)
    assert programs.library_bytes(CUBLAS.replace("custom-call", "dot")) == 0
    assert programs.library_bytes("%p = pred[]{} parameter(0)\n%c = u16[3]{0} custom-call(%p)") == 1 + 6


# --- what is measured ---------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_each_step_can_be_counted_and_no_two_are_the_same(platform, quick):
    found = decoding.points(platform, quick)
    assert len(set(found)) == len(found)
    assert {point.phase for point in found} == {"prefill", "decode"}
    for point in found:
        assert decoding.RUNS[point.model].step(point.new, point.past, point.sequences).bytes > 0
    if not quick and platform == "gpu":
        of = [point for point in found if point.model == "llama-2-7b"]
        assert {point.new for point in of if not point.past} == {128, 512, 2048}
        assert {point.sequences for point in of} == {1, 8, 64}


def test_predictions_by_hand():
    cost = Cost(macs=10**12, bytes_read=10**9)
    made = decoder.Program(None, 0.0, 3e9, 0.0, 50, (), 0)
    published, reached = Roofline("p", 4e12, {"memory": 1e12}), Roofline("r", 1e12, {"memory": 1e12})
    found = decoding.predictions(cost, made, published, reached, kernel_s=0.01, call_s=0.1)
    assert found["published"] == {"time_s": 0.5, "bound": "compute"}
    assert found["reached"] == {"time_s": 2.0, "bound": "compute"}
    assert (found["program"]["time_s"], found["program"]["bound"]) == (2.5, "compute")
    for kernel_s, call_s, want in ((0.05, 0.1, (4.5, "dispatch")), (0.01, 9.0, (9.0, "dispatch"))):
        found = decoding.predictions(cost, made, None, reached, kernel_s, call_s)
        assert found["published"] is None
        assert (found["program"]["time_s"], found["program"]["bound"]) == want
    found = decoding.predictions(cost, replace(made, moved_bytes=4e12), None, reached, 0.01, 0.0)
    assert (found["program"]["time_s"], found["program"]["bound"]) == (4.5, "memory")


def test_a_kernels_time_is_the_slope_of_two_chains(jax, monkeypatch):
    took = iter([Timing((1.0,) * 3), Timing((1.5,) * 3)])
    monkeypatch.setattr(decoding, "kernels", lambda text: next(counts))
    monkeypatch.setattr(decoding, "measure", lambda call, **_: (call(), next(took))[1])
    counts = iter([3, 13])
    assert decoding.kernel_time((2, 4)).found["kernel_s"] == pytest.approx(0.05)
    counts = iter([3, 3])
    took = iter([Timing((1.0,) * 3), Timing((1.5,) * 3)])
    with pytest.raises(XlaError, match="^XLA made 3 kernels of 4 products and 3 of 2.$"):
        decoding.kernel_time((2, 4))
    counts, took = iter([3, 13]), iter([Timing((1.5,) * 3), Timing((1.5,) * 3)])
    with pytest.raises(XlaError, match="^4 products took no longer than 2: the device did not hold still.$"):
        decoding.kernel_time((2, 4))


def test_a_wrong_chain_is_not_timed(jax, monkeypatch):
    monkeypatch.setattr(decoding, "CHAIN_FACTOR", np.float32(0.9))
    right = jax.numpy.matmul
    monkeypatch.setattr(jax.numpy, "matmul", lambda *a, **k: right(*a, **k) * 1.01)
    with pytest.raises(XlaError, match="^a chain of 2 products gave a wrong result.$"):
        decoding.kernel_time((2, 4), **SHORT)


def a_step(point, fault=None, precision="float32"):
    """A step of the tiny model whose program has a fault."""
    model = decoding.RUNS[point.model]
    weights = decoder.random_weights(model, precision)
    made = decoder.program(model, weights, point.new, point.past + point.new, point.sequences)
    call = made.call if fault is None else lambda *given: fault(made.call, *given)
    return decoding.Step(point, replace(made, call=call), weights, precision)


DECODE, PREFILL = decoding.Point("tiny-gpt", 1, 31, 2), decoding.Point("tiny-llama", 16, 0, 2)


@pytest.mark.parametrize("precision", decoder.TYPES)
@pytest.mark.parametrize("point", [DECODE, PREFILL], ids=str)
def test_a_right_step_passes_and_goes_on(jax, point, precision):
    run = a_step(point, precision=precision)
    assert {str(x.dtype) for x in run.cache} == {precision}
    assert set(run.check().values()) == {True}
    before, best = run.cache[0], np.asarray(run().astype("float32")).argmax(-1)[:, None]
    assert before.is_deleted(), "the next call needs what this one leaves"
    assert np.array_equal(run.tokens, best if point.phase == "decode" else run.other)


def empty_of(cache):
    return [x * 0 for x in cache]


@pytest.mark.parametrize(
    ("point", "fault", "says"),
    [
        (DECODE, lambda f, w, c, t, p: f(w, c, t * 0, p), "tokens matter"),
        (PREFILL, lambda f, w, c, t, p: f(w, c, t * 0, p), "tokens matter"),
        (DECODE, lambda f, w, c, t, p: f(w, empty_of(c), t, p), "cache is updated in place, cache is read"),
        (PREFILL, lambda f, w, c, t, p: (empty_of((r := f(w, c, t, p))[0]), *r[1:]), "cache is written"),
        (DECODE, lambda f, w, c, t, p: ((r := f(w, c, t, p))[0], r[1] * np.nan, r[2]), "scores are finite"),
        (DECODE, lambda f, w, c, t, p: ((r := f(w, c, t, p))[0], r[1] * 0, r[2]), "scores differ, tokens matter"),
    ],
    ids=["other tokens", "other tokens, prefill", "no cache read", "no cache written", "nan", "constant"],
)
def test_a_program_that_does_not_do_its_work_is_not_timed(jax, point, fault, says):
    with pytest.raises(XlaError, match=f"it is not true that .*{says}.*: a time of it would mean nothing"):
        a_step(point, fault).check()


def test_it_is_predicted_and_checked_before_it_is_timed_to_its_end(jax, monkeypatch):
    order = []

    def timed(call, sync, **_):
        order.append("timed")
        assert sync is jax.block_until_ready
        assert call().is_ready() or engine.device()["platform"] != "cpu"
        return Timing((1.0, 2.0, 4.0))

    def predicting(cost, made):
        order.append("predicted")
        assert cost == decoding.RUNS["tiny-gpt"].step(1, 31, 2, **BYTES)
        return {"published": None, "reached": {"time_s": 4.0}, "program": {"time_s": 1.0}}

    check = decoding.Step.check
    monkeypatch.setattr(decoding.Step, "check", lambda self: (order.append("checked"), check(self))[1])
    monkeypatch.setattr(decoding, "measure", timed)
    weights = decoder.random_weights(decoding.RUNS["tiny-gpt"])
    row = decoding.measured_step(DECODE, weights, "float32", predicting).found
    assert order == ["predicted", "checked", "timed"]
    assert row["ratio"] == {"published": None, "reached": 0.5, "program": 2.0}
    assert row["tokens_per_s"] == 1.0
    assert row["cache_bytes"] == decoding.RUNS["tiny-gpt"].cache_bytes(32, 2, 4)
    assert "call" not in row["program"]


def test_a_cache_that_does_not_fit_is_refused(jax, monkeypatch):
    monkeypatch.setattr(decoding, "_memory", lambda: {"bytes_limit": 10**5, "bytes_in_use": 6 * 10**4})
    with pytest.raises(XlaError, match="^tiny-gpt, decode behind 31, 2 texts: a cache of 0.0 GB does not fit beside"):
        decoding.measured_step(DECODE, decoder.random_weights(decoding.RUNS["tiny-gpt"]), "float32", None)


def test_a_call_of_all_arguments_has_a_time(jax):
    model = decoding.RUNS["tiny-gpt"]
    assert decoding.call_time(model, decoder.random_weights(model), "float32", **SHORT).median_s > 0


@pytest.mark.parametrize(
    ("platform", "capability", "precision"),
    [("cpu", None, "float32"), ("gpu", "9.0", "bfloat16"), ("gpu", "7.5", "float32"), ("tpu", None, "bfloat16")],
)
def test_the_precision_is_the_devices(monkeypatch, platform, capability, precision):
    monkeypatch.setattr(
        decoding, "xla", SimpleNamespace(device=lambda: {"platform": platform, "compute_capability": capability})
    )
    assert decoding.precision_here() == precision


def test_names_of_the_registry_are_there():
    from hwlimits import devices

    for name in decoding.REGISTRY.values():
        assert devices.device(name).memory_bytes_per_s > 0


def test_the_command_writes_what_it_found_and_what_made_it(jax, monkeypatch, tmp_path, capsys):
    some = decoding.points("cpu", quick=True)[:2]
    monkeypatch.setattr(decoding, "points", lambda *_: some)
    monkeypatch.setattr(decoding, "REGISTRY", {engine.device()["kind"]: "h100-sxm"})
    monkeypatch.setattr(decoding, "kernel_time", lambda **_: (_ for _ in ()).throw(XlaError("not told")))
    written, dumps = [], json.dumps
    monkeypatch.setattr(json, "dumps", lambda found, **k: (written.append(len(found["points"])), dumps(found, **k))[1])
    decoding.main(["--out", str(tmp_path / "new"), "--quick", "--seconds", "300"])
    assert written == [1, 2, 2], "kept after each step"
    (file,) = (tmp_path / "new").glob("decoder_*_quick.json")
    found = json.loads(file.read_text())
    assert found["provenance"]["command"] == "python -m hwlimits.xla.decoding --out data/results --quick --seconds 300"
    assert found["provenance"]["versions"]["jax"] == jax.__version__
    assert found["left_out"] == {"kernel": "not told"}, "the steps are measured all the same"
    assert [point["phase"] for point in found["points"]] == ["decode", "prefill"]
    published = found["points"][0]["predicted"]["published"]["time_s"]
    assert published == pytest.approx(found["points"][0]["bytes"] / 3.35e12), "of the registry's H100"
    follows(found)
    said = capsys.readouterr().out
    assert said.index("predicted: published") < said.index("of the program's prediction")


def test_a_full_run_wants_a_commit(jax, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("hwlimits.machine.provenance.commit", lambda: "unknown")
    with pytest.raises(SystemExit):
        decoding.main(["--out", str(tmp_path)])
    assert "A stored result names the commit that made it, and this is unknown" in capsys.readouterr().err


def follows(found):
    """Stored numbers follow from each other, and bytes and FLOPs from the models."""
    size = decoder.TYPES[found["precision"]][1]
    for name, weights in found["weights"].items():
        model = decoding.RUNS[name]
        assert weights["type"] == found["precision"]
        assert weights["array_bytes"] == weights["counted_bytes"] == size * model.parameters
    reached = Roofline(
        "reached", found["product"]["flops_per_s"], {"memory": found["bandwidth"]["triad"]["bytes_per_s"]}
    )
    for row in found["points"]:
        model = decoding.RUNS[row["model"]]
        cost = model.step(row["new"], row["past"], row["sequences"], weight_bytes=size, number_bytes=size)
        assert (row["flops"], row["bytes"]) == (cost.flops, cost.bytes)
        assert row["predicted"]["reached"]["time_s"] == pytest.approx(reached.time_s(cost))
        whole = row["predicted"]["program"]
        assert whole["memory_s"] == pytest.approx(row["program"]["moved_bytes"] / reached.bandwidth())
        kernel_s = found["kernel"]["kernel_s"] if found["kernel"] else 0
        assert whole["kernels_s"] == pytest.approx(row["program"]["kernels"] * kernel_s)
        for how, predicted in row["predicted"].items():
            wanted = predicted and row["timing"]["median_s"] / predicted["time_s"]
            assert row["ratio"][how] == (wanted and pytest.approx(wanted))
        assert all(row["checks"].values())


STORED = sorted(path for path in data.path("results").glob("decoder_*.json") if not path.stem.endswith("_quick"))


@pytest.mark.parametrize("file", STORED, ids=lambda path: path.stem)
def test_stored_numbers_follow_from_each_other(file):
    found = json.loads(file.read_text(encoding="utf-8"))
    assert len(found["provenance"]["commit"]) == 40
    assert found["quick"] is False
    follows(found)
    for row in found["points"]:
        if row["phase"] == "decode" and row["sequences"] == 1:
            # On the GPU some of GPT-2's products are two kernels: one writes weights times inputs, a matrix as large as
            # the weights, the other reads it to add it up. Its program's text says so; Llama's has none of these.
            written_out = 2 * row["bytes"] if row["model"] == "gpt-2" and "gpu" in file.stem else 0
            moved = row["program"]["moved_bytes"]
            assert row["bytes"] < moved < 1.25 * row["bytes"] + written_out, "XLA's own count of a step"
