"""Files of one operator that moves codes, or computes with plain integers: shapes, axes and what it takes drawn.

As tests/integer_cases.py, for tests/test_integer_run.py. Shapes of outputs are LiteRT's to find: those written are 1.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from integer_cases import Draw, write


def shape_of(d, rank=4, low=1):
    return tuple(d.integer(low, 5) for _ in range(rank))


def move(d, kind, shape, *more, count=1, before=(), made=(1,), version=2, options=None, **given):
    """Codes of `shape` to `count` outputs of the same scale; `more` and `before` are other inputs, constant ones."""
    scale, zero = d.scale(), d.zero()
    x, _, _ = d.codes(shape, scale, zero)
    outputs = [d.codes(made, scale, zero)[0] for _ in range(count)]
    constants = [d.ints(values) for values in (*before, *more)]
    inputs = [*constants[: len(before)], x, *constants[len(before) :]]
    return write(kind, d.build, inputs, [x], outputs, version, options, **given)


def joined(d, kind, shapes, version=2, options=None, **given):
    scale, zero = d.scale(), d.zero()
    made = [d.codes(shape, scale, zero)[0] for shape in (*shapes, (1,))]
    return write(kind, d.build, made[:-1], made[:-1], made[-1:], version, options, **given)


def concatenation(seed):
    d = Draw(seed)
    axis, shape = d.integer(-4, 3), list(shape_of(d))
    shapes = [[*shape] for _ in range(d.integer(1, 4))]
    for s in shapes:
        s[axis] = d.integer(1, 4)
    return joined(d, "CONCATENATION", shapes, options="Concatenation", axis=axis)


def pack(seed):
    d = Draw(seed)
    count = d.integer(1, 4)
    return joined(d, "PACK", [shape_of(d, 3)] * count, options="Pack", axis=d.integer(-4, 3), valuesCount=count)


def unpack(seed):
    d = Draw(seed)
    axis, shape = d.integer(-3, 2), shape_of(d, 3)
    return move(d, "UNPACK", shape, count=shape[axis], options="Unpack", axis=axis, num=shape[axis])


def reshape(seed):
    d = Draw(seed)
    a, b, c = shape_of(d, 3, 2)
    new = d.one([c, a * b], [a, -1], [b, a, c], [-1])
    if d.one(True, False):
        return move(d, "RESHAPE", (a, b, c), new, version=1)
    return move(d, "RESHAPE", (a, b, c), version=1, options="Reshape", newShape=new)


def squeeze(seed):
    d = Draw(seed)
    dims, n = d.one([], [0], [2, 0], [-1]), d.integer(1, 6)
    return move(d, "SQUEEZE", (1, n, 1, n + 1, 1), version=1, options="Squeeze", squeezeDims=dims)


def expand(seed):
    d = Draw(seed)
    return move(d, "EXPAND_DIMS", shape_of(d, 3), [d.integer(-4, 3)], version=1, options="ExpandDims")


def transpose(seed):
    d = Draw(seed)
    rank = d.integer(2, 5)
    return move(d, "TRANSPOSE", shape_of(d, rank), d.random.permutation(rank), options="Transpose")


def pads(d, shape, most):
    return [[d.integer(0, min(most, n)), d.integer(0, min(most, n))] for n in shape]


def pad(seed):
    d = Draw(seed)
    shape = shape_of(d)
    return move(d, "PAD", shape, pads(d, shape, 3), options="Pad")


def padv2(seed):
    d = Draw(seed)
    shape, scale, zero = shape_of(d), d.scale(), d.zero()
    (x, _, _), (y, _, _) = (d.codes(s, scale, zero) for s in (shape, (1,)))
    value = d.build.tensor((), "INT8", np.array(d.integer(-128, 127)), scale=scale, zero=zero)
    return write("PADV2", d.build, [x, d.ints(pads(d, shape, 3)), value], [x], [y], 2, "PadV2")


def mirror_pad(seed):
    d = Draw(seed)
    shape, reflect = shape_of(d, d.integer(2, 4), 2), d.one(True, False)
    mode = schema.MirrorPadMode.REFLECT if reflect else schema.MirrorPadMode.SYMMETRIC
    most = [n - reflect for n in shape]
    many = [[d.integer(0, n), d.integer(0, n)] for n in most]
    return move(d, "MIRROR_PAD", shape, many, options="MirrorPad", mode=mode)


def cut(seed):
    d = Draw(seed)
    shape = shape_of(d, d.integer(1, 5))
    begin = [d.integer(0, n - 1) for n in shape]
    size = [d.integer(1, n - b) for n, b in zip(shape, begin, strict=True)]
    asked = [d.one(s, -1 if b + s == n else s) for n, b, s in zip(shape, begin, size, strict=True)]
    return move(d, "SLICE", shape, begin, asked, made=size, options="Slice")


def strided(seed):
    """Ranges with negative ends, backwards and beyond the tensor; axes dropped and entered; masks of each kind."""
    d = Draw(seed)
    shape = shape_of(d, d.integer(2, 4), 2)
    rows, masks = [], {"begin": 0, "end": 0, "ellipsis": 0, "newAxis": 0, "shrinkAxis": 0}
    axes, skipped = list(range(len(shape))), d.one(None, None, *range(len(shape)))
    for i, axis in enumerate(axes):
        n, kind, bit = shape[axis], d.one("range", "range", "back", "shrink"), 1 << i
        if axis == skipped:
            masks["ellipsis"] |= bit
            rows.append((0, 0, 1))
        elif kind == "shrink":
            masks["shrinkAxis"] |= bit
            begin = d.integer(-n, n - 1)
            rows.append((begin, begin + 1, 1))
        elif kind == "range":
            begin = d.integer(0, n - 1)
            end = d.integer(begin + 1, n + 2)
            sign = n if d.one(True, False) else 0
            rows.append((begin - sign, end - sign if end < n else end, d.integer(1, 3)))
            masks["begin"] |= bit * d.one(0, 0, 1)
            masks["end"] |= bit * d.one(0, 0, 1)
        else:
            begin = d.integer(1, n + 1)
            rows.append((begin, d.integer(0, min(begin, n - 1) - 1), -d.integer(1, 2)))
            masks["begin"] |= bit * d.one(0, 0, 1)
            masks["end"] |= bit * d.one(0, 0, 1)
    if d.one(True, False):
        masks["newAxis"] |= 1 << len(rows)
        rows.append((0, 0, 1))
    given = {f"{name}Mask": value for name, value in masks.items()}
    return move(d, "STRIDED_SLICE", shape, *zip(*rows, strict=True), version=4, options="StridedSlice", **given)


def split(seed):
    d = Draw(seed)
    axis, count, shape = d.integer(-4, 3), d.integer(1, 4), list(shape_of(d))
    shape[axis] *= count
    return move(d, "SPLIT", shape, count=count, before=[[axis]], options="Split", numSplits=count)


def split_v(seed):
    d = Draw(seed)
    axis, sizes, shape = d.integer(-4, 3), [d.integer(1, 4) for _ in range(d.integer(1, 4))], list(shape_of(d))
    shape[axis], asked = sum(sizes), [*sizes]
    if d.one(True, False):
        asked[d.integer(0, len(sizes) - 1)] = -1
    return move(d, "SPLIT_V", shape, asked, [axis], count=len(sizes), options="SplitV", numSplits=len(sizes))


def gather(seed):
    d = Draw(seed)
    axis, shape = d.integer(-4, 3), shape_of(d)
    places = d.random.integers(0, shape[axis], d.one((), (3,), (2, 2)))
    return move(d, "GATHER", shape, places, options="Gather", axis=axis)


def tile(seed):
    d = Draw(seed)
    return move(d, "TILE", shape_of(d, 3), [d.integer(1, 3) for _ in range(3)], version=2)


def broadcast(seed):
    d = Draw(seed)
    whole = shape_of(d)
    shape = [d.one(1, n) for n in whole][d.integer(0, 2) :]
    return move(d, "BROADCAST_TO", shape, whole, version=3)


def reverse(seed):
    d = Draw(seed)
    axes = d.one([0], [1], [2], [-1], [0, 1], [1, 2])
    return move(d, "REVERSE_V2", shape_of(d, 3), axes, version=3)


def blocks(seed, kind):
    d = Draw(seed)
    b, (n, h, w, c) = d.integer(1, 3), shape_of(d)
    if kind == "DEPTH_TO_SPACE":
        return move(d, kind, (n, h, w, c * b * b), version=1, options="DepthToSpace", blockSize=b)
    return move(d, kind, (n, h * b, w * b, c), options="SpaceToDepth", blockSize=b)


def batches(seed, kind):
    d = Draw(seed)
    rank = d.one(1, 2, 2)
    block, (n, h, w, c) = [d.integer(1, 3) for _ in range(rank)], shape_of(d)
    sides = [h, w][:rank]
    if kind == "BATCH_TO_SPACE_ND":
        crops = [[d.integer(0, k * b - 1), 0] for k, b in zip(sides, block, strict=True)]
        if d.one(True, False):
            crops = [pair[::-1] for pair in crops]
        return move(d, kind, (n * int(np.prod(block)), *sides, c), block, crops, options="BatchToSpaceND")
    before = [d.integer(0, 2) for _ in sides]
    padded = [[a, -(k + a) % b] for k, a, b in zip(sides, before, block, strict=True)]
    return move(d, kind, (n, *sides, c), block, padded, options="SpaceToBatchND")


def extreme_place(seed, kind):
    d = Draw(seed)
    x, _, _ = d.codes(shape_of(d, d.integer(1, 4)))
    rank = len(d.build.tensors[x].shape)
    y = d.build.tensor((1,), "INT32")
    options = {"options_kind": kind.title().replace("_", ""), "outputType": schema.TensorType.INT32}
    return write(kind, d.build, [x, d.ints([d.integer(-rank, rank - 1)])], [x], [y], 2, **options)


# --- codes and floats, plain integers ----------------------------------------------------------


def to_codes(seed):
    d = Draw(seed)
    x = d.build.tensor((8, 64), "FLOAT32")
    y, _, _ = d.codes((8, 64), d.scale(1e-3, 0.1))
    return write("QUANTIZE", d.build, [x], [x], [y], 1)


def to_floats(seed):
    d = Draw(seed)
    x, _, _ = d.codes((256,))
    y = d.build.tensor((256,), "FLOAT32")
    return write("DEQUANTIZE", d.build, [x], [x], [y], 2)


def plain(seed, kind, options, *constants, shape=(3, 4), version=1, out="INT32", **given):
    d = Draw(seed)
    x, y = d.build.tensor(shape, "INT32"), d.build.tensor((1,), out)
    return write(kind, d.build, [x, *(d.ints(c) for c in constants)], [x], [y], version, options, **given)


def plain_pair(seed, kind, options):
    d = Draw(seed)
    shape = shape_of(d, 3)
    other = d.one(shape, (1, shape[1], 1), (shape[2],))
    return plain(seed, kind, options, d.random.integers(-500, 500, other), shape=shape, version=1)


def product(seed):
    d = Draw(seed)
    axes, keep = d.one([0], [1], [-1], [0, 1]), d.one(True, False)
    return plain(seed, "REDUCE_PROD", "Reducer", axes, shape=(2, 2), keepDims=keep)


def segment_product(seed):
    d = Draw(seed)
    count = d.integer(1, 3)
    return plain(seed, "UNSORTED_SEGMENT_PROD", None, d.random.integers(0, count, 4), [count], shape=(4,))


def sizes(seed):
    d = Draw(seed)
    x, _, _ = d.codes([d.integer(1, 40) for _ in range(d.integer(1, 5))])
    return write("SHAPE", d.build, [x], [x], [d.build.tensor((1,), "INT32")], 1, "Shape",
                 outType=schema.TensorType.INT32)  # fmt: skip


def fill(seed):
    d = Draw(seed)
    dims, value, made = d.ints(shape_of(d, 3)), d.build.tensor((), "INT32"), d.build.tensor((1,), "INT32")
    return write("FILL", d.build, [dims, value], [value], [made], 1)


def cast(seed):
    d = Draw(seed)
    kinds = ("INT8", "INT32", "INT64", "BOOL", "UINT8")
    a, b = d.one("INT8", "INT32"), d.one(*kinds)
    x, y = d.build.tensor((4, 30), a), d.build.tensor((4, 30), b)
    types = {"inDataType": getattr(schema.TensorType, a), "outDataType": getattr(schema.TensorType, b)}
    return write("CAST", d.build, [x], [x], [y], 1, "Cast", **types)


MOVES = {
    "CONCATENATION": concatenation,
    "PACK": pack,
    "UNPACK": unpack,
    "RESHAPE": reshape,
    "SQUEEZE": squeeze,
    "EXPAND_DIMS": expand,
    "TRANSPOSE": transpose,
    "PAD": pad,
    "PADV2": padv2,
    "MIRROR_PAD": mirror_pad,
    "SLICE": cut,
    "STRIDED_SLICE": strided,
    "SPLIT": split,
    "SPLIT_V": split_v,
    "GATHER": gather,
    "TILE": tile,
    "BROADCAST_TO": broadcast,
    "REVERSE_V2": reverse,
    "DEPTH_TO_SPACE": lambda seed: blocks(seed, "DEPTH_TO_SPACE"),
    "SPACE_TO_DEPTH": lambda seed: blocks(seed, "SPACE_TO_DEPTH"),
    "SPACE_TO_BATCH_ND": lambda seed: batches(seed, "SPACE_TO_BATCH_ND"),
    "BATCH_TO_SPACE_ND": lambda seed: batches(seed, "BATCH_TO_SPACE_ND"),
    "ARG_MAX": lambda seed: extreme_place(seed, "ARG_MAX"),
    "ARG_MIN": lambda seed: extreme_place(seed, "ARG_MIN"),
    "QUANTIZE of floats": to_codes,
    "DEQUANTIZE": to_floats,
    "ADD of int32": lambda seed: plain_pair(seed, "ADD", "Add"),
    "SUB of int32": lambda seed: plain_pair(seed, "SUB", "Sub"),
    "MUL of int32": lambda seed: plain_pair(seed, "MUL", "Mul"),
    "REDUCE_PROD": product,
    "UNSORTED_SEGMENT_PROD": segment_product,
    "SHAPE": sizes,
    "FILL": fill,
    "CAST": cast,
}
