"""Where a chapter runs: which Python, TensorFlow and devices are here, what is missing, and whether it can run.

The first cell of each chapter calls `check`. In Colab, Kaggle and Binder it installs the packages that are missing and
leaves all others as they are; where the chapter can't run it stops with one sentence. The standard library is enough
to import this module, as nothing else may be there yet. What a chapter needs is in data/chapters.json, which
chapters/first_cells.py makes from what the chapters import.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from hwlimits import data

CHECKOUT = Path(__file__).resolve().parents[2]
EXTRAS = ("course", "pytorch")  # what notebooks may need beside the requirements of the library
ROOT = Path("/")  # a test puts a planted system here

# By the first variable that is set. What each offers against a version that is too old:
PLACES = {
    "COLAB_RELEASE_TAG": ("Colab", "choose the latest runtime version under Runtime > Change runtime type"),
    "KAGGLE_KERNEL_RUN_TYPE": ("Kaggle", "choose the latest environment in the notebook's settings"),
    "BINDER_LAUNCH_HOST": ("Binder", "start Binder again from the course's page"),
}
AT_HOME = "run `make setup` in the course's folder, and open the chapter by `make lab`"
# What a runtime was built around, for its own processor and devices: nothing that pip should choose.
LEFT_ALONE = frozenset({"jax", "jaxlib", "numpy", "tensorflow", "torch"})
# Other builds of the same package.
STAND_INS = {"tensorflow": ("tensorflow-tpu", "tensorflow-cpu")}
_NAMES = {"tensorflow": "TensorFlow", "numpy": "NumPy"}


class CannotRun(RuntimeError):
    """A chapter can't run here; the text is one sentence that says why, and what to do. Notebooks show it alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def needs(chapter: str) -> dict:
    """What a chapter needs: `packages`, the distributions that it imports, and `memory_bytes` that it takes at most.

    Raises ValueError for a chapter that there is not.

    >>> "numpy" in needs("01_compute")["packages"], "distributed" in needs("01_compute")["packages"]
    (True, False)
    """
    found = json.loads(data.path("chapters.json").read_text(encoding="utf-8"))
    if chapter not in found:
        raise ValueError(f"there is no chapter {chapter!r}; there are {', '.join(found)}")
    return found[chapter]


def project(checkout: Path = CHECKOUT, extras: tuple[str, ...] = EXTRAS) -> tuple[str, list[str]]:
    """The versions of Python that will do, and the requirements, those of some extras among them.

    A checkout's pyproject.toml knows better than what was once installed. A wheel has both in its metadata, with the
    requirements of all extras, whose markers say which.
    """
    try:
        found = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if found["name"] == "hwlimits":
            extras = [text for name in extras for text in found["optional-dependencies"].get(name, [])]
            return found["requires-python"], [*found["dependencies"], *extras]
    except (OSError, KeyError, ValueError):
        pass
    own = metadata.metadata("hwlimits")
    return own["Requires-Python"], own.get_all("Requires-Dist", [])


def requirement(text: str):
    """A requirement as `packaging` reads it, or pip's own copy of that package."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
    return Requirement(text)


def place() -> tuple[str | None, str]:
    """Colab, Kaggle, Binder, or None for a computer of one's own; and what to do there about what is too old."""
    return next((found for name, found in PLACES.items() if name in os.environ), (None, AT_HOME))


def check(chapter: str) -> None:
    """Say what is here, and install what the chapter lacks if this is Colab, Kaggle or Binder.

    Raises CannotRun, with one sentence, where the chapter can't run.

    >>> check("01_compute")
    Python 3..., TensorFlow 2..., ...
    """
    wanted, title = needs(chapter), f"Chapter {chapter[:2]}" if chapter[0].isdigit() else "This appendix"
    python, versions = ".".join(map(str, sys.version_info[:3])), project()
    hosted, remedy = place()
    where = f", in {hosted}" if hosted else ""
    if not requirement(f"python{versions[0]}").specifier.contains(python):
        raise CannotRun(f"{title} needs Python {versions[0]}, and this is {python}{where}: {remedy}.")
    asked = {name: r for name, r in _asked(versions[1]).items() if name in wanted["packages"]}
    missing = [r for r in asked.values() if _version(r.name) is None]
    print(_says(python, where), flush=True)
    if untouched := [r for r in missing if r.name in LEFT_ALONE]:
        raise CannotRun(_without(title, untouched[0].name, remedy))
    if missing and not hosted:
        names = ", ".join(r.name for r in missing)
        raise CannotRun(f"{title} needs {names}, which {sys.executable} does not have: {remedy}.")
    for r in asked.values():
        found = _version(r.name)
        if found and not r.specifier.contains(found, prereleases=True):
            _judge(title, r, found, remedy)
    _enough_memory(title, wanted["memory_bytes"], hosted)
    if missing:
        _install(title, missing)


def _asked(requirements: list[str]) -> dict:
    """Those of the requirements that hold here, by name."""
    found = map(requirement, requirements)
    return {r.name: r for r in found if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in EXTRAS)}


def _version(name: str) -> str | None:
    for build in (name, *STAND_INS.get(name, ())):
        try:
            return metadata.version(build)
        except metadata.PackageNotFoundError:
            continue
    return None


def _says(python: str, where: str) -> str:
    tensorflow = _version("tensorflow")
    parts = [f"Python {python}{where}", f"TensorFlow {tensorflow}" if tensorflow else "no TensorFlow"]
    return ", ".join([*parts, " and ".join(devices())]) + "."


def devices() -> list[str]:
    """What could compute here, without loading anything: the processor, NVIDIA's GPUs by name, a TPU.

    >>> devices()[0]
    'a CPU'
    """
    found = ["a CPU"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        listed = ""
    found += [line.split(": ")[1].split(" (UUID")[0] for line in listed.splitlines() if line.startswith("GPU ")]
    return found + (["a TPU"] if _tpu() else [])


def _tpu() -> bool:
    named = any(name in os.environ for name in ("COLAB_TPU_ADDR", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID"))
    return named or any((ROOT / "dev").glob("accel[0-9]*"))


def _without(title: str, name: str, remedy: str) -> str:
    if name == "tensorflow" and _tpu():
        remedy = "choose a runtime with a CPU or a GPU, as those with a TPU come without it, or see chapter 07"
    return f"{title} needs {_NAMES.get(name, name)}, and there is none here: {remedy}."


def _judge(title: str, r, found: str, remedy: str) -> None:
    """Stop for a version that is too old; say of one that is too new that nobody has tried it."""
    name, wanted = _NAMES.get(r.name, r.name), str(r.specifier)
    floors = [s for s in r.specifier if s.operator in (">=", "==", "~=")]
    if any(not s.contains(found, prereleases=True) for s in floors):
        raise CannotRun(f"{title} needs {name} {wanted}, and this is {found}, which stays as it is: {remedy}.")
    print(f"{name} {found} is newer than what the course was tested with ({wanted}).")


def _enough_memory(title: str, needed_bytes: float, hosted: str | None) -> None:
    free = available_memory_bytes()
    if free is not None and free < needed_bytes:
        remedy = (
            "a service of more memory, or your own computer, can run it" if hosted else "close other programs first"
        )
        taken = f"{title} takes up to {needed_bytes / 1e9:.1f} GB of memory"
        raise CannotRun(f"{taken}, and {free / 1e9:.1f} GB are free here: {remedy}.")


def available_memory_bytes() -> int | None:
    """Bytes that can be taken without swapping, or what a container leaves of its limit; None where no file says it.

    The machine card's `processor.available_memory_bytes` needs psutil, which may not be here yet.
    """
    left = []
    if text := _read("proc/meminfo"):
        left += [int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:")]
    limit, used = _read("sys/fs/cgroup/memory.max"), _read("sys/fs/cgroup/memory.current")
    if limit and used and limit != "max":
        left.append(max(0, int(limit) - int(used)))
    return min(left, default=None)


def _read(name: str) -> str | None:
    try:
        return (ROOT / name).read_text().strip()
    except OSError:
        return None


def _install(title: str, missing: list) -> None:
    """pip, bound to the versions that are here: it adds packages, or it fails; it can't replace one."""
    names = ", ".join(r.name for r in missing)
    print(f"Installing what is missing, and nothing else: {names}.", flush=True)
    kept = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "what-is-here.txt"
        lines = [f"{name}=={version}" for name, version in sorted(kept.items())]
        lines += [f"{name}<0" for name in sorted(LEFT_ALONE - {name.lower() for name in kept})]  # nor as a requirement
        constraints.write_text("\n".join(lines))
        wanted = [f"{r.name}{r.specifier}" for r in missing]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        done = subprocess.run([*command, "-c", str(constraints), *wanted], capture_output=True, text=True)
    importlib.invalidate_caches()
    if any(_version(r.name) is None for r in missing):
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or done.stderr.splitlines()[
            -1:
        ]
        reason = said[0].removeprefix("ERROR: ").rstrip(".") if said else "no reason given"
        raise CannotRun(f"{title} needs {names}, and pip could not add it beside what is here ({reason}).")
