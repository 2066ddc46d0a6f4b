"""int8 products exact against int64 NumPy; convolutions against a model in NumPy, and LiteRT's kernels bit for bit."""

import ctypes
import os
import subprocess
import sys

import flatbuffers
import llvmlite.binding as llvm
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from llvmlite import ir

from hwlimits.kernels import simd
from hwlimits.kernels.gemm import COLUMNS, ROWS
from hwlimits.kernels.int8 import GROUP, MANY, MAX_DEPTH, convolution, matmul, pack
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_build import Spec, single

EDGES_M = sorted({0, 1, 2, ROWS - 1, ROWS, ROWS + 1, MANY - 1, MANY, MANY + 1, 2 * MANY + ROWS + 1})
EDGES_K = sorted({0, 1, GROUP - 1, GROUP, GROUP + 1, 2, 3, 4, 5, 7, 64})
EDGES_N = sorted({0, 1, 7, COLUMNS - 1, COLUMNS, COLUMNS + 1, 2 * COLUMNS + 3})


def numbers(*shape, seed=0):
    """int8 of the whole range, its ends often."""
    random = np.random.default_rng(seed)
    ends, others = random.choice([-128, 127], shape), random.integers(-128, 128, shape)
    return np.where(random.random(shape) < 0.2, ends, others).astype(np.int8)


def product(a, b):
    return a.astype(np.int64) @ b.astype(np.int64)


@pytest.mark.parametrize("m", EDGES_M)
def test_product_of_every_small_shape(m):
    for k in EDGES_K:
        for n in EDGES_N:
            a, b = numbers(m, k), numbers(k, n, seed=1)
            c = matmul(a, b)
            assert c.dtype == np.int32
            assert np.array_equal(c, product(a, b)), (m, k, n)


@pytest.mark.parametrize("left", [-128, 127])
@pytest.mark.parametrize("right", [-128, 127])
def test_the_largest_sums_fit(left, right):
    a, b = np.full((ROWS + 1, MAX_DEPTH), left, np.int8), np.full((MAX_DEPTH, 2), right, np.int8)
    assert np.all(matmul(a, b) == left * right * MAX_DEPTH)


def test_a_packed_matrix_serves_any_number_of_products():
    b = numbers(33, 41)
    packed = pack(b)
    assert packed.shape == (33, 41)
    assert np.array_equal(packed.sums, b.sum(axis=0, dtype=np.int64))
    for seed in range(3):
        a = numbers(5 + seed, 33, seed=seed)
        assert np.array_equal(matmul(a, packed), product(a, b))
    b[:] = 0
    assert matmul(numbers(2, 33), packed).any(), "a copy"


HOW = {
    "transposed": lambda x: np.asfortranarray(x),
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "rows upside down": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "one row for all": lambda x: np.broadcast_to(x[:1], x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.int8).reshape(x.shape),
}


@pytest.mark.parametrize("how", HOW)
def test_any_strides(how):
    a, b = HOW[how](numbers(9, 21)), HOW[how](numbers(21, 18))
    assert np.array_equal(matmul(a, b), product(a, b))
    x = np.stack([a] * 3, axis=2)
    w = numbers(5, 2, 3, 3)
    for given in (x.transpose(1, 0, 2).copy().transpose(1, 0, 2), HOW["read-only"](x)):
        layer = convolution(w, np.zeros(5), **SCALES)
        assert np.array_equal(layer(given), model(given, w, np.zeros(5, int), **SCALES))


SCALES = {"x_scale": 0.05, "x_zero": -10, "w_scale": 0.01, "y_scale": 0.4, "y_zero": 3}


def sums_of(x, weights, bias, x_zero, stride, padding):
    """The integers of a quantized convolution, window by window."""
    x, (outputs, height, width, _) = x.astype(np.int64) - x_zero, weights.shape
    if padding == "same":
        pads = [max(0, (-(-n // stride) - 1) * stride + k - n) for n, k in zip(x.shape, (height, width), strict=False)]
        x = np.pad(x, [*((p // 2, p - p // 2) for p in pads), (0, 0)])
    sizes = [(n - k) // stride + 1 for n, k in zip(x.shape, (height, width), strict=False)]
    sums = np.empty((*sizes, outputs), np.int64)
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            part = x[i * stride : i * stride + height, j * stride : j * stride + width]
            sums[i, j] = (part * weights.astype(np.int64)).sum(axis=(1, 2, 3)) + bias
    return sums


def model(
    x, weights, bias, *, x_scale, x_zero, w_scale, y_scale, y_zero, stride=1, padding="valid", low=-128, high=127
):
    """Those integers times a float32, rounded to the nearest, ties to even."""
    sums = sums_of(x, weights, bias, x_zero, stride, padding)
    factors = np.float32(x_scale) * np.asarray(w_scale, np.float32) / np.float32(y_scale)
    return np.clip(np.rint(sums.astype(np.float32) * factors).astype(np.int64) + y_zero, low, high).astype(np.int8)


SHAPES = [(1, 1, 1), (5, 6, 1), (5, 6, 3), (9, 8, 5), (13, 11, 2), (3, 40, 4)]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("window", [(1, 1), (3, 3), (2, 3), (5, 1)])
def test_convolutions_of_every_kind(window, padding, stride):
    for number, shape in enumerate(SHAPES):
        if padding == "valid" and (shape[0] < window[0] or shape[1] < window[1]):
            continue
        random, outputs = np.random.default_rng(number), (1, COLUMNS, 19)[number % 3]
        x, w = numbers(*shape, seed=number), numbers(outputs, *window, shape[2], seed=number + 9)
        bias = random.integers(-3000, 3000, outputs)
        options = SCALES | {
            "w_scale": random.uniform(0.001, 0.02, outputs), "x_zero": (-128, -10, 0, 127)[number % 4],
            "y_zero": (-128, 0, 5, 127)[number % 4], "stride": stride, "padding": padding,
        }  # fmt: skip
        if number % 2:
            options |= {"low": -20, "high": 33}
        found = convolution(w, bias, **options)(x)
        assert found.dtype == np.int8
        assert np.array_equal(found, model(x, w, bias, **options)), (shape, options)


def test_halves_go_to_the_even_neighbour():
    """Of a factor of one half, in steps of which every second sum is a tie; and as far as the bounds go."""
    x = np.arange(-128, 128).astype(np.int8).reshape(16, 16, 1)
    one = {"weights": np.ones((1, 1, 1, 1), np.int8), "bias": np.zeros(1), "x_zero": 0, "w_scale": 1, "y_scale": 1}
    layer = convolution(**one, x_scale=0.5, y_zero=0)
    assert np.array_equal(layer(x), np.rint(x / 2).astype(np.int8))
    for factor, said in ((1e30, [-128, 0, 127]), (1e-30, [0, 0, 0])):
        layer = convolution(**one, x_scale=factor, y_zero=0)
        assert layer(np.array([[[-1], [0], [1]]], np.int8)).ravel().tolist() == said


def test_sums_beyond_float32s_integers_are_rounded_as_it_rounds_them():
    w, random = np.full((64, 1, 1, 4096), 127, np.int8), np.random.default_rng(0)
    x, bias = numbers(3, 3, 4096), random.integers(-(2**26), 2**26, 64)
    for y_scale in (340, 85):
        options = SCALES | {"y_scale": y_scale, "w_scale": 1e-3}
        assert np.array_equal(convolution(w, bias, **options)(x), model(x, w, bias, **options))


def edited(file, *, x=(0.05, -10), w_scale=None, y=(0.05, -10), bias=None, relu6=False):
    """The file of one operator with other scales and zero points, and a bias that is not zero."""
    content = schema.ModelT.InitFromPackedBuf(file.content, 0)
    graph = content.subgraphs[0]
    source, weights, offsets = (graph.tensors[i] for i in graph.operators[0].inputs)
    target = graph.tensors[graph.operators[0].outputs[0]]
    for tensor, (scale, zero) in ((source, x), (target, y)):
        tensor.quantization.scale, tensor.quantization.zeroPoint = np.float32([scale]), np.int64([zero])
    weights.quantization.scale = np.asarray(w_scale, np.float32)
    offsets.quantization.scale = np.float32(x[0]) * weights.quantization.scale
    content.buffers[offsets.buffer].data = np.frombuffer(np.asarray(bias, np.int32).tobytes(), np.uint8)
    if relu6:
        graph.operators[0].builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU6
    builder = flatbuffers.Builder(1024)
    builder.Finish(content.Pack(builder), b"TFL3")
    return LiteRTFile(bytes(builder.Output()))


def litert(file, x, reference=False):
    interpreter = file.interpreter(None, reference=reference)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    assert reference or interpreter._get_ops_details()[-1]["op_name"] == "DELEGATE", "XNNPACK takes the operator"
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


FILES = [
    Spec("CONV_2D", "int8", (1, 9, 7, 5), outputs=19, window=3),
    Spec("CONV_2D", "int8", (1, 9, 8, 5), outputs=19, window=3, stride=2),
    Spec("CONV_2D", "int8", (1, 12, 12, 1), outputs=8, window=5, stride=3),
    Spec("CONV_2D", "int8", (1, 9, 7, 64), outputs=33, window=1),
    Spec("FULLY_CONNECTED", "int8", (40, 300), outputs=10),
]


@pytest.mark.parametrize("spec", FILES, ids=lambda s: f"{s.kind} {s.shape} {s.window}/{s.stride}")
@pytest.mark.parametrize("how", ["any scales", "ties", "ReLU6"])
def test_litert_gives_the_same_bits(spec, how):
    """XNNPACK's kernels round the float32 product to even, as ours; the reference kernels round twice, in integers."""
    random = np.random.default_rng(0)
    outputs, depth = spec.outputs, int(np.prod(single(spec).layers[0].weights.shape[1:]))
    bias, x, y = random.integers(-2000, 2000, outputs), (0.043, 17), (0.1, -5)
    w_scale = random.uniform(0.5, 2, outputs) / np.sqrt(depth) / 100  # outputs of about 3
    if how == "ties":
        x, y = (0.5, -3), (1, 2)
        w_scale = np.full(outputs, 2.0 ** -np.round(np.log2(np.sqrt(depth))))  # sums of about 146 times the root
    low, high = -128, 127
    if how == "ReLU6":
        y = (6 / 200, -100)
        low, high = -100, 100
    file = edited(single(spec), x=x, w_scale=w_scale, y=y, bias=bias, relu6=how == "ReLU6")
    weights = file.layers[0].weights.reshape(outputs, spec.window, spec.window, -1)
    layer = convolution(
        weights, bias, x_scale=x[0], x_zero=x[1], w_scale=w_scale,
        y_scale=y[0], y_zero=y[1], stride=spec.stride, padding="same", low=low, high=high,
    )  # fmt: skip
    differ = 0
    for seed in range(8):
        images = numbers(*spec.shape, seed=seed)
        if how == "ties":
            images = (images % 5 - 5).astype(np.int8)
        image = images.reshape(-1, *spec.shape[-2:])
        ours = layer(image)
        assert np.array_equal(ours.ravel(), litert(file, images).ravel())
        assert len(np.unique(ours)) > 20, "more than the bounds"
        plain = litert(file, images, reference=True).reshape(ours.shape).astype(int)
        assert np.abs(plain - ours).max() <= 1
        differ += np.sum(plain != ours)
    assert how != "ties" or differ, "there were ties"


KIND = "int8 (height, width, 3)"
W = np.ones((2, 3, 3, 3), np.int8)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: matmul(np.ones((2, 2)), numbers(2, 2)), TypeError, "matmul: a is float64; it takes int8 arrays"),
        (lambda: matmul([[1]], numbers(1, 2)), TypeError, "matmul: a is list; it takes int8 arrays"),
        (lambda: matmul(numbers(2, 2), np.ones((2, 2), np.uint8)), TypeError, "pack: b is uint8"),
        (lambda: matmul(numbers(2), numbers(2, 2)), ValueError, "matmul: a has shape (2,); it takes matrices"),
        (lambda: pack(numbers(1, 2, 2)), ValueError, "pack: b has shape (1, 2, 2); it takes matrices"),
        (lambda: matmul(numbers(2, 3), numbers(2, 3)), ValueError,
         "matmul: a is (2, 3) and b is (2, 3); the columns of a"),
        (lambda: pack(np.zeros((MAX_DEPTH + 1, 1), np.int8)), ValueError,
         "pack: b has 65,537 rows; a sum of more than 65,536 products may not fit int32"),
        (lambda: convolution(W.astype(np.float32), np.zeros(2), **SCALES), TypeError,
         "int8.convolution: the weights are float32 (2, 3, 3, 3); it takes int8 (outputs, height, width, inputs)"),
        (lambda: convolution(W[0], np.zeros(3), **SCALES), TypeError, "the weights are int8 (3, 3, 3)"),
        (lambda: convolution([1], np.zeros(3), **SCALES), TypeError, "the weights are list"),
        (lambda: convolution(W, np.zeros(2), **SCALES, padding="SAME"), ValueError,
         "int8.convolution: padding='SAME'; choose 'valid' or 'same'"),
        (lambda: convolution(W, np.zeros(3), **SCALES), ValueError,
         "int8.convolution: 2 outputs, a bias (3,) and scales (): one for each"),
        (lambda: convolution(W, np.zeros(2), **SCALES | {"w_scale": np.ones(1)}), ValueError, "and scales (1,)"),
        (lambda: convolution(W, np.zeros(2), **SCALES)(numbers(5, 5, 2)), ValueError,
         f"Int8Convolution: x is int8 (5, 5, 2); it takes {KIND}"),
        (lambda: convolution(W, np.zeros(2), **SCALES)(np.ones((5, 5, 3))), ValueError, "x is float64 (5, 5, 3)"),
        (lambda: convolution(W, np.zeros(2), **SCALES)([1]), ValueError, "x is list"),
        (lambda: convolution(W, np.zeros(2), **SCALES)(numbers(1, 5, 5, 3)[:, :, :3]), ValueError, "int8 (1, 5, 3, 3)"),
        (lambda: convolution(W, np.zeros(2), **SCALES)(numbers(5, 5)), ValueError, "x is int8 (5, 5); it takes"),
        (lambda: convolution(W, np.zeros(2), **SCALES)(numbers(5, 2, 3)), ValueError,
         "Int8Convolution: a window of (3, 3) is larger than x, (5, 2)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(call, error, said):
    with pytest.raises(error) as raised:
        call()
    assert said in str(raised.value)


def test_the_path_of_processors_with_vnni(tmp_path):
    """The whole module by the arithmetic of vpdpbusd, in a process that has it chosen."""
    program = (
        "import numpy as np\n"
        "from hwlimits.kernels import simd\n"
        "simd.INT8_DOT = simd.INT8_DOTS['plain quads']\n"
        "from hwlimits.kernels import int8\n"
        "rng = np.random.default_rng(0)\n"
        "for m, k, n in ((1, 1, 1), (7, 9, 33), (66, 6, 17)):\n"
        "    a, b = (rng.choice([-128, 127, 5], s).astype('i1') for s in ((m, k), (k, n)))\n"
        "    assert np.array_equal(int8.matmul(a, b), a.astype(int) @ b.astype(int)), (m, k, n)\n"
        "x, w = rng.integers(-128, 128, (5, 5, 3)).astype('i1'), rng.integers(-128, 128, (4, 3, 3, 3)).astype('i1')\n"
        "c = int8.convolution(w, np.arange(4), x_scale=1, x_zero=-7, w_scale=1, y_scale=512, y_zero=9,"
        " padding='same')\n"
        "p = np.pad(x.astype(int) + 7, ((1, 1), (1, 1), (0, 0)))\n"
        "s = [[[(p[i:i+3, j:j+3] * w[o]).sum() + o for o in range(4)] for j in range(5)] for i in range(5)]\n"
        "assert np.array_equal(c(x), np.clip(np.rint(np.array(s) / 512) + 9, -128, 127))\n"
        "print(int8.GROUP, int8.SHIFT)"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}  # the cache doesn't see which instruction was chosen
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "128"]


@pytest.mark.parametrize("name", sorted({"plain pairs", "plain quads", simd.INT8_DOT.name}))
def test_one_step_of_the_sums(name):
    """sums + left . right, lane by lane, with the ends of the ranges, compiled alone."""
    dot, count, random = simd.INT8_DOTS[name], simd.REGISTER_BYTES // 4, np.random.default_rng(0)
    module = ir.Module()
    vector = ir.VectorType(simd.INT32, count)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [vector.as_pointer()] * 3), "step")
    builder = ir.IRBuilder(function.append_basic_block())
    sums, left, right = (builder.load(x, align=4) for x in function.args)
    builder.store(dot.add(builder, sums, left, right), function.args[0], align=4)
    builder.ret_void()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=llvm.get_host_cpu_name(), features=features)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    step = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(engine.get_function_address("step"))
    kind = np.int16 if dot.group == 2 else np.int8
    low, high = (0, 255) if dot.unsigned else (-128, 127)
    for _ in range(50):
        a = random.choice([low, high, 1, low + 128], (count, dot.group)).astype(np.uint8 if dot.unsigned else kind)
        b = random.choice([-128, 127, -1, 3], (count, dot.group)).astype(kind)
        sums = random.integers(-(2**30), 2**30, count).astype(np.int32)
        expected = sums + (a.astype(np.int64) * b).sum(axis=1)
        step(sums.ctypes.data, a.ctypes.data, b.ctypes.data)
        assert np.array_equal(sums, expected)


def assembly(name, count, triple, cpu, features):
    """What LLVM makes for another processor of one step of a tile: it is compiled and not run."""
    module = ir.Module()
    module.triple = triple
    vector = ir.VectorType(simd.INT32, count)
    function = ir.Function(module, ir.FunctionType(vector, [vector] * 3), "step")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(simd.INT8_DOTS[name].add(builder, *function.args))
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=2)
    return machine.emit_assembly(llvm.parse_assembly(str(module)))


X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"


@pytest.mark.parametrize(
    ("name", "count", "triple", "features", "instruction"),
    [
        ("vpdpbusd", 16, X86, "+avx512f,+avx512vnni", "vpdpbusd\t%zmm"),
        ("vpdpbusd", 8, X86, "+avx2,+avxvnni", "vpdpbusd\t%ymm"),
        ("vpmaddwd", 16, X86, "+avx512f,+avx512bw", "vpmaddwd\t%zmm"),
        ("vpmaddwd", 8, X86, "+avx2", "vpmaddwd\t%ymm"),
        ("vpmaddwd", 4, X86, "+sse2", "pmaddwd\t%xmm"),
        ("sdot", 4, ARM, "+dotprod", "sdot\tv"),
    ],
)
def test_the_instruction_is_there(name, count, triple, features, instruction):
    try:
        llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip("this LLVM has no such target")
    cpu = "generic" if triple == ARM else "x86-64"
    text = assembly(name, count, triple, cpu, features).replace("{vex}", "").replace("\t\t", "\t")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert any(" ".join(instruction.split()) in line for line in lines), text


def test_the_instruction_is_chosen_by_the_processor(monkeypatch):
    def chosen(machine, register, features):
        monkeypatch.setattr(simd.platform, "machine", lambda: machine)
        monkeypatch.setattr(simd, "ARM", machine in ("arm64", "aarch64"))
        monkeypatch.setattr(simd, "REGISTER_BYTES", register)
        monkeypatch.setattr(simd, "cpu_features", lambda: set(features.split()))
        return simd._int8_dot().name

    assert chosen("x86_64", 64, "avx512f avx512vnni avx2") == "vpdpbusd"
    assert chosen("x86_64", 32, "avx2 avxvnni") == "vpdpbusd"
    assert chosen("x86_64", 64, "avx512f avx512bw avx2") == "vpmaddwd"
    assert chosen("AMD64", 32, "avx2") == "vpmaddwd"
    assert chosen("arm64", 16, "dotprod neon") == "sdot"
    assert chosen("aarch64", 16, "neon") == "plain pairs"
    assert chosen("riscv64", 16, "") == "plain pairs"
