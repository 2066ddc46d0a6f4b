"""The peak's kernels against the same arithmetic in Python: each step of each chain is done."""

import pytest

from hwlimits.kernels import peak


@pytest.mark.parametrize("precision", peak.PRECISIONS)
def test_the_peak_kernel_does_each_step_of_each_chain(precision):
    """What the chains end in shows that none was left out, merged with another or cut short."""
    steps, (y, z) = 9, peak._FACTORS[precision]
    kernel = peak._KERNELS[precision]
    name = peak.INSTRUCTIONS[precision].name
    total = 0
    for chain in range(peak.CHAINS):
        x = chain
        for _ in range(steps):
            x = step(name, x, y, z)
        total = total + x if name == "fma" else int32(total + x)
    assert kernel(steps, y, z) == pytest.approx(float(total), rel=1e-6)
    assert kernel(steps + 1, y, z) != kernel(steps, y, z)


def int32(n):
    """What a register keeps of a number: it wraps around."""
    return (n + 2**31) % 2**32 - 2**31


def step(name, x, y, z):
    """One lane of the instruction, in Python's integers and floats."""
    if name == "fma":
        return x * float(y) + float(z)
    if name.startswith("vpmaddwd"):  # x as two int16, times the two of y
        low, high = (x & 0xFFFF), (x >> 16 & 0xFFFF)
        return int32(x + (low - 0x10000 * (low >> 15)) * 0x0101 + (high - 0x10000 * (high >> 15)) * 0x0101)
    return x + 4  # four products of 1 and 1


def test_the_count_of_operations_is_that_of_the_registers():
    for precision, width in (("fp32", 4), ("fp64", 8)):
        lanes = peak.REGISTER_BYTES // width
        assert peak.run(precision, 100) == 100 * peak.CHAINS * lanes * 2
    if "int8" in peak.PRECISIONS:
        assert peak.run("int8", 100) % (100 * peak.CHAINS) == 0


def test_a_precision_without_a_kernel_is_an_error_that_lists_those_there_are():
    with pytest.raises(ValueError, match=r"peak.run\('fp16'\): this processor's kernels are for fp32, fp64"):
        peak.run("fp16", 10)
