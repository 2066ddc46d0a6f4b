"""A training step as TensorFlow's profiler sees it: which operation ran when, and for how long.

The profile is the one that TensorBoard shows (`tensorboard --logdir FOLDER`, with its profile
plug-in); here it is read directly, so that a notebook can compare it with a count.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwlimits.training.keras import keras, tf, xplane

STEP = "hwlimits_step"


class ProfileError(RuntimeError):
    """TensorFlow wrote no profile, or one without what was asked for."""


@dataclass(frozen=True)
class Event:
    """One operation of one step. `start_s` counts from the step's first operation.

    name   of the operation in the graph: 'article_cnn/conv2/Relu'
    kind   of the kernel that ran: '_MklNativeFusedConv2D'
    layer  of the model, or '' if it belongs to none (loss, optimiser, input)
    part   'forward', 'backward' or 'other'
    """

    name: str
    kind: str
    layer: str
    part: str
    start_s: float
    duration_s: float


@dataclass(frozen=True)
class Profile:
    """Steps that were profiled: `step_s`, the time of each, and `events`, the operations of each.

    `folder` is where the trace lies, or '' where it was not kept.
    """

    step_s: tuple[float, ...]
    events: tuple[tuple[Event, ...], ...]
    folder: str

    @property
    def middle(self) -> tuple[Event, ...]:
        """The operations of the step whose time is the median."""
        return self.events[self.step_s.index(statistics.median_low(self.step_s))]

    def seconds(self) -> dict[tuple[str, str], float]:
        """Seconds of each (layer, part), the median over the steps."""
        sums = [_sums(events) for events in self.events]
        keys = dict.fromkeys(key for each in sums for key in each)
        return {key: statistics.median(each.get(key, 0.0) for each in sums) for key in keys}


def _sums(events: Iterable[Event]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for e in events:
        found[e.layer, e.part] = found.get((e.layer, e.part), 0.0) + e.duration_s
    return found


def profile(model: keras.Model, x: np.ndarray, y: np.ndarray, *, steps: int = 10, folder: str | None = None) -> Profile:
    """Train `steps` steps on the batch x, y under TensorFlow's profiler, after three that warm up.

    The model is compiled, and learns. Give a folder to keep the trace for TensorBoard; without one it is
    read and removed.
    Give TensorFlow one thread (`keras.use_threads`) if the operations' times are to add up.
    Raises ProfileError if nothing was recorded.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="hwlimits-profile-") as passing:
            return replace(profile(model, x, y, steps=steps, folder=passing), folder="")
    for _ in range(3):
        model.train_on_batch(x, y)
    tf.profiler.experimental.start(folder)
    try:
        for step in range(steps):
            with tf.profiler.experimental.Trace(STEP, step_num=step, _r=1):
                model.train_on_batch(x, y)
    finally:
        tf.profiler.experimental.stop()
    written = sorted(Path(folder).rglob("*.xplane.pb"))
    if not written:
        raise ProfileError(f"TensorFlow's profiler wrote nothing to {folder}: is another profile running?")
    return read(written[-1].read_bytes(), [layer.name for layer in model.layers], folder)


def read(content: bytes, layers: Iterable[str], folder: str = "") -> Profile:
    """The profile in the bytes of an .xplane.pb file. Raises ProfileError without a step in it."""
    space = xplane.XSpace()
    space.ParseFromString(content)
    layers = set(layers)
    spans: list[tuple[float, float]] = []
    operations: list[tuple[float, float, str, str]] = []
    for plane in space.planes:
        names = {i: m.name for i, m in plane.event_metadata.items()}
        for line in plane.lines:
            origin_s = line.timestamp_ns / 1e9
            for event in line.events:
                name, start_s = names[event.metadata_id], origin_s + event.offset_ps / 1e12
                if name.split("#")[0] == STEP:
                    spans.append((start_s, event.duration_ps / 1e12))
                elif ":" in name and "::" not in name and line.name.startswith("tf_"):
                    operations.append((start_s, event.duration_ps / 1e12, *name.split(":", 1)))
    if not spans or not operations:
        raise ProfileError(f"the profile holds {len(spans)} steps and {len(operations)} operations: nothing to show")
    spans.sort()
    operations.sort()
    steps = []
    for start_s, duration_s in spans:
        inside = [o for o in operations if start_s <= o[0] < start_s + duration_s]
        first_s = inside[0][0] if inside else start_s
        steps.append(tuple(Event(n, k, *_place(n, layers), at - first_s, d) for at, d, n, k in inside))
    return Profile(tuple(duration_s for _, duration_s in spans), tuple(steps), folder)


def _place(name: str, layers: set[str]) -> tuple[str, str]:
    """Layer and part of an operation, from its name in the graph."""
    pieces = name.split("/")
    layer = next((piece for piece in pieces if piece in layers), "")
    if not layer:
        return "", "other"
    return layer, "backward" if pieces[0] == "gradient_tape" else "forward"
