"""What a scheduler's config says of the network: its table, its time, its levels, each against the scheduler itself."""

import math

import pytest
import torch
from messages import tells

from lightning_diff.artifacts.pipeline import parametrisation
from lightning_diff.artifacts.pipeline.scheduler import shift_of, table
from lightning_diff.denoiser import FlowTime
from lightning_diff.foundation.binding import bind, construct
from lightning_diff.foundation.errors import UserError
from lightning_diff.schedules import GRIDS

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # the library's, with numpy 2

SOURCE = "scheduler_config.json"
SD3 = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
FLUX = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "shift": 3.0}
SANA = {
    "_class_name": "DPMSolverMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}


def built(config, scheduler=None):
    """The scheduler of a config."""
    kind = getattr(diffusers, scheduler or config["_class_name"])
    return kind(**{name: value for name, value in config.items() if not name.startswith("_")})


def sigmas_of(known, steps):
    return GRIDS[known.sampling.grid](steps, **known.sampling.arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"beta_schedule": "linear"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400},
        {"trained_betas": [0.001 + 0.0001 * i for i in range(50)]},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": True},
    ],
)
def test_a_table_is_the_schedulers_own(monkeypatch, arguments):
    config = {"_class_name": "DDPMScheduler", **arguments}
    ours = 1 / (1 + table(config, SOURCE).sigmas ** 2)
    monkeypatch.setattr(torch, "float32", torch.float64)  # in which the library computes tables
    theirs = built(config).alphas_cumprod
    assert theirs.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_table_is_told_by_its_node():
    config = {"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2, 0.3], "prediction_type": "v_prediction"}
    known = parametrisation(config, SOURCE)
    again = construct(bind(known.time, object, "time"))
    assert known.prediction == "v_prediction"
    assert torch.equal(again.sigmas, table(config, SOURCE).sigmas)


@pytest.mark.parametrize(
    "name", ["LCMScheduler", "TCDScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "PNDMScheduler"]
)
def test_what_a_config_leaves_out_is_as_the_scheduler_has_it(name):
    theirs = built({"_class_name": name}).alphas_cumprod.double()
    ours = 1 / (1 + table({"_class_name": name}, SOURCE).sigmas ** 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert parametrisation({"_class_name": name}, SOURCE).kind == (
        "consistency" if name in ("LCMScheduler", "TCDScheduler") else "denoiser"
    )


def test_sd3_visits_its_levels():
    known, scheduler = parametrisation(SD3, SOURCE), built(SD3)
    scheduler.set_timesteps(7)
    ours = sigmas_of(known, 7)
    s = torch.where(ours.isinf(), 1.0, ours / (1 + ours))
    torch.testing.assert_close(s, scheduler.sigmas.double(), rtol=1e-5, atol=1e-6)
    clock = construct(bind(known.time, FlowTime, "time"))
    torch.testing.assert_close(clock(ours[:-1]), scheduler.timesteps.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_flux_visits_its_levels_by_the_size_of_its_images(kind):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    config = FLUX | {"time_shift_type": kind}
    scheduler = built(config)
    for tokens in (256, 1024, 4096):
        scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=calculate_shift(tokens))
        ours = sigmas_of(parametrisation(config, SOURCE, tokens=tokens), 4)
        s = torch.where(ours.isinf(), 1.0, ours / (1 + ours))
        torch.testing.assert_close(s, scheduler.sigmas.double(), rtol=1e-5, atol=1e-6)


def test_sana_visits_its_levels():
    scheduler = built(SANA)
    scheduler.set_timesteps(6)
    ours = sigmas_of(parametrisation(SANA, SOURCE), 6)
    torch.testing.assert_close(ours / (1 + ours), scheduler.sigmas.double(), rtol=1e-4, atol=1e-6)
    assert shift_of(SANA) == 3.0


@pytest.mark.parametrize(("prediction", "ours"), [("epsilon", "edm"), ("v_prediction", "trigflow")])
def test_edms_preconditioning_is_the_schedulers(prediction, ours):
    from lightning_diff.denoiser import Denoiser

    config = {"_class_name": "EDMEulerScheduler", "sigma_data": 0.7, "prediction_type": prediction, "sigma_max": 50.0}
    scheduler, known = built(config), parametrisation(config, SOURCE)
    scheduler.set_timesteps(5)
    torch.testing.assert_close(sigmas_of(known, 5), scheduler.sigmas.double(), rtol=1e-5, atol=1e-6)
    assert known.prediction == ours

    class Net(torch.nn.Module):
        def forward(self, x, c_noise, label=None):
            return (x * 1.3).sin() + c_noise.reshape(-1, 1, 1, 1)

    x, sigma = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.tensor([0.3, 4.0], dtype=torch.float64)
    D = Denoiser(Net(), known.sigma_data, known.time, prediction=known.prediction)(x, sigma)
    for i, level in enumerate(sigma):
        x_in = scheduler.precondition_inputs(x[i : i + 1], level)
        output = Net()(x_in, scheduler.precondition_noise(level).reshape(1))
        torch.testing.assert_close(D[i : i + 1], scheduler.precondition_outputs(x[i : i + 1], output, level))


def test_a_rescaled_table_starts_at_pure_noise():
    config = {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    known = parametrisation(config, SOURCE)
    assert math.isinf(sigmas_of(known, 4)[0])


def test_sana_sprint_is_a_consistency_model_of_a_flow_network():
    known = parametrisation({"_class_name": "SCMScheduler", "sigma_data": 0.5}, SOURCE)
    assert (known.kind, known.prediction, known.sigma_data) == ("consistency", "flow", 1.0)
    assert known.sampling.levels[2] == [pytest.approx(math.tan(1.3))]


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        ({"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule: 'sigmoid' ... scaled_linear"),
        ({"_class_name": "DDPMScheduler", "beta_schedule": ["linear"]}, "beta_schedule: ... scaled_linear"),
        ({"_class_name": "DDPMScheduler", "prediction_type": "x0"}, "prediction_type: 'x0' ... v_prediction"),
        ({"_class_name": "DDPMScheduler", "trained_betas": [0.1, 1.5]}, "... 1.5"),
        ({"_class_name": "DDPMScheduler", "beta_start": "small"}, "... small"),
        ({"_class_name": "CogVideoXDDIMScheduler"}, "_class_name: 'CogVideoXDDIMScheduler' ... DDIMScheduler"),
        ({}, "_class_name: None ..."),
        (SANA | {"prediction_type": "epsilon"}, "prediction_type: 'epsilon' ... flow_prediction"),
        ({"_class_name": "SCMScheduler", "prediction_type": "flow"}, "prediction_type: 'flow' ... trigflow"),
    ],
)
def test_what_is_not_known_is_named_with_its_file_and_what_is(config, facts):
    with pytest.raises(UserError) as caught:
        parametrisation(config, SOURCE)
    assert tells(str(caught.value), f"{SOURCE}: {facts}")
