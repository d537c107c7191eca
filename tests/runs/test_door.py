"""What the first figure or picture would fail at is refused before the run folder is there and before a classifier is trained."""

import pytest
import torch
from torch import nn

from lightning_diff import DiffusionModule
from lightning_diff.callbacks import Evaluate, SampleGrid
from lightning_diff.data import Data, ImageSet
from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import features
from lightning_diff.nets import MLP

DIGITS = "data={_target_: lightning_diff.data.Digits, batch_size: 16}"
EVALUATE = "callbacks=[{_target_: lightning_diff.callbacks.Evaluate, %s}]"
GRID = "callbacks=[{_target_: lightning_diff.callbacks.SampleGrid, %s}]"


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a classifier was trained")

    monkeypatch.setattr(features, "load_or_train", refuse)


class Plain(nn.Conv2d):
    """Returns what a test asks for."""

    def __init__(self, returns: str = "tensor"):
        super().__init__(1, 1, 1)
        self.returns = returns

    def forward(self, x, c_noise, label=None):
        y = super().forward(x)
        return {"tensor": y, "mapping": {"sample": y}, "half": y[..., :4], "values": y * float(c_noise.sum())}[
            self.returns
        ]


class Own(nn.Conv2d):
    def __init__(self):
        super().__init__(1, 1, 1)

    def forward(self, x, timestep, class_labels, attention):
        return super().forward(x)


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        (EVALUATE % "n: 20", "Evaluate: 20 samples .* 64 features"),
        (EVALUATE % "n: 100, feature: fid_inception", "Evaluate: .* 2048 features"),
        (EVALUATE % "guidance: 2.0", "Evaluate: guidance"),
        (EVALUATE % "solver: consistency, levels: [1.0, 2.0]", "Evaluate: "),
        (GRID % "guidance: 2.0", "SampleGrid: guidance"),
        ("callbacks=[{_target_: lightning_diff.callbacks.RewardReport}]", "RewardReport: watches"),
        ("model.net={_target_: test_door.Plain, returns: mapping}", "model.net: Plain returned a dict"),
        ("model.net={_target_: test_door.Plain, returns: half}", "model.net: Plain returned shape"),
        ("model.net={_target_: test_door.Own}", "model.net: Own cannot be called: .*attention"),
    ],
)
def test_before_the_run_folder(train, tmp_path, override, facts):
    with pytest.raises(UserError, match=facts):
        train("door", DIGITS, override)
    assert not (tmp_path / "runs" / "door").exists()


def test_pictures_of_what_is_no_image(train, tmp_path):
    with pytest.raises(UserError, match=r"SampleGrid: .*\(2,\)"):
        train("door", GRID % "columns: 2")
    assert not (tmp_path / "runs" / "door").exists()


def test_a_network_that_looks_at_values_is_called_with_some(train):
    assert (
        train("door", DIGITS, "model.net={_target_: test_door.Plain, returns: values}", "trainer.max_steps=1")
    ).exists()


class Latents(Data):
    def load(self):
        return ImageSet(torch.randn(80, 4, 8, 8).clamp(-1, 1), None, "latents"), None


@pytest.mark.parametrize(
    ("callback", "facts"),
    [
        (SampleGrid(), "SampleGrid: .*4, 8, 8"),
        (Evaluate(), "Evaluate: 80 training images .*features"),
        (Evaluate(feature="fid_inception"), "fid_inception.*grey or RGB"),
    ],
)
def test_a_callback_says_so_by_itself_too(callback, facts):
    data = Latents(16)
    if callback.__class__ is Evaluate and callback.feature is None:
        callback.feature = "pixels"
    with pytest.raises(UserError, match=facts):
        callback.refuse_unfit(DiffusionModule(MLP((4, 8, 8), width=8, depth=1)), data)


class Keeping(nn.Module):
    """Keeps of its first call what later ones use."""

    table = None

    def forward(self, x, c_noise, label=None):
        if self.table is None:
            self.table = torch.rand(x.shape[1:], device=x.device)
        return x * self.table


def test_the_check_of_a_network_leaves_it_as_it_is():
    module = DiffusionModule(Keeping())
    module.denoiser.net.train()
    before = torch.get_rng_state()
    module.refuse_unfit_network((1, 8, 8))
    assert module.denoiser.net.training
    assert module.denoiser.net.table is None
    assert torch.equal(before, torch.get_rng_state())
