"""What a data-parallel training runs on and how, as data: no TensorFlow is needed to decide it or to read it."""

from __future__ import annotations

import json
from dataclasses import dataclass


class DistributeError(ValueError):
    """What was asked of the workers or of the batch can't be."""


@dataclass(frozen=True)
class Hardware:
    """What there is to train on. `tpu` is a TPU's address or None; `workers` those of TF_CONFIG, this one included."""

    tpu: str | None = None
    gpus: int = 0
    workers: tuple[str, ...] = ()
    index: int = 0


@dataclass(frozen=True)
class Plan:
    """A strategy of tf.distribute by name, and why it was chosen."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


def cluster(config: str) -> tuple[tuple[str, ...], int]:
    """The addresses of the workers in a TF_CONFIG, and which of them this process is; ((), 0) for an empty one.

    >>> cluster('{"cluster": {"worker": ["node1:2222", "node2:2222"]}, "task": {"type": "worker", "index": 1}}')
    (('node1:2222', 'node2:2222'), 1)
    """
    if not config:
        return (), 0
    try:
        found = json.loads(config)
        workers = tuple(found["cluster"]["worker"])
        index = found["task"]["index"]
        known = found["task"]["type"] == "worker" and all(isinstance(w, str) and ":" in w for w in workers)
        if not known or type(index) is not int or not 0 <= index < len(workers):
            raise ValueError
    except (ValueError, TypeError, KeyError, IndexError):
        raise DistributeError(
            f"TF_CONFIG is {config[:200]!r}: it has to name the workers' addresses and which of them this process is, "
            'as {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from None
    return workers, index


def choose(hardware: Hardware) -> Plan:
    """The strategy for what is there. Several workers go first, as only who wants them sets TF_CONFIG.

    >>> print(choose(Hardware(gpus=4)))
    MirroredStrategy: 4 GPUs in this computer, a copy of the model on each, gradients summed among them
    """
    if len(hardware.workers) > 1:
        return Plan(
            "MultiWorkerMirroredStrategy",
            f"TF_CONFIG names {len(hardware.workers)} workers, this one is number {hardware.index}; "
            f"a copy of the model on each, gradients summed {'among all GPUs' if hardware.gpus else 'in a ring'}",
        )
    if hardware.tpu is not None:
        return Plan("TPUStrategy", f"there is a TPU, {hardware.tpu!r}; a copy of the model on each of its cores")
    if hardware.gpus > 1:
        return Plan(
            "MirroredStrategy",
            f"{hardware.gpus} GPUs in this computer, a copy of the model on each, gradients summed among them",
        )
    if hardware.gpus == 1:
        return Plan("OneDeviceStrategy", "one GPU: there is nobody to share the batch with")
    return Plan(
        "Strategy",
        "no GPU, no TPU, no other workers: one copy of the model, and operations use the processor's cores",
    )


@dataclass(frozen=True)
class Settings:
    """A training of the case study's network.

    batch      images of a step, of all replicas together: more replicas get smaller parts of it
    images     how many training images are used; None is all of them
    save_steps a checkpoint, from which a training that was cut off goes on, after so many steps
    """

    epochs: int = 3
    batch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    images: int | None = None
    save_steps: int = 20

    def __post_init__(self):
        for name in ("epochs", "batch", "save_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise DistributeError(f"Settings({name}={value!r}): a whole number of at least 1 is needed")
