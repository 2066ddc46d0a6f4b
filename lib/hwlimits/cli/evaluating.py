"""hwlimits evaluate: what an .hwz file holds, where its bytes are, and its error on MNIST."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import hwlimits.cli.terminal as terminal
from hwlimits.cli.options import Json

if TYPE_CHECKING:
    from hwlimits import compressed


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE.hwz", help="A compressed network.")],
    as_json: Json = False,
) -> None:
    """What an .hwz file holds, where its bytes are, and its error on MNIST's test images.

    The answers come from the file alone.

    Example: hwlimits evaluate small.hwz
    """
    found = look(file)
    terminal.write_json(found.record()) if as_json else write(found, file)


@dataclass(frozen=True)
class Evaluation:
    """A file's network, the bits of its parts, and the test images that get a wrong class."""

    network: compressed.Network
    file_bytes: int
    parts: dict[str, float]
    wrong: int
    images: int
    source: str

    def record(self) -> dict:
        """As JSON has it; the error is a share of 1, parts are in bits."""
        return {
            "parameters": self.network.parameters,
            "file_bytes": self.file_bytes,
            "test_error": self.wrong / self.images,
            "wrong": self.wrong,
            "images": self.images,
            "images_from": self.source,
            "layers": [vars(layer) for layer in self.network.layers],
            "bits_in_contexts": self.parts,
        }


def look(path: Path) -> Evaluation:
    """Read the file alone, and let it answer all test images."""
    from hwlimits import compressed, hwz
    from hwlimits.training import mnist

    network = hwz.read(path)
    last = compressed.output_shapes(network.input_shape, network.layers)[-1:]
    if network.input_shape != (28, 28, 1) or last != [(10,)]:
        raise terminal.CliError(
            f"{path}: takes {network.input_shape} and gives {last}; MNIST needs (28, 28, 1) and (10,)"
        )
    images = mnist.load()
    error = compressed.error_rate(network, images.x_test, images.y_test)
    count = len(images.y_test)
    return Evaluation(network, path.stat().st_size, hwz.breakdown(network), round(error * count), count, images.source)


def write(found: Evaluation, path: Path) -> None:
    """Print layers, parts and the error."""
    from hwlimits.compressed import output_shapes

    network = found.network
    shapes = output_shapes(network.input_shape, network.layers)
    rows = []
    for layer, shape in zip(network.layers, shapes, strict=True):
        flags = [name for name in ("same", "gain", "relu", "residual") if getattr(layer, name)]
        what = [f"{layer.kernel} x {layer.kernel}"] * (layer.kernel > 0) + flags
        what += [f"stride {layer.stride}"] * (layer.stride > 1) + [f"{layer.times} times"] * (layer.times > 1)
        rows.append((layer.kind, ", ".join(what), " x ".join(map(str, shape)), math.prod(shape)))
    terminal.write_table(("layer", "what", "output", "numbers"), rows, 3)
    terminal.write("")
    parts = [(name, f"{bits / 8:,.1f}") for name, bits in found.parts.items()]
    terminal.write_table(
        ("part", "bytes in contexts"), [*parts, ("sum", f"{sum(found.parts.values()) / 8:,.1f}")], total=True
    )
    size = f"{network.parameters:,} parameters in {found.file_bytes:,} bytes"
    wrong = f"{found.wrong:,} of {found.images:,} test images are wrong, {found.wrong / found.images:.2%}"
    terminal.write(f"\n{path}: {size}; {wrong} ({found.source}).")
    if found.source != "mnist":
        terminal.write(
            "The sample's images come from MNIST's training set: a network that learned from all of it has seen them, "
            "and this is no test of it. With all of MNIST (HWLIMITS_MNIST names the file) its test images are taken."
        )
