"""What a data-parallel training runs on: the choice for each kind of hardware, and a TF_CONFIG that is none."""

import itertools
import json
import subprocess
import sys

import pytest

from hwlimits.training.placement import DistributeError, Hardware, Settings, choose, cluster

WORKERS = ("a:1", "b:2")
CASES = {  # workers, TPU, GPUs: strategy
    (False, False, 0): "Strategy",
    (False, False, 1): "OneDeviceStrategy",
    (False, False, 8): "MirroredStrategy",
    (False, True, 0): "TPUStrategy",
    (False, True, 1): "TPUStrategy",
    (False, True, 8): "TPUStrategy",
} | {(True, tpu, gpus): "MultiWorkerMirroredStrategy" for tpu, gpus in itertools.product((False, True), (0, 1, 8))}


@pytest.mark.parametrize(("there", "name"), CASES.items())
def test_each_hardware_has_its_strategy(there, name):
    several, tpu, gpus = there
    plan = choose(Hardware("local" if tpu else None, gpus, WORKERS if several else ()))
    assert plan.name == name
    assert str(plan) == f"{name}: {plan.why}"


def test_the_reason_names_what_there_is():
    assert choose(Hardware(gpus=3)).why.startswith("3 GPUs in this computer")
    assert "2 workers, this one is number 1" in choose(Hardware(workers=WORKERS, index=1)).why
    assert "'grpc://10.0.0.2'" in choose(Hardware(tpu="grpc://10.0.0.2")).why


def test_one_worker_alone_is_no_cluster():
    assert choose(Hardware(workers=("a:1",), gpus=1)).name == "OneDeviceStrategy"


def config(workers=WORKERS, index=0, kind="worker"):
    return json.dumps({"cluster": {"worker": list(workers)}, "task": {"type": kind, "index": index}})


def test_a_cluster_is_read():
    assert cluster("") == ((), 0)
    assert cluster(config(index=1)) == (WORKERS, 1)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", "{}", config(index=2), config(index=-1), config(index="0"), config(index=True), config(index=0.5),
     config(kind="ps"), config(workers=("a",)), config(workers=(1,)), config(workers=()),
     '{"cluster": {"worker": ["a:1"]}}'],
)  # fmt: skip
def test_what_is_no_cluster_of_workers_is_one_sentence(text):
    with pytest.raises(DistributeError, match="it has to name the workers' addresses and which of them") as error:
        cluster(text)
    assert text[:200] in str(error.value)


@pytest.mark.parametrize("name", ["epochs", "batch", "save_steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_settings_are_whole_numbers(name, value):
    with pytest.raises(
        DistributeError, match=rf"^Settings\({name}={value!r}\): a whole number of at least 1 is needed$"
    ):
        Settings(**{name: value})


def test_no_tensorflow_is_loaded_to_decide():
    code = "import sys, hwlimits.training.workers; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("gpus", "how"), [(0, "gradients summed in a ring"), (1, "gradients summed among all GPUs")])
def test_the_plan_of_several_workers_says_how_gradients_are_summed(gpus, how):
    assert str(choose(Hardware(gpus=gpus, workers=("a:1", "b:1")))).endswith(how)
