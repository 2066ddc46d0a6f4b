"""The course's coders beside others on the same integers: `make bench-coding` writes data/results/coders.csv.

Every size is that of bytes from which the decoder has the integers again, bit for bit; that is checked before a
row is written. What a coder says beside the values (names, shapes, types, a checksum) is in `bytes`, and by itself in
`header_bytes`: nncodec's and ours tell shapes; zlib, lzma and ours in one stream do not, so that their bytes stand
beside what nncodec needs for the values alone, `values_per_nncodec`. The peers get their best
settings: nncodec the shortest of its ways for each tensor, lzma the shortest of its parameters, constriction the
table that ours has, at ours' price.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import constriction
import numpy as np

from hwlimits import coding, contexts, data, huffman, progress, rans
from hwlimits.bits import Reader, Writer
from hwlimits.machine.provenance import provenance, require_clean_commit, store_table
from hwlimits.machine.timing import Timing
from hwlimits.training import coder_inputs

OURS = {
    "ours: rice": ("rice", None), "ours: rice, gaps": ("rice", "rice"),
    "ours: huffman": ("huffman", None), "ours: huffman, gaps": ("huffman", "huffman"),
    "ours: rans": ("rans", None), "ours: rans, gaps": ("rans", "rans"),
    "ours: contexts": ("contexts", None),
}  # fmt: skip
ONE_STREAM = "ours: contexts, one stream"
WORD_BYTES = 4  # constriction's
REPEATS = 3
LONG_S = 0.5
COLUMNS = (
    "input", "tensors", "values", "nonzero", "entropy_bytes", "coder", "bytes", "header_bytes",
    "per_entropy", "per_nncodec", "values_per_nncodec", "encode_s", "decode_s", "settings",
)  # fmt: skip

Tensors = Sequence[np.ndarray]


def rows(name: str, tensors: Tensors, nncodec: dict | None = None, repeats: int = REPEATS) -> Iterator[dict]:
    """Lines of the table of one input; `nncodec` is what nncodec_worker found for it."""
    entropy = sum(coding.entropy_bits(t) for t in tensors) / 8
    of_input = (name, len(tensors), sum(t.size for t in tensors), sum(np.count_nonzero(t) for t in tensors), entropy)

    def row(coder, size, header, encode_s, decode_s, settings=""):
        compared = [float("nan")] * 2
        if nncodec:
            compared = [size / nncodec["bytes"], (size - header) / (nncodec["bytes"] - nncodec["header_bytes"])]
        values = (*of_input, coder, size, header, size / entropy, *compared, encode_s, decode_s, settings)
        return dict(zip(COLUMNS, values, strict=True))

    header = sum(header_bytes(t) for t in tensors)
    for coder, (encode, decode, header_of) in coders(header).items():
        content, encode_s = timed(lambda e=encode: e(tensors), repeats)
        found, decode_s = timed(lambda d=decode, c=content: d(c, tensors), repeats)
        if not all(np.array_equal(a, b) for a, b in zip(found, tensors, strict=True)):
            raise SystemExit(f"{coder} does not give the integers of {name!r} back")
        size = sum(map(len, content)) if isinstance(content, list) else len(content)
        yield row(coder, size, header_of, encode_s, decode_s)
    yield from (row(*found) for found in constriction_rows(tensors, header, repeats))
    if nncodec:
        yield row(
            "nncodec", nncodec["bytes"], nncodec["header_bytes"], nncodec["encode_s"], nncodec["decode_s"],
            "; ".join(nncodec["settings"]),
        )  # fmt: skip


def timed(call: Callable, repeats: int = REPEATS) -> tuple[object, float]:
    """What the call gives, and the median time of a few single calls in seconds.

    The first is a warm-up, unless it takes so long that a cold cache is nothing beside it.
    """
    samples, warm = [], False
    while len(samples) < repeats:
        start = time.perf_counter()
        result = call()
        samples.append(time.perf_counter() - start)
        if not warm and samples[0] < LONG_S:
            samples.clear()
        warm = True
    return result, Timing(tuple(samples)).median_s


def coders(header: int) -> dict[str, tuple[Callable, Callable, int]]:
    """encode(tensors) -> bytes or a list of them, decode(content, tensors) -> arrays, header bytes; by name."""
    found = {}
    for name, (code, gaps) in OURS.items():
        found[name] = (
            lambda tensors, c=code, g=gaps: [coding.encode(t, c, gaps=g) for t in tensors],
            lambda content, tensors: [coding.decode(c, t.size) for c, t in zip(content, tensors, strict=True)],
            header,
        )
    found[ONE_STREAM] = (one_stream, of_one_stream, 0)
    found["zlib, level 9"] = (lambda tensors: zlib.compress(as_bytes(tensors), 9), _of_zlib, 0)
    found["lzma"] = (shortest_lzma, _of_lzma, 1)
    return found


def header_bytes(tensor: np.ndarray) -> int:
    """Bytes of `coding.encode` for the checksum, the code, the type and the shape, rounded up."""
    out = Writer()
    out.fixed(0, 32 + 7)
    for number in (tensor.ndim, *tensor.shape):
        out.number(number)
    return len(out.content())


# --- ours, all tensors in one ----------------------------------------------------------------


def one_stream(tensors: Tensors) -> bytes:
    """The tensors through one coder, so that a later one gains from what is learnt of an earlier; shapes not told."""
    out = Writer()
    contexts.write(out, tensors)
    return out.content()


def of_one_stream(content: bytes, tensors: Tensors) -> list[np.ndarray]:
    """What `one_stream` coded; a network's layers say the shapes, here `tensors`."""
    return contexts.read(Reader(content), [t.shape for t in tensors])


# --- the general ones ------------------------------------------------------------------------


def as_bytes(tensors: Tensors) -> bytes:
    """The tensors' bytes in a row, one of them for each integer where it has room."""
    return b"".join(t.tobytes() for t in tensors)


def _of_bytes(content: bytes, tensors: Tensors) -> list[np.ndarray]:
    ends = np.cumsum([0, *(t.nbytes for t in tensors)])
    parts = zip(ends[:-1], tensors, strict=True)
    return [np.frombuffer(content[at : at + t.nbytes], t.dtype).reshape(t.shape) for at, t in parts]


def _of_zlib(content: bytes, tensors: Tensors) -> list[np.ndarray]:
    return _of_bytes(zlib.decompress(content), tensors)


def lzma_filter(context_bits: int) -> list[dict]:
    """LZMA at its slowest, for bytes that are aligned to nothing."""
    return [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": context_bits, "lp": 0, "pb": 0}]


def shortest_lzma(tensors: Tensors) -> bytes:
    """A byte that says lc, and the shortest raw stream, without the 60 bytes of an .xz file."""
    given = as_bytes(tensors)
    streams = (bytes([lc]) + lzma.compress(given, lzma.FORMAT_RAW, filters=lzma_filter(lc)) for lc in range(5))
    return min(streams, key=len)


def _of_lzma(content: bytes, tensors: Tensors) -> list[np.ndarray]:
    return _of_bytes(lzma.decompress(content[1:], lzma.FORMAT_RAW, filters=lzma_filter(content[0])), tensors)


# --- constriction ----------------------------------------------------------------------------


def constriction_rows(tensors: Tensors, header: int, repeats: int = REPEATS) -> Iterator[tuple]:
    """constriction's three coders with the table of ours: coder, bytes, header bytes, seconds to encode and to decode.

    It codes no tables: symbols, counts and shapes cost what `coding.encode` writes for them.
    """
    prepared = []
    for tensor in tensors:
        symbols, indices, counts = np.unique(tensor, return_inverse=True, return_counts=True)
        prepared.append((symbols, indices.ravel().astype(np.int32), counts))
    for name, code in (("AnsCoder", "rans"), ("RangeCoder", "rans"), ("Huffman", "huffman")):
        tables = [_without_values(t, code, *p[1:]) for t, p in zip(tensors, prepared, strict=True)]
        encode, decode = CONSTRICTION[name]
        words, encode_s = timed(lambda e=encode: [e(i, c) for _, i, c in prepared], repeats)
        coded = list(zip(words, prepared, strict=True))
        found, decode_s = timed(lambda d=decode, w=coded: [d(x, c, i.size) for x, (_, i, c) in w], repeats)
        if not all(np.array_equal(a, i) for a, (_, i, _) in zip(found, prepared, strict=True)):
            raise SystemExit(f"constriction's {name} does not give the integers back")
        yield f"constriction: {name}", sum(tables) + sum(WORD_BYTES * w.size for w in words), header, encode_s, decode_s


def _without_values(tensor: np.ndarray, code: str, indices: np.ndarray, counts: np.ndarray) -> int:
    """Bytes of `coding.encode` without what it writes for each value: header and table, rounded up."""
    out = Writer()
    (huffman if code == "huffman" else rans).write(out, indices, counts)
    table = Writer()
    if code == "rans":
        precision, frequencies = rans.table(counts)
        table.fixed(precision, 6)
        table.rice(frequencies - 1)
    elif len(counts) > 1:
        lengths = huffman.code_lengths(counts)
        table.codes(lengths, np.full(lengths.size, huffman.LONGEST.bit_length()))
    return len(coding.encode(tensor, code)) - len(out.content()) + len(table.content())


def categorical(counts: np.ndarray):
    """constriction's model of the shares that our rANS gives the symbols."""
    precision, frequencies = rans.table(counts)
    return constriction.stream.model.Categorical(frequencies / 2.0**precision, perfect=False)


def _ans_encode(indices: np.ndarray, counts: np.ndarray) -> np.ndarray:
    if len(counts) == 1:
        return np.zeros(0, np.uint32)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(indices, categorical(counts))
    return coder.get_compressed()


def _ans_decode(words: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    if len(counts) == 1:
        return np.zeros(size, np.int32)
    return constriction.stream.stack.AnsCoder(words).decode(categorical(counts), size)


def _range_encode(indices: np.ndarray, counts: np.ndarray) -> np.ndarray:
    if len(counts) == 1:
        return np.zeros(0, np.uint32)
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(indices, categorical(counts))
    return coder.get_compressed()


def _range_decode(words: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    if len(counts) == 1:
        return np.zeros(size, np.int32)
    return constriction.stream.queue.RangeDecoder(words).decode(categorical(counts), size)


def _huffman_encode(indices: np.ndarray, counts: np.ndarray) -> np.ndarray:
    tree = constriction.symbol.huffman.EncoderHuffmanTree(counts.astype(np.float64))
    coder = constriction.symbol.QueueEncoder()
    for index in indices.tolist():
        coder.encode_symbol(index, tree)
    return coder.get_compressed()[0]


def _huffman_decode(words: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    tree = constriction.symbol.huffman.DecoderHuffmanTree(counts.astype(np.float64))
    coder = constriction.symbol.QueueDecoder(words)
    return np.array([coder.decode_symbol(tree) for _ in range(size)], np.int32)


CONSTRICTION = {
    "AnsCoder": (_ans_encode, _ans_decode),
    "RangeCoder": (_range_encode, _range_decode),
    "Huffman": (_huffman_encode, _huffman_decode),
}


# --- nncodec ---------------------------------------------------------------------------------


def by_nncodec(python: str, inputs: dict[str, Tensors]) -> dict:
    """What nncodec_worker finds for the inputs, run by the Python of nncodec's environment."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "inputs.npz"), Path(folder, "found.json")
        np.savez(given, **{f"{name}/{i}": t for name, tensors in inputs.items() for i, t in enumerate(tensors)})
        worker = Path(__file__).with_name("nncodec_worker.py")
        # isolated: whatever PYTHONPATH points to belongs to another NumPy
        subprocess.run([python, "-I", worker, given, found], check=True, stdout=subprocess.DEVNULL)
        return json.loads(found.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all inputs, and store the table."""
    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.coders")
    parser.add_argument("--nncodec", required=True, help="the Python of an environment with nncodec; see peers/")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="timed calls of each coder, after one untimed")
    parser.add_argument("--out", type=Path, help="a table for yourself, from a checkout with changes")
    options = parser.parse_args(arguments)
    if options.out is None:
        require_clean_commit()
    inputs = coder_inputs.made_up() | coder_inputs.stored()
    peer = by_nncodec(options.nncodec, inputs)
    found = []
    for name, tensors in progress.bar(inputs.items(), desc="coders", unit="input"):
        found += rows(name, tensors, peer["found"][name], options.repeats)
    made_by = provenance(
        "make bench-coding", seeds=[coder_inputs.SEED], constriction=version("constriction"),
        nncodec={"version": peer["version"], "numpy": peer["numpy"]}, zlib=zlib.ZLIB_RUNTIME_VERSION,
    )  # fmt: skip
    store_table(options.out or data.path("results") / "coders.csv", COLUMNS, found, made_by)


if __name__ == "__main__":
    main()
