"""Tiny networks of each class, with the pipelines' own options, and conditions for them."""

import pytest
import torch

from lightning_diff.condition import Condition
from lightning_diff.nets import Diffusers
from lightning_diff.nets.diffusers import FAMILIES, building

pytest.importorskip("diffusers")  # the extra

TOKENS = 5
UNET = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
CROSS = {
    **UNET,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 12,
}
DIT = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "in_channels": 4}

# name -> (class, configuration, shape)
MODELS = {
    "unet": (
        "UNet2DModel",
        {
            **UNET,
            "in_channels": 1,
            "out_channels": 1,
            "num_class_embeds": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        (1, 8, 8),
    ),
    "sd15": ("UNet2DConditionModel", CROSS, (4, 8, 8)),
    "sdxl": (
        "UNet2DConditionModel",
        {
            **CROSS,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 10,
            "use_linear_projection": True,
        },
        (4, 8, 8),
    ),
    "lcm": ("UNet2DConditionModel", {**CROSS, "time_cond_proj_dim": 6}, (4, 8, 8)),
    "dit": ("DiTTransformer2DModel", {**DIT, "out_channels": 8, "num_embeds_ada_norm": 3}, (4, 8, 8)),
    "pixart": (
        "PixArtTransformer2DModel",
        {**DIT, "out_channels": 8, "cross_attention_dim": 16, "caption_channels": 12},
        (4, 8, 8),
    ),
    "pixart_sizes": (
        "PixArtTransformer2DModel",
        {
            **DIT,
            "attention_head_dim": 12,
            "out_channels": 8,
            "cross_attention_dim": 24,
            "caption_channels": 12,
            "use_additional_conditions": True,
        },
        (4, 8, 8),
    ),
    "sd3": (
        "SD3Transformer2DModel",
        {
            **DIT,
            "out_channels": 4,
            "joint_attention_dim": 12,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 10,
            "pos_embed_max_size": 8,
        },
        (4, 8, 8),
    ),
    "flux": (
        "FluxTransformer2DModel",
        {
            **DIT,
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "joint_attention_dim": 12,
            "pooled_projection_dim": 10,
            "axes_dims_rope": (4, 2, 2),
        },
        (4, 8, 8),
    ),
    "sana": (
        "SanaTransformer2DModel",
        {
            **DIT,
            "out_channels": 4,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 12,
        },
        (4, 8, 8),
    ),
}
MODELS["dit_1000"] = (MODELS["dit"][0], {**MODELS["dit"][1], "num_embeds_ada_norm": 1000}, (4, 8, 8))
MODELS["flux_guided"] = (MODELS["flux"][0], {**MODELS["flux"][1], "guidance_embeds": True}, (4, 8, 8))
MODELS["sana_guided"] = (MODELS["sana"][0], {**MODELS["sana"][1], "guidance_embeds": True}, (4, 8, 8))
TEXT = [name for name, (class_name, *_) in MODELS.items() if class_name not in ("UNet2DModel", "DiTTransformer2DModel")]


def make(name: str, **more) -> Diffusers:
    """A network of random weights, none of them zero, that knows its null condition."""
    class_name, config, shape = MODELS[name]
    torch.manual_seed(0)
    net = Diffusers(class_name, config, shape, shapes(name), **({"num_classes": 3} if name == "unet" else {}), **more)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    if net.condition_shapes:
        net.keep_null_condition(condition(net, 1, seed=7))
    return net.eval()


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    class_name, config, shape = MODELS[name]
    family = FAMILIES[class_name]
    return family.condition_shapes(building.completed(family, config, shape), TOKENS)


def condition(net: Diffusers, count: int = 2, seed: int = 1) -> Condition:
    """Embeddings at random, sizes in pixels, and a mask that leaves the last token out."""
    generator = torch.Generator().manual_seed(seed)

    def made(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if "mask" in name:
            return (torch.arange(*shape) < shape[0] - 1).float().expand(count, *shape)
        if name in net.family.exact:
            return torch.randint(32, 1025, (count, *shape), generator=generator).float()
        return torch.randn(count, *shape, generator=generator)

    return Condition({name: made(name, shape) for name, shape in net.condition_shapes.items()})


def conditioned(net: Diffusers, count: int = 2, seed: int = 1) -> torch.Tensor | Condition:
    """Labels or a condition, whichever it takes."""
    return condition(net, count, seed) if net.condition_shapes else torch.arange(count) % net.num_classes
