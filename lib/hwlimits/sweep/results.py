"""Finished results on disk: each in a folder of its own, there as a whole or not at all, and checked when it is read.

    folder/<key>/result.json   task, settings, row, seconds, what made it, and size and hash of each file
    folder/<key>/<name>        a file that the task returned
    folder/work/               what is not finished: tasks' own folders, logs, errors, locks

A result is written under another name and then renamed, so no lock is needed: of two that arrive, the first one stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from hwlimits.sweep.settings import SweepError, as_json

FORMAT = 1
RECORD = "result.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Result:
    """What a task returns: a row of results (values that JSON can hold), and files as bytes by name."""

    row: dict
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A finished task: settings and row, seconds it took, names of its files in `folder`, and what made it."""

    settings: dict
    row: dict
    seconds: float
    files: tuple[str, ...]
    folder: Path
    made_by: dict


class DamagedError(SweepError):
    """What is kept under a result's name is no result, or not the one that was written."""


def checked(returned, name: str) -> Result:
    """What the task `name` returned, as a Result that can be kept. Raises SweepError."""
    result = Result(returned) if isinstance(returned, Mapping) else returned
    if not isinstance(result, Result) or not isinstance(result.row, Mapping):
        raise SweepError(f"the task {name} must return a row (a dict) or a Result, and returned {type(returned)}")
    for file, content in result.files.items():
        if not isinstance(file, str) or not _FILE_NAME.fullmatch(file) or file == RECORD:
            raise SweepError(f"the task {name} returned a file of the name {file!r}: letters, digits, '.', '_' and '-'")
        if not isinstance(content, bytes | bytearray | memoryview):
            raise SweepError(f"the task {name} returned the file {file} as {type(content).__name__}: it must be bytes")
    row = as_json(dict(result.row), f"the row that the task {name} returned, {dict(result.row)},")
    return Result(row, {file: bytes(content) for file, content in result.files.items()})


def prepare(root: Path) -> Path:
    """Make the folder of a sweep; its work folder. Raises SweepError if it can't be made or written."""
    work = root / "work"
    try:
        work.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=work).close()
    except OSError as error:
        raise SweepError(f"the sweep can't be kept in {root}: {error.strerror or error}") from None
    return work


def look(root: Path, key: str, task: str, settings: dict) -> Done | None:
    """The finished result of that key, or None. Raises DamagedError if what is there can't be it."""
    found = root / key
    if not os.path.lexists(found):
        return None
    try:
        record = json.loads((found / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"it is of format {record['format']!r}, and this version reads {FORMAT}")
        if (record["task"], record["settings"]) != (task, settings):
            raise ValueError(f"it is of {record['task']} with {record['settings']}")
        row, seconds, files = record["row"], record["seconds"], record["files"]
        if not isinstance(row, dict) or not isinstance(seconds, int | float):
            raise ValueError("its row or its seconds are missing")
        for name, kept in files.items():
            if not _FILE_NAME.fullmatch(name) or _described((found / name).read_bytes()) != kept:
                raise ValueError(f"its file {name} is not the one that was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DamagedError(f"the result in {found} is damaged: {why}") from None
    return Done(settings, row, seconds, tuple(files), found, record["made_by"])


def keep(root: Path, key: str, record: dict, files: Mapping[str, bytes]) -> None:
    """Keep a result, unless a good one is there already. What is damaged there is moved aside.

    `record` has task, settings, row, seconds and made_by. Raises OSError if it can't be written.
    """
    record = {"format": FORMAT, **record, "files": {name: _described(content) for name, content in files.items()}}
    part = Path(tempfile.mkdtemp(prefix=f"{key}-", suffix=".part", dir=root / "work"))
    try:
        part.chmod(0o755)
        for name, content in files.items():
            _write(part / name, content)
        _write(part / RECORD, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
        if os.path.lexists(root / key):
            set_aside(root, key, record["task"], record["settings"])
        try:
            part.rename(root / key)
        except OSError:
            if not os.path.lexists(root / key):
                raise
            look(root, key, record["task"], record["settings"])  # another came first: it stays, if it is good
    finally:
        shutil.rmtree(part, ignore_errors=True)


def set_aside(root: Path, key: str, task: str, settings: dict) -> Path | None:
    """Give a damaged result another name, so that it can be made again and still be looked at: that name, or None."""
    with FileLock(str(root / "work" / "aside.lock")):  # two would move what the other one made meanwhile
        try:
            look(root, key, task, settings)
        except DamagedError:
            number = 1
            while os.path.lexists(root / f"{key}.damaged-{number}"):
                number += 1
            return (root / key).rename(root / f"{key}.damaged-{number}")
    return None


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    _write(part, text.encode("utf-8", "replace"))
    os.replace(part, path)


def read_files(done: Done) -> dict[str, bytes]:
    """The files of a result by name."""
    return {name: (done.folder / name).read_bytes() for name in done.files}


def _described(content: bytes) -> dict:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _write(path: Path, content: bytes) -> None:
    """Write and wait until the disk has it: a name must not outlive its content when the power fails."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
