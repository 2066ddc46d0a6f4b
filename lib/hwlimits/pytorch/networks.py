"""The course's CNN as a PyTorch module, and weights between the layouts of Keras and PyTorch.

Keras keeps the channels last: images (n, height, width, channels), kernels (height, width, inputs, outputs) and
(inputs, outputs). PyTorch keeps them first: (n, channels, height, width), (outputs, inputs, height, width) and
(outputs, inputs). So the numbers that `Flatten` lines up come in another order, too, and the rows of the dense layer
behind it have to be put in that order: a transposition alone gives a network that runs and reads no digit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from hwlimits.pytorch.engine import TorchError, torch_module

IMAGE_SHAPE = (1, 28, 28)
TO_KERAS = {"Conv2d": (2, 3, 1, 0), "Linear": (1, 0)}
TO_TORCH = {"Conv2d": (3, 2, 0, 1), "Linear": (1, 0)}


def article_cnn(seed: int = 0):
    """The CNN of the article's section 5.2 as a torch.nn.Sequential: 121,930 parameters.

    Takes images float32 (n, 1, 28, 28) in [0, 1], gives class probabilities (n, 10); `model[:-1]` gives the logits.
    The weights are PyTorch's own initial ones, drawn from `seed`; the generator of the process is left as it was.
    """
    torch = torch_module()
    nn = torch.nn
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 32, 3),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 64, 3),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                dense1=nn.Linear(1600, 64),
                relu3=nn.ReLU(),
                dense2=nn.Linear(64, 10),
                softmax=nn.Softmax(dim=1),
            )
        )


def images(channels_last: np.ndarray):
    """Images (n, height, width, channels), as `mnist.scale` makes them, as PyTorch's float32 (n, channels, ...)."""
    torch = torch_module()
    x = np.asarray(channels_last)
    if x.ndim != 4:
        raise TorchError(f"images of the shape {x.shape}: give (n, height, width, channels), as mnist.scale makes them")
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1), dtype=np.float32))


def kernels(model) -> dict[str, np.ndarray]:
    """The kernels of all convolutions and dense layers by name, with their axes in Keras' order, as copies.

    The inputs behind a `Flatten` stay in PyTorch's order.
    """
    found = weighted(model)
    return {n: layer.weight.detach().numpy().transpose(TO_KERAS[kind_of(layer)]).copy() for n, layer in found.items()}


def from_keras(model, arrays: Sequence[np.ndarray], input_shape: Sequence[int] = IMAGE_SHAPE) -> None:
    """Copy what a Keras model's `get_weights` gives into a PyTorch model of the same layers, in place.

    arrays        kernel and bias of each layer, in order
    input_shape   one image (channels, height, width): from it come the lengths that `Flatten` sees

    Raises TorchError, and changes nothing, unless arrays and layers fit one to one.
    """
    torch = torch_module()
    layers = _plain("from_keras", model)
    if len(arrays) != 2 * len(layers):
        raise TorchError(
            f"from_keras: {len(arrays)} arrays for {len(layers)} layers; a kernel and a bias for each are needed"
        )
    behind_flatten, ready = flattened(model, input_shape), {}
    for i, (name, layer) in enumerate(layers.items()):
        kernel, bias = (np.asarray(array, np.float32) for array in arrays[2 * i : 2 * i + 2])
        axes = tuple(np.array(layer.weight.shape)[list(TO_KERAS[kind_of(layer)])].tolist())
        if kernel.shape != axes or bias.shape != tuple(layer.bias.shape):
            raise TorchError(
                f"from_keras: {name} takes a kernel {axes} and a bias {tuple(layer.bias.shape)} in Keras' layout, "
                f"not {kernel.shape} and {bias.shape}"
            )
        if name in behind_flatten:
            channels, height, width = behind_flatten[name]
            kernel = kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        ready[name] = kernel.transpose(TO_TORCH[kind_of(layer)]), bias
    with torch.no_grad():
        for name, (kernel, bias) in ready.items():
            layers[name].weight.copy_(torch.from_numpy(kernel.copy()))
            layers[name].bias.copy_(torch.from_numpy(bias.copy()))


def to_keras(model, input_shape: Sequence[int] = IMAGE_SHAPE) -> list[np.ndarray]:
    """The model's weights as a Keras model's `set_weights` takes them: the way back of `from_keras`."""
    layers, behind_flatten, arrays = _plain("to_keras", model), flattened(model, input_shape), []
    for name, kernel in kernels(model).items():
        if name in behind_flatten:
            channels, height, width = behind_flatten[name]
            kernel = kernel.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(kernel.shape)
        arrays += [kernel, layers[name].bias.detach().numpy().copy()]
    return arrays


def state_bytes(model) -> int:
    """Bytes of all that the model's `state_dict` keeps: what `torch.save` writes, without names and addresses."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def weighted(model) -> dict:
    """The layers with a kernel by name, in order. Raises TorchError for one that is not Conv2d or Linear, by name."""
    found = {}
    for name, layer in model.named_modules():
        if list(layer.children()) or not hasattr(layer, "weight"):
            continue
        if kind_of(layer) not in TO_KERAS:
            raise TorchError(
                f"layer {name!r} is a {kind_of(layer)}: its weights have no layout here; {', '.join(TO_KERAS)} have"
            )
        found[name] = layer
    return found


def _plain(function: str, model) -> dict:
    """The layers with a kernel, each with a bias, and none held by a mask: its weights would be made anew at a call."""
    layers = weighted(model)
    for name, layer in layers.items():
        if layer.bias is None:
            raise TorchError(f"{function}: {name} has no bias, and Keras' pairs of kernel and bias need one")
        if hasattr(layer, "weight_mask"):
            raise TorchError(f"{function}: {name} is pruned and held by its mask; finish(model) first")
    return layers


def flattened(model, input_shape: Sequence[int]) -> dict[str, tuple[int, int, int]]:
    """Of each dense layer behind a `Flatten`: the channels, height and width that were lined up. Found by one call."""
    torch = torch_module()
    found, last, hooks = {}, None, []

    def note(name):
        def hook(layer, inputs, output):
            nonlocal last
            if kind_of(layer) == "Flatten" and inputs[0].ndim == 4:
                last = tuple(inputs[0].shape[1:])
            elif kind_of(layer) == "Linear" and last is not None:
                found[name], last = last, None

        return hook

    try:
        hooks += [layer.register_forward_hook(note(name)) for name, layer in model.named_modules()]
        with torch.no_grad():
            model(torch.zeros(1, *input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def kind_of(layer) -> str:
    """The name of a layer's class."""
    return type(layer).__name__
