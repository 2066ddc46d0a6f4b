"""The processor with and without its int8 dot products: what is left out is left out, and the rates are rates."""

import os
import platform
import subprocess
import sys

import pytest

from hwlimits.kernels import int8_instructions as instructions
from hwlimits.kernels import peak, simd

PROGRAM = (
    "from hwlimits.kernels import peak, simd\n"
    "print(simd.INT8_DOT.name, simd.REGISTER_BYTES, *peak.INSTRUCTIONS['int8'].name.split()[:1])"
)


def chosen(features: str) -> list[str]:
    """What kernels compiled for these features multiply with, and the width of their registers."""
    environment = os.environ | {"NUMBA_CPU_FEATURES": features}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split()


def test_only_the_dot_products_are_left_out():
    names = set(instructions.features(without=True).split(","))
    there = {name[1:] for name in names if name[0] == "+"}
    assert there == simd.cpu_features() - instructions.DOT_PRODUCTS
    assert {name[1:] for name in names if name[0] == "-"} == simd.cpu_features() & instructions.DOT_PRODUCTS
    assert set(instructions.features().split(",")) == {f"+{name}" for name in simd.cpu_features()}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="code for x86")
def test_the_kernels_then_take_pairs_of_int16():
    width = str(simd.REGISTER_BYTES)
    assert chosen(instructions.features(without=True)) == ["vpmaddwd", width, "vpmaddwd"]
    assert chosen(instructions.features())[:2] == [simd.INT8_DOT.name, width]


def test_a_peak_is_what_the_operations_of_its_instruction_are():
    """Wide bounds: a peak of twenty clocks of other programs' time is none, but it is no tenth or tenfold either."""
    found = instructions.peaks(without=True)
    assert found.instruction == "none" or found.instruction.startswith("vpmaddwd")
    assert 1e9 < found.fp32_flops_per_s < 1e13
    assert 0.3 < found.int8_ops_per_s / found.fp32_flops_per_s < 6
    expected = peak.INSTRUCTIONS["int8"].name if "int8" in peak.PRECISIONS else "none"
    assert instructions.peaks().instruction == expected


def test_a_product_comes_back_as_a_comparison():
    found = instructions.product(64, without=True)
    assert len(found.a.samples_s) == len(found.b.samples_s) == 11
    assert found.low <= found.ratio <= found.high
    assert found.ratio == pytest.approx(found.a.median_s / found.b.median_s, rel=0.5)


def test_what_can_t_be_is_said():
    with pytest.raises(ValueError, match=r"product\(n=0\): a matrix has at least one row"):
        instructions.product(0)


def test_a_process_that_fails_is_quoted():
    with pytest.raises(
        RuntimeError, match=r"(?s)int8_instructions: the measuring process failed: .*invalid literal for int"
    ):
        instructions._child("product none", False)
