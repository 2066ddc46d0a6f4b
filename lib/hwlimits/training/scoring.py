"""Images scored by an exported file over a Dask cluster: more images than one computer has time for.

    scores = score("data/results/case_study/quantized-seed0.tflite", images)                # this computer's cores
    scores = score("...", images, scheduler="tcp://head:8786")                              # a cluster that is there

Images go out in parts, and each part's scores come back under its number, so the result is whole and in order
whichever worker did what. A worker that dies takes no result with it: its parts are given to another one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from hwlimits.sweep import SweepError
from hwlimits.sweep import cluster as clusters

PART = 500  # images: milliseconds of work, so that what a task costs beside it is small


def score(
    file: str | Path,
    images: np.ndarray,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    part: int = PART,
    at_part: Callable[[int, int], None] = lambda done, parts: None,
) -> np.ndarray:
    """What the file answers to uint8 images (n, height, width): scores (n, 10) in its own type, in the images' order.

    `workers` processes of this computer, one for each core by default, or the cluster at `scheduler`; `at_part` hears
    of each part that is there. Raises ValueError for what are no images, OSError for a file that can't be read, and
    SweepError if the cluster is not there or a part failed more often than it was tried.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim < 3 or not len(images):
        raise ValueError(f"score(images {images.dtype} {images.shape}): uint8 images (n, height, width) are needed")
    if isinstance(part, bool) or not isinstance(part, int) or part < 1:
        raise ValueError(f"score(part={part!r}): a whole number of at least 1 is needed")
    content = Path(file).read_bytes()
    parts = [images[at : at + part] for at in range(0, len(images), part)]
    with _cluster(scheduler, workers, len(parts)) as client:
        return np.concatenate(_gather(client, content, parts, at_part))


def _cluster(scheduler: str | None, workers: int | None, tasks: int) -> AbstractContextManager:
    return clusters.remote(scheduler) if scheduler else clusters.local(workers, tasks)


def _gather(client, content: bytes, parts: list[np.ndarray], at_part: Callable[[int, int], None]) -> list[np.ndarray]:
    from distributed import as_completed

    # The file goes with each part: had it been sent to the workers once, it would be gone with the last that had it.
    numbers = {client.submit(score_part, content, part, pure=False): number for number, part in enumerate(parts)}
    found: dict[int, np.ndarray] = {}
    for future in as_completed(numbers, loop=client.loop):
        try:
            found[numbers[future]] = future.result()  # one lost with its worker since it was done is waited for again
        except Exception as error:
            raise SweepError(f"part {numbers[future]} of {len(parts)} can't be scored: {error}") from None
        at_part(len(found), len(parts))
    return [found[number] for number in range(len(parts))]


def score_part(content: bytes, images: np.ndarray) -> np.ndarray:
    """The scores of one part; what a worker runs."""
    from hwlimits.training.litert import LiteRTFile

    return LiteRTFile(content).outputs(images)
