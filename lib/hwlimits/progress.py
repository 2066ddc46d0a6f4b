"""Progress of what takes long: a bar where somebody looks, and what is kept when it is stopped.

A bar is drawn on the error stream of a terminal or of a live notebook. There is none where that stream is a file, a
pipe or a test's, and none where HWLIMITS_STATIC=1 asks for what a page keeps: a stored notebook has no bars.

What is stopped before its end (a notebook's Interrupt, Ctrl-C, an error) keeps what it has done in memory, under the
name that it was given; the same call then goes on from there.

>>> each([2, 3], lambda side: side**2, desc="squares")
{2: 4, 3: 9}
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from zlib import crc32

STATIC = "HWLIMITS_STATIC"

_kept: dict[str, tuple[Hashable, dict]] = {}  # name -> (what it is about, what is done so far)


class ProgressError(ValueError):
    """A name under which nothing can be kept; the text says what to do."""


def static() -> bool:
    """True where HWLIMITS_STATIC asks for the form of a page: nothing that moves, and nothing to press."""
    return os.environ.get(STATIC, "") not in ("", "0")


def live() -> bool:
    """True where somebody sees a bar move: in a terminal, or in a notebook's kernel."""
    if static():
        return False
    ipython = sys.modules.get("IPython")  # a kernel has loaded it
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel") or bool(sys.stderr and sys.stderr.isatty())


def bar(things: Iterable | None = None, *, desc: str, unit: str = "it", shown: bool = True, **options):
    """A tqdm bar over things, or over `total=...` of them: drawn if it is to be `shown` and `live`.

    >>> [2 * x for x in bar([1, 2], desc="doubling", unit="number")]
    [2, 4]
    """
    from tqdm import tqdm  # not at the top: what has no bar needs none

    if things is not None:
        options["iterable"] = things
    return tqdm(desc=desc, unit=unit, file=sys.stderr, disable=not (shown and live()), **options)


@contextmanager
def kept(name: str | None, about: Hashable, *, total: int | None = None, unit: str = "step") -> Iterator[dict]:
    """A dict that is there again, as it was, if the block is stopped and entered another time under the same name.

    name    None: nothing is kept
    about   all that the results depend on; if it is another one, the dict is empty and what was kept is gone
    total   of entries when all is done, for what is said to someone who stopped it

    At the end of the block the name is forgotten, so that the next time begins anew.
    Raises ProgressError for a name that is empty or no text.

    >>> try:
    ...     with kept("squares", about=3) as done:
    ...         done[0] = 0
    ...         raise KeyboardInterrupt
    ... except KeyboardInterrupt:
    ...     with kept("squares", about=3) as done:
    ...         print(done)
    {0: 0}
    """
    if name is None:
        yield {}
        return
    if not isinstance(name, str) or not name:
        raise ProgressError(f"keep={name!r}: give a name, such as 'my training', or None to keep nothing")
    if name not in _kept or _kept[name][0] != about:
        _kept[name] = about, {}
    done = _kept[name][1]
    try:
        yield done
    except BaseException:  # Interrupt is no Exception
        if done and live():
            of = f" of {total}" if total else ""
            print(f"\nStopped; {len(done)}{of} {unit}s are kept: run this again, and it goes on.", file=sys.stderr)
        raise
    _kept.pop(name, None)


def digest(arrays: Mapping[str, Any]) -> int:
    """A number that changes with the names or the values of arrays: for what `kept` results are about.

    >>> digest({"w": [1.0, 2.0]}) == digest({"w": [2.0, 1.0]})
    False
    """
    import numpy as np  # not at the top: what shows a bar may do without

    found = 0
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        found = crc32(array.view(np.uint8).data if array.size else b"", crc32(f"{name}{array.shape}".encode(), found))
    return found


def forget(name: str) -> None:
    """Drop what is kept under a name, if there is anything: the next call begins anew."""
    _kept.pop(name, None)


def each(
    things: Iterable[Hashable],
    do: Callable[[Any], Any],
    *,
    desc: str,
    unit: str = "it",
    keep: str | None = None,
    about: Hashable = None,
    shown: bool = True,
) -> dict:
    """{thing: do(thing)} for each of the things, which must differ, with a bar over them.

    keep    a name under which results stay if it is stopped: the same call then does only those that are left
    about   what the results depend on beside the things; kept ones of another are not taken (see `kept`)

    Raises ProgressError for two things that are alike.
    """
    things = list(things)
    if len(set(things)) < len(things):
        twice = next(thing for i, thing in enumerate(things) if thing in things[:i])
        raise ProgressError(f"each: {twice!r} is there twice, and has one result; give each thing once")
    with kept(keep, (tuple(things), about), total=len(things), unit=unit) as done:
        with bar(desc=desc, unit=unit, total=len(things), initial=len(done), shown=shown) as seen:
            for thing in things:
                if thing not in done:
                    done[thing] = do(thing)
                    seen.update()
        return {thing: done[thing] for thing in things}
