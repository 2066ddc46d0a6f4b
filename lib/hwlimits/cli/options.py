"""Options and arguments that several commands have."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for another program.")]
Model = Annotated[str, typer.Argument(help="A .keras, .h5 or .tflite file, or a name of the zoo.")]
Batch = Annotated[int, typer.Option(min=1, help="Examples in one call.")]
Length = Annotated[int | None, typer.Option(min=1, help="Every length that the model leaves open, such as tokens.")]
