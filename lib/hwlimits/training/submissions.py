"""Model files that somebody hands in: tried out in a process of their own, so that none can end ours.

Refused is what is cheap to see: no LiteRT model, other shapes or types than the images ask for, answers that are no
numbers, graphs that branch or loop (they could be quick on the image that is timed), other answers to one image than
to many, and what takes too long or ends its process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_parser import parse
from hwlimits.training.mnist import scale

MAX_FILE_BYTES = 100_000_000
TIME_LIMIT_S = 60  # for all images, the start of the process included
ALONE, ALONE_DIFFERENT = 50, 1  # images asked one at a time, too; so many answers may differ, by rounding
PROGRAM = "import sys; from hwlimits.training.submissions import _try_out; _try_out(*sys.argv[1:])"


class SubmissionError(ValueError):
    """A file that can't be scored: the text says why."""


def file_of(entry: Path) -> Path:
    """The file that stands for an entry of the folder of submissions: itself, or the .tflite file in it.

    Raises SubmissionError for a folder that holds none, or several.
    """
    if not entry.is_dir():
        return entry
    files = sorted(entry.glob("*.tflite"))
    if len(files) != 1:
        raise SubmissionError(f"the folder holds {len(files)} .tflite files, and one is wanted")
    return files[0]


def examine(path: Path, images: np.ndarray, labels: np.ndarray) -> tuple[bytes, int]:
    """The bytes of a file, and how many of the images it gets right, found out in a process of its own.

    Raises SubmissionError with the reason for a file that can't be scored.
    """
    check_images(images, labels)
    if not path.is_file():
        raise SubmissionError(f"{path.name} is no file")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise SubmissionError(f"it has {size:,} bytes; {MAX_FILE_BYTES:,} are read at most")
    content = path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        model, given, result = (Path(folder) / name for name in ("model.tflite", "images.npy", "result.json"))
        model.write_bytes(content)
        np.save(given, images)
        command = [sys.executable, "-c", PROGRAM, *map(str, (model, given, int(labels.max()) + 1, result))]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT_S, cwd=folder
            )
        except subprocess.TimeoutExpired:
            raise SubmissionError(f"{len(images):,} images take it more than {TIME_LIMIT_S} s") from None
        if not result.exists():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
            raise SubmissionError(f"running it ends the process (exit status {done.returncode}: {last})")
        found = json.loads(result.read_text(encoding="utf-8"))
    if "error" in found:
        raise SubmissionError(found["error"])
    return content, int(np.sum(np.array(found["answers"]) == labels))


def check_images(images: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError unless they are uint8 images (n, height, width), channels or not, and as many labels."""
    if images.dtype != np.uint8 or images.ndim < 3 or not len(images) or np.shape(labels) != (len(images),):
        raise ValueError(
            f"capstone: images {images.dtype} {images.shape} with labels {np.shape(labels)}; "
            "uint8 images (n, height, width) and as many labels are needed"
        )


def _try_out(model: str, images: str, classes: str, result: str) -> None:
    """What the process does: the file's answers to the images, or why there are none, written as JSON."""
    try:
        found = {"answers": answers(LiteRTFile.read(model), np.load(images), int(classes)).tolist()}
    except Exception as error:  # of the parser, the runtime or ours: one line of it is the reason
        found = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
    part = Path(result + ".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(result)


def answers(file: LiteRTFile, images: np.ndarray, classes: int) -> np.ndarray:
    """The class of each image, (n,), in this process.

    Raises SubmissionError for a network that is no classifier of such images, LiteRTError for a damaged file.
    """
    if (graphs := len(parse(file.content).subgraphs)) != 1:
        raise SubmissionError(f"it has {graphs} graphs, so it branches or loops: one image's time is not another's")
    interpreter = file.interpreter(None)
    wanted = {"input": (1, *scale(images[:1]).shape[1:]), "output": (1, classes)}
    for what, details in (("input", interpreter.get_input_details()), ("output", interpreter.get_output_details())):
        shapes = [tuple(d["shape"].tolist()) for d in details]
        if shapes != [wanted[what]]:
            raise SubmissionError(f"its {what} has the shape {', '.join(map(str, shapes))}; {wanted[what]} is wanted")
        dtype = np.dtype(details[0]["dtype"])
        if dtype not in (np.float32, np.int8):
            raise SubmissionError(f"its {what} is {dtype}; float32 or int8 is wanted")
        if dtype == np.int8 and not details[0]["quantization"][0] > 0:
            raise SubmissionError(f"its {what} is int8 without a scale")
    outputs = file.outputs(images)
    if not np.isfinite(outputs).all():
        wrong = int((~np.isfinite(outputs)).any(axis=1).sum())
        raise SubmissionError(f"its answers to {wrong} of {len(images)} images are no finite numbers")
    found = outputs.argmax(axis=1)
    alone = file.outputs(images[:ALONE], batch=1).argmax(axis=1)
    if (different := int(np.sum(alone != found[:ALONE]))) > ALONE_DIFFERENT:
        raise SubmissionError(f"it answers {different} of {len(alone)} images otherwise when asked one at a time")
    return found
