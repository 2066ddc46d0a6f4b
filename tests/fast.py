"""What `make test-fast` runs: the files of tests and modules with examples from which no import leads to TensorFlow.

Importing TensorFlow takes seconds in each process, and what is tested with it trains. So the rule is computed from the
imports, those inside functions too: a new test is in the fast part if all that it can reach is NumPy, numba and files.
Of the notebooks only the form is checked (FORM), no chapter is run. What takes long all the same is named in SLOW.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "lib"
HEAVY = {
    "tensorflow", "tf_keras", "keras", "tensorflow_model_optimization", "ai_edge_litert", "tflite_micro",
    "jax", "torch",
}  # fmt: skip
FORM = ("test_index.py", "test_notebooks.py", "test_not_run.py")
# Half a minute or more of one core without TensorFlow, and why.
SLOW: dict[str, str] = {}


@cache
def modules() -> dict[str, Path]:
    """The library's modules by their dotted names."""
    paths = (LIBRARY / "hwlimits").rglob("*.py")
    return {".".join(p.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imports_of(source: str) -> set[str]:
    """Dotted names that a source imports, anywhere in it; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def imports_of_module(name: str) -> frozenset[str]:
    return frozenset(imports_of(modules()[name].read_text(encoding="utf-8")))


def leads_to(source: str) -> set[str]:
    """The heavy packages that a source can come to load.

    >>> leads_to("import numpy"), leads_to("def f():\\n    from hwlimits.training import fit") >= {"tensorflow"}
    (set(), True)
    """
    seen, ahead = set(), imports_of(source)
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead |= imports_of_module(name) if name in modules() else set()
    return {name.split(".")[0] for name in seen} & HEAVY


def files() -> list[str]:
    """The fast files, from the repository's root: tests, the notebooks' form, and modules with examples."""
    tests = [*sorted((ROOT / "tests").glob("test_*.py")), *(ROOT / "tests" / "notebooks" / name for name in FORM)]
    examples = [path for path in sorted(modules().values()) if ">>> " in path.read_text(encoding="utf-8")]
    found = [p for p in (*tests, *examples) if p.exists() and not leads_to(p.read_text(encoding="utf-8"))]
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return [name for name in names if name not in SLOW]


if __name__ == "__main__":
    print(*files())
