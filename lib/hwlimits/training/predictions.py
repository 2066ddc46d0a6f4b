"""A LiteRT file predicted on this computer: its time, what bounds each operator, and its memory.

predict(LiteRTFile.read("model.tflite"), card()).time_s
"""

from __future__ import annotations

from hwlimits.allocation import plan
from hwlimits.machine.predict import Prediction, on_this_computer
from hwlimits.machine.record import Card
from hwlimits.training.arena import arena_buffers
from hwlimits.training.litert import LiteRTError, LiteRTFile
from hwlimits.training.operator_work import works


def predict(file: LiteRTFile, card: Card, *, model: str = "LiteRT file", batch: int = 1) -> Prediction:
    """Time and peak memory of one call in LiteRT with one thread, on the computer of the card.

    Memory is the file, the copies of its weights that the kernels make in their own order, the arena of
    the activations, and what the runtime takes by itself.

    Raises LiteRTError for a file that can't take this batch, CardError for a card without operator times.
    """
    found = works(file, batch)
    written = {tensor for work in found for tensor, _ in work.writes}
    kernels = {t: size for work in found for t, size in work.reads[1:] if t not in written}
    notes = ["one thread, LiteRT's default"]
    try:
        arena_bytes = plan(arena_buffers(file, batch, scratch=False)).total_bytes
    except LiteRTError as error:
        arena_bytes = None
        notes.append(f"no memory is predicted: {error}")
    return on_this_computer(
        model,
        found,
        card,
        batch=batch,
        weight_bytes=len(file.content) + sum(kernels.values()),
        activation_bytes=arena_bytes,
        notes=notes,
    )
