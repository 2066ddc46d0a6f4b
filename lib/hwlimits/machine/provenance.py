"""What made a stored number: command, commit, versions, machine, date, seeds."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = (
    "hwlimits", "numpy", "numba", "llvmlite",
    "tensorflow", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert", "tflite-micro",
)  # fmt: skip


def provenance(command: str, *, seeds: Iterable[int] = (), **more) -> dict:
    """A record to store with a result. `command` is what a reader types to make it again.

    >>> record = provenance("make results-case-study", seeds=[0, 1])
    >>> sorted(record)
    ['command', 'commit', 'date', 'machine', 'seeds', 'versions']
    """
    return {
        "command": command,
        "commit": commit(),
        "date": dt.date.today().isoformat(),
        "seeds": list(seeds),
        "versions": versions(),
        "machine": machine(),
        **more,
    }


class DirtyTree(RuntimeError):
    """A result is about to be stored, and no commit holds the code that makes it."""


def require_clean_commit() -> None:
    """Raise DirtyTree unless the code that runs is that of a commit."""
    if len(commit()) != 40:
        raise DirtyTree(
            f"A stored result names the commit that made it, and this is {commit()}: commit the changes first, "
            "and run it in a checkout that nobody edits meanwhile."
        )


def result_folder(path: Path) -> Path:
    """The folder of a result, made if it is not there: before anything is measured. Raises OSError if it can't be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out {path} can't be a folder ({error.strerror}): name one that is, or can be made.") from None
    return path


def store_table(table: Path, columns: Iterable[str], rows: Iterable[dict], made_by: dict) -> None:
    """Write a table of results, and beside it, as .json, the record of what made it.

    A row has the columns and no others; a float is written with six digits. Raises ValueError for a row with
    a column too many, before anything is written.
    """
    columns = list(columns)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    table.write_text(text.getvalue(), encoding="utf-8", newline="")
    table.with_suffix(".json").write_text(json.dumps({"provenance": made_by}, indent=1) + "\n", encoding="utf-8")


def commit() -> str:
    """The checkout's commit, '+changes' behind it if files differ from it, 'unknown' outside one."""
    here = Path(__file__).resolve().parent
    try:
        if Path(_git(here, "rev-parse", "--show-toplevel")) != here.parents[2]:
            return "unknown"  # installed inside somebody else's repository
        head = _git(here, "rev-parse", "HEAD")
        # A result being written is no change to what made it.
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)data/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict:
    """The computer, without anything that names its owner."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": f"{platform.system()} {platform.machine()}",
        "int8_instructions": _int8_instructions(),
    }


def _cpu_model() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _int8_instructions() -> list[str] | None:
    """Instructions that multiply and add int8, by the system's names; None if the system does not say."""
    known = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "FEAT_DotProd", "FEAT_I8MM"}
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return sorted(set(line.split(":", 1)[1].split()) & known)
    flags = re.findall(r"^hw\.optional\.arm\.(\w+): 1$", _sysctl(), re.MULTILINE)
    return sorted(set(flags) & known) or None


def _sysctl() -> str:
    try:
        return subprocess.run(["sysctl", "hw.optional"], capture_output=True, text=True).stdout
    except OSError:
        return ""


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
