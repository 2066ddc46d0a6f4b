"""How a model is trained, as data: a recipe is a list of phases. No TensorFlow is needed to read one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

# What the case study cuts out of its recipes, in the order in which it is told.
STAGES = ("article", "baseline_5", "baseline_15", "control", "pruned", "quantized")
INT8_STAGES = ("quantized",)


@dataclass(frozen=True)
class Phase:
    """Some epochs with one optimiser (Adam) and one form of the model.

    form      'dense'; 'prune' (sparsity rises to `sparsity` over the phase); 'hold' (the
              sparsity is held); 'quantize' (quantization-aware, zeros kept)
    decay     True lets the learning rate fall to 1 % of its start by a half cosine
    share     the part of the training images that is used, from the first on
    sparsity  share of zeros by layer name, for 'prune' and 'hold'
    fresh     False lets the optimiser go on with what it remembers of the phase before ('dense' only)
    bits      of the codes, for 'quantize'
    """

    epochs: int
    learning_rate: float
    form: str = "dense"
    decay: bool = True
    share: float = 1.0
    sparsity: Mapping[str, float] = field(default_factory=dict)
    fresh: bool = True
    bits: int = 8

    def __post_init__(self):
        if not self.fresh and (self.form != "dense" or self.decay):
            raise ValueError("Phase(fresh=False): only a dense phase with a constant rate can keep its optimiser")
        if self.form not in ("dense", "prune", "hold", "quantize"):
            raise ValueError(f"Phase(form={self.form!r}): the forms are dense, prune, hold and quantize")


@dataclass(frozen=True)
class Recipe:
    """Phases, and the stages that are cut out of them: epochs done (from the start) to stage name.

    engine   what prunes and quantizes: 'tfmot', or 'own', the course's own, which loads nothing of tfmot
    """

    name: str
    batch: int
    shift_pixels: int
    phases: tuple[Phase, ...]
    stages: Mapping[int, str]
    engine: str = "tfmot"

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def identity(self) -> dict:
        """The recipe as data, by which the folder of a training is named.

        Settings that came later, and are as they always were, are left out: such a training stays where it is.
        """
        fields = asdict(self)
        if self.engine == "tfmot":
            del fields["engine"]
        for phase in fields["phases"]:
            if phase["bits"] == 8:
                del phase["bits"]
        return fields
