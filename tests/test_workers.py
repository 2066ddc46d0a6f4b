"""Real workers over loopback: two processes, one of them killed; what they send; the errors of who asks wrongly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from hwlimits.collectives import cost
from hwlimits.training import mnist, workers
from hwlimits.training.placement import DistributeError, Settings
from hwlimits.training.workers import Kill, WorkerError, run

CLUSTERS = Path(__file__).parents[1] / "clusters"
SETTINGS = Settings(epochs=2, save_steps=10, images=2000)


@pytest.mark.alone
def test_two_workers_one_killed_go_on_and_end_as_if_nothing_had_been(tmp_path):
    said = []
    found = run(2, SETTINGS, tmp_path, source="mnist-5k", kill=Kill(1, 35), restarts=1, limit_s=300, say=said.append)
    assert found["deaths"] == [{"worker": 1, "exit": -signal.SIGKILL}]
    assert found["attempts"] == 2
    assert said == ["worker 1 of 2 ended with signal SIGKILL; all are started again from the last checkpoint"]
    assert found["plan"].startswith("MultiWorkerMirroredStrategy: TF_CONFIG names 2 workers")
    steps = SETTINGS.epochs * (SETTINGS.images // SETTINGS.batch)
    assert steps - 60 < found["steps"] <= steps - 30, "it went on from a checkpoint at step 30 or after"

    # chapter 03's ring: every process sends so much; what gRPC and TCP add is little beside it
    predicted = 4 * sum(cost("ring", 2, found["parameters"]).sent)
    assert predicted <= found["sent_bytes_per_step"] <= 1.1 * predicted

    assert 0 < found["all_reduce_one_s"] < 10, "checked to be a sum of two where it is timed"
    assert 0 < found["all_reduce_s"] < 10
    assert np.median(found["steps_s"]) == found["step_s"]
    assert np.median(found["all_reduce_times_s"]) == found["all_reduce_s"]

    # without an accident, another seed would give an error in this interval, with a probability of 99 %
    errors = np.array([alone(seed) for seed in range(1, 7)])
    half = stats.t.ppf(0.995, len(errors) - 1) * errors.std(ddof=1) * np.sqrt(1 + 1 / len(errors))
    assert abs(found["error"] - errors.mean()) <= half, (found["error"], errors)
    assert half < 0.1, "an interval that holds everything shows nothing"


def alone(seed: int) -> float:
    """The error of an uninterrupted training in this process."""
    from hwlimits.training import distribute
    from hwlimits.training.keras import tf

    data = mnist.load("mnist-5k")
    settings = Settings(epochs=SETTINGS.epochs, images=SETTINGS.images, seed=seed, save_steps=10**6)
    model = distribute.train(tf.distribute.get_strategy(), settings, data, None)
    answers = model.predict(mnist.scale(data.x_test), batch_size=500, verbose=0)
    return float((answers.argmax(axis=1) != data.y_test).mean())


def program(tmp_path, monkeypatch, text):
    """Workers that are a few lines of Python instead of a training."""
    (tmp_path / "planted.py").write_text("import json, os, sys, time\nfrom pathlib import Path\n" + text)
    monkeypatch.setattr(workers, "WORKER", ("-u", str(tmp_path / "planted.py")))


def test_a_worker_that_dies_each_time_ends_it_with_its_last_words(tmp_path, monkeypatch):
    program(
        tmp_path,
        monkeypatch,
        """
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
    print("no more memory"); sys.exit(7)
time.sleep(600)
""",
    )
    said = []
    with pytest.raises(WorkerError) as error:
        run(2, SETTINGS, tmp_path / "job", restarts=2, say=said.append)
    assert str(error.value) == (
        "2 workers were started 3 times, and each time one died; the last was worker 1, with exit code 7. "
        "Its last words: no more memory"
    )
    assert said == ["worker 1 of 2 ended with exit code 7; all are started again from the last checkpoint"] * 2


def test_all_are_ended_when_one_dies_and_each_attempt_has_other_words(tmp_path, monkeypatch):
    program(
        tmp_path,
        monkeypatch,
        """
config = json.loads(os.environ["TF_CONFIG"])
index, place = config["task"]["index"], Path(json.loads(sys.argv[1])["place"])
(place / f"pid-{index}").write_text(str(os.getpid()))
assert len(set(config["cluster"]["worker"])) == 3
while len(list(place.glob("pid-*"))) < 3:
    time.sleep(0.02)
if place.name == "attempt-0":
    sys.exit(1) if index == 2 else time.sleep(600)
if index == 0:
    (place / "found.json").write_text('{"error": 0.5}')
""",
    )
    found = run(3, Settings(batch=66), tmp_path / "job", say=lambda text: None)
    assert found == {"error": 0.5, "workers": 3, "attempts": 2, "deaths": [{"worker": 2, "exit": 1}]}
    for path in (tmp_path / "job/attempt-0").glob("pid-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_workers_that_hang_are_ended_when_their_time_is_over(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "time.sleep(600)")
    with pytest.raises(WorkerError, match="^2 workers did not end in the time they were given; see .*attempt-0$"):
        run(2, SETTINGS, tmp_path / "job", limit_s=0.5)


def test_the_one_to_be_killed_is_killed_at_its_step(tmp_path, monkeypatch):
    program(
        tmp_path,
        monkeypatch,
        """
index, place = json.loads(os.environ["TF_CONFIG"])["task"]["index"], Path(json.loads(sys.argv[1])["place"])
for step in range(40):
    with (place / f"steps-{index}").open("ab") as file:
        file.write(b".")
    time.sleep(0.02 if step < 39 or place.name == "attempt-0" else 0)
time.sleep(600 if place.name == "attempt-0" else 0)
(place / "found.json").write_text(json.dumps({}))
""",
    )
    found = run(2, SETTINGS, tmp_path / "job", kill=Kill(0, 20), limit_s=60, say=lambda text: None)
    assert found["deaths"] == [{"worker": 0, "exit": -9}]
    made = len((tmp_path / "job/attempt-0/steps-0").read_bytes())
    assert 20 <= made < 40


def test_an_earlier_job_in_the_folder_does_not_count_as_this_one(tmp_path, monkeypatch):
    program(
        tmp_path,
        monkeypatch,
        """
place, first = Path(json.loads(sys.argv[1])["place"]), not Path(sys.argv[0]).with_name("second").exists()
(place / "steps-1").write_bytes(b"." * 40 if first else b"")
time.sleep(0.3)
(place / "found.json").write_text("{}")
""",
    )
    run(2, SETTINGS, tmp_path / "job")
    (tmp_path / "second").touch()
    found = run(2, SETTINGS, tmp_path / "job", kill=Kill(1, 35), say=lambda text: None)
    assert found["deaths"] == [], "no worker has made 35 steps this time"


def test_a_supervisor_that_is_told_to_end_ends_its_workers(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "Path(json.loads(sys.argv[1])['place'], str(os.getpid())).touch(); time.sleep(600)")
    text = f"from hwlimits.training import workers; workers.WORKER = {workers.WORKER!r}; workers.main()"
    supervisor = subprocess.Popen([sys.executable, "-c", text, "--folder", str(tmp_path / "job")])
    place = tmp_path / "job/attempt-0"
    until = time.monotonic() + 60
    while len(started := [p for p in place.glob("*") if p.name.isdigit()]) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    supervisor.terminate()
    assert supervisor.wait(30) == 143
    assert len(started) == 2
    for path in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


def test_a_damaged_note_is_no_other_training_that_is_lost(tmp_path):
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup/checkpoint").touch()
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(DistributeError, match="has the checkpoint of another training, .*damaged.*; give"):
        run(2, SETTINGS, tmp_path)


def test_the_note_is_never_there_in_part(tmp_path, monkeypatch):
    """Workers of several hosts note and read it at the same time."""
    job, seen = {"settings": {"epochs": 1}, "source": "x"}, []
    workers._same_job(tmp_path, job)
    write = Path.write_text

    def watched(path, text, **how):
        write(path, text[:5], **how)
        seen.append(json.loads((tmp_path / "job.json").read_text()))
        return write(path, text, **how)

    monkeypatch.setattr(Path, "write_text", watched)
    workers._same_job(tmp_path, job)
    assert seen == [job]
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_who_is_not_there_can_not_be_killed(tmp_path):
    with pytest.raises(DistributeError, match=r"^run\(Kill\(worker=2, step=1\)\): there are 2 workers, from 0 on$"):
        run(2, SETTINGS, tmp_path, kill=Kill(2, 1))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_training_is_not_gone_on_with(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, 'Path(json.loads(sys.argv[1])["place"], "found.json").write_text("{}")')
    job = tmp_path / "job"
    run(1, SETTINGS, job)
    run(1, Settings(epochs=9), job)  # nothing was left of the first one
    (job / "backup").mkdir()
    (job / "backup/checkpoint").touch()
    run(2, Settings(epochs=9), job)
    before = (job / "job.json").read_text()
    with pytest.raises(DistributeError) as error:
        run(2, Settings(epochs=8), job)
    assert str(error.value) == (
        f"{job} has the checkpoint of another training, {before}; give that one's settings to go on with it, or "
        "another folder"
    )
    assert '"epochs": 9' in before
    assert (job / "job.json").read_text() == before


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "run(workers=0): a whole number of at least 1 is needed"),
     (True, "run(workers=True): a whole number of at least 1 is needed"),
     (3, "a batch of 64 is not to be divided among 3 workers")],
)  # fmt: skip
def test_what_can_not_be_asked_of_workers(tmp_path, count, text):
    with pytest.raises(DistributeError) as error:
        run(count, SETTINGS, tmp_path)
    assert str(error.value) == text
    assert not list(tmp_path.iterdir())


def test_a_worker_on_a_host_gets_its_config_from_the_command(tmp_path, monkeypatch):
    program(
        tmp_path,
        monkeypatch,
        """
task = json.loads(sys.argv[1])
Path(task["place"], "said").write_text(os.environ["TF_CONFIG"] + task["folder"])
""",
    )
    command = [
        sys.executable,
        "-c",
        f"from hwlimits.training import workers; workers.WORKER = {workers.WORKER!r}; workers.main()",
    ]
    asked = ["--hosts", "a:1, b:2", "--index", "1", "--folder", str(tmp_path / "job")]
    subprocess.run([*command, *asked], check=True)
    expected = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
    assert (tmp_path / "job/hosts/said").read_text() == json.dumps(expected) + str(tmp_path / "job")
    with pytest.raises(SystemExit, match="TF_CONFIG is .* it has to name the workers' addresses"):
        workers.main(["--hosts", "a:1,b:2", "--index", "2"])


@pytest.mark.parametrize("name", ["hosts.sh", "dask_ssh.sh", "workers.slurm", "dask.slurm"])
def test_a_template_for_a_cluster_is_a_shell_script(name):
    subprocess.run(["bash", "-n", str(CLUSTERS / name)], check=True)


def test_the_template_for_kubernetes_starts_the_workers_it_names():
    service, job = yaml.safe_load_all((CLUSTERS / "workers.yaml").read_text())
    spec, name = job["spec"], job["metadata"]["name"]
    (container,) = spec["template"]["spec"]["containers"]
    hosts = next(a for a in container["args"] if a.startswith("--hosts=")).removeprefix("--hosts=").split(",")
    subdomain, port = spec["template"]["spec"]["subdomain"], container["ports"][0]["containerPort"]
    assert hosts == [f"{name}-{index}.{subdomain}:{port}" for index in range(spec["completions"])]
    assert service["metadata"]["name"] == subdomain
    assert service["spec"]["selector"] == {"job-name": name}
    assert spec["parallelism"] == spec["completions"]


def test_the_command_prints_what_was_found_and_an_error_in_one_line(tmp_path, monkeypatch, capsys):
    asked = []

    def found(count, settings, folder, **how):
        asked.append((count, settings.epochs, folder, how["kill"]))
        return {"error": 0.25, "steps_s": [1.0, 2.0], "all_reduce_times_s": [3.0]}

    monkeypatch.setattr(workers, "run", found)
    workers.main(["--workers", "4", "--epochs", "2", "--folder", str(tmp_path), "--kill", "9"])
    assert asked == [(4, 2, tmp_path, Kill(3, 9))]
    assert json.loads(capsys.readouterr().out) == {"error": 0.25}
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="^a batch of 64 is not to be divided among 5 workers$"):
        workers.main(["--workers", "5", "--folder", str(tmp_path)])
