"""Where files are: those of data/, beside the source in a checkout or inside the package in a wheel; and the cache."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Path of a file of data/, by its name there.

    Raises FileNotFoundError that says where it was looked for.

    >>> path("mnist-5k.npz").name
    'mnist-5k.npz'
    """
    folders = [_PACKAGE / "_data", _PACKAGE.parents[1] / "data"]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(
        f"hwlimits has no data file {name!r}: looked in {' and '.join(map(str, folders))}. "
        "A stored result is made by its `make results-...` command; `make help` lists them."
    )


def papers(part: str) -> list[dict]:
    """Rows of one part of data/papers.yaml: what others published, each with its source and the day it was read.

    >>> papers("data_parallel_scaling")[0]["name"]
    'Goyal et al. 2017'
    """
    import yaml  # not at the top: few need it

    return yaml.safe_load(path("papers.yaml").read_text(encoding="utf-8"))[part]


def cache_folder() -> Path:
    """The folder for what can be made again (downloads, machine cards): HWLIMITS_CACHE, or the system's usual place."""
    import pooch  # not at the top: it takes a tenth of a second

    return Path(os.path.expanduser(os.environ.get("HWLIMITS_CACHE") or pooch.os_cache("hwlimits")))
