"""JAX's benchmarks: what is checked before a time counts, on texts and arrays made here; and, where JAX is, live."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hwlimits import data, xla
from hwlimits.machine.timing import Comparison, Timing
from hwlimits.xla import __main__ as command
from hwlimits.xla import bandwidths, engine, precisions, products
from hwlimits.xla.precisions import XlaError, lacks, multiplied_types, padding_waste, product_error

LIBRARY = Path(xla.__file__).parents[1]
SHORT = {"repeats": 3, "min_sample_s": 1e-4}


@pytest.fixture
def jax():
    return pytest.importorskip("jax")


def test_importing_it_loads_no_jax():
    program = "import sys, hwlimits.xla.__main__; print('jax' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    others = [p for p in LIBRARY.rglob("*.py") if "import jax" in p.read_text()]
    assert others == [LIBRARY / "xla" / "engine.py"], "one door to JAX"


def test_without_jax_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(XlaError, match=r"hwlimits.xla needs JAX, .* pip install 'hwlimits\[accelerators\]'"):
        xla.matrix_product(4)
    with pytest.raises(SystemExit) as ended:
        command.main(["--out", "nowhere"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("platform", "capability", "missing"),
    [
        ("cpu", None, {"tf32"}),
        ("tpu", None, {"tf32"}),
        ("gpu", "6.0", {"tf32", "bfloat16", "int8"}),  # P100
        ("gpu", "7.5", {"tf32", "bfloat16"}),  # T4
        ("gpu", "8.0", set()),  # A100
        ("gpu", "9.0", set()),  # H100
        ("gpu", "12.0", set()),  # compared as numbers, not as text
        ("gpu", "gfx942", {"tf32", "bfloat16", "int8"}),  # not told: not guessed
    ],
)
def test_what_a_device_lacks(platform, capability, missing):
    assert {precision for precision in xla.PRECISIONS if lacks(precision, platform, capability)} == missing


def test_an_unknown_precision_is_an_error():
    with pytest.raises(XlaError, match="no precision 'fp8' here: there are float32, tf32, bfloat16, int8."):
        lacks("fp8", "gpu", "9.0")


CUBLAS = """
ENTRY %main.4 (Arg_0.1: bf16[512,512], Arg_1.2: bf16[512,512]) -> bf16[512,512] {
  %Arg_1.2 = bf16[512,512]{1,0} parameter(1), metadata={op_name="b"}
  %Arg_0.1 = bf16[512,512]{1,0} parameter(0), metadata={op_name="a"}
  %cublas-gemm.1 = (bf16[512,512]{1,0}, s8[4194304]{0}) custom-call(%Arg_0.1, %Arg_1.2), custom_call_target="__cublas$gemm"
  ROOT %get-tuple-element = bf16[512,512]{1,0} get-tuple-element(%cublas-gemm.1), index=0
}
"""  # noqa: E501
WIDENED = """
%fused_computation (param_0: f32[8,8], param_1: f32[8,8]) -> f32[8,8] {
  %param_0 = f32[8,8]{1,0} parameter(0)
  %param_1 = f32[8,8]{1,0} parameter(1)
  ROOT %dot_general.0 = f32[8,8]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
ENTRY %main.1 (a.1: bf16[8,8], b.1: bf16[8,8]) -> bf16[8,8] {
  %a.1 = bf16[8,8]{1,0} parameter(0)
  %b.1 = bf16[8,8]{1,0} parameter(1)
  %wrapped_convert = f32[8,8]{1,0} fusion(%a.1), kind=kLoop, calls=%wrapped_convert_computation
  %ynn_fusion = f32[8,8]{1,0} fusion(%wrapped_convert, %b.1), kind=kCustom, calls=%fused_computation
}
"""
TPU = """
  %a = s8[8,8]{1,0:T(8,128)(4,1)} parameter(0)
  %b = s8[8,8]{0,1} parameter(1)
  %c = s32[8,8]{1,0} convolution(s8[8,8]{1,0:T(8,128)(4,1)} %a, s8[8,8]{0,1} %b), dim_labels=bf_io->bf
"""


@pytest.mark.parametrize(
    ("program", "types"),
    [
        (CUBLAS, {"bf16"}),
        (WIDENED, {"f32"}),
        (TPU, {"s8"}),
        ('%a = f32[8] parameter(0)\n%c = f32[8] custom-call(%a), custom_call_target="topk"', set()),
        ("", set()),
    ],
    ids=["cublas", "widened", "tpu", "other call", "nothing"],
)
def test_what_a_compiled_program_multiplies(program, types):
    assert multiplied_types(program) == types


@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 4, 4), (1, 9, 3)])
def test_padding_waste_by_counting_multiply_adds(shape):
    padded = [len(range(0, side, 4)) * 4 for side in shape]
    places = list(itertools.product(*map(range, padded)))
    useful = sum(all(i < side for i, side in zip(place, shape, strict=True)) for place in places)
    assert padding_waste(shape, tile=4) == pytest.approx(1 - useful / len(places))


def operands(k=4096, seed=0):
    random = np.random.default_rng(seed)
    return (random.standard_normal(shape).astype(np.float32) for shape in ((16, k), (k, 16)))


def to_bits(x, kept):
    """float32 with `kept` bits of its fraction, to nearest: 10 is TF32, 7 bfloat16."""
    drop = 23 - kept
    return ((x.view(np.uint32) + (1 << (drop - 1))) >> drop << drop).view(np.float32)


def test_an_error_tells_float32_tf32_and_wrong_apart():
    a, b = operands()
    exact, rounded = a @ b, to_bits(a, 10) @ to_bits(b, 10)
    assert product_error("float32", a, b, exact) < precisions.EXACT / 8
    assert precisions.EXACT < product_error("tf32", a, b, rounded) < precisions.COARSE / 4
    with pytest.raises(XlaError, match="the float32 product is wrong: its error is .* of its terms, allowed 6.1e-05"):
        product_error("float32", a, b, rounded)
    with pytest.raises(XlaError, match="TF32 was asked for and was not used: .* is float32's"):
        product_error("tf32", a, b, exact)
    with pytest.raises(XlaError, match="the tf32 product is wrong"):
        product_error("tf32", a, b, np.roll(rounded, 1))
    with pytest.raises(XlaError, match="is wrong: its error is nan"):
        product_error("float32", a, b, exact * np.nan)


def test_a_bfloat16_product_may_be_rounded_once_and_not_at_each_step():
    a, b = (to_bits(x, 7) for x in operands())
    assert product_error("bfloat16", a, b, to_bits(a @ b, 7)) < precisions.EXACT
    total = np.zeros((16, 16), np.float32)
    for i in range(a.shape[1]):
        total = to_bits(total + np.outer(a[:, i], b[i]).astype(np.float32), 7)
    with pytest.raises(XlaError, match="the bfloat16 product is wrong"):
        product_error("bfloat16", a, b, total)


def test_a_bfloat16_product_is_not_forgiven_more_than_its_rounding():
    a, b = (to_bits(x, 7) for x in operands())
    with pytest.raises(XlaError, match="the bfloat16 product is wrong"):
        product_error("bfloat16", a, b, a @ b * np.float32(1 + 2.0**-5.5))


def test_an_int8_product_is_exact_or_wrong():
    a, b = (np.random.default_rng(0).integers(-128, 128, shape, dtype=np.int8) for shape in ((3, 50), (50, 4)))
    got = np.array([[sum(int(x) * int(y) for x, y in zip(row, column, strict=True)) for column in b.T] for row in a])
    assert product_error("int8", a, b, got.astype(np.int32)) == 0
    got[1, 2] += 1
    with pytest.raises(XlaError, match="the int8 product is wrong"):
        product_error("int8", a, b, got)


def test_a_sum_of_zeros_is_right_if_it_is_zero():
    a, b = np.int8([[0], [3]]), np.int8([[2, 0]])
    assert product_error("int8", a, b, np.int32([[0, 0], [6, 0]])) == 0
    assert product_error("float32", a.astype(np.float32), b.astype(np.float32), np.float32([[0, 0], [6, 0]])) == 0
    for wrong in (1, -1):
        with pytest.raises(XlaError, match="the int8 product is wrong: its error is inf of its terms"):
            product_error("int8", a, b, np.int32([[0, 0], [6, wrong]]))


def test_the_deepest_int8_product_fits_int32():
    assert precisions.INT8_DEEPEST * 128**2 < 2**31 <= (precisions.INT8_DEEPEST + 1) * 128**2


@pytest.mark.parametrize("steps", [1, 3, 512])
def test_multiply_adds_have_that_closed_form(steps):
    x = np.linspace(0, 1, 5)
    stepped = bandwidths.multiply_adds(x, float(bandwidths.FACTOR), float(bandwidths.ADDEND), steps)
    assert bandwidths.after_steps(x, steps) == pytest.approx(stepped, rel=1e-12)
    less = bandwidths.after_steps(x, steps - 1)
    assert not np.allclose(less, stepped, rtol=1e-4, atol=1e-4), "one step less is seen"


def test_batches_and_sides_that_fill_memory_and_time():
    bytes_of_one = {"float32": 4 + 4 + 4, "tf32": 4 + 4 + 4, "bfloat16": 2 + 2 + 2, "int8": 1 + 1 + 4}
    for precision, size in bytes_of_one.items():
        assert command._batch(10, precision, 7 * 100 * size) == 7
        assert command._batch(10, precision, 7 * 100 * size - 1) == 6
        assert command._batch(10, precision, 1) == 1
    assert command.side_for(0.0, 0.02) == 256


def test_a_quick_result_does_not_take_the_place_of_a_full_one():
    gpu = {"platform": "gpu", "kind": "NVIDIA H100 80GB HBM3"}
    assert command.file_name(gpu, "") == "xla_gpu_nvidia-h100-80gb-hbm3.json"
    assert command.file_name(gpu, "", quick=True) == "xla_gpu_nvidia-h100-80gb-hbm3_quick.json"


@pytest.mark.parametrize("seconds", ["0", "-3", "nan"])
def test_no_time_is_refused(seconds, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--out", "nowhere", f"--seconds={seconds}"])
    assert ended.value.code == 2
    assert f"{seconds} s leave no time to measure anything; give more than 0" in capsys.readouterr().err


def test_seconds_that_are_no_number_are_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--out", "nowhere", "--seconds", "soon"])
    assert "'soon' is no number of seconds; give one, as 600" in capsys.readouterr().err


def test_time_that_is_up_and_errors_are_left_out_and_said(capsys):
    now = iter([0.0, 1.0, 1.0, 2.0, 2.0, 11.0])
    run = command.Run(10, clock=lambda: next(now))
    for name, text in (("lacking", "no bf16 here"), ("broken", "out of memory\nmore")):
        kind = XlaError if name == "lacking" else MemoryError
        assert run(name, lambda text=text, kind=kind: (_ for _ in ()).throw(kind(text))) is None
    assert run("late", lambda: pytest.fail("it is not run")) is None
    assert run.left_out == {
        "lacking": "no bf16 here",
        "broken": "MemoryError: out of memory",
        "late": "the 10 s given (--seconds) were over",
    }
    assert "lacking: left out: no bf16 here" in capsys.readouterr().out


def test_a_product_and_a_comparison_are_stored_with_their_rates():
    timing = Timing((1.0, 2.0, 3.0), 1)
    found = command.plain(xla.Product((2, 3, 4), 5, "int8", timing, 0.5, "s8", 0.0))
    assert (found["flops"], found["flops_per_s"]) == (2 * 2 * 3 * 4 * 5, 120.0)
    assert found["timing"]["median_s"] == 2.0
    assert found["waste_if_padded_to_128"] == pytest.approx(1 - 24 / 128**3)
    found = command.plain([Comparison(timing, timing, 1.0, 0.9, 1.1, 1.2)])
    assert found[0]["verdict"] == "VOID"
    json.dumps(found)


def test_a_commit_can_be_given_and_is_a_whole_one():
    record = command.made_by("make xla-bench", "0123456789" * 4, {"platform": "gpu"})
    assert record["commit"] == "0123456789" * 4
    assert record["commit_in_checkout"] != record["commit"]
    assert record["device"] == {"platform": "gpu"}
    assert "numpy" in record["versions"]
    with pytest.raises(XlaError, match="--commit 'abc' is no commit: give all 40 hexadecimal digits"):
        command.made_by("make xla-bench", "abc", {})


# From here on with JAX, on whatever its first device is.


@pytest.mark.parametrize(("precision", "kind"), [("float32", "f32"), ("int8", "s8")])
def test_a_product_is_measured_and_checked(jax, precision, kind):
    found = xla.matrix_product((20, 33, 17), precision, batch=3, **SHORT)
    assert found.flops == 3 * sum(2 for _ in range(20 * 33 * 17))
    assert found.flops_per_s == pytest.approx(found.flops / found.timing.median_s)
    assert found.multiplied in (kind, None)
    assert found.compile_s > 0
    assert (found.error == 0) == (precision == "int8")
    assert found.error < precisions.EXACT


def test_a_product_with_a_row_of_zeros_is_measured(jax):
    assert 0 in engine.random_block("s8", 0)[np.unique(np.linspace(0, 51, 16).astype(int))]
    assert xla.matrix_product((52, 1, 4), "int8", **SHORT).error == 0


def test_bfloat16_is_multiplied_or_is_an_error(jax):
    try:
        assert xla.matrix_product(64, "bfloat16", **SHORT).multiplied in ("bf16", None)
    except XlaError as error:
        assert "a bfloat16 product can't be measured here" in str(error)  # noqa: PT017


def test_a_widened_product_is_an_error(jax, monkeypatch):
    monkeypatch.setattr(products, "multiplied_types", lambda program: {"f32"})
    with pytest.raises(
        XlaError, match=r"int8 product can't be measured here: XLA compiles it for .* to one of f32; ask"
    ):
        xla.matrix_product(8, "int8", **SHORT)


def test_float32_in_place_of_tf32_is_an_error(jax, monkeypatch):
    if jax.devices()[0].platform != "cpu":
        pytest.skip("a device that may have TF32")
    with pytest.raises(XlaError, match="a tf32 product can't be measured here: TF32 is a format of NVIDIA GPUs"):
        xla.matrix_product(64, "tf32", **SHORT)
    monkeypatch.setattr(products, "lacks", lambda *_: None)
    with pytest.raises(XlaError, match="TF32 was asked for and was not used"):
        xla.matrix_product(64, "tf32", **SHORT)


def test_a_wrong_product_is_not_timed(jax, monkeypatch):
    right = jax.numpy.matmul
    monkeypatch.setattr(jax.numpy, "matmul", lambda *a, **k: right(*a, **k).at[-1, -1].add(1))
    with pytest.raises(XlaError, match="the int8 product is wrong"):
        xla.matrix_product(20, "int8", **SHORT)


def test_the_last_product_of_a_batch_is_checked_too(jax, monkeypatch):
    right = jax.numpy.matmul
    monkeypatch.setattr(jax.numpy, "matmul", lambda *a, **k: right(*a, **k).at[-1, 0, 0].add(1))
    with pytest.raises(XlaError, match="the int8 product is wrong"):
        xla.matrix_product(20, "int8", batch=2, **SHORT)


@pytest.mark.parametrize(
    ("size", "precision", "text"),
    [
        ((2, 3), "float32", r"a product of size \(2, 3\): give n, or \(m, k, n\), each a whole number from 1"),
        (0, "float32", "a product of size 0: give n"),
        (2.5, "float32", "a product of size 2.5: give n"),
        (True, "float32", "a product of size True: give n"),
        ((4, 4.0, 4), "float32", r"a product of size \(4, 4.0, 4\): give n"),
        ((1, 2**17, 1), "int8", "an int8 product with k = 131,072 may leave int32: k is at most 131,071"),
    ],
)
def test_sizes_that_can_t_be(jax, size, precision, text):
    with pytest.raises(XlaError, match=text):
        xla.matrix_product(size, precision, **SHORT)


@pytest.mark.parametrize("batch", [0, -1, 2.0, True])
def test_batches_that_can_t_be(batch):
    with pytest.raises(XlaError, match=f"^a batch of {batch} products: give how many, a whole number from 1.$"):
        xla.matrix_product(4, batch=batch, **SHORT)


def test_sizes_may_be_numpy_s(jax):
    found = xla.matrix_product(np.int64(5), batch=np.int32(2), **SHORT)
    assert (found.shape, found.batch) == ((5, 5, 5), 2)
    assert [type(x) for x in (*found.shape, found.batch)] == [int] * 4, "JSON holds them"
    assert xla.matrix_product(np.array([2, 3, 4]), **SHORT).shape == (2, 3, 4)


def test_other_sizes_that_can_t_be(jax):
    for shape, tile in (((0, 4, 4), 128), ((4, 4.5, 4), 128), ((4, 4, 4), 0)):
        with pytest.raises(XlaError, match=r"^padding_waste\(\(.*: give sides and a tile, whole numbers from 1"):
            padding_waste(shape, tile)
    for elements in (0, 2.0, -3):
        with pytest.raises(XlaError, match=rf"^roofline\(elements={elements}\): give how many an array has, a whole"):
            xla.roofline(elements)
    with pytest.raises(XlaError, match=r"^roofline\(steps=\(1.5,\), peak_steps=16\): give steps"):
        xla.roofline(8, (1.5,), 16)
    with pytest.raises(XlaError, match="^a copy of 8.0 bytes: give a multiple of 4"):
        xla.host_to_device(8.0)


def test_each_product_of_a_comparison_has_its_own_time(jax, monkeypatch):
    monkeypatch.setattr(products, "calling", lambda program, a, b: (("call", a.shape), None))
    monkeypatch.setattr(products, "measure", lambda call, sync: call)
    monkeypatch.setattr(products, "compare", lambda a, b, **_: (a, b))
    one, other, found = xla.compare_products(4, (5, 6, 7))
    assert (one.timing, other.timing) == (("call", (4, 4)), ("call", (5, 6))) == found


def test_sizes_are_compared_with_a_control(jax):
    one, other, found = xla.compare_products(16, (17, 2, 3), batch=2, rounds=3, attempts=1, **SHORT)
    assert (one.shape, other.shape, other.batch) == ((16, 16, 16), (17, 2, 3), 2)
    assert isinstance(found, Comparison)
    assert found.aa_ratio > 0


@pytest.mark.parametrize(("platform", "waits"), [("cpu", 3), ("gpu", 0)])
def test_on_a_cpu_each_call_is_waited_for(jax, monkeypatch, platform, waits):
    waited = []
    result = SimpleNamespace(block_until_ready=lambda: waited.append(1))
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform=platform)])
    call, sync = engine.calling(lambda x: result, 0)
    for _ in range(3):
        call()
    assert len(waited) == waits
    sync(result)
    assert len(waited) == waits + 1


def test_dispatch_and_a_copy(jax):
    assert set(xla.dispatch(**SHORT)) == {"round trip", "queued"}
    assert xla.host_to_device(2**22, **SHORT).median_s > 0
    with pytest.raises(XlaError, match="a copy of 6 bytes: give a multiple of 4"):
        xla.host_to_device(6)


def test_queued_operations_are_not_waited_for_one_by_one(jax, monkeypatch):
    waited, real = [], jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda x: (waited.append(x), real(x))[1])

    def waits(call, sync):
        waited.clear()
        for _ in range(3):
            last = call()
        of_calls = len(waited)
        sync(last)
        return of_calls, len(waited) - of_calls

    monkeypatch.setattr(bandwidths, "measure", waits)
    assert xla.dispatch() == {"round trip": (3, 1), "queued": (0, 1)}


def test_an_array_taken_over_is_no_copy(jax, monkeypatch):
    monkeypatch.setattr(jax, "device_put", lambda x, *_, **__: x)
    with pytest.raises(XlaError, match="device_put of 4,096 bytes gave no copy"):
        xla.host_to_device(4096, **SHORT)


def test_the_roofline_predicts_from_its_own_peak_and_bandwidth(jax):
    found = xla.roofline(2**14, (1, 8), 16, **SHORT)
    peak, bandwidth = found["peak"]["flops_per_s"], found["triad"]["bytes_per_s"]
    assert bandwidth * found["triad"]["timing"].median_s == pytest.approx(2**14 * 4 * 3)
    assert found["copy"]["bytes_per_s"] * found["copy"]["timing"].median_s == pytest.approx(2**14 * 4 * 2)
    assert peak * found["peak"]["timing"].median_s == pytest.approx(2**14 * 2 * 16)
    for point, steps in zip(found["points"], (1, 8), strict=True):
        assert point["intensity"] == 2 * steps / 8
        assert point["predicted_flops_per_s"] == min(peak, bandwidth * 2 * steps / 8)
        assert point["flops_per_s"] * point["timing"].median_s == pytest.approx(2**14 * 2 * steps)
        assert point["ratio"] == point["flops_per_s"] / point["predicted_flops_per_s"]
    with pytest.raises(XlaError, match=r"roofline\(steps=\(1, 16\), peak_steps=16\): give steps from 1 to below"):
        xla.roofline(2**14, (1, 16), 16)


def test_a_kernel_that_skips_a_step_is_not_timed(jax, monkeypatch):
    real = bandwidths.multiply_adds
    monkeypatch.setattr(bandwidths, "multiply_adds", lambda *a, steps: real(*a, steps=steps - 1))
    with pytest.raises(XlaError, match="the kernel '16 multiply-adds' of 4,096 elements gave a wrong result"):
        xla.roofline(2**12, (1,), 16, **SHORT)


def test_the_command_writes_what_it_found_and_what_made_it(jax, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "QUICK_ELEMENTS", 2**12)
    monkeypatch.setattr(command, "BATCH_BYTES", 2**20)
    command.main(["--out", str(tmp_path / "new"), "--quick", "--seconds", "300"])
    (file,) = (tmp_path / "new").glob("xla_*_quick.json")
    found = json.loads(file.read_text())
    assert found["quick"]
    assert {"dispatch", "roofline", "products", "comparisons", "host_to_device", "left_out"} <= set(found)
    made_by = found["provenance"]
    assert {"jax", "jaxlib", "numpy", "python"} <= set(made_by["versions"])
    assert made_by["versions"]["jax"] == jax.__version__
    assert made_by["device"]["kind"] == jax.devices()[0].device_kind
    assert made_by["command"] == "python -m hwlimits.xla --out data/results --quick --seconds 300"
    measured = {one["precision"] for one in found["products"]}
    assert {"float32", "int8"} <= measured
    for precision in set(xla.PRECISIONS) - measured:
        assert any(name.startswith(f"{precision} product") for name in found["left_out"]), "lacking, and said so"
    sides = [256, 257, 128, 100]
    wanted = sides[:2] * len(measured) + sides[2:] * len(measured)
    assert [one["shape"] for one in found["products"]] == [[side] * 3 for side in wanted]
    assert len(found["comparisons"]) == len(found["products"]) / 2 == 2 * len(measured)
    assert [one["bytes"] for one in found["host_to_device"]] == [2**p for p in range(12, 23, 2)]


def test_a_file_as_the_folder_is_refused_before_measuring(jax, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "measured", lambda *_: pytest.fail("nothing is measured"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        command.main(["--out", str(tmp_path / "file"), "--quick"])
    assert ended.value.code == 2
    says = f"--out {tmp_path / 'file'} can't be a folder (File exists): name one that is, or can be made.\n"
    assert capsys.readouterr().err == says


def test_a_full_run_wants_a_commit(jax, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("hwlimits.machine.provenance.commit", lambda: "unknown")
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path)])
    assert "A stored result names the commit that made it, and this is unknown" in capsys.readouterr().err


STORED = sorted(path for path in data.path("results").glob("xla_*.json") if not path.stem.endswith("_quick"))


@pytest.mark.parametrize("file", STORED, ids=lambda path: path.stem)
def test_stored_numbers_follow_from_each_other(file):
    found = json.loads(file.read_text(encoding="utf-8"))
    assert len(found["provenance"]["commit"]) == 40
    assert found["quick"] is False
    for p in found["products"]:
        m, k, n = p["shape"]
        assert p["flops"] == 2 * p["batch"] * m * k * n
        assert p["flops_per_s"] == pytest.approx(p["flops"] / p["timing"]["median_s"])
        padded = np.prod([-(-side // 128) * 128 for side in (m, k, n)])
        assert p["waste_if_padded_to_128"] == pytest.approx(1 - m * k * n / padded)
        assert p["multiplied"] == {"float32": "f32", "tf32": "f32", "bfloat16": "bf16", "int8": "s8"}[p["precision"]]
    roofs = found["roofline"]
    for point in roofs["points"]:
        roof = min(roofs["peak"]["flops_per_s"], point["intensity"] * roofs["triad"]["bytes_per_s"])
        assert point["predicted_flops_per_s"] == pytest.approx(roof)
        assert point["ratio"] == pytest.approx(point["flops_per_s"] / roof)
