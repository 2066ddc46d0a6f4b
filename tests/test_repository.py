"""The rules of the house, as tests: who may import whom, where dependencies stand, what no file may hold."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "lib" / "hwlimits"
MODULES = sorted(LIBRARY.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# From the ground up. A module may import those of its own floor and of the floors below.
FLOORS = (
    ("data", "devices"),
    ("numpy modules", "plots"),
    ("machine", "kernels"),
    ("training", "sweep", "cli", "xla", "pytorch"),
)


def floor_of(module: str) -> int:
    part = module.split(".")[1] if "." in module else "data"
    return next((i for i, floor in enumerate(FLOORS) if part in floor), 1)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts).removesuffix(".__init__")


def imports_of(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def upward_imports(name: str, source: str) -> list[str]:
    own = [i for i in imports_of(source) if i.startswith("hwlimits.")]
    return [i for i in own if floor_of(i) > floor_of(name)]


def tensorflow_imports(name: str, source: str) -> list[str]:
    """TensorFlow, Keras and tfmot come through the one door; the runtimes are training's, too."""
    heavy = {"tensorflow", "tf_keras", "keras", "tensorflow_model_optimization"}
    if name == "hwlimits.training.keras":
        return []
    if not name.startswith("hwlimits.training"):
        heavy |= {"ai_edge_litert", "tflite_micro"}
    return [i for i in imports_of(source) if i.split(".")[0] in heavy]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_down(path):
    assert upward_imports(module_name(path), path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_tensorflow_comes_through_one_door(path):
    assert tensorflow_imports(module_name(path), path.read_text()) == []


# Beside hwlimits.pytorch: a peer that is measured where PyTorch happens to be.
WITH_TORCH = ("hwlimits.pytorch", "hwlimits.kernels.gpu_tools")


def torch_imports(name: str, source: str) -> list[str]:
    return [] if name.startswith(WITH_TORCH) else [i for i in imports_of(source) if i.split(".")[0] == "torch"]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_pytorch_is_imported_by_its_own_modules_alone_and_when_used(path):
    source = path.read_text()
    assert torch_imports(module_name(path), source) == []
    at_import = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any(i.split(".")[0] == "torch" for node in at_import for i in imports_of(ast.unparse(node)))


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other in a loop, once for each loop."""
    found = []

    def walk(path):
        for target in sorted(imports.get(path[-1], ())):
            if target == path[0]:
                found.append(path)
            elif target not in path and target > path[0]:
                walk([*path, target])

    for module in imports:
        walk([module])
    return found


def test_no_modules_import_each_other_in_a_circle():
    names = {module_name(path) for path in MODULES}
    imports = {module_name(path): imports_of(path.read_text()) & names - {module_name(path)} for path in MODULES}
    assert circles(imports) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c"]], "a planted circle is seen"


def test_the_two_checks_above_see_what_they_are_for():
    assert upward_imports("hwlimits.machine.timing", "from hwlimits.training import mnist")
    assert upward_imports("hwlimits.data", "import hwlimits.plots")
    assert not upward_imports("hwlimits.training.fit", "from hwlimits.machine.timing import measure")
    assert tensorflow_imports("hwlimits.training.fit", "import tensorflow as tf")
    assert tensorflow_imports("hwlimits.machine.timing", "from ai_edge_litert import interpreter")
    assert torch_imports("hwlimits.training.fit", "from torch.nn.utils import prune")
    assert not torch_imports("hwlimits.pytorch.engine", "import torch")


def loaded_by(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    ["import hwlimits", "import hwlimits.machine", "import hwlimits.training.recipe", "import hwlimits.pytorch"],
)
def test_light_imports_load_neither_tensorflow_nor_numba(statement):
    assert not loaded_by(statement) & {"tensorflow", "tf_keras", "numba", "matplotlib", "torch"}


def test_the_runtime_part_of_training_loads_no_tensorflow():
    """A stored file can be measured where TensorFlow is not."""
    assert "tensorflow" not in loaded_by("import hwlimits.training.evaluate, hwlimits.training.report")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_has_one_subject_and_a_docstring(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and node.name != "main":
            nearly_empty = isinstance(node, ast.FunctionDef) and len(node.body) <= 2
            assert ast.get_docstring(node) or nearly_empty, f"{path.name}: {node.name} has no docstring"
    assert "import *" not in source


def requirement_names(requirements) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", r)[0].lower().replace("_", "-").replace(".", "-") for r in requirements}


def test_the_lock_has_every_dependency_with_hashes_and_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert unhashed(lock) == []
    assert unhashed(re.sub(r" \\\n    --hash=.*", "", lock, count=1)), "the check sees a package without a hash"
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    wanted = requirement_names(PROJECT["dependencies"])
    for name, extra in PROJECT["optional-dependencies"].items():
        wanted |= requirement_names(extra) if name != "pytorch" else set()
    assert wanted <= locked
    assert "torch" not in locked, "several GB on Linux: make pytorch installs it"
    assert not re.search(r"https?://", lock)
    extras = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert {*extras, "pytorch"} == set(PROJECT["optional-dependencies"])


def test_the_lock_of_pytorch_has_it_with_hashes_and_what_the_other_lock_lacks():
    lock = (ROOT / "peers" / "torch.lock").read_text()
    assert unhashed(lock) == []
    assert not re.search(r"https?://", lock)
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    assert "\ntorch==2.13.0+cpu ; sys_platform == 'linux' \\\n    --hash" in lock, "not the build with CUDA"
    (wanted,) = PROJECT["optional-dependencies"]["pytorch"]
    name, least = wanted.split(">=")
    assert locked[name].startswith(least)
    needs = {"filelock", "typing-extensions", "setuptools", "sympy", "networkx", "jinja2", "fsspec", "mpmath"}
    others = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert set(locked) == {"torch"} | needs - others


def unhashed(lock: str) -> list[str]:
    """Requirements of a lock that no hash follows, or that name no exact version."""
    blocks = re.split(r"\n(?=[a-z0-9])", re.sub(r"^ *#.*\n", "", lock, flags=re.MULTILINE))
    return [b.split()[0] for b in blocks if not re.match(r"\S+==\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", b)]


def test_environment_yml_takes_its_dependencies_from_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    (line,) = packages["pip"]
    name, extras = re.fullmatch(r"-e (\.)\[([a-z,]+)\]", line).groups()
    assert set(extras.split(",")) == set(PROJECT["optional-dependencies"]) - {"pytorch"}


def test_binder_builds_one_supported_python_with_the_course():
    """repo2docker chooses its base by `python=X.Y`, and takes a range for no version at all."""
    environment = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    (version,) = re.fullmatch(r"python=(3\.\d+)", python).groups()
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version)
    assert (pip, packages["pip"]) == ("pip", ["-e ..[course]"]), "a path from the file's own folder"
    assert "course" in PROJECT["optional-dependencies"]
    assert {p.name for p in (ROOT / "binder").iterdir()} == {"environment.yml"}, "nothing else that Binder would read"


def test_make_help_lists_every_command():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    listed = make(ROOT, "-s", "help").stdout
    assert set(re.findall(r"^  make ([a-z-]+) ", listed, re.MULTILINE)) == phony
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^    make ([a-z-]+)$", readme, re.MULTILINE)) == {"case-study", "test"}


def make(tmp_path, *arguments):
    command = ["make", "-C", str(ROOT), f"VENV={tmp_path / 'venv'}", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")} | {"LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 14)])
def test_another_python_is_refused_in_one_clear_sentence(tmp_path, version):
    pretender = tmp_path / "python-old"
    pretender.write_text(
        f'#!/bin/sh\nexec {sys.executable} "$1" "import sys; sys.version_info = {version + (1, "final", 0)}; $2"\n'
    )
    pretender.chmod(0o755)
    done = make(tmp_path, f"PYTHON={pretender}", "setup")
    assert done.returncode != 0
    said = f'hwlimits needs Python 3.11, 3.12 or 3.13; "{pretender}" is {version[0]}.{version[1]}. Install one'
    assert said in done.stderr
    assert not (tmp_path / "venv").exists()


def test_no_python_at_all_is_said(tmp_path):
    done = make(tmp_path, "PYTHON=no-such-python", "setup")
    assert done.returncode != 0
    assert "there is no 'no-such-python' here" in done.stdout


def pretending_python(folder, fails: str):
    """A Python in which a statement with these words fails."""
    pretender = folder / "python-here"
    pretender.write_text(f'#!/bin/sh\ncase "$2" in *"{fails}"*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    pretender.chmod(0o755)
    return pretender


def test_a_python_without_venv_is_said(tmp_path):
    done = make(tmp_path, f"PYTHON={pretending_python(tmp_path, 'import ensurepip, venv')}", "setup")
    assert done.returncode != 0
    assert "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_a_folder_that_can_not_be_written_is_said_and_what_to_do(tmp_path):
    (tmp_path / "venv").write_text("a file stands where the environment would be")
    done = make(tmp_path, f"PYTHON={sys.executable}", "setup")
    assert done.returncode != 0
    assert f"hwlimits can't write '{tmp_path / 'venv'}'. Say where it may: make VENV=/path/to/venv" in done.stdout
    assert "Setting up" not in done.stdout


def test_a_second_make_installs_nothing(tmp_path):
    (tmp_path / "venv").mkdir()
    stamp = tmp_path / "venv" / ".installed"
    stamp.touch()
    future = max((ROOT / name).stat().st_mtime for name in ("requirements.lock", "pyproject.toml")) + 10
    os.utime(stamp, (future, future))
    assert "Nothing to be done" in make(tmp_path, "setup").stdout


def test_ci_runs_the_readme_s_command_and_stops_at_the_first_failure():
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    assert re.search(r"\nmake pytorch \|\| echo .*\nmake test\n", script), "the second one decides"
    assert "HWLIMITS_MNIST" in script


def tracked() -> list[Path]:
    """The project's files: git's, or in an unpacked archive all but what is built."""
    built = {".git", ".venv", "build", "dist", "__pycache__", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"}
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-co", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    else:
        names = [p.relative_to(ROOT) for p in ROOT.rglob("*") if not built & set(p.relative_to(ROOT).parts)]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_no_file_names_this_machine_or_a_registry_s_host():
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("registry", "npmjs", "org"))]
    secrets = [s.encode() for s in (*hosts, f"{ROOT}/", f"{Path.home()}/") if s.count("/") != 1]
    assert len(tracked()) > 40
    for path in tracked():
        content = path.read_bytes()
        assert not [s for s in secrets if s in content], path
        assert len(content) < 3_000_000, f"{path} is too large for the repository"


def test_the_wheel_carries_the_data_and_works_without_the_checkout(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import hwlimits\n"
        "from hwlimits import quiz, widgets\n"
        "from hwlimits.training import case_study, mnist\n"
        "print(hwlimits.__file__, len(mnist.load('mnist-5k').x_train), len(case_study.stored()['runs']))\n"
        "assert quiz.questions('04_pruning') and widgets.sparsity().at().rows"
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    file, images, runs = done.stdout.split()
    assert file.startswith(str(tmp_path))
    assert int(images) == 4000
    assert int(runs) >= 30
