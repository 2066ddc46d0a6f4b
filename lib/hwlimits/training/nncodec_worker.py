"""Integers through nncodec and back: runs in an environment of its own, `python nncodec_worker.py INPUTS.npz OUT.json`.

nncodec is Fraunhofer HHI's implementation of ISO/IEC 15938-17, with the coder DeepCABAC. Its front door imports
PyTorch and torchvision, to open their models; what codes tensors is the package nncodec.nnc_core, which needs NumPy
alone. `coded` does what nncodec.nnc.compress does for arrays, step by step. This file imports nothing of hwlimits.

The arrays of INPUTS.npz are named "INPUT/NUMBER". Every setting that may give the integers back is tried, tensor by
tensor, and the smallest is kept, so that one stream holds every tensor with its own best settings. (Dependent
quantization is not among them: it moves the values on purpose.)
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

ONE_AS_STEP = 0  # the quantization parameter of a step of 1: floats that are whole numbers stay what they are
SLOW_CODEBOOK = 20_000  # values; above, the codebook's zero is the most frequent value, without nncodec's search
PERFORMANCE_MAPS = ("sparsification_flag", "pruning_flag", "unification_flag", "decomposition_performance_map_flag")
# method, optimized states of the contexts, empty rows skipped, unary decisions, order of the values, first axis last
SETTINGS = (
    *itertools.product(("integer",), (1,), (1, 0), (3, 6, 11), (0,), (0, 1)),
    *itertools.product(("integer",), (0,), (1, 0), (6,), (0,), (0, 1)),
    *itertools.product(("integer",), (1,), (0,), (11,), (4,), (0, 1)),
    *itertools.product(("codebook",), (1,), (0,), (4, 11), (0,), (0, 1)),
)
REPEATS = 3


def coded(tensors: dict, setting: tuple) -> bytearray:
    """The bit stream of named int32 arrays: what nncodec.nnc.compress(tensors, ...) returns."""
    from nncodec.nnc_core import approximator, coder, nnr_model

    method, optimized, skip_rows, unary, order, _ = setting
    codebook = method == "codebook"
    tensors = {name: np.asarray(a, np.float32 if codebook else np.int32) for name, a in tensors.items()}
    model = nnr_model.NNRModel(tensors).model_info
    data = approximator.init_approx_data(tensors, model, qp_density=2, scan_order=order)
    quantization = approximator.ApproxInfo(
        data, model, "codebook" if codebook else "uniform", int(codebook), ONE_AS_STEP, False, True, unary - 1, 0,
        qp_per_tensor={name: np.int32(ONE_AS_STEP) for name in tensors},
    ).approx_info  # fmt: skip
    options = {
        "cabac_unary_length_minus1": unary - 1, "param_opt_flag": optimized, "row_skip_enabled_flag": skip_rows,
        "partial_data_counter": 0, "general_profile_idc": 1, "node_id_present_flag": 1, "device_id": 0,
        "mps_parent_signalling_enabled_flag": 0, "parent_node_id_present_flag": 0,
        "temporal_context_modeling_flag": 0, "pre_signalling": 0,
    }  # fmt: skip
    data = approximator.approx(quantization, model, data, options)
    stream, _ = coder.encode(enc_info=options, model_info=model, approx_data=data)
    return stream


def decoded(stream: bytearray) -> tuple[dict, int]:
    """The arrays by name, and how many bytes of the stream are headers: what is not coded values."""
    from nncodec.nnc_core import approximator, coder

    names = ("parameter_type", "parameter_dimensions", "parameter_index", "block_identifier")
    model = {name: {} for name in names} | {"topology_storage_format": None, "topology_compression_format": None}
    model["performance_maps"] = {"mps": {}, "lps": {}}
    model["performance_map_flags"] = {f"{unit}_{flag}": {} for unit in ("mps", "lps") for flag in PERFORMANCE_MAPS}
    found = {}
    data = coder.decode(stream, model, hls_stats=found, oob_dict={})
    approximator.rec(data)
    arrays = approximator.recompose_params(model, data)["parameters"]
    return arrays, found["start_bytes"] + found["mps_bytes"] + found["bytes_tpl"] + sum(found["ndu_bytes"])


def smallest(tensors: dict) -> tuple[bytearray, dict]:
    """The shortest stream from which the very integers come back, and the setting of each tensor."""
    best = {}
    for name, array in tensors.items():
        for setting in SETTINGS:
            if setting[-1] and array.ndim < 2:
                continue
            given = np.ascontiguousarray(np.moveaxis(array, -1, 0)) if setting[-1] else array
            quick_codebooks(given.size > SLOW_CODEBOOK)
            try:
                stream = coded({name: given}, setting)
            except KeyError:  # nncodec 2.1.3 itself, where a tensor has fewer rows than a block
                if setting[4]:
                    continue
                raise
            if name in best and len(stream) >= len(best[name][0]):
                continue
            if same(decoded(bytearray(stream))[0], {name: given}):
                best[name] = stream, setting, given
    whole = bytearray()
    for number, (stream, _, _) in enumerate(best.values()):
        whole += stream[units_before_tensors(stream) if number else 0 :]
    if not same(decoded(bytearray(whole))[0], {name: given for name, (_, _, given) in best.items()}):
        raise SystemExit("the stream of all tensors together does not give them back")
    return whole, {name: setting for name, (_, setting, _) in best.items()}


def units_before_tensors(stream: bytearray) -> int:
    """Bytes of the start, the parameters and the topology of a stream: each unit begins with its length in 2 bytes."""
    at = 0
    for _ in range(3):
        size = stream[at] << 8 | stream[at + 1]
        assert not size >> 15, "a length of four bytes belongs to tensors alone"
        at += size
    return at


def same(found: dict, given: dict) -> bool:
    return list(found) == list(given) and all(np.array_equal(found[n], a) for n, a in given.items())


def quick_codebooks(quick: bool, kept: list = []) -> None:  # noqa: B006 (the function as it was, kept once)
    """Replace nncodec's search for the codebook's zero, which codes the tensor once for each value, or put it back."""
    from nncodec.nnc_core.approximator import codebook

    def most_frequent(book, indices, _):
        zero = int(np.bincount(indices.ravel()).argmax())
        return book, indices - np.int32(zero), zero

    kept or kept.append(codebook.get_codebook_offset)
    codebook.get_codebook_offset = most_frequent if quick else kept[0]


def median_s(call) -> float:
    """Median of the times of REPEATS calls, in seconds."""
    samples = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def main(inputs: str, out: str) -> None:
    """Code every input of the file, and write what was found."""
    groups = {}
    with np.load(inputs) as arrays:
        for key in arrays.files:
            groups.setdefault(key.rsplit("/", 1)[0], []).append(arrays[key].astype(np.int32))
    found = {}
    for name, tensors in groups.items():
        if len(tensors) > 52:
            raise SystemExit(f"{name}: {len(tensors)} tensors, and names of one letter end at 52")
        named = {chr((65 if i < 26 else 71) + i): a for i, a in enumerate(tensors)}
        stream, settings = smallest(named)

        def encode(named=named, settings=settings):
            for one, setting in settings.items():
                quick_codebooks(True)
                coded({one: np.moveaxis(named[one], -1, 0).copy() if setting[-1] else named[one]}, setting)

        found[name] = {
            "bytes": len(stream), "header_bytes": decoded(bytearray(stream))[1],
            "encode_s": median_s(encode), "decode_s": median_s(lambda s=stream: decoded(bytearray(s))),
            "settings": sorted({" ".join(map(str, s)) for s in settings.values()}),
        }  # fmt: skip
        print(name, found[name], file=sys.stderr, flush=True)
    content = {"version": version("nncodec"), "numpy": np.__version__, "found": found}
    Path(out).write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
