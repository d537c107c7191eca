"""The mathematics stands on torch alone: it is imported, and works, where Lightning and OmegaConf are not installed."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.whole

MATHEMATICS = (
    "artifacts",
    "condition",
    "denoiser",
    "ema",
    "foundation",
    "foundation.rng",
    "learning_rate",
    "nets",
    "nets.lora",
    "noise",
    "objectives",
    "oracle",
    "precision",
    "rewards",
    "rollouts",
    "rollouts.advantages",
    "rollouts.old_policy",
    "rollouts.policies",
    "rollouts.ranking",
    "rollouts.scoring",
    "rollouts.selection",
    "rollouts.steering",
    "samplers",
    "samplers.generate",
    "samplers.guidance",
    "schedules",
    "schedules.adaptive_sampling",
    "statistics",
    "tangent",
    "weighting",
)

LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric", "omegaconf")

ABSENT = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
"""

WITHOUT = (
    ABSENT.format(names=LIGHTNING)
    + """
try:
    import lightning_diff.modules
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("Lightning can still be imported, so that this test would prove nothing")
"""
)

ONE_STEP_AND_SAMPLES = """
import torch
from lightning_diff import Denoiser, ema, nets, noise, objectives, schedules, statistics, weighting
from lightning_diff.samplers.generate import generate

net = nets.UNet((1, 8, 8), num_classes=3, channels=8, channel_mult=[1], num_blocks=1, attention=[])
denoiser = Denoiser(net)
sigma = noise.LogNormal().icdf(noise.stratified(4)).float()
log_snr = noise.sigma_to_log_snr(sigma)
loss = objectives.denoising_loss(denoiser, torch.zeros(4, 1, 8, 8), sigma, torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
(weighting.MeasuredVariance()(log_snr, loss.detach()) * loss).mean().backward()
statistics.NoiseLevelStatistics().update(log_snr, loss)
average = ema.start(dict(net.named_parameters()))
ema.update_(average, dict(net.named_parameters()), 0.5)
samples = generate(denoiser, (1, 8, 8), range(2), torch.tensor([0, 1]), sigmas=schedules.karras(3))
assert samples.shape == (2, 1, 8, 8) and samples.isfinite().all()
"""

# What a program that only samples from a saved model needs not have.
OF_TRAINING = (*LIGHTNING, "matplotlib", "scipy", "sklearn", "typer", "tensorboard")

# `statistics` needs of torchmetrics the one class; the real one would bring matplotlib and scipy along.
TORCHMETRICS = """
import types, torch
stub = sys.modules["torchmetrics"] = types.ModuleType("torchmetrics")
stub.Metric = torch.nn.Module
"""

A_MODEL_SAVED_AND_LOADED = """
import tempfile, torch
from lightning_diff import Denoiser, nets
from lightning_diff.artifacts import checkpoints, load_denoiser, load_schedule, noise_levels, save_denoiser, save_schedule
from lightning_diff.artifacts import ema_snapshots, edm_pickle, pictures, step_policy
from lightning_diff.artifacts.schedule import Schedule

node = {"_target_": "lightning_diff.nets.MLP", "shape": [2], "width": 8, "depth": 1}
denoiser = Denoiser(nets.MLP((2,), width=8, depth=1)).eval()
with tempfile.TemporaryDirectory() as folder:
    save_denoiser(folder, denoiser, node, shape=(2,))
    save_schedule(folder, Schedule([80.0, 0.0], "edm", "heun", {}, "abc"))
    loaded, schedule = load_denoiser(folder), load_schedule(folder)
x = torch.randn(3, 2)
assert torch.equal(loaded(x, torch.tensor(1.0)), denoiser(x, torch.tensor(1.0))) and schedule.steps == 1
"""

WITHOUT_TORCHMETRICS = """
import sys
sys.modules["torchmetrics"] = None
import lightning_diff.noise, lightning_diff.denoiser, lightning_diff.samplers, lightning_diff.weighting
from lightning_diff.artifacts import load_denoiser
try:
    import lightning_diff.statistics
except ImportError:
    pass
else:
    raise AssertionError("torchmetrics can still be imported, so that this test would prove nothing")
"""

PUBLIC_NAMES = """
import inspect, lightning_diff
for name in lightning_diff.__all__:
    scope = {}
    exec(f"from lightning_diff import {name}", scope)
    assert inspect.isclass(scope[name]) or inspect.isfunction(scope[name]), (name, scope[name])
"""


def python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_mathematics_works_without_lightning_and_omegaconf():
    imports = "".join(f"importlib.import_module('lightning_diff.{name}')\n" for name in MATHEMATICS)
    python(WITHOUT + imports + ONE_STEP_AND_SAMPLES)


def test_a_model_is_saved_and_loaded_without_what_training_and_pictures_need():
    python(ABSENT.format(names=OF_TRAINING) + TORCHMETRICS + A_MODEL_SAVED_AND_LOADED)


def test_noise_levels_samplers_and_models_need_no_torchmetrics():
    python(WITHOUT_TORCHMETRICS)


def test_every_public_name_is_a_class_or_a_function():
    python(PUBLIC_NAMES)
