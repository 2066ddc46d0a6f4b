"""What a chapter's first cell says and does: planted services, devices, versions and a planted pip; each sentence."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from chapters import ROOT

from hwlimits import data, runtime

VERSIONS = {
    "numpy": "2.1.3", "numba": "0.61.2", "scipy": "1.16.3", "matplotlib": "3.10.0", "psutil": "5.9.5", "pooch": "1.9.0",
    "pyyaml": "6.0.3", "threadpoolctl": "3.7.0", "tqdm": "4.67.3", "filelock": "4.0.7", "flatbuffers": "25.12.19",
    "tensorflow": "2.21.0", "tf-keras": "2.21.0", "ai-edge-litert": "2.3.0", "rich": "13.9.4", "jinja2": "3.1.6",
    "tflite-micro": "0.dev20261023", "dask": "2026.8.0", "distributed": "2026.8.0",
    "tensorflow-model-optimization": "0.8.1",
}  # fmt: skip


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A computer of one's own with what chapters need, without a GPU, with 8 GB free. A test changes it."""
    for name in (*runtime.PLACES, "COLAB_TPU_ADDR", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID"):
        monkeypatch.delenv(name, raising=False)
    found = SimpleNamespace(
        versions=dict(VERSIONS), root=tmp_path, gpus="", pip=0, said="", commands=[], constraints=""
    )

    def run(command, **_):
        found.commands.append(command)
        if command[0] == "nvidia-smi":
            if not found.gpus:
                raise FileNotFoundError(command[0])
            return SimpleNamespace(stdout=found.gpus)
        found.constraints = Path(command[command.index("-c") + 1]).read_text()
        if found.pip == 0:
            found.versions |= {re.split("[<>]", text)[0]: "9.9" for text in command if ">" in text}
        return SimpleNamespace(returncode=found.pip, stderr=found.said)

    monkeypatch.setattr(runtime, "ROOT", tmp_path)
    monkeypatch.setattr(runtime, "_version", found.versions.get)
    monkeypatch.setattr(runtime.subprocess, "run", run)
    monkeypatch.setattr(sys, "version_info", (3, 13, 16, "final", 0))
    memory(tmp_path, 8e9)
    return found


def memory(root, free_bytes):
    (root / "proc").mkdir(exist_ok=True)
    text = f"MemTotal:       16000000 kB\nMemAvailable:   {int(free_bytes / 1024)} kB\n"
    (root / "proc" / "meminfo").write_text(text)


def refusal(chapter):
    with pytest.raises(runtime.CannotRun) as raised:
        runtime.check(chapter)
    return str(raised.value)


def test_where_all_is_there_it_says_so_in_one_line_and_installs_nothing(here, capsys):
    runtime.check("05_quantization")
    assert capsys.readouterr().out == "Python 3.13.16, TensorFlow 2.21.0, a CPU.\n"
    assert here.commands == [["nvidia-smi", "-L"]]


def test_a_gpu_and_a_tpu_are_named_without_their_serial_numbers(here, monkeypatch, capsys):
    here.gpus = (
        "GPU 0: Tesla T4 (UUID: GPU-1b2c)\nGPU 1: Tesla T4 (UUID: GPU-9)\n  MIG 1g.10gb Device 0: (UUID: MIG-7)\n"
    )
    (here.root / "dev").mkdir()
    (here.root / "dev" / "accel0").touch()
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    runtime.check("01_compute")
    said = capsys.readouterr().out
    assert said == "Python 3.13.16, in Colab, TensorFlow 2.21.0, a CPU and Tesla T4 and Tesla T4 and a TPU.\n"


def test_a_chapter_without_tensorflow_runs_without_it(here, capsys):
    del here.versions["tensorflow"]
    runtime.check("00_start_here")
    assert capsys.readouterr().out == "Python 3.13.16, no TensorFlow, a CPU.\n"


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 14, 0)])
def test_another_python_is_refused(here, monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    said = f"Chapter 01 needs Python >=3.11,<3.14, and this is {'.'.join(map(str, version))}: {runtime.AT_HOME}."
    assert refusal("01_compute") == said


@pytest.mark.parametrize(
    ("variable", "service", "remedy"),
    [(name, *found) for name, found in runtime.PLACES.items()] + [(None, None, runtime.AT_HOME)],
)
def test_an_old_tensorflow_is_refused_and_stays(here, monkeypatch, variable, service, remedy):
    if variable:
        monkeypatch.setenv(variable, "1")
    here.versions["tensorflow"] = "2.19.0"
    assert runtime.place() == (service, remedy)
    said = f"Chapter 05 needs TensorFlow <2.22,>=2.20, and this is 2.19.0, which stays as it is: {remedy}."
    assert refusal("05_quantization") == said
    assert "pip" not in str(here.commands)
    runtime.check("00_start_here")  # it does not need TensorFlow


def test_a_newer_tensorflow_than_was_tested_is_said_and_runs(here, capsys):
    here.versions["tensorflow"] = "2.22.1"
    runtime.check("05_quantization")
    assert (
        "TensorFlow 2.22.1 is newer than what the course was tested with (<2.22,>=2.20).\n" in capsys.readouterr().out
    )


def test_a_runtime_without_tensorflow_is_refused_never_mended(here, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    del here.versions["tensorflow"], here.versions["ai-edge-litert"]
    newest = runtime.PLACES["COLAB_RELEASE_TAG"][1]
    assert refusal("08_case_study") == f"Chapter 08 needs TensorFlow, and there is none here: {newest}."
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert refusal("08_case_study") == (
        "Chapter 08 needs TensorFlow, and there is none here: "
        "choose a runtime with a CPU or a GPU, as those with a TPU come without it, or see chapter 07."
    )
    assert "pip" not in str(here.commands)


def test_at_home_a_missing_package_is_named_and_nothing_is_installed(here):
    del here.versions["filelock"], here.versions["tqdm"]
    said = f"Chapter 05 needs tqdm, filelock, which {sys.executable} does not have: {runtime.AT_HOME}."
    assert refusal("05_quantization") == said
    assert "pip" not in str(here.commands)


@pytest.mark.parametrize("service", runtime.PLACES)
def test_elsewhere_what_is_missing_is_installed_beside_what_is_there(here, monkeypatch, capsys, service):
    monkeypatch.setenv(service, "1")
    del here.versions["ai-edge-litert"], here.versions["tqdm"]
    runtime.check("05_quantization")
    assert "Installing what is missing, and nothing else: tqdm, ai-edge-litert.\n" in capsys.readouterr().out
    (pip,) = [c for c in here.commands if "pip" in c]
    assert pip[:4] == [sys.executable, "-m", "pip", "install"]
    assert pip[-2:] == ["tqdm>=4.66", "ai-edge-litert>=2.1"]
    assert not {"--upgrade", "-U", "--force-reinstall", "--ignore-installed"} & set(pip)
    held = dict(line.split("==") for line in here.constraints.splitlines() if "==" in line)
    really = {d.metadata["Name"]: d.version for d in runtime.metadata.distributions()}
    assert held == really, "every package that is here is held at its version"
    assert {"numpy", "tensorflow"} <= set(held)


def test_what_a_runtime_was_built_around_does_not_come_in_as_somebody_s_requirement(here, monkeypatch):
    """tf-keras requires tensorflow, and would put it over tensorflow-tpu."""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    there = [SimpleNamespace(metadata={"Name": name}, version="2.21.0") for name in ("NumPy", "tensorflow-tpu")]
    monkeypatch.setattr(runtime.metadata, "distributions", lambda: there)
    del here.versions["tf-keras"]
    runtime.check("01_compute")
    lines = ["NumPy==2.21.0", "tensorflow-tpu==2.21.0", "jax<0", "jaxlib<0", "tensorflow<0", "torch<0"]
    assert here.constraints.splitlines() == lines


def test_another_build_of_tensorflow_is_tensorflow(monkeypatch):
    def version(name):
        if name != "tensorflow-tpu":
            raise runtime.metadata.PackageNotFoundError(name)
        return "2.20.1"

    monkeypatch.setattr(runtime.metadata, "version", version)
    assert runtime._version("tensorflow") == "2.20.1"
    assert runtime._version("numpy") is None


def test_what_pip_could_not_add_is_said_with_its_own_reason(here, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    del here.versions["tqdm"]
    here.pip, here.said = 1, "WARNING: retrying\nERROR: No matching distribution found for tqdm.\nERROR: help\n"
    said = "Chapter 00 needs tqdm, and pip could not add it beside what is here"
    assert refusal("00_start_here") == f"{said} (No matching distribution found for tqdm)."
    here.said = "Traceback\nNo module named pip\n"
    assert refusal("00_start_here") == f"{said} (No module named pip)."
    here.said = ""
    assert "(no reason given)" in refusal("00_start_here")


def test_too_little_memory_is_refused_and_a_container_s_limit_counts(here, monkeypatch):
    needed = runtime.needs("01_compute")["memory_bytes"]
    assert needed >= 2e9
    memory(here.root, needed + 1e6)
    runtime.check("01_compute")
    memory(here.root, 1.2e9)
    start = f"Chapter 01 takes up to {needed / 1e9:.1f} GB of memory, and 1.2 GB are free here: "
    assert refusal("01_compute") == start + "close other programs first."
    monkeypatch.setenv("BINDER_LAUNCH_HOST", "https://mybinder.org/")
    assert refusal("01_compute") == start + "a service of more memory, or your own computer, can run it."
    memory(here.root, 8e9)
    folder = here.root / "sys" / "fs" / "cgroup"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text("2147483648\n")
    (folder / "memory.current").write_text("947483648\n")
    assert runtime.available_memory_bytes() == 1_200_000_000
    assert refusal("01_compute").startswith(start)
    (folder / "memory.max").write_text("max\n")
    runtime.check("01_compute")


def test_where_no_file_tells_the_memory_nothing_is_refused(here):
    (here.root / "proc" / "meminfo").unlink()
    assert runtime.available_memory_bytes() is None
    runtime.check("01_compute")


def test_a_chapter_that_there_is_not():
    with pytest.raises(ValueError, match="there is no chapter '12_more'; there are 00_start_here, 01_compute, "):
        runtime.check("12_more")


def test_a_notebook_shows_the_sentence_and_no_traceback():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    try:
        raise runtime.CannotRun("Chapter 05 can't.")
    except runtime.CannotRun as error:
        shown = error._render_traceback_()
    assert shown == ["CannotRun: Chapter 05 can't."]
    assert shell is not None


def test_a_wheel_has_its_requirements_in_its_metadata(monkeypatch, tmp_path):
    class Metadata(dict):
        def get_all(self, name, default):
            return [
                "numpy>=2.0",
                'jupyterlab>=4.4; extra == "course"',
                'torch>=2; extra == "pytorch"',
                'ruff; extra == "dev"',
            ]

    monkeypatch.setattr(runtime.metadata, "metadata", lambda name: Metadata({"Requires-Python": ">=3.11,<3.14"}))
    python, requirements = runtime.project(tmp_path)
    assert python == ">=3.11,<3.14"
    assert set(runtime._asked(requirements)) == {"numpy", "jupyterlab", "torch"}
    another = (
        '[project]\nname = "another"\nrequires-python = ">=3"\ndependencies = []\n[project.optional-dependencies]\n'
    )
    (tmp_path / "pyproject.toml").write_text(another)
    assert runtime.project(tmp_path)[0] == ">=3.11,<3.14", "somebody else's project is not read"


def test_it_is_imported_where_nothing_else_is():
    program = "import sys; sys.path.insert(0, sys.argv[1]); from hwlimits import runtime; print(*sys.modules)"
    lib = str(data.path("chapters.json").parents[1] / "lib")
    done = subprocess.run([sys.executable, "-S", "-c", program, lib], capture_output=True, text=True, check=True)
    others = (
        {name.split(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names) - {"hwlimits", "__main__"}
    )
    assert {name for name in others if not name.startswith("_")} == set()


# The published versions


def runtimes():
    return yaml.safe_load((ROOT / "data" / "runtimes.yaml").read_text(encoding="utf-8"))


def test_each_runtime_says_where_its_versions_were_read():
    assert [r["name"] for r in runtimes()][:2] == ["Colab", "Kaggle"]
    for found in runtimes():
        assert found["source"].startswith("https://github.com/")
        assert {"python", "date", "read", "packages", "missing"} <= set(found)


@pytest.mark.parametrize("found", runtimes(), ids=lambda found: found["name"])
def test_the_chapters_run_on_todays_runtimes_and_are_refused_on_past_ones(here, monkeypatch, found):
    """As far as versions go: test_runtimes_bare.py runs a first cell on them."""
    monkeypatch.setattr(sys, "version_info", (*map(int, found["python"].split(".")), "final", 0))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    here.versions.update(found["packages"])
    for name in found["missing"]:
        here.versions.pop(name, None)
    if "past" in found["name"]:
        old = found["packages"]["tensorflow"]
        assert f"needs TensorFlow <2.22,>=2.20, and this is {old}, which stays as it is" in refusal("05_quantization")
    else:
        for chapter in [path.stem for path in sorted((ROOT / "chapters" / "text").glob("[0-9]*.md"))]:
            runtime.check(chapter)
