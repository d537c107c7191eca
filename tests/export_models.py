"""Run folders with tiny untrained models, for the tests of exports."""

import torch
from PIL import Image

from lightning_diff.artifacts import save_denoiser
from lightning_diff.artifacts.metrics_columns import HEADER
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.binding import bind, construct

MLP = {"_target_": "lightning_diff.nets.MLP", "shape": [2], "num_classes": 0, "width": 8, "depth": 1}
DIT = {
    "_target_": "lightning_diff.nets.DiT",
    "shape": [1, 4, 4],
    "num_classes": 3,
    "width": 16,
    "depth": 1,
    "heads": 2,
}
RECIPE = """
name: tiny
seed: 3
runs_dir: /home/somebody/runs
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: lightning_diff.nets.MLP, width: 8, depth: 1}
data: {_target_: lightning_diff.data.Folder, path: /home/somebody/pictures/digits.zip, batch_size: 16}
trainer: {max_steps: 8}
"""


def network(node, seed=0):
    """The network of a node; what starts at zero does not here."""
    torch.manual_seed(seed)
    net = construct(bind(dict(node), torch.nn.Module, "net"))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def run(folder, node=MLP, **denoiser):
    """A run folder without checkpoints: model, recipe, figures and a picture."""
    made = Denoiser(network(node), **denoiser)
    classes = node.get("num_classes") or 0
    names = ["one", "two", "three"][:classes]
    shape = tuple(node["shape"])
    save_denoiser(folder, made, node, shape=shape, num_classes=classes, class_names=names, ema="slow", images=1280)
    (folder / "recipe.yaml").write_text(RECIPE)
    figure = {
        "step": 10,
        "images": 1280,
        "metric": "fd_inception",
        "value": 3.25,
        "n": 1000,
        "solver": "heun",
        "steps": 18,
    }
    row = dict.fromkeys(HEADER, "") | figure | {"nfe": 35, "reference": "c0ffee"}
    (folder / "metrics.csv").write_text(",".join(HEADER) + "\n" + ",".join(str(row[name]) for name in HEADER) + "\n")
    (folder / "samples").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "samples" / "heun18.png")
    return made.eval()
