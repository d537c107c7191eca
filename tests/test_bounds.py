"""A denoiser that knows the range of its data: D, F, tangent and gradient; its place in losses, recipes and records."""

import json

import pytest
import torch
from messages import tells
from torch import nn

from lightning_diff import load_denoiser, tangent
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import ConsistencyModule
from lightning_diff.objectives import consistency_loss, denoising_loss
from lightning_diff.runs import recipe

LEVELS = torch.tensor([0.01, 0.2, 1.0, 5.0, 80.0], dtype=torch.float64)
BOUNDS = (-1.0, 0.8)
WAYS = [("edm", "edm"), ("trigflow", "trigflow"), ("flow", "flow"), ("edm", "epsilon"), ("trigflow", "sample")]
STUDENT = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 64}"


class Wild(nn.Module):
    """Far beyond any range at every level."""

    def __init__(self, shift: float = 0.0):
        super().__init__()
        self.shift = nn.Parameter(torch.full((), shift, dtype=torch.float64))

    def forward(self, x, c_noise, label=None):
        return 2 * torch.sin(3 * x) + 0.1 * c_noise.reshape(-1, 1) + self.shift


def pair(time="edm", prediction=None, shift=0.0):
    net = Wild(shift)
    return Denoiser(net, 0.7, time, prediction=prediction, bounds=BOUNDS), Denoiser(
        net, 0.7, time, prediction=prediction
    )


def drawn(generator=0):
    generator = torch.Generator().manual_seed(generator)
    x0 = 1.8 * torch.rand(5, 6, dtype=torch.float64, generator=generator) - 1
    return x0, torch.randn(5, 6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("time", "prediction"), WAYS)
def test_D_is_clamped_and_F_is_that_of_the_clamped_D(time, prediction):
    bounded, free = pair(time, prediction)
    x0, eps = drawn()
    x = x0 + LEVELS[:, None] * eps
    D = bounded(x, LEVELS)
    assert torch.equal(D, D.clamp(*BOUNDS))
    torch.testing.assert_close(D, free(x, LEVELS).clamp(*BOUNDS), rtol=0, atol=1e-13)
    assert float((free(x, LEVELS) != D).double().mean()) > 0.2
    norm = (LEVELS[:, None] ** 2 + 0.7**2).sqrt()
    F = bounded.edm_output(x, LEVELS)
    torch.testing.assert_close((0.7 / norm) ** 2 * x + LEVELS[:, None] * 0.7 / norm * F, D, rtol=0, atol=1e-13)


def test_pure_noise_is_clamped_too():
    bounded, free = pair("trigflow")
    eps = drawn()[1]
    torch.testing.assert_close(bounded.from_noise(eps), free.from_noise(eps).clamp(*BOUNDS), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("time", "prediction"), WAYS)
def test_the_tangent_is_taken_through_the_clamp(time, prediction):
    student = pair(time, prediction)[0]
    x0, eps = drawn()
    by_jvp, by_difference = (
        consistency_loss(student, x0, LEVELS, eps, teacher=pair("edm", shift=0.3)[0], derivative=how, step=1e-6)
        for how in ("jvp", "central")
    )
    torch.testing.assert_close(by_jvp.tangent, by_difference.tangent, rtol=1e-7, atol=1e-7)


def test_a_pixel_at_its_bound_is_at_the_end_of_its_trajectory():
    """There f does not move, and at r = 1 no part of the tangent is left."""
    bounded, free = pair()
    x0, eps = drawn()
    D = free(x0 + LEVELS[:, None] * eps, LEVELS)
    beyond = (BOUNDS[0] > D) | (BOUNDS[1] < D)
    g = consistency_loss(bounded, x0, LEVELS, eps, normalisation="none").tangent
    assert float(g[beyond].abs().max()) < 1e-12
    assert float(g[~beyond].abs().min()) > 1e-6


def test_gradients_pass_straight_through_and_point_inwards():
    x = torch.tensor([-3.0, -0.5, 0.8, 2.0], requires_grad=True)
    target = torch.tensor([-0.9, 0.0, 0.0, 0.7])
    clamped = tangent.clamp(x, *BOUNDS)
    assert clamped.tolist() == pytest.approx([-1.0, -0.5, 0.8, 0.8])
    (gradient,) = torch.autograd.grad((clamped - target).square().sum() / 2, x)
    torch.testing.assert_close(gradient, torch.tensor([-0.1, -0.5, 0.8, 0.1]))


def test_forward_mode_of_others_has_the_exact_derivative():
    x = torch.tensor([-3.0, 0.5])
    _, derivative = torch.func.jvp(lambda x: tangent.clamp(x, *BOUNDS), (x,), (torch.ones(2),))
    assert derivative.tolist() == [0, 1]


def test_no_denoising_loss_is_larger_than_without_bounds():
    bounded, free = pair()
    x0, eps = drawn()
    ours, theirs = (denoising_loss(each, x0, LEVELS, eps) for each in (bounded, free))
    assert bool((ours <= theirs).all())
    (gradient,) = torch.autograd.grad(ours.sum(), bounded.net.parameters())
    assert float(gradient.abs()) > 0


def test_a_student_has_its_teachers_bounds_or_ones_of_its_own(train):
    folder = train("teacher", "model.bounds=[-2, 2]", "trainer.max_steps=1")
    assert load_denoiser(folder).bounds == (-2.0, 2.0)
    student = train("student", STUDENT, "trainer.max_steps=1")
    assert json.loads((student / "model.json").read_text())["bounds"] == [-2, 2]
    assert recipe.read_yaml(student / "recipe.yaml")["model"]["bounds"] == [-2, 2]
    own = train("own", STUDENT, "model.bounds=[-1.5, 1.5]", "trainer.max_steps=1")
    assert load_denoiser(own).bounds == (-1.5, 1.5)
    module = ConsistencyModule("runs/teacher", num_classes=8)
    assert module.denoiser.bounds == (-2.0, 2.0)
    assert module.denoiser.around(Wild()).bounds == (-2.0, 2.0)


def test_a_record_from_before_has_no_bounds(train):
    folder = train("plain", "trainer.max_steps=1")
    record = json.loads((folder / "model.json").read_text())
    del record["bounds"]
    (folder / "model.json").write_text(json.dumps(record))
    assert load_denoiser(folder).bounds is None


def test_data_beyond_the_bounds_are_refused(train):
    with pytest.raises(UserError) as error:
        train("narrow", "model.bounds=[-0.5, 0.5]")
    assert tells(str(error.value), "model.bounds: ... -0.5 to 0.5 ... range of the data")


def test_bounds_out_of_order_are_refused(train):
    with pytest.raises(UserError) as error:
        train("wrong", "model.bounds=[1, -1]")
    assert tells(str(error.value), "... bounds ... (low, high) ... 1 and -1")
