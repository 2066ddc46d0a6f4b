"""Training a small PyTorch model, and counting its right answers."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from hwlimits.pytorch.engine import TorchError, torch_module
from hwlimits.pytorch.networks import images as as_tensor


def train(
    model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    seed: int = 0,
    batch: int = 64,
    learning_rate: float = 1e-3,
    at_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train in place with Adam on the cross-entropy of the model's logits, which are what its softmax takes.

    images    (n, height, width, channels) in [0, 1];  labels (n,)
    seed      of the order of the images, with the epoch
    at_step   hears of each step that was done, counted from 1

    An interruption leaves the model with the steps done so far. The cross-entropy of PyTorch takes logits: given
    probabilities it would take the softmax of a softmax, and learn slowly without a word. So the last layer must be a
    softmax, and is left out here; TorchError says so for another.
    """
    torch = torch_module()
    if not isinstance(model[-1], torch.nn.Softmax):
        raise TorchError(f"train: the last layer is a {type(model[-1]).__name__}, and a Softmax is what is left out")
    x, y, logits = as_tensor(images), torch.from_numpy(np.asarray(labels, np.int64)), model[:-1]
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    loss_of = torch.nn.CrossEntropyLoss()
    model.train()
    step = 0
    for epoch in tqdm(range(epochs), desc="epochs", disable=not sys.stderr.isatty()):
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(x)))
        for chosen in order.split(batch):
            optimizer.zero_grad()
            loss_of(logits(x[chosen]), y[chosen]).backward()
            optimizer.step()
            step += 1
            at_step(step)
    model.eval()


def correct(model, images: np.ndarray, labels: np.ndarray, batch: int = 500) -> np.ndarray:
    """Whether each image is read right, as booleans. `model` gives ten numbers each, the largest one is the answer."""
    torch = torch_module()
    with torch.no_grad():
        answers = [model(x).argmax(dim=1).numpy() for x in as_tensor(images).split(batch)]
    return np.concatenate(answers) == np.asarray(labels)
