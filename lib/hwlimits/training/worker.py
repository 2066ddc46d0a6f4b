"""One worker of `hwlimits.training.workers`: python -m hwlimits.training.worker TASK (JSON), with a TF_CONFIG."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from hwlimits.training import distribute, mnist
from hwlimits.training.keras import keras, use_threads
from hwlimits.training.placement import Settings, choose

WARM_STEPS = 5  # are not measured: graphs are made, connections opened


class Steps(keras.callbacks.Callback):
    """Tells the supervisor of each step, and measures steps: their time, and the bytes that went over loopback.

    The bytes are those that the system counts at its loopback interface, of everybody who uses it.
    """

    def __init__(self, told: Path):
        super().__init__()
        self.told, self.made, self.times, self.sent = told, 0, [], []

    def on_train_begin(self, logs=None):
        self.file = self.told.open("wb", buffering=0)  # whoever was here before counts no more

    def on_train_batch_end(self, batch, logs=None):
        self.file.write(b".")
        self.made += 1
        if self.made >= WARM_STEPS:
            self.times.append(time.perf_counter())
            self.sent.append(loopback_bytes())

    def on_train_end(self, logs=None):
        self.file.close()


def loopback_bytes() -> int:
    """Bytes that the loopback interface has sent since the computer started; 0 where the system does not tell."""
    found = psutil.net_io_counters(pernic=True)
    return next((found[name].bytes_sent for name in ("lo", "lo0") if name in found), 0)


def main() -> None:
    task = json.loads(sys.argv[1])
    use_threads(1)  # a worker for a core
    hardware = distribute.look()
    plan = choose(hardware)
    print(plan, flush=True)
    over = distribute.strategy(plan, hardware)
    data = mnist.load(task["source"])
    folder, place = Path(task["folder"]), Path(task["place"])
    steps = Steps(place / f"steps-{hardware.index}")
    model = distribute.train(over, Settings(**task["settings"]), data, folder, [steps])
    found = {"plan": str(plan), "replicas": over.num_replicas_in_sync, "steps": steps.made, "data": data.source}
    found |= {"parameters": model.count_params(), **measured(steps)}
    if over.num_replicas_in_sync > 1:
        for name, elements in (("all_reduce_s", model.count_params()), ("all_reduce_one_s", 1)):
            times = distribute.all_reduce_times_s(over, elements)
            found |= {name: float(np.median(times)), name.removesuffix("_s") + "_times_s": times}
    wrong = model.predict(mnist.scale(data.x_test), batch_size=500, verbose=0).argmax(axis=1) != data.y_test
    if hardware.index == 0:
        found |= {"error": float(wrong.mean()), "test_images": len(wrong)}
        part = place / "found.part"
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(place / "found.json")


def measured(steps: Steps) -> dict:
    """Seconds and bytes of a step, of those that were measured: medians, all times, and the mean of the bytes."""
    if len(steps.times) < 2:
        return {}
    sent, times = np.diff(steps.sent), np.diff(steps.times)
    return {
        "step_s": float(np.median(times)),
        "steps_s": times.tolist(),
        "sent_bytes_per_step": float(np.median(sent)),
        "sent_bytes_per_step_mean": float(sent.mean()),
    }


if __name__ == "__main__":
    main()
