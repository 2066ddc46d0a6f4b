"""Catch what C++ writes to the process's error stream, past Python's sys.stderr."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def caught_stderr() -> Iterator[Callable[[], str]]:
    """Within it, nothing reaches the error stream; the value, called afterwards, gives what was written.

    If the block raises, what was caught is written after all: it may say why.

    >>> import os
    >>> with caught_stderr() as text:
    ...     _ = os.write(2, b"said by C++")
    >>> text()
    'said by C++'
    """
    said = ""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield lambda: said
            except BaseException:
                file.seek(0)
                os.write(kept, file.read())
                raise
            finally:
                os.dup2(kept, 2)
            file.seek(0)
            said = file.read().decode(errors="replace")
    finally:
        os.close(kept)
