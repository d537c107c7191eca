"""The offline feature space: a small network trained on the training split with a fixed seed, then cached.

Fréchet distances in the features of a classifier of the very data see what random features and pixels do not: on the
digits one missing class is four times the floor, samples of a Gaussian with the pixels' covariance are fifteen times.
The network knows the training split, so that held-out images lie at a distance from it; hence the floor beside every
figure.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn

from ..data import Data, Examples
from ..foundation import caches, rng
from ..foundation.atomic import replacing
from ..foundation.processes import is_first_process
from ..foundation.progress import each

Task = Literal["classifier", "rotation"]

VERSION = 1  # goes up whenever the same settings would train another network
FEATURES = 64
SEED, BATCH, LEARNING_RATE, WEIGHT_DECAY = 0, 128, 4e-3, 0.05


class Classifier(nn.Module):
    """Small convolutional network; its features are the 64 averages over the last map, as in Inception's pool3.

    Args:
        shape: (C, H, W) of the images.
        num_classes: classes of the head.
        name: the task, which names the feature space.
    """

    dim = FEATURES

    def __init__(self, shape: Sequence[int], num_classes: int, name: Task = "classifier"):
        super().__init__()
        self.name: str = name
        self.hash = "untrained"
        stride = 2 if min(shape[1:]) > 16 else 1
        layers, width, side = [_conv(shape[0], 32, stride)], 32, min(shape[1:]) // stride
        while side >= 8:
            layers += [_conv(width, width), _conv(width, min(2 * width, 128), 2)]
            width, side = min(2 * width, 128), side // 2
        self.body = nn.Sequential(*layers, _conv(width, FEATURES))
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """The 64 features of images in [-1, 1]."""
        maps: Tensor = self.body(images)
        return maps.mean((2, 3))

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Class scores from the features."""
        scores: Tensor = self.head(features)
        return scores

    def frozen(self) -> "Classifier":
        """Ready to measure with. The hash is of the weights: machines that round the training differently show it."""
        digest = hashlib.sha256()
        for name, value in self.state_dict().items():
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        self.hash = digest.hexdigest()[:12]
        return self.eval().requires_grad_(False)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


# A validation loop may have inference mode on, gradients off or half precision: none may reach the training.
@torch.inference_mode(False)
def load_or_train(
    data: Data, task: Task, device: torch.device | str = "cpu", steps: int | None = None, seed: int = SEED
) -> Classifier:
    """The network for this data and task, frozen: from the cache, or trained and cached.

    Training takes seconds for 8x8, minutes for 32x32. To be called on every process of a group: one trains, all get
    its weights.

    Args:
        data: the training split's images, and for the task "classifier" its labels.
        task: what it is trained to predict: the label, or by how many quarter turns the image was rotated.
        device: where it trains and stays.
        steps: optimiser steps of 128 images; None for 400 up to 16x16, 1200 above.
        seed: another one gives another network, which measures nothing but may judge what this one's rewards have made.
    """
    steps = steps or (400 if max(data.shape[1:]) <= 16 else 1200)
    with torch.random.fork_rng(devices=[]):  # initial weights take torch's global generator, which is the run's
        rng.start(torch.default_generator, seed, "feature network")
        net = Classifier(data.shape, data.train.num_classes if task == "classifier" else 4, task).to(device)
    settings = (VERSION, task, data.fingerprint, data.shape, net, steps, seed, BATCH, LEARNING_RATE, WEIGHT_DECAY)
    file = f"{task}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:16]}.safetensors"

    grouped = distributed.is_available() and distributed.is_initialized()
    if not grouped or distributed.get_rank() == 0:
        cached = _cached(file)
        if cached is None:
            train(net, data.train, steps, seed)
            _keep(file, net)
        else:
            net.load_state_dict(cached)
    if grouped:
        weights = [{name: value.cpu() for name, value in net.state_dict().items()}]
        distributed.broadcast_object_list(weights)
        net.load_state_dict(weights[0])
    return net.frozen()


def train(net: Classifier, images: Examples, steps: int, seed: int = SEED) -> None:
    """AdamW with a one-cycle learning rate, on images shifted by up to an eighth of their side: no other randomness.

    Shifts are the augmentation that suits digits and photographs alike; without any, held-out images lie further from
    the training split than they should. The batch at step k is a function of (seed, k); the global generators stay as
    they are.
    """
    device = next(net.parameters()).device
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    net.train()
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for step in each(range(steps), f"training {net.name} features", steps, "step", shown=is_first_process()):
            x, target = _batch(net.name, images, np.arange(step * BATCH, (step + 1) * BATCH), seed)
            loss = F.cross_entropy(net.logits(net(x.to(device))), target.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()


def _batch(
    task: str, images: Examples, positions: Int64[np.ndarray, " b"], seed: int
) -> tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]:
    """The examples at these positions of an endless sequence of shuffled epochs, shifted at random."""
    n = len(images)
    epochs = {e: rng.permutation(seed, "feature image", e, n) for e in np.unique(positions // n).tolist()}
    index = np.array([epochs[p // n][p % n] for p in positions.tolist()])
    x = images.images(index)
    if task == "classifier":
        target = images.label(index)
    else:
        target = torch.from_numpy((4 * rng.uniform(seed, "feature turns", positions)).astype(np.int64))
        x = torch.stack([image.rot90(int(turns), (1, 2)) for image, turns in zip(x, target, strict=True)])
    height, width = x.shape[2:]
    rows = _shifted(height, rng.uniform(seed, "feature shift down", positions))
    columns = _shifted(width, rng.uniform(seed, "feature shift right", positions))
    return x[torch.arange(len(x))[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2), target


def _shifted(side: int, u: Float[np.ndarray, " b"]) -> Int64[Tensor, "b side"]:
    """Indices along one axis, shifted by up to side / 8 and held at the border."""
    reach = max(side // 8, 1)
    shift = torch.from_numpy(np.floor((2 * reach + 1) * u).astype(np.int64)) - reach
    return (torch.arange(side) + shift[:, None]).clamp(0, side - 1)


@torch.no_grad()
def accuracy(net: Classifier, images: Examples) -> float:
    """Share of labelled images that the classifier names right, in [0, 1]."""
    device = next(net.parameters()).device
    right = 0
    for index in np.array_split(np.arange(len(images)), max(len(images) // 512, 1)):
        scores = net.logits(net(images.images(index).to(device)))
        right += int((scores.argmax(1).cpu() == images.label(index)).sum())
    return right / len(images)


def _cached(file: str) -> dict[str, Tensor] | None:
    """Weights from the cache, which may be one that cannot be written, or from the temporary one that stands in for it."""
    place = caches.wanted()
    if place is not None and (found := _read(place / file)) is not None:
        return found
    try:
        instead, remark = caches.folder()
    except OSError:  # nothing can be written anywhere: said when the weights are to be kept
        return None
    if remark:
        warnings.warn(remark, stacklevel=2)
    return _read(instead / file) if instead != place else None


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(path) if path.exists() else None
    except (SafetensorError, OSError) as error:
        warnings.warn(f"{path}: cannot be read ({error}); training the feature network again", stacklevel=2)
        return None


def _keep(file: str, net: Classifier) -> None:
    try:
        folder, _ = caches.folder()
        with replacing(folder / file) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in net.state_dict().items()}, temporary)
    except (OSError, SafetensorError) as error:  # the latter is how safetensors reports a full disk
        warnings.warn(f"{file}: cannot be written ({error}); the feature network will be trained again", stacklevel=2)
