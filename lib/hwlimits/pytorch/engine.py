"""The one door to PyTorch, which is imported when it is used."""

from __future__ import annotations


class TorchError(ValueError):
    """Something that can't be done in PyTorch as asked, or without it; the text says what to do."""


def torch_module():
    """PyTorch. Raises TorchError that names the extra where it is not installed."""
    try:
        import torch
    except ImportError:
        raise TorchError(
            "hwlimits.pytorch needs PyTorch, and it is not installed here: make pytorch, "
            "or pip install 'hwlimits[pytorch]'."
        ) from None
    return torch


def deterministic(seed: int, threads: int = 1) -> None:
    """Make PyTorch repeatable on one machine: its seed, algorithms without a choice, that many threads."""
    torch = torch_module()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
