"""Graphs of the diffusers library's networks: outputs and samples of ours, conditioned and guided, in batches of any size."""

import json
import math
from itertools import pairwise

import onnxruntime
import pytest
import torch
from diffusers_models import MODELS, conditioned, make
from export_models import run
from messages import tells
from torch import nn

from lightning_diff.artifacts import save_denoiser
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs.export import graph, write
from lightning_diff.runs.export.source import of_run

LEVELS = (10.0, 3.0, 1.0, 0.3, 0.0)
BATCHES = (1, 5)  # the graph is traced with 2
CLASSES = ["unet", "sd15", "sdxl", "lcm", "dit", "pixart", "pixart_sizes", "sd3", "flux", "sana", "sana_guided"]
STUDENTS = ["unet", "sd15", "dit", "pixart", "sd3", "flux", "sana"]  # of a guided teacher


def saved(folder, name, *, guided=False):
    """A model of random weights; of a guided one the input for the scale has weights, too."""
    net = make(name, **({"guided": True} if guided else {}))
    class_name, config, shape = MODELS[name]
    node = {"_target_": "lightning_diff.nets.Diffusers", "class_name": class_name, "config": config}
    node |= {"shape": list(shape), "condition_shapes": {key: list(each) for key, each in net.condition_shapes.items()}}
    node |= ({"num_classes": net.num_classes} if net.num_classes else {}) | ({"guided": True} if guided else {})
    kind = "consistency" if guided else "denoiser"
    how = {"time": net.family.time(net.config), "prediction": net.family.prediction, "kind": kind}
    denoiser = Denoiser(net, 1.0, **how).eval()
    save_denoiser(folder, denoiser, node, shape=shape, num_classes=net.num_classes)
    return denoiser


def loaded(made, target):
    """What was written, as a function of tensors by name."""
    names = [each["name"] for each in json.loads((made.path / "export.json").read_text())["inputs"]]
    if target == "pt2":
        program = torch.export.load(made.path / "model.pt2").module()
        return lambda given: program(*(given[name] for name in names))
    session = onnxruntime.InferenceSession(str(made.path / "model.onnx"))
    assert [each.name for each in session.get_inputs()] == names
    return lambda given: torch.from_numpy(session.run(["x0"], {key: each.numpy() for key, each in given.items()})[0])


def examples(denoiser, count):
    """Inputs by name at levels from 0.1 to 30, and what the denoiser is called with beside x and sigma."""
    label = conditioned(denoiser.net, count, seed=3)
    sigma = torch.logspace(-1, 1.5, count)
    given = {"x": torch.randn(count, *denoiser.net.shape) * (1 + sigma**2).sqrt().reshape(-1, 1, 1, 1), "sigma": sigma}
    given |= {"label": label} if isinstance(label, torch.Tensor) else label.tensors
    scale = {"guidance": torch.linspace(1, 4, count)} if denoiser.net.guided else {}
    return given | scale, label, scale


def sampled(denoise):
    """Four steps of Euler's."""
    x = LEVELS[0] * torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    for sigma, after in pairwise(LEVELS):
        x = x + (after - sigma) * (x - denoise(x, torch.full((5,), sigma))) / sigma
    return x


def differences(denoiser, run_copy):
    """The largest of outputs and of samples, absolute: of values up to some 150 and 40."""
    found = []
    with torch.no_grad():
        for count in BATCHES:
            given, label, scale = examples(denoiser, count)
            own = denoiser(given["x"], given["sigma"], label, **scale)
            found.append(float((run_copy(given) - own).abs().max() / own.abs().max().clamp(min=1)))
        shape = denoiser.net.shape
        one = sampled(lambda x, sigma: denoiser(x[:, : shape[0]], sigma, label, **scale).expand(-1, 4, -1, -1))
        other = sampled(
            lambda x, sigma: run_copy({**given, "x": x[:, : shape[0]], "sigma": sigma}).expand(-1, 4, -1, -1)
        )
    return *found, float((one - other).abs().max())


def compared(folder, name, target, **how):
    denoiser = saved(folder, name, **how)
    found = differences(denoiser, loaded(write(folder, target), target))
    print(f"{name:>12} {target:<4} batch of 1 {found[0]:.1e}, of 5 {found[1]:.1e}, samples {found[2]:.1e}")
    assert max(found) < 1e-3  # false for NaN


@pytest.mark.whole
def test_a_student_takes_its_scale_in_a_graph(tmp_path):
    compared(tmp_path / "run", "flux", "pt2", guided=True)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["pt2", "onnx"])
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_a_graph(tmp_path, name, target):
    compared(tmp_path / "run", name, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["pt2", "onnx"])
@pytest.mark.parametrize("name", STUDENTS)
def test_every_guided_student_is_a_graph(tmp_path, name, target):
    compared(tmp_path / "run", name, target, guided=True)


class Odd(nn.Module):
    """What PixArt's blocks and Sana's attention do: squeeze an axis of two, and divide by what 1e-15 alone keeps from zero."""

    num_classes = 0

    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, c_noise, label=None):
        positive = (self.weight * x.squeeze(1)).relu()
        return positive / (positive + 1e-15)


@pytest.mark.whole
def test_onnx_keeps_what_torch_computes(tmp_path):
    denoiser = run(tmp_path / "run", {"_target_": "test_foreign_graphs.Odd", "shape": [2]})
    run_copy = loaded(write(tmp_path / "run", "onnx"), "onnx")
    given = {"x": torch.tensor([[1.0, -1.0], [-2.0, 3.0], [-1.0, -1.0]]), "sigma": torch.ones(3)}
    assert torch.allclose(run_copy(given), denoiser(**given), atol=1e-6)


def test_a_copy_that_gives_no_number_is_no_copy(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(UserError) as error:
        graph.difference(of_run(tmp_path / "run"), lambda x, sigma: math.nan * x)
    assert tells(str(error.value), "export: the graph differs ... inf ...")


@pytest.mark.whole
def test_a_graph_that_onnxruntime_refuses_is_one_line(tmp_path, monkeypatch):
    run(tmp_path / "run")
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError) as error:
        write(tmp_path / "run", "onnx")
    assert tells(str(error.value), "export: onnxruntime does not load the graph ... --to pt2 ...")
    assert not (tmp_path / "run" / "export").exists()
