"""Loaded folders against the library's own pipelines on them: the same latents on the same noise levels."""

import math

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers_models import condition
from pipeline_folders import read, write

from lightning_diff.artifacts import load_pipeline
from lightning_diff.condition import Condition
from lightning_diff.samplers import euler, pure_noise
from lightning_diff.samplers.guidance import guided

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 4
PIXELS = 64
BY_NAME = {"prompt_embeds": "encoder_hidden_states", "pooled_prompt_embeds": "pooled_projections"}
MASKED = {"prompt_embeds": "encoder_hidden_states", "prompt_attention_mask": "encoder_attention_mask"}
# How each pipeline calls the parts of a condition, whether it takes those of no prompt, and what else it wants.
CALLS = {
    "sd15": ({"prompt_embeds": "encoder_hidden_states"}, {}),
    "sdxl": ({"prompt_embeds": "encoder_hidden_states", "pooled_prompt_embeds": "text_embeds"}, {}),
    "sd3": (BY_NAME, {}),
    "flux": (BY_NAME, {}),
    "pixart": (MASKED, {"prompt": None, "negative_prompt": None, "use_resolution_binning": False}),
    "sana": (MASKED, {"negative_prompt": None, "use_resolution_binning": False}),
}


def loaded(folder, size=None):
    """Our denoiser, with a null condition at random."""
    denoiser = load_pipeline(folder, size=size).denoiser
    if denoiser.net.condition_shapes:
        denoiser.net.keep_null_condition(told(denoiser.net, 1, seed=7))
    return denoiser


def told(net, count, seed=1):
    """A condition at random; sizes as an SDXL of these latents is told."""
    made = condition(net, count, seed)
    sizes = torch.tensor([[PIXELS, PIXELS, 0, 0, PIXELS, PIXELS]]).float().expand(count, 6)
    return Condition(made.tensors | ({"time_ids": sizes} if "time_ids" in made.tensors else {}))


def ours(denoiser, eps, scheduler, label, scale):
    """Latents by Euler on the scheduler's own levels."""
    sigmas, end = scheduler.sigmas.double(), pure_noise.AtPureNoise(denoiser)
    denoise, first = (guided(each, label, scale=scale) for each in (denoiser, end))
    with torch.no_grad():
        if denoiser.prediction == "flow":
            return pure_noise.solve(euler, denoise, eps, sigmas / (1 - sigmas), from_noise=first)
        return euler(denoise, eps * scheduler.init_noise_sigma, sigmas)


def theirs(pipeline, name, eps, given, null, scale):
    names, more = CALLS[name]
    arguments = {key: given.tensors[part] for key, part in names.items()}
    negative = {
        f"negative_{key}": null.tensors[part].expand(2, *null.tensors[part].shape[1:]) for key, part in names.items()
    }
    arguments |= negative | {"true_cfg_scale" if name == "flux" else "guidance_scale": scale}
    side = PIXELS * 4 if name == "sana" and pipeline.vae is None else PIXELS
    latents = pipeline._pack_latents(eps, 2, 4, 8, 8) if name == "flux" else eps.clone()
    arguments |= {"height": side, "width": side, "num_inference_steps": STEPS, "output_type": "latent"}
    found = pipeline(latents=latents, **arguments, **more).images
    return pipeline._unpack_latents(found, side, side, 8) if name == "flux" else found


def close(one, other):
    return (one - other).norm() < 1e-4 * other.norm() and other.isfinite().all()


@pytest.mark.parametrize(
    "name",
    ["sd3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd15", "sdxl", "flux", "pixart", "sana"))],
)
def test_our_euler_on_a_loaded_folder_is_its_pipelines(tmp_path, name):
    write(tmp_path, name, with_autoencoder=name != "sana")
    pipeline, eps = read(tmp_path), torch.randn(2, 4, 8, 8)
    denoiser = loaded(tmp_path, 8 if name == "flux" else None)
    given, null = told(denoiser.net, 2), denoiser.net.null_condition
    for scale in (1.0, 3.0):
        expected = theirs(pipeline, name, eps, given, null, scale)
        assert close(ours(denoiser, eps, pipeline.scheduler, given, scale), expected), scale


def along_ddim(denoiser, scheduler, eps, label, scale):
    """Euler on the levels of a DDIM, which is Euler in other coordinates."""
    clean = scheduler.alphas_cumprod[scheduler.timesteps].double()
    sigmas = torch.cat([((1 - clean) / clean).sqrt(), torch.zeros(1).double()])
    with torch.no_grad():
        return euler(guided(denoiser, label, scale=scale), eps / clean[0].sqrt().float(), sigmas)


def test_dit(tmp_path):
    write(tmp_path, "dit")
    pipeline, denoiser, seen = read(tmp_path), loaded(tmp_path), []
    decode = pipeline.vae.decode
    pipeline.vae.decode = lambda latents: (seen.append(latents * pipeline.vae.config.scaling_factor), decode(latents))[
        1
    ]
    for scale in (1.0, 3.0):
        pipeline([207, 360], scale, torch.Generator().manual_seed(3), STEPS, output_type="pt")
        eps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        assert close(along_ddim(denoiser, pipeline.scheduler, eps, torch.tensor([207, 360]), scale), seen[-1])


def test_a_unet_of_pixels(tmp_path):
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        8,
        1,
        1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        layers_per_block=1,
    )
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing", beta_schedule="squaredcos_cap_v2")
    DDIMPipeline(unet, scheduler).save_pretrained(tmp_path)
    pipeline, denoiser = read(tmp_path), loaded(tmp_path)
    made = pipeline(2, torch.Generator().manual_seed(3), num_inference_steps=STEPS, output_type="np").images
    eps = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    x = along_ddim(denoiser, pipeline.scheduler, eps, None, 1.0)
    assert denoiser.sigma_data == 0.5
    assert close((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(made))


@pytest.mark.parametrize("steps", [1, 2])
def test_sana_sprint_is_our_consistency_sampler(tmp_path, monkeypatch, steps):
    from diffusers.schedulers import scheduling_scm

    write(tmp_path, "sprint", with_autoencoder=False)
    pipeline, denoiser, eps = read(tmp_path), loaded(tmp_path), torch.randn(2, 4, 8, 8)
    given, known = told(denoiser.net, 2), load_pipeline(tmp_path).sampling
    drawn = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(scheduling_scm, "randn_tensor", lambda *_, **__: drawn)
    expected = pipeline(
        latents=eps.clone(),
        prompt_embeds=given.tensors["encoder_hidden_states"],
        prompt_attention_mask=given.tensors["encoder_attention_mask"],
        guidance_scale=4.5,
        num_inference_steps=steps,
        intermediate_timesteps=1.3 if steps == 2 else None,
        height=PIXELS * 4,
        width=PIXELS * 4,
        use_resolution_binning=False,
        output_type="latent",
    ).images
    assert denoiser.kind == "consistency"
    scale = {"guidance": torch.full((2,), 4.5)}
    with torch.no_grad():
        x = denoiser.from_noise(eps, given, **scale)
        for level in known.levels[steps]:
            x = denoiser(x + level * drawn, torch.tensor(level), given, **scale)
    assert close(x, expected)
    assert math.isinf(known.arguments["sigma_max"])
