"""What a benchmark of a GPU needs beside kernels: its clock, its description, the vendor's library, and a check."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import numpy as np

from hwlimits.kernels.cuda_device import cuda

PACKAGES = ("hwlimits", "numpy", "numba", "numba-cuda", "cuda-bindings", "cuda-core", "cupy-cuda13x", "cupy-cuda12x",
            "torch")  # fmt: skip
SMI = (
    "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit", "power.draw",
    "temperature.gpu", "pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current", "pcie.link.width.max",
    "ecc.mode.current", "persistence_mode",
)  # fmt: skip
POISON = 0x7F7F7F7F  # of a kernel's output before it runs: 3.4e38 as float32, which no result here comes near


class EventClock:
    """Seconds by the device's own events, as `machine.timing` wants a clock: a call waits until the device is there.

    An event is recorded behind all work started before, so that the difference of two calls is the device's time
    for what was started between them. Differences are summed: one alone keeps 24 bits, from the start of all on
    too few.
    """

    def __init__(self):
        self._last, self._now_s = self._event(), 0.0

    def __call__(self) -> float:
        event = self._event()
        self._now_s += cuda.event_elapsed_time(self._last, event) / 1e3
        self._last = event
        return self._now_s

    @staticmethod
    def _event():
        event = cuda.event()
        event.record()
        event.synchronize()
        return event


def describe() -> dict:
    """The device and what drives it, without anything that names its owner."""
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    return {
        "name": name,
        "compute_capability": ".".join(map(str, device.compute_capability)),
        "multiprocessors": device.MULTIPROCESSOR_COUNT,
        "l2_bytes": getattr(device, "L2_CACHE_SIZE", None),
        "memory_bytes": int(cuda.current_context().get_memory_info()[1]),
        "cuda_runtime": _runtime(),
        "nvidia_smi": smi(),
    }


def slug(name: str) -> str:
    """A device's name as part of a file's.

    >>> slug("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def smi() -> dict[str, str]:
    """What nvidia-smi says of the first device now; empty if it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in said.stdout.strip().split(",")]
    return dict(zip(SMI, values, strict=True)) if said.returncode == 0 and len(values) == len(SMI) else {}


def _runtime() -> str:
    try:
        return ".".join(map(str, cuda.runtime.get_version()))
    except Exception as error:  # another version of numba-cuda, another place: a missing number is no reason to stop
        return f"not told ({type(error).__name__})"


def poisoned(shape, dtype=np.float32):
    """An array of the device full of POISON: what a kernel leaves out is seen."""
    size = int(np.prod(shape))
    host = np.full(size, POISON, np.int32).view(dtype).reshape(shape)
    return cuda.to_device(host)


def check(what: str, got: np.ndarray, exact: np.ndarray, bound) -> float:
    """The largest error, in shares of its bound. Raises ArithmeticError, which names the first element beyond it."""
    error = np.abs(got.astype(np.float64) - exact)
    beyond = ~(error <= bound)  # NaN is beyond every bound
    if beyond.any():
        first = tuple(int(i) for i in np.argwhere(beyond)[0])
        raise ArithmeticError(
            f"{what}: {beyond.sum():,} of {beyond.size:,} elements are wrong; the first is {first}, "
            f"{got[first]!r} where {exact[first]!r} is right"
        )
    return float(np.max(error / np.maximum(bound, np.finfo(float).tiny)))


def vendor_product(a, b, c) -> tuple[str, Callable] | None:
    """cuBLAS's float32 product into `c`, TF32 off, by CuPy or PyTorch: (name, call); None without both."""
    try:
        import cupy
    except ImportError:
        pass
    else:
        x, y, out = cupy.asarray(a), cupy.asarray(b), cupy.asarray(c)
        return f"cuBLAS float32 (CuPy {cupy.__version__})", lambda: cupy.matmul(x, y, out=out)
    torch = _torch()
    if torch is None:
        return None
    x, y, out = (torch.as_tensor(z, device="cuda") for z in (a, b, c))
    return f"cuBLAS float32 (PyTorch {torch.__version__})", lambda: torch.mm(x, y, out=out)


def vendor_convolution(x, weights, bias) -> tuple[str, Callable] | None:
    """cuDNN's float32 convolution and PyTorch's ReLU, TF32 off, channels last: (name, call); None without it.

    The call returns its result, (images, filters, height, width).
    """
    torch = _torch()
    if torch is None:
        return None
    x, weights, bias = (torch.as_tensor(z, device="cuda") for z in (x, weights, bias))
    pixels = x.permute(0, 3, 1, 2)
    kernel = weights.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    convolution = torch.nn.functional.conv2d
    return f"cuDNN float32 (PyTorch {torch.__version__})", lambda: convolution(pixels, kernel, bias).relu_()


def _torch():
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():  # a build for processors, as the appendix has it
        return None
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.set_grad_enabled(False)
    return torch
