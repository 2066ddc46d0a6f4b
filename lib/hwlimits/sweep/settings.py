"""What a sweep is asked: a task by its name, and settings, from Python or from a file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

KEY_CHARACTERS = 16  # of a SHA-256: two of a million settings share a key with a chance of 3e-8
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_FILE_KEYS = {"task", "fixed", "axes", "points"}


class SweepError(RuntimeError):
    """A sweep can't be run, or some of its tasks failed: then `failed` has (settings, why) of each."""

    failed: tuple = ()


def one_line(error: BaseException) -> str:
    """What an error says, and of an unexpected one its kind, on one line."""
    text = " ".join(str(error).split())
    if isinstance(error, SweepError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def grid(*points: Mapping, **axes) -> list[dict]:
    """Settings: each of `points` with every combination of the axes, the last axis changing fastest.

    A list, tuple or range is an axis; any other value is the same in all settings. An axis of lists is a list of
    lists. Raises SweepError for a name that a point and an axis both give, and for an axis without values.

    >>> grid(width=[8, 16], seed=range(2), epochs=10)[1:3]
    [{'width': 8, 'seed': 1, 'epochs': 10}, {'width': 16, 'seed': 0, 'epochs': 10}]
    >>> grid({"width": 8, "depth": 1}, {"width": 16, "depth": 2}, seed=[0])
    [{'width': 8, 'depth': 1, 'seed': 0}, {'width': 16, 'depth': 2, 'seed': 0}]
    """
    values = {name: list(v) if isinstance(v, list | tuple | range) else [v] for name, v in axes.items()}
    return _combined(points or ({},), values)


def _combined(points: Sequence[Mapping], axes: Mapping[str, list]) -> list[dict]:
    for name, axis in axes.items():
        if not axis:
            raise SweepError(f"the axis {name!r} has no values, so there is nothing to run: give it one")
    found = []
    for point in points:
        if both := sorted(set(point) & set(axes), key=str):
            raise SweepError(f"{both[0]!r} is set by the point {dict(point)} and by an axis: leave one out")
        found += [{**point, **dict(zip(axes, row, strict=True))} for row in itertools.product(*axes.values())]
    return found


def read_grid(path: Path | str) -> tuple[str, list[dict]]:
    """Task and settings of a grid file, in YAML:

        task: hwlimits.training.frontier:train   # module:function
        fixed: {epochs: 10}                      # the same in all settings; a list here is one value
        axes: {width: [8, 16], seed: [0, 1, 2]}  # every combination
        points: [{bits: 4}, {bits: 2}]           # each of these, with every combination

    All but `task` may be left out. Raises SweepError that names the file and what is wrong in it.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_loader())
    except OSError as error:
        raise SweepError(f"the grid file {path} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SweepError(f"the grid file {path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or "task" not in content or set(content) - _FILE_KEYS:
        raise SweepError(
            f"the grid file {path} must say `task: module:function`, and may say fixed, axes and points, nothing else"
        )
    fixed, axes, points = content.get("fixed") or {}, content.get("axes") or {}, content.get("points") or [{}]
    for what, value in (("fixed", fixed), ("axes", axes)):
        if not isinstance(value, dict):
            raise SweepError(f"the grid file {path}: {what} must be names with values, and is {value!r}")
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise SweepError(f"the grid file {path}: points must be a list of settings, such as [{{bits: 4}}, {{bits: 2}}]")
    for name, values in axes.items():
        if not isinstance(values, list):
            raise SweepError(f"the grid file {path}: the axis {name!r} must be a list, and is {values!r}")
    for point in (*points, axes):
        if both := sorted(set(fixed) & set(point), key=str):
            raise SweepError(f"the grid file {path}: {both[0]!r} is fixed, and set elsewhere, too: leave one out")
    try:
        task = task_name(str(content["task"]))
        return task, [plain({**fixed, **settings}) for settings in _combined(points, axes)]
    except SweepError as error:
        raise SweepError(f"the grid file {path}: {error}") from None


def _loader():
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        """YAML in which a key given twice is an error, and 1e-3 a number, as in YAML 1.2."""

        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.MarkedYAMLError(problem=f"{key!r} is there twice", problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader


def plain(settings: Mapping) -> dict:
    """The settings as JSON has them: tuples are lists, NumPy's scalars Python's. Raises SweepError for anything else.

    >>> plain({"shape": (3, 3), "rate": 0.1})
    {'shape': [3, 3], 'rate': 0.1}
    """
    if not isinstance(settings, Mapping):
        raise SweepError(f"settings must be a dict of names and values, and these are {settings!r}")
    return as_json(dict(settings), f"the settings {dict(settings)}")


def as_json(value, what: str):
    """The value as it is read back from JSON. Raises SweepError where JSON can't hold it as it is."""
    try:
        _check_names(value)
        return json.loads(json.dumps(value, allow_nan=False, default=_scalar))
    except (TypeError, ValueError, RecursionError) as error:
        raise SweepError(f"{what} can't be kept as JSON: {error}") from None


def _check_names(value) -> None:
    """JSON would make text of a name that is none, and of two names one."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            if not isinstance(name, str):
                raise TypeError(f"the name {name!r} is not text")
            _check_names(part)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            _check_names(part)


def _scalar(value):
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} is of type {type(value).__name__}")


def key_of(task: str, settings: dict) -> str:
    """The name under which the result is kept: the same for the same task and settings, in any order.

    >>> key_of("m:f", {"a": 1, "b": 2}) == key_of("m:f", {"b": 2, "a": 1}) != key_of("m:f", {"a": 1, "b": 2.0})
    True
    """
    text = json.dumps({"task": task, "settings": settings}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_CHARACTERS]


def task_name(task: Callable | str) -> str:
    """The task as "module:function". Raises SweepError for a function that other processes can't import by that name.

    >>> task_name(json.dumps)
    'json:dumps'
    """
    if not isinstance(task, str):
        name = f"{getattr(task, '__module__', '')}:{getattr(task, '__qualname__', '')}"
        if name.startswith("__main__:") or not _NAME.fullmatch(name) or find_task(name) is not task:
            raise SweepError(
                f"the task {task!r} can't be imported by other processes: it must be a function at the top level of a "
                "module, not of a notebook or of the program itself"
            )
        return name
    if not _NAME.fullmatch(task):
        raise SweepError(f"a task is named as module:function, such as hwlimits.training.frontier:train, not {task!r}")
    try:
        there = importlib.util.find_spec(task.split(":")[0])
    except (ImportError, ValueError) as error:
        there, why = None, error
    else:
        why = "there is no such module"
    if there is None:
        raise SweepError(f"the task {task} can't be imported: {why}")
    return task


def find_task(name: str) -> Callable:
    """The function "module:function". Raises SweepError that says why there is none."""
    module, function = name.split(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module can raise anything while it is imported
        raise SweepError(f"the task {name} can't be imported: {one_line(error)}") from error
    if not callable(found):
        raise SweepError(f"the task {name} is no function, but {found!r}")
    return found
