"""Sweeps: nothing finished is lost or computed again, whatever dies. Executions are counted by files they leave."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import distributed
import pytest
import sweep_tasks
from sweep_tasks import act, executions
from typer.testing import CliRunner

from hwlimits.cli import app
from hwlimits.sweep import Result, SweepError, cluster, grid, read_grid, results, run, runs, settings, worker

TESTS = Path(__file__).parent
TASK = "sweep_tasks:act"


@pytest.fixture
def log(tmp_path):
    """Where executions are counted."""
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


def points(log, **axes):
    return grid(log=str(log), **axes)


def refused(action, *arguments, **named) -> str:
    with pytest.raises(SweepError) as error:
        action(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def environment(**more):
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | more


def until(condition, seconds=60):
    """Wait for it."""
    end_s = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.05)
    return found


# settings and keys


def test_a_grid_has_every_combination_of_each_point():
    assert grid(a=[1, 2], b=(3, 4), c="x") == [{"a": a, "b": b, "c": "x"} for a in (1, 2) for b in (3, 4)]
    assert grid({"a": 1}, {"a": 2}, s=range(2)) == [{"a": a, "s": s} for a in (1, 2) for s in (0, 1)]
    assert grid(a=[[1, 2]]) == [{"a": [1, 2]}]
    assert grid() == [{}]
    assert refused(grid, a=[]).startswith("the axis 'a' has no values")
    assert refused(grid, {"a": 1}, a=[2]) == "'a' is set by the point {'a': 1} and by an axis: leave one out"


def test_a_grid_file_says_the_same(tmp_path):
    file = tmp_path / "g.yaml"
    file.write_text(
        f"task: {TASK}\nfixed: {{rate: 1e-3, shape: [3, 3]}}\naxes: {{n: [1, 2]}}\npoints: [{{b: 4}}, {{b: 2}}]\n"
    )
    task, found = read_grid(file)
    assert task == TASK
    assert found == [{"rate": 0.001, "shape": [3, 3], "b": b, "n": n} for b in (4, 2) for n in (1, 2)]
    file.write_text(f"task: {TASK}\n")
    assert read_grid(file) == (TASK, [{}])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("axes: {n: [1]}", "must say `task: module:function`, and may say fixed, axes and points, nothing else"),
        (f"task: {TASK}\naxis: {{n: [1]}}", "must say `task: module:function`, and may say fixed"),
        ("- 1", "must say `task: module:function`"),
        ("task: [", "is no valid YAML: while parsing"),
        ("\x00", "is no valid YAML: unacceptable character"),
        (f"task: {TASK}\naxes: {{n: [1], n: [2]}}", "'n' is there twice"),
        (f"task: {TASK}\naxes: {{n: 1}}", "the axis 'n' must be a list, and is 1"),
        (f"task: {TASK}\naxes: [1]", "axes must be names with values, and is [1]"),
        (f"task: {TASK}\naxes: {{n: []}}", "the axis 'n' has no values"),
        (f"task: {TASK}\npoints: {{n: 1}}", "points must be a list of settings"),
        (f"task: {TASK}\nfixed: {{n: 1}}\npoints: [{{n: 1}}]", "'n' is fixed, and set elsewhere, too"),
        (f"task: {TASK}\naxes: {{n: [1]}}\npoints: [{{n: 1}}]", "'n' is set by the point {'n': 1} and by an axis"),
        (f"task: {TASK}\nfixed: {{1: 1}}", "can't be kept as JSON: the name 1 is not text"),
        (
            f"task: {TASK}\nfixed: {{day: 2020-01-01}}",
            "can't be kept as JSON: datetime.date(2020, 1, 1) is of type date",
        ),
        ("task: train", "a task is named as module:function"),
        ("task: 3", "a task is named as module:function"),
        ("task: no_such_module:f", "the task no_such_module:f can't be imported: there is no such module"),
        ("task: no_such.module:f", "can't be imported: No module named 'no_such'"),
    ],
)
def test_a_wrong_grid_file_is_one_sentence(tmp_path, text, said):
    (tmp_path / "g.yaml").write_text(text)
    told = refused(read_grid, tmp_path / "g.yaml")
    assert told.startswith(f"the grid file {tmp_path / 'g.yaml'}")
    assert said in told


def test_no_grid_file_is_one_sentence(tmp_path):
    assert refused(read_grid, tmp_path / "no.yaml").endswith("no.yaml can't be read: No such file or directory")


def test_settings_are_what_json_has():
    import numpy as np

    assert settings.plain({"a": (1, 2), "b": np.float32(0.5), "c": None, "d": {"e": True}}) == {
        "a": [1, 2], "b": 0.5, "c": None, "d": {"e": True},
    }  # fmt: skip
    for value, why in ((float("nan"), "Out of range float"), (b"x", "is of type bytes"), ({1: 2}, "the name 1 is not")):
        assert why in refused(settings.plain, {"a": value})
    assert "must be a dict" in refused(settings.plain, [1])
    loop = []
    loop.append(loop)
    assert "can't be kept as JSON" in refused(settings.plain, {"a": loop})


def test_a_key_is_the_task_and_all_settings():
    one = settings.key_of("m:f", {"a": 1, "b": [2]})
    # printf '{"settings": {"a": 1, "b": [2]}, "task": "m:f"}' | sha256sum
    assert one == "513620526befcff1"
    others = [("m:g", {"a": 1, "b": [2]}), ("m:f", {"a": 2, "b": [2]}), ("m:f", {"a": 1, "b": [2], "c": None})]
    assert len({one, *(settings.key_of(*other) for other in others)}) == 4


def test_a_task_is_what_other_processes_can_import(tmp_path):
    assert settings.task_name(act) == TASK
    assert settings.find_task(TASK) is act

    def inner(settings, folder): ...

    for wrong in (lambda s, f: {}, inner, Path.exists, 3):
        assert "can't be imported by other processes" in refused(run, wrong, [{}], tmp_path)
    assert "has no attribute 'nothing'" in refused(settings.find_task, "sweep_tasks:nothing")
    assert "is no function, but 3" in refused(settings.find_task, "sweep_tasks:NOT_A_FUNCTION")


def test_what_can_t_be_asked_is_one_sentence(tmp_path, log):
    asked = points(log, n=[1])
    assert "is for this computer only" in refused(run, act, asked, tmp_path, scheduler="tcp://h:1", workers=2)
    assert refused(run, act, asked, tmp_path, workers=0).startswith("workers=0: must be a number")
    assert refused(run, act, asked, tmp_path, retries=-1).startswith("retries=-1: must be a number")
    (tmp_path / "file").touch()
    told = refused(run, act, asked, tmp_path / "file" / "x")
    assert told == f"the sweep can't be kept in {tmp_path / 'file' / 'x'}: Not a directory"
    assert run(act, [], tmp_path / "none") == []


# results on disk


@pytest.fixture
def kept(tmp_path):
    """A result with a file: (folder, key, settings)."""
    root, asked = tmp_path / "kept", {"n": 3}
    results.prepare(root)
    record = {"task": TASK, "settings": asked, "row": {"square": 9}, "seconds": 1.5, "made_by": {}}
    results.keep(root, "k", record, {"a.bin": b"abc"})
    return root, "k", asked


def test_a_result_is_read_as_it_was_kept(kept):
    root, key, asked = kept
    found = results.look(root, key, TASK, asked)
    assert (found.settings, found.row, found.seconds, found.files) == (asked, {"square": 9}, 1.5, ("a.bin",))
    assert (found.folder / "a.bin").read_bytes() == b"abc"
    assert results.look(root, "other", TASK, asked) is None
    assert os.listdir(root / "work") == []


def test_the_first_of_two_results_stays(kept):
    root, key, asked = kept
    record = {"task": TASK, "settings": asked, "row": {"square": 10}, "seconds": 1, "made_by": {}}
    results.keep(root, key, record, {})
    assert results.look(root, key, TASK, asked).row == {"square": 9}
    assert sorted(os.listdir(root)) == ["k", "work"]
    assert os.listdir(root / "work") == ["aside.lock"]


def alter(change):
    """A fault in the record."""

    def fault(found):
        record = json.loads((found / "result.json").read_text())
        change(record)
        (found / "result.json").write_text(json.dumps(record))

    return fault


def replaced_by_a_file(found):
    shutil.rmtree(found)
    found.write_text("{}")


FAULTS = {
    "truncated": lambda found: os.truncate(found / "result.json", 20),
    "empty": lambda found: (found / "result.json").write_text(""),
    "no text": lambda found: (found / "result.json").write_bytes(b"\xff\xfe"),
    "deep": lambda found: (found / "result.json").write_text("[" * 100_000),
    "a list": lambda found: (found / "result.json").write_text("[]"),
    "gone": lambda found: (found / "result.json").unlink(),
    "a file": replaced_by_a_file,
    "a file altered": lambda found: (found / "a.bin").write_bytes(b"abd"),
    "a file missing": lambda found: (found / "a.bin").unlink(),
    "of another version": alter(lambda record: record.update(format=2)),
    "of another task": alter(lambda record: record.update(task="m:f")),
    "of other settings": alter(lambda record: record["settings"].update(n=4)),
    "no row": alter(lambda record: record.pop("row")),
    "a row that is none": alter(lambda record: record.update(row=[])),
    "a file elsewhere": alter(lambda record: record["files"].update({"../k/a.bin": record["files"]["a.bin"]})),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_result_is_seen_moved_aside_and_made_again(kept, fault, log):
    root, key, asked = kept
    FAULTS[fault](root / key)
    told = refused(results.look, root, key, TASK, asked)
    assert told.startswith(f"the result in {root / key} is damaged: ")
    record = {"task": TASK, "settings": asked, "row": {"square": 10}, "seconds": 1, "made_by": {}}
    results.keep(root, key, record, {})
    assert results.look(root, key, TASK, asked).row == {"square": 10}
    assert (root / "k.damaged-1").exists()


def test_a_disk_that_is_full_loses_nothing(kept, monkeypatch):
    root, key, asked = kept
    monkeypatch.setattr(results.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    record = {"task": TASK, "settings": asked, "row": {}, "seconds": 1, "made_by": {}}
    with pytest.raises(OSError, match="No space left"):
        results.keep(root, "new", record, {"a": b"1"})
    assert sorted(os.listdir(root)) == ["k", "work"]
    assert os.listdir(root / "work") == []


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "must return a row (a dict) or a Result, and returned <class 'NoneType'>"),
        (Result([1]), "must return a row (a dict) or a Result"),
        ({"a": float("inf")}, "can't be kept as JSON: Out of range float"),
        (Result({}, {"../x": b""}), "returned a file of the name '../x'"),
        (Result({}, {".hidden": b""}), "returned a file of the name '.hidden'"),
        (Result({}, {"result.json": b""}), "returned a file of the name 'result.json'"),
        (Result({}, {"a": "text"}), "returned the file a as str: it must be bytes"),
    ],
)
def test_what_a_task_may_return(returned, said):
    assert said in refused(results.checked, returned, TASK)
    assert results.checked({"a": 1}, TASK) == Result({"a": 1})


# a worker by itself


def test_a_worker_computes_once(tmp_path, log):
    asked, root = {"n": 3, "log": str(log)}, str(tmp_path / "r")
    for _ in range(2):
        assert worker.execute(TASK, asked, "k", root, {}) == {}
    assert executions(log) == 1
    made_by = results.look(tmp_path / "r", "k", TASK, asked).made_by
    assert made_by["versions"]["python"]
    assert (tmp_path / "r" / "work" / "k.log").read_text() == "printed by 3\n"


def test_what_fails_in_a_worker_is_an_answer(tmp_path, log, monkeypatch):
    root = str(tmp_path / "r")
    raised = worker.execute(TASK, {"n": 3, "log": str(log), "do": "raise"}, "k", root, {})
    assert raised["error"] == "ValueError: no square of 3 is known"
    assert "sweep_tasks.py" in raised["traceback"]
    assert "ValueError" in (tmp_path / "r" / "work" / "k.log").read_text()
    left = worker.execute(TASK, {"n": 3, "log": str(log), "do": "exit"}, "k2", root, {})
    assert left["error"] == "SystemExit: leaving"
    assert "has no attribute 'g'" in worker.execute("sweep_tasks:g", {}, "k3", root, {})["fatal"]
    monkeypatch.setenv("HWLIMITS_CACHE", str(tmp_path / "cache"))
    other = worker.execute(TASK, {}, "k4", None, worker.about() | {"hwlimits": "9.9"})
    assert f"has hwlimits {worker.about()['hwlimits']}, and here 9.9" in other["fatal"]


def test_the_code_that_a_worker_has_is_told_apart(tmp_path, monkeypatch):
    package = shutil.copytree(
        Path(worker.hwlimits.__file__).parent, tmp_path / "hwlimits", ignore=shutil.ignore_patterns("__pycache__")
    )
    here = worker._code()
    monkeypatch.setattr(worker.hwlimits, "__file__", str(package / "__init__.py"))
    assert worker._code() == here
    with open(package / "rans.py", "a") as file:
        file.write("#")
    assert worker._code() != here


# processes of this computer


def test_a_sweep_on_this_computer(tmp_path, log, monkeypatch):
    """One cluster for most of it: order, files, threads, workers that die, tasks that fail, and what is found again."""
    other = {10: "raise", 12: "die once", 13: "exit", 14: "raise once"}
    asked = points(log, n=[5, 1, 3]) + [{"log": str(log), "n": n, "do": do} for n, do in other.items()]
    asked += points(log, n=[1, 0])
    told, before = [], dict(os.environ)
    with pytest.raises(SweepError) as error:
        run(act, asked, tmp_path / "r", workers=2, retries=1, say=told.append)
    assert os.environ == before
    failed = {each["n"]: why for each, why in error.value.failed}
    assert failed, str(error.value)
    assert failed == {10: "ValueError: no square of 10 is known", 13: "SystemExit: leaving"}
    assert f"2 of 8 tasks of {TASK} failed: {asked[3]}: ValueError" in str(error.value)
    assert f"6 results are kept in {tmp_path / 'r'}, and the same call tries only what failed again" in str(error.value)
    counts = {n: executions(log, n) for n in (0, 1, 3, 5, *other)}
    # what failed may be lost with a worker that dies before it is fetched; what is finished is not
    assert counts.pop(10) in (2, 3)
    assert counts == {0: 1, 1: 1, 3: 1, 5: 1, 12: 2, 13: 2, 14: 2}
    assert sum("done" in line and "FAILED" not in line for line in told) == 6
    assert any(line.startswith("6 of 8 done, 2 failed, 0 to go, after ") for line in told)
    (failure,) = {Path(str(error.value).rsplit(" ", 1)[1])}
    assert "no square of" in failure.read_text()

    monkeypatch.setattr(cluster, "local", None)  # all of these are there: no cluster is started
    wanted = [each for each in asked if each["n"] not in failed]
    done = run(act, wanted, tmp_path / "r", say=told.append)
    assert told[-1] == "6 of 6 are there already"
    assert [d.row["square"] for d in done] == [25, 1, 9, 144, 196, 1, 0]
    assert [d.row["resumed"] for d in done] == [False, False, False, True, True, False, False]
    assert all(d.row["threads"] == [1, "1"] for d in done)
    assert (done[0].folder / "n.txt").read_bytes() == b"5"
    assert counts == {n: executions(log, n) for n in counts}
    monkeypatch.undo()


PROGRAM = """
import signal, sys, sweep_tasks
from hwlimits.sweep import grid, run
if __name__ == "__main__":
    # as in a terminal: what is started in the background of a script ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    first = {"log": sys.argv[1], "n": 1}
    run(sweep_tasks.act, [first, *({**first, "n": n, "do": "wait"} for n in (2, 3))], sys.argv[2], workers=1)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_an_interrupted_sweep_keeps_what_is_finished_and_leaves_no_process(tmp_path, log, how):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-W", "error", str(tmp_path / "program.py"), str(log), str(tmp_path / "r")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True)
    (pid,) = until(lambda: [int(name[4:]) for name in os.listdir(log) if name.startswith("pid-")])
    if how == signal.SIGINT:
        os.killpg(child.pid, how)  # as a terminal does: workers get it, too
    else:
        child.kill()
    said = child.communicate(timeout=30)[1]
    until(lambda: not running(pid))
    assert "1 of 3 done" in said
    if how == signal.SIGINT:
        assert "sweep: interrupted: 1 of 3 done, 2 to go, after " in said
        assert said.count("Traceback") == 1, said  # the program's own
        assert said.endswith("KeyboardInterrupt\n")
    assert run(act, points(log, n=[1]), tmp_path / "r")[0].row["square"] == 1
    assert executions(log, 1) == 1


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_two_sweeps_in_one_folder_compute_each_point_once(tmp_path, log):
    """As two commands at the same time, whose last points wait for each other."""
    (tmp_path / "g.yaml").write_text(
        f"task: {TASK}\nfixed: {{log: '{log}', seconds: 0.3}}\naxes: {{n: [1, 2, 3, 4]}}\n"
    )
    command = [sys.executable, "-m", "hwlimits.cli", "sweep", "g.yaml", "--workers", "1", "--json"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, cwd=tmp_path, env=environment(), **streams) for _ in range(2)]
    for child in both:
        stdout, stderr = child.communicate(timeout=120)
        assert child.returncode == 0, stderr
        assert [each["row"]["square"] for each in json.loads(stdout)] == [1, 4, 9, 16]
        assert "hwlimits: 4 of 4 done, 0 to go, after" in stderr
    assert executions(log) == 4
    assert len([name for name in os.listdir(tmp_path / "build" / "sweeps" / "g") if name != "work"]) == 4


def test_workers_that_can_t_be_started_are_one_sentence(tmp_path, log, monkeypatch):
    import distributed

    def fail(*arguments, **named):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", fail)
    told = refused(run, act, points(log, n=[1]), tmp_path / "r")
    assert told.startswith("no workers could be started on this computer (RuntimeError: Nanny failed to start.); ")
    assert "below `if __name__ == '__main__':`" in told


# a cluster by its address


class Cluster:
    """A scheduler and workers with folders of their own, started as a reader starts them."""

    def __init__(self, folder):
        self.folder, self.children = folder, []
        self.cache = folder / "cache"
        folder.mkdir(parents=True)
        more = {"HWLIMITS_CACHE": str(self.cache), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
        self.environment = environment(**more)
        self.start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", "s.json")
        file = folder / "s.json"
        self.address = json.loads(until(lambda: file.exists() and file.read_text()))["address"]

    def start(self, *arguments):
        with open(self.folder / "dask.log", "a") as log:
            command = [sys.executable, "-m", "dask", arguments[0], "--host", "127.0.0.1", *arguments[1:]]
            streams = {"stdout": log, "stderr": log}
            self.children.append(subprocess.Popen(command, cwd=self.folder, env=self.environment, **streams))

    def start_worker(self):
        self.start("worker", self.address, "--nthreads", "1", "--no-dashboard", "--local-directory", "w")

    def stop(self):
        for child in self.children:
            child.kill()  # a worker's own process ends with it
        for child in self.children:
            child.wait(20)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A cluster with one worker."""
    found = Cluster(tmp_path_factory.mktemp("there") / "c")
    found.start_worker()
    yield found
    found.stop()


def test_rows_and_files_come_back_from_a_cluster(there, tmp_path, log):
    asked = points(log, n=[2, 1]) + [{"log": str(log), "n": 7, "do": do} for do in ("raise", "die once", "die")]
    with pytest.raises(SweepError) as error:
        run(act, asked, tmp_path / "r", scheduler=there.address)
    assert [(each["do"], why) for each, why in error.value.failed] == [
        ("raise", "ValueError: no square of 7 is known"), ("die", runs.KILLED),
    ]  # fmt: skip
    done = run(act, asked[:2] + asked[3:4], tmp_path / "r", scheduler="tcp://127.0.0.1:1")  # nobody has to answer
    assert [d.row["square"] for d in done] == [4, 1, 49]
    assert (done[0].folder / "n.txt").read_bytes() == b"2"
    assert [executions(log, n) for n in (1, 2)] == [1, 1]
    kept = [name for name in os.listdir(there.cache / "sweeps") if name != "work"]
    assert kept == [], "what is written here is removed there"


def test_a_result_that_a_worker_had_finished_is_fetched(there, tmp_path, log, monkeypatch):
    """The sweep before this one was cut off between a task's end and its result's arrival."""
    asked = {"n": 6, "log": str(log)}
    with monkeypatch.context() as patch:
        patch.setenv("HWLIMITS_CACHE", str(there.cache))
        worker.execute(TASK, asked, settings.key_of(TASK, asked), None, worker.about())
    (found,) = run(act, [asked], tmp_path / "r", scheduler=there.address)
    assert found.row["square"] == 36
    assert executions(log) == 1


def test_a_damaged_result_here_is_made_again_and_said(there, tmp_path, log):
    told = []
    for _ in range(2):
        (found,) = run(act, points(log, n=[4]), tmp_path / "r", scheduler=there.address, say=told.append)
        os.truncate(found.folder / "result.json", 30)
    assert executions(log) == 2
    assert f"the result in {found.folder} is damaged: " in "".join(told)
    assert "it is moved aside, and made again" in "".join(told)


def test_the_command_prints_a_table_and_names_what_failed(there, tmp_path, log, monkeypatch):
    file = tmp_path / "g.yaml"
    file.write_text(f"task: {TASK}\nfixed: {{log: '{log}'}}\naxes: {{n: [1, 2]}}\n")
    options = ["--scheduler", there.address, "--folder", str(tmp_path / "r")]
    monkeypatch.setenv("COLUMNS", "300")  # the log's path may be long, and would be broken into lines
    shown = CliRunner().invoke(app, ["sweep", str(file), *options])
    assert shown.exit_code == 0, shown.stderr
    head, _, *lines = shown.stdout.splitlines()
    assert head.split() == ["log", "n", "square", "resumed", "threads"]
    assert [line.split()[1:3] for line in lines] == [["1", "1"], ["2", "4"]]
    file.write_text(f"task: {TASK}\nfixed: {{log: '{log}', do: raise}}\naxes: {{n: [1]}}\n")
    shown = CliRunner().invoke(app, ["sweep", str(file), *options])
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr.splitlines()[-1].startswith(f"hwlimits: 1 of 1 tasks of {TASK} failed: ")
    shown = CliRunner().invoke(app, ["sweep", str(file), *options, "--workers", "2"])
    assert "leave one out" in shown.stderr


def test_workers_of_another_version_are_refused(there, tmp_path, log, monkeypatch):
    here = worker.about()
    monkeypatch.setattr(worker, "about", lambda: here | {"Python": "3.99"})
    told = refused(run, act, points(log, n=[1]), tmp_path / "r", scheduler=there.address)
    assert f"has Python {here['Python']}, and here 3.99: install the same there as here, and start the worker" in told
    monkeypatch.setattr(runs._Run, "meet_workers", lambda self, missing: missing)  # a worker that comes later
    told = refused(run, act, points(log, n=[1]), tmp_path / "r", scheduler=there.address)
    assert f"has Python {here['Python']}, and here 3.99; 0 of 1 done" in told
    assert executions(log) == 0


def test_a_task_that_the_workers_lack_stops_the_sweep(there, tmp_path):
    told = refused(run, "sweep_tasks:nothing", [{"n": 1}, {"n": 2}], tmp_path / "r", scheduler=there.address)
    assert told.startswith(
        "the task sweep_tasks:nothing can't be imported: AttributeError: module 'sweep_tasks' has no"
    )


def test_a_cluster_without_workers_and_one_that_goes(tmp_path, log, monkeypatch):
    monkeypatch.setattr(runs, "WORKER_WITHIN_S", 0.5)
    own = Cluster(tmp_path / "own")
    try:
        told = refused(run, act, points(log, n=[1]), tmp_path / "r", scheduler=own.address)
        assert f"at {own.address} has had no worker for 0.5 s: start one with `dask worker {own.address} --nt" in told
        own.start_worker()
        monkeypatch.setattr(runs, "WORKER_WITHIN_S", 60)

        def end_it():
            until(lambda: any(name.startswith("pid-") for name in os.listdir(log)))
            own.children[0].kill()

        ending = threading.Thread(target=end_it)
        ending.start()
        asked = points(log, n=[1]) + [{"log": str(log), "n": 2, "do": "wait"}]
        told = refused(run, act, asked, tmp_path / "r", scheduler=own.address)
        ending.join()
        assert told.startswith(f"the cluster at {own.address} is gone (")
        assert "1 of 2 done, 1 to go, after" in told
        assert told.endswith("the same call goes on from there")
    finally:
        own.stop()


@pytest.mark.parametrize("listens", [False, True])
def test_where_no_scheduler_answers_is_one_sentence(tmp_path, log, monkeypatch, listens):
    monkeypatch.setattr(cluster, "ANSWER_WITHIN_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        if not listens:
            server.close()
        told = refused(run, act, points(log, n=[1]), tmp_path / "r", scheduler=address)
    assert told.startswith(f"no Dask scheduler answers at {address} (")
    assert "start one with `dask scheduler`" in told


@pytest.mark.parametrize("address", ["nowhere", "", "what://x:1", "tcp://"])
def test_an_address_that_is_none_is_one_sentence(tmp_path, log, monkeypatch, address):
    monkeypatch.setattr(cluster, "ANSWER_WITHIN_S", 1)
    told = refused(run, act, points(log, n=[1]), tmp_path / "r", scheduler=address)
    assert told.startswith(f"no Dask scheduler answers at {address} (")


@pytest.mark.parametrize("address", ["nowhere", "what://x:1", "tcp://127.0.0.1:9"])
def test_a_client_that_can_not_connect_is_closed_at_once(monkeypatch, address):
    """One that is left is closed when garbage is collected, which can wait for ever for a lock of the next client."""
    made = []

    class Watched(distributed.Client):
        def __init__(self, *given, **how):
            made.append(self)
            super().__init__(*given, **how)

    monkeypatch.setattr(cluster, "ANSWER_WITHIN_S", 1)
    monkeypatch.setattr(distributed, "Client", Watched)
    with pytest.raises((OSError, TimeoutError, ValueError)), cluster._quiet():
        cluster._connected(address)
    assert [client.status for client in made] == ["closed"]


def test_importing_sweep_loads_nothing_heavy():
    program = "import sys, hwlimits.sweep; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"tensorflow", "numba", "distributed", "dask"}
    assert sweep_tasks.NOT_A_FUNCTION == 3


@pytest.mark.parametrize("status", ["lost", "pending"])
def test_a_task_whose_worker_died_behind_its_end_is_one_whose_worker_died(status):
    """Asked for its exception, it would be waited for, until it is done again or the wait is over."""
    assert runs._Run._answer(None, SimpleNamespace(status=status)) is None
