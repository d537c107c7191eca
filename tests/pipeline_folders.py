"""Folders as diffusers' own pipelines save them, with tiny networks of random weights."""

import json
from pathlib import Path

import torch
from diffusers_models import MODELS, make

TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "trailing"}
TEXT = ("text_encoder", "tokenizer")
# name -> (model of `diffusers_models`, pipeline, scheduler, its options, components that are left out)
FOLDERS = {
    "sd15": ("sd15", "StableDiffusionPipeline", "EulerDiscreteScheduler", TABLE | {"steps_offset": 1}, TEXT),
    "sdxl": (
        "sdxl",
        "StableDiffusionXLPipeline",
        "EulerDiscreteScheduler",
        TABLE,
        (*TEXT, "text_encoder_2", "tokenizer_2"),
    ),
    "sd3": (
        "sd3",
        "StableDiffusion3Pipeline",
        "FlowMatchEulerDiscreteScheduler",
        {"shift": 3.0},
        (*TEXT, "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
    ),
    "flux": (
        "flux",
        "FluxPipeline",
        "FlowMatchEulerDiscreteScheduler",
        {"use_dynamic_shifting": True},
        (*TEXT, "text_encoder_2", "tokenizer_2"),
    ),
    "pixart": ("pixart", "PixArtSigmaPipeline", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, TEXT),
    "sana": ("sana", "SanaPipeline", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, TEXT),
    "sprint": ("sana_guided", "SanaSprintPipeline", "SCMScheduler", {}, TEXT),
    "dit": ("dit_1000", "DiTPipeline", "DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}, ()),
    "ddim": ("unet", "DDIMPipeline", "DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}, ()),
}
ABSENT = sorted({part for *_, parts in FOLDERS.values() for part in parts})
NO_AUTOENCODER = ("ddim",)


def autoencoder(channels: int = 4) -> torch.nn.Module:
    """Four times 1/2 in each side, as most are, and a few thousand weights."""
    from diffusers import AutoencoderDC, AutoencoderKL

    torch.manual_seed(1)
    if channels == 32:
        return AutoencoderDC()
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=64,
        scaling_factor=1.5,
        shift_factor=0.1,
    )


def write(folder: Path, name: str, *, with_autoencoder: bool = True, **more):
    """A folder of this kind, and the network that is in it; `more` are components, or their absence, beside the usual ones."""
    import diffusers

    model, pipeline, scheduler, options, absent = FOLDERS[name]
    net = make(model)
    parts = dict.fromkeys(absent)
    if name not in NO_AUTOENCODER:
        parts["vae"] = autoencoder() if with_autoencoder else None
    if name == "sd15":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if name == "sdxl":
        parts["add_watermarker"] = False
    key = "unet" if "unet" in getattr(diffusers, pipeline).__init__.__code__.co_varnames else "transformer"
    made = getattr(diffusers, pipeline)(
        **{key: net.model, "scheduler": getattr(diffusers, scheduler)(**options)}, **(parts | more)
    )
    made.save_pretrained(folder)
    return net


def write_with_text(folder: Path, vocabulary: list[str]):
    """An SD3 with tokenizers and text encoders of random weights, as a whole; returns the encoders."""
    import diffusers

    from lightning_diff.text import RandomEncoders

    text, (_, config, _) = RandomEncoders(vocabulary, width=8, layers=1, tokens=8), MODELS["sd3"]
    torch.manual_seed(0)
    network = diffusers.SD3Transformer2DModel(
        **{**config, "joint_attention_dim": 16, "pooled_projection_dim": 16, "sample_size": 8}
    )
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    parts = {
        "transformer": network,
        "vae": autoencoder(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    diffusers.StableDiffusion3Pipeline(**dict.fromkeys(FOLDERS["sd3"][4]), **parts).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {name: list(each) for name, each in text.save(folder).items()})
    )
    return text


def read(folder: Path):
    """The pipeline, by the library."""
    from diffusers import DiffusionPipeline

    index = json.loads((folder / "model_index.json").read_text())
    saved = {name for name in index if (folder / name).is_dir()}
    absent = [name for name in (*ABSENT, "vae") if name not in saved and name in index]
    made = DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(absent))
    made.set_progress_bar_config(disable=True)
    return made
