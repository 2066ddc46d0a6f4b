"""PyTorch's own pruning, torch.nn.utils.prune, by the masks and scores of `hwlimits.pruning`.

PyTorch keeps a pruned kernel twice: the parameter `weight_orig` and the buffer `weight_mask`, whose product is
`weight` at each call. So the zeros hold while it trains, and the state takes twice the bytes, until `finish` makes the
product permanent. Then nothing holds them any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hwlimits.pytorch.engine import TorchError, torch_module
from hwlimits.pytorch.networks import TO_KERAS, TO_TORCH, kernels, kind_of, weighted


def by_magnitude(model, sparsity: Mapping[str, float]) -> None:
    """Prune the named layers in place with prune.l1_unstructured: the share of their smallest |w| goes.

    Of weights that tie at the threshold PyTorch drops just as many as the share asks for, whichever come;
    `hwlimits.pruning.mask` keeps all of them. Without ties the masks are equal.
    Raises TorchError for a name that is not a layer with a kernel, and for a share outside [0, 1).
    """
    layers = _named(model, sparsity)
    for name, share in sparsity.items():
        if not 0 <= share < 1:
            raise TorchError(f"by_magnitude({name}={share}): must be a share, at least 0 and below 1")
    for name, share in sparsity.items():
        _prune().l1_unstructured(layers[name], "weight", amount=float(share))


def hold(model, masks: Mapping[str, np.ndarray]) -> None:
    """Prune the named layers in place by masks of `hwlimits.pruning`, with prune.custom_from_mask.

    masks   booleans with the axes of `kernels`, True where the weight stays
    """
    torch, layers, shapes = torch_module(), _named(model, masks), kernels(model)
    for name, mask in masks.items():
        if np.shape(mask) != shapes[name].shape:
            raise TorchError(f"hold: {name} has a kernel {shapes[name].shape} and its mask {np.shape(mask)}")
    for name, mask in masks.items():
        axes = TO_TORCH[kind_of(layers[name])]
        values = torch.from_numpy(np.ascontiguousarray(np.asarray(mask, bool).transpose(axes)))
        _prune().custom_from_mask(layers[name], "weight", values)


def masks(model) -> dict[str, np.ndarray]:
    """The masks of the layers that are pruned, as booleans with the axes of `kernels`."""
    return {
        name: layer.weight_mask.numpy().transpose(TO_KERAS[kind_of(layer)]).astype(bool)
        for name, layer in weighted(model).items()
        if hasattr(layer, "weight_mask")
    }


def finish(model) -> None:
    """Make the zeros part of the weights and drop the masks, with prune.remove: what is left is a plain model."""
    for layer in weighted(model).values():
        if hasattr(layer, "weight_mask"):
            _prune().remove(layer, "weight")


def zeros(model) -> dict[str, float]:
    """The share of zeros in each kernel."""
    return {name: float(np.mean(kernel == 0)) for name, kernel in kernels(model).items()}


def _named(model, names: Iterable[str]) -> dict:
    layers = weighted(model)
    for name in names:
        if name not in layers:
            raise TorchError(f"there is no layer named {name!r} with a kernel; choose from {', '.join(layers)}")
    return layers


def _prune():
    torch_module()
    from torch.nn.utils import prune

    return prune
