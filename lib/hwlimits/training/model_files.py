"""Models from files, to be counted: .keras and .h5 of either Keras, .tflite, or a name of the zoo.

No code of a file is run. Counting needs shapes only, so of a Keras file the configuration is taken,
checked word for word (hwlimits.training.keras_config), and built; its weights are not loaded,
but what they are must agree: a configuration that asks for weights the file doesn't hold
is damaged or made up, and is refused before memory is taken.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from hwlimits.training import h5_reader, keras_config
from hwlimits.training.keras_config import ConfigError
from hwlimits.training.litert_parser import LiteRTError

MAX_CONFIG_BYTES = 16_000_000
MAX_RATIO = 200  # unpacked over packed bytes; Keras doesn't pack, and weights that are not all zero hardly shrink
READ_TIMEOUT_S = 20
AGAIN = "Save or download the model again."
SAVE_AGAIN = "What is counted here: .keras and .h5 files of Keras, .tflite files, and the zoo. Save the model as one."
MEMBERS = ("config.json", "metadata.json", "model.weights.h5")


class ModelFileError(ValueError):
    """Something is not a model file that can be counted: the message says what, why not, and what to do."""


def load(path_or_name: str | os.PathLike):
    """The model in a file, or the zoo's network of that name: a Keras model or a LiteRTFile.

    A name of the zoo comes first; './vgg-16' is a file of that name. A Keras model comes without
    its weights (zeros), and weights that two layers share come apart, as when Keras itself loads it.
    Raises ModelFileError for everything else.

    >>> load("lenet-300-100").count_params()
    266610
    """
    text = os.fspath(path_or_name)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ModelFileError(f"{text!r} is no path of a model file and no name of the zoo")
    named = isinstance(path_or_name, str) and re.fullmatch(r"[\w-]+", text)
    if named and text in _zoo().NAMES:
        return _zoo().build(text)
    path = Path(os.path.expanduser(text))
    try:
        if not path.exists():
            raise ModelFileError(_missing(text) if named else "there is no such file")
        return _kind(path)(path)
    except OSError as error:
        raise ModelFileError(f"{text} can't be read: {error.strerror or error}") from None
    except (ModelFileError, LiteRTError) as error:
        raise ModelFileError(f"{text}: {error}") from None


def _zoo():
    from hwlimits.training import zoo  # loads TensorFlow, which a .tflite file does without

    return zoo


def _missing(name: str) -> str:
    names = _zoo().NAMES
    near = difflib.get_close_matches(name.lower(), names, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"there is no such file, and no network of the zoo is called so: {meant}The zoo has {', '.join(names)}."


def _kind(path: Path):
    """The reader for a file, by its content; its name says nothing."""
    if path.is_dir():
        saved = (path / "saved_model.pb").exists()
        what = "a SavedModel: a program of TensorFlow operations, not counted here" if saved else "a folder, no file"
        raise ModelFileError(f"this is {what}. {SAVE_AGAIN}")
    if not path.is_file():
        raise ModelFileError("this is no file, but a device or a pipe")
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        raise ModelFileError("the file is empty. Save or download the model again.")
    if start[4:8] == b"TFL3":
        return _tflite
    if start.startswith(b"PK\x03\x04"):
        return _keras
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _h5
    what = f"no model file known here: it starts with {start[:8]!r}"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        what = "a pickle, as PyTorch writes them: to read it is to run its code, which this course does not"
    elif path.suffix == ".onnx" or b"onnx" in start or b"pytorch" in start:
        what = "an ONNX model, which this course does not read"
    elif path.suffix in (".keras", ".h5", ".hdf5", ".tflite"):
        what = f"no {path.suffix} file, whatever its name says: it starts with {start[:8]!r}"
    raise ModelFileError(f"this is {what}. {SAVE_AGAIN}")


def _tflite(path: Path):
    from hwlimits.training.litert import LiteRTFile

    if path.stat().st_size > 2**31:
        raise ModelFileError("a LiteRT file of more than 2 GB, which is not read here")
    file = LiteRTFile.read(path)
    file.check()
    return file


def _keras(path: Path):
    """A .keras file: a zip archive with a configuration, and its weights in HDF5."""
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            _check_archive(archive)
            version = str(_json(archive.read("metadata.json"), "metadata.json").get("keras_version"))
            config = _checked(_json(archive.read("config.json"), "config.json"), version)
            weights = Path(folder) / "weights.h5"
            with archive.open("model.weights.h5") as packed, open(weights, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)  # and holds it against its checksum
            held = _read_h5(weights)["weights"]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"a damaged .keras file ({_clip(error)}). Save or download it again.") from None
    return _build(config, version, [w for w in held if not w[0].startswith("/optimizer")])


def _check_archive(archive: zipfile.ZipFile) -> None:
    """Refuse what no Keras writes, before anything is unpacked."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if any(name.endswith("data.pkl") for name in names):
        raise ModelFileError(
            f"this is a PyTorch file: to read its pickle is to run its code, which this course does not. {SAVE_AGAIN}"
        )
    if missing := [name for name in MEMBERS if name not in names]:
        raise ModelFileError(
            f"a zip archive without {missing[0]}: this is no .keras file, or not all of it. {SAVE_AGAIN}"
        )
    if len(set(names)) < len(names):
        raise ModelFileError("its archive has two members of one name, which Keras never writes: it is not read here")
    for member in members:
        if member.flag_bits & 1:
            raise ModelFileError(f"its {member.filename} is encrypted: decrypt it first")
        if member.filename.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member.filename):
            raise ModelFileError(
                f"its archive reaches outside its folder ({_clip(member.filename)}): it is not read here"
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelFileError(f"its {member.filename} is packed in a way that Keras never uses: it is not read here")
        if member.file_size > MAX_RATIO * member.compress_size + 10_000:
            raise ModelFileError(
                f"its {member.filename} would unpack from {member.compress_size:,} to {member.file_size:,} bytes, as "
                "no model does: it is not unpacked"
            )
        if member.filename.endswith(".json") and member.file_size > MAX_CONFIG_BYTES:
            raise ModelFileError(f"its {member.filename} has {member.file_size:,} bytes, and no model needs so many")


def _h5(path: Path):
    """A file of the older kind: HDF5 with the configuration as an attribute."""
    found = _read_h5(path)
    text = found["attributes"].get("model_config")
    weights = [w for w in found["weights"] if w[0].startswith("/model_weights/")]
    if text is None:
        what = "weights alone (save_weights), and no model" if found["weights"] else "no Keras model"
        raise ModelFileError(f"an HDF5 file with {what}. {SAVE_AGAIN}")
    version = found["attributes"].get("keras_version", "2")
    return _build(_checked(_json(text, "configuration"), version), version, weights)


def _read_h5(path: Path) -> dict:
    """What h5_reader finds, from a process of its own."""
    command = [sys.executable, "-P", h5_reader.__file__, str(path)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=READ_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ModelFileError(f"damaged: reading its HDF5 had not ended after {READ_TIMEOUT_S} s. {AGAIN}") from None
    if done.returncode:
        raise ModelFileError(f"damaged: its HDF5 ended the process that read it ({done.returncode}). {AGAIN}")
    found = json.loads(done.stdout)
    if "refused" in found:
        raise ModelFileError(f"its HDF5 is damaged or not Keras' own: {_clip(found['refused'])}. {AGAIN}")
    return found


def _json(content: bytes | str, name: str) -> dict:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"damaged: its {name} is no JSON ({_clip(error)}). {AGAIN}") from None
    if not isinstance(found, dict):
        raise ModelFileError(f"damaged: its {name} holds {type(found).__name__}, not a configuration. {AGAIN}")
    return found


def _checked(config: dict, version: str) -> dict:
    try:
        return keras_config.checked(config, version.startswith("3."))
    except ConfigError as error:
        raise ModelFileError(str(error)) from None


def _build(config: dict, version: str, weights: list):
    """The model of a checked configuration; `weights`: [path, shape, bytes each] that the file holds."""
    from hwlimits.training import keras as door

    library = door.keras3 if version.startswith("3.") else door.keras
    held = sum(math.prod(shape) for _, shape, _ in weights)
    budget = _Budget(held + 1_000 + 10 * len(weights), door.tf)  # and the counters of dropout, which are no weights
    try:
        with door.tf.variable_creator_scope(budget.create):
            model = library.saving.deserialize_keras_object(config, custom_objects={}, safe_mode=True)
    except Exception as error:  # whatever Keras makes of arguments that don't fit
        if budget.asked > budget.elements:
            raise ModelFileError(
                f"its configuration asks for {budget.asked:,} weights and more, and the file holds {held:,}: "
                f"it is damaged or made up. {AGAIN}"
            ) from None
        raise ModelFileError(f"Keras can't build its configuration ({_clip(error)}). {AGAIN}") from None
    if not isinstance(model, library.Model) or not model.built:
        raise ModelFileError("it does not say what shape its input has: build the model, and save it again")
    there = Counter(tuple(shape) for _, shape, _ in weights)
    if lacking := Counter(tuple(w.shape) for w in model.weights) - there:
        shape = list(next(iter(lacking)))
        raise ModelFileError(f"its configuration asks for a weight {shape} that the file does not hold. {AGAIN}")
    return model


class _Budget:
    """Counts the numbers in the variables that Keras creates, and stops before there are more than the file holds."""

    def __init__(self, elements: int, tf):
        self.elements, self.asked, self.tf = elements, 0, tf

    def create(self, next_creator, **options):
        """Create one variable, of zeros; the initializer is only asked for its shape, in a graph that never runs."""
        tf, initial = self.tf, options["initial_value"]
        if not callable(initial):  # a number, such as a counter of steps
            return next_creator(**options)
        with tf.Graph().as_default():
            tensor = tf.convert_to_tensor(initial())
        shape, dtype = tuple(tensor.shape), tensor.dtype
        self.asked += math.prod(shape)
        if self.asked > self.elements:
            raise ConfigError("too many weights")
        return next_creator(**options | {"initial_value": lambda: tf.zeros(shape, dtype)})


def _clip(text: object, longest: int = 200) -> str:
    """One line of an error's text: some quote the file's bytes."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return (text if len(text) <= longest else text[:longest] + "...").rstrip(".")
