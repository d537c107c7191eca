"""One denoiser whatever the network predicts: an exact function, told in six ways, gives one D, one F, one tangent."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lightning_diff import schedules
from lightning_diff.denoiser import PREDICTIONS, Denoiser, FlowTime, TableTime, default_time
from lightning_diff.denoiser.predictions import cos_sin
from lightning_diff.denoiser.times import AngleTime, LogTime
from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError
from lightning_diff.objectives import consistency_loss, denoising_loss
from lightning_diff.oracle import GaussianMixture
from lightning_diff.samplers.generate import generate

SIGMA_DATA = 0.6
LEVELS = torch.tensor([0.002, 0.05, 0.5, 1.0, 7.0, 80.0], dtype=torch.float64)
TIMES = {"log": "edm", "angle": "trigflow", "flow": "flow", "thousand": FlowTime(1000.0), "table": TableTime(1000)}


def mixture() -> GaussianMixture:
    means = torch.tensor([[0.5, -0.5], [-0.7, 0.2]], dtype=torch.float64)
    return GaussianMixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64), means, torch.tensor([0.2, 0.4], dtype=torch.float64)
    )


class Foreign(nn.Module):
    """An exact denoiser as a network of that prediction, told sigma by a logarithm: ln sigma = f(time), whatever the time is.

    The formulas are those of the papers, in the network's own variables x_s = a x0 + b eps, not those of the library.
    """

    def __init__(self, prediction: str, sigma_of):
        super().__init__()
        self.oracle, self.prediction, self.sigma_of = mixture(), prediction, sigma_of

    def forward(self, x_in, time, label=None):
        sigma = self.sigma_of(time.double())
        column = sigma[:, None]
        a = {"edm": 1 / (column**2 + SIGMA_DATA**2).sqrt(), "flow": 1 / (1 + column)}
        a["trigflow"] = a["edm"]
        a = a.get(self.prediction, 1 / (1 + column**2).sqrt())
        b, x = a * column, x_in.double() / a
        x0 = self.oracle(x, sigma)
        eps = (x - x0) / column
        t = (sigma / SIGMA_DATA).atan()[:, None]
        answers = {
            "edm": t.sin() * x0 / SIGMA_DATA - t.cos() * eps,
            "trigflow": t.cos() * eps - t.sin() * x0 / SIGMA_DATA,
            "epsilon": eps,
            "v_prediction": a * eps - b * x0,
            "sample": x0,
            "flow": eps - x0,
        }
        return answers[self.prediction].to(x_in.dtype)


SIGMA_OF = {
    "log": lambda time: (4 * time).exp(),
    "angle": lambda time: SIGMA_DATA * time.tan(),
    "flow": lambda time: time / (1 - time),
    "thousand": lambda time: time / (1000 - time),
}


def foreign(prediction: str, time: str = "log") -> Denoiser:
    return Denoiser(Foreign(prediction, SIGMA_OF[time]), SIGMA_DATA, TIMES[time], prediction=prediction)


def noisy(n: int = len(LEVELS)):
    torch.manual_seed(0)
    x0 = torch.randn(n, 2, dtype=torch.float64)
    return x0, torch.randn(n, 2, dtype=torch.float64)


@pytest.mark.parametrize("time", SIGMA_OF)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_and_time_gives_the_same_denoiser(prediction, time):
    x0, eps = noisy()
    x = x0 + LEVELS[:, None] * eps
    torch.testing.assert_close(foreign(prediction, time)(x, LEVELS), mixture()(x, LEVELS), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_that_of_f(prediction):
    x0, eps = noisy()
    expected = denoising_loss(foreign("edm"), x0, LEVELS, eps)
    torch.testing.assert_close(denoising_loss(foreign(prediction), x0, LEVELS, eps), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("derivative", ["jvp", "two_pass", "central", "discrete"])
@pytest.mark.parametrize(
    ("prediction", "time"), [("epsilon", "log"), ("v_prediction", "angle"), ("sample", "log"), ("flow", "flow")]
)
def test_the_tangent_is_that_of_trigflow(prediction, time, derivative):
    x0, eps = noisy()
    teacher = foreign("trigflow", "angle")
    ours, theirs = (
        consistency_loss(model, x0, LEVELS, eps, teacher=teacher, derivative=derivative, normalisation="none")
        for model in (foreign(prediction, time), foreign("trigflow", "angle"))
    )
    loose = 1e-4 if derivative == "central" else 1e-8  # a difference quotient of order 2 depends on the coordinate
    torch.testing.assert_close(ours.tangent, theirs.tangent, rtol=loose, atol=loose)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_rates_of_position_are_derivatives(prediction):
    model, h = foreign(prediction), 1e-5
    x = torch.zeros(1, dtype=torch.float64)
    ahead, behind = (model.position(LEVELS * math.exp(step), x) for step in (h, -h))
    rate = model.position_rate(LEVELS, x)
    for found, after, before in zip(
        (rate.c_noise, *rate.coefficients),
        (ahead.c_noise, *ahead.coefficients),
        (behind.c_noise, *behind.coefficients),
        strict=True,
    ):
        torch.testing.assert_close(found, (after - before) / (2 * h), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "time", [LogTime(), AngleTime(0.5), FlowTime(1000.0), TableTime(100, beta_end=0.3), TableTime(50, zero_snr=True)]
)
def test_a_time_increases_and_its_rate_is_its_derivative(time):
    sigma, h = torch.logspace(-1.4, 1.5, 41, dtype=torch.float64), 1e-7
    numeric = (time(sigma * math.exp(h)) - time(sigma * math.exp(-h))) / (2 * h)
    torch.testing.assert_close(time.rate(sigma), numeric, rtol=1e-5, atol=1e-5)
    assert (time(sigma).diff() > 0).all()


@pytest.mark.parametrize(
    ("arguments", "betas"),
    [
        ({"betas": "linear"}, np.linspace(1e-4, 0.02, 1000)),
        (
            {"betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
            np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
        ),
    ],
)
def test_a_table_is_that_of_its_variances_and_linear_in_ln_sigma_between(arguments, betas):
    abar = np.cumprod(1 - betas)
    sigmas, time = torch.from_numpy(np.sqrt((1 - abar) / abar)), TableTime(1000, **arguments)
    torch.testing.assert_close(time.sigmas, sigmas, rtol=1e-10, atol=0)
    torch.testing.assert_close(time(sigmas), torch.arange(1000.0, dtype=torch.float64), rtol=0, atol=1e-7)
    between = (sigmas[1:] * sigmas[:-1]).sqrt()
    torch.testing.assert_close(time(between), torch.arange(999.0, dtype=torch.float64) + 0.5, rtol=0, atol=1e-7)
    assert time(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]


def test_a_table_of_zero_terminal_snr_ends_in_pure_noise_and_keeps_its_first_entry():
    plain, rescaled = TableTime(1000), TableTime(1000, zero_snr=True)
    assert rescaled.sigmas.isinf().nonzero().tolist() == [[999]]
    torch.testing.assert_close(rescaled.sigmas[0], plain.sigmas[0])
    assert rescaled(torch.tensor([math.inf], dtype=torch.float64)).item() == 999
    last = rescaled.sigmas[-2]
    torch.testing.assert_close(rescaled(2 * last[None]), torch.tensor([998.5], dtype=torch.float64))


def test_a_table_stays_exact_in_half_precision():
    model = Denoiser(Foreign("epsilon", None), 0.5, TableTime(1000), prediction="epsilon").to(torch.bfloat16)
    assert model.clock.log_sigmas.dtype == torch.float64
    assert not [name for name in model.state_dict() if name.startswith("clock")]


@pytest.mark.parametrize(
    ("prediction", "time"), [("flow", "flow"), ("trigflow", "angle"), ("v_prediction", TableTime(zero_snr=True))]
)
def test_pure_noise_is_the_limit_of_large_noise(prediction, time):
    class Near(nn.Module):
        """Some smooth function of input and time."""

        def forward(self, x, time, label=None):
            return torch.tanh(x) * (1 + 0.1 * torch.sin(time)[:, None])

    model = Denoiser(Near(), SIGMA_DATA, TIMES.get(time, time), prediction=prediction)
    eps = noisy()[1]
    sigma = torch.tensor(1e9, dtype=torch.float64)
    assert model.knows_pure_noise
    torch.testing.assert_close(model.from_noise(eps), model(sigma * eps, sigma), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction", ["edm", "epsilon", "sample"])
def test_pure_noise_is_refused_where_it_means_nothing(prediction):
    model = foreign(prediction)
    assert not model.knows_pure_noise
    with pytest.raises(UserError, match=r"infinity"):
        generate(model, (2,), range(3), sigmas=schedules.flow(4, sigma_max=math.inf))


def test_only_a_table_that_ends_there_knows_pure_noise():
    plain, rescaled = (
        Denoiser(nn.Identity(), 0.5, TableTime(zero_snr=zero), prediction="v_prediction") for zero in (False, True)
    )
    assert (plain.knows_pure_noise, rescaled.knows_pure_noise) == (False, True)


def test_a_table_has_its_values_where_a_network_is_built_without():
    with torch.device("meta"):
        model = Denoiser(nn.Linear(2, 2), 0.5, TableTime(), prediction="epsilon")
    assert torch.equal(model.to_empty(device="cpu").clock.sigmas, TableTime().sigmas)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_sampling_from_pure_noise_is_what_a_flow_pipeline_does(guidance):
    """Euler's method along s from 1, in the network's own variables, as pipelines write it."""

    class Velocity(nn.Module):
        def forward(self, x, s, label=None):
            shift = 0.0 if label is None else label[:, None]
            return torch.tanh(x * (1 + s[:, None])) + shift

    net, grid = Velocity(), schedules.flow(5, sigma_min=0.0, sigma_max=math.inf, shift=3.0)
    label = torch.tensor([1, 2, 3])
    model = Denoiser(net, 0.5, "flow")
    ours = generate(
        model, (2,), range(3), label, sigmas=grid, solver="euler", guidance=guidance, seed=1, dtype=torch.float64
    )
    x = rng.normal(1, "sample", range(3), (2,)).double()
    nodes = torch.linspace(1, 0, 6, dtype=torch.float64)
    nodes = 3 * nodes / (1 + 2 * nodes)
    for s, s_next in pairwise(nodes):
        each = s.expand(3)
        v = net(x, each) + guidance * (net(x, each, label) - net(x, each))
        x = x + (s_next - s) * v
    torch.testing.assert_close(ours, x.float(), rtol=1e-5, atol=1e-5)


def test_one_step_from_pure_noise_is_the_models_mean():
    class Mean(nn.Module):
        def forward(self, x, s, label=None):
            return x - 0.25

    model = Denoiser(Mean(), 0.5, "flow")
    ours = generate(model, (2,), range(2), sigmas=torch.tensor([math.inf, 0.0], dtype=torch.float64), solver="heun")
    assert torch.allclose(ours, torch.full((2, 2), 0.25), atol=1e-6)


def test_cos_and_sin_hold_at_both_ends():
    cos, sin = cos_sin(torch.tensor([0.0, 1e-300, 0.5, 1e300, math.inf]), 0.5)
    torch.testing.assert_close(cos, torch.tensor([1.0, 1.0, 0.5**0.5, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(sin, torch.tensor([0.0, 0.0, 0.5**0.5, 1.0, 1.0], dtype=torch.float64))


def test_what_a_prediction_is_told_by_default():
    assert [default_time(name) for name in (None, *PREDICTIONS)] == [
        "edm",
        "edm",
        "trigflow",
        "edm",
        "edm",
        "edm",
        "flow",
    ]
    assert Denoiser(nn.Identity(), 0.5, "flow").prediction == "flow"
    with pytest.raises(ValueError, match=r"what the network predicts"):
        Denoiser(nn.Identity(), 0.5, FlowTime(1000.0))
    with pytest.raises(ValueError, match=r"prediction .*v_prediction"):
        Denoiser(nn.Identity(), 0.5, "edm", prediction="velocity")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"betas": "cosine"}, "squaredcos_cap_v2"),
        ({"steps": 1}, "at least 2"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "beta_start <= beta_end"),
    ],
)
def test_an_impossible_table_is_refused(arguments, told):
    with pytest.raises(
        Exception, match=told
    ):  # of the types' check, in these tests, where the name is none of the known
        TableTime(**arguments)
