"""What a compiled program says of itself, read from its text in XLA's HLO (`compiled.as_text()`): no JAX is needed."""

from __future__ import annotations

import re
from math import prod

# What starts no kernel: names for memory, and what only waits or hands on.
NO_KERNEL = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "opt-barrier",
}  # fmt: skip


def kernels(text: str) -> int:
    """Kernels that one run of a program starts: instructions of its entry that do something.

    A called computation counts as if it stood in the call's place, an asynchronous instruction's two halves once.

    >>> kernels("ENTRY %m (a: f32[2]) -> f32[2] {\\n %a = f32[2]{0} parameter(0)\\n ROOT %b = f32[2]{0} sine(%a)\\n}")
    1
    """
    bodies, entry = _bodies(text)

    def count(name: str) -> int:
        found = 0
        for line in bodies.get(name, []):
            kind, called = _kind(line), re.search(r"to_apply=%?([\w.-]+)", line)
            if kind == "call" and called:
                found += count(called[1])
            else:
                found += bool(kind) and kind not in NO_KERNEL and not kind.endswith("-done")
        return found

    return count(entry)


def library_bytes(text: str) -> int:
    """Bytes that a program's calls of libraries read and write, which XLA's cost analysis leaves out.

    Each array that is handed over counts once; of a tuple that comes back only the first, the others are scratch.

    >>> library_bytes('%a = bf16[4,8]{1,0} parameter(0)\\n%c = (bf16[4,4]{1,0}, s8[99]{0}) custom-call(%a, %a)')
    160
    """
    sizes, total = {}, 0
    for line in text.splitlines():
        line = _plain(line)
        defined = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = \(?(\w+)\[([\d,]*)\]", line)
        if not defined:
            continue
        name, kind, sides = defined.groups()
        width = re.search(r"\d+", kind)
        sizes[name] = prod(map(int, filter(None, sides.split(",")))) * (int(width[0]) // 8 if width else 1)
        called = re.search(r" custom-call\(([^)]*)\)", line)
        if called:
            operands = re.findall(r"([\w.-]+)(?=,|$)", re.sub(r"\[[^]]*\]", "", called[1]))
            total += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
    return total


def _plain(line: str) -> str:
    """A line without layouts and notes, which may hold what looks like something else."""
    return re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", line)


def _kind(line: str) -> str | None:
    found = re.search(r"(?:^| )([a-z][a-z0-9-]*)\(", _plain(line).split(" = ", 1)[1])
    return found and found[1]


def _bodies(text: str) -> tuple[dict[str, list[str]], str]:
    """The instructions of each computation, and the entry's name."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif name and " = " in line:
            bodies[name].append(line)
    return bodies, entry
