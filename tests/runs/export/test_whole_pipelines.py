"""Pipelines with text and autoencoder: from prompt to picture as here, and back into a run."""

import json

import diffusers
import pytest
import torch
from diffusers_models import MODELS, make
from messages import tells

from lightning_diff.artifacts import load_denoiser, read_record, save_denoiser
from lightning_diff.artifacts.autoencoder import load_autoencoder
from lightning_diff.artifacts.import_model import import_pipeline
from lightning_diff.condition import Condition
from lightning_diff.denoiser import Denoiser, FlowTime, TableTime
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import Diffusers
from lightning_diff.runs.export import write
from lightning_diff.samplers import euler, pure_noise
from lightning_diff.text import RandomEncoders

PROMPTS = ["a handwritten seven", "the digit two"]


def autoencoder(folder, **options):
    torch.manual_seed(0)
    config = {"latent_channels": 4, "block_out_channels": (8, 8), "norm_num_groups": 4, "scaling_factor": 0.7}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    diffusers.AutoencoderKL(**config, **blocks).save_pretrained(folder)
    return {"_target_": "lightning_diff.autoencoders.Diffusers", "folder": str(folder), **options}


def save(folder, net, node, how, **more):
    denoiser = Denoiser(net, 1.0, **how).eval()
    save_denoiser(folder, denoiser, json.loads(json.dumps(node)), shape=net.shape, **more)
    return denoiser


def node_of(class_name, config, shape, **more):
    return {
        "_target_": "lightning_diff.nets.Diffusers",
        "class_name": class_name,
        "config": config,
        "shape": shape,
        **more,
    }


@pytest.fixture
def model(tmp_path):
    """SD3 with text and autoencoder, shifted."""
    encoder = RandomEncoders(PROMPTS, width=8, layers=1, tokens=8)
    class_name, config, shape = MODELS["sd3"]
    shapes = encoder.shapes()
    config = config | {
        "joint_attention_dim": shapes["encoder_hidden_states"][1],
        "pooled_projection_dim": shapes["pooled_projections"][0],
    }
    torch.manual_seed(0)
    net = Diffusers(class_name, config, shape, shapes)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    net.keep_null_condition(encoder.null())
    node = node_of(class_name, config, shape, condition_shapes=shapes)
    made = save(
        tmp_path / "run",
        net.eval(),
        node,
        {"time": FlowTime(1000.0), "prediction": "flow"},
        text=encoder.node(),
        autoencoder=autoencoder(tmp_path / "vae", shift=0.3),
    )
    return made, encoder


def test_from_a_prompt_to_the_same_picture_and_back(model, tmp_path):
    denoiser, encoder = model
    folder = write(tmp_path / "run", "diffusers").path
    for path in folder.rglob("*.json"):
        assert str(tmp_path) not in path.read_text()
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    arguments = json.loads((folder / "sampling.json").read_text())["arguments"]
    assert (arguments["height"], arguments["width"]) == (16, 16)
    eps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    guided = arguments | {"guidance_scale": 2.5, "num_inference_steps": 5}
    theirs = pipeline(PROMPTS, latents=eps, output_type="pt", **guided).images
    label, null = encoder.encode(PROMPTS), encoder.null().expand(2)

    def denoise(x, sigma):
        ends = [
            denoiser.from_noise(x, each) if sigma.isinf().all() else denoiser(x, sigma, each) for each in (null, label)
        ]
        return ends[0] + 2.5 * (ends[1] - ends[0])

    s = pipeline.scheduler.sigmas.double()
    with torch.no_grad():
        latents = pure_noise.solve(euler, denoise, eps, s / (1 - s), from_noise=denoise)
        ours = load_autoencoder(tmp_path / "run").decode(latents)
    assert ((ours / 2 + 0.5).clamp(0, 1) - theirs).abs().max() < 1e-4

    import_pipeline(folder, tmp_path / "back")
    again = load_denoiser(tmp_path / "back")
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 5.0])
    with torch.no_grad():
        assert torch.allclose(again(x, sigma, label), denoiser(x, sigma, label), atol=1e-6)
    first, second = read_record(tmp_path / "run"), read_record(tmp_path / "back")
    assert (second.time, second.prediction, second.shape) == (first.time, "flow", first.shape)
    back = load_autoencoder(tmp_path / "back")
    assert torch.allclose(back.decode(latents), ours, atol=1e-6)


def test_dit_with_an_autoencoder_draws_the_same_pictures(tmp_path):
    net = make("dit_1000")
    class_name, config, shape = MODELS["dit_1000"]
    time = TableTime()
    denoiser = save(
        tmp_path / "run",
        net,
        node_of(class_name, config, shape),
        {"time": time, "prediction": "epsilon"},
        num_classes=1000,
        autoencoder=autoencoder(tmp_path / "vae"),
    )
    folder = write(tmp_path / "run", "diffusers").path
    pipeline = diffusers.DiTPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    sampling = json.loads((folder / "sampling.json").read_text())
    eps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    noise = torch.Generator().manual_seed(3)
    arguments = sampling["arguments"] | {"guidance_scale": 1.0}
    theirs = pipeline([1, 7], generator=noise, output_type="pt", **arguments).images
    sigmas = torch.cat([time.sigmas[pipeline.scheduler.timesteps], torch.zeros(1, dtype=torch.float64)])
    label = torch.tensor([1, 7])
    with torch.no_grad():
        start = eps * sigmas[0].item() / sampling["start"]
        latents = euler(lambda x, sigma: denoiser(x, sigma, label), start, sigmas)
        ours = load_autoencoder(tmp_path / "run").decode(latents)
    assert ((ours / 2 + 0.5).clamp(0, 1) - theirs).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "how", "options", "facts"),
    [
        ("dit", {}, None, "export: no pipeline ... DiTTransformer2DModel without an autoencoder; --to onnx"),
        (
            "sd3",
            {"time": FlowTime(0.5)},
            None,
            "export: StableDiffusion3Pipeline ... SD3Transformer2DModel called with 0.5 s ... 1000 s ...",
        ),
        (
            "sd15",
            {"time": FlowTime(1000.0), "prediction": "flow"},
            None,
            "export: StableDiffusionPipeline ... another time",
        ),
        (
            "sd3",
            {"time": "trigflow", "prediction": "trigflow"},
            None,
            "export: StableDiffusion3Pipeline ... predicts trigflow",
        ),
        ("pixart", {}, {"shift": 0.5}, "export: PixArtAlphaPipeline decodes latents by one scale alone ... shift 0.5"),
        ("unet", {}, {}, "export: no pipeline ... UNet2DModel of latents; --to onnx"),
    ],
)
def test_what_no_pipeline_runs_is_refused_in_a_line(tmp_path, name, how, options, facts):
    net = make(name)
    class_name, config, shape = MODELS[name]
    more = {"condition_shapes": net.condition_shapes} if net.condition_shapes else {"num_classes": 3}
    node = node_of(class_name, config, shape, **more)
    how = {"time": net.family.time(net.config), "prediction": net.family.prediction} | how
    kept = {} if options is None else {"autoencoder": autoencoder(tmp_path / "vae", **options)}
    if name == "unet":
        kept = {"autoencoder": {**autoencoder(tmp_path / "vae"), "folder": str(one_channel(tmp_path / "one"))}}
    save(tmp_path / "run", net, node, how, num_classes=3 if name in ("dit", "unet") else 0, **kept)
    with pytest.raises(UserError) as error:
        write(tmp_path / "run", "diffusers")
    assert tells(str(error.value), facts)
    assert not (tmp_path / "run" / "export").exists()


def one_channel(folder):
    """An autoencoder of latents with one channel, as the tiny U-Net has."""
    config = {"latent_channels": 1, "block_out_channels": (8, 8), "norm_num_groups": 4}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    diffusers.AutoencoderKL(**config, **blocks).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["sd15", "pixart", "flux"])
def test_folders_without_text_or_autoencoder_come_back_as_the_same_denoiser(tmp_path, name):
    net = make(name)
    class_name, config, shape = MODELS[name]
    how = {"time": net.family.time(net.config), "prediction": net.family.prediction}
    denoiser = save(
        tmp_path / "run", net, node_of(class_name, config, shape, condition_shapes=net.condition_shapes), how
    )
    folder = write(tmp_path / "run", "diffusers").path
    size = {"size": 8} if name == "flux" else {}
    import_pipeline(folder, tmp_path / "back", **size)
    again = load_denoiser(tmp_path / "back")
    assert again.parametrisation["time"] == denoiser.parametrisation["time"]
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 5.0])
    label = Condition({key: torch.randn(2, *each) for key, each in again.net.condition_shapes.items()})
    with torch.no_grad():
        assert torch.allclose(again(x, sigma, label), denoiser(x, sigma, label), atol=1e-6)
