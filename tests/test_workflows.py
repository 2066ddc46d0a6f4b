"""Hosted CI's files, which nothing here runs: their form, what is unsafe in them, and that they are the Makefile's."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Steps that are no `make` target: what a fresh machine lacks.
PREPARING = {
    "python -m pip install uv",
    "git config --global --add safe.directory '*'",
    'git clone -q "$PWD" ~/hwlimits',
}
# By the action's name: the commit that its version's tag named, as others' workflows pin it.
VERSIONS = {
    "actions/checkout": "v6.0.2",
    "actions/setup-python": "v6.2.0",
    "actions/upload-pages-artifact": "v4.0.0",
    "actions/deploy-pages": "v4.0.5",
    "Vampire/setup-wsl": "v7.0.0",
}


def read(path: Path) -> dict:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # `on` stays a word


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())


def steps(workflow: dict) -> list[tuple[str, dict, dict]]:
    return [(name, job, step) for name, job in workflow["jobs"].items() for step in job["steps"]]


def values(job: dict, text: str) -> list[str]:
    """A text of a job for each row of its matrix."""
    rows = job.get("strategy", {}).get("matrix", {}).get("include", [{}])
    return [re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda at, row=row: row[at[1]], text) for row in rows]


def faults(workflow: dict) -> list[str]:
    """What a workflow runs that is no target of the Makefile, and what it lacks to be safe."""
    found = []
    if workflow.get("permissions") != {"contents": "read"}:
        found.append("may do more than read, in all jobs")
    if "group" not in workflow.get("concurrency", {}):
        found.append("no concurrency group")
    for name, job in workflow["jobs"].items():
        if not 0 < int(job.get("timeout-minutes", 0)) <= 180:
            found.append(f"{name}: no timeout")
    for name, job, step in steps(workflow):
        if "uses" in step:
            action, _, commit = step["uses"].partition("@")
            if not re.fullmatch("[0-9a-f]{40}", commit) or action not in VERSIONS:
                found.append(f"{name}: {step['uses']} is not pinned, or not known to this test")
        for line in step.get("run", "").splitlines():
            for versions in values(job, step.get("env", {}).get("VERSIONS", "")):
                said = line.replace('"lock-$VERSIONS"', f"lock-{versions}")
                made = re.fullmatch(r"make (?:-C ~/hwlimits )?(?:PYTHON=python )?([a-z-]+)", said)
                if not (made and made[1] in targets()) and said not in PREPARING:
                    found.append(f"{name}: {said!r} is no target of the Makefile")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_of_the_makefile_pinned_and_with_the_least_rights(path):
    assert faults(read(path)) == []
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Not run here: ")
    for action, commit, comment in re.findall(r"uses: (\S+)@(\S+) # (\S+)", text):
        assert VERSIONS[action] == comment, (action, commit)
    assert text.count("uses: ") == len(re.findall(r"uses: \S+@[0-9a-f]{40} # v\d", text))


def test_one_commit_for_each_action_in_all_files():
    pins = {use for path in FILES for _, _, step in steps(read(path)) if (use := step.get("uses"))}
    assert len(pins) == len({pin.split("@")[0] for pin in pins}) == len(VERSIONS)


def test_each_planted_fault_is_seen():
    def planted(old, new):
        text = (ROOT / ".github" / "workflows" / "weekly.yml").read_text(encoding="utf-8")
        assert old in text
        return " ".join(faults(yaml.load(text.replace(old, new), Loader=yaml.BaseLoader)))

    assert "'make tests' is no target" in planted("run: make test\n", "run: make tests\n")
    assert "'make lock-latest' is no target" in planted("versions: newest", "versions: latest")
    assert "'pytest -q' is no target" in planted("run: make case-study", "run: pytest -q")
    assert "actions/checkout@v6 is not pinned" in planted("@de0fac2e4500dabe0009e67214ff5f5447ce83dd", "@v6")
    assert "may do more than read" in planted("contents: read", "contents: write")
    assert "no concurrency group" in planted("group: weekly", "grouped: weekly")
    assert "no timeout" in planted("timeout-minutes: 60", "timeout-minutes: 600")


def test_every_system_and_both_ends_of_the_dependencies_are_tried():
    weekly, test, book = (read(ROOT / ".github" / "workflows" / f"{n}.yml") for n in ("weekly", "test", "book"))
    for workflow in (weekly, test):
        runners = {runner for job in workflow["jobs"].values() for runner in values(job, job["runs-on"])}
        assert {runner.split("-")[0] for runner in runners} == {"ubuntu", "macos", "windows"}
        asked = [(job, step.get("with", {}).get("python-version", "")) for _, job, step in steps(workflow)]
        assert "3.13" in {version for job, text in asked for version in values(job, text)}
    rows = weekly["jobs"]["versions"]["strategy"]["matrix"]["include"]
    assert {row["versions"] for row in rows} == {"oldest", "newest"}
    assert weekly["on"]["schedule"] == [{"cron": "17 3 * * 1"}]
    assert "make test" in {step.get("run") for _, _, step in steps(test)}
    (made,) = [step for _, _, step in steps(book) if step.get("run") == "make book"]
    assert made["env"] == {"HWLIMITS_HOME": "${{ github.server_url }}/${{ github.repository }}"}
    assert [job for job, had in book["jobs"].items() if "permissions" in had] == ["publish"]
    assert "pull_request" not in book["on"], "what is not merged is not published"


def linter(module: str, command: str) -> str:
    """A linter's program, of the `dev` extra; left out where it is not installed, a failure in CI."""
    program = shutil.which(command, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None and importlib.util.find_spec(module) is None:
        said = f"{command} is not installed: say `make setup`"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(f"left out: {said}")
    return program


def lint(path: Path) -> tuple[int, str]:
    """Both linters' exit statuses, summed, and what they said; neither asks the network."""
    schema = [linter("check_jsonschema", "check-jsonschema"), "--builtin-schema", "vendor.github-workflows", str(path)]
    options = ["--offline", "--no-progress", "--persona=pedantic", "--color=never"]
    unsafe = [linter("zizmor", "zizmor"), *options, str(path)]
    done = [subprocess.run(command, capture_output=True, text=True) for command in (schema, unsafe)]
    return sum(d.returncode != 0 for d in done), "".join(d.stdout + d.stderr for d in done)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_two_linters_find_nothing(path):
    failed, said = lint(path)
    assert not failed, said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("timeout-minutes: 120", "timeout: 120", "timeout"),
        ("    runs-on: ubuntu-24.04\n    timeout-minutes: 120", "    timeout-minutes: 120", "runs-on"),
        ("        with:\n          persist-credentials: false\n", "", "artipacked"),
        ("- run: make test\n", "- run: echo ${{ github.head_ref }}\n", "template-injection"),
        ("@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2", "@v6", "unpinned-uses"),
        ("contents: read", "contents: write", "excessive-permissions"),
    ],
)
def test_the_linters_see_planted_faults(tmp_path, old, new, said):
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert old in text
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    (folder / "test.yml").write_text(text.replace(old, new, 1), encoding="utf-8")
    failed, found = lint(folder / "test.yml")
    assert failed
    assert said in found
