"""Our Euler on a network of the library against the library's own pipeline and scheduler, on that scheduler's noise levels."""

from types import SimpleNamespace

import pytest
import torch
from diffusers_models import condition, make

from lightning_diff.condition import Condition
from lightning_diff.denoiser import Denoiser
from lightning_diff.samplers import euler, pure_noise
from lightning_diff.samplers.guidance import guided

# Of the library's tables, in numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

STEPS = 6
PIXELS = 64  # of pipelines without an autoencoder, which take eight pixels for a latent; Sana's takes 32


def tables(net, **options):
    from diffusers import EulerDiscreteScheduler

    time = net.family.time(net.config)
    return EulerDiscreteScheduler(
        beta_schedule=time.betas,
        beta_start=time.beta_start,
        beta_end=time.beta_end,
        timestep_spacing="trailing",
        **options,
    )


def flows(net, **options):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


def ours(net, scheduler, eps, label, scale=1.0, *, prediction=None, start=None, guidance=None):
    """Latents by our sampler."""
    prediction = prediction or net.family.prediction
    denoiser = Denoiser(net, 0.7, net.family.time(net.config), prediction=prediction)
    end = pure_noise.AtPureNoise(denoiser)
    bound = {} if guidance is None else {"guidance": torch.full((len(eps),), guidance)}
    denoise, first = (
        guided(denoiser, label, scale=scale)
        if not bound
        else lambda x, sigma, each=each: each(x, sigma, label, **bound)
        for each in (denoiser, end)
    )
    if not bound:
        first = guided(end, label, scale=scale)
    sigmas = scheduler.sigmas.double()
    with torch.no_grad():
        if prediction == "flow":
            return pure_noise.solve(euler, denoise, eps, sigmas / (1 - sigmas), from_noise=first)
        return euler(denoise, eps * scheduler.init_noise_sigma if start is None else start, sigmas)


def by_hand(net, scheduler, eps, label, scale, **own):
    """The library's scheduler around the bare module, with guidance."""
    null, x = net.null_condition, eps * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            outputs = []
            for each in (null.expand(len(eps)) if null else torch.full_like(label, 3), label):
                x_in, time = scheduler.scale_model_input(x, t), t.expand(len(eps))
                outputs.append(
                    net.model(x_in, timestep=time, **own["call"](each), return_dict=False)[0][:, : net.shape[0]]
                )
            x = scheduler.step(outputs[0] + scale * (outputs[1] - outputs[0]), t, x, return_dict=False)[0]
    return x


def close(one, other):
    error = float((one - other).norm() / other.norm())
    print(f"relative difference {error:.1e}")  # pytest -s shows it
    return error < 1e-4


@pytest.fixture
def eps():
    return torch.randn(2, 4, 8, 8)


def texts(net):
    """Conditions as pipelines take them: given and null, each by the library's name."""
    given = condition(net)
    return (
        given,
        given.tensors,
        {name: each.expand(2, *each.shape[1:]) for name, each in net.null_condition.tensors.items()},
    )


def run(pipeline, eps, **arguments):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(latents=eps.clone(), num_inference_steps=STEPS, output_type="latent", **arguments).images


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_stable_diffusion(eps, prediction):
    from diffusers import StableDiffusionPipeline

    net = make("sd15")
    scheduler = tables(net, prediction_type=prediction, steps_offset=1)
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipeline = StableDiffusionPipeline(unet=net.model, scheduler=scheduler, requires_safety_checker=False, **parts)
    given, text, null = texts(net)
    theirs = run(
        pipeline,
        eps,
        prompt_embeds=text["encoder_hidden_states"],
        negative_prompt_embeds=null["encoder_hidden_states"],
        guidance_scale=3.0,
        height=PIXELS,
        width=PIXELS,
    )
    assert close(ours(net, scheduler, eps, given, 3.0, prediction=prediction), theirs)


def test_stable_diffusion_xl(eps):
    from diffusers import StableDiffusionXLPipeline

    net = make("sdxl")
    scheduler = tables(net)
    parts = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipeline = StableDiffusionXLPipeline(unet=net.model, scheduler=scheduler, add_watermarker=False, **parts)
    sizes = torch.tensor([[PIXELS, PIXELS, 0, 0, PIXELS, PIXELS]]).float()
    net.keep_null_condition(Condition(net.null_condition.tensors | {"time_ids": sizes}))
    given, text, null = texts(net)
    given = Condition(text | {"time_ids": sizes.expand(2, 6)})
    theirs = run(
        pipeline,
        eps,
        prompt_embeds=text["encoder_hidden_states"],
        negative_prompt_embeds=null["encoder_hidden_states"],
        pooled_prompt_embeds=text["text_embeds"],
        negative_pooled_prompt_embeds=null["text_embeds"],
        guidance_scale=3.0,
        height=PIXELS,
        width=PIXELS,
    )
    assert close(ours(net, scheduler, eps, given, 3.0), theirs)


def test_a_latent_consistency_network_takes_the_scale(eps):
    from diffusers import LatentConsistencyModelPipeline

    net = make("lcm")
    given, text, _ = texts(net)
    embedded = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([1.0, 2.5]), 6)
    with torch.no_grad():
        theirs = net.model(eps, 500.0, **text, timestep_cond=embedded, return_dict=False)[0]
        own = net(eps, torch.full((2,), 500.0), given, guidance=torch.tensor([2.0, 3.5]))
    assert torch.allclose(own, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["alpha", "sigma"])
def test_pixart(eps, kind):
    import diffusers

    net = make("pixart")
    scheduler = tables(net)
    pipeline = getattr(diffusers, f"PixArt{kind.title()}Pipeline")(
        transformer=net.model, scheduler=scheduler, **dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    )
    given, text, null = texts(net)
    theirs = run(
        pipeline,
        eps,
        prompt=None,
        negative_prompt=None,
        prompt_embeds=text["encoder_hidden_states"],
        prompt_attention_mask=text["encoder_attention_mask"],
        negative_prompt_embeds=null["encoder_hidden_states"],
        negative_prompt_attention_mask=null["encoder_attention_mask"],
        guidance_scale=3.0,
        height=PIXELS,
        width=PIXELS,
        use_resolution_binning=False,
    )
    assert close(ours(net, scheduler, eps, given, 3.0), theirs)


def test_pixart_with_sizes(eps):
    net = make("pixart_sizes")
    scheduler = tables(net)
    scheduler.set_timesteps(STEPS)

    def call(given):
        text = dict(given.tensors)
        return {"added_cond_kwargs": {name: text.pop(name) for name in ("resolution", "aspect_ratio")}, **text}

    theirs = by_hand(net, scheduler, eps, condition(net), 3.0, call=call)
    assert close(ours(net, scheduler, eps, condition(net), 3.0), theirs)


def test_a_unet_with_classes():
    net, eps, label = make("unet"), torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    scheduler = tables(net)
    scheduler.set_timesteps(STEPS)
    theirs = by_hand(net, scheduler, eps, label, 3.0, call=lambda given: {"class_labels": given})
    assert close(ours(net, scheduler, eps, label, 3.0), theirs)


def test_dit():
    """Its pipeline steps from the scaled input, which Euler's scheduler is not made for; DDIM is Euler in other coordinates."""
    from diffusers import DDIMScheduler, DiTPipeline

    class Autoencoder(torch.nn.Module):
        config, device, dtype = SimpleNamespace(scaling_factor=1.0), torch.device("cpu"), torch.float32
        seen = None

        def decode(self, latents):
            self.seen = latents
            return SimpleNamespace(sample=latents)

    net, label = make("dit_1000"), torch.tensor([207, 360])
    scheduler, autoencoder = DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), Autoencoder()
    pipeline = DiTPipeline(transformer=net.model, vae=autoencoder, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(label.tolist(), 3.0, torch.Generator().manual_seed(3), 5, output_type="pt")
    clean = scheduler.alphas_cumprod[scheduler.timesteps].double()
    sigmas = torch.cat([((1 - clean) / clean).sqrt(), torch.zeros(1).double()])
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)) / clean[0].sqrt().float()
    assert net.num_classes == 1000
    assert close(ours(net, SimpleNamespace(sigmas=sigmas), start, label, 3.0, start=start), autoencoder.seen)


def test_stable_diffusion_3_from_pure_noise(eps):
    from diffusers import StableDiffusion3Pipeline

    net = make("sd3")
    scheduler = flows(net, shift=3.0)
    parts = dict.fromkeys(f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))
    pipeline = StableDiffusion3Pipeline(transformer=net.model, scheduler=scheduler, vae=None, **parts)
    given, text, null = texts(net)
    theirs = run(
        pipeline,
        eps,
        prompt_embeds=text["encoder_hidden_states"],
        negative_prompt_embeds=null["encoder_hidden_states"],
        pooled_prompt_embeds=text["pooled_projections"],
        negative_pooled_prompt_embeds=null["pooled_projections"],
        guidance_scale=3.0,
        height=PIXELS,
        width=PIXELS,
    )
    assert close(ours(net, scheduler, eps, given, 3.0), theirs)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", ["flux", "flux_guided"])
def test_flux(eps, name, scale):
    from diffusers import FluxPipeline

    net = make(name)
    scheduler = flows(net, use_dynamic_shifting=True)
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = FluxPipeline(transformer=net.model, scheduler=scheduler, **parts)
    given, text, null = texts(net)
    true = {
        "negative_prompt_embeds": null["encoder_hidden_states"],
        "negative_pooled_prompt_embeds": null["pooled_projections"],
        "true_cfg_scale": scale,
    }
    theirs = run(
        pipeline,
        pipeline._pack_latents(eps, 2, 4, 8, 8),
        prompt_embeds=text["encoder_hidden_states"],
        pooled_prompt_embeds=text["pooled_projections"],
        guidance_scale=scale,
        height=PIXELS,
        width=PIXELS,
        **({} if net.guided else true),
    )
    theirs = pipeline._unpack_latents(theirs, PIXELS, PIXELS, 8)
    if net.guided:
        assert close(ours(net, scheduler, eps, given, guidance=scale), theirs)
    assert close(ours(net, scheduler, eps, given, scale), theirs)


def test_sana(eps):
    from diffusers import SanaPipeline

    net = make("sana")
    scheduler = flows(net, shift=3.0)
    pipeline = SanaPipeline(transformer=net.model, scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None)
    given, text, null = texts(net)
    theirs = run(
        pipeline,
        eps,
        prompt_embeds=text["encoder_hidden_states"],
        prompt_attention_mask=text["encoder_attention_mask"],
        negative_prompt_embeds=null["encoder_hidden_states"],
        negative_prompt_attention_mask=null["encoder_attention_mask"],
        negative_prompt=None,
        guidance_scale=3.0,
        height=4 * PIXELS,
        width=4 * PIXELS,
        use_resolution_binning=False,
    )
    assert close(ours(net, scheduler, eps, given, 3.0), theirs)
