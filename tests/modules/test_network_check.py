"""A network without a forward-mode derivative is found by one call of one example, before anything is trained or written."""

from pathlib import Path

import pytest
import torch
from messages import tells
from test_consistency_module import OnlyBackwards
from torch import nn

from lightning_diff.cli import main
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules.network_check import refuse_no_forward_mode
from lightning_diff.nets import MLP

STUDENT = (
    "model={_target_: lightning_diff.ConsistencyModule, teacher: teacher, warmup: 64, objective: training, "
    "weighting: {_target_: lightning_diff.weighting.Uniform}, net: {_target_: test_network_check.Points, kind: %s}}"
)


class Net(nn.Module):
    """One of the ways to have no forward mode, or to have one and look as if not."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.inner = kind, nn.Conv2d(3, 3, 1)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, c_noise, label=None):
        h = self.inner(x) * (1 + 0 * c_noise.reshape(-1, 1, 1, 1))
        tokens = h.flatten(2).transpose(1, 2)
        if self.kind == "kernel":  # of attention, on the CPU alone
            tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        elif self.kind == "function":
            tokens = OnlyBackwards.apply(tokens)
        elif self.kind == "operation":
            tokens = torch.cdist(tokens, tokens) @ tokens
        elif self.kind == "detached":
            return h.detach()
        elif self.kind == "values":
            tokens = tokens * float(c_noise.sum())
        elif self.kind == "buffer":
            self.calls += 1
        return tokens.transpose(1, 2).reshape(h.shape)


class Points(nn.Linear):
    """The same for points."""

    def __init__(self, kind: str):
        super().__init__(2, 2)
        self.kind = kind

    def forward(self, x, c_noise, label=None):
        y = super().forward(x)
        return OnlyBackwards.apply(y) if self.kind == "function" else y


@pytest.mark.parametrize("kind", ["kernel", "function", "operation", "detached"])
def test_what_has_no_forward_mode_is_refused(kind):
    with pytest.raises(UserError) as error:
        refuse_no_forward_mode(Denoiser(Net(kind)), (3, 8, 8), 0, "cpu")
    assert tells(str(error.value), "model.derivative: Net ... model.derivative=central")


@pytest.mark.parametrize("kind", ["plain", "values", "buffer"])
def test_what_has_one_is_left_as_it_is(kind):
    net = Net(kind).train()
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in net.state_dict().items()}
    refuse_no_forward_mode(Denoiser(net), (3, 8, 8), 0, "cpu")
    assert net.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())


def test_weights_without_values_are_tried_on_shapes_alone():
    refuse_no_forward_mode(Denoiser(Net("kernel").to("meta")), (3, 8, 8), 0, "cpu")
    with pytest.raises(UserError, match="central"):
        refuse_no_forward_mode(Denoiser(Net("function").to("meta")), (3, 8, 8), 0, "cpu")


def test_our_own_networks_are_not_computed_for_it(monkeypatch):
    """They may be large, and their tests try it."""
    net, devices = MLP((2,), width=8, depth=1), []
    monkeypatch.setattr(MLP, "forward", lambda self, x, *rest, **more: devices.append(x.device.type) or x)
    refuse_no_forward_mode(Denoiser(net), (3, 8, 8), 0, "cpu")
    assert devices == ["meta"]


def test_at_the_door_and_by_a_dry_run(train, capsys):
    same = "model.net={_target_: test_network_check.Points, kind: function}"
    train("teacher", same, "trainer.max_steps=1", "data.conditional=false", "model.condition_dropout=0")
    with pytest.raises(UserError, match=r"derivative=central"):
        train("student", STUDENT % "function", "data.conditional=false")
    assert not Path("runs/student").exists()
    line = ["train", "student.yaml", STUDENT % "function", "data.conditional=false"]
    assert main([*line, "--dry-run"]) == 2
    assert tells(capsys.readouterr().err, "... error: ... model.derivative: Points ... central")
    assert main([*line, "model.derivative=central", "--dry-run"]) == 0


def test_a_dry_run_asks_the_callbacks_too(train, capsys):
    train("first", "trainer.max_steps=1")
    grid = "callbacks=[{_target_: lightning_diff.callbacks.SampleGrid}]"
    assert main(["train", "first.yaml", grid, "--dry-run"]) == 2
    assert tells(capsys.readouterr().err, "... error: ... SampleGrid: ...")
