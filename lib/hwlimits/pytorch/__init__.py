"""The case study's network in PyTorch: built, counted, trained, pruned and quantized, beside the course's own.

For the appendix. PyTorch is the optional extra `pytorch`, imported when something runs (`make pytorch` installs it).
"""

from hwlimits.pytorch.counting import cost, counted_by_torch
from hwlimits.pytorch.engine import TorchError, deterministic, torch_module
from hwlimits.pytorch.fitting import correct, train
from hwlimits.pytorch.int8 import Int8Network, eight_bits_are_exact, quantize
from hwlimits.pytorch.networks import article_cnn, from_keras, images, kernels, state_bytes, to_keras
from hwlimits.pytorch.pruning import by_magnitude, finish, hold, masks, zeros

__all__ = [
    "Int8Network", "TorchError", "article_cnn", "by_magnitude", "correct", "cost", "counted_by_torch", "deterministic",
    "eight_bits_are_exact", "finish", "from_keras", "hold", "images", "kernels", "masks", "quantize", "state_bytes",
    "to_keras", "torch_module", "train", "zeros",
]  # fmt: skip
