"""What the course needs, whether it is here, and how to get what is not. Nothing is loaded or downloaded for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hwlimits import runtime
from hwlimits.runtime import requirement as _requirement

OK, MISSING, NOTE = "ok", "missing", "note"
LEAST_DISK_BYTES = 1e9  # MNIST, the trained models of a case study, and the file that calibration writes
LEAST_MEMORY_BYTES = 2e9  # not a hardware figure: a training of the case study on all of MNIST peaks at 1.7e9
CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Check:
    """One thing that was looked for.

    status   'ok'; 'missing': the course can't run without it; 'note': it can, and `how` says what it would bring
    """

    name: str
    status: str
    found: str
    how: str = ""


def look() -> list[Check]:
    """Everything that was looked for, in the order of the report.

    >>> {check.status for check in look()} <= {"ok", "missing", "note"}
    True
    """
    looks = {
        "Python": _python, "packages": _packages, "tflite-micro": _tflite_micro, "kernel of JupyterLab": _kernel,
        "course data": _course_data, "MNIST": _mnist, "processor": _processor, "vector registers": _simd,
        "memory": _memory, "disk": _disk, "machine card": _card, "C compiler": _compiler, "GPU": _gpu,
    }  # fmt: skip
    return [check for name, one in looks.items() for check in _looked(name, one)]


def _looked(name: str, one: Callable) -> list[Check]:
    try:
        found = one()
    except Exception as error:  # a broken package breaks what is looked up with it; the rest is still told
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return [Check(name, NOTE, f"can't be told ({reason})", "repair what is missing above, and look again")]
    return found if isinstance(found, list) else [Check(name, *found)]


def _project() -> tuple[str, list[str]]:
    return runtime.project(CHECKOUT, extras=("course",))


def _python() -> tuple:
    found, wanted = ".".join(map(str, sys.version_info[:3])), _project()[0]
    if _requirement(f"python{wanted}").specifier.contains(found):
        return OK, f"{found}, {sys.executable}"
    return MISSING, f"{found}, {sys.executable}", f"install Python {wanted} and say: make PYTHON=/path/to/it setup"


def _packages() -> list[Check]:
    wanted = [_requirement(text) for text in _project()[1]]
    return [_package(r) for r in wanted if r.name != "tflite-micro" and _for_here(r)]


def _for_here(requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": "course"})


def _package(requirement) -> Check:
    name, wanted = requirement.name, str(requirement.specifier)
    line = f'python -m pip install "{name}{wanted}"'
    how = f"make setup, or: {line}" if (CHECKOUT / "Makefile").exists() else line
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, MISSING, "not installed", how)
    if not requirement.specifier.contains(found, prereleases=True):
        return Check(name, MISSING, f"{found}, and {wanted} is needed", how)
    return Check(name, OK, found)


def _tflite_micro() -> tuple:
    for requirement in map(_requirement, _project()[1]):
        if requirement.name == "tflite-micro" and _for_here(requirement):
            found = _package(requirement)
            return (OK if found.status == OK else NOTE), found.found, found.how
    return NOTE, "it has no wheels for this system: the case study leaves its microcontroller stage out"


def _kernel() -> tuple:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        found = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return MISSING, "there is no kernel python3", "make setup, or: python -m pip install ipykernel"
    program = shutil.which(found.argv[0]) or found.argv[0]
    here = {os.path.dirname(path) for path in (sys.executable, os.path.realpath(sys.executable))}
    if os.path.isabs(found.argv[0]) and os.path.dirname(program) not in here:
        how = f"remove {found.resource_dir}, in which another installation has put itself in front"
        return MISSING, f"python3 runs {program}, not this Python", how
    return OK, "python3"


def _course_data() -> tuple:
    from hwlimits import data

    try:
        return OK, str(data.path("mnist-5k.npz").parent)
    except FileNotFoundError as error:
        return MISSING, str(error), "install hwlimits again, or restore data/ in the checkout"


def _mnist() -> tuple:
    from hwlimits.data import cache_folder

    if named := os.environ.get("HWLIMITS_MNIST"):
        if Path(named).expanduser().is_file():
            return OK, f"{named}, which HWLIMITS_MNIST names"
        return MISSING, f"HWLIMITS_MNIST names {named}, and there is no such file", "unset it, or name MNIST's file"
    cached = cache_folder() / "mnist.npz"
    if cached.is_file():
        return OK, f"all of it, in {cached}"
    return NOTE, f"not in {cached.parent} yet", "downloaded when first needed; else the 5,000 images of the course"


def _processor() -> tuple:
    from hwlimits.machine import processor, provenance

    found, usable = provenance.machine(), processor.usable_cores()
    quota = processor.cpu_quota()
    limit = "" if quota is None else f", limited to {quota:g} cores' time"
    return OK, f"{found['cpu']}: {found['cores']} cores, {usable} usable{limit}, {found['threads']} threads"


def _simd() -> tuple:
    from hwlimits.kernels import simd

    fma = "" if simd.HAS_FMA else "out"
    found = f"{simd.REGISTERS} of {8 * simd.REGISTER_BYTES} bits, with{fma} fused multiply-add"
    return (OK if simd.HAS_FMA else NOTE), found


def _memory() -> tuple:
    import psutil

    from hwlimits.machine import processor

    free = processor.available_memory_bytes()
    found = f"{psutil.virtual_memory().total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free"
    return (OK, found) if free > LEAST_MEMORY_BYTES else (NOTE, found, "close other programs before a training")


def _disk() -> tuple:
    from hwlimits.data import cache_folder

    folder = next(path for path in (cache_folder(), *cache_folder().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free in {folder}"
    return (OK, found) if free > LEAST_DISK_BYTES else (NOTE, found, "make room, or let HWLIMITS_CACHE name a folder")


def _card() -> tuple:
    from hwlimits.machine.card import Card, CardError, stored_path

    path, how = stored_path(), "hwlimits calibrate"
    if not path.exists():
        return NOTE, f"none in {path} yet", how
    try:
        card = Card.read(path)
    except CardError as error:
        return NOTE, str(error)
    if not card.same_computer():
        return NOTE, f"{path} is of another computer ({card.name})", how
    return OK, f"measured on {card.provenance['date']}, {path}"


def _compiler() -> tuple:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return OK, found
    return NOTE, "none", "only `make bench` needs one: a package such as gcc or clang, or Xcode's command line tools"


def _gpu() -> tuple:
    code = "from hwlimits.training.keras import tf; print(tf.config.list_physical_devices())"
    how = f'python -c "{code}" says what TensorFlow sees'
    program = shutil.which("nvidia-smi")
    if program is None:
        return NOTE, "no nvidia-smi, so no NVIDIA GPU; the course needs none", how
    done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20)
    names = [line.split(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU")]
    return (OK, "; ".join(names), how) if names else (NOTE, "nvidia-smi lists none; the course needs none", how)
