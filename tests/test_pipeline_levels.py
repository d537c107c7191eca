"""A grid given to a pipeline's scheduler is visited at the same noise levels."""

import pytest
import torch
from messages import tells

from lightning_diff.denoiser import Denoiser, FlowTime, TableTime
from lightning_diff.nets import MLP
from lightning_diff.schedules import karras

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the library's


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_schedulers_levels_are_the_grids_whatever_it_shifts(shift, scale):
    denoiser = Denoiser(MLP((2,)), 1.0, FlowTime(scale), prediction="flow")
    sigmas = torch.cat([torch.tensor([torch.inf], dtype=torch.float64), karras(6, 0.02, 40.0)])
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(**denoiser.pipeline_levels(sigmas, shift))
    s = scheduler.sigmas.double()
    torch.testing.assert_close(s[1:] / (1 - s[1:]), sigmas[1:], rtol=1e-5, atol=1e-12)
    assert float(s[0]) == 1


def test_dynamic_shifting_is_a_shift_by_the_exponential_of_mu():
    denoiser, sigmas, mu = Denoiser(MLP((2,)), 1.0, FlowTime(), prediction="flow"), karras(5, 0.02, 40.0), 0.8
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    levels = denoiser.pipeline_levels(sigmas, float(torch.tensor(mu).exp()))
    scheduler.set_timesteps(**levels, mu=mu)
    s = scheduler.sigmas.double()
    torch.testing.assert_close(s / (1 - s), sigmas, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_tables_levels_are_its_entries_nearest_to_the_grid(kind):
    options = {"betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    denoiser = Denoiser(MLP((2,)), 1.0, TableTime(**options), prediction="epsilon")
    sigmas = karras(8, 0.03, 14.0)
    config = {"beta_schedule": options.pop("betas"), **options}
    scheduler = getattr(diffusers, kind)(**config)
    levels = denoiser.pipeline_levels(sigmas)
    if kind == "DDIMScheduler":  # which takes no list: its steps are the entries themselves
        visited = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()[levels["timesteps"]]
    else:
        scheduler.set_timesteps(**levels)
        visited = torch.as_tensor(scheduler.sigmas)[:-1]
        assert [round(float(t)) for t in scheduler.timesteps] == levels["timesteps"]
    torch.testing.assert_close(visited.double(), denoiser.clock.sigmas[levels["timesteps"]], rtol=1e-4, atol=0)
    spacing = denoiser.clock.log_sigmas.diff().max()
    assert bool(((visited.double().log() - sigmas[:-1].log()).abs() < spacing).all())


@pytest.mark.parametrize(
    ("time", "prediction", "message"),
    [("edm", "edm", "... table ... LogTime"), (TableTime(), "epsilon", "noise levels ... one entry of the table, 0 ...")],
)
def test_a_grid_that_no_pipeline_can_visit_is_refused(time, prediction, message):
    with pytest.raises(ValueError) as caught:
        Denoiser(MLP((2,)), 1.0, time, prediction=prediction).pipeline_levels(karras(18))
    assert tells(str(caught.value), message)
