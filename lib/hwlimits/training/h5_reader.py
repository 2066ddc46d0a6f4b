"""What a Keras file in HDF5 holds, read in a process of its own.

    python -P h5_reader.py FILE       writes JSON: the configuration's text, and each weight's shape

HDF5's C library ends the process, or never ends, on some damaged files (seen with single bytes
changed). So this program reads the file, and who asked for it outlives it; it imports nothing of
the course. Of the data nothing is read, only where it stands: nothing is unpacked or executed.
"""

from __future__ import annotations

import json
import sys

import h5py

MAX_CONFIG_BYTES = 16_000_000  # the largest of keras.applications has 0.6 MB
MAX_OBJECTS = 100_000


class Refused(ValueError):
    """The file is no Keras model file in HDF5."""


def read(path: str) -> dict:
    """Attributes, and per weight its path, shape and the bytes it takes in the file."""
    with h5py.File(path, "r") as file:
        found = {"attributes": {}, "weights": []}
        for name in ("model_config", "keras_version"):
            if name in file.attrs:
                found["attributes"][name] = _text(file.attrs.get_id(name), name, file.attrs)
        _walk(file, "", found["weights"], set(), 0)
        return found


def _text(attribute, name: str, attributes) -> str:
    if attribute.get_storage_size() > MAX_CONFIG_BYTES:
        raise Refused(f"its {name} has {attribute.get_storage_size():,} bytes")
    value = attributes[name]
    value = value.decode("utf-8") if isinstance(value, bytes) else value
    if not isinstance(value, str) or len(value) > MAX_CONFIG_BYTES:
        raise Refused(f"its {name} is no text")
    return value


def _walk(group, path: str, weights: list, seen: set, depth: int) -> None:
    if depth > 100:
        raise Refused("its groups are nested more than 100 deep")
    for name in group:
        here = f"{path}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"{here} is a link to somewhere else, which Keras never writes")
        thing = group[name]
        address = h5py.h5o.get_info(thing.id).addr
        if address in seen:
            continue
        seen.add(address)
        if len(seen) > MAX_OBJECTS:
            raise Refused(f"it holds more than {MAX_OBJECTS:,} arrays and groups")
        if isinstance(thing, h5py.Group):
            _walk(thing, here, weights, seen, depth + 1)
        elif isinstance(thing, h5py.Dataset):
            _check(thing, here)
            if thing.dtype.kind in "fiubV":
                weights.append([here, list(thing.shape or ()), thing.dtype.itemsize])


def _check(array, path: str) -> None:
    """The data must be in this file, as it is, and all of it: only then do the shapes say what is there."""
    if array.is_virtual or array.external:
        raise Refused(f"{path} keeps its data in another file, which Keras never does")
    if array.id.get_create_plist().get_nfilters():
        raise Refused(f"{path} is compressed inside the file, which Keras never does: save the model again")
    if array.dtype.kind in "fiubV" and array.id.get_storage_size() < array.size * array.dtype.itemsize:
        raise Refused(
            f"{path} has the shape {list(array.shape)} and only {array.id.get_storage_size():,} bytes of data"
        )


def main(path: str) -> None:
    """Write what the file at `path` holds, or why it is refused, to the output."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))  # what no header needs
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # not on this system: the time limit has to do
        pass
    try:
        answer = read(path)
    except Exception as error:  # h5py passes on whatever its C library says
        answer = {"refused": str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
